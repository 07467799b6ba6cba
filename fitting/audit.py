r"""The audit: what the merged posterior gets wrong, by shard and by coefficient, measured on all of the data.

For draws from the merged posterior the only approximation is a shard's site standing for its likelihood, so the log
importance weight is the sum over shards of :math:`\log L_s(\theta) - \log t_s(\theta)`: one pass over the shards.

* the sd of the log ratio, per shard and in total: half its square estimates the Kullback-Leibler divergence in nats;
* Pareto k and efficiency of the weights (Vehtari et al. 2024, JMLR 25), and the means and sds they correct to;
* the score: each shard's site is made afresh under the merged posterior, and ``V g_s``, with
  :math:`g_s = E_q\nabla\log L_s - E_q\nabla\log t_s`, is how far that shard alone moves each mean. All of them together,
  hyperparameters included, are one more round: the error of every coefficient in posterior sds. Where that round moves far
  the rounds go on until they stand still, because a single Newton step over- or undershoots a large error;
* heterogeneity: is a shard telling another story than the rest (Cochran's Q for each shard against the others), and how far
  does it pull the common coefficients (their means with and without it)?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc

from fitting import combiner, rounds, sandwich, scale_marginal, sites
from fitting import tree as tr
from fitting.cell_design import CellDesign
from fitting.combiner import DrawsMatrix, Moments
from fitting.errors import ImproperPosteriorError
from fitting.families import Family, log_likelihood
from fitting.hierarchy import Hierarchy
from fitting.likelihoods import gaussian
from fitting.root import Roots
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.sites import Site
from fitting.tree import Restriction, Tree

DRAW_CHUNK = 100
COEFFICIENTS_AT_ONCE = 10_000
EXACT = 1e-9
HOPELESS = 100.0  # an sd of log weights at which importance sampling means nothing
INFORMATIVE = 1e-3  # a direction in which a shard knows less than this share of what the others know says nothing
HETEROGENEITY_LEVEL = 0.001
MAX_SET_ASIDE = 10  # shards: with more of them telling other stories there is no common one to compare with
FAR = 0.5  # posterior sds: after a smaller move the next round would change the score by a few per cent of it
MAX_REFRESHES = 20
LARGEST_STEP = 2.0  # logits: from a wrong start a whole Newton step on a sigmoid can land further away than it began

Refresh = Callable[[Moments], Sequence[Site]]
"""Makes the sites of all shards afresh under these moments of the whole tree: one more pass over the data."""


class ShardAudit(NamedTuple):
    """What one shard reports: log ratio at every draw (M,), its site made afresh, and outcome totals per coefficient (D_s,).

    ``successes`` are None for outcomes that are no successes out of trials. ``root_scores`` are the variance of people's scores and the
    information of the coefficients common to all, each (G, G) times the residual variance; None of families that keep no squares.
    """

    log_ratio: np.ndarray
    fresh: Site
    trials: np.ndarray
    successes: np.ndarray | None
    root_scores: np.ndarray | None = None


class Importance(NamedTuple):
    """Importance weights of the draws and what they correct: all per coefficient of shape (D,)."""

    log_ratio_sd: float
    efficiency: float
    k_hat: float
    shift: np.ndarray  # corrected minus uncorrected mean, in posterior sds
    shift_mcse: np.ndarray
    sd_ratio: np.ndarray  # corrected over uncorrected sd


class Heterogeneity(NamedTuple):
    """Chi-squared distance of a shard from the posterior of all others, on the coefficients common to all.

    ``influence`` is the mean with the shard minus the mean without it at ``influence_where``, the root coefficient that it
    pulls furthest, in sds of the posterior with it, scales held fixed; ``influence_sd`` is how much a healthy shard of its
    size would pull there by chance.
    """

    statistic: float
    df: int
    p_value: float
    influence: float
    influence_sd: float
    influence_where: int

    @property
    def excess(self) -> float:
        """How far out, on a scale that goes on where p-values underflow: Wilson & Hilferty's (1931) normal deviate."""
        if not self.df:
            return np.inf if self.statistic else -np.inf
        return float(np.cbrt(self.statistic / self.df) - 1 + 2 / (9 * self.df)) / np.sqrt(2 / (9 * self.df))


