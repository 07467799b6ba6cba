"""A proposal for the hyperparameters that has learned the shape of their marginal: what draws of them are resampled from.

A split Student t around the mode (`fitting.scale_proposal`) has two faults. A scale that the data hardly tell from zero has an
exponential tail on the log line, which a t with its own width does not; and scales that explain the same variation (age, race, and
age by race) are not independent in any axes. Those of the Hessian are wrong ones, too: it is each log scale by itself that has the long
tail, and a tail that is oblique to the axes is missed. So the axes are the hyperparameters themselves, in posterior sds, and

* along each axis (the others where a Gaussian has them) the log density is looked up at a few points and interpolated, with
  exponential tails beyond the last ones;
* at pilot points from the product of these profiles, flattened, the log ratio of target and product is smoothed by Gaussian-process
  regression with functions of one axis and of every pair of axes (its *tilt*);
* candidates come from the profiles with the tilt averaged over the other axes, and are thinned by what is left of it. A share of the
  t, as wide as these profiles, stays in the mixture.

Everything is in tables along the axes, so that a candidate costs no factorisation. Where draws show that a place was missed, the tilt
is learned anew with the densities that they were weighted by. Proposals are independent and their density is
known; each is weighted by the exact density over its own: a poor fit costs effective draws, never correctness. Pilots are Sobol
points, so the first proposal does not depend on a seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, ndtri

from fitting import scale_marginal, scale_proposal
from fitting.hierarchy import Hierarchy
from fitting.in_order import in_order
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal

PILOTS = 3, 64, 512  # times the square of the number of hyperparameters, at least, at most
KNOTS = np.array([-9.0, -6.0, -4.0, -2.5, -1.5, -0.7, 0.0, 0.7, 1.5, 2.5, 4.0, 6.0])  # in sds of an axis
ENDS = np.linspace(-14.0, 14.0, 2801)  # of the cells of a table
STEP = float(ENDS[1] - ENDS[0])
MIDDLES = 0.5 * (ENDS[1:] + ENDS[:-1])
FAR = 3.0  # how far the others follow an axis: where its scale is next to zero, theirs do not change any more
MIN_SLOPE = 0.3  # of a log tail, per sd of the axis
DEEPEST = -60.0
FLATTER = 0.6  # power of the profiles that pilots are drawn from
AMPLITUDE, LENGTH, NOISE, TAIL_NOISE = 1.0, 2.5, 0.05, 0.02  # of the log ratio, in quantiles of a normal
CENTRES = np.linspace(-3.5, 3.5, 6)
EDGES = np.linspace(-3.0, 3.0, 11)  # of the cells that the tilt is averaged in, in quantiles of a normal
LOWEST, FLOOR = -1.5, -10.0  # of what is left of the tilt, and of the log ratio at a pilot
CANDIDATES, POOL = 4096, 16384
MIN_RATE = 0.01
MOST_KNOWN = 1500  # log ratios that one regression takes
SHARE_OF_T = 0.1  # of all proposals: where the tilt is wrong the t bounds the weights


class Learned(NamedTuple):
    """Tables along the axes by cell: log densities of profiles and marginals, (H, cells), and features f, (H, cells, m).

    The tilt is ``constant + line f + f' pairs f``; what the marginals do not have of it is cut at ``top``. It was learned from the
    log ratios of target and product of profiles, ``ratio`` (N,), at positions ``known`` (N, H).
    """

    proposal: Proposal  # axes are those of psi
    profiles: np.ndarray
    marginals: np.ndarray
    features: np.ndarray
    constant: float
    line: np.ndarray
    pairs: np.ndarray
    top: float
    log_weight_of_t: float
    known: np.ndarray
    ratio: np.ndarray


def learn(hierarchy: Hierarchy, sites: Natural, proposal: Proposal, threads: int = 1) -> Learned:
    """Look the marginal up along the axes and at the pilots."""
    from scipy.stats import qmc  # slow to import

    def log_densities(points: np.ndarray) -> np.ndarray:
        return np.array(list(in_order(lambda p: scale_marginal.log_density(hierarchy, sites, p), points, threads)))

    size, covariance = hierarchy.size, proposal.axes @ proposal.axes.T
    sd = np.sqrt(np.diagonal(covariance))
    proposal = proposal._replace(axes=np.diag(sd), widths=np.ones((2, size)))
    others = np.clip(KNOTS, -FAR, FAR)[:, None] * (covariance / sd[:, None] - np.diag(sd))[:, None]  # (H, knots, H)
    along = log_densities(np.concatenate(proposal.mode + KNOTS[:, None] * np.diag(sd)[:, None] + others))
    profiles = np.array([_profile(row) for row in along.reshape(size, -1)])
    features = np.array([_features(profile) for profile in profiles])
    nothing = np.zeros(size * len(CENTRES))
    learned = Learned(
        proposal, profiles, profiles, features, 0.0, nothing, np.diag(nothing), 0.0, 0.0, np.empty((0, size)), np.empty(0)
    )
    sobol = qmc.Sobol(size, scramble=True, rng=np.random.default_rng(0))
    z = _positions(_flatter(profiles), sobol.random(CANDIDATES)[: num_pilots(size)])
    points = proposal.mode + z @ proposal.axes.T
    learned = learn_more(learned, points, log_densities(points))
    points = sample(learned, np.random.default_rng(1), num_pilots(size))[0]
    return learn_more(learned, points, log_densities(points))


def learn_more(learned: Learned, points: np.ndarray, log_density: np.ndarray) -> Learned:
    """Learn from more log densities, (N,), of points, (N, H): of many, from those where the proposal is furthest from them."""
    from scipy.stats import qmc  # slow to import

    z = _standardised(learned, points)
    ratio = log_density - _look_up(learned.profiles, _cells(z))
    possible = np.isfinite(ratio)
    z, ratio = z[possible], ratio[possible]
    room = max(MOST_KNOWN - len(learned.known), 0)
    if len(z) > room:
        error = ratio - _tilt(learned, _cells(z))
        furthest = np.sort(np.argsort(-np.abs(error - np.median(error)), kind="stable")[:room])
        z, ratio = z[furthest], ratio[furthest]
    learned = learned._replace(known=np.concatenate([learned.known, z]), ratio=np.concatenate([learned.ratio, ratio]))
    pool = qmc.Sobol(z.shape[1], scramble=True, rng=np.random.default_rng(2)).random(POOL)
    if len(learned.ratio) > 4 * z.shape[1]:
        flatter = _flatter(learned.profiles)
        y = np.maximum(learned.ratio - np.median(learned.ratio), FLOOR)
        learned = _regress(learned, _of_cells(learned.features, _cells(learned.known)), y)
        learned = _average(learned, flatter, _cells(_positions(flatter, pool)))
    ends = np.abs(_positions(learned.marginals, np.repeat([[0.975], [0.025]], z.shape[1], axis=1)))
    learned = learned._replace(proposal=learned.proposal._replace(widths=np.clip(ends / 2.0, 1.0, 5.0)))
    rest = _rest(learned, _cells(_positions(learned.marginals, pool)))
    for share in (1.0, 0.9995, 0.995, 0.98, 0.9):  # what lies above is cut
        top = float(np.quantile(rest, share))
        rate = float(np.exp(np.minimum(rest, top) - top).mean())
        if rate >= MIN_RATE:
            break
    return learned._replace(top=top, log_weight_of_t=float(np.log(SHARE_OF_T / (1.0 - SHARE_OF_T) * rate)) + top)


def _flatter(profiles: np.ndarray) -> np.ndarray:
    return np.array([_normalised(FLATTER * profile) for profile in profiles])


def num_pilots(size: int) -> int:
    """Pilot points that a proposal for so many hyperparameters learns from; it learns twice, from the product and from itself."""
    factor, least, most = PILOTS
    return min(max(factor * size**2, least), most)


def sample(learned: Learned, rng: np.random.Generator, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent points, (total, H), and their log densities up to one constant, (total,).

    Candidates come from the marginals and from the t, and are thinned to the density
    ``marginals * exp(min(rest of the tilt, top)) + weight_of_t * t``.
    """
    proposal, size = learned.proposal, len(learned.profiles)
    points, log_q, found = [], [], 0
    share = expit(learned.log_weight_of_t - learned.top)  # of candidates from the t: then both parts have the same bound
    while found < total:
        z = _positions(learned.marginals, rng.random((CANDIDATES, size)))
        is_t = rng.random(CANDIDATES) < share
        z[is_t] = scale_proposal.positions(proposal, rng.random((int(is_t.sum()), size)))
        density, drawn_from = _densities(learned, z)
        kept = np.log(rng.random(CANDIDATES)) < density - drawn_from
        points.append(proposal.mode + z[kept] @ proposal.axes.T)
        log_q.append(density[kept])
        found += int(kept.sum())
    return np.concatenate(points)[:total], np.concatenate(log_q)[:total]


