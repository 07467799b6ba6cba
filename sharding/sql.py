"""SQL without interpolated values: names are quoted, values are parameters."""

from __future__ import annotations

from typing import Any


class Bind:
    """Collects the values of one query: ``bind(value)`` returns the name of its parameter."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __call__(self, value: Any) -> str:
        """Add ``value`` and return ``$p1``, ``$p2``, ..."""
        name = f"p{len(self.values) + 1}"
        self.values[name] = value
        return f"${name}"


def quoted(name: str) -> str:
    """Return an SQL identifier, whatever is in ``name``."""
    return '"' + name.replace('"', '""') + '"'


def label_sql(column: str, *, is_float: bool) -> str:
    """Return SQL of a value as text; whole numbers stored as floating point lose the ``.0``, NaN is null.

    ``column`` is SQL.
    """
    if not is_float:
        return f"CAST({column} AS VARCHAR)"
    whole = f"{column} = floor({column}) AND abs({column}) < 9e15"
    return (
        f"CASE WHEN isnan({column}) THEN NULL WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) "
        f"ELSE CAST({column} AS VARCHAR) END"
    )
