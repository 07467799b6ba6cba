"""Likelihoods against SciPy's distributions, derivatives against automatic differentiation, quadrature against product rules."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, gammaln, logit, ndtri, softmax

from fitting import families, quadrature, sites
from fitting.coding import OutcomeSummary
from fitting.errors import ModelError
from fitting.likelihoods import binomial, ordinal

NUM_CELLS = 6
BINOMIAL = {"num_trials": np.array([1.0, 1, 7, 7, 30, 4]), "num_successes": np.array([0.0, 1, 0, 7, 12, 3])}
COUNTS = np.array([[1, 0, 0, 3, 10, 0], [0, 1, 2, 3, 0, 0], [0, 0, 1, 3, 25, 0], [0, 2, 0, 1, 8, 9]], dtype=float)
CELLS = {
    "binomial": BINOMIAL,
    "poisson": {"num_trials": np.ones(6), "sum_y": np.array([0.0, 1, 2, 5, 40, 3]), "sum_exposure": np.array([1.0, 2, 0.5, 4, 30, 6])},
    "negative_binomial": {"num_trials": np.array([1.0, 4, 1, 2, 1, 1]), "y": np.array([0.0, 0, 1, 3, 12, 60]),
                          "exposure": np.array([1.0, 2, 0.5, 1, 3, 10])},
    "beta_binomial": {"num_trials": np.array([1.0, 3, 1, 2, 1, 1]), "successes": np.array([0.0, 1, 5, 2, 9, 0]),
                      "trials": np.array([1.0, 1, 5, 6, 20, 30])},
    "student_t": {"num_trials": np.array([1.0, 2, 1, 1, 1, 1]), "y": np.array([0.0, 0.3, -1.2, 4.0, -9.0, 0.9])},
}  # fmt: skip


def choices(num_categories):
    counts = COUNTS[:num_categories]
    return {"num_trials": counts.sum(axis=0), **{f"count_{k}": row for k, row in enumerate(counts)}}


CASES = {
    "logit": (families.make("binomial"), BINOMIAL),
    "probit": (families.make("binomial", "probit"), BINOMIAL),
    "cloglog": (families.make("binomial", "cloglog"), BINOMIAL),
    **{name: (families.make(name), cells) for name, cells in CELLS.items() if name != "binomial"},
    "categorical_2": (families.make("categorical", None, tuple("ab")), choices(2)),
    "categorical_4": (families.make("categorical", None, tuple("abcd")), choices(4)),
    "ordinal_3": (families.make("ordinal", None, tuple("abc")), choices(3)),
    "ordinal_4": (families.make("ordinal", None, tuple("abcd")), choices(4)),
}
OWN = {"negative_binomial": (0.7,), "beta_binomial": (1.8,), "student_t": (-0.35, 1.2), "ordinal_3": (-0.8, 0.3),
       "ordinal_4": (-1.0, 0.3, -0.2)}  # fmt: skip


def predictors(name, spread=1.0, seed=7):
    """Linear predictors of the cells, (P, n): their own for each cell, own parameters alike in all."""
    family, _ = CASES[name]
    eta = spread * np.random.default_rng(seed).normal(size=(len(family.prefixes), NUM_CELLS))
    own = np.tile(np.array(OWN.get(name, ()))[:, None], NUM_CELLS)
    return np.concatenate([eta, own]) if len(own) else eta


def at_point(family, cells, eta):
    zero = np.zeros((len(eta), *eta.shape))
    return families.expected_derivatives(family, cells, eta, zero, 1)


# ---- log likelihoods ----


def mass(name, cells, eta):
    """Log probability of each cell by SciPy, and the constant of the data that `log_likelihood` leaves out, each (n,)."""
    rows = cells["num_trials"]
    if name in ("logit", "probit", "cloglog"):
        share = {"logit": expit, "probit": stats.norm.cdf, "cloglog": lambda e: -np.expm1(-np.exp(e))}[name](eta[0])
        s, t = cells["num_successes"], rows
        return stats.binom.logpmf(s, t, share), gammaln(t + 1) - gammaln(s + 1) - gammaln(t - s + 1)
    if name == "poisson":
        y, exposure = cells["sum_y"], cells["sum_exposure"]
        return stats.poisson.logpmf(y, exposure * np.exp(eta[0])), y * np.log(exposure) - gammaln(y + 1)
    if name == "negative_binomial":
        y, shape, mean = cells["y"], np.exp(eta[1]), cells["exposure"] * np.exp(eta[0])
        constant = rows * (y * np.log(cells["exposure"]) - gammaln(y + 1))
        return rows * stats.nbinom.logpmf(y, shape, shape / (shape + mean)), constant
    if name == "beta_binomial":
        s, t, phi = cells["successes"], cells["trials"], np.exp(eta[1])
        a, b = phi * expit(eta[0]), phi * expit(-eta[0])
        choose = gammaln(t + 1) - gammaln(s + 1) - gammaln(t - s + 1)
        return rows * stats.betabinom.logpmf(s, t, a, b), rows * choose
    if name == "student_t":
        return rows * stats.t.logpdf(cells["y"], np.exp(eta[2]), eta[0], np.exp(eta[1])), np.zeros(len(rows))
    counts = np.stack([v for k, v in cells.items() if k.startswith("count_")])
    if name.startswith("categorical"):
        p = softmax(np.concatenate([np.zeros_like(eta[:1]), eta]), axis=0)
    else:
        cuts = np.cumsum(np.concatenate([eta[1:2], np.exp(eta[2:])]), axis=0)
        below = np.concatenate([np.zeros_like(eta[:1]), stats.logistic.cdf(cuts - eta[0]), np.ones_like(eta[:1])])
        p = np.diff(below, axis=0)
    choose = gammaln(counts.sum(axis=0) + 1) - gammaln(counts + 1).sum(axis=0)
    return stats.multinomial.logpmf(counts.T, counts.sum(axis=0), p.T), choose


@pytest.mark.parametrize("name", CASES)
def test_the_log_likelihood_is_scipys_up_to_constants_of_the_data(name):
    family, cells = CASES[name]
    eta = predictors(name)
    expected, constant = mass(name, cells, eta)
    found = families.log_likelihood(family, cells, eta)
    np.testing.assert_allclose(found + constant, expected, rtol=1e-11, atol=1e-11)
    draws = families.log_likelihood(family, cells, np.stack([eta, eta + 0.1], axis=2))
    np.testing.assert_allclose(draws[:, 0], found, rtol=1e-12)


def test_a_gaussian_cell_is_the_sum_of_its_rows():
    y = np.random.default_rng(1).normal(1.0, 2.0, 9)
    cells = {"num_trials": np.array([9.0]), "sum_y": y[None].sum(1), "squared_deviations": 9.0 * y[None].var(1)}
    found = families.log_likelihood(families.GAUSSIAN, cells, np.array([[0.4]]), 1.7)
    np.testing.assert_allclose(found - 4.5 * np.log(2 * np.pi), stats.norm.logpdf(y, 0.4, 1.7).sum(), rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_far_tails_stay_finite_and_point_the_right_way(name):
    """30 units of the link's scale out, where probabilities round to 0 and 1."""
    family, cells = CASES[name]
    for side in (-30.0, 30.0):
        eta = predictors(name)
        eta[: len(family.prefixes)] = side if name != "poisson" else side / 3
        value = families.log_likelihood(family, cells, eta)
        gradient, curvature = at_point(family, cells, eta)
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()
        assert np.isfinite(curvature).all()
        if name in ("logit", "probit", "cloglog"):  # a cell with both outcomes pulls back
            assert np.all(np.sign(gradient[0, 4:]) == -np.sign(side))


