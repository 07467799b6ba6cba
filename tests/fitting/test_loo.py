"""Leave-one-out by importance sampling against exact leave-one-out, and what it says about models and about weights."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import betaln, expit, log_expit, logsumexp

from fitting import checks, in_memory, loo, pointwise
from fitting.errors import ModelError
from fitting.families import BINOMIAL, GAUSSIAN

MAX_OFF = 5.0  # Monte Carlo errors; 12 to 60 units each: false alarm below 1e-4


def binomial_problem(num_cells, num_draws, seed=0, people=6):
    """One common rate with a beta prior: draws of its logit, and the conjugate answer for every person and cell."""
    rng = np.random.default_rng(seed)
    trials = rng.integers(1, people, num_cells).astype(float)
    successes = rng.binomial(trials.astype(int), 0.3).astype(float)
    a, b = 2.0, 3.0
    post = a + successes.sum(), b + (trials - successes).sum()
    rate = rng.beta(*post, num_draws)
    return trials, successes, post, np.log(rate) - np.log1p(-rate)


def exact_people(trials, successes, post):
    a, b = post
    total = a + b - 1
    return successes.sum() * np.log((a - 1) / total) + (trials - successes).sum() * np.log((b - 1) / total)


def design_of(trials, successes):
    """Cells whose only coefficient is the logit itself."""
    from fitting.cell_design import CellDesign

    statistics = {"num_trials": trials, "num_successes": successes}
    return CellDesign((np.zeros(len(trials), dtype=np.int32),), (None,), (0,), statistics)


def test_people_of_a_beta_binomial_cell_are_left_out_exactly():
    trials, successes, post, logit = binomial_problem(60, 4000)
    found = loo.shard(BINOMIAL, design_of(trials, successes), logit[None, :], np.ones(4000))
    result = loo.estimate(*((p.each, p.num_people) for p in found.people))
    exact = exact_people(trials, successes, post)
    a, b = post
    p_sd = np.sqrt(a * b / (a + b + 1)) / (a + b)  # a person's log density moves by sd(p)/p a draw, all people together
    noise = abs(successes.sum() / (a / (a + b)) - (trials - successes).sum() / (b / (a + b))) * p_sd
    noise = max(noise, np.sqrt(trials.sum())) * 2 * p_sd / np.sqrt(4000)
    assert abs(result.elpd - exact) < MAX_OFF * noise
    assert noise < 0.05
    assert result.num_units == trials.sum()
    assert result.num_bad == 0


def test_a_cell_is_left_out_with_all_of_its_people():
    trials, successes, post, logit = binomial_problem(12, 20_000, people=5)
    found = loo.shard(BINOMIAL, design_of(trials, successes), logit[None, :], np.ones(20_000)).cells
    a, b = post
    without = a - successes, b - (trials - successes)
    exact = betaln(a, b) - betaln(*without)
    np.testing.assert_allclose(found.elpd, exact, atol=0.02)
    together = found.elpd - loo_by_person(trials, successes, post)
    assert np.abs(together).max() > 0.1, "a cell is another unit than its people, or this test shows nothing"


def loo_by_person(trials, successes, post):
    a, b = post
    return successes * np.log((a - 1) / (a + b - 1)) + (trials - successes) * np.log((b - 1) / (a + b - 1))


def linear_regression(num_rows, num_draws, seed=1):
    """Conjugate regression with known noise: draws, and the exact predictive of each row given all others."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(num_rows), rng.normal(size=num_rows)])
    y = x @ [0.5, 1.0] + rng.normal(size=num_rows)
    precision = x.T @ x + np.eye(2)
    mean = np.linalg.solve(precision, x.T @ y)
    theta = rng.multivariate_normal(mean, np.linalg.inv(precision), num_draws)
    exact = np.empty(num_rows)
    for i in range(num_rows):
        rest = np.delete(np.arange(num_rows), i)
        q = x[rest].T @ x[rest] + np.eye(2)
        m = np.linalg.solve(q, x[rest].T @ y[rest])
        exact[i] = stats.norm.logpdf(y[i], x[i] @ m, np.sqrt(1 + x[i] @ np.linalg.solve(q, x[i])))
    log_likelihood = stats.norm.logpdf(y[:, None], x @ theta.T, 1.0)
    return log_likelihood, exact, theta, (x, y)


def test_linear_regression_is_left_out_as_if_refitted():
    log_likelihood, exact, _, _ = linear_regression(40, 10_000)
    found = loo.psis(log_likelihood)
    weights = np.exp(-log_likelihood)
    mcse = weights.std(axis=1) / weights.mean(axis=1) / np.sqrt(10_000)
    assert mcse.max() < 0.01, "inconclusive: draw more"
    assert np.all(np.abs(found.elpd - exact) < MAX_OFF * mcse)
    in_sample = logsumexp(log_likelihood, axis=1) - np.log(10_000)
    assert in_sample.sum() - exact.sum() > 1.0, "leaving in and leaving out must differ, or this test shows nothing"
    np.testing.assert_allclose(found.lpd, in_sample)
    assert loo.estimate((found, np.ones(40))).p_loo == pytest.approx(in_sample.sum() - exact.sum(), abs=0.05)


