"""Arrow tables as Parquet bytes, and back."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reporting.errors import RunDirectoryError, TableError


def to_parquet(table: pa.Table) -> bytes:
    """Return the Parquet file of ``table``; the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_table(path: str | Path) -> pa.Table:
    """Return the table of one local Parquet file; :class:`RunDirectoryError` if it cannot be read."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from error
    return from_parquet(data, str(path))


def from_parquet(data: bytes, where: str) -> pa.Table:
    """Return the table of a Parquet file that was read from ``where``; errors as for :func:`read_table`."""
    try:
        return pq.read_table(pa.BufferReader(data))
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> RunDirectoryError:
    do = "Run the stage that writes it again."
    return RunDirectoryError(where, f"no readable Parquet ({type(error).__name__})", "a Parquet table", do)


def require_columns(name: str, table: pa.Table, columns: tuple[str, ...]) -> None:
    """Raise :class:`TableError` unless ``table`` has all of ``columns``."""
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        do = "Run the stage that writes it again."
        raise TableError(name, f"columns {table.column_names}", f"also {missing}", do)
