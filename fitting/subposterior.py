r"""Draws of one shard's subposterior, by NUTS: what the classic combiners merge.

A shard alone, with likelihood L_s, samples one of two targets (``fitting.classic`` says which combiner needs which):

.. math:: \text{fractionated}\quad L_s(\theta)\,[p(\psi)\,p(\theta_c\mid\psi)]^{1/S}\,p(\theta_s\mid\psi),
          \qquad \text{powered}\quad L_s(\theta)^S\,p(\psi)\,p(\theta_c\mid\psi).

psi are the hyperparameters on the unconstrained line, so that :math:`p(\psi)` holds the transform's Jacobian, which is
tempered with it: the product of all shards' densities carries prior and Jacobian once. The *density* is tempered, not the
width, because the normaliser of :math:`p(\theta_c\mid\psi)` depends on psi.

:math:`\theta_c` are the coefficients *common* to shards: every fixed effect, and every group level with cells in two shards or
more. :math:`\theta_s` are a shard's *own*: group levels with cells in no other shard, as a state's counties when shards are
states. Their conditional prior given psi stays whole, for no other shard carries it. A powered likelihood with own levels
would give S copies of the data one and the same effect, which is another model; it is refused.

**Whitening.** :math:`\theta = Q_\psi^{-1}h_\psi + L_\psi^{-T}z` with :math:`Q_\psi = L_\psi L_\psi'` the tempered prior's
precision given psi plus a Gaussian approximation of the likelihood: near a standard normal in z whatever the scales are, so
there is no funnel (as in ``fitting.exact``). It changes the speed, not the target. Dense: meant for hundreds of coefficients
a shard, not for thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from jax.scipy.linalg import solve_triangular
from numpyro.infer.hmc import hmc

from fitting import combiner, rounds, sites
from fitting import tree as tr
from fitting.classic import Kind
from fitting.families import Family, log_likelihood
from fitting.hierarchy import Hierarchy
from fitting.own_effects import Shard, units
from fitting.shard_draws import CombinerError
from fitting.tilted_nuts import padded_size

APPROXIMATION_STEPS = 20
LARGEST_STEP = 2.0  # logits: a shard without events pulls its intercept far, and a whole Newton step overshoots
APPROXIMATION_TOLERANCE = 0.01  # posterior sds
NUM_NODES = 11
TARGET_ACCEPTANCE = 0.9  # tempered scales have long tails: shorter steps than NumPyro's 0.8


class Subposterior(NamedTuple):
    """Draws of one shard, and what a person needs to judge them.

    ``common`` (chain, draw, C), ``psi`` (chain, draw, H) and ``own`` (chain, draw, L); ``r_hat`` is the largest and
    ``ess_bulk`` the smallest over common coefficients and psi.
    """

    common: np.ndarray
    psi: np.ndarray
    own: np.ndarray
    r_hat: float
    ess_bulk: float
    num_divergent: int
    acceptance: float

    @property
    def merged(self) -> np.ndarray:
        """What combiners merge: common coefficients, then psi, (chain, draw, C + H)."""
        return np.concatenate([self.common, self.psi], axis=-1)


class Target(NamedTuple):
    """One shard's target as arrays, for n cells with K nonzeros each and d coefficients, common ones first, then its own.

    ``index`` (K, n) and ``value`` (K, n) are the design, ``predictor`` (K, P) says which linear predictor a nonzero is part
    of; ``prior_entry`` (d, d) says where in the whole tree's prior
    precision each entry is found and ``prior_weight`` (d, d) to which power it is taken (0: no entry there); ``prior_place``
    and ``shift_weight`` (d,) likewise for the shift; ``padding`` (d,) is 1 at coordinates that nothing depends on.
    ``level_weight`` (terms,) is the sum of powers over each group term's levels. ``precision`` (d, d) and ``shift`` (d,)
    approximate the powered likelihood. ``likelihood_power`` and ``prior_power`` are scalars.
    """

    index: Any
    value: Any
    predictor: Any
    statistics: dict[str, Any]
    prior_entry: Any
    prior_weight: Any
    prior_place: Any
    shift_weight: Any
    padding: Any
    level_weight: Any
    precision: Any
    shift: Any
    likelihood_power: Any
    prior_power: Any


Sampler = Callable[[jax.Array, Target], dict[str, Any]]


def shard_key(seed: int, shard: int) -> jax.Array:
    """Key of one shard by its place in the manifest: independent of every other shard's, the same when it is run again."""
    return jax.random.fold_in(jax.random.key(seed), shard)


