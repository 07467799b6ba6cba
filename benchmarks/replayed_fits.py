"""The fits of a run without Ray: ``python -m benchmarks.replayed_fits record TASKS fit RUN.yaml ...``, then ``... replay TASKS FOLDER``.

``record`` runs a command of ``caucus`` in one process and keeps every task that fits a shard, its moments included. ``replay`` does these tasks one after
the other, as the workers do them: shards are read once, sites are committed, into FOLDER. It says that it is ready, waits for a line, and prints
seconds as JSON, so that several can begin at once: what the machine gives several processes that have nothing to do with each other.
"""

from __future__ import annotations

import functools
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.problems import REPOSITORY
from cluster import cli, tasks
from cluster.threads import one_blas_thread

fit_site = tasks.fit_site


def noted_fit(file: str, task: tasks.SiteTask) -> tasks.SiteResult:
    """Append the task to the file, and do it."""
    with open(file, "ab") as out:
        pickle.dump(task, out)
    return fit_site(task)


def record(file: str, arguments: list[str]) -> None:
    """Run a command of ``caucus``."""
    Path(file).unlink(missing_ok=True)
    tasks.fit_site = functools.partial(noted_fit, file)  # type: ignore[assignment]
    sys.argv = ["caucus", *arguments, "--set", "run.executor=serial"]
    cli.main()


def read(file: Path) -> list[tasks.SiteTask]:
    """Every task that was kept, in order."""
    found = []
    with file.open("rb") as recorded:
        while recorded.peek(1):
            found.append(pickle.load(recorded))  # noqa: S301  # written by `record`, on this machine
    return found


def replay(file: str, folder: str) -> None:
    """In a process of its own."""
    recorded = read(Path(file))
    print("ready", flush=True)
    sys.stdin.readline()
    began, computed = time.monotonic(), time.process_time()
    with one_blas_thread():
        for number, task in enumerate(recorded):
            fit_site(task._replace(path=f"{folder}/{number}.arrow"))
    print(json.dumps({"seconds": time.monotonic() - began, "computing": time.process_time() - computed}))


def at_once(file: Path, folder: Path, num_processes: int, environment: dict[str, str]) -> dict[str, float]:
    """Replay in so many processes that begin together: seconds of the longest, and CPU seconds of all."""
    command = [sys.executable, "-m", "benchmarks.replayed_fits", "replay", file]
    started = []
    for number in range(num_processes):
        where = folder / str(number)
        where.mkdir(parents=True)
        process = subprocess.Popen(
            [*command, where], cwd=REPOSITORY, env={**environment, "XDG_CACHE_HOME": str(where)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said: list[dict[str, Any]] = [json.loads(process.communicate()[0]) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return {"seconds": max(s["seconds"] for s in said), "computing": sum(s["computing"] for s in said)}


if __name__ == "__main__":
    from benchmarks import replayed_fits  # by its name, as what is kept names it

    what, *rest = sys.argv[1:]
    replayed_fits.record(rest[0], rest[1:]) if what == "record" else replayed_fits.replay(*rest)
