"""Sites on disk: one Arrow file per shard, with the key of what it was fitted from and a checksum of what it says."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cluster import sealed_files
from fitting.sites import Site
from fitting.tree import Restriction, Tree
from sharding import storage
from sharding.errors import ShardCorruptError, StorageError


class SiteFile(NamedTuple):
    """A shard's site, the nodes of the tree that it covers (one array per level), and what it was fitted from."""

    site: Site
    nodes: tuple[np.ndarray, ...]
    key: str

    def restriction(self, tree: Tree) -> Restriction:
        """The part of the tree that the site is written on."""
        return tree.restrict(self.nodes)


def name(shard_id: str, number: int, key: str) -> str:
    """The path, in a run directory, of the site of a shard and round that was made from ``key``."""
    return f"sites/{shard_id}.{storage.sha256_bytes(key.encode())[:12]}.round-{number:02d}.arrow"


def round_of(path: str) -> int:
    """The round in a :func:`name`; -1 where the file is no site."""
    stem, _, number = path.removesuffix(".arrow").rpartition(".round-")
    return int(number) if stem and number.isdigit() else -1


def commit(url: str, file: SiteFile) -> SiteFile:
    """Publish a site unless one of its key is there, and return the one that is: of two attempts the first counts.

    The name has the key in it, so two attempts at one task meet here, and an attempt at another task does not.
    """
    if storage.create_bytes(url, _bytes(file)):
        return file
    committed = read_if_current(url, file.key)
    if committed is None:  # damaged
        write(url, file)
    return committed or file


def write(url: str, file: SiteFile) -> None:
    """Publish a site. The same site gives the same bytes."""
    storage.publish_bytes(url, _bytes(file))


def _bytes(file: SiteFile) -> bytes:
    arrays = [*file.site, *(nodes.astype(np.float64) for nodes in file.nodes)]
    bounds = np.cumsum([0, *(len(a) for a in arrays)], dtype=np.int32)
    table = pa.table({"values": pa.ListArray.from_arrays(bounds, np.concatenate(arrays))})
    return sealed_files.seal(table, arrays, file.key)


def read(url: str) -> SiteFile:
    """Read a site.

    Raises
    ------
    ShardCorruptError
        The file is not one that :func:`write` made, or its numbers are not those that were written.
    """
    table, about = sealed_files.unseal(url)
    try:
        values = table.column("values").combine_chunks()
        flat, bounds = values.flatten().to_numpy(), values.offsets.to_numpy()
        arrays = [flat[a:b] for a, b in pairwise(bounds.tolist())]
        sealed_files.check(url, arrays, about)
    except (pa.ArrowException, KeyError, ValueError, AttributeError) as error:
        raise sealed_files.corrupt(url, type(error).__name__) from None
    if len(arrays) < 4:
        raise sealed_files.corrupt(url, f"{len(arrays)} arrays")
    return SiteFile(Site(*arrays[:4]), tuple(a.astype(np.int64) for a in arrays[4:]), about["key"])


def read_if_current(url: str, key: str) -> SiteFile | None:
    """The site at ``url`` if it is whole and was fitted from ``key``; otherwise it has to be fitted again."""
    try:
        file = read(url)
    except (ShardCorruptError, StorageError):
        return None
    return file if file.key == key else None
