"""Every fault of a cluster, while a run of 51 shards works, and the bytes that come out: ``python -m benchmarks.faults [NAME ...]``.

Each fault is planted in a run of its own, which is started again where the fault ended it. What has to come out are the bytes of
an undisturbed run: sites, posterior, summary, estimates. Prints the table of docs/faults.md.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import ray_clusters
from benchmarks.ray_clusters import Node
from sharding import simulate, storage

CONFIG = """\
name: nation
data: {source: "../voters/*.parquet", outcome: voted, terms_of_use: synthetic}
model:
  formula: voted ~ 1 + female + dem_share + (1 | state) + (1 | race) + (1 | race:age)
  family: bernoulli
shards: {by: state, min_cells: 1}
fit: {rounds: 3, draws: 100}
audit: {draws: 100, max_extra_rounds: 0}
poststratify: {by: [all, state, "race:age"]}
run: {directory: run, seed: 1}
"""
NUMBERS = ("posterior.nc", "summary.parquet", "dictionary.json", "shards", "sites", "estimates")
SLOW = 0.25
WITHIN = 600.0
QUICK_TO_NOTICE = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000",
                   "RAY_health_check_failure_threshold": "4"}  # fmt: skip


@dataclass
class Result:
    """One row of the table: faults planted, commands that were started, and files that differ from an undisturbed run."""

    fault: str
    planted: int
    commands: int
    lost: list[str]
    note: str
    seconds: float


@dataclass
class Trial:
    """One run with faults in it: its folder, its settings, and what it said."""

    folder: Path
    directory: str
    faults: dict[str, object] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    commands: int = 0
    said: str = ""

    def start(self, **faults: object) -> subprocess.Popen[str]:
        """Start the command."""
        self.commands += 1
        planted = {"log": str(self.folder / "planted"), "slow": SLOW, **self.faults, **faults}
        settings = [part for s in [f"run.directory={self.directory}", *self.settings] for part in ("--set", s)]
        command = [sys.executable, "-m", "benchmarks.fault_driver", json.dumps(planted), "run", str(self.folder / "run.yaml")]
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray_clusters.TOKEN,
                       "RAY_raylet_start_wait_time_s": "180", **self.env}  # fmt: skip
        environment.pop("RAY_ADDRESS", None)
        said = open(self.folder / "said", "a")  # noqa: SIM115  # the command's
        process = subprocess.Popen(
            [*command, *settings], env=environment, cwd=ray_clusters.ROOT, stdout=said, stderr=said, text=True
        )
        said.close()
        return process

    def sites(self, round_number: int) -> int:
        """How many sites of a round are there."""
        return sum(f".round-{round_number:02d}" in name for name in storage.names_below(self.directory, "sites"))

    def wait_for(self, happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
        """Poll until it has happened while the command works."""
        deadline = time.monotonic() + WITHIN
        while not happened():
            assert process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)

    def end(self, process: subprocess.Popen[str]) -> int:
        """Wait for the command, and return its exit code."""
        try:
            return process.wait(WITHIN)
        finally:
            process.kill()

    def finish(self) -> None:
        """Run it, to a good end."""
        assert self.end(self.start()) == 0, self.text()

    def text(self) -> str:
        """What all commands said."""
        return (self.folder / "said").read_text()

    def planted(self) -> list[str]:
        """What the driver and the tasks planted."""
        log = self.folder / "planted"
        return log.read_text().split("\n")[:-1] if log.exists() else []


def numbers(directory: str) -> dict[str, str]:
    """The sha256 of every file that holds numbers; those left out hold seconds and dates as well."""
    names = [name for owned in NUMBERS for name in storage.names_below(directory, owned)]
    kept = [name for name in names if not name.endswith(".json") or name == "dictionary.json"]
    return {name: storage.sha256_file(storage.join(directory, name)) for name in kept}


@contextmanager
def cluster(trial: Trial, **env: str) -> Iterator[tuple[Node, Node]]:
    """A cluster of two machines for the trial, one core each."""
    env = {**QUICK_TO_NOTICE, **env}
    with ray_clusters.head(1, env, jobs=False) as head, ray_clusters.worker(head, 1, env) as other:
        trial.settings = [f"run.executor={head.address}"]
        yield head, other


def workers(node: Node) -> list[int]:
    """Process ids of the workers of a machine that run a task."""
    return [p.pid for p in node.processes("ray::_run")]


# ---- the faults: each plants its own, runs to a good end, and says how many there were ----


def worker_killed(trial: Trial, slow: float = SLOW) -> tuple[int, str]:
    """Workers are killed while they fit; where that is not slow, several shards in a bundle."""
    trial.faults, killed = {"slow": slow}, 0
    with cluster(trial) as machines:
        process = trial.start()
        for number in (0, 1, 2):
            trial.wait_for(lambda n=number: trial.sites(n) >= 3, process)  # type: ignore[misc]
            trial.wait_for(lambda: any(workers(m) for m in machines), process)
            for pid in [pid for machine in machines for pid in workers(machine)][:1]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
        assert trial.end(process) == 0, trial.text()
    sizes = [int(size) for size in re.findall(r"worker died, task runs again.*num_tasks=(\d+)", trial.text())]
    assert slow == SLOW or max(sizes) > 1, "none was in a bundle"
    return killed, f"{sum(sizes)} tasks ran again"


def machine_killed(trial: Trial, *, gently: bool = False) -> tuple[int, str]:
    """A machine is lost with its raylet and workers; ``gently``: it is told to stop, as a spot machine is."""
    with cluster(trial) as (_, other):
        process = trial.start()
        trial.wait_for(lambda: trial.sites(1) >= 5 and workers(other), process)
        other.process.terminate() if gently else other.kill()
        assert trial.end(process) == 0, trial.text()
    return 1, f"ran again on the other machine: {trial.text().count('worker died, task runs again')}"


def no_machine(trial: Trial) -> tuple[int, str]:
    """The cluster has a head and no machine for tasks, until one comes."""
    with ray_clusters.head(0, QUICK_TO_NOTICE, jobs=False) as head:
        trial.settings = [f"run.executor={head.address}"]
        process = trial.start()
        trial.wait_for(lambda: "waiting for machines: 0 cores" in trial.text(), process)
        with ray_clusters.worker(head, 1, QUICK_TO_NOTICE):
            assert trial.end(process) == 0, trial.text()
    return 1, "said so, and went on when one came"


def head_killed(trial: Trial, merge: float = 0.0) -> tuple[int, str]:
    """The head is lost, and with it the cluster; a new one goes on. With ``merge``: while the driver merges so many seconds and asks for nothing."""
    with cluster(trial) as (head, _):
        process = trial.start(merge=merge)
        trial.wait_for(lambda: "merge begins" in trial.planted() if merge else trial.sites(1) >= 5, process)
        head.kill()
        assert trial.end(process) == 4, trial.text()
    with cluster(trial):
        trial.finish()
    return 1, ("the driver merged to its end, then ended" if merge else "the driver ended") + " with 4; a new cluster went on"


def client_dropped(trial: Trial) -> tuple[int, str]:
    """By ray://, from outside of the cluster: a worker is killed, then the server of the connection."""
    with cluster(trial) as (head, other):
        trial.settings = [f"run.executor={head.client}"]
        process = trial.start()
        trial.wait_for(lambda: trial.sites(0) >= 3 and workers(head) + workers(other), process)
        os.kill((workers(head) + workers(other))[0], signal.SIGKILL)
        trial.wait_for(lambda: trial.sites(1) >= 5, process)
        head.signal(signal.SIGKILL, "ray.util.client.server")
        since = time.monotonic()
        code = trial.end(process)
        waited = time.monotonic() - since
    with cluster(trial) as (head, _):
        trial.settings = [f"run.executor={head.client}"]
        trial.finish()
    again = trial.text().count("worker died, task runs again")
    return 2, f"{again} task ran again; without its connection the driver ended with {code} after {waited:.0f} s, and went on by a new one"


