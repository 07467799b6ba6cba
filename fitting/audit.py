r"""The audit: what the merged posterior gets wrong, by shard and by coefficient, measured on all of the data.

For draws from the merged posterior the only approximation is a shard's site standing for its likelihood, so the log
importance weight is the sum over shards of :math:`\log L_s(\theta) - \log t_s(\theta)`: one pass over the shards.

* the sd of the log ratio, per shard and in total: half its square estimates the Kullback-Leibler divergence in nats;
* Pareto k and efficiency of the weights (Vehtari et al. 2024, JMLR 25), and the means and sds they correct to;
* the score: each shard's site is made afresh under the merged posterior, and ``V g_s``, with
  :math:`g_s = E_q\nabla\log L_s - E_q\nabla\log t_s`, is how far that shard alone moves each mean. All of them together,
  hyperparameters included, are one more round: the error of every coefficient in posterior sds;
* heterogeneity: is a shard telling another story than the rest (Cochran's Q for each shard against the others)?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc

from fitting import combiner, rounds, sites
from fitting import tree as tr
from fitting.combiner import Moments, Natural, Proposal
from fitting.families import Family, log_likelihood
from fitting.hierarchy import Hierarchy
from fitting.model import CellDesign
from fitting.sites import Site
from fitting.tree import Restriction, Tree

DRAW_CHUNK = 100
EXACT = 1e-9
HOPELESS = 100.0  # an sd of log weights at which importance sampling means nothing
INFORMATIVE = 1e-3  # a direction in which a shard knows less than this share of what the others know says nothing


class ShardAudit(NamedTuple):
    """What one shard reports: log ratio at every draw (M,), its site made afresh, and outcome totals per coefficient (D_s,)."""

    log_ratio: np.ndarray
    fresh: Site
    trials: np.ndarray
    successes: np.ndarray


class Importance(NamedTuple):
    """Importance weights of the draws and what they correct: all per coefficient of shape (D,)."""

    log_ratio_sd: float
    efficiency: float
    k_hat: float
    shift: np.ndarray  # corrected minus uncorrected mean, in posterior sds
    shift_mcse: np.ndarray
    sd_ratio: np.ndarray  # corrected over uncorrected sd


class Heterogeneity(NamedTuple):
    """Chi-squared distance of a shard from the posterior of all others, on the coefficients common to all."""

    statistic: float
    df: int
    p_value: float


class Score(NamedTuple):
    """Errors of the means in posterior sds: all shards together (D,), and each shard's own worst with its place."""

    total: np.ndarray
    shard_worst: np.ndarray
    shard_where: np.ndarray
    refreshed: Moments


def shard(
    tree: Tree, design: CellDesign, family: Family, site: Site, theta: np.ndarray, residual_sd: np.ndarray | float,
    moments: Moments, *, num_nodes: int,
) -> ShardAudit:  # fmt: skip
    """One shard's part of the audit, for draws of its coefficients of shape (D_s, M) and q's moments on its part of the tree."""
    ratio = np.empty(theta.shape[1])
    residual = np.broadcast_to(residual_sd, (theta.shape[1],))
    linear = sites.matrix(design, len(theta))
    for begin in range(0, theta.shape[1], DRAW_CHUNK):
        part = slice(begin, begin + DRAW_CHUNK)
        eta = linear @ theta[:, part]
        ratio[part] = log_likelihood(family, design.statistics, eta, residual[part]).sum(axis=0)
        ratio[part] -= sites.log_density(tree, site, theta[:, part], residual[part])
    fresh = sites.fit(tree, design, family, moments.mean, moments.covariance, num_nodes=num_nodes)
    present = [np.ones(design.num_cells) if v is None else (v != 0).astype(np.float64) for v in design.values]
    presence = design._replace(values=tuple(present))
    trials = sites.transpose_multiply(tree, presence, design.statistics["num_trials"])
    if family.has_residual_scale:
        return ShardAudit(ratio, fresh, trials, trials)
    return ShardAudit(
        ratio, fresh, trials, sites.transpose_multiply(tree, presence, design.statistics["num_successes"])
    )


def importance(log_ratio: np.ndarray, theta: np.ndarray) -> Importance:
    """Judge and correct draws, (M, D), by their log weights, (M,)."""
    from arviz_stats.base import array_stats  # slow to import

    spread = float(log_ratio.std())
    if spread < EXACT:  # exact: nothing to smooth
        zero = np.zeros(theta.shape[1])
        return Importance(spread, 1.0, -np.inf, zero, zero, np.ones(theta.shape[1]))
    if not spread < HOPELESS:  # one draw has all the weight: there is nothing to correct with
        unknown = np.full(theta.shape[1], np.nan)
        return Importance(spread, 1.0 / len(theta), np.inf, unknown, unknown, unknown)
    log_weights, k_hat = array_stats.psislw(log_ratio - log_ratio.max())
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean, sd = theta.mean(axis=0), np.maximum(theta.std(axis=0), 1e-300)
    z = (theta - mean) / sd
    shift = weights @ z
    relative = len(weights) * weights - 1.0
    mcse = np.sqrt(np.einsum("m,md->d", relative**2, np.square(z - shift))) / len(weights)
    corrected = np.sqrt(np.maximum(weights @ z**2 - shift**2, 0.0))
    return Importance(spread, float(1.0 / (len(weights) * np.sum(weights**2))), float(k_hat), shift, mcse, corrected)


