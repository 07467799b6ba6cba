"""What workers do: fit a shard's site, audit it, sum its people's expected outcomes. Tasks carry paths and small arrays.

A worker keeps the model and the shards it has read, so that a later round does not read them again.
"""

from __future__ import annotations

import json
import resource
import sys
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cluster import compile_cache, site_files
from cluster.site_files import SiteFile
from fitting import audit, families, hierarchy, predict, relayout, rounds, sandwich, scale_audit, sites
from fitting.audit import ShardAudit
from fitting.cell_design import CellDesign
from fitting.coding import Coding
from fitting.combiner import Moments
from fitting.config import ModelConfig
from fitting.hierarchy import Hierarchy
from fitting.predict import Calibration
from fitting.scale_audit import ShardRatios
from fitting.sites import Site
from fitting.tree import Restriction
from sharding import storage, store
from sharding.errors import ShardCorruptError, StorageError

if TYPE_CHECKING:
    from cluster.margin_tables import Categories, MarginSums, MarginTable

CACHE_BYTES = 1 << 30


class ModelRef(NamedTuple):
    """Which model: small and hashable, so that a worker builds it once. A structured prior is the JSON of its config.

    ``terms`` is the JSON of the config's splines and memberships, empty without any; the priors of splines are ``priors``.
    """

    directory: str
    dictionary_sha256: str
    formula: str
    family: str
    link: str | None
    priors: tuple[tuple[str, str], ...]
    terms: str = ""

    def layout(self) -> ModelRef:
        """The same without what moves no coefficient: priors that are no structures."""
        return self._replace(priors=tuple((key, text) for key, text in self.priors if text.startswith("{") and "|" in key))


class Sampling(NamedTuple):
    """How NUTS fits a shard's tilted distribution."""

    seed: int
    num_warmup: int
    num_draws: int
    num_chains: int


class SiteTask(NamedTuple):
    """Fit one shard's site. ``moments`` of q on the shard's part are None in round 0, which starts at the anchor."""

    ref: ModelRef
    entry: dict[str, Any]
    number: int
    round: int
    key: str
    path: str
    moments: Moments | None
    site: Site | None
    method: str
    convex: bool
    num_nodes: int
    sampling: Sampling | None


class Together(NamedTuple):
    """Tasks that are one task of the executor: `fit_sites` takes them, and returns as many results."""

    tasks: tuple[SiteTask, ...]


class SiteResult(NamedTuple):
    """A fitted site, how sampling went (empty unless it was sampled), and the most memory its worker has held."""

    file: SiteFile
    info: dict[str, float]
    peak_memory_bytes: int


class PlaceTask(NamedTuple):
    """Find one shard's part of the tree, and put its site of the model ``before``, if ``path`` has it, there."""

    ref: ModelRef
    entry: dict[str, Any]
    before: ModelRef
    path: str | None


class PlacedSite(NamedTuple):
    """Nodes of a shard's part of the tree; its site there, None if it has to be fitted; whether its places are others now."""

    nodes: tuple[np.ndarray, ...]
    file: SiteFile | None
    is_moved: bool


class AuditTask(NamedTuple):
    """Audit one shard at the posterior draws ``kept``, (M,), of the run's ``posterior.nc``, and its part of the audit of the scales."""

    ref: ModelRef
    entry: dict[str, Any]
    path: str
    kept: np.ndarray
    residual_sd: np.ndarray
    moments: Moments
    num_nodes: int
    scales: scale_audit.Part | None


class ScaleTask(NamedTuple):
    """One shard's log ratios at other points of the hyperparameters, with the site as it is on disk; ``covariance`` is q's."""

    ref: ModelRef
    entry: dict[str, Any]
    path: str
    part: scale_audit.Part
    covariance: np.ndarray


class FreshTask(NamedTuple):
    """Make one shard's variational site under other moments; nothing is written."""

    ref: ModelRef
    entry: dict[str, Any]
    moments: Moments
    num_nodes: int


