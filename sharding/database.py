"""DuckDB as it is used here: a memory limit, a place to spill to, no downloads, and errors without the data in them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sharding.errors import ShardingError, SourceError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def connected(memory_limit: str, threads: int | None, spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a database that spills to ``spill``, which is removed at the end, and downloads nothing.

    Raises
    ------
    SourceError
        In place of DuckDB's and Arrow's errors, whose text can hold values of a row: only their kind is told.
    OSError
        The disk is full, or a file may not grow any more.
    """
    spill.mkdir(mode=0o700, parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "memory_limit": memory_limit, "temp_directory": str(spill), "preserve_insertion_order": "false",
        "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
    }  # fmt: skip
    if threads is not None:
        config["threads"] = str(threads)
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET TimeZone = 'UTC'")  # a label does not depend on where the machine stands
    try:
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise _no_more(error, memory_limit) from None
    except OSError as error:  # what DuckDB raises comes through Arrow's streams as an OSError
        if not str(error).startswith("Out of Memory Error"):
            raise
        raise _no_more(error, memory_limit) from None
    except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException, duckdb.InternalException) as error:
        raise ShardingError(
            f"data.source: the database refused a question ({type(error).__name__}). This is a defect of Caucus; please report it."
        ) from None
    except (duckdb.Error, pa.ArrowException) as error:
        if number := next((n for n in _NO_ROOM if os.strerror(n) in str(error)), None):
            raise OSError(number, os.strerror(number)) from None
        raise SourceError(
            "data.source", f"data that cannot be read ({type(error).__name__})", "whole files",
            "Copy the files again (one may be truncated or damaged)."
        ) from None  # fmt: skip
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


def _no_more(error: Exception, memory_limit: str) -> OSError | SourceError:
    """Which of the two ran out: the disk, of which DuckDB spills no more than was free when it began, or memory that cannot be spilled."""
    if "failed to offload" in str(error):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return SourceError(
        "data.memory_limit", f"more to hold than {memory_limit} allows", "memory for the cells of the model",
        "Raise data.memory_limit, or use fewer columns."
    )  # fmt: skip
