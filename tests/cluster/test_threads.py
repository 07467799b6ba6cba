"""How many cores there are to use."""

import os
from pathlib import Path

import pytest

from cluster import threads


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 64), ("400000 100000", 4), ("150000 100000", 2), ("5000 100000", 1), ("9900000 100000", 64)],
)
def test_a_container_has_the_cores_of_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert threads.usable_cores(str(tmp_path)) == expected


def test_without_a_quota_those_that_it_is_bound_to(tmp_path: Path):
    assert threads.usable_cores(str(tmp_path)) == len(os.sched_getaffinity(0))
