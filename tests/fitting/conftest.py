"""What the tests of fitting share: cells of simulated rows, and comparisons with stated error rates."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats

from fitting import combiner, scale_marginal
from fitting import tree as tr


def _cells_of(columns, outcome, family="binomial"):
    """Cells of rows: labels and numbers, with the family's statistics."""
    stacked = np.stack([np.asarray(c).astype(str) for c in columns.values()], axis=1)
    _, first, cell = np.unique(stacked, axis=0, return_index=True, return_inverse=True)
    cell = cell.ravel()
    cells = {name: np.asarray(values)[first] for name, values in columns.items()}
    cells["num_trials"] = np.bincount(cell).astype(float)
    if family == "gaussian":
        total = np.bincount(cell, outcome)
        away = outcome - (total / cells["num_trials"])[cell]
        cells |= {"sum_y": total, "squared_deviations": np.bincount(cell, away**2)}
    else:
        cells["num_successes"] = np.bincount(cell, outcome)
    return cells


def _assert_moments(draws, mean, sd, false_alarm=1e-6, resolution=0.1):
    """Independent draws, shape (M, *event), against exact means and sds; ``resolution`` in sds is the smallest error that matters.

    The sd's standard error allows for a kurtosis of 6 (a sampler's draws that repeat now and then, or a skewed margin).
    """
    size = len(draws)
    z = stats.norm.isf(false_alarm / (4 * np.size(mean)))
    assert z / np.sqrt(size) <= resolution, f"inconclusive: {z / np.sqrt(size):.2g}; draw more"
    off = np.abs(draws.mean(axis=0) - mean) / sd
    assert np.all(off <= z / np.sqrt(size)), f"means off by up to {np.max(off):.3g} sds"
    ratio = np.abs(draws.std(axis=0) / sd - 1)
    assert np.all(ratio <= z * np.sqrt(5 / (4 * size))), f"sds off by up to {np.max(ratio):.3g}"


def _assert_mean_close(draws, expected, *, resolution, false_alarm=1e-6):
    """Dependent draws, (chain, draw, *event), by their own Monte Carlo error; ``resolution`` in the units of the draws."""
    mcse = array_stats.mcse(np.moveaxis(draws, (0, 1), (-2, -1)), method="mean")
    z = stats.norm.isf(false_alarm / (2 * np.size(mcse)))
    assert np.all(z * mcse <= resolution), f"inconclusive: MCSE {np.max(mcse):.3g}; draw more"
    error = np.abs(draws.mean(axis=(0, 1)) - expected)
    assert np.all(error <= z * mcse), f"off by {np.max(error / mcse):.1f} MCSE, allowed {z:.1f}"


def _assert_gaussian_posterior_is_dense(run, design, outcome, prior_of, scatter=0.3):
    """The posterior given hyperparameters, and their marginal density up to one constant, against dense algebra.

    ``design`` (n, D) has one row a person and the coefficients in the tree's order; ``prior_of(psi)`` gives the precision
    (D, D) of everything but the fixed effects.
    """
    hierarchy, tree = run.hierarchy, run.hierarchy.model.tree
    rng, places, logs = np.random.default_rng(0), run.hierarchy.fixed_places, []
    for _ in range(3):
        psi = run.proposal.mode + scatter * rng.normal(size=hierarchy.size)
        sigma = np.exp(psi[-1])
        prior = prior_of(psi)
        prior[places, places] += hierarchy.fixed_precision
        shift = design.T @ outcome / sigma**2
        shift[places] += hierarchy.fixed_precision * hierarchy.fixed_mean
        covariance = np.linalg.inv(prior + design.T @ design / sigma**2)
        mean, sd = covariance @ shift, np.sqrt(np.diagonal(covariance))
        found = combiner.conditional_moments(hierarchy, run.natural, psi)
        np.testing.assert_allclose((found.mean - mean) / sd, 0.0, atol=1e-6)
        np.testing.assert_allclose(
            tr.dense(tree, found.covariance) / np.outer(sd, sd),
            tr.dense(tree, tr.from_dense(tree, covariance)) / np.outer(sd, sd),
            atol=1e-6,
        )
        evidence = 0.5 * (np.linalg.slogdet(prior)[1] + np.linalg.slogdet(covariance)[1] + shift @ mean)
        evidence -= len(outcome) * psi[-1] + 0.5 * outcome @ outcome / sigma**2
        logs.append(scale_marginal.log_density(hierarchy, run.natural, psi) - evidence - hierarchy.log_prior(psi))
    np.testing.assert_allclose(logs, logs[0], atol=1e-5)


@pytest.fixture(scope="session")
def assert_gaussian_posterior_is_dense():
    return _assert_gaussian_posterior_is_dense


@pytest.fixture(scope="session")
def cells_of():
    return _cells_of


@pytest.fixture(scope="session")
def assert_mean_close():
    return _assert_mean_close


@pytest.fixture(scope="session")
def assert_moments():
    return _assert_moments
