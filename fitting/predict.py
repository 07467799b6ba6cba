"""Expected outcomes of groups of cells, per posterior draw: aggregate first, summarise afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from fitting.cell_design import CellDesign, NewLevels
from fitting.errors import ModelError
from fitting.families import Family, expected_outcome
from fitting.hierarchy import Hierarchy
from fitting.sites import linear_predictors, matrices

DRAW_CHUNK = 50
CALIBRATION_BINS = 200


class Calibration(NamedTuple):
    """By expected outcome in equal bins over [0, 1]: trials, observed sum and expected sum, each (CALIBRATION_BINS,)."""

    trials: np.ndarray
    observed: np.ndarray
    expected: np.ndarray


def group_sums(
    family: Family,
    design: CellDesign,
    theta: np.ndarray,
    groups: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    weight: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Weighted sums of expected outcomes.

    Parameters
    ----------
    theta
        Draws of the coefficients, shape (D, M).
    groups, sizes
        Per margin the group of each cell, shape (n,), and the number of groups.
    weight
        People in each cell, shape (n,).

    Returns
    -------
    sums, cell_means
        Per margin shape (C, number of groups, M), C as in `fitting.families.expected_outcome`; and each cell's expected
        outcome, averaged over draws, shape (C, n).
    """
    cells = np.arange(design.num_cells)
    selectors = [
        sparse.csr_array((weight.astype(np.float64), (groups[m], cells)), shape=(sizes[m], len(cells))) for m in groups
    ]
    selector = sparse.vstack(selectors, format="csr") if selectors else sparse.csr_array((0, len(cells)))
    linear, num_draws = matrices(design, len(theta)), theta.shape[1]
    num_outcomes = max(len(family.categories), 1)
    sums, means = np.empty((num_outcomes, selector.shape[0], num_draws)), np.zeros((num_outcomes, len(cells)))
    for begin in range(0, num_draws, DRAW_CHUNK):
        part = slice(begin, begin + DRAW_CHUNK)
        expected = expected_outcome(family, linear_predictors(linear, theta[:, part]))
        for c in range(num_outcomes):
            sums[c, :, part] = selector @ expected[c]
        means += expected.sum(axis=2)
    bounds = np.cumsum([0, *(sizes[m] for m in groups)])
    return {m: sums[:, bounds[i] : bounds[i + 1]] for i, m in enumerate(groups)}, means / num_draws


def calibration(expected: np.ndarray, trials: np.ndarray, observed: np.ndarray) -> Calibration:
    """Totals by bins of a cell's expected share, for shares in [0, 1]; each argument has shape (n,)."""
    place = np.clip((expected * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)
    return Calibration(*(np.bincount(place, w, CALIBRATION_BINS) for w in (trials, observed, trials * expected)))


def deciles(total: Calibration, num_bins: int = 10) -> list[dict[str, float]]:
    """Merge fine bins to about equal numbers of trials, lowest expected share first."""
    cumulative = np.cumsum(total.trials)
    if not cumulative[-1]:
        return []
    bins = np.minimum((num_bins * (cumulative - total.trials / 2) / cumulative[-1]).astype(np.int64), num_bins - 1)
    rows = []
    for b in range(num_bins):
        trials = float(total.trials[bins == b].sum())
        if trials:
            rows.append({
                "bin": b + 1, "num_trials": trials, "observed": float(total.observed[bins == b].sum() / trials),
                "expected": float(total.expected[bins == b].sum() / trials),
            })  # fmt: skip
    return rows


def draw_new_levels(
    hierarchy: Hierarchy, theta: np.ndarray, psi: np.ndarray, new_levels: Sequence[NewLevels], seed: int
) -> np.ndarray:
    """Coefficients with those of levels that no data informed appended, one draw per level and posterior draw.

    ``theta`` (D, M) and ``psi`` (M, H) are draws; the result has shape (D + new, M), in the order of the places that
    ``Model.design`` gave.
    """
    rng = np.random.default_rng([seed, 7])
    parts = [theta]
    for new in new_levels:
        group, part = hierarchy.model.groups[new.group], hierarchy.slices[new.group]
        if group.structure is not None:
            raise ModelError(
                f"term of {group.name!r}", f"{new.num_levels} levels that the data do not have", "the levels that its structured "
                "prior was made for: where a new level lies among them is not known",
            )  # fmt: skip
        size = len(group.coefficient_names)
        effects = np.empty((new.num_levels, size, theta.shape[1]))
        for m in range(theta.shape[1]):
            precision, _ = hierarchy.group_precision(new.group, psi[m, part])
            lower = np.linalg.cholesky(np.linalg.inv(precision))
            effects[:, :, m] = rng.standard_normal((new.num_levels, size)) @ lower.T
        parts.append(effects.reshape(new.num_levels * size, -1))
    return np.concatenate(parts)
