"""One bad line spoils one line; more of them than are allowed end the run, with file, line, kind and what to set."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sharding import text_copy
from sharding.errors import SourceError
from sharding.text_lines import LineCounter

ROWS = [f"{'abc'[i % 3]},{i},{i % 2}" for i in range(300)]
HEADER = "g,x,y"


def ingested(helpers: Any, folder: Path, content: bytes, name: str = "v.csv", **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    arguments = {
        "outcome": "y", "factor_columns": ["g"], "predictor_columns": ["x"], "group_columns": [], "shards": {"by": "random"},
    }  # fmt: skip
    return helpers.run(folder / name, folder / "run", **arguments | options)


def text(rows: list[str], end: str = "\n", encoding: str = "utf-8") -> bytes:
    return (end.join([HEADER, *rows]) + end).encode(encoding)


@pytest.mark.parametrize("place", [0, 100, 299])
@pytest.mark.parametrize("packed", [False, True])
def test_a_mark_that_is_never_closed_spoils_its_line(helpers: Any, tmp_path: Path, place: int, packed: bool) -> None:
    rows = [*ROWS]
    rows[place] = '"' + rows[place]
    content = gzip.compress(text(rows)) if packed else text(rows)
    report = ingested(helpers, tmp_path, content, "v.csv.gz" if packed else "v.csv")
    assert report.manifest["quarantine"] == {"csv:broken_quotes": 1}
    assert report.manifest["totals"] == {"rows_read": 300, "rows_in_cells": 299, "rows_quarantined": 1}


def test_two_marks_that_close_each_other_over_many_rows_spoil_their_two_lines(helpers: Any, tmp_path: Path) -> None:
    rows = [*ROWS]
    rows[10] = "a," + '"10,0'
    rows[90] = "a," + '90",0'
    rows[200] = 'b,"200"x,1'
    columns = {"x": {"type": "numeric", "unexpected": "quarantine"}}
    report = ingested(helpers, tmp_path, text(rows), max_unreadable=0.02, columns=columns)
    assert report.manifest["quarantine"] == {"csv:broken_quotes": 2, "x:not_a_number": 1}
    assert report.manifest["totals"]["rows_in_cells"] == 297
    assert report.manifest["totals"]["rows_read"] == 300


def test_values_with_line_breaks_stay_whole_beside_a_stray_mark(helpers: Any, tmp_path: Path) -> None:
    rows = [*ROWS]
    rows[5] = '"a\nwith a ""note"", and a comma",5,1'
    rows[6] = '"a\nwith a ""note"", and a comma",5,1'
    rows[7] = '"c,7,1'
    report = ingested(helpers, tmp_path, text(rows))
    assert report.manifest["quarantine"] == {"csv:broken_quotes": 1}
    assert report.dictionary.factors["g"].levels[1] == 'a\nwith a "note", and a comma'


@pytest.mark.parametrize(
    ("spoil", "found", "do"),
    [
        (lambda row: row.encode().replace(b"a", b"\xe9"), "bytes that are not UTF-8", "data.encoding: cp1252"),
        (lambda row: row.encode() + b",7", "more fields than the first line", "data.delimiter"),
        (lambda row: row.encode()[:3], "fewer fields than the first line", "data.delimiter"),
        (lambda row: b'"' + row.encode() + b'"z', "a quotation mark that is not closed", "quotation marks"),
    ],
)
def test_more_than_a_few_end_the_run_and_nothing_of_the_line_is_told(
    helpers: Any, tmp_path: Path, spoil: Any, found: str, do: str
) -> None:
    rows: list[bytes] = [HEADER.encode(), b'"b\nb",3,1', *(row.encode() for row in ROWS)]
    for i in (60, 120, 180):
        rows[i] = spoil(f"a,{i}987654321,0")
    with pytest.raises(SourceError) as raised:
        ingested(helpers, tmp_path, b"\n".join(rows) + b"\n")
    message = str(raised.value)
    print(message)
    assert f"3 of 302 lines that cannot be read, line 62 the first with {found}" in message
    assert "v.csv" in message
    assert do in message
    assert "987654321" not in message
    allowed = float(re.search(r"data\.max_unreadable: ([0-9.]+)", message)[1])  # type: ignore[index]
    report = ingested(helpers, tmp_path, b"\n".join(rows) + b"\n", max_unreadable=allowed)
    assert report.manifest["totals"]["rows_quarantined"] == 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_and_a_mixture_is_read(helpers: Any, tmp_path: Path, end: str) -> None:
    assert ingested(helpers, tmp_path, text(ROWS, end)).manifest["totals"]["rows_in_cells"] == 300
    mixed = text(ROWS, end) + ("\r\n" if end == "\n" else "\n").join([*ROWS, ""]).encode()
    assert ingested(helpers, tmp_path / "mixed", mixed).manifest["totals"]["rows_in_cells"] == 600


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf16_is_named_and_read_where_it_is_declared(helpers: Any, tmp_path: Path, encoding: str) -> None:
    with pytest.raises(SourceError, match=f"Set data.encoding: {encoding}"):
        ingested(helpers, tmp_path, text(ROWS, encoding=encoding))
    assert ingested(helpers, tmp_path, text(ROWS, encoding=encoding), encoding=encoding).num_cells == 300


def test_a_gzip_file_that_is_cut_is_not_called_another_encoding(helpers: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="whole gzip file"):
        ingested(helpers, tmp_path, gzip.compress(text(ROWS))[:-20], "v.csv.gz")
    with pytest.raises(SourceError, match="whole gzip file"):
        ingested(helpers, tmp_path, text(ROWS), "v.csv.gz")


def test_a_byte_order_mark_is_no_part_of_the_first_name(helpers: Any, tmp_path: Path) -> None:
    assert ingested(helpers, tmp_path, b"\xef\xbb\xbf" + text(ROWS)).num_cells == 300


FIELD = st.sampled_from(["a", "", "b c", '"q"', '"q,q"', '"q\nq"', '"q""q"', "5'", '"', '"x', 'y"', '"a"b'])


@given(st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=12))
@example([('"q,q"', '"q\nq"', '"q,q"')])
def test_the_copy_has_the_good_records_as_they_were_and_no_value_goes_over_its_end(rows: list[tuple[str, ...]]) -> None:
    content = "".join(",".join(row) + "\n" for row in rows)
    lines = list(text_copy._repaired(iter(content.splitlines(keepends=True)), ",", 3))
    is_inside = False
    for line in lines:
        is_inside, is_right = text_copy._scan(line, ",", is_inside=is_inside)
        assert is_right or line.startswith('"x"y')
    assert not is_inside
    assert len(lines) == content.count("\n")
    if not any(field in row for row in rows for field in ('"', '"x', '"a"b')):
        assert "".join(lines) == content


@given(st.binary(max_size=400).map(lambda b: bytes(b'\n\r",a'[x % 5] for x in b)), st.integers(1, 7))
def test_odd_marks_and_mixed_ends_are_seen_in_blocks_of_any_size(content: bytes, size: int) -> None:
    counter = LineCounter()
    for block in iter(io.BytesIO(content).read, b""):
        for i in range(0, len(block), size):
            counter.add(block[i : i + size])
    complete = re.split(rb"[\r\n]+", content)[:-1]
    odd = any(sum(line.count(b'"') for line in complete[: i + 1]) % 2 for i in range(len(complete)))
    assert counter.has_open_quotes == odd
    kinds = {end for end in re.findall(rb"\r\n|\r|\n", content)}
    assert counter.has_mixed_ends == (len(kinds) > 1)
