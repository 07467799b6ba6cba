"""`caucus publish`: the one door out of a run directory. What comes out, what never does, and where it refuses."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

CONFIG = line.CONFIG.replace("publish: {min_count: 1}\n", "").replace("[all, state, race]", '[all, state, race, "state:race"]')


def voters() -> dict:
    """900 people of four states, of whom 7 are in Wyoming."""
    columns = line.voters(900)
    wyoming = iter(range(900))
    columns["state"] = [s if s != "WY" or next(wyoming) < 7 else "OH" for s in columns["state"]]
    return columns


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "p"
    assert line.caucus("run", line.make(folder, voters(), CONFIG)).code == 0
    shutil.copytree(folder, folder.parent / "kept")
    return folder


@pytest.fixture
def project(finished: Path) -> Path:
    """The finished run as it was, at its place; source files keep their times."""
    shutil.rmtree(finished)
    shutil.copytree(finished.parent / "kept", finished)
    return finished


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def publish(project: Path, to: Path | str, *more: str) -> line.Said:
    return line.caucus("publish", project / "run.yaml", "--to", to, *more)


def test_readers_get_groups_of_enough_people_and_nothing_of_the_run(project: Path) -> None:
    said = publish(project, project / "public" / "1")
    assert said.code == 0, said
    assert "state: 3 of 4 rows" in said.out
    found = bytes_of(project / "public" / "1")
    names = {f"estimates/{name}.{kind}" for name in ("all", "state", "race", "state-race") for kind in ("csv", "parquet")}
    assert set(found) == {"README.md", "manifest.json", "report.html"} | names
    manifest = json.loads(found["manifest.json"])
    assert manifest["files"] == {name: line.sha256(project / "public" / "1" / name) for name in set(found) - {"manifest.json"}}
    private = json.loads((project / "run" / "manifest.json").read_text())
    hashes = [sha256.encode() for stage in private["stages"].values() for sha256 in (*stage["files"].values(), stage["key"])]
    exact = [repr(mean).encode() for mean in pq.read_table(project / "run" / "estimates" / "state-race.parquet")["mean"].to_pylist()]
    key = json.loads(pq.read_schema(project / "run" / "publication.parquet").metadata[b"ledger"])["key"].encode()
    for name, data in found.items():
        assert b"WY" not in data, name
        assert not any(text in data for text in (*hashes, *exact, key)), name
    assert b"WY" in (project / "run" / "report.html").read_bytes()
    assert {stat.S_IMODE(f.stat().st_mode) & 0o077 for f in (project / "run").rglob("*")} == {0}
    assert stat.S_IMODE((project / "public" / "1" / "README.md").stat().st_mode) & 0o400


def test_the_same_run_gives_the_same_bytes_and_a_new_model_another_publication(project: Path) -> None:
    assert publish(project, project / "a").code == 0
    first = bytes_of(project / "a")
    assert publish(project, project / "a").code == 0
    assert publish(project, project / "b").code == 0
    assert bytes_of(project / "a") == bytes_of(project / "b") == first
    more = ("--set", "model.priors.sd=half_normal(0.01)")
    assert line.caucus("run", project / "run.yaml", *more).code == 0
    assert publish(project, project / "a").code == 2, "the config is no longer that of the run"
    assert "number 2" in publish(project, project / "a", *more).out
    assert bytes_of(project / "a") != first
    assert line.half_written(project / "run") == []


@pytest.mark.parametrize("vote", [0, 1])
def test_one_more_person_changes_nothing_and_many_do(project: Path, vote: int) -> None:
    assert publish(project, project / "a").code == 0
    first = bytes_of(project / "a")
    one = {name: values[:1] for name, values in voters().items()} | {"voter_id": ["X"], "voted": [vote], "state": ["AK"]}
    line.pq.write_table(line.pa.table(one), project / "voters" / "part-1.parquet")
    assert line.caucus("update", project / "run.yaml").code == 0
    said = publish(project, project / "a")
    assert "rows stay as they were published before" in said.out
    assert bytes_of(project / "a") == first
    many = {name: list(values) for name, values in line.voters(300, seed=9).items()}
    many["voter_id"] = [f"M{i}" for i in range(300)]
    line.pq.write_table(line.pa.table(many), project / "voters" / "part-2.parquet")
    assert line.caucus("update", project / "run.yaml").code == 0
    assert "number 2" in publish(project, project / "a").out
    states = pq.read_table(project / "a" / "estimates" / "state.parquet").to_pydict()
    assert set(states["as_of"]) == {2}


def test_a_run_made_anew_goes_on_where_the_earlier_one_published(project: Path, tmp_path: Path) -> None:
    assert publish(project, tmp_path / "out").code == 0
    first = bytes_of(tmp_path / "out")
    shutil.copytree(project, tmp_path / "q", ignore=shutil.ignore_patterns("run"))
    columns = voters()
    columns["voted"][5] = 1 - columns["voted"][5]
    line.write_voters(tmp_path / "q", columns)
    assert line.caucus("run", tmp_path / "q" / "run.yaml").code == 0
    said = publish(tmp_path / "q", tmp_path / "out")
    assert said.code == 2
    assert "a publication of another run" in said.message
    assert publish(tmp_path / "q", tmp_path / "out", "--after", str(project / "run")).code == 0
    assert bytes_of(tmp_path / "out") == first, "one vote is another"


def test_where_it_refuses(project: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(project / "run")
    for to, why in (
        (tmp_path / "full", "holds things that are no publication"), (tmp_path / "file", "is a file"), (project / "run", "is in the run directory"),
        (project / "run" / "public", "is in the run directory"), (project, "is in the run directory"), (tmp_path / "link" / "x", "is in the run directory"),
    ):  # fmt: skip
        said = publish(project, to)
        assert (said.code, why in said.message) == (2, True), said
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    assert not (project / "run" / "publication.parquet").exists()
    assert publish(project, tmp_path / "x", "--after", str(tmp_path / "full")).code == 2
    audit = json.loads((project / "run" / "audit.json").read_text())
    (project / "run" / "audit.json").write_text(json.dumps(audit | {"verdict": "fail"}))
    assert "needs the stage 'audit'" in publish(project, tmp_path / "x").message
    assert not (tmp_path / "x").exists()


def test_a_ledger_that_is_damaged_is_no_new_beginning(project: Path, tmp_path: Path) -> None:
    assert publish(project, tmp_path / "x").code == 0
    file = project / "run" / "publication.parquet"
    for data in (b"nothing", bytes(pq_without_metadata(file))):
        file.write_bytes(data)
        assert publish(project, tmp_path / "x").code == 2


def pq_without_metadata(file: Path) -> bytes:
    sink = line.pa.BufferOutputStream()
    pq.write_table(pq.read_table(file).replace_schema_metadata(None), sink)
    return bytes(sink.getvalue().to_pybytes())


def test_an_object_store_has_the_same_and_the_manifest_last(project: Path, tmp_path: Path) -> None:
    assert publish(project, tmp_path / "x").code == 0
    assert publish(project, "memory://bucket/public").code == 0
    assert publish(project, "memory://bucket/public").code == 0
    store = fsspec.filesystem("memory")
    found = {name.removeprefix("/bucket/public/"): store.cat(name) for name in store.find("/bucket/public")}
    assert found == bytes_of(tmp_path / "x")
    store.pipe("/bucket/public/manifest.json", b"{}")
    assert publish(project, "memory://bucket/public").code == 2
    store.rm("/bucket", recursive=True)
