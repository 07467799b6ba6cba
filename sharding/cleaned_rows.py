"""The folder of a run with rows of persons while ingest reads raw files (`sharding/layouts/`), and the end of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sharding import storage

CLEANED = "cleaned"


def remove(directory: str) -> None:
    """Remove the cleaned rows of the run in ``directory``, if there are any; they are only ever on a local disk."""
    if storage.is_local(directory):
        storage.remove(storage.join(directory, CLEANED))


@contextmanager
def removed_on_failure(directory: str) -> Iterator[None]:
    """Remove them if the block fails, also if it fails before it reads any: a run that was killed may have left some."""
    try:
        yield
    except Exception:
        remove(directory)
        raise
