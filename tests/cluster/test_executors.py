"""One contract, two executors."""

import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.exceptions import OutOfMemoryError

from cluster import executors, ray_connection, ray_executor, threads
from cluster.config import RunSection
from cluster.errors import (
    ClusterTooSmallError,
    ClusterUnreachableError,
    MissingExtraError,
    NotSharedError,
    ShardTooLargeError,
    TaskError,
    WorkerDiedError,
)
from cluster.executors import Executor, SerialExecutor
from cluster.ray_executor import RayExecutor
from sharding import storage
from sharding.errors import StorageError

sys.path.insert(0, str(Path(__file__).parent))
import executor_tasks as work


class ExecutorContract:
    """What every executor owes; subclasses give the fixture `executor`."""

    def test_every_task_has_one_outcome(self, executor: Executor):
        outcomes = list(executor.map_unordered(work.square, range(7), max_in_flight=3))
        assert sorted((outcome.task, outcome.value) for outcome in outcomes) == [(i, i * i) for i in range(7)]
        assert all(outcome.error is None and outcome.attempt == 1 for outcome in outcomes)

    def test_no_tasks_no_outcomes(self, executor: Executor):
        assert list(executor.map_unordered(work.square, [], max_in_flight=1)) == []

    def test_a_failed_task_yields_its_error_and_spoils_no_other(self, executor: Executor):
        outcomes = {o.task: o for o in executor.map_unordered(work.fail_on_odd, range(4), max_in_flight=2)}
        assert [outcomes[i].value for i in (0, 2)] == [0, 2]
        assert all(type(outcomes[i].error) is work.PlainError and outcomes[i].value is None for i in (1, 3))
        assert str(outcomes[3].error) == "task 3 is odd"
        assert all(outcome.attempt == 1 for outcome in outcomes.values()), "errors of the function are not retried"

    def test_an_error_that_cannot_travel_is_still_an_outcome(self, executor: Executor):
        (outcome,) = executor.map_unordered(work.fail_stubbornly, [5], max_in_flight=1)
        assert isinstance(outcome.error, work.StubbornError | TaskError)
        assert "5 and 5" in str(outcome.error)

    def test_seconds_are_those_of_the_function(self, executor: Executor):
        outcomes = list(executor.map_unordered(work.sleep, [0.2, 0.0], max_in_flight=2))
        seconds = {outcome.task: outcome.seconds for outcome in outcomes}
        assert 0.2 <= seconds[0.2] < 2
        assert seconds[0.0] < 0.2

    def test_tasks_are_read_lazily(self, executor: Executor):
        taken = []

        def tasks() -> Iterator[int]:
            for i in range(20):
                taken.append(i)
                yield i

        outcomes = executor.map_unordered(work.square, tasks(), max_in_flight=2)
        next(iter(outcomes))
        assert len(taken) <= 3
        assert len(list(outcomes)) == 19

    def test_the_consumer_may_stop_early(self, executor: Executor):
        outcomes = executor.map_unordered(work.square, range(10), max_in_flight=4)
        next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
        assert len(list(executor.map_unordered(work.square, range(3), max_in_flight=2))) == 3

    def test_the_same_bytes_as_a_single_threaded_process(self, executor: Executor, reference_digest: str):
        outcomes = executor.map_unordered(work.factor, [1, 1], max_in_flight=2)
        assert {outcome.value for outcome in outcomes} == {reference_digest}


