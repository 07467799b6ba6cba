"""Priors: what is read and refused, and densities against SciPy and NumPyro."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpyro.distributions import LKJCholesky
from scipy import integrate, stats

from fitting import families, priors
from fitting.errors import PriorError
from fitting.priors import Prior

positive = st.floats(1e-3, 1e3)
REFERENCE = {
    "normal": lambda mean, sd: stats.norm(mean, sd),
    "half_normal": lambda scale: stats.halfnorm(scale=scale),
    "exponential": lambda rate: stats.expon(scale=1 / rate),
    "half_cauchy": lambda scale: stats.halfcauchy(scale=scale),
}


def any_prior():
    return st.one_of(
        st.tuples(st.floats(-1e3, 1e3), positive).map(lambda args: Prior("normal", args)),
        st.sampled_from(["half_normal", "exponential", "half_cauchy"]).flatmap(
            lambda name: positive.map(lambda value: Prior(name, (value,)))
        ),
    )


@given(any_prior(), st.floats(1e-6, 1e4))
def test_log_density_is_scipys(prior, x):
    expected = REFERENCE[prior.name](*prior.args).logpdf(x)
    np.testing.assert_allclose(priors.log_density(prior, np.float64(x)), expected, rtol=1e-10, atol=1e-10)


@given(st.floats(0.5, 100), positive, st.floats(1e-6, 1e4))
def test_half_student_t_is_twice_a_student_t(df, scale, x):
    expected = np.log(2) + stats.t(df, scale=scale).logpdf(x)
    np.testing.assert_allclose(
        priors.log_density(Prior("half_student_t", (df, scale)), np.float64(x)), expected, rtol=1e-9
    )


@pytest.mark.parametrize("text", ["half_normal(2)", "exponential(3)", "half_cauchy(1)", "half_student_t(3, 2.5)"])
def test_scales_are_positive_and_densities_are_normalised(text):
    prior = priors.parse(text, "scale")
    assert np.isneginf(priors.log_density(prior, np.array([-1.0, -1e-9]))).all()
    total, _ = integrate.quad(lambda x: np.exp(priors.log_density(prior, x)), 0, np.inf)
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "text", ["normal(1, 2)", "half_normal(2)", "exponential(3)", "half_cauchy(1)", "half_student_t(3, 2)"]
)
def test_arrays_of_numpy_and_jax_give_the_same(text):
    prior, x = priors.parse(text), np.array([[-1.0, 0.0], [0.5, 7.0]])
    found = priors.log_density(prior, jnp.asarray(x), xp=jnp)
    assert isinstance(found, jnp.ndarray)
    np.testing.assert_allclose(found, priors.log_density(prior, x), rtol=1e-6)


@pytest.mark.parametrize("concentration", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_lkj_is_numpyros(concentration, dimension):
    rng = np.random.default_rng(dimension)
    raw = rng.normal(size=(3, dimension, dimension + 2))
    covariance = raw @ np.swapaxes(raw, 1, 2)
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    factor = np.linalg.cholesky(covariance / sd[:, :, None] / sd[:, None, :])
    found = priors.log_density(Prior("lkj", (concentration,)), factor)
    assert found.shape == (3,)
    if dimension > 1:
        expected = LKJCholesky(dimension, concentration).log_prob(jnp.asarray(factor))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, 0)


def test_lkj_of_one_correlation_integrates_to_one():
    def density(rho):
        factor = np.array([[1.0, 0.0], [rho, np.sqrt(1 - rho**2)]])
        return np.exp(priors.log_density(Prior("lkj", (1.7,)), factor))

    assert integrate.quad(density, -1, 1)[0] == pytest.approx(1, abs=1e-7)


@given(any_prior())
def test_text_of_a_prior_reads_back_as_the_prior(prior):
    assert priors.parse(str(prior)) == prior


@pytest.mark.parametrize(
    ("text", "role", "message"),
    [
        ("half_norml(1)", None, "half_normal(scale), perhaps"),
        ("uniform(0, 1)", None, "unknown name 'uniform'"),
        ("normal", None, "something other than name(numbers)"),
        ("normal(0, 1) + 1", None, "something other than name(numbers)"),
        ("normal(exp(1), 1)", None, "something other than name(numbers)"),
        ("normal(0)", None, "1 argument; expected normal(mean, sd)"),
        ("normal()", None, "0 arguments"),
        ("normal(0, 1, 2)", None, "3 arguments"),
        ("normal(0, one)", None, "sd 'one'; expected a number"),
        ("normal(0, 0)", None, "sd 0; expected a positive number"),
        ("normal(nan, 1)", None, "mean nan; expected a finite number"),
        ("exponential(inf)", None, "rate inf"),
        ("normal(0, 1)", "scale", "a prior for a coefficient; expected one for a scale: half_normal(scale)"),
        ("half_normal(1)", "correlation", "expected one for a correlation: lkj(concentration)"),
    ],
)
def test_refusals_say_what_was_expected(text, role, message):
    with pytest.raises(PriorError) as caught:
        priors.parse(text, role)
    assert message in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_defaults_follow_the_outcomes_scale_only_if_gaussian():
    logit = priors.default_priors(families.BINOMIAL, outcome_sd=20.0, outcome_mean=50.0)
    assert {key: str(prior) for key, prior in logit.items()} == {
        "intercept": "normal(0, 2.5)",
        "b": "normal(0, 2.5)",
        "sd": "half_normal(1)",
        "cor": "lkj(1)",
    }
    gaussian = priors.default_priors(families.GAUSSIAN, outcome_sd=20.0, outcome_mean=50.0)
    assert {key: str(prior) for key, prior in gaussian.items()} == {
        "intercept": "normal(50, 50)",
        "b": "normal(0, 50)",
        "sd": "half_normal(20)",
        "cor": "lkj(1)",
        "sigma": "exponential(0.05)",
    }
