"""The full statistical lane: `python -m benchmarks.calibrate [coverage | accuracy | sbc | sbc_families | user_model | all]` (hours in all).

* ``coverage``: simulated nations through the command line; 90% intervals against the true expected shares.
* ``accuracy``: every method, number of shards and way of cutting against full-data NUTS, 20,000 and 1,000,000 rows.
* ``sbc``: simulation-based calibration of the whole line, and three broken twins that must fail it;
* ``sbc_families``: the same for every family, its own parameters among what is ranked;
* ``user_model``: the worked example of a user's model in shards against itself whole.

Prints Markdown tables, writes them with every figure to `benchmarks/results/calibrate_<lane>.md` and `.json`, and ends with code 3
if anything is outside its bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import accuracy, coverage, sbc, sbc_families
from benchmarks.peers.reference import reference_nuts
from benchmarks.problems import REPOSITORY, small_nation

LANES = ("accuracy", "sbc", "sbc_families", "user_model", "coverage")
RESULTS = REPOSITORY / "benchmarks" / "results"
CACHE = REPOSITORY / "benchmarks" / "cache"


def run_coverage(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Nations one after the other, each in a folder of its own that is kept: a lane cut off goes on where it was."""
    rows: list[dict[str, Any]] = []
    for seed in range(1, arguments.nations + 1):
        folder = CACHE / f"nation_{arguments.voters}_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        rows += coverage.nation(folder, seed, arguments.voters)
        print(
            f"nation {seed}: " + ", ".join(f"{r['outcome']} {r['margin']} {r['coverage']:.3f}" for r in rows[-4:]),
            file=sys.stderr,
        )
    pooled = coverage.pooled(rows)
    return pooled + rows, all(row["passed"] for row in pooled)


def run_accuracy(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Both sizes of the small nation against references with bulk ESS of 4,000 and more."""
    rows = []
    for num_rows in (20_000, 1_000_000):
        problem = small_nation(1, num_rows)
        reference = reference_nuts(problem, min_ess=4000)
        for row in accuracy.run(problem, reference):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    return rows, all(row["passed"] for row in rows)


def run_sbc(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """The correct merge must be uniform, the twins must not."""
    rows, good = [], True
    for merge, by_name in sbc.ranks(arguments.replicates).items():
        p_values = sbc.uniformity(by_name)
        uniform = sbc.is_uniform(p_values)
        passed = uniform == (merge == "correct")
        good &= passed
        worst = min(p_values, key=lambda name: p_values[name])
        rows.append({"merge": merge, "uniform": uniform, "passed": passed, "worst": worst, **p_values})
    return rows, good


def run_user_model(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Every method of a shard against plain NUTS on all rows."""
    from benchmarks import user_model  # JAX takes a second to import

    rows = list(user_model.run())
    return rows, all(row["passed"] for row in rows)


def run_sbc_families(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Each family's merge must be uniform, its twins must not; the table goes into `docs/families.md` too."""
    rows = []
    for family in arguments.families:
        new = sbc_families.judged(family, arguments.family_replicates)
        sbc_families.keep(new)
        rows += new
        print(*new, sep="\n", file=sys.stderr, flush=True)
    return rows, all(row["passed"] for row in rows)


def write(lane: str, rows: list[dict[str, Any]], results: Path = RESULTS) -> str:
    """Write the rows as JSON and Markdown; return the Markdown."""
    results.mkdir(exist_ok=True)
    (results / f"calibrate_{lane}.json").write_text(json.dumps(rows, indent=1) + "\n")
    frame = pd.DataFrame(rows)
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    for values in frame.itertuples(index=False):
        shown = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in values)
        lines.append("| " + " | ".join(shown) + " |")
    text = "\n".join(lines) + "\n"
    (results / f"calibrate_{lane}.md").write_text(text)
    return text


def main() -> None:
    """Run the lanes asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lane", nargs="?", choices=[*LANES, "all"], default="all")
    parser.add_argument("--nations", type=int, default=10)
    parser.add_argument("--voters", type=int, default=2_000_000, help="of each nation")
    parser.add_argument("--replicates", type=int, default=400, help="of simulation-based calibration")
    parser.add_argument("--family-replicates", type=int, default=200, help="of the calibration of each family")
    parser.add_argument("--families", nargs="+", choices=sbc_families.NAMES, default=list(sbc_families.NAMES))
    arguments = parser.parse_args()
    runners = {
        "coverage": run_coverage, "accuracy": run_accuracy, "sbc": run_sbc, "sbc_families": run_sbc_families,
        "user_model": run_user_model,
    }  # fmt: skip
    good = True
    for lane in LANES if arguments.lane == "all" else (arguments.lane,):
        rows, passed = runners[lane](arguments)
        print(f"## {lane}: {'passed' if passed else 'FAILED'}\n\n{write(lane, rows)}")
        good &= passed
    if not good:
        raise SystemExit(3)


if __name__ == "__main__":
    main()
