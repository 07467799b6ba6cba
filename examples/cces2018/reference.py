r"""Fit the same model by NumPyro's NUTS, without Caucus, and store what it says: `reference.parquet`.

``python examples/cces2018/reference.py`` (two minutes of one core). The likelihood is over cells: answers with the same
predictors, counted. Priors are those of `configs/cces-abortion.yaml`: sds half_normal(1), coefficients normal(0, 1) with
`repvote` standardised over respondents, intercept normal(0, 1.5).

Intercept and group effects trade off against each other, so that neither the centred nor the non-centred form mixes: 200
leapfrog steps a draw and more, with divergences. NUTS therefore moves in ``u``, where the coefficients are
``mean(sds) + cholesky(precision(sds))^-T u``, with mean and precision of a quadratic approximation of the likelihood and
the prior given the sds. That is a change of variables, with its Jacobian: the approximation decides how fast the chain
mixes, not what it converges to.

Rows of `reference.parquet`: `kind` (coefficient, scale, estimate), `variable` and `level` named as in a Caucus run
(`1|state`, `OH`; `sd(1|state)`; margins `all`, `state`), `mean`, `sd`, `q05`, `q50`, `q95`, `mcse`, `ess_bulk`, `r_hat`.
Estimates are poststratified to `frame.parquet` draw by draw. Nothing is written if an ESS is below 1,000.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from arviz_stats.base import array_stats
from jax.scipy.linalg import cho_solve, solve_triangular
from numpyro.infer import MCMC, NUTS

HERE = Path(__file__).parent
KEYS = ["state", "region", "repvote", "eth", "sex", "male", "age", "educ"]
GROUPS = ["state", "region", "eth", "educ", "age", "sex:eth", "educ:age", "educ:eth"]
FIXED = ["Intercept", "male", "repvote"]
FIXED_PRIOR_SD = np.array([1.5, 1.0, 1.0])
MIN_ESS = 1_000
NUM_CHAINS, NUM_WARMUP, NUM_DRAWS, SEED = 4, 300, 1_000, 1


class Coding(NamedTuple):
    """How a table becomes a design matrix: levels of the groups, centre and scale of repvote."""

    levels: dict[str, list[str]]
    center: float
    scale: float

    def design(self, table: pd.DataFrame) -> np.ndarray:
        """Columns: intercept, male, standardised repvote, an indicator of every level of every group."""
        fixed = np.stack([np.ones(len(table)), table["male"], (table["repvote"] - self.center) / self.scale], axis=1)
        members = [labels(table, group).to_numpy()[:, None] == np.array(self.levels[group]) for group in GROUPS]
        return np.concatenate([fixed, *members], axis=1)


class Quadratic(NamedTuple):
    """Log likelihood near its mode: shift . theta - theta . precision . theta / 2."""

    shift: np.ndarray
    precision: np.ndarray


def labels(table: pd.DataFrame, group: str) -> pd.Series:
    """Levels of a group for every row: columns joined by `:`."""
    first, *others = group.split(":")
    return table[first].astype(str).str.cat([table[name].astype(str) for name in others], sep=":")


def quadratic(x: np.ndarray, trials: np.ndarray, y: np.ndarray) -> Quadratic:
    """Expand the log likelihood at the mode for sds of 0.3 (Newton's method)."""
    prior_precision = np.concatenate([FIXED_PRIOR_SD**-2.0, np.full(x.shape[1] - len(FIXED), 0.3**-2.0)])
    theta = np.zeros(x.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-x @ theta))
        precision = (x * (trials * p * (1 - p))[:, None]).T @ x
        shift = x.T @ (y - trials * p) + precision @ theta
        theta = np.linalg.solve(precision + np.diag(prior_precision), shift)
    return Quadratic(shift, precision)


def model(x: np.ndarray, sizes: tuple[int, ...], trials: np.ndarray, y: np.ndarray, near: Quadratic) -> None:
    """The posterior of sds and coefficients `theta`, in the variables sds and `u`."""
    sd = jnp.stack([numpyro.sample(f"sd(1|{group})", dist.HalfNormal(1.0)) for group in GROUPS])
    prior_sd = jnp.concatenate([FIXED_PRIOR_SD, jnp.repeat(sd, np.array(sizes), total_repeat_length=sum(sizes))])
    chol = jnp.linalg.cholesky(near.precision + jnp.diag(prior_sd**-2))
    u = numpyro.sample("u", dist.ImproperUniform(dist.constraints.real_vector, (), (x.shape[1],)))
    theta = cho_solve((chol, True), near.shift) + solve_triangular(chol.T, u, lower=False)
    numpyro.deterministic("theta", theta)
    eta = x @ theta
    numpyro.factor("jacobian", -jnp.log(jnp.diag(chol)).sum())
    numpyro.factor("prior", dist.Normal(0.0, prior_sd).log_prob(theta).sum())
    numpyro.factor("likelihood", jnp.sum(y * eta - trials * jax.nn.softplus(eta)))


