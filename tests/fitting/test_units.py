"""Where numbers are centred, what coefficients are per, priors in the units of the data, and numbers that group as well."""

import numpy as np
import pytest

from fitting import combiner, families, hierarchy, in_memory, model, priors, sites, terms
from fitting.coding import Coding, Numeric, OutcomeSummary
from fitting.config import ModelConfig
from fitting.errors import ModelError
from fitting.formula import parse


def coding(*, keep=(), **groups):
    numerics = {name: Numeric(50.0, 4.0, False, 40.0, 60.0, name in keep, name in keep) for name in ("u", "v", "w")}
    numerics["t"] = Numeric(0.0, 1.0, True, 0.0, 1.0)
    factors = {"p": ("a", "b"), "q": ("c", "d", "e")}
    return Coding(factors, dict.fromkeys(factors, 0), numerics, {}, {}, OutcomeSummary(3.0, 2.0))


@pytest.mark.parametrize(
    ("right", "centred"),
    [
        ("u + v", "uv"), ("0 + u + v", ""), ("0 + p + u", "u"), ("0 + t + u", ""), ("p:u", ""), ("0 + p:u", ""), ("p + p:u", "u"),
        ("p*q + p:u", "u"), ("p + q + p:q:u", ""), ("p:q + p:q:u + q:u", "u"), ("u*v", "uv"), ("u + u:v", "v"), ("u:v", ""),
        ("u*v*w - u:v", "uv"), ("u*v*w - v", "v"), ("0 + u*v", ""), ("0 + p*u*v", "uv"), ("t:u", ""), ("t + t:u", "u"), ("0 + t + t:u", "u"),
        ("u:v + u + v + w:p", "uv"), ("p:u + q:u + p + q", "u"), ("p:u:v + p:u + p:v + p", "uv"),
    ],
)  # fmt: skip
def test_a_number_is_centred_where_every_term_without_it_is_spanned(right, centred):
    found = terms.centred_columns(coding(), parse(f"y ~ {right}").fixed)
    assert found == frozenset(centred)
    assert terms.centred_columns(coding(keep="uvw"), parse(f"y ~ {right}").fixed) == frozenset()


def test_cutpoints_take_up_a_shift():
    categories = OutcomeSummary(0.0, 0.0, ("lo", "mid", "hi"), (0.3, 0.3, 0.4))
    for text, centred in (("y ~ 0 + u", {"u"}), ("y ~ u + u:v", {"v", "u"} - {"u"}), ("y ~ 1 + u", {"u"})):
        config = ModelConfig(formula=text, family="ordinal")
        built = hierarchy.of_config(config, coding()._replace(outcome=categories)).model
        assert built.fixed[0].centred == centred
    assert built.fixed[-2].names == ("cutpoint_1",)
    assert (built.fixed[-2].units, built.fixed[-1].units) == (("where u = 50",), ("",))


def test_group_terms_are_centred_only_where_a_covariance_takes_up_the_shift():
    groups = "(1 + u | p) + (0 + v | p) + (1 + v || q) + (0 + q + u | p:q)"
    code = coding()._replace(groups={("p", "q"): np.array([[0, 0], [1, 2]])})
    built = model.build(parse(f"y ~ 1 + {groups}"), code, families.GAUSSIAN)
    assert [group.centred for group in built.groups] == [{"u"}, set(), set(), set(), {"u"}]
    assert built.groups[0].units == ("where u = 50", "per 4 of u")
    assert built.groups[1].units == ("per 4 of v",)


