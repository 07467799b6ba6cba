"""Random formulas and random small data, and two ways to fit the one to the other: Caucus, and least squares on a design
matrix that another library makes of the same text."""

import warnings
from typing import NamedTuple

import numpy as np

from fitting import combiner, hierarchy, in_memory, rounds, scale_proposal, sites
from fitting.config import ModelConfig
from fitting.errors import FormulaError
from fitting.formula import parse

NUM_ROWS = 60
NUMBERS = {"x": (5.0, 1.0), "z": (-3.0, 2.0), "age": (40.0, 4.0)}
BINARY = ("b",)
FACTORS = {"f": ("a", "b"), "g": ("u", "v", "w"), "h": ("1st", "2nd")}
WIDE = {"intercept": "normal(0, 10000)", "b": "normal(0, 10000)", "sigma": "half_normal(1000000)"}


class Fit(NamedTuple):
    """Fitted values, (n,), and the most probable residual sd where the prior says nothing."""

    fitted: np.ndarray
    residual_sd: float


def data(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Columns of all kinds; factors have all their levels."""
    columns: dict[str, np.ndarray] = {name: rng.normal(*moments, NUM_ROWS) for name, moments in NUMBERS.items()}
    columns["age"] = np.round(columns["age"])
    columns |= {name: rng.integers(0, 2, NUM_ROWS).astype(float) for name in BINARY}
    for name, levels in FACTORS.items():
        columns[name] = rng.permutation(np.resize(levels, NUM_ROWS))
    x, z, is_u = columns["x"], columns["z"], columns["g"] == "u"
    columns["y"] = 7.0 + 2.0 * x - z + 0.5 * x * z * is_u + 3.0 * columns["b"] + rng.normal(size=NUM_ROWS)
    return columns


def formula(rng: np.random.Generator) -> str:
    """A right side of the grammar with a term at least: ``0 + x*g - g``, ``1 + (f + x)/z:b``, ..."""
    while True:
        text = _text(rng, [*NUMBERS, *BINARY, *FACTORS])
        try:
            parse(f"y ~ {text}")
        except FormulaError as error:
            if "no terms" not in str(error):
                raise
        else:
            return text


def _text(rng: np.random.Generator, names: list[str]) -> str:
    terms = [_term(rng, names) for _ in range(rng.integers(1, 5))]
    text = " + ".join(terms)
    start = rng.choice(["1 + ", "0 + ", "", "0 + ", "1 + "])
    if rng.random() < 0.2:
        text += f" - {rng.choice(names)}"
    if not start and rng.random() < 0.3:
        text += " - 1"
    return start + text


def _term(rng: np.random.Generator, names: list[str]) -> str:
    some = [str(name) for name in rng.choice(names, size=rng.integers(1, 4), replace=False)]
    operators = rng.choice([":", "*", "/", ":"], size=len(some))
    text = some[0]
    for name, operator in zip(some[1:], operators, strict=False):
        if operator == "/" and rng.random() < 0.3:
            text = f"({text} + {rng.choice(names)})"
        text = f"{text} {operator} {name}"
    return text


def caucus(text: str, columns: dict[str, np.ndarray]) -> Fit:
    """The posterior mean under priors that say nothing; exact, since a Gaussian likelihood is its own site."""
    config = ModelConfig(formula=f"y ~ {text}", family="gaussian", priors=WIDE)
    rows = len(columns["y"])
    statistics = {"num_trials": np.ones(rows), "sum_y": columns["y"], "squared_deviations": np.zeros(rows)}
    coding, coded = in_memory.code(columns, config.parsed_formula(), statistics)
    prior = hierarchy.of_config(config, coding)
    design = prior.model.design(coded, statistics)
    tree, restriction = prior.model.tree, prior.model.restriction(coded)
    mean = rounds.init(prior).moments.mean
    for _ in range(2):  # the second is about where the first one ended
        site = sites.fit(tree, design, prior.family, mean, np.zeros(tree.num_entries), num_nodes=1)
        natural = combiner.product(tree, [(restriction, site)])
        psi = scale_proposal.find_mode(prior, natural, combiner.start(prior))
        mean = combiner.conditional_moments(prior, natural, psi).mean
    return Fit(sites.predictor_mean(design, mean)[0], float(np.exp(psi[-1])))


def design_matrix(text: str, columns: dict[str, np.ndarray]) -> np.ndarray:
    """What `formulae` makes of a right side."""
    import pandas as pd
    from formulae import design_matrices

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(design_matrices(f"y ~ {text}", pd.DataFrame(columns)).common.design_matrix, dtype=float)


def of_matrix(matrix: np.ndarray, outcome: np.ndarray) -> Fit:
    """Least squares on any matrix, of whatever rank."""
    matrix = matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    basis, values, _ = np.linalg.svd(matrix, full_matrices=False)
    basis = basis[:, values > 1e-9 * values.max(initial=0.0)]
    fitted = basis @ (basis.T @ outcome)
    squares = float(np.sum((outcome - fitted) ** 2))
    return Fit(fitted, float(np.sqrt(squares / (len(outcome) - basis.shape[1] - 1))))


def disagreement(one: Fit, other: Fit) -> float:
    """Largest difference of fitted values and of residual sds, in residual sds."""
    apart = np.abs(one.fitted - other.fitted).max(initial=0.0), abs(one.residual_sd - other.residual_sd)
    return float(max(apart) / other.residual_sd)


def others_terms(text: str) -> list[tuple[str, ...]]:
    """The terms of a right side as `formulae` expands it; ``()`` is the intercept."""
    from formulae import model_description

    names = [str(term.name) for term in model_description(f"y ~ {text}").common_terms]
    return [() if name == "Intercept" else tuple(name.split(":")) for name in names]
