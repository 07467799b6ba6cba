"""What is hidden cannot be worked out: attacked by linear programming over everything that is shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import optimize, sparse

from reporting.disclosure import Margin, hide

MIN_COUNT = 11
LEVELS = {"state": 3, "county": 7, "race": 3, "age": 3}
NESTED = [  # margins as people ask for them
    ["", "state", "state:county"],
    ["", "state", "race", "state:race"],
    ["state:county", "race:age", "state:race"],
    ["", "state", "state:county", "state:county:race", "race:age"],
    ["state:race", "race:age", "state:age"],
    ["", "county", "state", "state:county", "age"],
]


def people(seed: int, mean: float) -> np.ndarray:
    """Counts by state, county (of one state each), race and age: many empty or small."""
    rng = np.random.default_rng(seed)
    shape = tuple(LEVELS.values())
    counts = rng.poisson(mean * rng.gamma(0.4, 2.5, size=shape))
    state_of = np.arange(LEVELS["county"]) % LEVELS["state"]
    return counts * (state_of[None, :] == np.arange(LEVELS["state"])[:, None])[:, :, None, None]


def margin(counts: np.ndarray, name: str) -> Margin:
    """The groups of ``state:race`` that have people."""
    columns = tuple(name.split(":")) if name else ()
    places = [list(LEVELS).index(c) for c in columns]
    table = counts.sum(axis=tuple(i for i in range(len(LEVELS)) if i not in places))
    found = np.argwhere(table > 0) if columns else np.zeros((1, 0), dtype=int)
    labels = [tuple(map(str, index)) for index in found.tolist()]
    return Margin(columns, labels, table[tuple(found.T)].reshape(-1, 1))


def worked_out(counts: np.ndarray, margins: Sequence[Margin], hidden: Sequence[np.ndarray]) -> list[tuple[int, float, float]]:
    """(count, least, most) of every small group, from all that is shown: an attacker with a linear program.

    The attacker knows which groups there are, that each listed one has a person at least, and which county is in which state.
    """
    shape = counts.shape
    state_of = np.arange(LEVELS["county"]) % LEVELS["state"]
    atoms = [a for a in np.ndindex(*shape) if state_of[a[1]] == a[0]]
    rows, low, high, wanted = [], [], [], []
    for table, of in zip(margins, hidden, strict=True):
        places = [list(LEVELS).index(c) for c in table.columns]
        number = {label: g for g, label in enumerate(table.labels)}
        members: dict[tuple[str, ...], list[int]] = {}
        for a, atom in enumerate(atoms):
            members.setdefault(tuple(str(atom[i]) for i in places), []).append(a)
        for label, inside in members.items():
            g = number.get(label)
            count = 0 if g is None else int(table.counts[g, 0])
            row = np.zeros(len(atoms))
            row[inside] = 1
            rows.append(row)
            shown = g is None or not of[g]
            low.append(count if shown else 1)
            high.append(count if shown else np.inf)
            if not shown and count < MIN_COUNT:
                wanted.append((count, row))
    constraint = optimize.LinearConstraint(sparse.csr_array(np.array(rows)), low, high)
    found = []
    for count, row in wanted:
        ends = [optimize.milp(sign * row, constraints=constraint, bounds=optimize.Bounds(0, np.inf)) for sign in (1, -1)]
        least, most = (np.inf * sign if end.fun is None else sign * end.fun for sign, end in zip((1, -1), ends, strict=True))
        found.append((count, float(least), abs(float(most))))
    return found


@pytest.mark.parametrize("names", NESTED, ids=" ".join)
@pytest.mark.parametrize("mean", [0.8, 6.0])
def test_no_small_group_can_be_worked_out(names: list[str], mean: float) -> None:
    num_small = 0
    for seed in range(3):
        counts = people(seed, mean)
        margins = [margin(counts, name) for name in names]
        hidden = hide(margins, MIN_COUNT)
        for count, least, most in worked_out(counts, margins, hidden):
            num_small += 1
            assert most - least >= 2, (names, seed, count, least, most)
            assert most >= MIN_COUNT, (names, seed, count, least, most)
    assert num_small > 0


def test_the_attack_finds_what_primary_suppression_alone_gives_away() -> None:
    counts = people(1, 6.0)
    margins = [margin(counts, name) for name in ("", "state", "state:county", "state:race")]
    primary = [(m.counts[:, 0] < MIN_COUNT) & (m.counts[:, 0] > 0) for m in margins]
    assert any(least == most for _, least, most in worked_out(counts, margins, primary))


def test_a_single_small_group_takes_the_smallest_other_with_it() -> None:
    table = Margin(("state",), [("A",), ("B",), ("C",), ("D",)], np.array([3, 500, 40, 0]))
    hidden = hide([Margin((), [()], np.array([543])), table], MIN_COUNT)
    assert [h.tolist() for h in hidden] == [[False], [True, False, True, False]]
    assert not any(h.any() for h in hide([table], 1))


def test_ones_that_add_up_to_a_known_total_of_ones_are_not_left_alone() -> None:
    table = Margin(("place",), [(str(i),) for i in range(31)], np.array([1] * 30 + [400]))
    hidden = hide([Margin((), [()], np.array([430])), table], MIN_COUNT)
    assert hidden[1].all()


def test_categories_are_hidden_together() -> None:
    counts = np.array([[3, 50], [60, 70], [80, 90], [400, 500]])
    table = Margin(("state",), [(s,) for s in "ABCD"], counts)
    hidden = hide([Margin((), [()], counts.sum(axis=0)[None]), table], MIN_COUNT, can_be_empty=True)
    assert hidden[1].tolist() == [True, True, False, False]


def test_a_cycle_of_equations_gives_nothing_away() -> None:
    """Two pairs of hidden groups in two tables whose equations have one solution together."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        counts = rng.integers(0, 25, size=(4, 4))
        margins = [
            Margin(("row",), [(str(i),) for i in range(4)], counts.sum(axis=1)),
            Margin(("column",), [(str(j),) for j in range(4)], counts.sum(axis=0)),
            Margin(("row", "column"), [(str(i), str(j)) for i in range(4) for j in range(4)], counts.ravel()),
        ]
        hidden = hide(margins, MIN_COUNT)[2].reshape(4, 4)
        unknown = np.argwhere(hidden)
        matrix = np.zeros((8, len(unknown)))
        for k, (i, j) in enumerate(unknown):
            matrix[i, k] = matrix[4 + j, k] = 1
        null = np.linalg.svd(matrix)[2][np.linalg.matrix_rank(matrix) :]
        assert (np.abs(null).max(axis=0) > 1e-9).all()


def test_counts_that_add_up_roughly_do_not_hide_what_is_large() -> None:
    """Counts of frames are rounded by margin, weighted shares times people add up to no whole numbers; a sum is off by a few."""
    rng = np.random.default_rng(0)
    states, counties = 40, 60
    people = np.exp(rng.normal(5, 1.5, (states, counties)))
    shifted = people * rng.uniform(0.7, 1.3, people.shape)  # and what no rounding explains
    labels = [(str(s), str(c)) for s in range(states) for c in range(counties)]
    for rough in (people, shifted):
        margins = [
            Margin((), [()], np.array([[round(people.sum())]])),
            Margin(("state",), [(str(s),) for s in range(states)], np.round(people.sum(axis=1))[:, None]),
            Margin(("state", "county"), labels, np.round(rough).reshape(-1, 1)),
        ]
        all_of_them, of_states, of_counties = hide(margins, MIN_COUNT)
        small = (margins[2].counts > 0) & (margins[2].counts < MIN_COUNT)
        assert of_counties[small[:, 0]].all()
        assert not of_states.any()
        assert not all_of_them.any()
        assert of_counties.sum() < 2 * small.sum() + states
