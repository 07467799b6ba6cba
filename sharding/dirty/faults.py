"""Faults put into rows that had none. A row has one fault at most, and every fault is known with its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharding.dirty.lines import Change, Column
from sharding.dirty.tables import Ints, Table

Mask = npt.NDArray[np.bool_]

SHARE = 0.0005
"""Of the rows of a table that have a given fault, and at least :data:`FEWEST`."""
FEWEST = 3


def with_copies(table: Table, seed: int) -> tuple[Table, Mask, Mask]:
    """Repeat some rows at the end of their file and, where there are several files, of a later one.

    Returns
    -------
    tuple
        The longer table; which of its rows are copies (of a row that is read before); which are copies or were copied.
    """
    rng = np.random.default_rng([seed, *table.kind.encode()])
    num_copies = max(FEWEST, round(SHARE * table.num_rows))
    rows = rng.choice(table.num_rows, 2 * num_copies, replace=False)
    files = table.file_of_row[rows].copy()
    order = np.argsort(np.argsort([name.lower() for name in table.files]))  # files are read in the order of their names
    for i in range(num_copies, 2 * num_copies):
        later = np.flatnonzero(order > order[files[i]])
        files[i] = rng.choice(later) if len(later) else files[i]
    source = np.concatenate([np.arange(table.num_rows), rows])
    file_of_row = np.concatenate([table.file_of_row, files])
    index = np.argsort(file_of_row, kind="stable")
    source, file_of_row, is_copy = source[index], file_of_row[index], index >= table.num_rows
    is_touched = is_copy | np.isin(source, rows)
    columns = {name: _taken(column, source) for name, column in table.columns.items()}
    counts = None if table.counts is None else table.counts[source]
    longer = replace(table, columns=columns, file_of_row=file_of_row, person=table.person[source], counts=counts)
    return longer, is_copy, is_touched


class Draft:
    """A table on its way to dirt. ``written`` goes to the files; ``truth`` is what must be read from them."""

    def __init__(self, table: Table, seed: int, is_free: Mask):
        self.table = table
        self.written: dict[str, Column] = dict(table.columns)
        self.truth: dict[str, Column] = dict(table.columns)
        self.changes: dict[int, Change] = {}
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """Rows (or lines, where a fault is no row's) by file, rule and column; the column is empty for whole lines."""
        self.is_row = np.ones(table.num_rows, bool)
        """False: a line that cannot be cut into fields."""
        self.is_kept = np.ones(table.num_rows, bool)
        self._is_free = is_free.copy()
        self._order = np.random.default_rng([seed, 1, *table.kind.encode()]).permutation(table.num_rows)

    def rows(self, among: Mask | None = None, num_rows: int = 0) -> Ints:
        """Take ``num_rows`` rows (by default, their share) that no other fault has."""
        wanted = num_rows or max(FEWEST, round(SHARE * self.table.num_rows))
        allowed = self._is_free if among is None else self._is_free & among
        taken = self._order[allowed[self._order]][:wanted]
        if len(taken) < wanted:
            raise ValueError(f"{self.table.kind}: {len(taken)} rows without a fault are left, {wanted} are needed; raise --rows")
        self._is_free[taken] = False
        return np.sort(taken)

    def count(self, rule: str, column: str, rows: Ints, *, kept: bool = True) -> None:
        """Record that ``rows`` have a fault, and are left out for it unless ``kept``."""
        numbers = np.bincount(self.table.file_of_row[rows], minlength=len(self.table.files))
        for file in np.flatnonzero(numbers):
            self.counts[self.table.files[file], rule, column] += int(numbers[file])
        if not kept:
            self.is_kept[rows] = False

    def put(self, column: str, rows: Ints, written: str | Sequence[str], truth: str | Sequence[str] | None = None) -> None:
        """Write into ``column`` of ``rows`` one text, or one for each; ``truth`` must be read, by default what was there."""
        self.written[column] = _replaced(self._every(self.written, column), rows, written)
        if truth is not None:
            self.truth[column] = _replaced(self._every(self.truth, column), rows, truth)

    def change(self, rows: Ints, change: Change) -> None:
        """Change the bytes of the lines of ``rows``."""
        self.changes.update(dict.fromkeys(rows.tolist(), change))

    def values(self, column: str, rows: Ints) -> list[str]:
        """Return what is written in ``rows``."""
        found: list[str] = self._every(self.written, column).take(pa.array(rows)).to_pylist()
        return found

    def where(self, column: str, value: str) -> Ints:
        """Return the rows with ``value``, of those that can be cut into fields."""
        column_ = self.written.get(column, "")
        if isinstance(column_, str):
            return np.flatnonzero(self.is_row) if column_ == value else np.array([], np.int64)
        return np.flatnonzero(pc.equal(column_, value).to_numpy(zero_copy_only=False) & self.is_row)

    def _every(self, columns: dict[str, Column], column: str) -> pa.Array:
        found = columns.get(column, "")
        return pa.repeat(pa.scalar(found), self.table.num_rows) if isinstance(found, str) else found


def _taken(column: Column, rows: Ints) -> Column:
    return column if isinstance(column, str) else column.take(pa.array(rows))


def _replaced(column: pa.Array, rows: Ints, values: str | Sequence[str]) -> pa.Array:
    mask = np.zeros(len(column), bool)
    mask[rows] = True
    new = pa.array([values] * len(rows) if isinstance(values, str) else values, pa.string())
    return pc.replace_with_mask(column, pa.array(mask), new)