def estimates(theta: np.ndarray, frame: pd.DataFrame, coding: Coding) -> Iterator[tuple[str, str, np.ndarray]]:
    """Poststratify each draw: yield margin, level and draws (chain, draw) of the share of support."""
    national = np.zeros(theta.shape[:2])
    for state, cells in frame.groupby("state"):
        people = cells["n"].to_numpy(dtype=float)
        supporters = 1 / (1 + np.exp(-theta @ coding.design(cells).T)) @ people
        national += supporters / float(frame["n"].sum())
        yield "state", str(state), supporters / people.sum()
    yield "all", "all", national


def summarise(kind: str, variable: str, level: str, draws: np.ndarray) -> dict[str, object]:
    """One row of the reference from draws of shape (chain, draw)."""
    q05, q50, q95 = np.quantile(draws, [0.05, 0.5, 0.95])
    axes = {"chain_axis": 0, "draw_axis": 1}
    return {
        "kind": kind, "variable": variable, "level": level, "mean": draws.mean(), "sd": draws.std(ddof=1),
        "q05": q05, "q50": q50, "q95": q95, "mcse": float(array_stats.mcse(draws, method="mean", **axes)),
        "ess_bulk": float(array_stats.ess(draws, method="bulk", **axes)), "r_hat": float(array_stats.rhat(draws, **axes)),
    }  # fmt: skip


def main() -> None:
    """Fit, check, write."""
    survey, frame = (pd.read_parquet(HERE / f"{name}.parquet") for name in ("respondents", "frame"))
    coding = Coding(
        levels={group: sorted(labels(survey, group).unique()) for group in GROUPS},
        center=float(survey["repvote"].mean()),
        scale=float(survey["repvote"].std(ddof=0)),
    )
    cells = survey.groupby(KEYS, as_index=False)["support"].agg(trials="count", y="sum")
    x, trials, y = coding.design(cells), cells["trials"].to_numpy(dtype=float), cells["y"].to_numpy(dtype=float)
    sizes = tuple(len(coding.levels[group]) for group in GROUPS)

    mcmc = MCMC(
        NUTS(model, target_accept_prob=0.9), num_warmup=NUM_WARMUP, num_samples=NUM_DRAWS, num_chains=NUM_CHAINS,
        chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    mcmc.run(
        jax.random.key(SEED), x, sizes, trials, y, quadratic(x, trials, y), extra_fields=("diverging", "num_steps")
    )
    draws = {name: np.asarray(values) for name, values in mcmc.get_samples(group_by_chain=True).items()}
    steps = {name: np.asarray(values) for name, values in mcmc.get_extra_fields().items()}

    names = [(name, "") for name in FIXED] + [(f"1|{g}", level) for g in GROUPS for level in coding.levels[g]]
    rows = [summarise("coefficient", *name, draws["theta"][..., i]) for i, name in enumerate(names)]
    rows += [summarise("scale", f"sd(1|{group})", "", draws[f"sd(1|{group})"]) for group in GROUPS]
    rows += [summarise("estimate", *found) for found in estimates(draws["theta"], frame, coding)]
    table = pd.DataFrame(rows)
    worst = table.loc[table["ess_bulk"].idxmin()]
    print(f"{len(cells):,} cells, {len(table)} rows, {steps['num_steps'].mean():.1f} steps a draw, "
          f"{steps['diverging'].sum()} divergent draws, largest R-hat {table['r_hat'].max():.4f}, "
          f"smallest ESS {worst['ess_bulk']:.0f} ({worst['variable']} {worst['level']})")  # fmt: skip
    if worst["ess_bulk"] < MIN_ESS:
        raise SystemExit(f"smallest ESS is {worst['ess_bulk']:.0f}, expected {MIN_ESS:,} or more; raise NUM_DRAWS")
    provenance = {
        "script_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), "numpyro": numpyro.__version__,
        "jax": jax.__version__, "chains": NUM_CHAINS, "warmup": NUM_WARMUP, "draws": NUM_DRAWS, "seed": SEED,
        "divergent": int(steps["diverging"].sum()), "repvote_center": coding.center, "repvote_scale": coding.scale,
    }  # fmt: skip
    out = pa.Table.from_pandas(table, preserve_index=False)
    out = out.replace_schema_metadata({"provenance": json.dumps(provenance)})
    pq.write_table(out, HERE / "reference.parquet", compression="zstd")


if __name__ == "__main__":
    numpyro.enable_x64()
    main()
