r"""Smooth effects of a number: penalised B-splines (Eilers & Marx 1996, Statistical Science 11; Lang & Brezger 2004, JCGS 13).

:math:`s(x) = \sum_j B_j(x)\,\theta_j` with B-splines on equally spaced knots between the smallest and the largest x of all
data, so that every shard has the same functions, and a random walk of order 2 over the :math:`\theta_j`
(`fitting.structures.random_walk`). What the penalty leaves free is a line in x: its constant is held at zero, for the intercept
has it; its slope is held at zero where x itself is a fixed effect, and otherwise has a wide prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from fitting import terms
from fitting.coding import Coding
from fitting.errors import ModelError
from fitting.members import Located
from fitting.structures.base import CONSTRAINT_SD, Spectral, StructureBase
from fitting.structures.random_walk import TREND_SD, random_walk

PENALTY_ORDER = 2


class SplineConfig(StructureBase):
    """``income: {df: 10, degree: 3, sd: half_normal(1)}``."""

    df: int = Field(default=10, gt=PENALTY_ORDER, le=200, description="Basis functions.")
    degree: int = Field(default=3, ge=1, le=5, description="Of the polynomials between knots; 3 is a cubic spline.")

    @model_validator(mode="after")
    def _has_intervals(self) -> Self:
        if self.df <= self.degree:
            raise ValueError(f"df {self.df} with degree {self.degree}; expected df above the degree")
        return self


def name(column: str) -> str:
    """``s(income)``: the term's name, as mgcv and brms write it."""
    return f"s({column})"


@dataclass(frozen=True)
class Spline:
    """The basis functions of a column. A cell belongs to the ``degree + 1`` that reach its x, with their values as weights."""

    column: str
    num_functions: int
    degree: int
    minimum: float
    maximum: float

    def labels(self, coding: Coding) -> list[str]:
        """See `fitting.members.Members`."""
        return [str(j) for j in range(1, self.num_functions + 1)]

    def locate(self, coding: Coding, columns: Mapping[str, np.ndarray]) -> list[Located]:
        """See `fitting.members.Members`. An x outside the data's range counts as the nearer end of it."""
        num_intervals = self.num_functions - self.degree
        x = np.clip(terms.numbers(coding, self.column, columns), self.minimum, self.maximum)
        position = (x - self.minimum) / (self.maximum - self.minimum) * num_intervals
        interval = np.minimum(position.astype(np.int64), num_intervals - 1)
        values = uniform_basis(position - interval, self.degree)
        return [(interval + j, value) for j, value in enumerate(values)]


def uniform_basis(u: np.ndarray, degree: int) -> np.ndarray:
    """The B-splines that are not zero at the share ``u``, (n,), of an interval, first to last: shape (degree + 1, n).

    De Boor's recursion (Piegl & Tiller 1997, *The NURBS Book*, algorithm A2.2) for knots one apart.
    """
    values = [np.ones_like(u)]
    for k in range(1, degree + 1):
        raised = [np.zeros_like(u) for _ in range(k + 1)]
        for r, value in enumerate(values):
            raised[r] += (r + 1 - u) * value / k
            raised[r + 1] += (u + k - r - 1) * value / k
        values = raised
    return np.stack(values)


def spline(column: str, config: SplineConfig, coding: Coding) -> Spline:
    """The basis of a column, between the smallest and the largest value of all data.

    Raises
    ------
    ModelError
        The column is not a number with more values than 0 and 1, or the dictionary is too old to know its range.
    """
    where, numeric = f"splines, {column!r}", coding.numerics.get(column)
    if numeric is None or numeric.binary:
        numbers = sorted(c for c, n in coding.numerics.items() if not n.binary)
        raise ModelError(where, f"the numbers {numbers}", "the column among them, with more values than 0 and 1")
    low, high = numeric.minimum, numeric.maximum
    if low is None or high is None or not low < high:
        raise ModelError(where, "a dictionary without its smallest and largest value", "both. Ingest again")
    return Spline(column, config.df, config.degree, low, high)


def prior(config: SplineConfig, *, has_linear: bool) -> Spectral:
    """Random walk over the basis functions' coefficients; ``has_linear``: x is a fixed effect, so there is no line here."""
    return random_walk(config.df, PENALTY_ORDER, trend_sd=CONSTRAINT_SD if has_linear else TREND_SD)
