"""What the quadrature rules of `fitting.quadrature` leave: `python -m benchmarks.quadrature` (a minute; writes `docs/families.md`).

For each family, cells from ordinary to one-sided, means of the linear predictor from -1.5 to 1.5, its sd from 0.1 to 2, the own
parameters' sd 0.05 and 0.2: expected gradient and curvature by the rule that a fit takes (11 nodes) against a product of
Gauss-Hermite rules of high order. Errors are relative to what the cell knows, ``k_p``, the root of the expected magnitude of its
curvature (p, p): of the gradient, to the larger of itself and ``k_p``; of the curvature (p, q), to ``k_p k_q``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np

from benchmarks.family_page import write
from fitting import families
from fitting.families import Family

NUM_NODES = 11
SDS, OWN_SDS = (0.1, 0.5, 1.0, 2.0), (0.05, 0.2)
MEANS = (-1.5, 0.0, 1.5)
CORRELATION = 0.3  # of linear predictors among themselves, and with own parameters
FINE_NODES = {1: 120, 2: 60, 3: 36, 4: 22, 5: 12}

_COUNTS = {"num_trials": [1.0, 20.0, 20.0, 20.0], "num_successes": [1.0, 8.0, 0.0, 20.0]}


class Case(NamedTuple):
    """A family, its cells, and the means of its own parameters."""

    family: Family
    statistics: Mapping[str, np.ndarray]
    own: tuple[float, ...] = ()


def _case(name: str, columns: Mapping[str, list[float]], own: tuple[float, ...] = (), link: str | None = None, categories: str = "") -> Case:  # fmt: skip
    family = families.make(name, link, tuple(categories))
    return Case(family, {key: np.array(values) for key, values in columns.items()}, own)


def _choices(counts: list[list[float]]) -> dict[str, list[float]]:
    columns = {f"count_{k}": [row[k] for row in counts] for k in range(len(counts[0]))}
    return {"num_trials": [sum(row) for row in counts], **columns}


CASES: Mapping[str, Case] = {
    "binomial, logit": _case("binomial", _COUNTS),
    "binomial, probit": _case("binomial", _COUNTS, link="probit"),
    "binomial, cloglog": _case("binomial", _COUNTS, link="cloglog"),
    "poisson": _case("poisson", {"num_trials": [1, 10], "sum_y": [0, 14], "sum_exposure": [1, 12]}),
    "negative_binomial": _case(
        "negative_binomial", {"num_trials": [1, 3, 1], "y": [0, 2, 9], "exposure": [1, 1, 2]}, (0.7,)
    ),
    "beta_binomial": _case(
        "beta_binomial", {"num_trials": [1, 3, 1], "successes": [0, 2, 8], "trials": [5, 5, 8]}, (2.1,)
    ),
    "student_t": _case("student_t", {"num_trials": [1, 1, 1], "y": [0.0, 0.6, 4.0]}, (-0.35, 1.6)),
    "categorical, 3 categories": _case("categorical", _choices([[1, 0, 0], [5, 8, 7], [0, 20, 0]]), categories="abc"),
    "categorical, 4 categories": _case("categorical", _choices([[1, 0, 0, 0], [5, 8, 4, 3]]), categories="abcd"),
    "categorical, 6 categories": _case("categorical", _choices([[4, 6, 4, 3, 2, 1]]), categories="abcdef"),
    "ordinal, 3 categories": _case("ordinal", _choices([[1, 0, 0], [5, 8, 7], [0, 20, 0]]), (-0.8, 0.4), categories="abc"),
    "ordinal, 4 categories": _case("ordinal", _choices([[1, 0, 0, 0], [4, 6, 6, 4], [0, 0, 0, 20]]), (-1.0, 0.26, 0.18), categories="abcd"),
}  # fmt: skip


def errors(case: Case, sd: float, own_sd: float) -> tuple[float, float]:
    """Largest relative errors of expected gradient and curvature over cells and means."""
    num_eta, size = len(case.family.prefixes), case.family.num_predictors
    count = len(case.statistics["num_trials"])
    means = [*product(MEANS, repeat=num_eta)] if num_eta <= 3 else [(m,) * num_eta for m in MEANS]
    columns = {name: np.tile(values, len(means)) for name, values in case.statistics.items()}
    mean = np.concatenate(
        [np.repeat(np.array(means), count, axis=0).T, np.tile(np.array(case.own)[:, None], count * len(means))]
    )
    sds = np.array([sd] * num_eta + [own_sd] * len(case.own))
    matrix = np.outer(sds, sds) * (CORRELATION + (1 - CORRELATION) * np.eye(size))
    covariance = np.repeat(matrix[:, :, None], mean.shape[1], axis=2)
    gradient, curvature = families.expected_derivatives(case.family, columns, mean, covariance, NUM_NODES)
    fine = _by_product(case, columns, mean, np.linalg.cholesky(matrix))
    known = np.where(
        fine[2] > 0.0, np.sqrt(fine[2]), np.inf
    )  # a step beside no answers has neither gradient nor curvature
    gradient_error = np.abs(gradient - fine[0]) / np.maximum(np.abs(fine[0]), known)
    return float(gradient_error.max()), float((np.abs(curvature - fine[1]) / (known[:, None] * known[None])).max())


def _by_product(
    case: Case, columns: Mapping[str, np.ndarray], mean: np.ndarray, lower: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected gradient, curvature and magnitude of the curvature's diagonal, by derivatives at every node of a product rule."""
    size = len(mean)
    nodes, weights = np.polynomial.hermite_e.hermegauss(FINE_NODES[size])
    grid = np.stack([g.ravel() for g in np.meshgrid(*[nodes] * size, indexing="ij")])
    weight = np.stack([g.ravel() for g in np.meshgrid(*[weights] * size, indexing="ij")]).prod(axis=0)
    weight /= weight.sum()
    kept = weight > 1e-16
    grid, weight = lower @ grid[:, kept], weight[kept]
    gradient, curvature, magnitude = np.empty_like(mean), np.empty((size, *mean.shape)), np.empty_like(mean)
    for i in range(mean.shape[1]):
        at = {name: np.full(len(weight), values[i]) for name, values in columns.items()}
        there = mean[:, i, None] + grid
        by_node = families.expected_derivatives(case.family, at, there, np.zeros((size, size, len(weight))), 1)
        gradient[:, i], curvature[:, :, i] = by_node[0] @ weight, by_node[1] @ weight
        magnitude[:, i] = np.abs(by_node[1][np.arange(size), np.arange(size)]) @ weight
    return gradient, curvature, magnitude


def table() -> list[str]:
    """Markdown: gradient / curvature errors by family, own sd, and sd of the linear predictor."""
    heads = [f"sd {sd:g}" for sd in SDS]
    lines = [
        "| family | own parameters' sd | " + " | ".join(heads) + " |",
        "|---|--:|" + "--:|" * len(heads),
    ]
    for name, case in CASES.items():
        for own_sd in OWN_SDS if case.own else (0.0,):
            found = [errors(case, sd, own_sd) for sd in SDS]
            shown = " | ".join(f"{a:.0e} / {b:.0e}" for a, b in found)
            lines.append(f"| {name} | {f'{own_sd:g}' if case.own else ''} | {shown} |")
    return lines


def main() -> int:
    """Print the table, and write it into the page."""
    lines = table()
    print("\n".join(lines))
    write("quadrature", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
