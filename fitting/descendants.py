"""Sums over the descendants of each node, and products with the node, for one pair of levels of an elimination tree.

Nodes are sorted by parent, so the descendants of one node are a slice of their level, and with NumPy a product is a BLAS call for each
node above, or one sparse or elementwise product for all of them where each has few rows below. JAX wants one shape: there the rows are grouped in chunks of equal length that never straddle two ancestors.
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

Array = Any
CHUNK_ROWS = 64
NODES_AT_ONCE = 1024
"""Whose products are added together: they stay in a core's cache."""
FEW_ROWS = 32
"""Below so many rows a node, a call for each node takes longer than its arithmetic."""


class Descendants:
    """Nodes of one level by their ancestor at another.

    Parameters
    ----------
    ancestor
        Of each node, shape (N,), non-decreasing.
    block
        Rows (coefficients) per node.
    num_ancestors
        Nodes of the level above; some may have no descendants.
    """

    def __init__(self, ancestor: np.ndarray, block: int, num_ancestors: int):
        self.ancestor, self.block, self.num_ancestors = ancestor, block, num_ancestors
        present, first = np.unique(ancestor, return_index=True)
        bounds = np.append(first, len(ancestor)).tolist()
        self.slices = list(zip(present.tolist(), bounds[:-1], bounds[1:], strict=True))
        self.has_few_rows = len(ancestor) * block < FEW_ROWS * len(self.slices)

    def sum_products(self, a: Array, b: Array, xp: Any = np) -> Array:
        """``sum a_r' b_r`` over the rows of each ancestor's nodes: (N, k, u) and (N, k, v) to (num_ancestors, u, v)."""
        u, v, k = a.shape[-1], b.shape[-1], self.block
        rows_a, rows_b = a.reshape(-1, u), b.reshape(-1, v)
        if self.num_ancestors == 1:
            return (rows_a.T @ rows_b)[None]
        if xp is not np:
            per_chunk = xp.swapaxes(self._gather(rows_a, xp), -1, -2) @ self._gather(rows_b, xp)
            return xp.zeros((self.num_ancestors, u, v), a.dtype).at[self._chunks[1]].add(per_chunk)
        if self.has_few_rows and u == 1:
            return (self._weighted(rows_a[:, 0]) @ np.ascontiguousarray(rows_b))[:, None]
        sums = np.zeros((self.num_ancestors, u, v))
        for p, begin, end in self.slices:
            np.matmul(rows_a[begin * k : end * k].T, rows_b[begin * k : end * k], out=sums[p])
        return sums

    def times_ancestor(self, rows: Array, of_ancestor: Array, xp: Any = np) -> Array:
        """Rows (N, k, w) times their ancestors' matrices (num_ancestors, w, M): (N, k, M)."""
        n, k, w = rows.shape
        flat = rows.reshape(n * k, w)
        if self.num_ancestors == 1:
            return (flat @ of_ancestor[0]).reshape(n, k, -1)
        if xp is not np:
            chunked = self._gather(flat, xp) @ of_ancestor[self._chunks[1]]
            return chunked.reshape(-1, chunked.shape[-1])[self._chunks[2]].reshape(n, k, -1)
        product = np.zeros((n, k, of_ancestor.shape[-1]))
        self.add_times_ancestor(rows, of_ancestor, product)
        return product

    def add_times_ancestor(self, rows: np.ndarray, of_ancestor: np.ndarray, total: np.ndarray) -> None:
        """Add :meth:`times_ancestor` to a total of its shape, without an array as large as that (NumPy only)."""
        if self.has_few_rows and 1 in of_ancestor.shape[1:]:  # one product or one sum for each row
            for begin in range(0, len(rows), NODES_AT_ONCE):
                some = slice(begin, begin + NODES_AT_ONCE)
                total[some] += np.einsum("nkw,nwm->nkm", rows[some], of_ancestor[self.ancestor[some]])
            return
        for p, begin, end in self.slices:
            for first in range(begin, end, NODES_AT_ONCE):
                some = slice(first, min(first + NODES_AT_ONCE, end))
                own = rows[some]
                total[some] += (own.reshape(-1, own.shape[-1]) @ of_ancestor[p]).reshape(*own.shape[:2], -1)

    def _weighted(self, weights: np.ndarray) -> sparse.csr_array:
        """Sums rows with these weights, (N k,), by ancestor, shape (num_ancestors, N k)."""
        sums = copy.copy(self._sums)  # its checks of the pattern would take most of the time
        sums.data = np.ascontiguousarray(weights)
        return sums

    @cached_property
    def _sums(self) -> sparse.csr_array:
        num_rows = np.bincount(self.ancestor, minlength=self.num_ancestors) * self.block
        ends = np.concatenate([[0], np.cumsum(num_rows)]).astype(np.int32)
        columns = np.arange(num_rows.sum(), dtype=np.int32)
        return sparse.csr_array((np.ones(len(columns)), columns, ends), shape=(self.num_ancestors, len(columns)))

    @cached_property
    def _chunks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of each chunk (the number of rows where there is none), ancestor of each chunk, place of each row."""
        row_ancestor = np.repeat(self.ancestor, self.block)
        counts = np.bincount(row_ancestor, minlength=self.num_ancestors)
        length = int(np.clip(counts.max(initial=1), 1, CHUNK_ROWS))
        per_ancestor = -(-counts // length)
        chunk_ancestor = np.repeat(np.arange(len(counts)), per_ancestor)
        chunk_start, row_start = np.cumsum(per_ancestor) - per_ancestor, np.cumsum(counts) - counts
        place = chunk_start[row_ancestor] * length + np.arange(len(row_ancestor)) - row_start[row_ancestor]
        rows = np.full(len(chunk_ancestor) * length, len(row_ancestor))
        rows[place] = np.arange(len(row_ancestor))
        return rows.reshape(-1, length), chunk_ancestor, place

    def _gather(self, rows: Array, xp: Any) -> Array:
        padded = xp.concatenate([rows, xp.zeros((1, rows.shape[-1]), rows.dtype)])
        return padded[self._chunks[0]]
