"""One file -> clean Parquet with the columns that are needed, and what was met in it, counted by rule and column.

Of voters, every row that could be cut into fields is written, with ``__kept`` for whether it takes part: the history asks whether
an id is known. Of history, the rows of the election are written, with whether they are a vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharding.errors import ContractError, ShardingError
from sharding.layouts import fields, values
from sharding.layouts.fields import Field, Tally
from sharding.layouts.files import RawFile, file_layout
from sharding.layouts.lines import RowBlock
from sharding.layouts.schema import ColumnLayout, Layout, VoteLayout
from sharding.layouts.values import ColumnReader, DateReader, Lookup, Value, VoteReader

REJECTING = ("file:cut", "quotes:broken", "fields:too_few", "fields:too_many")
"""Rules of lines that are no rows."""
VOTED = "voted"
_ARROW = {"text": pa.string(), "age": pa.string(), "date": pa.date32(), "year": pa.int32(), "number": pa.float64()}


@dataclass(frozen=True)
class Request:
    """What is asked of the files: the columns to write, and the election.

    ``columns`` are those of the layout, or fields of the files that it does not describe.
    """

    layout: Layout
    election: date | None
    columns: tuple[str, ...]

    @property
    def has_vote(self) -> bool:
        """Whether the outcome of the election is found."""
        return self.election is not None and self.layout.vote is not None

    def column(self, name: str) -> ColumnLayout:
        """Return what the layout says of a column, or the default."""
        return self.layout.columns.get(name, ColumnLayout())

    def names(self, name: str) -> tuple[str, ...]:
        """Return the names that a column may have in the files."""
        return self.layout.sources_of(name) if name in self.layout.columns else (name,)

    def read_columns(self) -> list[str]:
        """Columns that are read from the files, the id first."""
        people = self.layout.people
        asked = [people.id, *self.columns, *filter(None, (people.registered, people.born, people.status))]
        births = [self.column(name).of for name in self.columns if self.column(name).type == "age"]
        return [
            name for name in dict.fromkeys([*asked, *filter(None, births)])
            if self.column(name).type != "age" and self.column(name).value is None
        ]  # fmt: skip


def check(request: Request) -> None:
    """Refuse a request that the layout cannot meet.

    Raises
    ------
    ContractError
        A column that the layout says is absent, or an age without an election.
    """
    layout = request.layout
    if "party" in request.columns and layout.party == "absent":
        raise ContractError(
            "column 'party'", f"a layout ({layout.name}) of files without party", "another column",
            "Leave it out: nobody registers with a party there."
        )  # fmt: skip
    ages = [name for name in request.columns if request.column(name).type == "age"]
    if ages and request.election is None:
        raise ContractError(
            f"column {ages[0]!r}", "no election", "the day at which the age is meant", "Set data.election: YYYY-MM-DD."
        )  # fmt: skip


@dataclass(frozen=True)
class Count:
    """How often a rule was met in a file; ``column`` and ``source`` (its field) are None for lines and rows."""

    rule: str
    column: str | None
    source: str | None
    action: str
    count: int


@dataclass(frozen=True)
class Read:
    """What a file gave: rows that went in, rows that went on, encodings, and counts."""

    rows_in: int
    rows_out: int
    encodings: tuple[str, ...]
    counts: tuple[Count, ...]


def read(request: Request, file: RawFile, target: Path) -> Read:
    """Read ``file`` and write its clean rows to the local Parquet file ``target``."""
    reader = _Voters(request) if file.role == "voters" else _History(request)
    tally = Tally()
    layout = file_layout(request.layout, file.role)
    assert layout is not None
    written = 0
    with pq.ParquetWriter(
        target, reader.schema, compression="lz4", use_dictionary=reader.repeating, write_statistics=False
    ) as writer:
        for block, named in fields.rows(file, layout, reader.wanted, tally):
            reader.named = named
            table = reader.rows(block, is_padded=layout.format == "fixed")
            written += reader.num_kept
            if table.num_rows:
                writer.write_table(table)
    counts = [*_of_lines(tally.counts), *reader.counts()]
    gone = sum(count.count for count in counts if count.action == "quarantined")
    if tally.rows_in != written + gone:
        raise ShardingError(
            f"rows do not reconcile in {file.label}: {tally.rows_in} in, {written} out, {gone} quarantined. "
            "This is a defect of Caucus; please report it."
        )
    return Read(tally.rows_in, written, tuple(sorted(tally.encodings)), tuple(counts))


def _of_lines(counts: Counter[str]) -> Iterator[Count]:
    for rule, count in sorted(counts.items()):
        if count:
            action = (
                "quarantined"
                if rule in REJECTING
                else "noted"
                if rule in ("lines:blank", "quotes:stray")
                else "altered"
            )
            yield Count(rule, None, None, action, count)


class _Voters:
    """Rows of voters: values made what they mean, and rows that take no part told by reason."""

    def __init__(self, request: Request) -> None:
        self.request, self.named = request, list[str]()
        layout, election = request.layout, request.election
        self.names = request.read_columns()
        self.written = [name for name in request.columns if name != self.names[0]]  # the id is there in any case
        self.wanted = [Field(request.names(name), f"layout {layout.name!r}, column {name!r}") for name in self.names]
        self.lookups = [
            Lookup(ColumnReader(request.column(name), layout.missing, is_birth=name == layout.people.born).read)
            for name in self.names[1:]
        ]
        self.is_wide = request.has_vote and layout.vote is not None and layout.vote.form != "long"
        if self.is_wide:
            assert layout.vote is not None
            assert layout.vote.column is not None
            assert election is not None
            source = layout.vote.name_at(layout.vote.column, election)
            self.wanted.append(Field((source,), f"layout {layout.name!r}, vote of {election}"))
            self.lookups.append(Lookup(VoteReader(layout.vote, layout.missing, election).read))
            self.names.append(VOTED)
        self.altered: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[tuple[str, str | None]] = Counter()
        self.num_kept = 0

    @property
    def repeating(self) -> list[str]:
        """Columns of the clean rows in which the same values come again."""
        return [field.name for field in self.schema if field.name not in ("__id", "__line", "__kept")]

    @property
    def schema(self) -> pa.Schema:
        """Of the clean rows."""
        own = [pa.field(name, _ARROW[self.request.column(name).type]) for name in self.written]
        voted = [pa.field(VOTED, pa.int8())] if self.is_wide else []
        kept = [("__id", pa.string()), ("__line", pa.int64()), ("__registered", pa.date32()), ("__kept", pa.bool_())]
        return pa.schema([*own, *voted, *kept])

    def rows(self, block: RowBlock, *, is_padded: bool) -> pa.Table:
        """Return the clean rows of a block, and add to the counts."""
        layout, request = block.table, self.request
        raw_ids = layout.column(0)
        ids, num_trimmed = values.trimmed(raw_ids)
        self.altered[("spaces:trimmed", self.names[0])] += 0 if is_padded else num_trimmed
        numbers = {
            name: lookup.encode(block.table.column(i + 1))
            for i, (name, lookup) in enumerate(zip(self.names[1:], self.lookups, strict=True))
        }
        lookups = dict(zip(self.names[1:], self.lookups, strict=True))
        reason = self._reasons(ids, numbers, lookups)
        is_row = reason != 1  # a repeated header is nobody's row
        self.num_kept = int(np.count_nonzero(reason == 0))
        columns: dict[str, Any] = {}
        for name in self.written:
            column = request.column(name)
            if column.value is not None:
                columns[name] = pa.array([column.value] * block.table.num_rows, pa.string())
            elif column.type == "age":
                columns[name] = self._ages(name, column, numbers, lookups, is_row)
            else:
                columns[name] = lookups[name].column(numbers[name], _ARROW[column.type])
        for name, lookup in lookups.items():
            for rule, count in lookup.count(numbers[name][is_row]).items():
                if not (is_padded and rule == "spaces:trimmed"):
                    self.altered[(rule, name)] += count
        if self.is_wide:
            columns[VOTED] = lookups[VOTED].column(numbers[VOTED], pa.int8())
        registered = request.layout.people.registered
        columns["__id"], columns["__line"] = ids, pa.array(block.lines, pa.int64())
        columns["__registered"] = (
            pa.nulls(block.table.num_rows, pa.date32()) if registered is None
            else lookups[registered].column(numbers[registered], pa.date32())
        )  # fmt: skip
        columns["__kept"] = pa.array(reason == 0)
        return pa.table(columns, schema=self.schema).filter(pa.array(is_row))

    def _ages(
        self,
        name: str,
        column: ColumnLayout,
        numbers: dict[str, np.ndarray],
        lookups: dict[str, Lookup],
        is_row: np.ndarray,
    ) -> pa.Array:
        election = self.request.election
        assert column.of is not None
        assert election is not None
        levels = [values.age_level(value, column, election) for value in lookups[column.of].values]
        at = numbers[column.of]
        impossible = np.array([level.rule != "" for level in levels], dtype=bool)
        self.altered[("age:impossible", name)] += int(np.count_nonzero(impossible[at] & is_row))
        return pa.array([level.value for level in levels], pa.string()).take(pa.array(at))

    def _reasons(self, ids: pa.ChunkedArray, numbers: dict[str, np.ndarray], lookups: dict[str, Lookup]) -> np.ndarray:
        """Return the number of the first reason for which a row takes no part, 0 if it takes part; 1 is a repeated header."""
        layout, election = self.request.layout, self.request.election
        people = layout.people
        markers = ["", *layout.missing, *layout.columns[people.id].missing]
        rules: list[tuple[str, str | None, np.ndarray]] = [
            ("lines:repeated_header", None, np.asarray(pc.equal(ids, self.named[0]))),
            ("id:missing", people.id, np.asarray(pc.is_in(ids, pa.array(markers)))),
        ]
        for name in self.request.columns:
            if self.request.column(name).unseen == "quarantine" and name in lookups:
                unseen = lookups[name].where(numbers[name], lambda value: value.rule == "code:unseen")
                rules.append(("code:unseen", name, unseen))
        if people.status is not None and people.leave_out:
            rules.append(("status:left_out", people.status, self._left_out(numbers, lookups)))
        if election is not None and people.registered is not None:
            late = lookups[people.registered].where(
                numbers[people.registered], lambda v: v.value is not None and v.value > election
            )
            rules.append(("election:registered_after", people.registered, late))
        if election is not None and people.born is not None:
            young = lookups[people.born].where(
                numbers[people.born],
                lambda v: v.value is not None and values.age_at(v.value, election) < people.minimum_age,
            )
            rules.append((f"age:under_{people.minimum_age}", people.born, young))
        reason = np.zeros(len(ids), np.int16)
        for number, (_, _, holds) in reversed(list(enumerate(rules, start=1))):
            reason[holds] = number
        for number, (rule, column, _) in enumerate(rules, start=1):
            self.reasons[(rule, column)] += int(np.count_nonzero(reason == number))
        return reason

    def _left_out(self, numbers: dict[str, np.ndarray], lookups: dict[str, Lookup]) -> np.ndarray:
        people = self.request.layout.people
        assert people.status is not None
        codes = self.request.column(people.status).codes or {}
        levels = {codes.get(code, code) for code in people.leave_out}
        return lookups[people.status].where(numbers[people.status], lambda value: value.value in levels)

    def counts(self) -> Iterator[Count]:
        """What was met, by rule and column."""
        sources = dict(zip(self.names, self.named, strict=False))
        for (rule, column), count in sorted(self.altered.items()):
            unseen = self.request.column(column).unseen if rule == "code:unseen" and column != VOTED else "level"
            if count and unseen != "quarantine":
                action = "noted" if rule == "spaces:trimmed" or unseen == "keep" else "altered"
                yield Count(rule, column, sources.get(column), action, count)
        for (rule, of), count in self.reasons.items():
            if count:
                yield Count(rule, of, sources.get(of or ""), "quarantined", count)


class _History:
    """Rows of the history: those of the election that are a vote, and the others by reason."""

    def __init__(self, request: Request) -> None:
        vote, election = request.layout.vote, request.election
        assert vote is not None
        assert vote.id is not None
        assert vote.election is not None
        assert election is not None
        self.request, self.vote, self.named = request, vote, list[str]()
        self.use = {"id": vote.id, "election": vote.election} | {name: name for name in vote.where}
        if vote.column is not None:
            self.use["vote"] = vote.column
        self.wanted = [Field((source,), f"layout {request.layout.name!r}, history") for source in self.use.values()]
        self.lookups = [Lookup(self._reader(use, vote, election)) for use in list(self.use)[1:]]
        self.reasons: Counter[tuple[str, str | None]] = Counter()
        self.num_kept = 0

    schema = pa.schema([("__id", pa.string()), ("__line", pa.int64()), ("__counts", pa.bool_())])
    repeating: ClassVar[list[str]] = []

    def _reader(self, use: str, vote: VoteLayout, election: date) -> Any:
        dates = DateReader(vote.formats)
        label = vote.labels.get(election)
        if vote.labels and label is None:
            raise ContractError(
                "data.election", f"no label of {election} in the layout {self.request.layout.name!r}",
                f"one of {', '.join(map(str, sorted(vote.labels)))}",
                "Add its label to `vote.labels` in a layout of your own (`extends:`)."
            )  # fmt: skip

        def of_election(text: str) -> Value:
            if label is not None:
                return Value(text == label, "" if text == label else "election:other", False)
            found, rule = dates.read(text)
            return Value(found == election, rule or ("" if found == election else "election:other"), False)

        def of_vote(text: str) -> Value:
            if text in vote.not_counted:
                return Value(False, "vote:not_counted", False)
            counts = not vote.counted or text in vote.counted
            return Value(counts, "" if counts else "code:unseen", False)

        def of_other(text: str) -> Value:
            return Value(text in vote.where[use], "" if text in vote.where[use] else "election:other", False)

        kind = of_election if use == "election" else of_vote if use == "vote" else of_other
        return lambda raw: kind(raw.strip(values.SPACES))

    def rows(self, block: RowBlock, *, is_padded: bool) -> pa.Table:
        """Return the rows of the election that are votes, or may be, and add to the counts."""
        ids, _ = values.trimmed(block.table.column(0))
        markers = pa.array(["", *self.request.layout.missing])
        rules: list[tuple[str, str | None, np.ndarray]] = [
            ("lines:repeated_header", None, np.asarray(pc.equal(ids, self.named[0]))),
            ("id:missing", "id", np.asarray(pc.is_in(ids, markers))),
        ]
        for i, (use, lookup) in enumerate(zip(list(self.use)[1:], self.lookups, strict=True)):
            numbers = lookup.encode(block.table.column(i + 1))
            for rule in ("dates:malformed", "dates:impossible", "election:other", "vote:not_counted", "code:unseen"):
                if any(value.rule == rule for value in lookup.values):
                    column = None if rule == "election:other" else use
                    rules.append((rule, column, lookup.where(numbers, lambda value, rule=rule: value.rule == rule)))  # type: ignore[misc]
        reason = np.zeros(len(ids), np.int16)
        for number, (_, _, holds) in reversed(list(enumerate(rules, start=1))):
            reason[holds] = number
        unseen = np.zeros(len(ids), dtype=bool)
        for number, (rule, column, _) in enumerate(rules, start=1):
            self.reasons[(rule, column)] += int(np.count_nonzero(reason == number))
            unseen |= (reason == number) & (rule == "code:unseen")
        self.num_kept = int(np.count_nonzero(reason == 0))
        table = pa.table([ids, pa.array(block.lines, pa.int64()), pa.array(reason == 0)], schema=self.schema)
        return table.filter(pa.array((reason == 0) | unseen))

    def counts(self) -> Iterator[Count]:
        """What was met, by rule and column."""
        sources = dict(zip(self.use, self.named, strict=False))
        for (rule, column), count in sorted(self.reasons.items(), key=str):
            if count:
                yield Count(rule, column, sources.get(column or ""), "quarantined", count)


def columns_of(layout: Layout, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns to write: ``asked``, or all that are not personal, and the id."""
    if asked is not None:
        return tuple(dict.fromkeys(asked))
    return tuple(name for name in layout.columns if name == layout.people.id or layout.kind_of(name) is None)
