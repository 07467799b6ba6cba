"""A formula and a coding make a model: named coefficients with places in an elimination tree, and designs of shards.

Grouping factors that nest (state, state:county) become levels of the tree; a term goes to the deepest level its levels
determine, everything else to the root. Which chain of factors to eliminate is chosen by the arithmetic it costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np

from fitting import chain as chains
from fitting.coding import Coding
from fitting.errors import ModelError
from fitting.formula import Formula
from fitting.tree import Restriction, Tree

Columns = Mapping[str, np.ndarray]
INTERCEPT = "Intercept"


class FixedBlock(NamedTuple):
    """One fixed term, ``female`` or ``educ:female``: its named coefficients and their places, shape (num_columns,)."""

    columns: tuple[str, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]
    coefficients: np.ndarray
    full: frozenset[str]  # factors coded with every level, rather than without their reference


class GroupBlock(NamedTuple):
    """One term ``(1 + female | state)``.

    ``coefficients`` has shape (num_levels, k), places in the tree's order; ``entries`` (num_levels, k, k), places of
    the block that a prior precision is added to.
    """

    name: str
    columns: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    coefficient_names: tuple[str, ...]
    correlated: bool
    level: int
    coefficients: np.ndarray
    entries: np.ndarray


class NewLevels(NamedTuple):
    """Levels of group term number ``group`` that no data informed: their first place after the model's own, and how many."""

    group: int
    start: int
    num_levels: int


class CellDesign(NamedTuple):
    """What a shard's cells say to the model: K nonzeros of the linear predictor a cell, deepest level first.

    ``places[j]`` holds the coefficient of the j-th nonzero of each cell, shape (n,), and ``values[j]`` its multiplier,
    None for ones. ``statistics`` are the family's sufficient statistics, each of shape (n,).
    """

    places: tuple[np.ndarray, ...]
    values: tuple[np.ndarray | None, ...]
    statistics: Mapping[str, np.ndarray]

    @property
    def num_cells(self) -> int:
        return len(self.places[0])


@dataclass(frozen=True)
class Model:
    """Coefficients, tree and coding of one formula. ``chain`` names the factors that make the tree's levels."""

    formula: Formula
    family: str
    coding: Coding
    tree: Tree
    chain: tuple[tuple[str, ...], ...]
    nodes: tuple[np.ndarray, ...]  # per level of the chain: node of each level of its factor
    fixed: tuple[FixedBlock, ...]
    groups: tuple[GroupBlock, ...]

    @cached_property
    def is_padding(self) -> np.ndarray:
        """Coefficients that only fill ragged blocks, shape (D,)."""
        used = [*(block.coefficients for block in self.fixed), *(group.coefficients.ravel() for group in self.groups)]
        mask = np.ones(self.tree.num_coefficients, dtype=bool)
        mask[np.concatenate(used)] = False
        return mask

    def coefficient_names(self) -> np.ndarray:
        """Full name of every coefficient, ``1|state[OH]``; empty for padding; shape (D,)."""
        names = np.full(self.tree.num_coefficients, "", dtype=object)
        for block in self.fixed:
            names[block.coefficients] = block.names
        for group in self.groups:
            labels = self.coding.group_labels(group.columns)
            for j, coefficient in enumerate(group.coefficient_names):
                names[group.coefficients[:, j]] = [f"{coefficient}|{group.name}[{label}]" for label in labels]
        return names

    def block_names(self) -> np.ndarray:
        """The term of every coefficient, ``fixed`` or ``1|state``; shape (D,)."""
        names = np.full(self.tree.num_coefficients, "", dtype=object)
        for block in self.fixed:
            names[block.coefficients] = "fixed"
        for group in self.groups:
            for j, coefficient in enumerate(group.coefficient_names):
                names[group.coefficients[:, j]] = f"{coefficient}|{group.name}"
        return names

    def design(
        self, columns: Columns, statistics: Mapping[str, np.ndarray], new_levels: list[NewLevels] | None = None
    ) -> CellDesign:
        """Arrays of some cells from factor codes (int) and raw numerics (float), each of shape (n,).

        A combination of levels never observed at ingest is an error, unless ``new_levels`` is given: then it gets places
        after the model's own and is noted there, for ``fitting.predict`` to draw from the group's distribution.
        """
        parts: list[tuple[int, np.ndarray, np.ndarray | None]] = []
        next_place = self.tree.num_coefficients
        for g, group in enumerate(self.groups):
            located = self.locate(group, columns)
            unknown = located < 0
            places = group.coefficients[located]
            if unknown.any():
                if new_levels is None:
                    raise ModelError(
                        f"group term of {group.name!r}",
                        f"{int(unknown.sum())} cells with a combination of levels that the dictionary does not have",
                        "every combination known. Ingest the source again",
                    )
                codes = np.stack([columns[c][unknown] for c in group.columns], axis=1)
                kinds, which = np.unique(codes, axis=0, return_inverse=True)
                size = len(group.coefficient_names)
                new_levels.append(NewLevels(g, next_place, len(kinds)))
                places[unknown] = next_place + which.reshape(-1, 1) * size + np.arange(size)
                next_place += len(kinds) * size
            for j, part in enumerate(_expand(self.coding, group.parts)):
                parts.append((group.level, places[:, j].astype(np.int32), _values(self.coding, part, columns)))
        num_cells = len(next(iter((*columns.values(), *statistics.values()))))  # a lone intercept has no columns
        for block in self.fixed:
            place, value = _fixed_nonzero(self.coding, block, columns, num_cells)
            parts.append((0, place, value))
        parts.sort(key=lambda part: -part[0])
        return CellDesign(tuple(p[1] for p in parts), tuple(p[2] for p in parts), statistics)

    def locate(self, group: GroupBlock, columns: Columns) -> np.ndarray:
        """Level of each cell in a group, shape (n,); -1 where the combination was never observed."""
        return self.coding.locate(group.columns, np.stack([columns[c] for c in group.columns], axis=1))

    def touched_nodes(self, columns: Columns) -> tuple[np.ndarray, ...]:
        """Nodes of the tree that these cells touch, sorted, per level below the root."""
        touched = []
        for level, factor in enumerate(self.chain):
            located = self.coding.locate(factor, np.stack([columns[c] for c in factor], axis=1))
            touched.append(np.unique(self.nodes[level][located]))
        return tuple(touched)

    def restriction(self, columns: Columns) -> Restriction:
        """The part of the tree that these cells touch."""
        return self.tree.restrict(self.touched_nodes(columns))


