r"""Coefficients that occur in one shard alone: which they are, and how they are drawn once the common ones are merged.

Subposteriors are merged over what shards have in common, :math:`\theta_c` and the hyperparameters psi. The effects
:math:`\theta_s` of group levels with cells in shard s only, a state's counties, were sampled under that shard's own view of
the scales: left so, each shard keeps its own shrinkage. They are redrawn given the merged draws, from

.. math:: p(\theta_s \mid \theta_c, \psi, y_s) \propto p(\theta_s \mid \psi)\, t_s(\theta_c, \theta_s),

one pass over the shard, with its likelihood as the variational site t_s under the merged moments (``fitting.sites``; for the
Gaussian family t_s is the likelihood itself).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from fitting import sites
from fitting import tree as tr
from fitting.cell_design import CellDesign
from fitting.hierarchy import Hierarchy
from fitting.tree import Restriction

Shard = tuple[Restriction, CellDesign]
MAX_STEPS = 20
TOLERANCE = 0.01  # sds
NUM_NODES = 11


class Partition(NamedTuple):
    """Places in the whole tree: coefficients ``common`` to shards, and each shard's ``own``. Padding is in neither."""

    common: np.ndarray
    own: tuple[np.ndarray, ...]


def units(hierarchy: Hierarchy) -> list[np.ndarray]:
    """Per group term, coefficients that share one block of prior precision, (levels, k)."""
    return [group.blocks for group in hierarchy.model.groups]


def partition(hierarchy: Hierarchy, shards: Sequence[Shard]) -> Partition:
    """Which coefficients are common to shards, and which are one shard's own.

    A level of a group term is a shard's own if all its cells are in that shard, and there are others. Fixed effects, and
    levels without cells, are common.
    """
    count = np.zeros(hierarchy.model.tree.num_coefficients, dtype=np.int64)
    owner = np.zeros_like(count)
    for s, (restriction, design) in enumerate(shards):
        touched = restriction.coefficients[np.unique(np.concatenate(design.places))]
        count[touched] += 1
        owner[touched] = s
    is_own = np.zeros(len(count), dtype=bool)
    for levels in units(hierarchy):
        alone = (count[levels].max(axis=1) == 1) & (len(shards) > 1)
        is_own[levels[alone]] = True
        owner[levels] = owner[levels].max(axis=1, keepdims=True)
    real = ~hierarchy.model.is_padding
    return Partition(
        np.flatnonzero(real & ~is_own), tuple(np.flatnonzero(is_own & (owner == s)) for s in range(len(shards)))
    )


def redraw(
    hierarchy: Hierarchy,
    shard: Shard,
    common: np.ndarray,
    own: np.ndarray,
    theta: np.ndarray,
    psi: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw a shard's own coefficients given merged draws of the common ones.

    Parameters
    ----------
    common, own
        Places in the whole tree, (C,) and (L,); from ``partition``.
    theta, psi
        Merged draws, (M, C) and (M, H).

    Returns
    -------
    numpy.ndarray
        Shape (M, L).
    """
    prior_of = _OwnPrior(hierarchy, own)
    precision, coupling, shift = _site(hierarchy, shard, common, own, theta, psi, prior_of(psi.mean(axis=0)))
    noise = rng.standard_normal((len(theta), len(own)))
    scale = np.broadcast_to(np.asarray(hierarchy.residual_sd(psi)) ** -2.0, (len(theta),))
    pull = scale[:, None] * (shift - theta @ coupling.T)
    found = np.empty_like(noise)
    for m in range(len(theta)):
        lower = np.linalg.cholesky(prior_of(psi[m]) + scale[m] * precision)
        found[m] = solve_triangular(lower.T, solve_triangular(lower, pull[m], lower=True) + noise[m], lower=False)
    return found


class _OwnPrior:
    """Prior precision (L, L) of own coefficients, as a function of psi (H,)."""

    def __init__(self, hierarchy: Hierarchy, own: np.ndarray):
        position = np.full(hierarchy.model.tree.num_coefficients, -1, dtype=np.int64)
        position[own] = np.arange(len(own))
        self.hierarchy, self.size = hierarchy, len(own)
        self.rows = [position[levels[position[levels[:, 0]] >= 0]] for levels in units(hierarchy)]

    def __call__(self, psi: np.ndarray) -> np.ndarray:
        precision = np.zeros((self.size, self.size))
        for g, (rows, part) in enumerate(zip(self.rows, self.hierarchy.slices, strict=True)):
            precision[rows[:, :, None], rows[:, None, :]] = self.hierarchy.group_precision(g, psi[part])[0]
        return precision


def _site(
    hierarchy: Hierarchy,
    shard: Shard,
    common: np.ndarray,
    own: np.ndarray,
    theta: np.ndarray,
    psi: np.ndarray,
    prior: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shard's site under merged moments: own precision (L, L), coupling with the common (L, C), own shift (L,)."""
    restriction, design = shard
    tree, num_common = restriction.tree, len(common)
    position = np.full(hierarchy.model.tree.num_coefficients, -1, dtype=np.int64)
    position[np.concatenate([common, own])] = np.arange(num_common + len(own))
    place = position[restriction.coefficients]
    inside, kept = np.flatnonzero(place >= 0), place[place >= 0]
    scale = float(np.mean(np.asarray(hierarchy.residual_sd(psi)) ** -2.0))
    mean_common, cov_common = theta.mean(axis=0), np.atleast_2d(np.cov(theta.T))
    matrix, vector = np.zeros((num_common + len(own),) * 2), np.zeros(num_common + len(own))
    before = np.full(len(own), np.inf)
    for _ in range(MAX_STEPS):
        lower = np.linalg.cholesky(prior + scale * matrix[num_common:, num_common:])
        given = cho_solve((lower, True), np.eye(len(own)))  # covariance given the common coefficients
        slope = -given @ (scale * matrix[num_common:, :num_common])
        mean_own = given @ (scale * vector[num_common:]) + slope @ mean_common
        moved = np.abs(mean_own - before) / np.sqrt(np.diag(given))
        if moved.max(initial=0.0) < TOLERANCE:
            break
        before = mean_own
        cross = slope @ cov_common
        joint = np.block([[cov_common, cross.T], [cross, given + cross @ slope.T]])
        mean, covariance = np.zeros(tree.num_coefficients), np.eye(tree.num_coefficients)
        mean[inside] = np.concatenate([mean_common, mean_own])[kept]
        covariance[np.ix_(inside, inside)] = joint[np.ix_(kept, kept)]
        site = sites.fit(tree, design, hierarchy.family, mean, tr.from_dense(tree, covariance), num_nodes=NUM_NODES, convex=True)
        site = sites.about(tree, site, np.zeros(tree.num_coefficients))
        matrix[np.ix_(kept, kept)] = tr.dense(tree, site.precision)[np.ix_(inside, inside)]
        vector[kept] = site.shift[inside]
    return matrix[num_common:, num_common:], matrix[num_common:, :num_common], vector[num_common:]
