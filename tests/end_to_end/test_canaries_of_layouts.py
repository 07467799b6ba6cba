"""Planted people in raw files of a layout: in nothing that ingest leaves, however it ends; and a killed ingest goes on."""

from __future__ import annotations

import gzip
import os
import signal
import stat
import time
import zipfile
from pathlib import Path

import line
import pyarrow.parquet as pq
import pytest
from search import found_in
from test_layouts import CONFIG

from cluster import config as configs
from cluster import run_directory, stages
from sharding.layouts import cleaning
from tests.sharding.layout_files import NC_HISTORY, NC_PERSON, NC_VOTE, NC_VOTERS, nc_history, nc_voters
from tests.sharding.layout_files import line as text_of

PERSON = {
    "ncid": "QX99007", "last_name": "QUXBEEBLEBROX", "res_street_address": "4711 VOGSPHERE CRESCENT",
    "voter_reg_num": "990077001147", "race_code": "MAGRATHEAN",
}  # fmt: skip
"""What tells who somebody is, and a code that nobody else has."""
KINDS = ("good", "repeated", "removed", "ragged", "torn", "badly-encoded", "cut")
KEY = "d1b5a2f07c3e49868f1e2a3b4c5d6e7f9081726354a5b6c7d8e9f0a1b2c3d4e5"


def planted(kind: str) -> dict[str, str]:
    return {name: f"{value}{kind.upper()}" for name, value in PERSON.items()}


CANARIES = [*PERSON.values(), KEY]
"""The beginning of what is planted, whatever the kind of row."""


def write_raw(folder: Path) -> None:
    """900 people with their history, among them those planted, in good rows and in bad ones."""
    (folder / "raw").mkdir()
    people: list = [{"ncid": f"AA{i}", "county_id": ("1", "41", "92")[i % 3], "race_code": "WB"[i % 2]} for i in range(900)]
    votes: list = [{"ncid": f"AA{i}"} for i in range(900) if i % 5]
    for names, base, rows in ((NC_VOTERS, NC_PERSON, people), (NC_HISTORY, NC_VOTE, votes)):
        whole = {kind: base | planted(kind) for kind in KINDS}
        rows[10:10] = [
            whole["good"], whole["repeated"], {**whole["repeated"], "registr_dt": "01/01/2015"},
            {**whole["removed"], "status_cd": "R", "election_lbl": "11/03/2020"},
            text_of(names, whole["ragged"], end='\t"more"\r\n'), text_of(names, whole["torn"])[:-9] + "\r\n",
            text_of(names, whole["badly-encoded"] | {"last_name": f"{PERSON['last_name']}\xc9"}).encode("latin-1"),
        ]  # fmt: skip
        rows.append(text_of(names, whole["cut"]).rstrip()[:-6])
    nc_voters(folder / "raw/ncvoter.txt", people)
    nc_history(folder / "raw/ncvhis.txt", votes)
    (folder / "run.yaml").write_text(CONFIG)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_raw(tmp_path)
    monkeypatch.setenv("CAUCUS_ID_KEY", KEY)
    return tmp_path


def modes(folder: Path) -> set[tuple[str, int]]:
    found = [folder, *folder.rglob("*")]
    return {("folder" if f.is_dir() else "file", stat.S_IMODE(f.stat().st_mode)) for f in found}


PRIVATE = {("folder", 0o700), ("file", 0o600)}


def assert_nobody_is_told(folder: Path, *said: line.Said) -> None:
    assert found_in([folder / "run"], CANARIES) == []
    assert not [text for text in CANARIES for one in said if text in one.out + one.err]


@pytest.mark.parametrize("kept", ["false", "true"])
def test_nothing_that_is_left_tells_of_a_person(folder: Path, kept: str) -> None:
    said = [line.caucus("shard", folder / "run.yaml", "--debug", "--set", f"data.keep_cleaned={kept}")]
    said += [line.caucus("dirt", folder / "run.yaml", "--debug"), line.caucus("layouts", "nc", "--debug")]
    assert [one.code for one in said] == [0, 0, 0], said
    assert_nobody_is_told(folder, *said)
    assert modes(folder / "run") == PRIVATE
    assert {text for _, text in found_in([folder / "raw"], CANARIES[:-1])} == {*CANARIES[:-1]}, "they are there to be found"
    cleaned = folder / "run/cleaned"
    assert [f.name for f in cleaned.rglob("*")] == (["voters.parquet"] if kept == "true" else [])
    if kept == "true":
        assert pq.read_schema(cleaned / "voters.parquet").names == ["county", "race", "voted"]
        assert line.caucus("shard", folder / "run.yaml").code == 0
        assert not cleaned.exists(), "it is no longer asked for"


