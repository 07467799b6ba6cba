"""Estimates of groups: aggregated per draw first, summarised after, and compared with the truth where it is known.

A draw of a group is the row-weighted mean of the draws of its parts, so the spread of the group keeps what its parts
have in common. Averaging the quantiles of the parts instead gives intervals that are far too wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import sparse, stats

from reporting.errors import DrawsError, TableError
from reporting.summary import moments
from reporting.tables import require_columns

NUMBER_COLUMNS = ("num_rows", "num_trials", "raw_mean", "mean", "sd", "mcse")
INTERVAL = 0.9
ALL = "all"


def aggregate(draws: np.ndarray, num_rows: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """Return draws of coarser groups, (chain, draw, group), as row-weighted means of ``draws`` (chain, draw, part).

    ``groups[part]`` is the group of a part, from 0; ``num_rows`` are the rows of each part. A group without rows is
    NaN.
    """
    num_parts = draws.shape[-1]
    weights = sparse.csr_array((num_rows, (groups, np.arange(num_parts))), shape=(num_groups, num_parts), dtype=float)
    sums = weights @ draws.reshape(-1, num_parts).T
    with np.errstate(invalid="ignore"):
        means = sums / weights.sum(axis=1)[:, np.newaxis]
    return means.T.reshape(*draws.shape[:-1], num_groups)


def summarise_groups(
    labels: Mapping[str, Sequence[str]],
    draws: np.ndarray,
    num_rows: np.ndarray,
    num_trials: np.ndarray,
    raw_mean: np.ndarray,
    interval: float = INTERVAL,
) -> pa.Table:
    """Return one row per group: its labels, counts, raw mean, and mean, sd, Monte Carlo error and quantiles.

    The quantiles are both ends of the central ``interval`` and the median, named by their percentages: ``q05``,
    ``q50``, ``q95`` for 0.9.

    Parameters
    ----------
    labels
        Margin column to the label of every group; no columns for the one group ``all``.
    draws
        (chain, draw, group), or (draw, group) for one chain: the group's expected outcome, already aggregated per
        draw (:func:`aggregate`).
    num_rows, num_trials
        (group,) rows in the frame, and rows whose outcome is known.
    raw_mean
        (group,) mean of the known outcomes; null where ``num_trials`` is 0.

    Raises
    ------
    DrawsError
        Lengths that differ, or draws that are not finite.
    """
    values = draws[np.newaxis] if draws.ndim == 2 else draws
    sizes = {name: len(column) for name, column in labels.items()}
    sizes |= {"num_rows": len(num_rows), "num_trials": len(num_trials), "raw_mean": len(raw_mean)}
    margin = ":".join(labels) or ALL
    if any(size != values.shape[-1] for size in sizes.values()):
        raise DrawsError(margin, f"lengths {sizes}", f"{values.shape[-1]} groups in each, as in the draws",
                         "Give labels, counts and draws in one order of groups.")
    quantiles = {_quantile_name(prob): prob for prob in ((1 - interval) / 2, 0.5, (1 + interval) / 2)}
    columns = moments(margin, values, quantiles)
    known = np.asarray(num_trials) > 0
    arrays: dict[str, pa.Array] = {
        name: pa.array([str(label) for label in column], pa.string()) for name, column in labels.items()
    }
    arrays["num_rows"] = pa.array(np.asarray(num_rows), pa.int64())
    arrays["num_trials"] = pa.array(np.asarray(num_trials), pa.int64())
    arrays["raw_mean"] = pa.array(np.asarray(raw_mean, dtype=float), pa.float64(), mask=~known)
    for name in ("mean", "sd", "mcse", *quantiles):
        arrays[name] = pa.array(columns["mcse_mean" if name == "mcse" else name], pa.float64())
    return pa.table(arrays)


def label_columns(estimates: pa.Table) -> list[str]:
    """Return the margin columns of a table that :func:`summarise_groups` made."""
    names = estimates.column_names
    return names[: names.index("num_rows")] if "num_rows" in names else []


def interval_columns(estimates: pa.Table) -> tuple[str, str]:
    """Return the names of the columns with the lower and the upper end of the interval, ``("q05", "q95")``."""
    quantiles = estimates.column_names[-3:]
    return quantiles[0], quantiles[2]


def joined_labels(estimates: pa.Table) -> list[str]:
    """Return one label per group, its columns joined with ``:`` (``CA:06037``); ``all`` without columns."""
    columns = [estimates[name].to_pylist() for name in label_columns(estimates)]
    return [":".join(parts) for parts in zip(*columns, strict=True)] if columns else [ALL] * len(estimates)


@dataclass(frozen=True)
class Comparison:
    """Estimates beside the truth of a simulated nation.

    ``table`` has ``level``, ``num_rows``, ``mean``, both ends of the interval, ``raw_mean``, ``expected_mean``, ``error``
    (estimate - truth) and ``covered``. ``rmse`` and ``mean_error`` are over groups, unweighted; the ``raw_`` ones use
    the raw means of the groups that have any. ``raw_coverage`` is that of their 90% Wilson intervals, None if the raw
    means are not shares.
    """

    table: pa.Table
    num_groups: int
    coverage: float
    rmse: float
    mean_error: float
    raw_rmse: float | None
    raw_coverage: float | None


def compare_with_truth(
    estimates: pa.Table, truth: pa.Table, *, outcome: str | None = None, is_share: bool = True
) -> Comparison:
    """Compare one margin's estimates with ``truth/expected.parquet``.

    ``outcome`` picks the rows of ``truth``; it may be left out if there is only one. ``is_share`` says that raw means are
    shares of people, which have Wilson intervals. Groups are matched by label, and
    every estimated group must have its truth.

    Raises
    ------
    TableError
        A column, the outcome or the truth of a group is missing.
    """
    require_columns("truth/expected", truth, ("outcome", "margin", "level", "expected_mean"))
    require_columns("estimates", estimates, NUMBER_COLUMNS)
    outcomes = sorted({str(name) for name in truth["outcome"].to_pylist()})
    wanted = outcomes[0] if outcome is None and len(outcomes) == 1 else outcome
    if wanted not in outcomes:
        raise TableError("truth/expected", f"outcomes {outcomes}", f"outcome {outcome!r}", "Name one of them.")
    columns = label_columns(estimates)
    margin = ALL if columns in ([], [ALL]) else ":".join(columns)
    rows = zip(truth["outcome"].to_pylist(), truth["margin"].to_pylist(), truth["level"].to_pylist(),
               truth["expected_mean"].to_pylist(), strict=True)
    expected_by_level = {level: mean for row_outcome, row_margin, level, mean in rows
                         if row_outcome == wanted and row_margin == margin}
    levels = joined_labels(estimates)
    missing = [level for level in levels if level not in expected_by_level]
    if missing or not levels:
        raise TableError("truth/expected", f"no truth for {len(missing)} of {len(levels)} groups of margin {margin!r}",
                         "the truth of every group", "Compare with the truth of the same file.")
    expected = np.array([expected_by_level[level] for level in levels], dtype=float)
    return _comparison(estimates, levels, expected, is_share)


def _comparison(estimates: pa.Table, levels: list[str], expected: np.ndarray, is_share: bool) -> Comparison:
    ends = interval_columns(estimates)
    mean, low, high = (estimates[name].to_numpy() for name in ("mean", *ends))
    error = mean - expected
    covered = (low <= expected) & (expected <= high)
    raw = estimates["raw_mean"].to_numpy(zero_copy_only=False)
    trials = estimates["num_trials"].fill_null(0).to_numpy()
    known = np.isfinite(raw) & (trials > 0)
    kept = ("num_rows", "mean", *ends, "raw_mean")
    table = pa.table({"level": levels, **{name: estimates[name] for name in kept}, "expected_mean": expected,
                      "error": error, "covered": covered})
    raw_rmse = raw_coverage = None
    if known.any():
        raw_rmse = _root_mean_square(raw[known] - expected[known])
        if is_share:
            raw_low, raw_high = wilson_interval(raw[known], trials[known])
            raw_coverage = float(np.mean((raw_low <= expected[known]) & (expected[known] <= raw_high)))
    return Comparison(table, len(levels), float(covered.mean()), _root_mean_square(error), float(error.mean()),
                      raw_rmse, raw_coverage)


def wilson_interval(
    share: np.ndarray, num_trials: np.ndarray, coverage: float = INTERVAL
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Wilson score interval (low, high) of observed shares (Wilson 1927, JASA 22)."""
    z = stats.norm.isf((1 - coverage) / 2)
    centre = (share + z**2 / (2 * num_trials)) / (1 + z**2 / num_trials)
    half = z * np.sqrt(share * (1 - share) / num_trials + (z / (2 * num_trials)) ** 2) / (1 + z**2 / num_trials)
    return centre - half, centre + half


def _quantile_name(prob: float) -> str:
    """``q05`` for 0.05, ``q02.5`` for 0.025."""
    whole, _, rest = f"{100 * prob:.6g}".partition(".")
    return f"q{whole:0>2}" + (f".{rest}" if rest else "")


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
