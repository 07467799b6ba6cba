"""The contract of executors: tasks in, outcomes out.

A task is any picklable value; the function is importable from a module, so that a worker finds it. Tasks carry paths
and small arrays, never rows. A task that fails yields its error as an `Outcome`: one bad shard does not lose the rest.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


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
