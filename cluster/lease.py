"""One driver at a time in a run directory on an object store: a lease that its holder keeps renewing.

A local run directory has a lock of the kernel, which ends with its process. An object store has none, so the driver creates
an object `.lock` that names it, with a number that it raises every few seconds. Another driver that finds the object watches
it: if the number rises, the holder is alive; if it stays for `SECONDS`, by the watcher's own clock, the holder is dead and
the lease is taken over, by the next object: `.lock-1`, `.lock-2`. The highest one counts, and only who created it writes it. No clock is
compared with another machine's, so skewed clocks do no harm. A holder that was cut off, and comes back after its lease was taken over, finds a
higher one and stops before it writes the manifest.

Of several drivers that create the same object one succeeds, by a conditional put (`storage.create_bytes`): that is promised on S3, Google Cloud
Storage and Azure. Whether a store keeps the condition is tried each time. On one that does not, the last to write has the lease, after a pause:
two drivers that start at the same moment can then both work for some seconds, until one finds the other's name.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cluster.errors import RunDirectoryLockedError
from sharding import storage
from sharding.errors import StorageError

log = logging.getLogger(__name__)

LOCK = ".lock"
SECONDS = 30.0
"""How long a lease that is not renewed stays its holder's."""
BEATS = 4
"""How often a lease is renewed within `SECONDS`."""

_held: dict[str, Lease] = {}


class Lease:
    """A lease that this process holds."""

    def __init__(self, directory: str):
        self._directory = directory
        self._number = 0
        self._owner = uuid.uuid4().hex
        self._holder = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        self._beat = 0
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")

    def take(self) -> None:
        """Create the lease, where nobody holds it or its holder is dead, and begin to renew it.

        Raises
        ------
        RunDirectoryLockedError
            Another driver renews it, or was quicker.
        """
        dead = numbers(self._directory)
        if dead:
            self._watch(dead[-1])
            self._number = dead[-1] + 1
        url = self._url(self._number)
        if not storage.create_bytes(url, self._content()) and not self._is_mine():
            raise self._taken(self._read(self._number))
        if storage.create_bytes(url, self._content()):
            log.warning("this store does not keep conditions: see that no other driver starts now", extra={"directory": self._directory})
            time.sleep(SECONDS / BEATS / 4)  # of several that create it at once, the last to write has it
        if others := [number for number in numbers(self._directory) if number != self._number and number not in dead]:
            found = self._read(others[-1])
            self._remove([self._number])
            raise self._taken(found)
        self._require_mine()
        self._remove(dead)
        self._thread.start()

    def require(self) -> None:
        """See that the lease is still this process's.

        Raises
        ------
        RunDirectoryLockedError
            It was taken over while this process could not renew it.
        """
        with self._lock:
            self._require_mine()

    def give_back(self) -> None:
        """Stop renewing, and remove the lease if it is still this process's."""
        self._ends.set()
        self._thread.join()
        if self._is_mine():
            self._remove([self._number])

    def _remove(self, leases: Iterable[int]) -> None:
        for number in leases:
            storage.remove(self._url(number))

    def _watch(self, number: int) -> None:
        """Return when a lease was not renewed for its time."""
        found, since = self._read(number), time.monotonic()
        log.warning("another driver holds the run directory, or died: its lease is watched", extra={"seconds": SECONDS})
        while found is not None and time.monotonic() - since < SECONDS:
            time.sleep(SECONDS / BEATS / 4)
            if (now := self._read(number)) is not None and now != found:
                raise self._taken(now)
            found = now

    def _keep(self) -> None:
        while not self._ends.wait(SECONDS / BEATS):
            try:
                self._renew()
            except RunDirectoryLockedError:
                log.exception("the lease was taken over by another driver")
                return
            except Exception as error:  # the store is away: `require` asks again before anything is recorded
                log.warning("the lease could not be renewed", extra={"error": type(error).__name__})

    def _renew(self) -> None:
        with self._lock:
            self._require_mine()
            self._beat += 1
            storage.publish_bytes(self._url(self._number), self._content())

    def _content(self) -> bytes:
        return storage.canonical_json({"owner": self._owner, "holder": self._holder, "beat": self._beat})

    def _url(self, number: int) -> str:
        return storage.join(self._directory, f"{LOCK}-{number}" if number else LOCK)

    def _read(self, number: int) -> dict[str, object] | None:
        try:
            return dict(json.loads(storage.read_bytes(self._url(number))))
        except StorageError:
            return None
        except (ValueError, TypeError):
            return {"holder": "something unreadable"}

    def _is_mine(self) -> bool:
        found = self._read(self._number)
        return found is not None and found.get("owner") == self._owner

    def _require_mine(self) -> None:
        highest = max(numbers(self._directory), default=self._number)
        found = self._read(highest)
        if highest != self._number or found is None or found.get("owner") != self._owner:
            raise self._taken(found)

    def _taken(self, found: dict[str, object] | None) -> RunDirectoryLockedError:
        holder = "nobody, any more," if found is None else found.get("holder", "another driver")
        do = "Wait until it has finished, or stop it; then run again."
        return RunDirectoryLockedError(self._directory, f"{holder} is at work in it", do)


def numbers(directory: str) -> list[int]:
    """The leases that a directory has, in order; the last one counts."""
    names = storage.children(directory)
    return sorted(int(name.removeprefix(LOCK).lstrip("-") or 0) for name in names if is_lease(name))


def is_there(directory: str) -> bool:
    """Whether a directory has a lease, or a lock."""
    try:
        return bool(numbers(directory))
    except NotADirectoryError:
        return False


def is_lease(name: str) -> bool:
    """Whether an object of a run directory is a lease, or the lock of a local one."""
    return re.fullmatch(rf"{re.escape(LOCK)}(-[1-9][0-9]*)?", name, re.ASCII) is not None


@contextmanager
def held(directory: str) -> Iterator[None]:
    """Hold a run directory on an object store for this process."""
    lease = Lease(directory)
    lease.take()
    _held[directory] = lease
    try:
        yield
    finally:
        del _held[directory]
        lease.give_back()


def require(directory: str) -> None:
    """See that the lease on a directory, if this process holds one, was not taken over; `RunDirectoryLockedError` if it was."""
    if directory in _held:
        _held[directory].require()
