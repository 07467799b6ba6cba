r"""One shard's likelihood as a Gaussian site on its own part of the tree.

Under q with linear predictor moments :math:`\eta_i \sim N(z_i'm, z_i'Vz_i)` the site of conjugate-computation
variational inference (Khan & Lin 2017, AISTATS, eq. 9 with step 1) has precision :math:`Z'E_q[W]Z` and shift
:math:`Z'E_q[r] + Z'E_q[W]Z\,m`, with r and W the first and negative second derivatives of the log likelihood.
With V = 0 the same formula is the Laplace site at m. For the Gaussian family the site is the likelihood itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

from fitting import tree as tr
from fitting.families import Family, expected_derivatives
from fitting.model import CellDesign
from fitting.tree import Tree


class Site(NamedTuple):
    r"""Natural parameters on a shard's part of the tree, shapes (E_s,) and (D_s,).

    With a residual scale :math:`\sigma` (Gaussian family) both are divided by :math:`\sigma^2` at the combiner, and
    ``constants`` holds (number of rows, sum of squares); otherwise it is zeros.
    """

    precision: np.ndarray
    shift: np.ndarray
    constants: np.ndarray


def pairs(tree: Tree, design: CellDesign) -> Iterator[tuple[int, int, np.ndarray, np.ndarray | None]]:
    """For every pair of nonzeros, deeper first: their numbers, places in the tree matrix (n,), and product of values."""
    rows = [tree.row_start.take(index) for index in design.places]
    positions = [tree.path_position.take(index) for index in design.places]
    for i, row in enumerate(rows):
        for j in range(i, len(rows)):
            a, b = design.values[i], design.values[j]
            yield i, j, row + positions[j], b if a is None else (a if b is None else a * b)


def predictor_mean(design: CellDesign, mean: np.ndarray) -> np.ndarray:
    """Linear predictor of each cell, shape (n,), at coefficients of shape (D,)."""
    total = np.zeros(design.num_cells)
    for place, value in zip(design.places, design.values, strict=True):
        part = mean.take(place)
        total += part if value is None else part * value
    return total


def matrix(design: CellDesign, num_coefficients: int) -> sparse.csr_array:
    """The design as a sparse matrix, shape (n, D): times draws (D, M) it gives their linear predictors (n, M)."""
    ones = np.ones(design.num_cells)
    values = np.stack([ones if v is None else v for v in design.values], axis=1)
    places = np.stack(design.places, axis=1)
    pointers = np.arange(design.num_cells + 1, dtype=np.int64) * places.shape[1]
    shape = (design.num_cells, num_coefficients)
    return sparse.csr_array((values.ravel(), places.ravel().astype(np.int64), pointers), shape=shape)


def predictor_variance(tree: Tree, design: CellDesign, covariance: np.ndarray) -> np.ndarray:
    """Variance of each cell's linear predictor, shape (n,), from path covariances (E,)."""
    variance = np.zeros(design.num_cells)
    for i, j, place, value in pairs(tree, design):
        part = covariance.take(place)
        if value is not None:
            part *= value
        variance += part if i == j else 2.0 * part
    return np.maximum(variance, 0.0)


def information(tree: Tree, design: CellDesign, weight: np.ndarray) -> np.ndarray:
    """``Z' diag(weight) Z`` on the tree's pattern, shape (E,)."""
    entries = np.zeros(tree.num_entries)
    for _, _, place, value in pairs(tree, design):
        entries += np.bincount(place, weight if value is None else weight * value, tree.num_entries)
    for level, (n, k, w) in enumerate(zip(tree.num_nodes, tree.block_sizes, tree.widths, strict=True)):
        if k > 1:  # within a block each pair was added on one side only
            block = entries[tree.entry_starts[level] : tree.entry_starts[level + 1]].reshape(n, k, w + k)
            own = block[..., w:]
            block[..., w:] = own + np.swapaxes(own, 1, 2) - np.eye(k) * own
    return entries


def transpose_multiply(tree: Tree, design: CellDesign, weight: np.ndarray) -> np.ndarray:
    """``Z' weight``, shape (D,)."""
    total = np.zeros(tree.num_coefficients)
    for index, value in zip(design.places, design.values, strict=True):
        total += np.bincount(index, weight if value is None else weight * value, tree.num_coefficients)
    return total


def fit(
    tree: Tree, design: CellDesign, family: Family, mean: np.ndarray, covariance: np.ndarray, *, num_nodes: int
) -> Site:
    """Site of one shard under q = N(mean, covariance) on its part of the tree.

    Parameters
    ----------
    design
        With coefficients numbered on ``tree`` (``fitting.model.localise``).
    mean, covariance
        Moments of q, shapes (D_s,) and (E_s,). A covariance of zeros gives the Laplace site at ``mean``.
    """
    if family.has_residual_scale:
        count = design.statistics["num_trials"].astype(np.float64)
        return Site(
            information(tree, design, count),
            transpose_multiply(tree, design, design.statistics["sum_y"]),
            np.array([count.sum(), design.statistics["sum_y_squared"].sum()]),
        )
    eta = predictor_mean(design, mean)
    gradient, curvature = expected_derivatives(
        design.statistics, eta, predictor_variance(tree, design, covariance), num_nodes
    )
    return Site(
        information(tree, design, curvature), transpose_multiply(tree, design, gradient + curvature * eta), np.zeros(2)
    )


def log_density(tree: Tree, site: Site, theta: np.ndarray, residual_sd: np.ndarray | float = 1.0) -> np.ndarray:
    """``log t(theta)`` of a site for draws of shape (D_s, M), without its constant of the data: shape (M,)."""
    kernel = site.shift @ theta - 0.5 * tr.quadratic_form(tree, site.precision, theta)
    return (kernel - 0.5 * site.constants[1]) / np.square(residual_sd) - site.constants[0] * np.log(residual_sd)
