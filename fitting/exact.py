r"""Draws from the full-data posterior itself: NUTS on every coefficient and hyperparameter, preconditioned by the merge.

In coordinates :math:`\psi = \hat\psi + A s` and :math:`\theta = L_\psi^{-T}(L_\psi^{-1} h_\psi + z)`, with
:math:`L_\psi L_\psi'` the merged precision given psi, the merged posterior is near a standard normal in (s, z) whatever the
scales are, so there is no funnel and few steps a draw (a transport map, Parno & Marzouk 2018). The target is the exact one,

.. math:: \log p(\psi) + \log p(\theta\mid\psi) + \sum_s \log L_s(\theta) - \tfrac12\log|L_\psi L_\psi'|,

with the likelihood of every cell of every shard in value and gradient: a poor merge costs steps, never correctness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, NUTS

from fitting import combiner
from fitting import tree as tr
from fitting.cell_design import CellDesign
from fitting.combiner import Draws
from fitting.families import log_likelihood
from fitting.hierarchy import Hierarchy
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.tree import Restriction


def draw(
    hierarchy: Hierarchy,
    sites: Natural,
    proposal: Proposal,
    shards: Sequence[tuple[Restriction, CellDesign]],
    *,
    num_draws: int,
    num_chains: int,
    num_warmup: int,
    seed: int,
) -> Draws:
    """Draw by NUTS from the exact posterior; ``acceptance`` is each chain's mean acceptance probability.

    Parameters
    ----------
    sites, proposal
        The merge that preconditions; it changes the speed, not the target.
    shards
        Every shard's place in the tree and its cells, coefficients numbered on that place.
    num_draws, num_warmup
        Per chain.
    """
    start = combiner.draw(hierarchy, sites, proposal, num_draws=1, num_chains=num_chains, seed=seed)
    rng = np.random.default_rng([seed, 1])
    scale = proposal.axes * proposal.widths.mean(axis=0) if hierarchy.size else np.zeros((0, 0))
    first = (
        np.linalg.solve(scale, (start.psi[:, 0] - proposal.mode).T).T if hierarchy.size else np.zeros((num_chains, 0))
    )
    init = {"s": first, "z": rng.standard_normal((num_chains, hierarchy.model.tree.num_coefficients))}
    with jax.enable_x64(True):
        places, values, predictors, statistics = _cells(shards)

        def expand(position: dict[str, Any]) -> tuple[Any, Any, Any]:
            psi = jnp.asarray(proposal.mode) + jnp.asarray(scale) @ position["s"]
            theta, half_log_determinant = _transport(hierarchy, sites, psi, position["z"])
            return psi, theta, half_log_determinant

        def potential(position: dict[str, Any]) -> Any:
            psi, theta, half_log_determinant = expand(position)
            parts = [v * theta[p] for p, v in zip(places, values, strict=True)]
            eta = jnp.stack([sum(parts[j] for j in own) for own in predictors])
            likelihood = log_likelihood(hierarchy.family, statistics, eta, hierarchy.residual_sd(psi, jnp), jnp).sum()
            padding = theta[np.flatnonzero(hierarchy.model.is_padding)]
            prior = hierarchy.log_prior(psi, jnp) + hierarchy.log_conditional_prior(psi, theta, jnp)
            return half_log_determinant - prior - likelihood + 0.5 * padding @ padding

        kernel = NUTS(potential_fn=potential, dense_mass=[("s",)] if hierarchy.size else False, target_accept_prob=0.8)
        sampler = MCMC(kernel, num_warmup=num_warmup, num_samples=num_draws, num_chains=num_chains,
                       chain_method="sequential", progress_bar=False)  # fmt: skip
        position = jax.tree.map(jnp.asarray, init)
        sampler.run(jax.random.key(seed), extra_fields=("accept_prob",),
                    init_params=position if num_chains > 1 else jax.tree.map(lambda x: x[0], position))  # fmt: skip
        flat = sampler.get_samples()
        psi, theta, _ = jax.lax.map(expand, flat)
        accepted = sampler.get_extra_fields(group_by_chain=True)["accept_prob"]
    shape = (num_chains, num_draws, -1)
    size = (num_chains, num_draws, hierarchy.size)
    return Draws(np.asarray(theta).reshape(shape), np.asarray(psi).reshape(size), np.asarray(accepted).mean(axis=1))


def _transport(hierarchy: Hierarchy, sites: Natural, psi: Any, z: Any) -> tuple[Any, Any]:
    """Coefficients at z, and half the log determinant of their merged precision given psi."""
    tree = hierarchy.model.tree
    weight = hierarchy.residual_sd(psi, jnp) ** -2.0
    precision, shift, _ = hierarchy.add_prior(
        psi, jnp.asarray(sites.precision) * weight, jnp.asarray(sites.shift) * weight, jnp, sites.reference
    )
    factor = tr.cholesky(tree, precision, jnp)
    solved = tr.forward(tree, factor, shift[:, None], jnp)
    theta = tr.backward(tree, factor, solved + z[:, None], jnp)[:, 0]
    return theta + sites.reference if len(sites.reference) else theta, 0.5 * factor.log_determinant


def _cells(
    shards: Sequence[tuple[Restriction, CellDesign]],
) -> tuple[list[Any], list[Any], list[list[int]], dict[str, Any]]:
    """All cells of all shards, with coefficients numbered in the whole tree; and the nonzeros of each linear predictor."""
    num_columns = len(shards[0][1].places)
    places = [jnp.asarray(np.concatenate([r.coefficients[d.places[j]] for r, d in shards])) for j in range(num_columns)]
    values = []
    for j in range(num_columns):
        column = [np.ones(d.num_cells) if (v := d.values[j]) is None else v for _, d in shards]
        values.append(jnp.asarray(np.concatenate(column)))
    names = shards[0][1].statistics
    first = shards[0][1]
    return (
        places,
        values,
        [[j for j, p in enumerate(first.predictors) if p == own] for own in range(first.num_predictors)],
        {name: jnp.asarray(np.concatenate([d.statistics[name] for _, d in shards])) for name in names},
    )
