"""A formula and a coding make a model: named coefficients with places in an elimination tree, and designs of shards.

Grouping factors that nest (state, state:county) become levels of the tree; a term goes to the deepest level its levels
determine, everything else to the root. Which chain of factors to eliminate is chosen by the arithmetic it costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fitting import chain as chains
from fitting import splines as smooth
from fitting import terms
from fitting.cell_design import CellDesign, NewLevels
from fitting.coding import Coding
from fitting.errors import ModelError
from fitting.families import Family
from fitting.formula import Formula, GroupTerm, Term
from fitting.members import Combination, Members, Membership, MembershipConfig, with_memberships
from fitting.splines import SplineConfig
from fitting.structures import Structure, StructureConfig
from fitting.terms import Columns, Part
from fitting.tree import Restriction, Tree


class FixedBlock(NamedTuple):
    """One fixed term, ``female`` or ``educ:female``: its named coefficients and their places, shape (num_columns,).

    ``predictor`` is the linear predictor that it belongs to. An own parameter of the likelihood is a block without
    columns whose one name is the parameter's (``is_own``).
    """

    columns: tuple[str, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]
    coefficients: np.ndarray
    full: frozenset[str]  # factors coded with every level, rather than without their reference
    predictor: int = 0
    is_own: bool = False
    centred: frozenset[str] = frozenset()  # numbers that enter centred

    @property
    def is_intercept(self) -> bool:
        """Whether this is the constant of a linear predictor: no columns, and no parameter of the family's own."""
        return not self.columns and not self.is_own


class GroupBlock(NamedTuple):
    """One term ``(1 + female | state)`` or ``s(income)`` of one linear predictor.

    ``name`` is the dimension of its levels in the posterior file, ``variables`` are the names of its coefficients there,
    ``1|state`` and ``female|state``; ``members`` says which levels a cell has. ``coefficients`` has shape (num_levels, k),
    places in the tree's order. ``blocks``, shape (B, m), are the sets of coefficients that share one prior precision, and
    ``entries``, (B, m, m), the places it is added to: a level's k coefficients, or all levels of a term whose structure
    couples them.
    """

    name: str
    columns: tuple[str, ...]
    parts: tuple[Part, ...]
    coefficient_names: tuple[str, ...]
    variables: tuple[str, ...]
    members: Members
    correlated: bool
    level: int
    coefficients: np.ndarray
    blocks: np.ndarray
    entries: np.ndarray
    predictor: int
    structure: Structure | None
    centred: frozenset[str]
    units: tuple[str, ...]
    numbers: tuple[tuple[str, ...], ...]  # of each coefficient: the numbers that it multiplies


