"""Sites against closed forms, automatic differentiation and direct optimisation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from fitting import families, in_memory, sites
from fitting import tree as tr
from fitting.cell_design import CellDesign
from fitting.families import BINOMIAL, GAUSSIAN, log_likelihood
from fitting.tree import Tree


def random_shard(seed, num_cells=40):
    """A tree of two levels, blocks ragged and wide, and cells that touch it: dense design beside the sparse one."""
    rng = np.random.default_rng(seed)
    tree = Tree((3, 2), (np.zeros(4, dtype=int),))
    node = rng.integers(0, 4, num_cells)
    x = rng.normal(size=num_cells)
    root = rng.integers(1, 3, num_cells)
    places = (3 + 2 * node, 4 + 2 * node, np.zeros(num_cells, dtype=int), root)
    trials = rng.integers(0, 30, num_cells).astype(float)
    statistics = {
        "num_trials": trials,
        "num_successes": rng.binomial(trials.astype(int), 0.3).astype(float),
        "sum_y": trials * rng.normal(size=num_cells),
    }
    statistics["squared_deviations"] = trials
    design = CellDesign(places, (None, x, None, None), (0, 0, 0, 0), statistics)
    dense = np.zeros((num_cells, tree.num_coefficients))
    for place, value in zip(places, (1.0, x, 1.0, 1.0), strict=True):
        dense[np.arange(num_cells), place] += value
    return tree, design, dense, rng


def random_moments(rng, tree):
    matrix = rng.normal(size=(tree.num_coefficients, tree.num_coefficients)) * 0.3
    covariance = matrix @ matrix.T + 0.1 * np.eye(tree.num_coefficients)
    return rng.normal(size=tree.num_coefficients), tr.from_dense(tree, covariance), covariance


@pytest.mark.parametrize("at_once", [7, sites.CELLS_AT_ONCE], ids=["in runs of cells", "all cells at once"])
def test_predictors_equal_dense_algebra(at_once, monkeypatch):
    monkeypatch.setattr(sites, "CELLS_AT_ONCE", at_once)
    tree, design, dense, rng = random_shard(0)
    mean, entries, covariance = random_moments(rng, tree)
    weight = rng.uniform(size=design.num_cells)
    np.testing.assert_allclose(sites.predictor_mean(design, mean)[0], dense @ mean)
    np.testing.assert_allclose(sites.matrices(design, len(mean))[0].toarray(), dense)
    np.testing.assert_allclose(
        sites.predictor_covariance(tree, design, entries)[0, 0], np.einsum("ni,ij,nj->n", dense, covariance, dense)
    )
    expected = dense.T @ (weight[:, None] * dense)
    expected[tr.dense(tree, np.ones(tree.num_entries)) == 0] = (
        0  # two nodes of one level: off the pattern, and zero anyway
    )
    np.testing.assert_allclose(tr.dense(tree, sites.information(tree, design, weight[None, None])), expected, atol=1e-12)
    np.testing.assert_allclose(sites.transpose_multiply(tree, design, weight[None]), dense.T @ weight)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), num_parts=st.integers(1, 6), twist=st.randoms(use_true_random=False))
def test_gaussian_sites_are_the_likelihood_in_any_split_and_order(seed, num_parts, twist):
    tree, design, _, rng = random_shard(seed)
    owner = rng.integers(0, num_parts, design.num_cells)
    order = list(range(num_parts))
    twist.shuffle(order)
    mean, covariance, _ = random_moments(rng, tree)
    total = sites.Site(np.zeros(tree.num_entries), np.zeros(tree.num_coefficients), np.zeros(2))
    for part in order:
        rows = np.flatnonzero(owner == part)
        piece = CellDesign(
            tuple(p[rows] for p in design.places),
            tuple(None if v is None else v[rows] for v in design.values),
            design.predictors,
            {name: v[rows] for name, v in design.statistics.items()},
        )
        fitted = sites.fit(tree, piece, GAUSSIAN, rng.normal(size=len(mean)), covariance, num_nodes=11)
        fitted = sites.about(tree, fitted, np.zeros(len(mean)))
        total = sites.Site(*(a + b for a, b in zip(total[:3], fitted[:3], strict=True)))
    theta, residual = rng.normal(size=(len(mean), 3)), np.array([0.5, 1.0, 2.0])
    eta = sites.linear_predictors(sites.matrices(design, len(mean)), theta)
    exact = log_likelihood(GAUSSIAN, design.statistics, eta, residual).sum(axis=0)
    np.testing.assert_allclose(sites.log_density(tree, total, theta, residual), exact, rtol=1e-9)


def test_a_laplace_site_has_the_likelihoods_gradient_and_curvature():
    import jax
    import jax.numpy as jnp

    tree, design, dense, rng = random_shard(2)
    mean = rng.normal(size=tree.num_coefficients)
    site = sites.fit(tree, design, BINOMIAL, mean, np.zeros(tree.num_entries), num_nodes=11)

    def value(theta):
        return log_likelihood(BINOMIAL, design.statistics, (jnp.asarray(dense) @ theta)[None], xp=jnp).sum()

    with jax.enable_x64(True):
        gradient, hessian = np.asarray(jax.grad(value)(mean)), np.asarray(jax.hessian(value)(mean))
    precision = tr.dense(tree, site.precision)
    np.testing.assert_allclose(precision, -hessian, atol=1e-8)
    np.testing.assert_allclose(site.shift - precision @ mean, gradient, atol=1e-8)


def test_a_variational_site_has_the_expected_gradient_and_curvature():
    """Against integration of one cell's derivatives on a fine grid."""
    tree, place = Tree((1,), ()), np.zeros(1, dtype=int)
    statistics = {"num_trials": np.array([9.0]), "num_successes": np.array([2.0])}
    design = CellDesign((place,), (np.array([1.5]),), (0,), statistics)
    mean, variance = np.array([-0.4]), np.array([0.8])
    site = sites.fit(tree, design, BINOMIAL, mean, variance, num_nodes=25)
    theta = np.linspace(-9, 9, 20_001)
    density = np.exp(-0.5 * (theta - mean) ** 2 / variance)
    density /= density.sum()
    p = 1 / (1 + np.exp(-1.5 * theta))
    np.testing.assert_allclose(site.precision, [density @ (9 * 1.5**2 * p * (1 - p))], rtol=1e-6)
    np.testing.assert_allclose(site.shift - site.precision * mean, [density @ (1.5 * (2 - 9 * p))], rtol=1e-6)


