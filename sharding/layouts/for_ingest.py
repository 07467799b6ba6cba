"""What ingest takes where `data.layout` is said: the clean file in place of the raw ones, and what became of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharding import cleaned_rows, equal_files, storage
from sharding.config import DataConfig
from sharding.errors import ContractError, SourceError
from sharding.layouts import cleaning, library
from sharding.layouts.cleaning import Cleaned
from sharding.layouts.dirt import DIRT
from sharding.layouts.read import VOTED


@dataclass(frozen=True)
class Upstream:
    """The raw files: their entries for the manifest, and their rows that were left out, by (file, reason)."""

    sources: list[dict[str, Any]]
    quarantined: dict[tuple[str, str], int]

    def check_unchanged(self) -> None:
        """Raise :class:`SourceError` if a file was written while it was read."""
        for source in self.sources:
            if storage.fingerprint(source["url"])["fingerprint"] != source["fingerprint"]:
                raise SourceError(
                    "data.source", "files that changed during ingest", "files at rest", "Run ingest again."
                )


def declared_kinds(data: DataConfig, columns: Sequence[str]) -> dict[str, str]:
    """Return what kind of personal data ``columns`` are, by the layout, of those that are any."""
    if data.layout is None:
        return {}
    layout = library.load(data.layout)
    return {name: kind for name in columns if (kind := layout.kind_of(name)) is not None}


@contextmanager
def cleaned(
    data: DataConfig, columns: Sequence[str], directory: str, scratch: Path, progress: Callable[[str, int, int], None]
) -> Iterator[tuple[DataConfig, Upstream | None]]:
    """Give the data as ingest reads them: as they are without a layout, and the clean file with one.

    ``columns`` are the columns that ingest needs. The clean file goes when the block ends, unless `data.keep_cleaned`, or the
    process is killed: then what is whole of it is used again. What a run with a layout left goes when there is none any more.
    """
    if data.layout is None:
        storage.remove(storage.join(directory, DIRT))
        cleaned_rows.remove(directory)
        yield data, None
        return
    if VOTED in columns and data.election is None:
        raise ContractError(
            "data.outcome", f"{VOTED!r} without an election", "the day of the election", "Set data.election: YYYY-MM-DD."
        )  # fmt: skip
    if data.keep_cleaned and not storage.is_local(directory):
        raise ContractError(
            "data.keep_cleaned", "a run directory that is not on this machine", "a local one, with permissions of its own",
            "Leave keep_cleaned out, or run in a local directory."
        )  # fmt: skip
    work = directory if storage.is_local(directory) else str(scratch)
    made = cleaning.clean(
        library.load(data.layout), data.source, directory, work=work, election=data.election,
        columns=[name for name in columns if name != VOTED], memory_limit=data.memory_limit, threads=data.threads,
        progress=progress,
    )  # fmt: skip
    rows_in = zip(made.files, made.dirt["files"], strict=True)
    if not data.allow_equal_files:
        equal_files.check(sorted({file.url for file, entry in rows_in if entry["rows_in"]}))
    yield data.model_copy(update={"source": (made.path,), "format": "parquet"}), _upstream(made)
    if data.keep_cleaned:
        cleaning.remove_parts(made)
    else:
        cleaned_rows.remove(work)


def _upstream(made: Cleaned) -> Upstream:
    rows_in: dict[str, int] = {}
    for entry, file in zip(made.dirt["files"], made.files, strict=True):
        rows_in[file.url] = rows_in.get(file.url, 0) + entry["rows_in"]
    quarantined: dict[tuple[str, str], int] = {}
    for count in made.dirt["counts"]:
        if count["role"] == "voters" and count["action"] == "quarantined":
            key = (count["file"], count["rule"])
            quarantined[key] = quarantined.get(key, 0) + count["count"]
    return Upstream([{**storage.fingerprint(url), "num_rows": count} for url, count in rows_in.items()], quarantined)
