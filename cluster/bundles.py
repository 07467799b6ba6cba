"""Which tasks go to a worker together: short ones in bundles, long ones alone.

To hand a worker its next task takes Ray 3 ms, and 15 where machines share their cores. So as many tasks go together as fit
`BUNDLE_SECONDS`, by what the last one took, and `BUNDLE_BYTES`. Towards the end bundles get smaller, so that no worker has
the last tasks while others have none (guided self-scheduling: Polychronopoulos & Kuck 1987, IEEE Trans. Computers C-36).
"""

import itertools
import math
import pickle
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cluster.execution import Outcome

BUNDLE_SECONDS, MAX_BUNDLE = 0.2, 64
"""How long a bundle of short tasks may take, and how many there are in one at most."""
BUNDLE_BYTES = 4 << 20
"""What a bundle is given, and gives back, at most; see `cluster.ray_connection.INLINE`."""


@dataclass
class Bundle:
    """Tasks that are one task of Ray: how often they were tried, what they ask for, and when they were last submitted."""

    tasks: list[Any]
    memory_bytes: int
    attempt: int = 1
    memory_attempt: int = 1
    since: float = 0.0
    refs: list[Any] = field(default_factory=list)

    def alone(self, tasks: Iterable[Any]) -> "list[Bundle]":
        """Some of its tasks, each alone, to be tried once more."""
        return [Bundle([task], self.memory_bytes, self.attempt + 1, self.memory_attempt) for task in tasks]


@dataclass
class Pace:
    """What a task of one function takes, in seconds and in bytes there or back; as long as nobody knows, it goes alone."""

    seconds: float = math.inf
    longest: float = 0.0
    num_bytes: int = 0

    def note(self, outcome: Outcome) -> None:
        """Learn from a task that finished."""
        self.seconds = outcome.seconds
        self.longest = max(self.longest, outcome.seconds)
        if outcome.error is None:
            self.num_bytes = max(_num_bytes(outcome.task), _num_bytes(outcome.value))

    def again(self) -> "Pace":
        """What to begin with the next time: the longest tasks come first."""
        return Pace(self.longest or math.inf, 0.0, self.num_bytes)

    def size(self) -> int:
        """How many such tasks go together."""
        in_time = BUNDLE_SECONDS / max(self.seconds, BUNDLE_SECONDS / MAX_BUNDLE)
        return max(1, int(min(in_time, BUNDLE_BYTES / max(self.num_bytes, 1))))


def _num_bytes(sent: Any) -> int:
    """What travels, without a copy of its arrays; as much as a bundle may have where nobody knows."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        rest = pickle.dumps(sent, protocol=5, buffer_callback=buffers.append)
    except (AttributeError, TypeError, pickle.PicklingError):  # Ray's own pickle knows more kinds of objects
        return BUNDLE_BYTES
    return len(rest) + sum(buffer.raw().nbytes for buffer in buffers)


class Waiting:
    """What is still to be submitted: tasks that are tried again, then those that a worker gave back, then new ones.

    Parameters
    ----------
    tasks
        New ones; read when there is room for them.
    num_tasks
        How many these are; None: unknown.
    memory_bytes
        What each is expected to need.
    """

    def __init__(self, tasks: Iterable[Any], num_tasks: int | None, memory_bytes: int):
        self._tasks, self._num_left = iter(tasks), math.inf if num_tasks is None else num_tasks
        self.memory_bytes = memory_bytes
        self.again, self.back = deque[Bundle](), deque[Any]()
        self.is_drained = False

    def fair_share(self, num_bundles: int) -> int:
        """How many tasks the next bundle may have, if so many are in flight at a time."""
        left = self._num_left + len(self.back)
        return MAX_BUNDLE if left == math.inf else max(1, math.ceil(left / num_bundles))

    def take(self, size: int) -> Bundle | None:
        """The next bundle, of at most so many tasks; None when there is no task left."""
        if self.again:
            return self.again.popleft()
        tasks = [self.back.popleft() for _ in range(min(size, len(self.back)))]
        if not tasks:
            tasks = list(itertools.islice(self._tasks, size))
            self._num_left -= len(tasks)
            self.is_drained = len(tasks) < size
        return Bundle(tasks, self.memory_bytes) if tasks else None
