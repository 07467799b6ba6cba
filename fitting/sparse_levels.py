"""Levels that the data say little of: all outcomes the same, or hardly any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

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
    would with the outcome's mean in common (levels that differ have more: the number expected is a low one).
    """
    by_chance: set[tuple[str, str]] = set()
    if successes is None:
        return by_chance
    names, blocks = hierarchy.model.coefficient_names(), hierarchy.model.block_names()
    for group in hierarchy.model.groups:
        places = group.coefficients[:, 0]
        places = places[np.argsort(-trials[places], kind="stable")]
        places = places[trials[places] >= SEPARATED_TRIALS]
        sizes, positive = trials[places], successes[places]
        mean = positive.sum() / max(sizes.sum(), 1.0)
        last = np.searchsorted(-sizes, -sizes, side="right") - 1  # of the levels of at least this size
        expected = np.cumsum(mean**sizes + (1 - mean) ** sizes)[last]
        found = np.cumsum((positive == 0) | (positive == sizes))[last]
        is_chance = stats.poisson.sf(found - 1, expected) > SEPARATED_LEVEL
        term = str(blocks[places[0]]) if len(places) else ""
        by_chance |= {(term, _level(str(names[place]), term)) for place in places[is_chance & ((positive == 0) | (positive == sizes))]}
    return by_chance


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
