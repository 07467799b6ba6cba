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

from fitting.descendants import Descendants

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
    def under(self) -> tuple[tuple[Descendants, ...], ...]:
        """``under[i][j]``: nodes of level i by their ancestors at level j < i."""
        levels: list[tuple[Descendants, ...]] = [()]
        for i in range(1, self.num_levels + 1):
            ancestor, pairs = self.parents[i - 1], []
            for j in range(i - 1, -1, -1):
                pairs.append(Descendants(ancestor, self.block_sizes[i], self.num_nodes[j]))
                ancestor = self.parents[j - 1][ancestor] if j else ancestor
            levels.append(tuple(pairs[::-1]))
        return tuple(levels)

    def on_path(self, level: int) -> slice:
        """Where the coefficients of a level's nodes are on paths through them."""
        return slice(self.widths[level], self.widths[level] + self.block_sizes[level])

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
        """Number in the subtree of each coefficient of the whole tree, shape (D,), in as few bytes as they fit; D_s where it is not there."""
        size = len(self.coefficients)
        numbers = np.full(num_coefficients, size, dtype=np.min_scalar_type(size))
        numbers[self.coefficients] = np.arange(size)
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


def _times(own: Array, rows: Array) -> Array:
    """Matrices of nodes, (N, k, k), times their rows, (N, k, m)."""
    return own * rows if own.shape[-1] == 1 else own @ rows


def cholesky(tree: Tree, precision: Array, xp: Any = np) -> Factor:
    """Factorise a precision, shape (E,). Raises ``numpy.linalg.LinAlgError`` (NumPy) if it is not positive definite.

    Each level takes off what all levels below it leave, a product for each pair of levels: nothing is as large as a path's matrix
    for every node.
    """
    inverses: list[Array] = [None] * (tree.num_levels + 1)
    couplings: list[Array] = [None] * (tree.num_levels + 1)
    log_determinant: Any = 0.0
    levels = _levels(tree, precision)
    for level in range(tree.num_levels, -1, -1):
        block = levels[level]
        w, k = tree.widths[level], tree.block_sizes[level]
        for below in range(level + 1, tree.num_levels + 1):
            coupling = couplings[below]
            path = coupling[..., : w + k]
            block = block - tree.under[below][level].sum_products(path[..., w:], path, xp)
        own = block[..., w:]
        if xp is np and k == 1 and own.size and own.min() <= 0:
            raise np.linalg.LinAlgError("Matrix is not positive definite")
        lower = _cholesky(own, xp)
        inverse = _triangular_inverse(lower, xp)
        log_determinant = log_determinant + 2.0 * xp.sum(xp.log(xp.diagonal(lower, axis1=-2, axis2=-1)))
        inverses[level] = inverse
        couplings[level] = _times(inverse, block[..., :w])
    return Factor(tuple(inverses), tuple(couplings), log_determinant)


def forward(tree: Tree, factor: Factor, shift: Array, xp: Any = np) -> Array:
    """Solve ``L y = shift`` for shift of shape (D, M)."""
    solved: list[Array] = _blocks(tree, shift)
    for level in range(tree.num_levels, -1, -1):
        block = solved[level]
        for below in range(level + 1, tree.num_levels + 1):
            coupling = factor.coupling[below][..., tree.on_path(level)]
            block = block - tree.under[below][level].sum_products(coupling, solved[below], xp)
        solved[level] = _times(factor.inverse_lower[level], block)
    return xp.concatenate([y.reshape(-1, shift.shape[-1]) for y in solved])


def backward(tree: Tree, factor: Factor, y: Array, xp: Any = np) -> Array:
    """Solve ``L' theta = y`` for y of shape (D, M); with standard normal y added to ``forward`` this draws from the Gaussian."""
    solved: list[Array] = []
    for level, block in enumerate(_blocks(tree, y)):
        for above, theta in enumerate(solved):
            coupling = factor.coupling[level][..., tree.on_path(above)]
            block = block - tree.under[level][above].times_ancestor(coupling, theta, xp)
        solved.append(_times(xp.swapaxes(factor.inverse_lower[level], -1, -2), block))
    return xp.concatenate([theta.reshape(-1, y.shape[-1]) for theta in solved])


