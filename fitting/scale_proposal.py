"""A proposal for the hyperparameters: a split Student t around the mode of their marginal.

Axes as in Rue, Martino & Chopin 2009, sec. 6.5; tails heavier than the target's, and a width of its own on either side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy.special import gammaln, stdtrit

from fitting import scale_marginal
from fitting.errors import ImproperPosteriorError, ModelError
from fitting.hierarchy import Hierarchy
from fitting.in_order import in_order
from fitting.scale_marginal import Natural

DEGREES_OF_FREEDOM = 5.0
NO_ERROR = 1e-11  # residual sd over the outcome's spread: what is left is rounding
LITTLE_ERROR = 1e-6  # the same, where rounding also left no distribution
BOX = 3.0  # how far from its start one search goes: a line search that tries e^10 at once meets rounding, not the mode


class Proposal(NamedTuple):
    """Split Student t in psi: mode (H,), axes (H, H), and a width on either side of each axis, (2, H)."""

    mode: np.ndarray
    axes: np.ndarray
    widths: np.ndarray


def propose(hierarchy: Hierarchy, sites: Natural, first: np.ndarray, threads: int = 1) -> Proposal:
    """Find the mode of psi and fit the proposal there.

    Raises
    ------
    ImproperPosteriorError
        Sites and prior are no distribution at the starting point.
    """
    return around(hierarchy, sites, find_mode(hierarchy, sites, first), threads)


def find_mode(hierarchy: Hierarchy, sites: Natural, first: np.ndarray) -> np.ndarray:
    """The mode of psi, (H,), searched from ``first``; raises as :func:`propose` does, and ``ModelError`` if next to no residual is left."""
    if hierarchy.size == 0:
        return np.zeros(0)
    units = _units(hierarchy, sites)
    last = first

    def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal last
        last = z * units
        value, gradient = scale_marginal.value_and_gradient(hierarchy, sites, z * units)
        return -value, -gradient * units

    origin = hierarchy.origin
    z = np.clip(first, origin - 6.0, origin + 6.0) / units
    try:
        while True:
            ends = hierarchy.bounds / units
            box = np.clip(z + np.array([[-BOX], [BOX]]) / units, *ends)
            z = optimize.minimize(
                negative,
                z,
                jac=True,
                method="L-BFGS-B",
                bounds=box.T,
                options={"maxiter": 100, "ftol": 1e-11, "gtol": 1e-4},
            ).x
            if not np.any((z == box) & (box != ends)):
                return z * units
    except np.linalg.LinAlgError:
        check_residual(hierarchy, last, LITTLE_ERROR)
        raise ImproperPosteriorError("product of all sites and the prior", float("nan")) from None


def check_residual(hierarchy: Hierarchy, psi: np.ndarray, least: float = NO_ERROR) -> None:
    """Raise ``ModelError`` where the residual sd is a smaller part of the outcome's spread than ``least``.

    Of rounds that have ended: the first ones go through any.
    """
    if hierarchy.residual_prior is None:
        return
    sd, spread = float(hierarchy.residual_sd(psi)), hierarchy.spread
    if sd < least * spread:
        raise ModelError(
            "model.formula", f"an outcome that it predicts without error (residual sd {sd:.1g}, spread {spread:.3g})",
            "an outcome that varies about its prediction: take out the predictor or the group that the outcome was made from, or is the same in",
        )  # fmt: skip


def _units(hierarchy: Hierarchy, sites: Natural) -> np.ndarray:
    """What each hyperparameter is measured in while the mode is searched, (H,): about its posterior sd where the data are many.

    The Fisher information of the log sd of n known effects is 2n. In these units the search takes 3 to 8 evaluations; in
    those of psi it took 20 to 30 (51 states and 3,144 counties).
    """
    information = np.zeros(hierarchy.size)
    for group, part in zip(hierarchy.model.groups, hierarchy.slices, strict=True):
        information[part] = 2.0 * len(group.coefficients)
    if hierarchy.residual_prior is not None:
        information[-1] = 2.0 * sites.constants[0]
    return (1.0 + information) ** -0.5


def around(hierarchy: Hierarchy, sites: Natural, mode: np.ndarray, threads: int = 1) -> Proposal:
    """The proposal at a mode, (H,)."""
    size, step = hierarchy.size, 1e-3
    if size == 0:
        return Proposal(np.zeros(0), np.zeros((0, 0)), np.zeros((2, 0)))
    at = [mode + s * step * row for row in np.eye(size) for s in (-1.0, 1.0)]
    found = [g for _, g in in_order(lambda psi: scale_marginal.value_and_gradient(hierarchy, sites, psi), at, threads)]
    hessian = -np.diff(np.reshape(found, (size, 2, size)), axis=1)[:, 0] / (2 * step)
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    axes = vectors / np.sqrt(np.maximum(values, 0.05))
    ends = [mode + sign * np.sqrt(2.0) * axis for sign in (1.0, -1.0) for axis in axes.T]
    top, *low = in_order(lambda psi: scale_marginal.log_density(hierarchy, sites, psi), [mode, *ends], threads)
    drop = (top - np.array(low)).reshape(2, size)
    return Proposal(mode, axes, np.clip(1.0 / np.sqrt(np.maximum(drop, 1e-3)), 0.5, 3.0))


def sample(proposal: Proposal, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points, (M, H), and their log densities, (M,), from uniforms of shape (M, H)."""
    z = positions(proposal, uniforms)
    return proposal.mode + z @ proposal.axes.T, log_density(proposal, z)


def positions(proposal: Proposal, uniforms: np.ndarray) -> np.ndarray:
    """Positions along the axes, (M, H)."""
    up, down = proposal.widths
    t = stdtrit(DEGREES_OF_FREEDOM, np.clip(_split(uniforms, down / (up + down)), 1e-12, 1 - 1e-12))
    return np.asarray(t * np.where(t >= 0, up, down))


def log_density(proposal: Proposal, z: np.ndarray) -> np.ndarray:
    """Of positions along the axes, (M, H), with respect to these: shape (M,)."""
    nu = DEGREES_OF_FREEDOM
    up, down = proposal.widths
    t = z / np.where(z >= 0, up, down)
    log_t = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi) - (nu + 1) / 2 * np.log1p(t**2 / nu)
    return np.asarray((log_t - np.log((up + down) / 2)).sum(axis=1))


def _split(uniforms: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Uniforms to those of a symmetric t, so that a share ``below`` falls under zero."""
    return np.where(uniforms < below, 0.5 * uniforms / below, 1.0 - 0.5 * (1.0 - uniforms) / (1.0 - below))
