"""Draws of a user's model by site: globals once, locals of all shards along one labelled axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fitting.user_model import Place, Program, Shard

SHARD = "shard"


class Variable(NamedTuple):
    """Draws (chain, draw, *shape), and the names of the dimensions of ``shape``."""

    dims: tuple[str, ...]
    values: np.ndarray


def names(program: Program) -> list[str]:
    """Names of the unconstrained global coordinates: ``tau``, ``beta[0]``, ``beta[1]``."""
    out: list[str] = []
    for place in program.global_places:
        out += [place.name if not place.shape else f"{place.name}[{','.join(map(str, index))}]" for index in np.ndindex(*place.shape)]  # fmt: skip
    return out


def assemble(
    shards: Sequence[Shard], programs: Sequence[Program], values: Sequence[Mapping[str, np.ndarray]],
    levels: Mapping[str, Sequence[str]], num_chains: int,
) -> tuple[dict[str, Variable], dict[str, list[str]]]:  # fmt: skip
    """Variables by site, and labels by dimension.

    A site in the plate of a local factor gets that factor's levels, shard after shard, without padding. Any other local site
    gets a dimension ``shard``. A site whose shape differs from shard to shard otherwise is left out.

    Parameters
    ----------
    values
        By shard: site to values at all draws, (M, ...), chains one after the other.
    levels
        Levels of the global factors.
    """
    sharded = programs[0].sharded
    coords: dict[str, list[str]] = {SHARD: [shard.shard_id for shard in shards]}
    variables: dict[str, Variable] = {}
    local = {f: [level for shard in shards for level in shard.levels[f]] for f in sharded.local_factors}
    for name in values[0]:
        parts = [np.asarray(v[name]) for v in values]
        axes = dict(_place(programs[0], name).axes)
        inside = [axis for axis, plate in axes.items() if plate in local]
        if name in sharded.global_sites:
            whole, labels = parts[0], {}
        elif inside:
            factor, axis = axes[inside[0]], 1 + inside[0]
            trimmed = [np.take(p, range(len(s.levels[factor])), axis) for p, s in zip(parts, shards, strict=True)]
            if len({t.shape[:axis] + t.shape[axis + 1 :] for t in trimmed}) > 1:
                continue
            whole, labels = np.concatenate(trimmed, axis=axis), {inside[0]: factor}
            coords[factor] = local[factor]
        elif len({part.shape for part in parts}) > 1:
            continue
        elif all(np.array_equal(part, parts[0]) for part in parts[1:]):
            whole, labels = parts[0], {}
        else:
            whole, labels, axes = np.stack(parts, axis=1), {0: SHARD}, {1 + a: plate for a, plate in axes.items()}
        dims = []
        for axis, size in enumerate(whole.shape[1:]):
            plate = labels.get(axis) or axes.get(axis)
            if plate not in (*local, SHARD) and len(levels.get(plate or "", ())) != size:
                plate = f"{name}_dim_{axis}"
            assert plate is not None
            coords.setdefault(plate, list(levels[plate]) if plate in levels else [str(i) for i in range(size)])
            dims.append(plate)
        variables[name] = Variable(tuple(dims), whole.reshape(num_chains, -1, *whole.shape[1:]))
    return variables, coords


def _place(program: Program, name: str) -> Place:
    places = (*program.global_places, *program.local_places, *program.derived_places)
    return next(place for place in places if place.name == name)
