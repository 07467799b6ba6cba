"""Cells at posterior draws: log likelihood, expected and replicated outcomes. What every check of the model starts from.

Log likelihoods are of the people's outcomes one by one, without the number of orders that give a count: so a cell's is the
sum of its people's, and two models of the same people are comparable however their cells are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fitting import families, sites
from fitting.families import Family
from fitting.model import CellDesign
from fitting.sites import Site
from fitting.tree import Tree

CHUNK_NUMBERS = 1 << 21  # cells times draws held at once: 16 MiB an array


class Persons(NamedTuple):
    """People of every cell with one and the same outcome: its name, how many (n,), and the statistics of one of them."""

    outcome: str
    num_people: np.ndarray
    statistics: dict[str, np.ndarray]


def take(design: CellDesign, rows: slice | np.ndarray) -> CellDesign:
    """Some cells of a design."""
    return design._replace(
        places=tuple(place[rows] for place in design.places),
        values=tuple(None if value is None else value[rows] for value in design.values),
        statistics={name: values[rows] for name, values in design.statistics.items()},
    )


def chunks(design: CellDesign, num_draws: int) -> Iterator[tuple[slice, CellDesign]]:
    """Runs of cells so short that an array of cells by draws stays small, in order."""
    size = max(1, CHUNK_NUMBERS // max(1, num_draws))
    for begin in range(0, design.num_cells, size):
        rows = slice(begin, min(begin + size, design.num_cells))
        yield rows, take(design, rows)


def predictors(design: CellDesign, theta: np.ndarray) -> np.ndarray:
    """Linear predictors of the cells, shape (n, M), at draws of the coefficients, shape (D, M)."""
    return np.asarray(sites.matrix(design, len(theta)) @ theta)


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
    """The people of each cell by outcome, where the counts tell every person's outcome (0 or 1); empty where they do not."""
    if family != families.BINOMIAL:
        return ()
    trials, successes = statistics["num_trials"], statistics["num_successes"]
    one, none = np.ones(len(trials)), np.zeros(len(trials))
    return (
        Persons("success", successes, {"num_trials": one, "num_successes": one}),
        Persons("failure", trials - successes, {"num_trials": one, "num_successes": none}),
    )


def totals(family: Family, statistics: families.Statistics) -> np.ndarray:
    """Sum of the outcomes that were observed in each cell, shape (n,)."""
    return np.asarray(statistics["sum_y" if family.has_residual_scale else "num_successes"], dtype=np.float64)


def expected(family: Family, eta: np.ndarray) -> np.ndarray:
    """Expected outcome of one person of each cell, shape (n, M)."""
    return np.asarray(families.inverse_link(family, eta))


def replicate(
    rng: np.random.Generator, family: Family, mean: np.ndarray, num_trials: np.ndarray, residual_sd: np.ndarray
) -> np.ndarray:
    """Sum of the outcomes of ``num_trials`` new people in each cell, shape (n, M), given their expected outcomes (n, M)."""
    if family.has_residual_scale:
        noise = rng.standard_normal(mean.shape) * residual_sd
        return num_trials[:, None] * mean + np.sqrt(num_trials)[:, None] * noise
    return rng.binomial(num_trials.astype(np.int64)[:, None], np.clip(mean, 0.0, 1.0)).astype(np.float64)


def log_ratio(
    tree: Tree, design: CellDesign, family: Family, site: Site, theta: np.ndarray, residual_sd: np.ndarray
) -> np.ndarray:
    """``log L_s - log t_s`` of one shard up to a constant, shape (M,): what turns draws of the merge into exact ones."""
    total = -sites.log_density(tree, site, theta, residual_sd)
    for _, part in chunks(design, theta.shape[1]):
        total += log_likelihood(family, part.statistics, predictors(part, theta), residual_sd).sum(axis=0)
    return total
