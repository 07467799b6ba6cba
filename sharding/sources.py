"""Source files: which there are, what columns they have, and the SQL that scans them.

Parquet is read by DuckDB's own reader (other than local files through fsspec). CSV and TSV are read as text, nothing is
guessed: leading zeros stay. Rows of the wrong length are rejected by the reader and counted by file. A path like
``state=01/part.parquet`` gives the column ``state``, as text.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, cast

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sharding import level_order, storage
from sharding.config import DataConfig
from sharding.errors import ContractError, SourceError
from sharding.labels import Kind, kind_of_type
from sharding.level_order import Order
from sharding.sql import Bind, quoted
from sharding.text_lines import LINES_OF_REJECT, LineCounter, breaks_sql

SUFFIXES = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv",
    ".tsv": "tsv", ".tab": "tsv", ".tsv.gz": "tsv", ".tab.gz": "tsv",
}  # fmt: skip
REJECT_REASONS = {
    "MISSING COLUMNS": "csv:too_few_fields", "TOO MANY COLUMNS": "csv:too_many_fields",
    "UNQUOTED VALUE": "csv:broken_quotes", "LINE SIZE OVER MAXIMUM": "csv:line_too_long",
    "INVALID ENCODING": "csv:invalid_encoding", "INVALID STATE": "csv:broken_quotes", "CAST": "csv:broken_quotes",
}  # fmt: skip


@dataclass(frozen=True)
class SourceFile:
    """One file: its URL, the path that DuckDB opens, its columns in order, how each is stored, its rows (Parquet) or
    lines without the header (text), and the orders of the needed columns that are ordered categoricals."""

    url: str
    path: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    partitions: tuple[str, ...]
    num_rows: int | None = None
    num_lines: int | None = None
    orders: Mapping[str, Order] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """All files of a run. ``kinds`` has the needed columns; ``num_rows`` is known beforehand for Parquet only. ``orders`` has
    those of the levels of ordered categoricals, by column, each once."""

    files: tuple[SourceFile, ...]
    is_text: bool
    delimiter: str
    kinds: dict[str, Kind]
    num_rows: int | None
    orders: dict[str, tuple[Order, ...]] = field(default_factory=dict)

    @property
    def url_of_path(self) -> dict[str, str]:
        """The URL that a person knows, by the path that DuckDB reports."""
        return {file.path: file.url for file in self.files}

    def scan(self, bind: Bind, columns: Iterable[str], *, store_rejects: bool = False) -> str:
        """Return a SELECT of ``columns`` and ``filename`` over all files; paths go in as parameters of ``bind``."""
        names = list(columns)
        selected = ", ".join([*map(quoted, names), "filename"])
        alike: dict[tuple[tuple[str, ...], tuple[str, ...]], list[SourceFile]] = {}
        for file in self.files:
            kept = [i for i, name in enumerate(file.columns) if self.is_text or name in names]
            layout = (tuple(file.columns[i] for i in kept), tuple(file.types[i] for i in kept))
            alike.setdefault(layout, []).append(file)
        return " UNION ALL ".join(
            f"SELECT {selected} FROM {self._reader(bind, files, names, store_rejects)}" for files in alike.values()
        )

    def _reader(self, bind: Bind, files: list[SourceFile], names: list[str], store_rejects: bool) -> str:
        paths = bind([file.path for file in files])
        is_partitioned = any(name not in files[0].columns for name in names)
        options = f"filename=true, hive_partitioning={str(is_partitioned).lower()}"
        if is_partitioned:
            options += ", hive_types_autocast=false"
        if not self.is_text:
            return f"read_parquet({paths}, binary_as_string=true, {options})"
        columns = bind({name: "VARCHAR" for name in files[0].columns})
        rejects = ", store_rejects=true, rejects_limit=0" if store_rejects else ""
        return (
            f"read_csv({paths}, columns={columns}, auto_detect=false, header=true, delim={bind(self.delimiter)}, "
            f"quote='\"', escape='\"', ignore_errors=true, {options}{rejects})"
        )


def open_sources(data: DataConfig, needed: dict[str, str], scratch: Path) -> Sources:
    """Find and inspect the files of ``data``.

    Parameters
    ----------
    needed
        Source columns that must exist, each with the place in the configuration that asks for it.
    scratch
        Local directory for UTF-8 copies of text files in other encodings.

    Raises
    ------
    StorageError, SourceError, ContractError
        No file, an unreadable one, formats mixed, a column unknown or stored differently from file to file.
    """
    urls = _list(data.source)
    formats = {url: _format(url) if data.format == "auto" else data.format for url in urls}
    if len(set(formats.values())) > 1:
        raise SourceError(
            "data.source", f"files of several formats: {sorted(set(formats.values()))}", "one format",
            "Narrow the glob, or set data.format."
        )  # fmt: skip
    is_text = formats[urls[0]] != "parquet"
    num_rows: int | None = None
    if is_text:
        delimiter = data.delimiter or ("\t" if formats[urls[0]] == "tsv" else ",")
        files = [_open_text(url, delimiter, data.encoding, scratch / f"utf8-{i}.csv") for i, url in enumerate(urls)]
    else:
        delimiter, files = "", [_open_parquet(url, needed) for url in urls]
        num_rows = sum(file.num_rows or 0 for file in files)
        if num_rows == 0:
            raise no_rows(len(files))
    kinds = {name: _kind(name, where, files) for name, where in needed.items()}
    orders = {
        name: tuple(dict.fromkeys(file.orders[name] for file in files if name in file.orders)) for name in needed
    }
    return Sources(tuple(files), is_text, delimiter, kinds, num_rows, orders)


def register_file_systems(connection: duckdb.DuckDBPyConnection, sources: Sources) -> None:
    """Let ``connection`` read the remote files of ``sources`` through fsspec."""
    remote = {file.path.split("://", 1)[0]: file.path for file in sources.files if "://" in file.path}
    for path in remote.values():
        connection.register_filesystem(storage.resolve(path)[0])


def count_rejects(connection: duckdb.DuckDBPyConnection, sources: Sources) -> dict[tuple[str, str], int]:
    """Return the number of lines that the reader rejected, by (URL, reason); a line counts once."""
    rows = connection.execute(
        f"SELECT file_path, error, sum(lines)::BIGINT FROM (SELECT file_path, min(error_type::VARCHAR) AS error, "
        f"max({LINES_OF_REJECT}) AS lines FROM reject_errors JOIN reject_scans USING (scan_id, file_id) GROUP BY scan_id, file_id, file_path, line) GROUP BY ALL"
    ).fetchall()
    counts: dict[tuple[str, str], int] = {}
    for path, error, count in rows:
        key = (sources.url_of_path[path], REJECT_REASONS[error])
        counts[key] = counts.get(key, 0) + count
    return counts


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


def copy_rejects(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Write where the rejected text rows stand (``file``, ``line``, ``reason``) to local Parquet.

    Their text is left in the file: of a line that cannot be read, nobody can say which part is a name.
    """
    connection.execute(
        "COPY (SELECT file_path AS file, line, min(error_type::VARCHAR) AS reason FROM reject_errors "
        "JOIN reject_scans USING (scan_id, file_id) GROUP BY scan_id, file_id, file_path, line) "
        "TO $path (FORMAT parquet)",
        {"path": path},
    )


