"""What a person sees while a run works: a live line on a terminal, plain lines elsewhere. All of it goes to stderr."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TextIO

from cluster import terminal

SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_SILENCE = 60.0
"""After which a stage of which there is no news is said to be at work: a task can take many minutes."""


@dataclass(frozen=True)
class Status:
    """Where a stage stands. ``None`` is not known, or does not apply."""

    stage: str
    phase: str = "shards"
    done: int | None = None
    total: int | None = None
    round: int | None = None
    rounds: int | None = None
    move: float | None = None
    score: float | None = None
    failed: int = 0
    repeated: int = 0
    cores: int | None = None
    started: float = 0.0

    def words(self, now: float) -> str:
        """Say it in one line; ``now`` and ``started`` are seconds of one clock."""
        parts = []
        if self.round is not None:
            parts.append(f"round {self.round}" + (f" of at most {self.rounds}" if self.rounds else ""))
        if self.done is not None and self.total:
            parts.append(f"{self.phase} {self.done:,}/{self.total:,}")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.repeated:
            parts.append(f"{self.repeated:,} tried again")
        if self.move is not None:
            parts.append(f"largest move {self.move:.3g} sd")
        if self.score is not None:
            parts.append(f"worst score {self.score:.3g} sd")
        if self.cores == 0:
            parts.append("waiting for machines: 0 cores")
        elapsed = now - self.started
        if self.done and self.total and self.done < self.total and elapsed >= 1.0:
            parts.append(f"{_time(elapsed * (self.total - self.done) / self.done)} left")
        return ", ".join(parts)


class Progress(Protocol):
    """Told by the stages how far they are; how that is shown is its own business."""

    def begin(self, stage: str, reason: str) -> None:
        """A stage starts, and why."""

    def update(
        self,
        *,
        phase: str | None = None,
        done: int | None = None,
        total: int | None = None,
        round: int | None = None,
        rounds: int | None = None,
        move: float | None = None,
        score: float | None = None,
        cores: int | None = None,
    ) -> None:
        """Some of what is known of the stage changed; the rest stays.

        ``done`` and ``total`` count what ``phase`` names: shards, of the round where there are rounds; ``move`` is the largest change of a
        mean in the last round and ``score`` the worst score so far, both in posterior sds; ``cores`` are those of a cluster for tasks.
        """

    def task(self, *, is_good: bool, attempt: int) -> None:
        """A task finished, at its ``attempt``-th try; told before the `update` that counts it."""

    def end(self, seconds: float) -> None:
        """The stage is finished."""

    def skip(self, stage: str) -> None:
        """A stage is done already."""

    def say(self, text: str) -> None:
        """Show a line that belongs to no stage."""

    def close(self) -> None:
        """Leave the terminal as it was. May be called twice."""


class PlainProgress:
    """Lines, each with the time of day at its end: one when a stage starts and ends, one per round, one every ten seconds
    between, and one after a minute without news.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._status = Status("")
        self._last_line = self._begun = 0.0
        self._ends: threading.Event | None = None

    def begin(self, stage: str, reason: str) -> None:
        """See `Progress.begin`."""
        self.close()
        self._status, self._begun = Status(stage, started=self._clock()), self._clock()
        self._ends = threading.Event()
        threading.Thread(target=self._break_silence, args=(self._ends,), daemon=True, name="progress").start()
        self._line(f"{stage}: starts ({reason})")

    def update(
        self,
        *,
        phase: str | None = None,
        done: int | None = None,
        total: int | None = None,
        round: int | None = None,
        rounds: int | None = None,
        move: float | None = None,
        score: float | None = None,
        cores: int | None = None,
    ) -> None:
        """See `Progress.update`."""
        is_news = round is not None and round != self._status.round
        is_news |= cores is not None and (cores == 0) != (self._status.cores == 0)
        self._status = _updated(self._status, self._clock(), phase, done, total, round, rounds, move, score, cores)
        words = self._status.words(self._clock())
        if words and (is_news or self._clock() - self._last_line >= SECONDS_BETWEEN_LINES):
            self._line(f"{self._status.stage}: {words}")

    def task(self, *, is_good: bool, attempt: int) -> None:
        """See `Progress.task`."""
        self._status = _counted(self._status, is_good, attempt)

    def end(self, seconds: float) -> None:
        """See `Progress.end`."""
        self.close()
        last = replace(self._status, done=None).words(self._clock())
        self._line(f"{self._status.stage}: done in {_time(seconds)}" + (f" ({last})" if last else ""))

    def skip(self, stage: str) -> None:
        """See `Progress.skip`."""
        self._line(f"{stage}: done already")

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        self._line(text)

    def close(self) -> None:
        """No stage is at work any more."""
        if self._ends is not None:
            self._ends.set()

    def _break_silence(self, ends: threading.Event) -> None:
        while not ends.wait(SECONDS_OF_SILENCE / 4):
            now = self._clock()
            if now - self._last_line >= SECONDS_OF_SILENCE:
                told = ", ".join(filter(None, (self._status.words(now), f"at work for {_time(now - self._begun)}")))
                self._line(f"{self._status.stage}: {told}")

    def _line(self, text: str) -> None:
        self._last_line = self._clock()
        print(f"{text}  [{time.strftime('%Y-%m-%d %H:%M:%S')}]", file=self._stream, flush=True)


