"""A run that notes when each fit of a shard began and ended: ``python -m benchmarks.timed_driver LOG fit RUN.yaml ...``.

What follows LOG is the command line of ``caucus``. LOG gets a line of JSON for each fit, see :class:`Fit`. Nothing in the package knows of
this: the task is wrapped here.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster import cli, tasks

fit_site = tasks.fit_site


@dataclass(frozen=True)
class Fit:
    """One fit of a shard: worker, round, when it began and ended (seconds of one clock), how much of that JAX compiled, and CPU seconds."""

    worker: int
    round: int
    shard_id: str
    began: float
    ended: float
    compiling: float
    computing: float


def read(log: Path) -> list[Fit]:
    """Every fit that was noted."""
    return [Fit(**json.loads(line)) for line in log.read_text().splitlines()]


@functools.cache
def compile_seconds() -> list[float]:
    """Seconds that this process has traced, lowered and compiled programs of JAX; grows from the first call on."""
    import jax.monitoring

    seconds: list[float] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event.startswith("/jax/core/compile/"):
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds


def timed_fit(log: str, task: tasks.SiteTask) -> tasks.SiteResult:
    """In a worker."""
    seconds = compile_seconds() if task.method == "nuts" else []
    before, computed, began = sum(seconds), time.process_time(), time.monotonic()
    result = fit_site(task)
    ended, compiled = time.monotonic(), sum(seconds) - before
    fit = Fit(os.getpid(), task.round, task.entry["shard_id"], began, ended, compiled, time.process_time() - computed)
    with open(log, "a") as lines:
        lines.write(json.dumps(asdict(fit)) + "\n")  # one write: workers append to one file
    return result


def main() -> None:
    """Wrap the fit and run the command."""
    tasks.fit_site = functools.partial(timed_fit, sys.argv[1])  # type: ignore[assignment]
    sys.argv = ["caucus", *sys.argv[2:]]
    cli.main()


if __name__ == "__main__":
    from benchmarks import timed_driver  # by its name, so that workers find its functions

    timed_driver.main()