FAILURES = {
    "at the contract": ("data.columns={race: {levels: [white], unexpected: error}}",),
    "at the ids": ("model.formula=voted ~ 1 + (1 | ncid)",),
    "at a declared name": ("model.formula=voted ~ 1 + (1 | last_name)",),
    "at the election": ("data.election=2023-11-07",),
}


@pytest.mark.parametrize("name", [*FAILURES, "at a damaged gz", "at a damaged zip", "at no header"])
def test_a_failure_tells_of_nobody_and_leaves_no_row(folder: Path, name: str) -> None:
    settings = [part for setting in FAILURES.get(name, ()) for part in ("--set", setting)]
    raw = folder / "raw/ncvoter.txt"
    data = raw.read_bytes()
    if name == "at no header":
        raw.write_bytes(data.partition(b"\n")[2].replace(b'"EXAMPLE"', b'"NCID QUXBEEBLEBROX"', 1))
    elif name == "at a damaged gz":
        raw.with_suffix(".txt.gz").write_bytes(gzip.compress(data)[:-300])
        raw.unlink()
    elif name == "at a damaged zip":
        with zipfile.ZipFile(folder / "raw/ncvoter.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(raw, "ncvoter.txt")
        raw.unlink()
        whole = bytearray((folder / "raw/ncvoter.zip").read_bytes())
        whole[300:340] = bytes(40)
        (folder / "raw/ncvoter.zip").write_bytes(whole)
    config = configs.load(str(folder / "run.yaml"), ()).config
    run_directory.open_directory(config.run.directory, stages.identity(config)).save()
    (folder / "run/cleaned").mkdir()
    (folder / "run/cleaned/voters-of-a-killed-run.parquet").write_text(PERSON["ncid"])
    said = line.caucus("shard", folder / "run.yaml", "--debug", *settings)
    assert said.code == 2, said
    assert not (folder / "run/cleaned").exists()
    assert_nobody_is_told(folder, said)


def test_a_killed_ingest_is_private_and_goes_on_without_reading_a_file_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert line.caucus("shard", folder / "run.yaml", "--set", "run.directory=whole").code == 0
    os.mkfifo(folder / "pipe")
    script = (  # the driver waits for ever where it would read the history
        "from sharding.layouts import cleaning; read = cleaning.read\n"
        "cleaning.read = lambda request, file, target: "
        f"read(request, file, target) if file.role == 'voters' else open({str(folder / 'pipe')!r}).read()\n"
        "from cluster.cli import main; main()"
    )
    process = line.started("shard", folder / "run.yaml", script=script)
    cleaned = folder / "run/cleaned"
    while not any(cleaned.glob("voters-*.json")):
        assert process.poll() is None, line.ended(process)
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert line.ended(process).code == -signal.SIGKILL
    assert modes(cleaned) == PRIVATE
    told = {text for _, text in found_in([folder / "run"], CANARIES)}
    assert told == {PERSON["ncid"]}, "ids are compared, and nothing else of a person is there"

    read: list[str] = []
    original = cleaning.read
    monkeypatch.setattr(cleaning, "read", lambda request, file, target: read.append(file.role) or original(request, file, target))
    said = line.caucus("shard", folder / "run.yaml", "--debug")
    assert said.code == 0, said
    assert read == ["history"]
    assert not cleaned.exists()
    assert line.half_written(folder / "run") == []
    assert_nobody_is_told(folder, said)
    for name in ("shards", "dictionary.json", "dirt.json"):
        files = [folder / "whole" / name] if name.endswith("json") else sorted((folder / "whole" / name).iterdir())
        assert files
        for file in files:
            assert file.read_bytes() == (folder / "run" / file.relative_to(folder / "whole")).read_bytes()
