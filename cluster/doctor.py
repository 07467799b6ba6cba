"""What is wrong with this machine: every finding says what was found and, if it is bad, what to do."""

import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cluster import plan, run_directory, threads

MIN_MEMORY_BYTES = 2 * 2**30
MIN_TEMPORARY_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``do`` is empty where nothing has to be done. ``is_bad`` stops runs, the rest does not."""

    what: str
    found: str
    do: str = ""
    is_bad: bool = False

    def __str__(self) -> str:
        mark = "bad " if self.is_bad else "note" if self.do else "good"
        return f"{mark}  {self.what}: {self.found}" + (f". {self.do}" if self.do else "")


def examine() -> list[Finding]:
    """Look at Python, packages, cores, threads, memory, disk and Ray's token."""
    return [*_versions(), _cores(), _threads(), _memory(), _temporary_space(), *_token(), _xla_flags()]


def _versions() -> Iterator[Finding]:
    found = run_directory.versions()
    python = found.pop("python")
    is_old = sys.version_info < (3, 11)
    yield Finding("Python", python, "Use 3.11 or newer." if is_old else "", is_bad=is_old)
    yield Finding("packages", ", ".join(f"{name} {version}" for name, version in found.items()))
    try:
        yield Finding("Ray", metadata.version("ray"))
    except metadata.PackageNotFoundError:
        yield Finding("Ray", "not installed", "Runs are serial; `pip install 'caucus-bayes[ray]'` runs shards in parallel.")


def _cores() -> Finding:
    usable, there = threads.usable_cores(), os.cpu_count() or 1
    return Finding("cores", f"{usable} usable of {there} ({platform.machine()})")


def _threads() -> Finding:
    import numpy  # noqa: F401  # loads the BLAS that is asked about
    import threadpoolctl

    pools = [f"{pool['internal_api']} {pool['num_threads']}" for pool in threadpoolctl.threadpool_info()]
    is_one = all(pool["num_threads"] == 1 for pool in threadpoolctl.threadpool_info())
    do = "" if is_one else "Results may differ in their last bits from those of another machine."
    return Finding("threads per process", ", ".join(pools) or "no BLAS pool", do)


def _memory() -> Finding:
    available = plan.available_bytes()
    is_little = available < MIN_MEMORY_BYTES
    do = "A run needs 2 GiB and more: free some, or use a larger machine." if is_little else ""
    return Finding("memory", f"{available / 2**30:.1f} GiB available", do, is_bad=is_little)


def _temporary_space() -> Finding:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    is_little = free < MIN_TEMPORARY_BYTES
    do = "Set TMPDIR to a larger disk: DuckDB and Ray spill there." if is_little else ""
    return Finding("temporary space", f"{free / 2**30:.1f} GiB free in {folder}", do, is_bad=is_little)


def _token() -> Iterator[Finding]:
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        mode = stat.S_IMODE(token.stat().st_mode)
        is_open = bool(mode & 0o077)
        do = f"Others on this machine can read it: chmod 600 {token}" if is_open else ""
        yield Finding("Ray's access token", f"mode {mode:04o}", do)


def _xla_flags() -> Finding:
    flags = os.environ.get("XLA_FLAGS", "")
    if not flags:
        return Finding("XLA_FLAGS", "not set")
    code = "import jax; jax.numpy.zeros(1)"
    is_bad = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=120).returncode != 0
    return Finding(
        "XLA_FLAGS", flags, "JAX does not start with these: correct or unset them." if is_bad else "", is_bad
    )
