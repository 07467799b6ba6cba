"""The races: who runs what, how often, and what is kept of it. Every competitor is a child process of its own."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from benchmarks import measure, problems
from benchmarks.peers import r_peers
from benchmarks.problems import REPOSITORY, Problem

PYTHON = sys.executable
CAUCUS = str(Path(sys.executable).parent / "caucus")
MIB = 2**20
ONE_BLAS_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}  # as the command sets it: its matrices are small
NUTS_RUN_ON_NATION = (150, 20)  # warm-up and draws per chain, really run: up to 20 minutes


@dataclass
class Lap:
    """One run of one competitor.

    ``seconds`` is what counts in the race: fit, merge and audit (a peer: fit and draws), or the whole command where that is
    what races. ``cpu_seconds`` are of the same, or of the whole process where a peer cannot tell them apart.
    """

    seconds: float
    cpu_seconds: float
    process_seconds: float
    peak_bytes: dict[str, int]
    stages: dict[str, float] = field(default_factory=dict)
    note: str = ""
    parameters: pd.DataFrame | None = None


Competitor = Callable[[], Lap]


def library(problem: Problem, name: str, num_rows: int | None = None) -> Competitor:
    """Caucus as library calls on cells in memory: fit, merge, 1,000 draws, audit. Imports are in the process's time."""

    def lap() -> Lap:
        measured, record, table = _child("benchmarks.ours", name, num_rows, environment=ONE_BLAS_THREAD)
        note = f"{record['num_draws']} draws, verdict {record['verdict']}, efficiency {record['efficiency']:.3f}"
        stages = {"fit and merge": record["fit_seconds"], "audit": record["audit_seconds"]}
        seconds = sum(stages.values())
        return Lap(seconds, record["cpu_seconds"], measured.seconds, measured.peak_bytes, stages, note, table)

    return lap


def command(problem: Problem) -> Competitor:
    """`caucus run` from a Parquet file of cells to the report, start-up included, executor serial."""

    def lap() -> Lap:
        with tempfile.TemporaryDirectory() as folder:
            cells = Path(folder) / "cells.parquet"
            config = {
                "name": problem.name.replace("_", "-"),
                "data": {
                    "source": str(cells),
                    "outcome": {"successes": "successes", "trials": "trials"},
                    "terms_of_use": "benchmark",
                },
                "model": {"formula": f"y ~ {problem.formula}", "family": "binomial", "priors": problem.priors},
                "shards": {"by": "state", "min_cells": 1},
                "poststratify": {"by": ["all", "state"]},
                "run": {"directory": str(Path(folder) / "run"), "executor": "serial"},
            }
            renamed = problem.cells.rename(columns={"num_trials": "trials", "num_successes": "successes"})
            renamed.to_parquet(cells, index=False)
            path = Path(folder) / "run.yaml"
            with path.open("w") as file:
                YAML().dump(config, file)
            measured = measure.run([CAUCUS, "run", str(path)])
            manifest = json.loads((Path(folder) / "run" / "manifest.json").read_text())
            audit = json.loads((Path(folder) / "run" / "audit.json").read_text())
        stages = {name: stage["seconds"] for name, stage in manifest["stages"].items()}
        stages["start-up"] = measured.seconds - sum(stages.values())
        note = f"verdict {audit['verdict']}"
        return Lap(measured.seconds, measured.cpu_seconds, measured.seconds, measured.peak_bytes, stages, note)

    return lap


def r_peer(problem: Problem, script: str, option: int) -> Competitor:
    """`glmmtmb` or `lme4`: reading and start-up do not count."""

    def lap() -> Lap:
        result = r_peers.run(problem, script, option)
        seconds = result["stages"]["fit"] + result["stages"]["summarise"]
        peak = {"R": result["peak_bytes"]}
        note = "no draws, no audit"
        return Lap(
            seconds, result["cpu_seconds"], result["seconds"], peak, result["stages"], note, result["parameters"]
        )

    return lap


