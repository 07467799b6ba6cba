"""Sites of a user's model on disk: one Arrow file per shard and round, with the key of what it was fitted from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from cluster import sealed_files
from fitting.user_gaussian import Gaussian
from fitting.user_tilted import SiteFit
from sharding import storage
from sharding.errors import ShardCorruptError, StorageError


def write(url: str, fit: SiteFit, key: str) -> None:
    """Publish a site with its health. The same site gives the same bytes."""
    values = [np.ravel(fit.site.precision), fit.site.shift]
    info = {name: None if not np.isfinite(value) else value for name, value in fit.info().items()}
    table = pa.table({"precision": [values[0]], "shift": [values[1]]})
    storage.publish_bytes(url, sealed_files.seal(table, values, key, info=json.dumps(info, sort_keys=True)))


def read(url: str) -> tuple[SiteFit, str]:
    """Read a site and its key.

    Raises
    ------
    ShardCorruptError
        The file is not one that :func:`write` made, or its numbers are not those that were written.
    """
    table, about = sealed_files.unseal(url)
    try:
        values = [table[name].combine_chunks().flatten().to_numpy() for name in ("precision", "shift")]
        sealed_files.check(url, values, about)
        site = Gaussian(values[0].reshape(len(values[1]), -1), values[1])
        return SiteFit(site, **_info(json.loads(about["info"]))), about["key"]
    except (pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as error:
        raise sealed_files.corrupt(url, type(error).__name__) from None


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
