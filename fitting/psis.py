"""Pareto-smoothed importance sampling of many units at once.

The largest weights of each unit are replaced by the quantiles of a generalised Pareto distribution fitted to them, and its
shape k says whether a mean under the weights can be trusted (Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25; the fit is
that of Zhang & Stephens 2009, Technometrics 51). ArviZ does the same one unit at a time, about eight times as slow; the two
are tested to agree.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

ROWS = 256  # at once: a row's fit holds 30 + sqrt(tail) times tail numbers
PRIOR_K, PRIOR_STRENGTH, PRIOR_SCALE = 0.5, 10.0, 3.0
NEGLIGIBLE = 10.0 * np.finfo(float).eps


def smooth(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth each unit's log weights, shape (n, M), all finite; M at least 25.

    Returns
    -------
    log_weights, k_hat
        Shapes (n, M), each unit's weights adding up to 1, and (n,). Where no Pareto distribution fits (a tail of equal
        weights) k is infinite, and the weights are as they were.
    """
    smoothed = log_weights - log_weights.max(axis=1, keepdims=True)
    k_hat = np.empty(len(smoothed))
    for begin in range(0, len(smoothed), ROWS):
        rows = slice(begin, begin + ROWS)
        k_hat[rows] = _smooth_tail(smoothed[rows])
    return smoothed - logsumexp(smoothed, axis=1, keepdims=True), k_hat


def tail_length(num_draws: int) -> int:
    """How many of the largest weights are smoothed."""
    return int(3.0 * np.sqrt(num_draws)) if num_draws > 225 else num_draws // 5


def _smooth_tail(log_weights: np.ndarray) -> np.ndarray:
    """Replace the tails in place; the largest log weight of each row is 0. Returns k, shape (n,)."""
    num_draws = log_weights.shape[1]
    size = tail_length(num_draws)
    first = num_draws - size - 1  # the largest weight below the tail
    places = np.argpartition(log_weights, (first, num_draws - 1), axis=1)[:, first:]
    values = np.take_along_axis(log_weights, places, axis=1)
    order = np.argsort(values[:, 1:], axis=1) + 1
    tail = np.take_along_axis(places, order, axis=1)
    cutoff = np.exp(values[:, :1])
    with np.errstate(all="ignore"):  # a tail of equal weights divides by zero: then k is no number
        excess = np.exp(np.take_along_axis(log_weights, tail, axis=1)) - cutoff
        k, scale = _fit(excess)
        probability = np.arange(0.5, size) / size
        quantiles = scale[:, None] * np.expm1(-k[:, None] * np.log1p(-probability)) / k[:, None]
        smoothed = np.minimum(np.log(quantiles + cutoff), 0.0)
    fits = np.isfinite(k) & np.isfinite(smoothed).all(axis=1)
    rows = np.flatnonzero(fits)
    log_weights[rows[:, None], tail[rows]] = smoothed[rows]
    return np.where(fits, k, np.inf)


def _fit(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape and scale, each (n,), of generalised Pareto distributions from ascending excesses, shape (n, size)."""
    size = excess.shape[1]
    num_points = 30 + int(np.sqrt(size))
    grid = 1.0 - np.sqrt(num_points / (np.arange(1, num_points + 1) - 0.5))
    quartile = excess[:, int(size / 4 + 0.5) - 1]
    b = grid / (PRIOR_SCALE * quartile[:, None]) + 1.0 / excess[:, -1:]
    k = np.log1p(-b[:, :, None] * excess[:, None, :]).mean(axis=2)
    log_profile = size * (np.log(-b / k) - k - 1.0)
    weights = np.exp(log_profile - logsumexp(log_profile, axis=1, keepdims=True))
    weights[weights < NEGLIGIBLE] = 0.0
    b_mean = (b * weights).sum(axis=1) / weights.sum(axis=1)
    shape = np.log1p(-b_mean[:, None] * excess).mean(axis=1)
    scale = -shape / b_mean
    return (size * shape + PRIOR_STRENGTH * PRIOR_K) / (size + PRIOR_STRENGTH), scale
