"""What the audit used to say of right numbers; and planted faults that the same checks still find."""

import numpy as np
import pytest

from fitting import families, in_memory, rounds
from fitting.rounds import Round, Schedule


def flagged(result):
    return [s["shard_id"] for s in result["shards"] if s["heterogeneity"]["p_adjusted"] < 0.001]


def wrong_variance(cells_of, shards, seed=1):
    """A gaussian model of outcomes whose spread grows with x: random shards differ by more than the model's variance."""
    rng = np.random.default_rng(seed)
    x = rng.exponential(1.0, 6000).round(2)
    y = 1.0 + 0.5 * x + rng.normal(size=6000) * (0.2 + x**2)
    return cells_of({"x": x, "shard": rng.integers(0, shards, 6000)}, y, "gaussian")


@pytest.mark.parametrize("num_shards", [5, 20])
def test_random_shards_under_a_wrong_variance_tell_no_other_story(cells_of, num_shards):
    cells = wrong_variance(cells_of, num_shards)
    run = in_memory.fit(cells, "y ~ 1 + x", family="gaussian", shards=cells["shard"])
    assert flagged(in_memory.audit(run)) == []


def test_a_shard_with_another_slope_is_still_found_under_a_wrong_variance(cells_of):
    cells = wrong_variance(cells_of, 10)
    odd = cells["shard"] == 3
    moved = 4.0 * cells["x"] * odd
    cells["sum_y"] = cells["sum_y"] + moved * cells["num_trials"]
    run = in_memory.fit(cells, "y ~ 1 + x", family="gaussian", shards=cells["shard"])
    assert flagged(in_memory.audit(run)) == ["03"]


def test_one_shard_is_compared_with_nobody(cells_of):
    """A prior far from the data is no other shard."""
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, 4000).astype(float)
    cells = cells_of({"x": x}, 50.0 + 3.0 * x + rng.normal(size=4000), "gaussian")
    priors = {"intercept": "normal(0, 1)", "b": "normal(0, 0.1)"}
    result = in_memory.audit(in_memory.fit(cells, "y ~ 1 + x", family="gaussian", chosen_priors=priors))
    assert flagged(result) == []


def test_rounds_to_and_fro_are_damped_and_steady_ones_are_not():
    schedule = Schedule("vi", 20, 0.01, 1.0, families.make("binomial"))
    to_and_fro = [Round("vi", 1.0, move) for move in (0.4, 0.41, 0.4, 0.405)]
    assert rounds.next_round(schedule, to_and_fro).damping == 0.5
    steady = [Round("vi", 1.0, move) for move in (0.4, 0.3, 0.2, 0.15)]
    assert rounds.next_round(schedule, steady).damping == 1.0


def test_a_damped_round_has_settled_only_if_a_whole_one_would_have():
    schedule = Schedule("vi", 20, 0.01, 1.0, families.make("binomial"))
    assert rounds.next_round(schedule, [Round("vi", 0.25, 0.005)]) is not None
    assert rounds.next_round(schedule, [Round("vi", 1.0, 0.005)]) is None
