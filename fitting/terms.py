"""What a term of a formula contributes to a linear predictor: coefficient columns, their names, and their multipliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from fitting.coding import Coding
from fitting.errors import ModelError
from fitting.priors import parameter_name

Columns = Mapping[str, np.ndarray]
INTERCEPT = "Intercept"


class Part(NamedTuple):
    """One coefficient column: a product of numerics and of indicators (column, level)."""

    numerics: tuple[str, ...]
    indicators: tuple[tuple[str, int], ...]


def is_factor(coding: Coding, column: str) -> bool:
    """Whether a column of a term is a factor there. A number that also groups is a number before the bar, as in lme4."""
    return column not in coding.numerics


def centred_columns(coding: Coding, terms: Sequence[tuple[str, ...]], *, has_constant: bool = False) -> frozenset[str]:
    """The numbers that may enter centred, ``(x - m) / s``, because these terms span the same space either way.

    A centred x in a term adds ``-m`` times the term without x. So x is centred where every term that has it, with x left
    out, lies in the span of some term: of the same numbers and at least its factors. Then leaving out several centred
    numbers stays in the span too, one after the other.

    Parameters
    ----------
    terms
        Terms that share one prior-free space: the fixed terms, or the coefficients of one correlated group term.
    has_constant
        Whether something else (cutpoints) takes up a constant.
    """
    kinds = [_kind(coding, term) for term in terms] + ([_kind(coding, ())] if has_constant else [])
    free = {c for numbers, _ in kinds for c in numbers if not coding.numerics[c].binary and not coding.numerics[c].keep_zero}
    return frozenset(
        c
        for c in free
        if all(
            any(numbers - {c} == others and factors <= of_other for others, of_other in kinds)
            for numbers, factors in kinds
            if c in numbers
        )
    )


def _kind(coding: Coding, term: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Numbers and factors of a term."""
    factors = frozenset(c for c in term if is_factor(coding, c))
    return frozenset(term) - factors, factors


def unit(coding: Coding, term: tuple[str, ...], terms: Sequence[tuple[str, ...]], centred: frozenset[str]) -> str:
    """What a coefficient of a term is per, and where the numbers that are centred stand: ``per 0.16 of x, where z = 3``."""
    own, factors = _kind(coding, term)
    scaled = [c for c in term if c in own and not coding.numerics[c].binary]
    per = " × ".join(f"{scale_of(coding, c):.4g} of {c}" for c in scaled)
    at: dict[str, float] = {}
    kinds = [_kind(coding, other) for other in terms]
    for others, of_other in kinds:
        left_out = others - own
        if not (own < others and left_out <= centred):
            continue
        is_exact = any(numbers == own and other <= of_other for numbers, other in kinds)
        if factors <= of_other or (not is_exact and factors > of_other):
            at |= {c: coding.numerics[c].center for c in term_order(terms, left_out)}
    where = ", ".join(f"{c} = {center:.6g}" for c, center in at.items())
    return ", ".join(([f"per {per}"] if per else []) + ([f"where {where}"] if where else []))


def term_order(terms: Sequence[tuple[str, ...]], columns: frozenset[str]) -> list[str]:
    """Columns in the order in which the terms name them."""
    return [c for c in dict.fromkeys(c for term in terms for c in term) if c in columns]


def scale_of(coding: Coding, column: str) -> float:
    """How much of a number one unit of its coefficient is for: its sd, or 1 where it is 0/1 or keeps its unit."""
    numeric = coding.numerics[column]
    return 1.0 if numeric.binary or numeric.keep_unit else numeric.scale


def full_factors(coding: Coding, terms: Sequence[tuple[str, ...]]) -> list[frozenset[str]]:
    """Which factors of each term keep their reference level.

    R's rule (Chambers & Hastie 1992, *Statistical Models in S*, sec. 2.4.1): a factor loses it where the term without that
    factor is in the model. So `1 + z:educ` has a slope for every level, `1 + z + z:educ` one for all but the reference.
    """
    present, constant, out = {frozenset(term) for term in terms}, () in terms, []
    for term in terms:
        factors = [c for c in term if is_factor(coding, c)]
        full = frozenset(c for c in factors if not (frozenset(term) - {c} in present if len(term) > 1 else constant))
        constant = constant or bool(full and len(term) == 1)  # all levels of a factor add up to the constant
        out.append(full)
    return out


