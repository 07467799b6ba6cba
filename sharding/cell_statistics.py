"""What a cell keeps of the outcomes of its rows, by kind of outcome: sums, or the outcome itself as a key of the cell.

Sums of whole numbers are exact in any order. Sums of real numbers are taken in fixed point (128-bit integers), so
they too are the same whatever the order of the rows, the number of files and the number of threads.

Squares are those of distances from a pivot in the middle of all outcomes, and a cell keeps the squares about its own mean: of 1e9 + N(0, 1)
a sum of y^2 has no digit of the variance. Distances are whole numbers of a grid as fine as a double, and so few bits that their squares
add up exactly, so ``sum d^2 - (sum d)^2 / n`` loses nothing. Weighted squares are rounded as products of doubles are, to 16 digits of the
range of all outcomes.

Weights are scaled once, over all good rows, so that they average 1 over the known outcomes (scaled by shard, a shard of
heavy weights would count as much as one of light ones). The sum of their squares is kept beside the weighted sums: a
variance that heeds the design needs both (Binder 1983, International Statistical Review 51). A row of several trials
(``binomial``) counts as that many rows of its weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from sharding.dictionary import OutcomeCoding
from sharding.errors import ContractError
from sharding.level_order import arrange
from sharding.outcome import MAX_CATEGORIES, Outcome, OutcomeKind, too_many_categories

KEY_NAMES: dict[OutcomeKind, tuple[str, ...]] = {
    "keyed_count": ("y", "exposure"), "keyed_trials": ("successes", "trials"), "keyed_number": ("y",),
}  # fmt: skip
"""Columns of the cells that are the outcome itself."""


class Sum(NamedTuple):
    """A sum of a cell in the scratch database: its name there, and SQL of what a row adds (null: nothing).

    ``is_real`` sums are in fixed point (HUGEINT); the others are whole numbers (BIGINT). ``power``: of the distance from the pivot
    that a row adds, times its weight.
    """

    name: str
    row: str
    is_real: bool
    power: int = 0


def reserved_names(kind: OutcomeKind) -> tuple[str, ...]:
    """Return the names that a column of the model cannot have beside cells of this kind, where others can."""
    counts = tuple(f"count_{j}" for j in range(MAX_CATEGORIES)) if kind == "category" else ()
    return KEY_NAMES.get(kind, ()) + counts


def sums(outcome: Outcome, pivot: float = 0.0) -> list[Sum]:
    """Return the sums over ``y0``, ``y1`` and ``w`` of the rows with a known outcome.

    ``p`` people (of all rows), ``t`` trials or rows, ``s`` outcomes, ``d`` and ``q`` their distances from the pivot and the squares of these
    (``q`` of a pair: squares of counts per exposure), ``e`` exposures (or trials that are keys); and of weighted rows ``k`` trials or rows without
    weight, ``v`` squared weights, ``u`` squared weights of successes.
    """
    kind, is_weighted, is_pair = outcome.kind, outcome.weight is not None, len(outcome.parts) == 2
    size = "y1" if kind == "binomial" and is_pair else "1"
    people = [Sum("p", "people", False)] if outcome.has_trials else []
    rows = {"t": size} | ({"s": "y0"} if kind != "category" else {})
    if is_pair and kind != "binomial":
        rows["e"] = "y1"
    if kind not in ("binomial", "keyed_trials", "category"):
        distance = f"(y0 - CAST({pivot!r} AS DOUBLE))"
        rows |= {"q": "y0 * y0 / y1"} if is_pair else {"d": distance, "q": f"{distance} * {distance}"}
    powers = {} if is_pair else {"d": 1, "q": 2}
    if not is_weighted:
        is_whole = kind in ("binomial", "keyed_trials")
        return people + [Sum(name, row, not (is_whole or name == "t"), powers.get(name, 0)) for name, row in rows.items()]
    found = people + [Sum(name, _times("w", row), True, powers.get(name, 0)) for name, row in rows.items()]
    found += [Sum("k", size, False), Sum("v", _times("w * w", size), True)]
    return [*found, Sum("u", "w * w * y0", True)] if kind == "binomial" else found


def people_of(outcome: Outcome) -> str:
    """Return the sum of a cell that is its people: rows, or their trials."""
    return "p" if outcome.has_trials else "n"


def known_of(outcome: Outcome) -> str:
    """Return SQL of a cell's known outcomes, not weighted: rows, or their trials."""
    known = "k" if outcome.weight is not None else "t"
    return f"{known} * coalesce(y1, 0)" if outcome.kind == "keyed_trials" else known


