"""Draws of every shard's subposterior, checked before they are merged: shapes, effective sizes, independence, moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fitting.errors import FittingError

ShardDraws = np.ndarray | Sequence[np.ndarray]
"""Shape (shard, chain, draw, D), or for each shard (chain, draw, D); chains and draws may differ between shards."""

MIN_DRAWS = 4  # per chain: fewer have no effective sample size
DEPENDENT = 7.0  # Fisher's z of two shards' paired draws: chance gives 7 once in 10^11


class CombinerError(FittingError, ValueError):
    """Draws that cannot be merged."""

    def __init__(self, where: str, found: str, expected: str):
        self.where, self.found, self.expected = where, found, expected
        super().__init__(f"{where}: found {found}; expected {expected}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.where, self.found, self.expected)


class Shards(NamedTuple):
    """Checked draws, shuffled: (shard, draw, D); effective sizes (shard,); chains and draws per chain of the result."""

    draws: np.ndarray
    sizes: np.ndarray
    shape: tuple[int, int]


class Moments(NamedTuple):
    """Per shard: mean (shard, D), covariance (shard, D, D), and precision without its upward bias (shard, D, D)."""

    mean: np.ndarray
    covariance: np.ndarray
    precision: np.ndarray


def effective_size(draws: np.ndarray) -> float:
    """Effective number of draws, (chain, draw, D): the median over coordinates, and no more than there are.

    The median, because an estimate for one of many coordinates is noisy, and the smallest of them is that noise.
    """
    from arviz_stats.base import array_stats  # slow to import

    size = float(np.median(array_stats.ess(draws, chain_axis=0, draw_axis=1)))
    return min(size, float(draws.shape[0] * draws.shape[1]))


def precision_factor(size: float, dimension: int, where: str = "draws") -> float:
    """What the inverse of a sample covariance is multiplied by to be unbiased: ``(n - d - 2) / (n - 1)``.

    The mean of an inverse Wishart matrix (Muirhead 1982, *Aspects of Multivariate Statistical Theory*, sec. 3.2); ``size``
    is effective draws, not raw ones. Without it a product of S subposteriors is too narrow, however large S is.

    Raises
    ------
    CombinerError
        There are not more than ``d + 2`` effective draws: the inverse has no mean.
    """
    if size <= dimension + 2:
        raise CombinerError(
            where,
            f"{size:.1f} effective draws of {dimension} coordinates",
            f"more than {dimension + 2}, and better ten times that. Draw more, or merge shards so that each mixes better",
        )
    return (size - dimension - 2) / (size - 1)


def stream(seed: int, number: int) -> np.random.Generator:
    """Random numbers of a shard by its number, or of the merge by the number after the last shard's."""
    return np.random.default_rng([seed, number])


def check(draws: ShardDraws, seed: int) -> Shards:
    """Refuse what cannot be merged, and shuffle each shard's draws by its own stream.

    Draws are paired across shards by their place, which is right for independent draws only: without the shuffle, trends
    of chains would be paired with trends. All shards keep as many draws as the smallest one has.

    Raises
    ------
    CombinerError
        No shard; unequal coordinates; too few draws, or some that are not finite, or never move; shards whose draws
        correlate, as they do when all started from one key.
    """
    parts = [np.asarray(part, dtype=np.float64) for part in draws]
    if not parts:
        raise CombinerError("draws", "no shard", "draws of one shard at least")
    for s, part in enumerate(parts):
        where = f"shard {s}"
        if part.ndim != 3:
            raise CombinerError(where, f"an array of {part.ndim} dimensions", "shape (chain, draw, coordinate)")
        if part.shape[2] != parts[0].shape[2] or part.shape[2] == 0:
            raise CombinerError(
                where,
                f"{part.shape[2]} coordinates",
                f"{parts[0].shape[2] or 'one or more'}, as in shard 0: every shard samples the same coordinates, coded alike",
            )
        if part.shape[1] < MIN_DRAWS or part.shape[0] == 0:
            raise CombinerError(
                where, f"{part.shape[0]} chains of {part.shape[1]} draws", f"a chain of {MIN_DRAWS} draws or more"
            )
        if not np.isfinite(part).all():
            raise CombinerError(where, "draws that are no finite numbers", "finite draws. Look at the shard's sampler")
        still = np.flatnonzero(np.ptp(part, axis=(0, 1)) == 0)
        if len(still):
            raise CombinerError(where, f"the same value in every draw of coordinate {still[0]}", "a sampler that moves")
    sizes = np.array([effective_size(part) for part in parts])
    shape = (min(part.shape[0] for part in parts), min(part.shape[1] for part in parts))
    _require_independent([part[: shape[0], : shape[1]] for part in parts], sizes)
    shuffled = [
        stream(seed, s).permutation(part.reshape(-1, part.shape[2]))[: shape[0] * shape[1]]
        for s, part in enumerate(parts)
    ]
    # no more effective draws than are used, where shards have different numbers of them
    used = [
        n * min(1.0, shape[0] * shape[1] / (part.shape[0] * part.shape[1]))
        for n, part in zip(sizes, parts, strict=True)
    ]
    return Shards(np.stack(shuffled), np.array(used), shape)


def _require_independent(parts: Sequence[np.ndarray], sizes: np.ndarray) -> None:
    """Refuse shards whose draws move together: workers that began at one key average to nothing narrower."""
    flat = np.stack([part.reshape(-1, part.shape[2]) for part in parts])
    flat = (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True)
    correlation = np.einsum("snd,tnd->std", flat, flat, optimize=True) / flat.shape[1]
    paired = np.sqrt(np.maximum(np.minimum.outer(sizes, sizes) - 3.0, 0.0))
    z = np.arctanh(np.clip(np.abs(correlation), 0.0, 1.0 - 1e-12)) * paired[:, :, None]
    z[np.arange(len(parts)), np.arange(len(parts))] = 0.0
    if z.max(initial=0.0) > DEPENDENT:
        s, t, coordinate = np.unravel_index(int(np.argmax(z)), z.shape)
        raise CombinerError(
            f"shards {s} and {t}",
            f"draws that correlate by {correlation[s, t, coordinate]:.2f} in coordinate {coordinate}",
            "independent draws: give every shard its own key (fold its number into the seed)",
        )


def shaped(flat: np.ndarray, shards: Shards) -> np.ndarray:
    """Draws (draw, D) as chains, (chain, draw, D)."""
    return flat.reshape(*shards.shape, flat.shape[-1])


def factors(shards: Shards) -> np.ndarray:
    """``precision_factor`` of every shard for all coordinates together, (shard,)."""
    dimension = shards.draws.shape[2]
    return np.array([precision_factor(n, dimension, f"shard {s}") for s, n in enumerate(shards.sizes)])


def moments(shards: Shards) -> Moments:
    """Moments of every shard's draws."""
    factor = factors(shards)
    mean = shards.draws.mean(axis=1)
    centred = shards.draws - mean[:, None]
    covariance = np.einsum("snd,sne->sde", centred, centred) / (shards.draws.shape[1] - 1)
    return Moments(mean, covariance, factor[:, None, None] * np.linalg.inv(covariance))


def product(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) of the product of the shards' Gaussians, and the lower Cholesky factor (D, D) of its precision."""
    precision = moments.precision.sum(axis=0)
    shift = np.einsum("sde,se->d", moments.precision, moments.mean)
    return np.linalg.solve(precision, shift), np.linalg.cholesky(precision)


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, np.finfo(float).tiny) ** exponent) @ vectors.T
