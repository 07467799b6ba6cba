"""A file to write that knows the checksum of what it was given."""

from __future__ import annotations

import hashlib
from typing import Protocol, cast


class ByteSink(Protocol):
    """What a writer of bytes needs; :class:`HashingFile` and open files are such."""

    def write(self, data: bytes, /) -> int: ...


class HashingFile:
    """A write-only file that knows the sha256 and the number of the bytes that went through it."""

    def __init__(self, target: ByteSink):
        self._target = target
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Pass ``data`` (bytes or a buffer) on and count it."""
        view = memoryview(data).cast("B")
        self._sha256.update(view)
        self._target.write(cast(bytes, view))
        self.num_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back, so there is nothing to flush."""

    def tell(self) -> int:
        """Number of bytes written."""
        return self.num_bytes

    def close(self) -> None:
        """Accept no more; the target belongs to whoever opened it."""
        self.closed = True

    def readable(self) -> bool:
        """Never."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Never."""
        return False

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of everything written so far."""
        return self._sha256.hexdigest()
