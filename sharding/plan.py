"""From counts of cells to shards: contiguous runs of the sorted cells, each with a stable name.

Cells are sorted by the columns of ``shards.by``, then by the factor nested in them, then by everything else. So a shard
is a run of neighbours, a plan is a list of names and lengths, and writing the shards is cutting one sorted stream.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

MAX_NAME = 80

Counts = Sequence[tuple[tuple[int, ...], int]]
"""Cells by code tuple (one code per column of the cut), sorted by code tuple."""


class PlannedShard(NamedTuple):
    """The next ``num_cells`` cells of the sorted stream."""

    shard_id: str
    num_cells: int


def plan_by_columns(counts: Counts, levels: Sequence[str], *, target_cells: int, min_cells: int) -> list[PlannedShard]:
    """Cut cells counted by (first column, second column, ...) into shards.

    Neighbouring levels of the first column share a shard until it has ``min_cells``; a level with more than
    ``target_cells`` is cut between levels of the next column, and inside one only where that alone exceeds the target.

    Parameters
    ----------
    levels
        Names of the levels of the first column, by code.
    """
    units = [(code, list(items)) for code, items in groupby(counts, key=lambda item: item[0][0])]
    shards: list[PlannedShard] = []
    names: set[str] = set()
    for run in _merge([_total(items) for _, items in units], target_cells, min_cells):
        members = [units[i] for i in run]
        name = _name([levels[code] for code, _ in members])
        sizes = _cut([item for _, items in members for item in items], 1, target_cells)
        if len(sizes) == 1:
            shards.append(PlannedShard(_unused_name(name, names), sizes[0]))
        else:
            width = max(2, len(str(len(sizes))))
            for number, size in enumerate(sizes, start=1):
                shards.append(PlannedShard(_unused_name(f"{name}-{number:0{width}d}", names), size))
    return shards


def plan_buckets(counts: Counts, method: str, num_shards: int) -> list[PlannedShard]:
    """Name the buckets that have cells, ``random-001`` and so on."""
    width = max(2, len(str(num_shards)))
    return [PlannedShard(f"{method}-{bucket + 1:0{width}d}", size) for (bucket,), size in counts]


def num_buckets(num_cells: int, target_cells: int) -> int:
    """Return how many shards keep the target when cells are dealt at random, four sds of their counts included."""
    expected = target_cells + 8 - 4 * (target_cells + 4) ** 0.5
    return max(1, -(-num_cells // max(1, int(expected)))) if num_cells > target_cells else 1


def _total(counts: Iterable[tuple[tuple[int, ...], int]]) -> int:
    return sum(size for _, size in counts)


def _merge(sizes: list[int], target: int, minimum: int) -> list[list[int]]:
    """Group neighbours: a group closes when it has ``minimum`` or would exceed ``target``."""
    groups: list[list[int]] = []
    open_total: int | None = None
    for i, size in enumerate(sizes):
        if open_total is not None and open_total + size <= target:
            groups[-1].append(i)
            open_total += size
        else:
            groups.append([i])
            open_total = size
        if open_total >= minimum:
            open_total = None
    is_last_small = open_total is not None and len(groups) > 1
    if is_last_small and sum(sizes[i] for group in groups[-2:] for i in group) <= target:
        last = groups.pop()
        groups[-1].extend(last)
    return groups


def _cut(counts: Counts, depth: int, target: int) -> list[int]:
    """Return the sizes of even runs of at most ``target`` cells, ending between levels of column ``depth`` if they can."""
    total = _total(counts)
    if total <= target:
        return [total]
    num_runs = -(-total // target)
    if depth == len(counts[0][0]):
        return [total * (i + 1) // num_runs - total * i // num_runs for i in range(num_runs)]
    goal = total / num_runs
    sizes: list[int] = []
    open_size = 0
    for _, group in groupby(counts, key=lambda item: item[0][: depth + 1]):
        items = list(group)
        size = _total(items)
        if open_size and (open_size + size > target or open_size >= goal):
            sizes.append(open_size)
            open_size = 0
        if size > target:
            sizes += _cut(items, depth + 1, target)
        else:
            open_size += size
    return sizes + ([open_size] if open_size else [])


def _name(levels: list[str]) -> str:
    """Return ``AL``, ``AL+AK``, or ``01001+11+01025`` (first, number of those between, last)."""
    safe = [_safe(level) for level in levels]
    return "+".join(safe if len(safe) <= 3 else [safe[0], str(len(safe) - 2), safe[-1]])


def _safe(level: str) -> str:
    """Percent-encode what is not in [A-Za-z0-9._-], a leading dot too; shorten what is long, with its hash."""
    text = re.sub(r"[^A-Za-z0-9._-]|^\.", lambda match: "".join(f"%{b:02X}" for b in match[0].encode()), level) or "%"
    if len(text) <= MAX_NAME:
        return text
    return f"{text[: MAX_NAME - 17]}-{hashlib.sha256(level.encode()).hexdigest()[:16]}"


def _unused_name(name: str, used: set[str]) -> str:
    """Return ``name``, or it with ``_2``, ``_3``, ... where a name is taken; names that differ in case are the same."""
    candidate, number = name, 1
    while candidate.casefold() in used:
        number += 1
        candidate = f"{name}_{number}"
    used.add(candidate.casefold())
    return candidate
