"""Tasks on Ray: the only file of the executors that imports it.

A task is a Ray core task of one CPU and, on a cluster, the memory that the plan projects. Ray is told not to retry: a task whose
worker died is submitted again from here, so that the attempts are counted. What is tried again, and how often:

* a worker or its machine died: `MAX_ATTEMPTS` times in all;
* memory ran out: once more, with twice the memory asked for (Ray itself would repeat these without end);
* the function's error passes by itself (`sharding.retrying`): as for a death. Any other error is the task's outcome.

A task that takes far longer than all others is submitted a second time, and the first that finishes counts: a machine can
be cut off and nobody notices for a while, and even when Ray knows that a machine is gone, it waits for what that had in hand until
the connection breaks. Both attempts can write; what they write is one file, and the first commit counts.
"""

import logging
import math
import os
import pickle
import re
import secrets
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RaySystemError,
    WorkerCrashedError,
)

from cluster.errors import (
    ClusterError,
    ClusterTooSmallError,
    ClusterUnreachableError,
    CodeMissingError,
    ShardTooLargeError,
    TaskError,
    TokenRefusedError,
    WorkerDiedError,
)
from cluster.execution import Outcome, Ran, run_task
from cluster.threads import ENVIRONMENT

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
MAX_MEMORY_ATTEMPTS = 2
DEATHS = (WorkerCrashedError, NodeDiedError, LocalRayletDiedError, ObjectLostError)
LOOK_SECONDS = 5.0
"""How long to wait for a task before looking for stragglers, and for machines that are too small."""
STRAGGLER_SECONDS, STRAGGLER_FACTOR = 30.0, 3.0
"""A task is a straggler after this time, if that is also this many times what the longest finished one took."""
MACHINE_SECONDS = 600.0
"""How long to wait for a machine that is large enough: an autoscaler needs minutes."""
HEAD_SECONDS = 40.0
"""How long a cluster's head may be silent."""
PATIENCE = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(12 * 3600)}
"""Or Ray itself ends this process after 60 s without a head, with code 1 and without a word, also while it merges and needs none."""
PACKAGES = ("cluster", "fitting", "reporting", "sharding")


@dataclass
class _Submitted:
    """One task under way: how often it was tried, what it asks for, and when it was last submitted."""

    task: Any
    memory_bytes: int
    attempt: int = 1
    memory_attempt: int = 1
    since: float = 0.0
    refs: list[ray.ObjectRef] = field(default_factory=list)