def aggregates_sql(outcome: Outcome, scales: Mapping[str, float], pivot: float = 0.0) -> list[str]:
    """Return the sums of a cell over rows with ``y0`` (and ``y1``, ``w``), and ``n``, the number of all rows.

    ``scales`` are the fixed-point factors of the real sums, ``pivot`` what distances are from.
    """
    fields = ["count(*) AS n"]
    for name, row, is_real, power in sums(outcome, pivot):
        if power == 2 and outcome.weight is None:  # the square of the whole number, exact
            root = fixed_point_sql(row.partition(" * ")[0], scales["d"])
            fields.append(f"coalesce(sum({root} * {root}), 0::HUGEINT) AS {name}")
        elif is_real:
            fields.append(f"coalesce(sum({fixed_point_sql(row, scales[name])}), 0::HUGEINT) AS {name}")
        else:
            fields.append(f"{'count(y0)' if row == '1' else f'coalesce(CAST(sum({row}) AS BIGINT), 0)'} AS {name}")
    return fields


def fields_sql(outcome: Outcome, scales: Mapping[str, float], num_categories: int, weight_factor: float) -> list[str]:
    """Return the columns of a shard from ``num_rows`` on, which are people; ``weight_factor`` makes weights average 1.

    Counts are BIGINT; keys, sums of real numbers and all weighted sums are DOUBLE.
    """
    kind, is_weighted = outcome.kind, outcome.weight is not None
    is_real = {sum_.name: sum_.is_real for sum_ in sums(outcome)}

    def value(of: str, *, like: str = "", power: int = 1) -> str:
        if not is_real[like or of]:
            return f"CAST({of} AS BIGINT)"
        scaled = f"CAST({of} AS DOUBLE) / CAST({scales[like or of]!r} AS DOUBLE)"
        return f"{scaled} * CAST({weight_factor**power!r} AS DOUBLE)" if is_weighted else scaled

    fields = {"num_rows": f"CAST({people_of(outcome)} AS BIGINT)", "num_trials": value("t")}
    if kind == "binomial":
        fields["num_successes"] = value("s")
    elif kind == "gaussian":
        fields |= {"sum_y": value("s"), "squared_deviations": deviations_sql(is_weighted, scales, weight_factor)}
    elif kind == "count":
        fields |= {"sum_y": value("s"), "sum_exposure": f"CAST({value('e' if 'e' in is_real else 't')} AS DOUBLE)"}
    elif kind == "category":
        fields |= {f"count_{j}": value(f"count_{j}", like="t") for j in range(num_categories)}
    for i, name in enumerate(KEY_NAMES.get(kind, ())):
        key = outcome.cell_keys[i] if i < len(outcome.cell_keys) else "NULL"
        fields[name] = f"CAST(coalesce({key}, {1.0 if name == 'exposure' else 0.0}) AS DOUBLE)"
    if is_weighted:
        fields |= {"num_known": value("k"), "sum_weight_squared": value("v", power=2)}
        if kind == "binomial":
            fields["sum_weight_squared_successes"] = value("u", power=2)
    return [f"{sql} AS {name}" for name, sql in fields.items()]


