"""Full-data NUTS on the cells, run until it is a reference: the arbiter of every accuracy claim.

    python -m benchmarks.peers.reference small_nation --seed 1 --min-ess 2500 --output tests/fitting/reference/small_nation.parquet

Same target as every competitor. Only the coordinates differ from a plain model, which changes the speed of mixing and not the
posterior. (1) Each level of a group is centred as far as its own data inform it (Papaspiliopoulos, Roberts, Skold 2007): with
information ``I = sum n p (1 - p)`` on a level and a scale ``s``, ``effect = sigma**(1 - c) u``, ``u ~ normal(0, sigma**c)``,
``c = I s^2 / (1 + I s^2)``. (2) All ``u``, the intercept and the fixed effects are one vector ``center + map v``, where the map
whitens a Gaussian approximation of the posterior, so that NUTS walks in ``v`` without ridges (intercept against race against
age). The map is constant: its Jacobian is too. Chains run in blocks until every coefficient and every scale has the bulk ESS
asked for; a run with more than a few diverging draws fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.linalg
import scipy.sparse
from arviz_stats.base import array_stats
from numpyro.infer import MCMC, NUTS

from benchmarks.problems import FIXED_SD, REPOSITORY, SCALE_SD, Design, Problem, nation, small_nation, survey

NUM_CHAINS = 4
NUM_WARMUP = 1000
BLOCK = 1000
TARGET_ACCEPT = 0.9
MAX_BLOCKS = 40
CODE_SHA256 = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
CACHE = Path(__file__).resolve().parent.parent / "cache"


class UnfinishedReferenceError(RuntimeError):
    """A reference run did not become a reference."""


class Coordinates(NamedTuple):
    """Where and along what NUTS walks: ``center`` (D,), ``whitening`` (D, D), and the centredness of each group's levels."""

    center: np.ndarray
    whitening: np.ndarray
    centredness: dict[str, np.ndarray]


def coordinates(design: Design, intercept_sd: float, num_rounds: int = 30) -> Coordinates:
    """Gaussian approximation at scales found by EM, written in partially centred coordinates."""
    num_cells, num_fixed = design.fixed.shape
    indicators = [
        scipy.sparse.csr_array((np.ones(num_cells), (np.arange(num_cells), codes)), shape=(num_cells, len(levels)))
        for codes, levels in design.groupings.values()
    ]
    z = scipy.sparse.hstack([np.ones((num_cells, 1)), design.fixed, *indicators], format="csr")
    group_of = np.repeat(np.arange(-1, len(indicators)), [1 + num_fixed, *(block.shape[1] for block in indicators)])
    fixed_precision = np.r_[intercept_sd**-2, np.full(num_fixed, FIXED_SD**-2)]
    share = design.num_successes.sum() / design.num_trials.sum()
    scales = np.full(len(indicators), 0.3)
    theta = np.zeros(z.shape[1])
    theta[0] = np.log(share / (1 - share))
    for _ in range(num_rounds):
        p = 1 / (1 + np.exp(-(z @ theta)))
        weight = design.num_trials * p * (1 - p)
        prior = np.concatenate([fixed_precision, scales[group_of[1 + num_fixed :]] ** -2])
        precision = (z.T @ (z * weight[:, None])).toarray() + np.diag(prior)
        factor = scipy.linalg.cho_factor(precision, lower=True)
        theta = theta + scipy.linalg.cho_solve(
            factor, z.T @ (design.num_successes - design.num_trials * p) - prior * theta
        )
        variance = np.diag(scipy.linalg.cho_solve(factor, np.eye(len(theta))))
        second_moment = [np.mean((theta**2 + variance)[group_of == g]) for g in range(len(scales))]
        scales = np.clip(np.sqrt(second_moment), 0.03, 2.0)
    strength = (z.T @ weight) / prior
    centred = strength / (1 + strength)
    stretch = np.concatenate(
        [np.ones(1 + num_fixed), scales[group_of[1 + num_fixed :]] ** (1 - centred[1 + num_fixed :])]
    )
    root = scipy.linalg.solve_triangular(factor[0], np.eye(len(theta)), lower=True).T
    by_group = {group: centred[group_of == g] for g, group in enumerate(design.groupings)}
    return Coordinates(theta / stretch, root / stretch[:, None], by_group)


