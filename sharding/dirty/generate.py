"""Voter files as states and vendors ship them, of invented people, with every fault counted beside them.

``truth/planted.json`` has the faults by file, rule and column of the file, and rows in, out and quarantined of each file;
``truth/clean.parquet`` has a row for each person who must be kept, in no order, with ``id``, ``voted`` (null: not known)
and the columns of the file as text that must survive to the last byte; there, blank is missing, ``(unseen)`` a code that
is in no list and ``(placeholder)`` the birth date of somebody whose birth date nobody knows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharding import storage
from sharding.dirty import faults, florida, lines, michigan, north_carolina, ohio, people, planting, vendors, washington
from sharding.dirty.faults import Draft, Mask
from sharding.dirty.people import Counties, People
from sharding.dirty.tables import Ints, Table
from sharding.simulate import SimulationError

ELECTION = date(2024, 11, 5)
FEWEST_ROWS, MOST_ROWS = 2_000, people.MOST_PEOPLE
SCHEMA_VERSION = 1
NO_FAULTS = ("missing:blank", "election:other")
"""Counted, and as usual as can be."""

Tables = Callable[[People, Counties], list[Table]]
LAYOUTS: dict[str, tuple[str, Tables]] = {
    "nc": ("NC", north_carolina.tables),
    "nc-snapshot": ("NC", lambda people, counties: north_carolina.tables(people, counties, is_snapshot=True)),
    "oh": ("OH", ohio.tables),
    "fl": ("FL", florida.tables),
    "wa-2016": ("WA", washington.tables_2016),
    "wa-2020": ("WA", washington.tables_2020),
    "mi": ("MI", michigan.tables),
    "l2": ("PA", vendors.l2),
    "targetsmart": ("PA", vendors.targetsmart),
    "parquet": ("*", vendors.parquet),
}
"""Layouts by name: the state whose counties people live in, and their tables."""


@dataclass(frozen=True)
class DirtyFiles:
    """What :func:`generate` wrote."""

    directory: str
    num_rows: int
    """Lines of voters, faults and copies included."""
    num_kept: int
    num_faults: int
    num_files: int
    num_bytes: int


def generate(directory: str | os.PathLike[str], layout: str, *, num_rows: int, seed: int) -> DirtyFiles:
    """Write the files of a layout into ``directory/files`` and what is in them into ``directory/truth``.

    The same arguments give the same bytes. Memory is about 1 kB a row.

    Parameters
    ----------
    num_rows
        People. Copies of their rows come on top.

    Raises
    ------
    SimulationError
        A layout that is not known, a number of rows out of range, or a directory that has something in it already.
    """
    target = Path(directory)
    if layout not in LAYOUTS:
        raise SimulationError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}.")
    if not FEWEST_ROWS <= num_rows <= MOST_ROWS:
        raise SimulationError(f"{num_rows:,} rows: expected {FEWEST_ROWS:,} to {MOST_ROWS:,}, room for every fault and every id.")
    if target.exists() and any(target.iterdir()):
        raise SimulationError(f"{str(target)!r} is not empty: expected a new directory. Choose another, or delete it.")
    partial = target / ".partial"
    for path in (partial / "files", partial / "truth"):
        path.mkdir(parents=True, mode=0o700)
    state, make = LAYOUTS[layout]
    counties = people.counties_of(state)
    drawn = people.draw(num_rows, counties, seed)
    tables = make(drawn, counties)
    voters, is_copy, is_touched = faults.with_copies(tables[0], seed)
    drafts = [planting.voters(voters, seed, is_copy, is_touched)]
    voted = pa.array(drawn.voted.astype(np.int8))
    if len(tables) > 1:
        longer, is_copy, is_touched = faults.with_copies(tables[1], seed)
        is_known = np.zeros(num_rows, bool)
        has_id = drafts[0].is_row.copy()
        has_id[drafts[0].where(voters.roles.id, "")] = False
        is_known[voters.person[has_id]] = True
        draft, has_vote, is_unclear = planting.history(longer, seed, is_touched, is_copy, is_known)
        voted = pc.if_else(pa.array(is_unclear), None, pa.array(has_vote.astype(np.int8)))
        drafts.append(draft)
    for draft in drafts:
        _write(draft, partial / "files")
    planted: dict[str, object] = {"schema_version": SCHEMA_VERSION, "layout": layout, "election": ELECTION.isoformat(), "seed": seed, "date_form": voters.roles.date_form}
    planted |= _counts(drafts)
    storage.publish_json(str(partial / "truth" / "planted.json"), planted)
    clean = _clean(drafts[0], voted)
    pq.write_table(clean, partial / "truth" / "clean.parquet", compression="zstd")
    written = sorted((partial / "files").iterdir())
    num_faults = sum(n for draft in drafts for (_, rule, _), n in draft.counts.items() if rule not in NO_FAULTS)
    made = DirtyFiles(
        str(target), voters.num_rows, len(clean), num_faults, len(written),
        sum(path.stat().st_size for path in written)
    )  # fmt: skip
    for path in partial.glob("*/*"):
        path.chmod(0o600)
    for name in ("files", "truth"):
        os.replace(partial / name, target / name)
    shutil.rmtree(partial)
    return made


def _write(draft: Draft, directory: Path) -> None:
    table = draft.table
    edges = np.searchsorted(table.file_of_row, np.arange(len(table.files) + 1))
    is_cut = {file for file, rule, _ in draft.counts if rule == "file:cut"}
    for name, start, stop in zip(table.files, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        columns = [draft.written.get(column, "") for column in table.names]
        here = [column if isinstance(column, str) else column[start:stop] for column in columns]
        if table.form is None:
            _write_parquet(directory / name, table, here)
            continue
        changes = {row - start: change for row, change in draft.changes.items() if start <= row < stop}
        lines.write(directory / name, table.names, here, table.form, changes, num_rows=stop - start, cut_last_line=name in is_cut)


def _write_parquet(path: Path, table: Table, columns: list[lines.Column]) -> None:
    num_rows = max(len(column) for column in columns if not isinstance(column, str))
    arrays = []
    for name, column in zip(table.names, columns, strict=True):
        array = pa.repeat(pa.scalar(column), num_rows) if isinstance(column, str) else column
        if name in (table.roles.birth, table.roles.registered):
            array = pc.if_else(pc.equal(array, ""), None, array).cast(pa.date32())
        elif name == "g2024":
            array = array.cast(pa.int8())
        arrays.append(array)
    pq.write_table(pa.table(arrays, names=list(table.names)), path)


def _counts(drafts: list[Draft]) -> dict[str, list[dict[str, object]]]:
    files: list[dict[str, object]] = []
    counts: list[dict[str, object]] = []
    for draft in drafts:
        table = draft.table
        every, kept = (np.bincount(table.file_of_row[rows], minlength=len(table.files)) for rows in (slice(None), draft.is_kept))
        counted: Ints = every - kept
        for file, rows_in, rows_out, rows_quarantined in zip(table.files, every.tolist(), kept.tolist(), counted.tolist(), strict=True):
            files.append({"file": file, "role": table.kind, "rows_in": rows_in, "rows_out": rows_out, "rows_quarantined": rows_quarantined})
            if table.form is not None and table.form.line_end == "\r\n\r\n":  # a blank line after each, but one that is cut
                draft.counts[file, "lines:blank", ""] += rows_in + 1 - draft.counts[file, "file:cut", ""]
        counts += [
            {"file": file, "role": table.kind, "rule": rule, "source": column or None, "count": count}
            for (file, rule, column), count in sorted(draft.counts.items()) if count
        ]  # fmt: skip
    return {"files": files, "counts": counts}


def _clean(draft: Draft, voted: pa.Array) -> pa.Table:
    roles = draft.table.roles
    kept: Mask = draft.is_kept
    names = dict.fromkeys([*roles.codes, *roles.markers, roles.birth, roles.registered, *roles.kept])
    rows = pa.array(np.flatnonzero(kept))
    columns = {"id": draft.truth[roles.id].take(rows), "voted": voted.take(pa.array(draft.table.person[kept]))}  # type: ignore[union-attr]
    for name in names:
        column = draft.truth.get(name, "")
        columns[name] = pa.repeat(pa.scalar(column), len(rows)) if isinstance(column, str) else column.take(rows)
    return pa.table({name: column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for name, column in columns.items()})
