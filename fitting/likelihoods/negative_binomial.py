r"""Counts with a log link and variance :math:`\mu + \mu^2 / r`; own parameter: the log of the shape r.

Sums are not sufficient, so a cell is keyed by its count and exposure (``num_trials`` rows alike). Log-concave in the linear
predictor, not jointly with the shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import psi, zeta

from fitting.likelihoods.special import log_gamma


def log_likelihood(family: Any, statistics: Mapping[str, Any], eta: Any, xp: Any = np) -> Any:
    """Log probability of the count, times the rows of the cell."""
    y, rows = statistics["y"], statistics["num_trials"]
    shape, mean = xp.exp(eta[1]), statistics["exposure"] * xp.exp(eta[0])
    log_sum = xp.log(shape + mean)
    log_choose = log_gamma(y + shape, xp) - log_gamma(shape, xp)
    return rows * (log_choose + shape * (eta[1] - log_sum) + y * (eta[0] - log_sum))


def expected_derivatives(
    family: Any, statistics: Mapping[str, np.ndarray], eta: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """See the package."""
    y, rows = statistics["y"][:, None], statistics["num_trials"]
    r, mean = np.exp(eta[1]), statistics["exposure"][:, None] * np.exp(eta[0])
    total = r + mean
    by_shape = psi(y + r) - psi(r) + eta[1] - np.log(total) + (mean - y) / total
    by_shape_twice = zeta(2.0, y + r) - zeta(2.0, r) + 1.0 / r - 2.0 / total + (y + r) / total**2
    gradient = np.stack([r * (y - mean) / total, r * by_shape])
    own = (y + r) * mean * r / total**2
    cross = -r * (y - mean) * mean / total**2
    shape = -(r * by_shape + r**2 * by_shape_twice)
    curvature = np.array([[own, cross], [cross, shape]])
    return rows * (gradient @ weights), rows * (curvature @ weights)


def expected_outcome(family: Any, eta: np.ndarray) -> np.ndarray:
    """Expected count of one unit of exposure."""
    return np.exp(eta[:1])


def start(family: Any, outcome: Any) -> np.ndarray:
    """The overall log rate, and a shape of 1."""
    return np.array([np.log(max(outcome.mean, 1e-6)), 0.0])
