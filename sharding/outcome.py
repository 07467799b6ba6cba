"""The outcome of a row: known or not, within the contract or not, and the weight that the row has.

What a cell keeps of the outcomes of its rows is in :mod:`sharding.cell_statistics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sharding.config import DataConfig
from sharding.contract import Reasons
from sharding.errors import ContractError
from sharding.labels import Kind, label_sql
from sharding.level_order import Order
from sharding.sources import Sources
from sharding.sql import Bind, quoted

OutcomeKind = Literal["binomial", "gaussian", "count", "keyed_count", "keyed_trials", "keyed_number", "category"]
MAX_CATEGORIES = 20
LARGEST = 1e100
"""Numbers beyond it count as not finite, and weights and exposures below its inverse as not positive: the products and
quotients of which the sums are made would not be finite."""
LARGEST_COUNT = 2**53
"""Whole numbers below it are exact as DOUBLE."""

_SUCCESSES, _EXPOSURE = ("successes", "trials"), ("count", "exposure")
_SHAPES: dict[OutcomeKind, tuple[tuple[str, str] | None, bool, str]] = {
    "binomial": (_SUCCESSES, True, "one column of 0 and 1, or successes and trials"),
    "gaussian": (None, True, "one column of numbers"),
    "count": (_EXPOSURE, True, "one column of counts, or count and exposure"),
    "keyed_count": (_EXPOSURE, True, "one column of counts, or count and exposure"),
    "keyed_trials": (_SUCCESSES, False, "the columns of successes and trials"),
    "keyed_number": (None, True, "one column of numbers"),
    "category": (None, True, "one column of categories"),
}
"""By kind: the pair of columns that it may have, whether one column will do, and both in words."""


class Part(NamedTuple):
    """A column that makes the outcome, or the weight: its name, its name in the files, how it is stored, what is missing."""

    name: str
    source: str
    kind: Kind
    markers: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """The outcome's columns: one, or the two of a pair. ``levels`` are the declared categories, in order, ``orders`` those of
    files that store one.

    ``reason_numbers`` are those of the outcome by the name of the rule, and of the weight by ``weight:`` and the rule.
    """

    kind: OutcomeKind
    parts: tuple[Part, ...]
    weight: Part | None
    levels: tuple[str, ...] | None
    orders: tuple[Order, ...]
    reason_numbers: dict[str, int]

    @property
    def where(self) -> str:
        """Place in the configuration, for messages."""
        return "data.outcome"

    @property
    def sources(self) -> list[str]:
        """The columns of the files that are read for it."""
        return [part.source for part in (*self.parts, *([] if self.weight is None else [self.weight]))]

    @property
    def has_trials(self) -> bool:
        """Whether a row is as many people as it has trials."""
        return self.parts[-1].name == "trials"

    @property
    def is_binary(self) -> bool:
        """Whether it is one column of failures and successes; ``levels`` are their names, if they are declared."""
        return self.kind == "binomial" and len(self.parts) == 1

    @property
    def cell_keys(self) -> list[str]:
        """The values (``y0``, ``y1``) that rows of one cell have in common, where sums of them are not sufficient."""
        return [f"y{i}" for i in range(len(self.parts))] if self.kind.startswith("keyed_") else []

    @property
    def group_keys(self) -> list[str]:
        """The values to group rows by: the keys of the cells, or the category, which is counted once all are known."""
        return ["y0"] if self.kind == "category" else self.cell_keys


def resolve_outcome(data: DataConfig, kind: OutcomeKind, sources: Sources, reasons: Reasons) -> Outcome:
    """Return the outcome with its weight, and enter their reasons of quarantine.

    Raises
    ------
    ContractError
        If `data.outcome` has not the columns that ``kind`` needs, or more categories are declared than there may be.
    """
    columns, kinds = data.outcome_columns, sources.kinds
    pair, takes_one, shape = _SHAPES[kind]
    if set(columns) != set(pair or ()) if len(columns) == 2 else not takes_one:
        raise ContractError(
            "data.outcome", " and ".join(columns) if len(columns) == 2 else "one column",
            f"{shape} (the outcome is of kind {kind!r})", "Correct data.outcome, or choose another family."
        )  # fmt: skip
    ordered = list(pair) if pair is not None and len(columns) == 2 else list(columns)
    label = ordered[0] if len(ordered) == 1 else "outcome"
    is_binary = kind == "binomial" and len(ordered) == 1
    levels = data.column(label).levels if kind == "category" or is_binary else None
    if is_binary and levels is not None and len(levels) != 2:
        raise ContractError(f"data.columns.{label}.levels", f"{len(levels)} levels", "two: the failure, then the success", "Name these two.")
    if levels is not None and len(levels) > MAX_CATEGORIES:
        raise too_many_categories(f"data.columns.{label}.levels", str(len(levels)))
    expected, names = _rules(kind, ordered, label, levels)
    numbers = {
        rule: reasons.add(f"{label}:{rule}", error=_error(data, expected, _columns_of(rule, ordered))) for rule in names
    }
    if ordered[-1] == "trials":
        numbers["trials:missing"] = _trials_reason(data, reasons)
    return Outcome(
        kind,
        tuple(Part(name, columns[name], kinds[columns[name]], data.column(name).missing_values) for name in ordered),
        _resolve_weight(data, kinds),
        levels,
        sources.orders.get(columns[ordered[0]], ()) if kind == "category" else (),
        numbers | (_weight_reasons(data, reasons) if data.weight is not None else {}),
    )


def _trials_reason(data: DataConfig, reasons: Reasons) -> int:
    """A row without trials is nobody knows how many people: left out only if that is said."""
    declared = data.column("trials").missing == "quarantine"
    error = (
        "trials known in every row: they are how many people it stands for, whether their outcome is known or not",
        "Fill them in, or say data.columns.trials.missing: quarantine to leave these rows out.",
    )
    return reasons.add("trials:missing", error=None if declared else error)


def _columns_of(rule: str, ordered: list[str]) -> list[str]:
    """Which of the outcome's columns breaks a rule; of a pair it may be either."""
    if rule == "exposure_not_positive":
        return ordered[1:]
    is_count = ordered[-1] == "exposure" and rule in ("negative", "not_whole")
    return ordered[:1] if is_count else ordered