class Score(NamedTuple):
    """Errors of the means in posterior sds: all shards together (D,), and each shard's own worst with its place.

    ``shard_share`` is each shard's part of the largest error of all, summing to about one; ``num_refreshes`` how many
    passes over the data beyond the first the size took.
    """

    total: np.ndarray
    shard_worst: np.ndarray
    shard_where: np.ndarray
    shard_share: np.ndarray
    refreshed: Moments
    num_refreshes: int


def shard(
    tree: Tree, design: CellDesign, family: Family, site: Site, theta: np.ndarray, residual_sd: np.ndarray | float,
    moments: Moments, *, num_nodes: int,
) -> ShardAudit:  # fmt: skip
    """One shard's part of the audit, for draws of its coefficients of shape (D_s, M) and q's moments on its part of the tree."""
    ratio = np.empty(theta.shape[1])
    residual = np.broadcast_to(residual_sd, (theta.shape[1],))
    matrices = sites.matrices(design, len(theta))
    density = sites.near(tree, site, moments.mean)
    for begin in range(0, theta.shape[1], DRAW_CHUNK):
        part = slice(begin, begin + DRAW_CHUNK)
        eta = sites.linear_predictors(matrices, theta[:, part])
        ratio[part] = log_likelihood(family, design.statistics, eta, residual[part]).sum(axis=0)
        ratio[part] -= sites.log_density(tree, density, theta[:, part], residual[part])
    fresh = sites.fit(tree, design, family, moments.mean, moments.covariance, num_nodes=num_nodes)
    present = [np.ones(design.num_cells) if v is None else (v != 0).astype(np.float64) for v in design.values]
    presence = design._replace(values=tuple(present))
    everyone = np.ones((design.num_predictors, 1))
    trials = sites.transpose_multiply(tree, presence, everyone * design.statistics["num_trials"])
    scores = _root_scores(tree, design, family, fresh, moments, float(residual.mean()) if len(residual) else 1.0)
    if "num_successes" not in design.statistics:
        return ShardAudit(ratio, fresh, trials, None, scores)
    successes = sites.transpose_multiply(tree, presence, design.statistics["num_successes"][None])
    return ShardAudit(ratio, fresh, trials, successes, scores)


def _root_scores(
    tree: Tree, design: CellDesign, family: Family, site: Site, moments: Moments, residual_sd: float
) -> np.ndarray | None:
    if family.name == "binomial":
        squares = sandwich.score_variance(tree, design, family, moments.mean)
    elif family.has_residual_scale:
        square = gaussian.squares(design.statistics, sites.predictor_mean(design, moments.mean)[0])
        squares = sites.information(tree, design, square[None, None] / residual_sd**2)
    else:
        return None
    size = tree.block_sizes[0]
    return np.stack([part[: size * size].reshape(size, size) for part in (squares, site.precision)])


def spread_of(log_ratio: np.ndarray) -> float:
    """Standard deviation of log ratios, shape (M,); infinite where one of them is no finite number."""
    return float(log_ratio.std()) if np.isfinite(log_ratio).all() else np.inf


def is_hopeless(log_ratio: np.ndarray, spread: float) -> bool:
    """One draw would have all the weight, or the ratios are so large that rounding makes them equal."""
    return not spread < HOPELESS or len(np.unique(log_ratio)) < len(log_ratio) / 2


