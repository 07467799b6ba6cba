"""The merged posterior against full-data NUTS on the same cells.

The references were drawn by plain NumPyro models that share no code with this package (``benchmarks/peers/reference.py``,
bulk ESS of 4,000 and more); the command is in each file's metadata. `make calibrate` does the same at full size.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from arviz_stats.base import array_stats
from scipy import stats

from fitting import combiner, exact, in_memory, scale_proposal

REFERENCE = Path(__file__).parent / "reference"
FORMULA = "voted ~ 1 + (1 | state/county) + (1 | race) + (1 | age) + (1 | race:age)"
PRIORS = {"intercept": "normal(0, 2)", "sd": "half_normal(1)"}
FALSE_ALARM = 1e-4  # of a whole test, over all its coefficients


def read(name):
    cells = pq.read_table(REFERENCE / f"{name}_cells.parquet")
    reference = pq.read_table(REFERENCE / f"{name}.parquet").to_pydict()
    return {column: cells[column].to_numpy() for column in cells.column_names}, reference


@pytest.fixture(scope="module", params=["small_nation", "small_nation_1m"])
def problem(request):
    return read(request.param)


@pytest.fixture(scope="module")
def sparse_problem():
    return read("small_nation")


def shard_labels(cells, how):
    if how == "state":
        return cells["state"]
    return np.random.default_rng(0).integers(0, how, len(cells["state"]))


def fit(cells, how, **options):
    return in_memory.fit(
        cells, FORMULA, shards=shard_labels(cells, how), chosen_priors=PRIORS, num_draws=1000, **options
    )


def assert_agrees(run, draws, reference, *, resolution=0.1, sd_ratio=0.1, scale_resolution=0.15):
    """Means within ``resolution`` reference sds, sds within ``sd_ratio``, scales' means within ``scale_resolution`` sds, all
    beyond Monte Carlo error at a false-alarm rate of FALSE_ALARM."""
    names = [*run.hierarchy.model.coefficient_names(), *run.hierarchy.names()]
    order = [names.index(p.replace("[county]", "")) for p in reference["parameter"]]
    chains, size = draws.theta.shape[:2]
    natural = run.hierarchy.natural(draws.psi.reshape(chains * size, -1)).reshape(chains, size, -1)
    values = np.concatenate([draws.theta, natural], axis=2)[:, :, order]
    mean, sd = np.array(reference["mean"]), np.array(reference["sd"])
    mcse = {"mean": np.array(reference["mcse_mean"]), "sd": np.array(reference["mcse_sd"])}
    z = stats.norm.isf(FALSE_ALARM / (2 * len(mean)))
    noise = {
        kind: z * np.hypot(mcse[kind], array_stats.mcse(values, chain_axis=0, draw_axis=1, method=kind)) / sd
        for kind in ("mean", "sd")
    }
    error = np.abs(values.mean(axis=(0, 1)) - mean) / sd
    is_scale = np.array([p.startswith("sd(") for p in reference["parameter"]])
    allowed = np.where(is_scale, scale_resolution, resolution)
    assert noise["mean"].max() < 0.3, "inconclusive: draw more"
    over = error - noise["mean"] - allowed
    assert over.max() <= 0, f"{reference['parameter'][over.argmax()]} is off by {error[over.argmax()]:.3f} sd"
    ratio = values.std(axis=(0, 1)) / sd
    wide = np.abs(ratio - 1) - noise["sd"] - sd_ratio
    assert wide.max() <= 0, f"{reference['parameter'][wide.argmax()]} has an sd ratio of {ratio[wide.argmax()]:.3f}"
    return error, ratio


@pytest.mark.parametrize("how", [1, "state", 51])
def test_vi_agrees_with_nuts(problem, how):
    cells, reference = problem
    run = fit(cells, how)
    assert_agrees(run, run.draws, reference)


@pytest.mark.parametrize("how", [1, "state"])
def test_nuts_sites_agree_with_nuts(sparse_problem, how):
    cells, reference = sparse_problem
    run = fit(cells, how, method="nuts", nuts={"num_warmup": 100, "num_draws": 200, "num_chains": 4})
    assert_agrees(run, run.draws, reference)


def test_exact_agrees_with_nuts_and_corrects_a_broken_merge(sparse_problem):
    """The referee is right whatever the merge: with a site used twice to precondition it still finds the posterior."""
    cells, reference = sparse_problem
    run = fit(cells, "state")
    doubled = run.sites[3]._replace(precision=2 * run.sites[3].precision, shift=2 * run.sites[3].shift)
    sites = [*run.sites[:3], doubled, *run.sites[4:]]
    natural = combiner.product(run.hierarchy.model.tree, list(zip(run.restrictions, sites, strict=True)))
    proposal = scale_proposal.propose(run.hierarchy, natural, run.proposal.mode)
    broken = combiner.draw(run.hierarchy, natural, proposal, num_draws=1000, num_chains=4, seed=1)
    with pytest.raises(AssertionError, match=r"off by|sd ratio"):
        assert_agrees(run, broken, reference)
    shards = list(zip(run.restrictions, run.designs, strict=True))
    draws = exact.draw(run.hierarchy, natural, proposal, shards, num_draws=250, num_chains=4, num_warmup=150, seed=3)
    assert_agrees(run, draws, reference)


@pytest.mark.parametrize("broken", ["prior once per shard", "scale fixed", "site twice"])
def test_a_broken_merge_does_not_agree(sparse_problem, broken):
    cells, reference = sparse_problem
    run = fit(cells, "state")
    tree, sites = run.hierarchy.model.tree, list(run.sites)
    natural = combiner.product(tree, list(zip(run.restrictions, sites, strict=True)))
    proposal, hierarchy = run.proposal, run.hierarchy
    if broken == "prior once per shard":
        zeros = np.zeros_like(natural.precision), np.zeros_like(natural.shift)
        prior, shift, _ = hierarchy.add_prior(proposal.mode, *zeros)
        extra = len(sites) - 1
        natural = natural._replace(precision=natural.precision + extra * prior, shift=natural.shift + extra * shift)
    elif broken == "site twice":
        natural = combiner.product(
            tree, list(zip((*run.restrictions, run.restrictions[3]), (*sites, sites[3]), strict=True))
        )
    if broken == "scale fixed":
        draws = combiner.draw(
            hierarchy, natural, proposal._replace(axes=1e-6 * proposal.axes), num_draws=1000, num_chains=4, seed=1
        )
    else:
        proposal = scale_proposal.propose(hierarchy, natural, proposal.mode)
        draws = combiner.draw(hierarchy, natural, proposal, num_draws=1000, num_chains=4, seed=1)
    with pytest.raises(AssertionError, match=r"off by|sd ratio"):
        assert_agrees(run, draws, reference)
