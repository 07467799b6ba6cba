"""Fit, merge and audit of a run by a classic combiner (`fit.method: classic`): subposteriors on workers, one merge, no rounds.

A baseline and for teaching: the driver holds the cells of all shards, to see what they have in common and for the audit.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import population, posterior_files, tasks
from cluster.context import StageContext
from cluster.tasks import ModelRef
from cluster.threads import one_blas_thread
from cluster.work import Work, open_work
from fitting import classic, classic_fit, own_effects
from fitting.classic_fit import ClassicRun, ModelData
from fitting.config import ClassicConfig
from fitting.own_effects import Partition
from sharding import storage
from sharding.errors import ShardCorruptError, StorageError

if TYPE_CHECKING:
    from typing import Any

    from fitting.subposterior import Subposterior

INDEX = "sites/subposteriors.json"


class SampleTask(NamedTuple):
    """Sample one shard's subposterior; ``common`` (C,) and ``own`` (L,) are places in the whole tree."""

    ref: ModelRef
    entry: dict[str, Any]
    number: int
    key: str
    path: str
    common: np.ndarray
    own: np.ndarray
    kind: classic.Kind
    num_shards: int
    seed: int
    config: ClassicConfig


def sample_shard(task: SampleTask) -> None:
    """Sample and publish one shard's subposterior, unless it is there with the task's key."""
    if _is_current(task.path, task.key):
        return
    from fitting import subposterior  # JAX takes a second to import

    prior, shard = tasks.build_hierarchy(task.ref), tasks.load_shard(task.ref, task.entry)
    target = subposterior.target(
        prior, (shard.restriction, shard.design), task.common, task.own,
        kind=task.kind, num_shards=task.num_shards, where=f"shard {task.entry['shard_id']!r}",
    )  # fmt: skip
    sampler = subposterior.sampler(
        prior, num_warmup=task.config.warmup, num_draws=task.config.draws, num_chains=task.config.chains
    )
    key = subposterior.shard_key(task.seed, task.number)
    _write(task.path, task.key, subposterior.draw(sampler, key, target, len(task.common), len(task.own)))


def fit(context: StageContext) -> None:
    """Subposteriors of all shards, each by its own key."""
    work, config = open_work(context), _config(context)
    kind = classic.require(config.combiner).kind
    with one_blas_thread():
        partition = own_effects.partition(work.hierarchy, _shards(work))
        paths = [f"sites/{entry['shard_id']}.subposterior.parquet" for entry in work.entries]

        def items() -> Iterator[SampleTask]:
            for s in work.longest_first():
                entry, path = work.entries[s], storage.join(work.directory, paths[s])
                own = partition.own[s]
                yield SampleTask(
                    work.ref, entry, s, context.key, path, partition.common, own, kind, len(work.entries),
                    context.config.run.seed, config,
                )  # fmt: skip

        work.map(sample_shard, items())
    for url in storage.list_files(storage.join(work.directory, "sites")):
        if url.rpartition("/")[2] not in {path.rpartition("/")[2] for path in paths}:
            storage.remove(url)
    storage.publish_json(storage.join(work.directory, INDEX), {"schema_version": 1, "subposteriors": paths})


def merge(context: StageContext) -> None:
    """Merge by the combiner of the config; write the posterior and its summary."""
    work = open_work(context)
    with one_blas_thread():
        run = _merged(work)
        num_chains, num_draws = run.draws.theta.shape[:2]
        posterior_files.write(
            work.directory, work.hierarchy, posterior_files.parts_of(run.draws), context.config.name,
            num_chains=num_chains, num_draws=num_draws, acceptance=np.full(num_chains, run.draws.acceptance.mean()),
        )  # fmt: skip


def audit(context: StageContext) -> str:
    """Judge the merged draws on all of the data. Returns the verdict."""
    work = open_work(context)
    with one_blas_thread():
        run = _merged(work)
        result = classic_fit.audit(run, context.config.audit, threads=work.threads)
    for shown, entry in zip(result["shards"], work.entries, strict=True):
        shown |= {name: entry[name] for name in ("shard_id", "num_cells", "num_rows", "num_trials")}
    result |= {"blocks": [], "rounds": [], "levels": [], "prior_sensitivity": []}
    result["total"] = {"num_draws": int(np.prod(run.draws.theta.shape[:2]))}
    population.add(result, context.config, work.hierarchy.model.coding)
    storage.publish_json(storage.join(work.directory, "audit.json"), result)
    context.progress.update(score=max(abs(row["score"]) for row in result["coefficients"]))
    return str(result["verdict"])


def _config(context: StageContext) -> ClassicConfig:
    config = context.config.fit
    assert isinstance(config, ClassicConfig), "these stages run for that method only"
    return config


def _shards(work: Work) -> list[own_effects.Shard]:
    loaded = [tasks.load_shard(work.ref, entry) for entry in work.entries]
    return [(shard.restriction, shard.design) for shard in loaded]


def _merged(work: Work) -> ClassicRun:
    shards = _shards(work)
    data = ModelData(work.hierarchy, tuple(r for r, _ in shards), tuple(d for _, d in shards))
    paths = storage.read_json(storage.join(work.directory, INDEX))["subposteriors"]
    partition = own_effects.partition(work.hierarchy, shards)
    found = [_read(storage.join(work.directory, path), partition, s) for s, path in enumerate(paths)]
    return classic_fit.merge(
        data, partition, found, _config(work.context).combiner, seed=work.context.config.run.seed
    )


# ---- files: a column for each coordinate, a row for each draw, chains one after the other ----


def _write(url: str, key: str, found: Subposterior) -> None:
    flat = np.concatenate([found.common, found.psi, found.own], axis=-1)
    columns = {f"x{j}": flat[..., j].ravel() for j in range(flat.shape[-1])}
    scalars = {name: repr(getattr(found, name)) for name in ("r_hat", "ess_bulk", "num_divergent", "acceptance")}
    sizes = {"num_chains": str(flat.shape[0]), "num_psi": str(found.psi.shape[-1])}
    table = pa.table(columns).replace_schema_metadata({"schema_version": "1", "key": key, **sizes, **scalars})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    storage.publish_bytes(url, sink.getvalue())


def _is_current(url: str, key: str) -> bool:
    try:
        return bool(_table(url)[1]["key"] == key)
    except (ShardCorruptError, StorageError):
        return False


def _table(url: str) -> tuple[pa.Table, dict[str, str]]:
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(url)))
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        if metadata["schema_version"] == "1":
            return table, metadata
        found = f"schema version {metadata['schema_version']}"
    except (pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        found = type(error).__name__
    raise ShardCorruptError(repr(url), found, "draws of a subposterior as they were written", "Run the fit again.")


def _read(url: str, partition: Partition, shard: int) -> Subposterior:
    from fitting.subposterior import Subposterior

    table, metadata = _table(url)
    flat = np.stack([column.to_numpy() for column in table.columns], axis=-1)
    draws = flat.reshape(int(metadata["num_chains"]), -1, flat.shape[-1])
    num_common, num_psi = len(partition.common), int(metadata["num_psi"])
    if draws.shape[-1] != num_common + num_psi + len(partition.own[shard]):
        raise ShardCorruptError(repr(url), f"{draws.shape[-1]} coordinates", "those of the model", "Run the fit again.")
    common, psi, own = np.split(draws, [num_common, num_common + num_psi], axis=-1)
    return Subposterior(
        common, psi, own, float(metadata["r_hat"]), float(metadata["ess_bulk"]), int(metadata["num_divergent"]),
        float(metadata["acceptance"]),
    )  # fmt: skip
