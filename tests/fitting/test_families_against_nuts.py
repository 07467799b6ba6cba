"""Every family against full-data NUTS on the same rows, by plain NumPyro models that share no code with this package.

References have a bulk ESS of 1,000 and more in every parameter; the command that made one is in its metadata
(`benchmarks/peers/family_nuts.py`). `python -m benchmarks.families` does the same for every method and more cuts.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from arviz_stats.base import array_stats
from scipy import stats

from fitting import combiner, in_memory, scale_proposal

REFERENCE = Path(__file__).parent / "reference"
NAMES = ("negative_binomial", "beta_binomial", "categorical", "ordinal", "student_t", "poisson", "probit")
FALSE_ALARM = 1e-4  # of a whole test, over all its coefficients
MEAN_LIMIT, SD_LIMIT, SCALE_LIMIT = 0.1, 0.1, 0.15


@cache
def fit(name, how):
    cells = pq.read_table(REFERENCE / f"family_{name}_cells.parquet")
    model = json.loads(cells.schema.metadata[b"provenance"])
    columns = {column: cells[column].to_numpy() for column in cells.column_names}
    return in_memory.fit(
        columns, model["formula"], family=model["family"], link=model["link"], categories=model["categories"],
        chosen_priors=model["priors"], shards=columns["state"] if how == "state" else None, num_draws=500,
    )  # fmt: skip


def assert_agrees(name, run, draws):
    """Means within `MEAN_LIMIT` reference sds, sds within `SD_LIMIT`, scales' means within `SCALE_LIMIT`, beyond Monte Carlo error."""
    reference = pq.read_table(REFERENCE / f"family_{name}.parquet").to_pandas()
    assert reference["ess_bulk"].min() >= 1000
    kept = ~run.hierarchy.model.is_padding
    names = [*run.hierarchy.model.coefficient_names()[kept], *run.hierarchy.names()]
    assert set(names) == set(reference["parameter"])
    psi = run.hierarchy.natural(draws.psi.reshape(-1, run.hierarchy.size)).reshape(draws.psi.shape)
    values = np.concatenate([draws.theta[..., kept], psi], axis=2)[
        :, :, [names.index(p) for p in reference["parameter"]]
    ]
    sd = reference["sd"].to_numpy()
    z = stats.norm.isf(FALSE_ALARM / (2 * len(sd)))
    noise = {
        kind: z
        * np.hypot(reference[f"mcse_{kind}"], array_stats.mcse(values, chain_axis=0, draw_axis=1, method=kind))
        / sd
        for kind in ("mean", "sd")
    }
    assert noise["mean"].max() < 0.3, "inconclusive: draw more"
    is_scale = reference["parameter"].str.startswith("sd(").to_numpy()
    error = np.abs(values.mean(axis=(0, 1)) - reference["mean"].to_numpy()) / sd
    over = error - noise["mean"] - np.where(is_scale, SCALE_LIMIT, MEAN_LIMIT)
    assert over.max() <= 0, f"{reference['parameter'][over.argmax()]} is off by {error[over.argmax()]:.3f} sd"
    ratio = values.std(axis=(0, 1)) / sd
    wide = (np.abs(ratio - 1) - noise["sd"] - SD_LIMIT)[~is_scale]
    assert wide.max() <= 0, (
        f"{reference['parameter'][~is_scale].iloc[wide.argmax()]} has an sd ratio of {ratio[~is_scale][wide.argmax()]:.3f}"
    )


@pytest.mark.parametrize("how", ["one shard", "state"])
@pytest.mark.parametrize("name", NAMES)
def test_vi_agrees_with_nuts(name, how):
    run = fit(name, how)
    assert_agrees(name, run, run.draws)


def own_parameter_fixed(run):
    """The first own parameter held at its posterior mean, as if a likelihood's dispersion were plugged in."""
    place = next(block.coefficients[0] for block in run.hierarchy.model.fixed if block.is_own)
    entry = run.hierarchy.model.tree.diagonal[place]
    precision, shift = run.natural.precision.copy(), run.natural.shift.copy()
    held = 1e6 / run.moments.covariance[entry]
    precision[entry] += held
    shift[place] += held * run.moments.mean[place]
    return run.natural._replace(precision=precision, shift=shift)


def sites_twice(run):
    """Every site multiplied in a second time, as if all tasks had been retried and both results kept."""
    pairs = list(zip(run.restrictions, run.sites, strict=True))
    return combiner.product(run.hierarchy.model.tree, pairs + pairs)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_merge_does_not_agree(name):
    run = fit(name, "state")
    natural = own_parameter_fixed(run) if run.hierarchy.family.own else sites_twice(run)
    proposal = scale_proposal.propose(run.hierarchy, natural, run.proposal.mode)
    draws = combiner.draw(run.hierarchy, natural, proposal, num_draws=300, num_chains=4, seed=1)
    with pytest.raises(AssertionError, match=r"off by|sd ratio"):
        assert_agrees(name, run, draws)
