r"""The classic combiners of embarrassingly parallel MCMC: draws of every shard's subposterior in, merged draws out.

Each shard was sampled alone, once, and nothing is corrected afterwards: baselines, and material for teaching. There are two
kinds of subposterior, and a combiner given the wrong kind is wrong by a factor of S (the number of shards):

* ``fractionated``, :math:`p(\theta)^{1/S} L_s(\theta)`: their *product* is the posterior. For ``consensus``, ``gaussian``,
  ``nonparametric`` and ``semiparametric``.
* ``powered``, :math:`p(\theta) L_s(\theta)^S`: each is a noisy copy of the *whole* posterior, with its width. For ``pie``,
  ``barycenter`` and ``swiss``, which average them.

All work on the unconstrained line, where theta's density carries the transform's Jacobian as a part of the prior: tempered
with it, once in the product. Draws are shuffled, each shard's by its own stream ``(seed, shard)``, before any are paired.
One shard alone is its own posterior: its draws come back shuffled, and nothing else.

References: Scott et al. (2016), "Bayes and big data: the consensus Monte Carlo algorithm"; Neiswanger, Wang & Xing (2014),
"Asymptotically exact, embarrassingly parallel MCMC"; Srivastava, Li & Dunson (2018), "Scalable Bayes via barycenter in
Wasserstein space", JMLR 19; Li, Srivastava & Dunson (2017), "Simple, scalable and accurate posterior interval estimation",
Biometrika 104; Alvarez-Esteban et al. (2016), "A fixed-point approach to barycenters in Wasserstein space"; Vyner, Nemeth &
Sherlock (2022), "SwISS: a scalable Markov chain Monte Carlo divide-and-conquer strategy".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from fitting import shard_draws
from fitting.shard_draws import CombinerError, ShardDraws, Shards

Kind = Literal["fractionated", "powered"]

FIXED_POINT_TOLERANCE, FIXED_POINT_STEPS = 1e-10, 1000


class Combiner(NamedTuple):
    """A way to merge, the subposteriors that it needs, and its paper."""

    merge: Callable[..., np.ndarray]
    kind: Kind
    paper: str


def consensus(draws: ShardDraws, *, seed: int = 0, weights: Literal["full", "diagonal"] = "full") -> np.ndarray:
    r"""Weighted averages of the shards' draws, :math:`(\sum W_s)^{-1} \sum_s W_s \theta_s` (Scott et al. 2016).

    ``fractionated``. Exact where subposteriors are Gaussian. ``W_s`` is the precision without its upward bias, and each
    shard's draws are spread about their mean to match it; ``diagonal`` takes variances alone, and is **not** conservative
    where coordinates correlate differently in different shards.

    Returns
    -------
    numpy.ndarray
        Merged draws, shape (chain, draw, D), of the smallest shard's numbers of chains and draws.
    """
    shards = shard_draws.check(draws, seed)
    if len(shards.draws) == 1:
        return shard_draws.shaped(shards.draws[0], shards)
    if weights == "diagonal":
        variance = shards.draws.var(axis=1, ddof=1)
        factor = np.array([shard_draws.precision_factor(n, 1, f"shard {s}") for s, n in enumerate(shards.sizes)])
        precision = np.einsum("sd,de->sde", factor[:, None] / variance, np.eye(variance.shape[1]))
    else:
        precision = shard_draws.moments(shards).precision
        factor = shard_draws.factors(shards)
    mean = shards.draws.mean(axis=1, keepdims=True)
    spread = mean + (shards.draws - mean) / np.sqrt(factor)[:, None, None]
    weighted = np.einsum("sde,sne->nd", precision, spread)
    return shard_draws.shaped(np.linalg.solve(precision.sum(axis=0), weighted.T).T, shards)


def gaussian(draws: ShardDraws, *, seed: int = 0) -> np.ndarray:
    """Product of the Gaussians that have the subposteriors' moments (Neiswanger et al. 2014, sec. 3.1), drawn from.

    ``fractionated``. Exact where subposteriors are Gaussian. Returns shape (chain, draw, D).
    """
    shards = shard_draws.check(draws, seed)
    if len(shards.draws) == 1:
        return shard_draws.shaped(shards.draws[0], shards)
    mean, lower = shard_draws.product(shard_draws.moments(shards))
    noise = shard_draws.stream(seed, len(shards.draws)).standard_normal(shards.draws.shape[1:])
    return shard_draws.shaped(mean + solve_triangular(lower.T, noise.T, lower=False).T, shards)


def nonparametric(draws: ShardDraws, *, seed: int = 0, burn_in: int | None = None, thin: int = 1) -> np.ndarray:
    """Product of kernel density estimates, by independent Metropolis within Gibbs (Neiswanger et al. 2014, algorithm 1).

    ``fractionated``. Right in the limit of many draws for any shape; in few draws too wide by the kernels, and in many
    dimensions, or where subposteriors hardly overlap, stuck. The bandwidth of step i is ``i ** (-1 / (4 + D))`` in
    coordinates in which the average subposterior has unit covariance, so units and correlations do not matter.

    Parameters
    ----------
    burn_in
        Steps before the first draw that is kept, while bandwidths are wide; as many as draws per chain if not given.
    thin
        Steps per draw. A step changes each shard's part only if another lies within a kernel's width, so few do: look at the
        effective size of what comes back.
    """
    return _kernels(draws, seed, burn_in, thin, parametric=False)


def semiparametric(draws: ShardDraws, *, seed: int = 0, burn_in: int | None = None, thin: int = 1) -> np.ndarray:
    """Product of Gaussians, each corrected by a kernel estimate of its ratio (Neiswanger et al. 2014, sec. 3.3).

    ``fractionated``. Right in the limit for any shape and near right for Gaussians at any bandwidth. Parameters as
    ``nonparametric``.
    """
    return _kernels(draws, seed, burn_in, thin, parametric=True)


def barycenter(draws: ShardDraws, *, seed: int = 0) -> np.ndarray:
    """Wasserstein barycenter of powered subposteriors taken as one location-scatter family (WASP).

    ``powered``. Its mean is the average of means and its covariance the fixed point of Alvarez-Esteban et al. (2016);
    each shard's draws are carried there by the optimal map between Gaussians, and pooled in equal parts.
    """
    shards = shard_draws.check(draws, seed)
    if len(shards.draws) == 1:
        return shard_draws.shaped(shards.draws[0], shards)
    return shard_draws.shaped(_barycenter_draws(shards), shards)


def pie(draws: ShardDraws, *, seed: int = 0) -> np.ndarray:
    """Averages of the shards' quantiles, for each coordinate alone (Li, Srivastava & Dunson 2017).

    ``powered``. In one dimension this is the Wasserstein barycenter itself. The method says nothing about dependence, so
    coordinates are put together in the rank order that draws of ``barycenter`` have.
    """
    shards = shard_draws.check(draws, seed)
    if len(shards.draws) == 1:
        return shard_draws.shaped(shards.draws[0], shards)
    quantiles = np.sort(shards.draws, axis=1).mean(axis=0)
    ranks = np.argsort(np.argsort(_barycenter_draws(shards), axis=0), axis=0)
    return shard_draws.shaped(np.take_along_axis(quantiles, ranks, axis=0), shards)


def swiss(draws: ShardDraws, *, seed: int = 0) -> np.ndarray:
    r"""Sub-posteriors with inflation, scaling and shifting (Vyner, Nemeth & Sherlock 2022).

    ``powered`` (the inflation). With :math:`V^{-1}` the average of the shards' precisions and :math:`\mu` their
    precision-weighted mean, every shard's draws are moved to :math:`\mu` and scaled by
    :math:`A_s = V^{1/2} (V^{-1/2} V_s V^{-1/2})^{-1/2} V^{-1/2}`, so that :math:`A_s V_s A_s' = V`, and pooled in equal parts.
    """
    shards = shard_draws.check(draws, seed)
    if len(shards.draws) == 1:
        return shard_draws.shaped(shards.draws[0], shards)
    moments = shard_draws.moments(shards)
    count = len(shards.draws)
    precision = moments.precision.mean(axis=0)
    mean = np.linalg.solve(precision, np.einsum("sde,se->d", moments.precision, moments.mean) / count)
    root = shard_draws.power(precision, -0.5)
    inverse_root = shard_draws.power(precision, 0.5)
    maps = [
        root @ shard_draws.power(inverse_root @ own @ inverse_root, -0.5) @ inverse_root for own in moments.covariance
    ]
    return shard_draws.shaped(_pooled(shards, moments.mean, mean, np.stack(maps)), shards)


COMBINERS: dict[str, Combiner] = {
    "consensus": Combiner(consensus, "fractionated", "Scott et al. 2016"),
    "gaussian": Combiner(gaussian, "fractionated", "Neiswanger, Wang & Xing 2014, section 3.1"),
    "nonparametric": Combiner(nonparametric, "fractionated", "Neiswanger, Wang & Xing 2014, section 3.2"),
    "semiparametric": Combiner(semiparametric, "fractionated", "Neiswanger, Wang & Xing 2014, section 3.3"),
    "pie": Combiner(pie, "powered", "Li, Srivastava & Dunson 2017"),
    "barycenter": Combiner(barycenter, "powered", "Srivastava, Li & Dunson 2018"),
    "swiss": Combiner(swiss, "powered", "Vyner, Nemeth & Sherlock 2022"),
}
"""Every combiner by name, with the kind of subposterior that it needs."""


def require(name: str) -> Combiner:
    """The combiner of that name. Raises ``CombinerError`` where there is none."""
    if name not in COMBINERS:
        raise CombinerError("combiner", repr(name), "one of " + ", ".join(COMBINERS))
    return COMBINERS[name]


def _pooled(shards: Shards, means: np.ndarray, mean: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Draws ``mean + A_s (theta - mean_s)``, the i-th taken from shard i modulo S: equal parts, shape (draw, D)."""
    count, size, _ = shards.draws.shape
    turn = np.arange(size) % count
    centred = shards.draws[turn, np.arange(size)] - means[turn]
    return mean + np.einsum("nde,ne->nd", maps[turn], centred)


