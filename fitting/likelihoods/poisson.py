"""Counts with a log link: the sums of counts and of exposures are sufficient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def log_likelihood(family: Any, statistics: Mapping[str, Any], eta: Any, xp: Any = np) -> Any:
    """``sum_y eta - exposure exp(eta)``."""
    return statistics["sum_y"] * eta[0] - statistics["sum_exposure"] * xp.exp(eta[0])


def expected_derivatives(
    family: Any, statistics: Mapping[str, np.ndarray], eta: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """See the package."""
    expected = statistics["sum_exposure"] * (np.exp(eta[0]) @ weights)
    return (statistics["sum_y"] - expected)[None], expected[None, None]


def expected_outcome(family: Any, eta: np.ndarray) -> np.ndarray:
    """Expected count of one unit of exposure."""
    return np.exp(eta)


def start(family: Any, outcome: Any) -> np.ndarray:
    """The overall log rate."""
    return np.array([np.log(max(outcome.mean, 1e-6))])
