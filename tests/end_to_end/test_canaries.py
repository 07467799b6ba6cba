"""Planted names, phones, addresses and ids are found in nothing that any command writes or says."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line
from search import found_in

KEY = "d1b5a2f07c3e49868f1e2a3b4c5d6e7f9081726354a5b6c7d8e9f0a1b2c3d4e5"
PERSON = {
    "first_name": "Zaphodius", "last_name": "Quxbeeblebrox", "res_street_address": "4711 Vogsphere Crescent",
    "full_phone_number": "(919) 555-0147", "email": "zqx.canary@example.org", "birth_date": "1951-03-29",
    "voter_id": "QX00990077",
}  # fmt: skip
"""What is personal, in a row that is good, one that repeats an id, one that is rejected, and one that cannot be read."""
ROWS = {"good": 17, "repeated": 18, "rejected": 40, "unreadable": 60}
LEVEL = "Magrathean-Q7"
CONFIG = line.CONFIG.replace("publish: {min_count: 1}\n", "").replace(
    "terms_of_use", "columns: {race: {levels: [White, Black, Other], unexpected: quarantine}}, max_unreadable: 0.01, id_column: voter_id, "
    "duplicates: quarantine, terms_of_use"
)  # fmt: skip


def planted(kind: str) -> dict[str, str]:
    """The person of one kind of row, unlike those of the others."""
    return {name: value.replace("7", str(list(ROWS).index(kind))) + ("" if "-" in value else kind) for name, value in PERSON.items()}


def canaries() -> list[str]:
    """Everything to look for but for the numbers of the model."""
    return [value for kind in ROWS for value in planted(kind).values()] + [LEVEL, KEY]


def write_csv(folder: Path, name: str = "part-0.csv", states: tuple[str, ...] = ()) -> None:
    """500 people in CSV with personal columns, of whom some are planted."""
    columns = line.voters(500)
    columns = {n: list(map(str, values)) for n, values in columns.items()}
    if states:
        columns["state"] = [states[i % len(states)] for i in range(500)]
    columns |= {column: [f"x{i}" for i in range(500)] for column in PERSON if column != "voter_id"}
    for kind, row in ROWS.items():
        for column, value in planted(kind).items():
            columns[column][row] = value
    columns["voter_id"][ROWS["repeated"]] = columns["voter_id"][ROWS["good"]]
    columns["race"][ROWS["rejected"]] = LEVEL
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    lines[1 + ROWS["unreadable"]] += ",one,field,more"
    (folder / "voters").mkdir(parents=True, exist_ok=True)
    (folder / "voters" / name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Folders for everything that is written besides the run: temporary files, home, and Ray's sessions."""
    short = Path(tempfile.mkdtemp(prefix="cq", dir="/tmp"))  # sockets of Ray have short names
    folders = [short / "tmp", short / "home", short / "ray"]
    for folder, variable in zip(folders, ("TMPDIR", "HOME", "RAY_TMPDIR"), strict=True):
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("CAUCUS_ID_KEY", KEY)
    yield folders
    monkeypatch.setattr(tempfile, "tempdir", None)
    shutil.rmtree(short)


def all_modes(folder: Path) -> set[tuple[str, int]]:
    """Kind and permissions of everything below a folder, and of the folder."""
    found = [folder, *folder.rglob("*")]
    return {("folder" if f.is_dir() else "file", stat.S_IMODE(f.stat().st_mode)) for f in found}


