"""The files of the cells: shards, manifest and dictionary, written once and verified before they are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharding import storage
from sharding.dictionary import Dictionary
from sharding.errors import ShardCorruptError, StorageError
from sharding.plan import PlannedShard

SCHEMA_VERSION = 2
"""Of what the columns of cells are and mean; 1 had sums of squares about zero."""
ROWS_PER_GROUP = 1 << 17
NUM_WRITERS = 4
MAX_CELLS_HELD = 1 << 18
DICTIONARY = "dictionary.json"
MANIFEST = "shards/manifest.json"


def write_shards(
    directory: str, plan: Sequence[PlannedShard], cells: pa.RecordBatchReader, has_keyed_trials: bool = False
) -> Iterator[dict[str, Any]]:
    """Cut the sorted stream ``cells`` as planned, and yield the manifest entry of every shard once it is published.

    The same cells give the same bytes: fixed order, fixed row groups, no time stamp. A few threads write at once, since
    most of the time of a small file is waiting for the disk; shards too large to hold are written one at a time.
    With ``has_keyed_trials`` a known outcome of a cell is as many as its key says trials.
    """
    schema = cells.schema.with_metadata({"schema_version": str(SCHEMA_VERSION)})
    stream = _Stream(cells, schema)
    pending: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        for shard in plan:
            if shard.num_cells <= MAX_CELLS_HELD:
                pieces = list(stream.take(shard.num_cells))
                pending.append(writers.submit(_write_shard, directory, shard, schema, pieces, has_keyed_trials))
            while pending and (len(pending) >= NUM_WRITERS or shard.num_cells > MAX_CELLS_HELD):
                yield pending.popleft().result()
            if shard.num_cells > MAX_CELLS_HELD:
                yield _write_shard(directory, shard, schema, stream.take(shard.num_cells), has_keyed_trials)
        while pending:
            yield pending.popleft().result()
    assert stream.is_exhausted(), "the plan covers all cells"


def _write_shard(
    directory: str, shard: PlannedShard, schema: pa.Schema, pieces: Iterable[pa.Table], has_keyed_trials: bool
) -> dict[str, Any]:
    path = f"shards/{shard.shard_id}.parquet"
    num_rows = num_trials = 0
    with (
        storage.publishing(storage.join(directory, path)) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for table in pieces:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            num_rows += pc.sum(table["num_rows"]).as_py()
            known = table["num_known" if "num_known" in schema.names else "num_trials"]
            num_trials += int(pc.sum(pc.multiply(known, table["trials"]) if has_keyed_trials else known).as_py())
    return {
        "shard_id": shard.shard_id, "path": path, "num_cells": shard.num_cells, "num_rows": num_rows,
        "num_trials": num_trials, "num_bytes": file.num_bytes, "sha256": file.sha256,
    }  # fmt: skip


def read_shard(directory: str, entry: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a shard as arrays of shape (num_cells,), after its bytes were verified.

    Factor columns are int32 codes, numeric columns raw float64, counts int64, sums and weighted counts float64.

    Parameters
    ----------
    entry
        The shard's entry in the manifest.

    Raises
    ------
    ShardCorruptError
        If the file is missing or not the one that the manifest describes.
    """
    url = storage.join(directory, entry["path"])
    where = f"shard {entry['shard_id']!r}, file {url!r}"
    do = "Delete the run's shards/manifest.json and run ingest again."
    try:
        data = storage.read_bytes(url)
    except StorageError as error:
        raise ShardCorruptError(where, "no file", "the file that the manifest names", do) from error
    digest = storage.sha256_bytes(data)
    if digest != entry["sha256"]:
        raise ShardCorruptError(
            where, f"{len(data):,} bytes with sha256 {digest[:12]}...",
            f"{entry['num_bytes']:,} bytes with sha256 {entry['sha256'][:12]}...", do
        )  # fmt: skip
    try:
        table = pq.read_table(pa.BufferReader(data), use_threads=False)  # a worker has one core
    except (pa.ArrowException, OSError) as error:  # its checksum is right, so somebody wrote both
        raise ShardCorruptError(where, f"no Parquet ({type(error).__name__})", "a Parquet file", do) from None
    version = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ShardCorruptError(where, f"schema_version {version}", str(SCHEMA_VERSION), do)
    return {name: table[name].to_numpy() for name in table.column_names}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and value != ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**53


_ENTRY: dict[str, Callable[[object], bool]] = {
    "shard_id": _is_text, "path": _is_text, "sha256": _is_text,
    "num_cells": _is_count, "num_rows": _is_count, "num_trials": _is_count, "num_bytes": _is_count,
}  # fmt: skip
"""What the manifest says of a shard, and what each may be."""


def read_manifest(directory: str) -> dict[str, Any]:
    """Return `shards/manifest.json`; its shards are in the order of their cells.

    Raises
    ------
    StorageError, ShardCorruptError
        If it is missing, or not a manifest of this version.
    """
    url = storage.join(directory, MANIFEST)
    manifest = storage.read_json(url)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise ShardCorruptError(repr(url), f"schema_version {version!r}", str(SCHEMA_VERSION), "Run ingest again.")
    entries = manifest.get("shards")
    for entry in entries if isinstance(entries, list) else [None]:
        wrong = [key for key, is_right in _ENTRY.items() if not isinstance(entry, dict) or not is_right(entry.get(key))]
        if wrong:
            raise ShardCorruptError(
                repr(url), f"a shard whose {wrong[0]!r} is missing or wrong", "text, whole counts and a checksum",
                "Delete the file and run ingest again; if nobody damaged it, ask who could write there."
            )  # fmt: skip
    return dict(manifest)


def read_dictionary(directory: str) -> Dictionary:
    """Return the dictionary of a run; errors as for :func:`read_manifest`."""
    return Dictionary.from_json(storage.read_json(storage.join(directory, DICTIONARY)))


class _Stream:
    """Record batches, handed out in runs of given lengths and in pieces of at most one row group."""

    def __init__(self, batches: pa.RecordBatchReader, schema: pa.Schema):
        self._batches = iter(batches)
        self._schema = schema
        self._held = schema.empty_table()

    def take(self, num_rows: int) -> Iterator[pa.Table]:
        while num_rows > 0:
            size = min(num_rows, ROWS_PER_GROUP)
            parts = [self._held]
            while sum(part.num_rows for part in parts) < size:
                parts.append(pa.Table.from_batches([next(self._batches)]).cast(self._schema))
            table = pa.concat_tables(parts).combine_chunks()
            yield table.slice(0, size).combine_chunks()
            self._held = table.slice(size)
            num_rows -= size

    def is_exhausted(self) -> bool:
        return self._held.num_rows == 0 and all(batch.num_rows == 0 for batch in self._batches)
