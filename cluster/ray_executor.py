"""Tasks on Ray, in bundles where they are short.

A bundle (`cluster.bundles`) is one core task of Ray, of one CPU and, on a cluster, the memory that the plan projects. The worker stops after
`BUNDLE_SECONDS` and gives back what it has not begun, so that a long task never takes others along.

Ray is told not to retry: what was under way when a worker died is submitted again from here, so that the attempts are counted. What is
tried again, and how often:

* a worker or its machine died: `MAX_ATTEMPTS` times in all;
* memory ran out: once more, with twice the memory asked for (Ray itself would repeat these without end);
* the function's error passes by itself (`sharding.retrying`): as for a death. Any other error is the task's outcome.

What fails in a bundle is tried again alone, so that one task spoils no other.

A bundle that takes far longer than all others is submitted a second time, and the first that finishes counts: a machine can
be cut off and nobody notices for a while, and even when Ray knows that a machine is gone, it waits for what that had in hand until
the connection breaks. Both attempts can write; what they write is one file, and the first commit counts.
"""

import ast
import logging
import math
import pickle
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
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

from cluster import code_version, ray_connection
from cluster.bundles import BUNDLE_SECONDS, Bundle, Pace, Waiting
from cluster.code_version import Code, OtherCode
from cluster.errors import (
    ClusterTooSmallError,
    CodeDiffersError,
    NotSharedError,
    ShardTooLargeError,
    TaskError,
    WorkerDiedError,
)
from cluster.execution import Outcome, Ran, run_task
from cluster.threads import ENVIRONMENT
from sharding import storage
from sharding.errors import StorageError

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
MAX_MEMORY_ATTEMPTS = 2
DEATHS = (WorkerCrashedError, NodeDiedError, LocalRayletDiedError, ObjectLostError)
LOOK_SECONDS = 5.0
"""How long to wait for a task before looking for stragglers, and for machines that are too small."""
STRAGGLER_SECONDS, STRAGGLER_FACTOR = 30.0, 3.0
"""A bundle is a straggler after this time, if that is also this many times what the longest finished task took."""
MACHINE_SECONDS = 600.0
"""How long to wait for a machine that is large enough: an autoscaler needs minutes."""


