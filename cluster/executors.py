"""The executor that runs tasks in this process, and the choice of one for a run."""

import math
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cluster.errors import MissingExtraError
from cluster.execution import Executor, Outcome, run_task
from cluster.threads import one_blas_thread

if TYPE_CHECKING:
    from cluster.config import RunSection

RAY_SECONDS = 10.0
"""What Ray takes of a run on one machine: its start, its workers' imports, its own processes (`python -m benchmarks.break_even`)."""


class SerialExecutor:
    """Runs tasks one after the other in this process, on one BLAS thread."""

    def map_unordered(
        self, fn: Callable[[Any], Any], tasks: Iterable[Any], *,
        num_tasks: int | None = None, max_in_flight: int | None = None, memory_bytes: int = 0,
    ) -> Iterator[Outcome]:  # fmt: skip
        """See `Executor.map_unordered`; one task at a time, whatever ``max_in_flight``."""
        with one_blas_thread():  # once: to look for the BLAS libraries takes as long as the fit of a small shard
            for task in tasks:
                ran = run_task(fn, task)
                yield Outcome(task, ran.value, ran.error, ran.seconds, attempt=1)

    def watch(self, tell: Callable[[int], object]) -> None:
        """See `Executor.watch`: it is this process's core."""

    def close(self) -> None:
        """Nothing to give back."""


def is_serial(run: "RunSection", work_seconds: float | None) -> bool:
    """Whether `make` returns an executor that runs tasks in this process."""
    if run.executor != "auto" or run.is_on_cluster:
        return run.executor == "serial"
    work = math.inf if work_seconds is None else work_seconds
    return run.workers == 1 or not _has_ray() or work * (1 - 1 / run.workers) < RAY_SECONDS


def _has_ray() -> bool:
    return find_spec("ray") is not None


def make(run: "RunSection", *, work_seconds: float | None = None) -> Executor:
    """Return the executor that ``run.executor`` names.

    ``auto`` is the cluster that this process is a job of, if it is one; otherwise Ray where it is installed and its workers
    would save more of ``work_seconds`` (of one core, `cluster.plan.work_seconds`; None: unknown, many) than the
    `RAY_SECONDS` that it costs.

    Ray is imported here and only if it is asked for. Call before JAX starts in this process: Ray starts its processes
    by fork, which a running JAX does not survive reliably.

    Raises
    ------
    MissingExtraError
        Ray is asked for and not installed.
    ClusterUnreachableError
        Ray does not start, or nothing answers at the address.
    """
    if is_serial(run, work_seconds):
        return SerialExecutor()
    if not _has_ray():
        raise MissingExtraError("ray", f"run.executor: {run.executor}", "set `run.executor: serial`")
    from cluster.ray_executor import RayExecutor

    if not run.is_on_cluster:
        return RayExecutor(address="local", workers=run.workers)
    address = "auto" if run.executor == "auto" else run.executor
    return RayExecutor(address=address, workers=run.workers, task_gpus=run.task_gpus, ship_code=run.ship_code)
