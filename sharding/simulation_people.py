"""The people of a simulated nation: how many of each kind, who answers the survey, and the rows themselves.

A *code* is everything about a person that is drawn as a count:
``((category * 2 + answered) * 2 + voted) * 2 + support``, where the category is race, age, sex and education
(:mod:`sharding.simulation_population`) and ``support`` is what the person thinks, answered or not. Each county draws
the number of people of every code from its own random streams; its rows are those counts, written out and shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from sharding import simulation_precincts, simulation_truth
from sharding.simulation_population import (
    AGES,
    EDUCATIONS,
    NUM_CATEGORIES,
    NUM_CELLS,
    SEXES,
    Counties,
    Floats,
    Ints,
    apportion,
    category_probabilities,
    load_counties,
    stream,
)
from sharding.simulation_precincts import Precincts, Residents
from sharding.simulation_truth import PRECINCT_TERM, Totals, Truth

PARTIES = ("DEM", "REP", "IND", "OTH")
ELECTIONS = ("g2016", "g2018", "g2020", "g2022")

# Purposes of random streams.
_TRUTH, _RACE, _CATEGORIES, _OUTCOMES, _HISTORY, _SAMPLE, _PRECINCTS, _PRECINCT_TRUTH = range(8)

# Who answers the survey: log of the relative chance.
_ANSWER_BY_RACE = np.array([0.5, -0.2, -0.5, -0.4, -0.1])
_ANSWER_BY_AGE = np.array([-1.1, -0.8, -0.4, 0.0, 0.3, 0.6, 0.6, 0.2])
_ANSWER_BY_EDUCATION = np.array([-0.4, 0.0, 0.3, 0.5])
_ANSWER_IF_FEMALE = 0.3
_ANSWER_PER_SD_OF_SUPPORT = 0.8  # by the leaning of the group, so that raw means are off in every nation
_ANSWER_PER_SD_OF_PCT_COLLEGE = 0.3
_OVERSAMPLED = {"AZ": 1.4, "GA": 1.1, "MI": 1.1, "NC": 1.1, "NV": 1.4, "PA": 1.1, "WI": 1.4}  # where campaigns poll

# Turnout in earlier elections: logit shift against 2024, and the share of each age band that could vote then.
_HISTORY_SHIFT = np.array([-0.2, -0.9, 0.15, -0.8])
_HISTORY_ELIGIBLE = np.array([[0.0, 0.0, 0.35, 0.7], [0.4, 0.75, 0.95, 1.0], *[[0.9, 0.93, 0.96, 0.98]] * 6])
_HABIT = 0.6  # the share of people who do in every election as they did in 2024, chances permitting
_OTHER_PARTY = 0.03


class CodeTable(NamedTuple):
    """What each code means: one element per code."""

    race: npt.NDArray[np.int8]
    age: npt.NDArray[np.int8]
    education: npt.NDArray[np.int8]
    female: npt.NDArray[np.int8]
    answered: npt.NDArray[np.bool_]
    voted: npt.NDArray[np.int8]
    support: npt.NDArray[np.int8]


def _code_table() -> CodeTable:
    code = np.arange(NUM_CATEGORIES * 8)
    category = code >> 3
    small = [category >> 6, (category >> 3) & 7, category & 3, (category >> 2) & 1, (code >> 2) & 1, (code >> 1) & 1,
             code & 1]  # fmt: skip
    race, age, education, female, answered, voted, support = (values.astype(np.int8) for values in small)
    return CodeTable(race, age, education, female, answered == 1, voted, support)


CODES = _code_table()


class Nation(NamedTuple):
    """Everything about a nation but its people. Arrays lead with the axis county."""

    seed: int
    counties: Counties
    truths: dict[str, Truth]
    chances: dict[str, Floats]
    """The chance of a 1, by outcome: (county, cell); in a nation with precincts, before their effects."""
    categories: Ints
    """People, (county, category)."""
    answers: Ints
    """Those of them whose ``support`` is known, (county, category)."""
    precincts: Precincts | None = None

    @property
    def num_rows(self) -> Ints:
        """People of each county."""
        return self.categories.sum(axis=1)


class People(NamedTuple):
    """Rows of the file, one element each, in file order."""

    county: npt.NDArray[np.int16]
    serial: npt.NDArray[np.int32]
    """0, 1, ... within the county."""
    code: npt.NDArray[np.int16]
    history: npt.NDArray[np.bool_]
    """(row, election)"""
    party: npt.NDArray[np.int8]
    precinct: npt.NDArray[np.int32]
    """Numbered in the nation; 0 where there are no precincts."""


def found(num_rows: int, seed: int, num_answers: int, num_precincts: int = 0) -> Nation:
    """Draw the truth, how many people of each category live in each county, and how many of those answer."""
    counties = load_counties()
    truths = {o: simulation_truth.draw(counties, seed, _TRUTH, o) for o in simulation_truth.OUTCOMES}
    chances = {outcome: simulation_truth.probabilities(truth, counties) for outcome, truth in truths.items()}
    shares = category_probabilities(counties, seed, _RACE)
    sizes = apportion(num_rows, counties.adults)
    categories = np.stack(
        [
            stream(seed, _CATEGORIES, int(fips)).multinomial(size, share)
            for fips, size, share in zip(counties.fips, sizes, shares, strict=True)
        ]
    )
    answers = _choose_answers(categories, _answer_weights(truths["support"], counties), num_answers, seed)
    if not num_precincts:
        return Nation(seed, counties, truths, chances, categories, answers)
    precincts = simulation_precincts.lay_out(counties, num_precincts, seed, _PRECINCTS)
    truths = {o: simulation_truth.with_precincts(t, num_precincts, seed, _PRECINCT_TRUTH) for o, t in truths.items()}
    return Nation(seed, counties, truths, chances, categories, answers, precincts)


def draw_codes(nation: Nation) -> Iterator[tuple[np.intp, np.random.Generator, Ints]]:
    """Yield for each county with people its place, the stream it is drawn from, and its people by code, (code,)."""
    for county in np.flatnonzero(nation.num_rows):
        rng = stream(nation.seed, _OUTCOMES, int(nation.counties.fips[county]))
        people, answers = nation.categories[county], nation.answers[county]
        chance = {outcome: np.repeat(p[county], len(EDUCATIONS)) for outcome, p in nation.chances.items()}
        by_answered = np.stack([people - answers, answers], axis=1)
        voted = rng.binomial(by_answered, chance["voted"][:, None])
        by_voted = np.stack([by_answered - voted, voted], axis=2)
        support = rng.binomial(by_voted, chance["support"][:, None, None])
        yield county, rng, np.stack([by_voted - support, support], axis=3).reshape(-1)


def draw_residents(nation: Nation) -> Iterator[tuple[np.intp, Residents]]:
    """Yield for each county with people its place and its people, shuffled."""
    if nation.precincts is None:
        every_code = np.arange(len(CODES.voted), dtype=np.int16)
        for county, rng, counts in draw_codes(nation):
            code = np.repeat(every_code, counts)
            rng.shuffle(code)
            yield county, Residents(np.zeros(len(code), dtype=np.int32), code)
        return
    voted, support = (nation.truths[o].effects[PRECINCT_TERM] for o in ("voted", "support"))
    for county in np.flatnonzero(nation.num_rows):
        rng = stream(nation.seed, _OUTCOMES, int(nation.counties.fips[county]))
        chances = nation.chances["voted"][county], nation.chances["support"][county]
        yield (
            county,
            simulation_precincts.draw_residents(
                rng,
                nation.precincts,
                county,
                nation.categories[county],
                nation.answers[county],
                chances,
                (voted, support),
            ),
        )


def draw_people(nation: Nation, tally: Tally) -> Iterator[People]:
    """Yield the people of one county after the other, shuffled within each, and count them in ``tally``."""
    every_code = np.arange(len(CODES.voted), dtype=np.int16)
    cell_voted = (every_code >> 5) * 2 + CODES.voted
    party_row = CODES.support.astype(np.int16) * 256
    for county, (precinct, code) in draw_residents(nation):
        tally.add(county, precinct, code)
        rng = stream(nation.seed, _HISTORY, int(nation.counties.fips[county]))
        dice = rng.integers(0, 1 << 64, size=len(code), dtype=np.uint64).view(np.uint16).reshape(-1, len(ELECTIONS))
        history = dice < _history_thresholds(nation.chances["voted"][county]).take(cell_voted[code], axis=0)
        dice = rng.integers(0, 256, size=len(code), dtype=np.uint8)
        yield People(
            county=np.full(len(code), county, dtype=np.int16),
            serial=np.arange(len(code), dtype=np.int32),
            code=code,
            history=history,
            party=_party_table(nation.counties.dem_share[county]).take(party_row[code] + dice),
            precinct=precinct,
        )


class Tally:
    """Adds up what the truth files need while the counties go by: by county, or by precinct where there are some."""

    def __init__(self, nation: Nation):
        self._nation = nation
        size = len(nation.counties.fips) if nation.precincts is None else len(nation.precincts.county)
        self._num_rows = np.zeros(size, dtype=np.int64)
        self._known = {outcome: np.zeros(size, dtype=np.int64) for outcome in nation.truths}
        self._ones = {outcome: np.zeros(size, dtype=np.int64) for outcome in nation.truths}
        self._expected = {outcome: np.zeros(size) for outcome in nation.truths}

    def add(self, county: np.intp, precinct: npt.NDArray[np.int32], code: npt.NDArray[np.int16]) -> None:
        """Count the people of a county, one element each."""
        nation = self._nation
        first, size = int(county), 1
        if nation.precincts is not None:
            own = nation.precincts.of(county)
            first, size = own.start, own.stop - own.start
            precinct = precinct - own.start
        cells = np.bincount(precinct * NUM_CELLS + (code >> 5), minlength=size * NUM_CELLS).reshape(size, NUM_CELLS)
        answered, place = CODES.answered[code], slice(first, first + size)
        self._num_rows[place] = cells.sum(axis=1)
        for outcome, ones, known in (
            ("voted", CODES.voted, np.ones_like(answered)),
            ("support", CODES.support, answered),
        ):
            chance = nation.chances[outcome][county]
            if nation.precincts is not None:
                chance = expit(logit(chance) + nation.truths[outcome].effects[PRECINCT_TERM][place, None])
            self._expected[outcome][place] = (cells * chance).sum(axis=1)
            self._known[outcome][place] = np.bincount(precinct[known], minlength=size)
            self._ones[outcome][place] = np.bincount(precinct[known & (ones[code] == 1)], minlength=size)

    def totals(self) -> dict[str, Totals]:
        """Return the sums by outcome."""
        return {
            o: Totals(self._num_rows, self._expected[o], self._known[o], self._ones[o]) for o in self._nation.truths
        }


def _answer_weights(support: Truth, counties: Counties) -> Floats:
    """Return the relative chance to answer, (county, category)."""
    leaning = simulation_truth.demographic_predictor(support)
    leaning = (leaning - leaning.mean()) / leaning.std()
    person = (_ANSWER_BY_RACE[:, None] + _ANSWER_BY_AGE)[:, :, None] + _ANSWER_IF_FEMALE * np.arange(len(SEXES))
    person = person.reshape(NUM_CELLS) + _ANSWER_PER_SD_OF_SUPPORT * leaning
    center, scale = support.standardisation["pct_college"]
    place = np.array([_OVERSAMPLED.get(state, 0.0) for state in counties.state])
    place += _ANSWER_PER_SD_OF_PCT_COLLEGE * (counties.pct_college - center) / scale
    return np.exp(place[:, None] + (person[:, None] + _ANSWER_BY_EDUCATION).reshape(NUM_CATEGORIES))


def _choose_answers(people: Ints, weights: Floats, num_answers: int, seed: int) -> Ints:
    """Say how many of each category answer: systematic sampling with the chances ``min(1, factor * weights)``."""
    everybody = np.zeros(people.shape, dtype=bool)
    while True:
        left = num_answers - people[everybody].sum()
        open_weight = (weights * people)[~everybody].sum()
        factor = left / open_weight if open_weight > 0 else 0.0
        more = ~everybody & (weights * factor >= 1)
        if not more.any():
            break
        everybody |= more
    expected = np.where(everybody, people, people * weights * factor)
    cumulative = np.minimum(np.cumsum(expected), num_answers)
    cumulative[-1] = num_answers
    chosen = np.diff(np.floor(cumulative + stream(seed, _SAMPLE).random()), prepend=0.0)
    return np.minimum(chosen.astype(np.int64).reshape(people.shape), people)


def _history_thresholds(chance: Floats) -> npt.NDArray[np.uint16]:
    """Return 65,536 times the chance to have voted in each election, by cell and ``voted``: (cell * 2, election).

    A creature of habit has one number for all elections and votes where the chance exceeds it; that ties the history to
    ``voted`` without changing the chance of ``voted`` itself.
    """
    now = chance[:, None]
    then = expit(logit(now) + _HISTORY_SHIFT)
    if_voted = _HABIT * np.minimum(then, now) / now + (1 - _HABIT) * then
    if_not = _HABIT * np.maximum(then - now, 0) / (1 - now) + (1 - _HABIT) * then
    age = np.arange(NUM_CELLS) // len(SEXES) % len(AGES)
    both = np.stack([if_not, if_voted], axis=1) * _HISTORY_ELIGIBLE[age][:, None, :]
    return np.minimum(both * 65536, 65535).astype(np.uint16).reshape(NUM_CELLS * 2, len(ELECTIONS))


def _party_table(dem_share: float) -> npt.NDArray[np.int8]:
    """Return the party for each support (0, 1) and each of 256 faces of a die, (512,)."""
    democrats = np.array([0.04 + 0.22 * dem_share, 0.36 + 0.44 * dem_share])
    republicans = np.array([0.36 + 0.44 * (1 - dem_share), 0.04 + 0.22 * (1 - dem_share)])
    steps = 256 * np.stack([democrats, democrats + republicans, np.full(2, 1 - _OTHER_PARTY)], axis=1)
    return (np.arange(256) >= steps[:, :, None]).sum(axis=1).astype(np.int8).reshape(-1)
