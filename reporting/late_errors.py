"""A file for HDF5 to write, in which no write fails: the first error is kept, and is raised when HDF5 is done with the file.

HDF5 holds what it has not written yet, and tries again to write it when a file is closed and when the process ends. After a write that failed
(a full disk, a limit on the size of files) that ends in a segmentation fault. So it is told that all is well, writes into nothing, and closes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any


class LateErrors:
    """What h5py asks of a file, over an unbuffered one; ``error`` is the first that was met."""

    def __init__(self, file: IO[bytes]):
        self._file: Any = file  # `IO` has no `readinto`
        self._place = 0
        self.error: OSError | None = None

    def raise_error(self) -> None:
        """Raise the first error, if there was one."""
        if self.error is not None:
            raise self.error

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """As of a binary file."""
        self._place = self._file.seek(place, whence)
        return self._place

    def tell(self) -> int:
        """As of a binary file."""
        return self._place

    def read(self, size: int) -> bytes:
        """The next bytes; zeros where there are none."""
        found = bytearray(size)
        self.readinto(found)
        return bytes(found)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill all of ``buffer``, with zeros where the file has ended or an error was met."""
        done = self._move_all(buffer, self._file.readinto)
        memoryview(buffer).cast("B")[done:] = bytes(len(buffer) - done)
        return len(buffer)

    def write(self, data: bytes | memoryview) -> int:
        """Write all of ``data``, or nothing after an error."""
        self._move_all(data, self._file.write)
        return len(data)

    def truncate(self, size: int) -> int:
        """Set the size of the file, unless there was an error."""
        if self.error is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Nothing is held back."""

    def _move_all(self, data: bytes | bytearray | memoryview, move: Callable[[memoryview], int]) -> int:
        """Read or write all of ``data``, which the system may do in pieces; return how much was done."""
        view, done = memoryview(data).cast("B"), 0
        if self.error is None:
            try:
                self._file.seek(self._place)
                while done < len(view) and (count := move(view[done:])):
                    done += count
            except OSError as error:
                self.error = error
        self._place += len(view)
        return done


@contextmanager
def opened(target: str | Path | IO[bytes]) -> Iterator[LateErrors]:
    """Give a new file at a path, or one that is open; when the block ends, however it does, the file's first error is raised."""
    with open(target, "w+b", buffering=0) if isinstance(target, str | Path) else nullcontext(target) as file:
        late = LateErrors(file)
        try:
            yield late
        except Exception as error:
            if late.error is not None and error is not late.error:  # what HDF5 says of zeros that it read
                raise late.error from error
            raise
        late.raise_error()
