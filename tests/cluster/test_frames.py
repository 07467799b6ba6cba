"""Frames of one's own: the labels of the data in every type and file, people without a value, new levels, other units."""

import gzip
import io
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from cluster import frames, population
from cluster.config import RunConfig
from cluster.errors import FrameError
from fitting.coding import Coding

AREAS = ("1", "2", "10")
DICTIONARY = {
    "factors": {
        "area": {"levels": list(AREAS), "reference": "1"},
        "urban": {"levels": ["false", "true"], "reference": "false"},
        "ward": {"levels": ["w1", "w2", "w3"], "reference": "w1"},
        "kind": {"levels": ["a", "b"], "reference": "a"},
    },
    "numerics": {
        "female": {"center": 0.0, "scale": 1.0, "binary": True, "minimum": 0.0, "maximum": 1.0},
        "share": {"center": 48.0, "scale": 16.0, "binary": False, "minimum": 3.0, "maximum": 97.0},
    },
    "groups": {"area": [[0], [1], [2]], "area:ward": [[0, 0], [0, 1], [1, 2]]},
    "parents": {"ward": {"area": [0, 0, 1]}},
    "outcome": {"kind": "binomial", "num_known": 100, "mean": 0.5, "sd": 0.5},
}


def config(formula: str = "y ~ 1 + (1 | area)", frame: str = "frame.parquet", **sections: Any) -> RunConfig:
    poststratify = {"by": ["all"], "frame": frame, "count": "n"} | sections.pop("poststratify", {})
    model = {"formula": formula, "family": "bernoulli"} | sections.pop("model", {})
    data = {"source": "x.parquet", "outcome": "y", "terms_of_use": "made up"} | sections.pop("data", {})
    return RunConfig.model_validate(
        {"name": "x", "data": data, "model": model, "poststratify": poststratify, "run": {"directory": "run"}, **sections}
    )


def coding(**changes: Any) -> Coding:
    return Coding.from_dictionary(DICTIONARY | changes)


@pytest.fixture
def read(tmp_path: Path):
    def read(columns: dict[str, Any] | pa.Table, formula: str = "y ~ 1 + (1 | area)", suffix: str = "parquet", **sections: Any):
        file = tmp_path / f"frame.{suffix}"
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        if suffix == "parquet":
            pq.write_table(table, file)
        else:
            sink = io.BytesIO()
            delimiter = "\t" if "tsv" in suffix or "tab" in suffix else ";" if "semi" in suffix else ","
            pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(delimiter=delimiter, quoting_style="needed"))
            text = sink.getvalue()
            file.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
        return frames.read(config(formula, str(file), **sections), coding())

    return read


# ---- labels ----


@pytest.mark.parametrize("suffix", ["parquet", "csv", "csv.gz", "tsv", "tsv.gz", "semi.csv"])
@pytest.mark.parametrize(
    "area",
    [
        pa.array([1, 10, 2, 10], pa.int16()), pa.array([1.0, 10.0, 2.0, 10.0], pa.float32()), pa.array(["1 ", " 10", "2", "10.0"]),
        pa.array([Decimal("1.00"), Decimal("10.00"), Decimal("2.00"), Decimal("10.00")], pa.decimal128(6, 2)),
        pa.array(["1", "10", "2", "10"]).dictionary_encode(),
    ],
)  # fmt: skip
def test_codes_match_in_every_type_and_file(read, area: pa.Array, suffix: str):
    frame = read({"area": area, "n": [1, 2, 3, 4]}, suffix=suffix)
    assert frame.columns["area"].tolist() == [0, 2, 1, 2]
    assert frame.facts["new"] == []
    assert frame.levels["area"] == AREAS


@pytest.mark.parametrize("urban", [[True, False], ["TRUE", "FALSE"], ["true", "False"]])
def test_truth_values_are_those_of_the_data(read, urban: list[Any]):
    frame = read({"urban": urban, "n": [1, 2]}, "y ~ 1 + (1 | urban)")
    assert frame.columns["urban"].tolist() == [1, 0]


def test_rows_of_equal_cells_add_up_and_rows_without_people_do_not_matter(read):
    frame = read({"area": ["1", "1", "nowhere", "2"], "n": [0.25, 3e9, 0.0, 16777217.0], "other": [date(2024, 1, 1)] * 4})
    assert frame.weight.tolist() == [0.25, 3e9, 16777217.0]
    assert frame.facts["people"] == 0.25 + 3e9 + 16777217.0
    assert frame.facts["new"] == []


# ---- levels that the data did not have ----


