"""The log likelihood of many cells as one JAX program, whatever their number: a loop over blocks of one size.

A program is compiled for every shape of its arguments, which takes seconds, and shards differ in their cells. So the cells are cut into
blocks, the arrays have room for `ROOM` cells (or twice that, and so on), and a loop goes through the blocks that are
filled. A loop of unknown length has no reverse mode; every block therefore adds up its value and its gradient together.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fitting.cell_design import CellDesign
from fitting.families import Family, log_likelihood

CPU_BLOCK, DEVICE_BLOCK = 256, 16_384
"""Cells of a block: what stays in a core's cache (docs/design/numpy-and-jax.md), or what keeps an accelerator busy."""
ROOM = 16_384


class CellBlocks(NamedTuple):
    """B blocks of C cells, of which the first ``num_filled`` have any; K nonzeros a cell, P linear predictors.

    ``index`` (B, K, C) and ``value`` (B, K, C) are the design, ``predictor`` (K, P) says which linear predictor a nonzero is
    part of; ``offset`` (B, P, C) is added; ``statistics`` are columns (B, C).
    """

    index: Any
    value: Any
    predictor: Any
    offset: Any
    statistics: dict[str, Any]
    num_filled: Any


def cut(design: CellDesign, place: np.ndarray, offset: np.ndarray, block: int | None = None) -> CellBlocks:
    """Cut cells into blocks.

    Parameters
    ----------
    place
        New number of each of the design's coefficients, shape (D,).
    offset
        Of the linear predictors, shape (P, n).
    block
        Cells of a block; None: what suits the device of this process.
    """
    block = block or (CPU_BLOCK if jax.default_backend() == "cpu" else DEVICE_BLOCK)
    room = max(ROOM, block)
    while room < design.num_cells:
        room *= 2

    def blocks(array: np.ndarray) -> np.ndarray:
        padded = np.zeros((*array.shape[:-1], room), array.dtype)
        padded[..., : design.num_cells] = array
        return np.ascontiguousarray(np.moveaxis(padded.reshape(*array.shape[:-1], -1, block), -2, 0))

    ones = np.ones(design.num_cells)
    return CellBlocks(
        index=blocks(np.stack([place[index] for index in design.places]).astype(np.int32)),
        value=blocks(np.stack([ones if value is None else value for value in design.values])),
        predictor=np.eye(design.num_predictors)[list(design.predictors)],
        offset=blocks(offset),
        statistics={name: blocks(np.asarray(c, dtype=np.float64)) for name, c in design.statistics.items()},
        num_filled=np.int32(-(-design.num_cells // block)),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def total(family: Family, cells: CellBlocks, theta: jax.Array) -> jax.Array:
    """Log likelihood of all cells at coefficients ``theta``, shape (D,), without constants of the data."""
    return _total_and_gradient(family, cells, theta)[0]


def _forward(family: Family, cells: CellBlocks, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _total_and_gradient(family, cells, theta)


def _backward(family: Family, gradient: jax.Array, cotangent: jax.Array) -> tuple[None, jax.Array]:
    return None, cotangent * gradient


total.defvjp(_forward, _backward)


def _total_and_gradient(family: Family, cells: CellBlocks, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    def of_block(theta: jax.Array, b: jax.Array) -> jax.Array:
        nonzeros = cells.value[b] * theta[cells.index[b]]
        eta = cells.offset[b] + cells.predictor.T @ nonzeros
        statistics = {name: column[b] for name, column in cells.statistics.items()}
        return log_likelihood(family, statistics, eta, xp=jnp).sum()

    def add(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        b, value, gradient = carry
        more, direction = jax.value_and_grad(of_block)(theta, b)
        return b + 1, value + more, gradient + direction

    start = (jnp.zeros_like(cells.num_filled), jnp.zeros((), theta.dtype), jnp.zeros_like(theta))
    _, value, gradient = jax.lax.while_loop(lambda carry: carry[0] < cells.num_filled, add, start)
    return value, gradient