@pytest.mark.parametrize(
    ("right", "units"),
    [
        ("u", ["where u = 50", "per 4 of u"]),
        ("p + u:p", ["where u = 50", "where u = 50", "per 4 of u", "per 4 of u"]),
        ("0 + p + u", ["where u = 50", "where u = 50", "per 4 of u"]),
        ("p + u", ["where u = 50", "", "per 4 of u"]),
        ("u:v", ["", "per 4 of u × 4 of v"]),
        ("u*v", ["where u = 50, v = 50", "per 4 of u, where v = 50", "per 4 of v, where u = 50", "per 4 of u × 4 of v"]),
        ("t*u", ["where u = 50", "where u = 50", "per 4 of u", "per 4 of u"]),
    ],
)  # fmt: skip
def test_units_say_per_what_and_where_numbers_stand(right, units):
    built = model.build(parse(f"y ~ {right}"), coding(), families.GAUSSIAN)
    assert [unit for block in built.fixed for unit in block.units] == units
    kept = model.build(parse(f"y ~ {right}"), coding(keep="uv"), families.GAUSSIAN)
    assert not any("where" in unit or "4" in unit for block in kept.fixed for unit in block.units)


def test_default_priors_follow_the_units_and_written_ones_stay():
    def spread(right, keep=(), **written):
        config = ModelConfig(formula=f"y ~ {right}", family="gaussian", priors=written)
        found = hierarchy.of_config(config, coding(keep=keep)).described()
        return {name: prior.args for name, prior in found.items() if prior.name == "normal"}

    assert spread("u") == {"Intercept": (3.0, 5.0), "u": (0.0, 5.0)}
    assert spread("u", keep="u")["u"] == (0.0, 1.25)
    assert spread("u", keep="u")["Intercept"] == pytest.approx((3.0, 5.0 * np.hypot(1.0, 12.5)))
    assert spread("u", keep="u", b="normal(1, 2)", intercept="normal(0, 7)") == {"Intercept": (0.0, 7.0), "u": (1.0, 2.0)}
    assert spread("0 + p") == {"p[a]": (3.0, 5.0), "p[b]": (3.0, 5.0)}
    assert spread("0 + p", b="normal(0, 9)") == {"p[a]": (0.0, 9.0), "p[b]": (0.0, 9.0)}
    assert spread("0 + u")["u"] == pytest.approx((0.0, 2.5 * np.hypot(3.0, 2.0)))  # about zero, where the line begins
    for family in ("student_t", "negative_binomial", "ordinal"):
        outcome = OutcomeSummary(3.0, 2.0, ("lo", "mid", "hi"), (0.3, 0.3, 0.4))
        config = ModelConfig(formula="y ~ 1 + u", family=family)
        found = hierarchy.of_config(config, coding()._replace(outcome=outcome))
        default = priors.default_priors(found.family, 2.0, 3.0)
        assert all(found.described()[name] == default[name] for name in found.family.own)
    config = ModelConfig(formula="y ~ 1 + (0 + u | p)", family="gaussian")
    scales = [hierarchy.of_config(config, coding(keep=keep)).scale_priors[0][0].args for keep in ("", "u")]
    assert scales == [(2.0,), (0.5,)]


def test_priors_of_the_raw_intercept_and_slope_are_those_of_a_closed_form():
    """As a published analysis has it: normal priors on the intercept at zero and on the slope per unit."""
    rng = np.random.default_rng(4)
    age = rng.normal(50.0, 4.0, 30)
    y = -20.0 + 0.6 * age + rng.normal(size=30)
    columns = {"age": age}
    statistics = {"num_trials": np.ones(30), "sum_y": y, "squared_deviations": np.zeros(30)}
    config = ModelConfig(
        formula="y ~ 1 + age", family="gaussian", priors={"intercept": "normal(10, 3)", "age": "normal(0.2, 0.1)"}
    )
    found, coded = in_memory.code(columns, config.parsed_formula(), statistics)
    kept = found._replace(numerics={"age": found.numerics["age"]._replace(keep_zero=True, keep_unit=True)})
    prior = hierarchy.of_config(config, kept)
    design, psi = prior.model.design(coded, statistics), np.array([np.log(0.9)])
    tree = prior.model.tree
    site = sites.fit(tree, design, prior.family, np.zeros(2), np.zeros(tree.num_entries), num_nodes=1)
    moments = combiner.conditional_moments(prior, combiner.product(tree, [(tree.restrict([]), site)]), psi)
    matrix, at, weight = np.c_[np.ones(30), age], np.array([10.0, 0.2]), np.diag([3.0**-2, 0.1**-2])
    covariance = np.linalg.inv(weight + matrix.T @ matrix / 0.81)
    np.testing.assert_allclose(moments.mean, covariance @ (weight @ at + matrix.T @ y / 0.81), rtol=1e-8)
    assert moments.mean[0] > -10.0, "the prior of the raw intercept must matter here"


