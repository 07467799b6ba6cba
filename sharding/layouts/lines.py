"""Blocks of lines -> fields. Clean lines are cut by Arrow; lines that are not are told apart first and read in Python.

Everything is counted by line: what was decoded otherwise, what was dropped, and what could not be cut into fields. As many lines
go in as come out as rows or as rejected; `RowBlock` says so by construction, and `cut` checks it.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from sharding.errors import ShardingError, SourceError
from sharding.layouts.schema import FileLayout

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 4 << 20
MAX_ODD_LINE = 1 << 16
"""Characters of a line whose quotation marks are worth sorting out."""
_QUOTE, _CR, _LF = 34, 13, 10
_CACHED = 1 << 17


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, UTF-8 or as in the file. ``is_cut``: the last of them had no line end."""

    data: bytes
    is_cut: bool = False


class Lines(NamedTuple):
    """Whole lines with where each begins and ends (the place of its LF)."""

    data: bytes
    buffer: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    @classmethod
    def of(cls, data: bytes) -> Lines:
        """Find the lines of ``data``."""
        buffer = np.frombuffer(data, np.uint8)
        stops = np.flatnonzero(buffer == _LF)
        starts = np.empty_like(stops)
        starts[:1], starts[1:] = 0, stops[:-1] + 1
        return cls(data, buffer, starts, stops)

    def line(self, i: int) -> bytes:
        """Return line ``i`` without its LF."""
        return self.data[self.starts[i] : self.stops[i]]

    @property
    def is_crlf(self) -> np.ndarray:
        """Whether each line ends with CRLF."""
        return (self.buffer[self.stops - 1] == _CR) & (self.stops > self.starts)

    def having(self, places: np.ndarray) -> np.ndarray:
        """Return the lines, once each, that have one of ``places``."""
        return np.unique(np.searchsorted(self.starts, places, side="right") - 1)


@dataclass(frozen=True)
class RowBlock:
    """Rows of a block: wanted fields as text, and the number in the file of each one's line (blank lines not counted)."""

    table: pa.Table
    lines: np.ndarray


def blocks(file: IO[bytes], layout: FileLayout, label: str, counts: Counter[str], met: set[str]) -> Iterator[Block]:
    """Cut a stream into blocks of whole lines. UTF-16 (declared, or told by a mark) becomes UTF-8; marks are dropped.

    Raises
    ------
    SourceError
        A line of more than `MAX_LINE_BYTES`: no text, or not of these line ends.
    """
    rest = b""
    for data in _chunks(file, layout, counts, met):
        end = data.rfind(b"\n") + 1
        if end:
            yield Block(rest + data[:end])
        rest = data[end:] if end else rest + data
        if len(rest) > MAX_LINE_BYTES + BLOCK_BYTES:
            raise SourceError(
                label, f"more than {MAX_LINE_BYTES:,} bytes without a line end", "lines of text",
                "Check that it is the file that it is said to be, and the encoding that the layout declares."
            )  # fmt: skip
    if rest:
        yield Block(rest + b"\n", is_cut=True)


