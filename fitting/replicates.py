"""New outcomes of the people of each cell, and a discrepancy of the observed and of the new ones, family by family.

The discrepancy of shares and counts is the squared standardised residual of the cell's sum; of numbers it is that of every
single person, so that it sees a wrong spread: chi-squared for normal noise, absolute deviations in units of the scale for
Student's t, whose squares have no mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fitting import pointwise
from fitting.errors import ModelError
from fitting.families import Family, Statistics
from fitting.likelihoods import gaussian

SMALLEST_VARIANCE = 1e-12  # of a count that cannot vary: an outcome against it is a large discrepancy, not infinity


class New(NamedTuple):
    """Per cell and draw, all (n, M): the sum of new outcomes, and the discrepancy of the observed and of the new ones."""

    total: np.ndarray
    realised: np.ndarray
    replicated: np.ndarray


def draw(
    rng: np.random.Generator, family: Family, statistics: Statistics, eta: np.ndarray, residual_sd: np.ndarray
) -> New:
    """Replicate the outcomes of every cell at linear predictors (P, n, M) and residual sds (M,).

    Raises
    ------
    ModelError
        The outcome has categories: a sum of them means nothing.
    """
    if family.categories:
        raise ModelError(f"family {family.name!r}", "categories", "an outcome that can be summed")
    rows = statistics["num_trials"][:, None]
    if family.name == "gaussian":
        return _gaussian(rng, statistics, eta[0], residual_sd)
    if family.name == "student_t":
        return _student_t(rng, statistics, eta)
    observed = pointwise.totals(family, statistics)[:, None]
    mean = pointwise.base(family, statistics)[:, None] * pointwise.expected(family, eta)
    if family.name == "binomial":
        share = pointwise.expected(family, eta)
        new = rng.binomial(rows.astype(np.int64), np.clip(share, 0.0, 1.0))
        variance = mean * (1.0 - share)
    elif family.name == "poisson":
        new, variance = rng.poisson(mean), mean
    elif family.name == "negative_binomial":  # a sum of like rows: the shapes add up
        shape = np.exp(eta[1])
        new = rng.poisson(rng.gamma(rows * shape, mean / (rows * shape)))
        variance = mean * (1.0 + mean / (rows * shape))
    else:
        share, precision = pointwise.expected(family, eta), np.exp(eta[1])
        trials = statistics["trials"][:, None]
        first, last = _starts(statistics), np.repeat(np.arange(len(rows)), rows[:, 0].astype(np.int64))
        rates = rng.beta((share * precision)[last], ((1.0 - share) * precision)[last])
        new = np.add.reduceat(rng.binomial(trials[last].astype(np.int64), rates), first, axis=0)
        variance = mean * (1.0 - share) * (1.0 + (trials - 1.0) / (precision + 1.0))
    variance = np.maximum(variance, SMALLEST_VARIANCE)
    total = new.astype(np.float64)
    return New(total, np.square(observed - mean) / variance, np.square(total - mean) / variance)


def _gaussian(rng: np.random.Generator, statistics: Statistics, mean: np.ndarray, residual_sd: np.ndarray) -> New:
    rows = statistics["num_trials"][:, None]
    noise = rng.standard_normal(mean.shape)
    squares = gaussian.squares({name: column[:, None] for name, column in statistics.items()}, mean)
    inside = 2.0 * rng.standard_gamma(np.maximum(rows - 1.0, 0.0) / 2.0, mean.shape)
    return New(rows * mean + np.sqrt(rows) * residual_sd * noise, squares / residual_sd**2, noise**2 + inside)


def _student_t(rng: np.random.Generator, statistics: Statistics, eta: np.ndarray) -> New:
    rows, (mean, log_scale, log_df) = statistics["num_trials"][:, None], eta
    scale = np.exp(log_scale)
    cell = np.repeat(np.arange(len(rows)), rows[:, 0].astype(np.int64))
    noise, first = rng.standard_t(np.exp(log_df)[cell]), _starts(statistics)
    realised = rows * np.abs(statistics["y"][:, None] - mean) / scale
    new = rows * mean + scale * np.add.reduceat(noise, first, axis=0)
    return New(new, realised, np.add.reduceat(np.abs(noise), first, axis=0))


def _starts(statistics: Statistics) -> np.ndarray:
    """Where each cell's rows begin when they are written one after the other; every cell has some."""
    rows = statistics["num_trials"].astype(np.int64)
    return np.cumsum(rows) - rows