class RayExecutor:
    """Runs tasks on a Ray started here (``address="local"``) or on a running one (``ray://host:port``, ``host:port``, ``auto``).

    Parameters
    ----------
    workers
        Number of CPUs given to a Ray started here; a running cluster keeps its own size.
    task_gpus
        GPUs that every task asks a running cluster for.
    ship_code
        Whether to send this package to the running cluster; otherwise its machines have it installed.
    """

    def __init__(self, *, address: str, workers: int, task_gpus: float = 0.0, ship_code: bool = False):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # each is an outcome, or was told by the one before it
        self._address, self._workers, self._is_ours = address, workers, address == "local"
        os.environ |= _token(os.environ, Path(os.path.expanduser("~"))) if self._is_ours else PATIENCE
        if ":" in address and _refuses(address):
            raise TokenRefusedError(address)
        umask = os.umask(0o077)  # sockets, logs and the access token are for this user only
        environment = ENVIRONMENT | ({"JAX_PLATFORMS": ""} if task_gpus else {})  # whatever JAX finds, also where images say cpu
        folder = Path(__file__).resolve().parent.parent
        code = {"py_modules": [str(folder / package) for package in PACKAGES]} if ship_code else {}
        try:
            with warnings.catch_warnings():
                # Ray's processes are forks that exec at once, so JAX's threads, if there are any, are not missed in them.
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                warnings.filterwarnings("ignore", "Ray Client connection timed out", UserWarning)  # it is raised, too
                _start(
                    tries=2 if self._is_ours or address.startswith("ray://") else 1,
                    address=address,
                    runtime_env={"env_vars": environment} if self._is_ours else code,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    num_cpus=workers if self._is_ours else None,
                    include_dashboard=False if self._is_ours else None,
                )
        except Exception as error:  # Ray raises a bare Exception too
            raise self._unusable(error) from error
        finally:
            os.umask(umask)
        # of a job on a cluster the environment is the tasks', since that of the whole job may be set only once
        of_task: dict[str, Any] = {} if self._is_ours else {"runtime_env": {"env_vars": environment}, "num_gpus": task_gpus}
        self._remote = ray.remote(num_cpus=1, max_retries=0, **of_task)(_run)
        self._head = None if self._is_ours or address.startswith("ray://") else _head()
        self._looked = self._lost_at = -math.inf  # when the cluster was looked at, and a machine was missed
        self._nodes: list[dict[str, Any]] = []
        self.straggler_seconds = None if self._is_ours else STRAGGLER_SECONDS  # None: none is looked for

    def map_unordered(
        self, fn: Callable[[Any], Any], tasks: Iterable[Any], *, max_in_flight: int | None = None, memory_bytes: int = 0
    ) -> Iterator[Outcome]:
        """See `cluster.execution.Executor.map_unordered`.

        Raises
        ------
        ClusterTooSmallError
            No machine has the memory for one task, and none came.
        CodeMissingError
            Its machines do not have this package.
        ClusterUnreachableError
            The cluster is gone.
        """
        assert max_in_flight is None or max_in_flight >= 1
        running: dict[ray.ObjectRef, _Submitted] = {}
        try:
            yield from self._map(fn, iter(tasks), running, max_in_flight, 0 if self._is_ours else memory_bytes)
        except (ConnectionError, RaySystemError, ModuleNotFoundError) as error:
            running.clear()
            raise self._unusable(error) from error
        finally:
            try:
                for unfinished in running if ray.is_initialized() else ():
                    ray.cancel(unfinished, force=False)
            except ConnectionError as error:  # by ray://, whose loss can first look like a task's failure
                raise self._unusable(error) from error

    def close(self) -> None:
        """Leave the cluster, and stop it if it was started here."""
        ray.shutdown()

    def _map(
        self, fn: Callable[[Any], Any], waiting: Iterator[Any], running: dict[ray.ObjectRef, _Submitted],
        max_in_flight: int | None, memory_bytes: int,
    ) -> Iterator[Outcome]:  # fmt: skip
        longest, fitting_since, has_more = 0.0, time.monotonic(), True
        while True:
            if self._look_again():
                self._repeat_stragglers(fn, running, longest, has_more)
            while has_more and len(running) < (max_in_flight or self._enough()):
                try:
                    submitted = _Submitted(next(waiting), memory_bytes)
                except StopIteration:
                    has_more = False
                    break
                try:
                    self._submit(fn, submitted, running)
                except (TypeError, pickle.PicklingError) as refused:
                    yield Outcome(submitted.task, None, TaskError(type(refused).__name__, str(refused)), 0.0, 1)
            if not running:
                return
            finished = ray.wait(list(running), num_returns=1, timeout=LOOK_SECONDS)[0]
            if not finished:
                fitting_since = self._require_machines(memory_bytes, fitting_since)
            for ref in finished:
                if ref not in running:
                    continue  # the other attempt finished in the same moment
                submitted = running.pop(ref)
                submitted.refs.remove(ref)
                outcome = self._outcome(ref, submitted)
                if outcome is not None:
                    longest = max(longest, outcome.seconds)
                    for other in submitted.refs:
                        del running[other]
                        ray.cancel(other, force=False)
                    yield outcome
                elif not submitted.refs:  # no other attempt is under way
                    self._submit(fn, submitted, running)

    def _submit(
        self, fn: Callable[[Any], Any], submitted: _Submitted, running: dict[ray.ObjectRef, _Submitted], **options: Any
    ) -> None:
        if submitted.memory_bytes:
            options["memory"] = submitted.memory_bytes
        ref = self._remote.options(**options).remote(fn, submitted.task)
        submitted.since = time.monotonic()
        submitted.refs.append(ref)
        running[ref] = submitted

    def _enough(self) -> int:
        """Tasks in flight that keep every core busy; a cluster that grows gets more of them."""
        cores = self._workers if self._is_ours else sum(int(machine.get("CPU", 0)) for machine in self._machines())
        return 2 * max(1, cores)

    def _look_again(self) -> bool:
        """Whether it was time to look for the head and at the machines.

        Raises
        ------
        ConnectionError
            The head takes no connection for a while. It is asked first: without one, Ray's own questions are never answered.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._require_head()
        before, self._nodes, self._looked = self._nodes, ray.nodes(), time.monotonic()
        if before and sum(not node["Alive"] for node in self._nodes) > sum(not node["Alive"] for node in before):
            self._lost_at = self._looked
        return True

    def _machines(self) -> list[dict[str, Any]]:
        """What the machines that are there have, as when they were last looked at."""
        return [node["Resources"] for node in self._nodes if node["Alive"]]

    def _largest_bytes(self) -> int:
        """The most memory for tasks that a machine has."""
        return max((int(machine.get("memory", 0)) for machine in self._machines()), default=0)

    def _repeat_stragglers(
        self, fn: Callable[[Any], Any], running: dict[ray.ObjectRef, _Submitted], longest: float, has_more: bool
    ) -> None:
        """Submit once more what takes far longer than all others, and what was under way when a machine was lost."""
        if self.straggler_seconds is None:
            return
        usual = math.inf if has_more else max(self.straggler_seconds, STRAGGLER_FACTOR * longest)
        for submitted in list(running.values()):
            limit = longest if submitted.since < self._lost_at else usual
            if len(submitted.refs) == 1 and time.monotonic() - submitted.since > limit:
                log.warning("task takes long, runs a second time", extra={"seconds": round(limit)})
                self._submit(fn, submitted, running, scheduling_strategy="SPREAD")

    def _unusable(self, error: Exception) -> ClusterError:
        """What a failure of Ray means to a person: what it says itself begins with its process, or ends in a traceback."""
        missing = re.search(rf"No module named '(({'|'.join(PACKAGES)})[.\w]*)'", str(error))
        if missing and not self._is_ours:
            return CodeMissingError(self._address, missing[1])
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
        if reason.startswith("Client is shutting down"):  # so Ray calls a connection of ray:// that is lost
            reason = "the connection was lost, and did not come back"
        return ClusterUnreachableError(self._address, reason)

    def _require_head(self) -> None:
        """Raises ``ConnectionError`` where the head of a running cluster takes no connection for a while."""
        since = time.monotonic()
        while self._head is not None:
            try:
                socket.create_connection(self._head, timeout=LOOK_SECONDS).close()
                return
            except OSError as error:
                if time.monotonic() - since > HEAD_SECONDS:
                    raise ConnectionError(f"its head takes no connection for {HEAD_SECONDS:.0f} s") from error
            time.sleep(1.0)

    def _require_machines(self, memory_bytes: int, fitting_since: float) -> float:
        """When a machine was last seen that is large enough for a task; raises where that is too long ago."""
        largest = 0 if self._is_ours or not memory_bytes else self._largest_bytes()
        if largest >= memory_bytes or self._is_ours:
            return time.monotonic()
        waited = time.monotonic() - fitting_since
        if waited > MACHINE_SECONDS:
            raise ClusterTooSmallError(memory_bytes, largest, waited)
        log.warning("no machine is large enough for a task", extra={"needed": memory_bytes, "largest": largest})
        return fitting_since

    def _outcome(self, finished: ray.ObjectRef, submitted: _Submitted) -> Outcome | None:
        """Return the outcome of a finished task, None where it is to be tried again."""
        task, attempt = submitted.task, submitted.attempt
        try:
            ran, trace = ray.get(finished)
        except OutOfMemoryError:
            log.warning("memory ran out, task runs again with more", extra={"attempt": attempt})
            submitted.attempt += 1
            submitted.memory_attempt += 1
            if submitted.memory_attempt > MAX_MEMORY_ATTEMPTS:
                return Outcome(task, None, ShardTooLargeError(attempt, submitted.memory_bytes), 0.0, attempt)
            submitted.memory_bytes = min(2 * submitted.memory_bytes, max(submitted.memory_bytes, self._largest_bytes()))
            return None
        except DEATHS as death:
            if attempt < MAX_ATTEMPTS:
                log.warning("worker died, task runs again", extra={"attempt": attempt})
                submitted.attempt += 1
                return None
            return Outcome(task, None, WorkerDiedError(attempt, type(death).__name__), 0.0, attempt)
        except (ConnectionError, RaySystemError):
            raise
        except Exception as failure:  # the value could not be pickled, or not be read back
            return Outcome(task, None, TaskError(type(failure).__name__, str(failure)), 0.0, attempt)
        if ran.is_transient and attempt < MAX_ATTEMPTS:
            log.warning("error passes by itself, task runs again", extra={"error": type(ran.error).__name__})
            submitted.attempt += 1
            return None
        if ran.error is not None:
            ran.error.add_note(f"In the worker:\n{trace}")
        return Outcome(task, ran.value, ran.error, ran.seconds, attempt, ran.storage_retries)


def _head() -> tuple[str, int]:
    """Host and port of the head of the cluster that this process is connected to."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)