def model(design: Design, intercept_sd: float, where: Coordinates) -> None:
    """The shared model; coefficients are recorded as deterministics under their own names."""
    num_fixed = design.fixed.shape[1]
    v = numpyro.sample("v", dist.ImproperUniform(dist.constraints.real_vector, (), (len(where.center),)))
    u = where.center + where.whitening @ v
    intercept, b, start = numpyro.deterministic("Intercept", u[0]), u[1 : 1 + num_fixed], 1 + num_fixed
    numpyro.factor("prior of Intercept", dist.Normal(0, intercept_sd).log_prob(intercept))
    eta = intercept + design.fixed @ numpyro.deterministic("b", b)
    numpyro.factor("prior of b", dist.Normal(0, FIXED_SD).log_prob(b).sum())
    for group, (codes, levels) in design.groupings.items():
        sigma = numpyro.sample(f"sd(1|{group})", dist.HalfNormal(SCALE_SD))
        centred, own = where.centredness[group], u[start : start + len(levels)]
        numpyro.factor(f"prior of u({group})", dist.Normal(0, sigma**centred).log_prob(own).sum())
        eta = eta + numpyro.deterministic(f"1|{group}", sigma ** (1 - centred) * own)[codes]
        start += len(levels)
    numpyro.factor("likelihood", jnp.sum(design.num_successes * eta - design.num_trials * jax.nn.softplus(eta)))


def flatten(draws: dict[str, Any], problem: Problem) -> np.ndarray:
    """Draws (chain, draw, parameter) in the order of `Problem.parameters`."""
    parts = [np.asarray(draws["Intercept"])[..., None]]
    if problem.numerics:
        parts.append(np.asarray(draws["b"]))
    parts += [np.asarray(draws[f"1|{group}"]) for group in problem.groups]
    parts += [np.asarray(draws[f"sd(1|{group})"])[..., None] for group in problem.groups]
    return np.concatenate(parts, axis=-1)


