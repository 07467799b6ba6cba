r"""Stationary autoregression of order 1 over the levels of an ordered factor (Rue & Held 2005, sec. 1.1).

:math:`\theta_1 \sim N(0, sd^2)`, :math:`\theta_i = \rho\,\theta_{i-1} + N(0, sd^2 (1 - \rho^2))`; sd is the marginal one. With
a correlation of 0 levels are exchangeable, near 1 they are a random walk. Uniform prior on :math:`\rho` in (-1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from fitting.errors import ModelError
from fitting.structures.base import StructureBase


class AutoregressiveConfig(StructureBase):
    """``{structure: ar1}`` over the levels in the order of the dictionary."""

    needs_order: ClassVar[bool] = True
    structure: Literal["ar1"] = "ar1"

    def build(self, levels: Sequence[str]) -> Autoregressive:
        """The structure for a factor with these levels."""
        if len(levels) < 3:
            raise ModelError("structure: ar1", f"a factor with {len(levels)} levels", "three levels or more")
        return Autoregressive(len(levels))


@dataclass(frozen=True)
class Autoregressive:
    """Precision of m equally spaced points of a stationary AR(1); ``own`` is the inverse hyperbolic tangent of rho."""

    num_levels: int

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """See `fitting.structures.Structure`."""
        return ("rho",)

    def precision(self, psi: Any, xp: Any) -> tuple[Any, Any]:
        """See `fitting.structures.Structure`."""
        size, rho = self.num_levels, xp.tanh(psi[1])
        rest = 1.0 - rho**2
        ends = np.zeros(size)
        ends[[0, -1]] = 1.0
        off = np.eye(size, k=1) + np.eye(size, k=-1)
        unit = xp.asarray(np.eye(size)) * (1.0 + rho**2 * (1.0 - ends)) - rho * off
        return unit / rest * xp.exp(-2.0 * psi[0]), -(size - 1) * xp.log(rest) - 2.0 * size * psi[0]

    def log_prior(self, own: Any, xp: Any) -> Any:
        """Uniform on (-1, 1)."""
        return xp.log1p(-(xp.tanh(own[0]) ** 2)) - float(np.log(2.0))

    def natural(self, own: Any) -> Any:
        """Rho."""
        return np.tanh(own)