# ---- derivatives ----


def autodiff(family, cells, eta):
    def cell(one, values):
        columns = {name: value[None] for name, value in values.items()}
        return families.log_likelihood(family, columns, one[:, None], xp=jnp)[0]

    with jax.enable_x64(True):
        arrays = jnp.asarray(eta.T), {name: jnp.asarray(v) for name, v in cells.items()}
        gradient, hessian = jax.jit(lambda e, c: (jax.vmap(jax.grad(cell))(e, c), jax.vmap(jax.hessian(cell))(e, c)))(
            *arrays
        )
    return np.asarray(gradient).T, -np.moveaxis(np.asarray(hessian), 0, -1)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_automatic_differentiation(name):
    family, cells = CASES[name]
    eta = predictors(name, spread=1.5)
    expected = autodiff(family, cells, eta)
    for found, exact in zip(at_point(family, cells, eta), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-9 * np.abs(exact).max())


def test_a_wrong_derivative_is_found_out(monkeypatch):
    right = binomial.expected_derivatives

    def without_failures(family, statistics, eta, weights):
        return right(family, {**statistics, "num_trials": statistics["num_successes"]}, eta, weights)

    monkeypatch.setattr(binomial, "expected_derivatives", without_failures)
    with pytest.raises(AssertionError):
        test_derivatives_are_those_of_automatic_differentiation("probit")