def log_density(learned: Learned, points: np.ndarray) -> np.ndarray:
    """What :func:`sample` states of points (N, H), up to the same constant, (N,)."""
    return _densities(learned, _standardised(learned, points))[0]


def _densities(learned: Learned, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log densities of what is kept and of the candidates at positions (N, H), with respect to these: shapes (N,)."""
    cells = _cells(z)
    log_marginals, log_t = _look_up(learned.marginals, cells), scale_proposal.log_density(learned.proposal, z)
    tilted = log_marginals + np.minimum(_rest(learned, cells), learned.top)
    from_t = learned.log_weight_of_t + log_t
    return np.logaddexp(tilted, from_t), np.logaddexp(learned.top + log_marginals, from_t)


def _standardised(learned: Learned, points: np.ndarray) -> np.ndarray:
    return np.asarray((points - learned.proposal.mode) / np.diagonal(learned.proposal.axes))


# ---- tables along one axis ----


def _profile(values: np.ndarray) -> np.ndarray:
    """Log density by cell from that at the knots, (12,): monotone cubics between them, straight lines beyond."""
    from scipy.interpolate import PchipInterpolator  # slow to import

    values = values - values.max()
    known = np.isfinite(values) & (values > DEEPEST)
    if known.sum() < 3:
        return _normalised(-0.5 * MIDDLES**2)
    x, y = KNOTS[known], values[known]
    left = max((y[1] - y[0]) / (x[1] - x[0]), MIN_SLOPE)
    right = min((y[-1] - y[-2]) / (x[-1] - x[-2]), -MIN_SLOPE)
    inside = PchipInterpolator(x, y)(np.clip(MIDDLES, x[0], x[-1]))
    return _normalised(inside + left * np.minimum(MIDDLES - x[0], 0.0) + right * np.maximum(MIDDLES - x[-1], 0.0))


def _normalised(log_density: np.ndarray) -> np.ndarray:
    top = log_density.max()
    return np.asarray(log_density - top - np.log(np.exp(log_density - top).sum() * STEP))


def _scores(profile: np.ndarray) -> np.ndarray:
    """Quantiles of a normal that a profile has below the middle of each cell."""
    mass = np.exp(profile) * STEP
    return np.asarray(ndtri(np.clip(np.cumsum(mass) - 0.5 * mass, 1e-9, 1 - 1e-9)))


def _features(profile: np.ndarray) -> np.ndarray:
    """Smooth functions along the axis by cell, whose products are a Gaussian kernel in the scores, (cells, m).

    They are the same beyond the outermost centres, because the likelihood of a scale near zero is flat.
    """
    whiten = np.linalg.inv(np.linalg.cholesky(_radial(CENTRES) + 1e-6 * np.eye(len(CENTRES)))).T
    return np.asarray(_radial(np.clip(_scores(profile), CENTRES[0], CENTRES[-1])) @ whiten)


def _radial(scores: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-0.5 * np.square((scores[:, None] - CENTRES) / LENGTH)))


# ---- looking up ----


def _positions(tables: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Positions along the axes, (M, H), from uniforms: log densities are constant in a cell."""
    z = np.empty_like(uniforms)
    for h, table in enumerate(tables):
        below = np.concatenate([[0.0], np.cumsum(np.exp(table))])
        below /= below[-1]
        cell = np.clip(np.searchsorted(below, uniforms[:, h], side="right") - 1, 0, len(table) - 1)
        z[:, h] = ENDS[cell] + STEP * np.clip((uniforms[:, h] - below[cell]) / (below[cell + 1] - below[cell]), 0.0, 1.0)
    return z


def _cells(z: np.ndarray) -> np.ndarray:
    return np.clip(((z - ENDS[0]) / STEP).astype(np.int64), 0, len(MIDDLES) - 1)


def _look_up(tables: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Log density of the product of tables in cells (M, H), shape (M,)."""
    return np.asarray(tables[np.arange(len(tables)), cells].sum(axis=1))


def _of_cells(features: np.ndarray, cells: np.ndarray) -> np.ndarray:
    return np.asarray(features[np.arange(len(features)), cells].reshape(len(cells), -1))


def _tilt(learned: Learned, cells: np.ndarray) -> np.ndarray:
    """Log ratio of target and product of profiles, up to a constant, (M,)."""
    found = _of_cells(learned.features, cells)
    return np.asarray(learned.constant + found @ learned.line + np.sum(found @ learned.pairs * found, axis=1))


def _rest(learned: Learned, cells: np.ndarray) -> np.ndarray:
    """Log ratio of target and product of marginals, (M,)."""
    rest = _tilt(learned, cells) + _look_up(learned.profiles, cells) - _look_up(learned.marginals, cells)
    return np.maximum(rest, LOWEST)


# ---- learning ----


def _regress(learned: Learned, found: np.ndarray, y: np.ndarray) -> Learned:
    """The posterior mean of the tilt given values (N,) at features (N, H m): functions of one axis, and of every pair."""
    one = found @ found.T
    covariance = 1.0 + one + 0.5 * np.square(one)
    for part in np.split(found, len(learned.profiles), axis=1):
        covariance -= 0.5 * np.square(part @ part.T)
    covariance[np.diag_indices(len(y))] += (NOISE**2 + TAIL_NOISE * np.maximum(-y, 0.0)) / AMPLITUDE**2
    weights = np.linalg.solve(covariance, y)
    own = np.kron(np.eye(len(learned.profiles)), np.ones((len(CENTRES), len(CENTRES))))
    pairs = np.where(own > 0, 0.0, 0.5 * found.T @ (weights[:, None] * found))
    return learned._replace(constant=float(weights.sum()), line=found.T @ weights, pairs=pairs)


def _average(learned: Learned, flatter: np.ndarray, cells: np.ndarray) -> Learned:
    """With the marginals of the tilted profiles, from points of the flatter ones in cells (M, H)."""
    base = _look_up(learned.profiles, cells) - _look_up(flatter, cells)
    tilted = base + _tilt(learned, cells)
    middles = np.concatenate([EDGES[:1] - 0.3, 0.5 * (EDGES[1:] + EDGES[:-1]), EDGES[-1:] + 0.3])
    marginals = []
    for h, profile in enumerate(learned.profiles):
        scores = _scores(profile)
        bins = np.searchsorted(EDGES, scores[cells[:, h]])
        before, after = (
            np.maximum(np.bincount(bins, np.exp(w - w.max()), len(middles)), 1e-12) for w in (base, tilted)
        )
        change = np.clip(np.log(after / after.sum() * before.sum() / before), -6.0, 6.0)
        marginals.append(_normalised(profile + np.interp(scores, middles, change)))
    return learned._replace(marginals=np.array(marginals))
