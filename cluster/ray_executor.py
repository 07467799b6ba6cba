"""Tasks on Ray: the only file that imports it.

A task is a Ray core task of one CPU. Ray is told not to retry: a task whose worker died is submitted again from here,
so that the attempts are counted, memory kills included (Ray would repeat those without end). Errors of the function
itself are results, and are not retried.
"""

import logging
import os
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    WorkerCrashedError,
)

from cluster.errors import ClusterUnreachableError, TaskError, WorkerDiedError
from cluster.execution import Outcome, run_task
from cluster.threads import ENVIRONMENT

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
DEATHS = (WorkerCrashedError, NodeDiedError, LocalRayletDiedError, OutOfMemoryError, ObjectLostError)


class RayExecutor:
    """Runs tasks on a Ray started here (``address="local"``) or on a running one (``ray://host:port``, ``host:port``).

    ``workers`` is the number of CPUs given to a Ray started here; a running cluster keeps its own size.
    """

    def __init__(self, *, address: str, workers: int):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        is_ours, was_running = address == "local", ray.is_initialized()
        umask = os.umask(0o077)  # sockets, logs and the access token are for this user only
        try:
            with warnings.catch_warnings():
                # Ray's processes are forks that exec at once, so JAX's threads, if there are any, are not missed in them.
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                ray.init(
                    address=address,
                    runtime_env={"env_vars": ENVIRONMENT},
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    num_cpus=workers if is_ours else None,
                    include_dashboard=False if is_ours else None,
                )
        except Exception as error:  # Ray raises a bare Exception where a node is too slow to start
            if not was_running:
                ray.shutdown()  # what did start
            raise ClusterUnreachableError(address, str(error).partition("\n")[0]) from error
        finally:
            os.umask(umask)
        self._remote = ray.remote(num_cpus=1, max_retries=0)(_run)

    def map_unordered(self, fn: Callable[[Any], Any], tasks: Iterable[Any], *, max_in_flight: int) -> Iterator[Outcome]:
        """See `cluster.execution.Executor.map_unordered`."""
        assert max_in_flight >= 1
        waiting = iter(tasks)
        running: dict[ray.ObjectRef, tuple[Any, int]] = {}
        try:
            while True:
                while len(running) < max_in_flight:
                    try:
                        task = next(waiting)
                    except StopIteration:
                        break
                    try:
                        running[self._remote.remote(fn, task)] = (task, 1)
                    except (TypeError, pickle.PicklingError) as refused:
                        yield Outcome(task, None, TaskError(type(refused).__name__, str(refused)), 0.0, 1)
                if not running:
                    return
                for finished in ray.wait(list(running), num_returns=1)[0]:
                    task, attempt = running.pop(finished)
                    outcome = _outcome(finished, task, attempt)
                    if outcome is None:
                        log.warning("worker died, task runs again", extra={"attempt": attempt})
                        running[self._remote.remote(fn, task)] = (task, attempt + 1)
                    else:
                        yield outcome
        finally:
            for unfinished in running if ray.is_initialized() else ():
                ray.cancel(unfinished, force=False)

    def close(self) -> None:
        """Leave the cluster, and stop it if it was started here."""
        ray.shutdown()


def _outcome(finished: ray.ObjectRef, task: Any, attempt: int) -> Outcome | None:
    """Return the outcome of a finished task, None where its worker died and it may be tried again."""
    try:
        value, error, seconds, trace = ray.get(finished)
    except DEATHS as death:
        if attempt < MAX_ATTEMPTS:
            return None
        return Outcome(task, None, WorkerDiedError(attempt, type(death).__name__), 0.0, attempt)
    except Exception as failure:  # the value could not be pickled, or not be read back
        return Outcome(task, None, TaskError(type(failure).__name__, str(failure)), 0.0, attempt)
    if error is not None:
        error.add_note(f"In the worker:\n{trace}")
    return Outcome(task, value, error, seconds, attempt)


def _run(fn: Callable[[Any], Any], task: Any) -> tuple[Any, Exception | None, float, str]:
    """In the worker: run the task and make sure that its error can cross to the driver."""
    value, error, seconds = run_task(fn, task)
    if error is None:
        return value, None, seconds, ""
    trace = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes, just written
    except Exception:
        error = TaskError(type(error).__name__, str(error))
    return None, error, seconds, trace
