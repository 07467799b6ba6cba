"""A nation with precincts through every stage: seconds and peak memory of each, verdict, and coverage of the truth.

    python -m benchmarks.precincts FOLDER --rows 20000000 --precincts 170000

Each stage is a command of its own, so that its peak is its own; the time to start Ray is in each. ``--from audit`` goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks import measure
from benchmarks.problems import REPOSITORY
from benchmarks.races import CAUCUS
from reporting.estimates import compare_with_truth

CONFIG = "nation-precincts"
STAGES = ("shard", "fit", "merge", "audit", "poststratify", "report")
LIMIT_SECONDS = 7200.0
AUDIT_FAILED = 3
MARGINS = {"state": "state", "state:county": "state-county", "state:county:precinct": "state-county-precinct"}


def stages(
    folder: Path, num_rows: int, num_precincts: int, settings: list[str], first: str
) -> dict[str, dict[str, Any]]:
    """Simulate, then run each stage from ``first`` on: seconds, and peak bytes of the largest process and of all together."""
    found: dict[str, dict[str, Any]] = {}

    def step(name: str, *command: str) -> None:
        taken = measure.run([CAUCUS, *command], limit_seconds=LIMIT_SECONDS, accepted=(0, AUDIT_FAILED))
        driver = next(iter(taken.peak_bytes.items()), ("", 0))
        found[name] = {
            "seconds": round(taken.seconds, 1), "cpu_seconds": round(taken.cpu_seconds, 1),
            "largest_process": driver[0].partition("[")[0], "peak_bytes": taken.peak_process_bytes,
            "peak_by_process": dict(list(taken.peak_bytes.items())[:4]), "peak_total_bytes": taken.peak_total_bytes,
        }  # fmt: skip
        print(name, json.dumps(found[name]), flush=True)

    step("simulate", "simulate", str(folder), "--rows", str(num_rows), "--precincts", str(num_precincts))
    config = folder / f"{CONFIG}.yaml"
    shutil.copy(REPOSITORY / "configs" / f"{CONFIG}.yaml", config)
    for stage in STAGES[STAGES.index(first) :]:
        step(stage, stage, str(config), *(part for setting in settings for part in ("--set", setting)))
    return found


def results(folder: Path) -> dict[str, Any]:
    """Verdict, worst score, scales beside the truth, and coverage of every margin."""
    run, truth = folder / "runs" / CONFIG, pq.read_table(folder / "truth" / "expected.parquet")
    audit = json.loads((run / "audit.json").read_text())
    margins = {}
    for margin, file in MARGINS.items():
        compared = compare_with_truth(pq.read_table(run / "estimates" / f"{file}.parquet"), truth, outcome="voted")
        margins[margin] = {
            "num_groups": compared.num_groups, "coverage": compared.coverage, "rmse": compared.rmse,
            "raw_coverage": compared.raw_coverage, "raw_rmse": compared.raw_rmse,
        }  # fmt: skip
    scales = {
        row["term"]: row["value"]
        for row in pq.read_table(folder / "truth" / "scales.parquet").to_pylist()
        if row["outcome"] == "voted"
    }
    summary = pq.read_table(run / "summary.parquet", filters=[("variable", "in", sorted(scales))]).to_pylist()
    return {
        "verdict": audit["verdict"], "gates": {g["name"]: [g["value"], g["status"], g["where"]] for g in audit["gates"]},
        "messages": audit["messages"], "margins": margins,
        "scales": {r["variable"]: [scales[r["variable"]], *(r[k] for k in ("mean", "q05", "q95", "ess_bulk"))] for r in summary},
    }  # fmt: skip


def main() -> None:
    """Measure, then print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--precincts", type=int, required=True)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0], help="the stages before it are done")
    chosen = parser.parse_args()
    measure.POLL_SECONDS = 0.2  # the kernel keeps the peaks: looking less often takes less of the two cores
    folder = chosen.folder.resolve()
    taken = stages(folder, chosen.rows, chosen.precincts, chosen.settings, chosen.first)
    report = {"machine": measure.machine(), "stages": taken, **results(folder)}
    (folder / "precincts.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