def _error(data: DataConfig, expected: str, columns: list[str]) -> tuple[str, str] | None:
    """What is expected and what to do where rows like this are an error: where no column that may break the rule says otherwise."""
    if any(data.column(name).unexpected == "quarantine" for name in columns):
        return None
    named = " or ".join(f"data.columns.{name}" for name in columns)
    return expected, (
        f"Correct data.outcome, list markers of missing values in `missing_values` of {named}, or say `unexpected: quarantine` there."
    )


def too_many_categories(where: str, found: str) -> ContractError:
    """The error of an outcome of more categories than the models take."""
    return ContractError(
        where, f"{found} categories", f"2 to {MAX_CATEGORIES}",
        "Join the rare ones in the data, or declare `levels` and say `unexpected: quarantine`."
    )  # fmt: skip


def _rules(
    kind: OutcomeKind, ordered: list[str], label: str, levels: tuple[str, ...] | None
) -> tuple[str, tuple[str, ...]]:
    """What a row's outcome has to be, in words, and the names of the reasons why it is not."""
    numbers = ("not_a_number", "not_finite")
    if len(ordered) == 2 and ordered[0] == "successes":
        expected = "whole numbers of successes and trials, 0 <= successes <= trials"
        return expected, (*numbers, "negative", "not_whole", "successes_exceed_trials")
    if len(ordered) == 2:
        expected = "a whole number from 0 on as count, and a finite exposure above 0"
        return expected, (*numbers, "negative", "not_whole", "exposure_not_positive")
    if kind == "binomial":
        shown = "0, 1" if levels is None else " or ".join(map(repr, levels))
        return f"{label} {shown} or missing", ("not_a_number", "not_0_or_1")
    if kind in ("count", "keyed_count"):
        return f"{label} a whole number from 0 on or missing", (*numbers, "negative", "not_whole")
    if kind == "category":
        shown = ", ".join(map(repr, levels or ()))
        return f"{label} one of {shown} or missing", ("unexpected_level",) if levels is not None else ()
    return f"{label} a finite number or missing", numbers


def _resolve_weight(data: DataConfig, kinds: dict[str, Kind]) -> Part | None:
    if data.weight is None:
        return None
    source = data.source_name(data.weight)
    return Part(data.weight, source, kinds[source], data.column(data.weight).missing_values)


def _weight_reasons(data: DataConfig, reasons: Reasons) -> dict[str, int]:
    name = str(data.weight)
    error = (f"{name} known where the outcome is", f"Say data.columns.{name}.missing: quarantine, or correct the file.")
    rules = {"missing": error if data.column(name).missing == "error" else None}
    rules |= dict.fromkeys(["not_a_number", "not_finite", "not_positive"])
    return {f"weight:{rule}": reasons.add(f"weight:{rule}", error=pair) for rule, pair in rules.items()}


def number_sql(column: str, kind: Kind, markers: Sequence[str], bind: Bind) -> tuple[str, str]:
    """Return SQL for the value (DOUBLE) of a column and for whether one is given (neither null, NaN nor a marker).

    ``column`` is SQL. The value of text that is no number is null although it is given.
    """
    if kind == "text":
        number = f"TRY_CAST({column} AS DOUBLE)"
        of_number = [marked for marked in map(_parse, markers) if marked is not None]
        is_number = f"NOT list_contains({bind(of_number)}::DOUBLE[], {number})" if of_number else "true"
        label = label_sql(column, kind)  # costs more than a number: of what is none only
        is_text = f"({column} IS NOT NULL AND NOT list_contains({bind(list(markers))}::VARCHAR[], {label}))"
        known = f"(CASE WHEN {number} IS NOT NULL THEN {is_number} ELSE {is_text} END)"
        return f"(CASE WHEN {known} THEN {number} END)", known
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


