r"""A hierarchical model fitted by a classic combiner, and judged as every other posterior is.

>>> run = classic_fit.fit(cells, "voted ~ 1 + female + (1 | race)", shards=cells["shard"], combiner="consensus")
>>> classic_fit.audit(run)["verdict"]

Every shard's subposterior is sampled by NUTS (``fitting.subposterior``); common coefficients and hyperparameters are merged by
name (``fitting.classic``); coefficients that are one shard's own are drawn anew given the merged ones, not kept as the shard
sampled them (``fitting.own_effects``). No shard hears of another before that.

**Audit.** A classic merge is draws and no density, so there is no importance ratio. But the score needs moments only: all
shards' sites are made afresh under the merged mean and covariance and multiplied under the exact prior, over and over until
that stands still (``fitting.audit.score``). Where means and sds of coefficients and hyperparameters go is the error of the
merge. What Monte Carlo noise may explain, three standard errors, is not held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitting import audit as audits
from fitting import classic, combiner, gates, in_memory, own_effects, rounds, sites
from fitting import tree as tr
from fitting.cell_design import CellDesign
from fitting.combiner import Draws, Moments
from fitting.config import AuditConfig
from fitting.hierarchy import Hierarchy
from fitting.own_effects import Partition
from fitting.sites import Site
from fitting.tree import Restriction
from fitting.verdict import R_HAT_FAIL, R_HAT_WARN

if TYPE_CHECKING:  # JAX takes a second to import
    from fitting.subposterior import Sampler, Subposterior

STANDARD_ERRORS = 3.0  # of Monte Carlo noise that an error has to exceed
REFERENCE_DRAWS = 2000  # of hyperparameters under the sites made afresh, for their means and sds
UNREADABLE = 3.0  # times the failing limit: noise that hides so much leaves nothing to read
NUM_WORST = 20


class ModelData(NamedTuple):
    """A model with its shards: what every method starts from."""

    hierarchy: Hierarchy
    restrictions: tuple[Restriction, ...]
    designs: tuple[CellDesign, ...]


class ClassicRun(NamedTuple):
    """A merged posterior with what it was made from. ``sizes`` (C + H,) are effective draws of what was merged."""

    data: ModelData
    combiner: str
    partition: Partition
    subposteriors: tuple[Subposterior, ...]
    draws: Draws
    sizes: np.ndarray

    def named(self) -> dict[str, np.ndarray]:
        """Draws (chain, draw) by full name: coefficients, and hyperparameters on their natural scale."""
        hierarchy, (theta, psi, _) = self.data.hierarchy, self.draws
        natural = hierarchy.natural(psi.reshape(-1, hierarchy.size)).reshape(psi.shape)
        names = hierarchy.model.coefficient_names()
        out = {str(name): theta[..., j] for j, name in enumerate(names) if name}
        return out | {name: natural[..., j] for j, name in enumerate(hierarchy.names())}


class Errors(NamedTuple):
    """What is wrong with merged draws, for each coefficient and hyperparameter named.

    ``mean`` is the error of the mean in posterior sds (where it should be less where it is), with Monte Carlo error
    ``mean_mcse``; ``log_sd`` the log of merged over right sd, with ``log_sd_mcse``.
    """

    names: np.ndarray
    mean: np.ndarray
    mean_mcse: np.ndarray
    log_sd: np.ndarray
    log_sd_mcse: np.ndarray


def prepare(
    columns: Mapping[str, np.ndarray],
    formula_text: str,
    *,
    shards: Sequence[Any] | np.ndarray,
    family: str = "binomial",
    chosen_priors: Mapping[str, str] | None = None,
) -> ModelData:
    """Model, shards' places in its tree, and their cells; arguments as ``in_memory.fit``. One round of sites, which is dropped."""
    run = in_memory.fit(
        columns,
        formula_text,
        family=family,
        shards=shards,
        chosen_priors=chosen_priors,
        num_rounds=1,
        num_draws=1,
        num_chains=1,
    )
    return ModelData(run.hierarchy, run.restrictions, run.designs)


