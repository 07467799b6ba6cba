"""What ingest makes: cells that add up to the file, the same bytes from any arrangement of the same rows."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharding import storage, store
from sharding.dictionary import Dictionary
from sharding.errors import ContractError, PlanError, ShardCorruptError, SourceError, StorageError

SHARDS: list[dict[str, Any]] = [
    {"by": "state", "target_cells": 7, "min_cells": 3},
    {"by": ["state", "county"], "target_cells": 2, "min_cells": 1},
    {"by": "random", "num_shards": 3},
    {"by": "random", "target_cells": 20},
    {"by": "hash", "column": "county", "num_shards": 4},
    {"by": "hash", "column": "voter_id", "num_shards": 3},
]
KEYS = ["state", "county", "race", "female", "dem"]
SUMS = ["num_rows", "num_trials", "num_successes"]


def frame_totals(table: pa.Table, outcome: str) -> dict[tuple[Any, ...], tuple[int, ...]]:
    found: dict[tuple[Any, ...], list[int]] = {}
    for row in table.to_pylist():
        sums = found.setdefault(tuple(row[key] for key in KEYS), [0, 0, 0])
        sums[0] += 1
        sums[1] += row[outcome] is not None
        sums[2] += row[outcome] or 0
    return {key: tuple(sums) for key, sums in found.items()}


def shard_bytes(report: Any) -> dict[str, bytes]:
    return {
        e["shard_id"]: storage.read_bytes(storage.join(report.directory, e["path"])) for e in report.manifest["shards"]
    }


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_cells_add_up_and_bytes_do_not_depend_on_the_arrangement_of_rows(helpers: Any, data: st.DataObject) -> None:
    table = helpers.people(data.draw(st.integers(40, 300)), seed=data.draw(st.integers(0, 1000)))
    outcome = data.draw(st.sampled_from(["voted", "support"]))
    shards = data.draw(st.sampled_from(SHARDS))
    order = np.random.default_rng(data.draw(st.integers(0, 1000))).permutation(len(table))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(table)), max_size=3)))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pq.write_table(table, directory / "one.parquet")
        shuffled = table.take(order)
        parts = [shuffled.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, len(table)], strict=True)]
        for i, part in enumerate(parts):
            pq.write_table(part, directory / f"part-{i}.parquet", row_group_size=17)
        one = helpers.run(directory / "one.parquet", directory / "a", outcome=outcome, shards=shards)
        many = helpers.run(directory / "part-*.parquet", directory / "b", outcome=outcome, shards=shards, threads=1)
        assert helpers.totals(helpers.read_cells(one), KEYS, SUMS) == frame_totals(table, outcome)
        assert shard_bytes(one) == shard_bytes(many)
        assert one.dictionary.sha256() == many.dictionary.sha256()
        assert one.manifest["totals"] == {"rows_read": len(table), "rows_in_cells": len(table), "rows_quarantined": 0}
        if "target_cells" in shards:
            assert all(entry["num_cells"] <= shards["target_cells"] for entry in one.manifest["shards"])


@settings(max_examples=8, deadline=None)
@given(values=st.lists(st.floats(-1e12, 1e12) | st.none(), min_size=3, max_size=60), seed=st.integers(0, 99))
def test_gaussian_sums_are_exact_in_any_order(helpers: Any, values: list[float | None], seed: int) -> None:
    values = [*values, 1.5]
    groups = [("a", "b")[i % 2] for i in range(len(values))]
    order = np.random.default_rng(seed).permutation(len(values))
    arguments: dict[str, Any] = {
        "outcome": "y", "outcome_kind": "gaussian", "factor_columns": ["g"], "predictor_columns": [],
        "group_columns": [("g",)], "shards": {"by": "g", "min_cells": 1},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        table = pa.table({"g": groups, "y": pa.array(values, pa.float64())})
        pq.write_table(table, f"{name}/a.parquet")
        pq.write_table(table.take(order), f"{name}/b.parquet", row_group_size=5)
        a = helpers.run(f"{name}/a.parquet", f"{name}/a", **arguments)
        b = helpers.run(f"{name}/b.parquet", f"{name}/b", **arguments)
        assert shard_bytes(a) == shard_bytes(b)
        cells = {row["g"]: row for row in helpers.read_cells(a).to_pylist()}
    outcomes = [v for v in values if v is not None]
    rounding = (max(outcomes) - min(outcomes)) * 2.0**-53  # of an outcome in fixed point, whose unit is that of all outcomes
    for group, cell in cells.items():
        known = [v for g, v in zip(groups, values, strict=True) if g == group and v is not None]
        assert (cell["num_rows"], cell["num_trials"]) == (groups.count(group), len(known))
        exact = float(sum(map(Fraction, known)))
        assert cell["sum_y"] == pytest.approx(exact, rel=1e-15, abs=1e-20)
        mean = sum(map(Fraction, known)) / max(len(known), 1)
        within = float(sum((Fraction(v) - mean) ** 2 for v in known))
        of_rounding = 2.0 * rounding * float(sum(abs(Fraction(v) - mean) for v in known)) + len(known) * rounding**2
        assert cell["squared_deviations"] == pytest.approx(within, rel=1e-14, abs=max(of_rounding, 1e-12))
    everything = np.array([v for v in values if v is not None])
    assert a.dictionary.outcome.num_known == len(everything)
    assert a.dictionary.outcome.mean == pytest.approx(everything.mean(), rel=1e-9, abs=1e-6)
    assert a.dictionary.outcome.sd == pytest.approx(everything.std(), rel=1e-6, abs=1e-6)


def test_dictionary_holds_the_decisions(helpers: Any, voters: Path, tmp_path: Path) -> None:
    table = helpers.people()
    report = helpers.run(
        voters, tmp_path / "run", columns={"race": {"levels": ["White", "Black", "Hispanic", "Asian"]}}
    )
    found = report.dictionary
    assert found.factors["state"].levels == ("01", "02", "03", "04")
    assert found.factors["race"].levels == ("White", "Black", "Hispanic", "Asian")
    assert found.factors["race"].reference == "White"
    assert found.numerics["female"].binary
    assert (found.numerics["female"].center, found.numerics["female"].scale) == (0, 1)
    dem = table["dem"].to_numpy()
    assert found.numerics["dem"].center == pytest.approx(dem.mean(), rel=1e-14)
    assert found.numerics["dem"].scale == pytest.approx(dem.std(), rel=1e-14)
    assert found.groups["state"] == ((0,), (1,), (2,), (3,))
    assert len(found.groups["state:county"]) == 12
    assert found.parents == {"county": {"state": (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)}}
    voted = table["voted"].to_numpy()
    assert (found.outcome.num_known, found.outcome.mean) == (400, voted.mean())
    assert found.outcome.sd == pytest.approx(voted.std())
    assert store.read_dictionary(report.directory) == found
    assert Dictionary.from_json(json.loads(storage.canonical_json(found.to_json()))) == found
    with pytest.raises(ShardCorruptError, match="schema_version 2"):
        Dictionary.from_json({"schema_version": 2})


def test_files_are_private_complete_and_scratch_is_gone(helpers: Any, voters: Path, tmp_path: Path) -> None:
    report = helpers.run(voters, tmp_path / "run")
    files = [Path(at) / name for at, _, names in os.walk(tmp_path / "run") for name in names]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    names = sorted(str(path.relative_to(tmp_path / "run")) for path in files)
    assert names == [
        "dictionary.json", "quarantine/counts.json", "shards/01.parquet", "shards/02.parquet", "shards/03.parquet",
        "shards/04.parquet", "shards/manifest.json",
    ]  # fmt: skip
    assert not (tmp_path / "run/.scratch-ingest").exists()
    assert store.read_manifest(report.directory) == report.manifest
    columns = store.read_shard(report.directory, report.manifest["shards"][0])
    kinds = {name: str(values.dtype) for name, values in columns.items()}
    assert kinds == {
        "state": "int32", "county": "int32", "race": "int32", "female": "float64", "dem": "float64",
        "num_rows": "int64", "num_trials": "int64", "num_successes": "int64",
    }  # fmt: skip


def test_second_ingest_replaces_the_first(helpers: Any, voters: Path, tmp_path: Path) -> None:
    helpers.run(voters, tmp_path / "run")
    report = helpers.run(voters, tmp_path / "run", shards={"by": "random", "num_shards": 2})
    assert sorted(os.listdir(tmp_path / "run/shards")) == ["manifest.json", "random-01.parquet", "random-02.parquet"]
    assert sum(entry["num_rows"] for entry in report.manifest["shards"]) == 400


def test_corrupt_missing_and_escaping_shards_are_refused(helpers: Any, voters: Path, tmp_path: Path) -> None:
    report = helpers.run(voters, tmp_path / "run")
    entry = report.manifest["shards"][0]
    path = tmp_path / "run" / entry["path"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardCorruptError, match=r"shard '01', file .*found .* sha256 .*; expected .* run ingest again"):
        store.read_shard(report.directory, entry)
    path.unlink()
    with pytest.raises(ShardCorruptError, match="found no file"):
        store.read_shard(report.directory, entry)
    with pytest.raises(StorageError, match=r"without '\.\.'"):
        store.read_shard(report.directory, {**entry, "path": "../secret"})
    storage.publish_json(str(tmp_path / "run/shards/manifest.json"), {"schema_version": 9})
    with pytest.raises(ShardCorruptError, match="schema_version 9"):
        store.read_manifest(report.directory)


def test_seed_deals_cells_differently_and_repeatably(helpers: Any, voters: Path, tmp_path: Path) -> None:
    shards = {"by": "random", "num_shards": 4}
    runs = [helpers.run(voters, tmp_path / str(i), shards=shards, seed=seed) for i, seed in enumerate([1, 1, 2])]
    assert shard_bytes(runs[0]) == shard_bytes(runs[1])
    assert shard_bytes(runs[0]) != shard_bytes(runs[2])


def test_hash_keeps_a_person_in_one_shard(helpers: Any, tmp_path: Path) -> None:
    table = helpers.people(60)
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "twice.parquet")
    report = helpers.run(tmp_path / "twice.parquet", tmp_path / "run", shards=SHARDS[5])
    assert all(
        np.all(store.read_shard(report.directory, entry)["num_rows"] % 2 == 0) for entry in report.manifest["shards"]
    )


def test_continuous_covariates_make_cells_of_rows(helpers: Any, voters: Path, tmp_path: Path) -> None:
    report = helpers.run(voters, tmp_path / "run", predictor_columns=["income"])
    assert report.num_cells == 400
    cells = helpers.read_cells(report)
    assert sorted(cells["income"].to_pylist()) == sorted(helpers.people()["income"].to_pylist())


def test_successes_and_trials(helpers: Any, tmp_path: Path) -> None:
    table = pa.table({"state": ["a", "a", "b", "b"], "yes": [1, 2, None, 0], "asked": [4, 2, 7, 0]})
    pq.write_table(table, tmp_path / "x.parquet")
    report = helpers.run(
        tmp_path / "x.parquet", tmp_path / "run", outcome={"successes": "yes", "trials": "asked"},
        factor_columns=["state"], predictor_columns=[], group_columns=[("state",)],
    )  # fmt: skip
    assert helpers.totals(helpers.read_cells(report), ["state"], SUMS) == {("a",): (6, 6, 3), ("b",): (7, 0, 0)}


def test_numbers_and_booleans_as_factors_and_hive_paths(helpers: Any, tmp_path: Path) -> None:
    for state in ("01", "02"):
        (tmp_path / f"in/state={state}").mkdir(parents=True)
        table = pa.table(
            {"precinct": pa.array([2.0, 10.0, None]), "union": [True, False, True], "voted": [True, False, None]}
        )
        pq.write_table(table, tmp_path / f"in/state={state}/p.parquet")
    report = helpers.run(
        tmp_path / "in", tmp_path / "run", factor_columns=["state", "precinct"], predictor_columns=["union"],
        group_columns=[("state",)], columns={"precinct": {"missing": "level"}},
    )  # fmt: skip
    assert report.dictionary.factors["state"].levels == ("01", "02")
    assert report.dictionary.factors["precinct"].levels == ("2", "10", "(missing)")
    assert report.dictionary.factors["union"].levels == ("false", "true")
    assert report.dictionary.outcome.num_known == 4


def test_two_names_for_one_column_and_a_cut_by_a_column_outside_the_model(
    helpers: Any, voters: Path, tmp_path: Path
) -> None:
    report = helpers.run(
        voters, tmp_path / "run", factor_columns=["race", "sex"], predictor_columns=["female"], group_columns=[("race",)],
        columns={"sex": {"source": "female", "type": "factor"}},
    )  # fmt: skip
    assert report.dictionary.factors["sex"].levels == ("0", "1")
    assert [entry["shard_id"] for entry in report.manifest["shards"]] == ["01", "02", "03", "04"]


def test_hostile_names_and_values_are_only_names_and_values(helpers: Any, tmp_path: Path) -> None:
    name = 'x"; DROP TABLE cells; --'
    levels = ["'; DROP TABLE cells; --", "../../etc", "a/b", "$p1", "é"] * 4
    table = pa.table({name: levels, "voted": [0, 1] * 10})
    pq.write_table(table, tmp_path / "o'brien $x.parquet")
    report = helpers.run(
        tmp_path / "o'brien $x.parquet", tmp_path / "run", factor_columns=[name], predictor_columns=[],
        group_columns=[(name,)], shards={"by": name, "min_cells": 1}, columns={name: {"missing_values": ["' OR 1=1"]}},
    )  # fmt: skip
    assert sorted(report.dictionary.factors[name].levels) == sorted(set(levels))
    assert Counter(os.path.dirname(entry["path"]) for entry in report.manifest["shards"]) == {"shards": 5}


def test_memory_limit_spills_or_says_what_to_raise(helpers: Any, tmp_path: Path) -> None:
    num_rows = 1_000_000
    table = pa.table(
        {"g": [str(i % 7) for i in range(num_rows)], "x": np.arange(num_rows) / 7, "voted": [0, 1] * (num_rows // 2)}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    report = helpers.run(
        tmp_path / "x.parquet", tmp_path / "run", factor_columns=["g"], predictor_columns=["x"], group_columns=[("g",)],
        shards={"by": "g", "target_cells": 70_000}, memory_limit="48MB",
    )  # fmt: skip
    assert report.num_cells == num_rows
    assert report.manifest["totals"]["rows_in_cells"] == num_rows
    with pytest.raises(
        SourceError, match=r"data\.memory_limit: found more to hold than 3MB .* Raise data\.memory_limit"
    ):
        helpers.run(tmp_path / "x.parquet", tmp_path / "none", factor_columns=["g"], predictor_columns=["x"],
                    group_columns=[("g",)], shards={"by": "g"}, memory_limit="3MB")  # fmt: skip
    assert list((tmp_path / "none").iterdir()) == []


def test_large_shards_are_written_as_they_come(
    helpers: Any, voters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ROWS_PER_GROUP", 7)
    expected = helpers.run(voters, tmp_path / "a")
    monkeypatch.setattr(store, "MAX_CELLS_HELD", 17)
    report = helpers.run(voters, tmp_path / "b")
    assert report.manifest["shards"] == expected.manifest["shards"]
    assert report.manifest["totals"]["rows_in_cells"] == 400


def test_leftover_of_a_killed_run_is_removed(helpers: Any, voters: Path, tmp_path: Path) -> None:
    storage.publish_bytes(str(tmp_path / "run/.scratch-ingest/spill/people"), b"rows")
    helpers.run(voters, tmp_path / "run")
    assert not (tmp_path / "run/.scratch-ingest").exists()


def test_progress_and_seconds(helpers: Any, voters: Path, tmp_path: Path) -> None:
    from sharding.config import DataConfig, ShardsConfig
    from sharding.ingest import ingest

    heard: list[tuple[str, int, int]] = []
    report = ingest(
        DataConfig(source=str(voters), outcome="voted", terms_of_use="synthetic"), ShardsConfig(by="state", min_cells=1),
        outcome_kind="binomial", factor_columns=["state"], predictor_columns=[], group_columns=[],
        directory=str(tmp_path / "run"), progress=lambda *event: heard.append(event),
    )  # fmt: skip
    assert heard[0] == ("read", 0, 1)
    assert heard[-1] == ("write", 4, 4)
    assert set(report.seconds) == {"clean", "open", "group", "encode", "describe", "write"}


@pytest.mark.parametrize(
    ("shards", "error", "message"),
    [
        ({"by": "dem"}, PlanError, r"shards\.by: found \['dem'\], numeric in the model; expected factors"),
        ({"by": "hash", "column": "dem"}, PlanError, "numeric in the model"),
        ({"by": "hash", "column": "voter_id"}, PlanError, "not in the model; expected shards.num_shards"),
        ({"by": "stat"}, ContractError, "Did you mean 'state'"),
    ],
)
def test_cuts_that_cannot_be(
    helpers: Any, voters: Path, tmp_path: Path, shards: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        helpers.run(voters, tmp_path / "run", shards=shards)
    assert list((tmp_path / "run").iterdir()) == []


def test_file_that_changes_during_ingest(
    helpers: Any, voters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint, calls = storage.fingerprint, []

    def changing(url: str) -> dict[str, Any]:
        calls.append(url)
        return {**fingerprint(url), "fingerprint": str(len(calls))}

    monkeypatch.setattr(storage, "fingerprint", changing)
    with pytest.raises(SourceError, match="changed during ingest"):
        helpers.run(voters, tmp_path / "run")
