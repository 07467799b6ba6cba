"""Random walk around a circle: months, weekdays or hours, whose last level is the neighbour of the first.

Its precision is circulant (Rue & Held 2005, sec. 2.6). The mean is held at zero: the intercept has it. A circle has no linear
trend, so of order 2, too, nothing else is left free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fitting.errors import ModelError
from fitting.structures.base import CONSTRAINT_SD, Spectral, StructureBase, scaled


class CyclicRandomWalkConfig(StructureBase):
    """``{structure: cyclic_random_walk, order: 1}``: levels in the order of the dictionary, the last beside the first."""

    needs_order: ClassVar[bool] = True
    structure: Literal["cyclic_random_walk"] = "cyclic_random_walk"
    order: Literal[1, 2] = Field(default=1, description="1: levels near their neighbours; 2: near their line.")

    def build(self, levels: Sequence[str]) -> Spectral:
        """The structure for a factor with these levels."""
        if len(levels) < 3:
            raise ModelError(
                "structure: cyclic_random_walk", f"a factor with {len(levels)} levels", "three levels or more"
            )
        step = np.roll(np.eye(len(levels)), 1, axis=1) - np.eye(len(levels))  # from each level to the next
        differences = np.linalg.matrix_power(step, self.order)
        vectors, values, null = scaled(differences.T @ differences)
        return Spectral(vectors, np.where(null, CONSTRAINT_SD**-2 / len(levels), values))
