"""What DuckDB says, as errors of ours."""

import errno
import resource
from pathlib import Path

import pytest

from sharding import database
from sharding.errors import SourceError


def test_a_database_that_may_not_spill_has_no_room_and_the_sources_are_not_blamed(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match="File too large") as told, database.connected("60MB", 1, tmp_path / "spill") as connection:
            connection.execute(f"COPY (SELECT random() FROM range(200000)) TO '{tmp_path}/copy.parquet' (FORMAT parquet)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.errno == errno.EFBIG
    assert str(tmp_path) not in str(told.value), "of DuckDB's text, which can hold values, nothing is told"


def sorted_on(memory_limit: str, spill: Path, *, with_room: bool = False, as_stream: bool = False) -> None:
    """Sort two million numbers in a database that may spill a megabyte: DuckDB itself sets that to what is free when it first spills."""
    with database.connected(memory_limit, 1, spill) as connection:
        if not with_room:
            connection.execute("SET max_temp_directory_size = '1MB'")
        found = connection.execute("SELECT random() AS a, random() AS b FROM range(2000000) ORDER BY a")
        if as_stream:
            list(found.to_arrow_reader(10_000))


@pytest.mark.parametrize("as_stream", [False, True])
def test_a_full_disk_where_it_spills_is_no_lack_of_memory(tmp_path: Path, as_stream: bool):
    with pytest.raises(OSError, match="No space left") as told:
        sorted_on("20MB", tmp_path / "spill", as_stream=as_stream)
    assert told.value.errno == errno.ENOSPC


def test_memory_that_cannot_be_spilled_is_no_full_disk(tmp_path: Path):
    with pytest.raises(SourceError, match="more to hold than 2MB allows"):
        sorted_on("2MB", tmp_path / "spill", with_room=True)
