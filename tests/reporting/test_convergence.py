"""Convergence of many parameters at once, against ArviZ parameter by parameter."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from reporting import convergence


def chains(rho, shape, rng):
    """Autoregressive chains, (parameter, chain, draw); a random walk at 1."""
    values = rng.normal(size=shape)
    for t in range(1, shape[2]):
        values[..., t] += rho * values[..., t - 1]
    return values


@pytest.mark.parametrize("shape", [(15, 4, 250), (15, 1, 5), (15, 2, 4), (15, 3, 7), (15, 4, 32)])
@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.6, 1.0])
def test_every_number_is_that_of_arviz(shape, rho):
    values = chains(rho, shape, np.random.default_rng(7))
    values[: shape[0] // 2] = values[: shape[0] // 2].round(1)  # ties
    values[0, :, 1:] = values[0, :, :1]  # a chain that stands still; without others that is a constant
    normal = convergence.rank_normalise(values)
    for some in (values, normal):
        size = convergence.effective_size(some)
        np.testing.assert_allclose(size, array_stats.ess(some, method="identity"), rtol=1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        if shape[1] > 1:
            np.testing.assert_allclose(
                convergence.r_hat(values[1:]), array_stats.rhat(values[1:], method="identity"), rtol=1e-9
            )
    split = convergence.split_chains(values[1:])
    mcse = values[1:].reshape(len(values) - 1, -1).std(axis=1, ddof=1) / np.sqrt(convergence.effective_size(split))
    np.testing.assert_allclose(mcse, array_stats.mcse(values[1:], method="mean"), rtol=1e-9)
    bulk = convergence.effective_size(convergence.rank_normalise(split))
    np.testing.assert_allclose(bulk, array_stats.ess(values[1:], method="bulk"), rtol=1e-9)


def test_ranks_out_of_order_are_caught():
    values = np.random.default_rng(1).normal(size=(3, 2, 20))
    wrong = convergence.rank_normalise(values[:, ::-1, ::-1])
    assert not np.allclose(convergence.rank_normalise(values), wrong)
