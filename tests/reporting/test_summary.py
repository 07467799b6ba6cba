"""The summary table: ArviZ's own numbers, in the house's schema, fast."""

import time

import numpy as np
import pytest
from arviz_stats.base import array_stats

from reporting.errors import DrawsError
from reporting.posterior import Variable
from reporting.summary import SCHEMA, summarise
from reporting.tables import to_parquet


def correlated(rng, shape, phi=0.7):
    """AR(1) chains, so that ESS and MCSE are not those of independent draws."""
    values = rng.normal(size=shape)
    for i in range(1, shape[1]):
        values[:, i] += phi * values[:, i - 1]
    return values


def test_numbers_are_those_of_arviz():
    rng = np.random.default_rng(1)
    values = correlated(rng, (4, 101, 7))  # odd: a middle draw falls out of the halves
    values[0, :, 0] += 3  # one chain elsewhere
    values[..., 1] = np.round(values[..., 1])  # ties
    values[0, :, 2] *= 4  # same place, wider: only the folded R-hat sees it
    table = summarise({"b": Variable(("x",), values)}, {"x": [str(i) for i in range(7)]})
    ess, mcse, r_hat = (table[name].to_numpy() for name in ("ess_bulk", "mcse_mean", "r_hat"))
    axes = {"chain_axis": 0, "draw_axis": 1}
    np.testing.assert_allclose(ess, array_stats.ess(values, method="bulk", **axes), rtol=1e-9)
    np.testing.assert_allclose(mcse, array_stats.mcse(values, method="mean", **axes), rtol=1e-9)
    np.testing.assert_allclose(r_hat, array_stats.rhat(values, method="rank", **axes), rtol=1e-9)
    assert r_hat[0] > 1.1
    assert r_hat[2] > 1.02
    for name, prob in {"q05": 0.05, "q50": 0.5, "q95": 0.95}.items():
        np.testing.assert_allclose(table[name].to_numpy(), np.quantile(values, prob, axis=(0, 1)))
    np.testing.assert_allclose(table["sd"].to_numpy(), values.reshape(-1, 7).std(axis=0, ddof=1))


def test_rows_follow_names_and_labels():
    rng = np.random.default_rng(2)
    draws = {
        "Intercept": Variable((), rng.normal(size=(2, 50))),
        "1|race:age": Variable(("race", "age"), rng.normal(size=(2, 50, 2, 2))),
    }
    table = summarise(draws, {"race": ["b", "w"], "age": ["18", "65"]}, {"Intercept": "log odds"})
    assert table.schema == SCHEMA
    cells = [f"1|race:age[{labels}]" for labels in ("b,18", "b,65", "w,18", "w,65")]
    assert table["parameter"].to_pylist() == ["Intercept", *cells]
    assert table["level"].to_pylist()[0] is None
    assert table["unit"].to_pylist() == ["log odds", None, None, None, None]
    assert table["mean"].to_pylist()[2] == pytest.approx(draws["1|race:age"].values[:, :, 0, 1].mean())


def test_a_constant_and_a_single_chain_have_no_r_hat():
    still = summarise({"a": Variable((), np.ones((4, 20)))}, {})
    assert still["r_hat"].to_pylist() == [None]
    assert (still["mcse_mean"].to_pylist(), still["ess_bulk"].to_pylist()) == ([0.0], [80.0])
    alone = summarise({"a": Variable((), np.random.default_rng(0).normal(size=(1, 80)))}, {})
    assert alone["r_hat"].to_pylist() == [None]
    assert alone["ess_bulk"].to_pylist()[0] > 40


def test_draws_that_cannot_be_summarised_are_refused():
    values = np.zeros((2, 20))
    values[1, 3] = np.nan
    with pytest.raises(DrawsError, match="1 values that are not finite"):
        summarise({"a": Variable((), values)}, {})
    with pytest.raises(DrawsError, match="3 draws per chain"):
        summarise({"a": Variable((), np.zeros((2, 3)))}, {})


def test_parquet_bytes_are_deterministic():
    table = summarise({"a": Variable((), np.random.default_rng(0).normal(size=(2, 20)))}, {})
    assert to_parquet(table) == to_parquet(table.combine_chunks())


def test_a_nation_is_summarised_fast():
    values = np.random.default_rng(0).normal(size=(4, 250, 4000))
    start = time.process_time()
    summarise({"a": Variable(("x",), values)}, {"x": [str(i) for i in range(4000)]})
    assert time.process_time() - start < 5
