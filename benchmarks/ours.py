"""Caucus in the races: as library calls (`python -m benchmarks.ours nation ...`, run as a child process) and as draws for checks."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import problems
from benchmarks.problems import Problem
from fitting import in_memory


def parameter_draws(run: in_memory.Run) -> tuple[list[str], np.ndarray]:
    """Names of all coefficients and scales, and their draws (chain, draw, parameter)."""
    hierarchy = run.hierarchy
    kept = ~hierarchy.model.is_padding
    names = [*hierarchy.model.coefficient_names()[kept].tolist(), *hierarchy.names()]
    psi = hierarchy.natural(run.draws.psi.reshape(-1, hierarchy.size)).reshape(run.draws.psi.shape)
    return names, np.concatenate([run.draws.theta[..., kept], psi], axis=-1)


def summarise(run: in_memory.Run) -> pd.DataFrame:
    """Mean and sd of every coefficient and scale by `parameter`."""
    names, draws = parameter_draws(run)
    return pd.DataFrame({"parameter": names, "mean": draws.mean((0, 1)), "sd": draws.std((0, 1), ddof=1)})


def fit(problem: Problem, **options: Any) -> in_memory.Run:
    """Fit a problem with its own formula and priors; options as `fitting.in_memory.fit` has them."""
    columns = {name: problem.cells[name].to_numpy() for name in problem.cells}
    options.setdefault("shards", columns["state"])
    return in_memory.fit(columns, f"y ~ {problem.formula}", chosen_priors=problem.priors, **options)


def main() -> None:
    """Fit, merge and audit one problem; the summary goes to a Parquet file, what it took to its metadata."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("problem", choices=["nation", "survey", "small_nation"])
    parser.add_argument("--num-rows", type=int, help="of the nation or the small nation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    problem = problems.make(arguments.problem, arguments.num_rows)
    clock = [(time.perf_counter(), time.process_time())]
    run = fit(problem, threads=arguments.threads)
    clock.append((time.perf_counter(), time.process_time()))
    audit = in_memory.audit(run, threads=arguments.threads)
    clock.append((time.perf_counter(), time.process_time()))
    fit_clock, audit_clock = np.diff(clock, axis=0).tolist()
    record = {
        "fit_seconds": fit_clock[0],
        "audit_seconds": audit_clock[0],
        "cpu_seconds": fit_clock[1] + audit_clock[1],
        "num_shards": len(run.sites),
        "num_draws": int(np.prod(run.draws.theta.shape[:2])),
        "rounds": len(run.moves),
        "verdict": audit["verdict"],
        "efficiency": audit["total"]["efficiency"],
    }
    table = pa.Table.from_pandas(summarise(run), preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"record": json.dumps(record)}), arguments.output)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