def numpyro_peer(
    name: str, *, num_rows: int | None, run: tuple[int, int], full: tuple[int, int], centred: bool
) -> Competitor:
    """NumPyro NUTS: ``run`` (warm-up, draws) is run; ``full`` is what its seconds stand for, extrapolated if it differs."""

    def lap() -> Lap:
        options = ["--num-warmup", str(run[0]), "--num-draws", str(run[1]), *(["--centred"] if centred else [])]
        measured, record, table = _child("benchmarks.peers.numpyro_nuts", name, num_rows, options)
        further = (full[0] + full[1] - run[0]) / record["num_draws"]
        seconds = record["warmup_seconds"] + further * record["draw_seconds"]
        cpu_seconds = record["warmup_cpu_seconds"] + further * record["draw_cpu_seconds"]
        effective = record["draw_seconds"] / record["ess_min"]
        num_steps = record["num_chains"] * record["num_draws"] * record["steps_per_draw"]
        per_step = record["draw_cpu_seconds"] / num_steps
        note = (
            f"{record['num_chains']} chains x {full[0]} + {full[1]}"
            + (f", extrapolated from {run[0]} + {run[1]}" if run != full else "")
            + f"; {record['steps_per_draw']:.0f} steps a draw of {1000 * per_step:.2g} ms of CPU each, least ESS {record['ess_min']:.0f} ({record['ess_min_of']}), "
            f"{effective:.3g} s per effective draw of it, no audit"
        )
        stages = {"warm-up run": record["warmup_seconds"], "draws run": record["draw_seconds"]}
        return Lap(seconds, cpu_seconds, measured.seconds, measured.peak_bytes, stages, note, table)

    return lap


def sharding_ours(source: str, columns: list[str]) -> Competitor:
    """`sharding.ingest` of a voter file: contract, dictionary, cells, shards, manifest."""
    return lambda: _ingest_child(["caucus", source, *columns])


def sharding_bare(source: str, columns: list[str]) -> Competitor:
    """One DuckDB group-by of the same columns of the same file, written to one Parquet file."""
    return lambda: _ingest_child(["duckdb", source, *columns])


def _ingest_child(arguments: list[str]) -> Lap:
    measured = measure.run([PYTHON, "-m", "benchmarks.group_by", *arguments])
    record = json.loads(measured.output.splitlines()[-1])
    note = f"{record['num_rows']:,} rows, {record['num_cells']:,} cells"
    return Lap(
        record["seconds"], record["cpu_seconds"], measured.seconds, measured.peak_bytes, record.get("stages", {}), note
    )