def driver_killed(trial: Trial) -> tuple[int, str]:
    """The driver is killed three times, in another round each."""
    with cluster(trial):
        for number in (0, 1, 2):
            process = trial.start()
            trial.wait_for(lambda n=number: trial.sites(n) >= 5, process)  # type: ignore[misc]
            process.kill()
            process.wait()
        trial.finish()
    return 3, "run again, three times"


def memory_out(trial: Trial) -> tuple[int, str]:
    """One shard takes all the memory; Ray kills its worker."""
    import psutil

    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + (3 << 29)) / memory.total
    with cluster(trial, RAY_memory_usage_threshold=f"{threshold:.3f}", RAY_memory_monitor_refresh_ms="200"):
        code = trial.end(trial.start(memory="OH"))
        if code:  # other programs of this machine grew meanwhile: the run says so, and goes on
            assert code in (2, 4), trial.text()
            trial.finish()
    times = trial.text().count("memory ran out, task runs again with more")
    assert times >= 1, trial.text()
    return times, f"first exit code {code}"


def storage_fails(trial: Trial) -> tuple[int, str]:
    """5% of the calls to S3 fail: 503, no answer, an answer that is lost after the write took effect."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        env = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "testing",
               "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
        os.environ.update(env)
        storage.resolve("s3://runs")[0].mkdir("runs")
        trial.directory, trial.settings = "s3://runs/nation", ["run.executor=ray", "run.workers=2"]
        trial.faults = {"storage": 0.05, "slow": 0.0}
        trial.finish()
        manifest = storage.read_json("s3://runs/nation/manifest.json")
        retried = sum(stage["retries"].get("storage", 0) for stage in manifest["stages"].values())
        local = trial.folder / "run"
        for name in numbers(trial.directory):
            storage.copy(storage.join(trial.directory, name), storage.join(str(local), name))
        trial.directory = str(local)
    finally:
        server.stop()
    kinds = trial.planted()
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return len(kinds), f"{counts}; {retried} operations tried again, the rest by s3fs itself"


def disk_full(trial: Trial) -> tuple[int, str]:
    """The disk is full in the middle of the fit, and then is not."""
    disk = trial.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=True)
    try:
        trial.directory, trial.settings = str(disk / "run"), ["run.executor=ray", "run.workers=2"]
        process = trial.start()
        trial.wait_for(lambda: trial.sites(0) >= 20, process)
        with suppress(OSError), open(disk / "ballast", "wb", buffering=0) as ballast:
            while ballast.write(bytes(1 << 12)):  # until there is no space
                pass
        code = trial.end(process)
        assert code == 4, trial.text()
        assert "No space left on device" in trial.text()
        (disk / "ballast").unlink()
        trial.finish()
        local = trial.folder / "run"
        for name in numbers(trial.directory):
            storage.copy(storage.join(trial.directory, name), storage.join(str(local), name))
        trial.directory = str(local)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return 1, f"exit code {code}, run again"


def cut_off(trial: Trial) -> tuple[int, str]:
    """A machine is silent for 30 s, is given up, comes back and writes what it had in hand."""
    with cluster(trial) as (_, other):
        process = trial.start()
        trial.wait_for(lambda: trial.sites(0) >= 5 and workers(other), process)
        other.signal(signal.SIGSTOP)
        began = time.monotonic()
        while time.monotonic() - began < 30.0 and process.poll() is None:
            time.sleep(0.1)
        had = len(trial.planted())
        other.signal(signal.SIGCONT)
        time.sleep(5.0)  # for who is late
        late = trial.planted()[had:].count("late write")
        assert trial.end(process) == 0, trial.text()
    again = trial.text().count("worker died, task runs again") + trial.text().count("runs a second time")
    assert again, trial.text()
    assert late, trial.planted()
    return 1, f"ran again elsewhere: {again}; late writes that met a site: {late}"


def twice(trial: Trial) -> tuple[int, str]:
    """Every task runs two times at once, and both write."""
    with cluster(trial):
        trial.faults = {"twice": True, "slow": 0.1}  # too long for the two to come one after the other in a bundle
        trial.finish()
    planted = trial.planted()
    assert "late write" in planted, planted
    return planted.count("twice"), f"the first commit counts; late writes that met a site: {planted.count('late write')}"


def clocks_differ(trial: Trial) -> tuple[int, str]:
    """The clocks of driver and workers are off by a day, each in its own direction."""
    with cluster(trial):
        trial.faults = {"skew": 86_400.0}
        trial.finish()
    return len(trial.planted()), "processes with a wrong clock"


FAULTS: dict[str, tuple[str, Callable[[Trial], tuple[int, str]]]] = {
    "worker": ("worker SIGKILL", worker_killed),
    "bundle": ("worker SIGKILL, in a bundle of short tasks", partial(worker_killed, slow=0.01)),
    "machine": ("raylet and its machine killed", machine_killed),
    "leaves": ("a machine leaves mid-run, told by SIGTERM", partial(machine_killed, gently=True)),
    "none": ("no machine for tasks, until one comes", no_machine),
    "head": ("head killed, new cluster", head_killed),
    "merge": ("head killed while the driver merges for 90 s, new cluster", partial(head_killed, merge=90.0)),
    "client": ("by `ray://`: worker SIGKILL, then the connection dropped", client_dropped),
    "driver": ("driver SIGKILL", driver_killed),
    "memory": ("a shard runs out of memory", memory_out),
    "storage": ("5% of storage calls fail (503, timeouts, lost answers)", storage_fails),
    "disk": ("full disk", disk_full),
    "cut-off": ("machine cut off for 30 s, comes back and writes late", cut_off),
    "twice": ("every task completes twice, at once", twice),
    "clocks": ("clocks a day apart", clocks_differ),
}


def nation(folder: Path) -> dict[str, str]:
    """Simulate a nation of 51 states, run it undisturbed, and return its numbers."""
    simulate.simulate(str(folder), num_rows=6_000, seed=1, num_answers=1_000)
    trial = new_trial(folder, "undisturbed")
    trial.settings, trial.faults = ["run.executor=serial"], {"slow": 0.0}
    trial.finish()
    return numbers(trial.directory)


def new_trial(folder: Path, name: str) -> Trial:
    """A run of the nation that has not begun."""
    own = folder / name
    own.mkdir()
    (own / "run.yaml").write_text(CONFIG)
    return Trial(own, str(own / "run"))


def try_fault(folder: Path, name: str, expected: dict[str, str]) -> Result:
    """Run one fault to its good end, and compare."""
    told, plant = FAULTS[name]
    trial, began = new_trial(folder, name), time.monotonic()
    planted, note = plant(trial)
    found = numbers(trial.directory)
    lost = sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))
    return Result(told, planted, trial.commands, lost, note, time.monotonic() - began)


def main() -> None:
    """Run the faults that are named, or all, and print the table."""
    names = sys.argv[1:] or list(FAULTS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="caucus-faults-")))
        expected = nation(folder)
        print(f"{len(expected)} files with numbers in an undisturbed run\n")
        print("| Fault | Planted | Commands | Results lost | Seconds | |\n|---|---:|---:|---:|---:|---|", flush=True)
        results = []
        for name in names:
            r = try_fault(folder, name, expected)
            results.append(r)
            print(f"| {r.fault} | {r.planted} | {r.commands} | {len(r.lost)} | {r.seconds:.0f} | {r.note} |", flush=True)
    if any(r.lost for r in results):
        raise SystemExit(f"files that differ: {[(r.fault, r.lost) for r in results if r.lost]}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its clusters end with it
    main()
