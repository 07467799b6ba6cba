"""A coding that stays: shards of rows that did not change keep their bytes, and what was decided still holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from sharding import frozen, storage
from sharding.dictionary import Dictionary
from sharding.errors import ContractError


def write(folder: Path, table: pa.Table) -> Path:
    """One file per state, `01` to `04`."""
    folder.mkdir(exist_ok=True)
    for state in sorted(set(table["state"].to_pylist())):
        pq.write_table(
            table.filter(pa.array([s == state for s in table["state"].to_pylist()])), folder / f"{state}.parquet"
        )
    return folder / "*.parquet"


def relabelled(table: pa.Table, state: str) -> pa.Table:
    """Other people, all of one state that was not there, whose name sorts first."""
    counties = pa.array([state + county[2:] for county in table["county"].to_pylist()])
    states = pa.array([state] * len(table))
    return table.set_column(1, "state", states).set_column(2, "county", counties)


@pytest.fixture
def changed(helpers: Any, tmp_path: Path) -> tuple[Any, Path]:
    """The first ingest, and files of which `02` is of other people, `04` is gone and `00` is new, with another county."""
    first = helpers.run(write(tmp_path / "voters", helpers.people()), tmp_path / "first", weight="income")
    other = helpers.people(200, seed=7)
    pq.write_table(relabelled(other.slice(0, 60), "00"), tmp_path / "voters" / "00.parquet")
    kept = pa.array([s == "02" for s in other["state"].to_pylist()])
    pq.write_table(other.filter(kept), tmp_path / "voters" / "02.parquet")
    (tmp_path / "voters" / "04.parquet").unlink()
    return first, tmp_path / "voters" / "*.parquet"


def sha256_of(report: Any) -> dict[str, str]:
    return {entry["shard_id"]: entry["sha256"] for entry in report.manifest["shards"]}


@pytest.mark.parametrize("outcome", ["voted", "income"])
def test_shards_of_the_same_rows_keep_their_bytes(helpers: Any, tmp_path: Path, outcome: str):
    """Of shares and of real numbers with weights; without the coding a state that sorts first changes every shard."""
    kind = {"voted": "binomial", "income": "gaussian"}[outcome]
    options = {"outcome": outcome, "outcome_kind": kind, "weight": "income" if outcome == "voted" else None}
    files = write(tmp_path / "voters", helpers.people())
    first = helpers.run(files, tmp_path / "first", **options)
    pq.write_table(relabelled(helpers.people(60, seed=7), "00"), tmp_path / "voters" / "00.parquet")
    second = helpers.run(files, tmp_path / "second", coding=first.dictionary, **options)
    anew = helpers.run(files, tmp_path / "anew", **options)
    before = sha256_of(first)
    assert set(sha256_of(second)) == {*before, "00"}
    assert {name: sha for name, sha in sha256_of(second).items() if name != "00"} == before
    assert not set(before.values()) & set(sha256_of(anew).values()), (
        "this change must matter, or the test shows nothing"
    )


def test_what_was_decided_stays_and_new_levels_come_last(helpers: Any, changed: tuple[Any, Path], tmp_path: Path):
    first, files = changed
    old = first.dictionary
    new = helpers.run(files, tmp_path / "second", coding=old, weight="income").dictionary
    assert new.factors["state"].levels == ("01", "02", "03", "04", "00")
    assert [coding.reference for coding in new.factors.values()] == [c.reference for c in old.factors.values()]
    assert new.numerics["dem"].center == old.numerics["dem"].center
    assert new.numerics["dem"].scale == old.numerics["dem"].scale
    assert (new.outcome.mean, new.outcome.sd) == (old.outcome.mean, old.outcome.sd)
    assert new.outcome.weight_factor == old.outcome.weight_factor
    assert new.outcome.num_known < old.outcome.num_known
    assert set(old.groups["state:county"]) < set(new.groups["state:county"])
    assert list(new.groups["state:county"]) == sorted(new.groups["state:county"])
    of_county = dict(zip(new.factors["county"].levels, new.parents["county"]["state"], strict=True))
    assert {new.factors["state"].levels[code] for name, code in of_county.items() if name.startswith("04")} == {"04"}
    assert all(new.factors["state"].levels[code] == name[:2] for name, code in of_county.items())
    assert frozen.continues(new, old)
    assert not frozen.continues(helpers.run(files, tmp_path / "anew", weight="income").dictionary, old)


def test_the_same_coding_gives_the_same_files(helpers: Any, changed: tuple[Any, Path], tmp_path: Path):
    """Its own dictionary as coding changes nothing, so that a directory can be healed."""
    first, files = changed
    second = helpers.run(files, tmp_path / "second", coding=first.dictionary)
    third = helpers.run(files, tmp_path / "third", coding=second.dictionary)
    assert third.dictionary.sha256() == second.dictionary.sha256()
    assert sha256_of(third) == sha256_of(second)
    read = Dictionary.from_json(storage.read_json(str(tmp_path / "second" / "dictionary.json")))
    assert read == second.dictionary


def test_rows_of_parquet_files_are_counted(helpers: Any, changed: tuple[Any, Path], tmp_path: Path):
    _, files = changed
    manifest = helpers.run(files, tmp_path / "second").manifest
    assert {f["url"].rsplit("/", 1)[-1]: f["num_rows"] for f in manifest["sources"]} == {
        f.name: pq.ParquetFile(f).metadata.num_rows for f in files.parent.iterdir()
    }


def test_a_predictor_that_no_longer_varies_keeps_its_coding(helpers: Any, changed: tuple[Any, Path], tmp_path: Path):
    first, files = changed
    for file in files.parent.iterdir():
        table = pq.read_table(file)
        dem = table.column_names.index("dem")
        pq.write_table(table.set_column(dem, "dem", pa.array([0.25] * len(table))), file)
    new = helpers.run(files, tmp_path / "second", coding=first.dictionary).dictionary.numerics["dem"]
    assert (new.center, new.scale) == (first.dictionary.numerics["dem"].center, first.dictionary.numerics["dem"].scale)
    assert (new.minimum, new.maximum) == (0.25, 0.25)
    with pytest.raises(ContractError, match="one value in all rows"):
        helpers.run(files, tmp_path / "anew")


def test_a_number_that_is_text_now_is_refused(helpers: Any, changed: tuple[Any, Path], tmp_path: Path):
    first, files = changed
    for file in files.parent.iterdir():
        table = pq.read_table(file)
        dem = table.column_names.index("dem")
        words = pa.array(["low" if value < 0.3 else "high" for value in table["dem"].to_pylist()])
        pq.write_table(table.set_column(dem, "dem", words), file)
        pyarrow.csv.write_csv(pq.read_table(file), tmp_path / f"{file.stem}.csv")
    with pytest.raises(ContractError, match="a factor column; expected a numeric column"):
        helpers.run(files, tmp_path / "second", coding=first.dictionary)
    with pytest.raises(ContractError, match="dem:not_a_number"):
        helpers.run(tmp_path / "*.csv", tmp_path / "second", coding=first.dictionary)


def test_a_new_category_of_the_outcome_is_refused(helpers: Any, tmp_path: Path):
    table = helpers.people()
    rng = np.random.default_rng(1)
    options = {"outcome": "party", "outcome_kind": "category"}
    parties = rng.choice(["dem", "rep"], len(table))
    pq.write_table(table.append_column("party", pa.array(parties)), tmp_path / "voters.parquet")
    first = helpers.run(tmp_path / "voters.parquet", tmp_path / "first", **options)
    parties = np.where(rng.random(len(table)) < 0.1, "ind", parties.astype(object))
    pq.write_table(table.append_column("party", pa.array(parties.tolist())), tmp_path / "voters.parquet")
    with pytest.raises(ContractError, match="1 new categories; expected the 2 categories as before"):
        helpers.run(tmp_path / "voters.parquet", tmp_path / "second", coding=first.dictionary, **options)
