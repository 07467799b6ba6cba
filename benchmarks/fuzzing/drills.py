"""Readers with a fault on purpose, to see that the fuzzer finds it."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def answer(name: str, data: bytes, directory: Path) -> tuple[str, str]:
    """Die or never return, by ``name``; else read well."""
    if name == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    while name == "hang":
        signal.pause()
    return "ingested", ""
