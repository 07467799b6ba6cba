"""Smoothed weights of many units at once against ArviZ, one at a time."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from fitting import psis


@pytest.mark.parametrize("num_draws", [100, 400, 1000])
def test_weights_and_k_are_those_of_arviz(num_draws):
    rng = np.random.default_rng(0)
    log_weights = rng.standard_t(5, (psis.ROWS + 20, num_draws)) * np.linspace(0.05, 3, psis.ROWS + 20)[:, None]
    kept = log_weights.copy()
    ours, k = psis.smooth(log_weights)
    theirs, k_arviz = array_stats.psislw(-log_weights[::9])  # it takes the negative
    np.testing.assert_allclose(ours[::9], theirs, atol=1e-12)
    np.testing.assert_allclose(k[::9], k_arviz, atol=1e-12)
    np.testing.assert_allclose(np.exp(ours).sum(axis=1), 1.0)
    np.testing.assert_array_equal(log_weights, kept)
    turned, _ = psis.smooth(-log_weights[-1:])
    assert np.abs(turned - theirs[-1]).max() > 1.0, "the sign matters, and the comparison sees it"


def test_k_is_that_of_the_pareto_tail():
    """Weights that are Pareto of shape 0.3 and 0.9: k within its sampling error, about 1 / sqrt(300) (prior pulls to 0.5)."""
    rng = np.random.default_rng(1)
    for shape in (0.3, 0.9):
        _, k = psis.smooth(shape * rng.standard_exponential((100, 10_000)))
        assert k.mean() == pytest.approx(shape, abs=0.05)


def test_a_tail_of_equal_weights_has_no_pareto():
    log_weights = np.zeros((2, 400))
    log_weights[0] = np.random.default_rng(0).normal(size=400)
    log_weights[1, :300] = -1.0
    smoothed, k = psis.smooth(log_weights)
    assert np.isfinite(k[0])
    assert k[1] == np.inf
    raw = log_weights[1] - np.log(np.exp(log_weights[1]).sum())
    np.testing.assert_allclose(smoothed[1], raw)


def test_no_units_are_no_weights():
    smoothed, k = psis.smooth(np.empty((0, 50)))
    assert (smoothed.shape, k.shape) == ((0, 50), (0,))