def _levels_used(coding: Coding, column: str, full: frozenset[str]) -> list[int]:
    return [i for i in range(len(coding.factors[column])) if column in full or i != coding.references[column]]


def expand(
    coding: Coding, terms: Sequence[tuple[str, ...]], among: Sequence[tuple[str, ...]] = ()
) -> list[Part]:
    """Coefficient columns of the left of a bar, factors coded as in a model of the terms ``among`` (``terms`` if empty)."""
    parts: list[Part] = []
    full_of = dict(zip(among or terms, full_factors(coding, among or terms), strict=True))
    for term in terms:
        full = full_of[term]
        combos: list[tuple[tuple[str, int], ...]] = [()]
        for column in (c for c in term if is_factor(coding, c)):
            levels = _levels_used(coding, column, full)
            combos = [(*combo, (column, i)) for combo in combos for i in levels]
        parts += [Part(tuple(c for c in term if c in coding.numerics), combo) for combo in combos]
    return parts


def part_name(coding: Coding, part: Part) -> str:
    """Name of one product of columns, ``income:female[yes]``; ``1`` for the constant."""
    words = [*part.numerics, *(f"{column}[{coding.factors[column][level]}]" for column, level in part.indicators)]
    return ":".join(words) if words else "1"


def number_name(column: str) -> str:
    """Where a table of cells has the numbers of a column whose name is taken by its codes."""
    return f"{column}:number"


def numbers(coding: Coding, column: str, columns: Columns) -> np.ndarray:
    """Raw values of a number on cells, (n,); of one that also groups, those that its levels stand for."""
    if column not in coding.factors:
        return np.asarray(columns[column], dtype=np.float64)
    if (own := columns.get(number_name(column))) is not None:
        return np.asarray(own, dtype=np.float64)
    return np.array(coding.factors[column], dtype=np.float64)[np.asarray(columns[column])]


def _numeric(coding: Coding, column: str, columns: Columns, centred: frozenset[str]) -> np.ndarray:
    x = numbers(coding, column, columns)
    if column in centred:
        x = x - coding.numerics[column].center
    return x if (scale := scale_of(coding, column)) == 1.0 else x / scale


def values(coding: Coding, part: Part, columns: Columns, centred: frozenset[str]) -> np.ndarray | None:
    """Values of one product of columns on cells, shape (n,), numbers scaled, and shifted if ``centred``; None for the constant 1."""
    value: np.ndarray | None = None
    for column in part.numerics:
        x = _numeric(coding, column, columns, centred)
        value = x if value is None else value * x
    for column, level in part.indicators:
        x = (columns[column] == level).astype(np.float64)
        value = x if value is None else value * x
    return value


def fixed_names(coding: Coding, term: tuple[str, ...], full: frozenset[str]) -> tuple[str, ...]:
    """Names of the coefficients of a fixed term."""
    factors = [c for c in term if is_factor(coding, c)]
    names = []
    for codes in product(*(_levels_used(coding, c, full) for c in factors)):
        words = [f"{c}[{coding.factors[c][code]}]" for c, code in zip(factors, codes, strict=True)]
        names.append(parameter_name(":".join([c for c in term if c in coding.numerics] + words)) if term else INTERCEPT)
    if not names:
        raise ModelError(
            f"fixed term {':'.join(term)!r}",
            "a factor with a single level",
            "two levels or more. Remove the term from the formula",
        )
    return tuple(names)


def fixed_nonzero(
    coding: Coding, term: tuple[str, ...], full: frozenset[str], centred: frozenset[str], columns: Columns, num_cells: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Which coefficient of a fixed term each cell has, and its multiplier (0 for a factor at its reference)."""
    factors = [c for c in term if is_factor(coding, c)]
    place = np.zeros(num_cells, dtype=np.int64)
    value: np.ndarray | None = None
    for column in factors:
        size, codes = len(coding.factors[column]), np.asarray(columns[column], dtype=np.int64)
        if column not in full:
            reference = coding.references[column]
            present = (codes != reference).astype(np.float64)
            value = present if value is None else value * present
            codes, size = np.where(codes > reference, codes - 1, np.minimum(codes, max(size - 2, 0))), size - 1
        place = place * size + codes
    for column in (c for c in term if c in coding.numerics):
        x = _numeric(coding, column, columns, centred)
        value = x if value is None else value * x
    return place, value
