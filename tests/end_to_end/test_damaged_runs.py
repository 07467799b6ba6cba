"""Run directories that were damaged, belong to another run, or are in use; and that no person's row is told anywhere."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line
from line import CONFIG

CANARY = "Zaphod-Q7"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    assert line.caucus("run", line.make(folder)).code == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run, sources where they were, so that its stages count as done."""
    shutil.copytree(finished / "run", tmp_path / "run", copy_function=shutil.copy2)
    config = CONFIG.replace('"voters/*"', f'"{finished}/voters/*"')
    (tmp_path / "run.yaml").write_text(config)
    return tmp_path


def flip(file: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def one(pattern: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Change the first file of the run that matches."""
    return lambda run: change(sorted(run.glob(pattern))[0])


EVERYTHING = ["ingest", "fit", "merge", "audit", "poststratify", "report"]
HEALED: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "shard": (one("shards/AL*.parquet", flip), "ingest: starts (shards/AL", EVERYTHING),
    "shard gone": (one("shards/AL*.parquet", Path.unlink), "ingest: starts (shards/AL", EVERYTHING),
    "shards' manifest": (one("shards/manifest.json", flip), "ingest: starts (shards/manifest.json", EVERYTHING),
    "dictionary": (one("dictionary.json", flip), "ingest: starts (dictionary.json", EVERYTHING),
    "site": (one("sites/AL*.arrow", flip), "fit: starts (sites/AL", EVERYTHING[1:]),
    "site gone": (one("sites/AL*.arrow", Path.unlink), "fit: starts (sites/AL", EVERYTHING[1:]),
    "posterior": (one("posterior.nc", flip), "merge: starts (posterior.nc", EVERYTHING[2:]),
    "audit": (one("audit.json", flip), "audit: starts (audit.json", EVERYTHING[3:]),
    "estimates": (
        one("estimates/state.parquet", flip),
        "poststratify: starts (estimates/state.parquet",
        EVERYTHING[4:],
    ),
    "report": (one("report.html", flip), "report: starts (report.html", EVERYTHING[5:]),
}


@pytest.mark.parametrize("name", HEALED)
def test_what_was_damaged_is_made_again(name: str, folder: Path, finished: Path):
    change, told, redone = HEALED[name]
    change(folder / "run")
    said = line.caucus("run", folder / "run.yaml")
    assert said.code == 0, said
    assert told in said.err
    assert said.redone == redone
    assert line.sha256(folder / "run" / "posterior.nc") == line.sha256(finished / "run" / "posterior.nc")


def test_a_stage_alone_says_what_is_damaged_before_it(folder: Path):
    one("sites/AL*.arrow", flip)(folder / "run")
    said = line.caucus("merge", folder / "run.yaml")
    assert said.code == 2
    assert "needs the stage 'fit': sites/AL" in said.message
    assert "Run `caucus fit` first" in said.message


def holds_manifest(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "run" / "manifest.json").write_text(text) and None


def no_run(folder: Path) -> None:
    shutil.rmtree(folder / "run")
    (folder / "run").mkdir()
    (folder / "run" / "thesis.txt").write_text("keep me")


def a_file(folder: Path) -> None:
    shutil.rmtree(folder / "run")
    (folder / "run").write_text("keep me")


def of_another(folder: Path) -> None:
    config = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(config.replace("name: small", "name: other"))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "manifest damaged": (holds_manifest("{"), "has a manifest.json that is damaged. Remove manifest.json"),
    "manifest of no form": (holds_manifest("[]"), "has a manifest.json that is damaged"),
    "manifest of another version": (holds_manifest('{"schema_version": 99}'), "version 99, expected 1"),
    "run of another config": (of_another, "holds another run (name: small -> other). Set another `run.directory`"),
    "no run directory": (no_run, "has no manifest.json, so it is not a run directory"),
    "a file in its place": (a_file, "a file, expected a folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_directory_that_cannot_be_used_is_left_alone(name: str, folder: Path):
    change, told = REFUSED[name]
    change(folder)
    before = sorted((f, line.sha256(f)) for f in folder.rglob("*") if f.is_file() and f.name != ".lock")
    said = line.caucus("run", folder / "run.yaml")
    assert said.code == 2, said
    assert told in said.message
    assert before == sorted((f, line.sha256(f)) for f in folder.rglob("*") if f.is_file() and f.name != ".lock")


def test_a_directory_in_use_is_safe_to_run_again(folder: Path):
    with (folder / "run" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = line.caucus("run", folder / "run.yaml")
    assert said.code == 4
    assert "is at work in it" in said.message


def test_a_directory_that_cannot_be_made_is_told(folder: Path):
    said = line.caucus("run", folder / "run.yaml", "--set", "run.directory=/proc/no/run")
    assert said.code == 2, said
    assert "/proc/no" in said.message
    assert "Correct the path, or its permissions" in said.message


def test_a_manifest_that_names_a_file_outside_is_refused(folder: Path):
    """An attacker's manifest, its hash entered in the run's, so that the stages before count as done."""
    run = folder / "run"
    shards = json.loads((run / "shards" / "manifest.json").read_text())
    shards["shards"][0]["path"] = "../../../../etc/passwd"
    (run / "shards" / "manifest.json").write_text(json.dumps(shards))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["ingest"]["files"]["shards/manifest.json"] = line.sha256(run / "shards" / "manifest.json")
    (run / "manifest.json").write_text(json.dumps(manifest))
    said = line.caucus("audit", folder / "run.yaml", "--set", "audit.draws=101")
    assert said.code == 2, said
    assert "a relative path without '..'" in said.message
    assert "tampered" in said.message


def files_with(folder: Path, text: str) -> list[str]:
    """Files below a folder that hold a text, also inside Parquet."""
    found = []
    for file in (f for f in folder.rglob("*") if f.is_file()):
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content += repr(pq.read_table(file).to_pydict()).encode()
        if text.encode() in content:
            found.append(file.name)
    return found


@pytest.mark.parametrize("column", ["voter_id", "race", "female", "share", "voted"])
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_no_value_of_a_row_is_told(column: str, suffix: str, tmp_path: Path):
    """A word planted in one cell of the file is found in no message, log or file of the run, even with --debug."""
    columns = {name: list(map(str, values)) for name, values in line.voters().items()}
    columns[column][17] = CANARY
    contract = "columns: {race: {levels: [White, Black, Other]}, female: {type: numeric}, share: {type: numeric}}"
    file = line.make(tmp_path, columns, CONFIG.replace("terms_of_use", f"{contract}, terms_of_use"))
    if suffix == "csv":
        rows = [columns.keys(), *zip(*columns.values(), strict=True)]
        (tmp_path / "voters" / "part-0.parquet").unlink()
        (tmp_path / "voters" / "part-0.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    for settings in ([], ["--debug"], [f"--set=data.columns.{column}.unexpected=quarantine"]):
        said = line.caucus("run", file, *settings)
        assert said.code in ((0,) if column == "voter_id" or "quarantine" in str(settings) else (2,)), said
        assert CANARY not in said.out + said.err
        assert files_with(tmp_path / "run", CANARY) == []
    assert files_with(tmp_path / "voters", CANARY) == [f"part-0.{suffix}"], "the canary is there to be found"
    assert os.listdir(tmp_path / "run")
