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
from fitting.cell_design import CellDesign
from fitting.families import Family, expected_derivatives
from fitting.likelihoods import gaussian
from fitting.tree import Tree

CELLS_AT_ONCE = 1 << 14
"""Cells whose pairs of nonzeros are formed together: their arrays stay in a core's cache, and are not asked of the system anew."""
Partner = tuple[int, np.ndarray, np.ndarray | None]
"""The second nonzero of a pair: its number, its position in the first one's row, (n,), and the product of both values."""


class Site(NamedTuple):
    r"""Natural parameters on a shard's part of the tree, shapes (E_s,) and (D_s,).

    With a residual scale :math:`\sigma` (Gaussian family) both are divided by :math:`\sigma^2` at the combiner, and
    ``constants`` holds (number of rows, sum of squares); otherwise it is zeros. Shift and sum of squares are then those of
    residuals from coefficients ``reference``, (D_s,), so that they do not lose their digits far from zero; empty means zero.
    """

    precision: np.ndarray
    shift: np.ndarray
    constants: np.ndarray
    reference: np.ndarray = np.empty(0)


def about(tree: Tree, site: Site, reference: np.ndarray) -> Site:
    """The same site with residuals from other coefficients, (D_s,)."""
    own = site.reference if len(site.reference) else np.zeros_like(reference)
    step = reference - own
    if not step.any():
        return site._replace(reference=reference)
    moved = tr.multiply(tree, site.precision, step[:, None])[:, 0]
    squares = site.constants[1] - 2.0 * (step @ site.shift) + step @ moved
    return Site(site.precision, site.shift - moved, np.array([site.constants[0], squares]), reference)


def near(tree: Tree, site: Site, coefficients: np.ndarray) -> Site:
    """The same site, for densities at draws around ``coefficients``, (D_s,), up to a constant: they keep their digits far from zero.

    With a residual scale the constant is not free, and the site has a reference of its own.
    """
    return site if site.constants.any() else about(tree, site, coefficients)._replace(constants=np.zeros(2))


def pairs(tree: Tree, design: CellDesign) -> Iterator[tuple[int, np.ndarray, Iterator[Partner]]]:
    """Every nonzero, deepest first: its number, its rows in the tree matrix, (n,), and those that are not deeper."""
    positions = [tree.path_position.take(index) for index in design.places]

    def partners(i: int) -> Iterator[Partner]:
        for j in range(i, len(positions)):
            a, b = design.values[i], design.values[j]
            yield j, positions[j], b if a is None else (a if b is None else a * b)

    for i, index in enumerate(design.places):
        yield i, tree.row_start.take(index), partners(i)


def predictor_mean(design: CellDesign, mean: np.ndarray) -> np.ndarray:
    """Linear predictors of each cell, shape (P, n), at coefficients of shape (D,)."""
    total = np.zeros((design.num_predictors, design.num_cells))
    for place, value, p in zip(design.places, design.values, design.predictors, strict=True):
        part = mean.take(place)
        total[p] += part if value is None else part * value
    return total


def matrices(design: CellDesign, num_coefficients: int) -> list[sparse.csr_array]:
    """The design of each linear predictor as a sparse matrix, shape (n, D)."""
    return [_matrix(design, p, num_coefficients) for p in range(design.num_predictors)]


def linear_predictors(matrices_of: list[sparse.csr_array], theta: np.ndarray) -> np.ndarray:
    """Linear predictors, shape (P, n, M), for draws (D, M)."""
    return np.stack([matrix @ theta for matrix in matrices_of])


def _matrix(design: CellDesign, predictor: int, num_coefficients: int) -> sparse.csr_array:
    ones = np.ones(design.num_cells)
    own = [(i, v) for i, v, p in zip(design.places, design.values, design.predictors, strict=True) if p == predictor]
    if not own:
        return sparse.csr_array((design.num_cells, num_coefficients))
    values = np.stack([ones if value is None else value for _, value in own], axis=1)
    places = np.stack([place for place, _ in own], axis=1)
    pointers = np.arange(design.num_cells + 1, dtype=np.int64) * places.shape[1]
    shape = (design.num_cells, num_coefficients)
    return sparse.csr_array((values.ravel(), places.ravel().astype(np.int64), pointers), shape=shape)


def predictor_covariance(tree: Tree, design: CellDesign, covariance: np.ndarray) -> np.ndarray:
    """Covariance of each cell's linear predictors, shape (P, P, n), from path covariances (E,)."""
    size = design.num_predictors
    total = np.zeros((size, size, design.num_cells))
    for cells in design.runs(CELLS_AT_ONCE):
        of_cells = total[..., cells]
        for i, row, partners in pairs(tree, design.some(cells)):
            for j, position, value in partners:
                part = covariance.take(row + position)
                if value is not None:
                    part *= value
                p, q = design.predictors[i], design.predictors[j]
                if p == q:
                    of_cells[p, p] += part if i == j else 2.0 * part
                else:
                    of_cells[p, q] += part
                    of_cells[q, p] += part
    diagonal = np.arange(size)
    total[diagonal, diagonal] = np.maximum(total[diagonal, diagonal], 0.0)
    return total


