"""The R neighbours as child processes: glmmTMB and lme4."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import measure
from benchmarks.problems import Problem

HERE = Path(__file__).resolve().parent


def run(problem: Problem, script: str, option: int, *, limit_seconds: float = 3600) -> dict[str, Any]:
    """Fit a problem with ``glmmtmb`` (option: threads) or ``lme4`` (option: nAGQ).

    Returns ``seconds`` and ``cpu_seconds`` of the whole process, ``stages`` (read, fit, summarise), ``peak_bytes``, ``finished``, and
    ``parameters`` (variable, level, mean, sd), which is None where the time limit ended the run.
    """
    if shutil.which("Rscript") is None:
        raise measure.RaceError("Rscript is not on the path. Run benchmarks/install_peers.sh.")
    with tempfile.TemporaryDirectory() as folder:
        cells, output = Path(folder) / "cells.csv", Path(folder) / "out"
        columns = [*problem.factors, *problem.numerics, "num_trials", "num_successes"]
        problem.standardised()[columns].to_csv(cells, index=False)
        numbers = ",".join([*problem.numerics, "num_trials", "num_successes"])
        command = ["Rscript", str(HERE / f"{script}.R"), str(cells), problem.formula, str(output), numbers, str(option)]
        measured = measure.run(command, limit_seconds=limit_seconds)
        finished = measured.exit_code == 0
        stages: dict[str, float] = {}
        parameters = None
        if finished:
            timing = pd.read_csv(f"{output}.timing.csv")
            stages = dict(zip(timing["stage"], timing["seconds"].astype(float), strict=True))
            parameters = pd.read_csv(f"{output}.parameters.csv", dtype={"level": str}).fillna({"level": ""})
    return {
        "seconds": measured.seconds,
        "cpu_seconds": measured.cpu_seconds,
        "stages": stages,
        "peak_bytes": measured.peak_process_bytes,
        "finished": finished,
        "output": measured.output[-1000:],
        "parameters": parameters,
    }
