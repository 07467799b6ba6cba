"""One case after the other, each in a forked process with limits on memory and time: what came of it."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from inputs import CONFIG, MARKER, SECRET, Case, voters

MEMORY_BYTES = 3 << 30
"""Address space beyond what Python and its libraries have taken."""
CPU_SECONDS = 60
WALL_SECONDS = 240


class Result(NamedTuple):
    """Exit code (negative: the signal), what was said, seconds, and what is wrong with that; empty if nothing is."""

    case: Case
    code: int
    said: str
    seconds: float
    peak_bytes: int
    wrong: str


@contextlib.contextmanager
def prepared() -> Iterator[Path]:
    """Give a folder with a finished run, for cases to copy."""
    base = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        voters(base)
        (base / "run.yaml").write_text(CONFIG.replace("voters/*", f"{base}/voters/*"))  # so a copy is the same run
        code, said, _ = _forked(["run", str(base / "run.yaml")], base)
        assert code == 0, said
        yield base
    finally:
        shutil.rmtree(base)


def run(case: Case, base: Path) -> Result:
    """Prepare a case in a folder of its own, run it, and judge."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-case-"))
    try:
        shutil.copytree(base, folder, dirs_exist_ok=True, copy_function=shutil.copy2, ignore=_without_run(case))
        if not case.needs_run:
            (folder / "run.yaml").write_text(CONFIG)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(folder / "fifo")
        arguments = case.prepare(folder)
        outside = (folder / "outside").read_bytes() if (folder / "outside").exists() else None
        begun = time.monotonic()
        code, said, peak = _forked(arguments, folder)
        seconds = time.monotonic() - begun
        wrong = judge(case, code, said, folder, outside)
        return Result(case, code, said, seconds, peak, wrong)
    finally:
        shutil.rmtree(folder)


def _without_run(case: Case):  # type: ignore[no-untyped-def]
    return shutil.ignore_patterns("fifo") if case.needs_run else shutil.ignore_patterns("run", "fifo")


def judge(case: Case, code: int, said: str, folder: Path, outside: bytes | None) -> str:
    """Return what is wrong with the end of a case, in words; empty if nothing is."""
    if (folder / MARKER).exists() or Path(MARKER).exists():
        return "code was executed"
    if code < 0:
        return f"ended by signal {-code}"
    if "Traceback" in said or code == 1:
        return "a fault of ours"
    if SECRET in said or "root:x:" in said:
        return "what a file holds was told"
    if outside is not None and (folder / "outside").read_bytes() != outside:
        return "a file outside was changed"
    if case.is_refused and code not in (2, 4):
        return f"was not refused (exit code {code})"
    return "" if not case.is_refused or "caucus: " in said or "Error" in said or "sage:" in said else "no message"


def _forked(arguments: Sequence[str], folder: Path) -> tuple[int, str, int]:
    """Run the command in a fork of this process; return the code, what it said, and its largest resident size."""
    out = folder / ".said"
    with warnings.catch_warnings():  # the child runs one command and needs no thread of JAX, if this process has it
        warnings.simplefilter("ignore", RuntimeWarning)
        pid = os.fork()
    if pid == 0:
        _become(arguments, out, folder)
    deadline = time.monotonic() + WALL_SECONDS
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            break
        time.sleep(0.02)
    said = out.read_text(errors="replace") if out.exists() else ""
    return os.waitstatus_to_exitcode(status), said, usage.ru_maxrss * 1024


def _become(arguments: Sequence[str], out: Path, folder: Path) -> None:
    code = 70
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0), os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        os.environ |= {"SECRET_CANARY": SECRET, "HOME": str(folder)}
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from cluster import cli

        sys.argv = ["caucus", *arguments]
        cli.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
