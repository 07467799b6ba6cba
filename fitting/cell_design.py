"""What cells say to a model: the coefficients that each of them touches, with their multipliers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np


class NewLevels(NamedTuple):
    """Levels of group term number ``group`` that no data informed: their first place after the model's own, and how many."""

    group: int
    start: int
    num_levels: int


class CellDesign(NamedTuple):
    """What a shard's cells say to the model: K nonzeros of the linear predictors a cell, deepest level first.

    ``places[j]`` holds the coefficient of the j-th nonzero of each cell, shape (n,), ``values[j]`` its multiplier,
    None for ones, and ``predictors[j]`` the linear predictor that it is part of. ``statistics`` are the family's
    sufficient statistics, each of shape (n,).
    """

    places: tuple[np.ndarray, ...]
    values: tuple[np.ndarray | None, ...]
    predictors: tuple[int, ...]
    statistics: Mapping[str, np.ndarray]

    @property
    def num_cells(self) -> int:
        """Number of cells, n."""
        return len(self.places[0])

    @property
    def num_predictors(self) -> int:
        """Number of linear predictors: one, or one a category."""
        return max(self.predictors) + 1

    def runs(self, size: int) -> Iterator[slice]:
        """Consecutive runs of at most so many cells."""
        return (slice(begin, min(begin + size, self.num_cells)) for begin in range(0, self.num_cells, size))

    def some(self, cells: slice | np.ndarray) -> CellDesign:
        """The same of some of the cells; of a slice no array is copied."""
        return self._replace(
            places=tuple(place[cells] for place in self.places),
            values=tuple(None if value is None else value[cells] for value in self.values),
            statistics={name: column[cells] for name, column in self.statistics.items()},
        )
