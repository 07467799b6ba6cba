"""What a run will take, before it is started: shards, cells, bytes, memory and time.

Before ingest the number of cells is not known, only that it is at most the number of rows and that no shard has more than
`shards.target_cells`; memory is projected from that. Afterwards the manifest of the shards says it.

A worker grows with its shard: its cells, and the draws of the coefficients that occur in it. The driver holds arrays of the
merged posterior's entries, a few dozen numbers per coefficient, and never all draws (figures: docs/precincts.md).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import executors
from cluster.config import RunConfig
from cluster.errors import MemoryProjectionError
from cluster.threads import usable_cores
from fitting.config import ClassicConfig, FitConfig, NUTSConfig
from fitting.errors import ModelError
from sharding import storage

PROCESS_BYTES = 450 * 2**20
"""A process that has imported numpy, scipy and JAX and compiled a model."""

SECONDS_PER_CELL_ROUND = 2e-6
"""Of a variational fit on one core; 0.5e-6 to 4e-6, growing with the coefficients that meet in a cell."""
_USUAL_ROUNDS = 6
_SECONDS_PER_CELL_DRAW = 5e-7  # of NUTS: all the gradients of one of its draws
_SECONDS_PER_CELL_PREDICTION = 2e-8  # of a draw of the posterior, in the audit and in the sums of the estimates

_DRIVER_ARRAYS = 20  # of all entries of the tree: sites, moments, their places and sums
_DRIVER_ARRAYS_PER_THREAD = 8  # factor, update and covariances of one set of scales, and results waiting for their turn
_MODEL_BYTES = 1_000  # names, codes and places of one coefficient, in every process
_CACHED_BYTES = 8  # of each nonzero of a cell, in the worker's cache of shards
_COPIES_OF_DRAWS = 4  # as read, transposed, by margin, by group
_NO_DATA = (5_000, 5_000 * 60)  # coefficients and entries of a nation with its counties
_ARRAYS_PER_NODE = 3  # value, first and second derivative of the log likelihood at every quadrature node
_BYTES_PER_NUMBER = 8
_MARGIN = 1.2


@dataclass(frozen=True)
class Plan:
    """A projection; ``is_estimate`` until the data are ingested, when cells and shards are counted."""

    num_files: int
    source_bytes: int
    num_rows: int | None
    num_cells: int | None
    largest_shard_cells: int
    num_shards: int | None
    workers: int
    worker_bytes: int
    driver_bytes: int
    available_bytes: int
    seconds: float | None
    is_estimate: bool

    @property
    def needed_bytes(self) -> int:
        """Driver and all workers together, at their worst."""
        return self.driver_bytes + (self.workers * self.worker_bytes if self.workers > 1 else 0)


def make(config: RunConfig, directory: str, driver_cores: int | None = None) -> Plan:
    """Project the run; reads directory entries and Parquet footers, no rows.

    ``driver_cores`` are those of the driver's machine, this one's if not given: it holds arrays for each.
    """
    from cluster import tasks
    from cluster.posterior_files import NUMBERS_AT_ONCE

    files = [file for source in config.data.source for file in storage.list_files(source)]
    manifest = _shard_manifest(directory)
    read = config.model.data_columns()
    smooth = sum(spline.degree + 1 for spline in config.model.splines.values())
    terms = len(read.factors) + len(read.predictors) + smooth + 1
    if manifest is None:
        rows = _num_rows(files)
        cells = None
        largest = min(config.shards.target_cells, rows or config.shards.target_cells)
        num_shards = config.shards.num_shards
    else:
        shards = manifest["shards"]
        rows = manifest["totals"]["rows_read"]
        cells = sum(shard["num_cells"] for shard in shards)
        largest = max((shard["num_cells"] for shard in shards), default=0)
        num_shards = len(shards)
    work = None if manifest is None else work_seconds(config, manifest["shards"])
    workers = 1 if executors.is_serial(config.run, work) else config.run.workers
    nodes = getattr(config.fit, "quadrature_nodes", 1)
    cell_bytes = _BYTES_PER_NUMBER * (_ARRAYS_PER_NODE * nodes + 4 * terms)
    shard_bytes = math.ceil(_MARGIN * largest * cell_bytes)
    coefficients, entries = _size_of_model(config, directory)
    share = largest / cells if cells else 1.0
    draws_bytes = config.fit.draws * config.fit.chains * coefficients * _BYTES_PER_NUMBER
    cached = min(tasks.CACHE_BYTES, (cells or largest) * terms * _CACHED_BYTES)
    own_draws = math.ceil(_COPIES_OF_DRAWS * share * draws_bytes)
    at_shard = shard_bytes + cached + own_draws
    arrays = _DRIVER_ARRAYS + _DRIVER_ARRAYS_PER_THREAD * (driver_cores or usable_cores())
    at_driver = arrays * entries * _BYTES_PER_NUMBER + min(3 * draws_bytes, 3 * _BYTES_PER_NUMBER * NUMBERS_AT_ONCE)
    if config.fit.method == "exact" or config.poststratify.frame != "file":
        at_driver += 3 * draws_bytes  # these hold all draws at once
    model_bytes = _MODEL_BYTES * coefficients
    return Plan(
        num_files=len(files),
        source_bytes=sum(storage.fingerprint(file)["num_bytes"] for file in files),
        num_rows=rows,
        num_cells=cells,
        largest_shard_cells=largest,
        num_shards=num_shards,
        workers=workers,
        worker_bytes=PROCESS_BYTES + model_bytes + at_shard * config.run.shards_per_task,
        driver_bytes=PROCESS_BYTES + model_bytes + at_driver + (at_shard if workers == 1 else 0),
        available_bytes=available_bytes(),
        seconds=None if work is None else work / workers + (executors.RAY_SECONDS if workers > 1 else 0.0),
        is_estimate=manifest is None,
    )


def check(config: RunConfig, directory: str) -> Plan:
    """Return the plan, or refuse a run that would not fit into memory.

    Raises
    ------
    MemoryProjectionError
        With what is needed and what there is. Of a cluster that was not started here only the driver is here; tasks ask the
        cluster for their memory.
    """
    plan = make(config, directory)
    what = f"the driver with {plan.workers} workers on shards of {plan.largest_shard_cells:,} cells"
    needed, do = plan.needed_bytes, "Lower `run.workers`, `shards.target_cells` or `fit.draws`."
    if config.run.is_on_cluster:
        what, needed, do = "the driver", plan.driver_bytes, "Lower `fit.draws`, or run the driver on a larger machine."
    if needed > plan.available_bytes:
        raise MemoryProjectionError(needed, plan.available_bytes, what, do)
    return plan


def work_seconds(config: RunConfig, shards: Iterable[Mapping[str, Any]], *, is_fitted: bool = False) -> float:
    """What workers have to do in a run, in seconds of one core: fits (unless ``is_fitted``), audit and sums. Not the driver's merging.

    Right by a factor of three: rates are of ten coefficients a cell (`python -m benchmarks.break_even` and `benchmarks.weak_scaling`).

    Parameters
    ----------
    shards
        Their entries in the manifest. No more cells have an outcome than there are outcomes: of a survey matched to a voter file few.
    """
    sizes = [(shard["num_cells"], min(shard["num_cells"], shard["num_trials"])) for shard in shards]
    num_cells, num_known = (sum(size) for size in zip(*sizes, strict=True)) if sizes else (0, 0)
    fit = config.fit
    of_known = _SECONDS_PER_CELL_PREDICTION * config.audit.draws + (0.0 if is_fitted else _fit_seconds(fit))
    return num_known * of_known + num_cells * _SECONDS_PER_CELL_PREDICTION * fit.draws * fit.chains


def _fit_seconds(fit: FitConfig) -> float:
    """Of one cell, in all rounds."""
    from fitting.rounds import NUTS_ROUNDS

    if isinstance(fit, ClassicConfig):
        return _SECONDS_PER_CELL_DRAW * fit.chains * (fit.warmup + fit.draws)
    variational = SECONDS_PER_CELL_ROUND * min(fit.rounds, _USUAL_ROUNDS)
    if not isinstance(fit, NUTSConfig):
        return variational
    return variational + _SECONDS_PER_CELL_DRAW * NUTS_ROUNDS * fit.shard_chains * (fit.shard_warmup + fit.shard_draws)


def work_ahead(config: RunConfig, directory: str, *, is_fitted: bool) -> float | None:
    """`work_seconds` of the data that are ingested, None before."""
    manifest = _shard_manifest(directory)
    return None if manifest is None else work_seconds(config, manifest["shards"], is_fitted=is_fitted)


def available_bytes() -> int:
    """Return the memory that may still be used: of this machine, or of the container if that has less."""
    import psutil

    available = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        available = min(available, max(0, int(text) - int(used.read_text())))
    return available


def _shard_manifest(directory: str) -> dict | None:
    if not storage.exists(storage.join(directory, "shards/manifest.json")):
        return None
    from sharding import store  # pyarrow takes a second to import

    return store.read_manifest(directory)


def _size_of_model(config: RunConfig, directory: str) -> tuple[int, int]:
    """Return coefficients and stored entries of the model's tree; before ingest those of a nation with its counties."""
    from cluster import tasks, work

    file = storage.join(directory, "dictionary.json")
    if not storage.exists(file):
        return _NO_DATA
    try:
        tree = tasks.build_hierarchy(work.model_ref(directory, storage.read_bytes(file), config)).model.tree
    except ModelError:  # the dictionary is that of another formula: ingest will run again
        return _NO_DATA
    return tree.num_coefficients, tree.num_entries


def _num_rows(files: list[str]) -> int | None:
    """Return the rows of Parquet files by their footers; None where there is another format or a broken file."""
    import pyarrow
    import pyarrow.parquet as pq

    total = 0
    for file in files:
        if not file.endswith((".parquet", ".pq")):
            return None
        try:
            with storage.opened(file) as stream:
                total += pq.ParquetFile(stream).metadata.num_rows
        except pyarrow.ArrowInvalid:
            return None  # ingest says what is wrong with it
    return total
