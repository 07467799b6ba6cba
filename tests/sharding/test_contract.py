"""Every broken contract ends with one clear message, no value of a row in it, and nothing written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding import contract, storage
from sharding.config import ColumnConfig, DataConfig, ShardsConfig
from sharding.contract import ModelColumn
from sharding.errors import ContractError, DetailedError, SourceError
from sharding.ingest import ingest as ingest_files

SECRET = "Zebulon"
"""A value in the rows of every case below; no message may hold it."""


def table(**columns: Any) -> pa.Table:
    """Six voters called SECRET, with some columns replaced."""
    base: dict[str, Any] = {
        "name": [SECRET] * 6, "state": ["01", "01", "02", "02", "03", "03"], "x": [1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
        "voted": [0, 1, 0, 1, None, 1], "id": ["a", "b", "c", "d", "e", "f"],
    }  # fmt: skip
    return pa.table({**base, **columns})


def ingest(helpers: Any, tmp_path: Path, rows: pa.Table, **options: Any) -> Any:
    pq.write_table(rows, tmp_path / "in.parquet")
    arguments = {"factor_columns": ["state"], "predictor_columns": ["x"], "group_columns": [("state",)], **options}
    return helpers.run(tmp_path / "in.parquet", tmp_path / "run", **arguments)


BROKEN: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("unknown column", {}, {"factor_columns": ["sate"]},
     r"model column 'sate', file .*: found no column 'sate'; expected one of .*\. Did you mean 'state'\?"),
    ("declared column unknown", {}, {"columns": {"county": {}}}, r"data\.columns\.county, file .*found no column 'county'"),
    ("outcome unknown", {}, {"outcome": {"y": "vote"}}, r"data\.outcome, file .*found no column 'vote'.*'voted'"),
    ("factor all missing", {"state": [None, ""] * 3}, {},
     r"data\.columns\.state: found column 'state' is missing in every row; expected values\. Leave"),
    ("null type", {"state": pa.nulls(6)}, {}, r"data\.columns\.state: found column 'state' is missing in every row"),
    ("numeric all missing", {"x": pa.array([math.nan] * 6)}, {}, r"data\.columns\.x: found column 'x' is missing in every row"),
    ("no row", {}, {"rows": 0}, r"data\.source: found no row in 1 file\(s\); expected at least one row\. Check"),
    ("level not declared", {"state": ["01", "01", "02", "02", SECRET, SECRET]}, {"columns": {"state": {"levels": ["01", "02"]}}},
     r"data: found 2 row\(s\) state:unexpected_level; expected state one of '01', '02'\. Add the levels to data\.columns\.state\.levels"),
    ("outcome with twos", {"voted": [0, 1, 2, 2, None, 1]}, {},
     r"data: found 2 row\(s\) voted:not_0_or_1; expected voted 0, 1 or missing\. Correct data\.outcome"),
    ("outcome text", {"voted": ["0", "1", SECRET, "", None, "1"]}, {}, r"found 1 row\(s\) voted:not_a_number"),
    ("outcome unknown everywhere", {"voted": pa.array([None] * 6, pa.int32())}, {},
     r"data\.outcome: found no row with a known outcome; expected at least one"),
    ("infinite outcome", {"voted": [0.5, math.inf, 1, 2, 3, 4]}, {"outcome_kind": "gaussian"},
     r"1 row\(s\) voted:not_finite; expected voted a finite number or missing"),
    ("negative trials", {"t": [1, -1, 2, 2, 2, 2], "s": [0] * 6}, {"outcome": {"successes": "s", "trials": "t"}},
     r"1 row\(s\) outcome:negative; expected whole numbers of successes and trials, 0 <= successes <= trials"),
    ("more successes than trials", {"t": [1, 1, 2, 2, 2, 2], "s": [2, 0, 3, 0, 0, 0]},
     {"outcome": {"successes": "s", "trials": "t"}}, r"2 row\(s\) outcome:successes_exceed_trials"),
    ("half a trial", {"t": [1.5, 1, 2, 2, 2, 2], "s": [0] * 6}, {"outcome": {"successes": "s", "trials": "t"}},
     r"1 row\(s\) outcome:not_whole"),
    ("trials in a gaussian", {}, {"outcome": {"successes": "x", "trials": "voted"}, "outcome_kind": "gaussian"},
     r"data\.outcome: found successes and trials; expected one column"),
    ("infinite number", {"x": [1.0, math.inf, -math.inf, 2, 3, 4]}, {}, r"2 row\(s\) x:not_finite; expected x a finite number"),
    ("out of range", {}, {"columns": {"x": {"minimum": 1, "maximum": 2.5}}}, r"2 row\(s\) x:out_of_range; .*from 1 to 2\.5"),
    ("missing is an error", {"x": [None, 1.0, 2, 3, 4, 5]}, {"columns": {"x": {"missing": "error"}}},
     r"1 row\(s\) x:missing; expected x known in every row\. Say data\.columns\.x\.missing: quarantine"),
    ("constant", {"x": [3.0] * 6}, {}, r"data\.columns\.x: found one value in all rows; expected a predictor that varies"),
    ("duplicate ids", {"id": ["a", "a", "a", "d", "e", "f"]}, {"id_column": "id", "duplicates": "error"},
     r"2 row\(s\) id:duplicate; expected every id once\. Say data\.duplicates: quarantine"),
    ("reserved name", {"num_rows": [1] * 6}, {"factor_columns": ["num_rows"]}, r"column 'num_rows': found a reserved name"),
    ("reference unknown", {}, {"columns": {"state": {"reference": "09"}}}, r"state\.reference: found '09'; expected one of the 3"),
    ("grouping by a declared number", {}, {"columns": {"state": {"type": "numeric"}}}, r"a column that only groups declared `type: numeric`"),
    ("number used both ways, and missing", {"state": [1, 2, None] * 2},
     {"predictor_columns": ["state"], "columns": {"state": {"missing": "level"}}}, r"a level that is no number, in a column that"),
    ("group of a number", {}, {"group_columns": [("x",)]}, r"group 'x': found \['x'\] that are not factors"),
    ("level rule for a number", {}, {"columns": {"x": {"missing": "level"}}}, r"`missing: level` of a numeric column"),
    ("nested type", {"state": [["a"]] * 6}, {}, r"column 'state', file .*: found stored as list<.*; expected text, numbers"),
    ("names alike", {"STATE": [SECRET] * 6}, {}, r"columns that differ from 'state' only in case"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "options", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_broken_contract(
    helpers: Any, tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    rows = table(**columns)
    options = dict(options)
    rows = rows.slice(0, options.pop("rows", 6))
    with pytest.raises(ContractError, match=message) as caught:
        ingest(helpers, tmp_path, rows, **options)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not (tmp_path / "run").exists() or list((tmp_path / "run").iterdir()) == []


def test_truncated_and_false_parquet(helpers: Any, tmp_path: Path) -> None:
    pq.write_table(helpers.people(), tmp_path / "good.parquet")
    data = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "bad.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        SourceError, match=r"bad\.parquet': found a file that is not whole Parquet .*truncated"
    ) as caught:
        helpers.run(tmp_path / "*.parquet", tmp_path / "run")
    assert isinstance(caught.value, DetailedError)
    (tmp_path / "bad.parquet").write_bytes(b"")
    with pytest.raises(SourceError, match="not whole Parquet"):
        helpers.run(tmp_path / "*.parquet", tmp_path / "run")


def test_damage_inside_parquet(helpers: Any, tmp_path: Path) -> None:
    pq.write_table(helpers.people(5000), tmp_path / "x.parquet", compression="zstd")
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    data[4:-6000] = bytes(len(data) - 6004)
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(
        SourceError, match=r"data\.source: found data that cannot be read \(\w+\); expected whole files"
    ):
        helpers.run(tmp_path / "x.parquet", tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["none/*.parquet"], "found no file; expected at least one"),
        (["a.parquet", "*.parquet"], r"found 1 file\(s\) named twice"),
        (["a.parquet", "b.csv"], r"several formats: \['csv', 'parquet'\]"),
        (["c.dat"], "does not tell its format"),
    ],
)
def test_sources_that_cannot_be(helpers: Any, tmp_path: Path, source: list[str], message: str) -> None:
    pq.write_table(helpers.people(20), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    (tmp_path / "c.dat").write_text("x")
    with pytest.raises(SourceError, match=message):
        helpers.run([tmp_path / name for name in source], tmp_path / "run")


def test_types_that_differ_between_files(helpers: Any, tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    pq.write_table(table(state=[1, 2, 3, 4, 5, 6]), tmp_path / "b.parquet")
    with pytest.raises(ContractError, match="column 'state': found stored as integer and as text in different files"):
        helpers.run(tmp_path / "*.parquet", tmp_path / "run", factor_columns=["state"], predictor_columns=["x"])


def test_quarantine_counts_each_row_once_by_reason_and_file(helpers: Any, tmp_path: Path) -> None:
    rule = {"unexpected": "quarantine", "missing": "quarantine"}
    pq.write_table(table(state=["01", None, "", "UNK", "ZZ", "02"]), tmp_path / "a.parquet")
    pq.write_table(table(x=[None, math.inf, 9.0, 1, 2, 3], voted=[7, 7, 0, 1, None, 1]), tmp_path / "b.parquet")
    report = helpers.run(
        tmp_path / "*.parquet", tmp_path / "run", factor_columns=["state"], predictor_columns=["x"],
        group_columns=[("state",)], keep_quarantined_rows=True,
        columns={
            "state": {"levels": ["01", "02", "03"], "missing_values": ["", "UNK"], **rule}, "x": {"maximum": 5, **rule},
            "voted": {"unexpected": "quarantine"},
        },
    )  # fmt: skip
    assert report.manifest["totals"] == {"rows_read": 12, "rows_in_cells": 5, "rows_quarantined": 7}
    reasons = {"state:missing": 3, "state:unexpected_level": 1, "voted:not_0_or_1": 2, "x:out_of_range": 1}
    assert report.manifest["quarantine"] == reasons
    counts = storage.read_json(str(tmp_path / "run/quarantine/counts.json"))["by_file"]
    assert [(Path(c["url"]).name, c["reason"], c["num_rows"]) for c in counts] == [
        ("a.parquet", "state:missing", 3), ("a.parquet", "state:unexpected_level", 1),
        ("b.parquet", "voted:not_0_or_1", 2), ("b.parquet", "x:out_of_range", 1),
    ]  # fmt: skip
    kept = pq.read_table(tmp_path / "run/quarantine/rows.parquet").to_pylist()
    assert sorted(row["reason"] for row in kept) == sorted(
        name for name, count in reasons.items() for _ in range(count)
    )


def test_rows_are_not_kept_unless_allowed(helpers: Any, tmp_path: Path) -> None:
    rows = table(state=["01", None, "02", "02", "03", "03"])
    ingest(helpers, tmp_path, rows, columns={"state": {"missing": "quarantine"}})
    assert [path.name for path in (tmp_path / "run/quarantine").iterdir()] == ["counts.json"]


def test_missing_as_a_level(helpers: Any, tmp_path: Path) -> None:
    rows = table(state=["01", None, "", "UNK", "02", "02"])
    columns = {
        "state": {"missing": "level", "missing_values": ["", "UNK"], "missing_level": "unknown", "reference": "02"}
    }
    report = ingest(helpers, tmp_path, rows, columns=columns, predictor_columns=[])
    assert report.dictionary.factors["state"].levels == ("01", "02", "unknown")
    assert report.dictionary.factors["state"].reference == "02"
    cells = helpers.totals(helpers.read_cells(report), ["state"], ["num_rows"])
    assert cells == {("01",): (1,), ("02",): (2,), ("unknown",): (3,)}


def test_levels_of_quarantined_rows_only_are_no_levels(helpers: Any, tmp_path: Path) -> None:
    report = ingest(helpers, tmp_path, table(x=[1.0, 2, 3, 4, None, None]), columns={"x": {"missing": "quarantine"}})
    assert report.dictionary.factors["state"].levels == ("01", "02")
    assert report.manifest["quarantine"] == {"x:missing": 2}
    declared = ingest(helpers, tmp_path, table(), columns={"state": {"levels": ["00", "01", "02", "03"]}})
    assert declared.dictionary.factors["state"].levels == ("00", "01", "02", "03")
    assert declared.dictionary.groups["state"] == ((1,), (2,), (3,))


def test_duplicates_leave_one_row_of_each(helpers: Any, tmp_path: Path) -> None:
    rows = table(id=["a", "a", "a", None, None, ""], state=["01", "02", "03", "01", "01", "01"])
    reports = []
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 4, 1, 3, 0]):
        reports.append(ingest(helpers, tmp_path, rows.take(order), id_column="id", duplicates="quarantine"))
        assert reports[-1].manifest["quarantine"] == {"id:duplicate": 2}
    assert reports[0].manifest["shards"] == reports[1].manifest["shards"]


@pytest.mark.parametrize(
    ("values", "role"),
    [
        (["1", "2.5", "", None], "numeric"),
        (["01", "02"], "factor"),
        (["a", "b"], "factor"),
        (["0", "1", "10"], "numeric"),
    ],
)
def test_text_decides_its_role(values: list[str | None], role: str) -> None:
    column = ModelColumn("x", "x", "text", "undecided", ColumnConfig())
    assert contract.decide_role(column, values).role == role


@pytest.mark.parametrize("values", [["1", "b"], ["85", "85+"], ["1", "nan"]])
def test_text_that_cannot_decide(values: list[str]) -> None:
    column = ModelColumn("x", "x", "text", "undecided", ColumnConfig())
    with pytest.raises(
        ContractError, match=r"1 distinct values that are numbers and 1 that are not; expected all or none"
    ):
        contract.decide_role(column, values)


def test_identifier_is_no_factor(helpers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "MAX_LEVELS", 3)
    with pytest.raises(ContractError, match=r"data\.columns\.id: found more than 3 levels"):
        ingest(helpers, tmp_path, table(), factor_columns=["id", "state"])


def test_nan_beside_ordinary_numbers_is_missing(tmp_path: Path) -> None:
    """Without an infinity that widens the column's minimum and maximum, the file's footer hides that there is a NaN."""
    table = pa.table({"y": [0.0, 1.0, math.nan, 1.0, 0.0], "x": [0.5, math.nan, 1.5, 2.5, 3.5], "g": list("aabbb")})
    pq.write_table(table, tmp_path / "one.parquet")
    data = DataConfig(source=str(tmp_path / "one.parquet"), outcome="y", terms_of_use="synthetic", columns={"x": {"missing": "quarantine"}})
    report = ingest_files(
        data, ShardsConfig(), outcome_kind="binomial", factor_columns=("g",), predictor_columns=("x",),
        group_columns=(("g",),), directory=str(tmp_path / "run"),
    )  # fmt: skip
    assert report.manifest["quarantine"] == {"x:missing": 1}
    assert report.dictionary.outcome.num_known == 3
    assert report.dictionary.numerics["x"].maximum == 3.5
