"""A disk that is full, at many points of a run, and the bytes that come out: ``python -m benchmarks.full_disk [POINTS]``.

A disk (tmpfs, which needs root) has so many bytes, or so many files, less than the run needs, from none to one less, evenly; and a process may write files
up to a size (RLIMIT_FSIZE), which is another error of every write. So every stage and every file is met. The run has to end with 4 and a message, leave
nothing half-written, and end in the bytes of an undisturbed run once there is room. Prints the table of docs/faults.md.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import numbers
from sharding import simulate

CONFIG = """\
name: small
data: {source: "FOLDER/voters/*.parquet", outcome: voted, terms_of_use: synthetic}
model:
  formula: voted ~ 1 + female + (1 | state) + (1 | race)
  family: bernoulli
shards: {by: race, min_cells: 1}
fit: {rounds: 3, draws: 100, min_ess: 100}
audit: {draws: 100, max_extra_rounds: 0}
poststratify: {by: [all, state, race]}
run: {directory: FOLDER/run, seed: 1, executor: serial}
"""
PAGE = resource.getpagesize()
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    said: str


@dataclass(frozen=True)
class Point:
    """One trial: how much there was, in the stage that met the end of it; what is wrong with how it went, empty if nothing."""

    limit: int
    stage: str
    wrong: str


def command(config: Path, limit_bytes: int | None = None) -> Ended:
    """``caucus run`` in a fork of this process, which may write no file of more than ``limit_bytes``."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # the child runs one command
        warnings.simplefilter("ignore", RuntimeWarning)
        child = os.fork()
    if child == 0:
        _become(config, limit_bytes, writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as said:
        text = said.read()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text)


def _become(config: Path, limit_bytes: int | None, said: int) -> None:
    code = 70
    try:
        os.dup2(said, 1), os.dup2(said, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        from cluster import cli

        sys.argv = ["caucus", "run", str(config)]
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


def prepared(folder: Path, name: str) -> Path:
    """Write the config of a run in ``folder/name``; the voters are those of all runs."""
    if not (folder / "voters").exists():
        simulate.simulate(str(folder), num_rows=3_000, seed=1, num_answers=100)
    own = folder / name
    own.mkdir()
    config = own / "run.yaml"
    config.write_text(CONFIG.replace("FOLDER/voters", f"{folder}/voters").replace("FOLDER", str(own)))
    return config


def judged(full: Ended, run: Path, config: Path, expected: dict[str, str], make_room: Callable[[], None]) -> str:
    """What is wrong with how a run on a full disk ended, in words; then with the run that has room."""
    if full.code not in (0, 4):
        return f"ended with {full.code}: {full.said[-600:]}"
    if full.code == 4 and "caucus: " not in full.said:
        return f"no message: {full.said[-300:]}"
    left = [str(found) for found in run.rglob("*") if found.name.startswith(".") and found.name not in (".lock", ".scratch-ingest")]
    if left:
        return f"left {left}"
    make_room()
    again = command(config)
    if again.code != 0:
        return f"run again it ended with {again.code}: {again.said[-600:]}"
    found = numbers(str(run))
    differ = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    return f"differ: {differ}" if differ else ""


def stage_of(ended: Ended) -> str:
    """The stage that a run that did not finish was in."""
    begun = [line.partition(":")[0].split()[-1] for line in ended.said.splitlines() if ": starts (" in line]
    return "none: it ended well" if ended.code == 0 else begun[-1] if begun else "before the first"


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory at ``folder``, which may be mounted again with more."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def limited_size(folder: Path, limit: int, expected: dict[str, str]) -> Point:
    """No file of more than ``limit`` bytes."""
    config = prepared(folder, f"size-{limit}")
    ended = command(config, limit)
    return Point(limit, stage_of(ended), judged(ended, config.parent / "run", config, expected, lambda: None))


def limited_disk(folder: Path, limit: int, expected: dict[str, str], option: str) -> Point:
    """A disk of ``limit`` bytes (``option`` size) or files (nr_inodes)."""
    config = prepared(folder, f"{option}-{limit}")
    run = config.parent / "run"
    enough = f"size={MAX_BYTES},nr_inodes=10000"
    with disk(run, f"{enough},{option}={limit}"):
        ended = command(config)
        remount = ["mount", "-o", f"remount,{enough}", str(run)]
        wrong = judged(ended, run, config, expected, lambda: subprocess.run(remount, check=True) and None)
        return Point(limit, stage_of(ended), wrong)


def evenly(most: int, count: int) -> list[int]:
    """``count`` whole numbers from 1 to ``most``, evenly."""
    return sorted({1 + round(i * (most - 1) / max(1, count - 1)) for i in range(count)})


def undisturbed(folder: Path) -> dict[str, str]:
    """The numbers of a run on a disk with room."""
    config = prepared(folder, "undisturbed")
    ended = command(config)
    assert ended.code == 0, ended.said
    return numbers(str(config.parent / "run"))


def sweep_sizes(folder: Path, count: int, expected: dict[str, str]) -> list[Point]:
    """Limits on the size of a file, up to the size of the largest: half evenly, half evenly through the files by their size."""
    sizes = sorted(found.stat().st_size for found in (folder / "undisturbed" / "run").rglob("*") if found.is_file())
    middle = [size - 1 for size in (sizes[place - 1] for place in evenly(len(sizes), count // 2)) if size]
    limits = {*evenly(sizes[-1] - 1, count - count // 2), *middle}
    return [limited_size(folder, limit, expected) for limit in sorted(limits)]


def sweep_disks(folder: Path, count: int, expected: dict[str, str]) -> dict[str, list[Point]]:
    """Disks of fewer bytes, and of fewer files, than the run has in the end."""
    every = list((folder / "undisturbed" / "run").rglob("*"))
    pages = sum(-(-found.stat().st_size // PAGE) for found in every if found.is_file())
    by_bytes = [limited_disk(folder, limit * PAGE, expected, "size") for limit in evenly(pages, count - count // 3)]
    by_files = [limited_disk(folder, limit + 1, expected, "nr_inodes") for limit in evenly(len(every), count // 3)]
    return {"disk of so many bytes": by_bytes, "disk of so many files": by_files}


def main() -> None:
    """Try the points of each kind, print a line for each kind and what went wrong."""
    import duckdb  # noqa: F401  # before the forks, so that each has it already
    import h5netcdf  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory(prefix="caucus-full-") as name:
        folder = Path(name)
        expected = undisturbed(folder)
        kinds = {**sweep_disks(folder, count, expected), "files up to a size": sweep_sizes(folder, count // 2, expected)}
    print("| What there is | Points | Met in | Signals, other codes, files lost or other |\n|---|---:|---|---:|")
    for kind, points in kinds.items():
        stages = ", ".join(f"{stage} {number}" for stage, number in Counter(point.stage for point in points).items())
        print(f"| {kind} | {len(points)} | {stages} | {sum(bool(point.wrong) for point in points)} |")
    wrong = [f"{kind} {point.limit}, {point.stage}: {point.wrong}" for kind, points in kinds.items() for point in points if point.wrong]
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
