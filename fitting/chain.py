"""Which nesting factors to eliminate: the levels of the tree, chosen by the arithmetic that they cost.

A chain is a sequence of grouping factors, each nested strictly in the one before (state, state:county). A term belongs to
the deepest level whose factor its own levels determine, and to the root if there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fitting.coding import Coding

Factor = tuple[str, ...]
Chain = tuple[Factor, ...]


def choose(terms: Sequence[tuple[Factor, int]], num_fixed: int, coding: Coding) -> Chain:
    """The cheapest chain for group terms, given as (factor, coefficients per level), and ``num_fixed`` fixed terms."""
    factors = [f for f in dict.fromkeys(factor for factor, _ in terms) if len(coding.group_levels(f)) > 1]
    return min([(), *chains(factors, coding)], key=lambda chain: cost(chain, terms, num_fixed, coding))


def chains(factors: Sequence[Factor], coding: Coding) -> Iterator[Chain]:
    """Every chain of some of the factors, at least one."""

    def extend(chain: Chain) -> Iterator[Chain]:
        yield chain
        for factor in factors:
            inside = _nested(factor, chain[-1], coding) and not _nested(chain[-1], factor, coding)
            if factor not in chain and inside:
                yield from extend((*chain, factor))

    for factor in factors:
        yield from extend((factor,))


def cost(chain: Chain, terms: Sequence[tuple[Factor, int]], num_fixed: int, coding: Coding) -> float:
    """Arithmetic of one factorisation, in multiplications."""
    node_of_level, _ = nodes(chain, coding)
    used = [np.full(1, 1 + num_fixed), *(np.zeros(len(n), dtype=np.int64) for n in node_of_level)]
    for factor, size in terms:
        level = level_of(factor, chain, coding)
        owner = owners(factor, level, chain, node_of_level, coding)
        used[level] = used[level] + np.bincount(owner, minlength=len(used[level])) * size
    total, width = 0.0, 0.0
    for counts in used:
        k = float(counts.max())
        total += len(counts) * (k**3 + k * k * width + k * width * width)
        width += k
    return total


def level_of(factor: Factor, chain: Chain, coding: Coding) -> int:
    """Deepest level of the chain that a factor determines; 0 is the root."""
    return max((i for i, outer in enumerate(chain, start=1) if _nested(factor, outer, coding)), default=0)


def nodes(chain: Chain, coding: Coding) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per level: node of each level of its factor, and parent of each node; nodes are sorted by parent."""
    node_of_level: list[np.ndarray] = []
    parents: list[np.ndarray] = []
    for i, factor in enumerate(chain):
        size = len(coding.group_levels(factor))
        above = np.zeros(size, dtype=np.int64)
        if i:
            projected = coding.project(factor, chain[i - 1])
            assert projected is not None, "a chain is nested by construction"
            above = node_of_level[i - 1][projected]
        order = np.argsort(above, kind="stable")
        node = np.empty(size, dtype=np.int64)
        node[order] = np.arange(size)
        node_of_level.append(node)
        parents.append(above[order])
    return node_of_level, parents


def owners(factor: Factor, level: int, chain: Chain, node_of_level: Sequence[np.ndarray], coding: Coding) -> np.ndarray:
    """Node that owns each level of a factor, shape (num_levels,)."""
    if level == 0:
        return np.zeros(len(coding.group_levels(factor)), dtype=np.int64)
    projected = coding.project(factor, chain[level - 1])
    assert projected is not None, "the level was chosen because the factor determines it"
    return node_of_level[level - 1][projected]


def _nested(inner: Factor, outer: Factor, coding: Coding) -> bool:
    return coding.project(inner, outer) is not None
