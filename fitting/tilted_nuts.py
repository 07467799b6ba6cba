r"""One shard's site from NUTS on its tilted distribution: expectation propagation with moments of low noise.

The tilted distribution of a shard is its cavity (posterior over site) times its own likelihood. Its moments, projected on
the tree, divided by the cavity, are the new site (Vehtari et al. 2020, "Expectation propagation as a way of life", JMLR 21).

**Whitening.** A few variational steps under the cavity give a reference ``cavity * t`` with a Gaussian likelihood factor
t on the coefficients that occur in the shard's cells. In coordinates z in which the reference is N(0, I), the tilted log
density is :math:`-\tfrac12 |z|^2 + r(z)` with the log ratio :math:`r = \log L - \log t`, so NUTS sees almost a standard
normal, needs no mass matrix, and few steps a draw.

**Low noise.** The tilted score is :math:`g = -z + \nabla r` with :math:`E[g] = 0` and, by Stein's identity,
:math:`E[g z'] = -I`. Adding g to z, and :math:`g z' + I` to :math:`z z'`, changes no expectation (control variates:
Assaraf & Caffarel 1999, Phys. Rev. Lett. 83; Mira, Solgi & Imparato 2013, Stat. Comput. 23) and leaves

.. math:: E[z] = E[u], \qquad \mathrm{Cov}[z] = I + \mathrm{Cov}[u, z], \qquad u = \nabla r(z).

u is zero where the likelihood is the Gaussian t, so the noise of both moments is in proportion to what distinguishes
the tilted distribution from the reference, not to its width. Coefficients that no cell of the shard contains
follow the others by their regression in the cavity, without noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from numpyro.infer.hmc import hmc
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from fitting import cell_blocks, sites
from fitting import tree as tr
from fitting.cell_blocks import CellBlocks
from fitting.cell_design import CellDesign
from fitting.families import Family
from fitting.sites import Site
from fitting.tree import Tree

REFERENCE_STEPS = 3  # variational steps to the reference; from a merged posterior the first is already close
REFERENCE_NODES = 11
MAX_TREE_DEPTH = 5
"""31 steps. In whitened coordinates all frequencies are about one, and a trajectory whose doublings end on whole turns never sees itself turn back:
one chain in some dozens took 300 steps a draw where 7 do, and all that are sampled beside it waited (docs/design/rounds.md)."""


class TiltedInfo(NamedTuple):
    """What a person needs to judge one shard's sampling.

    ``is_proper`` is False where the cavity, or the estimated covariance, is no distribution: the site is then the old
    one. ``r_hat`` is the largest and ``ess_bulk`` the smallest over whitened coordinates; ``mcse`` is the largest Monte
    Carlo error of a tilted mean, in sds of the reference.
    """

    is_proper: bool
    r_hat: float
    ess_bulk: float
    num_divergent: int
    acceptance: float
    mcse: float


EXACT = TiltedInfo(True, 1.0, float("inf"), 0, 1.0, 0.0)
NOT_PROPER = TiltedInfo(False, float("nan"), 0.0, 0, 0.0, float("inf"))


class Target(NamedTuple):
    """The log ratio r(z) as arrays, for d whitened coordinates.

    ``cells`` have the design over the touched coefficients and, as offset, the linear predictors at z = 0; ``lower`` (d, d) takes
    z to coefficients; ``precision`` (d, d) and ``shift`` (d,) are log t in z.
    """

    cells: CellBlocks
    lower: Any
    precision: Any
    shift: Any


class Draws(NamedTuple):
    """Draws of z and of the gradient u of the log ratio, (chain, draw, d); divergence and acceptance (chain, draw)."""

    z: np.ndarray
    u: np.ndarray
    diverging: np.ndarray
    acceptance: np.ndarray


class _Reference(NamedTuple):
    """``cavity * t`` of a shard: touched coefficients, their Cholesky factor, and G with Cov(theta, z) = G, (D_s, d)."""

    site: Site
    mean: np.ndarray
    covariance: np.ndarray
    touched: np.ndarray
    lower: np.ndarray
    regression: np.ndarray


class Tilted(NamedTuple):
    """What the fit of one shard is given; the fields are the arguments of `fit`."""

    rng_key: jax.Array
    tree: Tree
    design: CellDesign
    mean: np.ndarray
    covariance: np.ndarray
    site: Site


@dataclass(frozen=True)
class _Begun:
    """A fit that has to be sampled."""

    cavity: Site
    reference: _Reference
    target: Target


def shard_key(seed: int, shard: int, round_number: int) -> jax.Array:
    """Key of one shard (its place in the manifest) and round: the same wherever, and however often, it is fitted."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), shard), round_number)


