"""What a layout's tables are made of, before any fault: columns by name, files, and what each column is for."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sharding.dirty.lines import Column, TextFormat
from sharding.dirty.people import People

Ints = npt.NDArray[np.int64]

COLUMNS_PATH = Path(__file__).parent.parent / "data" / "voter_file_columns.csv"


@dataclass(frozen=True)
class Roles:
    """Which column says what, and how this layout writes it; empty where the layout has none."""

    id: str
    birth: str = ""
    placeholder: str = ""
    """The birth date or year of somebody whose birth date is unknown."""
    underage: str = ""
    """The birth date or year of somebody under 18 on election day."""
    registered: str = ""
    date_form: str = "%m/%d/%Y"
    """How all dates are written, by strftime."""
    codes: Mapping[str, str] = field(default_factory=dict)
    """Columns with a code list, and a code that is not in it."""
    markers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns and the texts that mean missing there, blank besides; those among the usual codes are counted too."""
    status: str = ""
    left_out: str = ""
    """The status of somebody who is no voter any more."""
    name: str = ""
    """A column of free text, where stray quotes, accents and NUL go."""
    kept: tuple[str, ...] = ()
    """Further columns whose values must survive."""
    vote: str = ""
    """Of a history: the code of the ballot."""
    not_counted: tuple[str, ...] = ()
    drifting: str = ""
    """Of a history: a column whose labels have changed; a row of the same vote with ``older_label`` is there too."""
    older_label: str = ""
    election: str = ""
    """Of a history: the date or label of the election."""


@dataclass(frozen=True)
class Table:
    """One kind of file of a layout. Every column leads with the axis row; a name that ``columns`` lacks is empty text."""

    kind: Literal["voters", "history"]
    names: tuple[str, ...]
    columns: Mapping[str, Column]
    form: TextFormat | None
    """None: Parquet."""
    roles: Roles
    files: tuple[str, ...]
    file_of_row: Ints
    """Index into ``files``, ascending."""
    person: Ints
    """Whose row it is."""
    counts: npt.NDArray[np.bool_] | None = None
    """Of a history: whether the row is of the election in question."""

    @property
    def num_rows(self) -> int:
        """Rows before faults."""
        return len(self.file_of_row)


@cache
def _columns() -> dict[str, tuple[tuple[str, int], ...]]:
    found: dict[str, list[tuple[str, int]]] = {}
    with COLUMNS_PATH.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["layout"], []).append((row["column"], int(row["width"] or 0)))
    return {name: tuple(columns) for name, columns in found.items()}


def names(layout: str) -> tuple[str, ...]:
    """Return the columns of a real file in order (``sharding/data/README.md`` says where they are from)."""
    return tuple(name for name, _ in _columns()[layout])


def widths(layout: str) -> tuple[int, ...]:
    """Return the widths of a fixed-width file's fields, in characters."""
    return tuple(width for _, width in _columns()[layout])


def history_rows(people: People, shares: Sequence[float | None]) -> tuple[Ints, Ints]:
    """Draw who voted when: for each row the person and the election, in the order of people.

    Parameters
    ----------
    shares
        Of each election, who of those registered by now voted in it; None: those who ``voted``.
    """
    voted = np.stack(
        [people.voted if share is None else people.codes(f"election {i}", (share, 1 - share)) == 0 for i, share in enumerate(shares)],
        axis=1,
    )  # fmt: skip
    who, when = np.nonzero(voted)
    return who, when
