"""A copy of a text file in UTF-8 with one kind of line end, in which a stray quotation mark spoils one line.

A mark at the start of a field that nobody closed would make one value of all that follows. Here a quoted value may run over
lines only if it ends, at a delimiter or the end of a line, and if the lines are not each a whole row of their own: then it has
swallowed rows. The first line of what is no value is replaced by one that the reader rejects for its quotation marks, and the
rest is read anew.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sharding.text_lines import LineCounter

MAX_LINES = 1_000
"""A quoted value runs over no more lines than this."""


def write(source: IO[bytes], encoding: str, delimiter: str, num_fields: int, target: Path) -> LineCounter:
    """Write the copy, and return its lines. Bytes that are not UTF-8 stay where that is the encoding, for the reader to reject."""
    is_utf8 = encoding == "utf-8-sig"
    lines = LineCounter()
    with (
        io.TextIOWrapper(source, encoding=encoding, errors="surrogateescape" if is_utf8 else "strict") as text,
        target.open("x", encoding="utf-8", newline="", errors="surrogateescape") as copy,
    ):
        for line in _repaired(text, delimiter, num_fields):
            copy.write(line)
            lines.num_lines += line != "\n"
    return lines


def _repaired(text: Iterator[str], delimiter: str, num_fields: int) -> Iterator[str]:
    """Lines as they are, those with a stray quotation mark replaced."""
    spoiled = f'"x"y{delimiter * (num_fields - 1)}\n'
    quoted = re.compile(rf'(^|{re.escape(delimiter)})"(?:[^"]|"")*"(?=$|{re.escape(delimiter)})', re.MULTILINE)
    ahead: deque[str] = deque()

    def lines() -> Iterator[str]:
        while True:
            line = ahead.popleft() if ahead else next(text, "")
            if not line:
                return
            yield line

    for line in lines():
        if '"' not in line:
            yield line
            continue
        record = [line]
        is_inside, is_right = _scan(line, delimiter, is_inside=False)
        while is_inside and is_right and len(record) < MAX_LINES and (more := next(lines(), "")):
            record.append(more)
            is_inside, is_right = _scan(more, delimiter, is_inside=True)
        holds_rows = len(record) > 1 and num_fields > 1 and all(quoted.sub(r"\1", r).count(delimiter) >= num_fields - 1 for r in record)
        if is_right and not is_inside and not holds_rows:
            yield from record
        else:
            yield spoiled
            ahead.extendleft(reversed(record[1:]))


def _scan(line: str, delimiter: str, *, is_inside: bool) -> tuple[bool, bool]:
    """Whether a quoted value goes on behind the line, and whether every one ended at a delimiter or the end of the line."""
    place = 0
    while True:
        if not is_inside:
            if not line.startswith('"', place):
                place = line.find(delimiter, place) + 1
                if place == 0:
                    return False, True
                continue
            is_inside, place = True, place + 1
        place = line.find('"', place)
        if place < 0:
            return True, True
        if line.startswith('"', place + 1):
            place += 2
            continue
        is_inside, place = False, place + 1
        if place >= len(line) or line[place] == "\n":
            return False, True
        if line[place] != delimiter:
            return False, False
        place += 1
