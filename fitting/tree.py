"""Gaussians whose precision has the pattern of a tree of nested blocks, and their exact algebra.

Order the coefficients as root (seen everywhere), then the nodes of each level of nesting: state, county, precinct.
A cell touches the root and one node per level, its *path*; so the precision of any product of sites and hierarchical
priors couples a node with its ancestors only, block elimination from the leaves to the root creates no fill, and a
factorisation costs :math:`\\sum_\\ell N_\\ell k_\\ell w_\\ell^2 + G^3` with ``N`` nodes, blocks of ``k`` coefficients,
``w`` ancestors' coefficients and ``G`` at the root. Reference: Rue & Held (2005), *Gaussian Markov Random Fields*, ch. 2;
Lauritzen (1996), *Graphical Models*, ch. 5, for the decomposable projection.

A tree matrix is stored flat: the row of a coefficient holds its covariances (or precisions) with its path, ancestors
first, then its own block. ``row_start[c] + path_position[d]`` is the place of the pair (c, d) for d on the path of c's node.
Every function takes the array module ``xp`` (``numpy`` or ``jax.numpy``) where both are of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import lapack

from fitting.siblings import Siblings

Array = Any  # a NumPy or JAX array; shapes are given in words


@dataclass(frozen=True)
class Tree:
    """Shape of an elimination tree.

    Parameters
    ----------
    block_sizes
        Coefficients per node for the root and each level, ``(G, k_1, ..., k_L)``. Ragged blocks are padded.
    parents
        For each level below the root the parent of every node, shape (N_l,), non-decreasing, indices into the level above.
    """

    block_sizes: tuple[int, ...]
    parents: tuple[np.ndarray, ...]

    @property
    def num_levels(self) -> int:
        """Levels below the root."""
        return len(self.parents)

    @cached_property
    def num_nodes(self) -> tuple[int, ...]:
        """Nodes per level, the root's 1 first."""
        return (1, *(len(p) for p in self.parents))

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Coefficients of all ancestors of a node, per level."""
        return tuple(int(sum(self.block_sizes[:level])) for level in range(self.num_levels + 1))

    @cached_property
    def coefficient_starts(self) -> tuple[int, ...]:
        """First coefficient of each level, and after the last the number of all."""
        sizes = [n * k for n, k in zip(self.num_nodes, self.block_sizes, strict=True)]
        return tuple(int(s) for s in np.cumsum([0, *sizes]))

    @cached_property
    def entry_starts(self) -> tuple[int, ...]:
        """First stored entry of each level, and after the last the number of all."""
        sizes = [n * k * (k + w) for n, k, w in zip(self.num_nodes, self.block_sizes, self.widths, strict=True)]
        return tuple(int(s) for s in np.cumsum([0, *sizes]))

    @property
    def num_coefficients(self) -> int:
        """Number of coefficients, D."""
        return self.coefficient_starts[-1]

    @property
    def num_entries(self) -> int:
        """Number of stored entries, E: each coefficient with those of its own block and above it."""
        return self.entry_starts[-1]

    @cached_property
    def row_start(self) -> np.ndarray:
        """Place of the first entry of each coefficient's row, shape (D,)."""
        parts = []
        for level in range(self.num_levels + 1):
            k, width = self.block_sizes[level], self.widths[level] + self.block_sizes[level]
            parts.append(self.entry_starts[level] + np.arange(self.num_nodes[level] * k) * width)
        return np.concatenate(parts).astype(np.int64)

    @cached_property
    def path_position(self) -> np.ndarray:
        """Position of each coefficient on its own path, shape (D,)."""
        return np.concatenate(
            [
                w + np.tile(np.arange(k), n)
                for n, k, w in zip(self.num_nodes, self.block_sizes, self.widths, strict=True)
            ]
        ).astype(np.int64)

    @cached_property
    def level_of(self) -> np.ndarray:
        """Level of each coefficient, shape (D,)."""
        return np.repeat(
            np.arange(self.num_levels + 1), [n * k for n, k in zip(self.num_nodes, self.block_sizes, strict=True)]
        )

    @cached_property
    def diagonal(self) -> np.ndarray:
        """Place of each coefficient's own entry, shape (D,)."""
        return self.row_start + self.path_position

    @cached_property
    def siblings(self) -> tuple[Siblings, ...]:
        """Children by parent, for each level below the root."""
        return tuple(
            Siblings(p, k, n) for p, k, n in zip(self.parents, self.block_sizes[1:], self.num_nodes[:-1], strict=True)
        )

    def restrict(self, nodes: Sequence[np.ndarray]) -> Restriction:
        """Subtree of the given nodes (sorted indices per level below the root; closed under parents)."""
        parents: list[np.ndarray] = []
        above = np.zeros(1, dtype=np.int64)
        for level, kept in enumerate(nodes):
            parents.append(np.searchsorted(above, self.parents[level][kept]))
            above = kept
        tree = Tree(self.block_sizes, tuple(parents))
        coefficients, entries = [np.arange(self.block_sizes[0])], [np.arange(self.entry_starts[1])]
        for level, kept in enumerate(nodes, start=1):
            k, width = self.block_sizes[level], self.widths[level] + self.block_sizes[level]
            coefficients.append((self.coefficient_starts[level] + kept[:, None] * k + np.arange(k)).ravel())
            entries.append((self.entry_starts[level] + kept[:, None] * (k * width) + np.arange(k * width)).ravel())
        return Restriction(tree, np.concatenate(coefficients), np.concatenate(entries))


