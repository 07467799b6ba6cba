"""Looks at the columns of a run for what :mod:`sharding.notes` and :mod:`sharding.units` have rules for.

Predictors and factors are looked at in the cells. Outcome, exposure, trials and weight are no keys of cells, and which file a row is of is
none either: these are looked at in a sample (:mod:`sharding.samples`), and what is found there is counted in all rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import duckdb
import numpy as np

from sharding import notes, units
from sharding.cells import CellTable
from sharding.dictionary import Dictionary, FactorCoding, Note
from sharding.notes import Lines
from sharding.outcome import Outcome
from sharding.samples import Sample
from sharding.sources import Sources
from sharding.sql import Bind
from sharding.units import CODINGS, Scale, Use

MIN_LEVELS, MAX_FILES_TOLD = 2, 3


class _Numbers(NamedTuple):
    """A numeric column of the sample: its name, its name in the table, and its use."""

    name: str
    column: str
    use: Use


def of_cells(
    connection: duckdb.DuckDBPyConnection, cells: CellTable, codings: Mapping[str, FactorCoding], outcome: Outcome
) -> list[Note]:
    """Return what looks odd in factors, predictors and categories."""
    num_rows, found = cells.num_good_rows(), list[Note]()
    for column in cells.columns:
        code, lines = cells.code(column), Lines(column.name, column.config.missing_values)
        if column.role == "factor":
            rows = connection.execute(f"SELECT {code}, sum(n) FROM good GROUP BY 1 ORDER BY 1").fetchall()
            levels = codings[column.name].levels
            by_level = {levels[i]: int(n) for i, n in rows if levels[i] != column.config.missing_level}
            joined = cells.num_joined.get(column.name, 0)
            found += notes.of_levels(column.name, by_level, joined, num_rows, lines, is_open=column.is_open and column.kind == "text")
            continue
        query = f"SELECT {code}, sum(n) FROM good GROUP BY 1 ORDER BY 1"
        ends = [_ends(connection, f"{query} {order}") for order in ("ASC", "DESC")]
        noted = notes.of_number(column.name, ends[0], ends[1], num_rows, lines)
        found += noted or _of_codes(connection, code, column.name, num_rows, lines)
    return found + _of_categories(cells, outcome, num_rows)


def _ends(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[float, int]]:
    return [(x, int(n)) for x, n in connection.execute(f"{query} LIMIT {notes.NUM_EXTREMES}").fetchall()]


def _of_codes(connection: duckdb.DuckDBPyConnection, x: str, name: str, num_rows: int, lines: Lines) -> list[Note]:
    """Notes of usual codes that are no extremes of a column."""
    listed = ", ".join(map(repr, (*notes.NEGATIVE, *notes.POSITIVE)))
    rows = connection.execute(f"SELECT {x}, sum(n) AS n FROM good WHERE {x} IN ({listed}) GROUP BY 1 HAVING sum(n) >= {notes.MIN_INSIDE} ORDER BY 1").fetchall()
    found = list[Note]()
    for code, count in rows:
        beside = list[int]()
        for side, order in (("<", "DESC"), (">", "ASC")):
            query = f"SELECT sum(n) FROM good WHERE {x} {side} {code!r} GROUP BY {x} ORDER BY {x} {order} LIMIT {notes.NEIGHBOURS}"
            beside += [int(n) for (n,) in connection.execute(query).fetchall()]
        found += notes.of_code(name, code, int(count), beside, num_rows, lines)
    return found


def _of_categories(cells: CellTable, outcome: Outcome, num_rows: int) -> list[Note]:
    by_category = cells.category_counts()
    part = outcome.parts[0]
    lines = Lines(part.name, part.markers)
    found = notes.of_levels(part.name, by_category, 0, num_rows, lines)
    if all(map(notes.is_number, by_category)):
        values = sorted((float(category), count) for category, count in by_category.items())
        marked = {note.count for note in found}
        found += [note for note in notes.of_number(part.name, values, values[::-1], num_rows, lines) if note.count not in marked]
    return found


class OfFiles:
    """What looks odd in the columns of outcome and weight, and in the files beside each other, or beside what was fitted (``coding``)."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, cells: CellTable, outcome: Outcome):
        self._connection, self._cells, self._outcome = connection, cells, outcome

    def look(self, sample: Sample, found: Sources, coding: Dictionary | None) -> tuple[list[Note], dict[str, Scale]]:
        """Return the notes, and the scales of all numeric columns; those of ``coding`` stay."""
        noted, squeezed = list[Note](), list[Note]()
        by_column, scales = dict[_Numbers, dict[str, Scale]](), dict[str, Scale]()
        for numbers in self._numbers():
            values = sample.numbers(numbers.column)
            every = np.concatenate([np.empty(0), *values.values()])
            if numbers.use != "predictor":
                noted += self._of_values(numbers, every, sample, found)
            by_file = {url: scale for url, of in values.items() if (scale := units.measured(of)) is not None}
            by_column[numbers] = by_file
            noted += _of_codings(numbers.name, values)
            if (whole := units.measured(every)) is not None:
                scales[numbers.name] = whole
            squeezed += self._squeezed(numbers, values, coding)
        in_units = _of_units(by_column, {} if coding is None else coding.scales)
        noted += in_units + [note for note in squeezed if note.column not in {other.column for other in in_units}]
        for i, column in enumerate(self._cells.columns):
            if column.role == "factor" and len(found.files) > 1:
                noted += _of_spellings(column.name, sample.labels(f"k{i}", column.kind))
        if self._outcome.kind == "category" and len(found.files) > 1:
            noted += _of_spellings(self._outcome.parts[0].name, sample.labels("y0", "text"))
        return noted, scales | ({} if coding is None else coding.scales)

    def _numbers(self) -> Iterator[_Numbers]:
        for column in self._cells.numerics:
            yield _Numbers(column.name, self._cells.code(column), "predictor")
        outcome = self._outcome
        if outcome.kind != "category" and not (outcome.kind == "binomial" and len(outcome.parts) == 1):
            for i, part in enumerate(outcome.parts):
                yield _Numbers(part.name, f"y{i}", "size" if part.name in ("exposure", "trials") else "outcome")
        if outcome.weight is not None:
            yield _Numbers(outcome.weight.name, "w", "weight")

    def _of_values(self, numbers: _Numbers, values: np.ndarray, sample: Sample, found: Sources) -> list[Note]:
        """Notes of single values: from the sample, and where there are any, from all rows."""
        part = next(part for part in (*self._outcome.parts, self._outcome.weight) if part is not None and part.name == numbers.name)
        lines = Lines(part.name, part.markers, numbers.name == "trials" or numbers.use == "weight")
        distinct, counts = np.unique(values, return_counts=True)
        pairs = [(float(x), int(n)) for x, n in zip(distinct, counts, strict=True)]
        noted = notes.of_number(part.name, pairs[: notes.NUM_EXTREMES], pairs[::-1][: notes.NUM_EXTREMES], len(values), lines, is_tailed=True)
        if not noted or sample.is_whole:
            return noted
        bind = Bind()
        rows = self._cells.sampled_sql(found, bind)
        query = f"SELECT {numbers.column}, count(*) FROM ({rows}) WHERE {numbers.column} IS NOT NULL GROUP BY 1 ORDER BY 1"
        pairs = self._connection.execute(query, bind.values).fetchall()
        num_rows = sum(n for _, n in pairs)
        return notes.of_number(part.name, pairs[: notes.NUM_EXTREMES], pairs[::-1][: notes.NUM_EXTREMES], num_rows, lines, is_tailed=True)

    def _squeezed(self, numbers: _Numbers, values: Mapping[str, np.ndarray], coding: Dictionary | None) -> list[Note]:
        kept = None if coding is None else coding.numerics.get(numbers.name)
        if kept is None or kept.binary:
            return []
        files = [url for url, of in values.items() if units.is_squeezed(kept.center, kept.scale, of)]
        return [_note(numbers.name, files, len(values), "vary about 0 by less than a twentieth of what was fitted, in other units perhaps")] if files else []


