"""Expectation propagation over the shards of a user's model, with the exact prior at the combiner.

The approximation is ``q(g) ~ p(g) * prod_s t_s(g)``, matched in its moments by a Gaussian. A round fits every site under its
cavity ``q / t_s`` and merges; it stops when a round moves no mean. All sites move together, undamped at first; a product
that is no distribution halves the step.

Reference: Vehtari et al. (2020), "Expectation propagation as a way of life", JMLR 21.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fitting import user_combiner as combiner
from fitting import user_gaussian as gaussian
from fitting.errors import ImproperPosteriorError
from fitting.user_combiner import Prior, Sampling
from fitting.user_gaussian import Gaussian, Moments
from fitting.user_tilted import SiteFit

MIN_DAMPING = 1 / 64
COMBINER_STREAM = 1 << 20  # keys of the combiner, away from those of the shards

FitSites = Callable[[int, Moments, Sequence[Gaussian]], Sequence[SiteFit]]
"""``fit_sites(round, posterior, sites)``: fits every shard's site anew, in order."""


class RoundsState(NamedTuple):
    """What the next round needs: moments of prior times ``sites`` (of the anchor, before any)."""

    posterior: Moments
    sites: tuple[Gaussian, ...]


class Round(NamedTuple):
    """What a person needs to judge a round: largest move of a mean in posterior sds, where, its Monte Carlo error, damping."""

    number: int
    move: float
    where: int
    mcse: float
    damping: float
    fits: tuple[SiteFit, ...]


class Schedule(NamedTuple):
    """Rounds at most, the move that ends them (posterior sds), and the fraction of a full step."""

    max_rounds: int = 6
    tolerance: float = 0.05
    damping: float = 1.0


def init(prior: Prior, num_shards: int, seed: int) -> RoundsState:
    """The anchor, and sites that say nothing."""
    size = prior.made.num_globals
    return RoundsState(combiner.anchor(prior, seed), (gaussian.nothing(size),) * num_shards)


def step(
    prior: Prior, state: RoundsState, fits: Sequence[SiteFit], sampling: Sampling,
    *, number: int, damping: float, seed: int,
) -> tuple[RoundsState, Round]:  # fmt: skip
    """Move every site towards its new value and merge.

    Raises
    ------
    ImproperPosteriorError
        No fraction of the step gives a distribution.
    """
    damping = damping if number else 1.0
    while True:
        sites = tuple(gaussian.blend(old, f.site, damping) for old, f in zip(state.sites, fits, strict=True))
        try:
            key = combiner_key(seed, number)
            found, _ = combiner.sample(prior, gaussian.product(sites), state.posterior.mean, key, sampling)
            break
        except ImproperPosteriorError:
            damping /= 2
            if damping < MIN_DAMPING:
                raise
    moves = (found.moments.mean - state.posterior.mean) / found.moments.sd
    where = int(np.argmax(np.abs(moves)))
    noise = float(np.sqrt(damping**2 * sum(min(f.mcse, 1e3) ** 2 for f in fits) + found.mcse**2))
    return RoundsState(found.moments, sites), Round(
        number, float(abs(moves[where])), where, noise, damping, tuple(fits)
    )


def run(
    prior: Prior, num_shards: int, fit_sites: FitSites, schedule: Schedule, sampling: Sampling, seed: int,
    told: Callable[[Round], Any] = lambda _: None,
) -> tuple[RoundsState, list[Round]]:  # fmt: skip
    """Rounds until the posterior stands still; ``told`` hears of each."""
    state = init(prior, num_shards, seed)
    history: list[Round] = []
    damping = schedule.damping
    while len(history) < schedule.max_rounds:
        number = len(history)
        fits = fit_sites(number, state.posterior, state.sites)
        state, info = step(prior, state, fits, sampling, number=number, damping=damping, seed=seed)
        history.append(info)
        told(info)
        if info.move < max(schedule.tolerance, 2 * info.mcse):
            break
        if number > 1 and info.move > 1.0 and info.move > history[-2].move:
            damping = max(damping / 2, MIN_DAMPING)
    return state, history


def combiner_key(seed: int, number: int) -> jax.Array:
    """Key of the combiner's draws in a round."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), COMBINER_STREAM), number)
