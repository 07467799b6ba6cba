r"""Posterior and prior predictive checks by groups of people.

*Posterior*: outcomes are replicated at posterior draws, summed over each group, and set beside what was observed (Rubin 1984,
Annals of Statistics 12). A group that has an effect of its own is nearly always met, so besides its total each group has a
discrepancy inside it (Gelman, Meng & Stern 1996, Statistica Sinica 6), realised against replicated: for shares
:math:`\sum_i (y_i - n_i p_i)^2 / (n_i p_i (1 - p_i))` over its cells, for numbers
:math:`\sum_j (y_j - \eta_j)^2 / \sigma^2` over its people.

*Prior*: the merge of no sites at all is the prior, so its draws are the combiner's (:func:`prior_draws`), whatever priors the
model has. What they say about outcomes shows whether they are sane before any data are seen (Gabry et al. 2019, JRSS A 182).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import sparse, stats

from fitting import combiner, families, pointwise, predict, scale_proposal
from fitting import replicates as replicating
from fitting.cell_design import CellDesign
from fitting.combiner import Draws
from fitting.families import Family
from fitting.hierarchy import Hierarchy
from fitting.predict import Calibration
from fitting.scale_marginal import Natural

EXTREME = 0.01  # a share below it, or above one less it, is all or nothing


class Replicates(NamedTuple):
    """Per group of one margin: base (people, trials or exposure) and observed sum (G,); replicated sums (G, M); and the
    discrepancy inside the group, realised and replicated, (G, M). Those of several shards add up."""

    num_trials: np.ndarray
    observed: np.ndarray
    replicated: np.ndarray
    discrepancy: np.ndarray
    discrepancy_replicated: np.ndarray


class Checked(NamedTuple):
    """Per group, all (G,): observed mean outcome, mean, sd and interval of replicated means, and p-values in (0, 1).

    ``p_value`` is the probability that a replicated mean exceeds the observed one, equality counted half: near 0 or 1 is bad.
    ``p_discrepancy`` is that for the discrepancy inside the group: near 0, its cells vary more than the model has them;
    near 1, less.
    """

    observed: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    p_discrepancy: np.ndarray


def replicates(
    family: Family,
    design: CellDesign,
    theta: np.ndarray,
    residual_sd: np.ndarray,
    groups: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    seed: tuple[int, ...],
) -> tuple[dict[str, Replicates], np.ndarray]:
    """Replicate the outcomes of some cells at every draw and sum them by group.

    Parameters
    ----------
    theta, residual_sd
        Draws, shapes (D, M) and (M,).
    groups, sizes
        Per margin the group of each cell, shape (n,), and the number of groups.
    seed
        Of the replicated outcomes; another one for every shard.

    Returns
    -------
    replicates, expected
        By margin; and each cell's expected outcome, averaged over draws, shape (n,), for :func:`group_calibration`.
    """
    rng, num_draws = np.random.default_rng(seed), theta.shape[1]
    sums = {m: [np.zeros((sizes[m], num_draws)) for _ in range(3)] for m in groups}
    means = np.empty(design.num_cells)
    for rows, part in pointwise.chunks(design, num_draws):
        eta = pointwise.predictors(part, theta)
        means[rows] = pointwise.expected(family, eta).mean(axis=1)
        new = replicating.draw(rng, family, part.statistics, eta, residual_sd)
        for m, group in groups.items():
            index = (group[rows], np.arange(part.num_cells))
            selector = sparse.csr_array((np.ones(part.num_cells), index), shape=(sizes[m], part.num_cells))
            for total, values in zip(sums[m], new, strict=True):
                total += selector @ values
    out = {}
    for m, group in groups.items():
        weights = (pointwise.base(family, design.statistics), pointwise.totals(family, design.statistics))
        out[m] = Replicates(*(np.bincount(group, w, sizes[m]) for w in weights), *sums[m])
    return out, means


def check(found: Replicates, interval: float = 0.9) -> Checked:
    """Compare each group of people with its replicates, shares and means per person. Every group must have people."""
    number = found.num_trials
    mean = found.replicated / number[:, None]
    low, high = np.quantile(mean, [(1 - interval) / 2, (1 + interval) / 2], axis=1)
    above = found.replicated - found.observed[:, None]
    inside = found.discrepancy_replicated - found.discrepancy
    return Checked(
        found.observed / number, mean.mean(axis=1), mean.std(axis=1), low, high, _mid_p(above), _mid_p(inside)
    )


def _mid_p(excess: np.ndarray) -> np.ndarray:
    """Share of draws above 0, equality counted half, shape (G,)."""
    near = np.abs(excess) <= 1e-9  # sums of counts in floating point
    return np.asarray(((excess > 0) & ~near).mean(axis=1) + 0.5 * near.mean(axis=1))


def num_outside(p_values: np.ndarray, level: float = 0.05) -> tuple[int, float]:
    """How many p-values are within ``level / 2`` of 0 or 1, and the probability of so many among independent groups."""
    outside = int(np.sum((p_values < level / 2) | (p_values > 1 - level / 2)))
    return outside, float(stats.binom.sf(outside - 1, len(p_values), level))


def group_calibration(
    expected: np.ndarray, trials: np.ndarray, observed: np.ndarray, group: np.ndarray, num_groups: int
) -> list[Calibration]:
    """``predict.calibration`` of each group's own cells: deciles of them show whether *within* the group shares are right."""
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(num_groups + 1))
    parts = [order[a:b] for a, b in pairwise(bounds)]
    return [predict.calibration(expected[rows], trials[rows], observed[rows]) for rows in parts]


