r"""The last pass over a shard: its marginal likelihood at draws of the globals, and its locals redrawn given them.

For a draw g of the merged globals the conditional :math:`p(l \mid g, y_s)` gets a Laplace approximation (mode and curvature
for that g). Of it:

* :math:`\log L_s(g) = \log \int p(y_s, l \mid g)\,dl` by importance sampling, from a fixed mixture of the Laplace
  approximation and a Student t of its shape (defence against heavier tails: Hesterberg 1995, Technometrics 37) in antithetic
  pairs, with the standard error of its logarithm; without locals it is exact;
* the locals: one of these proposals, chosen by its weight, then moved by ``NUM_MOVES`` Hamiltonian transitions whose target is
  the exact conditional, in coordinates in which the Laplace approximation is standard normal. What is left of the choice
  among few proposals is forgotten by these transitions; their acceptance is reported.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fitting.user_checks import program
from fitting.user_model import ROWS, Program, Shard, ShardedModel, constrain, densities

NUM_NORMAL, NUM_WIDE = 24, 8  # proposals of either kind, in pairs around the mode
NUM_PROPOSALS = NUM_NORMAL + NUM_WIDE
DEGREES_OF_FREEDOM = 5.0
NUM_NEWTON = 5
FLATTEST = 1e-3  # least curvature that a step or a proposal is made of
NUM_MOVES, NUM_LEAPFROGS = 4, 6
CHUNK = 50  # draws at once: memory is CHUNK times proposals times rows


class LastPass(NamedTuple):
    """What one shard reports for M draws of the globals.

    ``log_likelihood`` (M,) is log L_s, with its Monte Carlo error ``log_likelihood_mcse`` (M,). ``values`` are the
    sites on their own scale, (M, ...), padding still in them. ``acceptance`` (M,) is that of the moves; ``ess_share`` (M,) the
    effective share of the proposals.
    """

    log_likelihood: np.ndarray
    log_likelihood_mcse: np.ndarray
    values: dict[str, np.ndarray]
    acceptance: np.ndarray
    ess_share: np.ndarray


def run(rng_key: jax.Array, sharded: ShardedModel, shard: Shard, g: np.ndarray) -> LastPass:
    """Last pass of a shard over draws of the unconstrained globals, (M, d)."""
    with jax.enable_x64(True):
        made = program(sharded, shard)
        data = {name: jnp.asarray(values) for name, values in shard.data.items()}
        mask = jnp.asarray(shard.mask)
        total = -(-len(g) // CHUNK) * CHUNK
        padded = jnp.asarray(np.concatenate([g, np.repeat(g[:1], total - len(g), axis=0)]))
        keys = jax.random.split(rng_key, total)
        start = jnp.zeros(made.num_locals)
        if made.num_locals:
            start = _mode(jnp.asarray(g.mean(axis=0)), start, data, mask, made=made)
        parts = [
            _chunk(keys[i : i + CHUNK], padded[i : i + CHUNK], start, data, mask, made=made)
            for i in range(0, total, CHUNK)
        ]
    joined = jax.tree.map(lambda *arrays: np.concatenate([np.asarray(a) for a in arrays])[: len(g)], *parts)
    log_likelihood, mcse, acceptance, share, values = joined
    return LastPass(log_likelihood, mcse, values, acceptance, share)


def _log_rest(made: Program, data: Any, mask: Any, g: jax.Array, l: jax.Array) -> jax.Array:
    return densities(made, data, mask, g, l)[1]


@partial(jax.jit, static_argnames="made")
def _mode(g: jax.Array, start: jax.Array, data: Any, mask: Any, *, made: Program) -> jax.Array:
    """Newton's method with a backtracking line search; where the curvature is not negative, gradient steps."""
    log_rest = partial(_log_rest, made, data, mask, g)

    def one(l: jax.Array, _: None) -> tuple[jax.Array, None]:
        step = _newton_step(jax.grad(log_rest)(l), jax.hessian(log_rest)(l))
        tried = l + 0.5 ** jnp.arange(8.0)[:, None] * step
        values = jnp.nan_to_num(jax.vmap(log_rest)(tried), nan=-jnp.inf)
        best = jnp.argmax(values)
        return jnp.where(values[best] > log_rest(l), tried[best], l), None

    return jax.lax.scan(one, start, None, length=30)[0]


def _newton_step(gradient: jax.Array, hessian: jax.Array) -> jax.Array:
    values, vectors = jnp.linalg.eigh(-0.5 * (hessian + hessian.T))
    return vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), FLATTEST))


@partial(jax.jit, static_argnames="made")
def _chunk(keys: jax.Array, g: jax.Array, start: jax.Array, data: Any, mask: Any, *, made: Program) -> Any:
    return jax.vmap(lambda key, point: _one(made, data, mask, start, key, point))(keys, g)


