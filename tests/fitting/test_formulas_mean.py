"""What formulas mean: random ones from the grammar, fitted, against least squares on design matrices that Caucus did not make.

There are two such matrices: the one of `formulae`, another library, and R's by its documented rule (docs/generate_formulas.py) on the
terms as `formulae` expands them. The two differ where `formulae` fails or forgets that a term with a number is not one without
(`(h + x)/g:f`); nowhere else. ``CAUCUS_FORMULAS=2000`` tries as many formulas.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from fitting import terms
from tests.fitting import formula_grammar as grammar

ROOT = Path(__file__).resolve().parents[2]
NUM_FORMULAS = int(os.environ.get("CAUCUS_FORMULAS", "200"))
TOLERANCE = 2e-3  # residual sds: what is left of the priors


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_formulas", ROOT / "docs" / "generate_formulas.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def problems(number, seed=11):
    for i in range(number):
        rng = np.random.default_rng([seed, i])
        text = grammar.formula(rng)
        yield text, grammar.data(rng)


def test_random_formulas_are_fitted_as_least_squares_on_the_design_of_another_library(generator):
    wrong, differs, failed = [], [], []
    for text, columns in problems(NUM_FORMULAS):
        ours = grammar.caucus(text, columns)
        _, by_rule = generator.r_matrix(grammar.others_terms(text), columns)
        if not grammar.disagreement(ours, grammar.of_matrix(by_rule, columns["y"])) < TOLERANCE:
            wrong.append(text)
        try:
            other = grammar.design_matrix(text, columns)
        except (IndexError, ValueError):  # in its own coding of interactions of three and more
            failed.append(text)
            continue
        if not grammar.disagreement(ours, grammar.of_matrix(other, columns["y"])) < TOLERANCE:
            differs.append((text, other, by_rule))
    assert wrong == []
    for text, other, by_rule in differs:  # nothing that R does not have, and less than R has
        both = np.concatenate([other, by_rule], axis=1)
        assert generator.rank(other) < generator.rank(by_rule) == generator.rank(both), text
        assert ":" in text or "/" in text or "*" in text
    assert len(failed) < 0.08 * NUM_FORMULAS
    assert len(differs) < 0.03 * NUM_FORMULAS


def test_numbers_centred_in_every_formula_are_found_out(generator, monkeypatch):
    def always(coding, some_terms, *, has_constant=False):
        return frozenset(c for term in some_terms for c in term if c in coding.numerics and not coding.numerics[c].binary)

    monkeypatch.setattr(terms, "centred_columns", always)
    wrong = 0
    for text, columns in problems(60):
        _, by_rule = generator.r_matrix(grammar.others_terms(text), columns)
        fits = grammar.caucus(text, columns), grammar.of_matrix(by_rule, columns["y"])
        wrong += not grammar.disagreement(*fits) < TOLERANCE
    assert wrong > 10


def test_the_page_is_what_its_command_writes_and_every_formula_spans_what_r_has(generator):
    page = generator.PAGE.read_text(encoding="utf-8")
    assert generator.page(page) == page, "run `python docs/generate_formulas.py`"
    assert len({*generator.FIXED}) == 40


def test_r_rule_agrees_with_another_library_on_the_page(generator):
    columns = generator.data()
    for text, _, _, _, size in generator.rows():
        matrix = grammar.design_matrix(text, columns)
        names, by_rule = generator.r_matrix(grammar.others_terms(text), columns)
        assert generator.is_same_space(matrix, by_rule), (text, names)
        assert generator.rank(by_rule) == size