def target(
    hierarchy: Hierarchy,
    shard: Shard,
    common: np.ndarray,
    own: np.ndarray,
    *,
    kind: Kind,
    num_shards: int,
    where: str = "shard",
) -> Target:
    """The arrays of one shard's subposterior.

    Parameters
    ----------
    common, own
        Places in the whole tree, shapes (C,) and (L,); from ``own_effects.partition``.
    kind
        ``fractionated`` or ``powered``.

    Raises
    ------
    CombinerError
        Fewer than one shard, or a powered likelihood of a shard with group levels of its own.
    """
    if num_shards < 1:
        raise CombinerError("shards", f"{num_shards}", "1 or more")
    if kind == "powered" and len(own):
        raise CombinerError(
            where,
            f"{len(own)} group effects with cells in no other shard, under the likelihood to the power {num_shards}",
            "every level in two shards or more (cut shards by hash or at random), "
            "or a combiner of fractionated subposteriors: consensus, gaussian, nonparametric, semiparametric",
        )
    if hierarchy.shrinkage is not None:
        raise CombinerError("priors.b", "a horseshoe", "a normal prior: a classic combiner has no powers of a horseshoe's scales")
    prior_power, likelihood_power = (1.0 / num_shards, 1.0) if kind == "fractionated" else (1.0, float(num_shards))
    tree, restriction, design = hierarchy.model.tree, *shard
    kept = np.concatenate([common, own])
    power = np.zeros(tree.num_coefficients)
    power[common], power[own] = prior_power, 1.0
    size, num_cells = padded_size(len(kept)), padded_size(design.num_cells)
    position = np.full(tree.num_coefficients, -1, dtype=np.int64)
    position[kept] = np.arange(len(kept))

    entry, weight = np.zeros((size, size), dtype=np.int64), np.zeros((size, size))
    level_weight = np.zeros(len(hierarchy.model.groups))
    place, shift_weight, padding = np.zeros(size, dtype=np.int64), np.zeros(size), np.ones(size)
    place[: len(kept)], padding[: len(kept)] = kept, 0.0
    fixed = hierarchy.fixed_places
    entry[position[fixed], position[fixed]] = tree.diagonal[fixed]
    weight[position[fixed], position[fixed]] = power[fixed]
    shift_weight[position[fixed]] = power[fixed]
    for g, (levels, entries) in enumerate(zip(units(hierarchy), _unit_entries(hierarchy), strict=True)):
        here = position[levels[:, 0]] >= 0
        rows, powers = position[levels[here]], power[levels[here][:, 0]]
        entry[rows[:, :, None], rows[:, None, :]] = entries[here]
        weight[rows[:, :, None], rows[:, None, :]] = powers[:, None, None]
        level_weight[g] = powers.sum()

    psi = combiner.start(hierarchy)
    prior, prior_shift, _ = hierarchy.add_prior(psi, np.zeros(tree.num_entries), np.zeros(tree.num_coefficients))
    precision, shift = _approximate(
        hierarchy,
        shard,
        position,
        prior[entry] * weight + np.diag(padding),
        prior_shift[place] * shift_weight,
        likelihood_power,
        float(hierarchy.residual_sd(psi)) ** -2.0,
    )
    ones = np.ones(design.num_cells)
    values = [ones if value is None else value for value in design.values]
    return Target(
        index=_pad(np.stack([position[restriction.coefficients[p]] for p in design.places]), (len(values), num_cells)),
        value=_pad(np.stack(values), (len(values), num_cells)),
        predictor=np.eye(design.num_predictors)[list(design.predictors)],
        statistics={
            name: _pad(np.asarray(column, dtype=np.float64), (num_cells,)) for name, column in design.statistics.items()
        },
        prior_entry=entry,
        prior_weight=weight,
        prior_place=place,
        shift_weight=shift_weight,
        padding=padding,
        level_weight=level_weight,
        precision=precision,
        shift=shift,
        likelihood_power=np.float64(likelihood_power),
        prior_power=np.float64(prior_power),
    )


