"""Dirty files of every layout, read as it says: every planted fault is counted, and clean values come out as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import dirty_files
from sharding import layouts, storage
from sharding.dirty.generate import LAYOUTS, generate
from sharding.layouts.schema import Layout

NUM_ROWS = 2_500


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_fault_is_counted_and_every_clean_value_survives(name: str, tmp_path: Path) -> None:
    figures, wrong = dirty_files.prove(name, tmp_path, num_rows=NUM_ROWS, seed=1)
    assert wrong == []
    assert figures["faults"] > 30


@dataclass(frozen=True)
class Proof:
    """Files of Washington, and what was made of them."""

    files: Path
    layout: Layout
    planted: dict[str, Any]
    clean: pa.Table
    dirt: dict[str, Any]
    cleaned: pa.Table


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    directory = tmp_path_factory.mktemp("proof")
    generate(directory / "dirty", "wa-2020", num_rows=NUM_ROWS, seed=3)
    layout = layouts.load("wa-2020")
    result = layouts.clean(layout, [str(directory / "dirty/files")], str(directory / "run"), election=dirty_files.ELECTION)
    planted = storage.read_json(str(directory / "dirty/truth/planted.json"))
    clean = pq.read_table(directory / "dirty/truth/clean.parquet")
    return Proof(directory / "dirty/files", layout, planted, clean, result.dirt, pq.read_table(result.path))


def test_a_fault_that_was_planted_and_not_recorded_is_found(proof: Proof) -> None:
    for i, entry in enumerate(proof.planted["counts"]):
        if entry["rule"] == "missing:blank":
            continue
        fewer = {**proof.planted, "counts": [*proof.planted["counts"][:i], *proof.planted["counts"][i + 1 :]]}
        wrong = dirty_files.differences(fewer, proof.dirt, proof.layout)
        assert len(wrong) == 1
        assert entry["rule"] in wrong[0]


def _no_status(layout: Layout) -> Layout:
    return layout.model_copy(update={"people": layout.people.model_copy(update={"leave_out": ()})})


def _no_markers(layout: Layout) -> Layout:
    return layout.model_copy(update={"missing": ()})


def _no_placeholders(layout: Layout) -> Layout:
    birth = layout.columns["birth_date"].model_copy(update={"earliest_year": None})
    return layout.model_copy(update={"columns": {**layout.columns, "birth_date": birth}})


@pytest.mark.parametrize(
    ("broken", "rule"),
    [(_no_status, "status:left_out"), (_no_markers, "missing:marker"), (_no_placeholders, "birth_date:placeholder")],
)
def test_a_reader_without_a_rule_is_found(broken: Callable[[Layout], Layout], rule: str, proof: Proof, tmp_path: Path) -> None:
    result = layouts.clean(broken(proof.layout), [str(proof.files)], str(tmp_path / "run"), election=dirty_files.ELECTION)
    wrong = dirty_files.differences(proof.planted, result.dirt, proof.layout)
    assert any(rule in line for line in wrong)


def test_one_changed_value_is_found(proof: Proof) -> None:
    def changed(table: pa.Table, column: str, values: list[Any]) -> list[str]:
        place = table.column_names.index(column)
        other = table.set_column(place, column, pa.array(values, table.schema.field(column).type))
        return dirty_files.changed_values(proof.clean, other, proof.layout, proof.planted["date_form"])

    precincts, voted = proof.cleaned["precinct"].to_pylist(), proof.cleaned["voted"].to_pylist()
    assert changed(proof.cleaned, "precinct", precincts) == []
    assert changed(proof.cleaned, "precinct", [precincts[0].lstrip("0"), *precincts[1:]]) == ["precinct: 1 of 2,479 values"]
    assert changed(proof.cleaned, "voted", [None, *voted[1:]]) == ["voted: 1 of 2,479 values"]
    assert changed(proof.cleaned[1:], "voted", voted[1:]) == ["id: other people"]