def test_weights_the_wrong_way_round_would_be_found():
    """The broken twin: with the sign of the log weights turned the densities are those of a posterior that saw y twice."""
    log_likelihood, exact, _, _ = linear_regression(40, 10_000)
    turned = logsumexp(2 * log_likelihood, axis=1) - logsumexp(log_likelihood, axis=1)
    assert abs(turned.sum() - exact.sum()) > 50 * abs(loo.psis(log_likelihood).elpd.sum() - exact.sum())


def test_draws_of_an_approximation_are_corrected_by_the_ratio():
    """Draws of a posterior that is 0.7 sds off and 1.3 times too wide, with their exact log ratio."""
    _, exact, _, (x, y) = linear_regression(40, 100)
    rng, num_draws = np.random.default_rng(2), 40_000
    precision = x.T @ x + np.eye(2)
    mean, cov = np.linalg.solve(precision, x.T @ y), np.linalg.inv(precision)
    off = mean + 0.7 * np.sqrt(np.diag(cov))
    theta = rng.multivariate_normal(off, 1.69 * cov, num_draws)
    ratio = stats.multivariate_normal(mean, cov).logpdf(theta) - stats.multivariate_normal(off, 1.69 * cov).logpdf(
        theta
    )
    log_likelihood = stats.norm.logpdf(y[:, None], x @ theta.T, 1.0)
    right, wrong = loo.psis(log_likelihood, ratio), loo.psis(log_likelihood)
    np.testing.assert_allclose(right.elpd, exact, atol=0.05)
    assert np.abs(wrong.elpd - exact).max() > 0.1


def test_smoothing_is_left_out_only_where_it_changes_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    log_likelihood = -rng.normal(size=(30, 1000)) * np.linspace(0.01, 0.5, 30)[:, None]
    shortened = loo.psis(log_likelihood)
    monkeypatch.setattr(loo, "TAME", 0.0)
    smoothed = loo.psis(log_likelihood)
    tame = np.isnan(shortened.k_hat)
    mcse = log_likelihood[tame].std(axis=1) / np.sqrt(1000)
    assert 3 < tame.sum() < 15
    assert np.all(np.abs(shortened.elpd[tame] - smoothed.elpd[tame]) < 0.1 * mcse), "far below the Monte Carlo error"
    np.testing.assert_array_equal(shortened.elpd[~tame], smoothed.elpd[~tame])
    assert np.isfinite(smoothed.k_hat).all()


def test_a_cell_that_the_posterior_rests_on_has_a_bad_k():
    rng = np.random.default_rng(4)
    trials, successes = np.array([4000.0, 10.0]), np.array([2400.0, 6.0])
    logit = rng.normal(np.log(1.5), np.sqrt(1 / (4010 * 0.24)), 1000)
    found = loo.shard(BINOMIAL, design_of(trials, successes), logit[None, :], np.ones(1000))
    assert found.cells.k_hat[0] > loo.BAD_K
    assert not found.cells.k_hat[1] > loo.BAD_K
    assert loo.estimate((found.cells, np.ones(2))).num_bad == 1
    assert loo.estimate(*((p.each, p.num_people) for p in found.people)).num_bad == 0, "one of 4,010 people is light"


def test_a_density_of_zero_is_told_and_not_hidden():
    log_likelihood = np.full((2, 200), -1.0) + 0.01 * np.random.default_rng(0).normal(size=(2, 200))
    log_likelihood[1, 3] = -np.inf
    found = loo.psis(log_likelihood)
    assert found.elpd[1] == -np.inf
    assert found.k_hat[1] == np.inf
    assert loo.estimate((found, np.ones(2))).num_bad == 1


def test_a_ratio_that_cannot_correct_is_not_used():
    rng = np.random.default_rng(7)
    slight, heavy = 0.1 * rng.normal(size=1000), 1.2 * rng.standard_exponential(1000)
    np.testing.assert_array_equal(loo.usable_ratio(slight), slight)
    assert loo.usable_ratio(np.full(1000, 3.0)) is None, "exact sites"
    assert loo.usable_ratio(heavy) is None, "weights with a Pareto tail of 1.2"
    assert loo.usable_ratio(np.r_[np.nan, slight]) is None


def test_too_few_draws_are_refused():
    with pytest.raises(ModelError, match="24 draws; expected 25"):
        loo.psis(np.zeros((1, 24)))


