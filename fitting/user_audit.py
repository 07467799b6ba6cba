r"""The audit of a user's model: what the merged posterior of the globals gets wrong, measured on all of the data.

The only approximation is a shard's site standing for its marginal likelihood :math:`L_s(g) = \int p(y_s, l \mid g)\,dl`, so the
log importance weight of a draw is :math:`\sum_s \log L_s(g) - \log t_s(g)`. Without locals :math:`L_s` is exact; with them it is an
estimate of stated error (``fitting.user_locals``), whose variance is taken off that of the log ratio. The score is one more round:
every site is fitted anew, with keys of its own, under the posterior as it is, and what that moves is what is left to correct, less the
Monte Carlo error of doing so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fitting import gates
from fitting import user_gaussian as gaussian
from fitting.audit import Importance, importance, is_hopeless, k_hat, spread_of
from fitting.config import AuditConfig
from fitting.gates import number
from fitting.user_draws import names
from fitting.user_gaussian import Gaussian
from fitting.user_locals import LastPass
from fitting.user_model import Program
from fitting.user_rounds import Round

READABLE_SPREAD = 0.5  # below this sd of the log ratio Pareto k is noise
R_HAT = (1.05, 1.1)
DIVERGENT = (0.0, 0.01)
ESS = 100.0
POOR_PROPOSALS = 0.1


class Evidence(NamedTuple):
    """Everything the verdict rests on. ``g`` (M, d) are the draws of the unconstrained globals that ``passes`` were made for.

    ``score`` is the audit's own round. ``divergent`` is the share of the combiner's divergent draws; ``r_hat`` and ``ess`` are theirs.
    """

    program: Program
    shards: Sequence[dict[str, Any]]
    sites: Sequence[Gaussian]
    passes: Sequence[LastPass]
    g: np.ndarray
    rounds: Sequence[dict[str, Any]]
    score: Round
    moves: np.ndarray
    r_hat: float
    ess: float
    divergent: float


def log_ratios(evidence: Evidence) -> np.ndarray:
    """``log L_s - log t_s`` of every shard at every draw, (S, M), centred per shard."""
    ratios = np.stack([
        report.log_likelihood - gaussian.log_density(site, evidence.g)
        for report, site in zip(evidence.passes, evidence.sites, strict=True)
    ])  # fmt: skip
    return ratios - ratios.mean(axis=1, keepdims=True)


def judge(config: AuditConfig, evidence: Evidence) -> dict[str, Any]:
    """The content of ``audit.json``."""
    labels = names(evidence.program)
    ratios = log_ratios(evidence)
    noise = np.stack([report.log_likelihood_mcse for report in evidence.passes])
    total = ratios.sum(axis=0)
    raw = spread_of(total)
    noise_sd = float(np.sqrt(np.mean(np.sum(noise**2, axis=0))))
    spread = float(np.sqrt(max(raw**2 - noise_sd**2, 0.0))) if np.isfinite(raw) else np.inf
    weights = importance(total, evidence.g)
    sure = np.maximum(np.abs(weights.shift) - 3.0 * weights.shift_mcse, 0.0)
    certain = np.maximum(np.abs(evidence.moves) - 2.0 * evidence.score.mcse, 0.0)
    by_shard = np.array([_corrected(r, n) for r, n in zip(ratios, noise, strict=True)])
    found: list[dict[str, Any]] = []

    def gate(name: str, value: float, limits: tuple[float, float | None], where: str, meaning: str, do: str) -> None:
        found.append(gates.gate(name, value, limits, where, meaning, do))

    warn, fail = config.warn_above, config.fail_above
    worst = int(np.argmax(certain))
    gate(
        "score", certain[worst], (warn.score, fail.score), labels[worst],
        "largest error of a mean that one more round corrects, beyond twice its Monte Carlo error, in posterior sds",
        "run more rounds (fit.rounds)",
    )  # fmt: skip
    gate(
        "mcse", evidence.score.mcse, (warn.score, fail.score), labels[worst],
        "Monte Carlo error of the merged means, all shards together, in posterior sds",
        "draw more in every shard (fit.draws), or use fewer shards",
    )  # fmt: skip
    skewed = int(np.nanargmax(sure)) if np.isfinite(sure).any() else 0
    gate(
        "shift", float(sure[skewed]) if np.isfinite(sure).any() else np.inf, (warn.score, fail.score), labels[skewed],
        "largest error of a mean that importance weights see beyond their Monte Carlo error, in posterior sds",
        "a shard's likelihood is not Gaussian in this parameter: use larger shards, or transform the parameter",
    )  # fmt: skip
    loudest = int(np.argmax(by_shard))
    gate(
        "log_ratio_sd", spread, (warn.log_ratio_sd, fail.log_ratio_sd),
        f"shard {evidence.shards[loudest]['shard_id']} (sd {by_shard[loudest]:.2g})",
        "sd of the log importance ratio, all shards together, less the error of its estimate",
        "read the shard table: one loud shard points to its site or data, many to a parameter that no Gaussian fits",
    )  # fmt: skip
    if spread > READABLE_SPREAD:
        gate("k_hat", weights.k_hat, (warn.k_hat, fail.k_hat), "all shards together", "Pareto k of the importance ratios",
             "the weights cannot correct this posterior; use larger shards")  # fmt: skip
    fits = evidence.score.fits
    proper = [f for f in fits if f.is_proper]
    unfit = len(fits) - len(proper)
    gate("unfitted", unfit / len(fits), (0.0, 0.0), _first(evidence, [not f.is_proper for f in fits]),
         "share of shards whose tilted distribution could not be summarised; their old sites stand",
         "draw more (fit.draws), or merge the shard with a neighbour")  # fmt: skip
    r_hats = np.array([f.r_hat for f in proper] or [np.inf])
    gate("r_hat", max(float(r_hats.max()), evidence.r_hat), R_HAT, _first(evidence, [f.r_hat > R_HAT[0] for f in fits]),
         "largest R-hat of a shard's sampler, or of the combiner's", "warm up longer (fit.warmup), or reparametrise")  # fmt: skip
    divergent = max([f.num_divergent for f in fits]) / _draws_of(evidence)
    gate("divergences", max(divergent, evidence.divergent), DIVERGENT, _first(evidence, [f.num_divergent > 0 for f in fits]),
         "largest share of divergent draws, shards and combiner", "reparametrise: centre or uncentre the effects")  # fmt: skip
    messages = gates.messages(found)
    low = min([f.ess for f in proper] or [0.0])
    if low < ESS:
        messages.append({
            "severity": "warn", "where": _first(evidence, [f.ess == low for f in fits]),
            "what": f"only {low:.0f} effective draws of a shard's globals", "do": "draw more (fit.draws), or reparametrise",
        })  # fmt: skip
    poor = min(float(report.ess_share.min()) for report in evidence.passes)
    if poor < POOR_PROPOSALS:
        messages.append({
            "severity": "warn", "where": _first(evidence, [r.ess_share.min() == poor for r in evidence.passes]),
            "what": f"locals given globals are far from a Gaussian (worst effective share of proposals {poor:.0%})",
            "do": "read log_ratio_mcse: if it is large, the log ratio says little; locals are still moved towards their exact distribution",
        })  # fmt: skip
    return {
        "schema_version": 1,
        "verdict": gates.verdict(messages),
        "verdicts": gates.verdicts(messages),
        "gates": found,
        "total": {
            "num_draws": len(total), "log_ratio_sd": number(spread), "log_ratio_sd_uncorrected": number(raw),
            "log_ratio_mcse": number(noise_sd), "kl_nats": number(spread**2 / 2), "efficiency": number(weights.efficiency),
            "k_hat": number(weights.k_hat), "k_hat_mcse": None, "acceptance": number(min(r.acceptance.mean() for r in evidence.passes)),
        },
        "shards": _shards(evidence, by_shard, ratios, noise),
        "blocks": _blocks(evidence, labels, weights),
        "coefficients": [
            {"name": labels[j], "score": number(evidence.moves[j]), "shift": number(weights.shift[j]),
             "shift_mcse": number(weights.shift_mcse[j])}
            for j in np.argsort(-np.abs(evidence.moves))
        ],
        "rounds": list(evidence.rounds),
        "levels": [],
        "prior_sensitivity": [],
        "messages": messages,
    }  # fmt: skip


def _shards(evidence: Evidence, by_shard: np.ndarray, ratios: np.ndarray, noise: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for s, (entry, report, fit) in enumerate(zip(evidence.shards, evidence.passes, evidence.score.fits, strict=True)):
        health = {name: number(value) for name, value in fit.info().items()}
        rows.append({
            **entry, "log_ratio_sd": number(by_shard[s]), "log_ratio_mcse": number(np.sqrt(np.mean(noise[s] ** 2))),
            "k_hat": None if is_hopeless(ratios[s], spread_of(ratios[s])) else number(k_hat(ratios[s])), **health,
            "proposals": number(report.ess_share.min()), "local_acceptance": number(report.acceptance.mean()),
        })  # fmt: skip
    return rows


def _blocks(evidence: Evidence, labels: list[str], weights: Importance) -> list[dict[str, Any]]:
    """One row per global site."""
    rows, start = [], 0
    for place in evidence.program.global_places:
        part = slice(start, start + place.size)
        start = part.stop
        worst = part.start + int(np.argmax(np.abs(evidence.moves[part])))
        shifted = part.start + int(np.argmax(np.nan_to_num(np.abs(weights.shift[part]))))
        rows.append({
            "block": place.name, "num_coefficients": place.size,
            "score": number(evidence.moves[worst]), "score_where": labels[worst],
            "shift": number(weights.shift[shifted]), "shift_mcse": number(weights.shift_mcse[shifted]),
            "shift_where": labels[shifted], "sd_ratio_min": number(np.min(weights.sd_ratio[part])),
            "sd_ratio_max": number(np.max(weights.sd_ratio[part])),
        })  # fmt: skip
    return rows


def _corrected(ratio: np.ndarray, noise: np.ndarray) -> float:
    raw = spread_of(ratio)
    return float(np.sqrt(max(raw**2 - np.mean(noise**2), 0.0))) if np.isfinite(raw) else np.inf


def _draws_of(evidence: Evidence) -> float:
    return float(max(evidence.rounds[-1].get("num_draws", 1), 1))


def _first(evidence: Evidence, flags: Sequence[bool]) -> str:
    found = [entry["shard_id"] for entry, flag in zip(evidence.shards, flags, strict=True) if flag]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"shard {found[0]}{more}" if found else "all shards"
