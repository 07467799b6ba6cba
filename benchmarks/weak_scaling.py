"""Twice the shards on twice the workers, and what Ray and JAX cost beside the fits: ``python -m benchmarks.weak_scaling FOLDER``.

A simulated nation of 51 states is fitted by one worker, and two such nations in one file (102 states, each twice) by two; a worker is a
Ray node of one core, one of them the head; the driver and Ray's own processes run beside. Commands alternate, ``--laps`` times; the table has medians.
Cases are NUTS, and vi with a small model, with many terms, with precincts, and with many terms of 250 million voters.

* Weak scaling: time with one worker over time with two, for the tasks alone (sum over rounds, from the first that begins to the last that
  ends) and for the stage (what `caucus fit` notes; the driver merges between rounds).
* The machine's own: the very same fits of the nation by a plain process, and by two at once that know nothing of each other
  (`benchmarks.replayed_fits`). Two cores that share a cache, memory and their maker's other guests do not give twice what one gives.
* Overhead, on the 51 states by one worker and by two: what a worker does beside fitting while a round is under way. It waits for a task, or JAX traces
  and compiles (its own clock, see `benchmarks.timed_driver`; no program was kept from before). In percent of the fits themselves.

Every lap is kept in FOLDER, so cases can be run one after the other (``--cases``), and laps be added. Writes the table of docs/scaling.md.
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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import duckdb

from benchmarks import ray_clusters, replayed_fits, timed_driver
from benchmarks.family_page import write
from benchmarks.problems import REPOSITORY
from benchmarks.timed_driver import Fit
from sharding import simulate

PAGE = REPOSITORY / "docs" / "scaling.md"


class Case(NamedTuple):
    """What is fitted: a config of `configs/`, and its simulated nation. ``method`` is `fit.method`, ``formula`` another than the config's.

    Without ``is_replayed`` no plain process does the same.
    """

    config: str
    method: str
    num_rows: int
    num_precincts: int = 0
    formula: str = ""
    is_replayed: bool = True

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
    "nuts": Case("nation-turnout", "nuts", 10_000_000, is_replayed=False),  # twelve minutes more
    "vi": Case("nation-turnout", "vi", 10_000_000),
    "vi, many terms": Case("nation-turnout", "vi", 10_000_000, formula=MANY_TERMS),
    "vi, precincts": Case("nation-precincts", "vi", 6_000_000, 50_000),
    "vi, 250 million voters": Case("nation-turnout", "vi", 250_000_000, formula=MANY_TERMS),
}
NUM_STATES = 51
EQUAL = {"RAY_worker_niceness": "0"}
"""Ray gives workers a niceness of 15: whatever else runs on this machine would take their time."""


def nations(folder: Path, case: Case) -> dict[int, Path]:
    """A nation, and two in one file, by the number of workers that fit them; made once."""
    name = f"{case.config}-{case.num_rows}" + ("-many-terms" if case.formula else "")
    one, two = folder / name / "one", folder / name / "two"
    if not two.exists():
        shutil.rmtree(folder / name, ignore_errors=True)  # of a run that was ended while it made them
        simulate.simulate(str(one), num_rows=case.num_rows, seed=1, num_precincts=case.num_precincts)
        making = folder / name / "making"
        (making / "voters").mkdir(parents=True)
        columns = ["state", "county", "voter_id", *(["precinct"] if case.num_precincts else [])]
        renamed = ", ".join(f"{column} || '2' AS {column}" for column in columns)
        for file in (one / "voters").iterdir():
            os.link(file, making / "voters" / file.name)
            duckdb.sql(f"COPY (SELECT * REPLACE ({renamed}) FROM '{file}') TO '{making}/voters/again-{file.name}'")
        making.rename(two)
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
    num_nations = 2 if where.name == "two" else 1
    assert len({f.shard_id for f in fits}) == num_nations * NUM_STATES, "a nation is not whole"
    return fits, json.loads((run / "manifest.json").read_text())["stages"]["fit"]["seconds"]


def plain_fits(where: Path, num_processes: int, case: Case) -> dict[str, float]:
    """The nation's fits by so many plain processes at once; what they are is found out once, by a run in one process."""
    recorded, folder = where / f"tasks-{case.method}", where / "plain"
    if not recorded.exists():
        shutil.rmtree(where / "runs" / case.config / "sites", ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.replayed_fits", "record", recorded, "fit", where / f"{case.config}.yaml"]
        options = [*case.options, "--set", f"fit.method={case.method}"]
        subprocess.run([*command, *options], check=True, cwd=REPOSITORY, stdout=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    found = replayed_fits.at_once(recorded, folder, num_processes, dict(os.environ))
    return {"tasks": found["seconds"], "computing": found["computing"]}


def seconds(fits: list[Fit], num_workers: int) -> dict[str, float]:
    """Seconds of the tasks of all rounds, and of the workers: fitting, compiling, waiting for a task."""
    rounds = [list(group) for _, group in itertools.groupby(sorted(fits, key=lambda f: f.round), lambda f: f.round)]
    tasks = sum(max(f.ended for f in group) - min(f.began for f in group) for group in rounds)
    busy, compiling = sum(f.ended - f.began for f in fits), sum(f.compiling for f in fits)
    computing = sum(f.computing for f in fits)
    return {"computing": computing, "tasks": tasks, "fitting": busy - compiling, "compiling": compiling, "waiting": num_workers * tasks - busy}


Trials = dict[str, dict[str, float]]
"""What one lap found, by trial."""


def scaling(lap: Trials, what: str = "tasks") -> float:
    """Of a run."""
    return lap["one"][what] / lap["two"][what]


def machines_own(lap: Trials) -> float:
    """Of plain processes."""
    return lap["plain one"]["tasks"] / lap["plain two"]["tasks"]


def median(laps: Sequence[Trials], of_lap: Callable[[Trials], float]) -> str:
    """Of a ratio, which is taken within laps: a machine's speed changes from one to the next."""
    return f"{statistics.median(map(of_lap, laps)):.2f}"


def median_seconds(laps: Sequence[Trials], trial: str, what: str = "tasks") -> str:
    """The median over laps."""
    return f"{statistics.median(lap[trial][what] for lap in laps):.1f}"


def each(laps: Sequence[Trials], of_lap: Callable[[Trials], float]) -> str:
    """A ratio of every lap."""
    return ", ".join(f"{of_lap(lap):.2f}" for lap in laps)


def share(laps: Sequence[Trials], trial: str) -> str:
    """Compiling and waiting, of fitting."""
    return f"{statistics.median((lap[trial]['compiling'] + lap[trial]['waiting']) / lap[trial]['fitting'] for lap in laps):.1%}"


def split(laps: Sequence[Trials], trial: str) -> str:
    """Seconds of the workers."""
    return ", ".join(median_seconds(laps, trial, what) for what in ("fitting", "compiling", "waiting"))


Rows = dict[str, Callable[[Sequence[Trials]], str]]
REPLAYED: Rows = {
    "a fit in a plain process, ms": lambda laps: f"{1e3 * statistics.median(lap['plain one']['tasks'] / lap['one']['fits'] for lap in laps):.0f}",
    "51 shards, a plain process: s": lambda laps: median_seconds(laps, "plain one"),
    "51 shards each, two plain processes at once: s": lambda laps: median_seconds(laps, "plain two"),
    "weak scaling of these, each lap": lambda laps: each(laps, machines_own),
}
ROWS: Rows = {
    "51 shards, one worker: tasks, s": lambda laps: median_seconds(laps, "one"),
    "102 shards, two workers: tasks, s": lambda laps: median_seconds(laps, "two"),
    "**weak scaling of the tasks**": lambda laps: f"**{median(laps, scaling)}**",
    "each lap": lambda laps: each(laps, scaling),
    "51 shards, one worker: stage, s": lambda laps: median_seconds(laps, "one", "stage"),
    "102 shards, two workers: stage, s": lambda laps: median_seconds(laps, "two", "stage"),
    "weak scaling of the stage": lambda laps: median(laps, lambda lap: scaling(lap, "stage")),
    "51 shards, one worker: fitting, compiling, waiting, s": lambda laps: split(laps, "one"),
    "51 shards, two workers: fitting, compiling, waiting, s": lambda laps: split(laps, "half"),
    "**compiling and waiting, of fitting: one worker**": lambda laps: f"**{share(laps, 'one')}**",
    "**two workers**": lambda laps: f"**{share(laps, 'half')}**",
    "load of the machine before each lap": lambda laps: ", ".join(f"{lap['machine']['load']:.1f}" for lap in laps),
}


def main() -> int:
    """Run every case on both nations, in turn, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weak_scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--laps", type=int, default=3, help="how many to add to those in the folder")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    for name in chosen.cases:
        for _ in range(chosen.laps):
            kept = folder / f"{name}.json"
            laps = json.loads(kept.read_text()) if kept.exists() else []
            kept.write_text(json.dumps([*laps, lap(name, CASES[name], nations(folder, CASES[name]))]))
    lines = table(folder)
    print("\n".join(lines))
    write("weak-scaling", lines, PAGE)
    return 0


def lap(name: str, case: Case, places: dict[int, Path]) -> Trials:
    """Every trial once."""
    found: Trials = {"machine": {"load": os.getloadavg()[0]}}
    for trial, (num_workers, where) in {"one": (1, places[1]), "two": (2, places[2]), "half": (2, places[1])}.items():
        if trial != "half" and case.is_replayed:
            found[f"plain {trial}"] = plain_fits(places[1], num_workers, case)
        fits, stage = fit(where, num_workers, case)
        found[trial] = {**seconds(fits, num_workers), "stage": stage, "fits": len(fits)}
    print(name, json.dumps(found), file=sys.stderr, flush=True)
    return found


def table(folder: Path) -> list[str]:
    """Of every lap of every case that has been run in the folder."""
    found: dict[str, list[Trials]] = {name: json.loads(kept.read_text()) for name in CASES if (kept := folder / f"{name}.json").exists()}
    lines = ["| | " + " | ".join(found) + " |", "|---|" + "--:|" * len(found)]
    cells = []
    for name in found:
        manifest = nations(folder, CASES[name])[1] / "runs" / CASES[name].config / "shards" / "manifest.json"
        cells.append(f"{sum(shard['num_cells'] for shard in json.loads(manifest.read_text())['shards']):,}")
    lines += [f"| voters | {' | '.join(f'{CASES[name].num_rows:,}' for name in found)} |", f"| cells | {' | '.join(cells)} |"]
    for row, cell in (REPLAYED | ROWS).items():
        known = [cell(laps) if row in ROWS or CASES[name].is_replayed else "–" for name, laps in found.items()]
        lines.append(f"| {row} | {' | '.join(known)} |")
    return lines


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its clusters end with it
    sys.exit(main())
