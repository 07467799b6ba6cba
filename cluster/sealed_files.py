"""Arrow files that say what they were made from and carry a checksum of their numbers."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from sharding import storage
from sharding.errors import ShardCorruptError

SCHEMA_VERSION = "2"


def seal(table: pa.Table, arrays: Sequence[np.ndarray], key: str, **more: str) -> bytes:
    """Bytes of a file with ``table``, which holds ``arrays``. The same content gives the same bytes."""
    about = {"schema_version": SCHEMA_VERSION, "key": key, "sha256": checksum(arrays), **more}
    table = table.replace_schema_metadata(about)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def unseal(url: str) -> tuple[pa.Table, dict[str, str]]:
    """The table and what it says about itself; whoever knows the arrays in it calls :func:`check` on them.

    Raises
    ------
    ShardCorruptError
        No Arrow file, or one without a header of :func:`seal`.
    """
    try:
        with pa.ipc.open_file(io.BytesIO(storage.read_bytes(url))) as reader:
            table = reader.read_all()
        about = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    except (pa.ArrowException, ValueError) as error:
        raise corrupt(url, type(error).__name__) from None
    if not {"schema_version", "key", "sha256"} <= about.keys() or about["schema_version"] != SCHEMA_VERSION:
        raise corrupt(url, "another checksum or schema version")
    return table, about


def check(url: str, arrays: Sequence[np.ndarray], about: dict[str, str]) -> None:
    """Raise :class:`ShardCorruptError` if these are not the numbers that were sealed."""
    if checksum(arrays) != about["sha256"]:
        raise corrupt(url, "another checksum or schema version")


def checksum(arrays: Sequence[np.ndarray]) -> str:
    """Hexadecimal sha256 of float64 arrays with their lengths."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.int64(len(array)).tobytes())
        digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return digest.hexdigest()


def corrupt(url: str, found: str) -> ShardCorruptError:
    """The error for a site that is not as it was written."""
    return ShardCorruptError(
        repr(url), found, "a site file as it was written", "Run the fit again: it refits this shard and keeps the others."
    )