def importance(log_ratio: np.ndarray, theta: DrawsMatrix) -> Importance:
    """Judge and correct draws, (M, D), by their log weights, (M,).

    ``theta`` is taken a few columns at a time.
    """
    from arviz_stats.base import array_stats  # slow to import

    spread = spread_of(log_ratio)
    if spread < EXACT:  # exact: nothing to smooth
        zero = np.zeros(theta.shape[1])
        return Importance(spread, 1.0, -np.inf, zero, zero, np.ones(theta.shape[1]))
    if is_hopeless(log_ratio, spread):  # there is nothing to correct with
        unknown = np.full(theta.shape[1], np.nan)
        return Importance(spread, 1.0 / theta.shape[0], np.inf, unknown, unknown, unknown)
    log_weights, k_hat = array_stats.psislw(log_ratio.max() - log_ratio)  # it takes the negative, as for leave-one-out
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    blocks = [slice(i, i + COEFFICIENTS_AT_ONCE) for i in range(0, theta.shape[1], COEFFICIENTS_AT_ONCE)]
    shift, mcse, corrected = map(
        np.concatenate, zip(*(_corrected(weights, theta[:, block]) for block in blocks), strict=True)
    )
    return Importance(spread, float(1.0 / (len(weights) * np.sum(weights**2))), float(k_hat), shift, mcse, corrected)


