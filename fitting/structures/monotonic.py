r"""Monotonic effects of an ordered factor (Bürkner & Charpentier 2020, Br. J. Math. Stat. Psychol. 73; brms' ``mo()``).

:math:`\theta_i = b\,(c_i - \bar c)` with :math:`c_i` the sum of the first i - 1 of m - 1 shares that add up to 1: all steps go one
way, up or down. ``b``, the last level's effect minus the first's, is :math:`N(0, sd^2)`; the shares have a uniform Dirichlet prior.

Given the shares the effects are a Gaussian of rank one, so the shares are hyperparameters of the combiner like any other, and
nothing else has to know that there is an order. Departures from it, and the mean, are held at zero as other constraints are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma
from typing import Any, ClassVar, Literal

import numpy as np

from fitting.errors import ModelError
from fitting.structures.base import CONSTRAINT_SD, StructureBase


class MonotonicConfig(StructureBase):
    """``{structure: monotonic}`` over the levels in the order of the dictionary."""

    needs_order: ClassVar[bool] = True
    structure: Literal["monotonic"] = "monotonic"

    def build(self, levels: Sequence[str]) -> Monotonic:
        """The structure for a factor with these levels."""
        if len(levels) < 3:
            raise ModelError("structure: monotonic", f"a factor with {len(levels)} levels", "three levels or more")
        return Monotonic(len(levels))


@dataclass(frozen=True)
class Monotonic:
    """Precision of m effects that rise or fall throughout; ``own`` are m - 2 numbers that break the stick of shares.

    Unconstrained numbers y give shares as Stan's simplex does: share k is the logistic of :math:`y_k - \\log(m - 1 - k)` of what
    the first k - 1 have left, so that y = 0 is equal shares. The last share is the rest.
    """

    num_levels: int

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """See `fitting.structures.Structure`."""
        return tuple(f"share_{k}" for k in range(1, self.num_levels - 1))

    def precision(self, psi: Any, xp: Any) -> tuple[Any, Any]:
        """See `fitting.structures.Structure`."""
        size = self.num_levels
        shares, left, _ = self._broken(psi[1:], xp)
        reached = xp.cumsum(xp.concatenate([xp.zeros(1), shares, left[None]]))
        curve = reached - xp.mean(reached)
        variance = CONSTRAINT_SD**2 + xp.sum(curve**2)
        unit = (xp.asarray(np.eye(size)) - xp.outer(curve, curve) / variance) / CONSTRAINT_SD**2
        return unit * xp.exp(-2.0 * psi[0]), -2.0 * (
            size * psi[0] + (size - 1) * float(np.log(CONSTRAINT_SD))
        ) - xp.log(variance)

    def log_prior(self, own: Any, xp: Any) -> Any:
        """Uniform on the simplex."""
        return lgamma(self.num_levels - 1) + self._broken(own, xp)[2]

    def natural(self, own: Any) -> Any:
        """The shares but the last."""
        numbers = np.moveaxis(np.asarray(own), -1, 0)
        return np.moveaxis(self._broken(numbers, np)[0], 0, -1)

    def _broken(self, own: Any, xp: Any) -> tuple[Any, Any, Any]:
        """Shares but the last, (m - 2, ...), the last, and the log of the Jacobian of all."""
        left: Any = xp.ones(own.shape[1:])
        shares, log_jacobian = [], 0.0 * left
        for k in range(self.num_levels - 2):
            line = own[k] - float(np.log(self.num_levels - 2 - k))
            log_jacobian = log_jacobian + xp.log(left) - xp.logaddexp(0.0, -line) - xp.logaddexp(0.0, line)
            shares.append(left / (1.0 + xp.exp(-line)))
            left = left / (1.0 + xp.exp(line))
        return xp.stack(shares), left, log_jacobian
