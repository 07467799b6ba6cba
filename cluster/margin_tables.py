"""Estimates of a margin's groups, made where their people are.

A group whose people all lie in one shard is summarised by the worker that has the shard: 170,000 precincts are a table, and
not 1.4 GB of draws on their way to the driver. Only the draws of groups that shards share (`all`, a state that was cut)
travel, to be added up first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fitting.coding import distinct
from reporting import estimates

ALL = "all"


class MarginSums(NamedTuple):
    """For the groups that occur: codes (g, columns), sums of expected outcomes (g, C, M), and counts.

    C is 1, or the number of the outcome's categories. ``num_rows`` are people, ``num_trials`` known outcomes, both (g,);
    ``observed`` (g, C) over ``base`` (g,) is the raw mean.
    """

    codes: np.ndarray
    expected: np.ndarray
    num_rows: np.ndarray
    num_trials: np.ndarray
    observed: np.ndarray
    base: np.ndarray

    def some(self, groups: np.ndarray) -> MarginSums:
        """Some of the groups, by their numbers."""
        return MarginSums(*(values[groups] for values in self))


class Categories(NamedTuple):
    """Name and categories of an outcome; without categories it is a number."""

    outcome: str
    names: tuple[str, ...]


class MarginTable(NamedTuple):
    """Summarised groups: codes (g, columns), the category's last where there are several, and a row of each."""

    codes: np.ndarray
    table: pa.Table


def groups_of(
    columns: Mapping[str, np.ndarray], margin: tuple[str, ...], sizes: Sequence[int], num_cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Combinations of codes that occur, sorted, (g, columns), and the number of each cell's, (n,); one group without columns."""
    if not margin:
        return np.zeros((1, 1), dtype=np.int64), np.zeros(num_cells, dtype=np.int64)
    return distinct(np.stack([columns[c] for c in margin], axis=1), sizes)


def alone(kinds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For the groups of each shard, (g_s, columns): whether they occur in that shard only, (g_s,)."""
    together = np.concatenate(kinds)
    _, which = distinct(together, (together.max(axis=0) + 1).tolist())
    only = np.bincount(which)[which] == 1
    return np.split(only, np.cumsum([len(k) for k in kinds])[:-1])


def summarise(
    margin: tuple[str, ...],
    levels: Mapping[str, Sequence[str]],
    sums: MarginSums,
    shape: tuple[int, int],
    interval: float,
    outcome: Categories,
) -> MarginTable:
    """Summarise groups from their sums; ``shape`` is (chain, draw). Groups without people are left out.

    An outcome with categories has a row for each, named in a column called as the outcome.
    """
    some = sums.some(np.flatnonzero(sums.num_rows > 0))
    num_groups, num_outcomes = some.expected.shape[:2]
    labels: dict[str, list[str]] = {
        column: [levels[column][code] for code in np.repeat(some.codes[:, i], num_outcomes)]
        for i, column in enumerate(margin)
    }
    codes = some.codes
    if outcome.names:
        labels = labels or {ALL: [ALL] * num_groups * num_outcomes}
        labels[outcome.outcome] = [*outcome.names] * num_groups
        category = np.tile(np.arange(num_outcomes), num_groups)
        codes = np.concatenate([np.repeat(codes, num_outcomes, axis=0), category[:, None]], axis=1)
    means = (some.expected / some.num_rows[:, None, None]).reshape(num_groups * num_outcomes, some.expected.shape[2])
    with np.errstate(invalid="ignore"):
        raw = (some.observed / some.base[:, None]).ravel()
    table = estimates.summarise_groups(
        labels or {ALL: [ALL] * num_groups},
        means.T.reshape(*shape, num_groups * num_outcomes),
        np.repeat(np.round(some.num_rows).astype(np.int64), num_outcomes),
        np.repeat(some.num_trials.astype(np.int64), num_outcomes),
        raw,
        interval,
    )
    return MarginTable(codes, table)


def join(parts: Sequence[MarginTable]) -> pa.Table:
    """One table of the groups of several, in the order of their codes."""
    codes = np.concatenate([part.codes for part in parts])
    order = np.lexsort(codes.T[::-1])
    return pa.concat_tables([part.table for part in parts]).take(pa.array(order)).combine_chunks()
