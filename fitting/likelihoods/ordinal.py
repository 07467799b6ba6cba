r"""One of K ordered categories: cumulative logit, :math:`P(Y \le k) = F(c_k - \eta)` (McCullagh 1980, JRSS B 42).

Own parameters: the first cutpoint :math:`c_1`, then logs of the K - 2 steps to the next. With F logistic

.. math:: \log P(k) = \log F(c_k - \eta) + \log F(\eta - c_{k-1}) + \log(1 - e^{-(c_k - c_{k-1})}),

the last term free of :math:`\eta`, so nothing cancels in the tails, and every cutpoint sees one binomial logit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit, logit


def log_likelihood(family: Any, statistics: Mapping[str, Any], eta: Any, xp: Any = np) -> Any:
    """``sum_k count_k log P(k)``."""
    counts = [statistics[name] for name in family.counts]
    total: Any = 0.0
    cutpoint = eta[1]
    for k in range(len(counts) - 1):
        if k:
            step = xp.exp(eta[k + 1])
            cutpoint = cutpoint + step
            total = total + counts[k] * xp.log(-xp.expm1(-step))
        u = cutpoint - eta[0]
        softplus = xp.maximum(u, 0.0) + xp.log1p(xp.exp(-xp.abs(u)))
        total = total + counts[k] * u - (counts[k] + counts[k + 1]) * softplus
    return total


def expected_derivatives(
    family: Any, statistics: Mapping[str, np.ndarray], eta: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """See the package. With ``u_k = c_k - eta`` the Hessian is diagonal in u; the rest is the chain rule."""
    counts = np.stack([statistics[name] for name in family.counts])
    num_predictors, num_cells, _ = eta.shape
    gradient = np.zeros((num_predictors, num_cells))
    curvature = np.zeros((num_predictors, num_predictors, num_cells))
    steps = np.exp(eta[2:])
    cutpoint = eta[1]
    for k in range(len(counts) - 1):
        cutpoint = cutpoint + steps[k - 1] if k else cutpoint
        probability = expit(cutpoint - eta[0])
        pairs = counts[k] + counts[k + 1]
        by_u = counts[k][:, None] - pairs[:, None] * probability
        by_u_twice = pairs[:, None] * probability * (1.0 - probability)
        slopes = [-1.0, 1.0, *(steps[j] for j in range(k))]
        for p, slope in enumerate(slopes):
            gradient[p] += (by_u * slope) @ weights
            for q, other in enumerate(slopes[: p + 1]):
                value = (by_u_twice * slope * other) @ weights
                curvature[p, q] += value
                if p != q:
                    curvature[q, p] += value
            if p >= 2:
                curvature[p, p] -= (by_u * slope) @ weights
    for j, step in enumerate(steps):
        ratio = step / np.expm1(step)  # d log(1 - exp(-step)) / d log step
        gradient[j + 2] += counts[j + 1] * (ratio @ weights)
        curvature[j + 2, j + 2] += counts[j + 1] * ((ratio * (step + ratio - 1.0)) @ weights)
    return gradient, curvature


def expected_outcome(family: Any, eta: np.ndarray) -> np.ndarray:
    """Probability of each category, lowest first."""
    below = expit(cutpoints(eta[1:]) - eta[0])
    edges = np.concatenate([np.zeros_like(below[:1]), below, np.ones_like(below[:1])])
    return np.diff(edges, axis=0)


def cutpoints(own: np.ndarray) -> np.ndarray:
    """Cutpoints, shape (K - 1, ...), of the first one and the logs of the steps between them."""
    return np.cumsum(np.concatenate([own[:1], np.exp(own[1:])]), axis=0)


def start(family: Any, outcome: Any) -> np.ndarray:
    """Cutpoints at the overall cumulative shares."""
    share = np.maximum(outcome.proportions, 1e-3)
    cuts = logit(np.cumsum(share / share.sum())[:-1])
    return np.concatenate([[0.0, cuts[0]], np.log(np.diff(cuts))])
