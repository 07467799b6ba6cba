"""Generated dirty files: the same bytes for the same seed, and in them what the record beside them says."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cluster.cli import app
from sharding import storage
from sharding.dirty.generate import LAYOUTS, generate
from sharding.simulate import SimulationError

NUM_ROWS = 2_500


def bytes_below(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def planted(directory: Path) -> dict[str, Any]:
    return dict(storage.read_json(str(directory / "truth/planted.json")))


def count(record: dict[str, Any], rule: str, file: str) -> int:
    return sum(c["count"] for c in record["counts"] if c["rule"] == rule and c["file"] == file)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_line_is_a_row_of_the_record(layout: str, tmp_path: Path) -> None:
    made = generate(tmp_path / "x", layout, num_rows=NUM_ROWS, seed=1)
    record = planted(tmp_path / "x")
    assert sum(f["rows_in"] for f in record["files"] if f["role"] == "voters") == made.num_rows
    assert sum(f["rows_out"] for f in record["files"] if f["role"] == "voters") == made.num_kept
    assert pq.read_metadata(tmp_path / "x/truth/clean.parquet").num_rows == made.num_kept
    header = layout not in ("fl", "mi")
    for entry in record["files"]:
        path = tmp_path / "x/files" / entry["file"]
        assert entry["rows_in"] == entry["rows_out"] + entry["rows_quarantined"]
        if path.suffix == ".parquet":
            assert pq.read_metadata(path).num_rows == entry["rows_in"]
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-16") if data.startswith(b"\xff\xfe") else data.decode("latin-1")
        lines = text.split("\n")
        blank = sum(not line.strip() for line in lines) - (not lines[-1])  # after the last line end there is no line
        assert blank == count(record, "lines:blank", entry["file"])
        assert len(lines) - (not lines[-1]) - blank - header == entry["rows_in"]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, "oh", num_rows=NUM_ROWS, seed=seed)
    assert bytes_below(tmp_path / "a") == bytes_below(tmp_path / "b") != bytes_below(tmp_path / "c")


def test_counties_are_as_uneven_as_real_ones(tmp_path: Path) -> None:
    generate(tmp_path / "x", "fl", num_rows=20_000, seed=1)
    sizes = {f["file"]: f["rows_in"] for f in planted(tmp_path / "x")["files"] if f["role"] == "voters"}
    assert len(sizes) == 67
    assert max(sizes, key=lambda name: sizes[name]).startswith("DAD")
    assert max(sizes.values()) > 100 * min(sizes.values())


def test_what_cannot_be_generated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="expected one of nc"):
        generate(tmp_path / "x", "zz", num_rows=NUM_ROWS, seed=1)
    with pytest.raises(SimulationError, match="room for every fault"):
        generate(tmp_path / "x", "nc", num_rows=10, seed=1)
    (tmp_path / "mine").write_text("")
    with pytest.raises(SimulationError, match="not empty"):
        generate(tmp_path, "nc", num_rows=NUM_ROWS, seed=1)


def test_the_command_writes_files_and_truth(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "x"), "--layout", "wa-2020", "--rows", str(NUM_ROWS)])
    assert result.exit_code == 0, result.output
    assert f"{NUM_ROWS + 6:,} voters" in result.stdout
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["files", "truth"]
