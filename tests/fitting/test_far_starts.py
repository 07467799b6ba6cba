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
    """It is 100 sds out; without it the intercept is the same within a fifth of its sd."""
    cells = numbers(100.0)
    without = {name: np.delete(values, 7) for name, values in cells.items()}
    with_it, clean = (
        in_memory.fit(c, FORMULA, family="student_t", shards=c["state"], num_draws=250) for c in (cells, without)
    )
    assert with_it.moves[-1] < 0.01
    assert in_memory.audit(with_it)["verdict"] == "pass"
    a, b = (run.draws.theta[..., 0] for run in (with_it, clean))
    assert abs(a.mean() - b.mean()) < 0.2 * b.std()
    gaussian = {"sum_y": cells["y"], "sum_y_squared": cells["y"] ** 2}
    pulled = in_memory.fit({**cells, **gaussian}, FORMULA, family="gaussian", num_draws=250).draws.theta[..., 0]
    assert abs(pulled.mean() - b.mean()) > b.std(), "the outlier must matter where tails are normal"


def test_the_limit_of_a_step_is_what_saves_it(monkeypatch):
    monkeypatch.setattr(rounds, "LARGEST_STEP", np.inf)
    cells = numbers(100.0)
    with pytest.warns(RuntimeWarning), pytest.raises(np.linalg.LinAlgError):
        in_memory.fit(cells, FORMULA, family="student_t", shards=cells["state"], num_draws=2)


def test_one_value_in_all_rows_has_no_spread_to_model():
    cells = numbers(0.0) | {"y": np.ones(300)}
    with pytest.raises(ModelError, match="one value in all rows"):
        in_memory.fit(cells, FORMULA, family="student_t")