class LiveProgress:
    """One moving line per stage on a terminal, by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.status import Status as Spinner

        stream = getattr(sys.stderr, "stream", sys.stderr)  # what moves on a terminal is made of control characters
        self._console = Console(file=stream, highlight=False)
        self._spinner: Spinner | None = None
        self._status = Status("")

    def begin(self, stage: str, reason: str) -> None:
        """See `Progress.begin`."""
        from rich.markup import escape

        self.close()
        self._status = Status(stage, started=time.monotonic())
        self._spinner = self._console.status(f"[bold]{stage}[/] [dim]{escape(terminal.safe(reason))}[/]")
        self._spinner.start()

    def update(
        self,
        *,
        phase: str | None = None,
        done: int | None = None,
        total: int | None = None,
        round: int | None = None,
        rounds: int | None = None,
        move: float | None = None,
        score: float | None = None,
        cores: int | None = None,
    ) -> None:
        """See `Progress.update`."""
        self._status = _updated(self._status, time.monotonic(), phase, done, total, round, rounds, move, score, cores)
        if self._spinner is not None:
            self._spinner.update(f"[bold]{self._status.stage}[/] {self._status.words(time.monotonic())}")

    def task(self, *, is_good: bool, attempt: int) -> None:
        """See `Progress.task`."""
        self._status = _counted(self._status, is_good, attempt)

    def end(self, seconds: float) -> None:
        """See `Progress.end`."""
        self.close()
        last = replace(self._status, done=None).words(time.monotonic())
        self._console.print(f"[green]✓[/] [bold]{self._status.stage}[/] {_time(seconds)} [dim]{last}[/]")

    def skip(self, stage: str) -> None:
        """See `Progress.skip`."""
        self._console.print(f"[green]✓[/] [bold]{stage}[/] [dim]done already[/]")

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        self._console.print(terminal.safe(text), markup=False)

    def close(self) -> None:
        """See `Progress.close`."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None


def make() -> Progress:
    """Return what suits stderr: a live line on a terminal, plain lines elsewhere."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()


def _updated(
    status: Status,
    now: float,
    phase: str | None,
    done: int | None,
    total: int | None,
    round: int | None,
    rounds: int | None,
    move: float | None,
    score: float | None,
    cores: int | None,
) -> Status:
    news = {
        "phase": phase,
        "done": done,
        "total": total,
        "round": round,
        "rounds": rounds,
        "move": move,
        "score": score,
        "cores": cores,
    }
    known = {name: value for name, value in news.items() if value is not None}
    is_new = (round is not None and round != status.round) or (phase is not None and phase != status.phase)
    is_new |= done is not None and (status.done is None or done < status.done)  # what came before counts nothing
    started = now if is_new else status.started
    return replace(status, started=started, **known)  # type: ignore[arg-type]


def _counted(status: Status, is_good: bool, attempt: int) -> Status:
    return replace(status, failed=status.failed + (not is_good), repeated=status.repeated + (attempt > 1))


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
