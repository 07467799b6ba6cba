"""The whole line as a person uses it: a folder with a config and files, the command, what it said, what it left."""

import contextlib
import hashlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import cli

CONFIG = """\
name: small
data: {source: "voters/*", outcome: voted, terms_of_use: synthetic}
model:
  formula: voted ~ 1 + female + share + (1 | state) + (1 | race)
  family: bernoulli
shards: {by: state, min_cells: 1}
fit: {draws: 100, min_ess: 100}
audit: {draws: 100}
poststratify: {by: [all, state, race]}
publish: {min_count: 1}
run: {directory: run, seed: 1, executor: serial}
"""
NATION = """\
name: nation
data: {source: "../voters/*.parquet", outcome: voted, terms_of_use: synthetic}
model:
  formula: voted ~ 1 + female + dem_share + (1 | state) + (1 | race) + (1 | race:age)
  family: bernoulli
shards: {by: state, min_cells: 1}
fit: {rounds: 3, draws: 100, min_ess: 100}
audit: {draws: 100, max_extra_rounds: 0}
poststratify: {by: [all, state, "race:age"]}
run: {directory: run, seed: 1, executor: serial}
"""
STATES, RACES = ("AL", "AK", "OH", "WY"), ("Black", "Other", "White")


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """What stderr tells of the error; what was said before it is progress."""
        progress, found, told = ("\n" + self.err).partition("\ncaucus: ")
        assert found, f"no error was told: {progress}"
        return told

    @property
    def redone(self) -> list[str]:
        """The stages that ran to their end, in order."""
        return [line.partition(":")[0] for line in self.err.splitlines() if ": done in " in line]


def caucus(*arguments: str | os.PathLike[str]) -> Said:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["caucus", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def started(
    *arguments: str | os.PathLike[str], script: str = "from cluster.cli import main; main()"
) -> subprocess.Popen[str]:
    """Start the command, or a ``script`` that ends in it, as a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str], *, within: float = 120.0) -> Said:
    """Wait for a started command."""
    try:
        out, err = process.communicate(timeout=within)
    finally:
        process.kill()
    return Said(process.returncode, out, err)


def voters(num_rows: int = 400, seed: int = 1) -> dict[str, Any]:
    """Columns of a small file: text, 0/1, a number, and an outcome that depends on them."""
    rng = np.random.default_rng(seed)
    state, race = rng.integers(0, len(STATES), num_rows), rng.integers(0, len(RACES), num_rows)
    female, share = rng.integers(0, 2, num_rows), np.round(rng.normal(0.5, 0.1, len(STATES)), 3)[state]
    logit = 0.4 * female + 0.5 * (state - 1.5) + 0.3 * (race - 1.0)
    return {
        "voter_id": [f"V{i:06d}" for i in range(num_rows)],
        "state": np.array(STATES)[state].tolist(),
        "race": np.array(RACES)[race].tolist(),
        "female": female.tolist(),
        "share": share.tolist(),
        "voted": (rng.random(num_rows) < 1 / (1 + np.exp(-logit))).astype(int).tolist(),
    }


def write_voters(folder: Path, columns: dict[str, Any]) -> None:
    """Write ``voters/part-0.parquet``."""
    (folder / "voters").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "voters" / "part-0.parquet")


def make(folder: Path, columns: dict[str, Any] | None = None, config: str = CONFIG) -> Path:
    """Write ``voters/part-0.parquet`` and ``run.yaml``; return the config's path."""
    write_voters(folder, columns or voters())
    (folder / "run.yaml").write_text(config)
    return folder / "run.yaml"


def sha256(file: Path) -> str:
    """The hash of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of writing of every file: equal where nobody wrote the file again."""
    return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in sorted(folder.iterdir()) if f.is_file()}


def half_written(folder: Path) -> list[str]:
    """What an interrupted writer left in a run directory."""
    found = [f for f in folder.rglob("*") if f.name.startswith(".") or f.suffix in (".partial", ".tmp", ".wal")]
    return sorted(str(f.relative_to(folder)) for f in found if f.name != ".lock")
