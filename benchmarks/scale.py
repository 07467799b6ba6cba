"""From 1 million to 250 million voters: what each stage takes, and what it costs beside a bare group-by.

    python -m benchmarks.scale FOLDER [--rows 1000000 10000000 50000000 250000000]

For every size: a simulated nation (Parquet on the local disk); `sharding.ingest` and one DuckDB group-by of the same columns, in turn,
three times each (medians); and `caucus run` of `configs/nation-turnout.yaml` from the command to the report, with the seconds of each stage, the
peak of the largest process, the verdict, and how much of the truth the 90% intervals cover. Writes the table into `docs/scale.md`.
Every size's record is kept in FOLDER, so a command cut off goes on where it was. Code 3 if a run's verdict is `fail`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks import measure
from benchmarks.family_page import write
from benchmarks.problems import REPOSITORY
from benchmarks.races import CAUCUS, MIB, race, sharding_bare, sharding_ours
from reporting.estimates import compare_with_truth

CONFIG = "nation-turnout"
SIZES = (1_000_000, 10_000_000, 50_000_000, 250_000_000)
STAGES = ("ingest", "fit", "merge", "audit", "poststratify", "report")
COLUMNS = ["state", "county", "race", "age", "female", "dem_share", "pct_college"]
MARGINS = {"state": "state", "state:county": "state-county"}
LAPS = 3
PAGE = REPOSITORY / "docs" / "scale.md"


def measured(folder: Path, num_rows: int) -> dict[str, Any]:
    """Simulate, race and run one size."""
    simulated = measure.run([CAUCUS, "simulate", str(folder), "--rows", str(num_rows)], limit_seconds=3600.0)
    source = str(folder / "voters" / "*.parquet")
    competitors = {"ours": sharding_ours(source, COLUMNS), "bare": sharding_bare(source, COLUMNS)}
    ours, bare = race(competitors, dict.fromkeys(competitors, LAPS))
    config = folder / f"{CONFIG}.yaml"
    shutil.copy(REPOSITORY / "configs" / config.name, config)
    shutil.rmtree(folder / "runs", ignore_errors=True)
    taken = measure.run([CAUCUS, "run", str(config)], limit_seconds=3600.0, accepted=(0, 3))
    run = folder / "runs" / CONFIG
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    manifest = json.loads((run / "shards" / "manifest.json").read_text())
    truth = pq.read_table(folder / "truth" / "expected.parquet")
    covered = {
        margin: compare_with_truth(pq.read_table(run / "estimates" / f"{file}.parquet"), truth, outcome="voted").coverage
        for margin, file in MARGINS.items()
    }
    return {
        "rows": num_rows, "bytes": sum(path.stat().st_size for path in (folder / "voters").iterdir()),
        "cells": sum(shard["num_cells"] for shard in manifest["shards"]), "shards": len(manifest["shards"]),
        "simulate": simulated.seconds, "ingest_race": ours["seconds"], "group_by": bare["seconds"],
        "ratio": statistics.median(a / b for a, b in zip(ours["all_seconds"], bare["all_seconds"], strict=True)),
        "stages": {name: stages[name]["seconds"] for name in STAGES}, "run": taken.seconds, "cpu": taken.cpu_seconds,
        "peak": taken.peak_process_bytes, "peak_total": taken.peak_total_bytes,
        "verdict": json.loads((run / "audit.json").read_text())["verdict"], "coverage": covered, "machine": measure.machine(),
    }  # fmt: skip


def table(records: list[dict[str, Any]]) -> list[str]:
    """Markdown: a column for each size."""

    def line(name: str, *values: str) -> str:
        return "| " + " | ".join((name, *values)) + " |"

    def seconds(name: str) -> list[str]:
        return [f"{r['stages'][name]:.1f}" for r in records]

    lines = [
        line("rows", *(f"{r['rows']:,}" for r in records)),
        line("---", *("--:" for _ in records)),
        line("file, MiB", *(f"{r['bytes'] / MIB:,.0f}" for r in records)),
        line("cells", *(f"{r['cells']:,}" for r in records)),
        line("`sharding.ingest`, s", *(f"{r['ingest_race']:.2f}" for r in records)),
        line("bare DuckDB group-by, s", *(f"{r['group_by']:.2f}" for r in records)),
        line("ratio", *(f"{r['ratio']:.2f}" for r in records)),
        *(line(f"`caucus run`: {name}, s", *seconds(name)) for name in STAGES),
        line("**`caucus run`, command to report, s**", *(f"**{r['run']:.0f}**" for r in records)),
        line("largest process, MiB", *(f"{r['peak'] / MIB:,.0f}" for r in records)),
        line("all processes together, MiB", *(f"{r['peak_total'] / MIB:,.0f}" for r in records)),
        line("verdict", *(r["verdict"] for r in records)),
        line("states covered", *(f"{r['coverage']['state']:.1%}" for r in records)),
        line("counties covered", *(f"{r['coverage']['state:county']:.1%}" for r in records)),
        line("simulating the file, s", *(f"{r['simulate']:.0f}" for r in records)),
    ]
    return [*lines, "", f"Machine: {', '.join(f'{k} {v}' for k, v in records[-1]['machine'].items())}."]


def main() -> int:
    """Run what has no record yet, then write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    chosen = parser.parse_args()
    records = []
    for num_rows in sorted(chosen.rows):
        folder = chosen.folder.resolve() / f"nation-{num_rows}"
        kept = folder / "scale.json"
        if not kept.exists():
            found = measured(folder, num_rows)
            kept.write_text(json.dumps(found, indent=1) + "\n")
            print(json.dumps(found), file=sys.stderr, flush=True)
        records.append(json.loads(kept.read_text()))
    lines = table(records)
    print("\n".join(lines))
    write("scale", lines, PAGE)
    return 3 if any(r["verdict"] == "fail" for r in records) else 0


if __name__ == "__main__":
    sys.exit(main())
