"""Where a fit starts: at the anchor with every shard to fit, or, in an update, from the sites of shards that did not change.

A site stands for a shard's likelihood alone, so it stays true while the shard's cells and the coding of its coefficients
stay. The other shards are fitted under prior times the kept sites, which is the cavity of all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from cluster import earlier_run, site_files, tasks
from cluster.earlier_run import EarlierRun
from cluster.site_files import SiteFile
from cluster.work import Work
from fitting import combiner, rounds
from fitting.rounds import RoundsState
from fitting.sites import Site
from fitting.tree import Restriction
from sharding import frozen, storage, store

KEPT = "kept"
"""The method of the record of a round that fitted nothing: sites of an earlier run, under prior times themselves."""


class Start(NamedTuple):
    """The state before the first round; ``restrictions`` are empty and ``paths`` None where nothing is kept.

    ``fitted`` are the numbers of the shards to fit, ``paths`` the files of kept sites by shard, ``number`` that of the
    first round, ``history`` the records of rounds before it.
    """

    state: RoundsState
    restrictions: tuple[Restriction, ...]
    fitted: tuple[int, ...]
    paths: tuple[str | None, ...]
    number: int
    history: tuple[dict[str, Any], ...]


def start(work: Work) -> Start:
    """Where the fit of a run starts; what was set aside for an update that this cannot be is forgotten."""
    every = tuple(range(len(work.entries)))
    afresh = Start(rounds.init(work.hierarchy), (), every, (None,) * len(every), 0, ())
    if not earlier_run.is_under_way(work.directory):
        return afresh
    earlier = earlier_run.read(work.directory)
    if not frozen.continues(store.read_dictionary(work.directory), earlier.dictionary):
        work.context.progress.say("the coding is another: the update is given up, every shard is fitted")
        earlier_run.forget(work.directory)
        return afresh
    placed = _place(work, earlier)
    kept = [entry["shard_id"] for entry, p in zip(work.entries, placed, strict=True) if p.file is not None]
    storage.publish_json(storage.join(work.directory, earlier_run.PLACED), {"kept": kept})
    return _from_kept(work, earlier, placed) if kept else afresh


def _place(work: Work, earlier: EarlierRun) -> list[tasks.PlacedSite]:
    """Every shard's part of the tree, and on it the sites of shards that did not change."""
    paths = earlier.site_paths()
    before = _model_before(work, earlier)

    def items() -> Iterator[tasks.PlaceTask]:
        for s in work.longest_first():
            entry = work.entries[s]
            path = paths.get((entry["shard_id"], entry["sha256"]))
            yield tasks.PlaceTask(work.ref, entry, before, None if path is None else earlier.copy_of(path))

    results: list[tasks.PlacedSite] = work.map(tasks.place_site, items())
    return results


def _model_before(work: Work, earlier: EarlierRun) -> tasks.ModelRef:
    layout = tuple((key, text) for key, text in earlier.rounds.get("layout", ()))
    return work.ref._replace(directory=earlier.path, dictionary_sha256=earlier.dictionary_sha256, priors=layout)


def _from_kept(work: Work, earlier: EarlierRun, placed: list[tasks.PlacedSite]) -> Start:
    number = earlier.rounds["last_round"] + 1
    tree = work.hierarchy.model.tree
    restrictions = tuple(tree.restrict(p.nodes) for p in placed)
    sites = tuple(_nothing(r) if p.file is None else p.file.site for r, p in zip(restrictions, placed, strict=True))
    paths = tuple(_publish(work, earlier, s, p, number) for s, p in enumerate(placed))
    psi = _continued(work, earlier)
    _, proposal, moments = rounds.merge(work.hierarchy, restrictions, sites, psi, work.threads)
    record = {"round": number, "move": 0.0, "damping": 1.0, "method": KEPT, "where": "", "seconds": 0.0,
              "num_shards": sum(p.file is not None for p in placed)}  # fmt: skip
    fitted = tuple(s for s, p in enumerate(placed) if p.file is None)
    return Start(RoundsState(moments, proposal.mode, sites, np.inf), restrictions, fitted, paths, number + 1, (record,))


def _nothing(restriction: Restriction) -> Site:
    """The site of a shard that is not heard yet."""
    tree = restriction.tree
    return Site(np.zeros(tree.num_entries), np.zeros(tree.num_coefficients), np.zeros(2))


def _publish(work: Work, earlier: EarlierRun, s: int, placed: tasks.PlacedSite, number: int) -> str | None:
    """See that a kept site is in `sites/`: the file that was there, or, in other places of the tree, a new one."""
    if placed.file is None:
        return None
    entry = work.entries[s]
    path = earlier.site_paths()[entry["shard_id"], entry["sha256"]]
    if placed.is_moved:
        moved = SiteFile(placed.file.site, placed.file.nodes, f"kept {placed.file.key}")
        name = site_files.name(entry["shard_id"], number, moved.key)
        site_files.write(storage.join(work.directory, name), moved)
        return name
    url, copy = storage.join(work.directory, path), earlier.copy_of(path)
    if not storage.exists(url) or storage.read_bytes(url) != storage.read_bytes(copy):
        storage.copy(copy, url)
    return path


def _continued(work: Work, earlier: EarlierRun) -> np.ndarray:
    """Where to look for the mode of the hyperparameters: where it was, for those that there were."""
    now, then = work.hierarchy, tasks.build_hierarchy(_model_before(work, earlier))
    before = dict(zip(then.names(), earlier.rounds["psi"], strict=True))
    return combiner.start(now, before)
