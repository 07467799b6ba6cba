"""Which counts of several tables of the same people have to be hidden, so that no small one can be worked out.

*Primary*: a count from 1 to ``min_count - 1``. *Complementary*: whatever gives one away, within a table or between tables:

- groups of a finer margin add up to those of a coarser one (`state:county` to `state` to `all`);
- two margins have in common what they add up to (`race:age` and `state:race` both give `race`), published or not. Such
  *implied* margins are closed under intersection here, and hidden from nobody who can work them out.

Three tests decide what can be worked out. Sums: what an equation leaves over for its unknown groups together is a count too,
and has to be no small one, with room for every group to be large. Bounds: what every group can be at most, by all equations,
has to be no small count. Linear algebra: an unknown that all solutions of all equations agree in is known (found by a random
vector of the null space). docs/design/privacy.md has the reasons; the tests attack the result by linear programming.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

DETERMINED = 1e-6
MAX_SHUTTLES = 50
_SEED = 20240501
_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Margin:
    """A table of groups: the columns that make them, their labels (one tuple each), and counts of people (g, K).

    K counts are protected together (the people of each category of an outcome): a group is hidden if one of them is small.
    """

    columns: tuple[str, ...]
    labels: Sequence[tuple[str, ...]]
    counts: np.ndarray


@dataclass(frozen=True)
class _Links:
    """Groups of a finer margin, as cells ``children``, and the cell of a coarser one that each adds to, ``parents``."""

    children: np.ndarray
    parents: np.ndarray


def hide(
    margins: Sequence[Margin], min_count: int, forced: Sequence[np.ndarray] | None = None, *, can_be_empty: bool = False
) -> list[np.ndarray]:
    """Return which groups of each margin to hide, (g,) booleans.

    Parameters
    ----------
    min_count
        The smallest count that may be shown, other than 0.
    forced
        Groups to hide whatever their counts, by margin.
    can_be_empty
        Whether a hidden group may have none of a count, as far as a reader knows; otherwise hidden groups have one at least.
    """
    cells = _Cells(margins, min_count, can_be_empty)
    for i, groups in enumerate(forced or ()):
        cells.hidden[cells.of[i][np.asarray(groups, dtype=bool)]] = True
    while True:
        known = cells.known()
        wanted = cells.to_hide_by_sums(known)
        if not wanted.size:
            wanted = cells.to_hide_by_bounds()
        if not wanted.size:
            wanted = cells.to_hide_by_algebra(known)
        if not wanted.size:
            break
        cells.hidden[wanted] = True
    return [cells.hidden[places] for places in cells.of]


class _Table(NamedTuple):
    """A margin by its sorted columns: the cell of every label, and the counts of its groups in that order."""

    columns: tuple[str, ...]
    cells: dict[tuple[str, ...], int]
    counts: np.ndarray


class _Cells:
    """The groups of all margins as one list of cells, published or implied, and the equations between them."""

    def __init__(self, margins: Sequence[Margin], min_count: int, can_be_empty: bool):
        self.min_count, self.floor = min_count, 0 if can_be_empty else 1
        tables: dict[frozenset[str], _Table] = {}
        self.of: list[np.ndarray] = []
        begin = 0
        for margin in margins:
            order = sorted(range(len(margin.columns)), key=lambda i: margin.columns[i])
            names = tuple(margin.columns[i] for i in order)
            labels = [tuple(label[i] for i in order) for label in margin.labels]
            if frozenset(names) not in tables:  # the same columns in another order are the same groups
                counts = np.asarray(margin.counts, dtype=np.int64).reshape(len(labels), -1)
                tables[frozenset(names)] = _Table(names, {label: begin + g for g, label in enumerate(labels)}, counts)
                begin += len(labels)
            cells = tables[frozenset(names)].cells
            self.of.append(np.array([cells[label] for label in labels], dtype=np.int64))
        self.published = np.ones(begin, dtype=bool)
        for names in _intersections(tables):
            made = _implied(names, tables, begin)
            tables[frozenset(names)] = made
            begin += len(made.cells)
        self.published = np.arange(begin) < len(self.published)
        self.counts = np.concatenate([table.counts for table in tables.values()])
        self.size = self.counts.sum(axis=1)
        self.links = [
            _link(fine, coarse)
            for fine in tables.values()
            for coarse in tables.values()
            if frozenset(coarse.columns) < frozenset(fine.columns)
        ]
        self.hidden = self.published & ((self.counts > 0) & (self.counts < min_count)).any(axis=1)

    def known(self) -> np.ndarray:
        """What is shown, and what one equation after the other gives: those with one unknown have none."""
        known = self.published & ~self.hidden
        while True:
            before = int(known.sum())
            for link in self.links:
                unknown = self._number(link, ~known)
                known[link.children[(unknown + ~known)[link.parents] == 1]] = True
                known[(self._number(link, ~known) == 0) & self._has_children(link)] = True
            if int(known.sum()) == before:
                return known

    def to_hide_by_sums(self, known: np.ndarray) -> np.ndarray:
        """Cells to hide because a hidden one came out, or because what an equation leaves over is too little."""
        came_out, stubborn = self.hidden & known, np.zeros(len(known), dtype=bool)
        open_ = ~known | self.hidden
        for link in self.links:
            number = self._number(link, open_)
            columns = (np.where(open_, count, 0)[link.children] for count in self.counts.T)
            left = np.stack([np.bincount(link.parents, column, len(known)) for column in columns])
            room = np.maximum(number - 1, 0) * self.floor
            too_little = ((left > 0) & (left < self.min_count + room)).any(axis=0)
            bad = known & (number > 0) & (too_little | (number == 1))
            bad |= came_out & self._has_children(link) & (number == 0)
            wanted = self._smallest_shown(link, bad)
            if wanted.size:  # one table after the other: what one needs hidden often serves the next
                return wanted
            stubborn |= bad
        return self._near(stubborn)

    def to_hide_by_bounds(self) -> np.ndarray:
        """Cells to hide because a small count, between the bounds that all equations give it, is plainly a small one."""
        found = np.zeros(len(self.hidden), dtype=bool)
        for count in self.counts.T:
            is_small = self.hidden & (count > 0) & (count < self.min_count)
            if is_small.any():
                found |= is_small & (self._most(count) < self.min_count)
        return self._near(found)

    def to_hide_by_algebra(self, known: np.ndarray) -> np.ndarray:
        """Cells to hide because the equations together leave a hidden one no choice."""
        unknown = np.flatnonzero(~known | self.hidden)
        if not self.hidden.any() or not self.links:
            return _NONE
        column = np.full(len(known), -1)
        column[unknown] = np.arange(len(unknown))
        rows, columns, signs, begin = [], [], [], 0
        for link in self.links:
            parents, which = np.unique(link.parents, return_inverse=True)
            for cells, row, sign in ((link.children, which, 1.0), (parents, np.arange(len(parents)), -1.0)):
                is_unknown = column[cells] >= 0
                rows.append(begin + row[is_unknown])
                columns.append(column[cells][is_unknown])
                signs.append(np.full(int(is_unknown.sum()), sign))
            begin += len(parents)
        places = np.concatenate(rows), np.concatenate(columns)
        matrix = sparse.csr_array((np.concatenate(signs), places), shape=(begin, len(unknown)))
        random = np.random.default_rng(_SEED).standard_normal(len(unknown))
        fitted = linalg.lsmr(matrix.T, random, atol=1e-13, btol=1e-13, conlim=0, maxiter=20_000)[0]
        found = np.zeros(len(known), dtype=bool)
        found[unknown[np.abs(random - matrix.T @ fitted) < DETERMINED]] = True
        return self._near(found & self.hidden)

    def _most(self, count: np.ndarray) -> np.ndarray:
        """The most that every cell can be: bounds shuttled between groups and their sums until none moves.

        Counts of a frame, and weighted shares times people, are rounded by margin and add up roughly: an equation is taken to be
        ``off`` by what it is. Taken to be exact, bounds would pass each other, and leave no choice to anybody.

        Reference: Buzzigoli & Giusti (1999), "An algorithm to calculate the lower and upper bounds of the elements of an
        array given its marginals".
        """
        is_shown = self.published & ~self.hidden
        low = np.where(is_shown, count, np.where(self.published, np.minimum(self.floor, count), 0)).astype(np.int64)
        high = np.where(is_shown, count, count.sum()).astype(np.int64)
        for _ in range(MAX_SHUTTLES):
            before = low.copy(), high.copy()
            for link in self.links:
                has = self._has_children(link)
                off = np.bincount(link.parents, count[link.children], len(low)).astype(np.int64) - count
                least, most = (np.bincount(link.parents, bound[link.children], len(low)).astype(np.int64)
                               for bound in (low, high))  # fmt: skip
                low = np.where(has, np.maximum(low, least - off), low)
                high = np.where(has, np.minimum(high, most - off), high)
                others_least, others_most = least[link.parents] - low[link.children], most[link.parents] - high[link.children]
                high[link.children] = np.minimum(high[link.children], (high + off)[link.parents] - others_least)
                low[link.children] = np.maximum(low[link.children], (low + off)[link.parents] - others_most)
            if (before[0] == low).all() and (before[1] == high).all():
                break
        return high

    def _near(self, cells: np.ndarray) -> np.ndarray:
        """Cells to hide in an equation that has one of ``cells``; all that is shown, if no such equation has any."""
        if not cells.any():
            return _NONE
        for link in self.links:
            bad = cells & self._has_children(link)
            bad[link.parents[cells[link.children]]] = True
            wanted = self._smallest_shown(link, bad)
            if wanted.size:
                return wanted
        return np.flatnonzero(self.published & ~self.hidden & (self.size > 0))

    def _number(self, link: _Links, are: np.ndarray) -> np.ndarray:
        return np.bincount(link.parents, are[link.children], len(are)).astype(np.int64)

    def _has_children(self, link: _Links) -> np.ndarray:
        return np.bincount(link.parents, minlength=len(self.size)) > 0

    def _smallest_shown(self, link: _Links, bad: np.ndarray) -> np.ndarray:
        """Of every equation of ``bad`` parents, the smallest shown child that is not empty; the parent if there is none."""
        can = self.published & ~self.hidden & (self.size > 0)
        usable = can[link.children] & bad[link.parents]
        children, parents = link.children[usable], link.parents[usable]
        order = np.lexsort((children, self.size[children], parents))
        _, first = np.unique(parents[order], return_index=True)
        served = np.zeros(len(bad), dtype=bool)
        served[parents] = True
        return np.concatenate([children[order][first], np.flatnonzero(bad & ~served & can)])


def _intersections(tables: Mapping[frozenset[str], _Table]) -> list[tuple[str, ...]]:
    """Column sets that margins have in common and that are no margin; the finer ones first."""
    sets = {*tables, frozenset[str]()}
    while more := {a & b for a, b in combinations(sets, 2)} - sets:
        sets |= more
    new = [tuple(sorted(columns)) for columns in sets if columns not in tables]
    return sorted(new, key=lambda names: (-len(names), names))


def _implied(names: tuple[str, ...], tables: Mapping[frozenset[str], _Table], begin: int) -> _Table:
    """A margin that nobody asked for, from the smallest that has its columns."""
    fine = min((t for key, t in tables.items() if key > frozenset(names)), key=lambda table: len(table.cells))
    places = [fine.columns.index(name) for name in names]
    labels: dict[tuple[str, ...], int] = {}
    which = [labels.setdefault(tuple(label[i] for i in places), len(labels)) for label in fine.cells]
    counts = np.zeros((len(labels), fine.counts.shape[1]), dtype=np.int64)
    np.add.at(counts, which, fine.counts)
    return _Table(names, {label: begin + g for label, g in labels.items()}, counts)


def _link(fine: _Table, coarse: _Table) -> _Links:
    places = [fine.columns.index(name) for name in coarse.columns]
    found = ((cell, coarse.cells.get(tuple(label[i] for i in places))) for label, cell in fine.cells.items())
    pairs = [pair for pair in found if pair[1] is not None]
    children, parents = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return _Links(children, parents)
