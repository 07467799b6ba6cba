"""Who lives where in a simulated nation: counties, and the demography of each.

Counties are real (``data/us_counties.parquet``); people are drawn. In county ``c`` a person's demography is one of 320
*categories* (race, age, sex, education), and this module makes the table of their probabilities from the county's own
census figures:

* race: the county's shares, perturbed by a Dirichlet draw so that no two simulated nations are alike;
* age given race: the national age pyramid, tilted exponentially until the county's share of adults over 65 is right;
* sex given age: fixed;
* education given race and age: a logit whose intercept is solved for until the county's share of graduates is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.special import expit, logit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RACES = ("White", "Black", "Hispanic", "Asian", "Other")
AGES = ("18-24", "25-29", "30-39", "40-49", "50-59", "60-69", "70-79", "80+")
SEXES = ("M", "F")
EDUCATIONS = ("HS or less", "Some college", "College", "Postgraduate")
NUM_CELLS = len(RACES) * len(AGES) * len(SEXES)  # race x age x sex: what the outcome models see
NUM_CATEGORIES = NUM_CELLS * len(EDUCATIONS)
"""Category ``k`` is ``((race * 8 + age) * 2 + female) * 4 + education``; its cell is ``k // 4``."""

COUNTIES_PATH = Path(__file__).parent / "data" / "us_counties.parquet"

_ADULT_AGES = np.array([0.118, 0.086, 0.173, 0.160, 0.160, 0.153, 0.100, 0.050])  # US adults, 2022, rounded
_AGE_MIDDLE = np.array([21.5, 27.5, 35.0, 45.0, 55.0, 65.0, 75.0, 84.0])
_OVER_65 = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0])  # half of the band 60-69
_RACE_AGE_TILT = np.array([0.25, 0.0, -0.45, -0.10, -0.25])  # per 15 years: the young are less often White
_FEMALE_BY_AGE = np.array([0.49, 0.495, 0.50, 0.505, 0.51, 0.52, 0.545, 0.60])
_GRADUATE_BY_RACE = np.array([0.15, -0.35, -0.75, 0.75, -0.15])  # logit scale
_GRADUATE_BY_AGE = np.array([-1.3, 0.15, 0.25, 0.20, 0.05, -0.05, -0.10, -0.40])
_POSTGRADUATE_OF_GRADUATES = np.array([0.08, 0.25, 0.38, 0.42, 0.40, 0.42, 0.46, 0.45])
_SOME_COLLEGE_OF_OTHERS = np.array([0.55, 0.48, 0.46, 0.45, 0.43, 0.43, 0.40, 0.33])
_HISPANIC_PER_SPANISH_HOUSEHOLD = 1.4  # 19% of people are Hispanic, 13.6% of households speak Spanish
_DIRICHLET_CONCENTRATION = 400.0


@dataclass(frozen=True)
class Counties:
    """The 3,144 counties in FIPS order; every array leads with the axis county."""

    fips: tuple[str, ...]
    state: tuple[str, ...]
    states: tuple[str, ...]
    state_code: Ints
    adults: Ints
    race_share: Floats
    """(county, race), sums to 1."""
    over_65: Floats
    """Share of adults, in (0, 1)."""
    graduates: Floats
    """Share of people of 25 and older, in (0, 1)."""
    dem_share: Floats
    pct_college: Floats

    @property
    def labels(self) -> tuple[str, ...]:
        """``CA:06037``, the levels of ``state:county``."""
        return tuple(f"{state}:{fips}" for state, fips in zip(self.state, self.fips, strict=True))


@cache
def load_counties() -> Counties:
    """Read the county list that comes with the package (``data/README.md`` says where it is from)."""
    columns = pq.read_table(COUNTIES_PATH).to_pydict()
    state = tuple(columns["state"])
    states = tuple(sorted(set(state)))
    number = {name: np.asarray(values) for name, values in columns.items() if not isinstance(values[0], str)}
    over_65 = number["pct_65_plus"] / number["pct_18_plus"]
    return Counties(
        fips=tuple(columns["fips"]),
        state=state,
        states=states,
        state_code=np.array([states.index(s) for s in state]),
        adults=number["vap_2022"],
        race_share=_race_share(number),
        over_65=np.clip(over_65, 0.02, 0.95),
        graduates=np.clip(number["pct_college"] / 100, 0.02, 0.95),
        dem_share=number["dem_share"],
        pct_college=number["pct_college"] / 100,
    )


