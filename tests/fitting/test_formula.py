"""Formulas: their meaning, their round trip, and what they refuse."""

import pickle
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fitting import formula
from fitting.errors import FormulaError
from fitting.formula import Formula, GroupTerm

ONE = ((),)


def test_random_slopes_are_one_correlated_block():
    parsed = formula.parse("voted ~ 1 + female + (1 + female | state)")
    assert parsed == Formula("voted", ((), ("female",)), (GroupTerm(("state",), ((), ("female",)), True),))
    assert parsed.groups[0].names == ("1|state", "female|state")


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("y ~ x", "y ~ 1 + x"),
        ("y ~ x - 1", "y ~ 0 + x"),
        ("y ~ -1 + x", "y ~ 0 + x"),
        ("y ~ 0 + x + 1", "y ~ 1 + x"),
        ("y ~ a * b", "y ~ a + b + a:b"),
        ("y ~ a / b", "y ~ a + a:b"),
        ("y ~ (a + b) / c", "y ~ a + b + a:b:c"),
        ("y ~ (a + b) * c", "y ~ a + b + c + a:c + b:c"),
        ("y ~ (a + b):c", "y ~ a:c + b:c"),
        ("y ~ a + b - a", "y ~ b"),
        ("y ~ a + a + a:b + b:a + a:a", "y ~ a + a:b"),
        ("y ~ a * b * c - a:b:c", "y ~ a + b + c + a:b + a:c + b:c"),
        ("y ~ (x | g)", "y ~ (1 + x | g)"),
        ("y ~ (1 + x || g)", "y ~ (1 | g) + (0 + x | g)"),
        ("y ~ (1 | a/b)", "y ~ (1 | a) + (1 | a:b)"),
        ("y ~ (1 | a/b/c)", "y ~ (1 | a) + (1 | a:b) + (1 | a:b:c)"),
        ("y ~ (1 | a/(b:c))", "y ~ (1 | a) + (1 | a:b:c)"),
        ("y ~ (1 + x | a/b)", "y ~ (1 + x | a) + (1 + x | a:b)"),
        ("y ~ (1 | a:b) + (1 | b:a) + (1 | a:b)", "y ~ (1 | a:b)"),
        ("y ~ (x * z | g)", "y ~ (1 + x + z + x:z | g)"),
    ],
)
def test_shorthand_expands_as_in_lme4(text, same_as):
    # A single slope written with || and with | differ only in what a factor's columns do among themselves.
    def meaning(text):
        parsed = formula.parse(text)
        return parsed.outcome, parsed.fixed, [(group.columns, group.coefficients) for group in parsed.groups]

    assert meaning(text) == meaning(same_as)


def test_double_bar_is_remembered():
    (alone, slope) = formula.parse("y ~ (1 + x || g)").groups
    assert (alone.correlated, slope.correlated) == (False, False)
    assert formula.parse("y ~ (0 + x | g)").groups[0].correlated


def test_columns_are_split_by_their_use():
    parsed = formula.parse("y ~ x + race + `dem share`:z + (1 + w | state/county) + (1 | race)")
    assert parsed.factor_columns == ("state", "county", "race")
    assert parsed.predictor_columns == ("x", "race", "dem share", "z", "w")
    assert parsed.group_columns == (("state",), ("state", "county"), ("race",))
    assert parsed.columns == ("state", "county", "race", "x", "dem share", "z", "w")


