"""Types of Parquet and files that differ in them: one value is one number and one level, or is refused with the reason."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding.errors import ContractError

OPTIONS: dict[str, Any] = {
    "outcome": "y", "factor_columns": ["g"], "predictor_columns": ["x"], "group_columns": [], "shards": {"by": "random"},
}  # fmt: skip
NUM = 60


def ingested(helpers: Any, folder: Path, *tables: dict[str, Any], **options: Any) -> Any:
    (folder / "in").mkdir()
    for i, changed in enumerate(tables):
        columns = {"g": ["a", "b", "c"] * 20, "x": list(range(NUM)), "y": [0, 1] * 30} | changed
        pq.write_table(pa.table(columns), folder / "in" / f"{i}.parquet")
    return helpers.run(folder / "in" / "*.parquet", folder / "run", **OPTIONS | options)


def test_a_tenth_is_one_level_and_one_number_in_single_and_double_precision(helpers: Any, tmp_path: Path) -> None:
    tenths = [0.1, 0.2, 0.3] * 20
    single = pa.array(tenths, pa.float32())
    report = ingested(helpers, tmp_path, {"g": single, "x": single}, {"g": tenths, "x": tenths})
    assert report.dictionary.factors["g"].levels == ("0.1", "0.2", "0.3")
    assert (report.dictionary.numerics["x"].minimum, report.dictionary.numerics["x"].maximum, report.num_cells) == (0.1, 0.3, 3)


def test_a_marker_is_found_among_numbers_of_single_precision(helpers: Any, tmp_path: Path) -> None:
    x = pa.array([-9.9 if i % 3 == 0 else i for i in range(NUM)], pa.float32())
    report = ingested(helpers, tmp_path, {"x": x}, columns={"x": {"missing_values": ["", "-9.9"], "missing": "quarantine"}})
    assert report.manifest["totals"]["rows_quarantined"] == 20


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "+05:30"])
def test_times_of_a_zone_in_nanoseconds_are_levels(helpers: Any, tmp_path: Path, zone: str) -> None:
    evening = datetime.datetime(2024, 11, 5, 20, 15, tzinfo=datetime.UTC)
    later = pa.array([evening, evening + datetime.timedelta(days=1)] * 30, pa.timestamp("ns", zone))
    earlier = pa.array([evening, evening] * 30, pa.timestamp("ms"))
    report = ingested(helpers, tmp_path, {"g": later}, {"g": earlier})
    assert report.dictionary.factors["g"].levels == ("2024-11-05 20:15:00", "2024-11-06 20:15:00")


def test_integers_and_decimals_that_no_decimal_holds_are_joined(helpers: Any, tmp_path: Path) -> None:
    small = pa.array([Decimal(i % 3) / 2 for i in range(NUM)], pa.decimal128(38, 30))
    report = ingested(helpers, tmp_path, {"g": small, "x": small}, {"g": [10**12] * NUM, "x": [10**12] * NUM})
    assert report.dictionary.factors["g"].levels == ("0", "0.5", "1", "1000000000000")
    assert report.dictionary.numerics["x"].maximum == 1e12


def test_codes_that_floating_point_cannot_tell_apart_are_refused_as_levels(helpers: Any, tmp_path: Path) -> None:
    codes = [2**53 + 1, 2**53 + 2, 2**53 + 3] * 20
    with pytest.raises(ContractError, match=r"data\.columns\.g: found whole numbers from 2\^53 on in floating point"):
        ingested(helpers, tmp_path, {"g": codes}, {"g": [None, 2.0, 3.0] * 20}, columns={"g": {"missing": "level"}})


def test_large_codes_in_decimals_are_levels(helpers: Any, tmp_path: Path) -> None:
    codes = pa.array([Decimal(2**53 + 1 + i % 3) for i in range(NUM)], pa.decimal128(20, 0))
    assert ingested(helpers, tmp_path, {"g": codes}).dictionary.factors["g"].levels[0] == str(2**53 + 1)


DUPLICATES: dict[str, Any] = {"id_column": "id", "duplicates": "quarantine"}


def test_an_id_is_one_whatever_its_file_stores_and_however_it_is_padded(helpers: Any, tmp_path: Path) -> None:
    ids = [f"V{i}" for i in range(NUM)]
    report = ingested(helpers, tmp_path, {"id": ids}, {"id": [f"{text}  " for text in ids], "x": [1] * NUM}, **DUPLICATES)
    assert report.manifest["totals"]["rows_quarantined"] == NUM


@pytest.mark.parametrize("marker", ["NA", "null", ".", "unknown"])
def test_people_without_an_id_are_not_one_person(helpers: Any, tmp_path: Path, marker: str) -> None:
    ids = [marker if i < 30 else f"V{i}" for i in range(NUM)]
    listed = {"id": {"missing_values": ["", "unknown"]}}
    assert ingested(helpers, tmp_path, {"id": ids}, columns=listed, **DUPLICATES).manifest["totals"]["rows_quarantined"] == 0


def test_one_id_in_many_rows_is_refused(helpers: Any, tmp_path: Path) -> None:
    many = [{"id": ["0"] * NUM, "x": [i] * NUM} for i in range(2)]
    with pytest.raises(ContractError, match=r"one value in 120 rows.*data\.columns\.id\.missing_values"):
        ingested(helpers, tmp_path, *many, **DUPLICATES)
