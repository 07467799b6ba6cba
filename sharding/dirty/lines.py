"""Columns as the lines of a text file, and faults put into single lines.

Lines are joined by Arrow, a block of rows at a time; only lines with a fault are made by Python. So a million rows of
67 columns take seconds.
"""

from __future__ import annotations

import codecs
import gzip
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = "pa.Array | str"
"""Text of every row, or the one text that all rows have."""
Change: TypeAlias = Callable[[bytes], bytes]
"""Takes a line without its end and gives the line to write."""

ROWS_PER_BLOCK = 100_000


@dataclass(frozen=True)
class TextFormat:
    """How the lines of a file are written."""

    delimiter: str = "\t"
    quote: str = ""
    """Around every field, header included; empty: none."""
    quote_is_data: bool = True
    """Without quotes around fields: whether a quotation mark is as good as a letter."""
    has_header: bool = True
    encoding: Literal["utf-8", "utf-16-le"] = "utf-8"
    """UTF-16 begins with a byte order mark. A line in yet another encoding is a change of that line."""
    line_end: str = "\r\n"
    widths: tuple[int, ...] | None = None
    """Of the fields, if they are padded to fixed widths instead of delimited."""

    def header(self, names: Sequence[str]) -> str:
        """Return the line of ``names``, without its end."""
        return self.delimiter.join(f"{self.quote}{name}{self.quote}" for name in names)


def write(
    path: Path,
    names: Sequence[str],
    columns: Sequence[Column],
    form: TextFormat,
    changes: Mapping[int, Change] | None = None,
    *,
    num_rows: int,
    cut_last_line: bool = False,
) -> None:
    """Write a text file: gzipped if ``path`` ends in ``.gz``, one member of an archive if it ends in ``.zip``.

    Parameters
    ----------
    columns
        Text of the fields, in the order of ``names``, not yet quoted.
    changes
        By row of this file, from 0. Not for UTF-16.
    cut_last_line
        End the file after a third of its last line, as a copy that was broken off.
    """
    changes = dict(changes or {})
    if cut_last_line:
        changes[num_rows - 1] = lambda line: line[: len(line) // 3]
    with _opened(path) as file:
        file.write(codecs.BOM_UTF16_LE if form.encoding == "utf-16-le" else b"")
        if form.has_header:
            file.write((form.header(names) + form.line_end).encode(form.encoding))
        for start in range(0, num_rows, ROWS_PER_BLOCK):
            stop = min(start + ROWS_PER_BLOCK, num_rows)
            block = [column if isinstance(column, str) else column[start:stop] for column in columns]
            lines = _join(block, form)
            here = {row - start: change for row, change in changes.items() if start <= row < stop}
            pieces = list(_pieces(lines, here, form.line_end.encode()))
            if cut_last_line and stop == num_rows:
                pieces[-2] = bytes(pieces[-2]).removesuffix(form.line_end.encode())
            for piece in pieces:
                file.write(piece if form.encoding == "utf-8" else bytes(piece).decode().encode(form.encoding))


def _join(columns: Sequence[Column], form: TextFormat) -> pa.Array:
    """Return the lines of a block, each with its line end."""
    if form.widths is None:
        separator = f"{form.quote}{form.delimiter}{form.quote}"
        fields = [_large(column) for column in columns]
    else:
        separator = ""
        fields = [
            _large(column.ljust(width)) if isinstance(column, str) else pc.utf8_rpad(_large(column), width)
            for column, width in zip(columns, form.widths, strict=True)
        ]
    body = pc.binary_join_element_wise(*fields, _large(separator))
    return pc.binary_join_element_wise(_large(form.quote), body, _large(form.quote + form.line_end), _large(""))


def _large(column: Column) -> pa.Array | pa.Scalar:
    return pa.scalar(column, pa.large_string()) if isinstance(column, str) else column.cast(pa.large_string())


def _pieces(lines: pa.Array, changes: Mapping[int, Change], end: bytes) -> Iterator[bytes | memoryview]:
    """Yield the bytes of all lines: what lies between changed lines as it is, and the changed lines."""
    offsets = np.frombuffer(lines.buffers()[1], np.int64)[lines.offset : lines.offset + len(lines) + 1]
    text = memoryview(lines.buffers()[2])
    done = int(offsets[0])
    for row in sorted(changes):
        start, stop = int(offsets[row]), int(offsets[row + 1])
        yield text[done:start]
        yield changes[row](bytes(text[start:stop]).removesuffix(end)) + end
        done = stop
    yield text[done : int(offsets[-1])]


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write, without a time or a name in it that would make its bytes differ from call to call."""
    if path.suffix == ".gz":
        with path.open("xb") as raw, gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed:
            yield cast(IO[bytes], packed)
    elif path.suffix == ".zip":
        member = zipfile.ZipInfo(path.stem + ".txt", (1980, 1, 1, 0, 0, 0))
        member.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "x", compresslevel=1) as archive, archive.open(member, "w", force_zip64=True) as file:
            yield file
    else:
        with path.open("xb") as file:
            yield file