def _of_units(by_column: Mapping[_Numbers, Mapping[str, Scale]], fitted: Mapping[str, Scale]) -> list[Note]:
    """Files in other units than the others, or than what was fitted. Where both columns of an outcome are larger, its rows are of more people."""
    found: dict[_Numbers, tuple[list[str], float, str]] = {}
    for numbers, by_file in by_column.items():
        if numbers.name in fitted:
            factors = {url: units.other_units(fitted[numbers.name], scale, numbers.use) for url, scale in by_file.items()}
            odd = [url for url in sorted(factors) if factors[url]]
            if odd:
                found[numbers] = odd, factors[odd[0]] or 1.0, "what was fitted"
        elif (group := units.odd_group(by_file, numbers.use)) is not None:
            found[numbers] = *group, "the others"
    pair = [numbers for numbers in found if numbers.column in ("y0", "y1")]
    if len(pair) == 2 and (found[pair[0]][1] > 1) == (found[pair[1]][1] > 1) and found[pair[0]][0] == found[pair[1]][0]:
        found = {numbers: value for numbers, value in found.items() if numbers not in pair}
    return [
        _note(numbers.name, files, len(by_column[numbers]), f"have numbers some {float(f'{factor:.2g}'):,g} times those of {than}, and as spread: another unit?")
        for numbers, (files, factor, than) in found.items()
    ]