@dataclass(frozen=True)
class Model:
    """Coefficients, tree and coding of one formula. ``chain`` names the factors that make the tree's levels."""

    formula: Formula
    family: Family
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
        """Full name of every coefficient, ``1|state[OH]``; empty for padding; shape (D,), not to be written to."""
        return self._coefficient_names

    @cached_property
    def _coefficient_names(self) -> np.ndarray:
        names = np.full(self.tree.num_coefficients, "", dtype=object)
        for block in self.fixed:
            names[block.coefficients] = block.names
        for group in self.groups:
            labels = group.members.labels(self.coding)
            for j, variable in enumerate(group.variables):
                names[group.coefficients[:, j]] = [f"{variable}[{label}]" for label in labels]
        names.setflags(write=False)
        return names

    def block_names(self) -> np.ndarray:
        """The term of every coefficient, ``fixed`` or ``1|state``; shape (D,)."""
        names = np.full(self.tree.num_coefficients, "", dtype=object)
        for block in self.fixed:
            names[block.coefficients] = "fixed"
        for group in self.groups:
            for j, variable in enumerate(group.variables):
                names[group.coefficients[:, j]] = variable
        return names

    def design(
        self, columns: Columns, statistics: Mapping[str, np.ndarray], new_levels: list[NewLevels] | None = None,
        *, within: Restriction | None = None,
    ) -> CellDesign:  # fmt: skip
        """Arrays of some cells from factor codes (int) and raw numerics (float), each of shape (n,).

        A combination of levels never observed at ingest is an error, unless ``new_levels`` is given: then it gets places
        after the model's own and is noted there, for ``fitting.predict`` to draw from the group's distribution.

        Parameters
        ----------
        within
            A part of the tree that has all nodes of these cells: coefficients are numbered there. It has no new levels.
        """
        assert within is None or new_levels is None
        parts: list[tuple[int, int, np.ndarray, np.ndarray | None]] = []
        next_place = self.tree.num_coefficients
        number = np.arange(next_place, dtype=np.int32) if within is None else within.numbers(next_place)
        for g, group in enumerate(self.groups):
            effects = [
                terms.values(self.coding, part, columns, group.centred) for part in group.parts
            ]
            places_of_level = number[group.coefficients.T]
            for located, weight in group.members.locate(self.coding, columns):
                places = [of_level.take(located) for of_level in places_of_level]
                if located.min(initial=0) < 0:
                    unknown = located < 0
                    if new_levels is None:
                        raise ModelError(
                            f"group term of {group.name!r}",
                            f"{int(unknown.sum())} cells with a combination of levels that the dictionary does not have",
                            "every combination known. Ingest the source again",
                        )
                    codes = np.stack([columns[c][unknown] for c in group.columns], axis=1)
                    kinds, which = np.unique(codes, axis=0, return_inverse=True)
                    new_levels.append(NewLevels(g, next_place, len(kinds)))
                    for j, place in enumerate(places):
                        place[unknown] = next_place + which.ravel() * len(places) + j
                    next_place += len(kinds) * len(places)
                for place, effect in zip(places, effects, strict=True):
                    value = effect if weight is None else (weight if effect is None else weight * effect)
                    parts.append((group.level, group.predictor, place, value))
        num_cells = len(next(iter((*columns.values(), *statistics.values()))))  # a lone intercept has no columns
        for block in self.fixed:
            kind, value = terms.fixed_nonzero(
                self.coding, block.columns, block.full, block.centred, columns, num_cells
            )
            place = number[block.coefficients].take(np.minimum(kind, len(block.coefficients) - 1))
            parts.append((0, block.predictor, place, value))
        parts.sort(key=lambda part: -part[0])
        return CellDesign(
            tuple(p[2] for p in parts), tuple(p[3] for p in parts), tuple(p[1] for p in parts), statistics
        )

    def touched_nodes(self, columns: Columns) -> tuple[np.ndarray, ...]:
        """Nodes of the tree that these cells touch, sorted, per level below the root."""
        touched: list[np.ndarray] = []
        for level in range(self.tree.num_levels - 1, -1, -1):
            is_touched = np.zeros(self.tree.num_nodes[level + 1], dtype=bool)
            if touched:
                is_touched[self.tree.parents[level + 1][touched[-1]]] = True
            else:
                factor = self.chain[level]
                is_touched[self.nodes[level][self.coding.locate(factor, [columns[c] for c in factor])]] = True
            touched.append(np.flatnonzero(is_touched))
        return tuple(touched[::-1])

    def restriction(self, columns: Columns) -> Restriction:
        """The part of the tree that these cells touch."""
        return self.tree.restrict(self.touched_nodes(columns))