def _token(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return what gives a Ray of our own its token where it cannot keep one in the home folder, as in a read-only image."""
    is_given = any(environment.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    folder = home / ".ray"
    has_place = (folder / "auth_token").is_file() or os.access(folder if folder.exists() else home, os.W_OK)
    if is_given or has_place or environment.get("RAY_AUTH_MODE", "token") != "token":
        return {}
    return {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _refuses(address: str) -> bool:
    """Whether the head says that it was shown no token, or a wrong one. Ray itself only says, after 20 s, that it could not connect."""
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import gcs_service_pb2_grpc, ray_client_pb2_grpc

        gcs: Any = import_module("ray.core.generated.gcs_service_pb2")  # made when they are imported: nothing to check
        client: Any = import_module("ray.core.generated.ray_client_pb2")
    except ImportError:  # of another version of Ray: it stays at what Ray says
        return False
    with init_grpc_channel(address.removeprefix("ray://"), asynchronous=False) as channel:
        try:
            if address.startswith("ray://"):
                ping = client.ClusterInfoRequest(type=client.ClusterInfoType.PING)
                ray_client_pb2_grpc.RayletDriverStub(channel).ClusterInfo(ping, timeout=LOOK_SECONDS)
            else:
                ask = gcs.CheckAliveRequest()
                gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).CheckAlive(ask, timeout=LOOK_SECONDS)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def _start(tries: int, **settings: Any) -> None:
    """Call `ray.init`; a Ray of our own that was too slow to start, as on a busy machine, is started once more.

    So is the server that a head starts for a driver by ``ray://``, which fails now and then (psutil.ZombieProcess, Ray 2.60).
    """
    was_running = ray.is_initialized()
    for tries_left in reversed(range(tries)):
        try:
            ray.init(**settings)
            return
        except Exception as error:  # Ray raises a bare Exception then
            if was_running:
                raise
            ray.shutdown()  # what did start
            if not tries_left or (settings["address"] != "local" and "Initialization failure" not in str(error)):
                raise
            log.warning("Ray did not start, starting it again", extra={"reason": str(error).partition("\n")[0]})


def _run(fn: Callable[[Any], Any], task: Any) -> tuple[Ran, str]:
    """In the worker: run the task and make sure that its error can cross to the driver."""
    ran = run_task(fn, task)
    if ran.error is None:
        return ran, ""
    error, trace = ran.error, "".join(traceback.format_exception(ran.error))
    try:
        error = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes, just written
    except Exception:
        error = TaskError(type(error).__name__, str(error))
    return ran._replace(error=error), trace
