"""Outcomes that the model predicts without error: told as that, whatever predicts them."""

import numpy as np
import pytest

from fitting import in_memory
from fitting.errors import ModelError

SIZE = 50
RNG = np.random.default_rng(1)
A, GROUP, EFFECTS = RNG.normal(size=SIZE), np.repeat(np.arange(5), 10), RNG.normal(size=5)


def fit(y, formula):
    names = np.array([f"g{i}" for i in GROUP])
    cells = {"a": A, "g": names, "num_trials": np.ones(SIZE), "sum_y": y, "squared_deviations": np.zeros(SIZE)}
    return in_memory.fit(cells, formula, family="gaussian", num_draws=10)


@pytest.mark.parametrize(
    ("y", "formula"),
    [(3 + 2 * A, "y ~ 1 + a"), (EFFECTS[GROUP], "y ~ 1 + (1 | g)"), (1e6 * A + EFFECTS[GROUP], "y ~ 1 + a + (1 | g)")],
)
def test_an_outcome_without_error_is_refused(y, formula):
    with pytest.raises(ModelError, match=r"predicts without error .* take out the predictor or the group"):
        fit(y, formula)


@pytest.mark.parametrize("noise", [1e-4, 1e-6])
def test_a_small_error_is_fitted(noise):
    """The sd of the residuals, known to one part in ten from fifty."""
    sigma = np.exp(fit(3 + 2 * A + noise * RNG.normal(size=SIZE), "y ~ 1 + a").draws.psi[..., -1]).mean()
    assert 0.6 < sigma / noise < 1.5
