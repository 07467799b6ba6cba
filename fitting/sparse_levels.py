"""Levels that the data say little of: all outcomes the same, or hardly any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import betaln

from fitting.hierarchy import Hierarchy

SEPARATED_TRIALS = 20
SEPARATED_LEVEL = 0.05
"""With a smaller probability chance does not explain a term's separated levels."""
FEW_TRIALS = 5


def find(hierarchy: Hierarchy, trials: np.ndarray, successes: np.ndarray | None) -> list[dict[str, Any]]:
    """Rows of `term`, `level` and `issue`: `separated`, `few_trials`, `no_trials`. Never their counts: those are people.

    ``trials`` and ``successes`` (None of families without) are totals over the cells that a coefficient takes part in, (D,).
    """
    names, blocks = hierarchy.model.coefficient_names(), hierarchy.model.block_names()
    rows: list[dict[str, Any]] = []
    if successes is not None:
        same = (trials > 0) & ((successes == 0) | (successes == trials)) & ~hierarchy.model.is_padding
        for place in np.flatnonzero(same & ((trials >= SEPARATED_TRIALS) | (blocks == "fixed"))):
            term = str(blocks[place])
            rows.append({"term": term, "level": _level(str(names[place]), term), "issue": "separated"})
        for name, count, positive in _references(hierarchy, trials, successes):
            if count > 0 and positive in (0, count):
                rows.append({"term": "fixed", "level": name, "issue": "separated"})
    for group in hierarchy.model.groups:
        few = group.coefficients[trials[group.coefficients[:, 0]] < FEW_TRIALS, 0]
        rows += [
            {
                "term": str(blocks[p]),
                "level": _level(str(names[p]), str(blocks[p])),
                "issue": "few_trials" if trials[p] else "no_trials",
            }
            for p in few
        ]
    return rows


def separated_by_chance(hierarchy: Hierarchy, trials: np.ndarray, successes: np.ndarray | None) -> set[tuple[str, str]]:
    """Separated levels of group terms, (term, level), that are no wonder among so many: there is nothing to mend.

    Of 170,000 precincts some are. A level is none of them if levels of at least its size have more separated ones than they
    would have if all differed as the others than this one do: shares from a beta distribution with their mean and variance, by
    moments (Kleinman 1973, JASA 68).
    """
    by_chance: set[tuple[str, str]] = set()
    if successes is None:
        return by_chance
    names, blocks = hierarchy.model.coefficient_names(), hierarchy.model.block_names()
    for group in hierarchy.model.groups:
        places = group.coefficients[:, 0]
        places = places[trials[places] >= SEPARATED_TRIALS]
        sizes, positive = trials[places], successes[places]
        separated = (positive == 0) | (positive == sizes)
        kinds = {(sizes[i], positive[i]) for i in np.flatnonzero(separated)} if len(places) > 1 else set()
        for size, value in sorted(kinds):  # levels of one kind are one question
            alike = (sizes == size) & (positive == value)
            others = np.arange(len(places)) != np.argmax(alike)
            different, how_many = np.unique(sizes[sizes >= size], return_counts=True)
            expected = how_many @ _probability_separated(different, sizes[others], positive[others])
            if stats.poisson.sf(separated[sizes >= size].sum() - 1, expected) > SEPARATED_LEVEL:
                term = str(blocks[places[0]])
                by_chance |= {(term, _level(str(names[place]), term)) for place in places[alike]}
    return by_chance


def _probability_separated(sizes: np.ndarray, trials: np.ndarray, successes: np.ndarray) -> np.ndarray:
    """Of levels of these sizes, (L,), under a beta-binomial with the moments of other levels, trials and successes (M,)."""
    mean = successes.sum() / trials.sum()
    within = np.average(mean * (1 - mean) / trials, weights=trials)
    between = np.average((successes / trials - mean) ** 2, weights=trials) - within
    if between <= 1e-6 * mean * (1 - mean):
        return mean**sizes + (1 - mean) ** sizes
    total = max(mean * (1 - mean) / between - 1, 1e-6)
    a, b = mean * total, (1 - mean) * total
    return np.exp(betaln(a + sizes, b) - betaln(a, b)) + np.exp(betaln(a, b + sizes) - betaln(a, b))


def _references(hierarchy: Hierarchy, trials: np.ndarray, successes: np.ndarray) -> Iterator[tuple[str, float, float]]:
    """Reference level of each fixed factor or 0/1 predictor, which has no coefficient of its own: name and outcome totals."""
    coding, fixed = hierarchy.model.coding, hierarchy.model.fixed
    whole = next((block.coefficients for block in fixed if block.is_intercept), None)
    if whole is None:
        return
    for block in fixed:
        if len(block.columns) != 1 or block.full:
            continue
        column = block.columns[0]
        if column in coding.factors:
            name = f"{column}[{coding.factors[column][coding.references[column]]}]"
        elif coding.numerics[column].binary:
            name = f"{column} = 0"
        else:
            continue
        count, positive = (float(x[whole].sum() - x[block.coefficients].sum()) for x in (trials, successes))
        yield name, count, positive


def _level(name: str, term: str) -> str:
    """``OH`` of ``1|state[OH]``; the whole name of a fixed effect."""
    return name[len(term) + 1 : -1] if name.startswith(f"{term}[") else name
