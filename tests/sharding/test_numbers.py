"""Numbers: those far from zero keep their digits in the cells, one that groups is a number too, zero and unit can be kept."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from sharding import storage, store
from sharding.errors import ContractError, ShardCorruptError

GAUSSIAN = {
    "outcome": "y", "outcome_kind": "gaussian", "factor_columns": ["g"], "predictor_columns": [], "group_columns": [("g",)],
    "shards": {"by": "random", "num_shards": 3},
}  # fmt: skip


def within(values: list[float], weights: list[float] | None = None) -> float:
    """Weighted squares about the weighted mean, exact before rounding."""
    w = [Fraction(x) for x in weights or [1.0] * len(values)]
    mean = sum(a * Fraction(b) for a, b in zip(w, values, strict=True)) / sum(w)
    return float(sum(a * (Fraction(b) - mean) ** 2 for a, b in zip(w, values, strict=True)))


def rows_far(place: str, num_rows: int = 900) -> dict[str, Any]:
    """Outcomes with an sd of 1 about one far place, or about places far apart, one a group."""
    rng = np.random.default_rng(2)
    g = rng.choice(list("abc"), num_rows)
    at = {"near": 0.0, "far": -3e11, "apart": np.array([{"a": -8e8, "b": 5.0, "c": 2e9}[x] for x in g])}[place]
    return {"g": g, "y": at + rng.normal(size=num_rows), "w": rng.uniform(0.2, 4.0, num_rows)}


@pytest.mark.parametrize("place", ["near", "far", "apart"])
def test_squares_within_cells_keep_their_digits(helpers: Any, tmp_path: Path, place: str) -> None:
    rows = rows_far(place)
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table(rows).take(np.random.default_rng(0).permutation(900)), tmp_path / "b.parquet", row_group_size=50)
    report, other = (helpers.run(tmp_path / f"{n}.parquet", tmp_path / n, **GAUSSIAN) for n in "ab")
    assert [e["sha256"] for e in report.manifest["shards"]] == [e["sha256"] for e in other.manifest["shards"]]
    for cell in helpers.read_cells(report).to_pylist():
        values = rows["y"][rows["g"] == cell["g"]].tolist()
        assert cell["sum_y"] == pytest.approx(float(sum(map(Fraction, values))), rel=1e-15)
        assert cell["squared_deviations"] == pytest.approx(within(values), rel=1e-6 if place == "apart" else 1e-12)
    sd = (within(rows["y"].tolist()) / 900) ** 0.5
    assert report.dictionary.outcome.sd == pytest.approx(sd, rel=1e-12)


@pytest.mark.parametrize("place", ["near", "far"])
def test_weighted_squares_within_cells_keep_their_digits(helpers: Any, tmp_path: Path, place: str) -> None:
    rows = rows_far(place)
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    report = helpers.run(tmp_path / "a.parquet", tmp_path / "a", weight="w", **GAUSSIAN)
    factor = 900 / rows["w"].sum()
    for cell in helpers.read_cells(report).to_pylist():
        is_own = rows["g"] == cell["g"]
        expected = within(rows["y"][is_own].tolist(), rows["w"][is_own].tolist()) * factor
        assert cell["squared_deviations"] == pytest.approx(expected, rel=1e-9)


def test_weighted_squares_that_doubles_cannot_hold_are_refused(helpers: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table(rows_far("apart")), tmp_path / "a.parquet")
    with pytest.raises(ContractError, match="Subtract from the outcome what the cells have in common"):
        helpers.run(tmp_path / "a.parquet", tmp_path / "a", weight="w", **GAUSSIAN)


def test_the_spread_of_outcomes_that_are_keys_keeps_its_digits(helpers: Any, tmp_path: Path) -> None:
    rows = rows_far("far", 300)
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    report = helpers.run(tmp_path / "a.parquet", tmp_path / "a", **GAUSSIAN | {"outcome_kind": "keyed_number"})
    assert report.dictionary.outcome.sd == pytest.approx(float(np.std(rows["y"] + 3e11)), rel=1e-6)


def test_cells_of_an_older_version_are_not_read(helpers: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table(rows_far("near")), tmp_path / "a.parquet")
    report = helpers.run(tmp_path / "a.parquet", tmp_path / "a", **GAUSSIAN)
    url = storage.join(report.directory, store.MANIFEST)
    manifest = storage.read_json(url)
    assert manifest["schema_version"] == 2
    storage.publish_json(url, manifest | {"schema_version": 1})
    with pytest.raises(ShardCorruptError, match="Run ingest again"):
        store.read_manifest(report.directory)


YEARS = [1998, 2002, 2002, 2010, 2010, 2010, 2015, 2015]
BOTH = {
    "outcome": "y", "outcome_kind": "gaussian", "factor_columns": ["year"], "predictor_columns": ["year"],
    "group_columns": [("year",)], "shards": {"by": "random", "num_shards": 1},
}  # fmt: skip


@pytest.mark.parametrize("stored", [pa.int64(), pa.int16(), pa.float64(), "csv"])
def test_a_number_that_groups_is_a_factor_and_a_number(helpers: Any, tmp_path: Path, stored: Any) -> None:
    y = np.arange(8) / 8.0
    if stored == "csv":
        path = tmp_path / "a.csv"
        pyarrow.csv.write_csv(pa.table({"year": YEARS, "y": y}), path)
    else:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"year": pa.array(YEARS, stored), "y": y}), path)
    report = helpers.run(path, tmp_path / "a", **BOTH)
    found = report.dictionary.numerics["year"]
    assert (found.center, found.scale) == pytest.approx((np.mean(YEARS), np.std(YEARS)), rel=1e-14)
    assert (found.minimum, found.maximum, found.binary) == (1998.0, 2015.0, False)
    assert [float(level) for level in report.dictionary.factors["year"].levels] == sorted({*map(float, YEARS)})
    assert helpers.read_cells(report).num_rows == 4


@pytest.mark.parametrize(
    ("years", "declared"),
    [
        (YEARS, {"type": "factor"}),
        (YEARS, {"levels": ["1998", "2002", "2010", "2015"]}),
        ([f"{y - 1990:03d}" for y in YEARS], {}),  # codes with leading zeros
        (["north", "south", *["east"] * 6], {}),
        ([True, False] * 4, {}),
    ],
)
def test_what_groups_and_is_no_number_is_a_factor_in_both_places(
    helpers: Any, tmp_path: Path, years: list[Any], declared: dict[str, Any]
) -> None:
    pq.write_table(pa.table({"year": years, "y": np.arange(8) / 8.0}), tmp_path / "a.parquet")
    report = helpers.run(tmp_path / "a.parquet", tmp_path / "a", columns={"year": declared}, **BOTH)
    assert "year" in report.dictionary.factors
    assert "year" not in report.dictionary.numerics


def test_a_column_can_keep_its_zero_and_its_unit(helpers: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": np.arange(6.0), "g": list("ababab"), "y": np.arange(6) ** 2.0}), tmp_path / "a.parquet")
    options = GAUSSIAN | {"predictor_columns": ["x"]}
    plain = helpers.run(tmp_path / "a.parquet", tmp_path / "plain", **options)
    kept = helpers.run(tmp_path / "a.parquet", tmp_path / "kept", columns={"x": {"center": False, "scale": False}}, **options)
    found = kept.dictionary.numerics["x"]
    assert (found.center, found.keep_zero, found.keep_unit) == (2.5, True, True)
    assert "keep_zero" not in json.dumps(plain.dictionary.to_json())
    assert helpers.read_cells(kept).equals(helpers.read_cells(plain))
