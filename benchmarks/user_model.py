"""The worked example of a user's model, turnout and choice: in shards against itself whole, by plain NumPyro NUTS.

Means within 0.1 sd beyond Monte Carlo error, sds within 10% beyond theirs (a sd's is about its mean's / sqrt 2).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from numpyro.infer import MCMC
from numpyro.infer import NUTS as NUTSKernel
from scipy import stats

from benchmarks.problems import REPOSITORY
from fitting import user_in_memory, user_shards
from fitting.user_tilted import NUTS, VI

METHODS: dict[str, NUTS | VI] = {"nuts": NUTS(), "vi": VI()}
NAMES = ("intercept", "female", "age_effect", "sd", "correlation", "state_effect")
MEAN_LIMIT, SD_LIMIT, FALSE_ALARM = 0.1, 0.1, 1e-4
NUM_DRAWS, NUM_CHAINS = 500, 4


def run(num_rows: int = 2400) -> Iterator[dict[str, Any]]:
    """A row for every method and parameter."""
    sharded = _load(REPOSITORY / "configs" / "models" / "turnout_and_choice.py").MODEL
    simulate = _load(REPOSITORY / "examples" / "turnout_and_choice" / "simulate.py").simulate
    table = simulate(num_regions=4, states_per_region=6, num_rows=num_rows)
    columns = {name: np.asarray(table[name].to_pylist()) for name in table.column_names}
    region = columns.pop("region")
    rows = {r: {name: values[region == r] for name, values in columns.items()} for r in np.unique(region)}
    whole = _whole(sharded, columns)
    for method, options in METHODS.items():
        fitted = user_in_memory.fit(
            sharded, rows, method=options, num_draws=NUM_DRAWS, num_chains=NUM_CHAINS, seed=1
        )
        for name, reference in whole.items():
            draws = fitted.variables[name].values.reshape(NUM_DRAWS * NUM_CHAINS, -1)
            yield {"method": method, "parameter": name, "verdict": fitted.audit["verdict"], **_compare(draws, reference)}


def _compare(draws: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Draws (M, K) against a reference (chain, draw, ...) of K numbers."""
    reference = reference.reshape(*reference.shape[:2], -1)
    sd = reference.std(axis=(0, 1))
    error = array_stats.mcse(np.moveaxis(reference, -1, 0), method="mean") / sd
    noise = stats.norm.isf(FALSE_ALARM / draws.shape[1]) * np.hypot(error, 1 / np.sqrt(len(draws)))
    off = np.abs(draws.mean(axis=0) - reference.mean(axis=(0, 1))) / sd
    ratio = draws.std(axis=0) / sd
    passed = bool(np.all(off < MEAN_LIMIT + noise) and np.all(np.abs(ratio - 1) < SD_LIMIT + noise))
    return {
        "passed": passed, "error": float(off.max()), "noise": float(noise.max()),
        "sd_ratio_min": float(ratio.min()), "sd_ratio_max": float(ratio.max()),
    }  # fmt: skip


def _whole(sharded: Any, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    everybody = user_shards.code(sharded, {"all": columns})[0]
    data = {name: jnp.asarray(values[everybody.mask]) for name, values in everybody.data.items()}
    states = len(np.unique(columns["state"]))
    sizes = {**dict(everybody.sizes), "rows": everybody.num_rows, "state": states}
    with jax.enable_x64(True):
        sampler = MCMC(
            NUTSKernel(sharded.model), num_warmup=500, num_samples=1000, num_chains=2,
            chain_method="vectorized", progress_bar=False,
        )  # fmt: skip
        sampler.run(jax.random.key(0), data, sizes)
    draws = sampler.get_samples(group_by_chain=True)
    return {name: np.asarray(draws[name]) for name in NAMES}


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, f"{path} is a Python file"
    assert spec.loader is not None, f"{path} is a Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
