"""From the audit's numbers to a verdict: gates, tables by shard and by block, and what to do about each warning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fitting import gates, sparse_levels
from fitting.audit import (
    DRAW_CHUNK,
    HETEROGENEITY_LEVEL,
    HOPELESS,
    Heterogeneity,
    Importance,
    Refresh,
    Score,
    ShardAudit,
    heterogeneity,
    holm,
    importance,
    is_hopeless,
    k_hat,
    score,
    spread_of,
)
from fitting.combiner import DrawsMatrix, Moments
from fitting.config import AuditConfig
from fitting.gates import number
from fitting.hierarchy import Hierarchy
from fitting.local_importance import RELIABLE, local
from fitting.mixing import Mixing
from fitting.scale_audit import ScaleErrors
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from fitting.sensitivity import power_scale
from fitting.sites import Site, log_density, near
from fitting.tree import Restriction

MANY_COEFFICIENTS = 10_000  # from here on weights are local, where those of all shards together vary too much
COEFFICIENTS_OF_LIMITS = 3_500  # of the nations that the limits of log_ratio_sd were set on (docs/design/audit-gates.md)
RELIABLE_K_HAT, NOISY_K_HAT = 0.7, 0.1  # up to which weights correct (Vehtari et al. 2024), and the sd of log ratios too even to tell
READABLE_SPREAD = 0.5  # below this sd of the log ratio Pareto k is noise (design notes: 0.1 to 0.55 at an sd of 0.03)
NUM_WORST = 20
R_HAT_WARN, R_HAT_FAIL = 1.02, 1.05


class Evidence(NamedTuple):
    """Everything the verdict rests on. ``shards`` holds id and counts of each shard, in order."""

    shards: Sequence[dict[str, Any]]
    log_ratios: np.ndarray  # (shard, draw)
    shard_k_hats: np.ndarray
    importance: Importance
    score: Score
    heterogeneity: Sequence[Heterogeneity]
    trials: np.ndarray  # (D,) outcomes seen by each coefficient
    successes: np.ndarray | None
    rounds: Sequence[dict[str, Any]]
    acceptance: float
    sensitivity: Sequence[dict[str, Any]]
    sampler: Sampler | None
    scales: ScaleErrors | None = None
    mixing: Mixing | None = None  # of the hyperparameters' draws
    is_local: bool = False  # whether ``importance`` is by the shards that a coefficient occurs in


class Sampler(NamedTuple):
    """Draws of the exact posterior have no merge to weigh: largest R-hat over parameters, and smallest effective size."""

    r_hat: float
    ess: float


def gather(
    hierarchy: Hierarchy,
    restrictions: Sequence[Restriction],
    used: Sequence[Site],
    reports: Sequence[ShardAudit],
    shards: Sequence[dict[str, Any]],
    theta: DrawsMatrix,
    psi: np.ndarray,
    moments: Moments,
    natural: Natural,
    proposal: Proposal,
    history: Sequence[dict[str, Any]],
    acceptance: float,
    threads: int = 1,
    refresh: Refresh | None = None,
    sampler: Sampler | None = None,
    scales: ScaleErrors | None = None,
    mixing: Mixing | None = None,
) -> Evidence:
    """Put the shards' reports together; ``theta`` (M, D) and ``psi`` (M, H) are the draws they were made for.

    ``refresh`` makes all sites afresh under other moments: the size of a large error needs it (``fitting.audit.score``).
    """
    ratios = np.stack([r.log_ratio for r in reports])
    total, log_sites = ratios.sum(axis=0), _log_sites(hierarchy, natural, theta, psi)
    trials, successes = np.zeros(theta.shape[1]), np.zeros(theta.shape[1])
    for restriction, report in zip(restrictions, reports, strict=True):
        trials[restriction.coefficients] += report.trials
        if report.successes is not None:
            successes[restriction.coefficients] += report.successes
    weights = importance(total, theta)
    is_local = theta.shape[1] >= MANY_COEFFICIENTS and RELIABLE < weights.log_ratio_sd < HOPELESS
    return Evidence(
        shards,
        ratios,
        np.array([k_hat(r) for r in ratios]),
        local(ratios, restrictions, theta, weights) if is_local else weights,
        score(hierarchy, restrictions, used, [r.fresh for r in reports], moments, proposal, threads, refresh),
        heterogeneity(
            hierarchy, natural, restrictions, used, moments, proposal.mode, [r.root_scores for r in reports]
        ),
        trials,
        None if any(report.successes is None for report in reports) else successes,
        history,
        acceptance,
        [] if is_hopeless(total, spread_of(total)) else power_scale(hierarchy, theta, psi, total + log_sites),
        sampler,
        scales,
        mixing,
        is_local,
    )


def _log_sites(hierarchy: Hierarchy, natural: Natural, theta: DrawsMatrix, psi: np.ndarray) -> np.ndarray:
    """Log of the product of all sites at each draw up to a constant, shape (M,)."""
    first = np.asarray(theta[:1, :])[0]
    product, residual = near(hierarchy.model.tree, Site(*natural), first), hierarchy.residual_sd(psi)
    parts = []
    for begin in range(0, theta.shape[0], DRAW_CHUNK):
        some = slice(begin, begin + DRAW_CHUNK)
        draws = np.ascontiguousarray(theta[some, :].T)
        parts.append(log_density(hierarchy.model.tree, product, draws, residual[some]))
    return np.concatenate(parts)


def judge(hierarchy: Hierarchy, config: AuditConfig, evidence: Evidence, min_ess: float) -> dict[str, Any]:
    """The content of ``audit.json`` (schema in docs/design/house.md). ``min_ess`` is what every hyperparameter should have."""
    names, blocks = hierarchy.model.coefficient_names(), hierarchy.model.block_names()
    real = ~hierarchy.model.is_padding
    weights, errors = evidence.importance, evidence.score.total
    shift = np.where(real, weights.shift, 0.0)
    sure = np.maximum(np.abs(shift) - 3.0 * weights.shift_mcse, 0.0) * real
    found: list[dict[str, Any]] = []

    def gate(name: str, value: float, where: str, meaning: str, do: str, *, limits: Any = None) -> None:
        if limits is None:
            limits = getattr(config.warn_above, name), getattr(config.fail_above, name)
        found.append(gates.gate(name, value, limits, where, meaning, do))

    spreads = np.array([spread_of(r) for r in evidence.log_ratios])
    if evidence.sampler is not None:
        gate(
            "r_hat",
            evidence.sampler.r_hat,
            "all parameters",
            "largest R-hat of the exact sampler",
            "run longer (fit.warmup, fit.draws)",
            limits=(R_HAT_WARN, R_HAT_FAIL),
        )
        gate(
            "mcse",
            1.0 / np.sqrt(evidence.sampler.ess),
            "all parameters",
            "largest Monte Carlo error of a mean, in posterior sds",
            "draw more (fit.draws)",
            limits=(config.warn_above.score, config.fail_above.score),
        )
    else:
        judged, was_sampled = np.where(real, _comparable(evidence), 0.0), _was_sampled(evidence)
        is_known = bool(np.isfinite(judged).all())
        worst = int(np.argmax(judged)) if is_known else -1
        gate(
            "score",
            float(judged[worst]) if is_known else np.inf,
            f"{names[worst]}, {_origin(evidence)}" if is_known else "all shards together, could not be computed",
            "largest error of a mean that more rounds would correct, in posterior sds",
            "run more rounds (fit.rounds); if it stays, look at the shard's data and its site",
        )
        limits = (config.warn_above.score, config.fail_above.score)
        skewed = int(np.nanargmax(sure)) if np.isfinite(sure).any() else 0
        gate(
            "shift",
            float(sure[skewed]) if np.isfinite(sure).any() else float("inf"),
            str(names[skewed]) if np.isfinite(sure).any() else "all shards together",
            "largest error of a mean that importance weights see beyond their Monte Carlo error, in posterior sds",
            f"{'use fit.method: exact' if was_sampled else 'use fit.method: nuts; where the level has few answers, exact'}; check it for separation",
            limits=limits,
        )
        loudest = int(np.argmax(spreads))
        # the sd grows with the root of the number of coefficients that are each off by as little as before
        growth = np.sqrt(real.sum() / COEFFICIENTS_OF_LIMITS) if evidence.is_local else 1.0
        gate(
            "log_ratio_sd",
            weights.log_ratio_sd,
            f"shard {evidence.shards[loudest]['shard_id']} (sd {spreads[loudest]:.2g})",
            "sd of the log importance ratio, all shards together (half its square is the divergence in nats)",
            "read the shard table: one loud shard points to its site or data, many to sparse levels; "
            f"fit.method: {'exact' if was_sampled else 'nuts'} corrects both",
            limits=tuple(
                round(float(limit * growth), 2)
                for limit in (config.warn_above.log_ratio_sd, config.fail_above.log_ratio_sd)
            ),
        )
        if weights.log_ratio_sd > READABLE_SPREAD:
            gate(
                "k_hat",
                weights.k_hat,
                "the shards of one coefficient" if evidence.is_local else "all shards together",
                "Pareto k of the importance ratios",
                f"the weights cannot correct this posterior; use fit.method: {'exact' if was_sampled else 'nuts or exact'}",
            )
    found += _of_scales(hierarchy, config, evidence, min_ess)
    messages = gates.messages(found)
    adjusted = holm([h.p_value for h in evidence.heterogeneity])
    for s in np.flatnonzero(adjusted < HETEROGENEITY_LEVEL).tolist():
        h = evidence.heterogeneity[s]
        messages.append(
            {
                "severity": "warn",
                "where": f"shard {evidence.shards[s]['shard_id']}",
                "what": f"tells another story than the other shards on the common effects (chi-squared {h.statistic:.0f} on {h.df} df, "
                f"adjusted p {adjusted[s]:.2g}); it pulls {names[h.influence_where]} by {h.influence:.2g} posterior sds "
                f"(a healthy one: 0 ± {h.influence_sd:.2g})",
                "do": "check how this shard codes the outcome and the predictors; if it is right, let the effect vary by shard's group. "
                "Dropping the shard changes the population",
                "about": "model",
            }
        )
    levels = sparse_levels.find(hierarchy, evidence.trials, evidence.successes)
    by_chance = sparse_levels.separated_by_chance(hierarchy, evidence.trials, evidence.successes)
    separated = [
        f"{r['term']}[{r['level']}]" if r["term"] != "fixed" else r["level"]
        for r in levels
        if r["issue"] == "separated" and (r["term"], r["level"]) not in by_chance
    ]
    if separated:
        more = f" and {len(separated) - 5} more" if len(separated) > 5 else ""
        messages.append(
            {
                "severity": "warn",
                "where": ", ".join(separated[:5]) + more,
                "what": "every outcome of this level is the same: its effect rests on the prior",
                "do": "merge the level with a neighbour, or make its prior informative; read its interval as the prior's",
                "about": "model",
            }
        )
    order = np.argsort(-np.maximum(np.abs(errors), np.nan_to_num(np.abs(shift))) * real)[:NUM_WORST]
    return {
        "schema_version": 1,
        "verdict": gates.verdict(messages),
        "verdicts": gates.verdicts(messages),
        "gates": found,
        "total": {
            "num_draws": int(evidence.log_ratios.shape[1]),
            "log_ratio_sd": number(weights.log_ratio_sd),
            "kl_nats": number(weights.log_ratio_sd**2 / 2),
            "efficiency": number(weights.efficiency),
            "k_hat": number(weights.k_hat),
            "k_hat_mcse": number(_k_hat_error(weights.k_hat, evidence.log_ratios.shape[1])),
            "acceptance": number(evidence.acceptance),
        },
        "shards": _shards(evidence, spreads, adjusted, names, config),
        "blocks": _blocks(blocks, names, errors, weights, real),
        "coefficients": [
            {
                "name": str(names[j]),
                "score": number(errors[j]),
                "shift": number(shift[j]),
                "shift_mcse": number(weights.shift_mcse[j]),
            }
            for j in order
        ],
        "scales": _scales(hierarchy, evidence),
        "rounds": list(evidence.rounds),
        "levels": levels,
        "prior_sensitivity": list(evidence.sensitivity),
        "messages": messages,
    }


def _of_scales(hierarchy: Hierarchy, config: AuditConfig, evidence: Evidence, min_ess: float) -> list[dict[str, Any]]:
    """Gates of the hyperparameters: whether they were drawn often enough, and whether the sites give them the right spread."""
    names, found = hierarchy.names(), []
    mixed, errors = evidence.mixing, evidence.scales
    if mixed is not None:
        scarce, apart = int(np.argmin(mixed.ess)), int(np.argmax(mixed.r_hat))
        do = "ask for more draws (fit.draws), or simplify group terms with few levels"
        found.append(gates.gate(
            "ess", min_ess / float(mixed.ess[scarce]), (1.0, None), names[scarce],
            f"effective draws of a scale that are wanted ({min_ess:.0f}, fit.min_ess) over those there are ({mixed.ess[scarce]:.0f})", do,
        ))  # fmt: skip
        found.append(gates.gate(
            "scale_r_hat", float(mixed.r_hat[apart]), (mixed.highest_r_hat, None), names[apart], "largest R-hat of a scale", do
        ))  # fmt: skip
    if errors is None or evidence.sampler is not None:
        return found
    sizes = (
        ("scale_shift", np.abs(errors.shift), errors.shift_mcse, "largest error of a scale's mean beyond two Monte Carlo errors, in posterior sds"),
        ("scale_sd", np.abs(errors.log_sd), errors.log_sd_mcse, "largest error of a scale's log posterior sd beyond two Monte Carlo errors"),
    )  # fmt: skip
    for name, size, noise, meaning in sizes:
        sure = np.maximum(size - 2.0 * noise, 0.0) * errors.is_covered
        warn, order = getattr(config.warn_above, name), np.argsort(-sure)
        worst, above = int(order[0]), [names[h] for h in order.tolist() if sure[h] > warn]
        where = ", ".join(above[:5]) + (f" and {len(above) - 5} more" if len(above) > 5 else "")
        how = f"{meaning} ({names[worst]} drawn {errors.mean[worst]:.3g} ± {errors.sd[worst]:.2g}, about {errors.corrected_mean[worst]:.3g} ± {errors.corrected_sd[worst]:.2g} by the likelihood)"
        found.append(gates.gate(
            name, float(sure[worst]), (warn, getattr(config.fail_above, name)), where or names[worst], how if above else meaning,
            "intervals of the intercept and of the effects of its groups are wrong with it. Groups have too few outcomes for Gaussian sites, which fit.method: nuts does not cure (it samples by shard): fit.method: exact, "
            "which takes all data in the memory of one machine; or groups with more outcomes, of the rarer kind too",
        ))  # fmt: skip
    return found


def _scales(hierarchy: Hierarchy, evidence: Evidence) -> list[dict[str, Any]]:
    """One row per hyperparameter; what it should be is null where its term was not looked at."""
    mixed, errors, rows = evidence.mixing, evidence.scales, []
    for h, name in enumerate(hierarchy.names() if mixed is not None else ()):
        assert mixed is not None
        row = {"name": name, "ess": number(mixed.ess[h]), "r_hat": number(mixed.r_hat[h])}
        is_known = errors is not None and bool(errors.is_covered[h])
        for key in ("mean", "sd", "corrected_mean", "corrected_sd", "shift", "shift_mcse"):
            row[key] = number(getattr(errors, key)[h]) if is_known else None
        row["sd_ratio"] = number(np.exp(errors.log_sd[h])) if errors is not None and is_known else None
        rows.append(row)
    return rows


def _comparable(evidence: Evidence) -> np.ndarray:
    """Errors of the means that the score gate judges, (D,), in posterior sds.

    Sites made afresh are variational. Sampled ones differ from them, rightly, where the likelihood is no Gaussian: there an error is at
    most what importance weights, where they can be trusted, say it is.
    """
    errors, weights = np.abs(evidence.score.total), evidence.importance
    can_be_read = weights.log_ratio_sd <= NOISY_K_HAT or weights.k_hat <= RELIABLE_K_HAT
    if not _was_sampled(evidence) or not (weights.log_ratio_sd <= RELIABLE and can_be_read):
        return errors
    return np.minimum(errors, np.abs(weights.shift) + 3.0 * weights.shift_mcse)


def _was_sampled(evidence: Evidence) -> bool:
    return bool(evidence.rounds) and evidence.rounds[-1].get("method") == "nuts"


def _origin(evidence: Evidence) -> str:
    """Which shards the largest score comes from: one, or how many alike (the inverse of the sum of squared shares)."""
    share = np.abs(evidence.score.shard_share)
    largest = int(np.argmax(share))
    if not 0 < share[largest] < 0.5 * share.sum():
        return f"from shard {evidence.shards[largest]['shard_id']}"
    share = share / share.sum()
    return f"from about {1.0 / np.sum(share**2):.0f} of {len(share)} shards, most from {evidence.shards[largest]['shard_id']}"


def _shards(
    evidence: Evidence, spreads: np.ndarray, adjusted: np.ndarray, names: np.ndarray, config: AuditConfig
) -> list[dict[str, Any]]:
    rows = []
    for s, entry in enumerate(evidence.shards):
        h = evidence.heterogeneity[s]
        score = float(evidence.score.shard_worst[s])
        status = "fail" if abs(score) > config.fail_above.score else "pass"
        if status == "pass" and (abs(score) > config.warn_above.score or adjusted[s] < HETEROGENEITY_LEVEL):
            status = "warn"
        rows.append(
            {
                **entry,
                "log_ratio_sd": number(spreads[s]),
                "k_hat": number(evidence.shard_k_hats[s]),
                "score": number(score),
                "score_where": str(names[evidence.score.shard_where[s]]),
                "status": status,
                "heterogeneity": {"statistic": number(h.statistic), "df": h.df, "p_adjusted": number(adjusted[s])},
                "influence": number(h.influence),
                "influence_sd": number(h.influence_sd),
                "influence_where": str(names[h.influence_where]),
            }
        )
    return rows


def _blocks(
    blocks: np.ndarray, names: np.ndarray, errors: np.ndarray, weights: Importance, real: np.ndarray
) -> list[dict[str, Any]]:
    rows = []
    for block in dict.fromkeys(blocks[real]):
        members = np.flatnonzero(blocks == block)
        worst = members[np.argmax(np.abs(errors[members]))]
        moved = members[np.argmax(np.nan_to_num(np.abs(weights.shift[members])))]
        rows.append(
            {
                "block": str(block),
                "num_coefficients": len(members),
                "score": number(errors[worst]),
                "score_where": str(names[worst]),
                "shift": number(weights.shift[moved]),
                "shift_mcse": number(weights.shift_mcse[moved]),
                "shift_where": str(names[moved]),
                "sd_ratio_min": number(weights.sd_ratio[members].min()),
                "sd_ratio_max": number(weights.sd_ratio[members].max()),
            }
        )
    return rows


def _k_hat_error(k_hat: float, num_draws: int) -> float:
    """Standard error of a generalised Pareto fit to the tail of ``min(M/5, 3 sqrt M)`` draws (asymptotic, 1 + k over root n)."""
    tail = min(num_draws / 5, 3 * np.sqrt(num_draws))
    return (1 + max(k_hat, 0.0)) / np.sqrt(tail) if np.isfinite(k_hat) else float("nan")
