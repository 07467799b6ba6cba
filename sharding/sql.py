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

