"""Starts far from the posterior, of likelihoods that are not log-concave."""

import numpy as np
import pytest

from fitting import in_memory, rounds
from fitting.errors import ModelError

FORMULA = "y ~ 1 + female + (1 | state)"


def numbers(outlier):
    rng = np.random.default_rng(0)
    size = 300
    y = rng.normal(size=size)
    y[7] = outlier
    columns = {"state": np.array([f"s{i % 5}" for i in range(size)]), "female": np.arange(size) % 2}
    return columns | {"num_trials": np.ones(size), "y": y}


def test_an_outlier_does_not_move_a_student_t():
    """It is 100 sds out; without it the coefficient of its group is the same within a fifth of its sd."""
    cells = numbers(100.0)
    without = {name: np.delete(values, 7) for name, values in cells.items()}
    with_it, clean = (
        in_memory.fit(c, FORMULA, family="student_t", shards=c["state"], num_draws=250) for c in (cells, without)
    )
    assert with_it.moves[-1] < 0.01
    assert in_memory.audit(with_it)["verdict"] == "pass"
    a, b = (run.draws.theta[..., 1] for run in (with_it, clean))
    assert abs(a.mean() - b.mean()) < 0.2 * b.std()
    gaussian = {"sum_y": cells["y"], "squared_deviations": np.zeros(len(cells["y"]))}
    pulled = in_memory.fit({**cells, **gaussian}, FORMULA, family="gaussian", num_draws=250).draws.theta[..., 1]
    assert abs(pulled.mean() - b.mean()) > b.std(), "the outlier must matter where tails are normal"


@pytest.mark.parametrize("seed", range(4))
def test_far_starts_settle(seed):
    """Twenty values of a hundred are far out, so mean and sd of all say little of where the rest are."""
    rng = np.random.default_rng(seed)
    cells = numbers(0.0)
    cells["y"] = np.where(rng.random(300) < 0.07, rng.normal(0.0, 300.0, 300), rng.normal(size=300))
    run = in_memory.fit(cells, FORMULA, family="student_t", shards=cells["state"], num_draws=100)
    assert run.moves[-1] < 0.01
    assert in_memory.audit(run)["verdict"] != "fail"


def test_one_value_in_all_rows_has_no_spread_to_model():
    cells = numbers(0.0) | {"y": np.ones(300)}
    with pytest.raises(ModelError, match="one value in all rows"):
        in_memory.fit(cells, FORMULA, family="student_t")


def counts(rates, exposure):
    """2,000 rows of counts for two levels, and the logs of the levels' rates."""
    x = np.arange(2000) % 2
    y = np.random.default_rng(1).poisson(np.array(rates)[x] * exposure).astype(float)
    cells = {"f": np.array(["a", "b"])[x], "x": x.astype(float), "num_trials": np.ones(2000), "sum_y": y}
    return cells | {"sum_exposure": np.full(2000, exposure)}, np.log(np.bincount(x, y) / (1000 * exposure))


@pytest.mark.parametrize(("rates", "exposure"), [((1.0, 20.0), 1.0), ((100.0, 2000.0), 0.01), ((0.05, 300.0), 1.0)])
@pytest.mark.parametrize("formula", ["y ~ 0 + f", "y ~ 0 + x"])
def test_rates_far_from_one_without_an_intercept(formula, rates, exposure):
    """Rates of levels by themselves are the levels' totals over their exposures: closed form up to the skewness of so many counts."""
    cells, expected = counts(rates, exposure)
    run = in_memory.fit(cells, formula, family="poisson", chosen_priors={"b": "normal(0, 100)"}, num_draws=100)
    sd = np.sqrt(run.moments.covariance[run.hierarchy.model.tree.diagonal])
    assert np.all(np.abs(run.moments.mean - expected[-len(sd) :]) < 0.15 * sd)
    assert run.moves[-1] < 0.01
    assert in_memory.audit(run)["verdict"] == "pass"


def test_a_whole_step_from_a_start_far_below_is_the_fault(monkeypatch):
    """The broken twin, whose first step in a log rate goes as far as Newton's method says."""
    monkeypatch.setattr(rounds, "LONGEST_LOG", np.inf)
    cells, expected = counts((0.05, 300.0), 1.0)
    run = in_memory.fit(cells, "y ~ 0 + x", family="poisson", chosen_priors={"b": "normal(0, 100)"}, num_draws=10)
    assert abs(run.moments.mean[0] - expected[1]) > 1.0