def sample(
    data: ModelData,
    kind: classic.Kind,
    *,
    num_draws: int = 500,
    num_chains: int = 4,
    num_warmup: int = 500,
    seed: int = 0,
    sampler: Sampler | None = None,
) -> tuple[Partition, tuple[Subposterior, ...]]:
    """Subposteriors of all shards, each by its own key. Raises ``CombinerError`` where ``kind`` cannot be had.

    Parameters
    ----------
    sampler
        From ``subposterior.sampler``, with its own numbers of draws, to compile once for several calls on one model.
    """
    from fitting import subposterior  # JAX takes a second to import

    pairs = list(zip(data.restrictions, data.designs, strict=True))
    partition = own_effects.partition(data.hierarchy, pairs)
    targets = [
        subposterior.target(
            data.hierarchy, pair, partition.common, own, kind=kind, num_shards=len(pairs), where=f"shard {s}"
        )
        for s, (pair, own) in enumerate(zip(pairs, partition.own, strict=True))
    ]
    if sampler is None:
        sampler = subposterior.sampler(
            data.hierarchy, num_warmup=num_warmup, num_draws=num_draws, num_chains=num_chains
        )
    found = [
        subposterior.draw(sampler, subposterior.shard_key(seed, s), target, len(partition.common), len(own))
        for s, (target, own) in enumerate(zip(targets, partition.own, strict=True))
    ]
    return partition, tuple(found)


def merge(
    data: ModelData,
    partition: Partition,
    subposteriors: Sequence[Subposterior],
    name: str,
    *,
    seed: int = 0,
    merge: Callable[..., np.ndarray] | None = None,
) -> ClassicRun:
    """Merge subposteriors, of the kind that the combiner needs, into draws of all coefficients.

    ``merge`` stands in for the combiner of that name, as one with other options does.
    """
    parts = [part.merged for part in subposteriors]
    merged = (merge or classic.require(name).merge)(parts, seed=seed)
    num_common = len(partition.common)
    theta = np.random.default_rng([seed, len(parts) + 1]).standard_normal(
        (*merged.shape[:2], data.hierarchy.model.tree.num_coefficients)
    )  # padding keeps these
    theta[..., partition.common] = merged[..., :num_common]
    flat = merged.reshape(-1, merged.shape[-1])
    for s, own in enumerate(partition.own):
        if len(own):
            drawn = own_effects.redraw(
                data.hierarchy,
                (data.restrictions[s], data.designs[s]),
                partition.common,
                own,
                flat[:, :num_common],
                flat[:, num_common:],
                np.random.default_rng([seed, s, len(parts)]),
            )
            theta[..., own] = drawn.reshape(*merged.shape[:2], len(own))
    draws = Draws(theta, merged[..., num_common:], np.array([part.acceptance for part in subposteriors]))
    return ClassicRun(data, name, partition, tuple(subposteriors), draws, _sizes(merged, parts))


def fit(
    columns: Mapping[str, np.ndarray],
    formula_text: str,
    *,
    shards: Sequence[Any] | np.ndarray,
    combiner: str = "consensus",
    family: str = "binomial",
    chosen_priors: Mapping[str, str] | None = None,
    num_draws: int = 500,
    num_chains: int = 4,
    num_warmup: int = 500,
    seed: int = 0,
) -> ClassicRun:
    """Fit cells held in memory by a classic combiner.

    Parameters
    ----------
    columns, formula_text, shards, family, chosen_priors
        As ``in_memory.fit``.
    combiner
        A name in ``classic.COMBINERS``.
    num_draws, num_warmup
        Per chain, of every shard and of the merge.

    Raises
    ------
    CombinerError
        No such combiner; or the shards cannot be sampled or merged that way.
    """
    chosen = classic.require(combiner)
    data = prepare(columns, formula_text, shards=shards, family=family, chosen_priors=chosen_priors)
    partition, subposteriors = sample(
        data, chosen.kind, num_draws=num_draws, num_chains=num_chains, num_warmup=num_warmup, seed=seed
    )
    return merge(data, partition, subposteriors, combiner, seed=seed)