def localise(design: CellDesign, restriction: Restriction) -> CellDesign:
    """The same design with coefficients numbered within a restriction."""
    place = np.full(int(restriction.coefficients.max()) + 1, -1, dtype=np.int32)
    place[restriction.coefficients] = np.arange(len(restriction.coefficients), dtype=np.int32)
    return design._replace(places=tuple(place[i] for i in design.places))


def build(formula: Formula, coding: Coding, family: str) -> Model:
    """Lay the coefficients of a formula out on the cheapest elimination tree.

    Raises
    ------
    ModelError
        A column has no coding, or a grouping column is not a factor.
    """
    for column in {c for g in formula.groups for c in g.columns}:
        if column not in coding.factors:
            raise ModelError(
                f"grouping column {column!r}", f"the factors {sorted(coding.factors)}", "the column among them"
            )
    for term in [*formula.fixed, *(p for g in formula.groups for p in g.coefficients)]:
        for column in term:
            if column not in coding.factors and column not in coding.numerics:
                raise ModelError(
                    f"predictor {column!r}",
                    f"the columns {sorted([*coding.factors, *coding.numerics])}",
                    "the predictor among them",
                )
    sizes = [len(_expand(coding, group.coefficients)) for group in formula.groups]
    terms = [(group.columns, size) for group, size in zip(formula.groups, sizes, strict=True)]
    chain = chains.choose(terms, len(formula.fixed), coding)
    nodes, parents = chains.nodes(chain, coding)
    levels = [chains.level_of(group.columns, chain, coding) for group in formula.groups]

    fixed_columns = _fixed_columns(formula, coding)
    num_fixed = sum(len(names) for _, names, _, _ in fixed_columns)
    used = [np.zeros(1, dtype=np.int64) + num_fixed, *(np.zeros(len(n), dtype=np.int64) for n in nodes)]
    slots: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    for group, level, size in zip(formula.groups, levels, sizes, strict=True):
        owner = chains.owners(group.columns, level, chain, nodes, coding)
        rank = _rank_within(owner)
        slots.append(used[level][owner] + rank * size)
        owners.append(owner)
        used[level] += np.bincount(owner, minlength=len(used[level])) * size
    block_sizes = tuple(max(1, int(u.max(initial=0))) for u in used)
    tree = Tree(block_sizes, tuple(parents))

    fixed, start = [], 0
    for columns, names, units, full in fixed_columns:
        fixed.append(FixedBlock(columns, names, units, np.arange(start, start + len(names)), full))
        start += len(names)
    groups = []
    for group, level, size, slot, owner in zip(formula.groups, levels, sizes, slots, owners, strict=True):
        first = tree.coefficient_starts[level] + owner * block_sizes[level] + slot
        coefficients = first[:, None] + np.arange(size)
        entries = tree.row_start[coefficients][:, :, None] + tree.path_position[coefficients][:, None, :]
        parts = tuple(group.coefficients)
        names = tuple(name for part in _expand(coding, parts) for name in [_part_name(coding, part)])
        groups.append(
            GroupBlock(
                ":".join(group.columns), group.columns, parts, names, group.correlated, level, coefficients, entries
            )
        )
    return Model(formula, family, coding, tree, chain, tuple(nodes), tuple(fixed), tuple(groups))


# ---- fixed effects and slopes ----


