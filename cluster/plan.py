"""What a run will take, before it is started: shards, cells, bytes, memory and time.

Before ingest the number of cells is not known, only that it is at most the number of rows and that no shard has more than
`shards.target_cells`; memory is projected from that. Afterwards the manifest of the shards says it.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from cluster.config import RunConfig
from cluster.errors import MemoryProjectionError
from sharding import storage

PROCESS_BYTES = 450 * 2**20
"""A process that has imported numpy, scipy and JAX and compiled a model."""

SECONDS_PER_CELL_ROUND = 2e-6
"""Seconds per cell and round on one core; 0.5e-6 to 4e-6, growing with the coefficients that meet in a cell."""

_ARRAYS_PER_NODE = 3  # value, first and second derivative of the log likelihood at every quadrature node
_BYTES_PER_NUMBER = 8
_SECONDS_TO_START_RAY = 6.0
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


def make(config: RunConfig, directory: str) -> Plan:
    """Project the run; reads directory entries and Parquet footers, no rows."""
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
    workers = 1 if config.run.executor == "serial" else config.run.workers
    nodes = getattr(config.fit, "quadrature_nodes", 1)
    cell_bytes = _BYTES_PER_NUMBER * (_ARRAYS_PER_NODE * nodes + 4 * terms)
    shard_bytes = math.ceil(_MARGIN * largest * cell_bytes)
    draws_bytes = config.fit.draws * config.fit.chains * _num_coefficients(directory) * _BYTES_PER_NUMBER
    at_driver = shard_bytes if workers == 1 else 0
    seconds = None
    if cells is not None:
        seconds = cells * (config.fit.rounds + 5) * SECONDS_PER_CELL_ROUND / workers
        seconds += _SECONDS_TO_START_RAY if workers > 1 else 0.0
    return Plan(
        num_files=len(files),
        source_bytes=sum(storage.fingerprint(file)["num_bytes"] for file in files),
        num_rows=rows,
        num_cells=cells,
        largest_shard_cells=largest,
        num_shards=num_shards,
        workers=workers,
        worker_bytes=PROCESS_BYTES + shard_bytes,
        driver_bytes=PROCESS_BYTES + math.ceil(3 * draws_bytes) + at_driver,
        available_bytes=available_bytes(),
        seconds=seconds,
        is_estimate=manifest is None,
    )


def check(config: RunConfig, directory: str) -> Plan:
    """Return the plan, or refuse a run that would not fit into memory.

    Raises
    ------
    MemoryProjectionError
        With what is needed and what there is. A cluster that was not started here is not measured.
    """
    plan = make(config, directory)
    is_here = config.run.executor in ("serial", "ray", "auto")
    if is_here and plan.needed_bytes > plan.available_bytes:
        what = f"the driver with {plan.workers} workers on shards of {plan.largest_shard_cells:,} cells"
        do = "Lower `run.workers`, `shards.target_cells` or `fit.draws`."
        raise MemoryProjectionError(plan.needed_bytes, plan.available_bytes, what, do)
    return plan


def num_cells(directory: str) -> int | None:
    """Return the number of cells in all shards, None before ingest."""
    manifest = _shard_manifest(directory)
    return None if manifest is None else sum(shard["num_cells"] for shard in manifest["shards"])


def available_bytes() -> int:
    """Return the memory that may still be used: of this machine, or of the container if that has less."""
    import psutil

    available = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        available = min(available, max(0, int(text) - int(used.read_text())))
    return available


def _shard_manifest(directory: str) -> dict | None:
    file = os.path.join(directory, "shards", "manifest.json")
    return storage.read_json(file) if os.path.exists(file) else None


def _num_coefficients(directory: str) -> int:
    """Return levels of all groups and factors, a few too many; 5,000 (a nation with its counties) before ingest."""
    file = os.path.join(directory, "dictionary.json")
    if not os.path.exists(file):
        return 5_000
    dictionary = storage.read_json(file)
    groups = sum(len(combinations) for combinations in dictionary["groups"].values())
    return 1 + groups + sum(len(factor["levels"]) for factor in dictionary["factors"].values())


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