class SumTask(NamedTuple):
    """Sum expected outcomes of one shard's people by margins, at all draws of the run's ``posterior.nc``.

    ``alone`` says of each margin's groups in the shard, (g,), whether all of their people are here; ``outcome`` names
    the categories, if it has any.
    """

    ref: ModelRef
    entry: dict[str, Any]
    nodes: tuple[np.ndarray, ...]
    margins: tuple[tuple[str, ...], ...]
    alone: tuple[np.ndarray, ...]
    interval: float
    outcome: Categories


class ShardGroups(NamedTuple):
    """Whom a shard has: the tree's nodes that its people touch, and each margin's groups, codes (g, columns)."""

    nodes: tuple[np.ndarray, ...]
    kinds: tuple[np.ndarray, ...]


class ShardSums(NamedTuple):
    """One shard's sums by margin of the groups it shares with others, the estimates of its own, and its calibration (of shares only)."""

    margins: tuple[MarginSums, ...]
    tables: tuple[MarginTable, ...]
    calibration: Calibration | None


@lru_cache(maxsize=4)
def build_hierarchy(ref: ModelRef) -> Hierarchy:
    """The model of a run with its priors. The dictionary's checksum is part of the reference: another coding, another model."""
    data = storage.read_bytes(storage.join(ref.directory, store.DICTIONARY))
    found = storage.sha256_bytes(data)
    if found != ref.dictionary_sha256:
        raise ShardCorruptError(
            "dictionary.json", f"sha256 {found[:12]}...", f"{ref.dictionary_sha256[:12]}...", "Run ingest again."
        )
    coding = Coding.from_dictionary(storage.read_json(storage.join(ref.directory, store.DICTIONARY)))
    written = {key: json.loads(text) if text.startswith("{") else text for key, text in ref.priors}
    config = ModelConfig.model_validate(
        {"formula": ref.formula, "family": ref.family, "link": ref.link, "priors": written}
        | (json.loads(ref.terms) if ref.terms else {})
    )
    return hierarchy.of_config(config, coding)


class Shard(NamedTuple):
    """A shard ready for arithmetic: the cells with outcomes, coded on the shard's part of the tree."""

    restriction: Restriction
    nodes: tuple[np.ndarray, ...]
    design: CellDesign


_cache: OrderedDict[tuple[ModelRef, str], Shard] = OrderedDict()


def load_shard(ref: ModelRef, entry: dict[str, Any]) -> Shard:
    """Read a shard, or take it from this process's cache."""
    key = (ref.layout(), entry["sha256"])
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    built = build_hierarchy(ref).model
    columns = store.read_shard(ref.directory, entry)
    has_outcome = columns["num_trials"] > 0
    part = columns if has_outcome.all() else {name: values[has_outcome] for name, values in columns.items()}
    nodes = built.touched_nodes(part)
    restriction = built.tree.restrict(nodes)
    wanted = (*build_hierarchy(ref).family.statistics, *(name for name in sandwich.SQUARED if name in part))
    statistics = {name: part[name].astype(np.float64) for name in wanted}
    shard = Shard(restriction, nodes, built.design(part, statistics, within=restriction))
    _cache[key] = shard
    while len(_cache) > 1 and sum(map(_num_bytes, _cache.values())) > CACHE_BYTES:
        del _cache[_dispensable(key[0])]
    return shard


def _dispensable(layout: ModelRef) -> tuple[ModelRef, str]:
    """Which shard to let go: one of another model, or else the one that was used before the last.

    Rounds go through all shards in turn. Who lets go of the one that was not used for longest has none of them when it comes round.
    """
    return next((key for key in _cache if key[0] != layout), list(_cache)[-2])


def fit_site(task: SiteTask) -> SiteResult:
    """Fit, publish and return one shard's site; a site already there with the task's key is returned as it is."""
    return fit_sites(Together((task,)))[0]


