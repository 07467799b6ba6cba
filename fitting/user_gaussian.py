r"""Dense Gaussians over the unconstrained globals, and moments of draws with little noise.

A site is a Gaussian in natural parameters, ``exp(shift . g - g' precision g / 2)``.

**Low noise.** For draws x of a smooth density with score :math:`s = \nabla \log p(x)`, integration by parts gives
:math:`E[s] = 0` and :math:`E[(x - m) s'] = -I`. Both are added as control variates (Assaraf & Caffarel 1999, Phys. Rev.
Lett. 83; Mira, Solgi & Imparato 2013, Stat. Comput. 23), with the coefficient :math:`-B = -\mathrm{Cov}(x, s)
\mathrm{Cov}(s)^{-1}`, which is the covariance itself where p is Gaussian. Moments of a Gaussian then carry no noise at all, and
those of others noise in proportion to what is not Gaussian about them. How much noise is left says how many independent draws
the estimate is worth, and with that number the precision is corrected: the inverse of a covariance from n draws in d dimensions is
too large by (n - 1) / (n - d - 2) on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from arviz_stats.base import array_stats

MIN_CAVITY = 0.05
"""Least precision of a cavity in any direction, as a share of the posterior's: a context 4.5 posterior sds wide."""
MIN_DRAWS_PER_COORDINATE = 4


class Gaussian(NamedTuple):
    """Natural parameters: precision (d, d) and shift (d,)."""

    precision: np.ndarray
    shift: np.ndarray


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d)."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations, (d,)."""
        return np.sqrt(np.diag(self.covariance))


class Estimate(NamedTuple):
    """Moments from draws, and how good they are.

    ``precision`` (d, d) is corrected for the noise of the covariance. ``mcse`` is the largest Monte Carlo error of a mean, in sds;
    ``num_effective`` the number of independent draws that would give a covariance as good.
    """

    moments: Moments
    precision: np.ndarray
    r_hat: float
    ess: float
    mcse: float
    num_effective: float


def nothing(size: int) -> Gaussian:
    """The site of a shard that has said nothing yet."""
    return Gaussian(np.zeros((size, size)), np.zeros(size))


def product(sites: Sequence[Gaussian]) -> Gaussian:
    """Multiply sites: natural parameters add up, in the given order."""
    return Gaussian(sum(s.precision for s in sites), sum(s.shift for s in sites))  # type: ignore[arg-type]


def blend(old: Gaussian, new: Gaussian, damping: float) -> Gaussian:
    """``old^(1 - damping) new^damping``."""
    return Gaussian(*((1 - damping) * a + damping * b for a, b in zip(old, new, strict=True)))


def log_density(site: Gaussian, g: np.ndarray) -> np.ndarray:
    """Log of a site at points (M, d), (M,)."""
    return g @ site.shift - 0.5 * np.einsum("md,de,me->m", g, site.precision, g)


def cavity(posterior: Moments, site: Gaussian) -> tuple[Gaussian, float]:
    """Posterior over site, and its smallest eigenvalue in units of the posterior, which is raised to ``MIN_CAVITY``.

    A moment-matched posterior can be wider than one of its sites. Any proper cavity is a valid context to fit a site in, so a
    direction without a cavity gets a wide one around the mean that its natural parameters point to.
    """
    lower = np.linalg.cholesky(posterior.covariance)
    scaled = np.eye(len(lower)) - lower.T @ site.precision @ lower
    values, vectors = np.linalg.eigh(0.5 * (scaled + scaled.T))
    pull = vectors.T @ (lower.T @ (site.precision @ posterior.mean - site.shift))
    kept = np.maximum(values, MIN_CAVITY)
    inverse = np.linalg.inv(lower)
    mean = posterior.mean + lower @ (vectors @ (pull / kept))
    precision = inverse.T @ (vectors * kept) @ vectors.T @ inverse
    precision = 0.5 * (precision + precision.T)
    return Gaussian(precision, precision @ mean), float(values[0])


def quotient(estimate: Estimate, by: Gaussian) -> Gaussian:
    """The site that takes ``by`` to the estimated moments."""
    return Gaussian(estimate.precision - by.precision, estimate.precision @ estimate.moments.mean - by.shift)


def estimate(x: np.ndarray, score: np.ndarray, size: int) -> Estimate | None:
    """Moments of the first ``size`` coordinates of draws; None where the estimated covariance is none.

    Parameters
    ----------
    x, score
        Draws and gradients of their log density, (chain, draw, D).
    """
    num_chains, num_draws, total = x.shape
    own = x[..., :size]
    r_hat = float(np.max(array_stats.rhat(own, chain_axis=0, draw_axis=1)))
    each = array_stats.ess(own, chain_axis=0, draw_axis=1)
    ess = float(np.min(each))
    n = num_chains * num_draws
    centred = (x - x.mean(axis=(0, 1))).reshape(n, total)
    s = score.reshape(n, total)
    first = centred[:, :size]
    sample = first.T @ first / (n - 1)
    mean, resid, covariance, share = own.mean(axis=(0, 1)), own, sample, 1.0
    if n >= MIN_DRAWS_PER_COORDINATE * total:
        slope = np.linalg.lstsq(s - s.mean(axis=0), first, rcond=None)[0].T  # (size, D), of coordinates on scores
        mean = mean - slope @ s.mean(axis=0)
        resid = own - score @ slope.T
        reference = -0.5 * (slope[:, :size] + slope[:, :size].T)
        control = reference - slope @ (s.T @ first) / (n - 1)  # expectation zero
        covariance, share = _controlled(sample, control, reference, first, (s - s.mean(axis=0)) @ slope.T)
    covariance = 0.5 * (covariance + covariance.T)
    if not np.isfinite(covariance).all() or np.linalg.eigvalsh(covariance)[0] <= 0:
        return None
    num_effective = max(float(np.median(each)), 1.0) / max(share, 1e-12)  # of the whole covariance, not its worst entry
    if num_effective <= size + 3:
        return None
    factor = (num_effective - size - 2) / (num_effective - 1)
    mcse = array_stats.mcse(resid, chain_axis=0, draw_axis=1, method="mean")
    moments = Moments(mean, covariance)
    return Estimate(
        moments, factor * np.linalg.inv(covariance), r_hat, ess, float(np.max(mcse / moments.sd)), num_effective
    )


def _controlled(
    sample: np.ndarray, control: np.ndarray, reference: np.ndarray, first: np.ndarray, sloped: np.ndarray
) -> tuple[np.ndarray, float]:
    """Covariance with as much of the control variate as lowers the noise of its trace, and the share of noise left.

    One coefficient for all entries, in whitened coordinates: with one per entry there would be more of them than draws.
    """
    try:
        whiten = np.linalg.inv(np.linalg.cholesky(sample))
    except np.linalg.LinAlgError:
        return sample, 1.0
    z = first @ whiten.T
    plain = np.sum(z * z, axis=1)
    added = np.trace(whiten @ reference @ whiten.T) - np.sum((sloped @ whiten.T) * z, axis=1)
    joint = np.cov(plain, added)
    weight = float(np.clip(-joint[0, 1] / max(joint[1, 1], 1e-300), 0.0, 1.0))
    left = joint[0, 0] + 2 * weight * joint[0, 1] + weight**2 * joint[1, 1]
    return sample + weight * control, float(np.clip(left / joint[0, 0], 0.0, 1.0))
