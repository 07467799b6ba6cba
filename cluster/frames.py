"""A table of counts to poststratify to: read, coded as the data are, and compared with them.

Levels are matched by the labels that ingest makes (:mod:`sharding.labels`). What the data did not have is drawn from its
group's distribution where it can be, and counted: people on new levels, on combinations that contradict the nesting, without
a value, and with numbers outside of what was fitted. What cannot be right is a :class:`FrameError`, raised right after ingest:
a factor none of whose levels the data have, a 0/1 column with other values.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cluster.config import RunConfig
from cluster.errors import FrameError
from fitting import terms
from fitting.coding import Coding, Numeric
from fitting.columns import DataColumns
from sharding import labels, level_order, spellings, storage, units
from sharding.errors import StorageError
from sharding.level_order import Order
from sharding.sources import SUFFIXES

SHOWN = 8
MAX_HEADER_BYTES = 1 << 20


class Frame(NamedTuple):
    """The rows with people: ``columns`` are codes of ``levels`` (the data's, then those that only the frame has) or numbers, and
    ``weight`` people, all (n,). ``facts`` is how the frame compares with the data, as `audit.json` has it."""

    columns: dict[str, np.ndarray]
    weight: np.ndarray
    levels: dict[str, tuple[str, ...]]
    facts: dict[str, Any]

    def for_model(self, coding: Coding) -> dict[str, np.ndarray]:
        """Columns with a code of its own below 0 for each level that the data did not have."""
        out = dict(self.columns)
        for name, levels in coding.factors.items():
            if name in self.levels:
                codes = self.columns[name]
                out[name] = np.where(codes < len(levels), codes, len(levels) - 1 - codes)
        return out


def read(config: RunConfig, coding: Coding) -> Frame:
    """Read and code the frame of a run.

    Raises
    ------
    FrameError
        It cannot be read, lacks a column, or cannot be of the population that the data are of.
    """
    return _Reader(config, coding).read()


def check_columns(config: RunConfig) -> None:
    """See, from its header alone, that the frame of a run has the columns that are needed; nothing to do with `frame: file`.

    Raises
    ------
    FrameError
        It cannot be read, or lacks a column.
    """
    if config.poststratify.frame != "file":
        _Reader(config, None).check_columns()


class _Reader:
    """One frame on its way in: ``where`` names it, ``used`` are the model's columns. Its header can be read without a coding."""

    def __init__(self, config: RunConfig, coding: Coding | None):
        self.config = config
        self.where, self.count = config.poststratify.frame, str(config.poststratify.count)
        self.used: DataColumns = config.model.data_columns()
        margins = dict.fromkeys(c for columns in config.poststratify.columns.values() for c in columns)
        self.needed = tuple(dict.fromkeys([*self.used.factors, *self.used.predictors, *margins]))
        if coding is not None:
            self.coding = coding
            self.factors = tuple(name for name in self.needed if name in coding.factors or name not in coding.numerics)
        self.orders: dict[str, tuple[Order, ...]] = {}

    def error(self, found: str, expected: str, do: str = "") -> FrameError:
        return FrameError(self.where, found, expected, do)

    def read(self) -> Frame:
        table = self.table()
        weight = self.numbers(table, self.count)
        if not np.isfinite(weight).all():
            raise self.error(f"{int((~np.isfinite(weight)).sum())} missing or infinite counts in {self.count!r}", "a count in every row")
        if (weight < 0).any() or not weight.sum() > 0:
            raise self.error(f"a negative count, or none above 0, in {self.count!r}", "counts of people")
        if weight.sum() < 2 and (weight % 1 != 0).any():
            raise self.error(
                f"counts in {self.count!r} that add up to {weight.sum():.4g}, as shares do", "counts of people",
                "Multiply the shares by the number of people; how many people an estimate is of decides what may be shown.",
            )  # fmt: skip
        kept = np.flatnonzero(weight > 0)
        table, weight = table.take(kept), weight[kept]
        columns: dict[str, Any] = {self.number_name(name): self.numbers(table, name) for name in self.needed if name in self.coding.numerics}
        columns |= {name: self.labels(table, name) for name in self.factors}
        whole = float(weight.sum())
        columns, weight, left_out = self.without_missing(columns, weight)
        levels, missing = {}, []
        for name in self.factors:
            columns[name], levels[name], without = self.coded(name, columns[name], weight)
            missing += [{"column": name, "people": without}] if without else []
        numbers = [(name, numeric, columns[self.number_name(name)]) for name, numeric in self.numerics()]
        for name, numeric, values in numbers:
            self.check_binary(name, numeric, values)
        frame = Frame(columns, weight, levels, {})
        facts = {
            "people": whole, "left_out": left_out, "missing": missing, "new": list(self.new(frame)),
            "combinations": list(self.combinations(frame)), "absent": list(self.absent(frame)), "alike": list(self.alike(frame)),
            "outside": [found for name, numeric, values in numbers if (found := outside(name, numeric, values, weight))],
        }  # fmt: skip
        return frame._replace(facts=facts)

    # ---- the file ----

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, str]]:
        """The file, unpacked, and its format."""
        name = self.where.lower()
        kind = next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), "csv")
        try:
            with storage.opened(self.where) as file:
                yield gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file, kind
        except StorageError:
            raise self.error("no file of that name (a folder or a pattern is none)", "one file") from None
        except (pa.ArrowException, gzip.BadGzipFile, EOFError, UnicodeError) as error:
            raise self.error(type(error).__name__, "a Parquet or CSV table, in UTF-8") from None

    def table(self) -> pa.Table:
        with self.opened() as (file, kind):
            if kind == "parquet":
                whole = pq.ParquetFile(file)
                table = whole.read()
                stored = {c: level_order.stored(whole, c) for c in self.factors if c in table.column_names}
                self.orders = {c: (order,) for c, order in stored.items() if order is not None}
            else:
                data = file.read()
                table = pyarrow.csv.read_csv(
                    io.BytesIO(data),
                    parse_options=pyarrow.csv.ParseOptions(delimiter=_delimiter(data.split(b"\n", 1)[0], kind)),
                    # in text the factors are text, so that codes keep their leading zeros
                    convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(self.factors, pa.string())),
                )
        self.check_names(table.column_names, kind)
        return table.select([*self.needed, *([] if self.count in self.needed else [self.count])])

    def check_columns(self) -> None:
        with self.opened() as (file, kind):
            if kind == "parquet":
                names = pq.read_schema(file).names
            else:
                first = file.readline(MAX_HEADER_BYTES)
                text = first.decode("utf-8-sig").rstrip("\r\n")
                names = next(csv.reader([text], delimiter=_delimiter(first, kind)), [])
        self.check_names(names, kind)

    def check_names(self, names: Sequence[str], kind: str) -> None:
        missing = [c for c in dict.fromkeys((*self.needed, self.count)) if c not in names]
        if missing:
            listed = sorted(names) if kind == "parquet" else f"{len(names)} others"
            raise self.error(f"the columns {listed}", f"also {missing}")  # a first line of text may be a person's
        twice = [c for c in (*self.needed, self.count) if names.count(c) > 1]
        if twice:
            raise self.error(f"the columns {twice} more than once", "each once")

    def numbers(self, table: pa.Table, name: str) -> np.ndarray:
        """Numbers of a column, NaN where there is none or a marker of missing values."""
        try:
            column = table.column(name)
            if column.type in (pa.float16(), pa.float32()):  # 0.1 in single precision is 0.1
                column = column.cast(pa.float32()).cast(pa.string())
            values = column.cast(pa.float64()).to_numpy()
        except pa.ArrowException:
            raise self.error(f"{name!r} of type {table.schema.field(name).type}", "numbers") from None
        markers = [number for text in self.config.data.column(name).missing_values if (number := _number(text)) is not None]
        values = np.where(np.isin(values, markers), np.nan, values) if markers and name != self.count else values
        return np.asarray(values, dtype=np.float64)

    def labels(self, table: pa.Table, name: str) -> list[str | None]:
        try:
            return labels.of_arrow(table.column(name), self.config.data.column(name).missing_values)
        except (TypeError, pa.ArrowException):
            raise self.error(f"{name!r} of type {table.schema.field(name).type}", "text, numbers, booleans or dates") from None

    # ---- missing values ----

    def without_missing(self, columns: dict[str, Any], weight: np.ndarray) -> tuple[dict[str, Any], np.ndarray, dict[str, float]]:
        """Leave out, or refuse, rows without a value where that is asked for, or where no level can stand for it."""
        rule = self.config.poststratify.missing
        if any(np.isinf(columns[self.number_name(name)]).any() for name, _ in self.numerics()):
            raise self.error("infinite numbers", "finite ones")
        is_missing = {name: self.is_missing(values) for name, values in columns.items()}
        found = {name: mask for name, mask in is_missing.items() if mask.any()}
        refused = [name for name in found if rule == "error" or (rule == "level" and self.cannot_be_missing(name))]
        if refused:
            people = {name: float(weight[found[name]].sum()) for name in refused}
            told = ", ".join(f"{int(found[name].sum()):,} missing values in {name!r} ({people[name] / weight.sum():.1%} of the people)" for name in refused)
            raise self.error(
                told, "a value in every row of a column with a fixed effect, a structured prior, a membership or numbers",
                "Fill them in; or say `poststratify.missing: leave_out`, which takes these people out of the population and counts "
                "them; or make the column a grouping factor, (1 | column), whose missing values are a level of their own.",
            )  # fmt: skip
        if rule != "leave_out" or not found:
            return columns, weight, {}
        left_out, gone = {}, np.zeros(len(weight), dtype=bool)
        for name, mask in found.items():  # a row has one reason: the first that applies
            left_out[f"{name}:missing"] = float(weight[mask & ~gone].sum())
            gone |= mask
        if gone.all():
            raise self.error(f"missing values of {sorted(found)} in every row", "rows with all values")
        kept = np.flatnonzero(~gone)
        some = {n: v[kept] if isinstance(v, np.ndarray) else [v[i] for i in kept] for n, v in columns.items()}
        return some, weight[kept], {reason: people for reason, people in left_out.items() if people}

    @staticmethod
    def is_missing(values: Any) -> np.ndarray:
        return np.isnan(values) if isinstance(values, np.ndarray) else np.array([v is None for v in values], dtype=bool)

    def cannot_be_missing(self, name: str) -> bool:
        """Whether neither the fit has a level for missing values of the column, nor a level can be drawn for them."""
        if name not in self.factors:
            return True
        config = self.config.data.column(name)
        has_level = config.missing_level in self.coding.factors.get(name, ())
        return name in self.coding.factors and not has_level and not self.can_be_new(name)

    def can_be_new(self, name: str) -> bool:
        """Whether a level that the data did not have can be drawn from its group's distribution."""
        model = self.config.model
        formula = model.parsed_formula()
        effects = {c for term in (*formula.fixed, *(t for g in formula.groups for t in g.coefficients)) for c in term}
        structured = {c for g in formula.groups if {*g.names} & {*model.structures()} for c in g.columns}
        return name not in (effects - {*self.coding.numerics}) | structured | {*self.used.members}

    # ---- factors ----

    def coded(self, name: str, found: Sequence[str | None], weight: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], float]:
        """Codes of a factor, its levels, and the people without a value."""
        missing_level = self.config.data.column(name).missing_level
        known = self.coding.factors.get(name, ())
        every = [missing_level if label is None else label for label in found]
        added = {*every} - {*known}
        arranged, _ = level_order.arrange(added - {missing_level}, self.orders.get(name, ()))
        new = [*arranged, *(added & {missing_level})]
        levels = (*known, *new)
        number = {label: code for code, label in enumerate(levels)}
        codes = np.array([number[label] for label in every], dtype=np.int64)
        if name in self.coding.factors and name in (*self.used.factors, *self.used.predictors):
            self.check_levels(name, known, new, codes, missing_level)
        return codes, levels, float(weight[self.is_missing(found)].sum())

    def check_levels(self, name: str, known: Sequence[str], new: Sequence[str], codes: np.ndarray, missing_level: str) -> None:
        """Refuse a factor of which nothing matches, or that has new levels where none can be drawn."""
        unknown = [label for label in new if label != missing_level]
        number = int((codes >= len(known)).sum())
        if unknown and (codes >= len(known)).all() and name not in self.coding.numerics:  # a number may go on: years to come
            raise self.error(
                f"{number:,} rows whose {name!r} is {_listed(unknown)}: no level of the data, in any row",
                f"levels such as {_listed(known)}", _alike(unknown, known) + "Mend the frame, or the column in `data`.",
            )  # fmt: skip
        if unknown and not self.can_be_new(name):
            raise self.error(
                f"{number} rows whose {name!r} is not a level of the data ({_listed(unknown)})", f"levels such as {_listed(known)}",
                _alike(unknown, known) + "The effect of a level that the data did not have can be drawn for a group term only, "
                "(1 | column), without a structure.",
            )  # fmt: skip

    def new(self, frame: Frame) -> Iterator[dict[str, Any]]:
        """Of the model's columns: people on levels that the data did not have, those without a value among them."""
        for name in self.factors:
            known = self.coding.factors.get(name)
            if known is None or name not in (*self.used.factors, *self.used.predictors):
                continue
            is_new = frame.columns[name] >= len(known)
            if is_new.any():
                yield {
                    "column": name, "levels": _shown(frame.levels[name][len(known):]), "num_levels": len(frame.levels[name]) - len(known),
                    "people": float(frame.weight[is_new].sum()),
                }  # fmt: skip

    def alike(self, frame: Frame) -> Iterator[dict[str, Any]]:
        """Of the model's columns: people on new levels that are levels of the data but for how they are written."""
        for row in self.new(frame):
            known = self.coding.factors[row["column"]]
            pairs = _pairs(frame.levels[row["column"]][len(known) :], known)
            if pairs:
                written = {label for label, _ in pairs}
                codes = [code for code, label in enumerate(frame.levels[row["column"]]) if label in written]
                people = float(frame.weight[np.isin(frame.columns[row["column"]], codes)].sum())
                yield {"column": row["column"], "pairs": [list(pair) for pair in pairs[:SHOWN]], "people": people}

    def absent(self, frame: Frame) -> Iterator[dict[str, Any]]:
        """Of the model's factors: levels of the data that nobody in the frame has."""
        for name in self.factors:
            known = set(self.coding.factors.get(name, ())) - {self.config.data.column(name).missing_level}
            left = known - {frame.levels[name][code] for code in np.unique(frame.columns[name])}
            if left and name in (*self.used.factors, *self.used.predictors):
                yield {"column": name, "num_absent": len(left), "num_levels": len(known)}

    def combinations(self, frame: Frame) -> Iterator[dict[str, Any]]:
        """Of groups of several columns: people in combinations of known levels that no row of the data had.

        ``contradicts`` says that one of the columns lies within another: a county in another state than the data's.
        """
        for columns in self.used.groups:
            if len(columns) < 2 or any(name not in self.coding.factors for name in columns):
                continue
            codes = [frame.columns[name] for name in columns]
            is_known = np.all([c < len(self.coding.factors[name]) for c, name in zip(codes, columns, strict=True)], axis=0)
            place = self.coding.locate(columns, [c[is_known] for c in codes])
            people = float(frame.weight[is_known][place < 0].sum())
            is_nested = any(above in self.coding.parents.get(name, {}) for name in columns for above in columns)
            if is_nested and len(place) and (place < 0).all():
                raise self.error(
                    f"no combination of {' and '.join(map(repr, columns))} that the data have, in any row",
                    f"combinations such as {_listed(self.coding.group_labels(columns))}",
                )
            if people:
                yield {"columns": list(columns), "people": people, "contradicts": is_nested}

    # ---- numbers ----

    def number_name(self, name: str) -> str:
        """Where the numbers of a column are; one that groups, too, has codes under its own name."""
        return terms.number_name(name) if name in self.coding.factors else name

    def numerics(self) -> list[tuple[str, Numeric]]:
        return [(name, self.coding.numerics[name]) for name in self.needed if name in self.coding.numerics]

    def check_binary(self, name: str, numeric: Numeric, values: np.ndarray) -> None:
        other = np.unique(values[~np.isin(values, (0.0, 1.0))])
        if numeric.binary and len(other):
            rows = int(np.isin(values, other).sum())
            raise self.error(
                f"{rows:,} of {len(values):,} rows whose {name!r} is {', '.join(f'{x:g}' for x in other[:SHOWN])}",
                "0 and 1, which are its only values in the data", f"Code {name!r} in the frame as in the data.",
            )  # fmt: skip


