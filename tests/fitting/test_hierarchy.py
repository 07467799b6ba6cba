"""The hierarchical prior against dense Gaussians, the LKJ density and finite differences."""

import numpy as np
import pytest

from fitting import families, formula, in_memory, model, priors
from fitting import hierarchy as hierarchies
from fitting import tree as tr
from fitting.hierarchy import correlation_cholesky
from fitting.priors import Prior


def make(text, family="binomial", **chosen):
    rng = np.random.default_rng(0)
    size = 80
    columns = {
        "g": rng.choice(["a", "b", "c", "d"], size),
        "h": rng.choice(["u", "v", "w"], size),
        "x": rng.normal(size=size),
        "z": rng.normal(size=size),
    }
    statistics = {"num_trials": np.ones(size), "num_successes": np.ones(size)}
    parsed = formula.parse(text)
    coding, _ = in_memory.code(columns, parsed, statistics)
    defaults = priors.default_priors(families.make(family))
    return hierarchies.build(
        model.build(parsed, coding, families.make(family)), defaults | {k: priors.parse(v) for k, v in chosen.items()}
    )


SLOPES = "y ~ 1 + x + (1 + x + z | g) + (1 + x || h) + (1 | g:h)"


@pytest.mark.parametrize("k", [2, 3, 5])
def test_correlations_are_correlations(k):
    for seed in range(20):
        lower = correlation_cholesky(np.random.default_rng(seed).normal(size=k * (k - 1) // 2) * 1.5, k)
        correlation = lower @ lower.T
        np.testing.assert_allclose(np.diagonal(correlation), 1.0)
        assert np.linalg.eigvalsh(correlation)[0] > 0
        np.testing.assert_array_equal(lower, np.tril(lower))


@pytest.mark.parametrize(
    ("terms", "concentration"), [("1 + x", 1.0), ("1 + x", 3.0), ("1 + x + z", 1.0), ("1 + x + z", 2.5)]
)
def test_the_prior_of_correlations_is_lkj_with_its_jacobian(terms, concentration):
    """Density over the factor's free entries, changed to the unconstrained line: equal up to one constant."""
    prior = make(f"y ~ 1 + ({terms} | g)", cor=f"lkj({concentration})")
    k = terms.count("+") + 1
    count = k * (k - 1) // 2
    free = np.tril_indices(k, -1)
    difference = []
    for seed in range(8):
        psi = np.zeros(prior.size)
        psi[k:] = np.random.default_rng(seed).normal(size=count)
        jacobian = np.empty((count, count))
        for i in range(count):
            step = 1e-6 * (np.arange(count) == i)
            jacobian[:, i] = (correlation_cholesky(psi[k:] + step, k) - correlation_cholesky(psi[k:] - step, k))[
                free
            ] / 2e-6
        lower = correlation_cholesky(psi[k:], k)
        density = lower[1, 0] if k == 2 else lower
        factor_density = priors.log_density(Prior("lkj", (concentration,)), lower)
        if k == 2:  # the density is over the correlation itself, which is the factor's free entry
            assert density == (lower @ lower.T)[1, 0]
        difference.append(prior.log_prior(psi) - factor_density - np.linalg.slogdet(jacobian)[1])
    np.testing.assert_allclose(difference, difference[0], atol=1e-6)


@pytest.mark.parametrize("text", ["half_normal(0.7)", "exponential(2)", "half_student_t(3, 2)", "half_cauchy(1)"])
def test_the_prior_of_a_scale_integrates_to_one_on_the_log_line(text):
    prior = make("y ~ 1 + (1 | g)", sd=text)
    psi = np.linspace(-25, 25, 20_001)
    density = np.exp([prior.log_prior(np.array([p])) for p in psi])
    np.testing.assert_allclose(density.sum() * (psi[1] - psi[0]), 1.0, rtol=1e-4)


def test_coefficients_given_scales_are_the_gaussian_that_the_prior_adds():
    prior = make(SLOPES, intercept="normal(0.3, 2)", b="normal(-1, 0.5)")
    tree = prior.model.tree
    rng = np.random.default_rng(1)
    real = ~prior.model.is_padding
    for _ in range(3):
        psi, theta = rng.normal(size=prior.size) * 0.7, rng.normal(size=(tree.num_coefficients, 2))
        precision, shift, log_determinant = prior.add_prior(
            psi, np.zeros(tree.num_entries), np.zeros(tree.num_coefficients)
        )
        dense = tr.dense(tree, precision)
        np.testing.assert_allclose(log_determinant, np.linalg.slogdet(dense[np.ix_(real, real)])[1])
        theta[~real] = 0.0
        kernel = [t @ shift - 0.5 * t @ dense @ t for t in theta.T]
        given = [prior.log_conditional_prior(psi, t) for t in theta.T]
        np.testing.assert_allclose(given[0] - given[1], kernel[0] - kernel[1])
    natural = prior.natural(psi[None])[0]
    sd, names = dict(zip(prior.names(), natural, strict=True)), prior.names()
    block = prior.model.groups[0]
    covariance = np.linalg.inv(dense[np.ix_(block.coefficients[0], block.coefficients[0])])
    assert names[:6] == ["sd(1|g)", "sd(x|g)", "sd(z|g)", "cor(1,x|g)", "cor(1,z|g)", "cor(x,z|g)"]
    np.testing.assert_allclose(np.sqrt(np.diagonal(covariance)), [sd["sd(1|g)"], sd["sd(x|g)"], sd["sd(z|g)"]])
    np.testing.assert_allclose(covariance[0, 2] / np.sqrt(covariance[0, 0] * covariance[2, 2]), sd["cor(1,z|g)"])
    np.testing.assert_allclose(covariance[1, 2] / np.sqrt(covariance[1, 1] * covariance[2, 2]), sd["cor(x,z|g)"])


@pytest.mark.parametrize("family", ["binomial", "gaussian"])
def test_score_is_the_gradient(family):
    prior = make(SLOPES, family)
    rng = np.random.default_rng(2)
    psi, theta = rng.normal(size=prior.size) * 0.5, rng.normal(size=prior.model.tree.num_coefficients)
    moments = [theta[g.coefficients].T @ theta[g.coefficients] for g in prior.model.groups]

    def value(p):
        return prior.log_prior(p) + prior.log_conditional_prior(p, theta)

    numeric = [(value(psi + 1e-5 * e) - value(psi - 1e-5 * e)) / 2e-5 for e in np.eye(prior.size)]
    np.testing.assert_allclose(prior.score(psi, moments), numeric, rtol=1e-5, atol=1e-6)


def test_priors_go_to_the_terms_that_they_name():
    prior = make(
        "y ~ 1 + x + z + (1 + x | g) + (1 | h)",
        x="normal(1, 0.1)",
        **{"1|h": "exponential(4)", "x|g": "half_normal(3)"},
    )
    assert prior.fixed_mean.tolist() == [0.0, 1.0, 0.0]
    np.testing.assert_allclose(prior.fixed_precision**-0.5, [2.5, 0.1, 2.5])
    assert [[str(p) for p in group] for group in prior.scale_priors] == [
        ["half_normal(1)", "half_normal(3)"], ["exponential(4)"],
    ]  # fmt: skip


def test_jax_agrees_with_numpy():
    import jax
    import jax.numpy as jnp

    prior = make(SLOPES, "gaussian")
    rng = np.random.default_rng(3)
    psi, theta = rng.normal(size=prior.size), rng.normal(size=prior.model.tree.num_coefficients)
    with jax.enable_x64(True):
        on_device = (
            prior.log_prior(jnp.asarray(psi), jnp),
            prior.log_conditional_prior(jnp.asarray(psi), jnp.asarray(theta), jnp),
            prior.residual_sd(jnp.asarray(psi), jnp),
        )
    expected = (prior.log_prior(psi), prior.log_conditional_prior(psi, theta), prior.residual_sd(psi))
    np.testing.assert_allclose(np.array(on_device), np.array(expected), rtol=1e-10)
