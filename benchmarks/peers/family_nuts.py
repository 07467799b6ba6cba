"""Full-data NUTS for every family: a plain NumPyro model of its own, in NumPyro's own distributions.

    python -m benchmarks.peers.family_nuts negative_binomial --output tests/fitting/reference/family_negative_binomial.parquet

Nothing of `fitting` is used: not its likelihoods, not its priors, not its structures. Distinct rows are weighted by how many there
are; the mass matrix is dense, so that the intercept and the effects that it trades with are walked together. Every level has some
200 rows, so exchangeable effects are centred, ``effect = sd**(1 - c) u`` with ``u ~ normal(0, sd**c)`` and c = 1 or a half (with c = 0
a chain of the negative binomial stuck, with c = 1 the categorical diverged); structured ones are non-centred. Chains go on until every parameter has the bulk ESS asked for and an R-hat below 1.01.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow.parquet as pq
from numpyro.infer import MCMC, NUTS, init_to_median

from benchmarks import family_problems
from benchmarks.family_problems import GROUPS, NEIGHBOURS, NUM_AGES, NUM_STATES, FamilyProblem
from benchmarks.peers.reference import UnfinishedReferenceError, summarise, write
from benchmarks.problems import REPOSITORY

NUM_CHAINS, NUM_WARMUP, BLOCK, MAX_BLOCKS = 4, 800, 600, 20
TARGET_ACCEPT = {"structured": 0.99}  # 0.9 where not given; a walk over six ages leaves its scale loose
CENTREDNESS = {"categorical": 0.5}  # 1 where not given; two of its four scales can be near zero
CODE_SHA256 = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
CACHE = Path(__file__).resolve().parent.parent / "cache"
SIZES = {"state": NUM_STATES, "age": NUM_AGES}


def basis(structure: str, size: int) -> np.ndarray:
    """Matrix that makes effects of unit sd from independent normals, (size, rank): of the covariance of a structured prior.

    An intrinsic prior's covariance is the pseudo-inverse of its precision, scaled to a geometric mean variance of 1 (Sørbye &
    Rue 2014); its null space, the constant, is held at zero exactly.
    """
    pairs = [(i, i + 1) for i in range(size - 1)]
    if structure == "icar":
        pairs = [(int(a[1:]), int(b[1:])) for a, b in NEIGHBOURS]
    precision = np.zeros((size, size))
    for i, j in pairs:
        precision[[i, j], [i, j]] += 1.0
        precision[[i, j], [j, i]] -= 1.0
    covariance = np.linalg.pinv(precision, hermitian=True)
    covariance /= np.exp(np.mean(np.log(np.diag(covariance))))
    values, vectors = np.linalg.eigh(covariance)
    return vectors[:, 1:] * np.sqrt(values[1:])


def _prior(text: str) -> dist.Distribution:
    name, *numbers = re.findall(r"[a-z_]+|-?[\d.]+", text)
    of = {"normal": dist.Normal, "half_normal": dist.HalfNormal, "exponential": dist.Exponential}
    return of[name](*map(float, numbers))


def model(problem: FamilyProblem, data: dict[str, jax.Array], codes: dict[str, jax.Array]) -> None:
    """Every parameter under its name in `FamilyProblem.parameters`; group effects as vectors."""
    structures = dict(problem.structures)
    priors = {key: _prior(text) for key, text in problem.priors.items() if isinstance(text, str)}
    eta = []
    for prefix in problem.prefixes:
        total = numpyro.sample(f"{prefix}x", priors["b"]) * data["x"]
        if problem.family != "ordinal":
            total = total + numpyro.sample(f"{prefix}Intercept", priors["intercept"])
        for factor in GROUPS:
            sd = numpyro.sample(f"sd({prefix}1|{factor})", priors["sd"])
            if factor not in structures:
                centred = CENTREDNESS.get(problem.name, 1.0)
                u = numpyro.sample(f"u({prefix}1|{factor})", dist.Normal(0, sd**centred).expand([SIZES[factor]]))
                effect = numpyro.deterministic(f"{prefix}1|{factor}", sd ** (1 - centred) * u)
                total = total + effect[codes[factor]]
                continue
            if structures[factor] == "monotonic":
                shares = numpyro.sample(f"shares(1|{factor})", dist.Dirichlet(jnp.ones(SIZES[factor] - 1)))
                steps = jnp.concatenate([jnp.zeros(1), jnp.cumsum(shares)])
                span = sd * numpyro.sample(f"z({prefix}1|{factor})", dist.Normal(0, 1))
                effect = numpyro.deterministic(f"{prefix}1|{factor}", span * (steps - jnp.mean(steps)))
                total = total + effect[codes[factor]]
                continue
            root = basis(structures[factor], SIZES[factor])
            z = numpyro.sample(f"z({prefix}1|{factor})", dist.Normal(0, 1).expand([root.shape[1]]))
            total = total + numpyro.deterministic(f"{prefix}1|{factor}", sd * (root @ z))[codes[factor]]
        eta.append(total)
    own = [numpyro.sample(name, priors[name]) for name, _ in problem.own_priors]
    outcome = distribution(problem, eta, own, data)
    numpyro.factor("likelihood", jnp.sum(data["weight"] * outcome.log_prob(data["y"])))


def distribution(
    problem: FamilyProblem, eta: list[jax.Array], own: list[jax.Array], data: dict[str, jax.Array]
) -> dist.Distribution:
    """The outcome's distribution, row by row."""
    first = eta[0]
    if problem.family == "binomial":
        if problem.link == "logit":
            return dist.BernoulliLogits(first)
        return dist.BernoulliProbs(
            dist.Normal(0, 1).cdf(first) if problem.link == "probit" else -jnp.expm1(-jnp.exp(first))
        )
    if problem.family == "beta_binomial":
        share, precision = jax.nn.sigmoid(first), jnp.exp(own[0])
        return dist.BetaBinomial(share * precision, (1 - share) * precision, data["trials"].astype(int))
    if problem.family == "poisson":
        return dist.Poisson(data["exposure"] * jnp.exp(first))
    if problem.family == "negative_binomial":
        return dist.NegativeBinomial2(data["exposure"] * jnp.exp(first), jnp.exp(own[0]))
    if problem.family == "gaussian":
        return dist.Normal(first, own[0])
    if problem.family == "student_t":
        return dist.StudentT(jnp.exp(own[1]), first, jnp.exp(own[0]))
    if problem.family == "categorical":
        return dist.CategoricalLogits(jnp.stack([jnp.zeros_like(first), *eta], axis=-1))
    cutpoints = jnp.cumsum(jnp.stack([own[0], *map(jnp.exp, own[1:])]))
    return dist.OrderedLogistic(first, cutpoints)


