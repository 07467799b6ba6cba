"""Twice the shards on twice the workers, and what Ray and JAX cost beside the fits: ``python -m benchmarks.weak_scaling FOLDER``.

A simulated nation of 51 states is fitted by one worker, and two such nations in one file (102 states, each twice) by two; a worker is a
Ray node of one core, one of them the head; the driver and Ray's own processes run beside. Commands alternate, ``--laps`` times; the table has medians.
Cases are NUTS, and vi with a small model, with many terms and cells, and with precincts: fits of seconds, 6, 80 and 30 ms.

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
from typing import NamedTuple

import duckdb

from benchmarks import ray_clusters, timed_driver
from benchmarks.family_page import write
from benchmarks.problems import REPOSITORY
from benchmarks.timed_driver import Fit
from sharding import simulate

PAGE = REPOSITORY / "docs" / "scaling.md"


class Case(NamedTuple):
    """What is fitted: a config of `configs/`, and its simulated nation. ``method`` is `fit.method`, ``formula`` another than the config's."""

    config: str
    method: str
    num_rows: int
    num_precincts: int = 0
    formula: str = ""

    @property
    def options(self) -> list[str]:
        """What is set beside the config: a shard for every state."""
        settings = ["shards.by=state", "shards.min_cells=1", "shards.target_cells=1000000"] + ([f"model.formula={self.formula}"] if self.formula else [])
        return [word for setting in settings for word in ("--set", setting)]


MANY_TERMS = (
    "voted ~ 1 + female + g2020 + g2022 + dem_share + pct_college + (1 | state/county) + (1 | race) + (1 | age) + (1 | education) + (1 | party)"
    " + (1 | race:age) + (1 | race:education) + (1 | age:party) + (1 | state:race) + (1 | state:party) + (1 | state:age)"
)


CASES = {
    "nuts": Case("nation-turnout", "nuts", 10_000_000),
    "vi": Case("nation-turnout", "vi", 10_000_000),
    "vi, many terms": Case("nation-turnout", "vi", 10_000_000, formula=MANY_TERMS),
    "vi, precincts": Case("nation-precincts", "vi", 6_000_000, 50_000),
    "vi, 250 million voters": Case("nation-turnout", "vi", 250_000_000, formula=MANY_TERMS),
}
EQUAL = {"RAY_worker_niceness": "0"}
"""Ray gives workers a niceness of 15: whatever else runs on this machine would take their time."""


def nations(folder: Path, case: Case) -> dict[int, Path]:
    """A nation, and two in one file, by the number of workers that fit them; made once."""
    name = f"{case.config}-{case.num_rows}" + ("-many-terms" if case.formula else "")
    one, two = folder / name / "one", folder / name / "two"
    if not one.exists():
        simulate.simulate(str(one), num_rows=case.num_rows, seed=1, num_precincts=case.num_precincts)
        (two / "voters").mkdir(parents=True)
        columns = ["state", "county", "voter_id", *(["precinct"] if case.num_precincts else [])]
        renamed = ", ".join(f"{column} || '2' AS {column}" for column in columns)
        for file in (one / "voters").iterdir():
            os.link(file, two / "voters" / file.name)
            duckdb.sql(f"COPY (SELECT * REPLACE ({renamed}) FROM '{file}') TO '{two}/voters/again-{file.name}'")
    for where in (one, two):
        file = where / f"{case.config}.yaml"
        shutil.copy(REPOSITORY / "configs" / file.name, file)
        subprocess.run([ray_clusters.BIN / "caucus", "shard", file, *case.options], check=True, capture_output=True)
    return {1: one, 2: two}


def fit(where: Path, num_workers: int, case: Case) -> tuple[list[Fit], float]:
    """Fit on a cluster of so many workers, from nothing: every fit of a shard, and seconds of the stage."""
    run, log = where / "runs" / case.config, where / "fits"
    shutil.rmtree(run / "sites", ignore_errors=True)
    log.unlink(missing_ok=True)
    shutil.rmtree(where / "cache", ignore_errors=True)  # nothing has been compiled before
    env = {**EQUAL, "XDG_CACHE_HOME": str(where / "cache")}
    with ExitStack() as stack:
        head = stack.enter_context(ray_clusters.head(1, env, jobs=False))
        for _ in range(num_workers - 1):
            stack.enter_context(ray_clusters.worker(head, 1, env))
        options = [*case.options, "--set", f"run.executor={head.address}", "--set", f"fit.method={case.method}"]
        command = [sys.executable, "-m", "benchmarks.timed_driver", log, "fit", where / f"{case.config}.yaml", *options]
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
    computing = sum(f.computing for f in fits)
    return {"computing": computing, "tasks": tasks, "fitting": busy - compiling, "compiling": compiling, "waiting": num_workers * tasks - busy}


def overhead(trial: dict[str, float]) -> str:
    """Compiling and waiting, of fitting."""
    return f"{(trial['compiling'] + trial['waiting']) / trial['fitting']:.1%}"


ROWS = {
    "51 shards, one worker: tasks, s": lambda c: f"{c['one']['tasks']:.1f}",
    "102 shards, two workers: tasks, s": lambda c: f"{c['two']['tasks']:.1f}",
    "**weak scaling of the tasks**": lambda c: f"**{c['one']['tasks'] / c['two']['tasks']:.2f}**",
    "CPU seconds of its fits: one nation alone, and each of the two": lambda c: f"{c['one']['computing']:.1f}, {c['two']['computing'] / 2:.1f}",
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
    """Run every case on both nations, in turn, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weak_scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--laps", type=int, default=3)
    chosen = parser.parse_args()
    columns, sizes = [], []
    for name in chosen.cases:
        case = CASES[name]
        places = nations(chosen.folder.resolve(), case)
        manifest = json.loads((places[1] / "runs" / case.config / "shards" / "manifest.json").read_text())
        sizes.append(f"{sum(shard['num_cells'] for shard in manifest['shards']):,}")
        trials = {"one": (1, places[1]), "two": (2, places[2]), "half": (2, places[1])}
        found: dict[str, list[dict[str, float]]] = {trial: [] for trial in trials}
        for _, (trial, (num_workers, where)) in itertools.product(range(chosen.laps), trials.items()):
            fits, stage = fit(where, num_workers, case)
            found[trial].append({**seconds(fits, num_workers), "stage": stage})
            print(name, trial, found[trial][-1], file=sys.stderr, flush=True)
        columns.append({n: {k: statistics.median(lap[k] for lap in laps) for k in laps[0]} for n, laps in found.items()})
    lines = ["| | " + " | ".join(chosen.cases) + " |", "|---|" + "--:|" * len(chosen.cases)]
    lines += [f"| voters | {' | '.join(f'{CASES[name].num_rows:,}' for name in chosen.cases)} |", f"| cells | {' | '.join(sizes)} |"]
    lines += [f"| {name} | " + " | ".join(cell(c) for c in columns) + " |" for name, cell in ROWS.items()]
    lines += ["", f"Medians of {chosen.laps}. Load of the machine: {os.getloadavg()[0]:.1f}."]
    print("\n".join(lines))
    write("weak-scaling", lines, PAGE)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its clusters end with it
    sys.exit(main())
