r"""One shard of a user's model: its tilted distribution, by NUTS or a variational guide, to a Gaussian site.

The tilted distribution of shard s over its globals and locals is

.. math:: \text{cavity}(g)\; p(l \mid g)\; p(y_s \mid l, g)

on the unconstrained line, with the Jacobian of the locals and none of the globals (it is in the prior, at the combiner).
Its moments over g, divided by the cavity, are the new site (Vehtari et al. 2020, "Expectation propagation as a way of
life", JMLR 21). Coordinates in which the posterior of g is standard normal are sampled, so the scale of a user's parameters
does not matter; NUTS adapts a dense mass matrix to the rest.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro.infer import SVI, Trace_ELBO, autoguide, init_to_value
from numpyro.infer.hmc import hmc
from numpyro.optim import Adam

from fitting import user_gaussian as gaussian
from fitting.user_checks import program
from fitting.user_gaussian import Gaussian, Moments
from fitting.user_model import Program, Shard, ShardedModel, densities

GUIDES = (
    "AutoMultivariateNormal", "AutoLowRankMultivariateNormal", "AutoDiagonalNormal", "AutoNormal",
    "AutoLaplaceApproximation", "AutoIAFNormal", "AutoBNAFNormal", "AutoDAIS",
)  # fmt: skip
"""Guides with a spread; each gets globals and locals as one vector, in the coordinates above."""
_GAUSSIAN = GUIDES[:3] + GUIDES[4:5]

TARGET_ACCEPTANCE = 0.85
MAX_DENSE = 150  # coordinates up to which the mass matrix is dense
START_SPREAD = 0.3
GUIDE_DRAWS = 4000
LEARNING_RATE, LAST_RATE = 0.02, 0.001


class NUTS(NamedTuple):
    """Sampling of a shard: draws per chain."""

    num_warmup: int = 300
    num_draws: int = 300
    num_chains: int = 4


class VI(NamedTuple):
    """A guide of NumPyro by its name, and optimisation steps of ``num_particles`` draws each."""

    guide: str = "AutoMultivariateNormal"
    num_steps: int = 3000
    num_particles: int = 8


class SiteFit(NamedTuple):
    """A shard's new site, and what a person needs to judge it.

    Where ``is_proper`` is False the tilted moments were no distribution and the site is the old one. ``mcse`` is the largest Monte
    Carlo error of a tilted mean, in its sds; ``cavity`` the smallest eigenvalue of the cavity in units of the posterior.
    R-hat and ESS of a guide's independent draws say nothing about how well it fits: the audit does.
    """

    site: Gaussian
    is_proper: bool
    r_hat: float
    ess: float
    num_divergent: int
    acceptance: float
    mcse: float
    num_effective: float
    cavity: float

    def info(self) -> dict[str, float]:
        """All but the site, as plain numbers."""
        return {name: float(value) for name, value in self._asdict().items() if name != "site"}


def shard_key(seed: int, shard: int, round_number: int) -> jax.Array:
    """Key of one shard (its place in the list) and round: the same wherever, and however often, it is fitted."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), shard), round_number)


def fit(
    rng_key: jax.Array, sharded: ShardedModel, shard: Shard, posterior: Moments, site: Gaussian, method: NUTS | VI
) -> SiteFit:
    """Fit one shard's site.

    Parameters
    ----------
    posterior
        Moments over the globals (d,) of the merged posterior that ``site`` is a factor of.
    """
    context, smallest = gaussian.cavity(posterior, site)
    with jax.enable_x64(True):
        made = program(sharded, shard)
        lower = np.eye(made.num_globals + made.num_locals)
        lower[: made.num_globals, : made.num_globals] = np.linalg.cholesky(posterior.covariance)
        loc = np.concatenate([posterior.mean, np.zeros(made.num_locals)])
        target = jax.tree.map(jnp.asarray, Target(shard.data, shard.mask, context, loc, lower))
        run = _sample if isinstance(method, NUTS) else _optimise
        out = run(rng_key, target, made=made, method=method)
        z, score_z, diverging, acceptance = (np.asarray(array) for array in out)
    x = loc + z @ lower.T
    score = np.linalg.solve(lower.T, score_z.reshape(-1, len(loc)).T).T.reshape(x.shape)
    found = gaussian.estimate(x, score, made.num_globals) if np.isfinite(x).all() and np.isfinite(score).all() else None
    divergent, accepted = int(diverging.sum()), float(acceptance.mean())
    if found is None:
        return SiteFit(site, False, float("nan"), 0.0, divergent, accepted, float("inf"), 0.0, smallest)
    new = gaussian.quotient(found, context)
    return SiteFit(
        new, True, found.r_hat, found.ess, divergent, accepted, found.mcse, found.num_effective, smallest
    )  # fmt: skip


