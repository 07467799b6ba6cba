r"""Which levels of a group term a cell belongs to, and how much of each.

In :math:`\eta_i = \dots + \sum_k w_{ik}\,\theta_{l(i,k)}` an ordinary term has one level a cell with weight 1; a cell that
belongs to several (Browne, Goldstein & Rasbash 2001, "Multiple membership multiple classification models", Statistical
Modelling 1) has one for each of its columns; a spline (`fitting.splines`) has the basis functions that reach its x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fitting.coding import Coding
from fitting.errors import ModelError

Located = tuple[np.ndarray, np.ndarray | None]
"""A level of each cell, shape (n,), -1 where it was never observed, and its weight, None for ones."""


class Members(Protocol):
    """How the cells of a term find their levels."""

    def labels(self, coding: Coding) -> list[str]:
        """Names of the levels."""

    def locate(self, coding: Coding, columns: Mapping[str, np.ndarray]) -> list[Located]:
        """The levels of each cell, one entry for each that it can have."""


@dataclass(frozen=True)
class Combination:
    """One level a cell: the combination of its codes in some factors."""

    columns: tuple[str, ...]

    def labels(self, coding: Coding) -> list[str]:
        """See `Members`."""
        return coding.group_labels(self.columns)

    def locate(self, coding: Coding, columns: Mapping[str, np.ndarray]) -> list[Located]:
        """See `Members`."""
        return [(coding.locate(self.columns, [columns[c] for c in self.columns]), None)]


class MembershipConfig(BaseModel):
    """``area: {columns: [area_1, area_2], weights: [share_1, share_2]}``: a factor that stands for several columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...] = Field(min_length=2, description="Columns with the levels that a row belongs to.")
    weights: tuple[str | float, ...] | None = Field(
        default=None, description="A column or a number for each; equal and adding up to 1 if not given. Not rescaled."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns {list(self.columns)}: one of them twice; expected different columns")
        if self.weights is not None and len(self.weights) != len(self.columns):
            raise ValueError(f"{len(self.weights)} weights for {len(self.columns)} columns; expected as many")
        if any(isinstance(w, float) and not 0 <= w < float("inf") for w in self.weights or ()):
            raise ValueError(f"weights {list(self.weights or ())}: expected numbers from 0")
        return self

    @property
    def weight_columns(self) -> tuple[str, ...]:
        """The weights that are columns."""
        return tuple(w for w in self.weights or () if isinstance(w, str))


@dataclass(frozen=True)
class Membership:
    """Several levels a cell: those that it has in any of some columns, each with a weight."""

    name: str
    config: MembershipConfig

    def labels(self, coding: Coding) -> list[str]:
        """See `Members`."""
        return list(coding.factors[self.name])

    def locate(self, coding: Coding, columns: Mapping[str, np.ndarray]) -> list[Located]:
        """See `Members`. A level that a cell has twice is counted once, with both weights."""
        place = {level: i for i, level in enumerate(coding.factors[self.name])}
        weights = self.config.weights or (1.0 / len(self.config.columns),) * len(self.config.columns)
        out: list[tuple[np.ndarray, np.ndarray]] = []
        for column, weight in zip(self.config.columns, weights, strict=True):
            codes = np.asarray(columns[column])
            if (codes < 0).any():
                raise ModelError(
                    f"multi_membership {self.name!r}, column {column!r}", f"{int((codes < 0).sum())} cells with a level that "
                    "the data do not have", "levels of the data",
                )  # fmt: skip
            located = np.array([place[level] for level in coding.factors[column]])[codes]
            given = columns[weight] if isinstance(weight, str) else np.full(len(codes), weight)
            value = np.array(given, dtype=np.float64)
            for before, sum_before in out:
                same = before == located
                sum_before[same] += value[same]
                value[same] = 0.0
            out.append((located, value))
        return list(out)


def with_memberships(coding: Coding, memberships: Mapping[str, MembershipConfig]) -> Coding:
    """The coding with a factor for each membership: the levels of its first column, then those that the others add.

    Raises
    ------
    ModelError
        A column of a membership is not a factor, or a weight is not a number.
    """
    factors = dict(coding.factors)
    for name, config in memberships.items():
        for column in config.columns:
            if column not in coding.factors:
                raise ModelError(
                    f"multi_membership {name!r}, column {column!r}", f"the factors {sorted(coding.factors)}",
                    "the column among them",
                )  # fmt: skip
        for column in config.weight_columns:
            if column not in coding.numerics:
                raise ModelError(
                    f"multi_membership {name!r}, weight {column!r}", f"the numbers {sorted(coding.numerics)}",
                    "the column among them",
                )  # fmt: skip
        factors[name] = tuple(dict.fromkeys(level for column in config.columns for level in coding.factors[column]))
    return coding._replace(factors=factors, references={**dict.fromkeys(memberships, 0), **coding.references})