def build(
    formula: Formula,
    coding: Coding,
    family: Family,
    structures: Mapping[str, StructureConfig] | None = None,
    splines: Mapping[str, SplineConfig] | None = None,
    memberships: Mapping[str, MembershipConfig] | None = None,
) -> Model:
    """Lay the coefficients of a formula out on the cheapest elimination tree.

    Every linear predictor of the family has coefficients of its own for all terms of the formula.

    Parameters
    ----------
    structures
        Structured priors by the name of a group term's coefficient (``1|age``). The structure couples the levels of the
        term's last column, within each combination of the others.
    splines, memberships
        Smooth terms by their columns; grouping factors that stand for several columns. Both have their place at the root.

    Raises
    ------
    ModelError
        A column has no coding, a grouping column is not a factor, or a spline's column not a number.
    """
    coding = with_memberships(coding, memberships or {})
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
    chosen = dict(structures or {})
    coding = _completed(formula, coding, chosen)
    grouped: list[_Term] = []
    for p, prefix in enumerate(family.prefixes):
        for group in formula.groups:
            structure = _structure_of(formula, group, chosen)
            grouped.append(_group_term(coding, group, prefix, p, structure, (memberships or {}).get(group.columns[0])))
        grouped += [_spline_term(coding, formula, prefix, p, c, config) for c, config in (splines or {}).items()]
    fixed_columns = _fixed_columns(formula, coding, family)
    num_fixed = sum(len(block.names) for block in fixed_columns)
    chain = chains.choose([(one.owner, one.size) for one in grouped], num_fixed, coding)
    nodes, parents = chains.nodes(chain, coding)

    used = [np.zeros(1, dtype=np.int64) + num_fixed, *(np.zeros(len(n), dtype=np.int64) for n in nodes)]
    placed: list[tuple[int, np.ndarray, np.ndarray]] = []
    for one in grouped:
        level = chains.level_of(one.owner, chain, coding)
        owner = chains.owners(one.owner, level, chain, nodes, coding)
        placed.append((level, owner, used[level][owner] + _rank_within(owner) * one.size))
        used[level] += np.bincount(owner, minlength=len(used[level])) * one.size
    block_sizes = tuple(max(1, int(u.max(initial=0))) for u in used)
    tree = Tree(block_sizes, tuple(parents))

    fixed, start = [], 0
    for block in fixed_columns:
        fixed.append(block._replace(coefficients=np.arange(start, start + len(block.names))))
        start += len(block.names)
    groups = []
    for one, (level, owner, slot) in zip(grouped, placed, strict=True):
        first = tree.coefficient_starts[level] + owner * block_sizes[level] + slot
        blocks = (first[:, None] + np.arange(one.size)).reshape(-1, one.block_size)
        entries = tree.row_start[blocks][:, :, None] + tree.path_position[blocks][:, None, :]
        groups.append(GroupBlock(
            one.name, one.columns, one.parts, one.names, one.variables, one.members, one.correlated, level,
            blocks.reshape(-1, len(one.names)), blocks, entries, one.predictor, one.structure, one.centred, one.units,
            one.numbers,
        ))  # fmt: skip
    return Model(formula, family, coding, tree, chain, tuple(nodes), tuple(fixed), tuple(groups))


class _Term(NamedTuple):
    """One group term of one linear predictor, before it has its places.

    ``owner`` are the columns whose levels own ``size`` coefficients each, in blocks of ``block_size`` with one prior.
    """

    name: str
    columns: Term
    parts: tuple[Part, ...]
    names: tuple[str, ...]
    variables: tuple[str, ...]
    members: Members
    correlated: bool
    predictor: int
    owner: Term
    size: int
    block_size: int
    structure: Structure | None
    centred: frozenset[str]
    units: tuple[str, ...]
    numbers: tuple[tuple[str, ...], ...]


def _group_term(
    coding: Coding, group: GroupTerm, prefix: str, predictor: int, config: StructureConfig | None,
    membership: MembershipConfig | None,
) -> _Term:  # fmt: skip
    name = ":".join(group.columns)
    parts = terms.expand(coding, group.coefficients, group.beside)
    names = tuple(prefix + terms.part_name(coding, part) for part in parts)
    # independence of intercept and slope is a statement about the zero that the data have
    centred = terms.centred_columns(coding, group.coefficients) if group.correlated else frozenset()
    of_part = [(*part.numerics, *(column for column, _ in part.indicators)) for part in parts]
    units = tuple(terms.unit(coding, columns, group.coefficients, centred) for columns in of_part)
    owner, size, block_size, structure = group.columns, len(names), len(names), None
    members: Members = Combination(group.columns)
    if membership is not None:
        members = Membership(name, membership)
        owner, size = (), len(coding.factors[name]) * len(names)
    if config is not None:
        if len(names) > 1:
            raise ModelError(f"structured prior of {str(group)!r}", "a slope on a factor", "one coefficient a level")
        levels = coding.factors[group.columns[-1]]
        owner, size, block_size, structure = group.columns[:-1], len(levels), len(levels), config.build(levels)
    return _Term(
        name, group.columns, tuple(parts), names, tuple(f"{n}|{name}" for n in names), members,
        group.correlated, predictor, owner, size, block_size, structure, centred, units,
        tuple(part.numerics for part in parts),
    )  # fmt: skip


