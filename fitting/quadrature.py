r"""Nodes and weights for expectations under a standard normal in P dimensions.

One dimension has Gauss-Hermite nodes. More have

* a product of Gauss-Hermite rules, while P is 3 at most;
* McNamee & Stenger's (1967, Numerische Mathematik 10) fully symmetric rule, exact to degree 5 with :math:`2P^2 + 1` nodes,
  beyond that and wherever all variances are small;
* where only the first linear predictor varies by cell and the others are parameters of the likelihood, Gauss-Hermite
  nodes for the first times a symmetric rule for the others, whose variances are those of well-informed parameters.

What the rules leave is in docs/families.md (`python -m benchmarks.quadrature`).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, product

import numpy as np

SMALL_VARIANCE, FEW_NODES = 0.05, 5  # 5 nodes leave a relative error below 1e-8 for the logit at sd 0.22
PRODUCT_NODES = {2: 7, 3: 5}


@lru_cache(maxsize=64)
def rule(num_predictors: int, num_own: int, num_nodes: int, *, small: bool) -> tuple[np.ndarray, np.ndarray]:
    """Nodes, shape (P, Q), and weights, shape (Q,).

    Parameters
    ----------
    num_predictors, num_own
        P, and how many of them are parameters of the likelihood.
    num_nodes
        Of a one-dimensional rule.
    small
        Every variance is below ``SMALL_VARIANCE``.
    """
    count = min(num_nodes, FEW_NODES) if small else num_nodes
    if num_predictors == 1:
        return _product(1, count)
    if num_own == num_predictors - 1:
        return _join(_product(1, count), _symmetric(num_own) if num_own <= 2 else _crosspolytope(num_own))
    if small or num_predictors not in PRODUCT_NODES:
        return _symmetric(num_predictors)
    return _product(num_predictors, min(num_nodes, PRODUCT_NODES[num_predictors]))


def _product(dimension: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    grid = np.array(list(product(nodes, repeat=dimension))).T
    return grid, np.array(list(product(weights, repeat=dimension))).prod(axis=1)


def _symmetric(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Degree 5: the origin, ``+-sqrt(3)`` on every axis, and on every pair of axes."""
    unit, root = np.eye(dimension), np.sqrt(3.0)
    points, weights = [np.zeros(dimension)], [1.0 + (dimension**2 - 7.0 * dimension) / 18.0]
    for i in range(dimension):
        for sign in (root, -root):
            points.append(sign * unit[i])
            weights.append((4.0 - dimension) / 18.0)
    for i, j in combinations(range(dimension), 2):
        for a, b in product((root, -root), repeat=2):
            points.append(a * unit[i] + b * unit[j])
            weights.append(1.0 / 36.0)
    return np.array(points).T, np.array(weights)


def _crosspolytope(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Degree 3: ``+-sqrt(P)`` on every axis."""
    points = np.sqrt(dimension) * np.concatenate([np.eye(dimension), -np.eye(dimension)])
    return points.T, np.full(2 * dimension, 0.5 / dimension)


def _join(first: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    points = [np.concatenate([a, b]) for a, b in product(first[0].T, others[0].T)]
    return np.array(points).T, np.array([a * b for a, b in product(first[1], others[1])])


def square_root(covariance: np.ndarray) -> np.ndarray:
    """Lower Cholesky factors of covariances of shape (P, P, n), shape (P, P, n); zero variances give zero rows."""
    size = len(covariance)
    lower = np.zeros_like(covariance)
    for j in range(size):
        rest = covariance[j, j] - np.sum(lower[j, :j] ** 2, axis=0)
        lower[j, j] = np.sqrt(np.maximum(rest, 0.0))
        safe = np.where(lower[j, j] > 0.0, lower[j, j], 1.0)
        for i in range(j + 1, size):
            value = (covariance[i, j] - np.sum(lower[i, :j] * lower[j, :j], axis=0)) / safe
            lower[i, j] = np.where(lower[j, j] > 0.0, value, 0.0)
    return lower
