"""Whether two sets of numbers of one column are in the same units: the one rule for files of a run, files that come later, and frames.

A unit multiplies: it moves ``log |x|`` by a constant and leaves its spread as it is. Numbers are said to be in other units where the means of
``log |x|`` are far apart in units of its sd within the sets, the largest numbers are as far apart, and the spreads are alike. A shift of
location, a longer tail and a column of few values are none of this: states differ in what they are like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

Use = Literal["predictor", "outcome", "size", "weight"]
"""What a column is used as; ``size``: an exposure, or trials."""

MIN_VALUES = 20
MIN_DISTINCT: dict[Use, int] = {"predictor": 8, "outcome": 5, "size": 1, "weight": 1}
"""A predictor of a few groups says little of its unit: the groups of another file are others."""
MIN_FACTOR: dict[Use, float] = {"predictor": 7.0, "outcome": 7.0, "size": 3.5, "weight": 7.0}
APART = 3.5
"""Means of ``log |x|`` this many sds apart do not come from what groups are like."""
NEAR = math.log(1.6)
"""How far the factor of a predictor or an outcome may be from a power of ten, and that of the largest numbers from it."""
ALIKE = 2.0
NEAR_ONE = 0.02
"""Weights whose mean is within this of 1 were made to average 1."""
SQUEEZED = 1 / 20
"""A column of several values whose mean and spread are less than this part of those that were fitted is in other units."""
FAR = 2.0
"""Sds between two means from which on not even a constant column is a matter of course."""
CODINGS = ((0.0, 1.0), (1.0, 2.0), (-1.0, 1.0))
"""How files write a column of two values."""


class Scale(NamedTuple):
    """How large numbers are: how many differ from 0, how many differ from each other, mean and sd of ``log |x|``, the largest ``|x|``, the mean."""

    num_values: int
    num_distinct: int
    log_mean: float
    log_sd: float
    largest: float
    mean: float


def measured(values: np.ndarray) -> Scale | None:
    """Return the scale of finite numbers (n,), the same in any order and on any machine; None if all are 0."""
    values = np.sort(values[np.isfinite(values)])
    logs = np.log(np.abs(values[values != 0]))
    if not len(logs):
        return None
    found = (float(logs.mean()), float(logs.std()), float(np.abs(values).max()), float(values.mean()))
    return Scale(len(logs), len(np.unique(values)), *(float(f"{number:.6g}") for number in found))


def pooled(scales: Sequence[Scale]) -> Scale:
    """Return the scale of all numbers together; distinct values are those of the set that has most of them."""
    sizes = np.array([scale.num_values for scale in scales], dtype=float)
    means = np.array([scale.log_mean for scale in scales])
    mean = float(np.average(means, weights=sizes))
    variance = float(np.average(np.array([scale.log_sd for scale in scales]) ** 2 + (means - mean) ** 2, weights=sizes))
    average = float(np.average([scale.mean for scale in scales], weights=sizes))
    return Scale(
        int(sizes.sum()), max(scale.num_distinct for scale in scales), float(f"{mean:.6g}"), float(f"{variance**0.5:.6g}"),
        max(scale.largest for scale in scales), float(f"{average:.6g}"),
    )  # fmt: skip


def other_units(fitted: Scale, found: Scale, use: Use) -> float | None:
    """Return by what factor the numbers of ``found`` are larger than those of ``fitted``, if they seem to be in another unit."""
    if min(fitted.num_values, found.num_values) < MIN_VALUES or min(fitted.num_distinct, found.num_distinct) < MIN_DISTINCT[use]:
        return None
    shift = found.log_mean - fitted.log_mean
    spread = math.sqrt((fitted.log_sd**2 + found.log_sd**2) / 2)
    if abs(shift) < max(math.log(MIN_FACTOR[use]), APART * spread):
        return None
    if use in ("predictor", "outcome"):
        of_largest = math.log(found.largest / fitted.largest)
        is_unit = abs(shift - math.log(10) * round(shift / math.log(10))) < NEAR
        low, high = sorted((fitted.log_sd, found.log_sd))
        if not is_unit or abs(of_largest - shift) > NEAR or high > ALIKE * low:
            return None
    return math.exp(shift)


def odd_group(scales: Mapping[str, Scale], use: Use) -> tuple[list[str], float] | None:
    """Return the sets whose numbers seem to be in another unit than those of the others, and the factor; the sets are cut at the widest gap.

    Weights of states may differ by what share of each was asked, so of weights one side has to average 1 and the other not.
    """
    ordered = sorted(scales, key=lambda name: (scales[name].log_mean, name))
    if len(ordered) < 2:
        return None
    gaps = [scales[after].log_mean - scales[before].log_mean for before, after in pairwise(ordered)]
    cut = int(np.argmax(gaps)) + 1
    low, high = ordered[:cut], ordered[cut:]
    if use == "weight" and len({all(is_normed(scales[name]) for name in side) for side in (low, high)}) == 1:
        return None
    found = other_units(pooled([scales[name] for name in low]), pooled([scales[name] for name in high]), use)
    if found is None:
        return None
    return (high, found) if len(high) <= len(low) else (low, 1 / found)


def is_normed(scale: Scale) -> bool:
    """Whether weights were made to average 1."""
    return abs(scale.mean - 1) < NEAR_ONE


def is_squeezed(center: float, scale: float, values: np.ndarray, weight: np.ndarray | None = None) -> bool:
    """Whether numbers about 0 vary so little that they are in other units than a fitted column of this mean and sd: 0.4 where that has percentages."""
    mean = float(np.average(values, weights=weight))
    spread = float(np.sqrt(np.average((values - mean) ** 2, weights=weight)))
    is_near_zero = abs(mean) < SQUEEZED * max(abs(center), scale)
    is_far = abs(mean - center) > FAR * scale
    return is_near_zero and spread < SQUEEZED * scale and (is_far or len(np.unique(values)) > 2)
