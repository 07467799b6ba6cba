"""No line of a text file is lost: a quotation mark that is not closed does not hide the rows after it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from sharding.errors import ContractError, SourceError
from sharding.text_lines import LineCounter

HEADER = "voter_id,state,county,race,female,dem,voted"


def rows(num_rows: int = 2000) -> list[str]:
    return [f"V{i:06d},0{i % 3},0{i % 3}001,White,{i % 2},0.{i % 3}1,{i % 2}" for i in range(num_rows)]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


@pytest.mark.parametrize("at", [10, 1990])
def test_a_quotation_mark_never_closed_spoils_its_line_however_many_rows_follow(helpers: Any, tmp_path: Path, at: int) -> None:
    lines = rows()
    lines[at] = '"' + lines[at]
    report = helpers.run(write(tmp_path / "x.csv", lines), tmp_path / "run")
    assert report.manifest["totals"] == {"rows_read": 2000, "rows_in_cells": 1999, "rows_quarantined": 1}


def test_rows_between_two_stray_quotation_marks_are_read(helpers: Any, tmp_path: Path) -> None:
    lines = rows()
    lines[10] = lines[10].replace("White", '"White')
    lines[13] = lines[13].replace("White", 'White"')  # together a row of the right length, that would hold two others
    report = helpers.run(write(tmp_path / "x.csv", lines), tmp_path / "run")
    assert report.manifest["totals"] == {"rows_read": 2000, "rows_in_cells": 1999, "rows_quarantined": 1}


def test_line_breaks_inside_a_value_are_kept(helpers: Any, tmp_path: Path) -> None:
    lines = rows()
    lines[10] = lines[10].replace("V000010", '"V\n\n0000,\r\n10"')
    report = helpers.run(write(tmp_path / "x.csv", lines), tmp_path / "run")
    assert report.manifest["totals"] == {"rows_read": 2000, "rows_in_cells": 2000, "rows_quarantined": 0}


def test_damage_inside_a_gzip_is_an_error(helpers: Any, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress("\n".join([HEADER, *rows()]).encode()))
    packed[200:210] = bytes(10)
    (tmp_path / "x.csv.gz").write_bytes(packed)
    with pytest.raises(SourceError, match="Copy the file again"):
        helpers.run(tmp_path / "x.csv.gz", tmp_path / "run")


def test_a_first_line_that_is_a_person_is_in_no_message(helpers: Any, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("SMITH,JOSE,12 NOWHERE LN\nDOE,ANN,13 NOWHERE LN\n")
    with pytest.raises(ContractError, match="one of the 3 names in the first line") as caught:
        helpers.run(tmp_path / "x.csv", tmp_path / "run")
    assert "SMITH" not in str(caught.value)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_lines_are_counted_alike_in_blocks_of_any_size(size: int) -> None:
    text = b"\n\none\r\ntwo\rthree\n\r\nfour"
    counter = LineCounter()
    for start in range(0, len(text), size):
        counter.add(text[start : start + size])
    assert counter.num_lines == 4
