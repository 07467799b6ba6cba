r"""Importance weights of a model with tens of thousands of coefficients, where those of all shards together say nothing.

The log ratio adds up over the data, so its sd grows with the root of the number of coefficients however well each of them is
approximated, and from about 1 on no reweighting by it is reliable (docs/design/audit-gates.md). But a precinct's effect
feels the ratio of its own shard; the others reach it only through common coefficients, which have data from everywhere. So

* a coefficient is reweighted by the ratios of the shards that it occurs in, smoothed by PSIS as ever;
* where even those vary too much (the common coefficients: all shards), the move of its mean is taken to first order,

.. math:: E_w[z] - E[z] = \operatorname{Cov}(z, r) + O(r^2), \qquad r = \textstyle\sum_s r_s,

the derivative of exponential tilting at zero. It is linear, so it adds up over shards, each of whose own moves is small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fitting.audit import COEFFICIENTS_AT_ONCE, EXACT, Importance, importance, spread_of
from fitting.combiner import DrawsMatrix
from fitting.tree import Restriction

RELIABLE = 1.0  # sd of a log ratio up to which its weights correct: an efficiency of about exp(-1)


def local(
    log_ratios: np.ndarray, restrictions: Sequence[Restriction], theta: DrawsMatrix, together: Importance
) -> Importance:
    """Judge and correct draws, (M, D), by the log ratios, (S, M), of the shards that each coefficient occurs in.

    ``log_ratio_sd`` and ``efficiency`` stay those of all shards ``together``; ``k_hat`` is the largest of those that were used.
    """
    occurs = np.zeros((theta.shape[1], len(restrictions)), dtype=bool)
    for s, restriction in enumerate(restrictions):
        occurs[restriction.coefficients, s] = True
    kinds, which = np.unique(occurs, axis=0, return_inverse=True)
    shift, mcse, ratio = np.zeros(len(occurs)), np.zeros(len(occurs)), np.ones(len(occurs))
    largest = -np.inf
    for kind, shards in enumerate(kinds):
        log_ratio = log_ratios[shards].sum(axis=0)
        spread, places = spread_of(log_ratio), np.flatnonzero(which.ravel() == kind)
        for begin in range(0, len(places), COEFFICIENTS_AT_ONCE):
            some = places[begin : begin + COEFFICIENTS_AT_ONCE]
            draws = theta[:, some]
            if spread < EXACT:
                continue
            if spread <= RELIABLE:
                found = importance(log_ratio, draws)
                largest = max(largest, found.k_hat)
                shift[some], mcse[some], ratio[some] = found.shift, found.shift_mcse, found.sd_ratio
            else:
                shift[some], mcse[some], ratio[some] = first_order(log_ratio, draws)
    return together._replace(k_hat=largest, shift=shift, shift_mcse=mcse, sd_ratio=ratio)


def first_order(log_ratio: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift of the mean, its Monte Carlo error, and ratio of sds, each (n,), to first order in the log ratio, (M,)."""
    z = (theta - theta.mean(axis=0)) / np.maximum(theta.std(axis=0), 1e-300)
    centred = log_ratio - log_ratio.mean()
    products = centred[:, None] * z
    shift = products.mean(axis=0)
    mcse = products.std(axis=0) / np.sqrt(len(z))
    variance = 1.0 + centred @ np.square(z) / len(z) - shift**2
    return shift, mcse, np.sqrt(np.maximum(variance, 0.0))
