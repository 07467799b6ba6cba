r"""Spread of a pseudo-posterior under survey weights, corrected for the weights.

Weights multiply the log likelihood, so a posterior from them is centred where the weighted sample says, but as wide as if
a weight of 2 were two people. With :math:`H` the precision of coefficients given scales (sites and prior) and :math:`J` the
variance of the weighted score, the corrected covariance is :math:`H^{-1} (J + Q) H^{-1}`, Q the prior's precision, which is
:math:`H^{-1}` where weights are equal and the model holds (Godambe information; Binder 1983, Int. Statistical Review 51;
Williams & Savitsky 2021, Int. Statistical Review 89, sec. 2). People are taken as sampled independently: clusters and
strata of a design are not known here.

J comes from cells alone: of the people of a cell with the same outcome all scores are equal, so the sums of squared weights
by outcome suffice (binomial families).
"""

from __future__ import annotations

import numpy as np

from fitting import families, sites
from fitting import tree as tr
from fitting.cell_design import CellDesign
from fitting.errors import ModelError
from fitting.families import Family
from fitting.tree import Factor, Tree

SQUARED = ("sum_weight_squared", "sum_weight_squared_successes")


def score_variance(tree: Tree, design: CellDesign, family: Family, mean: np.ndarray) -> np.ndarray:
    """``sum w^2 s s'`` over the people of a shard at coefficients ``mean`` (D_s,), on the tree's pattern, shape (E_s,).

    Without weights in the cells every person has weight 1 (the model-robust spread).

    Raises
    ------
    ModelError
        The family is not binomial.
    """
    if family.name != "binomial":
        raise ModelError("fit.spread: sandwich", f"the family {family.name!r}", "bernoulli or binomial, or `fit.spread: model`")
    statistics = design.statistics
    every, positive = (statistics.get(a, statistics[b]) for a, b in zip(SQUARED, family.statistics, strict=True))
    eta = sites.predictor_mean(design, mean)
    one, nothing = np.ones(design.num_cells), np.zeros((1, 1, design.num_cells))
    of_success, of_failure = (
        families.expected_derivatives(family, {"num_trials": one, "num_successes": y}, eta, nothing, 1)[0][0]
        for y in (one, 0.0 * one)
    )
    weight = positive * of_success**2 + (every - positive) * of_failure**2
    return sites.information(tree, design, weight[None, None])


def noise(tree: Tree, precision: np.ndarray, factor: Factor, normal: np.ndarray) -> np.ndarray:
    """Draws of N(0, P), shape (D, M), from standard normal ones: ``P L'^-1 z = L z`` for ``P = L L'``, shape (E,)."""
    return tr.multiply(tree, precision, tr.backward(tree, factor, normal))
