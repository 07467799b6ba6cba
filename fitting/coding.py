"""How columns become numbers: factor levels, centring and scaling, observed groups. Decided once, globally, by the caller.

A shard never encodes anything by itself (method note: one level order, one reference, one scale for every shard).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fitting.errors import ModelError

_TABLE_SIZE = 1 << 20
"""Combinations of levels, observed or not, that are looked up in a table; more are searched for among the observed ones."""


class Numeric(NamedTuple):
    """A numeric predictor: ``center`` and ``scale`` are its mean and sd over the rows (0 and 1 if ``binary``).

    It enters as ``(x - center) / scale`` where that changes no model (`fitting.terms.centred_columns`), else as ``x / scale``; binary
    ones as they are. ``keep_zero``: never centred; ``keep_unit``: not scaled.
    ``minimum`` and ``maximum`` are its smallest and largest raw value, None in dictionaries of before they were kept.
    """

    center: float
    scale: float
    binary: bool
    minimum: float | None = None
    maximum: float | None = None
    keep_zero: bool = False
    keep_unit: bool = False


class OutcomeSummary(NamedTuple):
    """The outcome over all known rows: mean (a rate where there are trials or exposures) and sd, or shares of categories."""

    mean: float
    sd: float
    categories: tuple[str, ...] = ()
    proportions: tuple[float, ...] = ()


class Coding(NamedTuple):
    """The global coding of a run.

    ``groups`` maps a tuple of factor columns to its observed combinations, codes of shape (num_levels, num_columns),
    sorted. ``parents[a][b]`` gives for each level of factor a the level of b it determines, shape (levels of a,).
    """

    factors: Mapping[str, tuple[str, ...]]
    references: Mapping[str, int]
    numerics: Mapping[str, Numeric]
    groups: Mapping[tuple[str, ...], np.ndarray]
    parents: Mapping[str, Mapping[str, np.ndarray]]
    outcome: OutcomeSummary

    @classmethod
    def from_dictionary(cls, dictionary: Mapping[str, Any]) -> Coding:
        """From the JSON of ``dictionary.json`` (see docs/design/house.md)."""
        factors = {name: tuple(entry["levels"]) for name, entry in dictionary["factors"].items()}
        return cls(
            factors=factors,
            references={
                name: factors[name].index(entry["reference"]) if entry.get("reference") in factors[name] else 0
                for name, entry in dictionary["factors"].items()
            },
            numerics={
                name: Numeric(
                    float(entry["center"]),
                    float(entry["scale"]),
                    bool(entry["binary"]),
                    entry.get("minimum"),
                    entry.get("maximum"),
                    bool(entry.get("keep_zero")),
                    bool(entry.get("keep_unit")),
                )
                for name, entry in dictionary["numerics"].items()
            },
            groups={
                tuple(name.split(":")): np.asarray(codes, dtype=np.int64).reshape(len(codes), -1)
                for name, codes in dictionary["groups"].items()
            },
            parents={
                name: {above: np.asarray(codes, dtype=np.int64) for above, codes in entry.items()}
                for name, entry in dictionary["parents"].items()
            },
            outcome=OutcomeSummary(
                float(dictionary["outcome"]["mean"]),
                float(dictionary["outcome"]["sd"]),
                tuple(dictionary["outcome"].get("categories", ())),
                tuple(dictionary["outcome"].get("proportions", ())),
            ),
        )

    def group_levels(self, columns: tuple[str, ...]) -> np.ndarray:
        """Observed combinations of a group of factors, shape (num_levels, num_columns)."""
        if not columns:
            return np.zeros((1, 0), dtype=np.int64)  # no factor: one level, everybody
        if columns in self.groups:
            return self.groups[columns]
        if len(columns) == 1 and columns[0] in self.factors:
            return np.arange(len(self.factors[columns[0]]))[:, None]
        raise ModelError(
            f"group {':'.join(columns)!r}",
            f"a dictionary with the groups {sorted(':'.join(c) for c in self.groups)}",
            "its observed levels among them. Ingest again with this formula",
        )

    def group_labels(self, columns: tuple[str, ...]) -> list[str]:
        """Names of the levels of a group, ``AL:01001``; each its own: a colon in a level of several columns is written ``\\:``."""
        levels = [self.factors[c] for c in columns]
        if len(columns) > 1:
            levels = [tuple(level.replace("\\", "\\\\").replace(":", "\\:") for level in names) for names in levels]
        return [
            ":".join(names[code] for names, code in zip(levels, row, strict=True)) for row in self.group_levels(columns)
        ]

    def locate(self, columns: tuple[str, ...], codes: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Index of each combination of codes, (n,) for each column, among the group's levels; -1 where it was never observed.

        Raises
        ------
        ModelError
            A code that its factor does not have.
        """
        sizes = [len(self.factors[c]) for c in columns]
        known, wanted = _key(self.group_levels(columns).T, sizes), _key(codes, sizes)
        for name, size, column in zip(columns, sizes, codes, strict=True):
            if (highest := column.max(initial=-1)) >= size:
                raise ModelError(
                    f"column {name!r}", f"code {highest}", f"codes below {size}, its levels in the dictionary. Ingest again"
                )
            if column.min(initial=0) < 0:
                wanted[column < 0] = -1
        if (size := math.prod(sizes)) <= _TABLE_SIZE:
            table = np.full(size + 1, -1)  # its last place is that of -1
            table[known] = np.arange(len(known))
            return table.take(wanted)
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[place] == wanted, place, -1)

    def project(self, columns: tuple[str, ...], onto: tuple[str, ...]) -> np.ndarray | None:
        """For each level of a group the level of another that it determines, shape (num_levels,); None if it does not."""
        levels = self.group_levels(columns)
        codes = []
        for column in onto:
            if column in columns:
                codes.append(levels[:, columns.index(column)])
                continue
            owner = next((c for c in columns if column in self.parents.get(c, {})), None)
            if owner is None:
                return None
            codes.append(self.parents[owner][column][levels[:, columns.index(owner)]])
        place = self.locate(onto, codes)
        return None if (place < 0).any() else place


def distinct(codes: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Combinations of codes that occur in (n, num_columns), sorted, (g, num_columns), and the number of each row's, (n,).

    ``sizes`` bound the codes of each column; their product must be below 2^63.
    """
    keys, which = np.unique(_key(codes.T, sizes, len(codes)), return_inverse=True)
    columns: list[np.ndarray] = []
    for size in reversed(sizes):
        keys, column = np.divmod(keys, size)
        columns.append(column)
    return np.stack(columns[::-1], axis=1), which


def _key(columns: Sequence[np.ndarray] | np.ndarray, sizes: Sequence[int], num_rows: int = 0) -> np.ndarray:
    """One number for each combination of codes; ``num_rows`` where there may be no column."""
    key = np.array(columns[0], dtype=np.int64) if len(columns) else np.zeros(num_rows, dtype=np.int64)
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        key *= size
        key += column
    return key
