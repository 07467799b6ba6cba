"""Prior sensitivity without a refit: power-scaling of prior and likelihood by importance weights.

Raising the prior (or the likelihood) to a power a little above and below 1 reweights the draws; how far that moves a
parameter's distribution, per doubling of the power, is its sensitivity (Kallioinen et al. 2024, Statistics and Computing 34).
Scaled is what a person chose: the priors of fixed coefficients and of hyperparameters, not the group effects given them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fitting.combiner import DrawsMatrix
from fitting.hierarchy import Hierarchy

ALPHAS = (0.8, 1.25)
SENSITIVE = 0.05  # as in the paper and in priorsense
MATTERS = 0.3  # posterior sds that a mean moves when the prior's power doubles: the audit's limit for an error of a mean


def chosen_log_prior(hierarchy: Hierarchy, theta: DrawsMatrix, psi: np.ndarray) -> np.ndarray:
    """Log density of the chosen priors at draws theta (M, D) and psi (M, H), without constants: shape (M,)."""
    centred = theta[:, hierarchy.fixed_places] - hierarchy.fixed_mean
    fixed = -0.5 * np.square(centred) @ hierarchy.fixed_precision
    return fixed + np.array([float(hierarchy.log_prior(row)) for row in psi]) if hierarchy.size else fixed


def power_scale(
    hierarchy: Hierarchy, theta: DrawsMatrix, psi: np.ndarray, log_likelihood: np.ndarray
) -> list[dict[str, Any]]:
    """Sensitivity of every fixed coefficient and hyperparameter to its prior and to the likelihood.

    Parameters
    ----------
    theta, psi
        Draws, shapes (M, D) and (M, H).
    log_likelihood
        Of all of the data at each draw, up to a constant, shape (M,).

    Returns
    -------
    list
        ``parameter``, ``prior``, ``likelihood`` (both 0 where nothing moves) and ``flag``: ``ok``, ``prior-data conflict``
        (both matter) or ``strong prior or weak likelihood`` (only the prior matters). A flag takes, besides, that a doubling of the prior's
        power would move the mean by ``MATTERS``, beyond Monte Carlo error: the sd of a handful of groups always reacts a little.
        Empty where one draw would have all the weight.
    """
    from arviz_stats.base import array_stats  # slow to import

    names = hierarchy.model.coefficient_names()[hierarchy.fixed_places].tolist() + hierarchy.names()
    values = np.concatenate([theta[:, hierarchy.fixed_places], hierarchy.natural(psi)], axis=1)
    parts = {"prior": chosen_log_prior(hierarchy, theta, psi), "likelihood": log_likelihood}
    weights = {}
    for part, log_density in parts.items():
        centred = log_density - log_density.mean()
        with np.errstate(divide="ignore", invalid="ignore"):  # where next to all of the tail has no weight
            scaled = [array_stats.power_scale_lw(centred, alpha=a) if np.ptp(centred) > 0 else centred for a in ALPHAS]
        if np.isnan(scaled).any():
            return []
        weights[part] = [np.exp(w - w.max()) / np.exp(w - w.max()).sum() for w in scaled]
    rows = []
    for j, name in enumerate(names):
        found = {
            part: float(array_stats.power_scale_sense(values[None, :, j], lower[None], upper[None], *ALPHAS))
            for part, (lower, upper) in weights.items()
        }
        flag = "ok"
        if found["prior"] >= SENSITIVE and _sure_move(values[:, j], *weights["prior"]) >= MATTERS:
            flag = "prior-data conflict" if found["likelihood"] >= SENSITIVE else "strong prior or weak likelihood"
        rows.append({"parameter": name, **{part: round(value, 4) for part, value in found.items()}, "flag": flag})
    return rows


def _sure_move(values: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Move of the mean in sds per doubling of the power, less two Monte Carlo errors; values (M,), weights (M,) at both powers."""
    z = (values - values.mean()) / max(float(values.std()), 1e-300)
    per_doubling = 1.0 / float(np.log2(ALPHAS[1] / ALPHAS[0]))
    change = upper - lower
    move = float(change @ z)
    noise = float(np.sqrt(np.sum(np.square(change * (z - move)))))
    return (abs(move) - 2.0 * noise) * per_doubling
