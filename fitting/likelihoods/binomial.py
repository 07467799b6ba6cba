"""Successes out of trials, with a logit, probit or complementary log-log link.

All three are log-concave in the linear predictor (Pratt 1981, J. American Statistical Association 76).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit, log_ndtr, logit, ndtr, ndtri

LARGEST_RATE = 500.0  # exp(-500) is 0 beside 1: a complementary log-log rate beyond it is certainty
LOG_SQRT_2PI = 0.5 * float(np.log(2.0 * np.pi))


def log_likelihood(family: Any, statistics: Mapping[str, Any], eta: Any, xp: Any = np) -> Any:
    """``s log p + (t - s) log(1 - p)``."""
    eta, trials, successes = eta[0], statistics["num_trials"], statistics["num_successes"]
    if family.link == "logit":
        softplus = xp.maximum(eta, 0.0) + xp.log(1.0 + xp.exp(-xp.abs(eta)))  # absolute error 1e-16, faster than log1p
        return successes * eta - trials * softplus
    if family.link == "probit":
        log_cdf = log_ndtr if xp is np else _jax_log_ndtr()
        return successes * log_cdf(eta) + (trials - successes) * log_cdf(-eta)
    rate = xp.exp(eta)
    # -expm1(-rate) underflows to 0 below the smallest number; there log p is eta itself
    log_p = xp.where(eta < -30.0, eta, xp.log(-xp.expm1(-xp.exp(xp.maximum(eta, -30.0)))))
    return successes * log_p - (trials - successes) * rate


def expected_derivatives(
    family: Any, statistics: Mapping[str, np.ndarray], eta: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """See the package."""
    trials, successes, eta = statistics["num_trials"], statistics["num_successes"], eta[0]
    if family.link == "logit":
        probability = expit(eta)
        gradient = successes - trials * (probability @ weights)
        curvature = trials * ((probability * (1.0 - probability)) @ weights)
    elif family.link == "probit":
        log_density = -0.5 * eta**2 - LOG_SQRT_2PI
        above, below = np.exp(log_density - log_ndtr(eta)), np.exp(log_density - log_ndtr(-eta))
        failures = trials - successes
        gradient = successes * (above @ weights) - failures * (below @ weights)
        curvature = successes * ((above * (above + eta)) @ weights) + failures * ((below * (below - eta)) @ weights)
    else:
        rate = np.exp(eta)
        capped = np.minimum(rate, LARGEST_RATE)
        ratio = np.where(rate < LARGEST_RATE, capped / np.maximum(np.expm1(capped), 1e-300), 0.0)
        ratio = np.where(rate < 1e-12, 1.0, ratio)
        failures = trials - successes
        gradient = successes * (ratio @ weights) - failures * (rate @ weights)
        curvature = successes * ((ratio * (rate + ratio - 1.0)) @ weights) + failures * (rate @ weights)
    return gradient[None], curvature[None, None]


def expected_outcome(family: Any, eta: np.ndarray) -> np.ndarray:
    """Probability of success."""
    if family.link == "logit":
        return expit(eta)
    return ndtr(eta) if family.link == "probit" else -np.expm1(-np.exp(eta))


def start(family: Any, outcome: Any) -> np.ndarray:
    """The overall rate on the scale of the link."""
    rate = np.clip(outcome.mean, 1e-4, 1 - 1e-4)
    if family.link == "logit":
        return np.array([logit(rate)])
    return np.array([ndtri(rate) if family.link == "probit" else np.log(-np.log1p(-rate))])


def _jax_log_ndtr() -> Any:
    from jax.scipy.special import log_ndtr as of_jax  # JAX takes a second to import

    return of_jax
