r"""The marginal of the hyperparameters: sites and prior with the coefficients integrated out.

Given the hyperparameters psi the coefficients are one tree Gaussian, so they integrate out in closed form,

.. math:: p(\psi \mid t) \propto p(\psi)\, |Q_\psi|^{1/2}\, |Q_\psi + \Lambda|^{-1/2}
          \exp\{\tfrac12 h_\psi'(Q_\psi + \Lambda)^{-1} h_\psi\},

with :math:`\Lambda` the sites' precision, Q the prior's and h both shifts (Rasmussen & Williams 2006, ch. 5; the
marginal that INLA explores).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fitting import tree as tr
from fitting.hierarchy import Hierarchy
from fitting.tree import Factor, Tree


class Natural(NamedTuple):
    """Product of sites on the whole tree: shapes (E,), (D,), (2,), and the coefficients that it is about, (D,), empty for zero."""

    precision: np.ndarray
    shift: np.ndarray
    constants: np.ndarray
    reference: np.ndarray = np.empty(0)


class Conditional(NamedTuple):
    """The coefficients given psi: the factor of their precision, ``L y = shift``, and the marginal log density of psi.

    The shift is about ``reference``: :func:`coefficients` adds it.
    """

    factor: Factor
    solved: np.ndarray
    log_density: float
    reference: np.ndarray = np.empty(0)


def coefficients(tree: Tree, given: Conditional, noise: np.ndarray | float = 0.0) -> np.ndarray:
    """Mean of the coefficients, (D, 1), or draws (D, M) for standard normal ``noise`` (D, M)."""
    found = tr.backward(tree, given.factor, given.solved + noise)
    return found + given.reference[:, None] if len(given.reference) else found


def condition(hierarchy: Hierarchy, sites: Natural, psi: np.ndarray) -> Conditional:
    """Condition on hyperparameters, shape (H,). Raises ``LinAlgError`` if sites and prior are no distribution."""
    tree = hierarchy.model.tree
    scale = float(hierarchy.residual_sd(psi)) ** -2.0
    precision, shift, prior_log_determinant = hierarchy.add_prior(
        psi, sites.precision * scale, sites.shift * scale, reference=sites.reference
    )
    factor = tr.cholesky(tree, precision)
    solved = tr.forward(tree, factor, shift[:, None])
    log_density = (
        float(hierarchy.log_prior(psi))
        + 0.5 * float(prior_log_determinant)
        - 0.5 * float(factor.log_determinant)
        + 0.5 * float(solved[:, 0] @ solved[:, 0])
    )
    if hierarchy.residual_prior is not None:
        log_density -= sites.constants[0] * psi[-1] + 0.5 * scale * sites.constants[1]
    return Conditional(factor, solved, log_density, sites.reference)


def is_within(hierarchy: Hierarchy, psi: np.ndarray) -> bool:
    """Whether hyperparameters are where a scale can be."""
    low, high = hierarchy.bounds
    return bool(np.all((low <= psi) & (psi <= high)))


def log_density(hierarchy: Hierarchy, sites: Natural, psi: np.ndarray) -> float:
    """Marginal log density of psi up to a constant; minus infinity where sites and prior are no distribution."""
    if not is_within(hierarchy, psi):
        return -np.inf
    try:
        return condition(hierarchy, sites, psi).log_density
    except np.linalg.LinAlgError:
        return -np.inf


def value_and_gradient(hierarchy: Hierarchy, sites: Natural, psi: np.ndarray) -> tuple[float, np.ndarray]:
    """Marginal log density of psi and its gradient, shape (H,), by Fisher's identity."""
    tree = hierarchy.model.tree
    given = condition(hierarchy, sites, psi)
    step, mean = tr.backward(tree, given.factor, given.solved)[:, 0], coefficients(tree, given)[:, 0]
    covariance = tr.covariance(tree, given.factor)
    second = []
    for group in hierarchy.model.groups:
        effects = mean[group.blocks]
        second.append(effects.T @ effects + covariance[group.entries].sum(axis=0))
    shrunk = np.zeros(0)
    if hierarchy.shrinkage is not None:
        places = hierarchy.shrinkage.places
        shrunk = mean[places] ** 2 + covariance[tree.diagonal[places]]
    gradient = hierarchy.score(psi, second, shrunk)
    if hierarchy.residual_prior is not None:
        fitted = step @ tr.multiply(tree, sites.precision, step[:, None])[:, 0] + trace_of_product(
            tree, sites.precision, covariance
        )
        squares = sites.constants[1] - 2.0 * sites.shift @ step + fitted
        gradient[-1] += squares * np.exp(-2.0 * psi[-1]) - sites.constants[0]
    return given.log_density, gradient


def trace_of_product(tree: Tree, a: np.ndarray, b: np.ndarray) -> float:
    """``tr(A B)`` of two symmetric tree matrices of which one is zero off the pattern."""
    total = 0.0
    for level, (n, k, w) in enumerate(zip(tree.num_nodes, tree.block_sizes, tree.widths, strict=True)):
        part = slice(tree.entry_starts[level], tree.entry_starts[level + 1])
        block = (a[part] * b[part]).reshape(n, k, w + k)
        total += 2.0 * float(block[..., :w].sum()) + float(block[..., w:].sum())
    return total