# ---- prior ----


class PriorTerm(NamedTuple):
    """What one part of the prior alone says: ``kind`` is ``term`` (an outcome) or ``parameter`` (a scale or correlation)."""

    kind: str
    name: str
    values: np.ndarray


def prior_draws(hierarchy: Hierarchy, *, num_draws: int, seed: int, threads: int = 1) -> Draws:
    """Draw coefficients and hyperparameters from the prior, one chain of ``num_draws``."""
    tree = hierarchy.model.tree
    nothing = Natural(np.zeros(tree.num_entries), np.zeros(tree.num_coefficients), np.zeros(2))
    first = combiner.start(hierarchy)
    proposal = scale_proposal.propose(hierarchy, nothing, first)
    return combiner.draw(hierarchy, nothing, proposal, num_draws=num_draws, num_chains=1, seed=seed, threads=threads)


def prior_terms(hierarchy: Hierarchy, draws: Draws) -> list[PriorTerm]:
    """What the intercept alone implies for the outcome, each other term added to the intercept's centre, and the scales.

    A fixed coefficient is taken at a predictor of 1, that is one sd of it; a group term at one level of its own.
    """
    model, family = hierarchy.model, hierarchy.family
    theta, psi = np.concatenate(draws.theta), np.concatenate(draws.psi)
    centre = np.zeros(model.tree.num_coefficients)
    centre[hierarchy.fixed_places] = hierarchy.fixed_mean
    base = 0.0
    terms: list[tuple[str, int, float]] = []
    for block in model.fixed:
        for name, place in zip(block.names, block.coefficients, strict=True):
            if block.is_intercept:
                base = float(centre[place])
                terms.insert(0, (name, place, 0.0))
            else:
                terms.append((name, place, base))
    for group in model.groups:
        for j, variable in enumerate(group.variables):
            terms.append((variable, int(group.coefficients[0, j]), base))
    out = []
    if family.num_predictors == 1:  # else an outcome depends on more than one of the terms
        out = [
            PriorTerm("term", name, families.expected_outcome(family, theta[None, :, place] + start)[0])
            for name, place, start in terms
        ]
    natural = hierarchy.natural(psi)
    return out + [PriorTerm("parameter", name, natural[:, h]) for h, name in enumerate(hierarchy.names())]


def extreme(share: np.ndarray) -> np.ndarray:
    """Prior probability that a share is all or nothing: within ``EXTREME`` of 0 or 1; over the last axis."""
    return np.asarray(((share < EXTREME) | (share > 1 - EXTREME)).mean(axis=-1))
