"""Run a competitor as a child process: wall seconds, and peak memory of every process it starts.

Peak memory is the kernel's own high-water mark (`VmHWM` in `/proc/<pid>/status`), read while the processes live, so that a
short peak between two readings is not lost. Linux only.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.problems import REPOSITORY

POLL_SECONDS = 0.02


class RaceError(RuntimeError):
    """A competitor failed, or cannot be run on this machine."""


@dataclass(frozen=True)
class Measurement:
    """One child process: wall seconds, exit code, peak resident bytes by process, highest sum of resident bytes, output."""

    seconds: float
    cpu_seconds: float
    """Of the child and of all it waited for; on a busy machine it says more than the wall."""
    exit_code: int | None
    """None where the time limit ended it."""
    peak_bytes: dict[str, int]
    """By process, largest first: `name[pid]`."""
    peak_total_bytes: int
    """Largest sum, over the processes alive at one reading, of resident memory (shared pages count in each)."""
    output: str

    @property
    def peak_process_bytes(self) -> int:
        """Peak of the largest process."""
        return max(self.peak_bytes.values(), default=0)


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _high_water_bytes(pid: int) -> int | None:
    """`VmHWM` of a process; None if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    limit_seconds: float = 3600,
    accepted: Sequence[int] = (0,),
) -> Measurement:
    """Run a command to its end or to the limit, watching it and everything it starts.

    Raises
    ------
    RaceError
        The command ended with a code that is not ``accepted``; the message carries the end of its output.
    """
    peaks: dict[str, int] = {}
    peak_total = 0
    with tempfile.TemporaryFile("w+") as output:
        cpu_before = _children_cpu_seconds()
        start = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY, env={**os.environ, **(environment or {})}
        )
        root = psutil.Process(child.pid)
        exit_code: int | None = None
        while (exit_code := child.poll()) is None and time.perf_counter() - start < limit_seconds:
            processes = _family(root)
            for process, name in processes:
                if (peak := _high_water_bytes(process.pid)) is not None:
                    peaks[name] = max(peak, peaks.get(name, 0))
            peak_total = max(peak_total, sum(_resident_bytes(process) for process, _ in processes))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - start
        if exit_code is None:
            for process, _ in reversed(_family(root)):
                process.kill()
            child.wait()
        cpu_seconds = _children_cpu_seconds() - cpu_before
        output.seek(0)
        text = output.read()
    if exit_code not in (*accepted, None):
        raise RaceError(
            f"{' '.join(command[:4])} ended with code {exit_code}, expected {accepted[0]}. Its output ends:\n{text[-3000:]}"
        )
    ranked = dict(sorted(peaks.items(), key=lambda item: -item[1]))
    return Measurement(seconds, cpu_seconds, exit_code, ranked, peak_total, text)


def _family(root: psutil.Process) -> list[tuple[psutil.Process, str]]:
    """A process and all it started that are alive, with readable names."""
    family = []
    try:
        members = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in members:
        try:
            family.append((process, f"{process.name()}[{process.pid}]"))
        except psutil.NoSuchProcess:
            continue
    return family


def machine() -> dict[str, str]:
    """Describe the machine, its load, and the versions of what races on it."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    described = {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(),
        "load_average": "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
        "python": platform.python_version(),
    }
    for name in ("caucus", "numpy", "jax", "numpyro", "duckdb", "ray"):
        try:
            described[name] = version(name)
        except PackageNotFoundError:
            described[name] = "absent"
    if shutil.which("Rscript") is None:
        described["r"] = "absent"
    else:
        r = subprocess.run(["Rscript", "--version"], capture_output=True, text=True, check=False)
        described["r"] = (r.stdout + r.stderr).strip()
    return described
