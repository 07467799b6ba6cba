"""One small simulated multilevel problem for each family, as rows and as cells: what `benchmarks.families` fits.

1,500 rows in 8 states, 6 ages and two values of x; `y ~ 1 + x + (1 | state) + (1 | age)`. A likelihood's own parameters have the
normal priors on the log line that are written here, and nothing is left to a default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr

FORMULA = "y ~ 1 + x + (1 | state) + (1 | age)"
NUM_ROWS, NUM_STATES, NUM_AGES = 1500, 8, 6
LABELS = ["state", "age", "x"]
GROUPS = ("state", "age")
NEIGHBOURS = tuple(
    (f"s{i}", f"s{j}") for i, j in ((0, 1), (1, 2), (2, 3), (3, 0), (3, 4), (4, 5), (5, 6), (6, 7), (4, 7))
)
COMMON_PRIORS = {"intercept": "normal(0, 1.5)", "b": "normal(0, 1)", "sd": "half_normal(1)"}


@dataclass(frozen=True)
class FamilyProblem:
    """Rows with labels, `y`, and `trials` or `exposure` where the family has them; and the model.

    ``structures`` are those of group terms by factor, ``random_walk``, ``icar`` or ``monotonic``; for every one its prior of a fit is made here.
    """

    name: str
    family: str
    rows: pd.DataFrame
    link: str | None = None
    categories: tuple[str, ...] = ()
    own_priors: tuple[tuple[str, str], ...] = ()
    structures: tuple[tuple[str, str], ...] = ()

    @property
    def priors(self) -> dict[str, Any]:
        """As `fitting.in_memory.fit` takes them."""
        written: dict[str, Any] = {**COMMON_PRIORS, **dict(self.own_priors)}
        if self.family == "ordinal":
            del written["intercept"]
        for factor, structure in self.structures:
            more = {"neighbours": NEIGHBOURS} if structure == "icar" else {}
            written[f"1|{factor}"] = {"structure": structure, **more}
        return written

    @property
    def cells(self) -> dict[str, np.ndarray]:
        """Labels of each cell, and the family's statistics."""
        rows = self.rows
        if self.family == "binomial":
            table = rows.groupby(LABELS, as_index=False)["y"].agg(num_trials="count", num_successes="sum")
        elif self.family == "gaussian":
            table = rows.assign(square=rows["y"] ** 2).groupby(LABELS, as_index=False).agg(
                num_trials=("y", "count"), sum_y=("y", "sum"), sum_y_squared=("square", "sum"))  # fmt: skip
        elif self.family == "poisson":
            table = rows.groupby(LABELS, as_index=False).agg(
                num_trials=("y", "count"), sum_y=("y", "sum"), sum_exposure=("exposure", "sum"))  # fmt: skip
        elif self.categories:
            counts = {f"count_{k}": (rows["y"] == k).astype(float) for k in range(len(self.categories))}
            table = rows.assign(num_trials=1.0, **counts).drop(columns="y").groupby(LABELS, as_index=False).sum()
        else:
            table = self.distinct.rename(columns={"weight": "num_trials"})
            table = table.rename(columns={"y": "successes"} if self.family == "beta_binomial" else {})
        return {name: table[name].to_numpy(str if name in GROUPS else np.float64) for name in table}

    @property
    def distinct(self) -> pd.DataFrame:
        """Distinct rows with how many there are of each, `weight`."""
        return self.rows.groupby(list(self.rows.columns), as_index=False).size().rename(columns={"size": "weight"})

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What names of coefficients begin with, for every linear predictor of the formula."""
        return tuple(f"{c}:" for c in self.categories[1:]) if self.family == "categorical" else ("",)

    def parameters(self) -> pd.DataFrame:
        """`parameter` and its kind, `variable` (scales begin with ``sd(``), in the order of the reference's draws."""
        names: list[str] = []
        for prefix in self.prefixes:
            names += [] if self.family == "ordinal" else [f"{prefix}Intercept"]
            names += [f"{prefix}x"]
            for factor, size in zip(GROUPS, (NUM_STATES, NUM_AGES), strict=True):
                names += [f"{prefix}1|{factor}[{factor[0]}{i}]" for i in range(size)] + [f"sd({prefix}1|{factor})"]
        names += [own for own, _ in self.own_priors]
        return pd.DataFrame({"parameter": names, "variable": names})

    @property
    def sha256(self) -> str:
        """Hash of the rows and the model: what a cached reference belongs to."""
        digest = hashlib.sha256(f"{self.family}{self.link}{self.categories}{self.priors}{list(self.rows)}".encode())
        digest.update(pd.util.hash_pandas_object(self.rows, index=False).to_numpy().tobytes())
        return digest.hexdigest()


Draw = Callable[[np.random.Generator, np.ndarray], Mapping[str, np.ndarray]]
"""Outcome columns of rows, given their linear predictor."""


def _bernoulli(inverse_link: Callable[[np.ndarray], np.ndarray]) -> Draw:
    return lambda rng, eta: {"y": (rng.random(len(eta)) < inverse_link(eta)).astype(float)}


def _beta_binomial(rng: np.random.Generator, eta: np.ndarray) -> Mapping[str, np.ndarray]:
    trials = rng.integers(2, 9, len(eta))
    share = expit(eta)
    return {
        "y": rng.binomial(trials, rng.beta(8 * share, 8 * (1 - share))).astype(float),
        "trials": trials.astype(float),
    }


def _poisson(rng: np.random.Generator, eta: np.ndarray) -> Mapping[str, np.ndarray]:
    exposure = rng.choice([0.5, 1.0, 2.0], len(eta))
    return {"y": rng.poisson(exposure * np.exp(eta)).astype(float), "exposure": exposure}


def _negative_binomial(rng: np.random.Generator, eta: np.ndarray) -> Mapping[str, np.ndarray]:
    exposure = rng.choice([0.5, 1.0, 2.0], len(eta))
    mean = exposure * np.exp(eta)
    return {"y": rng.negative_binomial(2.0, 2.0 / (2.0 + mean)).astype(float), "exposure": exposure}


def _categorical(rng: np.random.Generator, eta: np.ndarray) -> Mapping[str, np.ndarray]:
    utility = np.stack([0.0 * eta, eta, -0.7 * eta], axis=1) + rng.gumbel(size=(len(eta), 3))
    return {"y": utility.argmax(axis=1).astype(float)}


def _ordinal(rng: np.random.Generator, eta: np.ndarray) -> Mapping[str, np.ndarray]:
    return {"y": np.searchsorted([-1.0, 0.3, 1.5], eta + rng.logistic(size=len(eta))).astype(float)}


_OUTCOMES: Mapping[str, tuple[Draw, dict[str, Any]]] = {
    "binomial": (_bernoulli(expit), {"family": "binomial", "link": "logit"}),
    "probit": (_bernoulli(ndtr), {"family": "binomial", "link": "probit"}),
    "cloglog": (_bernoulli(lambda eta: -np.expm1(-np.exp(eta))), {"family": "binomial", "link": "cloglog"}),
    "beta_binomial": (_beta_binomial, {"family": "beta_binomial", "own_priors": (("log_precision", "normal(3, 1.5)"),)}),
    "poisson": (_poisson, {"family": "poisson"}),
    "negative_binomial": (
        _negative_binomial, {"family": "negative_binomial", "own_priors": (("log_shape", "normal(1, 1.5)"),)}
    ),
    "gaussian": (
        lambda rng, eta: {"y": eta + rng.normal(0, 0.8, len(eta))},
        {"family": "gaussian", "own_priors": (("sigma", "exponential(1)"),)},
    ),
    "student_t": (
        lambda rng, eta: {"y": eta + 0.7 * rng.standard_t(5, len(eta))},
        {"family": "student_t", "own_priors": (("log_sigma", "normal(0, 1)"), ("log_nu", "normal(2.3, 0.8)"))},
    ),
    "categorical": (_categorical, {"family": "categorical", "categories": ("a", "b", "c")}),
    "ordinal": (
        _ordinal,
        {"family": "ordinal", "categories": ("never", "rarely", "often", "always"), "own_priors": (
            ("cutpoint_1", "normal(0, 2.5)"), ("log_step_2", "normal(0, 1.5)"), ("log_step_3", "normal(0, 1.5)"))},
    ),
    "structured": (
        _bernoulli(expit),
        {"family": "binomial", "link": "logit", "structures": (("state", "icar"), ("age", "random_walk"))},
    ),
    "monotonic": (_bernoulli(expit), {"family": "binomial", "link": "logit", "structures": (("age", "monotonic"),)}),
}  # fmt: skip
NAMES = tuple(_OUTCOMES)


def make(name: str, seed: int = 1) -> FamilyProblem:
    """The problem of a family: true sds of states 0.5 and ages 0.4, slope 0.5, intercept -0.3."""
    draw, options = _OUTCOMES[name]
    rng = np.random.default_rng([seed, NAMES.index(name)])
    state, age, x = (rng.integers(0, n, NUM_ROWS) for n in (NUM_STATES, NUM_AGES, 2))
    if name == "structured":
        of_age = np.linspace(-0.7, 0.7, NUM_AGES) + rng.normal(0, 0.1, NUM_AGES)
        of_state = np.cos(np.arange(NUM_STATES)) * 0.5
    elif name == "monotonic":
        of_state, of_age = rng.normal(0, 0.5, NUM_STATES), np.array([-0.5, -0.45, -0.1, 0.3, 0.35, 0.4])
    else:
        of_state, of_age = rng.normal(0, 0.5, NUM_STATES), rng.normal(0, 0.4, NUM_AGES)
    eta = -0.3 + 0.5 * x + of_state[state] + of_age[age]
    rows = {"state": [f"s{i}" for i in state], "age": [f"a{i}" for i in age], "x": x.astype(float), **draw(rng, eta)}
    return FamilyProblem(name, rows=pd.DataFrame(rows), **options)
