"""Exchangeable effects that sum to zero: what a term says is how its levels differ, and the intercept is their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fitting.errors import ModelError
from fitting.structures.base import CONSTRAINT_SD, Spectral, StructureBase


class SumToZeroConfig(StructureBase):
    """``{structure: sum_to_zero}``: independent normal effects given that their sum is zero."""

    structure: Literal["sum_to_zero"] = "sum_to_zero"

    def build(self, levels: Sequence[str]) -> Spectral:
        """The structure for a factor with these levels."""
        if len(levels) < 2:
            raise ModelError("structure: sum_to_zero", "a factor with one level", "two levels or more")
        vectors = np.linalg.eigh(np.eye(len(levels)) - 1.0 / len(levels))[1]  # the constant comes first
        return Spectral(vectors, np.r_[CONSTRAINT_SD**-2 / len(levels), np.ones(len(levels) - 1)])
