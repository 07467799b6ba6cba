"""Where Ray earns its start on one machine: ``python -m benchmarks.break_even FOLDER``.

Whole `caucus run`s of simulated nations, from the command to the report, with `run.executor: serial` and `ray` in turn, ``--laps`` times; medians. Beside
them the work of one core that `cluster.plan.work_seconds` expects, and what `auto` chooses by it.

Writes the table of docs/sizing.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.family_page import write
from benchmarks.problems import REPOSITORY
from benchmarks.races import CAUCUS
from benchmarks.weak_scaling import CASES, Case
from cluster import config, executors, plan
from sharding import simulate, store

PAGE = REPOSITORY / "docs" / "sizing.md"
NATIONS = {
    "vi": Case("nation-turnout", "vi", 1_000_000),
    "vi, ten times the rows": CASES["vi"],
    "vi, many terms": CASES["vi, many terms"],
    "nuts": Case("nation-turnout", "nuts", 20_000),
    "nuts, ten times the rows": Case("nation-turnout", "nuts", 200_000),
}


def nation(folder: Path, case: Case) -> Path:
    """The config beside its simulated voters, made once."""
    where = folder / f"{case.num_rows}"
    if not where.exists():
        simulate.simulate(str(where), num_rows=case.num_rows, seed=1)
    file = where / f"{case.config}.yaml"
    shutil.copy(REPOSITORY / "configs" / file.name, file)
    return file


def run(file: Path, options: list[str]) -> float:
    """Seconds of the whole command, with nothing compiled or done before."""
    shutil.rmtree(file.parent / "runs", ignore_errors=True)
    shutil.rmtree(file.parent / "cache", ignore_errors=True)
    began = time.perf_counter()
    command = [CAUCUS, "run", str(file), *options]
    subprocess.run(command, check=True, env={**os.environ, "XDG_CACHE_HOME": str(file.parent / "cache")}, stdout=sys.stderr)
    return time.perf_counter() - began


def expected(file: Path, options: list[str]) -> tuple[int, float, str]:
    """Cells of the run that was just made, the work that is expected of its workers, and what `auto` makes of it."""
    loaded = config.load(file, options[1::2]).config
    shards = store.read_manifest(loaded.run.directory)["shards"]
    work = plan.work_seconds(loaded, shards)
    is_serial = executors.is_serial(loaded.run, work)
    return sum(shard["num_cells"] for shard in shards), work, "serial" if is_serial else "ray"


def main() -> int:
    """Run every nation both ways, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.break_even", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(NATIONS), choices=list(NATIONS))
    parser.add_argument("--laps", type=int, default=1)
    chosen = parser.parse_args()
    lines = ["| | cells | work expected, s | serial, s | ray, s | `auto` |", "|---|--:|--:|--:|--:|---|"]
    for name in chosen.cases:
        case = NATIONS[name]
        file = nation(chosen.folder.resolve(), case)
        options = [*case.options, "--set", f"fit.method={case.method}"]
        laps: dict[str, list[float]] = {"serial": [], "ray": []}
        for _, executor in itertools.product(range(chosen.laps), laps):
            laps[executor].append(run(file, [*options, "--set", f"run.executor={executor}"]))
            print(name, executor, laps[executor][-1], file=sys.stderr, flush=True)
        cells, work, choice = expected(file, options)
        serial, on_ray = (statistics.median(seconds) for seconds in laps.values())
        lines.append(f"| {name} | {cells:,} | {work:.0f} | {serial:.0f} | {on_ray:.0f} | {choice} |")
    lines += ["", f"Medians of {chosen.laps}, {os.cpu_count()} cores. Load of the machine: {os.getloadavg()[0]:.1f}."]
    print("\n".join(lines))
    write("break-even", lines, PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
