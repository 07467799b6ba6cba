"""Where tasks run: the contract, and the executor that runs them in this process.

A task is any picklable value; the function is importable from a module, so that a worker finds it. Tasks carry paths
and small arrays, never rows. A task that fails yields its error as an `Outcome`: one bad shard does not lose the rest.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from cluster.errors import MissingExtraError
from cluster.threads import one_blas_thread

if TYPE_CHECKING:  # workers import this module, and need no config
    from cluster.config import RunSection

MIN_CELLS_FOR_RAY = 100_000  # about five seconds of work on one core; Ray starts in five


@dataclass(frozen=True)
class Outcome:
    """What became of one task: ``value`` if ``error`` is None.

    ``seconds`` is the time the function ran, without queueing; ``attempt`` counts from 1 and is above 1 where a worker
    died and the task was run again.
    """

    task: Any
    value: Any
    error: Exception | None
    seconds: float
    attempt: int


class Executor(Protocol):
    """Runs a module-level function on picklable tasks."""

    def map_unordered(self, fn: Callable[[Any], Any], tasks: Iterable[Any], *, max_in_flight: int) -> Iterator[Outcome]:
        """Yield outcomes as tasks finish; a failed task yields its error, and never raises.

        ``tasks`` is read lazily: never more than ``max_in_flight`` tasks have been started and not yet finished.
        """

    def close(self) -> None:
        """Give back processes; the executor cannot be used afterwards. May be called twice."""


def run_task(fn: Callable[[Any], Any], task: Any) -> tuple[Any, Exception | None, float]:
    """Return the value or the error of ``fn(task)`` and its seconds."""
    started = time.perf_counter()
    try:
        value, error = fn(task), None
    except Exception as caught:
        value, error = None, caught
    return value, error, time.perf_counter() - started


class SerialExecutor:
    """Runs tasks one after the other in this process, on one BLAS thread."""

    def map_unordered(self, fn: Callable[[Any], Any], tasks: Iterable[Any], *, max_in_flight: int) -> Iterator[Outcome]:
        """See `Executor.map_unordered`; one task at a time, whatever ``max_in_flight``."""
        for task in tasks:
            with one_blas_thread():
                value, error, seconds = run_task(fn, task)
            yield Outcome(task, value, error, seconds, attempt=1)

    def close(self) -> None:
        """Nothing to give back."""


def make(run: "RunSection", *, num_cells: int | None = None) -> Executor:
    """Return the executor that ``run.executor`` names.

    ``auto`` is Ray where it is installed, has more than one worker to run, and ``num_cells`` (None: unknown, many) are
    enough to earn back the seconds that it takes to start.

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
    is_small = run.workers == 1 or (num_cells is not None and num_cells < MIN_CELLS_FOR_RAY)
    if run.executor == "serial" or (run.executor == "auto" and (is_small or not has_ray)):
        return SerialExecutor()
    if not has_ray:
        raise MissingExtraError("ray", f"run.executor: {run.executor}", "set `run.executor: serial`")
    from cluster.ray_executor import RayExecutor

    address = "local" if run.executor in ("ray", "auto") else run.executor
    return RayExecutor(address=address, workers=run.workers)