class RayExecutor:
    """Runs tasks on a Ray started here (``address="local"``) or on a running one (``ray://host:port``, ``host:port``, ``auto``).

    Parameters
    ----------
    workers
        Number of CPUs given to a Ray started here; a running cluster keeps its own size.
    task_gpus
        GPUs that every bundle asks a running cluster for.
    ship_code
        Whether to send this package to the running cluster; otherwise its machines have it installed.
    """

    def __init__(self, *, address: str, workers: int, task_gpus: float = 0.0, ship_code: bool = False):
        self._address, self._workers, self._is_ours = address, workers, address == ray_connection.LOCAL
        environment = ENVIRONMENT | ray_connection.INLINE | ({"JAX_PLATFORMS": ""} if task_gpus else {})  # whatever JAX finds, also where images say cpu
        ray_connection.connect(address, workers=workers, environment=environment, ship_code=ship_code)
        # of a job on a cluster the environment is the tasks', since that of the whole job may be set only once
        of_task: dict[str, Any] = {} if self._is_ours else {"runtime_env": {"env_vars": environment}, "num_gpus": task_gpus}
        self._remote = ray.remote(num_cpus=1, max_retries=0, **of_task)(_run)
        self._code = code_version.here()
        self._head = None if self._is_ours or address.startswith("ray://") else ray_connection.head()
        self._looked = self._lost_at = -math.inf  # when the cluster was looked at, and a machine was missed
        self._nodes: list[dict[str, Any]] = []
        self._paces: dict[Callable[[Any], Any], Pace] = {}  # by function, from the last time that it was mapped
        self._tell: Callable[[int], object] | None = None
        self.straggler_seconds = None if self._is_ours else STRAGGLER_SECONDS  # None: none is looked for

    def map_unordered(
        self, fn: Callable[[Any], Any], tasks: Iterable[Any], *,
        num_tasks: int | None = None, max_in_flight: int | None = None, memory_bytes: int = 0,
    ) -> Iterator[Outcome]:  # fmt: skip
        """See `cluster.execution.Executor.map_unordered`.

        Raises
        ------
        ClusterTooSmallError
            No machine has the memory for one task, and none came.
        CodeMissingError, CodeDiffersError
            Its machines do not have this package, or another version of it.
        ClusterUnreachableError
            The cluster is gone.
        """
        assert max_in_flight is None or max_in_flight >= 1
        running: dict[ray.ObjectRef, Bundle] = {}
        waiting = Waiting(tasks, num_tasks, 0 if self._is_ours else memory_bytes)
        pace = self._paces.get(fn, Pace())
        try:
            yield from self._map(fn, waiting, running, pace, max_in_flight)
            self._paces[fn] = pace.again()
        except (ConnectionError, RaySystemError, ModuleNotFoundError) as error:
            running.clear()
            raise ray_connection.unusable(self._address, error) from error
        finally:
            try:
                for unfinished in running if ray.is_initialized() else ():
                    ray.cancel(unfinished, force=False)
            except ConnectionError as error:  # by ray://, whose loss can first look like a task's failure
                raise ray_connection.unusable(self._address, error) from error

    def watch(self, tell: Callable[[int], object]) -> None:
        """See `Executor.watch`."""
        self._tell = None if self._is_ours else tell

    def close(self) -> None:
        """Leave the cluster, and stop it if it was started here."""
        ray.shutdown()

    def _map(
        self, fn: Callable[[Any], Any], waiting: Waiting, running: dict[ray.ObjectRef, Bundle], pace: Pace, max_in_flight: int | None
    ) -> Iterator[Outcome]:
        fitting_since = time.monotonic()
        while True:
            if self._look_again():
                self._repeat_stragglers(fn, running, pace.longest, has_more=not waiting.is_drained)
            yield from self._fill(fn, waiting, running, pace, max_in_flight)
            if not running:
                return
            finished = ray.wait(list(running), num_returns=1, timeout=LOOK_SECONDS)[0]
            if not finished:
                fitting_since = self._require_machines(waiting.memory_bytes, fitting_since)
            for ref in finished:
                if ref not in running:
                    continue  # the other attempt finished in the same moment
                bundle = running.pop(ref)
                bundle.refs.remove(ref)
                outcomes, unfinished, not_begun = self._outcomes(ref, bundle)
                if not outcomes and bundle.refs:  # the other attempt is under way
                    bundle.attempt += 1
                    continue
                for other in bundle.refs:
                    del running[other]
                    ray.cancel(other, force=False)
                waiting.again += unfinished
                waiting.back += not_begun
                for outcome in outcomes:
                    pace.note(outcome)
                    yield outcome

    def _fill(
        self, fn: Callable[[Any], Any], waiting: Waiting, running: dict[ray.ObjectRef, Bundle], pace: Pace, max_in_flight: int | None
    ) -> Iterator[Outcome]:
        """Submit bundles while there is room; outcomes are of tasks that cannot be sent."""
        while (room := self._room(waiting, running, pace, max_in_flight)) and (bundle := waiting.take(room)):
            try:
                self._submit(fn, bundle, running)
            except (TypeError, pickle.PicklingError) as refused:
                if len(bundle.tasks) == 1:
                    yield Outcome(bundle.tasks[0], None, TaskError(type(refused).__name__, str(refused)), 0.0, 1)
                else:
                    waiting.again += bundle.alone(bundle.tasks)

    def _room(self, waiting: Waiting, running: dict[ray.ObjectRef, Bundle], pace: Pace, max_in_flight: int | None) -> int:
        """How many tasks the next bundle may have; 0 where enough are in flight: bundles, or tasks where their number is limited."""
        enough = self._enough()
        size = min(pace.size(), waiting.fair_share(enough))
        if max_in_flight is None:
            return size if len(running) < enough else 0
        left = max_in_flight - sum(len(bundle.tasks) for bundle in running.values())
        return max(0, min(size, max(1, max_in_flight // enough), left))

    def _submit(self, fn: Callable[[Any], Any], bundle: Bundle, running: dict[ray.ObjectRef, Bundle], **options: Any) -> None:
        if bundle.memory_bytes:
            options["memory"] = bundle.memory_bytes
        ref = self._remote.options(**options).remote(fn, bundle.tasks, self._code)
        bundle.since = time.monotonic()
        bundle.refs.append(ref)
        running[ref] = bundle

    def _enough(self) -> int:
        """Bundles in flight that keep every core busy; a cluster that grows gets more of them."""
        return 2 * max(1, self._workers if self._is_ours else self._cores())

    def _cores(self) -> int:
        """Of all machines, as when they were last looked at."""
        return sum(int(machine.get("CPU", 0)) for machine in self._machines())

    def _look_again(self) -> bool:
        """Whether it was time to look for the head and at the machines.

        Raises
        ------
        ConnectionError
            The head takes no connection for a while. It is asked first.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        if self._head is not None:
            ray_connection.require_head(self._head)
        before, self._nodes, self._looked = self._nodes, ray.nodes(), time.monotonic()
        if before and sum(not node["Alive"] for node in self._nodes) > sum(not node["Alive"] for node in before):
            self._lost_at = self._looked
        if self._tell is not None:
            self._tell(self._cores())
        return True

    def _machines(self) -> list[dict[str, Any]]:
        """What the machines that are there have, as when they were last looked at."""
        return [node["Resources"] for node in self._nodes if node["Alive"]]

    def _largest_bytes(self) -> int:
        """The most memory for tasks that a machine has."""
        return max((int(machine.get("memory", 0)) for machine in self._machines()), default=0)

    def _repeat_stragglers(
        self, fn: Callable[[Any], Any], running: dict[ray.ObjectRef, Bundle], longest: float, has_more: bool
    ) -> None:
        """Submit once more what takes far longer than all others, and what was under way when a machine was lost."""
        if self.straggler_seconds is None:
            return
        usual = math.inf if has_more else max(self.straggler_seconds, STRAGGLER_FACTOR * longest)
        for bundle in list(running.values()):
            limit = longest if bundle.since < self._lost_at else usual
            if len(bundle.refs) == 1 and time.monotonic() - bundle.since > limit:
                log.warning("task takes long, runs a second time", extra={"seconds": round(limit)})
                self._submit(fn, bundle, running, scheduling_strategy="SPREAD")

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

    def _outcomes(self, finished: ray.ObjectRef, bundle: Bundle) -> tuple[list[Outcome], list[Bundle], list[Any]]:
        """Outcomes of a bundle that finished, what of it is to be tried again, and tasks that were not begun."""
        try:
            results = ray.get(finished)
        except (ConnectionError, RaySystemError):
            raise
        except Exception as failure:
            if isinstance(failure, TypeError) and "_run() takes 2 positional arguments" in str(failure):
                raise CodeDiffersError("the cluster", "of an older version", str(self._code)) from None
            return *self._outcomes_of_failure(failure, bundle), []
        if isinstance(results, OtherCode):
            raise CodeDiffersError(results.machine, str(results.code), str(self._code))
        outcomes, passing = [], []
        for task, (ran, trace) in zip(bundle.tasks, results, strict=False):
            if ran.is_transient and bundle.attempt < MAX_ATTEMPTS:
                log.warning("error passes by itself, task runs again", extra={"error": type(ran.error).__name__})
                passing.append(task)
                continue
            error = self._told(ran)
            if error is not None:
                error.add_note(f"In the worker on {ran.machine}:\n{trace}")
            outcomes.append(Outcome(task, ran.value, error, ran.seconds, bundle.attempt, ran.storage_retries))
        return outcomes, bundle.alone(passing), bundle.tasks[len(results) :]

    def _told(self, ran: Ran) -> Exception | None:
        """The error of a task; a file that is here and not on another machine is one that is not shared."""
        error = ran.error
        if self._is_ours or not isinstance(error, StorageError) or error.found != storage.NO_SUCH_FILE:
            return error
        return NotSharedError(ran.machine, error.where) if storage.exists(ast.literal_eval(error.where)) else error

    def _outcomes_of_failure(self, failure: Exception, bundle: Bundle) -> tuple[list[Outcome], list[Bundle]]:
        """Outcomes of a bundle that Ray could not finish, or what of it is to be tried again.

        Of several tasks nobody knows whose fault it is, so each is tried alone.
        """
        attempt, again = bundle.attempt, bundle.alone(bundle.tasks)
        told = {"attempt": attempt, "num_tasks": len(again)}
        error: Exception | None = None
        if isinstance(failure, OutOfMemoryError):
            how = "with more" if len(again) == 1 else "alone"
            log.warning(f"memory ran out, task runs again {how}", extra=told)
            if bundle.memory_attempt == MAX_MEMORY_ATTEMPTS:
                error = ShardTooLargeError(attempt, bundle.memory_bytes)
            elif len(again) == 1:
                again[0].memory_attempt += 1
                largest = max(bundle.memory_bytes, self._largest_bytes())
                again[0].memory_bytes = min(2 * bundle.memory_bytes, largest)
        elif isinstance(failure, DEATHS):
            if attempt == MAX_ATTEMPTS:
                error = WorkerDiedError(attempt, type(failure).__name__)
            else:
                log.warning("worker died, task runs again", extra=told)
        elif len(again) == 1:  # the value could not be pickled, or not be read back
            error = TaskError(type(failure).__name__, str(failure))
        return ([], again) if error is None else ([Outcome(task, None, error, 0.0, attempt) for task in bundle.tasks], [])


def _run(fn: Callable[[Any], Any], tasks: list[Any], code: Code) -> list[tuple[Ran, str]] | OtherCode:
    """In the worker: run tasks until their time is over. Fewer results than tasks: the others were not begun.

    A worker with other code than the driver's, ``code``, runs none.
    """
    if (other := code_version.differing(code)) is not None:
        return other
    _allow_interrupts()
    since, results = time.monotonic(), []
    for task in tasks:
        results.append(_run_one(fn, task))
        if time.monotonic() - since > BUNDLE_SECONDS:
            break
    return results


def _allow_interrupts() -> None:
    """Let Ray call off what runs here: it raises an interrupt, which is silently nothing where interrupts are ignored.

    They are where a shell script started Ray, or the run, in the background (POSIX, "Asynchronous Lists").
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _run_one(fn: Callable[[Any], Any], task: Any) -> tuple[Ran, str]:
    """Run a task and make sure that its error can cross to the driver."""
    ran = run_task(fn, task)
    if ran.error is None:
        return ran, ""
    error, trace = ran.error, "".join(traceback.format_exception(ran.error))
    try:
        error = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes, just written
    except Exception:
        error = TaskError(type(error).__name__, str(error))
    return ran._replace(error=error, machine=platform.node()), trace
