"""Source files with the same bytes: a copy beside the file, or the same one by a link or another path, whose rows would count twice.

Files of different sizes are not read. The same rows in another format, order or compression are not found; `data.id_column` with
`duplicates` finds people who come twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sharding import storage
from sharding.errors import SourceError

HEAD = 1 << 16
"""Bytes that are compared before whole files are read."""


def check(urls: Sequence[str]) -> None:
    """Refuse files with the same bytes.

    Raises
    ------
    SourceError
        Names two of them.
    """
    suspects = [list(urls)]
    for of_file in (_partition, lambda url: storage.fingerprint(url)["num_bytes"], _head, storage.sha256_file):
        suspects = [group for same in suspects for group in _alike(same, of_file)]
    if suspects:
        first, second = sorted(suspects[0])[:2]
        raise SourceError(
            "data.source", f"{sum(map(len, suspects))} files of which others have the same bytes, {first!r} and {second!r} among them",
            "every file once, or the rows count twice",
            "Remove the copies or narrow the glob; or, if the rows are meant, say `data.allow_equal_files: true`."
        )  # fmt: skip


def _alike(urls: Iterable[str], of_file: Callable[[str], Any]) -> list[list[str]]:
    groups: dict[Any, list[str]] = defaultdict(list)
    for url in urls:
        groups[of_file(url)].append(url)
    return [group for group in groups.values() if len(group) > 1]


def _partition(url: str) -> tuple[str, ...]:
    """What the path says of the rows: ``state=01``; files of two partitions may well be alike."""
    return tuple(piece for piece in url.split("/")[:-1] if "=" in piece)


def _head(url: str) -> bytes:
    with storage.opened(url) as file:
        return file.read(HEAD)
