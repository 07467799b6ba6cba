"""The families: what a cell holds, its likelihood, and expected derivatives under a Gaussian on the linear predictors.

A cell's log likelihood depends on P linear predictors alone: one for most families, one for each category but the first
for `categorical`; a likelihood's own parameters (log dispersion, cutpoints) are further ones, a single coefficient each.
So under a Gaussian q every expectation that a site needs is over P dimensions, and quadrature gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import numpy as np

from fitting import quadrature
from fitting.errors import ModelError
from fitting.likelihoods import (
    beta_binomial,
    binomial,
    categorical,
    gaussian,
    negative_binomial,
    ordinal,
    poisson,
    student_t,
)

Statistics = Mapping[str, np.ndarray]
CHUNK_VALUES = 1 << 17
"""Values of (P, P, cells, nodes) formed at once, so that they stay in a core's cache; up to 16 times as many for `MIN_CHUNK` cells."""
MIN_CHUNK = 128

_LIKELIHOODS: Mapping[str, ModuleType] = {
    "binomial": binomial, "gaussian": gaussian, "poisson": poisson, "negative_binomial": negative_binomial,
    "beta_binomial": beta_binomial, "student_t": student_t, "categorical": categorical, "ordinal": ordinal,
}  # fmt: skip
_LINKS: Mapping[str, tuple[str, ...]] = {
    "binomial": ("logit", "probit", "cloglog"), "gaussian": ("identity",), "poisson": ("log",),
    "negative_binomial": ("log",), "beta_binomial": ("logit",), "student_t": ("identity",),
    "categorical": ("softmax",), "ordinal": ("logit",),
}  # fmt: skip
_STATISTICS: Mapping[str, tuple[str, ...]] = {
    "binomial": ("num_trials", "num_successes"), "gaussian": ("num_trials", "sum_y", "squared_deviations"),
    "poisson": ("num_trials", "sum_y", "sum_exposure"), "negative_binomial": ("num_trials", "y", "exposure"),
    "beta_binomial": ("num_trials", "successes", "trials"), "student_t": ("num_trials", "y"),
    "categorical": ("num_trials",), "ordinal": ("num_trials",),
}  # fmt: skip
_OWN: Mapping[str, tuple[str, ...]] = {
    "negative_binomial": ("log_shape",), "beta_binomial": ("log_precision",), "student_t": ("log_sigma", "log_nu"),
}  # fmt: skip
OUTCOMES: Mapping[str, str] = {
    "binomial": "binomial", "gaussian": "gaussian", "poisson": "count", "negative_binomial": "keyed_count",
    "beta_binomial": "keyed_trials", "student_t": "keyed_number", "categorical": "category", "ordinal": "category",
}  # fmt: skip
"""The kind of outcome that ingest makes for each family."""
ALIASES = {"bernoulli": "binomial"}


@dataclass(frozen=True)
class Family:
    """A likelihood by name and link; hashable, so that compiled programs can depend on it.

    ``own`` are the names of its own parameters on the unconstrained line; ``categories`` those of a categorical or
    ordinal outcome, in order.
    """

    name: str
    link: str
    categories: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the family's own parameters on the line they are fitted on, such as ``log_step_2``."""
        if self.name == "ordinal":
            return ("cutpoint_1", *(f"log_step_{k}" for k in range(2, len(self.categories))))
        return _OWN.get(self.name, ())

    @property
    def locations(self) -> tuple[str, ...]:
        """Own parameters that say where the linear predictor is zero, as an intercept does."""
        return self.own[:1] if self.name == "ordinal" else ()

    @property
    def statistics(self) -> tuple[str, ...]:
        """The cell columns that it needs."""
        return _STATISTICS[self.name] + self.counts

    @property
    def counts(self) -> tuple[str, ...]:
        """Cell columns with the number of outcomes in each category."""
        return tuple(f"count_{k}" for k in range(len(self.categories)))

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the names of a linear predictor's coefficients begin with: ``("",)``, or the category and a colon."""
        return tuple(f"{c}:" for c in self.categories[1:]) if self.name == "categorical" else ("",)

    @property
    def num_predictors(self) -> int:
        """P: linear predictors of the formula, and own parameters."""
        return len(self.prefixes) + len(self.own)

    @property
    def has_intercept(self) -> bool:
        """Whether an intercept is a coefficient; cutpoints take its place."""
        return self.name != "ordinal"

    @property
    def has_residual_scale(self) -> bool:
        """Whether a residual sd is a hyperparameter of the combiner, and sites are the likelihood itself."""
        return self.name == "gaussian"

    @property
    def is_log_concave(self) -> bool:
        """Whether the negative Hessian of every cell is positive semidefinite."""
        return self.name in ("binomial", "gaussian", "poisson", "categorical")

    @property
    def is_number(self) -> bool:
        """Whether the outcome is a number on a scale of its own, which priors follow."""
        return self.name in ("gaussian", "student_t")

    @property
    def is_share(self) -> bool:
        """Whether the expected outcome of one person is a probability of success."""
        return self.name in ("binomial", "beta_binomial")

    @property
    def mean_is_share(self) -> bool:
        """Whether the mean of people's outcomes is a share of them: of successes, or of a category."""
        return mean_is_share(self.name)


def mean_is_share(name: str) -> bool:
    """Whether the mean of people's outcomes in the family ``name`` is a share of them: of successes, or of a category."""
    return OUTCOMES[ALIASES.get(name, name)] in ("binomial", "keyed_trials", "category")


