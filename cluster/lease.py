"""One driver at a time in a run directory on an object store: a lease that its holder keeps renewing.

A local run directory has a lock of the kernel, which ends with its process. An object store has none, so the driver writes
an object `.lock` that names it, with a number that it raises every few seconds. Another driver that finds the object watches
it: if the number rises, the holder is alive; if it stays for `SECONDS`, by the watcher's own clock, the holder is dead and
the lease is taken over. No clock is compared with another machine's, so skewed clocks do no harm. A holder that was cut
off, and comes back after its lease was taken over, finds another's name and stops before it writes the manifest.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
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
        self._directory, self._url = directory, storage.join(directory, LOCK)
        self._owner = uuid.uuid4().hex
        self._holder = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        self._beat = 0
        self._renewed = 0.0
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")

    def take(self) -> None:
        """Write the lease, where nobody holds it or its holder is dead, and begin to renew it.

        Raises
        ------
        RunDirectoryLockedError
            Another driver renews it.
        """
        if not storage.create_bytes(self._url, self._content()) and not self._is_mine():
            self._watch()
            storage.publish_bytes(self._url, self._content())
            time.sleep(SECONDS / BEATS / 4)  # of several that take over at once, the last to write has it
            self._require_mine()
        self._renewed = time.monotonic()
        self._thread.start()

    def require(self) -> None:
        """See that the lease is still this process's.

        Raises
        ------
        RunDirectoryLockedError
            It was taken over while this process could not renew it.
        """
        if time.monotonic() - self._renewed > SECONDS / BEATS * 2:
            self._renew()

    def give_back(self) -> None:
        """Stop renewing, and remove the lease if it is still this process's."""
        self._ends.set()
        self._thread.join()
        if self._is_mine():
            storage.remove(self._url)

    def _watch(self) -> None:
        """Return when the lease was not renewed for its time."""
        found, since = self._read(), time.monotonic()
        log.warning("another driver holds the run directory, or died: its lease is watched", extra={"seconds": SECONDS})
        while found is not None and time.monotonic() - since < SECONDS:
            time.sleep(SECONDS / BEATS / 4)
            if (now := self._read()) is not None and now != found:
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
            storage.publish_bytes(self._url, self._content())
            self._renewed = time.monotonic()

    def _content(self) -> bytes:
        return storage.canonical_json({"owner": self._owner, "holder": self._holder, "beat": self._beat})

    def _read(self) -> dict[str, object] | None:
        try:
            return dict(json.loads(storage.read_bytes(self._url)))
        except StorageError:
            return None
        except (ValueError, TypeError):
            return {"holder": "something unreadable"}

    def _is_mine(self) -> bool:
        found = self._read()
        return found is not None and found.get("owner") == self._owner

    def _require_mine(self) -> None:
        found = self._read()
        if found is None or found.get("owner") != self._owner:
            raise self._taken(found or {"holder": "nobody"})

    def _taken(self, found: dict[str, object]) -> RunDirectoryLockedError:
        do = "Wait until it has finished, or stop it; then run again."
        return RunDirectoryLockedError(self._directory, f"{found.get('holder', 'another driver')} is at work in it", do)


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