@pytest.mark.parametrize("name", [n for n, (family, _) in CASES.items() if family.is_log_concave])
def test_families_said_to_be_log_concave_have_positive_curvature(name):
    family, cells = CASES[name]
    for seed in range(20):
        _, curvature = at_point(family, cells, predictors(name, 3.0, seed))
        values = np.linalg.eigvalsh(np.moveaxis(curvature, -1, 0))
        assert values.min() >= -1e-9 * values.max()


@pytest.mark.parametrize("name", ["student_t", "negative_binomial", "beta_binomial"])
def test_families_said_not_to_be_have_a_cell_with_negative_curvature(name):
    family, cells = CASES[name]
    points = (at_point(family, cells, predictors(name, 2.0, seed))[1] for seed in range(20))
    assert min(np.linalg.eigvalsh(np.moveaxis(curvature, -1, 0)).min() for curvature in points) < 0


# ---- quadrature ----

TOLERANCES = {0.1: 1e-6, 0.5: 1e-5, 1.0: 1e-3}
"""Largest error of an expectation, relative to what the cell knows, by sd of the linear predictor (docs/families.md)."""
LOOSER = {"student_t": 50.0, "ordinal_4": 10.0}
OWN_SD = 0.05
FINE = {1: 120, 2: 60, 3: 30, 4: 16}


