"""Sites on disk: one Arrow file per shard, with the key of what it was fitted from and a checksum of what it says."""

from __future__ import annotations

import hashlib
import io
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fitting.sites import Site
from fitting.tree import Restriction, Tree
from sharding import storage
from sharding.errors import ShardCorruptError, StorageError

SCHEMA_VERSION = "1"


class SiteFile(NamedTuple):
    """A shard's site, the nodes of the tree that it covers (one array per level), and what it was fitted from."""

    site: Site
    nodes: tuple[np.ndarray, ...]
    key: str

    def restriction(self, tree: Tree) -> Restriction:
        """The part of the tree that the site is written on."""
        return tree.restrict(self.nodes)


def write(url: str, file: SiteFile) -> None:
    """Publish a site. The same site gives the same bytes."""
    arrays = [*file.site, *(nodes.astype(np.float64) for nodes in file.nodes)]
    bounds = np.cumsum([0, *(len(a) for a in arrays)], dtype=np.int32)
    table = pa.table({"values": pa.ListArray.from_arrays(bounds, np.concatenate(arrays))})
    table = table.replace_schema_metadata(
        {"schema_version": SCHEMA_VERSION, "key": file.key, "sha256": _checksum(arrays)}
    )
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    storage.publish_bytes(url, sink.getvalue())


def read(url: str) -> SiteFile:
    """Read a site.

    Raises
    ------
    ShardCorruptError
        The file is not one that :func:`write` made, or its numbers are not those that were written.
    """
    try:
        with pa.ipc.open_file(io.BytesIO(storage.read_bytes(url))) as reader:
            table = reader.read_all()
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        values = table.column("values").combine_chunks()
        flat, bounds = values.flatten().to_numpy(), values.offsets.to_numpy()
        arrays = [flat[a:b] for a, b in pairwise(bounds.tolist())]
        damaged = metadata["schema_version"] != SCHEMA_VERSION or _checksum(arrays) != metadata["sha256"]
    except (pa.ArrowException, KeyError, ValueError, UnicodeDecodeError) as error:
        raise _corrupt(url, type(error).__name__) from None
    if damaged or len(arrays) < 3:
        raise _corrupt(url, "another checksum or schema version")
    return SiteFile(Site(*arrays[:3]), tuple(a.astype(np.int64) for a in arrays[3:]), metadata["key"])


def read_if_current(url: str, key: str) -> SiteFile | None:
    """The site at ``url`` if it is whole and was fitted from ``key``; otherwise it has to be fitted again."""
    try:
        file = read(url)
    except (ShardCorruptError, StorageError):
        return None
    return file if file.key == key else None


def _checksum(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.int64(len(array)).tobytes())
        digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return digest.hexdigest()


def _corrupt(url: str, found: str) -> ShardCorruptError:
    return ShardCorruptError(
        repr(url),
        found,
        "a site file as it was written",
        "Run the fit again: it refits this shard and keeps the others.",
    )
