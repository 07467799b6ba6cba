"""Which code of this package a process has: a driver and its workers have to compute with the same.

Two releases, or two states of one checkout, can form cells, sites and draws in different ways. What they make together looks like
a result and is none, so a worker says which code it has and the driver refuses another than its own.
"""

import hashlib
import platform
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import NamedTuple

from cluster import PACKAGES

DISTRIBUTION = "caucus-bayes"
"""What this is called where packages are installed from; `caucus` is another project there."""
RESULTS = 2
"""Raised when the same config and data give other numbers than before: what an older version has made is then made again.

2: numbers are centred only where the formula spans the same; squares of Gaussian outcomes are about the cell's mean.
"""


class Code(NamedTuple):
    """The version of the distribution (empty: not installed as one), and a digest of the Python files of its packages."""

    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.version or 'without a version'} ({self.sha256[:12]})"


class OtherCode(NamedTuple):
    """What a worker answers instead of running tasks of a driver whose code it has not got."""

    machine: str
    code: Code


def version() -> str:
    """The version of this package; empty where it is not installed, as on a machine that it was sent to."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return ""


@cache
def here() -> Code:
    """The code of this process, as it is on the disk when it is first asked for."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        folder = Path(str(import_module(package).__file__)).parent  # each is in a place of its own where it was sent to a machine
        for file in sorted(folder.rglob("*.py")):
            code = file.read_bytes()
            digest.update(f"{package}/{file.relative_to(folder)}\0{len(code)}\0".encode())
            digest.update(code)
    return Code(version(), digest.hexdigest())


def differing(wanted: Code) -> OtherCode | None:
    """What to answer to a driver with the code ``wanted``; None if it is also the code of this process.

    The version is for people: code that was sent to a machine has none there, or that of what is installed beside it.
    """
    own = here()
    return None if own.sha256 == wanted.sha256 else OtherCode(platform.node(), own)
