"""Posterior draws between arrays and files: named variables for people and ArviZ, flat coefficients for arithmetic.

Draws go to the file, and come back from it, in parts, so that no process holds them all: the merge writes them as they are
drawn, a worker reads those of its shard's coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fitting import combiner, families
from fitting.combiner import Draws
from fitting.hierarchy import Hierarchy
from fitting.scale_marginal import Natural
from fitting.scale_source import Source
from fitting.verdict import Sampler
from reporting import draws_file, tables
from reporting.draws_file import Declared
from sharding import storage

POSTERIOR = "posterior.nc"
SUMMARY = "summary.parquet"
UNCONSTRAINED = "hyperparameter"
NUMBERS_AT_ONCE = 1 << 23  # 64 MiB of draws are gathered before they are written, and read before some are picked

_FLOAT = np.dtype(np.float64)


class Part(NamedTuple):
    """Draws ``begin``, ``begin + 1``, ... of a chain: theta (n, D), psi (n, H), and whether each psi is new, (n,)."""

    chain: int
    begin: int
    theta: np.ndarray
    psi: np.ndarray
    moved: np.ndarray


def parts_in_turn(hierarchy: Hierarchy, natural: Natural, source: Source, **options: Any) -> Iterator[Part]:
    """Draw from the merged posterior, a few draws at a time: the very draws of ``combiner.draw``.

    Draws that come again (`combiner.draw_until`, which explains the options) replace the ones before.
    """
    size = max(1, NUMBERS_AT_ONCE // hierarchy.model.tree.num_coefficients)
    some: list[combiner.OneDraw] = []
    for chain, number, one in combiner.draw_until(hierarchy, natural, source, **options):
        some.append(one)
        if len(some) == size or number == source.num_draws - 1:
            theta, psi, moved = (np.stack(values) for values in zip(*some, strict=True))
            yield Part(chain, number + 1 - len(some), theta, psi, moved)
            some.clear()


def write(
    directory: str, hierarchy: Hierarchy, parts: Iterable[Part], name: str, *, num_chains: int, num_draws: int,
    acceptance: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Write ``posterior.nc`` and ``summary.parquet``. The same draws give the same bytes; of a part that comes again the last counts.

    ``acceptance``, one number a chain, is the sampler's own; by default the share of draws whose hyperparameters moved.
    """
    from reporting import summary  # arviz takes a second to import
    from reporting.posterior import Variable

    declared, coords, units = _declared(hierarchy)
    stats = {"unconstrained": Declared((UNCONSTRAINED,), _FLOAT), "acceptance": Declared((), _FLOAT)}
    groups = {"posterior": declared, "sample_stats": stats if hierarchy.size else {}}
    labels = {**coords, UNCONSTRAINED: hierarchy.names(), "sampler": ["combiner"]}
    attrs = {
        "run": name,
        "formula": str(hierarchy.model.formula),
        "family": hierarchy.family.name,
        "link": hierarchy.family.link,
    }
    moved = np.ones((num_chains, num_draws), dtype=bool)
    with storage.publishing_path(storage.join(directory, POSTERIOR)) as path:
        with draws_file.writing(path, groups, labels, attrs, num_chains, num_draws) as file:
            for part in parts:
                moved[part.chain, part.begin : part.begin + len(part.moved)] = part.moved
                for variable, values in _named(hierarchy, part.theta, part.psi):
                    file.put("posterior", variable, part.chain, part.begin, values)
                if hierarchy.size:
                    file.put("sample_stats", "unconstrained", part.chain, part.begin, part.psi)
            shares = [combiner.share_moved(row) for row in moved] if acceptance is None else acceptance
            for chain, share in enumerate(shares if hierarchy.size else ()):
                file.put("sample_stats", "acceptance", chain, 0, np.full(num_draws, share))
        with draws_file.reading(path) as written:
            variables = {v: Variable(dims, written.variable(v)) for v, (dims, _) in declared.items()}
            table = summary.summarise(variables, coords, units)
    storage.publish_bytes(storage.join(directory, SUMMARY), tables.to_parquet(table))


def parts_of(draws: Draws) -> Iterator[Part]:
    """Draws that are in memory, a chain at a time."""
    for chain, (theta, psi) in enumerate(zip(draws.theta, draws.psi, strict=True)):
        yield Part(chain, 0, theta, psi, np.ones(len(psi), dtype=bool))


def _declared(hierarchy: Hierarchy) -> tuple[dict[str, Declared], dict[str, list[str]], dict[str, str]]:
    """Variables in order, labels of their dimensions, and units: fixed effects, group effects, hyperparameters, own parameters."""
    model = hierarchy.model
    declared: dict[str, Declared] = {}
    coords: dict[str, list[str]] = {}
    units: dict[str, str] = {}
    for block in model.fixed:
        for coefficient, unit in zip(block.names, block.units, strict=True):
            declared[coefficient] = Declared((), _FLOAT)
            units[coefficient] = unit
    own = [name for name, _ in families.natural_own(hierarchy.family, np.zeros((1, len(hierarchy.family.own))))]
    taken = {*declared, *hierarchy.names(), *own, *draws_file.SAMPLE_DIMS}
    for group in model.groups:
        dim = group.name
        while dim in taken:  # `1 + year + (1 | year)`: the slope has the name; bambi writes `year_dim` too
            dim += "_dim"
        coords[dim] = group.members.labels(model.coding)
        for variable, unit in zip(group.variables, group.units, strict=True):
            declared[variable] = Declared((dim,), _FLOAT)
            units |= {variable: unit, f"sd({variable})": unit} if unit else {}
    for block in model.fixed:
        if block.names[0] in hierarchy.family.locations and block.units[0]:
            units |= dict.fromkeys(own, block.units[0])
    return declared | {parameter: Declared((), _FLOAT) for parameter in [*hierarchy.names(), *own]}, coords, units


