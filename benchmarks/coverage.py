"""Do the intervals of whole runs cover the truth? Simulated nations, each through `caucus simulate` and `caucus run`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks import measure
from benchmarks.races import CAUCUS
from cluster import projects
from reporting.estimates import compare_with_truth

OUTCOMES = {"voted": "nation-turnout", "support": "nation-support"}
MARGINS = {"state": "state", "state:county": "state-county"}
BOUNDS = {"state": (0.86, 0.94), "state:county": (0.87, 0.93)}


def nation(folder: Path, seed: int, num_rows: int) -> Iterator[dict[str, Any]]:
    """Simulate one nation, fit both outcomes and compare each margin with the truth: a row each."""
    measure.run([CAUCUS, "simulate", str(folder), "--rows", str(num_rows), "--seed", str(seed)])
    configs = {path.stem: path for path in projects.write_configs(folder)}
    truth = pq.read_table(folder / "truth" / "expected.parquet")
    for outcome, name in OUTCOMES.items():
        measure.run([CAUCUS, "run", str(configs[name]), "--set", "run.executor=serial", "--set", f"run.seed={seed}"])
        directory = folder / "runs" / name
        verdict = json.loads((directory / "audit.json").read_text())["verdict"]
        for margin, file in MARGINS.items():
            found = compare_with_truth(
                pq.read_table(directory / "estimates" / f"{file}.parquet"), truth, outcome=outcome
            )
            yield {
                "seed": seed,
                "outcome": outcome,
                "margin": margin,
                "num_groups": found.num_groups,
                "coverage": found.coverage,
                "rmse": found.rmse,
                "raw_rmse": found.raw_rmse,
                "raw_coverage": found.raw_coverage,
                "verdict": verdict,
            }


def pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Coverage over all nations by outcome and margin, weighted by groups, with its bounds."""
    out = []
    for outcome in OUTCOMES:
        for margin, (low, high) in BOUNDS.items():
            chosen = [row for row in rows if row["outcome"] == outcome and row["margin"] == margin]
            total = sum(row["num_groups"] for row in chosen)
            coverage = sum(row["coverage"] * row["num_groups"] for row in chosen) / total
            raw = sum((row["raw_coverage"] or 0.0) * row["num_groups"] for row in chosen) / total
            out.append(
                {
                    "outcome": outcome,
                    "margin": margin,
                    "num_groups": total,
                    "coverage": coverage,
                    "raw_coverage": raw,
                    "passed": low <= coverage <= high,
                }
            )
    return out
