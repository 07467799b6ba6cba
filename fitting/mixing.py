"""Effective sizes and R-hat of drawn hyperparameters: whether they were drawn often enough (Vehtari et al. 2021, Bayesian Analysis 16)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import fdtri

R_HAT = 1.01
CHANCE = 1e-3


class Mixing(NamedTuple):
    """The smaller of bulk and tail ESS, and R-hat, of each hyperparameter, shapes (H,); and the highest R-hat that is good."""

    ess: np.ndarray
    r_hat: np.ndarray
    highest_r_hat: float = R_HAT

    def is_enough(self, min_ess: float) -> bool:
        """Whether every hyperparameter has an ESS of ``min_ess`` and an R-hat below the limit."""
        return bool(np.all(self.ess >= min_ess) and np.all(self.r_hat < self.highest_r_hat))


def of(values: np.ndarray) -> Mixing:
    """Judge draws on their natural scale, (chain, draw, H). One that never moves has an ESS of 1."""
    from arviz_stats.base import array_stats  # slow to import

    if values.shape[0] == 1:  # one chain is judged by its halves
        half = values.shape[1] // 2
        values = np.stack([values[0, :half], values[0, half : 2 * half]])
    ess, r_hat = np.ones(values.shape[2]), np.full(values.shape[2], np.inf)
    for h in range(values.shape[2]):
        draws = values[..., h]
        if draws.shape[1] < 4 or np.any(np.ptp(draws, axis=1) == 0):
            continue
        bulk, tail = array_stats.ess(draws, method="bulk"), array_stats.ess(draws, method="tail", prob=(0.05, 0.95))
        ess[h] = min(float(bulk), float(tail))
        r_hat[h] = float(array_stats.rhat(draws))
    return Mixing(np.nan_to_num(ess, nan=1.0), np.nan_to_num(r_hat, nan=np.inf), highest_r_hat(*values.shape[:2]))


def highest_r_hat(num_chains: int, num_draws: int) -> float:
    """1.01, or where draws are few the split R-hat that independent normal ones exceed once in a thousand times.

    The variance between halves over that within is F distributed (Gelman et al. 2013, Bayesian Data Analysis, sec. 11.4).
    """
    halves, length = 2 * num_chains, num_draws // 2
    if length < 2:
        return R_HAT
    ratio = float(fdtri(halves - 1, halves * (length - 1), 1 - CHANCE))
    return max(R_HAT, float(np.sqrt((length - 1 + ratio) / length)))


def can_do_better(found: Mixing, min_ess: float, num_draws: int) -> bool:
    """Whether more proposals per draw are of use: something is missing, and the draws, were they independent, would do."""
    return num_draws >= min_ess and not found.is_enough(min_ess)
