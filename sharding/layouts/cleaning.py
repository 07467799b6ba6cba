"""Raw files of a layout -> one clean Parquet file of people, and the dirt report.

Every file is read for itself and kept until the whole is done: a run that was killed reads only the files that it had not finished.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from sharding import storage
from sharding.cleaned_rows import CLEANED
from sharding.database import connected
from sharding.errors import SourceError
from sharding.layouts import dirt, files, join, library
from sharding.layouts.files import RawFile
from sharding.layouts.read import Count, Read, Request, check, columns_of, read
from sharding.layouts.schema import Layout

VOTERS = "voters.parquet"
_READER_VERSION = 2
"""Changes with what a reader writes: what an older one left is read again."""


@dataclass(frozen=True)
class Cleaned:
    """The clean file, what `dirt.json` holds, and the raw files."""

    path: str
    dirt: dict[str, Any]
    files: tuple[RawFile, ...]


def clean(
    layout: Layout,
    sources: Sequence[str],
    directory: str,
    *,
    election: date | None = None,
    columns: Sequence[str] | None = None,
    work: str | None = None,
    memory_limit: str = "4GB",
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Cleaned:
    """Write `cleaned/voters.parquet` and `dirt.json` in ``directory``.

    Parameters
    ----------
    sources
        Paths, URLs, directories or globs.
    election
        Whose outcome is wanted, as 0/1 in the column ``voted`` (null: not known); also the day at which ages are meant, and
        after which nobody who registered, or who is too young, takes part.
    columns
        Columns of the layout, or fields of the files that it does not describe (text). Default: all that are not personal, and the id.
        Rules of values are counted for these columns, and for those that decide who takes part.
    work
        Local directory for `cleaned/`, where ``directory`` is not local.

    Raises
    ------
    ShardingError
        A file is not what the layout says, or a request that the layout cannot meet.
    """
    report = progress or (lambda stage, done, total: None)
    request = Request(layout, election, columns_of(layout, columns))
    check(request)
    found, ignored = files.find(layout, sources)
    if not request.has_vote or (layout.vote is not None and layout.vote.form != "long"):
        found = [file for file in found if file.role == "voters"]
    elif not any(file.role == "history" for file in found):
        raise SourceError(
            "data.source", f"no file of the history for the election of {election}",
            f"names such as {', '.join(layout.history.names) if layout.history else ''}", "Add it to data.source."
        )  # fmt: skip
    found.sort(key=lambda file: (file.role != "voters", file.label))
    folder = storage.local_path(storage.join(work or directory, CLEANED))
    storage.make_directory(str(folder))
    paths = [folder / f"{file.role}-{_key(request, file)}.parquet" for file in found]
    _remove_others(folder, paths)
    gave: list[Read] = []
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for done, one in enumerate(
            pool.map(lambda pair: _read_once(request, *pair), zip(found, paths, strict=True)), 1
        ):
            gave.append(one)
            report("clean", done, len(found) + 1)
    num_voters = sum(file.role == "voters" for file in found)
    with (
        connected(memory_limit, threads, folder / "spill") as connection,
        storage.publishing_path(str(folder / VOTERS)) as target,
    ):
        left_out, num_votes = join.join(connection, request, paths[:num_voters], paths[num_voters:], target)
        if num_voters < len(found) and num_votes == 0:
            rows = sum(one.rows_in for one in gave[num_voters:])
            raise SourceError(
                "data.election", f"no vote in {rows:,} rows of history of {election} by anyone in the files of voters",
                "the day of an election that is in the history", "Correct data.election, or add the file of its history."
            )  # fmt: skip
    report("clean", len(found) + 1, len(found) + 1)
    whole = [_with_counts(one, i, left_out, layout) for i, one in enumerate(gave)]
    content = dirt.report(layout, election, list(zip(found, whole, strict=True)), ignored)
    storage.publish_json(storage.join(directory, dirt.DIRT), content)
    return Cleaned(str(folder / VOTERS), content, tuple(found))


def remove_parts(made: Cleaned) -> None:
    """Remove what was kept of single files, with the ids and the rows that take no part; the clean file stays."""
    _remove_others(Path(made.path).parent, [Path(made.path)])


def _read_once(request: Request, file: RawFile, path: Path) -> Read:
    """Read a file, unless that was done before."""
    record = path.with_suffix(".json")
    if record.exists() and path.exists():
        kept = storage.read_json(str(record))
        counts = tuple(Count(**count) for count in kept["counts"])
        return Read(kept["rows_in"], kept["rows_out"], tuple(kept["encodings"]), counts)
    with storage.publishing_path(str(path)) as target:
        one = read(request, file, target)
    storage.publish_json(str(record), asdict(one))
    return one


def _key(request: Request, file: RawFile) -> str:
    election = None if request.election is None else request.election.isoformat()
    content = [_READER_VERSION, library.sha256(request.layout), election, request.columns, file.label, file.fingerprint]
    return storage.sha256_bytes(storage.canonical_json(content))[:24]


def _remove_others(folder: Path, paths: list[Path]) -> None:
    kept = {path.stem for path in paths}
    for path in [*folder.glob("*"), *folder.glob(".*.partial")]:
        if path.stem not in kept and path.is_file():
            path.unlink(missing_ok=True)


def _with_counts(one: Read, place: int, left_out: join.Counts, layout: Layout) -> Read:
    added = [
        Count(rule, layout.people.id, None, "quarantined", count)
        for (rule, at), count in sorted(left_out.items())
        if at == place
    ]
    return replace(
        one, rows_out=one.rows_out - sum(count.count for count in added), counts=(*one.counts, *added)
    )  # fmt: skip
