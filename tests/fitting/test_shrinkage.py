"""The horseshoe and the Hamiltonian chain of many scales: gradients, known targets, and NUTS on the same posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import integrate, stats

from fitting import in_memory, scale_hmc, scale_marginal
from fitting.config import ModelConfig
from fitting.shrinkage import Shrinkage

NUM_COLUMNS = 13  # with the global scale and the state's sd more hyperparameters than an independence sampler is for


def columns(num_rows=300, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (num_rows, NUM_COLUMNS)).astype(float)
    effect = np.zeros(NUM_COLUMNS)
    effect[:2] = 1.5, -1.0
    y = x @ effect + rng.normal(size=num_rows)
    cells = {f"x{j:02d}": x[:, j] for j in range(NUM_COLUMNS)}
    return cells | {
        "state": np.array([f"s{i % 5}" for i in range(num_rows)]),
        "num_trials": np.ones(num_rows), "sum_y": y, "squared_deviations": np.zeros(num_rows),
    }  # fmt: skip


FORMULA = "y ~ 1 + " + " + ".join(f"x{j:02d}" for j in range(NUM_COLUMNS)) + " + (1 | state)"


@pytest.fixture(scope="module")
def run():
    return in_memory.fit(
        columns(), FORMULA, family="gaussian", chosen_priors={"b": {"structure": "horseshoe", "scale": 0.2}}, num_draws=500
    )


def test_prior_integrates_to_one_and_its_gradient_is_right():
    one = Shrinkage(np.arange(1), ("x",), 0.3, 2.0)
    total, _ = integrate.dblquad(lambda a, b: np.exp(one.log_prior(np.array([a, b]))), -30, 30, -30, 30, epsabs=1e-6)
    assert abs(total - 1.0) < 1e-4
    many = Shrinkage(np.arange(4), tuple("abcd"), 0.3, 2.0)
    psi, second = np.random.default_rng(0).normal(size=5), np.array([0.1, 1.0, 0.01, 3.0])

    def value(psi):
        precision = many.precision(psi, jnp)
        return many.log_prior(psi, jnp) + 0.5 * jnp.sum(jnp.log(precision) - precision * second)

    with jax.enable_x64(True):
        np.testing.assert_allclose(many.score(psi, second), jax.grad(value)(jnp.asarray(psi)), rtol=1e-8)


def test_gradient_of_the_marginal_is_that_of_its_value(run):
    psi = run.proposal.mode + 0.3 * np.random.default_rng(1).normal(size=run.hierarchy.size)
    value, gradient = scale_marginal.value_and_gradient(run.hierarchy, run.natural, psi)
    assert value == pytest.approx(scale_marginal.log_density(run.hierarchy, run.natural, psi))
    step = 1e-5
    numeric = [
        (scale_marginal.log_density(run.hierarchy, run.natural, psi + s) - scale_marginal.log_density(run.hierarchy, run.natural, psi - s)) / (2 * step)
        for s in step * np.eye(run.hierarchy.size)
    ]  # fmt: skip
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("broken", [False, True])
def test_the_chain_draws_from_a_known_target(broken):
    """Independent log-gamma variables, a skewed target; the broken twin's gradient and value disagree with it."""
    shape = np.arange(2.0, 8.0)

    def target(psi):
        excess = 0.5 if broken else 0.0
        return float((shape + excess) @ psi - np.exp(psi).sum()), shape + excess - np.exp(psi)

    rng = np.random.default_rng(2)
    points = list(scale_hmc.draw(target, np.log(shape), np.diag(shape**-0.5), rng, 3000))
    draws = np.exp(np.stack([p.position for p in points]))[None]  # gamma variables
    acceptance = np.mean([p.moved for p in points])
    assert 0.6 < acceptance < 0.97
    mcse = array_stats.mcse(draws, chain_axis=0, draw_axis=1, method="mean")
    z = np.abs(draws.mean((0, 1)) - shape) / mcse
    limit = stats.norm.isf(1e-6 / (2 * len(shape)))
    assert (z < limit).all() != broken


def test_horseshoe_agrees_with_full_data_nuts(run):
    """NumPyro on the same rows, its own writing of the model; False alarm 1e-4 over all coefficients."""
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS

    cells = columns()
    coding, coded = in_memory.code(cells, ModelConfig(formula=FORMULA, family="gaussian").parsed_formula(), {n: cells[n] for n in ("num_trials", "sum_y", "squared_deviations")})  # fmt: skip
    x = np.stack([coded[f"x{j:02d}"] for j in range(NUM_COLUMNS)], axis=1)
    y, state, sd, mean = cells["sum_y"], coded["state"], coding.outcome.sd, coding.outcome.mean

    def model():
        tau, local = numpyro.sample("tau", dist.HalfCauchy(0.2)), numpyro.sample("local", dist.HalfCauchy(1.0).expand([NUM_COLUMNS]))
        raw = numpyro.sample("raw", dist.Normal(0, 1).expand([NUM_COLUMNS]))
        b = numpyro.deterministic("b", raw / jnp.sqrt((tau * local) ** -2.0 + 2.5**-2.0))
        group = numpyro.sample("sd", dist.HalfNormal(sd))
        effect = numpyro.sample("effect", dist.Normal(0, 1).expand([5]))
        intercept = numpyro.sample("intercept", dist.Normal(mean, 2.5 * sd))
        sigma = numpyro.sample("sigma", dist.Exponential(1.0 / sd))
        numpyro.sample("y", dist.Normal(intercept + x @ b + group * effect[state], sigma), obs=y)

    with jax.enable_x64(True):
        sampler = MCMC(NUTS(model, target_accept_prob=0.95), num_warmup=1000, num_samples=3000, num_chains=1, progress_bar=False)
        sampler.run(jax.random.key(0))
        reference = np.asarray(sampler.get_samples()["b"])[None]
    names = run.hierarchy.model.coefficient_names().tolist()
    found = run.draws.theta[..., [names.index(f"x{j:02d}") for j in range(NUM_COLUMNS)]]
    error = np.abs(found.mean((0, 1)) - reference.mean((0, 1)))
    mcse = [array_stats.mcse(d, chain_axis=0, draw_axis=1, method="mean") for d in (found, reference)]
    z = stats.norm.isf(1e-4 / (2 * NUM_COLUMNS))
    sds = reference.std((0, 1))
    assert np.all(z * np.hypot(*mcse) < 0.4 * sds), "inconclusive: draw more"
    assert np.all(error < 0.1 * sds + z * np.hypot(*mcse)), (error / sds).max()
    assert np.all(np.abs(found.std((0, 1)) / sds - 1) < 0.25)
    shrunk_twice = 0.7 * found.mean((0, 1))
    assert np.any(np.abs(shrunk_twice - reference.mean((0, 1))) > 0.1 * sds + z * np.hypot(*mcse)), "the test sees nothing"


def test_only_fixed_coefficients_can_have_a_horseshoe():
    with pytest.raises(ValueError, match="expected one for b"):
        ModelConfig(formula=FORMULA, family="gaussian", priors={"x01": {"structure": "horseshoe"}})