def _chunks(file: IO[bytes], layout: FileLayout, counts: Counter[str], met: set[str]) -> Iterator[bytes]:
    chunk = file.read(BLOCK_BYTES)
    encoding = layout.encodings[0] if layout.is_utf16 else None
    encoding = "utf-16" if chunk[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else encoding
    if encoding is None:
        chunk = chunk.removeprefix(codecs.BOM_UTF8)
        while chunk:
            yield chunk
            chunk = file.read(BLOCK_BYTES)
        return
    met.add(encoding)
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    ended = False
    while not ended:
        ended = not chunk
        data = decoder.decode(chunk, final=ended).encode("utf-8", "replace")
        counts["encoding:replaced"] += (
            sum(b"\xef\xbf\xbd" in line for line in data.split(b"\n")) if b"\xef\xbf\xbd" in data else 0
        )
        yield data
        chunk = b"" if ended else file.read(BLOCK_BYTES)


class LineReader:
    """Cuts blocks into the fields of ``wanted`` (places of fields in a line), and counts what it meets by rule.

    Parameters
    ----------
    num_fields
        Of a line. A line of another number is rejected.
    met
        The encodings that were met; they are added to.
    """

    def __init__(
        self, layout: FileLayout, num_fields: int, wanted: list[int], counts: Counter[str], met: set[str]
    ) -> None:
        self.layout, self.num_fields, self.wanted, self.counts, self.met = layout, num_fields, wanted, counts, met
        self.num_rows_in = 0
        self._names = [f"f{i}" for i in range(num_fields)]

    def read(self, block: Block) -> RowBlock:
        """Return the rows of ``block``."""
        lines = without_control(Lines.of(block.data), self.counts, is_fixed=self.layout.format == "fixed")
        lines = decoded(lines, self.layout, self.counts, self.met)
        is_cut = block.is_cut and bool(lines.line(-1).strip(b" \r"))
        lines = without_blank(lines, self.counts)
        first, self.num_rows_in = self.num_rows_in, self.num_rows_in + len(lines.starts)
        if not len(lines.starts):
            return RowBlock(self._table([]), np.empty(0, np.int64))
        rows = self._fixed(lines, is_cut) if self.layout.format == "fixed" else self._delimited(lines, is_cut)
        return RowBlock(rows.table, rows.lines + first)

    def _delimited(self, block: Lines, is_cut: bool) -> RowBlock:
        odd = np.empty(0, np.int64)
        if self.layout.quoting == "standard" and b'"' in block.data:
            odd = lines_with_odd_quotes(block, ord(self.layout.delimiter))
        plain, lines, odd_lines = split_off(block, odd)
        table, lines, bad = self._cut(plain, lines)
        num_lines = len(lines) + len(bad) + len(odd)
        read = []
        for line, text in zip(odd.tolist(), odd_lines, strict=True):
            fields = fields_with_odd_quotes(text, self.layout.delimiter, self.num_fields)
            if fields is None:
                bad.append((line, "quotes:broken"))
            else:
                self.counts["quotes:stray"] += 1
                read.append((line, fields))
        for line, rule in bad:
            self.counts["file:cut" if is_cut and line == num_lines - 1 else rule] += 1
        if read:
            table = pa.concat_tables([table, self._table([fields for _, fields in read])])
            lines = np.concatenate([lines, np.array([line for line, _ in read], np.int64)])
        return RowBlock(table, lines)

    def _cut(self, data: bytes, lines: np.ndarray) -> tuple[pa.Table, np.ndarray, list[tuple[int, str]]]:
        """Return the rows of lines whose quotes are in order, the lines of the rows, and other lines with their rule."""
        if not len(lines):
            return self._table([]), lines, []
        rejected: list[tuple[int, bool]] = []

        def reject(row: pacsv.InvalidRow) -> str:
            rejected.append((row.number - 1, row.actual_columns < row.expected_columns))
            return "skip"

        table = pacsv.read_csv(
            pa.py_buffer(data),
            read_options=pacsv.ReadOptions(use_threads=False, column_names=self._names, block_size=len(data) + 1),
            parse_options=pacsv.ParseOptions(
                delimiter=self.layout.delimiter, quote_char='"' if self.layout.quoting == "standard" else False,
                invalid_row_handler=reject, ignore_empty_lines=False, newlines_in_values=False,
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=[self._names[i] for i in self.wanted], strings_can_be_null=False, check_utf8=False,
                column_types=dict.fromkeys(self._names, pa.string()),
            ),
        )  # fmt: skip
        if table.num_rows + len(rejected) != len(lines):
            raise ShardingError(
                f"{len(lines)} lines became {table.num_rows + len(rejected)} rows. This is a defect of Caucus; please report it."
            )
        at = np.array([i for i, _ in rejected], np.int64)
        bad = [
            (int(line), "fields:too_few" if few else "fields:too_many")
            for line, (_, few) in zip(lines[at], rejected, strict=True)
        ]
        return table, np.delete(lines, at), bad

    def _fixed(self, lines: Lines, is_cut: bool) -> RowBlock:
        """Cut lines by the widths, which are in characters; lines that are not ASCII are cut one by one."""
        ends = np.cumsum(self.layout.widths)
        width, last = int(ends[-1]), len(lines.starts) - 1
        is_ascii = np.ones(last + 1, dtype=bool)
        is_ascii[lines.having(np.flatnonzero(lines.buffer > 127))] = False
        length = lines.stops - lines.starts - lines.is_crlf
        texts = {i: lines.line(i).removesuffix(b"\r").decode() for i in np.flatnonzero(~is_ascii).tolist()}
        for i, text in texts.items():
            length[i] = len(text)
        fits = length == width
        for i in np.flatnonzero(~fits).tolist():
            rule = "fields:too_few" if length[i] < width else "fields:too_many"
            self.counts["file:cut" if is_cut and i == last else rule] += 1
        even, odd = np.flatnonzero(fits & is_ascii), np.flatnonzero(fits & ~is_ascii)
        columns = []
        for place in self.wanted:
            begin, end = int(ends[place]) - self.layout.widths[place], int(ends[place])
            cells = np.ascontiguousarray(lines.buffer[lines.starts[even][:, None] + np.arange(begin, end)])
            plain = pa.FixedSizeBinaryArray.from_buffers(pa.binary(end - begin), len(even), [None, pa.py_buffer(cells)])
            others = pa.array([texts[i][begin:end] for i in odd.tolist()], pa.string())
            columns.append(pa.chunked_array([plain.cast(pa.binary()).cast(pa.string()), others]))
        return RowBlock(pa.table(columns, [self._names[i] for i in self.wanted]), np.concatenate([even, odd]))

    def _table(self, rows: list[list[str]]) -> pa.Table:
        return pa.table({self._names[i]: pa.array([fields[i] for fields in rows], pa.string()) for i in self.wanted})


def without_control(lines: Lines, counts: Counter[str], *, is_fixed: bool = False) -> Lines:
    """Drop NUL bytes (of a fixed width they become spaces), and make a space of a CR that ends no line; counted by line."""
    if b"\0" in lines.data:
        counts["bytes:nul"] += len(lines.having(np.flatnonzero(lines.buffer == 0)))
        lines = Lines.of(lines.data.replace(b"\0", b" " if is_fixed else b""))
    if int(np.count_nonzero(lines.buffer == _CR)) != int(np.count_nonzero(lines.is_crlf)):
        lines = Lines.of(re.sub(rb"\r+\n", b"\r\n", lines.data))
        inside = re.compile(rb"\r(?!\n)")
        places = np.array([found.start() for found in inside.finditer(lines.data)], np.int64)
        counts["bytes:carriage_return"] += len(lines.having(places))
        lines = Lines.of(inside.sub(b" ", lines.data))
    return lines


def decoded(lines: Lines, layout: FileLayout, counts: Counter[str], met: set[str]) -> Lines:
    """Return the lines in UTF-8: those that are not are decoded by the first of the layout's encodings that can."""
    data = lines.data
    if data.isascii() or any(name.startswith("utf-16") for name in met):
        return lines
    if layout.encodings[0] == "utf-8" and _is_utf8(data):
        met.add("utf-8")
        return lines
    pieces, end = [], 0
    for i in lines.having(np.flatnonzero(lines.buffer > 127)).tolist():
        encoding, text = _decode(lines.line(i), layout.encodings)
        met.add(encoding)
        if encoding != layout.encodings[0]:
            counts[f"encoding:{encoding}"] += 1
        pieces += [data[end : lines.starts[i]], text.encode()]
        end = int(lines.stops[i])
    return Lines.of(b"".join([*pieces, data[end:]]))


def _decode(line: bytes, encodings: tuple[str, ...]) -> tuple[str, str]:
    for encoding in encodings:
        try:
            return encoding, line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return "replaced", line.decode(encodings[0], "replace")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def without_blank(lines: Lines, counts: Counter[str]) -> Lines:
    """Leave out lines with nothing but spaces and CR."""
    first = lines.buffer[lines.starts]
    length = lines.stops - lines.starts
    is_blank = (length == 0) | ((first == _CR) & (length == 1))
    for i in np.flatnonzero(((first == _CR) | (first == 32)) & ~is_blank).tolist():
        is_blank[i] = not lines.line(i).strip(b" \r")
    if not is_blank.any():
        return lines
    counts["lines:blank"] += int(is_blank.sum())
    return Lines.of(lines.buffer[np.repeat(~is_blank, length + 1)].tobytes())


def split_off(lines: Lines, taken: np.ndarray) -> tuple[bytes, np.ndarray, list[str]]:
    """Return the lines but those of the sorted numbers ``taken``, the numbers of these lines, and the text of the others."""
    numbers = np.arange(len(lines.starts))
    pieces, texts, end = [], [], 0
    for i in taken.tolist():
        pieces.append(lines.data[end : lines.starts[i]])
        texts.append(lines.line(i).removesuffix(b"\r").decode())
        end = int(lines.stops[i]) + 1
    plain = b"".join([*pieces, lines.data[end:]]) if len(taken) else lines.data
    return plain, np.delete(numbers, taken), texts


def lines_with_odd_quotes(lines: Lines, delimiter: int) -> np.ndarray:
    """Return the lines whose quotation marks are not as the standard says.

    By it the marks of a line are opening and closing in turn: an opening one stands at the beginning of a field, a closing
    one at its end, and two together inside a quoted field are one mark of the value, which closes and opens.
    """
    if _is_quoted_throughout(lines, delimiter):
        return np.empty(0, np.int64)
    buffer = lines.buffer
    places = np.flatnonzero(buffer == _QUOTE)
    before, after = np.full(len(places), _LF, np.uint8), buffer[places + 1]
    before[places > 0] = buffer[places[places > 0] - 1]
    first = np.searchsorted(places, lines.starts)
    per_line = np.diff(np.append(first, len(places)))
    is_closing = (np.arange(len(places)) - np.repeat(first, per_line)) % 2 == 1
    opens = (before == delimiter) | (before == _LF)
    closes = (after == delimiter) | (after == _LF) | (after == _CR)
    doubled = np.where(is_closing, after, before) == _QUOTE
    odd = ~(np.where(is_closing, closes, opens) | doubled)
    of_mark = np.repeat(np.arange(len(lines.starts)), per_line)
    return np.unique(np.concatenate([of_mark[odd], np.flatnonzero(per_line % 2)]))


def _is_quoted_throughout(lines: Lines, delimiter: int) -> bool:
    """Whether each field has its two marks and no other: every delimiter and line is between two, and there are no more."""
    buffer = lines.buffer
    last = lines.stops - 1 - lines.is_crlf
    if not ((buffer[lines.starts] == _QUOTE).all() and (buffer[last] == _QUOTE).all()):
        return False
    num_quotes = num_delimiters = 0
    for begin in range(0, len(buffer), _CACHED):  # pieces that stay in the processor's cache
        piece = buffer[begin : begin + _CACHED + 2]  # no delimiter is the first byte, nor the last
        is_quote = piece == _QUOTE
        is_delimiter = piece[1:-1] == delimiter
        between = is_quote[:-2] & is_quote[2:]
        if (is_delimiter > between).any():
            return False
        num_delimiters += int(np.count_nonzero(is_delimiter))
        num_quotes += int(np.count_nonzero(is_quote[:_CACHED]))
    return num_quotes == 2 * (num_delimiters + len(lines.starts))


def fields_with_odd_quotes(line: str, delimiter: str, num_fields: int) -> list[str] | None:
    """Cut a line whose quotation marks are not in order; None if no reading of them gives ``num_fields``.

    A mark opens only at the beginning of a field and closes only at its end; others are data, two together are one, and a
    mark that is never closed is data. Where that does not do, all of them are data.
    """
    if len(line) > MAX_ODD_LINE:
        return None
    fields, place = [], 0
    while place <= len(line):
        value, end = _quoted(line, place, delimiter) if line.startswith('"', place) else (None, place)
        if value is None:
            end = line.find(delimiter, place)
            end = len(line) if end < 0 else end
            value = line[place:end]
        fields.append(value)
        place = end + 1
    if len(fields) == num_fields:
        return fields
    plain = [_unwrapped(value) for value in line.split(delimiter)]
    return plain if len(plain) == num_fields else None


def _quoted(line: str, place: int, delimiter: str) -> tuple[str | None, int]:
    """Return the value that opens at ``place`` and where it ends; None if it is never closed."""
    mark = line.find('"', place + 1)
    while mark >= 0:
        after = line[mark + 1 : mark + 2]
        if after == '"':
            mark += 1
        elif after in ("", delimiter):
            return line[place + 1 : mark].replace('""', '"'), mark + 1
        mark = line.find('"', mark + 1)
    return None, place


def _unwrapped(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
