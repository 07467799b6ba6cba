"""Who is in the cells and who is not, and whose numbers are beyond those that a frozen coding was decided on.

Both are counted in people: rows, or their trials. The tables are those of :mod:`sharding.cells`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from sharding import cell_statistics
from sharding.cells import CellTable
from sharding.contract import Reasons
from sharding.dictionary import Dictionary, FactorCoding
from sharding.outcome import Outcome


def accounted(connection: duckdb.DuckDBPyConnection, outcome: Outcome, reasons: Reasons) -> dict[str, Any]:
    """Return people and known outcomes, not weighted, in the cells and left out by reason.

    Of a row whose outcome itself is at fault nothing is known of the outcome.
    """
    sums = cell_statistics.people_of(outcome), cell_statistics.known_of(outcome)
    people, known = (f"CAST(coalesce(sum({sql}), 0) AS HUGEINT)" for sql in sums)
    rows = connection.execute(f"SELECT reason, {people}, {known} FROM coded GROUP BY reason ORDER BY reason").fetchall()
    found = {number: {"people": int(p), "outcomes": int(k)} for number, p, k in rows}
    good = found.pop(0, {"people": 0, "outcomes": 0})
    return {**good, "left_out": {reasons.name(number): counts for number, counts in found.items()}}


MIN_OUTCOMES = 30
"""Levels of fewer known outcomes have no design effect worth telling: it is at most their number."""


def weights(cells: CellTable, outcome: Outcome, codings: Mapping[str, FactorCoding]) -> dict[str, Any] | None:
    """Return what survey weights leave of the known outcomes: (sum w)^2 / sum w^2 of them, in all and, by factor, at the level that loses most.

    Kish (1965), Survey Sampling, sec. 11.7. None without weights.
    """
    if outcome.weight is None:
        return None
    _, outcomes, total, squares = cells.weight_sums()[0]
    worst = []
    for column in cells.factors:
        levels = codings[column.name].levels
        losses = [(k * v / t**2, levels[code]) for code, k, t, v in cells.weight_sums(column) if k >= MIN_OUTCOMES and t > 0]
        if len(levels) > 1 and losses:
            effect, level = max(losses)
            worst.append({"column": column.name, "level": level, "design_effect": effect})
    return {"column": outcome.weight.name, "outcomes": outcomes, "effective": total**2 / squares, "levels": worst}


def outside(
    connection: duckdb.DuckDBPyConnection, cells: CellTable, outcome: Outcome, coding: Dictionary | None
) -> list[dict[str, Any]]:
    """Return the numeric columns with numbers outside of the range that ``coding`` was decided on, and their people."""
    found = []
    for column in cells.numerics:
        kept = coding.numerics.get(column.name) if coding is not None else None
        if kept is None or kept.minimum is None or kept.maximum is None:
            continue
        x, (low, high) = cells.code(column), (f"CAST({end!r} AS DOUBLE)" for end in (kept.minimum, kept.maximum))
        people, least, most = connection.execute(
            f"SELECT sum({cell_statistics.people_of(outcome)}) FILTER (WHERE {x} NOT BETWEEN {low} AND {high}), min({x}), max({x}) FROM good"
        ).fetchall()[0]
        if people:
            found.append({
                "column": column.name, "people": int(people), "minimum": kept.minimum, "maximum": kept.maximum,
                "found_minimum": least, "found_maximum": most,
            })  # fmt: skip
    return found
