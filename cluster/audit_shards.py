"""The shards of an audit as they may be read: how many people they have is told roughly."""

from collections.abc import Iterable
from typing import Any

from reporting.published import rounded_up

COUNTS = ("num_rows", "num_trials")


def round_up(shards: Iterable[dict[str, Any]], min_count: int) -> None:
    """Round the people of every shard up, in place: a shard can be a group whose count is hidden elsewhere."""
    for shard in shards:
        shard |= {name: rounded_up(shard[name], min_count) for name in COUNTS if name in shard}
