"""What workers do for the checks of a model: leave out cells and people of a shard, replicate it, predict it from the others."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cluster import site_files
from cluster.tasks import ModelRef, build_hierarchy, load_shard
from fitting import loo, loso, pointwise, predict, predictive
from fitting.combiner import Moments
from fitting.loo import ShardLoo
from fitting.loso import ShardOut
from fitting.predictive import Replicates
from fitting.scale_marginal import Natural
from fitting.scale_proposal import Proposal
from sharding import store


class RatioTask(NamedTuple):
    """Log ratio of one shard's likelihood and its site at draws ``theta`` (D_s, M); ``residual_sd`` (M,)."""

    ref: ModelRef
    entry: dict[str, Any]
    path: str
    theta: np.ndarray
    residual_sd: np.ndarray


class LooTask(NamedTuple):
    """Leave out every cell and person of one shard; ``log_ratio`` (M,) is that of all shards, None if it cannot correct."""

    ref: ModelRef
    entry: dict[str, Any]
    theta: np.ndarray
    residual_sd: np.ndarray
    log_ratio: np.ndarray | None


class LooResult(NamedTuple):
    """Densities of one shard's cells, and the cells themselves: codes and numbers by column, and the statistics."""

    found: ShardLoo
    columns: dict[str, np.ndarray]


class PredictTask(NamedTuple):
    """Replicate one shard's outcomes at posterior draws, and expect them at prior draws, both (D_s, M), by margins."""

    ref: ModelRef
    entry: dict[str, Any]
    theta: np.ndarray
    residual_sd: np.ndarray
    prior_theta: np.ndarray
    margins: tuple[tuple[str, ...], ...]
    seed: tuple[int, ...]


class MarginCheck(NamedTuple):
    """For the groups that occur: codes (g, columns), replicates, expected sums at prior draws (g, M), and calibration: trials,
    observed and expected sums by bins of the expected share, (g, 3, bins), of shares only."""

    codes: np.ndarray
    replicates: Replicates
    prior: np.ndarray
    calibration: np.ndarray | None


class OutTask(NamedTuple):
    """Predict one shard from all others. ``natural``, ``proposal`` and ``moments`` are of all shards."""

    ref: ModelRef
    entry: dict[str, Any]
    path: str
    natural: Natural
    proposal: Proposal
    moments: Moments
    num_draws: int
    seed: int


def ratio(task: RatioTask) -> np.ndarray:
    """``log L_s - log t_s`` at every draw, shape (M,)."""
    shard, family = load_shard(task.ref, task.entry), build_hierarchy(task.ref).family
    site = site_files.read(task.path).site
    return pointwise.log_ratio(shard.restriction.tree, shard.design, family, site, task.theta, task.residual_sd)


def leave_one_out(task: LooTask) -> LooResult:
    """Leave out every cell, and every person, of a shard."""
    shard, family = load_shard(task.ref, task.entry), build_hierarchy(task.ref).family
    found = loo.shard(family, shard.design, task.theta, task.residual_sd, task.log_ratio)
    return LooResult(found, _known_cells(task.ref, task.entry))


def predict_shard(task: PredictTask) -> tuple[MarginCheck, ...]:
    """Sum a shard's replicated, and a priori expected, outcomes by every margin."""
    shard, family = load_shard(task.ref, task.entry), build_hierarchy(task.ref).family
    columns, num_cells = _known_cells(task.ref, task.entry), shard.design.num_cells
    groups, sizes, codes = {}, {}, []
    for i, margin in enumerate(task.margins):
        kinds, which = np.unique(_stacked(columns, margin, num_cells), axis=0, return_inverse=True)
        groups[str(i)], sizes[str(i)] = which.ravel(), len(kinds)
        codes.append(kinds)
    found, means = predictive.replicates(
        family, shard.design, task.theta, task.residual_sd, groups, sizes, task.seed
    )  # fmt: skip
    base = pointwise.base(family, shard.design.statistics)
    prior, _ = predict.group_sums(family, shard.design, task.prior_theta, groups, sizes, base)
    out = []
    for i, kinds in enumerate(codes):
        known = None
        if family.is_share:
            observed = pointwise.totals(family, shard.design.statistics)
            of_groups = predictive.group_calibration(means, base, observed, groups[str(i)], len(kinds))
            known = np.array([list(c) for c in of_groups])
        out.append(MarginCheck(kinds, found[str(i)], prior[str(i)][0], known))
    return tuple(out)


def leave_shard_out(task: OutTask) -> ShardOut:
    """Predict a shard from the product of all other sites under the prior."""
    hierarchy, shard = build_hierarchy(task.ref), load_shard(task.ref, task.entry)
    site = site_files.read(task.path).site
    left_out = loso.without(
        hierarchy, task.natural, task.proposal, shard.restriction, site, num_draws=task.num_draws, seed=task.seed
    )
    return loso.shard(hierarchy, left_out, shard.restriction, shard.design, task.moments, seed=task.seed)


def _known_cells(ref: ModelRef, entry: dict[str, Any]) -> dict[str, np.ndarray]:
    """Columns of the cells with outcomes, in the order of the design of :func:`load_shard`."""
    columns = store.read_shard(ref.directory, entry)
    kept = np.flatnonzero(columns["num_trials"])
    return {name: values[kept] for name, values in columns.items() if name != "num_rows"}


def _stacked(columns: dict[str, np.ndarray], margin: tuple[str, ...], num_cells: int) -> np.ndarray:
    """Codes of each cell in a margin, shape (n, columns); everybody is one group of the empty margin."""
    if not margin:
        return np.zeros((num_cells, 1), dtype=np.int64)
    return np.stack([columns[c] for c in margin], axis=1)