def expectation(name, eta, sd, num_nodes=11, rule=None):
    """Errors of expected gradient and curvature against a product rule, relative to the root of the curvature's magnitude."""
    family, cells = CASES[name]
    size = family.num_predictors
    sds = np.array([sd] * len(family.prefixes) + [OWN_SD] * len(family.own))
    matrix = np.outer(sds, sds) * (0.3 + 0.7 * np.eye(size))
    gradient, curvature = families.expected_derivatives(
        family, cells, eta, np.repeat(matrix[:, :, None], NUM_CELLS, axis=2), num_nodes
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(FINE[size])
    grid = np.array(list(product(nodes, repeat=size))).T
    weight = np.array(list(product(weights / weights.sum(), repeat=size))).prod(axis=1)
    grid, weight = np.linalg.cholesky(matrix) @ grid[:, weight > 1e-15], weight[weight > 1e-15]
    worst = 0.0
    for i in range(NUM_CELLS):
        cell = {key: np.full(len(weight), column[i]) for key, column in cells.items()}
        by_node = at_point(family, cell, eta[:, i, None] + grid)
        magnitude = np.abs(by_node[1][np.arange(size), np.arange(size)]) @ weight
        known = np.where(magnitude > 1e-12, np.sqrt(magnitude), np.inf)  # one trial says nothing of a dispersion
        exact = by_node[0] @ weight, by_node[1] @ weight
        worst = max(worst, (np.abs(gradient[:, i] - exact[0]) / np.maximum(known, np.abs(exact[0]))).max())
        worst = max(worst, (np.abs(curvature[:, :, i] - exact[1]) / np.outer(known, known)).max())
    return worst


@pytest.mark.parametrize("sd", TOLERANCES)
@pytest.mark.parametrize("name", CASES)
def test_expectations_are_those_of_a_product_rule(name, sd):
    eta = predictors(name)
    assert expectation(name, eta, sd) < TOLERANCES[sd] * LOOSER.get(name, 1.0)


@pytest.mark.parametrize("name", ["logit", "negative_binomial", "student_t"])
def test_too_few_nodes_are_found_out(name):
    assert expectation(name, predictors(name), 1.0, num_nodes=2) > TOLERANCES[1.0] * LOOSER.get(name, 1.0)


@pytest.mark.parametrize(("size", "num_own"), [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (2, 1), (3, 2), (4, 3)])
@pytest.mark.parametrize("small", [True, False])
def test_rules_are_exact_for_low_degrees(size, num_own, small):
    """Degree 5 in the linear predictors and two own parameters; degree 3 in more."""
    nodes, weights = quadrature.rule(size, num_own, 11, small=small)
    assert nodes.shape == (size, len(weights))
    degree = 3 if num_own > 2 else 5
    moment = {0: 1.0, 1: 0.0, 2: 1.0, 3: 0.0, 4: 3.0, 5: 0.0}
    for powers in product(range(degree + 1), repeat=size):
        if sum(powers) <= degree:
            exact = np.prod([moment[p] for p in powers])
            found = np.prod(nodes ** np.array(powers)[:, None], axis=0) @ weights
            assert found == pytest.approx(exact, abs=1e-10), powers


def test_square_roots_give_the_covariance_back_also_where_a_variance_is_zero():
    a = np.random.default_rng(1).normal(size=(3, 3, 5))
    covariance = np.einsum("ikn,jkn->ijn", a, a)
    covariance[1, :, 2] = covariance[:, 1, 2] = 0.0
    covariance[:, :, 3] = 0.0
    lower = quadrature.square_root(covariance)
    np.testing.assert_allclose(np.einsum("ikn,jkn->ijn", lower, lower), covariance, atol=1e-12)
    assert np.all(np.triu(np.ones((3, 3)), 1)[:, :, None] * lower == 0)


def test_the_positive_part_keeps_positive_matrices_and_clips_the_others():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(3, 3, 4))
    positive = np.einsum("ikn,jkn->ijn", a, a)
    np.testing.assert_allclose(sites.positive_part(positive), positive, atol=1e-12)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    mixed = (rotation * [2.0, -1.0, 0.5]) @ rotation.T
    expected = (rotation * [2.0, 0.0, 0.5]) @ rotation.T
    np.testing.assert_allclose(sites.positive_part(mixed[:, :, None])[:, :, 0], expected, atol=1e-12)


# ---- what else a family says ----


def test_expected_outcomes_are_means_by_scipy():
    eta = np.random.default_rng(1).normal(size=(1, 4))
    cases = {
        ("binomial", "logit"): expit(eta), ("binomial", "probit"): stats.norm.cdf(eta),
        ("binomial", "cloglog"): 1 - np.exp(-np.exp(eta)), ("poisson", "log"): np.exp(eta), ("gaussian", "identity"): eta,
    }  # fmt: skip
    for (name, link), expected in cases.items():
        np.testing.assert_allclose(families.expected_outcome(families.make(name, link), eta), expected, rtol=1e-12)
    both = np.concatenate([eta, np.full((1, 4), 0.7)])
    shape, phi, mean = np.exp(0.7), np.exp(0.7), np.exp(eta)
    found = families.expected_outcome(families.make("negative_binomial"), both)
    np.testing.assert_allclose(found, stats.nbinom.mean(shape, shape / (shape + mean)), rtol=1e-12)
    found = families.expected_outcome(families.make("beta_binomial"), both)
    np.testing.assert_allclose(found, stats.betabinom.mean(1, phi * expit(eta), phi * expit(-eta)), rtol=1e-12)
    for name in ("categorical_4", "ordinal_4"):
        probabilities = families.expected_outcome(CASES[name][0], predictors(name))
        np.testing.assert_allclose(probabilities.sum(axis=0), 1.0, rtol=1e-12)
        one = {"num_trials": np.ones(6), **{f"count_{k}": np.zeros(6) for k in range(4)}, "count_2": np.ones(6)}
        eta = predictors(name)
        by_likelihood = np.exp(families.log_likelihood(CASES[name][0], one, eta))
        np.testing.assert_allclose(families.expected_outcome(CASES[name][0], eta)[2], by_likelihood, rtol=1e-12)