def _named(hierarchy: Hierarchy, theta: np.ndarray, psi: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The variables' draws, from theta (n, D) and psi (n, H)."""
    for block in hierarchy.model.fixed:
        for coefficient, place in zip(block.names, block.coefficients, strict=True):
            yield coefficient, theta[:, place]
    for group in hierarchy.model.groups:
        for j, variable in enumerate(group.variables):
            yield variable, theta[:, group.coefficients[:, j]]
    yield from zip(hierarchy.names(), hierarchy.natural(psi).T, strict=True)
    own = [place for block in hierarchy.model.fixed if block.is_own for place in block.coefficients]
    yield from families.natural_own(hierarchy.family, theta[:, own])


class StoredDraws:
    """Draws in a run's ``posterior.nc``, read where they are sliced.

    ``stored[draws, coefficients]`` is the array (M, n) of some draws, numbered through the chains, and some coefficients;
    each of the two is a slice or an array of numbers.
    """

    def __init__(self, directory: str, hierarchy: Hierarchy, kept: np.ndarray | None = None):
        url = storage.join(directory, POSTERIOR)
        self._copy = None if storage.is_local(url) else _fetched(url, storage.fingerprint(url)["fingerprint"])
        self._file = storage.local_path(url) if self._copy is None else self._copy.file
        self._model = hierarchy.model
        with draws_file.reading(self._file) as file:
            self.num_chains, self.num_draws = file.num_chains, file.num_draws
            every = self.num_chains * self.num_draws
            self._kept = np.arange(every) if kept is None else kept
            if hierarchy.size:
                self.psi = file.variable("unconstrained", "sample_stats")[...].reshape(every, -1)[self._kept]
                self.acceptance = file.variable("acceptance", "sample_stats")[:, 0]
            else:
                self.psi, self.acceptance = np.zeros((len(self._kept), 0)), np.ones(self.num_chains)

    @property
    def shape(self) -> tuple[int, int]:
        """Draws and coefficients, (M, D)."""
        return len(self._kept), self._model.tree.num_coefficients

    def __getitem__(self, key: tuple[slice | np.ndarray, slice | np.ndarray]) -> np.ndarray:
        kept = self._kept[key[0]]
        places = np.arange(self.shape[1])[key[1]]
        out = np.zeros((len(kept), len(places)))
        with draws_file.reading(self._file) as file:
            for block in self._model.fixed:
                for name, place in zip(block.names, block.coefficients, strict=True):
                    wanted = np.flatnonzero(places == place)
                    if len(wanted):
                        out[:, wanted] = file.variable(name)[...].reshape(-1, 1)[kept]
            level = np.empty(self.shape[1], dtype=np.int64)
            for group in self._model.groups:
                for j, variable in enumerate(group.variables):
                    level[:] = -1
                    level[group.coefficients[:, j]] = np.arange(len(group.coefficients))
                    wanted = np.flatnonzero(level[places] >= 0)
                    if len(wanted):
                        self._read(file, variable, kept, level[places[wanted]], out, wanted)
        return out

    def _read(
        self, file: draws_file.DrawsReader, name: str, kept: np.ndarray, levels: np.ndarray, out: np.ndarray,
        columns: np.ndarray,
    ) -> None:  # fmt: skip
        """Put some draws of some levels into the columns of ``out``, reading a run of levels and a few draws at a time."""
        variable = file.variable(name)
        first, last = int(levels.min()), int(levels.max()) + 1
        size = max(1, NUMBERS_AT_ONCE // (last - first))
        for chain in range(self.num_chains):
            for begin in range(0, self.num_draws, size):
                start = chain * self.num_draws + begin
                rows = np.flatnonzero((kept >= start) & (kept < start + min(size, self.num_draws - begin)))
                if len(rows):
                    read = variable[chain, begin : begin + size, first:last]
                    out[np.ix_(rows, columns)] = read[np.ix_(kept[rows] - start, levels - first)]


@lru_cache(maxsize=1)
def _fetched(url: str, fingerprint: str) -> storage.Fetched:
    """A worker keeps its copy of the posterior until there is another one."""
    return storage.Fetched(url)


def unconstrained(directory: str, hierarchy: Hierarchy) -> np.ndarray:
    """All draws of the hyperparameters, (chain, draw, H)."""
    stored = StoredDraws(directory, hierarchy)
    return stored.psi.reshape(stored.num_chains, stored.num_draws, hierarchy.size)


def sampler(directory: str) -> Sampler:
    """Worst R-hat and effective size in ``summary.parquet``."""
    url = storage.join(directory, SUMMARY)
    table = tables.from_parquet(storage.read_bytes(url), url)
    r_hat, ess = (table[name].to_numpy(zero_copy_only=False).astype(float) for name in ("r_hat", "ess_bulk"))
    return Sampler(float(np.nanmax(r_hat)), float(np.nanmin(ess)))