class Restriction(NamedTuple):
    """A subtree with the places of its coefficients, shape (D_s,), and entries, shape (E_s,), in the whole tree."""

    tree: Tree
    coefficients: np.ndarray
    entries: np.ndarray

    def numbers(self, num_coefficients: int) -> np.ndarray:
        """Number in the subtree of each coefficient of the whole tree, shape (D,); -1 where it is not there."""
        numbers = np.full(num_coefficients, -1, dtype=np.int32)
        numbers[self.coefficients] = np.arange(len(self.coefficients), dtype=np.int32)
        return numbers


class Factor(NamedTuple):
    """Block Cholesky factor: per level the inverse of the lower factor, (N, k, k), and its product with the coupling, (N, k, w)."""

    inverse_lower: tuple[Array, ...]
    coupling: tuple[Array, ...]
    log_determinant: Array


def _levels(tree: Tree, entries: Array) -> list[Array]:
    return [
        entries[tree.entry_starts[i] : tree.entry_starts[i + 1]].reshape(n, k, w + k)
        for i, (n, k, w) in enumerate(zip(tree.num_nodes, tree.block_sizes, tree.widths, strict=True))
    ]


def _blocks(tree: Tree, vector: Array) -> list[Array]:
    """Split (D, M) into (N, k, M) per level."""
    return [
        vector[tree.coefficient_starts[i] : tree.coefficient_starts[i + 1]].reshape(n, k, vector.shape[-1])
        for i, (n, k) in enumerate(zip(tree.num_nodes, tree.block_sizes, strict=True))
    ]


def _triangular_inverse(lower: Array, xp: Any) -> Array:
    k = lower.shape[-1]
    if k == 1:
        return 1.0 / lower
    if xp is np and lower.shape[0] == 1:
        return lapack.dtrtri(lower[0], lower=1)[0][None]
    return xp.linalg.inv(lower)


def _cholesky(blocks: Array, xp: Any) -> Array:
    return xp.sqrt(blocks) if blocks.shape[-1] == 1 else xp.linalg.cholesky(blocks)


def cholesky(tree: Tree, precision: Array, xp: Any = np) -> Factor:
    """Factorise a precision, shape (E,). Raises ``numpy.linalg.LinAlgError`` (NumPy) if it is not positive definite."""
    inverses: list[Array] = [None] * (tree.num_levels + 1)
    couplings: list[Array] = [None] * (tree.num_levels + 1)
    log_determinant: Any = 0.0
    update = None
    levels = _levels(tree, precision)
    for level in range(tree.num_levels, -1, -1):
        block = levels[level]
        w, k = tree.widths[level], tree.block_sizes[level]
        if update is not None:
            block = block - update[:, w:, :]
        own = block[..., w:]
        if xp is np and k == 1 and own.size and own.min() <= 0:
            raise np.linalg.LinAlgError("Matrix is not positive definite")
        lower = _cholesky(own, xp)
        inverse = _triangular_inverse(lower, xp)
        log_determinant = log_determinant + 2.0 * xp.sum(xp.log(xp.diagonal(lower, axis1=-2, axis2=-1)))
        coupling = inverse * block[..., :w] if k == 1 else inverse @ block[..., :w]
        inverses[level], couplings[level] = inverse, coupling
        if level:
            siblings = tree.siblings[level - 1]
            above = siblings.sum_products(coupling, coupling, xp)
            update = above if update is None else above + siblings.sum_nodes(update[:, :w, :w], xp)
    return Factor(tuple(inverses), tuple(couplings), log_determinant)