def fit_sites(together: Together) -> list[SiteResult]:
    """`fit_site` of several shards; what NUTS has to sample is sampled side by side.

    If one of these has to be, all are: beside others its draws may be rounded otherwise, and a run that is resumed has the same bytes.
    """
    files = {task.number: site_files.read_if_current(task.path, task.key) for task in together.tasks}
    fitted: dict[int, tuple[Site, dict[str, float]]] = {}
    sampled = []
    for task in together.tasks:
        if task.method == "nuts" and task.site is not None and task.sampling is not None:
            sampled.append(task)
        elif files[task.number] is None:
            fitted[task.number] = _fit_by_quadrature(task), {}
    if any(files[task.number] is None for task in sampled):
        sites_of = zip(sampled, _fit_by_nuts(sampled), strict=True)
        fitted |= {task.number: found for task, found in sites_of}
    results = []
    for task in together.tasks:
        file = files[task.number]
        if file is not None:
            results.append(SiteResult(file, {}, _peak_memory_bytes()))
            continue
        site, info = fitted[task.number]
        file = site_files.commit(task.path, SiteFile(site, load_shard(task.ref, task.entry).nodes, task.key))
        results.append(SiteResult(file, info, _peak_memory_bytes()))
    return results


def _fit_by_quadrature(task: SiteTask) -> Site:
    shard, prior = load_shard(task.ref, task.entry), build_hierarchy(task.ref)
    moments = task.moments or rounds.anchor(prior, shard.restriction)
    covariance = np.zeros_like(moments.covariance) if task.method == "laplace" else moments.covariance
    return sites.fit(
        shard.restriction.tree, shard.design, prior.family, moments.mean, covariance,
        num_nodes=task.num_nodes, convex=task.convex,
    )  # fmt: skip


def _fit_by_nuts(sampled: Sequence[SiteTask]) -> list[tuple[Site, dict[str, float]]]:
    compile_cache.use()
    from fitting import tilted_nuts  # JAX takes a second to import

    sampling = sampled[0].sampling
    assert sampling is not None
    shards = []
    for task in sampled:
        assert task.moments is not None
        assert task.site is not None
        shard, key = load_shard(task.ref, task.entry), tilted_nuts.shard_key(sampling.seed, task.number, task.round)
        shards.append(tilted_nuts.Tilted(key, shard.restriction.tree, shard.design, *task.moments, task.site))
    found = tilted_nuts.fit_together(
        shards, build_hierarchy(sampled[0].ref).family,
        num_warmup=sampling.num_warmup, num_draws=sampling.num_draws, num_chains=sampling.num_chains,
    )  # fmt: skip
    return [(site, {name: float(value) for name, value in info._asdict().items()}) for site, info in found]


def place_site(task: PlaceTask) -> PlacedSite:
    """A shard's part of the tree and the site it had, written down there; a damaged site has to be fitted again."""
    nodes = load_shard(task.ref, task.entry).nodes
    if task.path is None:
        return PlacedSite(nodes, None, False)
    try:
        file = site_files.read(task.path)
    except (ShardCorruptError, StorageError):
        return PlacedSite(nodes, None, False)
    old, new = build_hierarchy(task.before).model, build_hierarchy(task.ref).model
    _, site = relayout.move(old, new, file.nodes, file.site, onto=nodes)
    pairs = zip([*file.nodes, *file.site], [*nodes, *site], strict=False)
    is_moved = len(file.nodes) != len(nodes) or not all(np.array_equal(a, b) for a, b in pairs)
    return PlacedSite(nodes, SiteFile(site, nodes, file.key), is_moved)


def audit_shard(task: AuditTask) -> tuple[ShardAudit, ShardRatios | None]:
    """One shard's part of the audit, with the site as it is on disk."""
    shard = load_shard(task.ref, task.entry)
    file, prior = site_files.read(task.path), build_hierarchy(task.ref)
    theta = _draws(prior, task.ref, shard.restriction, task.kept)
    found = audit.shard(
        shard.restriction.tree, shard.design, prior.family, file.site, theta, task.residual_sd, task.moments,
        num_nodes=task.num_nodes,
    )  # fmt: skip
    if task.scales is None:
        return found, None
    return found, scale_ratios(ScaleTask(task.ref, task.entry, task.path, task.scales, task.moments.covariance))


def scale_ratios(task: ScaleTask) -> ShardRatios:
    """One shard's part of the audit of the scales."""
    shard, family = load_shard(task.ref, task.entry), build_hierarchy(task.ref).family
    site = site_files.read(task.path).site
    return scale_audit.shard(shard.restriction.tree, shard.design, family, site, task.part, task.covariance)


