"""One of K categories, softmax of K - 1 linear predictors; the first category is the reference. Jointly log-concave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import softmax


def log_likelihood(family: Any, statistics: Mapping[str, Any], eta: Any, xp: Any = np) -> Any:
    """``sum_k count_k log p_k``."""
    largest = xp.maximum(xp.max(eta, axis=0), 0.0)
    log_total = largest + xp.log(xp.exp(-largest) + xp.sum(xp.exp(eta - largest), axis=0))
    chosen = sum(statistics[name] * eta[k] for k, name in enumerate(family.counts[1:]))
    return chosen - sum(statistics[name] for name in family.counts) * log_total


def expected_derivatives(
    family: Any, statistics: Mapping[str, np.ndarray], eta: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """See the package."""
    counts = np.stack([statistics[name] for name in family.counts])
    total = counts.sum(axis=0)
    p = expected_outcome(family, eta)[1:]
    mean = p @ weights
    curvature = -np.einsum("knq,lnq,q->kln", p, p, weights, optimize=True)
    diagonal = np.arange(len(p))
    curvature[diagonal, diagonal] += mean
    return counts[1:] - total * mean, total * curvature


def expected_outcome(family: Any, eta: np.ndarray) -> np.ndarray:
    """Probability of each category, the reference first."""
    return softmax(np.concatenate([np.zeros_like(eta[:1]), eta]), axis=0)


def start(family: Any, outcome: Any) -> np.ndarray:
    """Log odds of the overall shares against the reference."""
    share = np.maximum(outcome.proportions, 1e-4)
    return np.log(share[1:] / share[0])
