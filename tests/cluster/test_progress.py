"""What a person is told while a run works."""

import io
import logging
import re
import time

import pytest

from cluster import progress
from cluster.logs import EventFormatter
from cluster.progress import PlainProgress, Status


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(said: io.StringIO) -> list[str]:
    """What was said, without the time of day at the end of each line."""
    found = [re.fullmatch(r"(.*)  \[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\]", line) for line in said.getvalue().splitlines()]
    return [line[1] for line in found if line]


def test_plain_lines_are_few_and_say_everything():
    said, clock = io.StringIO(), Clock()
    progress = PlainProgress(said, clock)
    progress.begin("fit", "not run yet")
    progress.update(round=1, rounds=8, done=0, total=51)
    for done in range(1, 31):
        clock.now += 1.0
        progress.update(done=done)
    progress.update(round=2, done=0, move=0.5, score=0.25)
    progress.end(31.0)
    progress.skip("merge")
    progress.say("turnout:")
    assert lines(said) == [
        "fit: starts (not run yet)",
        "fit: round 1 of at most 8, shards 0/51",
        "fit: round 1 of at most 8, shards 10/51, 41.0 s left",
        "fit: round 1 of at most 8, shards 20/51, 31.0 s left",
        "fit: round 1 of at most 8, shards 30/51, 21.0 s left",
        "fit: round 2 of at most 8, shards 0/51, largest move 0.5 sd, worst score 0.25 sd",
        "fit: done in 31.0 s (round 2 of at most 8, largest move 0.5 sd, worst score 0.25 sd)",
        "merge: done already",
        "turnout:",
    ]


def test_what_a_stage_does_before_it_counts_is_not_in_the_time_that_is_left():
    said, clock = io.StringIO(), Clock()
    progress = PlainProgress(said, clock)
    progress.begin("audit", "not run yet")
    for begins_after in (11.0, 20.0):
        clock.now += begins_after
        progress.update(done=1, total=51)
        clock.now += 10.0
        progress.update(done=40)
    assert lines(said)[1:] == ["audit: shards 1/51", "audit: shards 40/51, 2.8 s left"] * 2


def test_tasks_that_failed_or_were_tried_again_are_told():
    said = io.StringIO()
    progress = PlainProgress(said, Clock())
    progress.begin("fit", "not run yet")
    progress.task(is_good=True, attempt=1)
    progress.task(is_good=True, attempt=3)
    progress.task(is_good=False, attempt=4)
    progress.update(round=1, done=3, total=51)
    assert lines(said)[1:] == ["fit: round 1, shards 3/51, 1 failed, 2 tried again"]


def test_a_stage_without_news_says_that_it_is_at_work(monkeypatch: pytest.MonkeyPatch):
    """A task of a classic combiner, or a merge, can take many minutes."""
    monkeypatch.setattr(progress, "SECONDS_OF_SILENCE", 0.04)
    said, clock = io.StringIO(), Clock()
    shown = PlainProgress(said, clock)
    shown.begin("fit", "not run yet")
    shown.update(done=0, total=4)
    clock.now += 180.0
    deadline = time.monotonic() + 20
    while len(lines(said)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    shown.end(180.0)
    after = lines(said)
    clock.now += 180.0
    time.sleep(0.1)
    assert after[:2] == ["fit: starts (not run yet)", "fit: shards 0/4, at work for 3 min 0 s"]
    assert lines(said) == after, "what has ended is not at work"


def test_long_times_are_readable():
    assert Status("fit", done=1, total=2).words(now=75.0).endswith("1 min 15 s left")
    assert Status("fit", done=1, total=2).words(now=7500.0).endswith("2 h 5 min left")


def test_logs_are_events_with_fields():
    record = logging.makeLogRecord({"msg": "shard fitted", "levelname": "INFO", "shard_id": "ca", "num_rows": 5})
    assert EventFormatter().format(record).endswith(" INFO shard fitted shard_id=ca num_rows=5")