def categories(outcome: Outcome, found: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Return the categories in order, the declared ones or those of the rows, and whether the order is their own, as of the
    levels of a factor."""
    if outcome.levels is not None:
        return outcome.levels, True
    arranged, is_ordered = arrange(found, outcome.orders)
    return tuple(arranged), is_ordered


def describe(
    outcome: Outcome, totals: Mapping[str, Fraction], names: tuple[str, ...], counts: Sequence[Fraction]
) -> OutcomeCoding:
    """Return the outcome's entry in the dictionary.

    Parameters
    ----------
    totals
        Exact value of every sum over all good rows.
    names, counts
        Categories and their totals; empty for other kinds.

    Raises
    ------
    ContractError
        If no outcome is known, or the number of categories is not 2 to 20.
    """
    num_known = int(totals["k" if outcome.weight is not None else "t"])
    size = totals["e" if "e" in totals else "t"]
    if num_known == 0 or size == 0:
        raise ContractError(
            outcome.where, "no row with a known outcome", "at least one",
            "Correct data.outcome, or the column's `missing_values`."
        )  # fmt: skip
    if outcome.kind == "category":
        if len(names) > MAX_CATEGORIES:
            raise too_many_categories(outcome.where, f"more than {MAX_CATEGORIES}")
        if sum(count > 0 for count in counts) < 2:
            raise ContractError(
                outcome.where, "one category in all rows", f"2 to {MAX_CATEGORIES}",
                "Correct data.outcome, or the column's `levels` and `missing_values`."
            )  # fmt: skip
        return OutcomeCoding(outcome.kind, num_known, 0.0, 0.0, names, tuple(float(c / size) for c in counts))
    exact_mean = totals["s"] / size
    mean = float(exact_mean)
    if "q" not in totals:
        return OutcomeCoding(outcome.kind, num_known, mean, (mean * (1 - mean)) ** 0.5)
    about = totals["d"] / size if "d" in totals else exact_mean
    variance = totals["q"] / size - about**2
    return OutcomeCoding(outcome.kind, num_known, mean, float(max(variance, Fraction(0))) ** 0.5)


def deviations_sql(is_weighted: bool, scales: Mapping[str, float], weight_factor: float) -> str:
    """SQL for a cell's squared distances from its own mean: ``q - d^2 / t``, in whole numbers where there are no weights."""
    if is_weighted:  # see `check_digits`
        q, d, t = (f"CAST({name} AS DOUBLE) / CAST({scales[name]!r} AS DOUBLE)" for name in "qdt")
        within = f"greatest({q} - ({d}) * ({d}) / ({t}), 0) * CAST({weight_factor!r} AS DOUBLE)"
        return f"CAST(CASE WHEN k < 2 THEN 0 ELSE {within} END AS DOUBLE)"
    rows, mean = "CAST(t AS HUGEINT)", "(d // CAST(t AS HUGEINT))"
    rest = f"(d - {mean} * {rows})"  # fewer than there are rows, so that no square of a sum is formed
    whole = f"q - {rows} * {mean} * {mean} - 2 * {mean} * {rest}"
    within = f"CAST({whole} AS DOUBLE) - CAST({rest} AS DOUBLE) * CAST({rest} AS DOUBLE) / CAST(t AS DOUBLE)"
    return f"CAST(CASE WHEN t < 2 THEN 0 ELSE ({within}) / CAST({scales['q']!r} AS DOUBLE) END AS DOUBLE)"


def check_digits(outcome: Outcome, within: float, about_pivot: float) -> None:
    """Refuse weighted outcomes whose squares within cells are less than what doubles hold of their squares about the pivot.

    Both sums are over cells of several rows. Without weights the squares are exact.
    """
    if about_pivot > 0 and within < 1e-11 * about_pivot:
        raise ContractError(
            outcome.where, "weighted numbers that vary within cells by less than a 300,000th of what they vary by in all", "more",
            "Subtract from the outcome what the cells have in common, or leave the weights out."
        )  # fmt: skip


def pivot_scales(half_range: float, largest_weight: float | None, num_terms: int) -> dict[str, float]:
    """Return the fixed-point factors of the sums of distances up to ``half_range`` and of their squares.

    Without weights squares are those of whole numbers, which have as many bits as leave room for the sum.
    """
    if largest_weight is not None:
        return {
            "d": fixed_point_scale(half_range * largest_weight, num_terms),
            "q": fixed_point_scale(half_range * half_range * largest_weight, num_terms),
        }
    exponent = (124 - num_terms.bit_length()) // 2 - math.frexp(half_range)[1]
    scale = math.ldexp(1.0, max(-500, min(500, exponent)))
    return {"d": scale, "q": scale * scale}


def _times(factor: str, row: str) -> str:
    return factor if row == "1" else f"{factor} * {row}"


def fixed_point_scale(largest: float, num_terms: int) -> float:
    """Return the power of 2 that turns numbers up to ``largest`` into integers whose sum fits 127 bits.

    Rounding to these integers loses nothing of a number within 12 digits of ``largest`` for up to a billion terms.
    """
    exponent = 124 - math.frexp(largest)[1] - num_terms.bit_length()
    return math.ldexp(1.0, max(-1000, min(1000, exponent)))


def fixed_point_sql(expression: str, scale: float) -> str:
    """Return SQL for ``expression`` (DOUBLE) times ``scale``, as a 128-bit integer."""
    return f"CAST(round(({expression}) * CAST({scale!r} AS DOUBLE)) AS HUGEINT)"
