"""The outcome of a row: known or not, within the contract or not, and what a cell adds up of it.

Sums of whole numbers are exact in any order. Sums of real numbers are taken in fixed point (128-bit integers), so
they too are the same whatever the order of the rows, the number of files and the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sharding.config import DataConfig
from sharding.contract import Reasons
from sharding.errors import ContractError
from sharding.sources import Kind
from sharding.sql import Bind, quoted

OutcomeKind = Literal["binomial", "gaussian"]
LARGEST = 1e100
"""Numbers beyond it count as not finite: their squares and sums would not be."""
LARGEST_COUNT = 2**53
"""Whole numbers below it are exact as DOUBLE."""


@dataclass(frozen=True)
class Outcome:
    """The outcome's columns: ``parts`` are (name, source column, how it is stored); two parts are successes and trials."""

    kind: OutcomeKind
    parts: tuple[tuple[str, str, Kind], ...]
    markers: tuple[tuple[str, ...], ...]
    reason_numbers: dict[str, int]

    @property
    def where(self) -> str:
        """Place in the configuration, for messages."""
        return "data.outcome"

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the sums of a cell after ``num_rows``."""
        return ("num_trials", "num_successes") if self.kind == "binomial" else ("num_trials", "sum_y", "sum_y_squared")


def resolve_outcome(data: DataConfig, kind: OutcomeKind, kinds: dict[str, Kind], reasons: Reasons) -> Outcome:
    """Return the outcome and enter its reasons of quarantine."""
    columns = data.outcome_columns
    if kind == "gaussian" and len(columns) == 2:
        raise ContractError(
            "data.outcome", "successes and trials", "one column of numbers (the family is gaussian)",
            "Choose the family binomial, or name one column."
        )  # fmt: skip
    label = next(iter(columns)) if len(columns) == 1 else "outcome"
    rules = [data.column(name).unexpected for name in columns]
    if len(columns) == 2:
        expected = "whole numbers of successes and trials, 0 <= successes <= trials"
        names = ["not_a_number", "not_finite", "negative", "not_whole", "successes_exceed_trials"]
    elif kind == "binomial":
        expected, names = f"{label} 0, 1 or missing", ["not_a_number", "not_0_or_1"]
    else:
        expected, names = f"{label} a finite number or missing", ["not_a_number", "not_finite"]
    do = (
        f"Correct data.outcome, list markers of missing values in data.columns.{label if len(columns) == 1 else 'trials'}"
        ".missing_values, or say `unexpected: quarantine` there."
    )
    error = (expected, do) if "error" in rules else None
    ordered = ["successes", "trials"] if len(columns) == 2 else list(columns)
    return Outcome(
        kind,
        tuple((name, columns[name], kinds[columns[name]]) for name in ordered),
        tuple(data.column(name).missing_values for name in ordered),
        {name: reasons.add(f"{label}:{name}", error=error) for name in names},
    )


def number_sql(column: str, kind: Kind, markers: Sequence[str], bind: Bind) -> tuple[str, str]:
    """Return SQL for the value (DOUBLE) of a column and for whether one is given (neither null, NaN nor a marker).

    ``column`` is SQL. The value of text that is no number is null although it is given.
    """
    if kind == "text":
        known = f"({column} IS NOT NULL AND NOT list_contains({bind(list(markers))}::VARCHAR[], {column}))"
        return f"(CASE WHEN {known} THEN TRY_CAST({column} AS DOUBLE) END)", known
    if kind == "null":
        return "NULL::DOUBLE", "false"
    value = f"CAST({column} AS DOUBLE)"
    known = f"({column} IS NOT NULL"
    if kind == "float":
        known += f" AND NOT isnan({value})"
    numbers = [number for number in map(_parse, markers) if number is not None]
    if numbers:
        known += f" AND NOT list_contains({bind(numbers)}::DOUBLE[], {value})"
    return value, known + ")"


def outcome_sql(outcome: Outcome, bind: Bind) -> tuple[list[str], str]:
    """Return SQL over the source columns: the outcome's values where known and right, and the reason's number (or 0)."""
    parts = [
        number_sql(quoted(source), kind, markers, bind)
        for (_, source, kind), markers in zip(outcome.parts, outcome.markers, strict=True)
    ]
    known = " AND ".join(given for _, given in parts)
    values = [value for value, _ in parts]
    reason = outcome.reason_numbers
    cases = [(" OR ".join(f"{value} IS NULL" for value in values), reason["not_a_number"])]
    if len(parts) == 2:
        successes, trials = values
        cases += [
            (f"NOT (abs({successes}) < {LARGEST_COUNT} AND abs({trials}) < {LARGEST_COUNT})", reason["not_finite"]),
            (f"{successes} < 0 OR {trials} < 0", reason["negative"]),
            (f"{successes} <> floor({successes}) OR {trials} <> floor({trials})", reason["not_whole"]),
            (f"{successes} > {trials}", reason["successes_exceed_trials"]),
        ]
    elif outcome.kind == "binomial":
        cases.append((f"{values[0]} NOT IN (0, 1)", reason["not_0_or_1"]))
    else:
        cases.append((f"NOT (abs({values[0]}) < {LARGEST})", reason["not_finite"]))
    whens = " ".join(f"WHEN {condition} THEN {number}" for condition, number in cases)
    flag = f"CAST(CASE WHEN NOT ({known}) THEN 0 {whens} ELSE 0 END AS SMALLINT)"
    return [f"CASE WHEN {known} THEN {value} END" for value in values], flag


def aggregates_sql(outcome: Outcome, scales: tuple[float, float]) -> list[str]:
    """Return the sums of a cell over ``y0`` (and ``y1``), named n, t, s (and q).

    ``scales`` are the fixed-point factors of y and of y squared (gaussian).
    """
    if len(outcome.parts) == 2:
        sums = ["coalesce(CAST(sum(y1) AS BIGINT), 0) AS t", "coalesce(CAST(sum(y0) AS BIGINT), 0) AS s"]
    elif outcome.kind == "binomial":
        sums = ["count(y0) AS t", "coalesce(CAST(sum(y0) AS BIGINT), 0) AS s"]
    else:
        sums = [
            "count(y0) AS t",
            f"coalesce(sum({fixed_point_sql('y0', scales[0])}), 0::HUGEINT) AS s",
            f"coalesce(sum({fixed_point_sql('y0 * y0', scales[1])}), 0::HUGEINT) AS q",
        ]
    return ["count(*) AS n", *sums]


def fixed_point_scale(largest: float, num_terms: int) -> float:
    """Return the power of 2 that turns numbers up to ``largest`` into integers whose sum fits 127 bits.

    Rounding to these integers loses nothing of a number within 12 digits of ``largest`` for up to a billion terms.
    """
    exponent = 124 - math.frexp(largest)[1] - num_terms.bit_length()
    return math.ldexp(1.0, max(-1000, min(1000, exponent)))


def fixed_point_sql(expression: str, scale: float) -> str:
    """Return SQL for ``expression`` (DOUBLE) times ``scale``, as a 128-bit integer."""
    return f"CAST(round(({expression}) * CAST({scale!r} AS DOUBLE)) AS HUGEINT)"


def _parse(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
