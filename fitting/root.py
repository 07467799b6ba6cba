r"""The Gaussian of the root, everything below integrated out, and what it is without one shard.

Eliminating the nodes below adds up over the branches under the root, so taking a site out changes the branches that it
touches and no other: with R(.) the root after elimination of those branches alone,

.. math:: R(\text{whole} - \text{site}) = R(\text{whole}) + R_b(\text{whole} - \text{site}) - R_b(\text{whole}),

and all shards together cost a few eliminations of the nation, not two each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fitting import tree as tr
from fitting.hierarchy import Hierarchy
from fitting.tree import Restriction, Tree


class Root(NamedTuple):
    """Gaussian of the root: precision (G, G), shift (G,), a square root of the covariance (G, G) and ``root' shift``."""

    precision: np.ndarray
    shift: np.ndarray
    root: np.ndarray
    solved: np.ndarray


def marginal(tree: Tree, precision: np.ndarray, shift: np.ndarray) -> Root:
    """The root of a Gaussian on a tree, shapes (E,) and (D,), prior included."""
    factor = tr.cholesky(tree, precision)
    solved = tr.forward(tree, factor, shift[:, None])[: tree.block_sizes[0], 0]
    lower = np.linalg.inv(factor.inverse_lower[0][0])
    return Root(lower @ lower.T, lower @ solved, factor.inverse_lower[0][0].T, solved)


def branches(tree: Tree, restriction: Restriction) -> Restriction:
    """Everything below the nodes of the first level that a restriction has, whether the restriction has it or not."""
    if not tree.num_levels:
        return tree.restrict([])
    first, last = tree.coefficient_starts[1:3]
    own = restriction.coefficients[(restriction.coefficients >= first) & (restriction.coefficients < last)]
    nodes = [np.unique((own - first) // tree.block_sizes[1])]
    for parents in tree.parents[1:]:
        nodes.append(np.flatnonzero(np.isin(parents, nodes[-1])))
    return tree.restrict(nodes)


class Roots:
    """Roots of a merged posterior given hyperparameters: with all sites, without one, and with one alone.

    ``precision`` (E,) and ``shift`` (D,) are the product of all sites, divided by the residual variance; all shifts, and the
    means that are found, are about ``reference``.
    """

    def __init__(
        self, hierarchy: Hierarchy, precision: np.ndarray, shift: np.ndarray, psi: np.ndarray,
        reference: np.ndarray | None = None,
    ):  # fmt: skip
        self._tree = hierarchy.model.tree
        self._prior = hierarchy.add_prior(psi, np.zeros_like(precision), np.zeros_like(shift), reference=reference)[:2]
        self._whole = hierarchy.add_prior(psi, precision, shift, reference=reference)[:2]
        self.whole = marginal(self._tree, *self._whole)
        self.prior = marginal(self._tree, *self._prior)

    def without(self, restriction: Restriction, precision: np.ndarray, shift: np.ndarray) -> Root:
        """Without a site on a restriction, shapes (E_s,) and (D_s,). ``LinAlgError`` where that is no distribution."""
        part = branches(self._tree, restriction)
        own_precision, own_shift = self._whole[0][part.entries], self._whole[1][part.coefficients]
        before = marginal(part.tree, own_precision, own_shift)
        own_precision[np.searchsorted(part.entries, restriction.entries)] -= precision
        own_shift[np.searchsorted(part.coefficients, restriction.coefficients)] -= shift
        after = marginal(part.tree, own_precision, own_shift)
        lower = np.linalg.cholesky(self.whole.precision + after.precision - before.precision)
        inverse = np.linalg.inv(lower)
        total = self.whole.shift + after.shift - before.shift
        return Root(lower @ lower.T, total, inverse.T, inverse @ total)

    def alone(self, restriction: Restriction, precision: np.ndarray, shift: np.ndarray) -> Root:
        """With this site and the prior only: what the site does not touch tells the root nothing."""
        prior_precision, prior_shift = self._prior
        return marginal(
            restriction.tree,
            prior_precision[restriction.entries] + precision,
            prior_shift[restriction.coefficients] + shift,
        )
