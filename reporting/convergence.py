"""R-hat, effective sample size and Monte Carlo error of many parameters at once.

The estimators are those of ArviZ (Vehtari et al. 2021, "Rank-normalization, folding, and localization", Bayesian Analysis
16), which goes parameter by parameter in Python, a millisecond or two each; 170,000 of them would take longer than their
fit. Tests hold every number against ArviZ. Throughout, ``values`` has the shape (parameter, chain, draw).
"""

from __future__ import annotations

import numpy as np
from scipy import fft, special, stats


def split_chains(values: np.ndarray) -> np.ndarray:
    """Each chain as two, its halves: (parameter, 2 chain, draw // 2)."""
    half = values.shape[2] // 2
    return np.concatenate([values[..., :half], values[..., -half:]], axis=1)


def rank_normalise(values: np.ndarray) -> np.ndarray:
    """Normal scores of the ranks over the last two axes (Blom's offset, as ArviZ); shape is kept.

    Average ranks are multiples of one half, so the scores come from a table.
    """
    flat = values.reshape(len(values), values.shape[1] * values.shape[2])
    size = flat.shape[1]
    table = special.ndtri(np.clip((np.arange(2 * size + 1) / 2 - 0.375) / (size + 0.25), 0, 1))
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    scores = np.empty(flat.shape)
    np.put_along_axis(scores, order, np.broadcast_to(table[2 * np.arange(1, size + 1)], flat.shape), axis=1)
    tied = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if tied.any():
        scores[tied] = table[(2 * stats.rankdata(flat[tied], axis=1)).astype(np.intp)]
    return scores.reshape(values.shape)


def r_hat(values: np.ndarray) -> np.ndarray:
    """Potential scale reduction of chains as they are (not split, not normalised), shape (parameter,)."""
    num_draws = values.shape[2]
    between = num_draws * values.mean(axis=2).var(axis=1, ddof=1)
    within = values.var(axis=2, ddof=1).mean(axis=1)
    return np.sqrt((between / within + num_draws - 1) / num_draws)


def effective_size(values: np.ndarray) -> np.ndarray:
    """Effective sample size of the mean, shape (parameter,), by Geyer's initial monotone sequence (1992, Stat. Sci. 7).

    With :math:`S_j = \\rho_{2j} + \\rho_{2j+1}` up to the first that is not positive, made monotone by their cumulative
    minimum M, the integrated autocorrelation time is :math:`-1 + 2\\sum_j M_j + \\rho^+_{2J}`.
    """
    num_chains, num_draws = values.shape[1:]
    total = num_chains * num_draws
    centred = values - values.mean(axis=2, keepdims=True)
    length = fft.next_fast_len(2 * num_draws)
    spectrum = fft.rfft(centred, n=length, axis=2)
    spectrum *= np.conjugate(spectrum)
    covariance = fft.irfft(spectrum.mean(axis=1), n=length, axis=1)[:, :num_draws] / num_draws
    within = covariance[:, 0] * num_draws / (num_draws - 1.0)
    pooled = within * (num_draws - 1.0) / num_draws
    if num_chains > 1:
        pooled += values.mean(axis=2).var(axis=1, ddof=1)
    is_constant = np.ptp(values.reshape(len(values), -1), axis=1) < np.finfo(float).resolution
    pooled[is_constant] = 1.0
    correlation = 1.0 - (within[:, None] - covariance) / pooled[:, None]
    correlation[:, 0] = 1.0
    pairs = correlation[:, : num_draws // 2 * 2].reshape(len(values), -1, 2).sum(axis=2)
    most = -(-(num_draws - 2) // 2) - 1
    kept = np.minimum(np.logical_and.accumulate(pairs > 0, axis=1).sum(axis=1), most)
    monotone = np.minimum.accumulate(pairs, axis=1)
    monotone[np.arange(pairs.shape[1]) >= kept[:, None]] = 0.0
    last = np.take_along_axis(correlation, 2 * kept[:, None], axis=1)[:, 0]
    after = np.take_along_axis(pairs, kept[:, None], axis=1)[:, 0]
    last = np.where((last > 0) | ((after >= 0) & (kept > 0)), last, 0.0)
    time = np.maximum(-1.0 + 2.0 * monotone.sum(axis=1) + last, 1.0 / np.log10(total))
    return np.where(is_constant, float(total), total / time)
