"""A run directory knows what is done, what is damaged, whose it is, and who is at work in it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import run_directory
from cluster.errors import RunDirectoryError, RunDirectoryLockedError, StageError
from cluster.run_directory import STAGES, describe_changes, stage_key

IDENTITY = {"name": "turnout", "data": {"source": ["/voters/*.parquet"], "outcome": "voted"}}
INPUTS = {"model": {"priors": {"sd": "half_normal(1)"}}, "after": {"fit": "0" * 64}}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "runs" / "turnout")


def write(path: str, stage: str) -> None:
    for name in run_directory.FILES[stage]:
        file = Path(path, name) if "." in name else Path(path, name, "part-0")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{stage} wrote this")


def finished(path: str) -> run_directory.RunDirectory:
    directory = run_directory.open_directory(path, IDENTITY)
    directory.save()
    for stage in STAGES:
        write(path, stage)
        directory.finish(stage, stage_key(INPUTS), INPUTS, 1.5)
    return directory


def test_what_is_recorded_is_read_back(path: str):
    written = finished(path)
    again = run_directory.open_directory(path, IDENTITY)
    assert again.records == written.records
    assert again.records["merge"].files.keys() == {"posterior.nc", "summary.parquet"}
    assert all(not again.why_not_done(stage, stage_key(INPUTS), INPUTS) for stage in STAGES)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{path}/manifest.json").st_mode) == 0o600


def test_another_key_is_not_done_and_the_reason_is_told(path: str):
    directory = finished(path)
    other = {**INPUTS, "model": {"priors": {"sd": "half_normal(2)"}}}
    why = directory.why_not_done("merge", stage_key(other), other)
    assert why == "model.priors.sd: half_normal(1) -> half_normal(2)"


def test_a_damaged_or_missing_file_is_not_done(path: str):
    directory = finished(path)
    Path(path, "audit.json").write_text("audit wrote that")
    Path(path, "sites", "part-0").unlink()
    assert directory.why_not_done("audit", stage_key(INPUTS), INPUTS) == "audit.json is not the file that was written"
    assert directory.why_not_done("fit", stage_key(INPUTS), INPUTS) == "sites/part-0 is missing"
    assert not directory.why_not_done("merge", stage_key(INPUTS), INPUTS)


def test_beginning_a_stage_leaves_nothing_stale_behind(path: str):
    directory = finished(path)
    directory.begin("merge")
    assert sorted(os.listdir(path)) == [
        "coding.json", "dictionary.json", "dirt.json", "manifest.json", "quarantine", "shards", "sites",
    ]  # fmt: skip
    assert set(run_directory.open_directory(path, IDENTITY).records) == {"ingest", "fit"}


def test_a_stage_that_wrote_nothing_is_not_recorded(path: str):
    directory = run_directory.open_directory(path, IDENTITY)
    with pytest.raises(StageError, match=r"wrote no posterior\.nc"):
        directory.finish("merge", stage_key(INPUTS), INPUTS, 1.0)


def test_an_audit_may_write_the_posterior_anew(path: str):
    directory = finished(path)
    Path(path, "posterior.nc").write_text("after extra rounds")
    directory.finish("audit", stage_key(INPUTS), INPUTS, 1.0)
    assert not directory.why_not_done("merge", stage_key(INPUTS), INPUTS)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({**IDENTITY, "name": "support"}, "name: turnout -> support"),
        ({**IDENTITY, "data": {"source": ["/ohio.csv"], "outcome": "voted"}}, "data.source:"),
    ],
)
def test_another_run_is_refused(path: str, other: dict, told: str):
    finished(path)
    with pytest.raises(RunDirectoryError, match=told) as caught:
        run_directory.open_directory(path, other)
    assert "Set another `run.directory`" in str(caught.value)


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        run_directory.open_directory(str(tmp_path), IDENTITY)
    assert os.listdir(tmp_path) == ["letter.txt"]
    with pytest.raises(RunDirectoryError, match="a file, expected a folder"):
        run_directory.open_directory(str(tmp_path / "letter.txt"), IDENTITY)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}', '{"schema_version": 99}'])
def test_a_manifest_that_cannot_be_read_is_told(path: str, text: str):
    finished(path)
    Path(path, "manifest.json").write_text(text)
    with pytest.raises(RunDirectoryError, match="damaged" if "99" not in text else "version 99"):
        run_directory.open_directory(path, IDENTITY)


def test_one_driver_at_a_time_and_a_dead_one_does_not_count(path: str):
    code = (
        "import sys, time; from cluster import run_directory\n"
        f"with run_directory.locked({path!r}): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with (
            pytest.raises(RunDirectoryLockedError, match=f"process {holder.pid} on ") as caught,
            run_directory.locked(path),
        ):
            pass
        assert caught.value.exit_code == 4
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
    assert Path(path, ".lock").exists()
    with run_directory.locked(path):
        assert f"process {os.getpid()} " in Path(path, ".lock").read_text()


@pytest.mark.parametrize("made", [[], ["run.yaml"], [".manifest.json.x.partial"], ["shards/part"], ["manifest.json"]])
def test_who_comes_second_to_a_new_directory_is_told_to_wait(path: str, made: list[str]):
    """Whatever the first has made so far, and whatever is half-written."""
    with run_directory.locked(path):
        for name in made:
            Path(path, name).parent.mkdir(exist_ok=True)
            Path(path, name).write_text("{")
        if made in ([], ["run.yaml"]):
            run_directory.look(path, IDENTITY)
            return
        script = "import sys; from cluster import run_directory; run_directory.look(sys.argv[1], {})"
        told = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False).stderr
        assert "RunDirectoryLockedError" in told
        assert "Wait until it has finished" in told
    with pytest.raises(RunDirectoryError) as refused:
        run_directory.look(path, IDENTITY)
    assert refused.value.exit_code == 2


def test_looking_leaves_no_lock_in_what_is_no_run(path: str):
    Path(path).mkdir(parents=True)
    Path(path, "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match=r"no manifest\.json"):
        run_directory.look(path, IDENTITY)
    assert os.listdir(path) == ["thesis.tex"]


def test_changes_are_told_briefly():
    old = {"a": {"b": 1, "c": [1]}, "sources": {"x.parquet": "1", "y.parquet": "1"}, "after": {"fit": "k"}}
    new = {"a": {"b": 2, "c": [1]}, "sources": {"x.parquet": "2", "z.parquet": "1"}, "after": {"fit": "l"}}
    told = describe_changes(old, new, limit=9)
    assert told == "a.b: 1 -> 2, x.parquet changed, y.parquet is gone, z.parquet is new, fit is new"
    assert describe_changes(old, new, limit=1) == "a.b: 1 -> 2, and 4 more"
    assert describe_changes({}, {"priors": {"sd": "normal(0, 1)"}}) == "priors.sd: (not set) -> normal(0, 1)"