def _of_codings(name: str, values: Mapping[str, np.ndarray]) -> list[Note]:
    """Files that write the two values of a column in different ways."""
    found: dict[tuple[float, ...], list[str]] = {}
    for url, of in values.items():
        distinct = tuple(float(x) for x in np.unique(of))
        if distinct in CODINGS:
            found.setdefault(distinct, []).append(url)
    if len(found) < 2:
        return []
    (rare, files), (common, _) = sorted(found.items(), key=lambda item: len(item[1]))[:: len(found) - 1][:2]
    shown = [f"{low:g} and {high:g}" for low, high in (rare, common)]
    return [_note(name, files, len(values), f"have {shown[0]} where others have {shown[1]}")]


def _of_spellings(name: str, labels: Mapping[str, frozenset[str]]) -> list[Note]:
    """Groups of files without a level in common, whose levels are not even written alike: AL here and Alabama there.

    Files of states have no county in common either, but write counties alike.
    """
    groups: list[tuple[set[str], set[str]]] = []
    for url, levels in labels.items():
        joined = ({url}, set(levels))
        apart = []
        for group in groups:
            if group[1] & joined[1]:
                joined = (joined[0] | group[0], joined[1] | group[1])
            else:
                apart.append(group)
        groups = [*apart, joined]
    shapes = [(files, {_shape(level) for level in levels}) for files, levels in groups if len(levels) >= MIN_LEVELS]
    shapes.sort(key=lambda pair: (len(pair[0]), sorted(pair[0])))
    for i, (files, written) in enumerate(shapes):
        if all(written.isdisjoint(other) for _, other in shapes[i + 1 :]) and len(shapes) > i + 1:
            return [_note(name, sorted(files), len(labels), "have no level in common with the others, and write them in another way")]
    return []


def _shape(level: str) -> str:
    """How a label is written: capitals, small letters and digits, each once where several follow each other."""
    return re.sub(r"[A-ZÀ-Þ]+", "A", re.sub(r"[a-zß-ÿ]+", "a", re.sub(r"\d+", "9", level)))


def _note(name: str, files: list[str], num_files: int, what: str) -> Note:
    told = ", ".join(url.rsplit("/", 1)[-1] for url in sorted(files)[:MAX_FILES_TOLD]) + (", ..." if len(files) > MAX_FILES_TOLD else "")
    do = "Write all files in the same units and codes. Nothing, if the numbers are right as they are."
    return Note(name, "files", len(files), len(files) / num_files, f"{len(files):,} of {num_files:,} files ({told}) {what}", do)