def fit(
    rng_key: jax.Array,
    tree: Tree,
    design: CellDesign,
    family: Family,
    mean: np.ndarray,
    covariance: np.ndarray,
    site: Site,
    *,
    num_warmup: int,
    num_draws: int,
    num_chains: int,
) -> tuple[Site, TiltedInfo]:
    """Site of one shard such that cavity times site has the tilted distribution's moments on the tree.

    Parameters
    ----------
    design
        With coefficients numbered on ``tree`` (``within`` of `fitting.model.Model.design`).
    mean, covariance
        Moments of the merged posterior on the shard's part of the tree, shapes (D_s,) and (E_s,).
    site
        The shard's factor in that posterior. Start from variational sites: without a site there is no cavity.
    num_chains
        Two or more, for R-hat.
    """
    shard = Tilted(rng_key, tree, design, mean, covariance, site)
    return fit_together([shard], family, num_warmup=num_warmup, num_draws=num_draws, num_chains=num_chains)[0]


def fit_together(
    shards: Sequence[Tilted], family: Family, *, num_warmup: int, num_draws: int, num_chains: int
) -> list[tuple[Site, TiltedInfo]]:
    """`fit` of several shards: those of one program are sampled side by side by one call of it, which is what keeps a GPU busy.

    The draws of a shard that is sampled beside others may be others than those it has alone: sums that are rounded in another order can let a
    trajectory turn one step later. Both are draws from the same distribution.
    """
    fitted: dict[int, tuple[Site, TiltedInfo]] = {}
    alike: dict[Any, list[tuple[int, _Begun]]] = {}
    for s, shard in enumerate(shards):
        begun = _begin(shard, family)
        if isinstance(begun, _Begun):
            alike.setdefault(tuple(np.shape(array) for array in jax.tree.leaves(begun.target)), []).append((s, begun))
        else:
            fitted[s] = begun
    for group in alike.values():
        keys, targets = [shards[s].rng_key for s, _ in group], [begun.target for _, begun in group]
        together = sample_together(
            keys, targets, family, num_warmup=num_warmup, num_draws=num_draws, num_chains=num_chains
        )
        for (s, begun), draws in zip(group, together, strict=True):
            fitted[s] = _end(shards[s], begun, draws)
    return [fitted[s] for s in range(len(shards))]


def _begin(shard: Tilted, family: Family) -> _Begun | tuple[Site, TiltedInfo]:
    """Whiten a shard's tilted distribution; its site, where nothing has to be sampled or nothing can be."""
    design, tree = shard.design.some(np.flatnonzero(shard.design.statistics["num_trials"])), shard.tree
    if family.has_residual_scale or design.num_cells == 0:
        return sites.fit(tree, design, family, shard.mean, shard.covariance, num_nodes=1), EXACT
    posterior = tr.precision_from_covariance(tree, shard.covariance)
    cavity = Site(
        posterior - shard.site.precision,
        tr.multiply(tree, posterior, shard.mean[:, None])[:, 0] - shard.site.shift,
        shard.site.constants,
    )
    try:
        tr.cholesky(tree, cavity.precision)
        reference = _reference(tree, design, family, cavity, shard.mean, shard.covariance)
    except np.linalg.LinAlgError:
        return shard.site, NOT_PROPER
    return _Begun(cavity, reference, _target(tree, design, reference))


