"""What looks odd in the columns of a model, noted where the data are described: nothing is changed, a person decides.

Codes for "not known" among the numbers, a spike far outside the rest, markers of missing values that are levels, and levels that
differ only in how they are written. Values are told of numbers that several rows share and of levels, both of which the
dictionary holds anyway; never of a row.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sharding import spellings
from sharding.dictionary import Dictionary, Note

NEGATIVE = (-1.0, -7.0, -8.0, -9.0, -77.0, -88.0, -99.0, -999.0, -9999.0, -99999.0)
POSITIVE = (77.0, 88.0, 97.0, 98.0, 99.0, 997.0, 998.0, 999.0, 9997.0, 9998.0, 9999.0, 99999.0, 999999.0)
"""What files write for "not known", "refused", "not asked"."""
OF_SCALES = (7.0, 8.0, 9.0)
"""The same, on scales that end before them."""
MIN_CODED, MIN_INSIDE, MIN_SHARE, STANDS_OUT, NEIGHBOURS, MIN_GAP = 5, 20, 0.01, 3, 5, 0.1
"""A code that a scale could have reached is noted in so many rows, and in this share of them or more often than its neighbours by a factor."""
MARKERS = frozenset({
    "na", "n/a", "#n/a", "nan", "nat", "null", "<na>", ".", "?", "-", "--", "-9", "-99", "-999", "-9999", "inf", "-inf",
    "#value!", "#ref!", "#div/0!", "#name?", "#num!",
})  # fmt: skip
MIN_OTHERS, FAR = 9, 3.0
"""A spike lies this many ranges of the rest from it, and the rest has this many values at that end: a predictor of a few groups has none."""
NUM_EXTREMES = max(len(NEGATIVE), len(POSITIVE)) + MIN_OTHERS + 1
MAX_SHOWN, MAX_WORDS, MAX_HEADERS = 3, 12, 10

Counts = Sequence[tuple[float, int]]
"""Values with their numbers of rows."""


@dataclass(frozen=True)
class Lines:
    """What a person writes of a column so that a value of it means missing, beside the ``markers`` that are listed already."""

    column: str
    markers: tuple[str, ...] = ("",)
    needs_missing: bool = False

    def of(self, value: str) -> str:
        """Return the setting, and what is to become of such rows where that has to be said."""
        listed = json.dumps([*self.markers, value], ensure_ascii=False)
        said = f"missing_values: {listed}" + (", missing: quarantine" if self.needs_missing else "")
        key = f"data.columns.{self.column}"
        return f"{key}: {{{said}}}" if self.needs_missing else f"{key}.{said}"


def of_number(
    column: str, smallest: Counts, largest: Counts, num_rows: int, lines: Lines | None = None, *, is_tailed: bool = False
) -> list[Note]:
    """Return the notes of a numeric column, from its smallest values (ascending) and its largest (descending).

    ``lines`` are what to write. Of a column that may have a long tail (``is_tailed``) a code of two digits in one row is a value.
    """
    lines = lines or Lines(column)
    low, high = list(smallest), list(largest)
    codes = _peel(low, NEGATIVE) + _peel(high, POSITIVE)
    if not low or not high or high[0][0] < low[0][0]:
        return []
    least, most = low[0][0], high[0][0]
    width = most - least
    odd = [(v, n) for v, n in codes if (v < 0 <= least) or (v < least - width) or (v > most + width and width > 0)]
    odd = [(v, n) for v, n in odd if not is_tailed or n > 1 or v < 0 or v >= 900]
    odd += [] if odd or is_tailed else _above_a_scale(largest, num_rows)
    notes = [_of_value(lines, "sentinel", pair, num_rows, "a usual code for a value that is not known") for pair in odd]
    for ends in (low, high):
        if len(ends) > MIN_OTHERS and ends[0][1] > 1:
            inner = abs(ends[1][0] - (most if ends is low else least))
            if abs(ends[0][0] - ends[1][0]) > FAR * inner > 0:
                notes.append(_of_value(lines, "spike", ends[0], num_rows, "far outside all other values"))
            elif not is_tailed and not odd and _is_apart(ends, inner):
                notes.append(_of_value(lines, "spike", ends[0], num_rows, "apart from all other values, and more often than they"))
    return notes


def _is_apart(ends: Counts, inner: float) -> bool:
    """Whether many rows have the outermost value, and a gap is between it and the rest, whose range is ``inner``: an age of 0 in a file of voters."""
    gap = abs(ends[0][0] - ends[1][0])
    step = statistics.median(abs(above[0] - below[0]) for above, below in pairwise(ends[1:]))
    is_often = ends[0][1] >= MIN_CODED and _stands_out(ends[0][1], [n for _, n in ends[1 : 1 + NEIGHBOURS]])
    return is_often and gap >= MIN_GAP * inner and gap > NEIGHBOURS * step


def _stands_out(count: int, neighbours: Sequence[int]) -> bool:
    return count > STANDS_OUT * statistics.median(neighbours) and count > 2 * max(neighbours)


def of_code(column: str, code: float, count: int, neighbours: Sequence[int], num_rows: int, lines: Lines) -> list[Note]:
    """Return the note of a usual code among the other values: one that many more rows have than any of its ``neighbours``."""
    is_odd = count >= MIN_INSIDE and len(neighbours) > NEIGHBOURS and _stands_out(count, neighbours)
    why = "a usual code for a value that is not known, and more often than the values beside it"
    return [_of_value(lines, "sentinel", (code, count), num_rows, why)] if is_odd else []


def _above_a_scale(largest: Counts, num_rows: int) -> list[tuple[float, int]]:
    """Usual codes above whole numbers that stop before them: 8 and 9 after 1 to 5, 99 after the ages of voters."""
    if any(value % 1 for value, _ in largest):
        return []
    for end in range(1, len(largest) - 1):
        codes, rest = largest[:end], largest[end:]
        if codes[-1][0] not in (*OF_SCALES, *POSITIVE):
            return []
        step = statistics.median(above[0] - below[0] for above, below in pairwise(rest))
        if codes[-1][0] - rest[0][0] < 2 * step:
            continue
        count = sum(n for _, n in codes)
        is_scale = len(largest) < NUM_EXTREMES and count >= MIN_SHARE * num_rows
        stands_out = codes[-1][0] in POSITIVE and _stands_out(count, [n for _, n in rest[:NEIGHBOURS]])
        return list(codes) if count >= MIN_CODED and (is_scale or stands_out) else []
    return []


def is_number(label: str) -> bool:
    """Whether a label is that of a number."""
    try:
        float(label)
    except ValueError:
        return False
    return True


def _peel(ends: list[tuple[float, int]], codes: Sequence[float]) -> list[tuple[float, int]]:
    """Take usual codes off an end."""
    peeled = []
    while ends and ends[0][0] in codes:
        peeled.append(ends.pop(0))
    return peeled


def _of_value(lines: Lines, kind: str, pair: tuple[float, int], num_rows: int, why: str) -> Note:
    value, count = pair
    what = f"{count:,} rows have {value:g}, {why}"
    return Note(lines.column, kind, count, count / num_rows, what, f"If it means missing, list it: {lines.of(f'{value:g}')}.")


def of_levels(
    column: str, rows_by_level: Mapping[str, int], num_joined: int, num_rows: int, lines: Lines | None = None, *, is_open: bool = False
) -> list[Note]:
    """Return the notes of a factor, from the rows of each level and the number of levels that were written in several ways.

    ``is_open``: the formula has it before a bar, and nobody said that it is a factor.
    """
    lines = lines or Lines(column)
    notes = _of_spellings(column, rows_by_level, num_rows)
    for level, count in rows_by_level.items():
        if level.casefold() in MARKERS and len(rows_by_level) > 1:
            do = f"If it means missing, list it: {lines.of(level)}."
            notes.append(Note(column, "marker", count, count / num_rows, f"{count:,} rows have the level {level!r}, a usual marker of a missing value", do))
        elif level == column and count <= min(MAX_HEADERS, min(rows_by_level.values())) and len(rows_by_level) > 2:
            notes.append(Note(column, "marker", count, count / num_rows, f"{count:,} rows have the name of the column as their level: a header among the rows?", "Take it out of the file."))
    if is_open and len(rows_by_level) > MIN_OTHERS and all(map(is_number, rows_by_level)):
        what = f"{len(rows_by_level):,} levels are numbers in a column of text, and each has a coefficient of its own"
        notes.append(Note(column, "numbers", num_rows, 1.0, what, f"If it is a number, store it as one in the file; else say data.columns.{column}.type: factor."))
    if num_joined:
        what = f"{num_joined:,} level(s) are written in several ways (blanks at the ends, Unicode forms, True and TRUE, 1 and 1.0), and were joined"
        notes.append(Note(column, "joined", num_joined, 0.0, what, "Nothing, if they are the same."))
    return notes


def _of_spellings(column: str, rows_by_level: Mapping[str, int], num_rows: int) -> list[Note]:
    """Notes of levels that may be one, of dates in several forms, and of text that was read in another encoding."""
    alike: dict[str, list[str]] = defaultdict(list)
    for level in rows_by_level:
        alike[spellings.folded(level)].append(level)
    words = spellings.same_words(rows_by_level) if len(rows_by_level) <= MAX_WORDS else []
    dates = spellings.date_forms(rows_by_level)
    garbled = [level for level in rows_by_level if spellings.is_garbled(level)]
    found = [
        ("doubled", [levels for levels in alike.values() if len(levels) > 1],
         "{:,} level(s) in several spellings that differ in case, blanks, accents, marks, Unicode form or as one number is written",
         "If they are the same, write them alike in the file."),
        ("words", words, "{:,} level(s) that have several words", "If they are the same, write them alike in the file."),
        ("dates", [dates] if dates else [], "dates are written in several ways", "Write them all as 2024-01-31 in the file."),
        ("encoding", [[level] for level in garbled], "{:,} level(s) that seem to be read in another encoding than they were written in",
         "Set data.encoding, or write the names anew where they were damaged."),
    ]  # fmt: skip
    notes = []
    for kind, groups, what, do in found:
        if groups:
            ordered = [sorted(levels, key=lambda level: -rows_by_level[level]) for levels in groups]
            count = sum(rows_by_level[level] for levels in ordered for level in levels[len(levels) > 1 :])
            shown = "; ".join(", ".join(map(repr, levels)) for levels in ordered[:MAX_SHOWN]) + ("; ..." if len(ordered) > MAX_SHOWN else "")
            notes.append(Note(column, kind, count, count / num_rows, f"{what.format(len(groups))} ({shown})", do))
    return notes


def messages(dictionary: Dictionary) -> list[dict[str, str]]:
    """Return the notes as the audit's messages: a warning where a value is likely to be none, else information."""
    return [
        {
            "severity": "info" if note.kind in ("joined", "unused") else "warn", "about": "data", "where": f"data.columns.{note.column}", "what": note.what, "do": note.do,
        }
        for note in dictionary.notes
    ]  # fmt: skip
