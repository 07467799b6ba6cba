"""Splines against scipy's B-splines, dense algebra and a curve that is known; whole and in shards."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.interpolate import BSpline

from fitting import families, hierarchy, in_memory, model, sites, splines
from fitting.coding import Coding
from fitting.config import ModelConfig
from fitting.errors import FormulaError, ModelError
from fitting.splines import Spline, SplineConfig
from fitting.structures.base import CONSTRAINT_SD
from fitting.structures.random_walk import TREND_SD

FORMULA = "y ~ 1 + x + (1 | state)"


def dense_basis(x, num_functions, degree, low, high):
    """B-splines on equally spaced knots, (n, num_functions), by scipy."""
    step = (high - low) / (num_functions - degree)
    knots = low + step * np.arange(-degree, num_functions + 1)
    inside = np.clip(x, low, np.nextafter(high, low))  # scipy's intervals are open on the right
    return np.stack([BSpline.basis_element(knots[j : j + degree + 2], False)(inside) for j in range(num_functions)], 1)


def basis(spline, x):
    """The basis of the code under test, dense: shape (n, num_functions)."""
    out = np.zeros((len(x), spline.num_functions))
    for place, value in spline.locate(Coding({}, {}, {}, {}, {}, None), {spline.column: x}):
        out[np.arange(len(x)), place] += value
    return out


@pytest.mark.parametrize(("num_functions", "degree"), [(10, 3), (4, 3), (6, 1), (9, 2), (8, 5)])
def test_the_basis_is_that_of_scipy_and_sums_to_one(num_functions, degree):
    spline = Spline("x", num_functions, degree, -1.5, 4.0)
    x = np.r_[-1.5, 4.0, np.random.default_rng(0).uniform(-1.5, 4.0, 200)]
    found = basis(spline, x)
    np.testing.assert_allclose(found, np.nan_to_num(dense_basis(x, num_functions, degree, -1.5, 4.0)), atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert found.min() >= 0
    line = found @ np.arange(num_functions)  # coefficients on a line make a line, so the penalty leaves lines free
    np.testing.assert_allclose(line - line[0], (x - x[0]) / 5.5 * (num_functions - degree), atol=1e-12)


def test_beyond_the_data_the_curve_stays_where_it_ended():
    spline = Spline("x", 7, 3, 0.0, 1.0)
    np.testing.assert_array_equal(basis(spline, np.array([-3.0, 1.5])), basis(spline, np.array([0.0, 1.0])))


def curve(num_rows=150, seed=3):
    rng = np.random.default_rng(seed)
    x, state = rng.uniform(-3, 3, num_rows), np.array(["AL", "OH", "WY"])[rng.integers(0, 3, num_rows)]
    return {"x": x, "state": state}, np.sin(x) + 0.3 * (state == "OH") + 0.3 * rng.normal(size=num_rows)


def fit(columns, outcome, formula=FORMULA, **options):
    cells = columns | {"num_trials": np.ones(len(outcome)), "sum_y": outcome, "squared_deviations": np.zeros(len(outcome))}
    return in_memory.fit(cells, formula, family="gaussian", **({"splines": {"x": {"df": 9}}} | options))


@pytest.fixture(scope="module")
def whole():
    return fit(*curve(), num_draws=200)


def dense_design(run, columns):
    x, low, high = columns["x"], columns["x"].min(), columns["x"].max()
    functions = np.nan_to_num(dense_basis(x, 9, 3, low, high))
    out = np.zeros((len(x), run.hierarchy.model.tree.num_coefficients))
    for j, name in enumerate(run.hierarchy.model.coefficient_names().tolist()):
        if name == "Intercept":
            out[:, j] = 1.0
        elif name == "x":
            out[:, j] = (x - x.mean()) / x.std()
        elif name.startswith("s(x)["):
            out[:, j] = functions[:, int(name[5:-1]) - 1]
        elif name:
            out[:, j] = columns["state"] == name[8:-1]
    return out


def prior_of(run, trend_sd):
    """Second differences, scaled; the mean held at zero, the line with its own sd: from the definition."""
    names, size = run.hierarchy.model.coefficient_names().tolist(), 9
    differences = np.diff(np.eye(size), n=2, axis=0)
    covariance = np.linalg.pinv(differences.T @ differences, rcond=1e-10, hermitian=True)
    scale = np.exp(np.mean(np.log(np.diagonal(covariance))))
    line = np.arange(size) - (size - 1) / 2
    line /= np.sqrt(line @ line)
    unit = scale * differences.T @ differences + CONSTRAINT_SD**-2 / size**2
    unit += np.outer(line, line) / (trend_sd**2 * size)
    curves, states = (np.array([name.startswith(part) for name in names]) for part in ("s(x)", "1|state"))

    def precision(psi):
        out = np.diag([float(not name) for name in names])
        out[np.ix_(curves, curves)] = unit * np.exp(-2 * psi[1])
        out[states, states] = np.exp(-2 * psi[0])
        return out

    return precision


def test_the_posterior_is_that_of_dense_algebra(whole, assert_gaussian_posterior_is_dense):
    columns, outcome = curve()
    assert whole.hierarchy.names() == ["sd(1|state)", "sd(s(x))", "sigma"]
    assert whole.hierarchy.model.coefficient_names().tolist().count("s(x)[9]") == 1
    assert set(whole.hierarchy.model.block_names().tolist()) == {"fixed", "s(x)", "1|state"}
    design = dense_design(whole, columns)
    assert_gaussian_posterior_is_dense(whole, design, outcome, prior_of(whole, CONSTRAINT_SD))
    with pytest.raises(AssertionError):  # with x a fixed effect the curve has no line of its own
        assert_gaussian_posterior_is_dense(whole, design, outcome, prior_of(whole, TREND_SD))
    alone = fit(columns, outcome, "y ~ 1 + (1 | state)", num_draws=2)
    assert_gaussian_posterior_is_dense(alone, dense_design(alone, columns), outcome, prior_of(alone, TREND_SD))


def test_shards_have_the_same_knots(whole):
    """A shard that spans half of the range has the functions of the whole: sites add up to the likelihood."""
    columns, outcome = curve()
    parts = fit(columns, outcome, num_draws=2, shards=columns["x"] > 0.4)
    np.testing.assert_allclose(parts.natural.precision, whole.natural.precision, atol=1e-10)
    np.testing.assert_allclose(parts.natural.shift, whole.natural.shift, atol=1e-10)


def expected(run, x):
    """Draws of the curve at x, (n, M), in the state AL."""
    built = run.hierarchy.model
    state = np.zeros(len(x), dtype=np.int64)
    design = built.design({"x": x, "state": state}, {})
    theta = run.draws.theta.reshape(-1, built.tree.num_coefficients).T
    return sites.linear_predictors(sites.matrices(design, len(theta)), theta)[0]


def test_a_sine_is_found(whole):
    """Errors of the curve are of the order of its own sds, and far below those of the best straight line."""
    x = np.linspace(-2.8, 2.8, 29)

    def error(run):
        draws = expected(run, x)
        off = draws.mean(axis=1) - np.sin(x)
        return np.sqrt(np.mean((off - off.mean()) ** 2))

    spread = np.sqrt(np.mean(expected(whole, x).var(axis=1)))
    best_line = np.polynomial.Polynomial.fit(x, np.sin(x), 1)
    least = np.sqrt(np.mean((best_line(x) - np.sin(x)) ** 2))
    assert error(whole) < 3 * spread < least
    assert error(whole) < least / 4
    columns, outcome = curve()
    assert error(fit(columns, outcome, splines={}, num_draws=50)) >= least


def test_its_prior_is_written_under_splines_or_as_a_prior_of_its_name(whole):
    columns, outcome = curve()
    given = {"df": 9, "sd": "half_normal(0.25)"}
    first = fit(columns, outcome, splines={"x": given}, num_draws=2)
    second = fit(columns, outcome, chosen_priors={"s(x)": "half_normal(0.25)"}, num_draws=2)
    for run in (first, second):
        assert str(run.hierarchy.described()["sd(s(x))"]) == "half_normal(0.25)"
    assert str(whole.hierarchy.described()["sd(s(x))"]) != "half_normal(0.25)"
    with pytest.raises(ValidationError, match="expected one of the two"):
        ModelConfig(formula=FORMULA, family="gaussian", splines={"x": given}, priors={"s(x)": "half_normal(1)"})


def test_every_category_has_a_curve_of_its_own():
    columns, _ = curve()
    config = ModelConfig(formula="y ~ 1 + x", family="categorical", splines={"x": {"df": 5}})
    statistics = {"num_trials": np.ones(150), **{f"count_{k}": np.ones(150) / 3 for k in range(3)}}
    roles = config.data_columns()
    coding, coded = in_memory.code(columns, config.parsed_formula(), statistics, ("a", "b", "c"), roles)
    built = hierarchy.of_config(config, coding)
    assert built.names() == ["sd(b:s(x))", "sd(c:s(x))"]
    design = built.model.design(coded, statistics)
    assert design.predictors.count(0) == design.predictors.count(1) == 2 + 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splines": {"y": {}}}, "the outcome"),
        ({"splines": {"x": {"df": 3}}}, "above the degree"),
        ({"splines": {"x": {"df": 2, "degree": 1}}}, "greater than 2"),
        ({"splines": {"x": {"knots": 4}}}, "Extra inputs"),
        ({"splines": {"x": {"sd": "normal(0, 1)"}}}, "scale"),
        ({"splines": {"x": {}}, "priors": {"s(x)": {"structure": "ar1"}}}, "has a structure"),
    ],
)
def test_a_spline_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({"formula": FORMULA, "family": "gaussian"} | change)


def test_a_call_in_the_formula_is_still_refused():
    with pytest.raises((FormulaError, ValidationError), match=r"a call of the function s\(\)"):
        ModelConfig(formula="y ~ 1 + s(x)", family="gaussian")


@pytest.mark.parametrize(
    ("numeric", "message"),
    [((0.0, 1.0, True, 0.0, 1.0), "more values than 0 and 1"), ((2.0, 1.0, False), "Ingest again")],
)
def test_a_column_without_a_range_is_refused(numeric, message):
    from fitting.coding import Numeric, OutcomeSummary

    coding = Coding({}, {}, {"x": Numeric(*numeric)}, {}, {}, OutcomeSummary(0.0, 1.0))
    config = ModelConfig(formula="y ~ 1", family="gaussian", splines={"x": {}})
    with pytest.raises(ModelError, match=message):
        model.build(config.parsed_formula(), coding, families.GAUSSIAN, splines=config.splines)
    with pytest.raises(ModelError, match="'x'"):
        splines.spline("x", SplineConfig(), coding._replace(numerics={}))