def make(name: str, link: str | None = None, categories: tuple[str, ...] = ()) -> Family:
    """The family ``name``, with its default link if none is given.

    Raises
    ------
    ModelError
        Unknown name or link, or fewer categories than the family needs.
    """
    known = ALIASES.get(name, name)
    if known not in _LIKELIHOODS:
        close = get_close_matches(name, [*_LIKELIHOODS, *ALIASES], n=1)
        raise ModelError("model.family", repr(name), f"{close[0]!r}, perhaps" if close else f"one of {[*_LIKELIHOODS]}")
    links = _LINKS[known]
    if link is not None and link not in links:
        raise ModelError("model.link", repr(link), f"one of {list(links)} for the family {name!r}")
    if OUTCOMES[known] != "category":
        categories = ()
    elif len(categories) < (3 if known == "ordinal" else 2):
        raise ModelError(
            f"outcome of the family {name!r}", f"{len(categories)} categories", "3 or more" if known == "ordinal" else "2 or more"
        )  # fmt: skip
    return Family(known, link or links[0], tuple(categories))


BINOMIAL, GAUSSIAN = make("binomial"), make("gaussian")
FAMILIES = (*_LIKELIHOODS, *ALIASES)


def log_likelihood(
    family: Family, statistics: Mapping[str, Any], eta: Any, residual_sd: Any = None, xp: Any = np
) -> Any:
    """Log likelihood of each cell without constants of the data.

    Parameters
    ----------
    eta
        Linear predictors, shape (P, n), or (P, n, M) for M draws.
    residual_sd
        Of a Gaussian family, a number or shape (M,).

    Returns
    -------
    array
        Shape (n,) or (n, M).
    """
    columns = {name: column[:, None] for name, column in statistics.items()} if eta.ndim == 3 else statistics
    if family.has_residual_scale:
        return gaussian.log_likelihood(family, columns, eta, residual_sd, xp)
    return _LIKELIHOODS[family.name].log_likelihood(family, columns, eta, xp)


def expected_derivatives(
    family: Family, statistics: Statistics, mean: np.ndarray, covariance: np.ndarray, num_nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """``E[d log L / d eta]``, shape (P, n), and ``E[- d2 log L / d eta2]``, shape (P, P, n), per cell.

    Parameters
    ----------
    mean, covariance
        Of the linear predictors, shapes (P, n) and (P, P, n). Zero covariance gives the derivatives at the mean (Laplace).
    num_nodes
        Of a one-dimensional rule; fewer are taken where every variance is small.
    """
    size, num_cells = mean.shape
    likelihood = _LIKELIHOODS[family.name]
    largest = float(covariance[np.arange(size), np.arange(size)].max(initial=0.0))
    if largest == 0.0:
        return likelihood.expected_derivatives(family, statistics, mean[..., None], np.ones(1))
    nodes, weights = quadrature.rule(size, len(family.own), num_nodes, small=largest < quadrature.SMALL_VARIANCE)
    lower = quadrature.square_root(covariance)
    gradient, curvature = np.empty((size, num_cells)), np.empty((size, size, num_cells))
    of_cell = size * size * len(weights)
    chunk = max(1, CHUNK_VALUES // of_cell, min(MIN_CHUNK, 16 * CHUNK_VALUES // of_cell))
    for begin in range(0, num_cells, chunk):
        part = slice(begin, begin + chunk)
        spread = sum(lower[:, k, part, None] * nodes[k] for k in range(size))
        columns = {name: column[part] for name, column in statistics.items()}
        gradient[:, part], curvature[:, :, part] = likelihood.expected_derivatives(
            family, columns, mean[:, part, None] + spread, weights
        )
    return gradient, curvature


def expected_outcome(family: Family, eta: np.ndarray) -> np.ndarray:
    """Expected outcome of one person, or of one unit of exposure, for ``eta`` of shape (P, ...).

    Shape (C, ...): C is 1, or the number of categories, whose probabilities these are.
    """
    return np.asarray(_LIKELIHOODS[family.name].expected_outcome(family, eta))


def observed(family: Family, statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """What each cell's people did, shape (C, n), and the base that makes it a mean, shape (n,): people, trials or exposure."""
    rows = statistics["num_trials"]
    if family.counts:
        return np.stack([statistics[name] for name in family.counts]).astype(np.float64), rows
    if "num_successes" in family.statistics:
        return statistics["num_successes"][None].astype(np.float64), rows
    if "sum_y" in family.statistics:
        return statistics["sum_y"][None], statistics.get("sum_exposure", rows)
    if family.name == "beta_binomial":
        return (rows * statistics["successes"])[None], rows * statistics["trials"]
    return (rows * statistics["y"])[None], rows * statistics.get("exposure", np.ones(len(rows)))


def known(family: Family, statistics: Statistics) -> np.ndarray:
    """Number of known outcomes of each cell without weights, shape (n,): rows, or their trials."""
    rows = statistics.get("num_known", statistics["num_trials"])
    return rows * statistics["trials"] if family.name == "beta_binomial" else rows


def natural_own(family: Family, own: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The own parameters on their natural scale, by name, from draws (..., number of them) on the unconstrained line."""
    if family.name == "ordinal":
        cuts = ordinal.cutpoints(np.moveaxis(own, -1, 0))
        names = family.categories
        return [(f"cutpoint[{a}|{b}]", c) for a, b, c in zip(names, names[1:], cuts, strict=False)]
    return [(name.removeprefix("log_"), np.exp(own[..., i])) for i, name in enumerate(family.own)]


def start(family: Family, outcome: Any) -> np.ndarray:
    """A first value of every linear predictor, shape (P,), from the outcome's totals (`fitting.coding.OutcomeSummary`)."""
    return np.asarray(_LIKELIHOODS[family.name].start(family, outcome))