def _sizes(merged: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Effective draws of each coordinate, (C + H,): of the merged chains, and no more than of the least mixed shard.

    Shuffling hides a shard's autocorrelation from the merged chains, so their own figure alone would flatter them.
    """
    from arviz_stats.base import array_stats  # slow to import

    each = [array_stats.ess(draws, chain_axis=0, draw_axis=1) for draws in [merged, *parts]]
    return np.minimum(np.min(each, axis=0), merged.shape[0] * merged.shape[1])


# ---- the audit ----


def errors(run: ClassicRun, *, num_nodes: int = 11, threads: int = 1) -> tuple[Errors, int]:
    """Errors of merged draws, and how many passes over the data their size took."""
    hierarchy, restrictions, designs = run.data
    tree, real = hierarchy.model.tree, ~hierarchy.model.is_padding
    theta = run.draws.theta.reshape(-1, tree.num_coefficients)
    psi = run.draws.psi.reshape(len(theta), -1)
    mean = np.where(real, theta.mean(axis=0), 0.0)
    covariance = tr.outer(tree, (theta - theta.mean(axis=0)).T) / (len(theta) - 1)

    def refresh(moments: Moments) -> list[Site]:
        parts = [rounds.part_of(moments, r) for r in restrictions]
        return [
            sites.fit(r.tree, d, hierarchy.family, part.mean, part.covariance, num_nodes=num_nodes)
            for r, d, part in zip(restrictions, designs, parts, strict=True)
        ]

    moments = Moments(mean, covariance)
    fresh = refresh(moments)
    _, proposal, _ = rounds.merge(hierarchy, restrictions, fresh, psi.mean(axis=0), threads)
    score = audits.score(hierarchy, restrictions, fresh, fresh, moments, proposal, threads, refresh)
    natural, proposal, right = rounds.merge(hierarchy, restrictions, refresh(score.refreshed), proposal.mode, threads)
    right_sd = np.sqrt(right.covariance[tree.diagonal])
    reference = combiner.draw(
        hierarchy, natural, proposal, num_draws=REFERENCE_DRAWS, num_chains=1, seed=0, threads=threads
    )
    right_psi = reference.psi[0]
    kept = np.concatenate([real, np.ones(hierarchy.size, dtype=bool)])
    names = np.concatenate([hierarchy.model.coefficient_names(), np.array(hierarchy.names(), dtype=object)])
    found = compare(
        names[kept],
        np.concatenate([theta, psi], axis=1)[:, kept],
        _coefficient_sizes(run)[kept],
        np.concatenate([right.mean, right_psi.mean(axis=0)])[kept],
        np.concatenate([right_sd, right_psi.std(axis=0)])[kept],
    )
    noise = np.where(np.arange(len(kept)) < len(real), 0.0, 1.0 / REFERENCE_DRAWS)[kept]  # of the reference's psi
    return found._replace(
        mean_mcse=np.sqrt(found.mean_mcse**2 + noise), log_sd_mcse=np.sqrt(found.log_sd_mcse**2 + noise)
    ), 2 + score.num_refreshes


def compare(names: np.ndarray, draws: np.ndarray, sizes: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> Errors:
    """Errors of draws (M, D), of which ``sizes`` (D,) are effective, where ``mean`` and ``sd`` (D,) are right."""
    centre, spread = draws.mean(axis=0), draws.std(axis=0)
    log_sd = np.log(spread / sd)
    kurtosis = np.mean(((draws - centre) / spread) ** 4, axis=0)
    return Errors(
        names,
        (mean - centre) / sd,
        np.exp(log_sd) / np.sqrt(sizes),
        log_sd,
        np.sqrt(np.maximum(kurtosis - 1.0, 1.0) / (4.0 * sizes)),
    )


def _coefficient_sizes(run: ClassicRun) -> np.ndarray:
    """Effective draws of every coefficient and hyperparameter, (D + H,); a shard's own have those of its worst common one."""
    hierarchy, num_common = run.data.hierarchy, len(run.partition.common)
    sizes = np.full(hierarchy.model.tree.num_coefficients, run.sizes.min(initial=np.inf))
    sizes[run.partition.common] = run.sizes[:num_common]
    return np.concatenate([sizes, run.sizes[num_common:]])


def audit(
    run: ClassicRun, config: AuditConfig | None = None, *, num_nodes: int = 11, threads: int = 1
) -> dict[str, Any]:
    """Judge merged draws on all of the data.

    Returns
    -------
    dict
        ``verdict``; ``gates`` as in ``audit.json``; ``shards`` with their samplers' figures; ``coefficients``, the worst, with
        ``score`` (posterior sds) and ``sd_ratio``; ``num_refreshes``; ``messages``. The limits of ``score`` in ``config`` hold
        for errors of means in posterior sds and of log sds alike: a warning from 0.1 is one from 10% too wide or narrow.
    """
    config = config or AuditConfig()
    found, num_refreshes = errors(run, num_nodes=num_nodes, threads=threads)
    result = judge(found, config, max((s.r_hat for s in run.subposteriors), default=1.0), run.combiner)
    divergent = sum(s.num_divergent for s in run.subposteriors)
    if divergent:
        worst = int(np.argmax([s.num_divergent for s in run.subposteriors]))
        result["messages"].append(
            {
                "severity": "warn",
                "where": f"shard {worst:02d}",
                "what": f"{divergent} divergent draws in all shards, most in this one",
                "do": "sample longer, or merge shards: the tempered prior of a scale has a long tail where few levels inform it",
            }
        )
        result["verdict"] = "warn" if result["verdict"] == "pass" else result["verdict"]
    shards = [
        {
            "shard_id": f"{s:02d}",
            "num_cells": d.num_cells,
            "num_trials": int(d.statistics["num_trials"].sum()),
            "r_hat": part.r_hat,
            "ess_bulk": part.ess_bulk,
            "num_divergent": part.num_divergent,
            "acceptance": part.acceptance,
        }
        for s, (d, part) in enumerate(zip(run.data.designs, run.subposteriors, strict=True))
    ]
    return {"schema_version": 1, **result, "num_refreshes": num_refreshes, "shards": shards}


def judge(found: Errors, config: AuditConfig, r_hat: float, name: str) -> dict[str, Any]:
    """Gates, messages and a verdict on errors. ``r_hat`` is the largest of all shards; ``name`` the combiner's."""
    judged: list[dict[str, Any]] = []

    def gate(what: str, value: float, where: str, meaning: str, do: str, warn: float, fail: float) -> None:
        judged.append(gates.gate(what, value, (warn, fail), where, meaning, do))

    limits = config.warn_above.score, config.fail_above.score
    advice = f"{name} is a one-shot merge and cannot mend this: use fit.method vi or nuts, or fewer and larger shards"
    for what, size, noise, meaning in (
        (
            "score",
            found.mean,
            found.mean_mcse,
            "largest error of a mean beyond its Monte Carlo error, in posterior sds",
        ),
        ("sd_ratio", found.log_sd, found.log_sd_mcse, "largest error of a log sd beyond its Monte Carlo error"),
    ):
        sure = np.maximum(np.abs(size) - STANDARD_ERRORS * noise, 0.0)
        sure = np.where(np.isfinite(sure), sure, np.inf)
        worst = int(np.argmax(sure))
        gate(what, float(sure[worst]), str(found.names[worst]), meaning, advice, *limits)
    noise = STANDARD_ERRORS * np.maximum(found.mean_mcse, found.log_sd_mcse)
    noisiest = int(np.argmax(noise))
    gate(
        "noise",
        float(noise[noisiest]),
        str(found.names[noisiest]),
        "largest error that Monte Carlo noise may hide, in posterior sds or in a log sd",
        "draw more; for nonparametric and semiparametric, or a shard that mixes slowly, far more",
        max(limits[1] - limits[0], 0.5 * limits[1]),  # so that what passes is off by less than the failing limit
        UNREADABLE * limits[1],
    )
    gate("r_hat", r_hat, "all shards", "largest R-hat of a shard's sampler", "sample longer", R_HAT_WARN, R_HAT_FAIL)
    messages = gates.messages(judged)
    order = np.argsort(-np.maximum(np.abs(found.mean), np.abs(found.log_sd)))[:NUM_WORST]
    return {
        "verdict": gates.verdict(messages),
        "gates": judged,
        "coefficients": [
            {
                "name": str(found.names[j]),
                "score": float(found.mean[j]),
                "score_mcse": float(found.mean_mcse[j]),
                "sd_ratio": float(np.exp(found.log_sd[j])),
            }
            for j in order
        ],
        "messages": messages,
    }
