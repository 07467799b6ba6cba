"""A user's model on arrays, in one process: shards, rounds, merge, last pass, audit.

>>> run = user_in_memory.fit(MODEL, {"OH": columns_of_ohio, "PA": columns_of_pennsylvania})
>>> run.audit["verdict"], run.variables["tau"].values.mean()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fitting import (
    user_audit,
    user_checks,
    user_combiner,
    user_draws,
    user_locals,
    user_rounds,
    user_shards,
    user_tilted,
)
from fitting import user_gaussian as gaussian
from fitting.config import AuditConfig
from fitting.user_combiner import Sampling
from fitting.user_draws import Variable
from fitting.user_gaussian import Gaussian, Moments
from fitting.user_locals import LastPass
from fitting.user_model import Shard, ShardedModel
from fitting.user_rounds import Round, RoundsState, Schedule
from fitting.user_tilted import NUTS, VI, SiteFit

LAST_PASS_ROUND, DRAW_ROUND = 1 << 19, (1 << 19) + 1  # keys of no round of sites


class UserRun(NamedTuple):
    """A finished run. ``g`` (chain, draw, d) are the unconstrained globals; ``variables`` the sites in the model's own terms."""

    shards: tuple[Shard, ...]
    sites: tuple[Gaussian, ...]
    posterior: Moments
    g: np.ndarray
    variables: dict[str, Variable]
    coords: dict[str, list[str]]
    rounds: tuple[Round, ...]
    audit: dict[str, Any]


def fit(
    sharded: ShardedModel,
    rows: Mapping[str, Mapping[str, np.ndarray]],
    *,
    method: NUTS | VI | None = None,
    schedule: Schedule | None = None,
    audit: AuditConfig | None = None,
    num_draws: int = 250,
    num_chains: int = 4,
    seed: int = 0,
) -> UserRun:
    """Fit a user's model to shards, merge, redraw locals, and audit.

    Parameters
    ----------
    rows
        Shard id to columns, each of shape (rows,).
    num_draws, num_chains
        Of the merged posterior.

    Raises
    ------
    UserModelError, ShardDataError, ImproperPosteriorError
    """
    method, schedule, sampling = method or NUTS(), schedule or Schedule(), Sampling(num_draws, num_chains)
    levels = user_shards.factor_levels(sharded, rows)
    shards = user_shards.code(sharded, rows, levels)
    user_checks.check(sharded, shards)
    prior = user_combiner.prior_of(sharded, shards[0])

    def fit_sites(number: int, posterior: Moments, sites: Sequence[Gaussian]) -> list[SiteFit]:
        return [
            user_tilted.fit(user_tilted.shard_key(seed, s, number), sharded, shard, posterior, site, method)
            for s, (shard, site) in enumerate(zip(shards, sites, strict=True))
        ]

    state, history = user_rounds.run(prior, len(shards), fit_sites, schedule, sampling, seed)
    found, draws = user_combiner.sample(
        prior, gaussian.product(state.sites), state.posterior.mean, user_rounds.combiner_key(seed, DRAW_ROUND), sampling
    )  # fmt: skip
    flat = draws.g.reshape(-1, draws.g.shape[-1])
    passes = [
        user_locals.run(user_tilted.shard_key(seed, s, LAST_PASS_ROUND), sharded, shard, flat)
        for s, shard in enumerate(shards)
    ]
    fresh = fit_sites(len(history), state.posterior, state.sites)
    entries = [{"shard_id": shard.shard_id, "num_rows": shard.num_rows} for shard in shards]
    records = [record(prior, done, method) for done in history]
    combined = Combined(flat, found.r_hat, found.ess, float(draws.diverging.mean()))
    verdict = judge(
        prior, audit or AuditConfig(), state, records, fresh, passes, entries, combined, sampling, seed
    )  # fmt: skip
    with jax.enable_x64(True):
        programs = [user_checks.program(sharded, shard) for shard in shards]
    variables, coords = user_draws.assemble(shards, programs, [p.values for p in passes], levels, num_chains)
    return UserRun(tuple(shards), state.sites, state.posterior, draws.g, variables, coords, tuple(history), verdict)


class Combined(NamedTuple):
    """Draws of the merged globals, (M, d), with their largest R-hat, least effective size, and share of divergent draws."""

    g: np.ndarray
    r_hat: float
    ess: float
    divergent: float


def judge(
    prior: user_combiner.Prior, config: AuditConfig, state: RoundsState, history: Sequence[dict[str, Any]],
    fresh: Sequence[SiteFit], passes: Sequence[LastPass], entries: Sequence[dict[str, Any]], combined: Combined,
    sampling: Sampling, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Merge the audit's own round, ``fresh``, and put the evidence together; ``history`` holds records of rounds."""
    after, score = user_rounds.step(prior, state, fresh, sampling, number=len(history), damping=1.0, seed=seed)
    moves = (after.posterior.mean - state.posterior.mean) / after.posterior.sd
    kept = np.linspace(0, len(combined.g) - 1, min(config.draws, len(combined.g))).astype(int)
    passes = [LastPass(p.log_likelihood[kept], p.log_likelihood_mcse[kept], {}, p.acceptance[kept], p.ess_share[kept]) for p in passes]  # fmt: skip
    evidence = user_audit.Evidence(
        prior.made, entries, state.sites, passes, combined.g[kept], history, score, moves,
        combined.r_hat, combined.ess, combined.divergent,
    )  # fmt: skip
    return user_audit.judge(config, evidence)


def record(prior: user_combiner.Prior, done: Round, method: NUTS | VI) -> dict[str, Any]:
    """A round as ``audit.json`` and ``sites/rounds.json`` keep it."""
    where = user_draws.names(prior.made)[done.where]
    is_nuts = isinstance(method, NUTS)
    return {
        "round": done.number, "method": "nuts" if is_nuts else "vi", "move": round(done.move, 6), "where": where,
        "mcse": round(done.mcse, 6), "damping": done.damping,
        "num_draws": method.num_draws * method.num_chains if isinstance(method, NUTS) else user_tilted.GUIDE_DRAWS,
    }  # fmt: skip