def outside(name: str, numeric: Numeric, values: np.ndarray, weight: np.ndarray) -> dict[str, Any] | None:
    """How a column's numbers compare with those that were fitted; None if all lie in their range and spread as they may.

    Numbers in the range may still be in another unit: 0.4 where the data have percentages.
    """
    if numeric.binary or numeric.minimum is None or numeric.maximum is None:
        return None
    slack = 1e-9 * max(abs(numeric.minimum), abs(numeric.maximum))
    is_out = (values < numeric.minimum - slack) | (values > numeric.maximum + slack)
    is_squeezed = units.is_squeezed(numeric.center, numeric.scale, values, weight)
    if not is_out.any() and not is_squeezed:
        return None
    mean = float(np.average(values, weights=weight))
    spread = float(np.sqrt(np.average((values - mean) ** 2, weights=weight)))
    people = float(weight[is_out].sum())
    return {
        "column": name, "people": float(weight.sum()) if is_squeezed else people, "squeezed": is_squeezed,
        "minimum": numeric.minimum, "maximum": numeric.maximum, "found_minimum": float(values.min()),
        "found_maximum": float(values.max()), "shift": (mean - numeric.center) / numeric.scale, "spread": spread / numeric.scale,
    }  # fmt: skip


def _delimiter(header: bytes, kind: str) -> str:
    """A tab, or a comma; a first line without commas may have another mark."""
    others = [mark for mark in "\t;|" if mark.encode() in header]
    return "\t" if kind == "tsv" else others[0] if others and b"," not in header else ","


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _shown(found: Sequence[str]) -> list[str]:
    return list(found[:SHOWN])


def _listed(found: Sequence[str]) -> str:
    return ", ".join(map(repr, found[:SHOWN])) + (", ..." if len(found) > SHOWN else "")


def _alike(new: Sequence[str], known: Sequence[str]) -> str:
    """A word on levels that differ from the data's only in how they are written."""
    pairs = _pairs(new, known)
    return f"{pairs[0][0]!r} and {pairs[0][1]!r} differ in case, blanks, marks or leading zeros only. " if pairs else ""


def _pairs(new: Sequence[str], known: Sequence[str]) -> list[tuple[str, str]]:
    plain = {spellings.folded(label): label for label in known}
    folded = ((label, spellings.folded(label)) for label in new)
    return [(label, plain[one]) for label, one in folded if one in plain]
