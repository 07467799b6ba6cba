"""Cells of every kind of outcome are a group-by of the rows, whatever the arrangement of the rows; bad rows are counted."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharding import storage
from sharding.dictionary import Dictionary
from sharding.errors import ContractError

TRIALS = {"successes": "s", "trials": "m"}
COUNT = {"count": "n", "exposure": "e"}
OUTCOMES: list[tuple[str, Any]] = [
    ("count", "n"), ("count", COUNT), ("keyed_count", "n"), ("keyed_count", COUNT), ("keyed_trials", TRIALS),
    ("keyed_number", "r"), ("category", "v"), ("binomial", "b"), ("binomial", TRIALS), ("gaussian", "r"),
]  # fmt: skip
LEVELS = ["low", "middle", "high"]
SHARDS: list[dict[str, Any]] = [
    {"by": "g", "min_cells": 1}, {"by": "g", "target_cells": 3, "min_cells": 1}, {"by": "random", "num_shards": 3},
]  # fmt: skip


def dirty_rows(num_rows: int, seed: int) -> pa.Table:
    """People with every kind of outcome; a twentieth of the values is missing, a twentieth breaks some rule."""
    rng = np.random.default_rng(seed)

    def mixed(good: Any, bad: list[Any], dtype: pa.DataType) -> pa.Array:
        fate, which = rng.random(num_rows), rng.integers(0, len(bad), num_rows)
        values = zip(np.asarray(good).tolist(), fate, which, strict=True)
        return pa.array([None if u < 0.05 else bad[i] if u < 0.1 else value for value, u, i in values], dtype)

    trials = rng.integers(0, 5, num_rows)
    return pa.table(
        {
            "g": mixed(rng.choice(["a", "b"], num_rows), ["c"], pa.string()),
            "x": rng.integers(0, 2, num_rows),
            "b": mixed(rng.integers(0, 2, num_rows), [2, -1], pa.int64()),
            "n": mixed(rng.poisson(1.5, num_rows), [-1.0, 0.5, math.inf, math.nan, -0.0], pa.float64()),
            "e": mixed(rng.choice([0.5, 1.0, 3.7], num_rows), [0.0, -2.0, math.inf], pa.float64()),
            "s": mixed(rng.binomial(trials, 0.4), [7, -1], pa.int64()),
            "m": mixed(trials, [-3, 9], pa.int64()),
            "r": mixed(rng.normal(3, 2, num_rows).round(1), [math.inf, -0.0, 0.0], pa.float64()),
            "v": mixed(rng.choice(LEVELS, num_rows), ["", "other"], pa.string()),
            "w": mixed(rng.lognormal(0, 1, num_rows), [0.0, -1.0, math.inf, math.nan], pa.float64()),
        }
    )


def is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def outcome_rule(outcome: Any, values: list[Any]) -> str:
    """The rule that a known outcome breaks, or nothing."""
    if outcome == "v":
        return "" if values[0] in LEVELS else "unexpected_level"
    if outcome == "b":
        return "" if values[0] in (0, 1) else "not_0_or_1"
    if any(map(math.isinf, values)):
        return "not_finite"
    if outcome == "r":
        return ""
    if values[0] < 0 or (outcome is TRIALS and values[1] < 0):
        return "negative"
    if values[0] != math.floor(values[0]):
        return "not_whole"
    if outcome is TRIALS and values[0] > values[1]:
        return "successes_exceed_trials"
    return "exposure_not_positive" if outcome is COUNT and values[1] <= 0 else ""


def weight_rule(weight: float | None) -> str:
    """The rule that a weight breaks, or nothing."""
    if is_missing(weight):
        return "missing"
    if math.isinf(weight):  # type: ignore[arg-type]
        return "not_finite"
    return "" if weight > 0 else "not_positive"  # type: ignore[operator]


def judged(outcome: Any, row: dict[str, Any], is_weighted: bool) -> tuple[str, bool]:
    """The reason why a row is quarantined, or nothing, and whether its outcome is known."""
    values = [row[name] for name in (outcome.values() if isinstance(outcome, dict) else [outcome])]
    is_known = not any(map(is_missing, values))
    if outcome is TRIALS and not is_known and (is_missing(row["m"]) or row["m"] < 0):
        return ("trials:missing" if is_missing(row["m"]) else "outcome:negative"), False
    if is_known and (rule := outcome_rule(outcome, values)):
        return f"{'outcome' if isinstance(outcome, dict) else outcome}:{rule}", True
    if is_known and is_weighted and (rule := weight_rule(row["w"])):
        return f"weight:{rule}", True
    return ("g:missing" if is_missing(row["g"]) else ""), is_known


def expected_cells(
    kind: str, outcome: Any, table: pa.Table, is_weighted: bool
) -> tuple[pd.DataFrame, Counter[str], Any]:
    """Cells, rows by reason, and the good rows with a known outcome with their weights, by pandas."""
    verdicts = [judged(outcome, row, is_weighted) for row in table.to_pylist()]
    rows = table.to_pandas().assign(known=[known for _, known in verdicts])
    rows = rows[[not reason for reason, _ in verdicts]].copy()
    known = rows["known"]
    size = rows["m"].where(known, 0) if kind == "binomial" and outcome is TRIALS else known.astype(float)
    w = rows["w"].where(known, 0.0) if is_weighted else known.astype(float)
    w *= size.sum() / (w * size).sum()
    y = rows["s" if outcome is TRIALS else "n" if outcome is COUNT else outcome].where(known, 0)
    exposure = rows["e"].where(known, 1.0) if outcome is COUNT else pd.Series(1.0, rows.index)
    keys = ["g", "x"]
    rows = rows.assign(num_rows=rows["m"].astype(int) if outcome is TRIALS else 1, num_trials=w * size)
    statistics = ["num_rows", "num_trials"]
    if kind == "binomial":
        added = {"num_successes": w * y}
    elif kind == "gaussian":
        mean = (w * y).groupby([rows["g"], rows["x"]]).transform("sum") / w.groupby([rows["g"], rows["x"]]).transform("sum")
        added = {"sum_y": w * y, "squared_deviations": w * (y - mean.fillna(0.0)) ** 2}
    elif kind == "count":
        added = {"sum_y": w * y, "sum_exposure": w * exposure}
    elif kind == "category":
        added = {f"count_{j}": w * (y == level) for j, level in enumerate(LEVELS)}
    else:
        added = {}
        named = {
            "keyed_count": {"y": y, "exposure": exposure},
            "keyed_trials": {"successes": y, "trials": rows["m"].where(known, 0)},
            "keyed_number": {"y": y},
        }[kind]
        rows = rows.assign(**{name: values.astype(float) + 0.0 for name, values in named.items()})
        keys += ["known", *named]
    if is_weighted:
        added |= {"num_known": size.astype(int), "sum_weight_squared": w**2 * size}
        if kind == "binomial":
            added["sum_weight_squared_successes"] = w**2 * y
    rows = rows.assign(**added)
    cells = rows.groupby(keys)[[*statistics, *added]].sum().reset_index().drop(columns="known", errors="ignore")
    moments = rows.assign(weight=w * size, outcome=y, exposure=exposure)[known]
    return cells, Counter(reason for reason, _ in verdicts if reason), moments


def expected_people(outcome: Any, table: pa.Table, is_weighted: bool) -> dict[str, Any]:
    """Who is in the cells and who is not: a row with trials is as many people; of an outcome at fault nothing is known."""
    found: dict[str, Counter[str]] = {}
    for row in table.to_pylist():
        reason, is_known = judged(outcome, row, is_weighted)
        size = row["m"] if outcome is TRIALS else 1
        people = size if size is not None and size >= 0 else 0
        known = size if is_known and (not reason or reason == "g:missing") else 0
        found.setdefault(reason, Counter({"people": 0, "outcomes": 0})).update(people=people, outcomes=known)
    return {**found.pop("", {}), "left_out": {reason: dict(counts) for reason, counts in found.items()}}


def ingested(helpers: Any, source: Any, directory: Any, kind: str, outcome: Any, **options: Any) -> Any:
    """Ingest with everything unexpected in quarantine."""
    names = [*outcome] if isinstance(outcome, dict) else [outcome]
    columns: dict[str, Any] = {"g": {"missing": "quarantine"}}
    columns |= {name: {"unexpected": "quarantine"} for name in names}
    if options.get("weight"):
        columns["w"] = {"missing": "quarantine"}
    if "trials" in columns:
        columns["trials"]["missing"] = "quarantine"
    if kind == "category":
        columns[outcome]["levels"] = LEVELS
    arguments = {
        "factor_columns": ["g"], "predictor_columns": ["x"], "group_columns": [("g",)], "columns": columns,
        "shards": SHARDS[0], **options,
    }  # fmt: skip
    return helpers.run(source, directory, outcome=outcome, outcome_kind=kind, **arguments)


def shard_bytes(report: Any) -> list[bytes]:
    return [storage.read_bytes(storage.join(report.directory, entry["path"])) for entry in report.manifest["shards"]]


@pytest.mark.parametrize(("kind", "outcome"), OUTCOMES)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_cells_are_a_group_by_of_the_rows_in_any_arrangement(
    helpers: Any, kind: str, outcome: Any, data: st.DataObject
) -> None:
    table = dirty_rows(data.draw(st.integers(60, 300)), seed=data.draw(st.integers(0, 10_000)))
    is_weighted = data.draw(st.booleans())
    options = {"shards": data.draw(st.sampled_from(SHARDS)), "weight": "w" if is_weighted else None}
    shuffled = table.take(np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(table)))
    cut = data.draw(st.integers(0, len(table)))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pq.write_table(table, directory / "one.parquet")
        for i, part in enumerate([shuffled.slice(0, cut), shuffled.slice(cut)]):
            pq.write_table(part, directory / f"part-{i}.parquet", row_group_size=17)
        one = ingested(helpers, directory / "one.parquet", directory / "a", kind, outcome, **options)
        many = ingested(helpers, directory / "part-*.parquet", directory / "b", kind, outcome, threads=1, **options)
        assert shard_bytes(one) == shard_bytes(many)
        assert one.dictionary.sha256() == many.dictionary.sha256()
        found = helpers.read_cells(one).to_pandas()
    cells, reasons, known = expected_cells(kind, outcome, table, is_weighted)
    assert one.manifest["quarantine"] == many.manifest["quarantine"] == reasons
    assert one.manifest["totals"]["rows_in_cells"] == len(table) - sum(reasons.values())
    assert one.manifest["people"] == many.manifest["people"] == expected_people(outcome, table, is_weighted)
    assert one.manifest["people"]["people"] == cells["num_rows"].sum() == found["num_rows"].sum()
    assert one.num_cells == len(cells)
    assert set(found) == set(cells)
    order = [name for name in ["g", "x", "y", "exposure", "successes", "trials", "num_trials"] if name in cells]
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True)[sorted(cells)],
        cells.sort_values(order, ignore_index=True)[sorted(cells)], check_dtype=False, rtol=1e-12, atol=1e-12,
    )  # fmt: skip
    num_known = int(known["m"].sum()) if kind == "binomial" and outcome is TRIALS else len(known)
    assert one.dictionary.outcome.num_known == num_known
    assert sum(e["num_trials"] for e in one.manifest["shards"]) == one.manifest["people"]["outcomes"]
    assert found["num_trials"].sum() == pytest.approx(num_known, rel=1e-12)
    check_moments(kind, outcome, one.dictionary, known)


def check_moments(kind: str, outcome: Any, dictionary: Dictionary, known: pd.DataFrame) -> None:
    entry = dictionary.to_json()["outcome"]
    if kind == "category":
        shares = known.groupby("outcome")["weight"].sum().reindex(LEVELS).to_numpy() / known["weight"].sum()
        assert list(entry["categories"]) == LEVELS
        assert entry["proportions"] == pytest.approx(shares, rel=1e-12)
        assert (entry["mean"], entry["sd"]) == (0, 0)
        return
    assert set(entry) - {"weight_factor"} == {"kind", "num_known", "mean", "sd"}
    if outcome in ("b", TRIALS):
        size = known["m"] if outcome is TRIALS else 1
        weight = known["weight"] if kind == "binomial" else known["weight"] * size
        share = known["outcome"] / size
        share = share.fillna(0)
        mean = np.average(share, weights=weight)
        sd = (mean * (1 - mean)) ** 0.5
    else:
        rate, weight = known["outcome"] / known["exposure"], known["weight"] * known["exposure"]
        mean = np.average(rate, weights=weight)
        sd = np.average((rate - mean) ** 2, weights=weight) ** 0.5
    assert entry["mean"] == pytest.approx(mean, rel=1e-10)
    assert entry["sd"] == pytest.approx(sd, rel=1e-10)


@pytest.mark.parametrize(("kind", "outcome"), OUTCOMES)
def test_order_and_types_of_the_columns(helpers: Any, tmp_path: Path, kind: str, outcome: Any) -> None:
    from sharding import store

    pq.write_table(dirty_rows(60, 0), tmp_path / "x.parquet")
    own = {
        "binomial": {"num_successes": "int64"}, "gaussian": dict.fromkeys(["sum_y", "squared_deviations"], "float64"),
        "count": dict.fromkeys(["sum_y", "sum_exposure"], "float64"),
        "category": dict.fromkeys(["count_0", "count_1", "count_2"], "int64"),
        "keyed_count": dict.fromkeys(["y", "exposure"], "float64"), "keyed_number": {"y": "float64"},
        "keyed_trials": dict.fromkeys(["successes", "trials"], "float64"),
    }[kind]  # fmt: skip
    before = {"g": "int32", "x": "float64", "num_rows": "int64"}
    report = ingested(helpers, tmp_path / "x.parquet", tmp_path / "a", kind, outcome)
    columns = store.read_shard(report.directory, report.manifest["shards"][0])
    assert {name: str(values.dtype) for name, values in columns.items()} == before | {"num_trials": "int64"} | own
    assert list(columns) == [*before, "num_trials", *own]
    report = ingested(helpers, tmp_path / "x.parquet", tmp_path / "b", kind, outcome, weight="w")
    columns = store.read_shard(report.directory, report.manifest["shards"][0])
    more = ["num_known", "sum_weight_squared"] + ["sum_weight_squared_successes"] * (kind == "binomial")
    assert list(columns) == [*before, "num_trials", *own, *more]
    assert {str(columns[name].dtype) for name in ["num_trials", *own, *more[1:]]} == {"float64"}
    assert columns["num_known"].dtype == np.int64


@pytest.mark.parametrize(("kind", "outcome"), [("category", "v"), ("keyed_count", COUNT)])
def test_repeated_people_and_a_cut_by_a_column_outside_the_model(
    helpers: Any, tmp_path: Path, kind: str, outcome: Any
) -> None:
    table = dirty_rows(120, 1)
    table = table.append_column("id", [[f"V{i}" for i in range(120)]])
    twice = pa.concat_tables([table, table.take(list(range(0, 120, 3)))])
    options = {
        "weight": "w", "shards": {"by": "hash", "column": "id", "num_shards": 2}, "id_column": "id",
        "duplicates": "quarantine",
    }  # fmt: skip
    reports = []
    for name, rows in {"once": table, "twice": twice}.items():
        pq.write_table(rows, tmp_path / f"{name}.parquet")
        reports.append(ingested(helpers, tmp_path / f"{name}.parquet", tmp_path / name, kind, outcome, **options))
    assert reports[1].manifest["quarantine"] == reports[0].manifest["quarantine"] | {"id:duplicate": 40}
    statistics = [name for name in helpers.read_cells(reports[0]).column_names if name not in ("g", "x")]
    totals = [helpers.read_cells(report).to_pandas()[statistics].sum() for report in reports]
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-12)
    assert len(reports[0].manifest["shards"]) == 2


def test_keyed_cells_are_dealt_one_by_one(helpers: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pq.write_table(pa.table({"g": ["a"] * 300, "r": rng.normal(size=300)}), tmp_path / "x.parquet")
    report = ingested(
        helpers, tmp_path / "x.parquet", tmp_path / "run", "keyed_number", "r", predictor_columns=[], shards=SHARDS[2]
    )
    sizes = [entry["num_cells"] for entry in report.manifest["shards"]]
    assert sum(sizes) == 300
    assert min(sizes) > 60


@pytest.mark.parametrize(
    ("values", "config", "categories"),
    [
        (pa.array([10, 9, 9, None, -9]), {"missing_values": ["-9"]}, ("9", "10")),
        (pa.array([10.0, 9.0, 9.0, None, math.nan]), {}, ("9", "10")),
        (pa.array(["01", "1", "", None, "01"]), {}, ("01", "1")),
        (pa.array([True, False, None, True, True]), {}, ("false", "true")),
        (pa.array(["b", "a", None, "a", "a"]), {"levels": ["b", "a", "never"]}, ("b", "a", "never")),
        (pa.array(["'; DROP TABLE coded; --", "$p1", None, "$p1", "$p1"]), {}, ("$p1", "'; DROP TABLE coded; --")),
    ],
)
def test_categories_are_declared_or_observed(
    helpers: Any, tmp_path: Path, values: pa.Array, config: dict[str, Any], categories: tuple[str, ...]
) -> None:
    pq.write_table(pa.table({"g": ["a", "b", "b", "a", "a"], "v": values}), tmp_path / "x.parquet")
    report = helpers.run(
        tmp_path / "x.parquet", tmp_path / "run", outcome={"vote": "v"}, outcome_kind="category", factor_columns=["g"],
        predictor_columns=[], group_columns=[], shards=SHARDS[0], columns={"vote": config},
    )  # fmt: skip
    assert report.dictionary.outcome.categories == categories
    assert len(report.dictionary.outcome.proportions) == len(categories)
    cells = helpers.read_cells(report)
    assert cells["num_rows"].to_pylist() == [3, 2]
    counts = sum(cells[f"count_{j}"].to_numpy() for j in range(len(categories)))
    assert counts.tolist() == cells["num_trials"].to_pylist()
    written = storage.read_json(storage.join(report.directory, "dictionary.json"))
    assert Dictionary.from_json(written) == report.dictionary


def test_categories_of_quarantined_rows_only_are_none(helpers: Any, tmp_path: Path) -> None:
    table = pa.table({"g": ["a", "a", "b", None], "v": ["yes", "no", None, "perhaps"]})
    pq.write_table(table, tmp_path / "x.parquet")
    report = helpers.run(
        tmp_path / "x.parquet", tmp_path / "run", outcome="v", outcome_kind="category", factor_columns=["g"],
        predictor_columns=[], group_columns=[], shards=SHARDS[0], columns={"g": {"missing": "quarantine"}},
    )  # fmt: skip
    assert report.dictionary.outcome.categories == ("no", "yes")
    assert report.manifest["quarantine"] == {"g:missing": 1}


def test_counts_of_text_files(helpers: Any, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("g,n,hours\na,2,1.5\na,many,1\na,,1\nb,0,0\nb,1e400,1\n")
    report = helpers.run(
        tmp_path / "x.csv", tmp_path / "run", outcome={"count": "n", "exposure": "hours"}, outcome_kind="count",
        factor_columns=["g"], predictor_columns=[], group_columns=[], shards=SHARDS[0],
        columns={name: {"unexpected": "quarantine"} for name in ["count", "exposure"]},
    )  # fmt: skip
    reasons = report.manifest["quarantine"]
    assert reasons["outcome:exposure_not_positive"] == 1
    assert sum(reasons.values()) == 3
    assert helpers.read_cells(report).to_pylist() == [
        {"g": "a", "num_rows": 2, "num_trials": 1, "sum_y": 2.0, "sum_exposure": 1.5}
    ]


ROWS = {"g": ["a", "a", "b", "b"], "n": [0, 1, 2, 3], "y": [1.0, 2.0, 3.0, 4.0], "v": ["p", "q", "p", None]}
BROKEN: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("trials as counts", {}, {"outcome_kind": "count", "outcome": TRIALS | {"successes": "n", "trials": "n"}},
     r"data\.outcome: found successes and trials; expected one column of counts, or count and exposure .*kind 'count'.* Correct"),
    ("counts as trials", {}, {"outcome_kind": "binomial", "outcome": {"count": "n", "exposure": "y"}},
     r"data\.outcome: found count and exposure; expected one column of 0 and 1, or successes and trials"),
    ("one column of trials", {}, {"outcome_kind": "keyed_trials", "outcome": "n"},
     r"data\.outcome: found one column; expected the columns of successes and trials"),
    ("counts as categories", {}, {"outcome_kind": "category", "outcome": {"count": "n", "exposure": "y"}},
     r"data\.outcome: found count and exposure; expected one column of categories"),
    ("counts as numbers", {}, {"outcome_kind": "keyed_number", "outcome": {"count": "n", "exposure": "y"}},
     r"expected one column of numbers .*'keyed_number'"),
    ("negative count", {"n": [0, -1, -2, 3]}, {"outcome_kind": "count", "outcome": "n"},
     r"data: found 2 row\(s\) n:negative; expected n a whole number from 0 on or missing\. Correct data\.outcome"),
    ("half a count", {"n": [0, 0.5, 1, 3]}, {"outcome_kind": "keyed_count", "outcome": "n"}, r"1 row\(s\) n:not_whole"),
    ("no exposure", {"y": [0.0, 1, 1, 1]}, {"outcome_kind": "count", "outcome": {"count": "n", "exposure": "y"}},
     r"1 row\(s\) outcome:exposure_not_positive; expected a whole number from 0 on as count, and a finite exposure above 0"),
    ("undeclared category", {}, {"outcome_kind": "category", "outcome": "v", "columns": {"v": {"levels": ["p", "r"]}}},
     r"data: found 1 row\(s\) v:unexpected_level; expected v one of 'p', 'r' or missing\. Correct data\.outcome"),
    ("one category", {"v": ["p", "p", "p", None]}, {"outcome_kind": "category", "outcome": "v"},
     r"data\.outcome: found one category in all rows; expected 2 to 20\. Correct"),
    ("no category", {"v": pa.array([None] * 4, pa.string())}, {"outcome_kind": "category", "outcome": "v"},
     r"data\.outcome: found no row with a known outcome"),
    ("too many declared", {}, {"outcome_kind": "category", "outcome": "v",
     "columns": {"v": {"levels": [str(i) for i in range(21)]}}},
     r"data\.columns\.v\.levels: found 21 categories; expected 2 to 20\. Join the rare ones"),
    ("too many observed", {"g": ["a"] * 30, "n": [1] * 30, "y": [1.0] * 30, "v": [f"name {i}" for i in range(30)]},
     {"outcome_kind": "category", "outcome": "v"}, r"data\.outcome: found more than 20 categories; expected 2 to 20"),
    ("no trial", {"n": [0] * 4}, {"outcome_kind": "keyed_trials", "outcome": {"successes": "n", "trials": "n"}},
     r"data\.outcome: found no row with a known outcome"),
    ("predictor called as a key", {}, {"outcome_kind": "keyed_number", "outcome": "n", "predictor_columns": ["y"]},
     r"column 'y': found a reserved name; expected a name other than y\. Use another name"),
    ("predictor called as a sum", {}, {"outcome_kind": "count", "outcome": "n", "factor_columns": ["sum_exposure"]},
     r"column 'sum_exposure': found a reserved name"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "options", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_broken_contract(
    helpers: Any, tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(ROWS | columns), tmp_path / "x.parquet")
    arguments = {"factor_columns": ["g"], "predictor_columns": [], "group_columns": [], "shards": SHARDS[0], **options}
    with pytest.raises(ContractError, match=message):
        helpers.run(tmp_path / "x.parquet", tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists() or list((tmp_path / "run").iterdir()) == []


def test_a_predictor_may_be_called_y_where_y_is_no_key(helpers: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "x.parquet")
    report = ingested(helpers, tmp_path / "x.parquet", tmp_path / "run", "count", "n", predictor_columns=["y"])
    assert (report.dictionary.numerics["y"].minimum, report.dictionary.numerics["y"].maximum) == (1.0, 4.0)


def test_extremes_of_numbers_and_dictionaries_without_them(helpers: Any, voters: Path, tmp_path: Path) -> None:
    report = helpers.run(voters, tmp_path / "run")
    table, entries = helpers.people(), report.dictionary.to_json()
    for name in ("female", "dem"):
        values = table[name].to_numpy()
        extremes = [entries["numerics"][name].pop(which) for which in ("minimum", "maximum")]
        assert extremes == [values.min(), values.max()]
    older = Dictionary.from_json(entries)
    assert older.numerics["dem"].minimum is None
    assert older.numerics["dem"].center == report.dictionary.numerics["dem"].center
    assert older.to_json() == entries


@pytest.mark.parametrize("seed", [416, 448])
def test_nan_that_a_footer_does_not_tell_of_is_quarantined(helpers: Any, tmp_path: Path, seed: int) -> None:
    """Minima and maxima in a Parquet footer leave NaN out; where no infinity widens them, all values seem to be good numbers."""
    table = dirty_rows(60, seed)
    pq.write_table(table, tmp_path / "one.parquet")
    report = ingested(helpers, tmp_path / "one.parquet", tmp_path / "a", "count", "n", weight="w")
    _, reasons, known = expected_cells("count", "n", table, True)
    assert report.manifest["quarantine"] == reasons
    assert report.dictionary.outcome.num_known == len(known)
