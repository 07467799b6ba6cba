"""Twice the shards on twice the workers, and what Ray and JAX cost beside the fits: ``python -m benchmarks.weak_scaling FOLDER``.

A simulated nation of 51 states is fitted by one worker, and two such nations in one file (102 states, each twice) by two; a worker is a
Ray node of one core, the head has none and only the driver runs beside. Commands alternate, ``--laps`` times; the table has medians.

* Weak scaling: time with one worker over time with two, for the tasks alone (sum over rounds, from the first that begins to the last that
  ends) and for the stage (what `caucus fit` notes; the driver merges between rounds).
* Overhead, on the 51 states by one worker and by two: what a worker does beside fitting while a round is under way. It waits for a task, or JAX traces
  and compiles (its own clock, see `benchmarks.timed_driver`; no program was kept from before). In percent of the fits themselves.

Writes the table of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import duckdb

from benchmarks import ray_clusters, timed_driver
from benchmarks.family_page import write
from benchmarks.problems import REPOSITORY
from benchmarks.timed_driver import Fit
from sharding import simulate

PAGE = REPOSITORY / "docs" / "scaling.md"
CONFIG = "nation-turnout.yaml"
METHODS = {"nuts": ("fit.method=nuts",), "vi": ("fit.method=vi",), "vi, 8 shards a task": ("fit.method=vi", "run.shards_per_task=8")}
EQUAL = {"RAY_worker_niceness": "0"}
"""Ray gives workers a niceness of 15: whatever else runs on this machine would take their time."""


def nations(folder: Path, num_rows: int) -> dict[int, Path]:
    """A nation, and two in one file, by the number of workers that fit them; made once."""
    one, two = folder / "one", folder / "two"
    if not one.exists():
        simulate.simulate(str(one), num_rows=num_rows, seed=1)
        (two / "voters").mkdir(parents=True)
        again = "SELECT * REPLACE (state || '2' AS state, county || '2' AS county, voter_id || '2' AS voter_id)"
        source = f"FROM '{one}/voters/*.parquet'"
        duckdb.sql(f"COPY (SELECT * {source} UNION ALL {again} {source}) TO '{two}/voters/voters.parquet'")
    for where in (one, two):
        shutil.copy(REPOSITORY / "configs" / CONFIG, where)
        subprocess.run([ray_clusters.BIN / "caucus", "shard", where / CONFIG], check=True, capture_output=True)
    return {1: one, 2: two}


def fit(where: Path, num_workers: int, method: str) -> tuple[list[Fit], float]:
    """Fit on a cluster of so many workers, from nothing: every fit of a shard, and seconds of the stage."""
    run, log = where / "runs" / "nation-turnout", where / "fits"
    shutil.rmtree(run / "sites", ignore_errors=True)
    log.unlink(missing_ok=True)
    shutil.rmtree(where / "cache", ignore_errors=True)  # nothing has been compiled before
    env = {**EQUAL, "XDG_CACHE_HOME": str(where / "cache")}
    with ExitStack() as stack:
        head = stack.enter_context(ray_clusters.head(0, env, jobs=False))
        for _ in range(num_workers):
            stack.enter_context(ray_clusters.worker(head, 1, env))
        settings = [f"run.executor={head.address}", *METHODS[method]]
        options = [part for setting in settings for part in ("--set", setting)]
        command = [sys.executable, "-m", "benchmarks.timed_driver", log, "fit", where / CONFIG, *options]
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray_clusters.TOKEN}
        subprocess.run(command, check=True, cwd=REPOSITORY, env=environment, stdout=sys.stderr)
    fits = timed_driver.read(log)
    assert len({f.worker for f in fits}) == num_workers, "a worker had nothing to do"
    return fits, json.loads((run / "manifest.json").read_text())["stages"]["fit"]["seconds"]


def seconds(fits: list[Fit], num_workers: int) -> dict[str, float]:
    """Seconds of the tasks of all rounds, and of the workers: fitting, compiling, waiting for a task."""
    rounds = [list(group) for _, group in itertools.groupby(sorted(fits, key=lambda f: f.round), lambda f: f.round)]
    tasks = sum(max(f.ended for f in group) - min(f.began for f in group) for group in rounds)
    busy, compiling = sum(f.ended - f.began for f in fits), sum(f.compiling for f in fits)
    return {"tasks": tasks, "fitting": busy - compiling, "compiling": compiling, "waiting": num_workers * tasks - busy}


def overhead(trial: dict[str, float]) -> str:
    """Compiling and waiting, of fitting."""
    return f"{(trial['compiling'] + trial['waiting']) / trial['fitting']:.1%}"


ROWS = {
    "51 shards, one worker: tasks, s": lambda c: f"{c['one']['tasks']:.1f}",
    "102 shards, two workers: tasks, s": lambda c: f"{c['two']['tasks']:.1f}",
    "**weak scaling of the tasks**": lambda c: f"**{c['one']['tasks'] / c['two']['tasks']:.2f}**",
    "51 shards, one worker: stage, s": lambda c: f"{c['one']['stage']:.1f}",
    "102 shards, two workers: stage, s": lambda c: f"{c['two']['stage']:.1f}",
    "weak scaling of the stage": lambda c: f"{c['one']['stage'] / c['two']['stage']:.2f}",
    "51 shards, one worker: fitting, compiling, waiting, s": lambda c: split(c["one"]),
    "51 shards, two workers: fitting, compiling, waiting, s": lambda c: split(c["half"]),
    "**compiling and waiting, of fitting: one worker**": lambda c: f"**{overhead(c['one'])}**",
    "**two workers**": lambda c: f"**{overhead(c['half'])}**",
}


def split(trial: dict[str, float]) -> str:
    """Seconds of the workers."""
    return f"{trial['fitting']:.1f}, {trial['compiling']:.1f}, {trial['waiting']:.1f}"


def main() -> int:
    """Run every method on both nations, in turn, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weak_scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--laps", type=int, default=3)
    chosen = parser.parse_args()
    places = nations(chosen.folder.resolve(), chosen.rows)
    manifest = json.loads((places[1] / "runs" / "nation-turnout" / "shards" / "manifest.json").read_text())
    num_cells = sum(shard["num_cells"] for shard in manifest["shards"])
    trials = {"one": (1, places[1]), "two": (2, places[2]), "half": (2, places[1])}
    columns = []
    for method in chosen.methods:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in trials}
        for _, (name, (num_workers, where)) in itertools.product(range(chosen.laps), trials.items()):
            fits, stage = fit(where, num_workers, method)
            found[name].append({**seconds(fits, num_workers), "stage": stage})
            print(method, name, found[name][-1], file=sys.stderr, flush=True)
        columns.append({n: {k: statistics.median(lap[k] for lap in laps) for k in laps[0]} for n, laps in found.items()})
    lines = ["| | " + " | ".join(chosen.methods) + " |", "|---|" + "--:|" * len(chosen.methods)]
    lines += [f"| {name} | " + " | ".join(cell(c) for c in columns) + " |" for name, cell in ROWS.items()]
    lines += ["", f"{chosen.rows:,} voters, {num_cells:,} cells; medians of {chosen.laps}. Load of the machine: {os.getloadavg()[0]:.1f}."]
    print("\n".join(lines))
    write("weak-scaling", lines, PAGE)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its clusters end with it
    sys.exit(main())
