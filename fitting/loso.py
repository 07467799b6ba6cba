r"""Leave one shard out, by arithmetic: the product of the other sites under the exact prior is the posterior without it.

No shard is fitted again. The hyperparameters are integrated out over the points of the full posterior's proposal, reweighted
to the posterior without the shard (:mod:`fitting.combiner`); given each point, coefficients are drawn exactly. What the other
sites were made under still contains the shard: for the Gaussian family that changes nothing, for the others it is of second
order, as the sites of the others hardly depend on where they were made.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from fitting import pointwise, replicates, scale_marginal, scale_proposal
from fitting.cell_design import CellDesign
from fitting.combiner import Moments
from fitting.errors import ImproperPosteriorError
from fitting.hierarchy import Hierarchy
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.sites import Site, about
from fitting.tree import Restriction

NUM_POINTS = 32
POOR_EFFICIENCY = 0.1  # of the points: below, the proposal is fitted to the posterior without the shard
FEW_DRAWS = 10.0


class Without(NamedTuple):
    """Draws of the posterior without a shard, (D, M) and (M, H), the mean of its common coefficients (G,), and the share of
    points of the hyperparameters that carry it."""

    theta: np.ndarray
    psi: np.ndarray
    mean: np.ndarray
    efficiency: float


class ShardOut(NamedTuple):
    """How well a shard is predicted by all others, and what it does to the coefficients common to all.

    ``elpd`` sums the log predictive densities of its cells (``mcse`` is its Monte Carlo error, ``num_poor`` the cells whose
    density rests on fewer than ten draws), ``elpd_person`` those of its people, NaN where cells do not tell them.
    ``observed`` and ``predicted`` (M,) are mean outcomes of its people, the latter replicated; of no use with categories. ``move`` (G,) is the mean with
    the shard minus the mean without it, in sds of the posterior with it.
    """

    elpd: float
    mcse: float
    num_poor: int
    elpd_person: float
    observed: float
    predicted: np.ndarray
    move: np.ndarray
    efficiency: float


def common(hierarchy: Hierarchy) -> slice:
    """Places of the coefficients common to all shards, padding included."""
    return slice(0, hierarchy.model.tree.block_sizes[0])


def without(
    hierarchy: Hierarchy,
    natural: Natural,
    proposal: Proposal,
    restriction: Restriction,
    site: Site,
    *,
    num_draws: int,
    seed: int,
    num_points: int = NUM_POINTS,
) -> Without:
    """Draw from the posterior of all shards but one.

    Parameters
    ----------
    natural, proposal
        Of all shards.
    restriction, site
        Of the shard that is left out.

    Raises
    ------
    ImproperPosteriorError
        The other sites and the prior are no distribution.
    """
    precision, shift = natural.precision.copy(), natural.shift.copy()
    if len(natural.reference):
        site = about(restriction.tree, site, natural.reference[restriction.coefficients])
    precision[restriction.entries] -= site.precision
    shift[restriction.coefficients] -= site.shift
    rest = natural._replace(precision=precision, shift=shift, constants=natural.constants - site.constants)
    points, weights, given = _at_points(hierarchy, rest, proposal, num_points)
    if 1.0 / np.sum(weights**2) < POOR_EFFICIENCY * len(weights):
        points, weights, given = _at_points(
            hierarchy, rest, scale_proposal.propose(hierarchy, rest, proposal.mode), num_points
        )
    rng = np.random.default_rng([seed, 13])
    share = np.cumsum(weights)
    chosen = np.searchsorted(share / share[-1], (np.arange(num_draws) + rng.random()) / num_draws, side="right")
    count = np.bincount(chosen, minlength=len(weights))  # systematic resampling: the least noise
    tree = hierarchy.model.tree
    theta, mean = [], np.zeros(tree.num_coefficients)
    for j in np.flatnonzero(weights > 0):
        noise = rng.standard_normal((tree.num_coefficients, count[j] + 1))
        noise[:, 0] = 0.0
        draws = scale_marginal.coefficients(tree, given[j], noise)
        mean += weights[j] * draws[:, 0]
        theta.append(draws[:, 1:])
    order = rng.permutation(num_draws)  # else draws come sorted by their scales
    psi = np.repeat(points, count, axis=0)
    return Without(
        np.concatenate(theta, axis=1)[:, order],
        psi[order],
        mean[common(hierarchy)],
        float(1.0 / (len(weights) * np.sum(weights**2))),
    )


def _at_points(
    hierarchy: Hierarchy, rest: Natural, proposal: Proposal, num_points: int
) -> tuple[np.ndarray, np.ndarray, list[scale_marginal.Conditional]]:
    """Points of psi (the same that ``combiner.moments`` uses), their weights, and the coefficients given each of them."""
    if hierarchy.size == 0:
        points, log_q = np.zeros((1, 0)), np.zeros(1)
    else:
        from scipy.stats import qmc  # slow to import

        sobol = qmc.Sobol(hierarchy.size, scramble=True, rng=np.random.default_rng(0))
        points, log_q = scale_proposal.sample(proposal, sobol.random(num_points))
    kept, given, log_w = [], [], []
    for point, log_density in zip(points, log_q, strict=True):
        if not scale_marginal.is_within(hierarchy, point):
            continue
        try:
            at = scale_marginal.condition(hierarchy, rest, point)
        except np.linalg.LinAlgError:
            continue
        kept.append(point)
        given.append(at)
        log_w.append(at.log_density - log_density)
    if not kept or not np.isfinite(np.max(log_w)):
        raise ImproperPosteriorError("product of all sites but one, and the prior", float("nan"))
    return np.stack(kept), np.exp(log_w - logsumexp(log_w)), given


def shard(
    hierarchy: Hierarchy,
    left_out: Without,
    restriction: Restriction,
    design: CellDesign,
    moments: Moments,
    *,
    seed: int,
) -> ShardOut:
    """Predict a shard, coefficients numbered on its part of the tree, from the others; ``moments`` are of all of them."""
    family = hierarchy.family
    theta, residual = left_out.theta[restriction.coefficients], hierarchy.residual_sd(left_out.psi)
    num_draws, rng = theta.shape[1], np.random.default_rng([seed, 17])
    elpd, variance, poor, of_people = 0.0, 0.0, 0, 0.0
    replicated, observed = np.zeros(num_draws), 0.0
    for _, part in pointwise.chunks(design, num_draws):
        eta = pointwise.predictors(part, theta)
        log_density = pointwise.log_likelihood(family, part.statistics, eta, residual)
        total = logsumexp(log_density, axis=1)
        effective = np.exp(2.0 * total - logsumexp(2.0 * log_density, axis=1))
        elpd += float(np.sum(total - np.log(num_draws)))
        variance += float(np.sum(np.maximum(1.0 / effective - 1.0 / num_draws, 0.0)))
        poor += int(np.sum(effective < FEW_DRAWS))
        for p in pointwise.persons(family, part.statistics):
            each = logsumexp(pointwise.log_likelihood(family, p.statistics, eta, residual), axis=1)
            of_people += float(p.num_people @ (each - np.log(num_draws)))
        if family.categories:
            observed = np.nan
            continue
        replicated += replicates.draw(rng, family, part.statistics, eta, residual).total.sum(axis=0)
        observed += float(pointwise.totals(family, part.statistics).sum())
    number = float(pointwise.base(family, design.statistics).sum())
    sd = np.sqrt(moments.covariance[hierarchy.model.tree.diagonal])[common(hierarchy)]
    move = np.where(hierarchy.model.is_padding[common(hierarchy)], 0.0, moments.mean[common(hierarchy)] - left_out.mean)
    has_people = bool(pointwise.persons(family, design.statistics))
    return ShardOut(
        elpd, float(np.sqrt(variance)), poor, of_people if has_people else float("nan"),
        observed / number, replicated / number, move / sd, left_out.efficiency,
    )  # fmt: skip
