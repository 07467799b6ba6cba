"""What is said to a person, wherever that goes: to a terminal, a file, a pipe, a full disk, or nowhere.

Texts have names in them that come from configs and data. So what is written shows no control character as itself (a terminal obeys
them) and no secret of a URL.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from sharding import credentials

_STANDARD = (0, 1, 2)
_STDERR = 2
_PLAIN = "\n\t"


def safe(text: str) -> str:
    r"""Return ``text`` to be shown: ``\x1b`` for a control character, and the like for what changes the direction of writing."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in _PLAIN else c.encode("unicode_escape").decode() for c in text)
    return credentials.hide(text)


class Guarded:
    """A text stream that shows texts `safe`. One of messages (``is_optional``) that cannot be written to any more is given up."""

    def __init__(self, stream: TextIO, *, is_optional: bool):
        self.stream, self._is_optional = stream, is_optional

    def write(self, text: str) -> int:
        """Write ``text``; returns its length."""
        self._attempt(lambda: self.stream.write(safe(text)))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._attempt(self.stream.flush)

    def _attempt(self, write: Any) -> None:
        try:
            write()
        except OSError:
            if not self._is_optional:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)  # a full disk, a terminal that is gone: there is nobody to tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Guard stdout and stderr of a command, and open those that its parent closed.

    A descriptor below 3 that is closed would be given to the next file that is opened, and messages be written into that file.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    with contextlib.ExitStack() as stack:
        for name, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
            stream = getattr(sys, name) or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect(Guarded(stream, is_optional=name == "stderr")))
        yield