def _corrected(weights: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift of the mean, its Monte Carlo error, and the corrected sd, all in sds of the draws (M, n): shapes (n,)."""
    mean, sd = theta.mean(axis=0), np.maximum(theta.std(axis=0), 1e-300)
    z = (theta - mean) / sd
    shift = weights @ z
    relative = len(weights) * weights - 1.0
    mcse = np.sqrt(np.einsum("m,md->d", relative**2, np.square(z - shift))) / len(weights)
    return shift, mcse, np.sqrt(np.maximum(weights @ z**2 - shift**2, 0.0))


def k_hat(log_ratio: np.ndarray) -> float:
    """Pareto k of one shard's log ratios, shape (M,); minus infinity where the site is exact."""
    from arviz_stats.base import array_stats  # slow to import

    spread = spread_of(log_ratio)
    if spread < EXACT:
        return -np.inf
    if is_hopeless(log_ratio, spread):
        return np.inf
    return float(array_stats.psislw(log_ratio.max() - log_ratio)[1])


def score(
    hierarchy: Hierarchy, restrictions: Sequence[Restriction], used: Sequence[Site], fresh: Sequence[Site],
    moments: Moments, proposal: Proposal, threads: int = 1, refresh: Refresh | None = None,
) -> Score:  # fmt: skip
    """How far every mean is off, in sds: all sites made afresh and merged again, and each shard's own part of the move.

    With new sites the mean moves by ``V* sum_s (shift*_s - shift_s - (precision*_s - precision_s) m)``, given the scales, so
    a shard's own part is its term of that sum, however many rounds the new sites took.

    Parameters
    ----------
    fresh
        Sites made under ``moments``.
    refresh
        If given, further rounds are made of it, each at most ``LARGEST_STEP`` away, while the last one moved a mean by more
        than ``FAR``; otherwise the score is that of one round, a Newton step.
    """
    tree = hierarchy.model.tree
    at, count = moments, 0
    # the same points of psi as under ``moments``: what differs is the sites, not the error of integrating over few points
    natural, current = combiner.product(tree, list(zip(restrictions, fresh, strict=True))), proposal
    before = combiner.product(tree, list(zip(restrictions, used, strict=True)))
    refreshed = combiner.moments(hierarchy, natural, proposal, threads=threads, points_of=before)
    if _largest_move(tree, refreshed, moments) > FAR:
        natural, current, refreshed = rounds.merge(hierarchy, restrictions, fresh, proposal.mode, threads)
    while refresh is not None and count < MAX_REFRESHES:
        if not _largest_move(tree, refreshed, at) > FAR:
            break
        step = refreshed.mean - at.mean
        stride = 1.0 if hierarchy.family.has_residual_scale else min(1.0, LARGEST_STEP / float(np.max(np.abs(step))))
        at, count = Moments(at.mean + stride * step, refreshed.covariance), count + 1
        renewed = refresh(at)
        try:
            natural, current, refreshed = rounds.merge(hierarchy, restrictions, renewed, current.mode, threads)
        except ImproperPosteriorError:  # the score is that of the rounds so far, which moved a mean by more than FAR
            break
        fresh = renewed
    psi = current.mode
    sd = np.sqrt(refreshed.covariance[tree.diagonal])
    total = (refreshed.mean - moments.mean) / sd
    total[hierarchy.model.is_padding] = 0.0
    largest = int(np.argmax(np.abs(total)))
    factor = scale_marginal.condition(hierarchy, natural, psi).factor
    scale = float(hierarchy.residual_sd(psi)) ** -2.0
    worst, where, part = np.zeros(len(used)), np.zeros(len(used), dtype=np.int64), np.zeros(len(used))
    for s, (restriction, old, now) in enumerate(zip(restrictions, used, fresh, strict=True)):
        mean = moments.mean[restriction.coefficients][:, None]
        if len(now.reference):
            old, now = (sites.about(restriction.tree, one, mean[:, 0]) for one in (old, now))
            mean = np.zeros_like(mean)
        change = now.shift - old.shift - tr.multiply(restriction.tree, now.precision - old.precision, mean)[:, 0]
        gradient = np.zeros(tree.num_coefficients)
        gradient[restriction.coefficients] = change * scale
        own = tr.solve(tree, factor, gradient) / sd
        where[s] = np.argmax(np.abs(own))
        worst[s], part[s] = own[where[s]], own[largest]
    return Score(total, worst, where, part / (part.sum() or 1.0), refreshed, count)


def _largest_move(tree: Tree, moments: Moments, before: Moments) -> float:
    return float(np.max(np.abs(moments.mean - before.mean) / np.sqrt(moments.covariance[tree.diagonal])))


def heterogeneity(
    hierarchy: Hierarchy, natural: Natural, restrictions: Sequence[Restriction], used: Sequence[Site],
    moments: Moments, psi: np.ndarray, root_scores: Sequence[np.ndarray | None] = (),
) -> list[Heterogeneity]:  # fmt: skip
    """Distance of each shard's message to the root from the posterior that all the other shards give the root.

    People may vary more than the model says: under survey weights, or where the model is wrong, a random shard's score does. With
    ``root_scores`` of all shards the variance of a score is that of people's scores in the other shards (sandwich).

    A shard with much data that tells another story makes every other shard look odd beside it. So while one stands out, the
    one furthest out is set aside, with its distance as it was, and the others are compared among themselves.
    """
    found: list[Heterogeneity | None] = [None] * len(used)
    precision, shift = natural.precision, natural.shift
    if len(natural.reference):
        used = [
            sites.about(r.tree, site, natural.reference[r.coefficients])
            for r, site in zip(restrictions, used, strict=True)
        ]
    sd = np.sqrt(moments.covariance[hierarchy.model.tree.diagonal])[: hierarchy.model.tree.block_sizes[0]]
    left = list(range(len(used)))
    if len(left) == 1:
        return [Heterogeneity(0.0, 0, 1.0, 0.0, 0.0, 0)]  # there is no other to compare with
    known = [part for part in root_scores if part is not None]
    scores = np.array(known) if len(known) == len(used) else None
    while True:
        parts = [(restrictions[s], used[s]) for s in left]
        some = None if scores is None else scores[left]
        compared = dict(zip(left, _against_the_rest(hierarchy, precision, shift, parts, psi, sd, natural.reference, some), strict=True))
        adjusted = np.minimum(np.array([compared[s].p_value for s in left]) * len(left), 1.0)
        outside = int(np.argmax([compared[s].excess for s in left]))
        aside = len(used) - len(left)
        if len(left) < 3 or aside == MAX_SET_ASIDE or not adjusted[outside] < HETEROGENEITY_LEVEL:
            break
        s = left.pop(outside)
        found[s] = compared[s]
        precision, shift = precision.copy(), shift.copy()
        precision[restrictions[s].entries] -= used[s].precision
        shift[restrictions[s].coefficients] -= used[s].shift
    return [done or compared[s] for s, done in enumerate(found)]


def _against_the_rest(
    hierarchy: Hierarchy, precision: np.ndarray, shift: np.ndarray, parts: Sequence[tuple[Restriction, Site]],
    psi: np.ndarray, sd: np.ndarray, reference: np.ndarray, scores: np.ndarray | None = None,
) -> list[Heterogeneity]:  # fmt: skip
    """Each of some shards against the others of them, whose sites multiply to ``precision`` and ``shift``.

    The message integrates the shard's nested effects out under their prior, so a state may have its own level; it is
    the effects common to all shards on which it must agree. With u the score of the message at the others' mean, its
    variance is ``A + A V A`` for information A and the others' covariance V; directions without information are left out.
    """
    scale = float(hierarchy.residual_sd(psi)) ** -2.0
    roots = Roots(hierarchy, precision * scale, shift * scale, psi, reference)
    nothing, whole = roots.prior, roots.whole
    mean, spread = whole.root @ whole.solved, np.square(whole.root).sum(axis=1)
    found = []
    for s, (restriction, site) in enumerate(parts):
        own = restriction, site.precision * scale, site.shift * scale
        try:
            rest, alone = roots.without(*own), roots.alone(*own)
        except np.linalg.LinAlgError:  # no likelihood at all, or not log-concave by itself: nothing to compare
            unknown = hierarchy.family.is_log_concave
            found.append(Heterogeneity(np.inf if unknown else 0.0, 0, 0.0 if unknown else 1.0, np.nan, np.nan, 0))
            continue
        information = alone.precision - nothing.precision
        others = rest.root @ rest.solved
        pull = (mean - others) / sd
        where = int(np.argmax(np.abs(pull)))
        chance = np.sqrt(max(float(np.sum(rest.root[where] ** 2)) - spread[where], 0.0)) / sd[where]
        values, vectors = np.linalg.eigh(rest.root.T @ information @ rest.root)
        kept = values > INFORMATIVE
        z = (vectors.T @ (rest.root.T @ (alone.shift - nothing.shift - information @ others)))[kept]
        z /= np.sqrt(values[kept] + values[kept] ** 2)
        if scores is not None:
            of_others, axes = scores.sum(axis=0) - scores[s], rest.root @ vectors[:, kept]
            variance, expected = np.einsum("gk,agh,hk->ak", axes, of_others, axes)
            z /= np.sqrt(np.maximum(variance / np.maximum(expected, 1e-300), 1.0))
        if not hierarchy.family.has_residual_scale:
            present = np.diagonal(information) > 0
            reach = np.square((rest.root @ vectors[:, kept])[present]).max(axis=0, initial=0.0)
            z = unskewed(z, values[kept] / np.maximum(reach, 1e-300))
        statistic, df = float(np.sum(z**2)), int(kept.sum())
        p_value = float(chdtrc(df, statistic)) if df else 1.0
        found.append(Heterogeneity(statistic, df, p_value, float(pull[where]), float(chance), where))
    return found


def unskewed(z: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Absolute standardised scores of rare events, brought back to a normal's tail.

    A sum that amounts to ``count`` events has skewness up to ``count ** -0.5``, so its large values are commoner than a
    normal's: two events where 1/8 is expected are 5.3 sds, and happen once in 140 times. Solves
    ``w + w**2 / (6 sqrt(count)) = |z|``, the leading Cornish-Fisher term (Cornish & Fisher 1938), made monotone; w is never
    larger than |z|, and equal to it as events abound.
    """
    c = 1.0 / (6.0 * np.sqrt(count))
    return 2.0 * np.abs(z) / (1.0 + np.sqrt(1.0 + 4.0 * c * np.abs(z)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values (1979), which keep the chance of any false alarm below the level."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    out = np.empty(len(p))
    out[order] = np.minimum(adjusted, 1.0)
    return out
