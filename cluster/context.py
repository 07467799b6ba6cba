"""What a stage is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # light: the command line imports this before it knows whether anything has to run
    from cluster.config import RunConfig
    from cluster.execution import Executor
    from cluster.progress import Progress


@dataclass(frozen=True)
class StageContext:
    """The run, where it is kept, and where its tasks go. ``key`` names what the stage makes: equal keys, equal files."""

    config: RunConfig
    directory: str
    executor: Executor
    progress: Progress
    key: str
