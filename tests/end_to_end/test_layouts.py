"""A run from the raw files of a state: a layout is named, and the rest is as ever."""

import json
import shutil
from datetime import date
from pathlib import Path

import line
import pyarrow.parquet as pq
import pytest

from sharding import layouts
from tests.sharding.layout_files import nc_history, nc_voters

CONFIG = """\
name: nc
data: {source: raw, layout: nc, election: 2024-11-05, outcome: voted, terms_of_use: synthetic}
model:
  formula: voted ~ 1 + (1 | county) + (1 | race)
  family: bernoulli
shards: {by: county, min_cells: 1}
fit: {rounds: 2, draws: 100, min_ess: 100}
audit: {draws: 100, max_extra_rounds: 0}
poststratify: {by: [all, county]}
publish: {min_count: 1}
run: {directory: run, seed: 1, executor: serial}
"""
COUNTIES, RACES = ("1", "41", "92"), ("W", "B", "Q")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    ids = [f"AA{i}" for i in range(900)]
    people = [{"ncid": name, "county_id": COUNTIES[i % 3], "race_code": RACES[i % 7 % 3]} for i, name in enumerate(ids)]
    nc_voters(tmp_path / "raw/ncvoter.txt", [*people, {"ncid": "ZZ1", "registr_dt": "11/06/2024"}, '"92"\t"1"\r\n'])
    nc_history(tmp_path / "raw/ncvhis.txt", [{"ncid": name} for i, name in enumerate(ids) if i % 5])
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path


def test_raw_files_become_an_audited_posterior(folder):
    said = line.caucus("run", folder / "run.yaml")
    assert said.code in (0, 3), said.err  # so few people: whether the audit passes is not the question
    run = folder / "run"
    manifest = json.loads((run / "shards/manifest.json").read_text())
    assert manifest["totals"] == {"rows_read": 902, "rows_in_cells": 900, "rows_quarantined": 2}
    assert manifest["quarantine"] == {"election:registered_after": 1, "fields:too_few": 1}
    assert [Path(source["url"]).name for source in manifest["sources"]] == ["ncvoter.txt", "ncvhis.txt"]
    dirt = json.loads((run / "dirt.json").read_text())
    assert dirt["totals"]["voters"] == {"rows_in": 902, "rows_out": 900, "rows_quarantined": 2}
    estimates = pq.read_table(run / "estimates/all.parquet").to_pylist()
    assert (estimates[0]["num_rows"], estimates[0]["raw_mean"]) == (900, 720 / 900)
    levels = json.loads((run / "dictionary.json").read_text())["factors"]
    assert levels["county"]["levels"] == ["37001", "37081", "37183"]
    assert levels["race"]["levels"] == ["(unseen)", "black", "white"]
    assert not (run / "cleaned").exists()
    assert line.caucus("run", folder / "run.yaml").out.startswith("everything is done already")


def test_a_layout_of_ones_own_is_found_beside_the_config_and_a_change_of_it_is_a_change_of_the_run(folder):
    (folder / "mine.yaml").write_text("extends: nc\nname: mine\n")
    line.caucus("shard", folder / "run.yaml", "--set", "data.layout=mine.yaml")
    (folder / "mine.yaml").write_text("extends: nc\nname: mine\ncolumns: {race: {codes: {Q: quite other}}}\n")
    line.caucus("shard", folder / "run.yaml", "--set", "data.layout=mine.yaml", "--set", "data.keep_cleaned=true")
    levels = json.loads((folder / "run/dictionary.json").read_text())["factors"]["race"]["levels"]
    assert levels == ["black", "quite other", "white"]
    assert pq.read_table(folder / "run/cleaned/voters.parquet").num_rows == 900


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.layout=nz", "one of fl, l2"),
        ("data.layout=wa-2020", "names such as"),
        ("data.election=2023-11-07", "no vote in 720 rows of history of 2023-11-07"),
        ("data.format=csv", "says what `format`"),
        ("data.layout=mi", "no file of voters"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_fitted(folder, setting, message):
    said = line.caucus("run", folder / "run.yaml", "--set", setting)
    assert said.code == 2
    assert message in said.message
    assert not (folder / "run/cleaned").exists()


def test_a_killed_reading_is_taken_up_where_it_was(folder):
    whole = folder / "whole"
    request = {"election": date(2024, 11, 5), "columns": ("race", "county")}
    layouts.clean(layouts.load("nc"), [str(folder / "raw")], str(whole), **request)
    shutil.copytree(
        whole, folder / "run", ignore=shutil.ignore_patterns("voters.parquet", "dirt.json", "history-*.json")
    )
    again = layouts.clean(layouts.load("nc"), [str(folder / "raw")], str(folder / "run"), **request)
    assert again.dirt == json.loads((whole / "dirt.json").read_text())