@pytest.mark.parametrize(("trials", "successes"), [(12, 3), (5, 0), (400, 8)])
def test_the_rounds_end_where_the_evidence_bound_is_highest(trials, successes):
    cells = {"num_trials": np.array([float(trials)]), "num_successes": np.array([float(successes)])}
    run = in_memory.fit(cells, "y ~ 1", chosen_priors={"intercept": "normal(0, 1.5)"}, num_rounds=60, tolerance=1e-9,
                        num_nodes=31, num_draws=5)  # fmt: skip
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights /= weights.sum()

    def negative_elbo(q):
        theta = q[0] + np.exp(q[1]) * nodes
        return -weights @ (successes * theta - trials * np.logaddexp(0, theta) - 0.5 * (theta / 1.5) ** 2) - q[1]

    best = optimize.minimize(negative_elbo, [0.0, -1.0], tol=1e-12).x
    np.testing.assert_allclose(run.moments.mean, best[0], atol=1e-4)
    np.testing.assert_allclose(np.sqrt(run.moments.covariance), np.exp(best[1]), rtol=1e-4)


def test_cells_without_trials_say_nothing():
    tree, design, _, rng = random_shard(3)
    nothing = design._replace(statistics={name: np.zeros(design.num_cells) for name in design.statistics})
    mean, covariance, _ = random_moments(rng, tree)
    for family in (BINOMIAL, GAUSSIAN):
        site = sites.fit(tree, nothing, family, mean, covariance, num_nodes=11)
        assert all(not part.any() for part in site[:3])


@pytest.mark.parametrize("num_predictors", [1, 3])
def test_the_site_is_the_same_in_runs_of_any_length(num_predictors, monkeypatch):
    tree, design, _, rng = random_shard(4)
    families_of = {1: BINOMIAL, 3: families.make("categorical", None, ("a", "b", "c", "d"))}
    counts = {name: rng.integers(0, 9, design.num_cells).astype(float) for name in families_of[num_predictors].counts}
    design = design._replace(
        predictors=(0, 0, 0, 0) if num_predictors == 1 else (0, 1, 2, 1),
        statistics=design.statistics | counts | ({"num_trials": sum(counts.values())} if counts else {}),
    )
    mean, covariance, _ = random_moments(rng, tree)

    def site():
        return sites.fit(tree, design, families_of[num_predictors], mean, covariance, num_nodes=11)

    whole = site()
    monkeypatch.setattr(sites, "CELLS_AT_ONCE", 7)
    monkeypatch.setattr(families, "CHUNK_VALUES", 1)
    monkeypatch.setattr(families, "MIN_CHUNK", 3)
    assert whole.precision.any()
    for one, other in zip(whole, site(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)
