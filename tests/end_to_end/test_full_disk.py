"""A disk that is full, at a few points of a run; a hundred by ``python -m benchmarks.full_disk`` (docs/faults.md), which needs root."""

from pathlib import Path

from benchmarks import full_disk


def test_files_that_may_not_grow_end_with_4_and_then_in_the_same_bytes(tmp_path: Path):
    expected = full_disk.undisturbed(tmp_path)
    run = tmp_path / "undisturbed" / "run"
    posterior = (run / "posterior.nc").stat().st_size
    points = [full_disk.limited_size(tmp_path, limit, expected) for limit in (100, posterior // 2)]
    assert [point.stage for point in points] == ["before the first", "merge"]
    assert [point.wrong for point in points] == ["", ""]
