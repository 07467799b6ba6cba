"""One driver at a time in a run directory on an object store."""

import threading
import time
from pathlib import Path

import pytest

from cluster import lease, run_directory
from cluster.errors import RunDirectoryLockedError
from cluster.run_directory import RunDirectory
from sharding import storage

SECONDS = 0.8


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", SECONDS)


@pytest.fixture(params=["memory", "s3"])
def directory(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> str:
    return f"{bucket if request.param == 's3' else 'memory:/'}/{tmp_path.name}/run"


def dead(directory: str) -> None:
    """What a killed driver leaves."""
    storage.publish_json(f"{directory}/.lock", {"owner": "killed", "holder": "process 7 on a machine", "beat": 3})


def test_the_lease_is_there_while_it_is_held_and_gone_after(directory: str):
    with run_directory.locked(directory):
        assert storage.children(directory) == {".lock"}
        assert run_directory.open_existing(directory, {}) is None, "a lease alone is no run"
    assert storage.children(directory) == set()


def test_a_holder_that_lives_keeps_it_however_long_it_takes(directory: str):
    with run_directory.locked(directory):
        for _ in range(3):
            with pytest.raises(RunDirectoryLockedError, match=r"process \d+ on .*, since .* is at work in it") as told:
                run_directory.locked(directory).__enter__()
            assert told.value.exit_code == 4
            time.sleep(SECONDS / 2)


def test_the_lease_of_a_killed_driver_is_taken_over_after_its_time(directory: str):
    dead(directory)
    began = time.monotonic()
    with run_directory.locked(directory):
        assert time.monotonic() - began >= SECONDS
        assert storage.children(directory) == {".lock-1"}
        assert storage.read_json(f"{directory}/.lock-1")["owner"] != "killed"
        assert run_directory.open_existing(directory, {}) is None
    assert storage.children(directory) == set()


def test_a_clock_of_long_ago_or_of_the_future_does_not_count(directory: str, monkeypatch: pytest.MonkeyPatch):
    """Times of day are told to people and compared with nothing."""
    with run_directory.locked(directory), monkeypatch.context() as patch:
        patch.setattr(lease.time, "time", lambda: 0.0)
        patch.setattr(lease.time, "strftime", lambda form, *when: "2099-01-01 00:00:00")
        with pytest.raises(RunDirectoryLockedError):
            run_directory.locked(directory).__enter__()


def test_a_driver_whose_lease_was_taken_over_writes_no_manifest(directory: str):
    with run_directory.locked(directory):
        run = RunDirectory(directory, {"name": "a"})
        run.save()
        before = storage.read_bytes(f"{directory}/manifest.json")
        storage.publish_json(f"{directory}/.lock-1", {"owner": "other", "holder": "process 9 on another", "beat": 0})
        with pytest.raises(RunDirectoryLockedError, match="process 9 on another"):
            RunDirectory(directory, {"name": "b"}).save()
        assert storage.read_bytes(f"{directory}/manifest.json") == before
    assert storage.read_json(f"{directory}/.lock-1")["owner"] == "other", "another's lease is not given back"


def at_once(directory: str, count: int = 4) -> tuple[int, int]:
    """How many of several drivers that come in one moment hold the directory, and how many are refused."""
    held, refused = [], []
    come, ends = threading.Barrier(count), threading.Event()

    def drive() -> None:
        come.wait()
        try:
            with run_directory.locked(directory):
                held.append(1)
                ends.wait(20)
        except RunDirectoryLockedError:
            refused.append(1)

    threads = [threading.Thread(target=drive) for _ in range(count)]
    for thread in threads:
        thread.start()
    while len(held) + len(refused) < count and any(thread.is_alive() for thread in threads):
        time.sleep(0.02)
    ends.set()
    for thread in threads:
        thread.join()
    return len(held), len(refused)


@pytest.mark.parametrize("found", ["nothing", "a dead driver's"])
def test_of_drivers_that_come_at_once_one_gets_it(tmp_path: Path, bucket: str, found: str):
    directory = f"{bucket}/{tmp_path.name}/run"
    if found != "nothing":
        dead(directory)
    assert at_once(directory) == (1, 3)
    assert storage.children(directory) == set()


def test_on_a_store_that_keeps_no_conditions_the_last_to_write_has_it(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def create(url: str, data: bytes) -> bool:
        storage.publish_bytes(url, data)
        return True

    monkeypatch.setattr(lease.storage, "create_bytes", create)
    monkeypatch.setattr(lease, "SECONDS", 8.0)  # the pause is longer than the put of the slowest
    assert at_once(f"{bucket}/{tmp_path.name}/run") == (1, 3)
    assert "this store does not keep conditions" in caplog.text


def test_who_is_slower_than_another_gives_way_to_whatever_it_had_not_seen(directory: str, monkeypatch: pytest.MonkeyPatch):
    """The dead lease was given back meanwhile, and another driver found none and began anew."""
    dead(directory)
    create = storage.create_bytes

    def late(url: str, data: bytes) -> bool:
        storage.publish_json(f"{directory}/.lock-7", {"owner": "other", "holder": "process 9 on another", "beat": 0})
        return create(url, data)

    monkeypatch.setattr(lease.storage, "create_bytes", late)
    with pytest.raises(RunDirectoryLockedError, match="process 9 on another"):
        run_directory.locked(directory).__enter__()
    assert storage.children(directory) == {".lock", ".lock-7"}
