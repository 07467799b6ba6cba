"""Rows that were left out: how many of which file and for what reason; themselves only if the config says so."""

from __future__ import annotations

from pathlib import Path

import duckdb

from sharding import storage, unreadable
from sharding.cells import CellTable
from sharding.config import DataConfig
from sharding.errors import SourceError
from sharding.privacy import Pseudonyms
from sharding.sources import Sources


def by_reason(quarantine: dict[str, int], rejects: dict[tuple[str, str], int]) -> dict[str, int]:
    """Rows by reason: those that broke the contract, and those that the reader refused, by (file, reason)."""
    counts = dict(quarantine)
    for (_, reason), count in rejects.items():
        counts[reason] = counts.get(reason, 0) + count
    return counts


def by_file(
    cells: CellTable, found: Sources, quarantine: dict[str, int], rejects: dict[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    """Rows by (file, reason); counted in the files only where there are several.

    Raises
    ------
    SourceError
        They are not as many as before.
    """
    if len(found.files) == 1 or not quarantine:
        return {(found.files[0].url, reason): count for reason, count in quarantine.items()} | rejects
    counts = cells.quarantined_by_file()
    totals: dict[str, int] = {}
    for (_, reason), count in counts.items():
        totals[reason] = totals.get(reason, 0) + count
    if totals != quarantine:
        raise SourceError("data.source", "files that changed during ingest", "files at rest", "Run ingest again.")
    return counts | rejects


def write(
    data: DataConfig,
    directory: str,
    cells: CellTable,
    counts: dict[tuple[str, str], int],
    scratch: Path,
    connection: duckdb.DuckDBPyConnection,
    found: Sources,
    pseudonyms: Pseudonyms | None,
) -> None:
    """Write the counts by (file, reason), and the rows themselves where that is asked for."""
    storage.remove(storage.join(directory, "quarantine"))
    listed = [{"url": url, "reason": reason, "num_rows": count} for (url, reason), count in sorted(counts.items())]
    storage.publish_json(storage.join(directory, "quarantine/counts.json"), {"schema_version": 1, "by_file": listed})
    if data.keep_quarantined_rows and counts:
        copies = {"rows.parquet": lambda path: cells.copy_quarantined(path, pseudonyms)}
        if found.is_text:
            copies["lines.parquet"] = lambda path: unreadable.copy(connection, path)
        for name, copy in copies.items():
            copy(str(scratch / name))
            storage.publish_file(scratch / name, storage.join(directory, "quarantine", name))
        if pseudonyms is not None:
            ids = {"schema_version": 1, "column": data.id_column, "method": data.privacy.id_method,
                   "key_fingerprint": pseudonyms.fingerprint}  # fmt: skip
            storage.publish_json(storage.join(directory, "quarantine/ids.json"), ids)
