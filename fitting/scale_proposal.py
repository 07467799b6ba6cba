"""A proposal for the hyperparameters: a split Student t around the mode of their marginal.

Axes as in Rue, Martino & Chopin 2009, sec. 6.5; tails heavier than the target's, and a width of its own on either side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy.special import gammaln, stdtrit

from fitting import scale_marginal
from fitting.errors import ImproperPosteriorError
from fitting.hierarchy import Hierarchy
from fitting.scale_marginal import Natural

DEGREES_OF_FREEDOM = 5.0
BOX = 3.0  # how far from its start one search goes: a line search that tries e^10 at once meets rounding, not the mode


class Proposal(NamedTuple):
    """Split Student t in psi: mode (H,), axes (H, H), and a width on either side of each axis, (2, H)."""

    mode: np.ndarray
    axes: np.ndarray
    widths: np.ndarray


def propose(hierarchy: Hierarchy, sites: Natural, first: np.ndarray) -> Proposal:
    """Find the mode of psi and fit the proposal there.

    Raises
    ------
    ImproperPosteriorError
        Sites and prior are no distribution at the starting point.
    """
    size = hierarchy.size
    if size == 0:
        return Proposal(np.zeros(0), np.zeros((0, 0)), np.zeros((2, 0)))

    def negative(psi: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = scale_marginal.value_and_gradient(hierarchy, sites, psi)
        return -value, -gradient

    mode = np.clip(first, -6.0, 6.0)
    try:
        while True:
            box = np.clip(np.stack([mode - BOX, mode + BOX]), -scale_marginal.PSI_BOUND, scale_marginal.PSI_BOUND)
            mode = optimize.minimize(
                negative,
                mode,
                jac=True,
                method="L-BFGS-B",
                bounds=box.T,
                options={"maxiter": 100, "ftol": 1e-11, "gtol": 1e-4},
            ).x
            if not np.any((mode == box) & (np.abs(mode) < scale_marginal.PSI_BOUND)):
                break
    except np.linalg.LinAlgError:
        raise ImproperPosteriorError("product of all sites and the prior", float("nan")) from None
    step = 1e-3
    hessian = np.empty((size, size))
    for i in range(size):
        shifted = [mode + s * step * (np.arange(size) == i) for s in (1.0, -1.0)]
        hessian[i] = (negative(shifted[0])[1] - negative(shifted[1])[1]) / (2 * step)
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    axes = vectors / np.sqrt(np.maximum(values, 0.05))
    top = scale_marginal.log_density(hierarchy, sites, mode)
    widths = np.ones((2, size))
    for i in range(size):
        for side, sign in enumerate((1.0, -1.0)):
            drop = top - scale_marginal.log_density(hierarchy, sites, mode + sign * np.sqrt(2.0) * axes[:, i])
            widths[side, i] = np.clip(1.0 / np.sqrt(max(drop, 1e-3)), 0.5, 3.0)
    return Proposal(mode, axes, widths)


def sample(proposal: Proposal, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points, (M, H), and their log densities, (M,), from uniforms of shape (M, H)."""
    nu = DEGREES_OF_FREEDOM
    up, down = proposal.widths
    t = stdtrit(nu, np.clip(_split(uniforms, down / (up + down)), 1e-12, 1 - 1e-12))
    z = t * np.where(t >= 0, up, down)
    log_t = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi) - (nu + 1) / 2 * np.log1p(t**2 / nu)
    log_q = (log_t - np.log((up + down) / 2)).sum(axis=1)
    return proposal.mode + z @ proposal.axes.T, log_q


def _split(uniforms: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Uniforms to those of a symmetric t, so that a share ``below`` falls under zero."""
    return np.where(uniforms < below, 0.5 * uniforms / below, 1.0 - 0.5 * (1.0 - uniforms) / (1.0 - below))
