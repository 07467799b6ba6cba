"""Races against neighbours, side by side in one run: `python -m benchmarks [nation | survey | sharding | all]`.

Each competitor is a child process, laps alternate, medians count. Prints a table of ratios per race, and writes it with every
figure to `benchmarks/results/<race>.md` and `.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from benchmarks import measure, problems, races
from benchmarks.peers.reference import reference_nuts
from benchmarks.problems import REPOSITORY

RACES = ("survey", "sharding", "nation")


def run(name: str, arguments: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Run one race; return its title and its rows."""
    if name == "survey":
        reference = reference_nuts(problems.survey()) if arguments.reference else None
        return "The real survey: 29,905 answers, 5,320 cells", races.survey(arguments.repeats, reference)
    if name == "sharding":
        rows = races.sharding(arguments.voters, arguments.repeats)
        return f"Sharding a file of {arguments.voters:,} voters", rows
    reference = reference_nuts(problems.nation()) if arguments.reference else None
    rows = races.nation(arguments.nation_rows, arguments.repeats, reference)
    return "The nation: 20 M voters in about 200,000 cells, 3,500 effects", rows


def main() -> None:
    """Run the races asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("race", nargs="?", choices=[*RACES, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=3, help="laps of each competitor (NUTS on the nation: one)")
    parser.add_argument("--cores", type=int, default=2, help="cores that every competitor is kept to")
    parser.add_argument("--voters", type=int, default=10_000_000, help="rows of the file in the sharding race")
    parser.add_argument("--nation-rows", type=int, default=None, help="voters of the nation, 20 M if not given")
    parser.add_argument("--reference", action="store_true", help="judge means and sds against full-data NUTS too (an hour for the nation)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    machine = measure.machine()
    results = REPOSITORY / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    for name in RACES if arguments.race == "all" else (arguments.race,):
        print(f"race: {name}", file=sys.stderr)
        title, rows = run(name, arguments)
        described = ", ".join(f"{key} {value}" for key, value in machine.items())
        text = f"### {title}\n\n{races.table(rows)}\n\nMachine: {described}.\n"
        (results / f"{name}.md").write_text(text)
        (results / f"{name}.json").write_text(
            json.dumps({"race": name, "machine": machine, "rows": rows}, indent=1) + "\n"
        )
        print(text)


if __name__ == "__main__":
    main()
