"""Missing values are declared, or the run asks; what is outside the model takes nobody from it; oddities are noted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from sharding import notes
from sharding.errors import ContractError

OPTIONS: dict[str, Any] = {
    "outcome": "y", "factor_columns": ["g"], "predictor_columns": ["x"], "group_columns": [], "shards": {"by": "random"},
}  # fmt: skip


def table(**columns: Any) -> pa.Table:
    rows = {"g": ["a", "b", "c", "d"] * 15, "x": [float(i) for i in range(60)], "y": [0, 1] * 30}
    return pa.table({**rows, **columns})


def ingested(helpers: Any, folder: Path, rows: pa.Table, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    pq.write_table(rows, folder / "rows.parquet")
    return helpers.run(folder / "rows.parquet", folder / "run", **OPTIONS | options)


HOLES = {
    "g": pa.array(["a", None, "", "  ", "b", "c"] * 10), "x": pa.array([None, 1.0, float("nan"), 2.0, 3.0, 4.0] * 10),
    "w": pa.array([None, None, 1.0, 1.0, 2.0, 2.0] * 10),
}  # fmt: skip


@pytest.mark.parametrize(("name", "share"), [("g", "30 of 60 rows (50.0%)"), ("x", "20 of 60 rows (33.3%)"), ("w", "20 of 60 rows (33.3%)")])
def test_each_line_that_is_printed_works_where_it_is_pasted(helpers: Any, tmp_path: Path, name: str, share: str) -> None:
    options = {"weight": "w"} if name == "w" else {}
    rows = table(**{name: HOLES[name]})
    with pytest.raises(ContractError) as raised:
        ingested(helpers, tmp_path, rows, **options)
    message = str(raised.value)
    assert f"{name}: {share} have no value" in message
    lines = [line for line in message.splitlines() if line.startswith("    ")]
    assert len(lines) == {"g": 3, "x": 3, "w": 2}[name]
    for line in lines:
        columns = YAML(typ="safe").load(line)
        if columns[name]["missing"] == "error":
            with pytest.raises(ContractError, match=r"known"):
                ingested(helpers, tmp_path, rows, columns=columns, **options)
            continue
        totals = ingested(helpers, tmp_path, rows, columns=columns, **options).manifest["totals"]
        left = 0 if columns[name]["missing"] == "level" else int(share.split()[0])
        assert totals["rows_quarantined"] == left


def test_what_a_column_says_already_is_in_the_line(helpers: Any, tmp_path: Path) -> None:
    said = {"g": {"missing_values": ["", "c"], "unexpected": "quarantine"}}
    with pytest.raises(ContractError, match=r'g: \{missing_values: \["", "c"\], unexpected: "quarantine", missing: level\}'):
        ingested(helpers, tmp_path, table(), columns=said)


def test_a_file_without_missing_values_needs_no_word_and_unknown_outcomes_are_no_missing_values(
    helpers: Any, tmp_path: Path
) -> None:
    report = ingested(helpers, tmp_path, table(y=pa.array([None, 0, 1] * 20)))
    assert report.manifest["totals"]["rows_in_cells"] == 60
    assert report.dictionary.outcome.num_known == 40


@pytest.mark.parametrize("kind", ["margin", "shards"])
def test_a_column_outside_the_model_takes_no_row_from_it(helpers: Any, tmp_path: Path, kind: str) -> None:
    area = pa.array([None, "n", "s", "", None, "n"] * 10)
    options = {"margin_columns": ["area"]} if kind == "margin" else {"shards": {"by": "area", "min_cells": 1}}
    plain = ingested(helpers, tmp_path, table(area=area))
    outside = ingested(helpers, tmp_path / "outside", table(area=area), **options)
    assert outside.dictionary.factors["area"].levels == ("n", "s", "(missing)")
    assert outside.dictionary.numerics == plain.dictionary.numerics
    assert outside.dictionary.outcome == plain.dictionary.outcome
    cells = [helpers.totals(helpers.read_cells(r), ["g", "x"], ["num_rows", "num_successes"]) for r in (plain, outside)]
    assert cells[0] == cells[1]
    declared = {"area": {"missing": "quarantine"}}
    assert ingested(helpers, tmp_path, table(area=area), columns=declared, **options).manifest["quarantine"] == {"area:missing": 30}


def test_a_margin_of_the_model_still_asks(helpers: Any, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="expected `missing` for g"):
        ingested(helpers, tmp_path, table(g=HOLES["g"]), margin_columns=["g"])


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([*range(20, 58), *[-9.0] * 22], {"sentinel": 22}),
        ([*range(20, 56), *[-99.0] * 12, *[-9.0] * 12], {"sentinel": 24}),
        ([*range(20, 50), *[999.0] * 30], {"sentinel": 30}),
        ([*[0.0, 1.0] * 20, *[9999.0] * 20], {"sentinel": 20}),
        ([*np.linspace(1, 2, 50), *[77777.0] * 10], {"spike": 10}),
        ([*np.linspace(-50, 50, 60)], {}),
        ([*np.arange(-9, 51.0)], {}),  # -9 is one of many
        ([*np.linspace(0, 2000, 58), 999.0, 999.0], {}),
        ([0.0, 1.0] * 30, {}),
        ([*[1.0, 2, 3, 4, 5] * 10, *[8.0] * 6, *[9.0] * 4], {"sentinel": 10}),
        ([*range(1, 8)] * 7 + [9.0] * 11, {"sentinel": 11}),
        ([0.0, 1.0] * 25 + [9.0] * 10, {"sentinel": 10}),
        ([*range(18, 68), *[99.0] * 10], {"sentinel": 10}),
        ([*range(1, 8)] * 8 + [1.0] * 4, {}),  # a whole scale of seven, of nine, of even numbers
        ([*range(1, 10)] * 6 + [1.0] * 6, {}),
        ([0.0, 2, 4, 6, 8] * 12, {}),
        ([*[0.0, 1, 2, 3] * 14, 5, 6, 6, 8], {}),  # a tail
        ([1.0, 2.0] * 30, {}),
    ],
)
def test_codes_and_spikes_among_numbers_are_noted(helpers: Any, tmp_path: Path, values: list[float], kinds: dict[str, int]) -> None:
    found = ingested(helpers, tmp_path, table(x=values)).dictionary.notes
    counts: dict[str, int] = {}
    for note in found:
        assert note.column == "x"
        counts[note.kind] = counts.get(note.kind, 0) + note.count
    assert counts == kinds


def test_whole_numbers_that_are_one_number_here_are_refused(helpers: Any, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"data.columns.x: found whole numbers from 2\^53"):
        ingested(helpers, tmp_path, table(x=[2**53, 2**53 + 1] * 30))


def test_levels_in_several_spellings_are_noted_and_those_of_one_label_joined(helpers: Any, tmp_path: Path) -> None:
    g = ["Ada", "ada", "Ada ", "Do\u00f1a", "Don\u0303a", "NA"] * 10
    report = ingested(helpers, tmp_path, table(g=g))
    assert report.dictionary.factors["g"].levels == ("Ada", "Doña", "NA", "ada")
    found = {note.kind: note for note in report.dictionary.notes}
    assert (found["doubled"].count, found["joined"].count, found["marker"].count) == (10, 2, 10)
    assert "'Ada', 'ada'" in found["doubled"].what
    assert [m["severity"] for m in notes.messages(report.dictionary)] == ["warn", "warn", "info"]
