"""Random walks of first and second order over the levels of an ordered factor (Rue & Held 2005, sec. 3.3).

Order 1 says that neighbouring levels are alike, order 2 that they lie on a line. The mean is held at zero: the intercept
has it. Of order 2 the linear trend is not shrunk but has a wide normal prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fitting.errors import ModelError
from fitting.structures.base import CONSTRAINT_SD, Spectral, StructureBase, scaled

TREND_SD = 10.0
"""Sd of a linear trend of unit mean square, in units of the term's sd."""


class RandomWalkConfig(StructureBase):
    """``{structure: random_walk, order: 1}`` over the levels in the order of the dictionary."""

    needs_order: ClassVar[bool] = True
    structure: Literal["random_walk"] = "random_walk"
    order: Literal[1, 2] = Field(default=1, description="1: levels near their neighbours; 2: near a line.")

    def build(self, levels: Sequence[str]) -> Spectral:
        """The structure for a factor with these levels."""
        if len(levels) <= self.order:
            raise ModelError(
                f"structure: random_walk of order {self.order}", f"a factor with {len(levels)} levels",
                f"{self.order + 1} levels or more",
            )  # fmt: skip
        return random_walk(len(levels), self.order)


def random_walk(num_levels: int, order: int, trend_sd: float = TREND_SD) -> Spectral:
    """Scaled random walk with its mean at zero. ``trend_sd`` is that of order 2's line, of unit mean square, in sds."""
    differences = np.diff(np.eye(num_levels), n=order, axis=0)
    vectors, values, null = scaled(differences.T @ differences)
    basis = _null_space(num_levels, order)
    vectors = np.concatenate([basis, vectors[:, ~null]], axis=1)
    held = [CONSTRAINT_SD**-2 / num_levels, 1.0 / (trend_sd**2 * num_levels)][:order]
    return Spectral(vectors, np.r_[held, values[~null]])


def _null_space(num_levels: int, order: int) -> np.ndarray:
    """The constant, and for order 2 the line, orthonormal: shape (num_levels, order)."""
    position = np.arange(num_levels) - (num_levels - 1) / 2
    basis = np.stack([np.ones(num_levels), position], axis=1)[:, :order]
    return basis / np.linalg.norm(basis, axis=0)