def sampler(hierarchy: Hierarchy, *, num_warmup: int, num_draws: int, num_chains: int) -> Sampler:
    """A compiled sampler for shards of this model: one program per padded shape, shared by all shards that have it."""
    size = hierarchy.size
    start_psi = combiner.start(hierarchy)

    def sample(rng_key: jax.Array, given: Target) -> dict[str, Any]:
        def potential(position: dict[str, Any]) -> Any:
            theta, log_determinant = _expand(hierarchy, given, position["psi"], position["z"])
            return -log_density(hierarchy, given, position["psi"], theta) - log_determinant

        init_kernel, sample_kernel = hmc(potential, algo="NUTS")

        def run_chain(key: jax.Array) -> dict[str, Any]:
            key_psi, key_z, key_run = jax.random.split(key, 3)
            first = {
                "psi": start_psi + 0.3 * jax.random.normal(key_psi, (size,)),
                "z": jax.random.normal(key_z, given.shift.shape),
            }
            state = init_kernel(
                first,
                num_warmup,
                dense_mass=[("psi",)] if size else False,
                target_accept_prob=TARGET_ACCEPTANCE,
                rng_key=key_run,
            )

            def draw(state: Any, _: None) -> tuple[Any, dict[str, Any]]:
                state = sample_kernel(state)
                theta, _ = _expand(hierarchy, given, state.z["psi"], state.z["z"])
                return state, {
                    "psi": state.z["psi"],
                    "theta": theta,
                    "diverging": state.diverging,
                    "accept_prob": state.accept_prob,
                }

            _, collected = jax.lax.scan(draw, state, None, length=num_warmup + num_draws)
            return {name: x[num_warmup:] for name, x in collected.items()}

        return jax.vmap(run_chain)(jax.random.split(rng_key, num_chains))

    return jax.jit(sample)


def draw(sample: Sampler, rng_key: jax.Array, given: Target, num_common: int, num_own: int) -> Subposterior:
    """Draws of one shard, in float64, with R-hat, effective size and divergences."""
    with jax.enable_x64(True):
        found = {name: np.asarray(x) for name, x in sample(rng_key, jax.tree.map(jnp.asarray, given)).items()}
    common = found["theta"][..., :num_common]
    watched = np.concatenate([common, found["psi"]], axis=-1)
    return Subposterior(
        common,
        found["psi"],
        found["theta"][..., num_common : num_common + num_own],
        r_hat=float(np.max(array_stats.rhat(watched, chain_axis=0, draw_axis=1))),
        ess_bulk=float(np.min(array_stats.ess(watched, chain_axis=0, draw_axis=1))),
        num_divergent=int(found["diverging"].sum()),
        acceptance=float(found["accept_prob"].mean()),
    )


# ---- the target ----


def _shard_log_likelihood(family: Family, given: Target, theta: Any, residual_sd: Any) -> Any:
    eta = jnp.zeros((given.predictor.shape[1], given.index.shape[1]))
    for index, value, predictor in zip(given.index, given.value, given.predictor, strict=True):
        eta = eta + predictor[:, None] * (value * theta[index])
    return log_likelihood(family, given.statistics, eta, residual_sd, xp=jnp).sum()


