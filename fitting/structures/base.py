"""What the structures share: their config's base, and precisions given by eigenvectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fitting import priors
from fitting.errors import PriorError

CONSTRAINT_SD = 1e-3
"""Sd of what a constraint holds at zero, in units of the effects' own sd: exact for every purpose, and well conditioned."""
NULL = 1e-9  # eigenvalues below this share of the largest are the null space


class StructureBase(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs_order: ClassVar[bool] = False
    """Whether the prior follows the order of the levels."""

    sd: str | None = Field(default=None, description="Prior of the term's sd; as `sd` of the model if not given.")

    @field_validator("sd")
    @classmethod
    def _scale(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                priors.parse(text, "scale")
            except PriorError as error:
                raise ValueError(str(error)) from None
        return text


@dataclass(frozen=True, eq=False)
class Spectral:
    """A precision ``U diag(values) U' / sd**2`` without hyperparameters of its own.

    ``vectors`` (m, m) are orthonormal, ``values`` (m,) positive: a constrained direction has a large one.
    """

    vectors: np.ndarray
    values: np.ndarray

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """See `fitting.structures.Structure`."""
        return ()

    def precision(self, psi: Any, xp: Any) -> tuple[Any, Any]:
        """See `fitting.structures.Structure`."""
        values = xp.asarray(self.values) * xp.exp(-2.0 * psi[0])
        vectors = xp.asarray(self.vectors)
        return (vectors * values) @ vectors.T, float(np.log(self.values).sum()) - 2.0 * len(self.values) * psi[0]

    def log_prior(self, own: Any, xp: Any) -> Any:
        """There is nothing to have a prior."""
        return 0.0

    def natural(self, own: Any) -> Any:
        """Nothing."""
        return own


def scaled(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvectors, eigenvalues (0 in the null space), and which are in it, of an intrinsic precision scaled to unit variance.

    Scaled is the geometric mean of the marginal variances outside the null space (Sørbye & Rue 2014).
    """
    values, vectors = np.linalg.eigh(matrix)
    null = values < NULL * max(float(values[-1]), 1e-300)
    inverse = np.where(null, 0.0, 1.0 / np.where(null, 1.0, values))
    variance = np.square(vectors) @ inverse
    known = variance > 1e-12
    scale = float(np.exp(np.mean(np.log(variance[known])))) if known.any() else 1.0
    return vectors, np.where(null, 0.0, values * scale), null
