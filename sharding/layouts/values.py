"""Values of one column: what each becomes, and under which rules. Every distinct value is looked at once.

A value has at most one rule besides that spaces at its ends were trimmed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sharding.layouts.schema import MISSING, PLACEHOLDER, UNSEEN, ColumnLayout, VoteLayout

SPACES = " \t"
MAX_DISTINCT = 200_000
_DIGITS = {
    "%Y": r"\d{4}",
    "%m": r"\d{2}",
    "%d": r"\d{2}",
    "%y": r"\d{2}",
    "%H": r"\d{2}",
    "%M": r"\d{2}",
    "%S": r"\d{2}",
}


class Value(NamedTuple):
    """What a value becomes (None: null), the rule that it came under, and whether spaces were trimmed."""

    value: Any
    rule: str
    is_trimmed: bool


class DateReader:
    """Reads dates of declared formats; says whether what is no date at least looks like one."""

    def __init__(self, formats: tuple[str, ...]) -> None:
        self._formats = [(re.compile(_pattern(written)), written) for written in formats]

    def read(self, text: str) -> tuple[date | None, str]:
        """Return the date and no rule, or None and the rule."""
        rule = "dates:malformed"
        for pattern, written in self._formats:
            if pattern.fullmatch(text):
                try:
                    return datetime.strptime(text, written).date(), ""
                except ValueError:
                    rule = "dates:impossible"
        return None, rule


def _pattern(written: str) -> str:
    pieces = re.split(r"(%[A-Za-z])", written)
    return (
        "(?a:"
        + "".join(_DIGITS.get(piece, ".*") if piece.startswith("%") else re.escape(piece) for piece in pieces)
        + ")"
    )


class ColumnReader:
    """Reads the values of a column of the layout, of any type but age."""

    def __init__(self, column: ColumnLayout, missing: tuple[str, ...], *, is_birth: bool = False) -> None:
        self.column, self.is_birth = column, is_birth
        self._markers = {*missing, *column.missing} - {""}
        self._dates = DateReader(column.formats)
        codes = column.codes or {}
        self._codes = codes if column.leading_zeros else {_without_zeros(code): level for code, level in codes.items()}

    def read(self, raw: str) -> Value:
        """Return what ``raw`` becomes."""
        text = raw.strip(SPACES)
        is_trimmed = bool(text) and text != raw
        if not text or text in self._markers:
            return Value(
                MISSING if self.column.type == "text" else None,
                "missing:marker" if text else "missing:blank",
                is_trimmed,
            )
        value, rule = getattr(self, f"_{self.column.type}")(text)
        return Value(value, rule, is_trimmed)

    def _text(self, text: str) -> tuple[str, str]:
        if self.column.codes is None:
            restored = text.zfill(self.column.digits or 0) if text.isdecimal() else text
            return restored, "" if restored == text else "zeros:restored"
        level = self._codes.get(text if self.column.leading_zeros else _without_zeros(text))
        if level is not None:
            return level, ""
        return (text if self.column.unseen == "keep" else UNSEEN), "code:unseen"

    def _date(self, text: str) -> tuple[date | None, str]:
        found, rule = self._dates.read(text)
        return (
            (None, self._placeholder)
            if found is not None and self._is_placeholder(found, found.year)
            else (found, rule)
        )

    def _year(self, text: str) -> tuple[int | None, str]:
        if not re.fullmatch(r"(?a:\d{4})", text):
            return None, "dates:malformed"
        year = int(text)
        return (None, self._placeholder) if self._is_placeholder(year, year) else (year, "")

    def _number(self, text: str) -> tuple[float | None, str]:
        plain = text.replace("$", "").replace(",", "").replace("%", "").strip()
        if not re.fullmatch(r"(?a:[+-]?(\d+(\.\d*)?|\.\d+))", plain) or len(plain) > 40:
            return None, "number:malformed"
        return float(plain), ""

    @property
    def _placeholder(self) -> str:
        return "birth_date:placeholder" if self.is_birth else "dates:placeholder"

    def _is_placeholder(self, found: date | int, year: int) -> bool:
        return found in self.column.placeholders or (
            self.column.earliest_year is not None and year < self.column.earliest_year
        )


def _without_zeros(code: str) -> str:
    return code.lstrip("0") or "0"


def age_at(born: date | int, election: date) -> int:
    """Return the age in years on election day; of a year of birth, the age at the end of the election's year."""
    if isinstance(born, int):
        return election.year - born
    return election.year - born.year - ((election.month, election.day) < (born.month, born.day))


