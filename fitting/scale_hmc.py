"""Hyperparameters by Hamiltonian Monte Carlo on their marginal, for models with many of them.

An independence sampler hardly accepts in more than about a dozen dimensions. The marginal log density of psi, with the
coefficients integrated out, has a gradient by Fisher's identity (`fitting.scale_marginal.value_and_gradient`); in the axes of
its proposal it is near a standard normal, so a few leapfrog steps give a nearly independent point (Neal 2011, ch. 5 of the
Handbook of MCMC). The step size is tuned to an acceptance of 0.8 by dual averaging (Hoffman & Gelman 2014, sec. 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

TARGET_ACCEPTANCE = 0.8
PATH = 2.0  # mean length of a path, in sds: about a quarter of a normal's period, 1.6, and some more for its shape
MAX_STEPS = 64
WARMUP = 150

Target = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Log density and its gradient; raises ``LinAlgError`` where there is none."""


class Point(NamedTuple):
    """A position, (H,), and whether it is another one than before."""

    position: np.ndarray
    moved: bool


class _State(NamedTuple):
    z: np.ndarray
    value: float
    gradient: np.ndarray


def draw(
    target: Target, center: np.ndarray, axes: np.ndarray, rng: np.random.Generator, num_draws: int, *, warmup: int = WARMUP,
    thinning: int = 1,
) -> Iterator[Point]:  # fmt: skip
    """Yield draws of ``center + axes z``.

    Parameters
    ----------
    center, axes
        Shapes (H,) and (H, H): near the target's mean, and a square root of its covariance.
    thinning
        Paths per draw.
    """

    def at(z: np.ndarray) -> _State:
        try:
            value, gradient = target(center + axes @ z)
        except np.linalg.LinAlgError:
            return _State(z, -np.inf, np.zeros_like(z))
        return _State(z, value, axes.T @ gradient) if np.isfinite(value) else _State(z, -np.inf, np.zeros_like(z))

    state = at(np.zeros(len(center)))
    step, tuned = 0.5, _DualAveraging(0.5)
    moved = False
    for i in range(warmup + num_draws * thinning):
        new, probability = _trajectory(at, state, step, rng)
        is_new = bool(rng.random() < probability)
        state, moved = new if is_new else state, moved or is_new
        if i < warmup:
            step = tuned.update(probability, last=i == warmup - 1)
        elif (i - warmup + 1) % thinning == 0:
            yield Point(center + axes @ state.z, moved)
        if i < warmup or (i - warmup + 1) % thinning == 0:
            moved = False


def _trajectory(
    at: Callable[[np.ndarray], _State], state: _State, step: float, rng: np.random.Generator
) -> tuple[_State, float]:
    momentum = rng.standard_normal(len(state.z))
    length = PATH * rng.uniform(0.5, 1.5)  # a random length, so that no period is met
    energy = state.value - 0.5 * momentum @ momentum
    new = state
    for _ in range(int(np.clip(round(length / step), 1, MAX_STEPS))):
        momentum = momentum + 0.5 * step * new.gradient
        new = at(new.z + step * momentum)
        if not np.isfinite(new.value):
            return state, 0.0
        momentum = momentum + 0.5 * step * new.gradient
    return new, float(np.exp(min(0.0, float(new.value - 0.5 * momentum @ momentum - energy))))


class _DualAveraging:
    """Step size whose acceptance is on average the target; constants as in Hoffman & Gelman."""

    def __init__(self, first: float):
        self._center, self._error, self._log_average, self._count = np.log(10.0 * first), 0.0, 0.0, 0

    def update(self, acceptance: float, *, last: bool) -> float:
        self._count += 1
        weight = 1.0 / (self._count + 10.0)
        self._error = (1.0 - weight) * self._error + weight * (TARGET_ACCEPTANCE - acceptance)
        log_step = self._center - np.sqrt(self._count) / 0.05 * self._error
        forget = self._count**-0.75
        self._log_average = forget * log_step + (1.0 - forget) * self._log_average
        return float(np.exp(self._log_average if last else log_step))