def _spline_term(
    coding: Coding, formula: Formula, prefix: str, predictor: int, column: str, config: SplineConfig
) -> _Term:
    members = smooth.spline(column, config, coding)
    structure = smooth.prior(config, has_linear=(column,) in formula.fixed)
    names = (prefix + smooth.name(column),)
    return _Term(
        f"basis({column})",
        (),
        (Part((), ()),),
        names,
        names,
        members,
        False,
        predictor,
        (),
        config.df,
        config.df,
        structure,
        frozenset(),
        ("",),
        ((),),
    )


def _structure_of(
    formula: Formula, group: GroupTerm, structures: Mapping[str, StructureConfig]
) -> StructureConfig | None:
    found = [structures[name] for name in group.names if name in structures]
    if found and len(group.names) > 1:
        raise ModelError(
            f"structured prior of {str(group)!r}", f"a term with {len(group.names)} coefficients",
            "one coefficient in the term. Write the others as a term of their own, with '||'",
        )  # fmt: skip
    return found[0] if found else None


def _completed(formula: Formula, coding: Coding, structures: Mapping[str, StructureConfig]) -> Coding:
    """The coding with every level of the coupled column inside every observed combination of the term's others."""
    groups = dict(coding.groups)
    for group in formula.groups:
        if _structure_of(formula, group, structures) is None:
            continue
        inner = np.arange(len(coding.factors[group.columns[-1]]))
        owner = group.columns[:-1]
        if len(owner) > 1:
            groups.setdefault(owner, np.unique(coding.group_levels(group.columns)[:, :-1], axis=0))
        outer = coding._replace(groups=groups).group_levels(owner)
        rows = [np.repeat(outer, len(inner), axis=0), np.tile(inner, len(outer))[:, None]]
        groups[group.columns] = np.concatenate(rows, axis=1)
    return coding._replace(groups=groups)


def _fixed_columns(formula: Formula, coding: Coding, family: Family) -> list[FixedBlock]:
    """The fixed terms of every linear predictor, then the likelihood's own parameters; still without places."""
    nowhere = np.empty(0, dtype=np.int64)
    wanted = [term for term in formula.fixed if term or family.has_intercept]
    out = []
    # the reference level of a factor is left out where cutpoints stand in for the intercept, too
    full_of = dict(zip(formula.fixed, terms.full_factors(coding, formula.fixed), strict=True))
    centred = terms.centred_columns(coding, formula.fixed, has_constant=not family.has_intercept)
    for predictor, prefix in enumerate(family.prefixes):
        for term in wanted:
            names = tuple(prefix + n for n in terms.fixed_names(coding, term, full_of[term]))
            units = (terms.unit(coding, term, formula.fixed, centred),) * len(names)
            out.append(FixedBlock(term, names, units, nowhere, full_of[term], predictor, centred=centred))
    for k, name in enumerate(family.own):
        where = terms.unit(coding, (), formula.fixed, centred) if name in family.locations else ""
        out.append(FixedBlock((), (name,), (where,), nowhere, frozenset(), len(family.prefixes) + k, is_own=True))
    return out


def _rank_within(owner: np.ndarray) -> np.ndarray:
    """Running number of each element among those with the same owner."""
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=1)
    first = np.cumsum(counts) - counts
    rank = np.empty(len(owner), dtype=np.int64)
    rank[order] = np.arange(len(owner)) - first[owner[order]]
    return rank
