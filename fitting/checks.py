"""The checks of the model on a run held in memory: leave-one-out, leave-one-shard-out, posterior and prior predictive.

>>> checks.loo(run).people, checks.compare(run, other)
>>> checks.posterior_predictive(run, cells["state"], shards=cells["state"])["state"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fitting import loo as loos
from fitting import loso, pointwise, predict, predictive
from fitting.errors import ModelError
from fitting.in_memory import Run
from fitting.loo import Difference, Estimate, ShardLoo
from fitting.loso import ShardOut
from fitting.predictive import Checked, PriorTerm


class Loo(NamedTuple):
    """Every shard, cell by cell, and their sums; ``people`` is None for families whose cells do not tell single outcomes."""

    shards: tuple[ShardLoo, ...]
    cells: Estimate
    people: Estimate | None


class Groups(NamedTuple):
    """Labels of groups, people in each of them (G,), and what was found about them."""

    labels: list[Any]
    num_trials: np.ndarray
    found: Checked


class Prior(NamedTuple):
    """Prior draws of each group's expected mean outcome, (G, M), and what single terms and scales say alone."""

    labels: list[Any]
    means: np.ndarray
    terms: list[PriorTerm]


def _draws(run: Run, num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the coefficients, (D, M), and of the residual sd, (M,), evenly picked from all chains."""
    flat = run.draws.theta.reshape(-1, run.draws.theta.shape[-1])
    psi = run.draws.psi.reshape(len(flat), -1)
    kept = np.linspace(0, len(flat) - 1, min(num_draws, len(flat))).astype(int)
    return np.ascontiguousarray(flat[kept].T), run.hierarchy.residual_sd(psi[kept])


def loo(run: Run, *, num_draws: int = 1000) -> Loo:
    """Leave out every cell, and every person; draws are corrected to the exact posterior where they can be."""
    theta, residual = _draws(run, num_draws)
    family = run.hierarchy.family
    parts = [theta[r.coefficients] for r in run.restrictions]
    together = list(zip(run.restrictions, run.designs, run.sites, parts, strict=True))
    ratio = sum(pointwise.log_ratio(r.tree, d, family, s, t, residual) for r, d, s, t in together)
    usable = loos.usable_ratio(np.asarray(ratio))
    shards = tuple(loos.shard(family, d, t, residual, usable) for _, d, _, t in together)
    cells = loos.estimate(*((s.cells, np.ones(len(s.cells.elpd))) for s in shards))
    of_people = [(p.each, p.num_people) for s in shards for p in s.people]
    return Loo(shards, cells, loos.estimate(*of_people) if of_people else None)


def compare(a: Run, b: Run, *, num_draws: int = 1000) -> Difference:
    """Elpd of ``a`` minus that of ``b``: by person where cells tell single outcomes, else by cell.

    Raises
    ------
    ModelError
        The two runs do not have the same cells in the same shards.
    """
    same = len(a.designs) == len(b.designs) and all(
        x.statistics.keys() == y.statistics.keys()
        and all(np.array_equal(x.statistics[name], y.statistics[name]) for name in x.statistics)
        for x, y in zip(a.designs, b.designs, strict=True)
    )
    if not same:
        raise ModelError("compare", "runs of different cells", "the same cells in the same shards for both models")
    units = []
    for run in (a, b):
        found = loo(run, num_draws=num_draws)
        people = [p for s in found.shards for p in s.people]
        each = [p.each.elpd for p in people] or [s.cells.elpd for s in found.shards]
        count = [p.num_people for p in people] or [np.ones(len(s.cells.elpd)) for s in found.shards]
        units.append((np.concatenate(each), np.concatenate(count)))
    return loos.compare(units[0][0], units[1][0], units[0][1])


def leave_shard_out(run: Run, *, num_draws: int = 256, seed: int = 0) -> list[ShardOut]:
    """Predict every shard from all others, in the order of the shards."""
    found = []
    for s, (restriction, design, site) in enumerate(zip(run.restrictions, run.designs, run.sites, strict=True)):
        left_out = loso.without(
            run.hierarchy, run.natural, run.proposal, restriction, site, num_draws=num_draws, seed=seed + s
        )
        found.append(loso.shard(run.hierarchy, left_out, restriction, design, run.moments, seed=seed + s))
    return found


def posterior_predictive(
    run: Run,
    groups: Sequence[Any] | np.ndarray,
    *,
    shards: Sequence[Any] | np.ndarray | None = None,
    num_draws: int = 400,
    interval: float = 0.9,
    seed: int = 0,
) -> Groups:
    """Replicate every group of cells.

    Parameters
    ----------
    groups, shards
        The group and the shard of each cell, shape (n,), in the order of the cells that were fitted; ``shards`` as it was
        given to the fit.
    """
    theta, residual = _draws(run, num_draws)
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    total: list[np.ndarray] | None = None
    for s, (restriction, design, rows) in enumerate(
        zip(run.restrictions, run.designs, _rows(run, shards), strict=True)
    ):
        found, _ = predictive.replicates(
            run.hierarchy.family, design, theta[restriction.coefficients], residual,
            {"": group[rows]}, {"": len(labels)}, (seed, s),
        )  # fmt: skip
        total = list(found[""]) if total is None else [a + b for a, b in zip(total, found[""], strict=True)]
    assert total is not None, "a run has a shard"
    kept = np.flatnonzero(total[0] > 0)
    summed = predictive.Replicates(*(values[kept] for values in total))
    return Groups(labels[kept].tolist(), summed.num_trials, predictive.check(summed, interval))


def prior_predictive(
    run: Run,
    groups: Sequence[Any] | np.ndarray,
    *,
    shards: Sequence[Any] | np.ndarray | None = None,
    num_draws: int = 400,
    seed: int = 0,
) -> Prior:
    """What the prior says about every group of cells before any data; arguments as for :func:`posterior_predictive`."""
    draws = predictive.prior_draws(run.hierarchy, num_draws=num_draws, seed=seed)
    theta = draws.theta[0].T
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    sums, people = np.zeros((len(labels), num_draws)), np.zeros(len(labels))
    for restriction, design, rows in zip(run.restrictions, run.designs, _rows(run, shards), strict=True):
        weight = pointwise.base(run.hierarchy.family, design.statistics)
        part, _ = predict.group_sums(
            run.hierarchy.family, design, theta[restriction.coefficients], {"": group[rows]}, {"": len(labels)}, weight
        )
        sums += part[""][0]
        people += np.bincount(group[rows], weight, len(labels))
    kept = np.flatnonzero(people > 0)
    return Prior(labels[kept].tolist(), sums[kept] / people[kept, None], predictive.prior_terms(run.hierarchy, draws))


def _rows(run: Run, shards: Sequence[Any] | np.ndarray | None) -> list[np.ndarray]:
    """Which of the cells that were fitted are in each shard."""
    sizes = [d.num_cells for d in run.designs]
    labels = np.zeros(sum(sizes), dtype=int) if shards is None else np.asarray(shards)
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if [len(r) for r in rows] != sizes:
        raise ModelError(
            "shards", f"{len(rows)} shards of {len(labels)} cells", "the shards that were given to the fit"
        )
    return rows
