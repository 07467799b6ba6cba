"""HDF5 and pages on a disk that is full: an error, and never the end of the process."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from reporting import draws_file, pages
from reporting.draws_file import Declared

LEVELS = {"g": [f"level {i}" for i in range(200)]}
DECLARED = {"posterior": {"a": Declared((), np.dtype(float)), "b": Declared(("g",), np.dtype(float))}}


def write(path: Path) -> None:
    with draws_file.writing(path, DECLARED, LEVELS, {"name": "x"}, 2, 40) as file:
        for chain in range(2):
            for begin in range(0, 40, 10):
                file.put("posterior", "a", chain, begin, np.ones(10))
                file.put("posterior", "b", chain, begin, np.ones((10, 200)))


def written_within(limit: int, path: Path) -> int:
    """The errno with which it ended, in a process of its own; negative: the signal."""
    child = os.fork()
    if child == 0:
        code = 0
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            write(path)
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_posterior_that_may_not_grow_is_an_error_wherever_it_stops(tmp_path: Path):
    write(tmp_path / "whole.nc")
    size = (tmp_path / "whole.nc").stat().st_size
    limits = [1, 100, 3_000, *range(5_000, size, size // 12), size - 1]
    assert [written_within(limit, tmp_path / "part.nc") for limit in limits] == [errno.EFBIG] * len(limits)
    assert written_within(size, tmp_path / "part.nc") == 0
    assert (tmp_path / "part.nc").read_bytes() == (tmp_path / "whole.nc").read_bytes()


def test_the_error_is_told_at_the_first_draws_that_do_not_fit(tmp_path: Path):
    """Not after all have been drawn."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    put = []

    def write_all() -> None:
        with draws_file.writing(tmp_path / "part.nc", DECLARED, LEVELS, {"name": "x"}, 2, 40) as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
            for begin in range(0, 40, 10):
                file.put("posterior", "b", 1, begin, np.ones((10, 200)))
                put.append(begin)

    try:
        with pytest.raises(OSError, match="File too large"):
            write_all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert put == []


def test_a_page_that_could_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pages.publish("<html></html>", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
