"""A structured prior on a finished run of the simulated nation: how long it takes, and is it what a fresh run says?

    python -m benchmarks.swap FOLDER [--rows 2000000] [--executor serial]

Simulates a nation and runs `configs/nation-turnout.yaml`; then the same run again with a random walk of order 1 over ages,
once in the finished directory (timed) and once in an empty one. Every parameter's mean and sd, and every estimate's, of the
two are compared: means within 0.1 posterior sd and sds within 10%, beyond Monte Carlo error at a false alarm of 1e-3 for
all of a table. Code 3 if not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from benchmarks import measure
from benchmarks.accuracy import FALSE_ALARM, MEAN_LIMIT, SD_RATIO_LIMIT
from benchmarks.problems import REPOSITORY
from benchmarks.races import CAUCUS

CONFIG = "nation-turnout"
SWAP = "model.priors.1|age={structure: random_walk}"
KEYS = {"summary.parquet": "parameter", "estimates/state.parquet": "state", "estimates/state-county.parquet": "county"}


def compare(swapped: Path, fresh: Path, key: str) -> dict[str, Any]:
    """The largest difference of a mean (sds of the fresh run) and of an sd (ratio), as they are and beyond noise."""
    a, b = (pq.read_table(path).to_pandas().sort_values(key).reset_index(drop=True) for path in (swapped, fresh))
    if a[key].tolist() != b[key].tolist():
        raise ValueError(f"{swapped.name}: not the same rows of {key!r} in both runs")
    error_column = "mcse" if "mcse" in a else "mcse_mean"
    z = stats.norm.isf(FALSE_ALARM / (2 * len(a)))
    sd = b["sd"]
    off = (a["mean"] - b["mean"]).abs() / sd
    noise = z * np.hypot(a[error_column], b[error_column]) / sd
    log_ratio = np.log(a["sd"] / sd).abs()
    ess = np.minimum((a["sd"] / a[error_column]) ** 2, (sd / b[error_column]) ** 2)
    log_noise = z * np.sqrt(1.0 / ess)  # two sds from ess draws each, 1 / (2 ess) the variance of either's log
    return {
        "table": swapped.name, "rows": len(a), "mean_off": float(off.max()), "sd_ratio": float(np.exp(log_ratio.max())),
        "mean_beyond_noise": float((off - noise).max()), "log_sd_beyond_noise": float((log_ratio - log_noise).max()),
        "passed": bool((off <= MEAN_LIMIT + noise).all() and (log_ratio <= SD_RATIO_LIMIT + log_noise).all()),
    }  # fmt: skip


def main() -> int:
    """Measure, compare, and print both as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--executor", help="of the swap alone; that of the config by default")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()

    def timed(*command: str) -> float:
        return measure.run([CAUCUS, *command], limit_seconds=3600.0).seconds

    timed("simulate", str(folder), "--rows", str(chosen.rows))
    config = str(shutil.copy(REPOSITORY / "configs" / f"{CONFIG}.yaml", folder / f"{CONFIG}.yaml"))
    first = timed("run", config)
    executor = ["--set", f"run.executor={chosen.executor}"] if chosen.executor else []
    swapped = timed("run", config, "--set", SWAP, *executor)
    fresh = timed("run", config, "--set", SWAP, "--set", "run.directory=runs/fresh")
    found = [compare(folder / "runs" / CONFIG / name, folder / "runs" / "fresh" / name, key) for name, key in KEYS.items()]
    seconds = {"first run": first, "structure swapped": swapped, "fresh run": fresh}
    print(json.dumps({"machine": measure.machine(), "seconds": seconds, "compared": found}, indent=1))
    return 0 if all(row["passed"] for row in found) else 3


if __name__ == "__main__":
    sys.exit(main())