def no_rows(num_files: int) -> ContractError:
    """The error of files without a row."""
    return ContractError(
        "data.source", f"no row in {num_files} file(s)", "at least one row",
        "Check that the export that wrote the files has finished."
    )  # fmt: skip


def _list(patterns: tuple[str, ...]) -> list[str]:
    urls: list[str] = []
    for pattern in patterns:
        found = storage.list_files(pattern)
        if not found:
            raise SourceError(f"data.source {pattern!r}", "no file", "at least one", "Correct the path, URL or glob.")
        urls += found
    repeated = len(urls) - len(set(urls))
    if repeated:
        raise SourceError(
            "data.source", f"{repeated} file(s) named twice", "every file once",
            "Remove overlapping globs; the rows would count twice."
        )  # fmt: skip
    return urls


def _format(url: str) -> str:
    name = url.rsplit("/", 1)[-1].lower()
    for suffix, form in SUFFIXES.items():
        if name.endswith(suffix):
            return form
    raise SourceError(
        repr(url), "a file name that does not tell its format", f"one that ends in {', '.join(SUFFIXES)}",
        "Set data.format to parquet, csv or tsv, or narrow the glob."
    )  # fmt: skip


def _engine_path(url: str) -> str:
    return str(storage.local_path(url)) if storage.is_local(url) else url


def _partitions(url: str) -> tuple[str, ...]:
    return tuple(piece.split("=", 1)[0] for piece in url.split("/")[:-1] if "=" in piece)


