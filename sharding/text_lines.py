"""Every line of a text file is in a row, in a rejected row, or inside a quoted value: counted, so that none is lost.

A quotation mark that nobody closed turns the rows after it into one value. The reader then gives one row, good or
rejected, for thousands of lines; only their number tells.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

REJECT_TEXT_LIMIT = 10_000
"""Characters of a rejected row that DuckDB keeps."""

LINES_OF_REJECT = "greatest(1, len(regexp_extract_all(csv_line, '[^\\r\\n]+')))"
"""SQL: how many lines a rejected row is, of which DuckDB keeps the text in `csv_line`."""


class LineCounter:
    """Counts the lines of text that comes in blocks; blank lines are none, and CR, LF and CRLF all end a line.

    ``has_open_quotes``: a line has an odd number of quotation marks, so a value runs over lines, or a mark is not closed.
    """

    def __init__(self) -> None:
        self.num_lines = 0
        self.has_open_quotes = False
        self._in_line = False
        self._is_odd = False
        self._ends = {b"\n": 0, b"\r": 0, b"\r\n": 0}
        self._last = b""

    @property
    def has_mixed_ends(self) -> bool:
        """Whether lines end in more than one way."""
        both = self._ends[b"\r\n"]
        return sum(count > 0 for count in (self._ends[b"\n"] - both, self._ends[b"\r"] - both, both)) > 1

    def add(self, block: bytes) -> None:
        """Count on with the next block."""
        if not block:
            return
        characters = np.frombuffer(block, np.uint8)
        in_line = (characters != 10) & (characters != 13)
        starts = np.count_nonzero(in_line[1:] & ~in_line[:-1]) + int(in_line[0] and not self._in_line)
        self.num_lines += int(starts)
        self._in_line = bool(in_line[-1])
        for end in self._ends:
            self._ends[end] += block.count(end)
        self._ends[b"\r\n"] += self._last == b"\r" and block.startswith(b"\n")
        self._last = block[-1:]
        if self._is_odd or b'"' in block:
            odd = np.cumsum(characters == 34, dtype=np.uint8) & 1 ^ np.uint8(self._is_odd)
            self.has_open_quotes |= bool((odd & ~in_line).any())
            self._is_odd = bool(odd[-1])


def breaks_sql(columns: Iterable[str], delimiter: str) -> str:
    """Return SQL of two aggregates over good rows: line breaks inside values, and values that hold whole rows.

    Where a value runs from row ``a`` into row ``b``, ``m`` lines further on, the fields that are left make a row of the right length
    only if the value has swallowed ``m`` times as many delimiters as a row has. A value with so many holds rows.

    Parameters
    ----------
    columns
        SQL of all columns of the files.
    delimiter
        SQL of the delimiter.
    """
    names = list(columns)
    breaks = [f"len(regexp_extract_all(coalesce({name}, ''), '[\\r\\n]+'))" for name in names]
    delimiters = [
        f"(length({name}) - length(replace({name}, {delimiter}, ''))) / length({delimiter})" for name in names
    ]
    swallowed = [
        f"coalesce(CAST({found} > 0 AND {count} >= {found} * {len(names) - 1} AS INTEGER), 0)"
        for found, count in zip(breaks, delimiters, strict=True)
    ]
    return f"coalesce(sum({' + '.join(breaks)}), 0), coalesce(sum({' + '.join(swallowed)}), 0)"