def test_a_factor_of_which_nothing_matches_is_an_error(read):
    with pytest.raises(FrameError, match=r"levels such as '1', '2', '10'.*'01', '02'.*in any row.*'01' and '1' differ"):
        read({"area": ["01", "02"], "n": [1, 2]})
    with pytest.raises(FrameError, match=r"'A' and 'a' differ in case"):
        read({"area": ["1", "1"], "kind": ["A", "B"], "n": [1, 2]}, "y ~ 1 + (1 | area) + (1 | kind)")


def test_people_on_new_levels_are_counted_by_column(read):
    frame = read(
        {"area": ["1", "7", "8", "2"], "kind": ["a", "a", "z", "b"], "n": [10, 20, 30, 40]}, "y ~ 1 + (1 | area) + (1 | kind)",
        poststratify={"by": ["area"]},
    )  # fmt: skip
    assert frame.facts["new"] == [
        {"column": "area", "levels": ["7", "8"], "num_levels": 2, "people": 50.0},
        {"column": "kind", "levels": ["z"], "num_levels": 1, "people": 30.0},
    ]
    assert frame.levels["area"] == (*AREAS, "7", "8")
    of_model = frame.for_model(coding())
    assert of_model["area"].tolist() == [0, -1, -2, 1]
    assert frame.columns["area"].tolist() == [0, 3, 4, 1]


def test_people_on_levels_that_are_only_written_otherwise_are_told(read):
    frame = read({"area": ["1", "02", "2", "7"], "n": [60, 10, 20, 10]})
    assert frame.facts["alike"] == [{"column": "area", "pairs": [["02", "2"]], "people": 10.0}]
    found = population.describe(config(), {"people": {"people": 9, "outcomes": 9, "left_out": {}}}, frame.facts)
    (note,) = [n for n in population.notes(found, config()) if n["severity"] == "warn"]
    assert "10.00% of the people are on new levels that differ from the data's only in how they are written ('02' for '2')" in note["what"]


@pytest.mark.parametrize(
    ("formula", "sections"),
    [
        ("y ~ 1 + kind + (1 | area)", {}),
        ("y ~ 1 + (1 + kind | area)", {}),
        ("y ~ 1 + (1 | area) + (1 | kind)", {"model": {"priors": {"1|kind": {"structure": "random_walk", "order": 1}}}}),
    ],
)
def test_where_no_level_can_be_drawn_a_new_one_is_an_error_before_the_fit(read, formula: str, sections: dict[str, Any]):
    with pytest.raises(FrameError, match=r"'a', 'b', found 1 rows whose 'kind' is not a level of the data \('z'\)"):
        read({"area": ["1", "2"], "kind": ["a", "z"], "n": [1, 1]}, formula, **sections)
    with pytest.raises(FrameError, match=r"1 missing values in 'kind' \(25.0% of the people\).*leave_out"):
        read({"area": ["1", "2"], "kind": ["a", None], "n": [3, 1]}, formula, **sections)


def test_wards_in_another_area_contradict_the_nesting(read):
    formula = "y ~ 1 + (1 | area/ward)"
    frame = read({"area": ["1", "2", "2"], "ward": ["w1", "w3", "w1"], "n": [5, 4, 1]}, formula)
    assert frame.facts["combinations"] == [{"columns": ["area", "ward"], "people": 1.0, "contradicts": True}]
    with pytest.raises(FrameError, match=r"'1:w1'.*no combination of 'area' and 'ward'"):
        read({"area": ["2", "1"], "ward": ["w1", "w3"], "n": [5, 4]}, formula)


def test_levels_of_a_column_that_only_the_frame_has_are_in_order(read):
    size = pa.DictionaryArray.from_arrays(pa.array([1, 0, 2, 1]), pa.array(["small", "middle", "large"]), ordered=True)
    frame = read(
        {"area": ["1"] * 4, "band": [10, 9, None, 100], "size": size, "n": [1, 2, 3, 4]}, poststratify={"by": ["band", "size"]}
    )  # fmt: skip
    assert frame.levels["band"] == ("9", "10", "100", "(missing)")
    assert frame.levels["size"] == ("small", "middle", "large")
    assert frame.facts["new"] == []


# ---- missing values ----


