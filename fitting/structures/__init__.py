"""Structured priors of group terms: the levels of a factor are not exchangeable but have an order or a map.

A structure is one file here: a config that a person writes (``{structure: random_walk, order: 2}``) and what it builds, a
frozen dataclass with the functions of `Structure`. It sees nothing of shards or likelihoods; the combiner adds its
precision to the sites' (docs/structured-priors.md shows how to add one).

Scales: intrinsic structures are scaled so that the geometric mean of the levels' marginal variances is the term's
``sd**2`` (Sørbye & Rue 2014, Spatial Statistics 8), so that priors for sds mean the same for every structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from pydantic import Field

from fitting.structures.autoregressive import AutoregressiveConfig
from fitting.structures.bym2 import Bym2Config
from fitting.structures.cyclic_random_walk import CyclicRandomWalkConfig
from fitting.structures.icar import IcarConfig
from fitting.structures.monotonic import MonotonicConfig
from fitting.structures.random_walk import RandomWalkConfig
from fitting.structures.sum_to_zero import SumToZeroConfig


class Structure(Protocol):
    """The prior of a block of m coefficients given ``psi = (log sd, *own)`` on the unconstrained line."""

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of the own hyperparameters, beside the sd."""

    def precision(self, psi: Any, xp: Any) -> tuple[Any, Any]:
        """Precision, shape (m, m), and its log determinant."""

    def log_prior(self, own: Any, xp: Any) -> Any:
        """Log density of the own hyperparameters on the unconstrained line, Jacobian included."""

    def natural(self, own: Any) -> Any:
        """Own hyperparameters, shape (..., h), on their natural scale."""


class Config(Protocol):
    """What a person writes."""

    @property
    def sd(self) -> str | None:
        """Prior of the sd; the model's default if None."""

    def build(self, levels: Sequence[str]) -> Structure:
        """The structure of a factor with these levels, in their order."""


StructureConfig = Annotated[
    RandomWalkConfig
    | CyclicRandomWalkConfig
    | AutoregressiveConfig
    | IcarConfig
    | Bym2Config
    | MonotonicConfig
    | SumToZeroConfig,
    Field(discriminator="structure"),
]
