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


def test_a_full_disk_where_it_spills_is_no_lack_of_memory(tmp_path: Path):
    sort = "CREATE TABLE t AS SELECT random() AS a FROM range(2000000) ORDER BY a"
    with pytest.raises(OSError, match="No space left") as told, database.connected("20MB", 1, tmp_path / "spill") as connection:
        connection.execute("SET max_temp_directory_size = '1MB'")  # DuckDB itself sets it to what is free, when it spills first
        connection.execute(sort)
    assert told.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left"), database.connected("20MB", 1, tmp_path / "spill") as connection:
        connection.execute("SET max_temp_directory_size = '1MB'")
        list(connection.execute("SELECT random() AS a, random() AS b FROM range(2000000) ORDER BY a").to_arrow_reader(10_000))
    with pytest.raises(SourceError, match="more to hold than 2MB allows"), database.connected("2MB", 1, tmp_path / "spill") as connection:
        connection.execute(sort)
