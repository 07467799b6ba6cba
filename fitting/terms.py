"""What a term of a formula contributes to a linear predictor: coefficient columns, their names, and their multipliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from fitting.coding import Coding
from fitting.errors import ModelError

Columns = Mapping[str, np.ndarray]
INTERCEPT = "Intercept"


class Part(NamedTuple):
    """One coefficient column: a product of numerics and of indicators (column, level)."""

    numerics: tuple[str, ...]
    indicators: tuple[tuple[str, int], ...]


def full_factors(coding: Coding, terms: Sequence[tuple[str, ...]]) -> list[frozenset[str]]:
    """Which factors of each term keep their reference level.

    R's rule (Chambers & Hastie 1992, *Statistical Models in S*, sec. 2.4.1): a factor loses it where the term without that
    factor is in the model. So `1 + z:educ` has a slope for every level, `1 + z + z:educ` one for all but the reference.
    """
    present, constant, out = {frozenset(term) for term in terms}, () in terms, []
    for term in terms:
        factors = [c for c in term if c in coding.factors]
        full = frozenset(c for c in factors if not (frozenset(term) - {c} in present if len(term) > 1 else constant))
        constant = constant or bool(full and len(term) == 1)  # all levels of a factor add up to the constant
        out.append(full)
    return out


def _levels_used(coding: Coding, column: str, full: frozenset[str]) -> list[int]:
    return [i for i in range(len(coding.factors[column])) if column in full or i != coding.references[column]]


def expand(coding: Coding, terms: Sequence[tuple[str, ...]]) -> list[Part]:
    """Coefficient columns of the left of a bar."""
    parts: list[Part] = []
    for term, full in zip(terms, full_factors(coding, terms), strict=True):
        combos: list[tuple[tuple[str, int], ...]] = [()]
        for column in (c for c in term if c in coding.factors):
            levels = _levels_used(coding, column, full)
            combos = [(*combo, (column, i)) for combo in combos for i in levels]
        parts += [Part(tuple(c for c in term if c in coding.numerics), combo) for combo in combos]
    return parts


def part_name(coding: Coding, part: Part) -> str:
    """Name of one product of columns, ``income:female[yes]``; ``1`` for the constant."""
    words = [*part.numerics, *(f"{column}[{coding.factors[column][level]}]" for column, level in part.indicators)]
    return ":".join(words) if words else "1"


def _numeric(coding: Coding, column: str, columns: Columns) -> np.ndarray:
    numeric = coding.numerics[column]
    values = np.asarray(columns[column], dtype=np.float64)
    return values if numeric.binary else (values - numeric.center) / numeric.scale


def values(coding: Coding, part: Part, columns: Columns) -> np.ndarray | None:
    """Values of one product of columns on cells, shape (n,), numerics standardised as the coding says; None for the constant 1."""
    value: np.ndarray | None = None
    for column in part.numerics:
        x = _numeric(coding, column, columns)
        value = x if value is None else value * x
    for column, level in part.indicators:
        x = (columns[column] == level).astype(np.float64)
        value = x if value is None else value * x
    return value


def fixed_names(coding: Coding, term: tuple[str, ...], full: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and units of the coefficients of a fixed term."""
    factors = [c for c in term if c in coding.factors]
    names, units = [], []
    for codes in product(*(_levels_used(coding, c, full) for c in factors)):
        words = [f"{c}[{coding.factors[c][code]}]" for c, code in zip(factors, codes, strict=True)]
        names.append(":".join([c for c in term if c in coding.numerics] + words) or INTERCEPT)
        scaled = [c for c in term if c in coding.numerics and not coding.numerics[c].binary]
        units.append(" x ".join(f"{coding.numerics[c].scale:.4g} of {c}" for c in scaled))
    if not names:
        raise ModelError(
            f"fixed term {':'.join(term)!r}",
            "a factor with a single level",
            "two levels or more. Remove the term from the formula",
        )
    return tuple(names), tuple(units)


def fixed_nonzero(
    coding: Coding, term: tuple[str, ...], full: frozenset[str], columns: Columns, num_cells: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Which coefficient of a fixed term each cell has, and its multiplier (0 for a factor at its reference)."""
    factors = [c for c in term if c in coding.factors]
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
        x = _numeric(coding, column, columns)
        value = x if value is None else value * x
    return place, value