class _Part(NamedTuple):
    """One coefficient column: a product of numerics and of indicators (column, level)."""

    numerics: tuple[str, ...]
    indicators: tuple[tuple[str, int], ...]


def _full_factors(coding: Coding, terms: Sequence[tuple[str, ...]]) -> list[frozenset[str]]:
    """Which factors of each term keep their reference level.

    R's rule (Chambers & Hastie 1992, *Statistical Models in S*, sec. 2.4.1): a factor loses it where the term without that
    factor is in the model. So `1 + z:educ` has a slope for every level, `1 + z + z:educ` one for all but the reference.
    """
    present, constant, out = {frozenset(term) for term in terms}, () in terms, []
    for term in terms:
        factors = [c for c in term if c in coding.factors]
        full = frozenset(c for c in factors if not (frozenset(term) - {c} in present if len(term) > 1 else constant))
        constant = constant or bool(full and len(term) == 1)  # all levels of a factor add up to the constant
        out.append(full)
    return out


def _levels_used(coding: Coding, column: str, full: frozenset[str]) -> list[int]:
    return [i for i in range(len(coding.factors[column])) if column in full or i != coding.references[column]]


def _expand(coding: Coding, terms: Sequence[tuple[str, ...]]) -> list[_Part]:
    """Coefficient columns of the left of a bar."""
    parts: list[_Part] = []
    for term, full in zip(terms, _full_factors(coding, terms), strict=True):
        combos: list[tuple[tuple[str, int], ...]] = [()]
        for column in (c for c in term if c in coding.factors):
            levels = _levels_used(coding, column, full)
            combos = [(*combo, (column, i)) for combo in combos for i in levels]
        parts += [_Part(tuple(c for c in term if c in coding.numerics), combo) for combo in combos]
    return parts


def _part_name(coding: Coding, part: _Part) -> str:
    words = [*part.numerics, *(f"{column}[{coding.factors[column][level]}]" for column, level in part.indicators)]
    return ":".join(words) if words else "1"


def _numeric(coding: Coding, column: str, columns: Columns) -> np.ndarray:
    numeric = coding.numerics[column]
    values = np.asarray(columns[column], dtype=np.float64)
    return values if numeric.binary else (values - numeric.center) / numeric.scale


def _values(coding: Coding, part: _Part, columns: Columns) -> np.ndarray | None:
    value: np.ndarray | None = None
    for column in part.numerics:
        x = _numeric(coding, column, columns)
        value = x if value is None else value * x
    for column, level in part.indicators:
        x = (columns[column] == level).astype(np.float64)
        value = x if value is None else value * x
    return value


def _fixed_columns(
    formula: Formula, coding: Coding
) -> list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], frozenset[str]]]:
    """Per fixed term its columns, the names and units of its coefficients, and the factors coded in full."""
    out = []
    for term, full in zip(formula.fixed, _full_factors(coding, formula.fixed), strict=True):
        factors = [c for c in term if c in coding.factors]
        names, units = [], []
        for codes in product(*(_levels_used(coding, c, full) for c in factors)):
            words = [f"{c}[{coding.factors[c][code]}]" for c, code in zip(factors, codes, strict=True)]
            names.append(":".join([c for c in term if c in coding.numerics] + words) or INTERCEPT)
            scaled = [c for c in term if c in coding.numerics and not coding.numerics[c].binary]
            units.append(" x ".join(f"{coding.numerics[c].scale:.4g} of {c}" for c in scaled))
        if not names:
            raise ModelError(
                f"fixed term {':'.join(term)!r}",
                "a factor with a single level",
                "two levels or more. Remove the term from the formula",
            )
        out.append((term, tuple(names), tuple(units), full))
    return out


def _fixed_nonzero(
    coding: Coding, block: FixedBlock, columns: Columns, num_cells: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The one nonzero that a fixed term has in each cell (a factor at its reference has none: value 0)."""
    factors = [c for c in block.columns if c in coding.factors]
    place = np.zeros(num_cells, dtype=np.int64)
    value: np.ndarray | None = None
    for column in factors:
        size, codes = len(coding.factors[column]), np.asarray(columns[column], dtype=np.int64)
        if column not in block.full:
            reference = coding.references[column]
            present = (codes != reference).astype(np.float64)
            value = present if value is None else value * present
            codes, size = np.where(codes > reference, codes - 1, np.minimum(codes, max(size - 2, 0))), size - 1
        place = place * size + codes
    for column in (c for c in block.columns if c in coding.numerics):
        x = _numeric(coding, column, columns)
        value = x if value is None else value * x
    return block.coefficients[np.minimum(place, len(block.coefficients) - 1)].astype(np.int32), value


def _rank_within(owner: np.ndarray) -> np.ndarray:
    """Running number of each element among those with the same owner."""
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=1)
    first = np.cumsum(counts) - counts
    rank = np.empty(len(owner), dtype=np.int64)
    rank[order] = np.arange(len(owner)) - first[owner[order]]
    return rank
