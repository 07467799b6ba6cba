"""How short tasks are put together."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from cluster import bundles
from cluster.bundles import BUNDLE_BYTES, BUNDLE_SECONDS, MAX_BUNDLE, Pace, Waiting
from cluster.execution import Outcome


def outcome(seconds: float, value: object = None, error: Exception | None = None) -> Outcome:
    return Outcome(0, value, error, seconds, 1)


class TestPace:
    def test_alone_until_one_has_finished(self):
        assert Pace().size() == 1

    @pytest.mark.parametrize(
        ("seconds", "size"), [(0.0, MAX_BUNDLE), (BUNDLE_SECONDS / 10, 10), (0.6 * BUNDLE_SECONDS, 1), (20.0, 1)]
    )
    def test_as_many_as_fit_the_time_of_a_bundle(self, seconds: float, size: int):
        pace = Pace()
        pace.note(outcome(seconds))
        assert pace.size() == size

    def test_the_last_one_counts(self):
        pace = Pace()
        for seconds in (20.0, BUNDLE_SECONDS / 10):
            pace.note(outcome(seconds))
        assert pace.size() == 10
        assert pace.longest == 20.0

    def test_no_more_than_travels_with_a_task(self):
        pace = Pace()
        for size in (BUNDLE_BYTES, BUNDLE_BYTES // 3 - 1000):
            pace.note(outcome(0.001, value=np.zeros(size, dtype=np.uint8)))
        assert pace.size() == 3

    def test_what_is_larger_than_that_goes_alone(self):
        pace = Pace()
        pace.note(outcome(0.001, value=bytes(2 * BUNDLE_BYTES)))
        assert pace.size() == 1

    def test_what_only_ray_can_pickle_goes_alone(self):
        pace = Pace()
        pace.note(outcome(0.001, value=lambda: 0))
        assert pace.size() == 1

    def test_a_failure_says_nothing_of_the_size(self):
        pace = Pace()
        pace.note(outcome(0.001, value=None, error=ValueError()))
        assert pace.num_bytes == 0

    def test_the_next_time_begins_with_the_longest(self):
        pace = Pace()
        for seconds in (BUNDLE_SECONDS / 5, BUNDLE_SECONDS / 50):
            pace.note(outcome(seconds, value=bytes(1000)))
        again = pace.again()
        assert again.size() == 5
        assert (again.longest, again.num_bytes) == (0.0, pace.num_bytes)

    def test_nothing_was_learnt_from_no_tasks(self):
        assert Pace().again().size() == 1


class TestWaiting:
    def test_new_tasks_are_read_when_there_is_room(self):
        taken = []

        def tasks() -> Iterator[int]:
            for i in range(5):
                taken.append(i)
                yield i

        waiting = Waiting(tasks(), None, 7)
        assert taken == []
        first = waiting.take(3)
        assert first is not None
        assert (first.tasks, first.memory_bytes, first.attempt, taken) == ([0, 1, 2], 7, 1, [0, 1, 2])
        assert not waiting.is_drained

    def test_what_failed_goes_first_and_alone_then_what_came_back(self):
        waiting = Waiting(range(10, 12), 5, 0)
        bundle = bundles.Bundle([1, 2], 9, attempt=2)
        waiting.again += bundle.alone([2])
        waiting.back += [5, 6, 7]
        taken = [waiting.take(2) for _ in range(5)]
        assert [b and (b.tasks, b.attempt) for b in taken] == [([2], 3), ([5, 6], 1), ([7], 1), ([10, 11], 1), None]
        assert taken[0] is not None
        assert taken[0].memory_bytes == 9
        assert waiting.is_drained

    def test_the_end_is_shared_out(self):
        waiting, sizes = Waiting(range(100), 100, 0), []
        while bundle := waiting.take(min(20, waiting.fair_share(4))):
            sizes.append(len(bundle.tasks))
        assert sum(sizes) == 100
        assert sizes == sorted(sizes, reverse=True)
        assert (sizes[0], sizes[-4:]) == (20, [1, 1, 1, 1])

    def test_nothing_to_share_out_where_nobody_knows_how_many_there_are(self):
        assert Waiting(range(100), None, 0).fair_share(4) == MAX_BUNDLE

    def test_a_wrong_number_of_tasks_loses_none(self):
        waiting, found = Waiting(range(10), 3, 0), []
        while bundle := waiting.take(min(math.inf, waiting.fair_share(2))):
            found += bundle.tasks
        assert found == list(range(10))
