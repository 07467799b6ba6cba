"""Sums over the children of each parent, and products with the parents, for one level of an elimination tree.

Nodes are sorted by parent, so with NumPy the children of one parent are a slice and every product one BLAS call. JAX wants
one shape: there the rows are grouped in chunks of equal length that never straddle two parents.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

Array = Any
CHUNK_ROWS = 64


class Siblings:
    """Children by parent for one level.

    Parameters
    ----------
    parent
        Parent of each node, shape (N,), non-decreasing.
    block
        Rows (coefficients) per node.
    num_parents
        Nodes of the level above; some may have no children.
    """

    def __init__(self, parent: np.ndarray, block: int, num_parents: int):
        self.parent, self.block, self.num_parents = parent, block, num_parents
        present, first = np.unique(parent, return_index=True)
        bounds = np.append(first, len(parent)).tolist()
        self.slices = list(zip(present.tolist(), bounds[:-1], bounds[1:], strict=True))

    def sum_products(self, a: Array, b: Array, xp: Any = np) -> Array:
        """``sum a_r' b_r`` over the rows of each parent's children: (N, k, u) and (N, k, v) to (num_parents, u, v)."""
        u, v, k = a.shape[-1], b.shape[-1], self.block
        rows_a, rows_b = a.reshape(-1, u), b.reshape(-1, v)
        if xp is np:
            sums = np.zeros((self.num_parents, u, v))
            for p, begin, end in self.slices:
                np.matmul(rows_a[begin * k : end * k].T, rows_b[begin * k : end * k], out=sums[p])
            return sums
        per_chunk = xp.swapaxes(self._gather(rows_a, xp), -1, -2) @ self._gather(rows_b, xp)
        return xp.zeros((self.num_parents, u, v), a.dtype).at[self._chunks[1]].add(per_chunk)

    def sum_nodes(self, per_node: Array, xp: Any = np) -> Array:
        """Sum over each parent's children: (N, ...) to (num_parents, ...)."""
        sums = xp.zeros((self.num_parents, *per_node.shape[1:]), per_node.dtype)
        if xp is np:
            for p, begin, end in self.slices:
                sums[p] = per_node[begin:end].sum(axis=0)
            return sums
        return sums.at[self.parent].add(per_node)

    def times_parent(self, rows: Array, of_parent: Array, xp: Any = np) -> Array:
        """Rows (N, k, w) times their parents' matrices (num_parents, w, M): (N, k, M)."""
        n, k, w = rows.shape
        flat = rows.reshape(n * k, w)
        if xp is np:
            product = np.empty((n * k, of_parent.shape[-1]))
            for p, begin, end in self.slices:
                np.matmul(flat[begin * k : end * k], of_parent[p], out=product[begin * k : end * k])
            return product.reshape(n, k, -1)
        chunked = self._gather(flat, xp) @ of_parent[self._chunks[1]]
        return chunked.reshape(-1, chunked.shape[-1])[self._chunks[2]].reshape(n, k, -1)

    @cached_property
    def _chunks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of each chunk (the number of rows where there is none), parent of each chunk, place of each row."""
        row_parent = np.repeat(self.parent, self.block)
        counts = np.bincount(row_parent, minlength=self.num_parents)
        length = int(np.clip(counts.max(initial=1), 1, CHUNK_ROWS))
        per_parent = -(-counts // length)
        chunk_parent = np.repeat(np.arange(len(counts)), per_parent)
        chunk_start, row_start = np.cumsum(per_parent) - per_parent, np.cumsum(counts) - counts
        place = chunk_start[row_parent] * length + np.arange(len(row_parent)) - row_start[row_parent]
        rows = np.full(len(chunk_parent) * length, len(row_parent))
        rows[place] = np.arange(len(row_parent))
        return rows.reshape(-1, length), chunk_parent, place

    def _gather(self, rows: Array, xp: Any) -> Array:
        padded = xp.concatenate([rows, xp.zeros((1, rows.shape[-1]), rows.dtype)])
        return padded[self._chunks[0]]
