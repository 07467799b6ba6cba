r"""Leave-one-out cross-validation by Pareto-smoothed importance sampling, by cell and by person.

The expected log predictive density of a unit i given all others is, from draws of the posterior with all of them,

.. math:: \mathrm{elpd}_i = \log \frac{\sum_m w_m\, p(y_i \mid \theta_m)}{\sum_m w_m}, \qquad
          w_m = r(\theta_m) / p(y_i \mid \theta_m),

with the weights smoothed and judged by Pareto k (Vehtari, Gelman & Gabry 2017, Statistics and Computing 27; Vehtari et al.
2024, JMLR 25) and r the ratio of the exact posterior to the one the draws come from (Magnusson et al. 2019, ICML). A unit is
a *cell*, all of its people left out together, or a *person*: people of one cell with the same outcome are exchangeable, so
one density is computed for them all and counted as often as there are people.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from fitting import audit, pointwise
from fitting.cell_design import CellDesign
from fitting.errors import ModelError
from fitting.families import Family
from fitting.psis import smooth

TAME = 0.2  # below this sd of the log weights smoothing changes nothing, and Pareto k is the noise of its own estimate
BAD_K = 0.7
MIN_DRAWS = 25
READABLE_SPREAD = 0.5


class Elpd(NamedTuple):
    """Per unit: log predictive density left out and left in, and Pareto k (NaN where the weights are tame); all (n,)."""

    elpd: np.ndarray
    lpd: np.ndarray
    k_hat: np.ndarray


class People(NamedTuple):
    """People of every cell with one outcome: their number and the density of one of them, each of shape (n,)."""

    outcome: str
    num_people: np.ndarray
    each: Elpd


class ShardLoo(NamedTuple):
    """One shard, cell by cell; ``people`` is empty for families whose cells do not tell every person's outcome."""

    cells: Elpd
    people: tuple[People, ...]


class Estimate(NamedTuple):
    """Sum over units, its standard error over units, effective number of parameters, and how far to trust it."""

    elpd: float
    se: float
    p_loo: float
    num_units: int
    num_bad: int
    k_hat: float


class Difference(NamedTuple):
    """``elpd`` of model a minus that of model b over the same units, and its standard error by paired differences."""

    elpd: float
    se: float
    num_units: int


def psis(log_likelihood: np.ndarray, log_ratio: np.ndarray | None = None) -> Elpd:
    """Leave each unit out by reweighting.

    Parameters
    ----------
    log_likelihood
        Of each unit at each draw, shape (n, M).
    log_ratio
        Log of exact over approximate posterior at the draws, shape (M,); None if the draws are exact.

    Raises
    ------
    ModelError
        There are too few draws for a tail of weights.
    """
    num_units, num_draws = log_likelihood.shape
    if num_draws < MIN_DRAWS:
        raise ModelError("leave-one-out", f"{num_draws} draws", f"{MIN_DRAWS} or more")
    base = np.zeros(num_draws) if log_ratio is None else log_ratio - logsumexp(log_ratio)
    log_weights = base - log_likelihood
    elpd = logsumexp(base) - logsumexp(log_weights, axis=1)
    lpd = logsumexp(base + log_likelihood, axis=1) - logsumexp(base)
    k_hat = np.full(num_units, np.nan)
    finite = np.isfinite(log_weights).all(axis=1)
    k_hat[~finite] = np.inf
    spread = np.zeros(num_units)
    spread[finite] = log_weights[finite].std(axis=1)
    wild = np.flatnonzero(spread >= TAME)
    smoothed, k_hat[wild] = smooth(log_weights[wild])
    elpd[wild] = logsumexp(smoothed + log_likelihood[wild], axis=1)
    return Elpd(elpd, lpd, k_hat)


def usable_ratio(log_ratio: np.ndarray) -> np.ndarray | None:
    """The log ratios, (M,), if they can correct the draws; None if they are exact already, or too far off to be corrected."""
    spread = audit.spread_of(log_ratio)
    if spread < audit.EXACT or audit.is_hopeless(log_ratio, spread):
        return None
    return log_ratio if spread < READABLE_SPREAD or audit.k_hat(log_ratio) <= BAD_K else None


def shard(
    family: Family,
    design: CellDesign,
    theta: np.ndarray,
    residual_sd: np.ndarray,
    log_ratio: np.ndarray | None = None,
) -> ShardLoo:
    """Leave out every cell of a shard, and every person, a chunk of cells at a time.

    Parameters
    ----------
    theta, residual_sd
        Draws of the shard's coefficients, shape (D_s, M), and of the residual sd, shape (M,).
    log_ratio
        As for :func:`psis`, over **all** shards.
    """
    cells, people = [], []
    for _, part in pointwise.chunks(design, theta.shape[1]):
        eta = pointwise.predictors(part, theta)
        cells.append(psis(pointwise.log_likelihood(family, part.statistics, eta, residual_sd), log_ratio))
        people.append([
            People(p.outcome, p.num_people, psis(pointwise.log_likelihood(family, p.statistics, eta, residual_sd), log_ratio))
            for p in pointwise.persons(family, part.statistics)
        ])  # fmt: skip
    joined = [
        People(same[0].outcome, np.concatenate([p.num_people for p in same]), _join([p.each for p in same]))
        for same in zip(*people, strict=True)
    ]
    return ShardLoo(_join(cells), tuple(joined))


def _join(parts: list[Elpd]) -> Elpd:
    return Elpd(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def estimate(*parts: tuple[Elpd, np.ndarray]) -> Estimate:
    """Add units up; each part is densities and how many units have each, shape (n,). Units counted 0 times do not matter.

    The standard error is that of a sum of independent units, as in the papers. The k of the worst unit is -inf if all are tame.
    """
    elpd, lpd, k_hat = (np.concatenate([getattr(e, f) for e, _ in parts]) for f in Elpd._fields)
    count = np.concatenate([c for _, c in parts])
    kept = count > 0
    elpd, lpd, k_hat, count = elpd[kept], lpd[kept], k_hat[kept], count[kept]
    worst = float(np.max(np.nan_to_num(k_hat, nan=-np.inf, posinf=np.inf), initial=-np.inf))
    total, se = _sum_and_se(elpd, count)
    p_loo = float(count @ (lpd - elpd))
    return Estimate(total, se, p_loo, int(count.sum()), int(count[k_hat > BAD_K].sum()), worst)


def compare(a: np.ndarray, b: np.ndarray, count: np.ndarray | None = None) -> Difference:
    """Which model predicts better: ``a`` minus ``b`` over the same units, each counted ``count`` times; all of shape (n,).

    Positive favours a. A difference below about 4, or of few units, says little whatever its standard error (Sivula,
    Magnusson & Vehtari 2020, arXiv 2008.10296).
    """
    count = np.ones(len(a)) if count is None else np.asarray(count, dtype=np.float64)
    kept = count > 0
    total, se = _sum_and_se(a[kept] - b[kept], count[kept])
    return Difference(total, se, int(count.sum()))


def _sum_and_se(values: np.ndarray, count: np.ndarray) -> tuple[float, float]:
    number, total = float(count.sum()), float(count @ values)
    if number < 2 or not np.isfinite(total):
        return total, float("nan")
    return total, float(np.sqrt(number / (number - 1) * (count @ np.square(values - total / number))))
