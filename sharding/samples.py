"""A sample of the rows of each file: enough to see in what units its columns are, and values that many rows share.

Of Parquet it is every k-th row, of text the lines of blocks that are k blocks apart. All rows, where there are no more than `MAX_ROWS`.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import duckdb
import numpy as np

from sharding import storage
from sharding.cells import CellTable
from sharding.labels import Kind, label_sql
from sharding.sources import SourceFile, Sources
from sharding.sql import Bind

MAX_ROWS = 100_000
MAX_LABELS = 5_000
BLOCK_BYTES = 1 << 14


class Sample:
    """The good rows of the sample: `numbers` and `labels` of a column by the URL of the file. ``is_whole``: it is all rows."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, cells: CellTable, found: Sources, scratch: Path):
        self._connection = connection
        sources = _sampled(found, scratch)
        self.is_whole = sources is found
        urls = [file.url for file in found.files]
        self._url_of_path = {file.path: url for file, url in zip(sources.files, urls, strict=True)}
        bind = Bind()
        query = cells.sampled_sql(sources, bind)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE sampled AS {query}", bind.values)

    def numbers(self, column: str) -> dict[str, np.ndarray]:
        """Return the numbers of a column of the table ``sampled`` by file, sorted."""
        query = f"SELECT file, {column} FROM sampled WHERE {column} IS NOT NULL ORDER BY ALL"
        found = self._connection.execute(query).fetchnumpy()
        files, values = np.asarray(found["file"], dtype=str), np.asarray(found[column], dtype=np.float64)
        if not len(values):
            return {}
        names, starts = np.unique(files, return_index=True)
        return {self._url_of_path[str(name)]: part for name, part in zip(names, np.split(values, starts[1:]), strict=True)}

    def labels(self, column: str, kind: Kind) -> dict[str, frozenset[str]]:
        """Return the labels of a raw column by file; of more than `MAX_LABELS` in all, none."""
        distinct = f"SELECT DISTINCT file, {column} FROM sampled"
        label = label_sql(column, kind)
        rows = self._connection.execute(f"SELECT DISTINCT file, {label} FROM ({distinct}) LIMIT {MAX_LABELS + 1}").fetchall()
        found: dict[str, set[str]] = {}
        for path, text in rows if len(rows) <= MAX_LABELS else ():
            if text:
                found.setdefault(self._url_of_path[path], set()).add(text)
        return {url: frozenset(labels) for url, labels in found.items()}


def _sampled(found: Sources, scratch: Path) -> Sources:
    if not found.is_text:
        if any(name.lower() == "file_row_number" for file in found.files for name in file.columns):  # DuckDB's name for it
            return found
        every = -(-(found.num_rows or 0) // MAX_ROWS)
        return replace(found, every=every) if every > 1 else found
    every = -(-sum(file.num_lines or 0 for file in found.files) // MAX_ROWS)
    if every <= 1:
        return found
    files = tuple(_copy(file, every, scratch / f"sample-{i}.csv") for i, file in enumerate(found.files))
    return replace(found, files=files)


def _copy(file: SourceFile, every: int, path: Path) -> SourceFile:
    """The header of a text file, and the whole lines of blocks that are ``every`` blocks apart, as a file of its own."""
    with storage.opened(file.path) as handle, open(path, "wb") as copy:
        plain = cast(IO[bytes], gzip.GzipFile(fileobj=handle)) if file.path.lower().endswith(".gz") else handle
        header = _first_line(plain)
        copy.write(header.rstrip(b"\r\n") + b"\n")
        copy.writelines(_lines(plain, len(header), every))
    return replace(file, path=str(path))


def _first_line(plain: IO[bytes]) -> bytes:
    """With its end, of whichever kind: CR, LF or both."""
    begin = b""
    while block := plain.read(BLOCK_BYTES):
        begin += block
        if (end := re.search(rb"\r\n|\n|\r(?=.)", begin, re.DOTALL)) is not None:
            return begin[: end.end()]
    return begin


def _lines(plain: IO[bytes], start: int, every: int) -> Iterator[bytes]:
    place = start
    while True:
        plain.seek(place)
        block = plain.read(BLOCK_BYTES)
        if not block:
            return
        lines = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        whole: Sequence[bytes] = lines[0 if place == start else 1 : -1]
        yield b"".join(line + b"\n" for line in whole)
        place += BLOCK_BYTES * every
