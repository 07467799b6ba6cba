"""What workers do for a user's model: fit a shard's site, and pass over a shard a last time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cluster import compile_cache, user_code, user_site_files
from fitting import user_locals, user_shards, user_tilted
from fitting.user_gaussian import Gaussian, Moments
from fitting.user_locals import LastPass
from fitting.user_model import Shard
from fitting.user_tilted import NUTS, VI, SiteFit
from sharding import store

Levels = tuple[tuple[str, tuple[str, ...]], ...]


class UserModelRef(NamedTuple):
    """Which model, and where its shards are: small and hashable. ``levels`` are those of the global factors."""

    directory: str
    path: str
    sha256: str
    levels: Levels


class UserSiteTask(NamedTuple):
    """Fit the site of shard ``number`` in ``round`` and write it at ``url``, unless it is there with ``key``."""

    ref: UserModelRef
    entry: dict[str, Any]
    number: int
    round: int
    seed: int
    key: str
    url: str
    posterior: Moments
    site: Gaussian
    method: NUTS | VI


class UserLastTask(NamedTuple):
    """Pass over shard ``number`` at draws of the unconstrained globals, (M, d)."""

    ref: UserModelRef
    entry: dict[str, Any]
    number: int
    round: int
    seed: int
    g: np.ndarray


def fit_site(task: UserSiteTask) -> SiteFit:
    """Fit, publish and return one shard's site; a site already there with the task's key is returned as it is."""
    current = user_site_files.read_if_current(task.url, task.key)
    if current is not None:
        return current
    compile_cache.use()
    sharded = user_code.load(task.ref.path, task.ref.sha256)
    key = user_tilted.shard_key(task.seed, task.number, task.round)
    fit = user_tilted.fit(key, sharded, load_shard(task.ref, task.entry), task.posterior, task.site, task.method)
    user_site_files.write(task.url, fit, task.key)
    return fit


def last_pass(task: UserLastTask) -> LastPass:
    """Marginal likelihood and locals of one shard at the task's draws."""
    compile_cache.use()
    sharded = user_code.load(task.ref.path, task.ref.sha256)
    key = user_tilted.shard_key(task.seed, task.number, task.round)
    return user_locals.run(key, sharded, load_shard(task.ref, task.entry), task.g)


def load_shard(ref: UserModelRef, entry: dict[str, Any]) -> Shard:
    """Read and code a shard, or take it from this process's cache."""
    return _load(ref, tuple(sorted(entry.items())))


@lru_cache(maxsize=8)
def _load(ref: UserModelRef, items: tuple[tuple[str, Any], ...]) -> Shard:
    entry = dict(items)
    columns = store.read_shard(ref.directory, entry)
    return user_shards.code_shard(user_code.load(ref.path, ref.sha256), entry["shard_id"], columns, dict(ref.levels))
