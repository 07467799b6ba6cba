"""Readers at work in a child process, with a limit of time for each input: a crash or a hang ends the child only."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.fuzzing import targets

MEMORY_BYTES = 6 << 30


@dataclass(frozen=True)
class Case:
    """One input for one target, and how it was made."""

    target: str
    mutation: str
    data: bytes


@dataclass(frozen=True)
class Result:
    """What became of a case."""

    case: Case
    outcome: str
    error: str


Answer = Callable[[str, bytes, Path], tuple[str, str]]
"""A module-level function of a target's name, an input and an empty directory: the outcome, and the error if there is one."""

FAULTS = ("traceback", "silent loss", "leak", "crash", "hang")


def run(cases: Iterable[Case], *, seconds_per_input: float = 100.0, answer: Answer = targets.run) -> Iterator[Result]:
    """Yield what becomes of each case; after a crash or a hang a new child goes on with the next."""
    child: _Child | None = None
    try:
        for case in cases:
            child = child or _Child(seconds_per_input, answer)
            outcome, error = child.ask(case)
            if outcome in ("crash", "hang"):
                child.stop()
                child = None
            yield Result(case, outcome, error)
    finally:
        if child is not None:
            child.stop()


class _Child:
    def __init__(self, seconds: float, answer: Answer):
        context = multiprocessing.get_context("spawn")
        self._seconds = seconds
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, answer), daemon=True)
        self._process.start()
        other.close()
        self._connection.recv()  # its imports are done

    def ask(self, case: Case) -> tuple[str, str]:
        self._connection.send((case.target, case.data))
        try:
            if not self._connection.poll(self._seconds):
                return "hang", f"no answer after {self._seconds:g} s"
            outcome, error = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return "crash", f"exit code {self._process.exitcode}"
        return outcome, error

    def stop(self) -> None:
        self._connection.close()  # a child that listens removes its scratch directory and ends
        self._process.join(5)
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, answer: Answer) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory(prefix="caucus-fuzz-") as scratch:
        connection.send("ready")
        while True:
            try:
                name, data = connection.recv()
            except EOFError:
                return
            connection.send(answer(name, data, Path(scratch) / "input"))