@pytest.mark.parametrize("right", ["1 + year:p", "0 + year:p", "1 + p:year + u:year", "year + p:year - year", "0 + p:year + p"])
def test_years_that_are_not_centred_keep_their_digits(right):
    rng = np.random.default_rng(7)
    n = 300
    columns = {"year": rng.integers(1998, 2024, n).astype(float), "p": rng.choice(["a", "b"], n), "u": rng.normal(50, 4, n)}
    y = 0.4 * (columns["year"] - 2010.0) * (columns["p"] == "b") + 30.0 + rng.normal(size=n)
    cells = columns | {"num_trials": np.ones(n), "sum_y": y, "squared_deviations": np.zeros(n)}
    run = in_memory.fit(cells, f"y ~ {right}", family="gaussian", shards=np.arange(n) % 3, num_draws=400)
    fitted = np.empty(n)
    for s, (restriction, design) in enumerate(zip(run.restrictions, run.designs, strict=True)):
        fitted[np.arange(n) % 3 == s] = sites.predictor_mean(design, run.moments.mean[restriction.coefficients])[0]
    is_b, year, u = (columns["p"] == "b").astype(float), columns["year"], columns["u"]
    matrix = {
        "1 + year:p": [np.ones(n), year, year * is_b], "0 + year:p": [year, year * is_b],
        "1 + p:year + u:year": [np.ones(n), year, year * is_b, year * u], "year + p:year - year": [np.ones(n), year, year * is_b],
        "0 + p:year + p": [np.ones(n), is_b, year, year * is_b],
    }[right]  # fmt: skip
    scaled = np.stack(matrix, axis=1) / np.linalg.norm(matrix, axis=1)
    by_hand = scaled @ np.linalg.lstsq(scaled, y, rcond=None)[0]
    sigma = np.sqrt(np.mean((y - by_hand) ** 2))
    assert np.abs(fitted - by_hand).max() < 0.02 * sigma, "a default prior, or rounding, pulls at the line"
    assert np.exp(run.draws.psi[..., -1]).mean() == pytest.approx(sigma, rel=0.03)
    assert in_memory.audit(run)["verdict"] == "pass"


def yearly(num_rows=900):
    rng = np.random.default_rng(9)
    year = rng.integers(1990, 2000, num_rows)
    deviation = rng.normal(0.0, 0.6, 10)
    y = 0.25 * (year - 1995) + deviation[year - 1990] + rng.normal(size=num_rows)
    return {"year": year, "num_trials": np.ones(num_rows), "sum_y": y, "squared_deviations": np.zeros(num_rows)}


def test_a_number_that_groups_has_one_slope_and_a_deviation_each(assert_mean_close):
    cells = yearly()
    run = in_memory.fit(cells, "y ~ 1 + year + (1 | year)", family="gaussian", num_draws=1500)
    twice = in_memory.fit(
        cells | {"when": np.array([f"in {y}" for y in cells["year"]])}, "y ~ 1 + year + (1 | when)", family="gaussian", num_draws=1500
    )
    names = run.hierarchy.model.coefficient_names().tolist()
    assert names[:2] == ["Intercept", "year"]
    assert "1|year[1990]" in names
    resolution = 0.1 * run.draws.theta[..., 1].std()
    assert_mean_close(run.draws.theta[..., 1:2], twice.draws.theta[..., 1:2].mean(axis=(0, 1)), resolution=resolution)