def test_densities_are_of_people_whatever_the_cells():
    """Cells merged or cut: the same log likelihood, Gaussian constants included."""
    rng = np.random.default_rng(5)
    eta, y = rng.normal(size=(1, 7)), rng.normal(size=6)
    whole = {
        "num_trials": np.array([6.0]),
        "sum_y": y.sum(keepdims=True),
        "squared_deviations": np.square(y - y.mean()).sum(keepdims=True),
    }
    single = stats.norm.logpdf(y[:, None], eta, 1.3)
    np.testing.assert_allclose(pointwise.log_likelihood(GAUSSIAN, whole, eta[None], 1.3)[0], single.sum(axis=0))
    counts = {"num_trials": np.array([5.0]), "num_successes": np.array([2.0])}
    found = pointwise.log_likelihood(BINOMIAL, counts, eta[None])
    np.testing.assert_allclose(found, 2 * log_expit(eta) + 3 * log_expit(-eta))
    assert [(p.outcome, p.num_people[0]) for p in pointwise.persons(BINOMIAL, counts)] == [
        ("success", 2),
        ("failure", 3),
    ]
    assert pointwise.persons(GAUSSIAN, whole) == ()


def test_sums_and_errors_count_people():
    """Counts are repetitions: the sum and the error of 3 + 2 people equal those of five units."""
    a, b = np.array([-0.5, -1.0]), np.array([-0.7, -0.8])
    found, long = loo.compare(a, b, np.array([3, 2])), loo.compare(np.repeat(a, [3, 2]), np.repeat(b, [3, 2]))
    assert found.elpd == pytest.approx(long.elpd)
    difference = np.repeat(a - b, [3, 2])
    assert found.se == pytest.approx(np.sqrt(5) * difference.std(ddof=1))
    assert (found.num_units, long.num_units) == (5, 5)
    assert np.isnan(loo.compare(a[:1], b[:1]).se), "one unit has no standard error"


# ---- runs ----


@pytest.fixture(scope="module")
def nation():
    rng = np.random.default_rng(6)
    state, race, x = np.repeat(np.arange(8), 12), np.tile(np.repeat(np.arange(3), 4), 8), np.tile([0, 1, 2, 3], 24)
    eta = 0.2 + rng.normal(0, 0.5, 8)[state] + np.array([-0.8, 0.0, 0.7])[race]
    trials = rng.integers(20, 60, 96)
    return {
        "state": np.array([f"s{s}" for s in state]), "race": np.array([f"r{r}" for r in race]), "x": x.astype(float),
        "num_trials": trials, "num_successes": rng.binomial(trials, expit(eta)),
    }  # fmt: skip


def fit(cells, formula, **options):
    return in_memory.fit(cells, formula, shards=cells["state"], num_draws=250, num_chains=2, **options)


def test_compare_picks_the_model_that_made_the_data(nation):
    """Race matters and x does not: leaving race out loses plainly, adding x is told from nothing by its error."""
    true = fit(nation, "y ~ 1 + (1 | state) + (1 | race)")
    without_race = fit(nation, "y ~ 1 + (1 | state)")
    with_x = fit(nation, "y ~ 1 + x + (1 | state) + (1 | race)")
    lost = checks.compare(true, without_race, num_draws=500)
    assert lost.elpd > 4 * lost.se > 0
    assert lost.num_units == nation["num_trials"].sum()
    idle = checks.compare(true, with_x, num_draws=500)
    assert abs(idle.elpd) < 4
    back = checks.compare(without_race, true, num_draws=500)
    assert back.elpd == pytest.approx(-lost.elpd)


def test_a_run_is_left_out_as_if_refitted(nation):
    """A cell of one of 8 states: fitted again without it, hyperparameters and all."""
    formula = "y ~ 1 + (1 | state) + (1 | race)"
    run = in_memory.fit(nation, formula, shards=nation["state"], num_draws=1000)
    found = checks.loo(run, num_draws=4000)
    left_out = found.shards[0].cells
    i = int(np.argmax(left_out.lpd - left_out.elpd))
    rest = {name: np.delete(values, i) for name, values in nation.items()}
    again = in_memory.fit(rest, formula, shards=rest["state"], num_draws=1000)
    cell = run.designs[0].some(np.array([i]))
    theta = again.draws.theta.reshape(4000, -1)[:, again.restrictions[0].coefficients].T
    density = np.exp(pointwise.log_likelihood(BINOMIAL, cell.statistics, pointwise.predictors(cell, theta))[0])
    noise = np.sqrt(2) * density.std() / density.mean() / np.sqrt(4000)  # both have about the same
    assert abs(left_out.elpd[i] - np.log(density.mean())) < MAX_OFF * noise
    assert left_out.lpd[i] - left_out.elpd[i] > 2 * MAX_OFF * noise, "or the test shows nothing"
    assert found.people is not None
    assert found.people.num_units == nation["num_trials"].sum()
    assert 3 < found.people.p_loo < 12


def test_runs_of_other_cells_are_refused(nation):
    other = {name: values.copy() for name, values in nation.items()}
    other["num_successes"][0] -= 1
    with pytest.raises(ModelError, match="the same cells"):
        checks.compare(fit(nation, "y ~ 1"), fit(other, "y ~ 1"))