@pytest.mark.parametrize(
    ("hole", "suffix"), [(None, "parquet"), (None, "csv"), ("", "csv"), (float("nan"), "parquet"), ("-99", "parquet"), (" ", "csv")]
)
def test_people_without_a_value_are_a_level_of_their_own(read, suffix: str, hole: Any):
    values = [1.0, hole, 2.0, hole] if isinstance(hole, float) else ["1", hole, "2", hole]
    frame = read(
        {"area": values, "n": [1, 2, 3, 4]}, suffix=suffix, poststratify={"by": ["area"]},
        data={"columns": {"area": {"missing_values": ["", "-99"]}}},
    )  # fmt: skip
    assert frame.weight.sum() == 10
    assert frame.levels["area"] == (*AREAS, "(missing)")
    assert frame.columns["area"].tolist() == [0, 3, 1, 3]
    assert frame.facts["missing"] == [{"column": "area", "people": 6.0}]
    assert frame.facts["new"] == [{"column": "area", "levels": ["(missing)"], "num_levels": 1, "people": 6.0}]


def test_a_level_for_missing_values_that_the_fit_has_is_taken(tmp_path: Path):
    factors = DICTIONARY["factors"] | {"area": {"levels": ["1", "(missing)"], "reference": "1"}}
    pq.write_table(pa.table({"area": ["1", None], "n": [1, 2]}), tmp_path / "f.parquet")
    found = frames.read(config("y ~ 1 + area", str(tmp_path / "f.parquet")), coding(factors=factors))
    assert found.columns["area"].tolist() == [0, 1]
    assert found.facts["new"] == []
    assert found.facts["missing"] == [{"column": "area", "people": 2.0}]


def test_levels_that_nobody_in_the_frame_has_are_told(read):
    assert read({"area": [1, 2, 10], "n": [5, 2, 3]}).facts["absent"] == []
    facts = read({"area": [1, 1, 1], "n": [5, 2, 3]}).facts
    assert facts["absent"] == [{"column": "area", "num_absent": 2, "num_levels": 3}]


def test_shares_are_not_counts(read):
    with pytest.raises(FrameError, match=r"'n' that add up to 1, as shares do. Multiply the shares by the number of people"):
        read({"area": [1, 2, 10], "n": [0.5, 0.2, 0.3]})
    assert read({"area": [1, 2, 10], "n": [0, 0, 1]}).facts["people"] == 1, "one person is one"


def test_people_may_be_left_out_and_are_counted_once(read):
    columns = {"area": ["1", None, "2", None], "share": [50.0, None, None, 40.0], "n": [1, 2, 4, 8]}
    frame = read(columns, "y ~ 1 + share + (1 | area)", poststratify={"missing": "leave_out"})
    assert frame.weight.tolist() == [1.0]
    assert frame.facts["people"] == 15.0
    assert frame.facts["left_out"] == {"share:missing": 6.0, "area:missing": 8.0}
    assert frame.columns["area"].tolist() == [0]
    with pytest.raises(FrameError, match="in every row"):
        read(columns | {"share": pa.nulls(4, pa.float64())}, "y ~ 1 + share + (1 | area)", poststratify={"missing": "leave_out"})
    with pytest.raises(FrameError, match=r"2 missing values in 'area'"):
        read(columns | {"share": [50.0] * 4}, "y ~ 1 + share + (1 | area)", poststratify={"missing": "error"})


# ---- numbers ----


@pytest.mark.parametrize("values", [[1, 2, 1], [0, -1, 1], [0.0, 0.5, 1.0], [0, 100, 100]])
def test_a_column_of_0_and_1_takes_no_other_number(read, values: list[float]):
    with pytest.raises(FrameError, match=r"0 and 1, which are its only values.*rows whose 'female'"):
        read({"female": values, "area": ["1"] * 3, "n": [1.0] * 3}, "y ~ 1 + female + (1 | area)")


@pytest.mark.parametrize(
    ("values", "people", "squeezed"),
    [
        ([10.0, 50.0, 90.0, 97.0], None, False),
        ([10.0, 50.0, 98.0, 97.0], 4.0, False),
        ([0.1, 0.5, 0.9, 0.97], 15.0, True),
        ([48.1, 48.2, 48.3, 48.4], None, False),
        ([0.481, 0.482, 0.483, 0.484], 15.0, True),
        ([0.5, 0.5, 0.7, 0.5], 15.0, True),
        ([30.0, 31.0, 30.0, 31.0], None, False),
        ([50.0] * 4, None, False),
    ],
)
def test_numbers_outside_of_what_was_fitted_and_in_other_units(read, values: list[float], people: float | None, squeezed: bool):
    (found,) = read({"share": values, "area": ["1"] * 4, "n": [1, 2, 4, 8]}, "y ~ 1 + share + (1 | area)").facts["outside"] or [None]
    assert (found and found["people"]) == people
    assert bool(found and found["squeezed"]) == squeezed