def summarise(problem: Problem, draws: np.ndarray) -> pd.DataFrame:
    """Mean, sd, ESS, MCSE and R-hat of every parameter from draws (chain, draw, parameter)."""
    table = problem.parameters()
    table["mean"] = draws.mean((0, 1))
    table["sd"] = draws.std((0, 1), ddof=1)
    table["ess_bulk"] = array_stats.ess(draws, chain_axis=0, draw_axis=1, method="bulk")
    table["ess_tail"] = array_stats.ess(draws, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
    table["mcse_mean"] = array_stats.mcse(draws, chain_axis=0, draw_axis=1, method="mean")
    table["mcse_sd"] = array_stats.mcse(draws, chain_axis=0, draw_axis=1, method="sd")
    table["r_hat"] = array_stats.rhat(draws, chain_axis=0, draw_axis=1, method="rank")
    return table


def run(problem: Problem, *, seed: int, min_ess: float) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Sample until every parameter has bulk ESS ``min_ess`` and R-hat below 1.01; return the summary and its provenance."""
    jax.config.update("jax_enable_x64", True)
    design = problem.design()
    kernel = NUTS(model, target_accept_prob=TARGET_ACCEPT)
    mcmc = MCMC(kernel, num_warmup=NUM_WARMUP, num_samples=BLOCK, num_chains=NUM_CHAINS, progress_bar=False)
    where, key, start = coordinates(design, problem.intercept_sd), jax.random.key(seed), time.perf_counter()
    blocks: list[np.ndarray] = []
    num_diverging = num_steps = 0
    for block in range(MAX_BLOCKS):
        mcmc.run(
            jax.random.fold_in(key, block), design, problem.intercept_sd, where, extra_fields=("diverging", "num_steps")
        )
        mcmc.post_warmup_state = mcmc.last_state
        extra = mcmc.get_extra_fields()
        num_diverging += int(extra["diverging"].sum())
        num_steps += int(extra["num_steps"].sum())
        blocks.append(flatten(mcmc.get_samples(group_by_chain=True), problem))
        table = summarise(problem, np.concatenate(blocks, axis=1))
        seconds = time.perf_counter() - start
        worst = table.loc[table["ess_bulk"].idxmin()]
        print(
            f"{problem.name}: {len(blocks) * BLOCK} draws x {NUM_CHAINS} chains, {seconds:.0f} s, least ESS "
            f"{worst['ess_bulk']:.0f} ({worst['parameter']}), R-hat {table['r_hat'].max():.4f}, {num_diverging} diverging",
            flush=True,
        )
        if table["ess_bulk"].min() >= min_ess and table["r_hat"].max() < 1.01:
            break
    else:
        raise UnfinishedReferenceError(
            f"{problem.name}: least bulk ESS {worst['ess_bulk']:.0f} after {MAX_BLOCKS * BLOCK} draws a chain, expected "
            f"{min_ess:.0f}. Raise MAX_BLOCKS, or look at the geometry of {worst['parameter']}."
        )
    if num_diverging > 0.001 * NUM_CHAINS * BLOCK * len(blocks):
        raise UnfinishedReferenceError(
            f"{problem.name}: {num_diverging} draws diverged, expected next to none. Raise TARGET_ACCEPT."
        )
    return table, {
        "made_by": "benchmarks/peers/reference.py",
        "code_sha256": CODE_SHA256,
        "problem": problem.name,
        "problem_sha256": problem.sha256,
        "formula": problem.formula,
        "priors": problem.priors,
        "seed": seed,
        "num_chains": NUM_CHAINS,
        "num_warmup": NUM_WARMUP,
        "num_draws_per_chain": BLOCK * len(blocks),
        "num_diverging": num_diverging,
        "mean_leapfrog_steps": num_steps / (NUM_CHAINS * BLOCK * len(blocks)),
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in ("jax", "numpyro", "numpy", "arviz-stats")},
    }


def write(path: Path, table: pd.DataFrame, provenance: dict[str, Any]) -> None:
    """Write a summary as Parquet with its provenance in the file's metadata (key ``provenance``, JSON)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({"provenance": json.dumps(provenance, sort_keys=True)})
    temporary = path.with_suffix(".partial")
    pq.write_table(arrow, temporary)
    temporary.replace(path)


def reference_nuts(problem: Problem, *, seed: int = 1, min_ess: float = 1000) -> pd.DataFrame:
    """Reference of a problem, from the cache where the cells, the priors, the code, the seed and the ESS are the same."""
    path = CACHE / f"{problem.name}-{problem.sha256[:16]}-{CODE_SHA256[:16]}-{seed}-{min_ess:.0f}.parquet"
    if not path.exists():
        write(path, *run(problem, seed=seed, min_ess=min_ess))
    return pq.read_table(path).to_pandas()


def main() -> None:
    """Make one reference file and the file of its cells beside it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("problem", choices=["small_nation", "survey", "nation"])
    parser.add_argument("--seed", type=int, default=1, help="of the problem and of the sampler")
    parser.add_argument("--num-rows", type=int, default=20_000, help="responses of small_nation, voters of nation")
    parser.add_argument("--min-ess", type=float, default=2500)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.problem == "survey":
        problem = survey()
    elif arguments.problem == "nation":
        problem = nation(arguments.num_rows, arguments.seed)
    else:
        problem = small_nation(arguments.seed, arguments.num_rows)
    table, provenance = run(problem, seed=arguments.seed, min_ess=arguments.min_ess)
    relative = arguments.output.resolve().relative_to(REPOSITORY)
    provenance["command"] = (
        f"python -m benchmarks.peers.reference {arguments.problem} --seed {arguments.seed} "
        f"--num-rows {arguments.num_rows} --min-ess {arguments.min_ess:g} --output {relative}"
    )
    write(arguments.output, table, provenance)
    cells_path = arguments.output.with_name(f"{arguments.output.stem}_cells.parquet")
    write(
        cells_path,
        problem.cells,
        {"made_by": "benchmarks/problems.py", "problem": problem.name, "sha256": problem.sha256},
    )


if __name__ == "__main__":
    main()