def test_starts_reproduce_the_overall_outcome():
    for link, back in (("logit", expit), ("probit", stats.norm.cdf), ("cloglog", lambda e: 1 - np.exp(-np.exp(e)))):
        assert back(families.start(families.make("binomial", link), OutcomeSummary(0.3, 0.5))[0]) == pytest.approx(0.3)
    shares = (0.1, 0.5, 0.4)
    for name in ("categorical", "ordinal"):
        family = families.make(name, None, ("a", "b", "c"))
        first = families.start(family, OutcomeSummary(0.0, 0.0, ("a", "b", "c"), shares))
        np.testing.assert_allclose(families.expected_outcome(family, first[:, None])[:, 0], shares, rtol=1e-9)
    assert families.start(families.make("student_t"), OutcomeSummary(2.0, 3.0))[0] == 2.0
    assert np.exp(families.start(families.make("poisson"), OutcomeSummary(2.0, 1.0))[0]) == pytest.approx(2.0)


def test_own_parameters_have_their_natural_scale_and_names():
    own = np.array([[-1.0, np.log(1.5), np.log(0.5)]])
    named = families.natural_own(CASES["ordinal_4"][0], own)
    assert [name for name, _ in named] == ["cutpoint[a|b]", "cutpoint[b|c]", "cutpoint[c|d]"]
    np.testing.assert_allclose([float(v[0]) for _, v in named], [-1.0, 0.5, 1.0])
    np.testing.assert_allclose(ordinal.cutpoints(own.T)[:, 0], [-1.0, 0.5, 1.0])
    ((name, value),) = families.natural_own(families.make("negative_binomial"), np.array([[np.log(3.0)]]))
    assert (name, float(value[0])) == ("shape", pytest.approx(3.0))


def test_links_are_inverse_functions_of_known_quantiles():
    eta = np.array([[ndtri(0.2), logit(0.2)]])
    assert families.expected_outcome(families.make("binomial", "probit"), eta[:, :1])[0, 0] == pytest.approx(0.2)
    assert families.expected_outcome(families.make("binomial"), eta[:, 1:])[0, 0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "found", "expected"),
    [
        (("binomal",), "'binomal'", "'binomial', perhaps"),
        (("zzz",), "'zzz'", "one of"),
        (("poisson", "logit"), "'logit'", "['log'] for the family 'poisson'"),
        (("bernoulli", "log"), "'log'", "['logit', 'probit', 'cloglog']"),
        (("categorical", None, ("a",)), "1 categories", "2 or more"),
        (("ordinal", None, ("a", "b")), "2 categories", "3 or more"),
    ],
)
def test_a_family_that_cannot_be_says_what_was_found_and_expected(arguments, found, expected):
    with pytest.raises(ModelError) as caught:
        families.make(*arguments)
    assert found in str(caught.value)
    assert expected in str(caught.value)


def test_bernoulli_is_binomial_and_categories_of_others_are_dropped():
    assert families.make("bernoulli") == families.BINOMIAL
    assert families.make("poisson", None, ("a", "b")).categories == ()
