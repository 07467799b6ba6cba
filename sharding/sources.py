"""Source files: which there are, what columns they have, and the SQL that scans them.

Parquet is read by DuckDB's own reader (other than local files through fsspec). CSV and TSV are read as text, nothing is
guessed: leading zeros stay. Rows of the wrong length are rejected by the reader and counted by file. A path like
``state=01/part.parquet`` gives the column ``state``, as text.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, cast

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sharding import equal_files, level_order, storage, text_copy
from sharding.config import DataConfig
from sharding.errors import ContractError, SourceError
from sharding.labels import Kind, kind_of_type
from sharding.level_order import Order
from sharding.sql import Bind, quoted
from sharding.text_lines import LineCounter

_UNNAMED = "(column without a name of its own)"
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SUFFIXES = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv",
    ".tsv": "tsv", ".tab": "tsv", ".tsv.gz": "tsv", ".tab.gz": "tsv",
}  # fmt: skip


@dataclass(frozen=True)
class SourceFile:
    """One file: its URL, the path that DuckDB opens, its columns in order, how each is stored, its rows (Parquet) or
    lines without the header (text), the orders of the needed columns that are ordered categoricals, and the names that several columns of a text file
    have (these, and those without a name, get one that nobody asks for)."""

    url: str
    path: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    partitions: tuple[str, ...]
    num_rows: int | None = None
    num_lines: int | None = None
    orders: Mapping[str, Order] = field(default_factory=dict)
    repeated: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sources:
    """All files of a run. ``kinds`` has the needed columns; ``num_rows`` is known beforehand for Parquet only. ``orders`` has
    those of the levels of ordered categoricals, by column, each once. Of Parquet one row of ``every`` is scanned."""

    files: tuple[SourceFile, ...]
    is_text: bool
    delimiter: str
    kinds: dict[str, Kind]
    num_rows: int | None
    orders: dict[str, tuple[Order, ...]] = field(default_factory=dict)
    every: int = 1

    @property
    def url_of_path(self) -> dict[str, str]:
        """The URL that a person knows, by the path that DuckDB reports."""
        return {file.path: file.url for file in self.files}

    @cached_property
    def file_column(self) -> str:
        """Name of the column with the path of a row's file: one that no file has."""
        taken = {name.lower() for file in self.files for name in (*file.columns, *file.partitions)}
        name = "file of the row"
        while name in taken:
            name += " "
        return name

    def scan(self, bind: Bind, columns: Iterable[str], *, store_rejects: bool = False) -> str:
        """Return a SELECT of ``columns`` and of the file's path, called :attr:`file_column`, over all files; paths go in as
        parameters of ``bind``."""
        names = list(columns)
        alike: dict[tuple[tuple[str, ...], tuple[str, ...]], list[SourceFile]] = {}
        for file in self.files:
            kept = [i for i, name in enumerate(file.columns) if self.is_text or name in names]
            layout = (tuple(file.columns[i] for i in kept), tuple(file.types[i] for i in kept))
            alike.setdefault(layout, []).append(file)
        queries = []
        for files in alike.values():
            selected = ", ".join([*(self._column(name, files[0]) for name in names), quoted(self.file_column)])
            queries.append(f"SELECT {selected} FROM {self._reader(bind, files, names, store_rejects)}")
        return " UNION ALL ".join(queries)

    @cached_property
    def _has_several_types(self) -> frozenset[str]:
        """Columns that are stored in one type here and in another there."""
        found: dict[str, set[str]] = {}
        for file in self.files:
            for name, stored in zip(file.columns, file.types, strict=True):
                found.setdefault(name, set()).add(stored)
        return frozenset(name for name, types in found.items() if len(types) > 1)

    def _column(self, name: str, file: SourceFile) -> str:
        """SQL of a column: 0.1 in single precision is 0.1 in double, and types that DuckDB does not join are cast to what it does."""
        stored = "" if self.is_text or name not in file.columns else file.types[file.columns.index(name)]
        cast = ""
        if stored in ("float", "halffloat"):
            cast = "CAST(CAST({} AS VARCHAR) AS DOUBLE)"
        elif stored.startswith("decimal") and name in self._has_several_types:
            cast = "CAST({} AS DOUBLE)"
        elif stored.startswith("timestamp[ns, "):
            cast = "CAST({} AS TIMESTAMPTZ)"
        return f"{cast.format(quoted(name))} AS {quoted(name)}" if cast else quoted(name)

    def _reader(self, bind: Bind, files: list[SourceFile], names: list[str], store_rejects: bool) -> str:
        paths = bind([file.path for file in files])
        is_partitioned = any(name not in files[0].columns for name in names)
        options = f"filename={bind(self.file_column)}, hive_partitioning={str(is_partitioned).lower()}"
        if is_partitioned:
            options += ", hive_types_autocast=false"
        if not self.is_text:
            skipped = f" WHERE file_row_number % {self.every} = 0" if self.every > 1 else ""
            return f"read_parquet({paths}, binary_as_string=true, {options}){skipped}"
        columns = bind({name: "VARCHAR" for name in files[0].columns})
        rejects = ", store_rejects=true, rejects_limit=0" if store_rejects else ""
        return (
            f"read_csv({paths}, columns={columns}, auto_detect=false, header=true, delim={bind(self.delimiter)}, "
            f"quote='\"', escape='\"', ignore_errors=true, {options}{rejects})"
        )