def _draws(prior: Hierarchy, ref: ModelRef, restriction: Restriction, kept: np.ndarray | None = None) -> np.ndarray:
    """Posterior draws of a shard's coefficients, shape (D_s, M): the worker reads its own, nobody sends them."""
    from cluster.posterior_files import StoredDraws

    stored = StoredDraws(ref.directory, prior, kept)
    return np.ascontiguousarray(stored[:, restriction.coefficients].T)


def fresh_site(task: FreshTask) -> Site:
    """The site of a shard under the task's moments, for an audit that has to size a large error."""
    shard, family = load_shard(task.ref, task.entry), build_hierarchy(task.ref).family
    mean, covariance = task.moments
    return sites.fit(shard.restriction.tree, shard.design, family, mean, covariance, num_nodes=task.num_nodes)


def score_variance(task: FreshTask) -> np.ndarray:
    """Variance of a shard's weighted score at the task's mean, shape (E_s,) on the shard's part of the tree."""
    shard, family = load_shard(task.ref, task.entry), build_hierarchy(task.ref).family
    return sandwich.score_variance(shard.restriction.tree, shard.design, family, task.moments.mean)


def find_groups(task: tuple[ModelRef, dict[str, Any], tuple[tuple[str, ...], ...]]) -> ShardGroups:
    """The nodes and groups of a shard's people, those without an outcome included."""
    from cluster import margin_tables

    ref, entry, margins = task
    built = build_hierarchy(ref).model
    columns = store.read_shard(ref.directory, entry)
    kinds = (margin_tables.groups_of(columns, m, _sizes(built.coding, m), 0)[0] for m in margins)
    return ShardGroups(built.touched_nodes(columns), tuple(kinds))


def _sizes(coding: Coding, columns: tuple[str, ...]) -> list[int]:
    return [len(coding.factors[c]) for c in columns]


def sum_shard(task: SumTask) -> ShardSums:
    """Sum one shard's people: all of them, whether their outcome is known or not."""
    from cluster import margin_tables
    from cluster.posterior_files import StoredDraws

    prior = build_hierarchy(task.ref)
    coding = prior.model.coding
    columns = store.read_shard(task.ref.directory, task.entry)
    statistics = {name: columns[name].astype(np.float64) for name in prior.family.statistics}
    restriction = prior.model.tree.restrict(task.nodes)
    design = prior.model.design(columns, statistics, within=restriction)
    groups, sizes, codes = {}, {}, []
    for i, margin in enumerate(task.margins):
        kinds, which = margin_tables.groups_of(columns, margin, _sizes(coding, margin), design.num_cells)
        groups[str(i)], sizes[str(i)] = which, len(kinds)
        codes.append(kinds)
    stored = StoredDraws(task.ref.directory, prior)
    theta = np.ascontiguousarray(stored[:, restriction.coefficients].T)
    sums, means = predict.group_sums(prior.family, design, theta, groups, sizes, columns["num_rows"])
    observed, base = families.observed(prior.family, statistics)
    known_rows = families.known(prior.family, columns)
    shared, tables = [], []
    for i, (margin, alone) in enumerate(zip(task.margins, task.alone, strict=True)):
        place, size = groups[str(i)], sizes[str(i)]
        rows, trials, bases = (np.bincount(place, c, size) for c in (columns["num_rows"], known_rows, base))
        totals = np.stack([np.bincount(place, c, size) for c in observed], axis=1)
        every = margin_tables.MarginSums(codes[i], np.moveaxis(sums[str(i)], 0, 1), rows, trials, totals, bases)
        own = every.some(np.flatnonzero(alone))
        shape = stored.num_chains, stored.num_draws
        tables.append(margin_tables.summarise(margin, coding.factors, own, shape, task.interval, task.outcome))
        shared.append(every.some(np.flatnonzero(~alone)))
    known = predict.calibration(means[0], base, observed[0]) if prior.family.is_share else None
    return ShardSums(tuple(shared), tuple(tables), known)


def _peak_memory_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _num_bytes(shard: Shard) -> int:
    arrays = [
        *shard.design.places,
        *(v for v in shard.design.values if v is not None),
        *shard.design.statistics.values(),
    ]
    return sum(a.nbytes for a in arrays) + shard.restriction.entries.nbytes