def k_hat(log_ratio: np.ndarray) -> float:
    """Pareto k of one shard's log ratios, shape (M,); minus infinity where the site is exact."""
    from arviz_stats.base import array_stats  # slow to import

    spread = float(log_ratio.std())
    if spread < EXACT:
        return -np.inf
    return float(array_stats.psislw(log_ratio - log_ratio.max())[1]) if spread < HOPELESS else np.inf


def score(
    hierarchy: Hierarchy, restrictions: Sequence[Restriction], used: Sequence[Site], fresh: Sequence[Site],
    moments: Moments, proposal: Proposal, threads: int = 1,
) -> Score:  # fmt: skip
    """How far every mean is off, in sds: all sites made afresh and merged again, and each shard's own part of the move."""
    tree, psi = hierarchy.model.tree, proposal.mode
    natural, _, refreshed = rounds.merge(hierarchy, restrictions, fresh, psi, threads)
    sd = np.sqrt(refreshed.covariance[tree.diagonal])
    total = (refreshed.mean - moments.mean) / sd
    total[hierarchy.model.is_padding] = 0.0
    factor = combiner.condition(hierarchy, natural, psi).factor
    scale = float(hierarchy.residual_sd(psi)) ** -2.0
    worst, where = np.zeros(len(used)), np.zeros(len(used), dtype=np.int64)
    for s, (restriction, old, new) in enumerate(zip(restrictions, used, fresh, strict=True)):
        mean = moments.mean[restriction.coefficients][:, None]
        change = new.shift - old.shift - tr.multiply(restriction.tree, new.precision - old.precision, mean)[:, 0]
        gradient = np.zeros(tree.num_coefficients)
        gradient[restriction.coefficients] = change * scale
        move = tr.solve(tree, factor, gradient) / sd
        where[s] = np.argmax(np.abs(move))
        worst[s] = move[where[s]]
    return Score(total, worst, where, refreshed)


def heterogeneity(
    hierarchy: Hierarchy, natural: Natural, restrictions: Sequence[Restriction], used: Sequence[Site], psi: np.ndarray
) -> list[Heterogeneity]:
    """Distance of each shard's message to the root from the posterior that all the other shards give the root.

    The message integrates the shard's nested effects out under their prior, so a state may have its own level; it is
    the effects common to all shards on which it must agree. With u the score of the message at the others' mean, its
    variance is ``A + A V A`` for information A and the others' covariance V; directions without information are left out.
    """
    scale = float(hierarchy.residual_sd(psi)) ** -2.0
    nothing = _root_marginal(hierarchy, np.zeros_like(natural.precision), np.zeros_like(natural.shift), psi)
    found = []
    for restriction, site in zip(restrictions, used, strict=True):
        precision, shift = np.zeros_like(natural.precision), np.zeros_like(natural.shift)
        precision[restriction.entries] = site.precision * scale
        shift[restriction.coefficients] = site.shift * scale
        try:
            rest = _root_marginal(hierarchy, natural.precision * scale - precision, natural.shift * scale - shift, psi)
            alone = _root_marginal(hierarchy, precision, shift, psi)
        except np.linalg.LinAlgError:  # a site that is no likelihood at all: nothing to compare, and the score says so
            found.append(Heterogeneity(np.inf, 0, 0.0))
            continue
        information = alone[0] - nothing[0]
        covariance = np.linalg.inv(rest[0])
        lower = np.linalg.cholesky(covariance)
        values, vectors = np.linalg.eigh(lower.T @ information @ lower)
        u = vectors.T @ (lower.T @ (alone[1] - nothing[1] - information @ (covariance @ rest[1])))
        kept = values > INFORMATIVE
        statistic, df = float(np.sum(u[kept] ** 2 / (values[kept] + values[kept] ** 2))), int(kept.sum())
        found.append(Heterogeneity(statistic, df, float(chdtrc(df, statistic)) if df else 1.0))
    return found


def _root_marginal(
    hierarchy: Hierarchy, precision: np.ndarray, shift: np.ndarray, psi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (G, G) and shift (G,) of the root, prior included, after everything below is integrated out."""
    tree = hierarchy.model.tree
    precision, shift, _ = hierarchy.add_prior(psi, precision, shift)
    factor = tr.cholesky(tree, precision)
    solved = tr.forward(tree, factor, shift[:, None])[: tree.block_sizes[0], 0]
    lower = np.linalg.inv(factor.inverse_lower[0][0])
    return lower @ lower.T, lower @ solved


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values (1979), which keep the chance of any false alarm below the level."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    out = np.empty(len(p))
    out[order] = np.minimum(adjusted, 1.0)
    return out
