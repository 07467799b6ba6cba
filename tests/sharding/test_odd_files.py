"""Files as other programs write them: read rightly, or refused with the right reason."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding.errors import ContractError, SourceError

OPTIONS: dict[str, Any] = {
    "outcome": "y", "factor_columns": ["g"], "predictor_columns": ["x"], "group_columns": [], "shards": {"by": "random"},
}  # fmt: skip
ROWS = [("abc"[i % 3], i, i % 2) for i in range(60)]


def table(**more: Any) -> pa.Table:
    g, x, y = zip(*ROWS, strict=True)
    return pa.table({"g": list(g), "x": list(x), "y": list(y), **more})


def ingested(helpers: Any, source: Any, **options: Any) -> Any:
    return helpers.run(source, Path(str(source)).parent / "run", **OPTIONS | options)


def lines(header: str, form: str) -> str:
    return "\n".join([header, *(form.format(g=g, x=x, y=y, i=i) for i, (g, x, y) in enumerate(ROWS))]) + "\n"


@pytest.mark.parametrize("name", ["filename", "FileName", "file of the row", "file_row_number", "flag", "k0", "y0", "rowid"])
def test_no_name_of_a_column_is_in_the_way(helpers: Any, tmp_path: Path, name: str) -> None:
    pq.write_table(table(**{name: ["part"] * 60}), tmp_path / "a.parquet")
    assert ingested(helpers, tmp_path / "a.parquet").num_cells == 60
    (tmp_path / "b.csv").write_text(lines(f"g,x,y,{name}", "{g},{x},{y},part"))
    assert ingested(helpers, tmp_path / "b.csv").num_cells == 60
    assert ingested(helpers, tmp_path / "b.csv", factor_columns=["g", name]).dictionary.factors[name].levels == ("part",)


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ('"","g","x","y"', '"{i}","{g}",{x},{y}'),  # write.csv
        (",g,x,y", "{i},{g},{x},{y}"),  # pandas
        ("g,x,y,note,note", "{g},{x},{y},a,b"),
        ("g,x,y,,", "{g},{x},{y},,"),  # a spreadsheet
    ],
)
def test_columns_without_a_name_of_their_own_are_not_read(helpers: Any, tmp_path: Path, header: str, form: str) -> None:
    (tmp_path / "a.csv").write_text(lines(header, form))
    assert ingested(helpers, tmp_path / "a.csv").num_cells == 60


def test_a_repeated_column_that_the_model_reads_is_refused(helpers: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines("g,x,y,x", "{g},{x},{y},7"))
    with pytest.raises(ContractError, match="several columns called 'x'"):
        ingested(helpers, tmp_path / "a.csv")
    twice = pa.Table.from_arrays([pa.array([1] * 60), *table().columns], names=["x", "g", "x", "y"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ContractError, match="several columns called 'x'"):
        ingested(helpers, tmp_path / "a.parquet")


@pytest.mark.parametrize(("mark", "named"), [(";", '";"'), ("\t", r'"\\t"'), ("|", r'"\|"')])
def test_another_delimiter_is_named(helpers: Any, tmp_path: Path, mark: str, named: str) -> None:
    (tmp_path / "a.csv").write_text(lines(mark.join("gxy"), mark.join(["{g}", "{x}", "{y}"])))
    with pytest.raises(ContractError, match=f"Set data.delimiter: {named}"):
        ingested(helpers, tmp_path / "a.csv")
    assert ingested(helpers, tmp_path / "a.csv", delimiter=mark).num_cells == 60


@pytest.mark.parametrize("form", ['{g};"1.{x:03d},50";{y}', "{g};{x},5;{y}", '{g};"$1,{x:03d}";{y}', "{g};{x}%;{y}"])
def test_numbers_that_are_written_for_people_are_refused_and_not_taken_for_levels(
    helpers: Any, tmp_path: Path, form: str
) -> None:
    (tmp_path / "a.csv").write_text(lines("g;x;y", form))
    with pytest.raises(ContractError, match=r"data\.columns\.x: found .* written with"):
        ingested(helpers, tmp_path / "a.csv", delimiter=";")
    as_levels = ingested(helpers, tmp_path / "a.csv", delimiter=";", columns={"x": {"type": "factor"}})
    assert len(as_levels.dictionary.factors["x"].levels) == 60


def test_bytes_half_floats_and_large_numbers_are_read(helpers: Any, tmp_path: Path) -> None:
    g, x, y = zip(*ROWS, strict=True)
    columns = {
        "g": pa.array([v.encode() for v in g], pa.binary()), "x": pa.array(np.array(x, np.float16)),
        "y": pa.array(y, pa.uint64()),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    report = ingested(helpers, tmp_path / "a.parquet")
    assert report.dictionary.factors["g"].levels == ("a", "b", "c")
    assert (report.dictionary.numerics["x"].maximum, report.num_cells) == (59.0, 60)


@pytest.mark.parametrize("values", [[[1]] * 60, [{"a": 1}] * 60, [(b"x" * 16)] * 60])
def test_what_can_be_no_level_is_refused(helpers: Any, tmp_path: Path, values: list[Any]) -> None:
    column = pa.array(values, pa.binary(16)) if isinstance(values[0], bytes) else pa.array(values)
    pq.write_table(table().set_column(0, "g", column), tmp_path / "a.parquet")
    with pytest.raises(ContractError, match="stored as"):
        ingested(helpers, tmp_path / "a.parquet")


def test_a_nul_inside_a_level_is_refused_and_padding_with_it_is_taken_off(helpers: Any, tmp_path: Path) -> None:
    pq.write_table(table().set_column(0, "g", pa.array([g + "\0\0" for g, _, _ in ROWS])), tmp_path / "a.parquet")
    assert ingested(helpers, tmp_path / "a.parquet").dictionary.factors["g"].levels == ("a", "b", "c")
    pq.write_table(table().set_column(0, "g", pa.array([g + "\0z" for g, _, _ in ROWS])), tmp_path / "b.parquet")
    with pytest.raises(ContractError, match="NUL"):
        ingested(helpers, tmp_path / "b.parquet")


@pytest.mark.parametrize("how", ["copy", "link", "other folder", "again by a link to the folder"])
def test_files_with_the_same_bytes_are_an_error_unless_allowed(helpers: Any, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(table(), folder / "a.parquet")
    pq.write_table(table().slice(0, 30), folder / "z.parquet")
    source: Any = folder / "*.parquet"
    if how == "copy":
        shutil.copy(folder / "a.parquet", folder / "b.parquet")
    elif how == "link":
        os.symlink(folder / "a.parquet", folder / "b.parquet")
    else:
        if how == "other folder":
            (tmp_path / "more").mkdir()
            shutil.copy(folder / "a.parquet", tmp_path / "more" / "a.parquet")
        else:
            os.symlink(folder, tmp_path / "more")
        source = [folder / "*.parquet", tmp_path / "more" / "a.parquet"]
    with pytest.raises(SourceError, match=r"same bytes, .*a\.parquet"):
        helpers.run(source, tmp_path / "run", **OPTIONS)
    assert helpers.run(source, tmp_path / "run", allow_equal_files=True, **OPTIONS).manifest["totals"]["rows_read"] == 150


def test_equal_files_without_rows_are_no_copies(helpers: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("g,x,y\n")
    (tmp_path / "c.csv").write_text(lines("g,x,y", "{g},{x},{y}"))
    assert helpers.run(tmp_path / "*.csv", tmp_path / "run", **OPTIONS).num_cells == 60


@pytest.mark.parametrize("rule", ["exposure", "count"])
def test_the_column_that_breaks_a_rule_decides_what_becomes_of_the_row(helpers: Any, tmp_path: Path, rule: str) -> None:
    c, e = ([3, 1, -1, 2] * 15, [1.0] * 60) if rule == "count" else ([3, 1, 1, 2] * 15, [1.0, 1.0, 0.0, 2.0] * 15)
    pq.write_table(table(c=c, e=e), tmp_path / "a.parquet")
    options = OPTIONS | {"outcome": {"count": "c", "exposure": "e"}, "outcome_kind": "count"}
    with pytest.raises(ContractError, match=rf"data\.columns\.{rule}, or say `unexpected: quarantine` there"):
        helpers.run(tmp_path / "a.parquet", tmp_path / "run", **options)
    report = helpers.run(
        tmp_path / "a.parquet", tmp_path / "run", columns={rule: {"unexpected": "quarantine"}}, **options
    )
    assert report.manifest["totals"]["rows_quarantined"] == 15


DRESSED = {
    "hard blanks": "1\u00a0{x:03d}", "narrow blanks": "1\u202f{x:03d}", "Swiss marks": "1\u2019{x:03d}", "minus signs": "\u2212{x}", "parentheses": "({x})",
    "minus behind": "{x}-", "underscores": "1_{x:03d}", "Fortran": "{x}.5D0", "other digits": "\u0661{x}",
}  # fmt: skip


@pytest.mark.parametrize("name", DRESSED)
@pytest.mark.parametrize("text", [False, True])
def test_numbers_written_for_people_are_refused_in_text_and_in_parquet(helpers: Any, tmp_path: Path, name: str, text: bool) -> None:
    values = [DRESSED[name].format(x=x) for _, x, _ in ROWS]
    if text:
        (tmp_path / "a.csv").write_text("g,x,y\n" + "".join(f"{g},{value},{y}\n" for (g, _, y), value in zip(ROWS, values, strict=True)))
    else:
        pq.write_table(table(x=values), tmp_path / "a.parquet")
    with pytest.raises(ContractError, match=r"data\.columns\.x: found .* written with"):
        ingested(helpers, next(tmp_path.iterdir()))


DATES = {
    "ISO": "2024-{m:02d}-{d:02d}", "American": "{m}/{d}/24", "German": "{d:02d}.{m:02d}.2024", "with a time": "2024-{m:02d}-{d:02d}T10:00:00Z", "in words": "{d}-Jan-2024",
}  # fmt: skip


@pytest.mark.parametrize("name", [*DATES, "Arrow"])
def test_dates_before_a_bar_are_refused_and_may_be_declared(helpers: Any, tmp_path: Path, name: str) -> None:
    values: list[Any] = [DATES.get(name, DATES["ISO"]).format(m=1 + x % 12, d=1 + x % 28) for _, x, _ in ROWS]
    values = [datetime.date.fromisoformat(value) for value in values] if name == "Arrow" else values
    pq.write_table(table(x=values), tmp_path / "a.parquet")
    with pytest.raises(ContractError, match=r"data\.columns\.x: found dates in a column that the formula has before a bar.*type: factor"):
        ingested(helpers, tmp_path / "a.parquet")
    assert "x" in ingested(helpers, tmp_path / "a.parquet", columns={"x": {"type": "factor"}}).dictionary.factors
    groups = {"factor_columns": ["x"], "predictor_columns": []}
    assert "x" in ingested(helpers, tmp_path / "a.parquet", **groups).dictionary.factors
