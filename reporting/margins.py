"""Margins by name (`state`, `race:age`, `all`), and the names of their files.

A column whose own name has a `:` or a `/` stands between backquotes, as in a formula: `` `zip:4`:race ``. In the name of a
file `-` stands between columns, and what would be mistaken for it, or is no letter of a file's name, is percent-encoded.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

ALL = "all"
CALIBRATION = "calibration"
OWN_COLUMNS = (ALL, "num_rows", "num_trials", "raw_mean", "mean", "sd", "mcse")
"""Columns of estimates that are no margin's; and quantiles, :func:`is_own`."""

_OUTSIDE_BACKQUOTES = re.compile(r"[:/](?=(?:[^`]*`[^`]*`)*[^`]*$)")
_ENCODED = re.compile(r"[%\-/\\:*?\"<>|\x00-\x1f\x7f]|^\.")


def columns(name: str) -> tuple[str, ...]:
    """Return the columns of a margin; none for everybody.

    Raises
    ------
    ValueError
        ``name`` is no margin.
    """
    parts = tuple(part.strip() for part in _OUTSIDE_BACKQUOTES.split(name))
    if parts == (ALL,):
        return ()
    found = tuple(part[1:-1] if part[:1] == part[-1:] == "`" else part for part in parts)
    if not all(found) or any("`" in column for column in found):
        raise ValueError(f"{name!r} is not a margin; expected names such as state or race:age")
    if len(set(found)) < len(found):
        raise ValueError(f"{name!r} has a column twice; expected different columns")
    return found


def name(of: tuple[str, ...]) -> str:
    """Return the name of a margin, which :func:`columns` reads back."""
    return ":".join(f"`{column}`" if ":" in column or "/" in column else column for column in of) or ALL


def title(of: str) -> str:
    """Return a margin's name for a heading."""
    return " × ".join(columns(of)) or ALL


def file(of: str) -> str:
    """Return the name of a margin's file in ``estimates/``; no two margins share one."""
    encoded = ["".join(_ENCODED.sub(lambda found: quote(found[0], safe="").replace("-", "%2D").replace(".", "%2E"), column))
               for column in columns(of)]  # fmt: skip
    stem = "-".join(encoded) or ALL
    return f"{stem if encoded != [CALIBRATION] else '%63' + stem[1:]}.parquet"


def of_file(file_name: str) -> str:
    """Return the margin whose file this is."""
    stem = file_name.removesuffix(".parquet")
    return ALL if stem == ALL else name(tuple(unquote(part) for part in stem.split("-")))


def is_own(column: str) -> bool:
    """Whether tables of estimates have a column of this name already."""
    return column in OWN_COLUMNS or re.fullmatch(r"q\d[\d.]*", column) is not None