def outcome_sql(outcome: Outcome, bind: Bind) -> tuple[dict[str, str], str]:
    """Return SQL over the source columns: values by name, null where the outcome is not known, and the reason (or 0).

    The values are ``y0``, ``y1`` (the second of a pair) and ``w`` (the weight), DOUBLE but for a category, which is text.
    """
    parts = [_value_sql(outcome, part, bind) for part in outcome.parts]
    known = " AND ".join(given for _, given in parts)
    values = {f"y{i}": value for i, (value, _) in enumerate(parts)}
    cases = _outcome_cases(outcome, list(values.values()), bind)
    if outcome.weight is not None:
        values["w"], given = number_sql(
            quoted(outcome.weight.source), outcome.weight.kind, outcome.weight.markers, bind
        )
        cases += [
            (f"NOT {given}", "weight:missing"),
            (f"{values['w']} IS NULL", "weight:not_a_number"),
            (f"NOT (abs({values['w']}) < {LARGEST})", "weight:not_finite"),
            (f"{values['w']} < {1 / LARGEST}", "weight:not_positive"),
        ]
    first = [(f"NOT ({known})", 0)]
    if outcome.has_trials:
        trials, given = parts[-1]
        rules = (f"NOT {given}", "trials:missing"), (f"{trials} < 0", "negative"), (f"{people_sql(outcome, bind)} IS NULL", "not_whole")
        first = [(f"NOT ({known}) AND {condition}", outcome.reason_numbers[rule]) for condition, rule in rules] + first
    numbered = [*first, *((condition, outcome.reason_numbers[rule]) for condition, rule in cases)]
    whens = " ".join(f"WHEN {condition} THEN {number}" for condition, number in numbered)
    flag = f"CAST(CASE {whens} ELSE 0 END AS SMALLINT)"
    return {name: f"CASE WHEN {known} THEN {value} END" for name, value in values.items()}, flag


def people_sql(outcome: Outcome, bind: Bind) -> str:
    """Return SQL of how many people a row is: 1, or its trials; null where these are no whole number."""
    if not outcome.has_trials:
        return "1"
    trials, _ = _value_sql(outcome, outcome.parts[-1], bind)
    return f"CASE WHEN {trials} >= 0 AND {trials} < {LARGEST_COUNT} AND {trials} = floor({trials}) THEN {trials} END"


def _value_sql(outcome: Outcome, part: Part, bind: Bind) -> tuple[str, str]:
    """As :func:`number_sql`; a category is its label, true and false are a binary outcome, and no key of a cell is a negative zero."""
    if outcome.kind == "category" or (outcome.is_binary and outcome.levels is not None):
        label = label_sql(quoted(part.source), part.kind)
        given = f"({label} IS NOT NULL AND NOT list_contains({bind(list(part.markers))}::VARCHAR[], {label}))"
        if outcome.kind == "category" or outcome.levels is None:
            return label, given
        failure, success = (f"{bind(level)}::VARCHAR" for level in outcome.levels)
        return f"(CASE {label} WHEN {failure} THEN 0.0::DOUBLE WHEN {success} THEN 1.0::DOUBLE END)", given
    value, given = number_sql(quoted(part.source), part.kind, part.markers, bind)
    if outcome.is_binary and part.kind == "text":
        word = f"lower(trim({quoted(part.source)}))"
        value = f"coalesce({value}, CASE {word} WHEN 'true' THEN 1.0::DOUBLE WHEN 'false' THEN 0.0::DOUBLE END)"
    if outcome.cell_keys:
        value = f"(CASE WHEN {value} = 0 THEN 0.0::DOUBLE ELSE {value} END)"
    return value, given


def _outcome_cases(outcome: Outcome, values: list[str], bind: Bind) -> list[tuple[str, str]]:
    """SQL conditions under which a given outcome breaks a rule, with the rule; the first that holds counts."""
    first, last = values[0], values[-1]
    if outcome.kind == "category":
        if outcome.levels is None:
            return []
        return [(f"NOT list_contains({bind(list(outcome.levels))}::VARCHAR[], {first})", "unexpected_level")]
    cases = [(" OR ".join(f"{value} IS NULL" for value in values), "not_a_number")]
    rules = outcome.reason_numbers
    if "not_0_or_1" in rules:
        return [*cases, (f"{first} NOT IN (0, 1)", "not_0_or_1")]
    if "not_whole" not in rules:
        return [*cases, (f"NOT (abs({first}) < {LARGEST})", "not_finite")]
    whole = values if "successes_exceed_trials" in rules else [first]
    limits = [f"abs({value}) < {LARGEST_COUNT}" for value in whole]
    if "exposure_not_positive" in rules:
        limits.append(f"abs({last}) < {LARGEST}")
    cases += [
        (f"NOT ({' AND '.join(limits)})", "not_finite"),
        (" OR ".join(f"{value} < 0" for value in whole), "negative"),
        (" OR ".join(f"{value} <> floor({value})" for value in whole), "not_whole"),
    ]
    if "successes_exceed_trials" in rules:
        cases.append((f"{first} > {last}", "successes_exceed_trials"))
    if "exposure_not_positive" in rules:
        cases.append((f"{last} < {1 / LARGEST}", "exposure_not_positive"))
    return cases


def _parse(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