def _end(shard: Tilted, begun: _Begun, draws: Draws) -> tuple[Site, TiltedInfo]:
    """The site that gives the cavity the moments of the draws."""
    tree, cavity, reference = shard.tree, begun.cavity, begun.reference
    size = len(reference.touched)
    draws = draws._replace(z=draws.z[..., :size], u=draws.u[..., :size])
    mean_z, excess = moments(draws)
    info = _info(draws, reference.lower)
    if np.linalg.eigvalsh(excess)[0] <= -1.0:
        return shard.site, info._replace(is_proper=False)
    tilted_mean = reference.mean + reference.regression @ mean_z
    tilted_covariance = reference.covariance + reference.regression @ excess @ reference.regression.T
    precision = tr.precision_from_covariance(tree, tr.from_dense(tree, tilted_covariance))
    shift = tr.multiply(tree, precision, tilted_mean[:, None])[:, 0]
    return Site(precision - cavity.precision, shift - cavity.shift, shard.site.constants), info


def moments(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Tilted mean of z, (d,), and tilted covariance of z less the identity, (d, d), by control variates."""
    z, u = (x.reshape(-1, x.shape[-1]) for x in (draws.z, draws.u))
    mean = u.mean(axis=0)
    excess = (u - mean).T @ (z - z.mean(axis=0)) / (len(z) - 1)
    return mean, 0.5 * (excess + excess.T)


def sample(
    rng_key: jax.Array, target: Target, family: Family, *, num_warmup: int, num_draws: int, num_chains: int
) -> Draws:
    """NUTS on ``-|z|^2 / 2 + r(z)``, in float64; chains one after the other on a CPU, side by side elsewhere.

    One program for each number of coordinates, whatever the cells.
    """
    with jax.enable_x64(True):
        z, potential_gradient, diverging, acceptance = _sample(
            rng_key,
            jax.tree.map(jnp.asarray, target),
            family=family,
            num_warmup=num_warmup,
            num_draws=num_draws,
            num_chains=num_chains,
        )
    z = np.asarray(z)
    return Draws(z, z - np.asarray(potential_gradient), np.asarray(diverging), np.asarray(acceptance))


def sample_together(
    rng_keys: Sequence[jax.Array],
    targets: Sequence[Target],
    family: Family,
    *,
    num_warmup: int,
    num_draws: int,
    num_chains: int,
) -> list[Draws]:
    """`sample` of targets of one shape, side by side: one program for 2, 4, 8, ... of them (the last is repeated)."""
    if len(targets) == 1:
        sizes = {"num_warmup": num_warmup, "num_draws": num_draws, "num_chains": num_chains}
        return [sample(rng_keys[0], targets[0], family, **sizes)]
    room = 1 << (len(targets) - 1).bit_length()
    places = np.minimum(np.arange(room), len(targets) - 1)
    with jax.enable_x64(True):
        stacked = jax.tree.map(lambda *arrays: jnp.stack([arrays[p] for p in places]), *targets)
        z, potential_gradient, diverging, acceptance = _sample_together(
            jnp.stack([rng_keys[p] for p in places]),
            stacked,
            family=family,
            num_warmup=num_warmup,
            num_draws=num_draws,
            num_chains=num_chains,
        )
    z = np.asarray(z)
    u = z - np.asarray(potential_gradient)
    diverging, acceptance = np.asarray(diverging), np.asarray(acceptance)
    return [Draws(z[t], u[t], diverging[t], acceptance[t]) for t in range(len(targets))]


def padded_size(size: int) -> int:
    """Smallest of 32, 128, 192, 256, 384, 512, ... that is not less: few programs to compile."""
    if size <= 32:
        return 32
    power = 128
    while power < size:
        power *= 2
    return power * 3 // 4 if power > 128 and size <= power * 3 // 4 else power


@partial(jax.jit, static_argnames=("family", "num_warmup", "num_draws", "num_chains"))
def _sample(
    rng_key: jax.Array, target: Target, *, family: Family, num_warmup: int, num_draws: int, num_chains: int
) -> tuple[jax.Array, ...]:
    init_kernel, sample_kernel = hmc(lambda z: 0.5 * z @ z - _log_ratio(target, family, z), algo="NUTS")

    def run_chain(key: jax.Array) -> tuple[jax.Array, ...]:
        key_start, key_run = jax.random.split(key)
        start = jax.random.normal(key_start, target.shift.shape)
        state = init_kernel(
            start, num_warmup, adapt_mass_matrix=False, max_tree_depth=MAX_TREE_DEPTH, rng_key=key_run
        )

        def draw(state: Any, _: None) -> tuple[Any, tuple[jax.Array, ...]]:
            state = sample_kernel(state)
            return state, (state.z, state.z_grad, state.diverging, state.accept_prob)

        _, collected = jax.lax.scan(draw, state, None, length=num_warmup + num_draws)  # one loop compiles once
        return tuple(x[num_warmup:] for x in collected)

    keys = jax.random.split(rng_key, num_chains)
    if jax.default_backend() == "cpu":  # nobody waits for the longest chain, and the program is traced in a tenth of the time
        return jax.lax.map(run_chain, keys)
    return jax.vmap(run_chain)(keys)


@partial(jax.jit, static_argnames=("family", "num_warmup", "num_draws", "num_chains"))
def _sample_together(rng_keys: jax.Array, targets: Target, **static: Any) -> tuple[jax.Array, ...]:
    return jax.vmap(partial(_sample, **static))(rng_keys, targets)


def _log_ratio(target: Target, family: Family, z: jax.Array) -> jax.Array:
    log_t = target.shift @ z - 0.5 * z @ (target.precision @ z)
    return cell_blocks.total(family, target.cells, target.lower @ z) - log_t


def _reference(
    tree: Tree, design: CellDesign, family: Family, cavity: Site, mean: np.ndarray, covariance: np.ndarray
) -> _Reference:
    """Variational Gaussian of the tilted distribution. Raises ``LinAlgError`` where the cavity is no distribution."""
    for _ in range(REFERENCE_STEPS):
        site = sites.fit(tree, design, family, mean, covariance, num_nodes=REFERENCE_NODES, convex=True)
        precision = cavity.precision + site.precision
        factor = tr.cholesky(tree, precision)
        mean = tr.solve(tree, factor, (cavity.shift + site.shift)[:, None])[:, 0]
        covariance = tr.covariance(tree, factor)
    dense = cho_solve(cho_factor(tr.dense(tree, precision), lower=True), np.eye(tree.num_coefficients))
    touched = np.flatnonzero(site.precision[tree.diagonal])
    lower = np.linalg.cholesky(dense[np.ix_(touched, touched)])
    regression = solve_triangular(lower, dense[touched], lower=True).T
    return _Reference(site, mean, dense, touched, lower, regression)


def _target(tree: Tree, design: CellDesign, reference: _Reference) -> Target:
    """Arrays of the log ratio, padded with coordinates that nothing depends on."""
    touched, lower = reference.touched, reference.lower
    size = padded_size(len(touched))
    place = np.zeros(tree.num_coefficients, dtype=np.int32)
    place[touched] = np.arange(len(touched))
    site_precision = tr.dense(tree, reference.site.precision)[np.ix_(touched, touched)]
    shift = lower.T @ (reference.site.shift[touched] - site_precision @ reference.mean[touched])
    return Target(
        cells=cell_blocks.cut(design, place, sites.predictor_mean(design, reference.mean)),
        lower=_pad(lower, (size, size)),
        precision=_pad(lower.T @ site_precision @ lower, (size, size)),
        shift=_pad(shift, (size,)),
    )


def _pad(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.pad(array, [(0, wanted - found) for wanted, found in zip(shape, array.shape, strict=True)])


def _info(draws: Draws, lower: np.ndarray) -> TiltedInfo:
    sd = np.linalg.norm(lower, axis=1)
    mcse = array_stats.mcse(draws.u @ lower.T, chain_axis=0, draw_axis=1, method="mean")
    return TiltedInfo(
        is_proper=True,
        r_hat=float(np.max(array_stats.rhat(draws.z, chain_axis=0, draw_axis=1))),
        ess_bulk=float(np.min(array_stats.ess(draws.z, chain_axis=0, draw_axis=1))),
        num_divergent=int(draws.diverging.sum()),
        acceptance=float(draws.acceptance.mean()),
        mcse=float(np.max(mcse / sd)),
    )