def _child(
    module: str,
    name: str,
    num_rows: int | None,
    options: list[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[measure.Measurement, dict[str, Any], pd.DataFrame]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.parquet"
        size = [] if num_rows is None else ["--num-rows", str(num_rows)]
        command_line = [PYTHON, "-m", module, name, *size, *(options or []), "--output", str(output)]
        measured = measure.run(command_line, environment=environment)
        table = pq.read_table(output)
        return measured, json.loads(table.schema.metadata[b"record"]), table.to_pandas()


def race(
    competitors: Mapping[str, Competitor], repeats: Mapping[str, int], reference: pd.DataFrame | None = None
) -> list[dict[str, Any]]:
    """Run all competitors in turn, the first one ours, and return a row each: medians, ratios to ours, accuracy.

    Parameters
    ----------
    repeats
        Laps of each competitor; laps alternate, so that a busy minute falls on all.
    reference
        Means and sds to be judged against: ``error`` is the largest difference of a coefficient's mean, in posterior sds.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in competitors}
    for turn in range(max(repeats.values())):
        for name, competitor in competitors.items():
            if turn < repeats[name]:
                laps[name].append(competitor())
                last = laps[name][-1]
                print(
                    f"  {name}: {last.seconds:.2f} s, {last.cpu_seconds:.2f} s of CPU; {last.note}",
                    file=sys.stderr,
                    flush=True,
                )
    rows = []
    for name, runs in laps.items():
        row: dict[str, Any] = {
            "competitor": name,
            "seconds": statistics.median(lap.seconds for lap in runs),
            "cpu_seconds": statistics.median(lap.cpu_seconds for lap in runs),
            "process_seconds": statistics.median(lap.process_seconds for lap in runs),
            "all_seconds": [round(lap.seconds, 3) for lap in runs],
            "peak_mib": {key: round(value / MIB) for key, value in runs[-1].peak_bytes.items()},
            "stages": {key: round(value, 3) for key, value in runs[-1].stages.items()},
            "note": runs[-1].note,
        }
        if reference is not None and runs[-1].parameters is not None:
            row.update(accuracy(runs[-1].parameters, reference))
        rows.append(row)
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
        row["cpu_ratio"] = row["cpu_seconds"] / rows[0]["cpu_seconds"]
    return rows


def accuracy(parameters: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """Largest error of a coefficient's and of a scale's mean in reference sds, and the range of sd ratios of coefficients."""
    table = parameters.copy()
    if "parameter" not in table:
        table["parameter"] = [
            f"{v}[{level}]" if level else v for v, level in zip(table["variable"], table["level"], strict=True)
        ]
    joined = reference.merge(table[["parameter", "mean", "sd"]], on="parameter", suffixes=("", "_found"))
    if len(joined) != len(reference):
        missing = sorted(set(reference["parameter"]) - set(joined["parameter"]))
        raise measure.RaceError(f"{len(missing)} parameters of the reference were not found, the first {missing[0]!r}.")
    error = (joined["mean_found"] - joined["mean"]).abs() / joined["sd"]
    is_scale = joined["variable"].str.startswith("sd(")
    ratio = (joined["sd_found"] / joined["sd"])[~is_scale]
    return {
        "error": float(error[~is_scale].max()),
        "scale_error": float(error[is_scale].max()),
        "sd_ratio_min": float(ratio.min()),
        "sd_ratio_max": float(ratio.max()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of a race."""
    judged = any("error" in row for row in rows)
    head = [
        "",
        "seconds",
        "ratio",
        "CPU s",
        "CPU ratio",
        "whole process s",
        "peak MiB",
        *(["largest error, sd"] if judged else []),
        "note",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        peak = max(row["peak_mib"].values(), default=0)
        cells = [
            row["competitor"],
            f"{row['seconds']:.2f}",
            f"{row['ratio']:.1f}",
            f"{row['cpu_seconds']:.1f}",
            f"{row['cpu_ratio']:.1f}",
        ]
        cells += [f"{row['process_seconds']:.1f}", str(peak)]
        cells += [f"{row['error']:.2f}" if "error" in row else ""] if judged else []
        lines.append("| " + " | ".join([*cells, row["note"]]) + " |")
    stages = [
        f"- {row['competitor']}: " + ", ".join(f"{k} {v:.2f} s" for k, v in row["stages"].items())
        for row in rows
        if row["stages"]
    ]
    memory = [
        f"- {row['competitor']}: " + ", ".join(f"{k} {v} MiB" for k, v in row["peak_mib"].items()) for row in rows
    ]
    return "\n".join(
        [*lines, "", "Stages of the last lap:", *stages, "", "Peak memory of every process of the last lap:", *memory]
    )


def nation(num_rows: int | None, repeats: int, reference: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """(a) The nation: 20 M voters, about 200,000 cells. NUTS is extrapolated to 2 chains x (1,000 + 1,000)."""
    problem = problems.make("nation", num_rows)
    competitors: dict[str, Competitor] = {
        "caucus (library)": library(problem, "nation", num_rows),
        "caucus run (command)": command(problem),
        "glmmTMB": r_peer(problem, "glmmtmb", 1),
    }
    laps = dict.fromkeys(competitors, repeats)
    competitors["NumPyro NUTS"] = numpyro_peer(
        "nation", num_rows=num_rows, run=NUTS_RUN_ON_NATION, full=(1000, 1000), centred=True
    )
    laps["NumPyro NUTS"] = 1
    return race(competitors, laps, reference)


def survey(repeats: int, reference: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """(b) The real survey: 29,905 answers, 5,320 cells."""
    problem = problems.survey()
    full = (1000, 1000)
    competitors = {
        "caucus (library)": library(problem, "survey"),
        "caucus run (command)": command(problem),
        "glmmTMB": r_peer(problem, "glmmtmb", 1),
        "lme4, nAGQ=0": r_peer(problem, "lme4", 0),
        "lme4": r_peer(problem, "lme4", 1),
        "NumPyro NUTS": numpyro_peer("survey", num_rows=None, run=full, full=full, centred=False),
    }
    return race(competitors, dict.fromkeys(competitors, repeats), reference)


def sharding(num_rows: int, repeats: int) -> list[dict[str, Any]]:
    """(c) Ingest of a voter file against a bare group-by of the same columns of the same files."""
    from sharding.simulate import simulate

    directory = REPOSITORY / "benchmarks" / "cache" / f"voters_{num_rows}"
    simulate(directory, num_rows=num_rows, seed=1)
    source, columns = str(directory / "voters" / "*.parquet"), ["state", "county", "race", "age", "female"]
    competitors = {"sharding.ingest": sharding_ours(source, columns), "bare DuckDB": sharding_bare(source, columns)}
    return race(competitors, dict.fromkeys(competitors, repeats))
