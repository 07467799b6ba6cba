"""Sums and sums of squares of a normal outcome; the residual sd is a hyperparameter of the combiner, so the site is exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def log_likelihood(family: Any, statistics: Mapping[str, Any], eta: Any, residual_sd: Any, xp: Any = np) -> Any:
    """Normal log density; it alone takes the residual sd."""
    eta = eta[0]
    squares = statistics["sum_y_squared"] - 2.0 * eta * statistics["sum_y"] + statistics["num_trials"] * eta**2
    return -0.5 * squares / residual_sd**2 - statistics["num_trials"] * xp.log(residual_sd)


def expected_outcome(family: Any, eta: np.ndarray) -> np.ndarray:
    """The linear predictor."""
    return eta


def start(family: Any, outcome: Any) -> np.ndarray:
    """The overall mean."""
    return np.array([outcome.mean])
