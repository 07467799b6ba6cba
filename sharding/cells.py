"""Rows to cells: one group-by over the source, out of core, then everything else from the much smaller table of cells.

Tables of the scratch database (columns are numbered, so that no name of a user meets SQL):

* ``cells``: one row per combination of raw values ``k0, k1, ...`` and reason ``flag`` of the outcome (and per outcome, where
  it is a key); its sums are those of :func:`sharding.cell_statistics.sums`;
* ``map0, map1, ...``: raw value of a factor -> code;
* ``coded``: one row per combination of codes and numbers ``x0, x1, ...`` and ``reason``; 0 is a good cell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sharding import cell_statistics, contract, frozen
from sharding.cell_statistics import fixed_point_scale, fixed_point_sql
from sharding.contract import ModelColumn, Reasons
from sharding.dictionary import Dictionary, FactorCoding, NumericCoding, OutcomeCoding
from sharding.errors import ContractError
from sharding.labels import Kind, label_sql
from sharding.notes import MARKERS
from sharding.outcome import LARGEST, MAX_CATEGORIES, number_sql, outcome_sql
from sharding.privacy import Pseudonyms
from sharding.rows import RowIdentity, RowSource
from sharding.sources import Sources
from sharding.sql import Bind, quoted

MIN_TOLD = 10
"""Rows that have to share a value of an outcome for it to be told in an error."""
MAX_REPEATS = 100
"""A value in more rows than this is the id of nobody."""
LARGEST_WHOLE = 2**53
"""From here on a double is not one whole number."""


class CellTable:
    """The cells of a run in a scratch database, from the group-by to the sorted stream that becomes shards.

    Where there is a ``coding`` of an earlier ingest, what that decided stays (:mod:`sharding.frozen`).
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        rows: RowSource,
        reasons: Reasons,
        coding: Dictionary | None = None,
    ):
        self._connection = connection
        self._coding = coding
        self._rows = rows
        self.columns = list(rows.columns)
        self._reasons = reasons
        self._outcome = rows.outcome
        self._sums = cell_statistics.sums(rows.outcome)
        self._scales = {sum_.name: 1.0 for sum_ in self._sums}
        self._categories: tuple[str, ...] = ()
        self._is_ordered = False
        self.num_missing: dict[str, int] = {}
        self._pivot = 0.0
        self._num_joined: dict[str, int] = {}
        self._num_rows = 0

    @property
    def factors(self) -> list[ModelColumn]:
        """The factor columns, in order."""
        return [column for column in self.columns if column.role == "factor"]

    @property
    def numerics(self) -> list[ModelColumn]:
        """The numeric columns, in order."""
        return [column for column in self.columns if column.role == "numeric"]

    def code(self, column: ModelColumn) -> str:
        """Return the name of a column in the table ``coded``."""
        return f"{'c' if column.role == 'factor' else 'x'}{self.columns.index(column)}"

    def code_of(self, name: str) -> str:
        """Return the name in the table ``coded`` of the column called ``name`` in the model."""
        return self.code(self._named(name))

    def group(self) -> int:
        """Aggregate the files into ``cells``, and return the number of rows read."""
        if self._rows.identity is not None:
            self._find_repeated(self._rows.identity)
        if any(sum_.is_real for sum_ in self._sums):
            self._scales |= self._measure_outcome()
        bind = Bind()
        keys = [f"k{i}" for i in range(len(self.columns))] + self._bucket + self._outcome.group_keys + ["flag"]
        sums = cell_statistics.aggregates_sql(self._outcome, self._scales, self._pivot)
        self._execute(
            f"CREATE TABLE cells AS SELECT {', '.join(keys + sums)} FROM ({self._rows.sql(bind, store_rejects=True)}) "
            f"GROUP BY {', '.join(keys)}",
            bind,
        )
        self._num_rows = int(self._one("SELECT coalesce(sum(n), 0) FROM cells")[0])
        return self._num_rows

    def encode(self) -> dict[str, FactorCoding]:
        """Make ``coded`` from ``cells``; return the codings of the factors, whose levels all occur in good rows.

        Levels that were declared are levels whether they occur or not.
        """
        for i, column in enumerate(self.columns):
            if column.role == "undecided":
                decided = frozen.role(self._coding, column.name)
                self.columns[i] = contract.decide_role(column, self._distinct(i), decided)
            frozen.check_role(self._coding, column.name, self.columns[i].role, column.where)
        self._number_reasons()
        for column in self.factors:
            self._check_whole(column)
        labels = {column.name: self._distinct(self.columns.index(column)) for column in self.factors}
        for column in self.factors:
            if self._kept(column) is None:
                contract.check_open(column, labels[column.name])
        self.num_missing = self._count_missing()
        self._num_joined = {column.name: self._count_joined(column) for column in self.factors if column.kind == "text"}
        codings = self._encode_with(labels)
        if self.quarantined() and self.num_good_cells() > 0:
            codings |= self._drop_idle_levels(labels, codings)
        if self._outcome.kind == "category":
            self._count_categories()
        self._execute("DROP TABLE cells")
        self._execute("CREATE VIEW good AS SELECT * EXCLUDE (reason) FROM coded WHERE reason = 0")
        return codings

    def num_good_cells(self) -> int:
        """Number of cells that keep the contract."""
        return int(self._one("SELECT count(*) FROM coded WHERE reason = 0")[0])

    def num_good_rows(self) -> int:
        """Number of rows that keep the contract."""
        return int(self._one("SELECT coalesce(sum(n), 0) FROM coded WHERE reason = 0")[0])

    def quarantined(self) -> dict[str, int]:
        """Return the number of rows by reason."""
        rows = self._execute("SELECT reason, sum(n) FROM coded WHERE reason <> 0 GROUP BY reason ORDER BY reason")
        return {self._reasons.name(reason): int(count) for reason, count in rows}

    def quarantined_by_file(self) -> dict[tuple[str, str], int]:
        """Return the number of rows by (URL, reason): a second pass over the files, without aggregation into cells."""
        bind = Bind()
        rows = self._rows.sql(bind, with_file=True)
        query = f"SELECT file, reason, count(*) FROM ({self._coded_sql(f'({rows})', bind, ['file'])}) "
        found = self._execute(query + "WHERE reason <> 0 GROUP BY ALL ORDER BY ALL", bind)
        urls = self._rows.sources.url_of_path
        return {(urls[path], self._reasons.name(reason)): count for path, reason, count in found}

    def copy_quarantined(self, path: str, pseudonyms: Pseudonyms | None) -> None:
        """Write the quarantined rows (the columns of the model, ``file`` and ``reason``) to local Parquet.

        With ``pseudonyms``, and an identity of the rows, there is a column ``id``: no id, but its pseudonym.
        """
        bind = Bind()
        raw = [f"CAST(r.k{i} AS VARCHAR) AS {quoted(c.name)}" for i, c in enumerate(self.columns)]
        with_id = pseudonyms is not None and self._rows.identity is not None
        rows = self._rows.sql(bind, with_file=True, with_id=with_id)
        others = [f"file AS {quoted('file')}", *(["id"] if with_id else []), *raw]
        coded = self._coded_sql(f"({rows})", bind, others)
        codes = ", ".join(self.code(column) for column in self.columns)
        named = f"list_extract({bind(self._reasons.names)}::VARCHAR[], reason) AS reason"
        query = f"SELECT * EXCLUDE ({codes}) REPLACE ({named}) FROM ({coded}) WHERE reason <> 0"
        if pseudonyms is None or not with_id:
            self._execute(f"COPY ({query}) TO {bind(path)} (FORMAT parquet)", bind)
            return
        batches = self._connection.sql(query, params=bind.values).to_arrow_reader(1 << 16)
        place = batches.schema.get_field_index("id")
        with pq.ParquetWriter(path, batches.schema) as writer:
            for batch in batches:
                ids = pa.array(pseudonyms.of(batch.column(place).to_pylist()), pa.string())
                writer.write_batch(batch.set_column(place, "id", ids))

    def numeric_codings(self, codings: dict[str, FactorCoding]) -> dict[str, NumericCoding]:
        """Return centre and scale (mean and sd, divisor n, over the good rows) and extremes of the numbers.

        They are the numeric columns, and factors (of these ``codings``) that the model has as numbers too.
        """
        found = {column.name: self._numeric_coding(column) for column in self.numerics}
        for column in self.factors:
            numbers = contract.level_numbers(column, codings[column.name].levels)
            if numbers is not None:
                found[column.name] = self._coding_of_levels(column, numbers)
        return found

    def check_codes(self, quarantined: Mapping[str, int]) -> None:
        """Refuse an outcome of two values other than 0 and 1 with the line that says which is a success."""
        part = self._outcome.parts[0]
        if not self._outcome.is_binary or self._outcome.levels is not None or not any(
            quarantined.get(f"{part.name}:{rule}") for rule in ("not_a_number", "not_0_or_1")
        ):  # fmt: skip
            return
        bind = Bind()
        label = label_sql(quoted(part.source), part.kind)
        scan = self._rows.sources.scan(bind, [part.source])
        known = f"label <> '' AND NOT list_contains({bind(list(part.markers))}::VARCHAR[], label)"
        query = f"SELECT label, count(*) FROM (SELECT {label} AS label FROM ({scan})) WHERE {known} GROUP BY 1 LIMIT 3"
        found = sorted(self._execute(query, bind))
        if len(found) == 2 and min(count for _, count in found) >= MIN_TOLD:
            listed = ", ".join(json.dumps(text, ensure_ascii=False) for text, _ in found)
            raise ContractError(
                self._outcome.where, f"the values {found[0][0]!r} and {found[1][0]!r} in {part.name!r}", "0 and 1",
                f"Name the value that is a failure, then the one that is a success: data.columns.{part.name}.levels: [{listed}], or the other way round."
            )  # fmt: skip

    def sampled_sql(self, sources: Sources, bind: Bind) -> str:
        """Return SQL of the rows of ``sources`` that keep the contract: their ``file``, raw keys, numbers, and values of the outcome."""
        rows = replace(self._rows, sources=sources).sql(bind, with_file=True)
        raw = [f"r.k{i}" for i in range(len(self.columns))]
        return f"SELECT * FROM ({self._coded_sql(f'({rows})', bind, ['file', *raw, *self.outcome_values])}) WHERE reason = 0"

    @property
    def outcome_values(self) -> list[str]:
        """The values of a row's outcome: those of its columns, and its weight."""
        return [*(f"y{i}" for i in range(len(self._outcome.parts))), *(["w"] if self._outcome.weight is not None else [])]

    @property
    def num_joined(self) -> Mapping[str, int]:
        """By text factor, the number of levels that are written in several ways."""
        return self._num_joined

    def category_counts(self) -> dict[str, int]:
        """Rows of each category of the outcome, by weight where there are weights; empty for other outcomes."""
        counts = self._totals([f"count_{j}" for j in range(len(self._categories))], like="t").values()
        return dict(zip(self._categories, (round(count) for count in counts), strict=True))

    def weight_sums(self, by: ModelColumn | None = None) -> list[tuple[int, int, float, float]]:
        """Return, for each level of a factor (or for all, as level 0), its code, known outcomes, sum of weights and sum of squared weights."""
        sums = ", ".join(f"CAST(coalesce(sum({name}), 0) AS HUGEINT)" for name in "ktv")
        code = "0" if by is None else self.code(by)
        rows = self._execute(f"SELECT {code} AS level, {sums} FROM good GROUP BY level ORDER BY level")
        return [(level, int(k), int(t) / self._scales["t"], int(v) / self._scales["v"]) for level, k, t, v in rows]

    def groups(self, names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Return the combinations of codes of the factors ``names`` that occur, sorted."""
        codes = ", ".join(self.code(self._named(name)) for name in names)
        return tuple(self._execute(f"SELECT DISTINCT {codes} FROM good ORDER BY ALL"))

    def parents(self, codings: dict[str, FactorCoding]) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return, for each factor, the factors (of two levels or more) that it determines, and how."""
        result: dict[str, dict[str, tuple[int, ...]]] = {}
        for child in self.factors:
            others = [f for f in self.factors if f is not child and len(codings[f.name].levels) > 1]
            if not others:
                continue
            extremes = ", ".join(f"min({self.code(f)}), max({self.code(f)})" for f in others)
            rows = self._execute(f"SELECT {self.code(child)}, {extremes} FROM good GROUP BY 1")
            for j, parent in enumerate(others):
                if all(row[1 + 2 * j] == row[2 + 2 * j] for row in rows):
                    of_child = [-1] * len(codings[child.name].levels)
                    for row in rows:
                        of_child[row[0]] = row[1 + 2 * j]
                    result.setdefault(child.name, {})[parent.name] = tuple(of_child)
        return result

    def outcome_coding(self) -> OutcomeCoding:
        """Return the outcome's entry in the dictionary, exact before rounding."""
        totals = self._totals([sum_.name for sum_ in self._sums])
        counts = self._totals([f"count_{j}" for j in range(len(self._categories))], like="t")
        found = cell_statistics.describe(self._outcome, totals, self._categories, list(counts.values()))
        if self._categories:
            found = replace(found, ordered=self._is_ordered)
        if self._outcome.kind == "gaussian" and self._outcome.weight is not None:
            within = cell_statistics.deviations_sql(True, self._scales, 1.0)
            about = f"CAST(q AS DOUBLE) / CAST({self._scales['q']!r} AS DOUBLE)"
            row = self._one(f"SELECT coalesce(sum({within}), 0), coalesce(sum({about}), 0) FROM good WHERE k > 1")
            cell_statistics.check_digits(self._outcome, *row)
        return found if self._outcome.weight is None else replace(found, weight_factor=self._weight_factor())

    def counts(self, keys: Sequence[str]) -> list[tuple[tuple[int, ...], int]]:
        """Return the number of good cells by the columns ``keys`` of ``coded``, sorted."""
        names = ", ".join(keys)
        rows = self._execute(f"SELECT {names}, count(*) FROM good GROUP BY {names} ORDER BY {names}")
        return [(tuple(row[:-1]), row[-1]) for row in rows]

    def bucket_by_content(self, num_shards: int, seed: int) -> None:
        """Give each good cell a column ``bucket``: a seeded hash of its codes, its numbers and its key if it has one."""
        bind = Bind()
        keys = [*(self.code(column) for column in self.columns), *self._outcome.cell_keys]
        content = ", ".join(f"CAST({key} AS VARCHAR)" for key in keys)
        self._add_bucket(f"concat_ws('|', {bind(str(seed))}::VARCHAR, {content})", num_shards, bind)

    def bucket_by_level(self, name: str, coding: FactorCoding, num_shards: int, seed: int) -> None:
        """Give each good cell a column ``bucket``: a seeded hash of its level of one factor."""
        bind = Bind()
        label = f"list_extract({bind(list(coding.levels))}::VARCHAR[], {self.code_of(name)} + 1)"
        self._add_bucket(f"concat({bind(f'{seed}|')}::VARCHAR, {label})", num_shards, bind)

    def stream(self, order: Sequence[str]) -> pa.RecordBatchReader:
        """Return the good cells as they are in shards, sorted by the columns ``order`` of ``coded``, then by all others."""
        fields = [f"CAST({self.code(c)} AS INTEGER) AS {quoted(c.name)}" for c in self.factors]
        fields += [f"{self.code(c)} AS {quoted(c.name)}" for c in self.numerics]
        fields += cell_statistics.fields_sql(self._outcome, self._scales, len(self._categories), self._weight_factor())
        codes = [self.code(c) for c in [*self.factors, *self.numerics]]
        keys = dict.fromkeys([*order, *codes, *self._outcome.cell_keys])
        ordered = f"SELECT {', '.join(fields)} FROM good ORDER BY {', '.join(keys)}"
        return self._connection.sql(ordered).to_arrow_reader(1 << 17)

    @property
    def _bucket(self) -> list[str]:
        return ["bucket"] if self._rows.bucket is not None else []

    def _execute(self, query: str, bind: Bind | None = None) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, bind.values if bind else None).fetchall()

    def _one(self, query: str, bind: Bind | None = None) -> tuple[Any, ...]:
        return self._execute(query, bind)[0]

    def _named(self, name: str) -> ModelColumn:
        return next(column for column in self.columns if column.name == name)

    def _find_repeated(self, identity: RowIdentity) -> None:
        bind = Bind()
        scan = self._rows.sources.scan(bind, [identity.source])
        listed, usual = bind([*identity.missing_values]), bind(sorted(MARKERS))
        self._execute(
            f"CREATE TABLE repeated AS SELECT id, count(*) AS n FROM (SELECT {identity.sql} AS id FROM ({scan})) "
            f"WHERE id <> '' AND NOT list_contains({listed}::VARCHAR[], id) AND NOT list_contains({usual}::VARCHAR[], lower(id)) "
            "GROUP BY id HAVING count(*) > 1",
            bind,
        )
        largest = int(self._one("SELECT coalesce(max(n), 0) FROM repeated")[0])
        if largest > MAX_REPEATS:
            raise ContractError(
                "data.id_column", f"one value in {largest:,} rows", f"ids of persons, in {MAX_REPEATS} rows at most",
                f"If it means that the id is not known, list it in data.columns.{identity.source}.missing_values."
            )  # fmt: skip

    def _measure_outcome(self) -> dict[str, float]:
        """Fixed-point factors of the real sums, from the largest value that a row adds to each; and the pivot."""
        bind = Bind()
        values, flag = outcome_sql(self._outcome, bind)
        scan = self._rows.sources.scan(bind, dict.fromkeys(self._outcome.sources))
        selected = ", ".join(f"{value} AS {name}" for name, value in values.items())
        real = [sum_ for sum_ in self._sums if sum_.is_real and not sum_.power]
        largest = [f"coalesce(max(abs({sum_.row})), 0)" for sum_ in real]
        ends = ["min(y0), max(y0)", f"max({'w' if self._outcome.weight is not None else 'NULL'})"]
        ends = ends if any(sum_.power for sum_ in self._sums) else ["NULL, NULL, NULL"]
        *found, low, high, weight, num_rows = self._one(
            f"SELECT {', '.join([*largest, *ends])}, count(*) FROM (SELECT {selected}, {flag} AS flag FROM ({scan})) WHERE flag = 0",
            bind,
        )
        scales = {sum_.name: fixed_point_scale(value, num_rows) for sum_, value in zip(real, found, strict=True)}
        if low is None:
            return scales
        self._pivot = low / 2 + high / 2
        return scales | cell_statistics.pivot_scales(max(high - self._pivot, self._pivot - low), weight, num_rows)

    def _count_categories(self) -> None:
        """Make of the cells by category cells with a count ``count_0, count_1, ...`` of each category."""
        query = "SELECT DISTINCT y0 FROM coded WHERE reason = 0 AND y0 IS NOT NULL"
        found = [row[0] for row in self._execute(f"{query} LIMIT {MAX_CATEGORIES + 1}")]
        arranged = cell_statistics.categories(self._outcome, found)
        self._categories, self._is_ordered = frozen.categories(self._coding, self._outcome.where, *arranged)
        bind = Bind()
        kind = self._type_of["t"]
        counts = [
            f"CAST(coalesce(sum(t) FILTER (WHERE y0 = {bind(label)}::VARCHAR), 0) AS {kind}) AS count_{j}"
            for j, label in enumerate(self._categories)
        ]
        keys = ", ".join([*(self.code(column) for column in self.columns), *self._bucket, "reason"])
        fields = ", ".join([keys, *self._added(), *counts])
        self._execute(f"CREATE TABLE counted AS SELECT {fields} FROM coded GROUP BY {keys}", bind)
        self._execute("DROP TABLE coded")
        self._execute("ALTER TABLE counted RENAME TO coded")

    @property
    def _type_of(self) -> dict[str, str]:
        return {"n": "BIGINT"} | {sum_.name: "HUGEINT" if sum_.is_real else "BIGINT" for sum_ in self._sums}

    def _added(self) -> list[str]:
        return [f"CAST(sum({name}) AS {kind}) AS {name}" for name, kind in self._type_of.items()]

    def _totals(self, names: Sequence[str], like: str = "") -> dict[str, Fraction]:
        """Exact totals of sums over the good cells; those of the scale of ``like`` if it is given."""
        if not names:
            return {}
        row = self._one(f"SELECT {', '.join(f'coalesce(sum({name}), 0)' for name in names)} FROM good")
        scales = [Fraction(self._scales[like or name]) for name in names]
        return {name: int(total) / scale for name, total, scale in zip(names, row, scales, strict=True)}

    def _weight_factor(self) -> float:
        if self._outcome.weight is None:
            return 1.0
        totals = self._totals(["k", "t"])
        found = float(totals["k"] / totals["t"])
        return frozen.weight_factor(self._coding, f"data.columns.{self._outcome.weight.name}", found)

    def _text(self, i: int) -> str:
        return label_sql(f"k{i}", self.columns[i].kind)

    def _distinct(self, i: int) -> list[str | None]:
        query = (
            f"SELECT DISTINCT {self._text(i)} FROM (SELECT DISTINCT k{i} FROM cells) LIMIT {contract.MAX_LEVELS + 1}"
        )
        values = [row[0] for row in self._execute(query)]
        if len(values) > contract.MAX_LEVELS and self.columns[i].role == "factor":
            raise contract.too_many_levels(self.columns[i])
        return values

    def _check_whole(self, column: ModelColumn) -> None:
        """Refuse levels in floating point that may be two whole numbers each."""
        k = f"k{self.columns.index(column)}"
        is_whole = f"typeof({k}) = 'DOUBLE' AND isfinite(CAST({k} AS DOUBLE)) AND abs(CAST({k} AS DOUBLE)) >= {LARGEST_WHOLE}"
        if column.kind == "float" and self._one(f"SELECT bool_or({is_whole}) FROM cells")[0]:
            raise ContractError(
                column.where, "whole numbers from 2^53 on in floating point, where neighbours are one number", "codes as integers or text",
                "Write the column anew as text, from where it is whole. (A table with missing values makes floating point of integers.)"
            )  # fmt: skip

    def _count_missing(self) -> dict[str, int]:
        """Rows without a value, by column, of those that break no rule of outcome, weight and id."""
        found: dict[str, int] = {}
        for i, column in enumerate(self.columns):
            bind = Bind()
            if column.role == "factor":  # labels are made of distinct values only
                markers = f"{bind(list(column.config.missing_values))}::VARCHAR[]"
                label = label_sql("raw", column.kind)
                labelled = f"SELECT raw, {label} AS label FROM (SELECT DISTINCT k{i} AS raw FROM cells)"
                missing = f"SELECT raw FROM ({labelled}) WHERE label IS NULL OR list_contains({markers}, label)"
                rows = f"cells JOIN ({missing}) ON k{i} IS NOT DISTINCT FROM raw WHERE flag = 0"
            else:
                given = number_sql(f"k{i}", self._number_kind(column), column.config.missing_values, bind)[1]
                rows = f"cells WHERE flag = 0 AND NOT {given}"
            found[column.name] = int(self._one(f"SELECT coalesce(sum(n), 0) FROM {rows}", bind)[0])
        return found

    def _count_joined(self, column: ModelColumn) -> int:
        """Levels of a text column that are written in several ways."""
        i = self.columns.index(column)
        labelled = f"SELECT {self._text(i)} AS label FROM (SELECT DISTINCT k{i} FROM cells)"
        joined = f"SELECT label FROM ({labelled}) WHERE label <> '' GROUP BY label HAVING count(*) > 1"
        return int(self._one(f"SELECT count(*) FROM ({joined})")[0])

    @staticmethod
    def _number_kind(column: ModelColumn) -> Kind:
        return column.kind if column.kind in ("text", "null") else "float"

    def _number_reasons(self) -> None:
        for column in self.columns:
            if column.role == "factor":
                contract.factor_reasons(column, self._reasons)
            else:
                contract.numeric_reasons(column, self._reasons)

    def _encode_with(self, labels: dict[str, list[str | None]]) -> dict[str, FactorCoding]:
        codings: dict[str, FactorCoding] = {}
        is_merging = False
        for i, column in enumerate(self.columns):
            if column.role == "numeric":
                is_merging |= column.kind == "text"
                continue
            values = labels[column.name]
            codings[column.name], codes = contract.code_levels(column, values, frozen=self._kept(column))
            good = [code for code in codes if code >= 0]
            is_merging |= len(set(good)) < len(good) or column.kind == "float"
            bind = Bind()
            raw = f"SELECT k{i}, {self._text(i)} AS label FROM (SELECT DISTINCT k{i} FROM cells)"
            self._execute(
                f"CREATE TABLE map{i} AS SELECT k{i} AS raw, code FROM ({raw}) AS raw "
                f"JOIN ({_lookup_sql(values, codes, bind)}) AS known ON raw.label IS NOT DISTINCT FROM known.label",
                bind,
            )
        bind = Bind()
        others = [*self._bucket, *self._outcome.group_keys]
        coded = self._coded_sql("cells", bind, [*others, "n", *(sum_.name for sum_ in self._sums)])
        if is_merging:
            keys = ", ".join([*(self.code(column) for column in self.columns), *others, "reason"])
            coded = f"SELECT {keys}, {', '.join(self._added())} FROM ({coded}) GROUP BY {keys}"
        self._execute(f"CREATE TABLE coded AS {coded}", bind)
        return codings

    def _coded_sql(self, relation: str, bind: Bind, others: list[str]) -> str:
        """SQL of the codes, numbers and reason of ``relation`` (with ``k0.., flag``), and its columns ``others``."""
        fields, joins, cases = [], [], ["WHEN r.flag <> 0 THEN r.flag"]
        for i, column in enumerate(self.columns):
            if column.role == "factor":
                fields.append(f"map{i}.code AS c{i}")
                joins.append(f"LEFT JOIN map{i} ON r.k{i} IS NOT DISTINCT FROM map{i}.raw")
                missing, unexpected = contract.factor_reasons(column, self._reasons)
                cases.append(f"WHEN map{i}.code = {contract.MISSING} THEN {missing}")
                cases.append(f"WHEN map{i}.code = {contract.UNEXPECTED} THEN {unexpected}")
                continue
            kind = self._number_kind(column)
            value, given = number_sql(f"r.k{i}", kind, column.config.missing_values, bind)
            fields.append(f"CASE WHEN {given} THEN CASE WHEN {value} = 0 THEN 0.0 ELSE {value} END END AS x{i}")
            missing, not_number, not_finite, out_of_range = contract.numeric_reasons(column, self._reasons)
            cases.append(f"WHEN NOT {given} THEN {missing}")
            if kind == "text":
                cases.append(f"WHEN {value} IS NULL THEN {not_number}")
            cases.append(f"WHEN NOT (abs({value}) < {LARGEST}) THEN {not_finite}")
            for sign, bound in (("<", column.config.minimum), (">", column.config.maximum)):
                if bound is not None:
                    cases.append(f"WHEN {value} {sign} {bind(float(bound))} THEN {out_of_range}")
        reason = f"CAST(CASE {' '.join(cases)} ELSE 0 END AS SMALLINT) AS reason"
        selected = ", ".join([*fields, reason, *others])
        return f"SELECT {selected} FROM {relation} AS r {' '.join(joins)}"

    def _drop_idle_levels(
        self, labels: dict[str, list[str | None]], codings: dict[str, FactorCoding]
    ) -> dict[str, FactorCoding]:
        """Recode the factors some of whose levels occur in quarantined rows only, and return their codings."""
        changed: dict[str, FactorCoding] = {}
        for column in self.factors:
            name, code = column.name, self.code(column)
            rows = self._execute(f"SELECT DISTINCT {code} FROM coded WHERE reason = 0")
            kept = self._kept(column)
            idle = {*codings[name].levels} - {codings[name].levels[row[0]] for row in rows}
            idle -= set() if kept is None else {*kept.levels}
            if column.config.levels is not None or not idle:
                continue
            unused = frozenset(value for value in labels[name] if _level_name(column, value) in idle)
            _, before = contract.code_levels(column, labels[name], frozen=kept)
            changed[name], after = contract.code_levels(column, labels[name], unused, kept)
            moved = {old: new for old, new in zip(before, after, strict=True) if old >= 0 and old != new}
            bind = Bind()
            pairs = f"SELECT unnest({bind([*moved])}::INTEGER[]) AS old, unnest({bind([*moved.values()])}::INTEGER[]) AS new"
            self._execute(f"UPDATE coded SET {code} = moved.new FROM ({pairs}) AS moved WHERE {code} = moved.old", bind)
        return changed

    def _kept(self, column: ModelColumn) -> FactorCoding | None:
        return None if self._coding is None else self._coding.factors.get(column.name)

    def _numeric_coding(self, column: ModelColumn) -> NumericCoding:
        x = self.code(column)
        low, high, binary = self._one(f"SELECT min({x}), max({x}), bool_and({x} IN (0, 1)) FROM good")
        if (decided := self._decided(column, low, high, lambda: self._num_others(x))) is not None:
            return decided
        if binary:
            return NumericCoding(0.0, 1.0, True, low, high)
        mean = self._exact_mean(x, max(abs(low), abs(high)))
        variance = self._exact_mean(f"({x} - CAST({mean!r} AS DOUBLE)) ** 2", (high - low) ** 2)
        return NumericCoding(mean, variance**0.5, False, low, high, *column.config.kept)

    def _num_others(self, x: str) -> int:
        return int(self._one(f"SELECT coalesce(sum(n), 0) FROM good WHERE {x} NOT IN (0, 1)")[0])

    def _coding_of_levels(self, column: ModelColumn, numbers: list[float]) -> NumericCoding:
        counts = dict(self._execute(f"SELECT {self.code(column)}, sum(n) FROM good GROUP BY 1"))
        values = {Fraction(numbers[code]): int(count) for code, count in counts.items()}
        low, high = float(min(values)), float(max(values))
        others = sum(count for value, count in values.items() if value not in (0, 1))
        if (decided := self._decided(column, low, high, lambda: others)) is not None:
            return decided
        if {*values} <= {0, 1}:
            return NumericCoding(0.0, 1.0, True, low, high)
        total = sum(values.values())
        mean = sum(x * count for x, count in values.items()) / total
        variance = sum((x - mean) ** 2 * count for x, count in values.items()) / total
        return NumericCoding(float(mean), float(variance) ** 0.5, False, low, high, *column.config.kept)

    def _decided(self, column: ModelColumn, low: float, high: float, others: Callable[[], int]) -> NumericCoding | None:
        """The coding of an earlier ingest with these extremes, if it has the column; ``others`` counts rows of neither 0 nor 1."""
        if column.kind != "float" and max(abs(low), abs(high)) >= LARGEST_WHOLE:
            raise ContractError(
                column.where, "whole numbers from 2^53 on, neighbours of which are one number here", "numbers of 15 digits or fewer",
                "Subtract a constant from the column in the file; or take it as levels: `(1 | " + column.name + ")` alone."
            )  # fmt: skip
        if self._coding is not None and column.name in self._coding.numerics:
            kept = self._coding.numerics[column.name]
            frozen.check_binary(column.where, kept, low, high, others())
            return replace(kept, minimum=low, maximum=high)
        if low == high:
            raise ContractError(
                column.where, "one value in all rows", "a predictor that varies",
                "Remove the column from the formula: it cannot be told from the intercept."
            )  # fmt: skip
        return None

    def _exact_mean(self, expression: str, largest: float) -> float:
        scale = fixed_point_scale(largest, self._num_rows)
        total, count = self._one(f"SELECT sum(n * {fixed_point_sql(expression, scale)}), sum(n) FROM good")
        return float(Fraction(int(total)) / Fraction(scale) / int(count))

    def _add_bucket(self, text: str, num_shards: int, bind: Bind) -> None:
        number = f"CAST(md5_number_lower({text}) % {bind(num_shards)} AS INTEGER)"
        self._execute(f"CREATE TABLE dealt AS SELECT *, {number} AS bucket FROM coded WHERE reason = 0", bind)
        self._execute("CREATE OR REPLACE VIEW good AS SELECT * EXCLUDE (reason) FROM dealt")


def _lookup_sql(labels: list[str | None], codes: list[int], bind: Bind) -> str:
    return f"SELECT unnest({bind(labels)}::VARCHAR[]) AS label, unnest({bind(codes)}::INTEGER[]) AS code"


def _level_name(column: ModelColumn, value: str | None) -> str:
    is_missing = value is None or value in column.config.missing_values
    return column.config.missing_level if is_missing else str(value)
