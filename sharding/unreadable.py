"""Lines of text files that cannot be read: how many, of which kind, and whether they are more than is allowed."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from typing import IO, cast

import duckdb

from sharding import storage
from sharding.errors import SourceError
from sharding.sources import Sources
from sharding.sql import Bind, quoted
from sharding.text_lines import LINES_OF_REJECT, breaks_sql

REASONS = {
    "MISSING COLUMNS": "csv:too_few_fields", "TOO MANY COLUMNS": "csv:too_many_fields",
    "UNQUOTED VALUE": "csv:broken_quotes", "LINE SIZE OVER MAXIMUM": "csv:line_too_long",
    "INVALID ENCODING": "csv:invalid_encoding", "INVALID STATE": "csv:broken_quotes", "CAST": "csv:broken_quotes",
}  # fmt: skip
_FOUND = {
    "csv:too_few_fields": ("fewer fields than the first line", "Set data.delimiter, or correct the line."),
    "csv:too_many_fields": (
        "more fields than the first line",
        "Set data.delimiter, or write quotation marks around values that hold it.",
    ),
    "csv:broken_quotes": ("a quotation mark that is not closed, or text behind one that is", "Correct the quotation marks."),
    "csv:line_too_long": ("more than the reader takes for a line", "Correct the quotation marks."),
    "csv:invalid_encoding": (
        "bytes that are not UTF-8",
        "Set data.encoding: cp1252 (of Windows) and latin-1 are common.",
    ),
}
_ERROR = "coalesce(max(error_type::VARCHAR) FILTER (WHERE error_type::VARCHAR = 'UNQUOTED VALUE'), min(error_type::VARCHAR))"
"""SQL: of the errors of a line the one that made the others."""
ALWAYS = 1
"""One line is no reason to end a run."""


def count(connection: duckdb.DuckDBPyConnection, sources: Sources) -> dict[tuple[str, str], int]:
    """Return the number of lines that the reader rejected, by (URL, reason); a line counts once."""
    rows = connection.execute(
        f"SELECT file_path, error, sum(lines)::BIGINT FROM (SELECT file_path, {_ERROR} AS error, "
        f"max({LINES_OF_REJECT}) AS lines FROM reject_errors JOIN reject_scans USING (scan_id, file_id) "
        "GROUP BY scan_id, file_id, file_path, line) GROUP BY ALL"
    ).fetchall()
    counts: dict[tuple[str, str], int] = {}
    for path, error, number in rows:
        key = (sources.url_of_path[path], REASONS[error])
        counts[key] = counts.get(key, 0) + number
    return counts


def check(
    connection: duckdb.DuckDBPyConnection, sources: Sources, rejects: dict[tuple[str, str], int], share: float
) -> None:
    """Refuse more unreadable lines than ``share`` of all, `data.max_unreadable`.

    Raises
    ------
    SourceError
        Names the file with the most, its first such line, what that has, and what to do; nothing of the line itself.
    """
    total, num_lines = sum(rejects.values()), sum(file.num_lines or 0 for file in sources.files)
    if total <= max(ALWAYS, share * num_lines):
        return
    url, reason = max(rejects, key=lambda key: (rejects[key], key))
    found, do = _FOUND[reason]
    line = _first_line(connection, sources, url, reason)
    enough = math.ceil(total / num_lines * 1000) / 1000
    leave = "" if enough == 1.0 else f" If such lines may be left out, say `data.max_unreadable: {enough}`."
    raise SourceError(
        f"data.source, file {url!r}", f"{total:,} of {num_lines:,} lines that cannot be read, line {line:,} the first with {found} ({reason})",
        f"at most {share:.2%} of them (data.max_unreadable)",
        do + leave
    )  # fmt: skip


def _first_line(connection: duckdb.DuckDBPyConnection, sources: Sources, url: str, reason: str) -> int:
    """The place of the first line of a file that was rejected for a reason, counted in the file from 1."""
    path = next(file.path for file in sources.files if file.url == url)
    errors = [error for error, name in REASONS.items() if name == reason]
    begin = connection.execute(
        "SELECT min(line_byte_position) FROM reject_errors JOIN reject_scans USING (scan_id, file_id) "
        "WHERE file_path = $path AND list_contains($errors, error_type::VARCHAR)", {"path": path, "errors": errors}
    ).fetchall()[0][0]  # fmt: skip
    with storage.opened(path) as handle:
        plain = cast(IO[bytes], gzip.GzipFile(fileobj=handle)) if path.lower().endswith(".gz") else handle
        left, ends, last = max(0, int(begin) - 1), 0, b""
        while left > 0 and (block := plain.read(min(left, 1 << 20))):
            ends += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n") - (last == b"\r" and block[:1] == b"\n")
            left, last = left - len(block), block[-1:]
    return ends + 1


def check_lines(connection: duckdb.DuckDBPyConnection, sources: Sources, num_lines: int) -> None:
    """Check that ``num_lines``, in rows and rejected, are all lines of text files, but for line breaks inside values.

    Raises
    ------
    SourceError
        Rows are inside a quoted value, or in no row at all: somewhere a quotation mark is not closed.
    """
    missing = sum(file.num_lines or 0 for file in sources.files) - num_lines
    if missing == 0:
        return
    breaks = swallowed = 0
    for file in sources.files:
        bind = Bind()
        one = replace(sources, files=(file,))
        columns = breaks_sql(map(quoted, file.columns), bind(sources.delimiter))
        query = f"SELECT {columns} FROM ({one.scan(bind, file.columns)})"
        found = connection.execute(query, bind.values).fetchall()[0]
        breaks, swallowed = breaks + found[0], swallowed + found[1]
    if swallowed or breaks != missing:
        raise SourceError(
            "data.source", f"{missing:,} line(s) inside other rows, as after a quotation mark that is not closed",
            "every line in a row of its own, or quotation marks around a value with line breaks",
            "Correct the quotation marks in the files, or set data.delimiter."
        )  # fmt: skip


def copy(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Write where the rejected text rows stand (``file``, ``line``, ``reason``) to local Parquet.

    Their text is left in the file: of a line that cannot be read, nobody can say which part is a name.
    """
    connection.execute(
        f"COPY (SELECT file_path AS file, line, {_ERROR} AS reason FROM reject_errors "
        "JOIN reject_scans USING (scan_id, file_id) GROUP BY scan_id, file_id, file_path, line) "
        "TO $path (FORMAT parquet)",
        {"path": path},
    )