def forward(tree: Tree, factor: Factor, shift: Array, xp: Any = np) -> Array:
    """Solve ``L y = shift`` for shift of shape (D, M)."""
    solved: list[Array] = _blocks(tree, shift)
    update = None
    for level in range(tree.num_levels, -1, -1):
        w = tree.widths[level]
        block = solved[level] if update is None else solved[level] - update[:, w:]
        solved[level] = factor.inverse_lower[level] @ block
        if level:
            siblings = tree.siblings[level - 1]
            above = siblings.sum_products(factor.coupling[level], solved[level], xp)
            update = above if update is None else above + siblings.sum_nodes(update[:, :w], xp)
    return xp.concatenate([y.reshape(-1, shift.shape[-1]) for y in solved])


def backward(tree: Tree, factor: Factor, y: Array, xp: Any = np) -> Array:
    """Solve ``L' theta = y`` for y of shape (D, M); with standard normal y added to ``forward`` this draws from the Gaussian."""
    blocks = _blocks(tree, y)
    solved: list[Array] = []
    path: Any = None
    for level in range(tree.num_levels + 1):
        _w, k, n = tree.widths[level], tree.block_sizes[level], tree.num_nodes[level]
        block = blocks[level]
        if level:
            block = block - tree.siblings[level - 1].times_parent(factor.coupling[level], path, xp)
        theta = xp.swapaxes(factor.inverse_lower[level], -1, -2) @ block
        solved.append(theta.reshape(n * k, -1))
        if level < tree.num_levels:
            path = theta if path is None else xp.concatenate([path[tree.parents[level - 1]], theta], axis=1)
    return xp.concatenate(solved)


def solve(tree: Tree, factor: Factor, shift: Array, xp: Any = np) -> Array:
    """Mean of the Gaussian with this factor and shift, shape (D,) or (D, M)."""
    columns = shift.reshape(shift.shape[0], -1)
    return backward(tree, factor, forward(tree, factor, columns, xp), xp).reshape(shift.shape)


def covariance(tree: Tree, factor: Factor) -> np.ndarray:
    """Marginal covariances of every coefficient with its path, stored like a precision, shape (E,) (selected inverse)."""
    entries = np.empty(tree.num_entries)
    full: np.ndarray | None = None
    for level, block in enumerate(_levels(tree, entries)):
        w, inverse = tree.widths[level], factor.inverse_lower[level]
        cross, own = block[..., :w], block[..., w:]
        inverse_t = np.swapaxes(inverse, -1, -2)
        np.matmul(inverse_t, inverse, out=own)
        if full is None:
            full = own
            continue
        siblings = tree.siblings[level - 1]
        slope = inverse_t @ factor.coupling[level]
        cross[:] = -siblings.times_parent(slope, full)
        own -= cross @ np.swapaxes(slope, -1, -2)
        if level < tree.num_levels:
            full = _extend(siblings, full, cross, own)
    return entries