def _one(made: Program, data: Any, mask: Any, start: jax.Array, key: jax.Array, g: jax.Array) -> Any:
    """Log likelihood, its error, acceptance, share of effective proposals, and the sites' values, at one draw of the globals."""
    log_rest = partial(_log_rest, made, data, mask, g)
    if not made.num_locals:
        empty = jnp.zeros(0)
        return log_rest(empty), jnp.zeros(()), jnp.ones(()), jnp.ones(()), _values(made, data, mask, g, empty)
    mode, lower = _laplace(log_rest, start)
    key_propose, key_choose, key_move = jax.random.split(key, 3)
    z, log_proposal = _proposals(key_propose, made.num_locals)
    log_w = jax.vmap(lambda point: log_rest(mode + lower @ point))(z) - log_proposal
    log_w = jnp.nan_to_num(log_w, nan=-jnp.inf)
    weights = jax.nn.softmax(log_w)
    log_mean, mcse = _log_mean(log_w)
    log_likelihood = log_mean + jnp.sum(jnp.log(jnp.diag(lower)))
    chosen = z[jax.random.categorical(key_choose, log_w)]
    moved, acceptance = _moves(key_move, lambda point: log_rest(mode + lower @ point), chosen)
    share = 1.0 / (NUM_PROPOSALS * jnp.sum(weights**2))
    return log_likelihood, mcse, acceptance, share, _values(made, data, mask, g, mode + lower @ moved)


def _laplace(log_rest: Any, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mode for this g, by Newton's method from a mode nearby, and a factor of the covariance that the curvature means."""
    gradient, hessian = jax.grad(log_rest), jax.hessian(log_rest)

    def newton(l: jax.Array, _: None) -> tuple[jax.Array, None]:
        step = _newton_step(gradient(l), hessian(l))
        here, whole, half = jax.vmap(log_rest)(l + jnp.array([0.0, 1.0, 0.25])[:, None] * step)
        return jnp.where(whole >= here, l + step, jnp.where(half > here, l + 0.25 * step, l)), None

    mode = jax.lax.scan(newton, start, None, length=NUM_NEWTON)[0]
    values, vectors = jnp.linalg.eigh(-0.5 * (hessian(mode) + hessian(mode).T))
    covariance = (vectors / jnp.maximum(jnp.abs(values), FLATTEST)) @ vectors.T
    return mode, jnp.linalg.cholesky(covariance)


def _proposals(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Antithetic pairs, (NUM_PROPOSALS, L), first the normal ones, and their log densities under the whole mixture."""
    key_normal, key_scale = jax.random.split(key)
    nu = DEGREES_OF_FREEDOM
    normal = jax.random.normal(key_normal, (NUM_PROPOSALS // 2, size))
    squared = 2.0 * jax.random.gamma(key_scale, nu / 2, (NUM_WIDE // 2, 1))
    half = normal.at[NUM_NORMAL // 2 :].multiply(jnp.sqrt(nu / squared))
    z = jnp.stack([half, -half], axis=1).reshape(NUM_PROPOSALS, size)
    squares = jnp.sum(z * z, axis=1)
    log_normal = -0.5 * (squares + size * jnp.log(2 * jnp.pi))
    constant = jax.lax.lgamma((nu + size) / 2) - jax.lax.lgamma(nu / 2) - 0.5 * size * jnp.log(nu * jnp.pi)
    log_t = constant - 0.5 * (nu + size) * jnp.log1p(squares / nu)
    share = NUM_NORMAL / NUM_PROPOSALS
    return z, jnp.logaddexp(jnp.log(share) + log_normal, jnp.log(1 - share) + log_t)


def _log_mean(log_w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log of the mean weight, and its standard error from the spread of the pairs within each part of the mixture."""
    total = jax.nn.logsumexp(log_w)
    pairs = jnp.exp(log_w - total).reshape(-1, 2).sum(axis=1)  # they sum to one
    parts = (pairs[: NUM_NORMAL // 2], pairs[NUM_NORMAL // 2 :])
    return total - jnp.log(NUM_PROPOSALS), jnp.sqrt(sum(len(p) * jnp.var(p, ddof=1) for p in parts))


def _moves(key: jax.Array, log_density: Any, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hamiltonian Monte Carlo of fixed length, near a quarter turn of a standard normal; mean acceptance with it."""
    gradient = jax.grad(log_density)
    step = 1.5 / NUM_LEAPFROGS / len(z) ** 0.25

    def move(z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_momentum, key_accept = jax.random.split(key)
        momentum = jax.random.normal(key_momentum, z.shape)

        def leapfrog(carry: Any, _: None) -> tuple[Any, None]:
            z, p, grad = carry
            p = p + 0.5 * step * grad
            z = z + step * p
            grad = gradient(z)
            return (z, p + 0.5 * step * grad, grad), None

        (new, p, _), _ = jax.lax.scan(leapfrog, (z, momentum, gradient(z)), None, length=NUM_LEAPFROGS)
        change = log_density(new) - log_density(z) - 0.5 * (p @ p - momentum @ momentum)
        probability = jnp.exp(jnp.minimum(jnp.nan_to_num(change, nan=-jnp.inf), 0.0))
        accepted = jax.random.uniform(key_accept) < probability
        return jnp.where(accepted, new, z), probability

    z, probabilities = jax.lax.scan(move, z, jax.random.split(key, NUM_MOVES))
    return z, probabilities.mean()


def _values(made: Program, data: Any, mask: Any, g: jax.Array, l: jax.Array) -> dict[str, jax.Array]:
    """All sites but those of single rows: they are people."""
    places = (*made.global_places, *made.local_places, *made.derived_places)
    of_rows = {place.name for place in places if ROWS in {plate for _, plate in place.axes}}
    return {name: value for name, value in constrain(made, data, mask, g, l).items() if name not in of_rows}
