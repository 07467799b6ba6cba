"""The problems that the races and the calibration share: binomial cells, and the model every competitor fits to them.

The model is always the same kind: a logit with an intercept, numeric fixed effects and independent random intercepts,

    num_successes ~ binomial(num_trials, 1 / (1 + exp(-eta))),   eta = Intercept + X b + sum_g effect_g[level_g]

with priors intercept ~ normal(0, ``intercept_sd``), b ~ normal(0, 1) on standardised columns, and the sd of each group's effects
~ half_normal(1). Parameters are named as in the project's `posterior.nc` (bambi's and lme4's words).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from sharding.simulate import simulate_cells

FIXED_SD = 1.0
SCALE_SD = 1.0
REPOSITORY = Path(__file__).resolve().parent.parent


class Grouping(NamedTuple):
    """One random intercept: ``codes`` (num_cells,) index ``levels``, which are sorted; `a:b` levels read `a1:b1`."""

    codes: npt.NDArray[np.int32]
    levels: list[str]


class Design(NamedTuple):
    """Arrays of a problem: ``fixed`` (num_cells, num_fixed) standardised, counts (num_cells,) float64, groupings by term."""

    fixed: npt.NDArray[np.float64]
    num_trials: npt.NDArray[np.float64]
    num_successes: npt.NDArray[np.float64]
    groupings: dict[str, Grouping]


@dataclass(frozen=True)
class Problem:
    """Cells with text factors, raw numeric columns, `num_trials` and `num_successes`, and the terms of the model."""

    name: str
    cells: pd.DataFrame
    numerics: tuple[str, ...]
    groups: tuple[str, ...]
    intercept_sd: float = 2.0

    @property
    def priors(self) -> dict[str, str]:
        """Priors as `model.priors` of a run's YAML."""
        return {"intercept": f"normal(0, {self.intercept_sd:g})", "b": "normal(0, 1)", "sd": "half_normal(1)"}

    @property
    def formula(self) -> str:
        """Right-hand side, in the words that Caucus, lme4 and glmmTMB share."""
        return " + ".join(["1", *self.numerics, *(f"(1 | {group})" for group in self.groups)])

    @property
    def factors(self) -> list[str]:
        """Factor columns that the groups are made of, in order of first use."""
        return list(dict.fromkeys(column for group in self.groups for column in group.split(":")))

    @property
    def sha256(self) -> str:
        """Hash of the cells, the terms and the priors: what a cached reference belongs to."""
        head = f"{self.numerics}{self.groups}{self.priors}{list(self.cells.columns)}"
        digest = hashlib.sha256(head.encode())
        digest.update(pd.util.hash_pandas_object(self.cells, index=False).to_numpy().tobytes())
        return digest.hexdigest()

    def standardised(self) -> pd.DataFrame:
        """Cells with the numeric columns as they enter the model: 0/1 columns as they are, others centred and scaled."""
        cells = self.cells.copy()
        weights = cells["num_trials"].to_numpy(np.float64)
        for column in self.numerics:
            values = cells[column].to_numpy(np.float64)
            if not np.isin(values, (0.0, 1.0)).all():
                center = np.average(values, weights=weights)
                values = (values - center) / np.sqrt(np.average((values - center) ** 2, weights=weights))
            cells[column] = values
        return cells

    def design(self) -> Design:
        """Arrays of the model, levels in sorted order."""
        cells = self.standardised()
        groupings = {}
        for group in self.groups:
            columns = [cells[column].astype(str) for column in group.split(":")]
            label = columns[0].str.cat(columns[1:], sep=":") if len(columns) > 1 else columns[0]
            levels, codes = np.unique(label.to_numpy(str), return_inverse=True)
            groupings[group] = Grouping(codes.astype(np.int32), levels.tolist())
        return Design(
            cells[list(self.numerics)].to_numpy(np.float64).reshape(len(cells), len(self.numerics)),
            cells["num_trials"].to_numpy(np.float64),
            cells["num_successes"].to_numpy(np.float64),
            groupings,
        )

    def parameters(self) -> pd.DataFrame:
        """One row per coefficient, then per scale: `variable`, `level` ("" if none), `parameter` (full name)."""
        rows = [("Intercept", ""), *((column, "") for column in self.numerics)]
        for group, grouping in self.design().groupings.items():
            rows += [(f"1|{group}", level) for level in grouping.levels]
        rows += [(f"sd(1|{group})", "") for group in self.groups]
        table = pd.DataFrame(rows, columns=["variable", "level"])
        table["parameter"] = [f"{v}[{level}]" if level else v for v, level in rows]
        return table


