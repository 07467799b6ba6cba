"""What a target of the fuzzer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharding.errors import ShardingError

CANARY = "Zyxwoniar"
"""In rows of every good file; it must be in no message."""


class SilentLossError(Exception):
    """Rows in are not rows out and quarantined: what the fuzzer looks for. Not an error that a reader may raise."""


@dataclass(frozen=True)
class Target:
    """``good`` makes a file's bytes; ``read`` reads the file in an empty directory and returns what became of its rows."""

    name: str
    file_name: str
    good: Callable[[np.random.Generator], bytes]
    read: Callable[[Path, Path], dict[str, int]]
    pack: Callable[[bytes], bytes] = bytes
    """What is done to the bytes after they were damaged."""
    is_damaged: bool = True
    """Whether bytes are damaged at all; the contents may be odd enough."""
    refusals: tuple[type[Exception], ...] = (ShardingError,)
