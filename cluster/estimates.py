"""Poststratified estimates of a run: sums of expected outcomes by margin from every shard, or from a frame of counts."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cluster import margin_tables, tasks
from cluster.errors import FrameError
from cluster.margin_tables import ALL, Categories, MarginSums
from cluster.posterior_files import StoredDraws
from cluster.tasks import ShardSums
from fitting import families, predict, terms
from fitting.cell_design import NewLevels
from reporting import published, tables
from sharding import storage, store

if TYPE_CHECKING:
    from cluster.work import Work


SHARES = ("binomial", "keyed_trials", "category")
"""Kinds of outcome whose mean is a share of people."""


def write(work: Work) -> None:
    """Write ``estimates/<margin>.parquet`` and, for shares, ``estimates/calibration.parquet``; small counts are hidden."""
    config, min_count = work.context.config.poststratify, work.context.config.publish.min_count
    names = tuple(dict.fromkeys((ALL, *config.by)))
    margins = tuple(() if name == ALL else tuple(name.split(":")) for name in names)
    levels: dict[str, Sequence[str]] = dict(work.hierarchy.model.coding.factors)
    draws = StoredDraws(work.directory, work.hierarchy)
    shape = draws.num_chains, draws.num_draws
    outcome = _categories(work)
    shards = _from_shards(work, margins)
    if config.frame == "file":
        totals = [_add([s.margins[i] for s in shards]) for i in range(len(margins))]
    else:
        theta = np.ascontiguousarray(draws[:, :].T)
        totals, of_frame = _from_frame(work, theta, draws.psi, margins, config.frame, str(config.count))
        levels |= of_frame
    made: dict[str, pa.Table] = {}
    for i, (name, margin, total) in enumerate(zip(names, margins, totals, strict=True)):
        of_shards = [s.tables[i] for s in shards] if config.frame == "file" else []
        made[name] = margin_tables.join(
            [*of_shards, margin_tables.summarise(margin, levels, total, shape, config.interval, outcome)]
        )
    is_share = families.OUTCOMES[work.hierarchy.family.name] in SHARES
    categories = outcome.outcome if outcome.names else None
    shown = published.estimates(made, min_count, is_share=is_share, categories=categories)
    for name, table in shown.items():
        path = f"estimates/{name.replace(':', '-')}.parquet"
        storage.publish_bytes(storage.join(work.directory, path), tables.to_parquet(table))
    known = [s.calibration for s in shards if s.calibration is not None]
    if known:
        summed = predict.Calibration(
            *(np.sum([getattr(c, f) for c in known], axis=0) for f in predict.Calibration._fields)
        )
        rows = predict.deciles(summed)
        if rows:
            table = pa.Table.from_pylist([{**row, "num_trials": int(row["num_trials"])} for row in rows])
            is_hidden = np.full(len(rows), shown[ALL]["raw_mean"].null_count > 0)
            table = published.calibration(table, min_count, is_hidden)
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
    work: Work, theta: np.ndarray, psi: np.ndarray, margins: tuple[tuple[str, ...], ...], url: str, count: str
) -> tuple[list[MarginSums], dict[str, list[str]]]:
    """Sums over a table of counts, and the levels of columns that only the frame has.

    Levels the fit never saw are drawn from their group's distribution.
    """
    model = work.hierarchy.model
    columns, weight, of_frame = _read_frame(work, url, count, margins)
    new_levels: list[NewLevels] = []
    design = model.design(columns, {}, new_levels)
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
    return totals, of_frame


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
        for row, column in enumerate((shard.get("num_known", shard["num_trials"]), base, *observed)):
            sums = np.bincount(which.ravel(), column, len(kinds))
            for kind, value in zip(kinds.tolist(), sums, strict=True):
                if tuple(kind) in place:
                    totals[row, place[tuple(kind)]] += value
    return totals[0], totals[2:].T, totals[1]


def _read_frame(
    work: Work, url: str, count: str, margins: tuple[tuple[str, ...], ...]
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, list[str]]]:
    """Coded columns and counts of a frame, and the levels of the margins' columns that the model does not have.

    A level of a fixed factor or of a margin that the data never had is an error.
    """
    formula, coding = work.hierarchy.model.formula, work.hierarchy.model.coding
    read = work.context.config.model.data_columns()
    needed = dict.fromkeys([*read.factors, *read.predictors, *(c for m in margins for c in m)])
    factors = [name for name in needed if name in coding.factors or name not in coding.numerics]
    table = _read_table(url, factors)
    missing = [c for c in (*needed, count) if c not in table.column_names]
    if missing:
        listed = sorted(table.column_names) if url.endswith((".parquet", ".pq")) else f"{len(table.column_names)} others"
        raise FrameError(url, f"the columns {listed}", f"also {missing}")  # a first line of text may be a person's
    weight = _numbers(table, count, url)
    if (weight < 0).any() or not weight.sum() > 0:
        raise FrameError(url, f"a negative count, or none above 0, in {count!r}", "counts of people")
    kept = np.flatnonzero(weight > 0)
    columns = {
        terms.number_name(name) if name in coding.factors else name: _numbers(table, name, url)[kept]
        for name in needed
        if name in coding.numerics
    }
    of_frame: dict[str, list[str]] = {}
    effects = {c for term in (*formula.fixed, *(t for g in formula.groups for t in g.coefficients)) for c in term}
    effects -= {*coding.numerics}
    may_be_new = set(read.factors) - set(read.members) - effects - {c for m in margins for c in m}
    for name in factors:
        labels = [None if v in (None, "") else str(v) for v in table.column(name).take(kept).to_pylist()]
        if None in labels:
            raise FrameError(url, f"{labels.count(None)} missing values in {name!r}", "a level in every row")
        found = sorted({label for label in labels if label is not None})
        if name not in coding.factors:
            of_frame[name] = found
        levels = of_frame[name] if name in of_frame else coding.factors[name]
        codes = {level: i for i, level in enumerate(levels)}
        new = [level for level in found if level not in codes]
        if new and name not in may_be_new:
            number = sum(label not in codes for label in labels)
            raise FrameError(
                url,
                f"{number} rows whose {name!r} is not a level of the data",
                f"levels such as {', '.join(levels[:8])}",
            )
        codes |= {level: -1 - i for i, level in enumerate(new)}  # below 0: no data informed it
        columns[name] = np.array([codes[str(label)] for label in labels], dtype=np.int64)
    return columns, weight[kept], of_frame


def _read_table(url: str, factors: list[str]) -> pa.Table:
    """The frame; in CSV the factors are text, so that codes keep their leading zeros."""
    data = io.BytesIO(storage.read_bytes(url))
    try:
        if url.endswith((".parquet", ".pq")):
            return pq.read_table(data)
        text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(factors, pa.string()))
        return pyarrow.csv.read_csv(data, convert_options=text)
    except pa.ArrowException as error:
        raise FrameError(url, type(error).__name__, "a Parquet or CSV table") from None


def _numbers(table: Any, name: str, url: str) -> np.ndarray:
    try:
        values = table.column(name).cast(pa.float64()).to_numpy()
    except pa.ArrowException:
        raise FrameError(url, f"{name!r} of type {table.schema.field(name).type}", "numbers") from None
    if not np.isfinite(values).all():
        raise FrameError(
            url, f"{int((~np.isfinite(values)).sum())} missing values in {name!r}", "a number in every row"
        )
    return np.asarray(values, dtype=np.float64)
