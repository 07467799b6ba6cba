"""A coding that stays: what an earlier ingest decided holds for files that came later.

Sites of shards that did not change are kept only if their coefficients still mean the same, so centre, scale, reference
and the order of levels stay. New levels come after the old ones; a level that is in no row any more stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from sharding.dictionary import Dictionary, FactorCoding, NumericCoding, OutcomeCoding
from sharding.errors import ContractError
from sharding.labels import label

ANEW = "Ingest into a new run directory: there the whole coding is decided anew."

Groups = tuple[tuple[int, ...], ...]
Parents = dict[str, dict[str, tuple[int, ...]]]


def role(frozen: Dictionary | None, name: str) -> Literal["factor", "numeric"] | None:
    """Return what a column is in the frozen coding; None where that does not have it."""
    if frozen is None:
        return None
    return "factor" if name in frozen.factors else "numeric" if name in frozen.numerics else None


def check_labels(frozen: Dictionary | None) -> None:
    """Refuse levels that no value is called any more: the rule for labels is another than when they were written."""
    if frozen is None:
        return
    found = {name: coding.levels for name, coding in frozen.factors.items()} | {"": frozen.outcome.categories or ()}
    for name, levels in found.items():
        old = sum(label(level) != level for level in levels)
        if old:
            where = f"data.columns.{name}" if name else "data.outcome"
            raise ContractError(where, f"{old} level(s) whose rows have other labels now", "labels that stay", ANEW)


def check_role(frozen: Dictionary | None, name: str, found: str, where: str) -> None:
    """Refuse a column that was a factor and is a number now, or the other way round."""
    expected = role(frozen, name)
    if expected not in (None, found):
        raise ContractError(where, f"a {found} column", f"a {expected} column, as when the coding was decided", ANEW)


def groups(
    frozen: Dictionary | None, codings: dict[str, FactorCoding], columns: tuple[str, ...], found: Groups
) -> Groups:
    """Return the combinations of codes that occur and those that did, sorted."""
    if frozen is None or not all(_keeps_codes(frozen, codings, column) for column in columns):
        return found
    return tuple(sorted({*found, *frozen.groups.get(":".join(columns), ())}))


def parents(frozen: Dictionary | None, codings: dict[str, FactorCoding], found: Parents) -> Parents:
    """Return the parents with those of levels that are in no row any more as they were."""
    if frozen is None:
        return found
    result: Parents = {}
    for child, above in found.items():
        for parent, codes in above.items():
            known = frozen.parents.get(child, {}).get(parent, ())
            if not (_keeps_codes(frozen, codings, child) and _keeps_codes(frozen, codings, parent)):
                known = ()
            before = (*known, *[-1] * (len(codes) - len(known)))
            filled = (old if code < 0 else code for code, old in zip(codes, before, strict=True))
            result.setdefault(child, {})[parent] = tuple(filled)
    return result


OTHER_WEIGHTS = 1.5
"""Weights whose average changes by more than this factor are on another scale."""


def check_binary(where: str, coding: NumericCoding, low: float, high: float, num_rows: int) -> None:
    """Refuse other numbers in a column that had only 0 and 1."""
    if coding.binary and num_rows:
        raise ContractError(
            where, f"{num_rows:,} row(s) with other numbers than 0 and 1 (the column goes from {low:g} to {high:g})",
            "0 and 1, as when the coding was decided", "Code the new files as the others. Or " + ANEW[0].lower() + ANEW[1:],
        )  # fmt: skip


def outcome(frozen: Dictionary | None, found: OutcomeCoding) -> OutcomeCoding:
    """Return the outcome's entry with mean, sd and shares as they were: default priors are in their units."""
    if frozen is None or frozen.outcome.kind != found.kind or frozen.outcome.categories != found.categories:
        return found
    before = frozen.outcome
    return replace(found, mean=before.mean, sd=before.sd, proportions=before.proportions)


def weight_factor(frozen: Dictionary | None, where: str, found: float) -> float:
    """Return what weights are multiplied by: in the frozen coding, if it says; otherwise what makes them average 1, ``found``.

    Raises
    ------
    ContractError
        The weights of all files together are on another scale than when the coding was decided: people would count several times.
    """
    decided = None if frozen is None else frozen.outcome.weight_factor
    if decided is None:
        return found
    if not 1 / OTHER_WEIGHTS < decided / found < OTHER_WEIGHTS:
        raise ContractError(
            where, f"weights that average {1 / found:.4g} over all files", f"about {1 / decided:.4g}, as when the coding was decided",
            "Bring the weights of the new files to the scale of the others. Or " + ANEW[0].lower() + ANEW[1:],
        )  # fmt: skip
    return decided


def categories(
    frozen: Dictionary | None, where: str, found: tuple[str, ...], is_ordered: bool
) -> tuple[tuple[str, ...], bool]:
    """Return the categories of the outcome, which are those of the frozen coding, and whether they have an order of their own.

    Raises
    ------
    ContractError
        There is another: each category but the first has coefficients of its own in every site.
    """
    if frozen is None or frozen.outcome.categories is None or found == frozen.outcome.categories:
        return found, is_ordered
    new = len({*found} - {*frozen.outcome.categories})
    if new:
        raise ContractError(
            where, f"{new} new categories", f"the {len(frozen.outcome.categories)} categories as before", ANEW
        )
    return frozen.outcome.categories, bool(frozen.outcome.ordered)


def continues(new: Dictionary, old: Dictionary) -> bool:
    """Whether everything coded by ``old`` means the same in ``new``, so that sites made under ``old`` can be kept."""
    numerics = {name: replace(c, minimum=None, maximum=None) for name, c in new.numerics.items()}
    same_outcome = (old.outcome.kind, old.outcome.categories, old.outcome.weight_factor) == (
        new.outcome.kind, new.outcome.categories, new.outcome.weight_factor,
    )  # fmt: skip
    return (
        same_outcome
        and numerics == {name: replace(c, minimum=None, maximum=None) for name, c in old.numerics.items()}
        and {*new.factors} == {*old.factors}
        and all(_keeps_codes(old, new.factors, name) for name in old.factors)
        and all(new.factors[name].reference == coding.reference for name, coding in old.factors.items())
        and all({*codes} <= {*new.groups.get(name, ())} for name, codes in old.groups.items())
    )


def _keeps_codes(frozen: Dictionary, codings: dict[str, FactorCoding], name: str) -> bool:
    """Whether a factor's old levels still have their codes."""
    if name not in frozen.factors or name not in codings:
        return False
    old = frozen.factors[name].levels
    return codings[name].levels[: len(old)] == old