# ---- barycenter ----


def _barycenter_draws(shards: Shards) -> np.ndarray:
    means = shards.draws.mean(axis=1)
    centred = shards.draws - means[:, None]
    covariances = np.einsum("snd,sne->sde", centred, centred) / (shards.draws.shape[1] - 1)
    target = barycenter_covariance(covariances)
    maps = []
    for own in covariances:
        root, inverse_root = shard_draws.power(own, 0.5), shard_draws.power(own, -0.5)
        maps.append(inverse_root @ shard_draws.power(root @ target @ root, 0.5) @ inverse_root)
    return _pooled(shards, means, means.mean(axis=0), np.stack(maps))


def barycenter_covariance(covariances: np.ndarray) -> np.ndarray:
    """Covariance (D, D) of the Wasserstein barycenter of centred Gaussians, (shard, D, D), in equal weights.

    Raises
    ------
    CombinerError
        The fixed point was not reached, as when a covariance is singular.
    """
    current = covariances.mean(axis=0)
    for _ in range(FIXED_POINT_STEPS):
        root, inverse_root = shard_draws.power(current, 0.5), shard_draws.power(current, -0.5)
        mean_root = np.mean([shard_draws.power(root @ own @ root, 0.5) for own in covariances], axis=0)
        following = inverse_root @ mean_root @ mean_root @ inverse_root
        if np.max(np.abs(following - current)) <= FIXED_POINT_TOLERANCE * np.max(np.abs(current)):
            return following
        current = following
    raise CombinerError(
        "barycenter", f"no fixed point in {FIXED_POINT_STEPS} steps", "covariances that are not singular. Draw more"
    )


