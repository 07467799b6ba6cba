"""Functions that executor tests run as tasks; in a module of their own so that workers can be sent them."""

import hashlib
import os
import signal
import time
from pathlib import Path


class PlainError(Exception):
    """An error that crosses processes."""


class StubbornError(Exception):
    """An error that cannot be rebuilt from its arguments, as many in the wild."""

    def __init__(self, first: int, second: int):
        super().__init__(f"{first} and {second}")


def square(task: int) -> int:
    return task * task


def fail_on_odd(task: int) -> int:
    if task % 2:
        raise PlainError(f"task {task} is odd")
    return task


def fail_stubbornly(task: int) -> int:
    raise StubbornError(task, task)


def return_lambda(task: int) -> object:
    import threading

    return threading.Lock()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def note_running(task: tuple[str, float]) -> int:
    """Count how many of these run at once, by files; return the count seen."""
    folder, seconds = task
    mine = Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}"
    mine.touch()
    count = len(list(Path(folder).iterdir()))
    time.sleep(seconds)
    mine.unlink()
    return count


def say_pid_and_wait(task: tuple[str, float]) -> int:
    """Write this process's id to a file, wait, and return how many attempts have been made."""
    file, seconds = task
    with open(file, "a") as pids:
        pids.write(f"{os.getpid()}\n")
    if len(Path(file).read_text().split()) == 1:
        for _ in range(round(10 * seconds)):  # in short steps: a task that is called off ends between two of them
            time.sleep(0.1)
    return len(Path(file).read_text().split())


def ignore_interrupts(seconds: float) -> None:
    """Do to this worker what a shell script does to all that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(seconds)


def time_out_once(file: str) -> int:
    """Fail the first time as a store does that is away; return how many attempts have been made."""
    with open(file, "a") as tries:
        tries.write("x\n")
    count = len(Path(file).read_text().split())
    if count == 1:
        raise TimeoutError("no answer")
    return count


def die(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def factor(seed: int) -> str:
    """Digest of numbers whose last bits depend on the number of threads, by numpy and by JAX."""
    import jax.numpy as jnp
    import numpy as np

    matrix = np.random.default_rng(seed).normal(size=(600, 600))
    gram = matrix @ matrix.T + 600 * np.eye(600)
    by_numpy = np.linalg.cholesky(gram)
    by_jax = np.asarray(jnp.linalg.cholesky(jnp.asarray(gram)) @ jnp.asarray(matrix))
    return hashlib.sha256(by_numpy.tobytes() + by_jax.tobytes()).hexdigest()


def environment(names: tuple[str, ...]) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def name_bundle(seconds: float) -> str:
    """Return the name of Ray's task that runs this one."""
    import ray

    time.sleep(seconds)
    return ray.get_runtime_context().get_task_id()


def misbehave(task: tuple[int, str]) -> int:
    """Do as told, for a task among short ones."""
    number, how = task
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return return_lambda(number) if how == "return a lock" else time_out_once(how) if how else number  # type: ignore[return-value]