def _extend(siblings: Siblings, above: np.ndarray, cross: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Covariances of each node's whole path, (N, w + k, w + k), from those of its parent's."""
    n, k, w = cross.shape
    full = np.empty((n, w + k, w + k))
    for p, begin, end in siblings.slices:
        full[begin:end, :w, :w] = above[p]
    full[:, :w, w:] = np.swapaxes(cross, -1, -2)
    full[:, w:, :w], full[:, w:, w:] = cross, own
    return full


def precision_from_covariance(tree: Tree, entries: np.ndarray) -> np.ndarray:
    """Precision, shape (E,), of the tree Gaussian with these path covariances, shape (E,).

    The Kullback-Leibler projection of any distribution with these second moments on Gaussians of this tree
    (Lauritzen 1996, prop. 5.9): each node given its ancestors is a regression on them.
    """
    levels = _levels(tree, entries)
    slopes: list[np.ndarray] = []
    conditional: list[np.ndarray] = []
    full: np.ndarray | None = None
    for level, block in enumerate(levels):
        w = tree.widths[level]
        cross, own = block[..., :w], block[..., w:]
        if full is None:
            slopes.append(np.zeros((1, own.shape[1], 0)))
            conditional.append(np.linalg.inv(own))
            full = own
            continue
        inverse = np.linalg.inv(full)
        slope = -tree.siblings[level - 1].times_parent(cross, inverse)
        slopes.append(slope)
        conditional.append(np.linalg.inv(own + cross @ np.swapaxes(slope, -1, -2)))
        if level < tree.num_levels:
            full = _extend(tree.siblings[level - 1], full, cross, own)
    out: list[np.ndarray] = [np.empty(0)] * len(levels)
    update: np.ndarray | None = None
    for level in range(tree.num_levels, -1, -1):
        w = tree.widths[level]
        weighted = conditional[level] @ slopes[level]
        block = np.concatenate([weighted, conditional[level]], axis=-1)
        if update is not None:
            block = block + update[:, w:, :]
        out[level] = block.ravel()
        if level:
            siblings = tree.siblings[level - 1]
            above = siblings.sum_products(slopes[level], weighted)
            update = above if update is None else above + siblings.sum_nodes(update[:, :w, :w])
    return np.concatenate(out)


def multiply(tree: Tree, entries: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Product of a tree matrix, shape (E,), and vectors, shape (D, M): shape (D, M)."""
    blocks, parts = _blocks(tree, vector), []
    path: np.ndarray | None = None
    pending: list[np.ndarray] = []
    for level, block in enumerate(_levels(tree, entries)):
        w = tree.widths[level]
        result = block[..., w:] @ blocks[level]
        if level:
            assert path is not None
            result = result + tree.siblings[level - 1].times_parent(block[..., :w], path)
        parts.append(result)
        pending.append(block[..., :w])
        if level < tree.num_levels:
            path = (
                blocks[level]
                if path is None
                else np.concatenate([path[tree.parents[level - 1]], blocks[level]], axis=1)
            )
    update: np.ndarray | None = None
    for level in range(tree.num_levels, -1, -1):  # the transposed couplings, from the leaves to the root
        w = tree.widths[level]
        if update is not None:
            parts[level] = parts[level] + update[:, w:]
        if level:
            siblings = tree.siblings[level - 1]
            above = siblings.sum_products(pending[level], blocks[level])
            update = above if update is None else above + siblings.sum_nodes(update[:, :w])
    return np.concatenate([p.reshape(-1, vector.shape[-1]) for p in parts])


def quadratic_form(tree: Tree, entries: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``theta' A theta`` for every column of vectors of shape (D, M): shape (M,)."""
    return np.einsum("dm,dm->m", vector, multiply(tree, entries, vector))


def dense(tree: Tree, entries: np.ndarray) -> np.ndarray:
    """The stored pattern as a dense symmetric matrix, shape (D, D); entries off the pattern are zero."""
    size = tree.num_coefficients
    matrix = np.zeros((size, size))
    for level, block in enumerate(_levels(tree, entries)):
        k, start = tree.block_sizes[level], tree.coefficient_starts[level]
        for node in range(tree.num_nodes[level]):
            columns = path_coefficients(tree, level, node)
            rows = start + node * k + np.arange(k)
            matrix[np.ix_(rows, columns)] = block[node]
            matrix[np.ix_(columns, rows)] = block[node].T
    return matrix


def from_dense(tree: Tree, matrix: np.ndarray) -> np.ndarray:
    """The entries of a dense matrix on the tree's pattern, shape (E,)."""
    parts = []
    for level in range(tree.num_levels + 1):
        k, start = tree.block_sizes[level], tree.coefficient_starts[level]
        for node in range(tree.num_nodes[level]):
            rows = start + node * k + np.arange(k)
            parts.append(matrix[np.ix_(rows, path_coefficients(tree, level, node))].ravel())
    return np.concatenate(parts)


def path_coefficients(tree: Tree, level: int, node: int) -> np.ndarray:
    """Coefficients on the path of a node, root first, its own last."""
    parts = []
    for depth in range(level, -1, -1):
        k = tree.block_sizes[depth]
        parts.append(tree.coefficient_starts[depth] + node * k + np.arange(k))
        node = int(tree.parents[depth - 1][node]) if depth else 0
    return np.concatenate(parts[::-1])
