"""Poststratified estimates of a run: sums of expected outcomes by margin from every shard, or from a frame of counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cluster import frames, margin_tables, tasks
from cluster.margin_tables import Categories, MarginSums
from cluster.posterior_files import StoredDraws
from cluster.tasks import ShardSums
from fitting import families, predict
from fitting.cell_design import NewLevels
from reporting import margins as margin_names
from reporting import tables
from sharding import storage, store

if TYPE_CHECKING:
    from cluster.work import Work


def write(work: Work) -> None:
    """Write ``estimates/<margin>.parquet`` and, for shares, ``estimates/calibration.parquet``: private, as all of the run directory."""
    config = work.context.config.poststratify
    names, margins = tuple(config.columns), tuple(config.columns.values())
    levels: dict[str, Sequence[str]] = dict(work.hierarchy.model.coding.factors)
    draws = StoredDraws(work.directory, work.hierarchy)
    shape = draws.num_chains, draws.num_draws
    outcome = _categories(work)
    shards = _from_shards(work, margins)
    if config.frame == "file":
        totals = [_add([s.margins[i] for s in shards]) for i in range(len(margins))]
    else:
        theta = np.ascontiguousarray(draws[:, :].T)
        totals, of_frame = _from_frame(work, theta, draws.psi, margins)
        levels |= of_frame
    made: dict[str, pa.Table] = {}
    for i, (name, margin, total) in enumerate(zip(names, margins, totals, strict=True)):
        of_shards = [s.tables[i] for s in shards] if config.frame == "file" else []
        made[name] = margin_tables.join(
            [*of_shards, margin_tables.summarise(margin, levels, total, shape, config.interval, outcome)]
        )
    for name, table in made.items():
        path = f"estimates/{margin_names.file(name)}"
        storage.publish_bytes(storage.join(work.directory, path), tables.to_parquet(table))
    known = [s.calibration for s in shards if s.calibration is not None]
    if known:
        summed = predict.Calibration(
            *(np.sum([getattr(c, f) for c in known], axis=0) for f in predict.Calibration._fields)
        )
        rows = predict.deciles(summed)
        if rows:
            table = pa.Table.from_pylist([{**row, "num_trials": int(row["num_trials"])} for row in rows])
            storage.publish_bytes(
                storage.join(work.directory, "estimates/calibration.parquet"), tables.to_parquet(table)
            )


def _categories(work: Work) -> Categories:
    model = work.hierarchy.model
    return Categories(model.formula.outcome, model.family.categories)


def _from_shards(work: Work, margins: tuple[tuple[str, ...], ...]) -> list[ShardSums]:
    """Every shard's people, those without an outcome too. With a frame of its own only the calibration is wanted."""
    config = work.context.config.poststratify
    wanted = margins if config.frame == "file" else ()
    everyone = replace(work, entries=tuple(store.read_manifest(work.directory)["shards"]))
    found: list[tasks.ShardGroups] = everyone.map(tasks.find_groups, ((work.ref, e, wanted) for e in everyone.entries))
    alone = [margin_tables.alone([f.kinds[i] for f in found]) for i in range(len(wanted))]

    def items() -> Iterator[tasks.SumTask]:
        for s, entry in enumerate(everyone.entries):
            own = tuple(of_margin[s] for of_margin in alone)
            yield tasks.SumTask(work.ref, entry, found[s].nodes, wanted, own, config.interval, _categories(work))

    results: list[ShardSums] = everyone.map(tasks.sum_shard, items())
    return results


def _add(parts: list[MarginSums]) -> MarginSums:
    """Sums of the same groups from several shards, in the order of the groups' codes."""
    codes, which = np.unique(np.concatenate([p.codes for p in parts]), axis=0, return_inverse=True)
    which = which.ravel()
    expected = np.zeros((len(codes), *parts[0].expected.shape[1:]))
    begin = 0
    for part in parts:  # in the order of the shards, so that rounding does not depend on who was first
        expected[which[begin : begin + len(part.codes)]] += part.expected
        begin += len(part.codes)
    rows, trials, base = (
        np.bincount(which, np.concatenate([getattr(p, f) for p in parts]), len(codes))
        for f in ("num_rows", "num_trials", "base")
    )
    every = np.concatenate([p.observed for p in parts])
    observed = np.stack([np.bincount(which, c, len(codes)) for c in every.T], axis=1)
    return MarginSums(codes, expected, rows, trials, observed, base)


def _from_frame(
    work: Work, theta: np.ndarray, psi: np.ndarray, margins: tuple[tuple[str, ...], ...]
) -> tuple[list[MarginSums], dict[str, tuple[str, ...]]]:
    """Sums over a table of counts, and the levels of its columns.

    Levels the fit never saw are drawn from their group's distribution.
    """
    model = work.hierarchy.model
    frame = frames.read(work.context.config, model.coding)
    columns, weight = frame.columns, frame.weight
    new_levels: list[NewLevels] = []
    design = model.design(frame.for_model(model.coding), {}, new_levels)
    extended = predict.draw_new_levels(work.hierarchy, theta, psi, new_levels, work.context.config.run.seed)
    if new_levels:
        number = sum(n.num_levels for n in new_levels)
        work.context.progress.say(
            f"{number} levels of the frame were not in the data: drawn from their group's distribution"
        )
    groups, sizes, codes = {}, {}, []
    for i, margin in enumerate(margins):
        stacked = (
            np.stack([columns[c] for c in margin], axis=1) if margin else np.zeros((len(weight), 1), dtype=np.int64)
        )
        kinds, which = np.unique(stacked, axis=0, return_inverse=True)
        groups[str(i)], sizes[str(i)] = which.ravel(), len(kinds)
        codes.append(kinds)
    sums, _ = predict.group_sums(work.hierarchy.family, design, extended, groups, sizes, weight)
    totals = []
    for i, margin in enumerate(margins):
        rows = np.bincount(groups[str(i)], weight, sizes[str(i)])
        trials, observed, base = _outcomes(work, margin, codes[i])
        totals.append(MarginSums(codes[i], np.moveaxis(sums[str(i)], 0, 1), rows, trials, observed, base))
    return totals, frame.levels


def _outcomes(work: Work, margin: tuple[str, ...], codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a margin's groups in the data that were fitted, for the raw means beside the estimates: known outcomes (g,),
    observed totals (g, C), and their base (g,)."""
    family = work.hierarchy.family
    place = {tuple(c): i for i, c in enumerate(codes.tolist())}
    totals = np.zeros((2 + max(len(family.categories), 1), len(codes)))
    for entry in work.entries:
        shard = store.read_shard(work.directory, entry)
        if any(c not in shard for c in margin):
            break
        stacked = (
            np.stack([shard[c] for c in margin], axis=1)
            if margin
            else np.zeros((len(shard["num_trials"]), 1), dtype=np.int64)
        )
        kinds, which = np.unique(stacked, axis=0, return_inverse=True)
        observed, base = families.observed(family, {name: shard[name] for name in family.statistics})
        for row, column in enumerate((families.known(family, shard), base, *observed)):
            sums = np.bincount(which.ravel(), column, len(kinds))
            for kind, value in zip(kinds.tolist(), sums, strict=True):
                if tuple(kind) in place:
                    totals[row, place[tuple(kind)]] += value
    return totals[0], totals[2:].T, totals[1]
