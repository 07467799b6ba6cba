"""Estimates: aggregated per draw, then summarised; and what the truth says about them."""

import numpy as np
import pyarrow as pa
import pytest

from reporting.errors import DrawsError, TableError
from reporting.estimates import (
    aggregate,
    compare_with_truth,
    interval_columns,
    joined_labels,
    summarise_groups,
    wilson_interval,
)

NUM_STATES, COUNTIES = 40, 25


def nation(seed):
    """Truth, and draws that are a correct posterior for it: counties share a state's error and have their own."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(NUM_STATES), COUNTIES)
    num_rows = rng.integers(50, 5000, size=groups.size)
    centre = 0.5 + rng.normal(size=groups.size) * 0.05

    def around(shape):
        shared = rng.normal(size=(*shape, NUM_STATES))[..., groups] * 0.01
        return centre + shared + rng.normal(size=(*shape, groups.size)) * 0.05

    truth, draws = around(()), around((2, 200))
    return groups, num_rows, truth, draws


def state_table(draws, num_rows):
    labels = {"state": [f"S{i}" for i in range(NUM_STATES)]}
    return summarise_groups(labels, draws, num_rows, num_rows, np.full(NUM_STATES, 0.5))


def coverage_of_states(summarise):
    covered = []
    for seed in range(5):
        groups, num_rows, truth, draws = nation(seed)
        totals = np.bincount(groups, num_rows)
        expected = np.bincount(groups, num_rows * truth) / totals
        table = pa.table({"outcome": ["voted"] * NUM_STATES, "margin": ["state"] * NUM_STATES,
                          "level": [f"S{i}" for i in range(NUM_STATES)], "expected_mean": expected})
        covered.append(compare_with_truth(summarise(groups, num_rows, draws), table).coverage)
    return float(np.mean(covered))


def test_aggregated_per_draw_intervals_cover():
    def right(groups, num_rows, draws):
        return state_table(aggregate(draws, num_rows, groups, NUM_STATES), np.bincount(groups, num_rows).astype(int))

    assert 0.84 < coverage_of_states(right) < 0.96  # 200 states: 0.9 +- 3 standard errors


def test_the_broken_twin_averages_intervals_and_covers_too_much():
    def wrong(groups, num_rows, draws):
        totals = np.bincount(groups, num_rows)
        table = state_table(aggregate(draws, num_rows, groups, NUM_STATES), totals.astype(int))
        for name, prob in (("q05", 0.05), ("q95", 0.95)):
            averaged = np.bincount(groups, num_rows * np.quantile(draws, prob, axis=(0, 1))) / totals
            table = table.set_column(table.column_names.index(name), name, pa.array(averaged))
        return table

    assert coverage_of_states(wrong) > 0.99


def test_aggregate_is_the_row_weighted_mean_of_each_draw():
    draws = np.array([[[0.0, 1.0, 0.5]], [[1.0, 1.0, 0.0]]])
    result = aggregate(draws, np.array([1, 3, 2]), np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(result[..., [0, 2]], [[[0.75, 0.5]], [[1.0, 0.0]]])
    assert np.isnan(result[..., 1]).all()


def test_table_has_the_schema_of_the_house():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.6, 0.01, size=(2, 100, 2))
    table = summarise_groups({"state": ["01", "02"], "race": ["b", "w"]}, draws, np.array([10, 20]), np.array([0, 5]),
                             np.array([np.nan, 0.4]))
    assert table.column_names == ["state", "race", "num_rows", "num_trials", "raw_mean", "mean", "sd", "mcse",
                                  "q05", "q50", "q95"]
    assert table["raw_mean"].to_pylist() == [None, 0.4]
    assert table.schema.field("state").type == pa.string()
    assert joined_labels(table) == ["01:b", "02:w"]
    np.testing.assert_allclose(table["mean"].to_numpy(), draws.mean(axis=(0, 1)))
    np.testing.assert_allclose(table["q95"].to_numpy(), np.quantile(draws, 0.95, axis=(0, 1)))
    assert (table["mcse"].to_numpy() < table["sd"].to_numpy() / 5).all()
    wide = summarise_groups({}, draws[..., :1], np.array([3]), np.array([3]), np.array([0.5]), interval=0.95)
    assert interval_columns(wide) == ("q02.5", "q97.5")
    assert wide["q97.5"].to_pylist() == [pytest.approx(np.quantile(draws[..., 0], 0.975))]
    one_chain = summarise_groups({}, draws.reshape(200, 2)[:, :1], np.array([3]), np.array([3]), np.array([0.5]))
    assert joined_labels(one_chain) == ["all"]


def test_lengths_that_differ_are_named():
    with pytest.raises(DrawsError, match=r"'state': 1.*expected 2 groups"):
        summarise_groups({"state": ["OH"]}, np.zeros((1, 10, 2)), np.ones(2, int), np.ones(2, int), np.ones(2))


def test_truth_of_another_file_is_refused():
    table = summarise_groups({"state": ["OH"]}, np.random.default_rng(0).normal(size=(1, 10, 1)), np.ones(1, int),
                             np.ones(1, int), np.ones(1))
    truth = pa.table({"outcome": ["voted", "support"], "margin": ["state"] * 2, "level": ["CA", "CA"],
                      "expected_mean": [0.5, 0.5]})
    with pytest.raises(TableError, match="no truth for 1 of 1"):
        compare_with_truth(table, truth, outcome="voted")
    with pytest.raises(TableError, match=r"outcomes \['support', 'voted'\]"):
        compare_with_truth(table, truth)


def test_comparison_counts_errors_and_raw_means():
    draws = np.random.default_rng(0).normal([0.5, 0.6], 0.01, size=(4, 500, 2))
    table = summarise_groups({"all": ["x", "y"]}, draws, np.array([9, 9]), np.array([1000, 0]), np.array([0.7, 0.0]))
    truth = pa.table({"outcome": ["a", "a"], "margin": ["all"] * 2, "level": ["x", "y"], "expected_mean": [0.5, 0.9]})
    result = compare_with_truth(table, truth)
    assert result.coverage == 0.5
    assert result.rmse == pytest.approx(0.3 / np.sqrt(2), abs=0.01)
    assert result.raw_rmse == pytest.approx(0.2)
    assert result.raw_coverage == 0.0
    assert result.table["covered"].to_pylist() == [True, False]


def test_wilson_interval_is_the_published_one():
    low, high = wilson_interval(np.array([0.5]), np.array([10]), coverage=0.95)
    assert (low[0], high[0]) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
