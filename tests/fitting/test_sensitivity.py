"""Prior sensitivity by power-scaling: against a conjugate problem, where the scaled posterior is known."""

import numpy as np

from fitting import in_memory, sensitivity


def fit(sd, mean=0.0, num_rows=40):
    rng = np.random.default_rng(1)
    y = rng.normal(2.0, 1.0, num_rows)
    cells = {"one": np.zeros(num_rows), "num_trials": np.ones(num_rows), "sum_y": y, "squared_deviations": 0.0 * y}
    return in_memory.fit(
        cells, "y ~ 1", family="gaussian", chosen_priors={"intercept": f"normal({mean}, {sd})"}, num_draws=1000
    )


def rows(run):
    theta = run.draws.theta.reshape(-1, run.draws.theta.shape[-1])
    psi = run.draws.psi.reshape(len(theta), -1)
    statistics = run.designs[0].statistics
    residual = np.exp(psi[:, -1])
    y, count = statistics["sum_y"], statistics["num_trials"].sum()
    squares = np.square(y).sum() - 2 * theta[:, 0] * y.sum() + count * theta[:, 0] ** 2
    log_likelihood = -0.5 * squares / residual**2 - count * np.log(residual)
    found = sensitivity.power_scale(run.hierarchy, theta, psi, log_likelihood)
    return {row["parameter"]: row for row in found}


def test_a_weak_prior_does_not_matter_and_the_data_do():
    found = rows(fit(sd=100.0))
    assert found["Intercept"]["prior"] < 0.01
    assert found["Intercept"]["likelihood"] > sensitivity.SENSITIVE
    assert found["Intercept"]["flag"] == "ok"


def test_a_prior_against_the_data_is_flagged():
    found = rows(fit(sd=0.3, mean=-1.0))
    assert found["Intercept"]["prior"] > sensitivity.SENSITIVE
    assert found["Intercept"]["flag"] == "prior-data conflict"


def test_the_chosen_log_prior_is_the_one_that_was_written():
    run = fit(sd=0.7, mean=0.4)
    theta = run.draws.theta.reshape(-1, 1)[:5]
    psi = run.draws.psi.reshape(-1, 1)[:5]
    found = sensitivity.chosen_log_prior(run.hierarchy, theta, psi)
    rate = run.hierarchy.residual_prior.args[0]
    expected = -0.5 * ((theta[:, 0] - 0.4) / 0.7) ** 2 - rate * np.exp(psi[:, 0]) + psi[:, 0]
    np.testing.assert_allclose(found - found[0], expected - expected[0], rtol=1e-9)