def solve(tree: Tree, factor: Factor, shift: Array, xp: Any = np) -> Array:
    """Mean of the Gaussian with this factor and shift, shape (D,) or (D, M)."""
    columns = shift.reshape(shift.shape[0], -1)
    return backward(tree, factor, forward(tree, factor, columns, xp), xp).reshape(shift.shape)


def covariance(tree: Tree, factor: Factor) -> np.ndarray:
    """Marginal covariances of every coefficient with its path, stored like a precision, shape (E,) (selected inverse)."""
    entries = np.zeros(tree.num_entries)
    levels = _levels(tree, entries)
    full: np.ndarray | None = None  # of the paths of the level before the last: those of the last would be larger than all entries
    for level, block in enumerate(levels):
        inverse_t = np.swapaxes(factor.inverse_lower[level], -1, -2)
        cross, own = block[..., : tree.widths[level]], block[..., tree.widths[level] :]
        own[:] = _times(inverse_t, factor.inverse_lower[level])
        if not level:
            continue
        above, parents = levels[level - 1], tree.under[level][-1]
        w = tree.widths[level - 1]
        slope = -_times(inverse_t, factor.coupling[level])
        if full is not None:
            tree.under[level][-2].add_times_ancestor(slope[..., :w], full, cross[..., :w])
            parents.add_times_ancestor(slope[..., :w], np.swapaxes(above[..., :w], -1, -2), cross[..., w:])
        parents.add_times_ancestor(slope[..., w:], above, cross)
        own += np.einsum("nkw,njw->nkj", cross, slope)
        if level < tree.num_levels:
            full = above if full is None else _extend(tree.under[level - 1][-1], full, above)
    return entries


def _extend(parents: Descendants, full: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Covariances of each node's whole path, (N, w + k, w + k), from those of its parent's and its own rows, (N, k, w + k)."""
    n, k, size = rows.shape
    w = size - k
    extended = np.empty((n, size, size))
    for p, begin, end in parents.slices:
        extended[begin:end, :w, :w] = full[p]
    extended[:, :w, w:] = np.swapaxes(rows[..., :w], -1, -2)
    extended[:, w:] = rows
    return extended


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
        parents = tree.under[level][-1]
        slope = -parents.times_ancestor(cross, inverse)
        slopes.append(slope)
        conditional.append(np.linalg.inv(own + cross @ np.swapaxes(slope, -1, -2)))
        if level < tree.num_levels:
            full = _extend(parents, full, block)
    weighted = [c @ slope for c, slope in zip(conditional, slopes, strict=True)]
    out = []
    for level, (coupling, own) in enumerate(zip(weighted, conditional, strict=True)):
        block = np.concatenate([coupling, own], axis=-1)
        for below in range(level + 1, tree.num_levels + 1):
            slope = slopes[below][..., tree.on_path(level)]
            block += tree.under[below][level].sum_products(slope, weighted[below][..., : block.shape[-1]])
        out.append(block.ravel())
    return np.concatenate(out)


def multiply(tree: Tree, entries: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Product of a tree matrix, shape (E,), and vectors, shape (D, M): shape (D, M)."""
    blocks = _blocks(tree, vector)
    parts: list[np.ndarray] = []
    for level, block in enumerate(_levels(tree, entries)):
        part = _times(block[..., tree.widths[level] :], blocks[level])
        for above in range(level):
            under, coupling = tree.under[level][above], block[..., tree.on_path(above)]
            part += under.times_ancestor(coupling, blocks[above])
            parts[above] += under.sum_products(coupling, blocks[level])
        parts.append(part)
    return np.concatenate([p.reshape(-1, vector.shape[-1]) for p in parts])


def outer(tree: Tree, vectors: np.ndarray) -> np.ndarray:
    """``V V'`` on the tree's pattern, shape (E,), for V of shape (D, M)."""
    entries, blocks = np.zeros(tree.num_entries), _blocks(tree, vectors)
    for level, (block, own) in enumerate(zip(_levels(tree, entries), blocks, strict=True)):
        for above in range(level):
            of_ancestor = np.swapaxes(blocks[above], 1, 2)
            tree.under[level][above].add_times_ancestor(own, of_ancestor, block[..., tree.on_path(above)])
        block[..., tree.widths[level] :] = np.einsum("nkm,njm->nkj", own, own)
    return entries


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
