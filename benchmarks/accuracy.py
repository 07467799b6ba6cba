"""The same answer as MCMC: every method, number of shards and way of cutting, against full-data NUTS on the same cells."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from arviz_stats.base import array_stats
from scipy import stats

from benchmarks import ours
from benchmarks.problems import Problem
from fitting import exact, in_memory

METHODS = ("vi", "nuts", "exact")
NUM_SHARDS = (1, 10, 51)
CUTS = ("place", "random")
NUM_CHAINS, NUM_DRAWS = 4, 2000
FALSE_ALARM = 1e-3
MEAN_LIMIT, SD_RATIO_LIMIT, SCALE_MEAN_LIMIT = 0.1, 0.1, 0.15


def shards(problem: Problem, num_shards: int, cut: str, seed: int = 1) -> np.ndarray:
    """Shard of each cell. ``place``: whole counties in order, so that states stay together; ``random``: cell by cell."""
    if cut == "random":
        return np.random.default_rng(seed).integers(0, num_shards, len(problem.cells))
    _, county = np.unique(problem.cells["county"].to_numpy(str), return_inverse=True)
    cells_before = np.cumsum(np.bincount(county)) - 1
    return np.asarray(cells_before[county] * num_shards // len(problem.cells))


def fit(problem: Problem, method: str, labels: np.ndarray, seed: int = 1) -> in_memory.Run:
    """Fit by one of `METHODS`; the draws are in the run."""
    options: dict[str, Any] = {
        "shards": labels,
        "num_draws": NUM_DRAWS,
        "num_chains": NUM_CHAINS,
        "seed": seed,
        "threads": 2,
    }
    run = ours.fit(problem, method="nuts" if method == "nuts" else "vi", **options)
    if method != "exact":
        return run
    pieces = list(zip(run.restrictions, run.designs, strict=True))
    draws = exact.draw(
        run.hierarchy,
        run.natural,
        run.proposal,
        pieces,
        num_draws=NUM_DRAWS,
        num_chains=NUM_CHAINS,
        num_warmup=300,
        seed=seed,
    )
    return run._replace(draws=draws)


def compare(run: in_memory.Run, reference: pd.DataFrame) -> dict[str, Any]:
    """Judge a fit against a reference summary (mean, sd, mcse_mean, mcse_sd by parameter).

    Errors of means are in reference sds. A limit is broken only by more than Monte Carlo error can explain, at
    `FALSE_ALARM` for all parameters together.
    """
    names, draws = ours.parameter_draws(run)
    found = pd.DataFrame(
        {
            "parameter": names,
            "found_mean": draws.mean((0, 1)),
            "found_sd": draws.std((0, 1), ddof=1),
            "found_mcse": array_stats.mcse(draws, chain_axis=0, draw_axis=1, method="mean"),
            "found_mcse_sd": array_stats.mcse(draws, chain_axis=0, draw_axis=1, method="sd"),
        }
    )
    table = reference.merge(found, on="parameter", how="left", validate="one_to_one")
    if table["found_mean"].isna().any():
        raise ValueError(
            f"no draws of {table.loc[table['found_mean'].isna(), 'parameter'].iloc[0]}, which the reference has"
        )
    z = stats.norm.isf(FALSE_ALARM / (2 * len(table)))
    error = ((table["found_mean"] - table["mean"]) / table["sd"]).abs()
    noise = z * np.hypot(table["found_mcse"], table["mcse_mean"]) / table["sd"]
    ratio = table["found_sd"] / table["sd"]
    ratio_noise = z * np.hypot(table["found_mcse_sd"], table["mcse_sd"]) / table["sd"]
    is_scale = table["variable"].str.startswith("sd(")
    mean_limit = np.where(is_scale, SCALE_MEAN_LIMIT, MEAN_LIMIT)
    passed = bool(
        (error <= mean_limit + noise).all() and ((ratio - 1).abs() <= SD_RATIO_LIMIT + ratio_noise)[~is_scale].all()
    )
    return {
        "passed": passed,
        "coefficient_error": float(error[~is_scale].max()),
        "coefficient_rms": float(np.sqrt(np.mean(error[~is_scale] ** 2))),
        "coefficient_where": str(table.loc[error[~is_scale].idxmax(), "parameter"]),
        "sd_ratio_min": float(ratio[~is_scale].min()),
        "sd_ratio_max": float(ratio[~is_scale].max()),
        "scale_error": float(error[is_scale].max()),
        "beyond_noise": float(np.maximum(error - noise, 0.0)[~is_scale].max()),
        "scale_beyond_noise": float(np.maximum(error - noise, 0.0)[is_scale].max()),
        "largest_noise": float(noise.max()),
    }


def run(problem: Problem, reference: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Every method, number of shards and cut: a row each as it is done."""
    for method in METHODS:
        for num_shards in NUM_SHARDS:
            for cut in CUTS if num_shards > 1 else CUTS[:1]:
                seed = zlib.crc32(f"{problem.name} {method} {num_shards} {cut}".encode())
                fitted = fit(problem, method, shards(problem, num_shards, cut), seed)
                row = {"problem": problem.name, "method": method, "num_shards": len(fitted.sites), "cut": cut}
                yield row | compare(fitted, reference)
