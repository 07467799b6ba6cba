"""What a stage is given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # light: the command line imports this before it knows whether anything has to run
    from cluster.config import RunConfig
    from cluster.execution import Executor
    from cluster.progress import Progress


@dataclass(frozen=True)
class StageContext:
    """The run, where it is kept, and where its tasks go. ``key`` names what the stage makes: equal keys, equal files.

    ``task_bytes`` is the memory that the largest shard's task is projected to need; ``retries`` counts what was tried again.
    """

    config: RunConfig
    directory: str
    executor: Executor
    progress: Progress
    key: str
    task_bytes: int = 0
    retries: Counter[str] = field(default_factory=Counter)
