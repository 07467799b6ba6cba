"""Survey weights: scaled over the whole sample, squares kept, bad ones left out and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding import storage, store
from sharding.errors import ContractError

SUMS = ["num_trials", "num_successes", "sum_weight_squared", "sum_weight_squared_successes"]


def sample(**columns: Any) -> pa.Table:
    """A poll of 200, heavily weighted in one of four states; one in five did not answer and has no weight."""
    rng = np.random.default_rng(5)
    state = rng.integers(1, 5, 200)
    is_known = rng.random(200) < 0.8
    base = {
        "state": [f"{s:02d}" for s in state],
        "vote": pa.array(rng.integers(0, 2, 200), mask=~is_known),
        "w": pa.array(rng.gamma(2, 0.5, 200) * np.where(state == 1, 20, 1), mask=~is_known),
    }
    return pa.table(base | columns)


def run(helpers: Any, table: pa.Table, directory: Path, name: str = "run", **options: Any) -> Any:
    pq.write_table(table, directory / f"{name}.parquet")
    arguments = {
        "outcome": "vote", "weight": "w", "factor_columns": ["state"], "predictor_columns": [], "group_columns": [],
        "shards": {"by": "state", "min_cells": 1}, **options,
    }  # fmt: skip
    return helpers.run(directory / f"{name}.parquet", directory / name, **arguments)


def sums(helpers: Any, report: Any) -> np.ndarray:
    return np.array([[row[name] for name in SUMS] for row in helpers.read_cells(report).to_pylist()])


def test_weights_average_one_over_the_sample_and_not_in_each_shard(helpers: Any, tmp_path: Path) -> None:
    report = run(helpers, sample(), tmp_path)
    cells = [store.read_shard(report.directory, entry) for entry in report.manifest["shards"]]
    weighted = np.array([cell["num_trials"].sum() for cell in cells])
    known = np.array([cell["num_known"].sum() for cell in cells])
    assert weighted.sum() == pytest.approx(known.sum(), rel=1e-13)
    assert weighted[0] > 2 * known[0]
    assert np.all(weighted[1:] < known[1:])
    assert [entry["num_trials"] for entry in report.manifest["shards"]] == known.tolist()
    assert sum(cell["num_rows"].sum() for cell in cells) == 200


def test_unit_of_the_weights_does_not_matter(helpers: Any, tmp_path: Path) -> None:
    table = sample()
    heavier = table.set_column(2, "w", pa.array([None if w is None else 3.7e9 * w for w in table["w"].to_pylist()]))
    a, b = (run(helpers, rows, tmp_path, name) for name, rows in {"a": table, "b": heavier}.items())
    np.testing.assert_allclose(sums(helpers, a), sums(helpers, b), rtol=1e-12)


def test_equal_weights_are_no_weights(helpers: Any, tmp_path: Path) -> None:
    table = sample(w=[0.3] * 200)
    a, b = run(helpers, table, tmp_path, "a"), run(helpers, table, tmp_path, "b", weight=None)
    found, plain = sums(helpers, a), helpers.read_cells(b)
    np.testing.assert_allclose(found[:, 0], plain["num_trials"].to_numpy(), rtol=1e-14)
    np.testing.assert_allclose(found[:, 1], plain["num_successes"].to_numpy(), rtol=1e-14)
    np.testing.assert_allclose(found[:, 2:], found[:, :2], rtol=1e-14)
    assert a.dictionary.outcome.mean == pytest.approx(b.dictionary.outcome.mean, rel=1e-14)


def test_trials_of_a_row_are_rows_of_its_weight(helpers: Any, tmp_path: Path) -> None:
    trials, successes, weights = [3, 1, 2, 4], [1, 1, 0, 2], [0.5, 2.0, 7.0, 1.0]
    state = ["a", "a", "b", "b"]
    pairs = pa.table({"state": state, "s": successes, "m": trials, "w": weights})
    single = [
        (g, int(i < s), w)
        for g, s, m, w in zip(state, successes, trials, weights, strict=True)
        for i in range(m)
    ]  # fmt: skip
    rows = pa.table(dict(zip(["state", "vote", "w"], map(list, zip(*single, strict=True)), strict=True)))
    a = run(helpers, pairs, tmp_path, "a", outcome={"successes": "s", "trials": "m"})
    b = run(helpers, rows, tmp_path, "b")
    np.testing.assert_allclose(sums(helpers, a), sums(helpers, b), rtol=1e-13)


def test_sandwich_from_cells_is_that_of_the_rows(helpers: Any, tmp_path: Path) -> None:
    table = sample()
    report = run(helpers, table, tmp_path)
    share = report.dictionary.outcome.mean
    total = dict(zip(SUMS, sums(helpers, report).sum(0), strict=True))
    meat = (1 - 2 * share) * total["sum_weight_squared_successes"] + share**2 * total["sum_weight_squared"]
    y, w = (np.array([v for v in table[name].to_pylist() if v is not None]) for name in ("vote", "w"))
    w = w / w.mean()
    assert share == pytest.approx(np.average(y, weights=w), rel=1e-13)
    assert meat == pytest.approx(np.sum((w * (y - share)) ** 2), rel=1e-12)


def test_bad_weights_are_counted_by_file_and_only_where_the_outcome_is_known(helpers: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("state,vote,weight\na,1,1.0\na,0,\na,1,0\nb,,\nb,0,-2\n")
    (tmp_path / "b.csv").write_text("state,vote,weight\nb,1,heavy\nb,1,inf\nb,0,3\nb,,0\nb,1,99\n")
    report = helpers.run(
        tmp_path / "*.csv", tmp_path / "run", outcome="vote", weight="w", factor_columns=["state"], predictor_columns=[],
        group_columns=[], shards={"by": "state", "min_cells": 1}, keep_quarantined_rows=True,
        columns={"w": {"source": "weight", "missing_values": ["", "99"], "missing": "quarantine"}},
    )  # fmt: skip
    assert report.manifest["totals"] == {"rows_read": 10, "rows_in_cells": 4, "rows_quarantined": 6}
    counts = storage.read_json(str(tmp_path / "run/quarantine/counts.json"))["by_file"]
    assert [(Path(c["url"]).name, c["reason"], c["num_rows"]) for c in counts] == [
        ("a.csv", "weight:missing", 1), ("a.csv", "weight:not_positive", 2),
        ("b.csv", "weight:missing", 1), ("b.csv", "weight:not_a_number", 1), ("b.csv", "weight:not_finite", 1),
    ]  # fmt: skip
    cells = helpers.read_cells(report).to_pylist()
    assert [(c["num_rows"], c["num_known"]) for c in cells] == [(1, 1), (3, 1)]
    assert [c["num_trials"] for c in cells] == pytest.approx([0.5, 1.5], rel=1e-15)
    assert pq.read_table(tmp_path / "run/quarantine/rows.parquet").num_rows == 6


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {"weight": "wt"}, r"data\.weight, file .*: found no column 'wt'; expected one of"),
        ({"w": pa.array([None] * 200, pa.float64())}, {"columns": {"w": {"missing": "error"}}},
         r"data: found 163 row\(s\) weight:missing; expected w known where the outcome is\. Say data\.columns\.w\.missing"),
        ({"w": [0] * 200}, {}, r"data\.outcome: found no row with a known outcome"),
        ({"w": [0] * 200, "vote": [1] * 200}, {}, r"every row quarantined \(200 weight:not_positive\)"),
        ({"num_known": ["a"] * 200}, {"factor_columns": ["num_known"]}, r"column 'num_known': found a reserved name"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be(
    helpers: Any, tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        run(helpers, sample(**columns), tmp_path, **options)


def test_what_weights_leave_of_the_outcomes(helpers: Any, tmp_path: Path) -> None:
    """Kish's effective size, from the weights themselves, and the level of each factor that loses most."""
    table = sample(w=np.random.default_rng(2).gamma(0.5, 2, 200), vote=np.arange(200) % 2)
    w, state = np.array(table["w"]), np.array(table["state"])
    found = run(helpers, table, tmp_path).manifest["weights"]
    assert (found["column"], found["outcomes"]) == ("w", 200)
    assert found["effective"] == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-9)
    effects = {s: (state == s).sum() * (w[state == s] ** 2).sum() / w[state == s].sum() ** 2 for s in np.unique(state)}
    worst = max(effects, key=lambda level: effects[level])
    assert found["levels"] == [{"column": "state", "level": worst, "design_effect": pytest.approx(effects[worst], rel=1e-9)}]
