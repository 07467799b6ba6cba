"""CSV in all its forms, and every kind of storage, give the same shards as a local Parquet file."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from sharding import storage, store
from sharding.errors import ContractError, SourceError


def csv_bytes(table: pa.Table, delimiter: str = ",") -> bytes:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["plain", "bom", "gz", "tsv", "latin-1", "utf-16", "crlf", "reordered", "semicolon"])
def test_text_forms_give_the_shards_of_parquet(helpers: Any, voters: Path, tmp_path: Path, form: str) -> None:
    table = helpers.people()
    table = table.set_column(3, "race", pa.array([f"{r} é" for r in table["race"].to_pylist()]))
    pq.write_table(table, voters)
    expected = helpers.run(voters, tmp_path / "expected")
    data, name, options = csv_bytes(table), "x.csv", {}
    if form == "bom":
        data = b"\xef\xbb\xbf" + data
    elif form == "gz":
        data, name = gzip.compress(data), "x.csv.gz"
    elif form == "tsv":
        data, name = csv_bytes(table, "\t"), "x.tsv"
    elif form in ("latin-1", "utf-16"):
        data, options = data.decode().encode(form), {"encoding": form}
    elif form == "crlf":
        data = data.replace(b"\n", b"\r\n")
    elif form == "semicolon":
        data, options = csv_bytes(table, ";"), {"delimiter": ";"}
    elif form == "reordered":
        half = len(table) // 2
        data = csv_bytes(table.slice(0, half))
        (tmp_path / "y.csv").write_bytes(csv_bytes(table.slice(half).select(table.column_names[::-1])))
        name, options = "x.csv", {"source": [str(tmp_path / "x.csv"), str(tmp_path / "y.csv")]}
    (tmp_path / name).write_bytes(data)
    report = helpers.run(options.pop("source", tmp_path / name), tmp_path / "run", **options)
    assert report.dictionary == expected.dictionary
    assert report.manifest["shards"] == expected.manifest["shards"]


def test_ragged_rows_are_counted_by_file_and_reason(helpers: Any, tmp_path: Path) -> None:
    good = csv_bytes(helpers.people(5000))
    bad = b"too,few\n" * 3 + b",".join([b"many"] * 30) + b"\n"
    lines = good.splitlines(keepends=True)
    (tmp_path / "a.csv").write_bytes(b"".join([*lines[:2500], bad, *lines[2500:]]))
    (tmp_path / "b.csv").write_bytes(good + b"too,few\n")
    (tmp_path / "c.csv").write_bytes(good.replace(b'"White"', b'"Wh\xffte"', 1))
    report = helpers.run(tmp_path / "*.csv", tmp_path / "run", keep_quarantined_rows=True)
    assert report.manifest["totals"]["rows_read"] == 15_005
    reasons = {"csv:too_few_fields": 4, "csv:too_many_fields": 1, "csv:invalid_encoding": 1}
    assert report.manifest["quarantine"] == reasons
    counts = storage.read_json(str(tmp_path / "run/quarantine/counts.json"))["by_file"]
    assert [(Path(c["url"]).name, c["reason"], c["num_rows"]) for c in counts] == [
        ("a.csv", "csv:too_few_fields", 3), ("a.csv", "csv:too_many_fields", 1), ("b.csv", "csv:too_few_fields", 1),
        ("c.csv", "csv:invalid_encoding", 1),
    ]  # fmt: skip
    assert pq.read_table(tmp_path / "run/quarantine/lines.parquet").num_rows == 6


def test_ragged_rows_do_not_hide_other_quarantine(helpers: Any, tmp_path: Path) -> None:
    good = csv_bytes(helpers.people(200))
    for name in "ab":
        (tmp_path / f"{name}.csv").write_bytes(good + f"too,few {name}\n".encode())
    columns = {"race": {"levels": ["White", "Black"], "unexpected": "quarantine"}}
    report = helpers.run(tmp_path / "*.csv", tmp_path / "run", columns=columns, max_unreadable=0.01)
    num_others = helpers.people(200)["race"].to_pylist().count("Hispanic")
    assert report.manifest["quarantine"] == {"race:unexpected_level": 2 * num_others, "csv:too_few_fields": 2}
    counts = storage.read_json(str(tmp_path / "run/quarantine/counts.json"))["by_file"]
    assert [c["num_rows"] for c in counts] == [1, num_others, 1, num_others]


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (b"", {}, SourceError, "found an empty file; expected a header line"),
        (b"\n\ng,x,y\na,1,0\n", {}, SourceError, "found an empty first line; expected a header line"),
        (b"state,county,race,female,dem,voted\n", {}, ContractError, "found no row in 1 file"),
        (b"a,a\n1,2\n", {}, ContractError, "If the first line is no header, add one"),
        (b"\xff\xfe\x00", {}, SourceError, r"not text in utf-8 .*Set data\.encoding"),
        (b"x", {"encoding": "utf-16"}, SourceError, "not text in utf-16"),
        (b"state,county,race,female,dem,voted\n01,01001,W,1,x1,0\n01,01001,W,0,2,1\n", {}, ContractError,
         r"data\.columns\.dem: found 1 distinct values that are numbers and 1 that are not"),
        (b"state,county,race,female,dem,voted\n01,01001,W,1,x1,0\n01,01001,W,0,2,1\n", {"columns": {"dem": {"type": "numeric"}}},
         ContractError, r"found 1 row\(s\) dem:not_a_number; expected dem a finite number"),
        (b"state,county,race,female,dem,voted\n01,01001,W,1\n", {}, ContractError, r"quarantined \(1 csv:too_few_fields\)"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_read(
    helpers: Any, tmp_path: Path, data: bytes, options: dict[str, Any], error: type, message: str
) -> None:
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        helpers.run(tmp_path / "x.csv", tmp_path / "run", **options)
    assert "x1" not in str(caught.value)


def test_equal_numbers_written_differently_are_one_cell(helpers: Any, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("g,x,voted\na,1,1\na,1.0,0\na,1e0,\na, 2 ,1\na,-0,1\na,0,1\n")
    report = helpers.run(
        tmp_path / "x.csv", tmp_path / "run", factor_columns=["g"], predictor_columns=["x"], group_columns=[("g",)],
        shards={"by": "random"},
    )  # fmt: skip
    cells = helpers.totals(helpers.read_cells(report), ["x"], ["num_rows", "num_trials", "num_successes"])
    assert cells == {(0.0,): (2, 2, 2), (1.0,): (3, 2, 1), (2.0,): (1, 1, 1)}


@pytest.mark.parametrize("kind", ["s3", "memory"])
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_remote_storage_gives_the_same_shards(
    helpers: Any, voters: Path, tmp_path: Path, bucket: str, kind: str, form: str
) -> None:
    base = f"{bucket}/{form}" if kind == "s3" else f"memory://{form}"
    data = voters.read_bytes() if form == "parquet" else csv_bytes(helpers.people())
    storage.publish_bytes(f"{base}/in/voters.{form}", data)
    expected = helpers.run(voters, tmp_path / "expected")
    for _ in range(2):
        report = helpers.run(f"{base}/in/*.{form}", f"{base}/run")
        assert report.manifest["shards"] == expected.manifest["shards"]
        assert store.read_dictionary(f"{base}/run") == expected.dictionary
        assert store.read_manifest(f"{base}/run") == report.manifest
    entry = report.manifest["shards"][0]
    columns = store.read_shard(report.directory, entry)
    assert int(columns["num_rows"].sum()) == entry["num_rows"]
    assert len(storage.list_files(f"{base}/run")) == 7
