r"""What is true in a simulated nation: coefficients drawn from the seed, and the chances they give to every person.

For each outcome (``voted``, ``support``) and a person in county ``c`` of state ``s``,

.. math:: \operatorname{logit} p = \beta_0 + \beta_1\,\mathrm{female} + \beta_2 z(\mathrm{dem\_share}_c)
          + \beta_3 z(\mathrm{pct\_college}_c) + u_s + u_{s:c} + u_{race} + u_{age} + u_{race:age} + u_{s:race},

and nothing else: education, party and vote history have no part in it. Every :math:`u` is Normal(0, its scale). The
constants of :math:`z(x) = (x - \mathrm{center}) / \mathrm{scale}` are the mean and sd over counties weighted by adults,
so they nearly equal those over the voters of a file, and do not depend on its size; they are written beside the truth.
A nation with precincts has :math:`u_{s:c:precinct}` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from sharding.simulation_population import AGES, NUM_CELLS, RACES, SEXES, Counties, Floats, Ints, stream

OUTCOMES = ("voted", "support")

FIXED: dict[str, dict[str, tuple[float, float]]] = {
    "voted": {"Intercept": (0.7, 0.1), "female": (0.15, 0.05), "dem_share": (0.0, 0.1), "pct_college": (0.2, 0.05)},
    "support": {"Intercept": (-0.1, 0.1), "female": (0.35, 0.1), "dem_share": (0.4, 0.1), "pct_college": (0.1, 0.05)},
}
"""Mean and sd of the fixed coefficients, by outcome: turnout near two thirds, support near one half."""

_COMMON = {"1|state": 0.25, "1|state:county": 0.20, "1|age": 0.40, "1|race:age": 0.10, "1|state:race": 0.15}
SCALES: dict[str, dict[str, float]] = {"voted": {**_COMMON, "1|race": 0.30}, "support": {**_COMMON, "1|race": 0.50}}
"""The sd of each batch of effects: places differ by a few points, ages and races by ten; opinions differ more by race
than turnout does."""

PRECINCT_TERM = "1|state:county:precinct"
PRECINCT_SCALE = 0.15
"""The sd of the effects of precincts, in a nation that has them, for both outcomes."""


@dataclass(frozen=True)
class Truth:
    """The coefficients of one outcome. ``fixed`` and ``effects`` have the names of ``posterior.nc``."""

    outcome: str
    fixed: dict[str, float]
    effects: dict[str, Floats]
    standardisation: dict[str, tuple[float, float]]
    """Center and scale of each county predictor."""


def standardisation(counties: Counties) -> dict[str, tuple[float, float]]:
    """Return center and scale of the county predictors: mean and sd over counties, weighted by adults."""
    out = {}
    for name, values in (("dem_share", counties.dem_share), ("pct_college", counties.pct_college)):
        center = float(np.average(values, weights=counties.adults))
        out[name] = (center, float(np.sqrt(np.average((values - center) ** 2, weights=counties.adults))))
    return out


def levels(counties: Counties) -> dict[str, list[str]]:
    """Return the levels of every batch of effects, in the order of the effects."""
    return {
        "1|state": list(counties.states),
        "1|state:county": list(counties.labels),
        "1|race": list(RACES),
        "1|age": list(AGES),
        "1|race:age": [f"{race}:{age}" for race in RACES for age in AGES],
        "1|state:race": [f"{state}:{race}" for state in counties.states for race in RACES],
    }


def draw(counties: Counties, seed: int, purpose: int, outcome: str) -> Truth:
    """Draw the truth of one outcome; it depends on the seed only, never on the size of the file."""
    rng = stream(seed, purpose, OUTCOMES.index(outcome))
    return Truth(
        outcome=outcome,
        fixed={name: float(rng.normal(mean, sd)) for name, (mean, sd) in FIXED[outcome].items()},
        effects={
            term: rng.normal(0.0, SCALES[outcome][term], size=len(names)) for term, names in levels(counties).items()
        },
        standardisation=standardisation(counties),
    )


def with_precincts(truth: Truth, num_precincts: int, seed: int, purpose: int) -> Truth:
    """Add the effects of precincts, drawn from a stream of their own: everything else stays as it is."""
    rng = stream(seed, purpose, OUTCOMES.index(truth.outcome))
    effects = {**truth.effects, PRECINCT_TERM: rng.normal(0.0, PRECINCT_SCALE, size=num_precincts)}
    return replace(truth, effects=effects)


def demographic_predictor(truth: Truth) -> Floats:
    """Return the part of the linear predictor that belongs to the person and not to the place, (cell,)."""
    race, age = truth.effects["1|race"], truth.effects["1|age"]
    race_age = truth.effects["1|race:age"].reshape(len(RACES), len(AGES))
    female = truth.fixed["female"] * np.arange(len(SEXES))
    return ((race[:, None] + age + race_age)[:, :, None] + female).reshape(NUM_CELLS)


def probabilities(truth: Truth, counties: Counties) -> Floats:
    """Return the chance of a 1 for every county and cell, (county, cell)."""
    place = truth.fixed["Intercept"] + truth.effects["1|state"][counties.state_code] + truth.effects["1|state:county"]
    for name, values in (("dem_share", counties.dem_share), ("pct_college", counties.pct_college)):
        center, scale = truth.standardisation[name]
        place = place + truth.fixed[name] * (values - center) / scale
    state_race = truth.effects["1|state:race"].reshape(len(counties.states), len(RACES))[counties.state_code]
    person = demographic_predictor(truth) + np.repeat(state_race, NUM_CELLS // len(RACES), axis=1)
    return expit(place[:, None] + person)


def write_coefficients(truths: list[Truth], counties: Counties, directory: Path, precincts: Sequence[str] = ()) -> None:
    """Write ``coefficients.parquet``, ``scales.parquet`` and ``standardisation.parquet`` into ``directory``.

    ``precincts`` are the full labels (``CA:06037:06037-0001``) of a nation that has them.
    """
    names = {**levels(counties), PRECINCT_TERM: precincts}
    rows = [(t.outcome, term, "", value) for t in truths for term, value in t.fixed.items()]
    rows += [
        (t.outcome, term, level, float(value))
        for t in truths
        for term, values in t.effects.items()
        for level, value in zip(names[term], values, strict=True)
    ]
    _write(directory / "coefficients.parquet", ("outcome", "term", "level", "value"), rows)
    scales = [
        (t.outcome, f"sd({term})", sd)
        for t in truths
        for term, sd in {**SCALES[t.outcome], PRECINCT_TERM: PRECINCT_SCALE}.items()
        if term in t.effects
    ]
    _write(directory / "scales.parquet", ("outcome", "term", "value"), scales)
    constants = [(name, center, scale) for name, (center, scale) in standardisation(counties).items()]
    _write(directory / "standardisation.parquet", ("column", "center", "scale"), constants)


@dataclass(frozen=True)
class Totals:
    """Sums over the people of each county (of each precinct where there are some), for one outcome."""

    num_rows: Ints
    expected: Floats
    """Sum of the true chances of everybody in the file."""
    num_answers: Ints
    num_successes: Ints
    """Ones among the answers."""


def write_expected(
    totals: dict[str, Totals], counties: Counties, path: Path, precincts: tuple[Ints, Sequence[str]] | None = None
) -> None:
    """Write the expected share of every margin and outcome, over the people that are in the file.

    ``raw_mean`` is what the answers alone say (null where there are none). Levels without people are left out.
    ``precincts``, the county and the full label of each, are given where the totals are theirs.
    """
    county = np.arange(len(counties.fips)) if precincts is None else precincts[0]
    margins: dict[str, tuple[Sequence[str], Ints]] = {
        "all": (["all"], np.zeros(len(county), dtype=np.int64)),
        "state": (list(counties.states), counties.state_code[county]),
        "state:county": (list(counties.labels), county),
    }
    if precincts is not None:
        margins[PRECINCT_TERM.removeprefix("1|")] = precincts[1], np.arange(len(county))
    rows = []
    for outcome, total in totals.items():
        for margin, (names, codes) in margins.items():
            sums = [
                np.bincount(codes, weights=values, minlength=len(names))
                for values in (total.num_rows, total.expected, total.num_answers, total.num_successes)
            ]
            for name, people, expected, answers, successes in zip(names, *sums, strict=True):
                if people:
                    raw_mean = successes / answers if answers else None
                    rows.append((outcome, margin, name, int(people), expected / people, int(answers), raw_mean))
    columns = ("outcome", "margin", "level", "num_rows", "expected_mean", "num_answers", "raw_mean")
    _write(path, columns, rows)


def _write(path: Path, columns: tuple[str, ...], rows: list) -> None:
    values = zip(*rows, strict=True)
    pq.write_table(pa.table({name: list(column) for name, column in zip(columns, values, strict=True)}), path)