# ---- kernels ----


def _kernels(draws: ShardDraws, seed: int, burn_in: int | None, thin: int, *, parametric: bool) -> np.ndarray:
    """Both kernel products, in coordinates in which the product of Gaussians is N(0, I / S)."""
    shards = shard_draws.check(draws, seed)
    if len(shards.draws) == 1:
        return shard_draws.shaped(shards.draws[0], shards)
    moments, count = shard_draws.moments(shards), len(shards.draws)
    mean, lower = shard_draws.product(moments)
    x = (shards.draws - mean) @ lower / np.sqrt(count)
    log_own = np.zeros(x.shape[:2])  # what each draw's own Gaussian says of it, taken out of its weight
    if parametric:
        centred = shards.draws - moments.mean[:, None]
        log_own = 0.5 * np.einsum("snd,sde,sne->sn", centred, moments.precision, centred)
    rng = shard_draws.stream(seed, count)
    chains, kept = shards.shape
    burn_in = kept if burn_in is None else burn_in
    found = _mix(x, log_own, rng, chains, burn_in + kept * thin, parametric)[:, burn_in + thin - 1 :: thin]
    return mean + solve_triangular(lower.T, found.reshape(-1, x.shape[2]).T * np.sqrt(count), lower=False).T.reshape(
        found.shape
    )


def _mix(
    x: np.ndarray, log_own: np.ndarray, rng: np.random.Generator, chains: int, steps: int, parametric: bool
) -> np.ndarray:
    """Chains over which draw of each shard makes up the component; x (shard, draw, D); returns (chain, step, D)."""
    count, size, dimension = x.shape
    squares = np.square(x).sum(axis=2)
    chosen = rng.integers(size, size=(chains, count))
    at = x[np.arange(count), chosen]
    total, spread, own = at.sum(axis=1), np.square(at).sum(axis=(1, 2)), log_own[np.arange(count), chosen].sum(axis=1)
    found = np.empty((chains, steps, dimension))

    def log_weight(total: Any, spread: Any, own: Any, width: float) -> Any:
        centre = np.square(total).sum(axis=-1) / count
        weight = -0.5 * (spread - centre) / width
        return weight + own - 0.5 * centre / (1.0 + width) if parametric else weight

    for step in range(steps):
        width = (step + 1.0) ** (-2.0 / (4.0 + dimension))  # the kernel's variance
        proposals, log_uniforms = rng.integers(size, size=(count, chains)), np.log(rng.random((count, chains)))
        current = log_weight(total, spread, own, width)
        for s in range(count):
            old, new = chosen[:, s], proposals[s]
            others = total + x[s, new] - x[s, old]
            wider = spread + squares[s, new] - squares[s, old]
            outside = own + log_own[s, new] - log_own[s, old]
            proposed = log_weight(others, wider, outside, width)
            accepted = log_uniforms[s] < proposed - current
            chosen[:, s] = np.where(accepted, new, old)
            total = np.where(accepted[:, None], others, total)
            spread, own = np.where(accepted, wider, spread), np.where(accepted, outside, own)
            current = np.where(accepted, proposed, current)
        shrink = 1.0 + width if parametric else 1.0
        noise = rng.standard_normal((chains, dimension))
        found[:, step] = total / count / shrink + np.sqrt(width / (count * shrink)) * noise
    return found
