"""Killed at ten random moments and started again each time: does the run end in the bytes of an undisturbed one?

    python -m benchmarks.kills FOLDER [--rows 20000000] [--kills 10] [--executor serial]

Simulates a nation, runs `configs/nation-turnout.yaml` undisturbed, then once more with SIGKILLs: moments are uniform over the
undisturbed run's seconds, and a start lasts from one moment to the next, counted from when the command says its first stage. Compares the
sha256 of every file that holds numbers (shards, dictionary, sites, posterior, summary, estimates). Code 3 if one differs or is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import measure
from benchmarks.problems import REPOSITORY
from benchmarks.races import CAUCUS

CONFIG = "nation-turnout"
FILES = ("posterior.nc", "summary.parquet", "dictionary.json")
FOLDERS = {"sites": ".arrow", "shards": ".parquet", "estimates": ".parquet"}


def hashes(run: Path) -> dict[str, str]:
    """Digest of every file that holds numbers; records with seconds and dates in them are left out."""
    found = [run / name for name in FILES]
    found += [path for folder, suffix in FOLDERS.items() for path in (run / folder).glob(f"*{suffix}")]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)}


def left_over(run: Path) -> list[str]:
    """Half-written files that nobody cleaned up."""
    return sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.name.startswith(".") and p.name != ".lock")


def killed_after(command: list[str], seconds: float, folder: Path) -> str | None:
    """Start, SIGKILL the driver and all it started ``seconds`` after its first stage began; the stage then, None if it had ended."""
    log = folder / "killed.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL)
    begun, stage = 0.0, ""
    while process.poll() is None:
        said = log.read_text()
        stages = [line.partition(":")[0] for line in said.splitlines() if ": starts" in line]
        begun = begun or (time.monotonic() if stages else 0.0)
        stage = stages[-1] if stages else ""
        if begun and time.monotonic() - begun >= seconds:
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for member in family:
                try:
                    member.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
            process.wait()
            return stage
        time.sleep(0.01)
    if process.returncode not in (0, 3):
        raise measure.RaceError(f"{' '.join(command)} ended with code {process.returncode}. It said:\n{log.read_text()}")
    return None


def main() -> int:
    """Run undisturbed, run disturbed, compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--executor", choices=("serial", "ray"), default="serial")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    measure.run([CAUCUS, "simulate", str(folder), "--rows", str(chosen.rows)], limit_seconds=3600.0)
    config = shutil.copy(REPOSITORY / "configs" / f"{CONFIG}.yaml", folder / f"{CONFIG}.yaml")
    command = [CAUCUS, "run", str(config), "--set", f"run.executor={chosen.executor}"]
    for name in ("undisturbed", "killed"):
        shutil.rmtree(folder / name, ignore_errors=True)
    taken = measure.run([*command, "--set", "run.directory=undisturbed"], limit_seconds=3600.0, accepted=(0, 3))
    moments = np.sort(np.random.default_rng(chosen.seed).uniform(0.0, taken.seconds, chosen.kills))
    disturbed = [*command, "--set", "run.directory=killed"]
    stages: list[str | None] = [killed_after(disturbed, wait, folder) for wait in np.diff(moments, prepend=0.0)]
    measure.run(disturbed, limit_seconds=3600.0, accepted=(0, 3))
    expected, found = hashes(folder / "undisturbed"), hashes(folder / "killed")
    differ = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    report: dict[str, Any] = {
        "rows": chosen.rows, "executor": chosen.executor, "undisturbed_seconds": round(taken.seconds, 1),
        "killed_in": stages, "kills": sum(stage is not None for stage in stages), "files_compared": len(expected),
        "differ": differ, "left_over": left_over(folder / "killed"), "machine": measure.machine(),
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    return 3 if differ or report["left_over"] or report["kills"] < chosen.kills else 0


if __name__ == "__main__":
    sys.exit(main())