def test_a_level_that_the_data_do_not_have_needs_its_number():
    cells = yearly(200)
    run = in_memory.fit(cells, "y ~ 1 + year + (1 | year)", family="gaussian", num_draws=100)
    design = run.hierarchy.model.design({"year": np.array([-1]), "year:number": np.array([2005.0])}, {}, new := [])
    assert new[0].num_levels == 1
    slope = next(v for p, v in zip(design.places, design.values, strict=True) if p[0] == 1)
    numeric = run.hierarchy.model.coding.numerics["year"]
    assert slope[0] == pytest.approx((2005.0 - numeric.center) / numeric.scale)


def test_a_factor_beside_others_under_a_double_bar_is_coded_as_in_brms():
    code = coding()
    joint = model.build(parse("y ~ 1 + (1 + q || p)"), code, families.GAUSSIAN)
    apart = model.build(parse("y ~ 1 + (1 | p) + (0 + q | p)"), code, families.GAUSSIAN)
    assert [group.variables for group in joint.groups] == [("1|p",), ("q[d]|p", "q[e]|p")]
    assert [group.correlated for group in joint.groups] == [False, False]
    assert [group.variables for group in apart.groups] == [("1|p",), ("q[c]|p", "q[d]|p", "q[e]|p")]
    for text in ("y ~ 1 + (1 + q || p)", "y ~ 1 + (1 | p) + (0 + q || p)", "y ~ 0 + (q + u || p) + (1 | q)"):
        assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize("name", ["Intercept", "sigma", "log_sigma", "nu", "shape", "cutpoint_1", "log_step_2"])
@pytest.mark.parametrize("family", ["gaussian", "student_t", "ordinal", "negative_binomial"])
def test_columns_called_as_a_parameter_have_a_name_of_their_own(name, family):
    code = coding()
    outcome = OutcomeSummary(3.0, 2.0, ("lo", "mid", "hi"), (0.3, 0.3, 0.4))
    code = code._replace(numerics={name: code.numerics["u"]}, outcome=outcome)
    config = ModelConfig(formula=f"y ~ 1 + {name}", family=family, priors={f"`{name}`": "normal(1, 2)"})
    built = hierarchy.of_config(config, code)
    names = built.model.coefficient_names().tolist()
    assert names.count(f"`{name}`") == 1
    assert len({*names, *built.names()}) == len(names) + len(built.names())
    assert str(built.described()[f"`{name}`"]) == "normal(1, 2)"


@pytest.mark.parametrize("name", ["intercept", "b", "sd", "cor", "sigma"])
def test_columns_called_as_a_class_of_priors_have_the_prior_of_coefficients(name):
    code = coding()
    code = code._replace(numerics={name: code.numerics["u"]})
    written = {"sd": "half_normal(3)", "b": "normal(0, 9)"}
    found = hierarchy.of_config(ModelConfig(formula=f"y ~ 1 + {name}", family="gaussian", priors=written), code)
    assert found.fixed_precision[1] == pytest.approx(9.0**-2)
    own = written | {f"`{name}`": "normal(0, 4)"}
    found = hierarchy.of_config(ModelConfig(formula=f"y ~ 1 + {name}", family="gaussian", priors=own), code)
    assert found.fixed_precision[1] == pytest.approx(4.0**-2)


def test_groups_whose_levels_have_colons_keep_apart():
    factors = {"m": ("a", "a:b", "a\\"), "n": ("b:c", "c", ":c")}
    groups = {("m", "n"): np.array([[0, 0], [1, 1], [2, 2]])}
    code = Coding(factors, dict.fromkeys(factors, 0), {}, groups, {}, OutcomeSummary(0.0, 1.0))
    assert len({*code.group_labels(("m", "n"))}) == 3
    built = model.build(parse("y ~ 1 + (1 | m:n) + (1 | m)"), code, families.GAUSSIAN)
    names = built.coefficient_names()[~built.is_padding].tolist()
    assert len({*names}) == len(names)
    assert "1|m[a:b]" in names