def test_the_search_finds_what_is_compressed_hashed_or_named(tmp_path: Path) -> None:
    table = pa.table({"name": [PERSON["last_name"]] * 3})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    with pa.ipc.new_file(tmp_path / "b.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "c.gz").write_bytes(gzip.compress(PERSON["last_name"].encode()))
    (tmp_path / "d.json").write_text(hashlib.sha256(PERSON["last_name"].encode()).hexdigest())
    (tmp_path / f"{PERSON['last_name']}.txt").write_text("")
    with h5py.File(tmp_path / "f.nc", "w") as tree:
        tree.create_dataset("x", data=[PERSON["last_name"]], compression=None)
    assert len(found_in([tmp_path], [PERSON["last_name"]])) == 6


@pytest.mark.parametrize("executor", ["serial", pytest.param("ray", marks=pytest.mark.ray)])
def test_every_command_keeps_people_to_itself(executor: str, tmp_path: Path, private: list[Path]) -> None:
    write_csv(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG.replace("executor: serial", f"executor: {executor}, workers: 2"))
    commands = ("validate", "plan", "run", "status", "run")
    if executor == "ray":  # whose access token is that of the first home in a process
        said = [line.ended(line.started(command, config, "--debug"), within=300) for command in commands]
    else:
        said = [line.caucus(command, config, "--debug") for command in commands]
    assert [s.code for s in said] == [0] * 5, said
    if executor == "serial":
        said += [line.caucus("check", config, "--debug"), line.caucus("compare", tmp_path / "run", tmp_path / "run", "--debug")]
        write_csv(tmp_path, "part-1.csv", states=("OH",))
        said.append(line.caucus("update", config, "--debug"))
        assert [s.code for s in said[5:]] == [0, 0, 0], said[5:]
    assert found_in([tmp_path / "run", *private], canaries()) == []
    for text in canaries():
        assert not any(text in s.out + s.err for s in said)
    assert all_modes(tmp_path / "run") == {("folder", 0o700), ("file", 0o600)}
    people = [text for text in canaries() if text not in (KEY, planted("repeated")["voter_id"])]
    assert {text for _, text in found_in([tmp_path / "voters"], people)} == {*people}, "they are there to be found"
    assert executor == "serial" or any(private[2].rglob("*.log")), "Ray's sessions were searched"


ERRORS: dict[str, tuple[str, ...]] = {
    "unexpected level": ("data.columns.race.unexpected=error",),
    "not a number": ("data.columns.share={source: last_name, type: numeric}", "data.privacy.allow=[last_name]"),
    "a column of names": ("model.formula=voted ~ 1 + (1 | last_name)",),
    "names allowed, one per row": ("data.columns.place={source: last_name}", "model.formula=voted ~ 1 + (1 | place)"),
    "an outcome of names": ("data.outcome={voted: last_name}", "data.privacy.allow=[last_name]"),
    "ids repeated": ("data.duplicates=error",),
    "weights of names": ("data.weight=email", "data.privacy.allow=[email]"),
    "wrong encoding": ("data.encoding=utf-16",),
    "too little memory": ("data.memory_limit=1KB",),
    "another delimiter": ("data.delimiter=;",),
    "no key": ("data.keep_quarantined_rows=true", "data.privacy.id_key_env=NO_SUCH_KEY"),
    "plain hash": ("data.privacy.id_method=sha256",),
}


@pytest.mark.parametrize("name", ERRORS)
def test_no_error_tells_of_a_person(name: str, tmp_path: Path, private: list[Path]) -> None:
    write_csv(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG)
    settings = [part for setting in ERRORS[name] for part in ("--set", setting)]
    said = line.caucus("shard", config, "--debug", *settings)
    assert said.code in (2, 4), said
    assert not [text for text in canaries() if text in said.out + said.err]
    folders: list[Any] = [folder for folder in (tmp_path / "run", *private) if os.path.isdir(folder)]
    assert found_in(folders, canaries()) == []


def test_kept_rows_hold_pseudonyms_and_no_line(tmp_path: Path, private: list[Path]) -> None:
    write_csv(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG.replace("id_column", "keep_quarantined_rows: true, id_column"))
    assert line.caucus("shard", config, "--debug").code == 0
    kept = pq.read_table(tmp_path / "run" / "quarantine" / "rows.parquet").to_pydict()
    assert LEVEL in kept["race"], "kept are the columns of the model, as asked"
    assert all(len(value) == 32 for value in kept["id"])
    lines = pq.read_table(tmp_path / "run" / "quarantine" / "lines.parquet").to_pydict()
    assert lines.keys() == {"file", "line", "reason"}
    assert lines["line"] == [2 + ROWS["unreadable"]]
    assert found_in([tmp_path / "run", *private], [text for text in canaries() if text != LEVEL]) == []
