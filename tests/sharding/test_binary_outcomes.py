"""Outcomes of two values other than 0 and 1, columns of truth values in both formats, and settings that would have no effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from sharding.errors import ContractError

N = 40
NONE: dict[str, Any] = {"factor_columns": ["state"], "predictor_columns": [], "group_columns": [("state",)]}


def ingested(helpers: Any, folder: Path, given: dict[str, Any], *, text: bool = False, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    table = pa.table({"state": ["a", "b"] * (N // 2), **given})
    path = folder / ("x.csv" if text else "x.parquet")
    (pyarrow.csv.write_csv if text else pq.write_table)(table, path)
    return helpers.run(path, folder / "run", **{**NONE, **options})


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("values", [["true", "FALSE", "False", "True"], [True, False, False, True], ["1", "0", "0", "1"]])
def test_words_for_true_and_false_are_an_outcome(helpers: Any, tmp_path: Path, values: list[Any], text: bool):
    found = ingested(helpers, tmp_path, {"voted": values * (N // 4)}, text=text).dictionary.outcome
    assert (found.num_known, found.mean) == (N, 0.5)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(("values", "listed"), [(("yes", "no"), '"no", "yes"'), ((1, 2), '"1", "2"')])
def test_two_other_values_are_refused_with_the_line_to_write(helpers: Any, tmp_path: Path, values: Any, listed: str, text: bool):
    column = [values[0]] * 30 + [values[1]] * 10
    with pytest.raises(ContractError, match="the one that is a success") as caught:
        ingested(helpers, tmp_path, {"voted": column}, text=text)
    assert f"data.columns.voted.levels: [{listed}]" in str(caught.value)
    levels = [str(value) for value in values]  # the first a failure
    found = ingested(helpers, tmp_path, {"voted": column}, text=text, columns={"voted": {"levels": levels}}).dictionary.outcome
    assert (found.num_known, found.mean) == (N, 0.25)


def test_a_value_of_few_rows_is_not_told(helpers: Any, tmp_path: Path):
    with pytest.raises(ContractError) as caught:
        ingested(helpers, tmp_path, {"voted": ["1"] * (N - 1) + ["Ada Lovelace"]})
    assert "Ada" not in str(caught.value)


def test_truth_values_are_levels_in_parquet_as_in_text(helpers: Any, tmp_path: Path):
    columns = {"voted": [0, 1, 1, 0] * (N // 4), "union": [True, True, False, True, False] * (N // 5)}
    both = [
        ingested(helpers, tmp_path / str(text), columns, text=text, predictor_columns=["union"], margin_columns=["union"]).dictionary
        for text in (False, True)
    ]  # fmt: skip
    assert both[0].factors == both[1].factors
    assert both[0].factors["union"].levels == ("false", "true")


@pytest.mark.parametrize(
    ("outcome", "columns", "words"),
    [
        ({"successes": "s", "trials": "n"}, {"n": {"missing_values": ["999"]}}, ("data.columns.n", "missing_values", "data.columns.trials")),
        ("voted", {"voted": {"maximum": 1}}, ("data.columns.voted", "maximum")),
        ("voted", {"voted": {"missing": "quarantine"}}, ("missing", "stay in the population")),
        ("voted", {"voted": {"source": "s"}}, ("source", "data.outcome: {voted: s}")),
    ],
)
def test_settings_without_effect_on_the_outcome_are_refused(helpers: Any, tmp_path: Path, outcome: Any, columns: Any, words: tuple[str, ...]):
    with pytest.raises(ContractError) as caught:
        ingested(helpers, tmp_path, {"voted": [0, 1] * (N // 2), "s": [1] * N, "n": [2] * N}, outcome=outcome, columns=columns)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_column_that_nothing_uses_is_told(helpers: Any, tmp_path: Path):
    found = ingested(helpers, tmp_path, {"voted": [0, 1] * (N // 2), "n": [2] * N}, columns={"n": {"missing_values": ["999"]}})
    assert [(note.column, note.kind) for note in found.dictionary.notes] == [("n", "unused")]
