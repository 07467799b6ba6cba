r"""Successes out of trials whose probability varies: beta with mean :math:`\mu` and precision :math:`\phi`.

Own parameter: :math:`\log\phi`; the binomial is its limit. Sums are not sufficient, so a cell is keyed by (successes, trials),
``num_trials`` rows alike. Reference: Griffiths (1973), Biometrics 29.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit, logit, psi, zeta

from fitting.likelihoods.special import log_gamma

START_PRECISION = 10.0


def log_likelihood(family: Any, statistics: Mapping[str, Any], eta: Any, xp: Any = np) -> Any:
    """``log B(s + a, t - s + b) - log B(a, b)``, times the rows of the cell."""
    s, t, rows = statistics["successes"], statistics["trials"], statistics["num_trials"]
    precision = xp.exp(eta[1])
    a, b = precision / (1.0 + xp.exp(-eta[0])), precision / (1.0 + xp.exp(eta[0]))
    joint = log_gamma(s + a, xp) + log_gamma(t - s + b, xp) - log_gamma(t + precision, xp)
    return rows * (joint - log_gamma(a, xp) - log_gamma(b, xp) + log_gamma(precision, xp))


def expected_derivatives(
    family: Any, statistics: Mapping[str, np.ndarray], eta: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """See the package."""
    s, t, rows = statistics["successes"][:, None], statistics["trials"][:, None], statistics["num_trials"]
    mean, precision = expit(eta[0]), np.exp(eta[1])
    a, b = mean * precision, expit(-eta[0]) * precision
    common, common_twice = psi(precision) - psi(t + precision), zeta(2.0, precision) - zeta(2.0, t + precision)
    by_a, by_b = psi(s + a) - psi(a) + common, psi(t - s + b) - psi(b) + common
    aa = zeta(2.0, s + a) - zeta(2.0, a) + common_twice
    bb = zeta(2.0, t - s + b) - zeta(2.0, b) + common_twice
    ab = common_twice
    slope = a * expit(-eta[0])  # d a / d eta = - d b / d eta
    gradient = np.stack([slope * (by_a - by_b), a * by_a + b * by_b])
    own = slope**2 * (aa - 2.0 * ab + bb) + slope * (1.0 - 2.0 * mean) * (by_a - by_b)
    cross = slope * (a * aa + (b - a) * ab - b * bb + by_a - by_b)
    shape = a * a * aa + 2.0 * a * b * ab + b * b * bb + a * by_a + b * by_b
    curvature = -np.array([[own, cross], [cross, shape]])
    return rows * (gradient @ weights), rows * (curvature @ weights)


def expected_outcome(family: Any, eta: np.ndarray) -> np.ndarray:
    """Probability of success."""
    return expit(eta[:1])


def start(family: Any, outcome: Any) -> np.ndarray:
    """The overall rate and a precision of 10."""
    return np.array([logit(np.clip(outcome.mean, 1e-4, 1 - 1e-4)), np.log(START_PRECISION)])