def small_nation(seed: int = 1, num_rows: int = 20_000) -> Problem:
    """Sparse problem: 10 states x 30 counties x 5 races x 8 ages, responses spread very unevenly over counties and races.

    20,000 responses fall into about 4,700 cells of two or three answers to a hundred; with 1,000,000 the same nation is
    well informed. True scales: state 0.3, county 0.25, race 0.4, age 0.3, race x age 0.15.
    """
    rng = np.random.default_rng(seed)
    num_states, num_counties, num_races, num_ages = 10, 30, 5, 8
    shape = (num_states * num_counties, num_races, num_ages)
    state, county = rng.normal(0, 0.3, num_states), rng.normal(0, 0.25, shape[0])
    race, age, race_age = rng.normal(0, 0.4, num_races), rng.normal(0, 0.3, num_ages), rng.normal(0, 0.15, shape[1:])
    county_share = rng.dirichlet(np.full(shape[0], 0.5))
    share = np.einsum("i,j,k->ijk", county_share, [0.6, 0.2, 0.12, 0.07, 0.01], np.full(num_ages, 1 / num_ages))
    num_trials = rng.multinomial(num_rows, share.ravel())
    c, r, a = (axis.ravel() for axis in np.indices(shape))
    eta = -0.3 + state[c // num_counties] + county[c] + race[r] + age[a] + race_age[r, a]
    num_successes = rng.binomial(num_trials, 1 / (1 + np.exp(-eta)))
    names = [f"S{i // num_counties}-{i % num_counties:02d}" for i in range(shape[0])]
    cells = pd.DataFrame(
        {
            "state": [name[:2] for name in np.array(names)[c]],
            "county": np.array(names)[c],
            "race": [f"r{i}" for i in r],
            "age": [f"a{i}" for i in a],
            "num_trials": num_trials,
            "num_successes": num_successes,
        }
    )
    cells = cells[cells["num_trials"] > 0].reset_index(drop=True)
    name = f"small_nation_{num_rows}_{seed}"
    return Problem(name, cells, (), ("state", "state:county", "race", "age", "race:age"))


def nation(num_rows: int = 20_000_000, seed: int = 1) -> Problem:
    """Turnout of a simulated nation: 20 M voters are about 200,000 cells and 3,600 effects."""
    cells = pd.DataFrame(simulate_cells(num_rows, seed))
    columns = ["state", "county", "race", "age", "female", "num_trials", "num_successes"]
    groups = ("state", "state:county", "race", "age", "race:age", "state:race")
    return Problem(f"nation_{num_rows}_{seed}", cells[columns], ("female",), groups)


def survey() -> Problem:
    """CCES 2018 (`examples/cces2018`): 29,905 answers in 5,320 cells, with the model of `configs/cces-abortion.yaml`."""
    answers = pd.read_parquet(REPOSITORY / "examples" / "cces2018" / "respondents.parquet")
    keys = ["state", "region", "repvote", "eth", "sex", "male", "age", "educ"]
    cells = answers.groupby(keys, as_index=False)["support"].agg(num_trials="count", num_successes="sum")
    groups = ("state", "region", "eth", "educ", "age", "sex:eth", "educ:age", "educ:eth")
    return Problem("survey", cells, ("male", "repvote"), groups, intercept_sd=1.5)


def make(name: str, num_rows: int | None = None, seed: int = 1) -> Problem:
    """Return a problem by its name on the command line; ``num_rows`` None is the problem's own size."""
    if name == "survey":
        return survey()
    if name == "nation":
        return nation(num_rows or 20_000_000, seed)
    if name == "small_nation":
        return small_nation(seed, num_rows or 20_000)
    raise ValueError(f"problem is {name!r}, expected nation, survey or small_nation")
