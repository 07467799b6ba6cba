"""What DuckDB says, as errors of ours."""

import errno
import resource
from pathlib import Path

import pytest

from sharding import database


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