def _tempered_prior(hierarchy: Hierarchy, given: Target, psi: Any) -> tuple[Any, Any]:
    """Precision (d, d) and shift (d,) of the shard's coefficients given psi; padding is standard normal."""
    tree = hierarchy.model.tree
    entries, shift, _ = hierarchy.add_prior(psi, jnp.zeros(tree.num_entries), jnp.zeros(tree.num_coefficients), jnp)
    precision = entries[given.prior_entry] * given.prior_weight + jnp.diag(given.padding)
    return precision, shift[given.prior_place] * given.shift_weight


def _expand(hierarchy: Hierarchy, given: Target, psi: Any, z: Any) -> tuple[Any, Any]:
    """Coefficients (d,) at z, and the log determinant of d theta / d z."""
    prior, shift = _tempered_prior(hierarchy, given, psi)
    scale = hierarchy.residual_sd(psi, jnp) ** -2.0
    lower = jnp.linalg.cholesky(prior + scale * given.precision)
    solved = solve_triangular(lower, shift + scale * given.shift, lower=True)
    theta = solve_triangular(lower.T, solved + z, lower=False)
    return theta, -jnp.log(jnp.diagonal(lower)).sum()


def log_density(hierarchy: Hierarchy, given: Target, psi: Any, theta: Any) -> Any:
    """Log density of a shard's subposterior at psi (H,) and its coefficients (d,), up to a constant."""
    prior, shift = _tempered_prior(hierarchy, given, psi)
    total = given.prior_power * hierarchy.log_prior(psi, jnp) + shift @ theta - 0.5 * theta @ (prior @ theta)
    for g, part in enumerate(hierarchy.slices):
        total = total + 0.5 * given.level_weight[g] * hierarchy.group_precision(g, psi[part], jnp)[1]
    residual_sd = hierarchy.residual_sd(psi, jnp)
    return total + given.likelihood_power * _shard_log_likelihood(hierarchy.family, given, theta, residual_sd)


# ---- its arrays ----


def _unit_entries(hierarchy: Hierarchy) -> list[np.ndarray]:
    return [group.entries for group in hierarchy.model.groups]


def _approximate(
    hierarchy: Hierarchy,
    shard: Shard,
    position: np.ndarray,
    prior: np.ndarray,
    prior_shift: np.ndarray,
    likelihood_power: float,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Variational Gaussian of the powered likelihood, precision (d, d) and shift (d,); where it stops is only a matter of speed."""
    restriction, design = shard
    tree = restriction.tree
    place = position[restriction.coefficients]
    inside, kept = np.flatnonzero(place >= 0), place[place >= 0]
    under = rounds.part_of(rounds.init(hierarchy).moments, restriction)
    mean, covariance = under.mean, under.covariance
    for _ in range(APPROXIMATION_STEPS):
        site = sites.fit(tree, design, hierarchy.family, mean, covariance, num_nodes=NUM_NODES, convex=True)
        site = sites.about(tree, site, np.zeros(tree.num_coefficients))
        precision, shift = np.zeros_like(prior), np.zeros_like(prior_shift)
        precision[np.ix_(kept, kept)] = likelihood_power * tr.dense(tree, site.precision)[np.ix_(inside, inside)]
        shift[kept] = likelihood_power * site.shift[inside]
        spread = np.linalg.inv(prior + scale * precision)
        found = (spread @ (prior_shift + scale * shift))[kept]
        step = found - mean[inside]
        furthest = float(np.max(np.abs(step), initial=0.0))
        stride = 1.0 if hierarchy.family.has_residual_scale else min(1.0, LARGEST_STEP / max(furthest, 1e-300))
        mean = mean.copy()
        mean[inside] += stride * step
        dense = np.eye(tree.num_coefficients)
        dense[np.ix_(inside, inside)] = spread[np.ix_(kept, kept)]
        covariance = tr.from_dense(tree, dense)
        if furthest <= APPROXIMATION_TOLERANCE * np.sqrt(np.min(np.diag(spread))):
            break
    return precision, shift


def _pad(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.pad(array, [(0, wanted - found) for wanted, found in zip(shape, array.shape, strict=True)])
