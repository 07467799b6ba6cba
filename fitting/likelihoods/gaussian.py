"""A normal outcome: of each cell its mean and the squared deviations from it; the residual sd is a hyperparameter of the combiner.

Squares about the cell's own mean lose no digits, however far from zero the outcome is: ``sum (y - eta)^2`` of a cell is
``squared_deviations + n (mean - eta)^2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def mean(statistics: Mapping[str, Any], xp: Any = np) -> Any:
    """Mean outcome of each cell; 0 of a cell without any."""
    return statistics["sum_y"] / xp.maximum(statistics["num_trials"], 1e-300)


def squares(statistics: Mapping[str, Any], eta: Any, xp: Any = np) -> Any:
    """Sum of squared residuals of each cell at a linear predictor."""
    return statistics["squared_deviations"] + statistics["num_trials"] * (mean(statistics, xp) - eta) ** 2


def log_likelihood(family: Any, statistics: Mapping[str, Any], eta: Any, residual_sd: Any, xp: Any = np) -> Any:
    """Normal log density; it alone takes the residual sd."""
    return -0.5 * squares(statistics, eta[0], xp) / residual_sd**2 - statistics["num_trials"] * xp.log(residual_sd)


def expected_outcome(family: Any, eta: np.ndarray) -> np.ndarray:
    """The linear predictor."""
    return eta


def start(family: Any, outcome: Any) -> np.ndarray:
    """The overall mean."""
    return np.array([outcome.mean])
