"""What moved from one posterior to another: new mean minus old mean, in posterior sds of the old one.

Sds make a county and a coefficient comparable: a move of one sd takes the mean to where the old posterior's sixteenth or
eighty-fourth percentile was. ``noise`` is the Monte Carlo error of the move in the same unit; a move of the size of its
noise is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from reporting.estimates import joined_labels
from reporting.tables import require_columns

PARAMETERS = "parameters"
LIMITS = (0.5, 1.0, 2.0)
NUM_TOP = 20

SCHEMA = pa.schema(
    [("table", pa.string()), ("level", pa.string())]
    + [(name, pa.float64()) for name in ("mean_before", "sd_before", "mean_after", "sd_after", "move", "noise")]
)


def of_parameters(before: pa.Table, after: pa.Table) -> pa.Table:
    """Return the moves of a run's ``summary.parquet``, as :data:`SCHEMA`: one row per parameter of either posterior.

    Parameters that only one of the two has come last, with nulls for the other and no move.

    Raises
    ------
    TableError
        A column is missing.
    """
    for table in (before, after):
        require_columns("summary", table, ("parameter", "mean", "sd", "mcse_mean"))
    return _moves(PARAMETERS, *(_numbers(t["parameter"].to_pylist(), t, "mcse_mean") for t in (before, after)))


def of_margin(margin: str, before: pa.Table, after: pa.Table) -> pa.Table:
    """Return the moves of the estimates of one margin, as :func:`of_parameters` does."""
    for table in (before, after):
        require_columns(f"estimates/{margin}", table, ("mean", "sd", "mcse"))
    return _moves(margin, *(_numbers(joined_labels(t), t, "mcse") for t in (before, after)))


def summarise(moves: pa.Table) -> dict[str, Any]:
    """Return how many were compared, are new and gone, moved by more than each limit, and the largest move and where."""
    move = moves["move"].to_numpy(zero_copy_only=False)
    known = np.isfinite(moves["mean_before"].to_numpy(zero_copy_only=False))
    still = np.isfinite(moves["mean_after"].to_numpy(zero_copy_only=False))
    sizes = np.where(np.isnan(move), -1.0, np.abs(move))
    where = int(sizes.argmax()) if (sizes >= 0).any() else None
    return {
        "compared": int((known & still).sum()),
        "new": int((~known).sum()),
        "gone": int((~still).sum()),
        "above": {f"{limit:g}": int((sizes > limit).sum()) for limit in LIMITS},
        "largest": None if where is None else float(sizes[where]),
        "where": None if where is None else str(moves["level"][where].as_py()),
    }


def top(moves: pa.Table, number: int = NUM_TOP) -> list[dict[str, Any]]:
    """Return the rows that moved most, the furthest first."""
    move = moves["move"].to_numpy(zero_copy_only=False)
    sizes = np.where(np.isnan(move), -1.0, np.abs(move))
    order = [i for i in np.argsort(-sizes, kind="stable")[:number].tolist() if sizes[i] >= 0]
    return list(moves.take(order).to_pylist())


def _numbers(labels: list[str], table: pa.Table, error: str) -> dict[str, tuple[float, float, float]]:
    columns = [table[name].to_pylist() for name in ("mean", "sd", error)]
    return {label: (mean, sd, mcse) for label, mean, sd, mcse in zip(labels, *columns, strict=True)}


def _moves(
    name: str,
    before: Mapping[str, tuple[float, float, float]],
    after: Mapping[str, tuple[float, float, float]],
) -> pa.Table:
    rows = []
    for level in [
        *(x for x in after if x in before),
        *(x for x in after if x not in before),
        *(x for x in before if x not in after),
    ]:
        old, new = before.get(level), after.get(level)
        row: dict[str, Any] = {"table": name, "level": level, "move": None, "noise": None}
        row |= {"mean_before": old and old[0], "sd_before": old and old[1]}
        row |= {"mean_after": new and new[0], "sd_after": new and new[1]}
        if old is not None and new is not None and old[1] > 0:  # what never moved has no sd to measure by
            row |= {"move": (new[0] - old[0]) / old[1], "noise": float(np.hypot(old[2], new[2])) / old[1]}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)
