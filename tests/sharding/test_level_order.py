"""The order of levels: declared, stored in the file, by value, and refused where it matters and there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding import level_order, storage
from sharding.dictionary import Dictionary
from sharding.errors import ContractError, PrivacyError
from sharding.level_order import arrange

SIZES = ("tiny", "small", "big", "huge")


def categorical(values: list[str | None], categories: tuple[str, ...] = SIZES, *, ordered: bool = True) -> pa.Array:
    codes = pa.array([None if value is None else categories.index(value) for value in values], pa.int8())
    return pa.DictionaryArray.from_arrays(codes, pa.array(categories), ordered=ordered)


def ingested(helpers: Any, folder: Path, files: list[pa.Table], **options: Any) -> Dictionary:
    folder.mkdir(exist_ok=True)
    for i, table in enumerate(files):
        pq.write_table(table, folder / f"{i}.parquet", **options.pop("written", {}))
    arguments = {"factor_columns": ["g"], "predictor_columns": [], "group_columns": [("g",)], "outcome": "y", "shards": {"by": "random"}}
    return helpers.run(folder / "*.parquet", folder / "run", **arguments | options).dictionary


def table(g: pa.Array) -> pa.Table:
    return pa.table({"g": g, "y": [i % 2 for i in range(len(g))]})


@pytest.mark.parametrize(
    ("found", "expected", "is_ordered"),
    [
        (["0", "-1", "-2", "10"], ["-2", "-1", "0", "10"], True),
        (["2.5", "12.5", "10", "-0.5", "1e+20"], ["-0.5", "2.5", "10", "12.5", "1e+20"], True),
        (["02", "10", "01"], ["01", "02", "10"], False),  # codes: text
        (["10", "9", "8+"], ["10", "8+", "9"], False),
        (["2024-11-05", "2022-11-08"], ["2022-11-08", "2024-11-05"], True),
        (["true", "false"], ["false", "true"], True),
        (["low", "high"], ["high", "low"], False),
    ],
)
def test_without_an_order_of_the_file_numbers_and_dates_have_one_by_value(
    found: list[str], expected: list[str], is_ordered: bool
) -> None:
    assert arrange(found) == (expected, is_ordered)


@given(st.lists(st.integers(-(10**6), 10**6) | st.decimals(-1000, 1000, places=3), min_size=1, max_size=30))
def test_labels_of_numbers_are_in_the_order_of_the_numbers(values: list[Any]) -> None:
    found = {level_order.labels.label(str(value)) for value in values}
    arranged, is_ordered = arrange(found)
    assert is_ordered
    assert [float(level) for level in arranged] == sorted(float(level) for level in found)


def test_orders_of_several_files_are_joined_where_they_leave_one_order() -> None:
    assert arrange(["a", "b", "c"], [("c", "a"), ("a", "x", "b")]) == (["c", "a", "b"], True)
    assert arrange(["a", "b"], [("a", "b"), ("b", "a")]) == (["a", "b"], False)  # they contradict each other
    assert arrange(["a", "b", "c"], [("c", "a"), ("c", "b")]) == (["a", "b", "c"], False)  # a and b: open
    assert arrange(["a", "b", "c"], [("c", "a")]) == (["a", "b", "c"], False)  # b: unknown
    assert arrange(["2", "1"], [("2", "1")]) == (["2", "1"], True)


def test_an_ordered_categorical_keeps_its_order_and_unused_categories_are_no_levels(helpers: Any, tmp_path: Path) -> None:
    one = table(categorical(["huge", "tiny", "big", "tiny"] * 5))
    coding = ingested(helpers, tmp_path, [one]).factors["g"]
    assert (coding.levels, coding.reference, coding.ordered) == (("tiny", "big", "huge"), "tiny", True)
    two = table(categorical(["big", "small"] * 5, ("small", "big")))
    assert ingested(helpers, tmp_path / "two", [one, two]).factors["g"].levels == SIZES
    other = table(categorical(["big", "tiny"] * 5, ("big", "tiny")))
    assert not ingested(helpers, tmp_path / "other", [one, other]).factors["g"].ordered
    plain = table(categorical(["big", "tiny"] * 5, ordered=False))
    assert ingested(helpers, tmp_path / "plain", [plain]).factors["g"].levels == ("big", "tiny")


def test_what_pandas_says_of_a_column_counts_and_a_file_without_its_dictionary_has_lost_the_order(
    helpers: Any, tmp_path: Path
) -> None:
    g = pa.array(["huge", "tiny", "big", "tiny"] * 5)
    said = b'{"columns": [{"name": "g", "pandas_type": "categorical", "metadata": {"num_categories": 3, "ordered": true}}]}'
    as_text = table(g).replace_schema_metadata({b"pandas": said})
    coding = ingested(helpers, tmp_path, [as_text]).factors["g"]
    assert not coding.ordered  # stored as text: the order that pandas knew may be lost
    lost = ingested(helpers, tmp_path / "lost", [table(categorical(g.to_pylist()))], written={"use_dictionary": False})
    assert not lost.factors["g"].ordered


def test_declared_levels_win_over_the_order_of_the_file(helpers: Any, tmp_path: Path) -> None:
    columns = {"g": {"levels": [*reversed(SIZES)]}}
    coding = ingested(helpers, tmp_path, [table(categorical(["huge", "tiny"] * 5))], columns=columns).factors["g"]
    assert (coding.levels, coding.ordered) == (tuple(reversed(SIZES)), True)


def test_categories_of_an_outcome_have_the_same_rule(helpers: Any, tmp_path: Path) -> None:
    def outcome(name: str, y: pa.Array) -> Any:
        rows = pa.table({"g": [str(i % 2) for i in range(len(y))], "y": y})
        return ingested(helpers, tmp_path / name, [rows], outcome_kind="category").outcome

    assert outcome("file", categorical(["huge", "tiny", None, "big"] * 5)).categories == ("tiny", "big", "huge")
    assert outcome("numbers", pa.array([0, -10, 2, -1] * 5)).categories == ("-10", "-1", "0", "2")
    assert outcome("floats", pa.array([2.5, 12.5, 10.0, float("nan")] * 5)).categories == ("2.5", "10", "12.5")
    text = outcome("text", pa.array(["mid", "low", "high"] * 5))
    assert (text.categories, text.ordered) == (("high", "low", "mid"), False)


def test_later_files_whose_levels_belong_between_the_old_ones_have_no_order(helpers: Any, tmp_path: Path) -> None:
    first = ingested(helpers, tmp_path, [table(pa.array([1, 2, 4] * 5))])
    assert first.factors["g"].ordered
    between = ingested(helpers, tmp_path / "b", [table(pa.array([1, 2, 3, 4] * 5))], coding=first).factors["g"]
    assert (between.levels, between.ordered) == (("1", "2", "4", "3"), False)
    after = ingested(helpers, tmp_path / "a", [table(pa.array([1, 2, 4, 10] * 5))], coding=first).factors["g"]
    assert (after.levels, after.ordered) == (("1", "2", "4", "10"), True)


def test_text_without_an_order_is_refused_with_the_line_to_paste(helpers: Any, tmp_path: Path) -> None:
    ages = pa.array(["65 and over", "under 30", "30-44", '45-"64"'] * 5)
    found = ingested(helpers, tmp_path, [table(ages)])
    with pytest.raises(ContractError) as raised:
        level_order.check(found, {"g": "the structure random_walk of 1|g"})
    assert r'`g: {levels: ["under 30", "30-44", "45-\"64\"", "65 and over"]}`' in str(raised.value)
    level_order.check(found, {"x": "nothing"})
    with pytest.raises(PrivacyError):
        level_order.check(
            Dictionary({"g": level_order_coding("a@b.org", "b@b.org")}, {}, {}, {}, found.outcome), {"g": "a walk"}
        )


def level_order_coding(*levels: str) -> Any:
    from sharding.dictionary import FactorCoding

    return FactorCoding(levels, levels[0])


def test_a_level_of_missing_values_has_a_place_in_the_order_only_if_it_is_declared(helpers: Any, tmp_path: Path) -> None:
    g = table(pa.array([3, 1, None, 2] * 5))
    assert not ingested(helpers, tmp_path, [g], columns={"g": {"missing": "level"}}).factors["g"].ordered
    levels = {"missing": "level", "levels": ["1", "2", "(missing)", "3"]}
    assert ingested(helpers, tmp_path / "said", [g], columns={"g": levels}).factors["g"].ordered


def test_a_real_level_called_as_the_missing_one_is_refused(helpers: Any, tmp_path: Path) -> None:
    g = table(pa.array(["a", "(missing)", None, "b"] * 5))
    with pytest.raises(ContractError, match="missing_level"):
        ingested(helpers, tmp_path, [g], columns={"g": {"missing": "level"}})
    kept = ingested(helpers, tmp_path, [g], columns={"g": {"missing": "level", "missing_level": "blank"}})
    assert kept.factors["g"].levels == ("(missing)", "a", "b", "blank")


def test_the_dictionary_remembers_whether_there_is_an_order(helpers: Any, tmp_path: Path) -> None:
    found = ingested(helpers, tmp_path, [table(pa.array([1, 2] * 5))])
    assert Dictionary.from_json(storage.read_json(str(tmp_path / "run" / "dictionary.json"))) == found