def flatten(draws: dict[str, Any], problem: FamilyProblem) -> np.ndarray:
    """Draws (chain, draw, parameter) in the order of `FamilyProblem.parameters`."""
    columns = []
    for name in problem.parameters()["parameter"]:
        variable, _, level = name.partition("[")
        values = np.asarray(draws[variable])
        columns.append(values[..., int(level[1:-1])] if level else values)
    return np.stack(columns, axis=-1)


def run(problem: FamilyProblem, *, seed: int, min_ess: float) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Sample until every parameter has bulk ESS ``min_ess``; return the summary and its provenance."""
    rows = problem.distinct
    whole = ("y",) if problem.family not in ("gaussian", "student_t") else ()
    with jax.enable_x64(True):
        data = {name: jnp.asarray(rows[name].to_numpy(int if name in whole else float))
                for name in rows if name not in GROUPS}  # fmt: skip
        codes = {factor: jnp.asarray(rows[factor].str[1:].astype(int).to_numpy()) for factor in GROUPS}
        accept = TARGET_ACCEPT.get(problem.name, 0.9)
        kernel = NUTS(model, target_accept_prob=accept, dense_mass=True, init_strategy=init_to_median())
        mcmc = MCMC(kernel, num_warmup=NUM_WARMUP, num_samples=BLOCK, num_chains=NUM_CHAINS, progress_bar=False)
        key, start, num_diverging = jax.random.key(seed), time.perf_counter(), 0
        blocks: list[np.ndarray] = []
        for block in range(MAX_BLOCKS):
            mcmc.run(jax.random.fold_in(key, block), problem, data, codes, extra_fields=("diverging",))
            mcmc.post_warmup_state = mcmc.last_state
            num_diverging += int(mcmc.get_extra_fields()["diverging"].sum())
            blocks.append(flatten(mcmc.get_samples(group_by_chain=True), problem))
            table = summarise(problem, np.concatenate(blocks, axis=1))
            print(f"{problem.name}: {len(blocks) * BLOCK} draws x {NUM_CHAINS}, {time.perf_counter() - start:.0f} s, least ESS "
                  f"{table['ess_bulk'].min():.0f}, R-hat {table['r_hat'].max():.4f}, {num_diverging} diverging",
                  file=sys.stderr, flush=True)  # fmt: skip
            if table["ess_bulk"].min() >= min_ess and table["r_hat"].max() < 1.01:
                break
        else:
            raise UnfinishedReferenceError(
                f"{problem.name}: least bulk ESS {table['ess_bulk'].min():.0f}, expected {min_ess:.0f}. Raise MAX_BLOCKS."
            )
    if num_diverging > 0.002 * NUM_CHAINS * BLOCK * len(blocks):
        raise UnfinishedReferenceError(f"{problem.name}: {num_diverging} draws diverged. Raise TARGET_ACCEPT.")
    return table, {
        "made_by": "benchmarks/peers/family_nuts.py", "code_sha256": CODE_SHA256, "problem": problem.name,
        "problem_sha256": problem.sha256, "formula": family_problems.FORMULA, "priors": problem.priors, "seed": seed,
        "num_chains": NUM_CHAINS, "num_warmup": NUM_WARMUP, "num_draws_per_chain": BLOCK * len(blocks),
        "num_diverging": num_diverging,
        "versions": {name: version(name) for name in ("jax", "numpyro", "numpy", "arviz-stats")},
    }  # fmt: skip


def reference(problem: FamilyProblem, *, seed: int = 1, min_ess: float = 1000) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Reference of a problem and its provenance, from the cache where the rows, the priors, the code and the seed are the same."""
    path = CACHE / f"family_{problem.name}-{problem.sha256[:16]}-{CODE_SHA256[:16]}-{seed}-{min_ess:.0f}.parquet"
    if not path.exists():
        write(path, *run(problem, seed=seed, min_ess=min_ess))
    table = pq.read_table(path)
    return table.to_pandas(), json.loads(table.schema.metadata[b"provenance"])


def main() -> None:
    """Make one reference file, and the file of its cells beside it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("problem", choices=family_problems.NAMES)
    parser.add_argument("--seed", type=int, default=1, help="of the sampler")
    parser.add_argument("--min-ess", type=float, default=1000)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    problem = family_problems.make(arguments.problem)
    table, provenance = reference(problem, seed=arguments.seed, min_ess=arguments.min_ess)
    provenance["command"] = (
        f"python -m benchmarks.peers.family_nuts {arguments.problem} --seed {arguments.seed} "
        f"--min-ess {arguments.min_ess:g} --output {arguments.output.resolve().relative_to(REPOSITORY)}"
    )
    write(arguments.output, table, provenance)
    model_of = {
        "family": problem.family,
        "link": problem.link,
        "categories": problem.categories,
        "priors": problem.priors,
    }
    write(
        arguments.output.with_name(f"{arguments.output.stem}_cells.parquet"), pd.DataFrame(problem.cells),
        {"made_by": "benchmarks/family_problems.py", "formula": family_problems.FORMULA, **model_of,
         "sha256": problem.sha256},
    )  # fmt: skip


if __name__ == "__main__":
    main()