def _race_share(number: dict[str, npt.NDArray]) -> Floats:
    """Five exclusive groups from the census's overlapping shares.

    The census counts Hispanics of any race; about half of them say White. What is left after White, Black and Hispanic
    is Asian or other, more Asian where more people have a degree.
    """
    black = number["pct_black"] / 100
    hispanic = np.minimum(_HISPANIC_PER_SPANISH_HOUSEHOLD * number["pct_hh_spanish"] / 100, 0.97)
    white = np.maximum(number["pct_white"] / 100 - 0.5 * hispanic, 0.0)
    rest = np.maximum(1 - white - black - hispanic, 0.0)
    asian = rest * (0.15 + 0.6 * np.clip(number["pct_college"] / 60, 0, 1))
    share = np.stack([white, black, hispanic, asian, rest - asian], axis=1) + 0.004
    return share / share.sum(axis=1, keepdims=True)


def stream(seed: int, purpose: int, key: int = 0) -> np.random.Generator:
    """Return the random stream of one purpose and one county (``key``: its FIPS number), whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, key)))


def apportion(num_rows: int, weights: Ints | Floats) -> Ints:
    """Divide ``num_rows`` in proportion to ``weights``: one each where there are enough, then largest remainders."""
    one_each = np.full(len(weights), int(num_rows >= len(weights)))
    rest = num_rows - int(one_each.sum())
    quota = rest * (weights / weights.sum())
    whole = np.floor(quota).astype(np.int64)
    order = np.argsort(whole - quota, kind="stable")
    whole[order[: rest - int(whole.sum())]] += 1
    return one_each + whole


def category_probabilities(counties: Counties, seed: int, purpose: int) -> Floats:
    """Return the probability of each category in each county, (county, category); rows sum to 1."""
    race = np.stack(
        [
            stream(seed, purpose, int(fips)).dirichlet(_DIRICHLET_CONCENTRATION * share)
            for fips, share in zip(counties.fips, counties.race_share, strict=True)
        ]
    )
    age = _age_given_race(race, counties.over_65)
    graduate = _graduate_given_race_age(race, age, counties.graduates)
    female = np.stack([1 - _FEMALE_BY_AGE, _FEMALE_BY_AGE], axis=1)
    postgraduate = graduate * _POSTGRADUATE_OF_GRADUATES
    some_college = (1 - graduate) * _SOME_COLLEGE_OF_OTHERS
    education = np.stack([1 - graduate - some_college, some_college, graduate - postgraduate, postgraduate], axis=-1)
    joint = np.einsum("cr,cra,as,crae->crase", race, age, female, education).reshape(len(race), NUM_CATEGORIES)
    return joint / joint.sum(axis=1, keepdims=True)


def _age_given_race(race: Floats, over_65: Floats) -> Floats:
    """Tilt the age pyramid, (county, race, age), until ``over_65`` holds in every county."""
    years = (_AGE_MIDDLE - 47.0) / 15.0

    def ages(tilt: Floats) -> Floats:
        weight = _ADULT_AGES * np.exp((tilt[:, None] + _RACE_AGE_TILT)[:, :, None] * years)
        return weight / weight.sum(axis=-1, keepdims=True)

    def excess(tilt: Floats) -> Floats:
        return np.einsum("cr,cra,a->c", race, ages(tilt), _OVER_65) - over_65

    return ages(_bisect(excess, len(race), width=6.0))


def _graduate_given_race_age(race: Floats, age: Floats, graduates: Floats) -> Floats:
    """Shift the logit of a degree, (county, race, age), until ``graduates`` holds among those of 25 and older."""
    people = race[:, :, None] * age
    people[:, :, 0] = 0.0
    people /= people.sum(axis=(1, 2), keepdims=True)
    pattern = _GRADUATE_BY_RACE[:, None] + _GRADUATE_BY_AGE
    start = logit(graduates)

    def probability(shift: Floats) -> Floats:
        return expit((start + shift)[:, None, None] + pattern)

    def excess(shift: Floats) -> Floats:
        return np.einsum("cra,cra->c", people, probability(shift)) - graduates

    return probability(_bisect(excess, len(race), width=4.0))


def _bisect(increasing: Callable[[Floats], Floats], num_counties: int, *, width: float, num_steps: int = 40) -> Floats:
    """Return the root of ``increasing`` for every county, within plus or minus ``width``."""
    low, high = np.full(num_counties, -width), np.full(num_counties, width)
    for _ in range(num_steps):
        middle = (low + high) / 2
        too_high = increasing(middle) > 0
        low, high = np.where(too_high, low, middle), np.where(too_high, middle, high)
    return (low + high) / 2
