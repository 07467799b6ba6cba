"""Faults of a cluster while a run of 51 shards works; all of them by ``python -m benchmarks.faults`` (docs/faults.md)."""

import errno
import os
import sys
from pathlib import Path

import pytest

from benchmarks import faults

sys.path.insert(0, str(Path(__file__).parent))
import line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, str]:
    return faults.nation(folder)


@pytest.mark.ray
@pytest.mark.parametrize("name", ["machine", "twice", "none"])
def test_no_result_is_lost_and_no_number_is_another(name: str, folder: Path, expected: dict[str, str]):
    assert len(expected) > 3 * 51
    result = faults.try_fault(folder, name, expected)
    assert result.planted >= 1
    assert result.lost == []


def test_a_run_whose_bytes_differ_is_found(folder: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """The broken twin: a fault that changes the data."""

    def other_seed(trial: faults.Trial) -> tuple[int, str]:
        trial.settings, trial.faults = ["run.executor=serial", "run.seed=2"], {"slow": 0.0}
        trial.finish()
        return 1, ""

    monkeypatch.setitem(faults.FAULTS, "broken", ("another seed", other_seed))
    assert "posterior.nc" in faults.try_fault(folder, "broken", expected).lost


def test_a_full_disk_is_safe_to_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, alone = line.make(tmp_path / "full"), line.make(tmp_path / "alone")
    assert line.caucus("run", alone).code == 0
    sync, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = line.caucus("run", config)
    assert said.code == 4, said
    assert "No space left on device" in said.message
    assert line.caucus("run", config).code == 0
    assert faults.numbers(str(tmp_path / "full" / "run")) == faults.numbers(str(tmp_path / "alone" / "run"))
    assert line.half_written(tmp_path / "full" / "run") == []