@pytest.fixture(scope="module")
def reference_digest() -> str:
    """Digest from a fresh process on one thread."""
    code = "import executor_tasks; print(executor_tasks.factor(1))"
    env = {**os.environ, **threads.ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class TestSerialExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        executor = SerialExecutor()
        yield executor
        executor.close()
        executor.close()

    def test_interrupts_are_not_outcomes(self, executor: Executor):
        def interrupt(task: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(executor.map_unordered(interrupt, [1], max_in_flight=1))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import the tasks by name, as they do real ones
        executor = executors.make(RunSection(directory="unused", executor="ray", workers=2))
    yield executor
    executor.close()
    executor.close()


def wait_for_free_workers() -> None:
    """Until no task of a test before is left; one that was called off ends in a moment."""
    deadline = time.monotonic() + 60
    while ray_executor.ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.ray
class TestRayExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, local_ray: Executor) -> Executor:
        return local_ray

    def test_no_more_in_flight_than_asked(self, executor: Executor, tmp_path: Path):
        alone, together = [(str(tmp_path), 0.05)] * 6, [(str(tmp_path), 0.2)] * 4
        assert [o.value for o in executor.map_unordered(work.note_running, alone, max_in_flight=1)] == [1] * 6
        most = 0
        for _ in range(20):  # the second worker may have to be started first
            most = max(most, *(o.value for o in executor.map_unordered(work.note_running, together, max_in_flight=2)))
            if most >= 2:
                break
        assert most == 2

    def test_a_machine_without_the_shared_folder_is_named(self, executor: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        (outcome,) = executor.map_unordered(storage.read_bytes, [f"{tmp_path}/dictionary.json"])
        assert isinstance(outcome.error, StorageError), "on this machine alone it is a file that is missing"
        monkeypatch.setattr(executor, "_is_ours", False)
        (outcome,) = executor.map_unordered(storage.read_bytes, [f"{tmp_path}/dictionary.json"])
        assert isinstance(outcome.error, StorageError), "nor where the driver does not have it either"
        monkeypatch.setattr(ray_executor.storage, "exists", lambda url: True)
        (outcome,) = executor.map_unordered(storage.read_bytes, [f"{tmp_path}/dictionary.json"])
        assert isinstance(outcome.error, NotSharedError)
        assert outcome.error.machine == platform.node()
        assert f"{tmp_path}/dictionary.json' is not there on the machine" in str(outcome.error)
        assert outcome.error.exit_code == 2

    def test_results_come_in_the_order_they_finish(self, executor: Executor):
        list(executor.map_unordered(work.sleep, [0.0, 0.0], max_in_flight=2))
        assert [o.task for o in executor.map_unordered(work.sleep, [1.5, 0.0], max_in_flight=2)] == [0.0, 1.5]

    def test_short_tasks_go_in_bundles(self, executor: Executor):
        outcomes = list(executor.map_unordered(work.name_bundle, [0.001] * 200))
        assert len(outcomes) == 200
        assert len({o.value for o in outcomes}) < 50

    def test_long_tasks_go_alone_also_after_short_ones(self, executor: Executor):
        tasks = [0.001] * 40 + [0.3 + 0.001 * i for i in range(8)]
        outcomes = {o.task: o.value for o in executor.map_unordered(work.name_bundle, tasks)}
        assert len({outcomes[task] for task in tasks[40:]}) == 8

    def test_a_long_task_among_short_ones_leaves_no_other_worker_without_work(self, executor: Executor):
        tasks = [0.001] * 200 + [3.0] + [0.12] * 80
        finished = [o.task for o in executor.map_unordered(work.sleep, tasks)]
        assert sorted(finished) == sorted(tasks)
        assert finished[: finished.index(3.0)].count(0.12) >= 10

    def test_bundles_count_as_their_tasks_in_flight(self, executor: Executor):
        taken, done = [], 0

        def tasks() -> Iterator[float]:
            for _ in range(300):
                taken.append(1)
                yield 0.001

        for _ in executor.map_unordered(work.name_bundle, tasks(), max_in_flight=16):
            assert len(taken) - done <= 16
            done += 1
        assert done == 300

    @pytest.mark.parametrize(("how", "error", "attempt"), [("die", WorkerDiedError, 4), ("return a lock", TaskError, None)])
    def test_a_task_spoils_no_other_of_its_bundle(
        self, executor: Executor, how: str, error: type[Exception], attempt: int | None
    ):
        outcomes = {o.task[0]: o for o in executor.map_unordered(work.misbehave, [(i, how if i == 150 else "") for i in range(200)])}
        bad = outcomes.pop(150)
        assert isinstance(bad.error, error)
        assert attempt in (None, bad.attempt)
        assert {i: o.value for i, o in outcomes.items()} == {i: i for i in range(200) if i != 150}
        assert max(o.attempt for o in outcomes.values()) == 2, "there was a bundle, and each of it ran again alone"

    def test_an_error_that_passes_is_tried_again_without_the_rest_of_its_bundle(self, executor: Executor, tmp_path: Path):
        tasks = [(i, str(tmp_path / "tries") if i == 150 else "") for i in range(200)]
        outcomes = {o.task[0]: o for o in executor.map_unordered(work.misbehave, tasks)}
        assert [i for i, o in outcomes.items() if o.attempt > 1] == [150]
        assert all(o.error is None for o in outcomes.values())

    def test_a_killed_worker_costs_an_attempt_only(self, executor: Executor, tmp_path: Path):
        file = tmp_path / "pids"
        outcomes: list[executors.Outcome] = []
        tasks = [(str(file), 60.0)]
        thread = threading.Thread(
            target=lambda: outcomes.extend(executor.map_unordered(work.say_pid_and_wait, tasks, max_in_flight=1))
        )
        thread.start()
        while not (file.exists() and file.read_text().endswith("\n")):
            time.sleep(0.05)
        os.kill(int(file.read_text()), signal.SIGKILL)
        thread.join(timeout=30)
        assert [(o.error, o.value, o.attempt) for o in outcomes] == [(None, 2, 2)]

    def test_an_error_that_passes_is_tried_again(self, executor: Executor, tmp_path: Path):
        (outcome,) = executor.map_unordered(work.time_out_once, [str(tmp_path / "tries")], max_in_flight=1)
        assert (outcome.error, outcome.value, outcome.attempt) == (None, 2, 2)

    def test_a_straggler_runs_a_second_time_and_the_first_result_counts(
        self, executor: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        wait_for_free_workers()
        monkeypatch.setattr(ray_executor, "LOOK_SECONDS", 0.2)
        monkeypatch.setattr(executor, "straggler_seconds", 0.5)
        began = time.monotonic()
        outcomes = list(executor.map_unordered(work.say_pid_and_wait, [(str(tmp_path / "pids"), 120.0)]))
        assert [(o.error, o.value) for o in outcomes] == [(None, 2)]
        assert time.monotonic() - began < 100
        assert len(list(executor.map_unordered(work.square, range(2)))) == 2, "the slow attempt was called off"

    def test_a_task_is_called_off_also_where_interrupts_are_ignored(self, executor: RayExecutor, tmp_path: Path):
        list(executor.map_unordered(work.ignore_interrupts, [0.5, 0.5]))
        pids = tmp_path / "pids"
        outcomes = executor.map_unordered(work.say_pid_and_wait, [(str(pids), 120.0)] * 2, num_tasks=2)
        next(outcomes)  # the second one to begin; the first is under way
        outcomes.close()  # type: ignore[attr-defined]
        wait_for_free_workers()

    def test_what_was_under_way_when_a_machine_was_lost_runs_again_without_delay(
        self, executor: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        wait_for_free_workers()
        monkeypatch.setattr(ray_executor, "LOOK_SECONDS", 0.2)
        monkeypatch.setattr(executor, "straggler_seconds", 1e6)
        pids, nodes = tmp_path / "pids", ray_executor.ray.nodes
        lost = {"Alive": False, "Resources": {}}
        monkeypatch.setattr(ray_executor.ray, "nodes", lambda: [*nodes(), *([lost] if pids.exists() else [])])
        began = time.monotonic()
        outcomes = list(executor.map_unordered(work.say_pid_and_wait, [(str(pids), 120.0)]))
        assert [(o.error, o.value) for o in outcomes] == [(None, 2)]
        assert time.monotonic() - began < 100

    def test_memory_that_runs_out_is_tried_once_more_then_told(
        self, executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
    ):
        def out_of_memory(ref: object) -> None:
            raise OutOfMemoryError("the node ran low on memory")

        monkeypatch.setattr(ray_executor.ray, "get", out_of_memory)
        (outcome,) = executor.map_unordered(work.square, [1], max_in_flight=1)
        assert isinstance(outcome.error, ShardTooLargeError)
        assert outcome.attempt == ray_executor.MAX_MEMORY_ATTEMPTS
        assert outcome.error.exit_code == 2
        assert "Lower `shards.target_cells`" in str(outcome.error)

    def test_memory_that_runs_out_in_a_bundle_is_tried_alone_with_as_much(
        self, executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
    ):
        get = ray_executor.ray.get

        def out_of_memory_together(ref: object) -> list[object]:
            if len(results := get(ref)) > 1:
                raise OutOfMemoryError("the node ran low on memory")
            return results

        monkeypatch.setattr(ray_executor.ray, "get", out_of_memory_together)
        outcomes = list(executor.map_unordered(work.square, range(100)))
        assert sorted(o.value for o in outcomes) == [i * i for i in range(100)]
        assert {o.attempt for o in outcomes} == {1, 2}

    def test_a_task_too_large_for_every_machine_is_told(self, executor: RayExecutor, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(ray_executor, "LOOK_SECONDS", 0.2)
        monkeypatch.setattr(ray_executor, "MACHINE_SECONDS", 0.5)
        monkeypatch.setattr(executor, "_is_ours", False)
        with pytest.raises(ClusterTooSmallError, match=r"needs one core and 16,777,216 MiB.*`shards\.target_cells`"):
            list(executor.map_unordered(work.square, [1], memory_bytes=1 << 44))

    def test_a_task_that_always_kills_its_worker_is_given_up(self, executor: Executor):
        outcomes = {o.task: o for o in executor.map_unordered(work.die, [1], max_in_flight=2)}
        assert isinstance(outcomes[1].error, WorkerDiedError)
        assert outcomes[1].attempt == 4
        assert outcomes[1].error.exit_code == 4

    def test_a_value_that_cannot_travel_is_an_error(self, executor: Executor):
        (outcome,) = executor.map_unordered(work.return_lambda, [1], max_in_flight=1)
        assert isinstance(outcome.error, TaskError)

    def test_a_task_that_cannot_travel_is_an_error(self, executor: Executor):
        outcomes = list(executor.map_unordered(work.square, [threading.Lock(), 2], max_in_flight=1))
        assert isinstance(outcomes[0].error, TaskError)
        assert outcomes[1].value == 4

    def test_the_trace_of_the_worker_is_kept(self, executor: Executor):
        (outcome,) = executor.map_unordered(work.fail_on_odd, [1], max_in_flight=1)
        assert outcome.error is not None
        assert "in fail_on_odd" in "".join(outcome.error.__notes__)

    def test_workers_run_on_one_thread(self, executor: Executor):
        (outcome,) = executor.map_unordered(work.environment, [tuple(threads.ENVIRONMENT)], max_in_flight=1)
        assert outcome.value == threads.ENVIRONMENT


def test_ray_missing_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'caucus-bayes\[ray\]'"):
        executors.make(RunSection(directory="unused", executor="ray"))


def test_auto_in_a_job_of_a_cluster_is_that_cluster(monkeypatch: pytest.MonkeyPatch):
    assert not RunSection(directory="unused", executor="auto").is_on_cluster
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert RunSection(directory="unused", executor="auto").is_on_cluster
    assert not RunSection(directory="unused", executor="serial").is_on_cluster
    assert not RunSection(directory="unused", executor="ray").is_on_cluster
    monkeypatch.delenv("RAY_ADDRESS")
    assert RunSection(directory="unused", executor="ray://head:10001").is_on_cluster


def test_auto_is_serial_where_there_is_little_to_do():
    small = executors.make(RunSection(directory="unused", executor="auto", workers=8), work_seconds=9.0)
    alone = executors.make(RunSection(directory="unused", executor="auto", workers=1), work_seconds=1e9)
    assert isinstance(small, SerialExecutor)
    assert isinstance(alone, SerialExecutor)


def test_auto_starts_ray_where_its_workers_save_more_than_it_costs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_executor, "RayExecutor", lambda **_: "Ray")
    two, many = (RunSection(directory="unused", executor="auto", workers=workers) for workers in (2, 16))
    assert isinstance(executors.make(two, work_seconds=1.9 * executors.RAY_SECONDS), SerialExecutor)
    assert executors.make(two, work_seconds=2.1 * executors.RAY_SECONDS) == "Ray"
    assert executors.make(many, work_seconds=1.9 * executors.RAY_SECONDS) == "Ray"
    assert executors.make(two) == "Ray"


@pytest.mark.ray
def test_ray_that_does_not_answer_is_said(local_ray: Executor):
    with pytest.raises(ClusterUnreachableError, match=r"127\.0\.0\.1:1.*caucus doctor"):
        executors.make(RunSection(directory="unused", executor="127.0.0.1:1"))


def test_a_ray_too_slow_to_start_is_safe_to_run_again(monkeypatch: pytest.MonkeyPatch):
    """Ray raises a bare Exception then, on a busy machine."""
    import ray

    tries: list[object] = []

    def too_slow(**settings: object) -> None:
        tries.append(settings["address"])
        raise Exception("The current node timed out during startup.\nAnd more lines.")

    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # though the Ray of other tests is
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ClusterUnreachableError, match=r"timed out during startup\. Check") as told:
        executors.make(RunSection(directory="unused", executor="ray"))
    assert told.value.exit_code == 4
    assert tries == ["local", "local"]
    with pytest.raises(ClusterUnreachableError):
        executors.make(RunSection(directory="unused", executor="127.0.0.1:1"))
    assert tries[2:] == ["127.0.0.1:1"], "a running cluster is asked once"


@pytest.mark.parametrize(("reason", "tries"), [("Initialization failure from server:\nZombie", 4), ("ray client connection timeout", 1)])
def test_the_server_of_a_driver_elsewhere_is_started_again(reason: str, tries: int, monkeypatch: pytest.MonkeyPatch):
    import ray

    tried: list[object] = []

    def fail(**settings: object) -> None:
        tried.append(settings["address"])
        raise ConnectionError(reason)

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray_connection, "CLIENT_PAUSE", 0.0)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ClusterUnreachableError, match=reason.splitlines()[-1]):
        executors.make(RunSection(directory="unused", executor="ray://127.0.0.1:1"))
    assert tried == ["ray://127.0.0.1:1"] * tries


@pytest.mark.ray
def test_a_head_that_is_gone_is_said_before_ray_ends_the_process(local_ray: Executor, monkeypatch: pytest.MonkeyPatch):
    """Ray ends a driver with code 1, whatever it is doing, once it has missed its head for a minute."""
    monkeypatch.setattr(ray_connection, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(local_ray, "_head", ("127.0.0.1", 1))
    monkeypatch.setattr(local_ray, "_looked", -math.inf)
    with pytest.raises(ClusterUnreachableError, match=r"head takes no connection.*caucus doctor") as told:
        list(local_ray.map_unordered(work.square, [1, 2]))
    assert told.value.exit_code == 4


def test_a_ray_of_our_own_has_a_token_where_the_home_folder_cannot_keep_one(tmp_path: Path):
    given = ray_connection._token({}, tmp_path / "missing")
    assert len(given["RAY_AUTH_TOKEN"]) == 64
    assert given != ray_connection._token({}, tmp_path / "missing")
    assert ray_connection._token({}, tmp_path) == {}
    for name, value in (("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", "/x"), ("RAY_AUTH_MODE", "disabled")):
        assert ray_connection._token({name: value}, tmp_path / "missing") == {}
