"""Intrinsic conditional autoregression on a map: each area near the mean of its neighbours (Besag, York & Mollié 1991).

Every connected part of the map has its own sum held at zero, and an area without neighbours is exchangeable with the
others (Freni-Sterrantino, Ventrucci & Rue 2018, Spatial and Spatio-temporal Epidemiology 26).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fitting.errors import ModelError
from fitting.structures.base import CONSTRAINT_SD, Spectral, StructureBase, scaled

Pairs = tuple[tuple[str, str], ...]


class MapConfig(StructureBase):
    """What structures on a map share."""

    neighbours: str | Pairs = Field(
        description="A CSV file with two columns, a pair of neighbouring levels in each row; or the pairs themselves."
    )

    def pairs(self) -> Pairs:
        """The pairs; a file has been read by whoever read the config."""
        if isinstance(self.neighbours, str):
            raise ModelError("neighbours", f"the file {self.neighbours!r}, not read", "pairs of levels")
        return self.neighbours


class IcarConfig(MapConfig):
    """``{structure: icar, neighbours: map.csv}``."""

    structure: Literal["icar"] = "icar"

    def build(self, levels: Sequence[str]) -> Spectral:
        """The structure for a factor with these levels."""
        vectors, values, held = spectrum(levels, self.pairs(), "icar")
        return Spectral(vectors, np.where(held > 0, CONSTRAINT_SD**-2 / np.maximum(held, 1), values))


def spectrum(levels: Sequence[str], pairs: Pairs, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvectors, (m, m), and values, (m,), of the scaled precision, islands 1; and which directions are held at zero.

    The last has shape (m,): the number of areas in the connected part whose constant it is, 0 for the others.

    Raises
    ------
    ModelError
        A pair of a level with itself, no pair of levels of the factor, or levels that the pairs do not name.
    """
    place = {level: i for i, level in enumerate(levels)}
    edges = {(min(place[a], place[b]), max(place[a], place[b])) for a, b in pairs if a in place and b in place}
    if any(a == b for a, b in edges):
        raise ModelError(f"structure: {name}, neighbours", "an area beside itself", "pairs of different areas")
    if not edges:
        raise ModelError(
            f"structure: {name}, neighbours", f"no pair of levels of the factor (such as {', '.join(levels[:3])})",
            "names as in the data",
        )  # fmt: skip
    named = {level for pair in pairs for level in pair}
    unknown = [level for level in levels if level not in named]
    if len(unknown) > len(levels) / 2:
        raise ModelError(
            f"structure: {name}, neighbours", f"{len(unknown)} of {len(levels)} levels that no pair names, such as {unknown[0]!r}",
            "neighbours of most levels. Compare the names of the map with those of the data",
        )  # fmt: skip
    size = len(levels)
    a, b = np.array(sorted(edges)).T
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(size, size))
    _, part = connected_components(graph, directed=False)
    vectors, values, held = np.zeros((size, size)), np.zeros(size), np.zeros(size, dtype=np.int64)
    column = 0
    for component in range(part.max() + 1):
        members = np.flatnonzero(part == component)
        here = slice(column, column + len(members))
        column += len(members)
        if len(members) == 1:
            vectors[members[0], here], values[here] = 1.0, 1.0
            continue
        inside = np.isin(a, members)
        local = np.searchsorted(members, np.stack([a[inside], b[inside]]))
        laplacian = np.zeros((len(members), len(members)))
        laplacian[local[0], local[1]] = laplacian[local[1], local[0]] = -1.0
        laplacian -= np.diag(laplacian.sum(axis=1))
        own, eigenvalues, null = scaled(laplacian)
        vectors[members, here], values[here] = own, eigenvalues
        held[here] = np.where(null, len(members), 0)
    return vectors, values, held
