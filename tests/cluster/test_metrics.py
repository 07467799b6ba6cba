"""Measures of a run, read back with Prometheus' own parser."""

import contextlib
import io
import logging
import os
import shutil
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent))
from fakes import FakeStages
from test_stages import CONFIG, command, file  # noqa: F401  # the fixture

from benchmarks import ray_clusters
from cluster import metrics, progress
from cluster.errors import MetricsError, MissingExtraError, StageError
from cluster.metrics import (
    ADDRESS_VARIABLE,
    DIRECTORY_VARIABLE,
    MEASURES,
    MeasuredProgress,
    RunMetrics,
    TextFile,
)
from cluster.progress import PlainProgress
from cluster.run_directory import ON_WORKERS


def parsed(text: str) -> dict[tuple[str, ...], float]:
    """Samples by name and labels, those of `caucus_run_info` and the time left out."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    for sample in samples:
        assert sample.labels.pop("run") == "turnout"
    left_out = ("caucus_run_info", "caucus_progress_timestamp_seconds", "caucus_stage_seconds", "caucus_driver_memory_bytes")
    return {(s.name, *s.labels.values()): s.value for s in samples if s.name not in left_out}


def read(folder: Path) -> dict[tuple[str, ...], float]:
    return parsed((folder / "caucus-turnout.prom").read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(folder))
    return folder


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    fakes = FakeStages()
    fakes.install(monkeypatch)
    return fakes


FINISHED = {
    ("caucus_rows", "read"): 1000, ("caucus_rows", "in_cells"): 1000, ("caucus_rows", "quarantined"): 0,
    ("caucus_cells",): 200, ("caucus_worst_score_sds",): 0.2,
    ("caucus_exit_code",): 0, ("caucus_verdict", "pass"): 1, ("caucus_verdict", "warn"): 0, ("caucus_verdict", "fail"): 0,
    **{("caucus_stage_state", stage): 2 for stage in ("ingest", "fit", "merge", "audit", "poststratify", "report")},
}  # fmt: skip


def test_a_run_leaves_a_text_file(file: Path, folder: Path, fakes: FakeStages, capsys: pytest.CaptureFixture):  # noqa: F811
    assert command(capsys, "run", file)[0] == 0
    found = read(folder)
    of_rounds = {("caucus_round",): 3} | {
        ("caucus_shards", stage, state): number
        for stage in ("fit", "merge", "audit", "poststratify")
        for state, number in (("done", 1), ("failed", 0), ("waiting", 1))
    }
    of_rounds |= {("caucus_shard_tasks_total", stage, state): 0 for stage in ON_WORKERS for state in ("done", "failed")}
    of_rounds |= {("caucus_task_retries_total", stage): 0 for stage in ON_WORKERS}
    assert found == FINISHED | of_rounds | {("caucus_round",): 1}
    assert os.listdir(folder) == ["caucus-turnout.prom"]
    assert command(capsys, "run", file)[0] == 0  # redoes nothing, and still says what is known
    assert read(folder) == FINISHED


@pytest.mark.parametrize(("error", "code"), [(OSError("the store is away"), 4), (StageError("merge", "x", "y"), 2), (KeyError("x"), 1)])
def test_a_run_that_failed_says_how_it_ended_and_which_stage(
    error: Exception, code: int, file: Path, folder: Path, fakes: FakeStages, capsys: pytest.CaptureFixture  # noqa: F811
):  # fmt: skip
    fakes.fails["merge"] = error
    assert command(capsys, "run", file)[0] == code
    found = read(folder)
    states = {name[1]: value for name, value in found.items() if name[0] == "caucus_stage_state"}
    assert states == {"ingest": 2, "fit": 2, "merge": 3, "audit": 0, "poststratify": 0, "report": 0}
    assert found["caucus_exit_code",] == code
    assert "caucus_driver_memory_bytes" in (folder / "caucus-turnout.prom").read_text()


def test_a_run_whose_audit_fails_ends_with_3_and_no_stage_has_failed(
    file: Path, folder: Path, fakes: FakeStages, capsys: pytest.CaptureFixture  # noqa: F811
):  # fmt: skip
    fakes.verdict = "fail"
    assert command(capsys, "run", file)[0] == 3
    found = read(folder)
    assert found["caucus_exit_code",] == 3
    assert {value for name, value in found.items() if name[0] == "caucus_stage_state"} == {2}


def test_results_are_the_same_bytes(file: Path, fakes: FakeStages, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):  # noqa: F811  # fmt: skip
    def files() -> dict[str, bytes]:
        below = file.parent / "runs" / "turnout"
        names = [name for name in below.rglob("*") if name.is_file() and name.name not in (".lock", "manifest.json")]
        return {str(name.relative_to(below)): name.read_bytes() for name in names}

    assert command(capsys, "run", file)[0] == 0
    unmeasured = files()
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    shutil.rmtree(file.parent / "runs")
    assert command(capsys, "run", file)[0] == 0
    assert files() == unmeasured


def test_tasks_are_counted():
    measured = RunMetrics("turnout")
    progress = MeasuredProgress(PlainProgress(io.StringIO()), measured, "", ())
    progress.begin("fit", "not run yet")
    for done, (is_good, attempt) in enumerate(((True, 1), (True, 3), (False, 4)), start=1):
        progress.task(is_good=is_good, attempt=attempt)
        progress.update(done=done, total=51, round=2, rounds=8, move=0.5)
    from prometheus_client import generate_latest

    found = {name: value for name, value in parsed(generate_latest(measured).decode()).items() if value}
    assert found == {
        ("caucus_shards", "fit", "done"): 2, ("caucus_shards", "fit", "failed"): 1, ("caucus_shards", "fit", "waiting"): 48,
        ("caucus_shard_tasks_total", "fit", "done"): 2, ("caucus_shard_tasks_total", "fit", "failed"): 1,
        ("caucus_task_retries_total", "fit"): 5, ("caucus_round",): 2, ("caucus_round_move_sds",): 0.5,
        ("caucus_stage_state", "fit"): 1,
    }  # fmt: skip


def test_an_address_answers_until_it_is_closed(monkeypatch: pytest.MonkeyPatch):
    shown = PlainProgress(io.StringIO())
    progress = metrics.observed(shown, "turnout", "", {ADDRESS_VARIABLE: "0"})
    assert isinstance(progress, MeasuredProgress)
    (endpoint,) = progress._outlets
    assert isinstance(endpoint, metrics.Endpoint)
    progress.begin("ingest", "not run yet")
    url = f"http://127.0.0.1:{endpoint.port}/metrics"
    monkeypatch.setattr(metrics, "LAST_LOOK_SECONDS", 0.1)
    found = parsed(urllib.request.urlopen(url, timeout=10).read().decode())
    assert found["caucus_stage_state", "ingest"] == 1
    with pytest.raises(MetricsError, match="Free it, give more ports"):
        metrics.observed(shown, "turnout", "", {ADDRESS_VARIABLE: f"127.0.0.1:{endpoint.port}"})
    progress.close()
    progress.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=10)


def test_runs_on_one_machine_share_an_address_of_several_ports():
    first, second = metrics.Endpoint(RunMetrics("a"), "127.0.0.1", range(1)), None
    try:
        ports = f"127.0.0.1:{first.port}-{min(first.port + 9, 65_535)}"
        progress = metrics.observed(PlainProgress(io.StringIO()), "b", "", {ADDRESS_VARIABLE: ports})
        assert isinstance(progress, MeasuredProgress)
        (second,) = progress._outlets
        assert isinstance(second, metrics.Endpoint)
        assert first.port < second.port <= first.port + 9
        answer = urllib.request.urlopen(f"http://127.0.0.1:{second.port}/metrics", timeout=10).read()
        assert b'run="b"' in answer
    finally:
        for endpoint in (first, second):
            if isinstance(endpoint, metrics.Endpoint):
                endpoint._num_asked = 0  # nobody is waited for
                endpoint.close()


def test_who_scrapes_is_waited_for_and_sees_how_the_run_ended(file: Path, fakes: FakeStages, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):  # noqa: F811  # fmt: skip
    """One who asks every half second, as Prometheus does every ten."""
    (port,) = ray_clusters.ports(1)
    monkeypatch.setenv(ADDRESS_VARIABLE, str(port))
    said, ends = [], threading.Event()

    def scrape() -> None:
        while not ends.wait(0.5):
            with contextlib.suppress(OSError):
                said.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode())

    def slow(context: object) -> None:
        while not said:
            time.sleep(0.05)
        raise OSError("the store is away")

    monkeypatch.setattr(fakes.modules["cluster.inference"], "merge", slow)
    watcher = threading.Thread(target=scrape)
    watcher.start()
    try:
        assert command(capsys, "run", file)[0] == 4
    finally:
        ends.set()
        watcher.join()
    assert parsed(said[-1])["caucus_exit_code",] == 4
    assert parsed(said[-1])["caucus_stage_state", "merge"] == 3


def test_who_stops_a_run_that_is_scraped_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch):
    (port,) = ray_clusters.ports(1)
    monkeypatch.setenv(ADDRESS_VARIABLE, str(port))
    monkeypatch.setattr(metrics, "LAST_LOOK_SECONDS", "no wait takes this")

    def scraped_and_stopped(how: BaseException) -> None:
        with metrics.observing(progress.make(), "x", "nowhere"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
            raise how

    with pytest.raises(KeyboardInterrupt):
        scraped_and_stopped(KeyboardInterrupt())
    monkeypatch.setattr(metrics, "LAST_LOOK_SECONDS", 0.0)
    with pytest.raises(OSError, match="away"):
        scraped_and_stopped(OSError("the store is away"))  # the first one has left the port


def test_a_run_that_waits_for_machines_is_told_and_does_not_get_on(capsys: pytest.CaptureFixture):
    measured, said = RunMetrics("turnout"), io.StringIO()
    progress = MeasuredProgress(PlainProgress(said), measured, "", ())
    progress.begin("fit", "not run yet")
    progress.update(round=1, done=0, total=51)
    since = measured._values["caucus_progress_timestamp_seconds"][()]
    progress.update(cores=0)
    assert measured._values["caucus_cores"] == {(): 0.0}
    assert measured._values["caucus_progress_timestamp_seconds"][()] == since
    progress.update(cores=8)
    assert measured._values["caucus_cores"] == {(): 8.0}
    lines = [line.partition("  [")[0] for line in said.getvalue().splitlines()]
    assert lines[-2:] == ["fit: round 1, shards 0/51, waiting for machines: 0 cores", "fit: round 1, shards 0/51"]


def test_nothing_is_measured_unless_it_is_asked_for():
    shown = PlainProgress()
    assert metrics.observed(shown, "turnout", "", {}) is shown
    assert metrics.observed(shown, "turnout", "", {DIRECTORY_VARIABLE: ""}) is shown


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (DIRECTORY_VARIABLE, "/nowhere/at/all", "a folder that is there"),
        (ADDRESS_VARIABLE, "localhost", "host:port, or a port"),
        (ADDRESS_VARIABLE, "localhost:99999", "host:port, or a port"),
        (ADDRESS_VARIABLE, "localhost:9479-9464", "host:port, or a port"),
        (ADDRESS_VARIABLE, "9464-", "host:port, or a port"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(variable: str, value: str, message: str):
    with pytest.raises(MetricsError, match=message):
        metrics.observed(PlainProgress(), "turnout", "", {variable: value})


def test_without_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"caucus-bayes\[metrics\]"):
        metrics.observed(PlainProgress(), "turnout", "", {ADDRESS_VARIABLE: "9464"})


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = TextFile(RunMetrics("turnout"), tmp_path / "gone" / "caucus-turnout.prom")  # noqa: F811
    with caplog.at_level(logging.WARNING):
        file.tell(is_urgent=True)
        file.close()
    assert [record.message for record in caplog.records] == ["metrics not written"]


def test_a_text_file_is_not_written_at_every_shard(tmp_path: Path):
    now = [100.0]
    file = TextFile(RunMetrics("turnout"), tmp_path / "x.prom", lambda: now[0])  # noqa: F811
    written = []
    for _ in range(100):
        now[0] += 0.1
        file.tell(is_urgent=False)
        written.append((tmp_path / "x.prom").stat().st_ino)
    assert len(set(written)) <= 3


def test_no_label_grows_with_the_nation():
    assert {label for measure in MEASURES for label in measure.labels} == {"stage", "state", "verdict", "version"}
    assert all(measure.name.startswith("caucus_") for measure in MEASURES)
    assert all(measure.name.endswith("_total") == (measure.kind == "counter") for measure in MEASURES)