def test_two_parameters_of_one_name_are_refused_before_the_fit():
    factors = {"m": ("x", "a", "a]:n[b"), "n": ("x", "b")}
    code = Coding(factors, dict.fromkeys(factors, 0), {}, {}, {}, OutcomeSummary(0.0, 1.0))
    built = model.build(parse("y ~ 1 + m*n"), code, families.GAUSSIAN)
    with pytest.raises(ModelError, match=r"2 parameters of that name"):
        hierarchy.build(built, priors.default_priors(families.GAUSSIAN))


@pytest.mark.parametrize("offset", [0.0, -3e7, 2e9])
@pytest.mark.parametrize("right", ["1 + u", "0 + p", "p + (1 | q)", "0 + p*u - u + (0 + u | q)"])
def test_outcomes_far_from_zero_keep_their_digits(right, offset):
    cells, e = far_cells(lambda columns: offset + 0.5 * columns["u"])
    near, _ = far_cells(lambda columns: 0.5 * columns["u"])
    run, base = (
        in_memory.fit(c, f"y ~ {right}", family="gaussian", shards=np.arange(len(e)) % 4, num_draws=300) for c in (cells, near)
    )
    np.testing.assert_allclose(run.proposal.mode[-1], base.proposal.mode[-1], atol=1e-4)
    audit = in_memory.audit(run)
    assert audit["verdict"] == in_memory.audit(base)["verdict"] == "pass"
    sd = np.sqrt(run.moments.covariance[run.hierarchy.model.tree.diagonal])
    constant = np.array([name in ("Intercept", "p[a]", "p[b]") for name in run.hierarchy.model.coefficient_names()])
    if right.startswith("0"):
        constant |= np.array([name in ("p[a]", "p[b]") for name in run.hierarchy.model.coefficient_names()])
    else:
        constant = np.array([name == "Intercept" for name in run.hierarchy.model.coefficient_names()])
    np.testing.assert_allclose((run.moments.mean - offset * constant - base.moments.mean) / sd, 0.0, atol=0.01)


@pytest.mark.parametrize("slope", [1e5, -4e8])
@pytest.mark.parametrize("right", ["1 + u", "0 + u", "1 + (1 + u | q)"])
def test_outcomes_that_a_line_explains_to_nine_digits_keep_the_rest(right, slope):
    cells, e = far_cells(lambda columns: slope * (columns["u"] - 50.0 * ("0" not in right)))
    run = in_memory.fit(cells, f"y ~ {right}", family="gaussian", shards=np.arange(len(e)) % 4, num_draws=300)
    assert len(run.moves) == 2
    assert np.exp(run.proposal.mode[-1]) == pytest.approx(e.std(), rel=0.03)
    assert in_memory.audit(run)["verdict"] == "pass"


@pytest.mark.parametrize("unit", [1e-7, 1.0, 3e6])
@pytest.mark.parametrize("family", ["gaussian", "student_t"])
def test_scales_of_any_unit_are_found(family, unit):
    """Incomes in cents have sds beyond e^12."""
    cells, e = far_cells(lambda columns: 0.5 * (columns["q"] == "d"))
    y = cells.pop("sum_y") * unit
    cells |= {"sum_y": y, "squared_deviations": 0.0 * y} if family == "gaussian" else {"y": y}
    run = in_memory.fit(cells, "y ~ 1 + (1 | q)", family=family, num_draws=300)
    sds = np.exp(run.draws.psi[..., 0]).mean() / unit
    sigma = np.exp(run.draws.psi[..., -1] if family == "gaussian" else run.draws.theta[..., 1]).mean() / unit
    assert 0.1 < sds < 1.5
    assert sigma == pytest.approx(e.std(), rel=0.15)


def far_cells(expected):
    rng = np.random.default_rng(12)
    n = 240
    columns = {"u": rng.normal(50, 4, n), "p": rng.choice(["a", "b"], n), "q": rng.choice(["c", "d", "e"], n)}
    e = rng.normal(size=n)
    y = expected(columns) + e
    return columns | {"num_trials": np.ones(n), "sum_y": y, "squared_deviations": np.zeros(n)}, e
