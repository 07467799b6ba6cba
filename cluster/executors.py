"""The executor that runs tasks in this process, and the choice of one for a run."""

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cluster.errors import MissingExtraError
from cluster.execution import Executor, Outcome, run_task
from cluster.threads import one_blas_thread

if TYPE_CHECKING:
    from cluster.config import RunSection

MIN_CELLS_FOR_RAY = 100_000  # about five seconds of work on one core; Ray starts in five
MIN_CELLS_AFTER_FIT = 300_000  # the same where there is nothing to fit: 27 s instead of 35 s at 200,000 (`benchmarks/swap.py`)


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

    def close(self) -> None:
        """Nothing to give back."""


def make(run: "RunSection", *, num_cells: int | None = None, is_fitted: bool = False) -> Executor:
    """Return the executor that ``run.executor`` names.

    ``auto`` is the cluster that this process is a job of, if it is one; otherwise Ray where it is installed, has more than
    one worker to run, and ``num_cells`` (None: unknown, many) are enough to earn back the seconds that it takes to start:
    more of them where all shards are fitted already.

    Ray is imported here and only if it is asked for. Call before JAX starts in this process: Ray starts its processes
    by fork, which a running JAX does not survive reliably.

    Raises
    ------
    MissingExtraError
        Ray is asked for and not installed.
    ClusterUnreachableError
        Ray does not start, or nothing answers at the address.
    """
    has_ray = find_spec("ray") is not None
    enough = MIN_CELLS_AFTER_FIT if is_fitted else MIN_CELLS_FOR_RAY
    is_small = run.workers == 1 or (num_cells is not None and num_cells < enough)
    if run.executor == "serial" or (run.executor == "auto" and not run.is_on_cluster and (is_small or not has_ray)):
        return SerialExecutor()
    if not has_ray:
        raise MissingExtraError("ray", f"run.executor: {run.executor}", "set `run.executor: serial`")
    from cluster.ray_executor import RayExecutor

    if not run.is_on_cluster:
        return RayExecutor(address="local", workers=run.workers)
    address = "auto" if run.executor == "auto" else run.executor
    return RayExecutor(address=address, workers=run.workers, task_gpus=run.task_gpus, ship_code=run.ship_code)
