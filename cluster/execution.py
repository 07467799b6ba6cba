"""The contract of executors: tasks in, outcomes out.

A task is any picklable value; the function is importable from a module, so that a worker finds it. Tasks carry paths
and small arrays, never rows. A task that fails yields its error as an `Outcome`: one bad shard does not lose the rest.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from sharding import retrying


@dataclass(frozen=True)
class Outcome:
    """What became of one task: ``value`` if ``error`` is None.

    ``seconds`` is the time the function ran, without queueing; ``attempt`` counts from 1 and is above 1 where a worker
    died and the task was run again. ``storage_retries`` counts what another process tried again on storage.
    """

    task: Any
    value: Any
    error: Exception | None
    seconds: float
    attempt: int
    storage_retries: int = 0


class Ran(NamedTuple):
    """What a process that ran a task has to tell; ``is_transient``: the error passes by itself, so a further try may help.

    ``machine`` is where it ran, if that is not this process's.
    """

    value: Any
    error: Exception | None
    seconds: float
    storage_retries: int
    is_transient: bool
    machine: str = ""


class Executor(Protocol):
    """Runs a module-level function on picklable tasks."""

    def map_unordered(
        self, fn: Callable[[Any], Any], tasks: Iterable[Any], *,
        num_tasks: int | None = None, max_in_flight: int | None = None, memory_bytes: int = 0,
    ) -> Iterator[Outcome]:  # fmt: skip
        """Yield outcomes as tasks finish; a failed task yields its error, and never raises.

        Parameters
        ----------
        tasks
            Read lazily, so the longest had better come first.
        num_tasks
            How many they are, where that is known: short ones then go together and are still shared out evenly.
        max_in_flight
            Tasks that have been started and not yet finished, at most; None: enough to keep every core busy.
        memory_bytes
            What a task is expected to need at its worst; 0 is not known. For the choice of a machine, not a limit.
        """

    def watch(self, tell: Callable[[int], object]) -> None:
        """Tell, now and then while tasks run or wait, how many cores there are for tasks; none where that cannot change."""

    def close(self) -> None:
        """Give back processes; the executor cannot be used afterwards. May be called twice."""


def run_task(fn: Callable[[Any], Any], task: Any) -> Ran:
    """Return the value or the error of ``fn(task)``, and how it went."""
    started, before = time.perf_counter(), retrying.num_retries()
    try:
        value, error = fn(task), None
    except Exception as caught:
        value, error = None, caught
    seconds, retries = time.perf_counter() - started, retrying.num_retries() - before
    return Ran(value, error, seconds, retries, error is not None and retrying.is_transient(error))
