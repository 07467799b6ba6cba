r"""A number with heavy tails: Student t around the linear predictor (Lange, Little & Taylor 1989, JASA 84).

Own parameters: :math:`\log\sigma` and :math:`\log\nu`. A cell is keyed by its value y. Not log-concave: an outlying value
bends the likelihood the other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import psi, zeta

from fitting.likelihoods.special import log_gamma

START_DEGREES_OF_FREEDOM = 10.0


def log_likelihood(family: Any, statistics: Mapping[str, Any], eta: Any, xp: Any = np) -> Any:
    """Log density of the value, times the rows of the cell."""
    nu = xp.exp(eta[2])
    z = (statistics["y"] - eta[0]) * xp.exp(-eta[1])
    log_constant = log_gamma(0.5 * (nu + 1.0), xp) - log_gamma(0.5 * nu, xp) - 0.5 * (eta[2] + np.log(np.pi))
    return statistics["num_trials"] * (log_constant - eta[1] - 0.5 * (nu + 1.0) * xp.log1p(z**2 / nu))


def expected_derivatives(
    family: Any, statistics: Mapping[str, np.ndarray], eta: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """See the package."""
    rows = statistics["num_trials"]
    nu, scale = np.exp(eta[2]), np.exp(eta[1])
    z = (statistics["y"][:, None] - eta[0]) / scale
    q = z**2 / nu
    pull = (nu + 1.0) / (nu * (1.0 + q))  # weight of a squared residual, (nu + 1) / (nu + z^2)
    pull_nu = (q - 1.0 / nu) / (1.0 + q) ** 2  # d pull / d log nu
    by_nu = 0.5 * (psi(0.5 * (nu + 1.0)) - psi(0.5 * nu) - 1.0 / nu - np.log1p(q) + pull * q)
    # by_nu = d log L / d nu; its own derivative, z fixed
    by_nu_twice = 0.25 * (zeta(2.0, 0.5 * (nu + 1.0)) - zeta(2.0, 0.5 * nu)) + 0.5 * (
        1.0 / nu**2 + q / (nu * (1.0 + q)) + (pull_nu - pull) * q / nu
    )
    z_pull = -2.0 * z * pull / (nu * (1.0 + q))  # d pull / d z
    gradient = np.stack([z * pull / scale, z**2 * pull - 1.0, nu * by_nu])
    by_z = pull + z * z_pull  # d (z pull) / d z
    mean_mean = by_z / scale**2
    mean_scale = (z * pull + z * by_z) / scale
    scale_scale = z * (2.0 * z * pull + z**2 * z_pull)
    mean_nu, scale_nu = -z * pull_nu / scale, -(z**2) * pull_nu
    nu_nu = -(nu * by_nu + nu**2 * by_nu_twice)
    curvature = np.array([
        [mean_mean, mean_scale, mean_nu], [mean_scale, scale_scale, scale_nu], [mean_nu, scale_nu, nu_nu],
    ])  # fmt: skip
    return rows * (gradient @ weights), rows * (curvature @ weights)


def expected_outcome(family: Any, eta: np.ndarray) -> np.ndarray:
    """The linear predictor (the median; the mean where nu is above 1)."""
    return eta[:1]


def start(family: Any, outcome: Any) -> np.ndarray:
    """Mean and sd of the outcome, and ten degrees of freedom."""
    return np.array([outcome.mean, np.log(max(outcome.sd, 1e-6)), np.log(START_DEGREES_OF_FREEDOM)])
