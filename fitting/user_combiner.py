r"""Sites of a user's model times the exact prior of its globals: moments for the next round, and draws at the end.

The target is :math:`\log p(Tg) + \log|T'(g)| + \mathrm{shift}\cdot g - \tfrac12 g'\,\mathrm{precision}\,g`: the prior enters once,
as it was written, with its Jacobian once. It is sampled by NUTS in coordinates in which the Gaussian at its mode is standard
normal: a few dimensions, no data.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc
from scipy import optimize

from fitting import user_gaussian as gaussian
from fitting.errors import ImproperPosteriorError
from fitting.user_checks import program
from fitting.user_gaussian import Estimate, Gaussian, Moments
from fitting.user_model import Program, Shard, ShardedModel, densities, prior_draw

ANCHOR_DRAWS = 2000
NUM_WARMUP = 200
THINNING = 4  # NUTS draws of a near-normal target are anything but independent in their squares
FLATTEST = 1e-4  # least curvature at the mode, in units of the anchor's precision


class Prior(NamedTuple):
    """The exact prior of the globals: a program, and the rows of a shard that it is traced with (it does not use them)."""

    made: Program
    data: dict[str, Any]
    mask: np.ndarray


class Draws(NamedTuple):
    """Unconstrained globals (chain, draw, d), and the sampler's divergences (chain, draw)."""

    g: np.ndarray
    diverging: np.ndarray


def prior_of(sharded: ShardedModel, shard: Shard) -> Prior:
    """The prior, traced with the rows of any shard."""
    with jax.enable_x64(True):
        return Prior(program(sharded, shard), shard.data, shard.mask)


def anchor(prior: Prior, seed: int) -> Moments:
    """What round 0 starts from: medians and central spreads of the prior's draws (moments of a prior may not exist)."""
    with jax.enable_x64(True):
        draws = np.asarray(_prior_draws(jax.random.key(seed), prior.data, prior.mask, made=prior.made))
    low, middle, high = np.quantile(draws, [0.16, 0.5, 0.84], axis=0)
    return Moments(middle, np.diag(((high - low) / 2) ** 2))


class Sampling(NamedTuple):
    """Draws kept, per chain, of every merge. One size for all rounds and the end: one program to compile."""

    num_draws: int = 250
    num_chains: int = 4


def sample(
    prior: Prior, sites: Gaussian, start: np.ndarray, rng_key: jax.Array, sampling: Sampling
) -> tuple[Estimate, Draws]:
    """Moments and draws of prior times sites; ``start`` (d,) is where the search for the mode begins.

    Raises
    ------
    ImproperPosteriorError
        The product is no distribution, as far as its mode and its draws can tell.
    """
    with jax.enable_x64(True):
        mode, lower = _reference(prior, sites, start)
        z, score, diverging = map(
            np.asarray,
            _sample(
                rng_key, prior.data, prior.mask, sites, mode, lower, made=prior.made,
                num_chains=sampling.num_chains, num_draws=THINNING * sampling.num_draws,
            ),
        )  # fmt: skip
    g = mode + z @ lower.T
    found = None
    if np.isfinite(g).all() and np.isfinite(score).all():
        scores = np.linalg.solve(lower.T, score.reshape(-1, len(mode)).T).T.reshape(g.shape)
        found = gaussian.estimate(g, scores, len(mode))
    if found is None:
        raise ImproperPosteriorError("product of all sites and the prior", float("nan"))
    return found, Draws(g[:, THINNING - 1 :: THINNING], diverging)


def _reference(prior: Prior, sites: Gaussian, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mode, and the Cholesky factor of the covariance that the curvature there means."""

    def negative(g: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _value_and_gradient(g, prior.data, prior.mask, sites, made=prior.made)
        value = float(value)
        return (-value, -np.asarray(gradient)) if np.isfinite(value) else (np.inf, np.zeros_like(g))

    mode = optimize.minimize(negative, start, jac=True, method="BFGS", options={"gtol": 1e-6, "maxiter": 500}).x
    curvature = -np.asarray(_hessian(mode, prior.data, prior.mask, sites, made=prior.made))
    values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
    if not np.isfinite(values).all() or values[-1] <= 0:
        raise ImproperPosteriorError("product of all sites and the prior", float(values[0]))
    kept = np.maximum(values, FLATTEST * values[-1])  # a mode on a ridge: NUTS adapts to what is left
    return mode, np.linalg.cholesky((vectors / kept) @ vectors.T)


def _log_target(made: Program, data: Any, mask: Any, sites: Gaussian, g: jax.Array) -> jax.Array:
    prior, _ = densities(made, data, mask, g, jnp.zeros(made.num_locals))
    return prior + sites.shift @ g - 0.5 * g @ (sites.precision @ g)


@partial(jax.jit, static_argnames="made")
def _value_and_gradient(g: Any, data: Any, mask: Any, sites: Gaussian, *, made: Program) -> Any:
    return jax.value_and_grad(partial(_log_target, made, data, mask, sites))(g)


@partial(jax.jit, static_argnames="made")
def _hessian(g: Any, data: Any, mask: Any, sites: Gaussian, *, made: Program) -> Any:
    return jax.hessian(partial(_log_target, made, data, mask, sites))(g)


@partial(jax.jit, static_argnames="made")
def _prior_draws(rng_key: jax.Array, data: Any, mask: Any, *, made: Program) -> jax.Array:
    return jax.vmap(lambda key: prior_draw(made, data, mask, key))(jax.random.split(rng_key, ANCHOR_DRAWS))


@partial(jax.jit, static_argnames=("made", "num_chains", "num_draws"))
def _sample(
    rng_key: jax.Array, data: Any, mask: Any, sites: Gaussian, mode: Any, lower: Any,
    *, made: Program, num_chains: int, num_draws: int,
) -> Any:  # fmt: skip
    init_kernel, sample_kernel = hmc(lambda z: -_log_target(made, data, mask, sites, mode + lower @ z), algo="NUTS")

    def run_chain(key: jax.Array) -> tuple[jax.Array, ...]:
        key_start, key_run = jax.random.split(key)
        start = jax.random.normal(key_start, (len(mode),))
        state = init_kernel(start, NUM_WARMUP, dense_mass=True, target_accept_prob=0.9, rng_key=key_run)

        def draw(state: Any, _: None) -> tuple[Any, tuple[jax.Array, ...]]:
            state = sample_kernel(state)
            return state, (state.z, -state.z_grad, state.diverging)

        _, collected = jax.lax.scan(draw, state, None, length=NUM_WARMUP + num_draws)
        return tuple(a[NUM_WARMUP:] for a in collected)

    return jax.vmap(run_chain)(jax.random.split(rng_key, num_chains))