def open_sources(data: DataConfig, needed: dict[str, str], scratch: Path | None) -> Sources:
    """Find and inspect the files of ``data``.

    Parameters
    ----------
    needed
        Source columns that must exist, each with the place in the configuration that asks for it.
    scratch
        Local directory for UTF-8 copies of text files in other encodings; None: read the headers only.

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
            "Narrow the glob to files of one format."
        )  # fmt: skip
    is_text = formats[urls[0]] != "parquet"
    num_rows: int | None = None
    if is_text:
        delimiter = data.delimiter or ("\t" if formats[urls[0]] == "tsv" else ",")
        files = [_open_text(url, delimiter, data.encoding, scratch and scratch / f"utf8-{i}.csv") for i, url in enumerate(urls)]
    else:
        delimiter, files = "", [_open_parquet(url, needed) for url in urls]
        num_rows = sum(file.num_rows or 0 for file in files)
        if num_rows == 0:
            raise no_rows(len(files))
    if scratch is not None and not data.allow_equal_files:
        equal_files.check([file.url for file in files if (file.num_rows if file.num_lines is None else file.num_lines)])
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


def _open_text(url: str, delimiter: str, encoding: str, copy: Path | None) -> SourceFile:
    is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")
    codec = "utf-8-sig" if is_utf8 else encoding
    path, lines, first = _engine_path(url), LineCounter(), b""
    try:
        with _plain(url) as plain:
            while block := plain.read(1 << 20):
                first += block if len(first) < 1 << 20 else b""
                lines.add(block)
                if copy is None and len(first) >= 1 << 20:
                    break
        header = _header(first, codec, delimiter)
        if header and copy is not None and (not is_utf8 or lines.has_open_quotes or lines.has_mixed_ends):
            with _plain(url) as plain:
                lines = text_copy.write(plain, codec, delimiter, len(header), copy)
            path = str(copy)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise SourceError(
            repr(url), f"bytes that are not a whole gzip file ({type(error).__name__})", "a file as gzip writes it",
            "Copy the file again (it may be truncated), or take `.gz` from its name if it is not compressed."
        ) from None  # fmt: skip
    except (UnicodeError, csv.Error) as error:
        known = next((name for mark, name in _MARKS.items() if first.startswith(mark)), None)
        known = known or ("utf-16-le" if b"\0" in first[:1000] else None)
        do = f"Set data.encoding: {known}." if known and is_utf8 else "Set data.encoding (latin-1 and cp1252 are common), or copy the file again."
        raise SourceError(
            repr(url), f"bytes that are not text in {encoding} ({type(error).__name__})", f"text in {encoding}", do
        ) from None  # fmt: skip
    if not header:
        found, do = ("an empty first line", "Take out what stands before the header.") if first.strip() else ("an empty file", "Copy the file again, or narrow the glob.")
        raise SourceError(repr(url), found, "a header line", do)
    names = tuple(name if header.count(name) == 1 and name else f"{_UNNAMED} {i + 1}" for i, name in enumerate(header))
    repeated = frozenset(name for name in header if header.count(name) > 1)
    return SourceFile(
        url, path, names, ("string",) * len(names), _partitions(url), num_lines=lines.num_lines - 1, repeated=repeated
    )


@contextmanager
def _plain(url: str) -> Iterator[IO[bytes]]:
    """Give a text file to read, unpacked."""
    with storage.opened(url) as handle:
        yield cast(IO[bytes], gzip.GzipFile(fileobj=handle)) if url.lower().endswith(".gz") else handle


def _header(first: bytes, codec: str, delimiter: str) -> list[str]:
    """The names in the first line, from the first bytes of a file (of which the last character may be cut)."""
    text = codecs.getincrementaldecoder(codec)("replace" if codec == "utf-8-sig" else "strict").decode(
        first, final=len(first) < 1 << 20
    )
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n", 1)
    if "\ufffd" in lines[0] or "\0" in lines[0]:
        raise UnicodeError("the first line")
    return next(csv.reader([lines[0].removeprefix("\ufeff")], delimiter=delimiter), [])


def _kind(name: str, where: str, files: list[SourceFile]) -> Kind:
    kinds: set[Kind] = set()
    for file in files:
        if name in file.columns:
            if sum(other.lower() == name.lower() for other in file.columns) > 1:
                is_same = file.columns.count(name) > 1
                found = f"several columns called {name!r}" if is_same else f"columns that differ from {name!r} only in case"
                raise ContractError(f"{where}, file {file.url!r}", found, "one", "Rename one of them in the file.")
            kinds.add(_kind_of_type(name, file))
        elif name in file.partitions:
            kinds.add("text")
        elif name in file.repeated:
            raise ContractError(
                f"{where}, file {file.url!r}", f"several columns called {name!r}", "one", "Rename one of them in the file."
            )
        else:
            known = [*file.columns, *file.partitions]
            is_stored = file.num_lines is None  # the first line of a text file may be a person, if the header is not there
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5 if is_stored else 0.75)
            near = near or [other for other in known if other.lower() == name.lower()]
            hint = f"Did you mean {near[0]!r}?" if near else "Correct the name, or add `source:` to the column."
            other = next((mark for mark in ";\t|," if not is_stored and len(file.columns) == 1 and mark in file.columns[0]), None)
            hint = hint if is_stored or near else f"{hint} If the first line is no header, add one."
            hint = hint if other is None else f"Set data.delimiter: {json.dumps(other)}."
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
