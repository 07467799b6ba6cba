"""Ray clusters for tests and benchmarks: started on ports and in folders of their own, stopped by process id."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
TOKEN = "a-token-of-a-test-that-guards-nothing-0123456789"
"""Of every cluster here, unless its environment says otherwise; whoever talks to one sets RAY_AUTH_TOKEN."""


_HIDDEN = """\
import sys
from importlib.machinery import PathFinder


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name not in ("cluster", "fitting", "reporting", "sharding", "benchmarks"):
            return None
        found = PathFinder.find_spec(name, [place for place in sys.path if "runtime_resources" in place])
        if found is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found


sys.meta_path.insert(0, Hidden())
"""


@dataclass
class Node:
    """A machine of a cluster: the processes of one ``ray start --block``."""

    process: subprocess.Popen[bytes]
    address: str
    jobs: str = ""
    client: str = ""

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Its processes; with ``name`` those that have it in their command line."""
        try:
            every = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        found = []
        for process in every:
            try:
                if name in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def signal(self, number: signal.Signals, name: str = "") -> int:
        """Send a signal to its processes, and return to how many."""
        sent = 0
        for process in self.processes(name):
            try:
                process.send_signal(number)
                sent += 1
            except psutil.NoSuchProcess:
                continue
        return sent

    def kill(self) -> None:
        """SIGKILL all of it, as a machine that loses its power."""
        every = self.processes()
        self.process.kill()
        self.process.wait()
        for process in every:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(every, timeout=30)


def ports(count: int) -> list[int]:
    """Ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    found = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return found


@contextmanager
def head(num_cpus: int = 2, env: Mapping[str, str] | None = None, *, jobs: bool = True) -> Iterator[Node]:
    """Start a head with a job server (``jobs``) and a server of ``ray://``; it is killed when the block ends."""
    gcs, dashboard, client = ports(3)
    options = [
        "--head", f"--port={gcs}", f"--ray-client-server-port={client}", f"--include-dashboard={str(jobs).lower()}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
    ]  # fmt: skip
    with started(options, num_cpus, env) as process:
        node = Node(process, f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", f"ray://127.0.0.1:{client}")
        if jobs:
            _wait_for(process, lambda: _answers(node.jobs))
        try:
            yield node
        finally:
            node.kill()


@contextmanager
def worker(of: Node, num_cpus: int = 1, env: Mapping[str, str] | None = None) -> Iterator[Node]:
    """Add a machine to a cluster."""
    with started([f"--address={of.address}"], num_cpus, env) as process:
        node = Node(process, of.address)
        try:
            yield node
        finally:
            node.kill()


@contextmanager
def started(options: list[str], num_cpus: int, env: Mapping[str, str] | None) -> Iterator[subprocess.Popen[bytes]]:
    agent, grpc, runtime_env, metrics = ports(4)
    common = [
        "--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}", "--object-store-memory=80000000", "--disable-usage-stats",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
        f"--runtime-env-agent-port={runtime_env}", f"--metrics-export-port={metrics}", "--block",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # sockets have short paths only
        environment = {
            **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_raylet_start_wait_time_s": "180",
            "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **(env or {}),
        }  # fmt: skip
        environment.pop("RAY_ADDRESS", None)
        # a folder for each machine: sharing one, the second unpacks the code of a job over that which the first one runs
        where = f"--temp-dir={folder}"
        command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *options, where, *common]
        log = Path(folder) / "started.log"
        with open(log, "wb") as said:
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, cwd=folder)
        try:
            _wait_for(process, lambda: "Ray runtime started" in log.read_text(errors="replace"))
            yield process
        finally:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], happened: Callable[[], bool], within: float = 180.0) -> None:
    deadline = time.monotonic() + within
    while not happened():
        assert process.poll() is None, "ray start ended"
        if time.monotonic() > deadline:
            raise TimeoutError("Ray did not start")
        time.sleep(0.2)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/jobs/", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except OSError:
        return False
    return True


def without_package(folder: Path) -> dict[str, str]:
    """Environment of machines on which this package cannot be imported but from what Ray was sent, however it is installed here."""
    (folder / "sitecustomize.py").write_text(_HIDDEN)
    return {"PYTHONPATH": str(folder)}
