"""Precincts of a simulated nation: how many each county has, how large they are, and who lives in which.

Counties are real, precincts are not: a county has them in proportion to its adults, at least one, with sizes that differ
by a gamma draw, and its people are dealt to them at random. Their effects on both outcomes have a known scale
(:data:`sharding.simulation_truth.PRECINCT_SCALE`). A nation without precincts draws nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from sharding.simulation_population import EDUCATIONS, Counties, Floats, Ints, apportion, stream

MAX_PER_COUNTY = 9_999  # four digits after the county
_SIZE_SHAPE = 4.0  # gamma shape of the sizes: the largest of a county's precincts are several times its smallest


@dataclass(frozen=True)
class Precincts:
    """Precincts in the order of their counties, shape (N,)."""

    county: Ints
    """Place of each precinct's county."""
    start: Ints
    """First precinct of each county, and after the last their number, (counties + 1,)."""
    fips: tuple[str, ...]
    """Of the counties."""
    size_weight: Floats

    @cached_property
    def labels(self) -> list[str]:
        """``01001-0007``: the county's FIPS code and a number from 1."""
        number = np.arange(len(self.county)) - self.start[self.county] + 1
        return [f"{self.fips[c]}-{n:04d}" for c, n in zip(self.county.tolist(), number.tolist(), strict=True)]

    def of(self, county: np.intp) -> slice:
        """The precincts of a county."""
        return slice(int(self.start[county]), int(self.start[county + 1]))


class Residents(NamedTuple):
    """The people of one county in file order: their precinct, numbered in the nation, and code."""

    precinct: npt.NDArray[np.int32]
    code: npt.NDArray[np.int16]


def limits(counties: Counties) -> tuple[int, int]:
    """Return the fewest precincts (one a county) and the most (four digits in the largest)."""
    return len(counties.fips), int(MAX_PER_COUNTY * (counties.adults.sum() / counties.adults.max()))


def lay_out(counties: Counties, num_precincts: int, seed: int, purpose: int) -> Precincts:
    """Divide a nation into precincts, each county's sizes from its own random stream."""
    counts = apportion(num_precincts, counties.adults)
    weights = [
        stream(seed, purpose, int(fips)).gamma(_SIZE_SHAPE, size=count)
        for fips, count in zip(counties.fips, counts, strict=True)
    ]
    start = np.concatenate([[0], np.cumsum(counts)])
    return Precincts(np.repeat(np.arange(len(counts)), counts), start, counties.fips, np.concatenate(weights))


def draw_residents(
    rng: np.random.Generator, precincts: Precincts, county: np.intp, people: Ints, answers: Ints,
    chances: tuple[Floats, Floats], effects: tuple[Floats, Floats],
) -> Residents:  # fmt: skip
    """Deal the people of a county to its precincts and draw both outcomes of each.

    Parameters
    ----------
    people, answers
        People of each category, and those of them who answer, (category,).
    chances
        Of ``voted`` and ``support`` in the county without its precincts, (cell,).
    effects
        Of each of the nation's precincts on ``voted`` and ``support``, (N,).
    """
    own = precincts.of(county)
    sizes = apportion(int(people.sum()), precincts.size_weight[own])
    precinct = rng.permutation(np.repeat(np.arange(own.start, own.stop, dtype=np.int32), sizes))
    category = np.repeat(np.arange(len(people), dtype=np.int16), people)
    first = np.cumsum(people) - people
    code = (category << 1) | (np.arange(len(category)) < (first + answers)[category])
    for chance, effect in zip(chances, effects, strict=True):
        p = expit(logit(chance)[category // len(EDUCATIONS)] + effect[precinct])
        code = (code << 1) | (rng.random(len(p)) < p)
    order = rng.permutation(len(code))
    return Residents(precinct[order], code[order].astype(np.int16))