@pytest.mark.parametrize(
    ("text", "position", "found"),
    [
        ("", 1, "empty"),
        ("y", 1, "no '~'"),
        ("y ~", 4, "the end"),
        ("y ~ 0", 3, "no terms"),
        ("y ~ log(x)", 5, "function log()"),
        ("y ~ __import__('os')", 5, "Unexpected character: _"),
        ("y ~ os.getcwd()", 5, "os.getcwd"),
        ("log(y) ~ x", 1, "function log()"),
        ("y + z ~ x", 1, "not one column"),
        ("y ~ {x + 1}", 5, "'{'"),
        ("y ~ x[1]", 6, "'['"),
        ("y ~ x ** 2", 7, "'**'"),
        ("y ~ 2 + x", 5, "number 2"),
        ("y ~ 1.5", 5, "number 1.5"),
        ("y ~ 1.0", 5, "number 1.0"),
        ("y ~ 1:x", 6, "0 or 1 beside ':'"),
        ("y ~ x * 0", 7, "0 or 1 beside '*'"),
        ("y ~ 'x'", 5, "'x'"),
        ("y ~ x + `a b", 9, "a backquote that is never closed"),
        ("y ~ '`'`", 8, "a backquote that is never closed"),
        ("y ~ True", 5, "True"),
        ("y ~ a == b", 7, "'=='"),
        ("y ~ a ~ b", 9, "more than one '~'"),
        ("y ~ x | g", 7, "'|' after a complete formula"),
        ("y ~ (1 | g", 11, "the end"),
        ("y ~ x)", 6, "')' after a complete formula"),
        ("y ~ x z", 7, "'z' after a complete formula"),
        ("y ~ (1 | g)(1 | h)", 12, "'('"),
        ("y ~ (1 | | g)", 10, "'|'"),
        ("y ~ (1 | g | h)", 12, "two bars"),
        ("y ~ (1 + (1 | g) | h)", 18, "inside a group term"),
        ("y ~ (0 | g)", 8, "nothing before '|'"),
        ("y ~ (1 | a + b)", 8, "other than columns joined"),
        ("y ~ (1 | a/b):x", 14, "a group term beside ':'"),
        ("y ~ (1 | 1)", 8, "other than columns joined"),
        ("y ~ x - (1 | g)", 7, "'-' before a group term"),
        ("y ~ (1 | g) + (1 + x | g)", 3, "1|g twice"),
        ("y ~ x + y", 3, "both sides"),
        ("y ~ (1 | y)", 3, "both sides"),
        ("y ~ `a", 5, "never closed"),
        ("y ~ `a|b`", 5, "`a|b`"),
        ("y ~ a$b", 6, "Unexpected character: $"),
        ("y ~ " + "*".join(f"a{i}" for i in range(40)), 31, "over 1000 terms"),
    ],
)
def test_refusals_say_where_and_what(text, position, found):
    with pytest.raises(FormulaError) as caught:
        formula.parse(text)
    assert (caught.value.position, found in caught.value.found) == (position, True), str(caught.value)
    assert caught.value.expected
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


@pytest.mark.parametrize("text", ["y ~ " + "(" * 3000, "y ~ " + "+".join(["x"] * 3000)])
def test_deep_nesting_is_refused_not_a_crash(text):
    with pytest.raises(FormulaError, match="too deeply"):
        formula.parse(text)


def test_importing_the_module_does_not_import_the_parser():
    code = "import sys, fitting.formula; sys.exit('formulae' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


names = st.sampled_from(["x", "female", "race", "état_2", "dem share", "a.b", "a-b", "True"])
groupings = st.lists(st.sampled_from(["state", "county", "age group"]), min_size=1, max_size=3, unique=True).map(tuple)
interactions = st.lists(names, min_size=1, max_size=3, unique=True).map(lambda term: tuple(sorted(term)))
coefficients = st.lists(interactions | st.just(()), min_size=1, max_size=4, unique=True).map(
    lambda terms: tuple(sorted(terms, key=len))
)


@st.composite
def formulas(draw):
    found = []
    for columns in draw(st.lists(groupings, max_size=3, unique_by=frozenset)):
        terms, correlated = draw(coefficients), draw(st.booleans())
        blocks = [terms] if correlated else [(term,) for term in terms]
        found += [GroupTerm(columns, block, correlated and block != ONE) for block in blocks]
    fixed = draw(coefficients | st.just(())) if found else draw(coefficients)
    return Formula(draw(st.sampled_from(["voted", "my outcome"])), fixed, tuple(found))


@settings(max_examples=150, deadline=None)
@given(formulas())
def test_text_of_a_formula_reads_back_as_the_formula(expected):
    assert formula.parse(str(expected)) == expected


@settings(max_examples=300, deadline=None)
@example("'`'`")
@given(st.text(st.sampled_from("yxg01 ~+-*/:|()`.'[{=_"), max_size=25))
def test_any_text_is_read_or_refused(text):
    try:
        parsed = formula.parse("y ~ " + text)
    except FormulaError:
        return
    assert formula.parse(str(parsed)) == parsed
