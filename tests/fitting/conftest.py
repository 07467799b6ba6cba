"""What the tests of fitting share: cells of simulated rows, and comparisons with stated error rates."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats


def _cells_of(columns, outcome, family="binomial"):
    """Cells of rows: labels and numbers, with the family's statistics."""
    stacked = np.stack([np.asarray(c).astype(str) for c in columns.values()], axis=1)
    _, first, cell = np.unique(stacked, axis=0, return_index=True, return_inverse=True)
    cell = cell.ravel()
    cells = {name: np.asarray(values)[first] for name, values in columns.items()}
    cells["num_trials"] = np.bincount(cell).astype(float)
    if family == "gaussian":
        cells |= {"sum_y": np.bincount(cell, outcome), "sum_y_squared": np.bincount(cell, outcome**2)}
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


@pytest.fixture(scope="session")
def cells_of():
    return _cells_of


@pytest.fixture(scope="session")
def assert_mean_close():
    return _assert_mean_close


@pytest.fixture(scope="session")
def assert_moments():
    return _assert_moments