def test_shares_against_percentages_are_seen_either_way():
    fitted = coding(numerics={"share": DICTIONARY["numerics"]["share"] | {"center": 0.48, "scale": 0.16, "minimum": 0.0, "maximum": 1.0}})
    values = np.array([5.0, 40.0, 60.0])
    found = frames.outside("share", fitted.numerics["share"], values, np.ones(3))
    assert found is not None
    assert found["people"] == 3.0
    assert found["shift"] > 100


# ---- the file ----


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"area": ["1"], "n": [None]}, "1 missing or infinite counts in 'n'"),
        ({"area": ["1", "2"], "n": [1.0, float("nan")]}, "1 missing or infinite counts"),
        ({"area": ["1", "2"], "n": [1.0, float("inf")]}, "1 missing or infinite counts"),
        ({"area": ["1", "2"], "n": [1.0, -1.0]}, "a negative count"),
        ({"area": ["1"], "n": [[1.0]]}, "numbers"),
        ({"area": [["1"]], "n": [1.0]}, "'area' of type list"),
        ({"area": ["1"], "m": [1.0]}, r"also \['n'\]"),
        ({"area": [b"\xff"], "n": [1.0]}, "'area' of type binary"),
    ],
)
def test_what_is_no_frame_is_refused_with_its_reason(read, columns: dict[str, Any], said: str):
    table = {name: pa.array(values, pa.float64()) if values == [None] else values for name, values in columns.items()}
    with pytest.raises(FrameError, match=said):
        read(table)


def test_a_folder_is_no_frame(tmp_path: Path):
    with pytest.raises(FrameError, match="one file, found no file of that name"):
        frames.read(config(frame=str(tmp_path)), coding())


def test_a_column_twice_is_refused(read):
    with pytest.raises(FrameError, match="more than once"):
        read(pa.table([["1"], ["2"], [1]], names=["area", "area", "n"]), suffix="csv")


# ---- who is in the numbers ----

MANIFEST = {
    "people": {
        "people": 900, "outcomes": 300,
        "left_out": {
            "age:missing": {"people": 5000, "outcomes": 50}, "unreadable line": {"people": 100, "outcomes": 0},
            "weight:not_positive": {"people": 40, "outcomes": 40},
        },
    }
}  # fmt: skip


def judged(manifest: dict[str, Any], facts: dict[str, Any] | None = None, **sections: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    run = config(frame="file", poststratify={"count": None}, **sections) if facts is None else config(**sections)
    found = population.describe(run, manifest, facts)
    return found, {gate["name"]: gate for gate in population.judge(found, run)}


def test_what_was_left_out_without_a_word_is_judged():
    found, gates = judged(MANIFEST, data={"columns": {"age": {"missing": "quarantine"}}})
    assert (found["people"], found["counted"], found["fitted"]) == (6040, 900, 300)
    assert found["files"]["outcomes"] == 390
    assert gates["rows"]["value"] == pytest.approx(40 / 390, abs=1e-6)  # what was declared is told, and not judged
    assert gates["rows"]["status"] == "warn"
    assert gates["rows"]["about"] == "data"
    assert "age:missing (declared): 82.8% of people, 12.8% of known outcomes" in gates["rows"]["where"]
    _, gates = judged(MANIFEST)
    assert gates["rows"]["status"] == "fail"
    _, gates = judged({"people": {"people": 1000, "outcomes": 10, "left_out": {}}})
    assert gates["rows"]["status"] == "pass"


def test_a_tenth_that_is_gone_cannot_pass():
    for of in ("people", "outcomes"):
        left_out = {"bad line": {"people": 0, "outcomes": 0, of: 100}}
        _, gates = judged({"people": {"people": 900, "outcomes": 900, "left_out": left_out}})
        assert gates["rows"]["status"] != "pass", of


def test_people_on_new_levels_and_outside_are_judged(read):
    frame = read(
        {"area": ["1", "7", "2"], "ward": ["w1", "w1", "w1"], "share": [50.0, 20.0, 99.0], "n": [80, 15, 5]},
        "y ~ 1 + share + (1 | area/ward)",
    )  # fmt: skip
    _, gates = judged({"people": {"people": 9, "outcomes": 9, "left_out": {}}}, frame.facts)
    assert gates["new_levels"]["value"] == pytest.approx(0.15)
    assert "area (7): 15.0%" in gates["new_levels"]["where"]
    assert "area:ward, one within another in the data: 5.0%" in gates["new_levels"]["where"]
    assert gates["outside"]["value"] == pytest.approx(0.05)
    assert "share from 20 to 99, fitted 3 to 97" in gates["outside"]["where"]
    assert {gate["status"] for name, gate in gates.items() if name != "rows"} == {"warn"}
