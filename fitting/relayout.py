"""A site moved from one layout of a model's coefficients to another.

A structured prior couples levels, so its term moves to another node of the elimination tree, and every place changes. The
likelihood does not: a site is a matrix over named coefficients, and is written down again where the names now are.
"""

from __future__ import annotations

import numpy as np

from fitting.errors import ModelError
from fitting.model import Model
from fitting.sites import Site
from fitting.tree import Tree

Nodes = tuple[np.ndarray, ...]


def move(old: Model, new: Model, nodes: Nodes, site: Site, onto: Nodes | None = None) -> tuple[Nodes, Site]:
    """The site on the part of the new model's tree that its coefficients touch, and the nodes of that part.

    ``onto`` are the nodes that the shard's cells touch, where they are known: not all coefficients of the old part need be
    in cells.

    Raises
    ------
    ModelError
        The new model has no place for a coefficient of the site, or for a pair of them.
    """
    place = _new_places(old, new)
    before = old.tree.restrict(nodes)
    touched = place[before.coefficients]
    known = touched >= 0
    nodes_now = _touched_nodes(new.tree, touched[known]) if onto is None else onto
    after = new.tree.restrict(nodes_now)
    inverse = np.full(new.tree.num_coefficients, -1)
    inverse[after.coefficients] = np.arange(len(after.coefficients))
    local = np.where(known, inverse[np.maximum(touched, 0)], -1)
    known = local >= 0
    if site.precision[before.tree.diagonal][~known].any():
        raise ModelError("site", "coefficients that the model no longer has", "the same terms and levels. Fit again")
    shift = np.zeros(after.tree.num_coefficients)
    shift[local[known]] = site.shift[known]
    reference = np.zeros(after.tree.num_coefficients if len(site.reference) else 0)
    reference[local[known] if len(reference) else []] = site.reference[known] if len(reference) else []
    return nodes_now, Site(_move_entries(before.tree, after.tree, local, site.precision), shift, site.constants, reference)


def _new_places(old: Model, new: Model) -> np.ndarray:
    """Place in the new model of every coefficient of the old one, shape (D,); -1 for padding."""
    names = new.coefficient_names()
    place = {name: i for i, name in enumerate(names.tolist()) if name}
    return np.array([place.get(name, -1) for name in old.coefficient_names().tolist()], dtype=np.int64)


def _node_of(tree: Tree) -> np.ndarray:
    """Node, within its level, of each coefficient, shape (D,)."""
    return np.concatenate([np.repeat(np.arange(n), k) for n, k in zip(tree.num_nodes, tree.block_sizes, strict=True)])


def _touched_nodes(tree: Tree, coefficients: np.ndarray) -> Nodes:
    level, node = tree.level_of[coefficients], _node_of(tree)[coefficients]
    found: list[np.ndarray] = []
    below = np.empty(0, dtype=np.int64)
    for depth in range(tree.num_levels, 0, -1):
        own = np.unique(np.concatenate([node[level == depth], below]))
        found.append(own)
        below = tree.parents[depth - 1][own]
    return tuple(found[::-1])


def _move_entries(old: Tree, new: Tree, local: np.ndarray, entries: np.ndarray) -> np.ndarray:
    out = np.zeros(new.num_entries)
    level, node = new.level_of, _node_of(new)
    rows, columns = _pairs(old)
    kept = np.flatnonzero(entries)
    values = entries[kept]
    a, b = local[rows[kept]], local[columns[kept]]
    shallower = level[a] < level[b]
    a, b = np.where(shallower, b, a), np.where(shallower, a, b)  # rows are the deeper ones
    if not np.array_equal(_ancestor(new, node[a], level[a], level[b]), node[b]):
        raise ModelError(
            "site", "a pair of coefficients that are not on one path of the tree", "the same cells. Fit again"
        )
    out[new.row_start[a] + new.path_position[b]] = values
    same = level[a] == level[b]
    out[new.row_start[b[same]] + new.path_position[a[same]]] = values[same]
    return out


def _pairs(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of row and column of each stored entry, shapes (E,)."""
    rows, columns = [], []
    path: np.ndarray | None = None
    for level, (n, k) in enumerate(zip(tree.num_nodes, tree.block_sizes, strict=True)):
        own = tree.coefficient_starts[level] + np.arange(n * k).reshape(n, k)
        path = own if path is None else np.concatenate([path[tree.parents[level - 1]], own], axis=1)
        rows.append(np.repeat(own.ravel(), path.shape[1]))
        columns.append(np.repeat(path, k, axis=0).ravel())
    return np.concatenate(rows), np.concatenate(columns)


def _ancestor(tree: Tree, node: np.ndarray, level: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Ancestor of each node at a level at or above its own."""
    node = node.copy()
    for depth in range(tree.num_levels, 0, -1):
        step = (level >= depth) & (wanted < depth)
        node[step] = tree.parents[depth - 1][node[step]]
    return node