def information(tree: Tree, design: CellDesign, weight: np.ndarray) -> np.ndarray:
    """``sum_pq Z_p' diag(weight_pq) Z_q`` on the tree's pattern, shape (E,), for weights of shape (P, P, n)."""
    entries = np.zeros(tree.num_entries)
    depth = [int(tree.level_of[index[:1]].sum()) for index in design.places]  # a nonzero is of one level in all cells
    for cells in design.runs(CELLS_AT_ONCE):
        some, of_cells = design.some(cells), weight[..., cells]
        for i, row, partners in pairs(tree, some):
            first, last = int(row.min()), int(row.max()) + tree.widths[depth[i]] + tree.block_sizes[depth[i]]
            row -= first
            for j, position, value in partners:
                w = of_cells[design.predictors[i], design.predictors[j]]
                if i != j and depth[i] == depth[j]:
                    twice = some.places[i] == some.places[j]
                    if twice.any():  # one coefficient twice in a cell: both orders of the pair are one place, on the diagonal
                        w = w * (1.0 + twice)
                entries[first:last] += np.bincount(row + position, w if value is None else w * value, last - first)
    for level, (n, k, w) in enumerate(zip(tree.num_nodes, tree.block_sizes, tree.widths, strict=True)):
        if k > 1:  # within a block each pair was added on one side only
            block = entries[tree.entry_starts[level] : tree.entry_starts[level + 1]].reshape(n, k, w + k)
            own = block[..., w:]
            block[..., w:] = own + np.swapaxes(own, 1, 2) - np.eye(k) * own
    return entries


def transpose_multiply(tree: Tree, design: CellDesign, weight: np.ndarray) -> np.ndarray:
    """``sum_p Z_p' weight_p``, shape (D,), for weights of shape (P, n)."""
    total = np.zeros(tree.num_coefficients)
    for index, value, p in zip(design.places, design.values, design.predictors, strict=True):
        total += np.bincount(index, weight[p] if value is None else weight[p] * value, tree.num_coefficients)
    return total


def fit(
    tree: Tree, design: CellDesign, family: Family, mean: np.ndarray, covariance: np.ndarray, *, num_nodes: int,
    convex: bool = False,
) -> Site:  # fmt: skip
    """Site of one shard under q = N(mean, covariance) on its part of the tree.

    Parameters
    ----------
    design
        With coefficients numbered on ``tree`` (``within`` of `fitting.model.Model.design`).
    mean, covariance
        Moments of q, shapes (D_s,) and (E_s,). A covariance of zeros gives the Laplace site at ``mean``.
    convex
        Take the positive part of every cell's curvature, for a family that is not log-concave: a step towards the
        posterior from far away, not the site of any posterior.
    """
    if family.has_residual_scale:
        count, eta = design.statistics["num_trials"].astype(np.float64), predictor_mean(design, mean)[0]
        return Site(
            information(tree, design, count[None, None]),
            transpose_multiply(tree, design, (count * (gaussian.mean(design.statistics) - eta))[None]),
            np.array([count.sum(), gaussian.squares(design.statistics, eta).sum()]),
            np.array(mean, dtype=np.float64),
        )
    eta = predictor_mean(design, mean)
    gradient, curvature = expected_derivatives(
        family, design.statistics, eta, predictor_covariance(tree, design, covariance), num_nodes
    )
    if convex and not family.is_log_concave:
        curvature = positive_part(curvature)
    shift = gradient + np.einsum("pqn,qn->pn", curvature, eta)
    return Site(information(tree, design, curvature), transpose_multiply(tree, design, shift), np.zeros(2))


def positive_part(curvature: np.ndarray) -> np.ndarray:
    """Symmetric matrices of shape (P, P, n) with their negative eigenvalues set to zero."""
    values, vectors = np.linalg.eigh(np.moveaxis(curvature, -1, 0))
    kept = (vectors * np.maximum(values, 0.0)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    return np.moveaxis(kept, 0, -1)


def log_density(tree: Tree, site: Site, theta: np.ndarray, residual_sd: np.ndarray | float = 1.0) -> np.ndarray:
    """``log t(theta)`` of a site for draws of shape (D_s, M), without its constant of the data: shape (M,)."""
    if len(site.reference):
        theta = theta - site.reference[:, None]
    kernel = site.shift @ theta - 0.5 * tr.quadratic_form(tree, site.precision, theta)
    return (kernel - 0.5 * site.constants[1]) / np.square(residual_sd) - site.constants[0] * np.log(residual_sd)
