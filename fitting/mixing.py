"""Effective sizes and R-hat of drawn hyperparameters: whether they were drawn often enough (Vehtari et al. 2021, Bayesian Analysis 16)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

R_HAT = 1.01
THINNING = (1, 2, 4, 8)
"""Proposals for the hyperparameters per draw, in turn, until there are enough."""


class Mixing(NamedTuple):
    """The smaller of bulk and tail ESS, and R-hat, of each hyperparameter: shapes (H,)."""

    ess: np.ndarray
    r_hat: np.ndarray

    def is_enough(self, min_ess: float) -> bool:
        """Whether every hyperparameter has an ESS of ``min_ess`` and an R-hat below the limit."""
        return bool(np.all(self.ess >= min_ess) and np.all(self.r_hat < R_HAT))


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
    return Mixing(np.nan_to_num(ess, nan=1.0), np.nan_to_num(r_hat, nan=np.inf))


def can_do_better(found: Mixing, min_ess: float, num_draws: int) -> bool:
    """Whether more proposals per draw are of use: something is missing, and the draws, were they independent, would do."""
    return num_draws >= min_ess and not found.is_enough(min_ess)