def _open_parquet(url: str, needed: Iterable[str]) -> SourceFile:
    try:
        with storage.opened(url) as handle:
            file = pq.ParquetFile(handle)
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
            orders = {name: order for name in needed if (order := level_order.stored(file, name)) is not None}
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            repr(url), f"a file that is not whole Parquet ({type(error).__name__})", "Parquet with its footer",
            "Copy the file again (it may be truncated), or set data.format."
        ) from error  # fmt: skip
    types = tuple(str(field.type) for field in schema)
    return SourceFile(
        url, _engine_path(url), tuple(schema.names), types, _partitions(url), num_rows, orders=orders
    )


def _open_text(url: str, delimiter: str, encoding: str, copy: Path) -> SourceFile:
    is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")
    path = _engine_path(url)
    lines = LineCounter()
    try:
        with storage.opened(url) as handle:
            plain = cast(IO[bytes], gzip.GzipFile(fileobj=handle)) if url.lower().endswith(".gz") else handle
            if is_utf8:
                start = plain.read(1 << 20)
                first = start.split(b"\n", 1)[0].decode("utf-8-sig")
                lines.add(start)
                while block := plain.read(1 << 20):
                    lines.add(block)
            else:
                with io.TextIOWrapper(plain, encoding=encoding, newline="") as text:
                    first = text.readline(1 << 20)
                    with copy.open("x", encoding="utf-8", newline="") as target:
                        piece = first
                        while piece:
                            lines.add(piece.encode())
                            target.write(piece)
                            piece = text.read(1 << 20)
                path = str(copy)
            header = next(csv.reader([first.removeprefix("\ufeff")], delimiter=delimiter), [])
    except (UnicodeError, gzip.BadGzipFile, zlib.error, EOFError, csv.Error) as error:
        raise SourceError(
            repr(url), f"bytes that are not text in {encoding} ({type(error).__name__})", f"text in {encoding}",
            "Set data.encoding (latin-1 and cp1252 are common), or copy the file again."
        ) from None  # fmt: skip
    if not header:
        raise SourceError(repr(url), "an empty file", "a header line", "Copy the file again, or narrow the glob.")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated or "" in header:
        raise SourceError(
            repr(url), f"a header of {len(header)} fields in which some names are empty or repeated",
            "a first line that names every column once",
            "Add a header line, correct it, or set data.delimiter."
        )  # fmt: skip
    columns = tuple(header)
    return SourceFile(url, path, columns, ("string",) * len(columns), _partitions(url), num_lines=lines.num_lines - 1)


def _kind(name: str, where: str, files: list[SourceFile]) -> Kind:
    kinds: set[Kind] = set()
    for file in files:
        if name in file.columns:
            if sum(other.lower() == name.lower() for other in file.columns) > 1:
                raise ContractError(
                    f"{where}, file {file.url!r}", f"columns that differ from {name!r} only in case", "one",
                    "Rename one of them in the file."
                )  # fmt: skip
            kinds.add(_kind_of_type(name, file))
        elif name in file.partitions:
            kinds.add("text")
        else:
            known = [*file.columns, *file.partitions]
            is_stored = file.num_lines is None  # the first line of a text file may be a person, if the header is not there
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5 if is_stored else 0.75)
            near = near or [other for other in known if other.lower() == name.lower()]
            hint = f"Did you mean {near[0]!r}?" if near else "Correct the name, or add `source:` to the column."
            listed = f"one of {known[:40]}{' ...' if len(known) > 40 else ''}"
            raise ContractError(
                f"{where}, file {file.url!r}", f"no column {name!r}",
                listed if is_stored else f"one of the {len(known)} names in the first line", hint
            )  # fmt: skip
    kinds -= {"null"}
    if kinds == {"integer", "float"}:
        return "float"
    if len(kinds) > 1:
        raise ContractError(
            f"{where}: column {name!r}", f"stored as {' and as '.join(sorted(kinds))} in different files", "one type",
            "Write the files anew with one type (text, if it is a code with leading zeros)."
        )  # fmt: skip
    return kinds.pop() if kinds else "null"


def _kind_of_type(name: str, file: SourceFile) -> Kind:
    stored = file.types[file.columns.index(name)]
    kind = kind_of_type(stored)
    if kind is None:
        raise ContractError(
            f"column {name!r}, file {file.url!r}", f"stored as {stored}", "text, numbers, booleans or dates",
            "Write the column anew as one of these."
        )  # fmt: skip
    return kind
