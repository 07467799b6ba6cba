"""Sites of a user's model on disk: one Arrow file per shard and round, with the key of what it was fitted from."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa

from fitting.user_gaussian import Gaussian
from fitting.user_tilted import SiteFit
from sharding import storage
from sharding.errors import ShardCorruptError, StorageError

SCHEMA_VERSION = "1"


def write(url: str, fit: SiteFit, key: str) -> None:
    """Publish a site with its health. The same site gives the same bytes."""
    values = [np.ravel(fit.site.precision), fit.site.shift]
    info = {name: None if not np.isfinite(value) else value for name, value in fit.info().items()}
    table = pa.table({"precision": [values[0]], "shift": [values[1]]})
    table = table.replace_schema_metadata({
        "schema_version": SCHEMA_VERSION, "key": key, "sha256": _checksum(values), "info": json.dumps(info, sort_keys=True)
    })  # fmt: skip
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    storage.publish_bytes(url, sink.getvalue())


def read(url: str) -> tuple[SiteFit, str]:
    """Read a site and its key.

    Raises
    ------
    ShardCorruptError
        The file is not one that :func:`write` made, or its numbers are not those that were written.
    """
    try:
        with pa.ipc.open_file(io.BytesIO(storage.read_bytes(url))) as reader:
            table = reader.read_all()
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        values = [table[name].combine_chunks().flatten().to_numpy() for name in ("precision", "shift")]
        if metadata["schema_version"] != SCHEMA_VERSION or _checksum(values) != metadata["sha256"]:
            raise _corrupt(url, "another checksum or schema version")
        site = Gaussian(values[0].reshape(len(values[1]), -1), values[1])
        return SiteFit(site, **_info(json.loads(metadata["info"]))), metadata["key"]
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise _corrupt(url, type(error).__name__) from None


def read_if_current(url: str, key: str) -> SiteFit | None:
    """The site at ``url`` if it is whole and was fitted from ``key``; otherwise it has to be fitted again."""
    try:
        fit, found = read(url)
    except (ShardCorruptError, StorageError):
        return None
    return fit if found == key else None


def _info(stored: dict[str, Any]) -> dict[str, Any]:
    absent = {"r_hat": float("nan"), "mcse": float("inf"), "num_effective": float("inf")}
    found = {name: absent.get(name, float("nan")) if value is None else value for name, value in stored.items()}
    return {**found, "is_proper": bool(found["is_proper"]), "num_divergent": int(found["num_divergent"])}


def _checksum(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.int64(len(array)).tobytes())
        digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return digest.hexdigest()


def _corrupt(url: str, found: str) -> ShardCorruptError:
    return ShardCorruptError(
        repr(url), found, "a site file as it was written", "Run again: this shard is refitted and the others are kept."
    )
