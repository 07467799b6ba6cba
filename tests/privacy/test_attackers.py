"""Attackers on one small nation: they succeed on the private files of a run, and have nothing of what is published of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))
import attackers
import cases
import line

TARGETS = 8


def caucus(*arguments: object) -> None:
    said = line.caucus(*map(str, arguments))
    assert said.code == 0, said


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> cases.Case:
    return cases.nation(caucus, tmp_path_factory.mktemp("attacked"), rows=7000, seed=5)


SUCCEEDS_ON_PRIVATE = {
    "by_p_value": 0.95, "by_effect": 0.95, "by_subtraction": 0.6, "number_by_quantiles": 0.3, "number_by_sd": 0.004, "number_listed": 0.9, "by_equations": 0.3,
}  # fmt: skip
"""At least so much of what there is to find is in the private files: else an attack that finds nothing says nothing."""


@pytest.mark.parametrize("attack", attackers.OF_ONE_RUN, ids=lambda attack: attack.__name__)
def test_what_is_published_tells_no_more_than_no_file(case: cases.Case, attack) -> None:
    private, public = (attack(case.people, case.names, folder) for folder in (case.run, case.public))
    assert private.number == public.number > 10
    assert private.success > SUCCEEDS_ON_PRIVATE[attack.__name__]
    assert public.success <= public.chance + 4 * public.sd


def test_two_publications_do_not_tell_of_the_one_who_joined(case: cases.Case, tmp_path: Path) -> None:
    targets = cases.one_of_each(case, TARGETS)
    votes = np.arange(TARGETS) % 2
    run, public = cases.joined_by(caucus, case, tmp_path / "later", targets, votes)
    states = case.people.parent[targets]
    before, after = (
        [attackers.by_movement(a, b, case.names, state, vote, is_published=is_published) for state, vote in zip(states, votes, strict=True)]
        for a, b, is_published in ((case.run, run, False), (case.public, public, True))
    )
    assert np.mean(before) > 0.85
    assert after == [0.5] * TARGETS


def test_somebody_who_knows_all_but_one_vote_is_hardly_better_than_chance(case: cases.Case, tmp_path: Path) -> None:
    """He computes the run for either vote. Of private files, and without the rounding by influence, he is always right."""
    targets = cases.one_of_each(case, TARGETS)
    other = cases.flipped(caucus, case, tmp_path / "flipped", targets)
    right, twin = [], []
    for i in targets:
        tables = [cases.of_state(folder, str(case.people.parent[i])) for folder in (case.run, other)]
        either = tables if case.people.outcome[i] == 0 else tables[::-1]
        assert not either[0]["mean"].equals(either[1]["mean"])
        right.append(attackers.by_likelihood(either, lambda table, key: cases.published_by(key, table), 60))
        twin.append(attackers.by_likelihood(either, lambda table, key: cases.published_by(key, table, min_count=1), 20))
    assert np.mean(right) < 0.6
    assert np.mean(twin) > 0.6  # 2.5 standard errors of 8 people x 20 keys above chance
