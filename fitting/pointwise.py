"""Cells at posterior draws: log likelihood, expected and replicated outcomes. What every check of the model starts from.

Log likelihoods are of the people's outcomes one by one, without the number of orders that give a count: so a cell's is the
sum of its people's, and two models of the same people are comparable however their cells are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fitting import families, sites
from fitting.cell_design import CellDesign
from fitting.families import Family
from fitting.sites import Site
from fitting.tree import Tree

CHUNK_NUMBERS = 1 << 21  # cells times draws held at once: 16 MiB an array


class Persons(NamedTuple):
    """People of every cell with one and the same outcome: its name, how many (n,), and the statistics of one of them."""

    outcome: str
    num_people: np.ndarray
    statistics: dict[str, np.ndarray]


def chunks(design: CellDesign, num_draws: int) -> Iterator[tuple[slice, CellDesign]]:
    """Runs of cells so short that an array of cells by draws stays small, in order."""
    for rows in design.runs(max(1, CHUNK_NUMBERS // max(1, num_draws))):
        yield rows, design.some(rows)


def predictors(design: CellDesign, theta: np.ndarray) -> np.ndarray:
    """Linear predictors of the cells, shape (P, n, M), at draws of the coefficients, shape (D, M)."""
    return sites.linear_predictors(sites.matrices(design, len(theta)), theta)


def log_likelihood(
    family: Family, statistics: families.Statistics, eta: np.ndarray, residual_sd: np.ndarray | float = 1.0
) -> np.ndarray:
    """Log density of the outcomes of each cell's people, shape (n, M), normalised over one person's outcome.

    ``residual_sd`` of shape (M,) is used by families that have one.
    """
    density = np.asarray(families.log_likelihood(family, statistics, eta, residual_sd))
    if family.has_residual_scale:
        density -= 0.5 * np.log(2.0 * np.pi) * statistics["num_trials"][:, None]
    return density


def persons(family: Family, statistics: families.Statistics) -> tuple[Persons, ...]:
    """The people of each cell by outcome, where cells tell it: successes and failures, each category, or all alike (``row``).

    Empty where cells hold sums of outcomes.
    """
    trials = statistics["num_trials"]
    one, none = np.ones(len(trials)), np.zeros(len(trials))
    if family.counts:
        return tuple(
            Persons(category, statistics[name], {"num_trials": one} | dict.fromkeys(family.counts, none) | {name: one})
            for category, name in zip(family.categories, family.counts, strict=True)
        )
    if "y" in family.statistics or "successes" in family.statistics:
        return (Persons("row", trials, {**statistics, "num_trials": one}),)
    if family.name != "binomial":
        return ()
    successes = statistics["num_successes"]
    return (
        Persons("success", successes, {"num_trials": one, "num_successes": one}),
        Persons("failure", trials - successes, {"num_trials": one, "num_successes": none}),
    )


def totals(family: Family, statistics: families.Statistics) -> np.ndarray:
    """Sum of the outcomes that were observed in each cell, shape (n,); of families without categories."""
    return families.observed(family, statistics)[0][0]


def base(family: Family, statistics: families.Statistics) -> np.ndarray:
    """What makes the sum of a cell's outcomes a mean: people, trials or exposure, shape (n,)."""
    return np.asarray(families.observed(family, statistics)[1], dtype=np.float64)


def expected(family: Family, eta: np.ndarray) -> np.ndarray:
    """Expected outcome of one unit of each cell's base, shape (n, M), from linear predictors (P, n, M)."""
    return families.expected_outcome(family, eta)[0]


def log_ratio(
    tree: Tree, design: CellDesign, family: Family, site: Site, theta: np.ndarray, residual_sd: np.ndarray
) -> np.ndarray:
    """``log L_s - log t_s`` of one shard up to a constant, shape (M,): what turns draws of the merge into exact ones."""
    total = -sites.log_density(tree, sites.near(tree, site, theta.mean(axis=1)), theta, residual_sd)
    for _, part in chunks(design, theta.shape[1]):
        total += log_likelihood(family, part.statistics, predictors(part, theta), residual_sd).sum(axis=0)
    return total
