"""Which columns of the data a model reads: those of the formula, of splines, and those that a membership stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fitting.formula import Formula, Term
from fitting.members import MembershipConfig
from fitting.splines import SplineConfig


class DataColumns(NamedTuple):
    """``factors`` group rows; ``predictors`` are factors or numbers. A column in both groups by its values and is a number, if it is
    one, where the formula has it before a bar.

    ``groups`` are the combinations of factors whose observed levels the dictionary lists. ``members`` are the factors
    that a membership is made of.
    """

    factors: tuple[str, ...]
    predictors: tuple[str, ...]
    groups: tuple[Term, ...]
    members: tuple[str, ...]


def of(
    formula: Formula,
    splines: Mapping[str, SplineConfig] | None = None,
    memberships: Mapping[str, MembershipConfig] | None = None,
) -> DataColumns:
    """The columns of a formula with its splines and memberships."""
    stands_for = dict(memberships or {})
    members = dict.fromkeys(column for config in stands_for.values() for column in config.columns)
    factors = dict.fromkeys([*(c for c in formula.factor_columns if c not in stands_for), *members])
    weights = [column for config in stands_for.values() for column in config.weight_columns]
    predictors = dict.fromkeys([*formula.predictor_columns, *(splines or {}), *weights])
    return DataColumns(
        tuple(factors),
        tuple(predictors),
        tuple(columns for columns in formula.group_columns if not set(columns) & set(stands_for)),
        tuple(members),
    )
