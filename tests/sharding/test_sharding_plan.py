"""Plans cover all cells once, keep the target, and have one name per shard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.plan import num_buckets, plan_buckets, plan_by_columns

counts_strategy = st.dictionaries(st.tuples(st.integers(0, 6), st.integers(0, 4)), st.integers(1, 60), min_size=1).map(
    lambda counts: sorted(counts.items())
)


@given(counts_strategy, st.integers(1, 50), st.integers(1, 50))
def test_no_cell_lost_or_repeated_and_target_kept(
    counts: list[tuple[tuple[int, ...], int]], target: int, minimum: int
) -> None:
    levels = ["AL", "AK", "al", "AL-01", "", ".", "x/y é"]
    shards = plan_by_columns(counts, levels, target_cells=target, min_cells=min(minimum, target))
    assert sum(shard.num_cells for shard in shards) == sum(size for _, size in counts)
    assert all(0 < shard.num_cells <= target for shard in shards)
    names = [shard.shard_id.casefold() for shard in shards]
    assert len(set(names)) == len(names)
    assert all(name and name[0] != "." and "/" not in name and name.isascii() for name in names)


@pytest.mark.parametrize(
    ("sizes", "target", "minimum", "expected"),
    [
        ([50, 3, 50], 100, 10, [("AL", 50), ("AK+AZ", 53)]),
        ([50, 50, 3], 100, 10, [("AL", 50), ("AK+AZ", 53)]),
        ([50, 50, 3], 51, 10, [("AL", 50), ("AK", 50), ("AZ", 3)]),
        ([1, 1, 1], 100, 10, [("AL+AK+AZ", 3)]),
        ([5, 250, 5], 100, 5, [("AL", 5), ("AK-01", 83), ("AK-02", 83), ("AK-03", 84), ("AZ", 5)]),
    ],
)
def test_small_levels_merge_and_large_ones_split(
    sizes: list[int], target: int, minimum: int, expected: list[tuple[str, int]]
) -> None:
    counts = [((code,), size) for code, size in enumerate(sizes)]
    shards = plan_by_columns(counts, ["AL", "AK", "AZ"], target_cells=target, min_cells=minimum)
    assert [tuple(shard) for shard in shards] == expected


def test_large_level_is_cut_between_nested_levels() -> None:
    counts = [((0, county), 30) for county in range(5)] + [((0, 5), 130)]
    shards = plan_by_columns(counts, ["TX"], target_cells=100, min_cells=1)
    assert [shard.num_cells for shard in shards] == [90, 60, 65, 65]
    assert shards[0].shard_id == "TX-01"


def test_many_merged_levels_have_a_short_name_and_long_levels_too() -> None:
    shards = plan_by_columns([((i,), 1) for i in range(9)], list("abcdefghi"), target_cells=9, min_cells=9)
    assert shards[0].shard_id == "a+7+i"
    (shard,) = plan_by_columns([((0,), 1)], ["x" * 300], target_cells=9, min_cells=9)
    assert len(shard.shard_id) <= 80


def test_buckets() -> None:
    assert plan_buckets([((0,), 4), ((2,), 5)], "random", 3) == [("random-01", 4), ("random-03", 5)]
    assert num_buckets(100, 100) == 1
    assert num_buckets(1_000_000, 10_000) > 100
