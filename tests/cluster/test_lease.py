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


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}/run"


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
        assert storage.read_json(f"{directory}/.lock")["owner"] != "killed"


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
        storage.publish_json(f"{directory}/.lock", {"owner": "other", "holder": "process 9 on another", "beat": 0})
        time.sleep(SECONDS)  # as a machine that was cut off
        with pytest.raises(RunDirectoryLockedError, match="process 9 on another"):
            RunDirectory(directory, {"name": "b"}).save()
        assert storage.read_bytes(f"{directory}/manifest.json") == before
    assert storage.read_json(f"{directory}/.lock")["owner"] == "other", "another's lease is not given back"


def test_of_drivers_that_come_at_once_one_gets_it(directory: str):
    dead(directory)
    held, refused = [], []
    ends = threading.Event()

    def drive() -> None:
        try:
            with run_directory.locked(directory):
                held.append(1)
                ends.wait(20)
        except RunDirectoryLockedError:
            refused.append(1)

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(held) + len(refused) < 4 and any(thread.is_alive() for thread in threads):
        time.sleep(0.02)
    ends.set()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 3)