class Target(NamedTuple):
    """A tilted distribution as arrays: rows, cavity, and the coordinates ``x = loc + lower z``."""

    data: dict[str, Any]
    mask: Any
    cavity: Gaussian
    loc: Any
    lower: Any


def log_tilted(made: Program, target: Target, z: jax.Array) -> jax.Array:
    """Log density of the tilted distribution at z (D,), up to a constant."""
    x = target.loc + target.lower @ z
    g, l = x[: made.num_globals], x[made.num_globals :]
    _, rest = densities(made, target.data, target.mask, g, l)
    return target.cavity.shift @ g - 0.5 * g @ (target.cavity.precision @ g) + rest


@partial(jax.jit, static_argnames=("made", "method"))
def _sample(rng_key: jax.Array, target: Target, *, made: Program, method: NUTS) -> tuple[jax.Array, ...]:
    init_kernel, sample_kernel = hmc(lambda z: -log_tilted(made, target, z), algo="NUTS")
    size = len(target.loc)

    def run_chain(key: jax.Array) -> tuple[jax.Array, ...]:
        key_start, key_run = jax.random.split(key)
        start = START_SPREAD * jax.random.normal(key_start, (size,))
        state = init_kernel(
            start, method.num_warmup, dense_mass=size <= MAX_DENSE, target_accept_prob=TARGET_ACCEPTANCE, rng_key=key_run
        )  # fmt: skip

        def draw(state: Any, _: None) -> tuple[Any, tuple[jax.Array, ...]]:
            state = sample_kernel(state)
            return state, (state.z, -state.z_grad, state.diverging, state.accept_prob)

        _, collected = jax.lax.scan(draw, state, None, length=method.num_warmup + method.num_draws)
        return tuple(a[method.num_warmup :] for a in collected)

    return jax.vmap(run_chain)(jax.random.split(rng_key, method.num_chains))


@partial(jax.jit, static_argnames=("made", "method"))
def _optimise(rng_key: jax.Array, target: Target, *, made: Program, method: VI) -> tuple[jax.Array, ...]:
    """Fit the guide, and return draws of it with *its own* score, so that a Gaussian guide's moments are without noise."""
    size = len(target.loc)

    def flat_model() -> None:
        z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (size,)))
        numpyro.factor("tilted", log_tilted(made, target, z))

    guide = getattr(autoguide, method.guide)(flat_model, init_loc_fn=init_to_value(values={"z": jnp.zeros(size)}))
    decay = (LAST_RATE / LEARNING_RATE) ** (1.0 / method.num_steps)
    svi = SVI(flat_model, guide, Adam(lambda step: LEARNING_RATE * decay**step), Trace_ELBO(method.num_particles))
    key_fit, key_draw = jax.random.split(rng_key)
    state, losses = jax.lax.scan(lambda s, _: svi.stable_update(s), svi.init(key_fit), None, length=method.num_steps)
    params = svi.get_params(state)
    draws = guide.sample_posterior(key_draw, params, sample_shape=(4, GUIDE_DRAWS // 4))["z"]
    failed = ~jnp.isfinite(losses[-1])
    if method.guide in _GAUSSIAN:
        posterior = guide.get_posterior(params)
        spread = dist.Normal(posterior.loc, posterior.scale).to_event(1) if posterior.event_shape == () else posterior
        score = jax.vmap(jax.vmap(jax.grad(spread.log_prob)))(draws)
    else:
        score = jnp.zeros_like(draws)
    return draws, score, jnp.broadcast_to(failed, draws.shape[:2]), jnp.ones(draws.shape[:2])
