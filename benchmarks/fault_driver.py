"""A run with faults planted in its driver and its tasks: ``python -m benchmarks.fault_driver FAULTS run RUN.yaml ...``.

FAULTS is JSON, see :class:`Faults`. What follows is the command line of ``caucus``. Faults that were planted are counted by lines of
the file ``log``. Nothing in the package knows of this: tasks are wrapped here, clients of storage are replaced.
"""

from __future__ import annotations

import functools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cluster import cli, executors, tasks
from cluster.execution import Executor, Outcome
from sharding import storage

fit_site = tasks.fit_site


@dataclass(frozen=True)
class Faults:
    """``slow``: seconds that every fit of a shard waits before it writes; ``merge``: seconds that the driver takes to merge; ``storage``: share of calls to S3 that fail; ``skew``: seconds by which clocks differ;
    ``memory``: shard whose first attempt takes all it gets; ``twice``: whether every task runs two times at once."""

    log: str
    slow: float = 0.0
    merge: float = 0.0
    storage: float = 0.0
    skew: float = 0.0
    memory: str = ""
    twice: bool = False

    def note(self, what: str) -> None:
        """Count one."""
        with open(self.log, "a") as log:
            log.write(f"{what}\n")


def fit_with_faults(faults: Faults, task: tasks.SiteTask) -> tasks.SiteResult:
    """In a worker."""
    prepare(faults)
    if faults.memory == task.entry["shard_id"] and not os.path.exists(f"{faults.log}.memory"):
        open(f"{faults.log}.memory", "w").close()
        faults.note("memory")
        held = []
        for _ in range(80):  # at most 4 GiB
            held.append(b"x" * (50 << 20))
            time.sleep(0.2)
    return fit_site(task)


@functools.cache
def prepare(faults: Faults) -> None:
    """Plant what belongs to a process."""
    if faults.skew:
        shift, now = faults.skew * random.choice((-1, 1)), time.time
        time.time = lambda: now() + shift
        time.strftime = lambda form, at=None, made=time.strftime: made(form, time.gmtime(time.time()) if at is None else at)
        faults.note("skew")
    if faults.storage:
        fail_storage(faults)
    if faults.slow:
        write_slowly(faults)


def write_slowly(faults: Faults) -> None:
    """Let every fit wait before it writes its site, and count those that come after another's."""
    commit = tasks.site_files.commit

    def slow(url: str, file: tasks.SiteFile) -> tasks.SiteFile:
        time.sleep(faults.slow)
        if storage.exists(url):
            faults.note("late write")
        return commit(url, file)

    tasks.site_files.commit = slow


def merge_slowly(faults: Faults) -> None:
    """Let the driver take its time when it has read the sites and merges them."""
    from cluster import inference  # the driver's; workers would hold it, too

    read = inference.read_sites

    def slow(work: Any) -> Any:
        faults.note("merge begins")
        time.sleep(faults.merge)
        return read(work)

    inference.read_sites = slow


def fail_storage(faults: Faults) -> None:
    """Let some calls to S3 fail before they arrive, and some after they took effect."""
    from botocore.exceptions import ClientError, ConnectTimeoutError
    from s3fs import S3FileSystem

    call = S3FileSystem._call_s3

    async def shaky(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        kind = random.choice(("503", "timeout", "late timeout")) if random.random() < faults.storage else ""
        if kind == "503":
            faults.note(kind)
            raise ClientError({"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, method)
        if kind == "timeout":
            faults.note(kind)
            raise ConnectTimeoutError(endpoint_url="the store")
        result = await call(self, method, *arguments, **options)
        if kind == "late timeout" and method == "put_object":
            faults.note(kind)
            raise TimeoutError("the answer was lost")
        return result

    S3FileSystem._call_s3 = shaky


class Twice:
    """Submits every task two times, and gives the outcome of the one that finishes first."""

    def __init__(self, executor: Executor, faults: Faults):
        self._executor, self._faults = executor, faults

    def map_unordered(
        self, fn: Callable[[Any], Any], tasks: Iterable[Any], *,
        num_tasks: int | None = None, max_in_flight: int | None = None, memory_bytes: int = 0,
    ) -> Iterator[Outcome]:  # fmt: skip
        """See `Executor`."""
        doubled = (task for task in tasks for _ in range(2))
        seen: dict[int, Any] = {}  # the tasks are kept: an id belongs to another object once they are gone
        options = {"num_tasks": num_tasks and 2 * num_tasks, "max_in_flight": max_in_flight, "memory_bytes": memory_bytes}
        for outcome in self._executor.map_unordered(fn, doubled, **options):
            if id(outcome.task) in seen:
                self._faults.note("twice")
                continue
            seen[id(outcome.task)] = outcome.task
            yield outcome

    def watch(self, tell: Callable[[int], object]) -> None:
        """See `Executor`."""
        self._executor.watch(tell)

    def close(self) -> None:
        """See `Executor`."""
        self._executor.close()


def main() -> None:
    """Plant the faults and run the command."""
    faults = Faults(**json.loads(sys.argv[1]))
    prepare(faults)
    if faults.merge:
        merge_slowly(faults)
    tasks.fit_site = functools.partial(fit_with_faults, Faults(**asdict(faults)))  # type: ignore[assignment]
    if faults.twice:
        make = executors.make
        executors.make = lambda *arguments, **options: Twice(make(*arguments, **options), faults)  # type: ignore[assignment]
    sys.argv = ["caucus", *sys.argv[2:]]
    cli.main()


if __name__ == "__main__":
    from benchmarks import fault_driver  # by its name, so that workers find its functions

    fault_driver.main()
