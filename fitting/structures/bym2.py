r"""BYM2: on a map, partly like the neighbours and partly on its own (Riebler et al. 2016, Stat. Methods Med. Res. 25).

:math:`\theta = sd\,(\sqrt{\rho}\,u + \sqrt{1 - \rho}\,v)` with u the scaled ICAR and v independent; ``rho`` is the share of
the variance that is spatial, with a beta(1/2, 1/2) prior (Morris et al. 2019, Spatial and Spatio-temporal Epidemiology 31).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import expit

from fitting.structures.icar import MapConfig, spectrum


class Bym2Config(MapConfig):
    """``{structure: bym2, neighbours: map.csv}``."""

    structure: Literal["bym2"] = "bym2"

    def build(self, levels: Sequence[str]) -> Bym2:
        """The structure for a factor with these levels."""
        vectors, values, held = spectrum(levels, self.pairs(), "bym2")
        return Bym2(vectors, np.where(held > 0, 0.0, 1.0 / np.where(held > 0, 1.0, values)))


@dataclass(frozen=True, eq=False)
class Bym2:
    """Precision of the sum given sd and rho: ``vectors`` and the variances ``spatial`` of the ICAR, 0 where it is held."""

    vectors: np.ndarray
    spatial: np.ndarray

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """See `fitting.structures.Structure`."""
        return ("rho",)

    def precision(self, psi: Any, xp: Any) -> tuple[Any, Any]:
        """See `fitting.structures.Structure`."""
        rho = 1.0 / (1.0 + xp.exp(-psi[1]))
        variance = rho * xp.asarray(self.spatial) + 1.0 - rho
        values = xp.exp(-2.0 * psi[0]) / variance
        vectors = xp.asarray(self.vectors)
        return (vectors * values) @ vectors.T, xp.sum(xp.log(values))

    def log_prior(self, own: Any, xp: Any) -> Any:
        """Beta(1/2, 1/2) of rho: on the logit scale ``sqrt(rho (1 - rho)) / pi``."""
        return -0.5 * (xp.log1p(xp.exp(-own[0])) + xp.log1p(xp.exp(own[0]))) - float(np.log(np.pi))

    def natural(self, own: Any) -> Any:
        """Rho."""
        return expit(own)
