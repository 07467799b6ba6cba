"""The Slurm script on stand-ins for Slurm, Ray and Caucus: what it starts, how it ends, when it asks for another turn."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "slurm" / "caucus.sbatch"
STANDS_IN = {
    "scontrol": 'echo "scontrol $*" >> "$SEEN"; [ "$1" = show ] && printf "node1\\nnode2\\n" || true',
    "getent": 'echo "10.0.0.1 STREAM node1"',
    "srun": 'echo "srun $*" >> "$SEEN"; [ -n "$RAY_AUTH_TOKEN" ] && echo "token of ${#RAY_AUTH_TOKEN}" >> "$SEEN"; exec sleep 60',
    "ray": '[ "${HEALTH:-0}" = 0 ]',
    "sleep": 'exec /bin/sleep "$([ "$1" = 2 ] && echo 0 || echo "$1")"',
    "caucus": 'until [ "$(grep -c "token of" "$SEEN")" = 2 ]; do /bin/sleep 0.05; done; echo "caucus $*" >> "$SEEN"; [ -n "${WAIT:-}" ] && exec sleep 60; exit "${CODE:-0}"',
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bin").mkdir()
    for name, body in STANDS_IN.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SEEN": str(tmp_path / "seen"), "SLURM_TMPDIR": str(tmp_path),
        "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "16",
    }  # fmt: skip


def run(environment: dict[str, str], *arguments: str, **more: str) -> tuple[int, str, str]:
    """Run the script; return its exit code, what the stand-ins saw, and stderr."""
    done = subprocess.run(
        ["bash", SCRIPT, *arguments], env=environment | more, capture_output=True, text=True, timeout=60, check=False
    )
    seen = Path(environment["SEEN"])
    return done.returncode, seen.read_text() if seen.exists() else "", done.stderr


def test_it_starts_a_cluster_and_the_run(environment: dict[str, str]):
    code, seen, _ = run(environment, "run.yaml", "--set", "fit.method=nuts")
    assert code == 0
    assert "srun --nodes=1 --ntasks=1 --nodelist=node1 ray start --head --block --port=23456 --num-cpus=15" in seen
    assert "srun --nodes=1 --ntasks=1 --exclude=node1 ray start --block --address=10.0.0.1:23456 --num-cpus=16" in seen
    assert (
        "caucus run run.yaml --set fit.method=nuts --set run.executor=10.0.0.1:23456 --set run.max_in_flight=64" in seen
    )
    assert seen.count("token of 64") == 2
    assert "requeue" not in seen


@pytest.mark.parametrize(("code", "is_requeued"), [(2, False), (3, False), (4, True), (1, False)])
def test_it_ends_as_the_run_does(environment: dict[str, str], code: int, is_requeued: bool):
    ended, seen, _ = run(environment, "run.yaml", CODE=str(code))
    assert (ended, "scontrol requeue 123456" in seen) == (code, is_requeued)


def test_it_asks_for_another_turn_only_so_often(environment: dict[str, str]):
    assert "requeue" not in run(environment, "run.yaml", CODE="4", SLURM_RESTART_COUNT="5")[1]


def test_a_cluster_that_does_not_start(environment: dict[str, str]):
    code, seen, said = run(environment, "run.yaml", HEALTH="1")
    assert (code, "scontrol requeue" in seen) == (4, True)
    assert "Ray did not start at 10.0.0.1:23456" in said


def test_out_of_time(environment: dict[str, str]):
    job = subprocess.Popen(
        ["bash", SCRIPT, "run.yaml"], env=environment | {"WAIT": "1"}, stderr=subprocess.PIPE, text=True
    )
    seen = Path(environment["SEEN"])
    while not (seen.exists() and "caucus run" in seen.read_text()):
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM
    assert "scontrol requeue 123456" in seen.read_text()
    assert "out of time; the job is queued again" in said


def test_it_says_how_it_is_used(environment: dict[str, str]):
    code, seen, said = run(environment)
    assert (code, seen) == (2, "")
    assert said.startswith("usage: sbatch")
