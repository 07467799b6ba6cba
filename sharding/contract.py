"""The contract of the model's columns: what each is, which of its values are levels, and which rows break a rule.

A row that breaks a rule is *quarantined* (left out of the cells and counted by reason) or is an error, as its column
says. A row has one reason: the first that applies, outcome first, then the columns in the order of the model.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sharding.config import RESERVED_NAMES, ColumnConfig, DataConfig
from sharding.dictionary import FactorCoding
from sharding.errors import ContractError
from sharding.labels import Kind
from sharding.level_order import Order, arrange

MAX_LEVELS = 1_000_000
MISSING, UNEXPECTED, UNUSED = -1, -2, -3
"""Codes that are not levels. ``UNUSED``: a level of quarantined rows only, so not a level of the model."""

_DRESSED = re.compile(
    r"[-+]?[$€£]? ?(\d{1,3}([,. '_]\d{3})+([.,]\d+)?|\d+,\d+|(?<=[$€£])\d+(\.\d+)?|\d+([.,]\d+)?(?= ?%)|\d*\.\d*d[-+]?\d+) ?[%€]?"
    r"|\(\d[\d,.]*\)|\d[\d,.]*-",
    re.IGNORECASE,
)
"""Numbers as they are written for people: 1,234 or 1.234,5 or $20 or 45% or (5) or 1.5D0. Plain numbers may look so too: 0.123."""
_PLAINLY = {**dict.fromkeys(map(ord, "`\u00b4\u2018\u2019\u02bc"), "'"), 0x2212: "-"}
_DATE = re.compile(
    r"(\d{4}([-/.])\d\d?\2\d\d?|\d\d?/\d\d?/(\d\d|\d{4})|\d\d?([-.])\d\d?\4\d{4}|\d\d?[-/. ][a-z]{3,9}[-/. ](\d\d|\d{4}))([ T].*)?", re.IGNORECASE
)

Role = Literal["factor", "numeric", "undecided"]


@dataclass(frozen=True)
class ModelColumn:
    """A column of the model: its name, its name in the files, how it is stored there, and what the model makes of it.

    ``undecided`` is a text column that may be numeric: the values decide (:func:`decide_role`). ``orders`` are those of its levels
    in files that store one. A factor ``is_number`` too where the model has it both after a bar and before one; None if its
    levels decide. A column ``is_open`` that the model has before a bar and of which nobody said what it is.
    """

    name: str
    source: str
    kind: Kind
    role: Role
    config: ColumnConfig
    orders: tuple[Order, ...] = ()
    is_number: bool | None = False
    is_open: bool = False

    @property
    def where(self) -> str:
        """Place in the configuration, for messages."""
        return f"data.columns.{self.name}"


@dataclass
class Reasons:
    """Reasons of quarantine by number (1, 2, ...; 0 is a good row), and whether each is an error instead."""

    names: list[str] = field(default_factory=list)
    remedies: dict[str, tuple[str, str] | None] = field(default_factory=dict)

    def add(self, name: str, *, error: tuple[str, str] | None) -> int:
        """Return the number of reason ``name``; ``error`` is (expected, do) if rows like this stop the run."""
        if name not in self.remedies:
            self.names.append(name)
            self.remedies[name] = error
        return self.names.index(name) + 1

    def name(self, number: int) -> str:
        """Return the name of a reason."""
        return self.names[number - 1]

    def check(self, counts: dict[str, int]) -> None:
        """Raise a `ContractError` with all reasons of ``counts`` (rows by reason) that are errors."""
        broken = {name: self.remedies[name] for name in counts if self.remedies.get(name) is not None}
        if not broken:
            return
        expected, do = zip(*(pair for pair in broken.values() if pair is not None), strict=True)
        raise ContractError(
            "data", ", ".join(f"{counts[name]:,} row(s) {name}" for name in broken), "; ".join(dict.fromkeys(expected)),
            " ".join(dict.fromkeys(do))
        )  # fmt: skip


def check_names(names: Iterable[str], reserved: Sequence[str] = RESERVED_NAMES) -> None:
    """Refuse names that the cells keep for themselves."""
    for name in names:
        if name in reserved:
            raise ContractError(
                f"column {name!r}", "a reserved name", f"a name other than {', '.join(reserved)}",
                f"Use another name in the model and say `data.columns.<name>.source: {name}`."
            )  # fmt: skip


def resolve_column(
    data: DataConfig, name: str, kind: Kind, *, is_text: bool, is_grouping: bool, is_predictor: bool
) -> ModelColumn:
    """Return the column ``name`` with its role.

    Raises
    ------
    ContractError
        If the column's uses, its declaration and the way it is stored contradict each other.
    """
    config = data.column(name)
    is_number = kind in ("integer", "float")
    is_both = None if is_text and config.type is None else kind in ("integer", "float") or config.type == "numeric"
    is_both = False if config.type == "factor" or config.levels is not None else is_both
    column = ModelColumn(
        name, data.source_name(name), kind, "factor", config, is_number=is_grouping and is_predictor and is_both,
        is_open=is_predictor and config.type is None and config.levels is None,
    )  # fmt: skip
    if is_grouping and not is_predictor and config.type == "numeric":
        raise ContractError(
            column.where, "a column that only groups declared `type: numeric`", "a factor",
            "Leave `type` out; a number that groups is a number too where the formula has it before a bar, as in "
            f"`1 + {name} + (1 | {name})`."
        )  # fmt: skip
    if kind == "date" and config.type == "numeric":
        raise ContractError(column.where, "dates declared `type: numeric`", "numbers", "Derive a number from the date.")
    if is_grouping or config.type == "factor" or config.levels is not None:
        return column
    if config.type == "numeric" or is_number or config.minimum is not None or config.maximum is not None:
        return _with_role(column, "numeric")
    return _with_role(column, "undecided") if is_text else column


def decide_role(
    column: ModelColumn, values: Sequence[str | None], decided: Literal["factor", "numeric"] | None = None
) -> ModelColumn:
    """Return an undecided column as numeric (all of ``values`` are numbers) or factor (none is), or as ``decided`` before.

    A number with leading zeros (``01``) is not a number but a code.
    """
    if decided is not None:
        return _with_role(column, decided)
    given = _given(column, values)
    num_numbers = sum(map(_is_plain_number, given))
    _check_dressed(column, given)
    if 0 < num_numbers < len(given):
        raise ContractError(
            column.where, f"{num_numbers:,} distinct values that are numbers and {len(given) - num_numbers:,} that are not",
            "all or none",
            "Say `type: factor` or `type: numeric`, and list markers of missing values in `missing_values`."
        )  # fmt: skip
    is_numeric = num_numbers > 0 and column.config.missing != "level" and column.config.reference is None
    return _with_role(column, "numeric" if is_numeric else "factor")


def check_open(column: ModelColumn, values: Sequence[str | None]) -> None:
    """Refuse a factor that nobody declared, if its levels (``values`` as text) are numbers written for people, or dates."""
    if column.is_open and column.kind in ("text", "date"):
        given = _given(column, values)
        _check_dressed(column, given)
        if len(given) > 2 and sum(_DATE.fullmatch(value) is not None for value in given) > len(given) / 2:
            raise ContractError(
                column.where, "dates in a column that the formula has before a bar", "numbers, or a factor",
                "Derive a number in the file, such as days since the first; or, if each date is to have a coefficient, say `type: factor`."
            )  # fmt: skip


def _given(column: ModelColumn, values: Sequence[str | None]) -> list[str]:
    return [value for value in values if value is not None and value not in column.config.missing_values]


def _check_dressed(column: ModelColumn, given: Sequence[str]) -> None:
    others = [value for value in given if not _is_plain_number(value)]
    num_dressed = sum(map(_is_dressed, others))
    if 2 * num_dressed > len(given) or (num_dressed and num_dressed == len(others)):
        raise ContractError(
            column.where, f"{num_dressed:,} distinct values that look like numbers written with thousands separators, decimal commas "
            "or signs of a unit", "plain numbers such as 1234.5",
            "Write them plainly in the file; or, if each is a level of its own, say `type: factor`."
        )  # fmt: skip


def _is_dressed(text: str) -> bool:
    plain = unicodedata.normalize("NFKC", text).translate(_PLAINLY).strip(" \"'")
    in_other_digits = plain.isdecimal() and not plain.isascii()
    return _DRESSED.fullmatch(plain) is not None or (plain != text and _is_plain_number(plain)) or in_other_digits


def level_numbers(column: ModelColumn, levels: Sequence[str]) -> list[float] | None:
    """Return the numbers that the levels of a factor stand for; None where the model has it as a factor only.

    Raises
    ------
    ContractError
        The column is a number before a bar, and a level (that of missing values, perhaps) is none.
    """
    if column.is_number is False or (column.is_number is None and not all(map(_is_plain_number, levels))):
        return None
    try:
        return [float(level) for level in levels]
    except ValueError:
        raise ContractError(
            column.where, "a level that is no number, in a column that the formula has before a bar too", "numbers",
            "Say `type: factor` (a coefficient for each level), or `missing: quarantine`."
        ) from None  # fmt: skip


def _with_role(column: ModelColumn, role: Role) -> ModelColumn:
    if role == "numeric" and column.config.missing == "level":
        raise ContractError(
            column.where, "`missing: level` of a numeric column", "`missing: quarantine` or `error`",
            "Say `type: factor`, or change the missing rule."
        )  # fmt: skip
    return replace(column, role=role)


def _is_plain_number(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    digits = text.strip().lstrip("+-")
    has_leading_zero = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    return math.isfinite(value) and not has_leading_zero and "_" not in text and text.isascii()


def code_levels(
    column: ModelColumn,
    values: Sequence[str | None],
    unused: frozenset[str | None] = frozenset(),
    frozen: FactorCoding | None = None,
) -> tuple[FactorCoding, list[int]]:
    """Return the coding of a factor, and the code of each of ``values`` (its distinct values in the files, as text).

    Declared levels keep their order; otherwise :func:`sharding.level_order.arrange` decides it. The level of missing values
    comes last, where it is not declared. ``unused`` values get no level. Levels and reference of ``frozen`` stay, and other
    levels come after them.
    """
    config = column.config
    found = {value for value in values if value is not None and value not in config.missing_values}
    kept = () if frozen is None else frozen.levels
    arranged, is_ordered = arrange({*kept} | (found - unused), column.orders)
    new = [level for level in arranged if level not in kept]
    levels = list(config.levels) if config.levels is not None else [*kept, *new]
    is_ordered = config.levels is not None or (is_ordered and levels == arranged)
    missing_code = MISSING
    if config.missing == "level":
        has_missing = any(value is None or value in config.missing_values for value in {*values} - unused)
        if has_missing and config.missing_level in found:
            raise ContractError(
                f"{column.where}.missing_level", f"missing values, and rows whose value is {config.missing_level!r}",
                "two different names", f"Set `missing_level` to another name, or add {config.missing_level!r} to `missing_values`."
            )  # fmt: skip
        if config.missing_level not in levels and (has_missing or config.levels is not None):
            levels.append(config.missing_level)
            is_ordered = False
        missing_code = levels.index(config.missing_level) if config.missing_level in levels else UNUSED
    if not found or not levels:
        raise all_missing(column)
    default = levels[0] if frozen is None else frozen.reference
    reference = config.reference if config.reference is not None else default
    if reference not in levels:
        raise ContractError(
            f"{column.where}.reference", f"{reference!r}", f"one of the {len(levels):,} levels in the data",
            "Correct it, or declare `levels`."
        )  # fmt: skip
    code_of = {level: code for code, level in enumerate(levels)}
    codes = []
    for value in values:
        if value is None or value in config.missing_values:
            codes.append(missing_code)
        else:
            codes.append(code_of.get(value, UNUSED if value in unused else UNEXPECTED))
    return FactorCoding(tuple(levels), reference, is_ordered), codes


def all_missing(column: ModelColumn) -> ContractError:
    """The error of a column without a value."""
    return ContractError(
        column.where, f"column {column.source!r} is missing in every row", "values",
        "Leave the column out of the model, or correct `source` and `missing_values`."
    )  # fmt: skip


def too_many_levels(column: ModelColumn) -> ContractError:
    """The error of a factor that looks like an identifier."""
    return ContractError(
        column.where, f"more than {MAX_LEVELS:,} levels", "a factor with fewer",
        "An identifier cannot be a grouping column; a number can be a predictor with `type: numeric`."
    )  # fmt: skip


def factor_reasons(column: ModelColumn, reasons: Reasons) -> tuple[int, int]:
    """Return the numbers of the reasons (missing, unexpected level) of a factor."""
    levels = column.config.levels or ()
    shown = ", ".join(map(repr, levels[:12])) + (", ..." if len(levels) > 12 else "")
    unexpected = (
        f"{column.name} one of {shown}",
        f"Add the levels to {column.where}.levels, list markers of missing values in `missing_values`, "
        "or say `unexpected: quarantine`."
    )  # fmt: skip
    return (
        _missing_reason(column, reasons),
        reasons.add(f"{column.name}:unexpected_level", error=_if_error(column, unexpected)),
    )


def numeric_reasons(column: ModelColumn, reasons: Reasons) -> tuple[int, int, int, int]:
    """Return the numbers of the reasons (missing, not a number, not finite, out of range) of a numeric column."""
    low, high = column.config.minimum, column.config.maximum
    expected = f"{column.name} a finite number"
    if low is not None or high is not None:
        expected += f" from {-math.inf if low is None else low:g} to {math.inf if high is None else high:g}"
    do = f"Correct the file, list markers of missing values in {column.where}.missing_values, or say `unexpected: quarantine`."
    error = _if_error(column, (expected, do))
    return (
        _missing_reason(column, reasons),
        reasons.add(f"{column.name}:not_a_number", error=error),
        reasons.add(f"{column.name}:not_finite", error=error),
        reasons.add(f"{column.name}:out_of_range", error=error),
    )


def _missing_reason(column: ModelColumn, reasons: Reasons) -> int:
    pair = (f"{column.name} known in every row", f"Say {column.where}.missing: quarantine, or correct the file.")
    return reasons.add(f"{column.name}:missing", error=pair if column.config.missing == "error" else None)


def _if_error(column: ModelColumn, pair: tuple[str, str]) -> tuple[str, str] | None:
    return pair if column.config.unexpected == "error" else None
