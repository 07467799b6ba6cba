r"""The regularised horseshoe: a prior for many fixed coefficients of which few matter.

:math:`b_j \sim N(0, \tilde\lambda_j^2)` with :math:`\tilde\lambda_j^{-2} = (\tau\lambda_j)^{-2} + c^{-2}`, half-Cauchy
:math:`\lambda_j` and :math:`\tau`; the slab c keeps the large ones within reason (Piironen & Vehtari 2017, Electronic J.
Statistics 11, with a fixed c). The scales are hyperparameters of the combiner like any other: no shard sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Array = Any


class HorseshoeConfig(BaseModel):
    """``priors: {b: {structure: horseshoe, scale: 0.1}}``: of all fixed coefficients but the intercept and named ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    structure: Literal["horseshoe"] = "horseshoe"
    scale: float = Field(
        default=0.1, gt=0, description="Of the half-Cauchy prior of the global scale: small where few coefficients matter."
    )
    slab: float = Field(default=2.5, gt=0, description="Sd of a coefficient that is not shrunk.")


@dataclass(frozen=True, eq=False)
class Shrinkage:
    """A horseshoe on F coefficients: ``psi = (log tau, log lambda_1, ..., log lambda_F)``."""

    places: np.ndarray
    names: tuple[str, ...]
    scale: float
    slab: float

    @property
    def size(self) -> int:
        """Number of hyperparameters, F + 1."""
        return len(self.places) + 1

    def hyperparameters(self) -> list[str]:
        """Their names."""
        return ["global(b)", *(f"local({name})" for name in self.names)]

    def precision(self, psi: Array, xp: Any = np) -> Array:
        """Prior precision of each coefficient, shape (F,)."""
        return xp.exp(-2.0 * (psi[0] + psi[1:])) + self.slab**-2.0

    def log_prior(self, psi: Array, xp: Any = np) -> Array:
        """Log density of psi, Jacobian included."""
        relative = psi - xp.asarray(self._log_scales())
        return xp.sum(relative - xp.log1p(xp.exp(2.0 * relative))) + float(len(self.places) + 1) * np.log(2.0 / np.pi)

    def score(self, psi: np.ndarray, second_moment: np.ndarray) -> np.ndarray:
        """Gradient of ``log p(psi) + E log p(b | psi)`` for ``E b_j^2`` of shape (F,)."""
        inverse_square = np.exp(-2.0 * (psi[0] + psi[1:]))
        local = inverse_square * (second_moment - 1.0 / (inverse_square + self.slab**-2.0))
        ratio = np.exp(2.0 * (psi - self._log_scales()))
        return np.r_[local.sum(), local] + 1.0 - 2.0 * ratio / (1.0 + ratio)

    def start(self) -> np.ndarray:
        """A first guess of psi."""
        return self._log_scales()

    def _log_scales(self) -> np.ndarray:
        return np.r_[np.log(self.scale), np.zeros(len(self.places))]