def age_level(born: Value, column: ColumnLayout, election: date) -> Value:
    """Return the level of an age from what the column of birth became."""
    if born.value is None:
        return Value(PLACEHOLDER if born.rule == "birth_date:placeholder" else MISSING, "", False)
    age = age_at(born.value, election)
    if age > column.maximum:
        return Value(PLACEHOLDER, "age:impossible", False)
    return Value(f"{column.top}+" if age >= column.top else str(max(age, 0)), "", False)


class VoteReader:
    """Reads the outcome where it is in a field of the voter's row: 1, 0, or null where nobody knows."""

    def __init__(self, vote: VoteLayout, missing: tuple[str, ...], election: date) -> None:
        self._vote, self._missing = vote, {*missing}
        self._entry, self._election = vote.name_at(vote.entry or "", election), election
        self._dates = DateReader(vote.formats)

    def read(self, raw: str) -> Value:
        """Return what ``raw`` becomes."""
        text = raw.strip(SPACES)
        if text in self._missing:
            return Value(0, "missing:marker", False)
        if self._vote.form == "packed":
            entries = [entry.strip() for entry in text.split(self._vote.separator)]
            return Value(int(any(entry.startswith(self._entry) for entry in entries)), "", False)
        if not text or text in self._vote.not_counted:
            return Value(0, "", False)
        if self._vote.form == "last":
            found, rule = self._dates.read(text)
            if found is None or found > self._election:
                return Value(None, rule or "vote:later", False)
            return Value(int(found == self._election), "", False)
        if self._vote.counted and text not in self._vote.counted:
            return Value(None, "code:unseen", False)
        return Value(1, "", False)


class Lookup:
    """Distinct values of one field of a file, with the `Value` of each, met once and kept for later blocks.

    The lookup is emptied when it has grown large, as of a column that identifies; so count a block before the next.
    """

    def __init__(self, read: Callable[[str], Value]) -> None:
        self._read = read
        self._number: dict[str, int] = {}
        self.values: list[Value] = []

    def encode(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return the number of each row's value."""
        if len(self._number) > MAX_DISTINCT:
            self._number.clear()
            self.values.clear()
        encoded = column.combine_chunks().dictionary_encode()
        numbers = np.empty(len(encoded.dictionary), np.int64)
        for i, raw in enumerate(encoded.dictionary.to_pylist()):
            number = self._number.get(raw)
            if number is None:
                number = self._number[raw] = len(self.values)
                self.values.append(self._read(raw))
            numbers[i] = number
        return numbers[np.asarray(encoded.indices)] if len(encoded) else np.empty(0, np.int64)

    def column(self, numbers: np.ndarray, kind: pa.DataType) -> pa.Array:
        """Return what the values of the rows became, as an Arrow column."""
        return pa.array([value.value for value in self.values], kind).take(pa.array(numbers))

    def where(self, numbers: np.ndarray, condition: Callable[[Value], bool]) -> np.ndarray:
        """Return which rows have a value of which ``condition`` holds."""
        return np.array([condition(value) for value in self.values], dtype=bool)[numbers]

    def count(self, numbers: np.ndarray) -> Counter[str]:
        """Return the number of rows by rule."""
        counts: Counter[str] = Counter()
        per_value = np.bincount(numbers, minlength=len(self.values))
        for number in np.flatnonzero(per_value):
            value = self.values[number]
            if value.rule:
                counts[value.rule] += int(per_value[number])
            if value.is_trimmed:
                counts["spaces:trimmed"] += int(per_value[number])
        return counts


def trimmed(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """Return text without the spaces at its ends, and the number of values that had some."""
    text = pc.utf8_trim(column, SPACES)
    changed = pc.and_(pc.not_equal(text, column), pc.not_equal(text, ""))
    return text, int(pc.sum(changed).as_py() or 0)
