"""Ingest: source files in; dictionary, shards of cells, manifest and quarantine counts out.

Nothing but a scratch directory is written before the contract is checked. The manifest is written last: where it is,
ingest has finished.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from sharding import (
    accounting,
    cleaned_rows,
    frozen,
    ineffective,
    noting,
    plan,
    privacy,
    requested,
    sources,
    storage,
    store,
    undeclared,
    unreadable,
)
from sharding import quarantine as quarantine_files
from sharding.cells import CellTable
from sharding.config import DataConfig, ShardsConfig
from sharding.contract import ModelColumn, Reasons
from sharding.database import connected
from sharding.dictionary import Dictionary, FactorCoding
from sharding.errors import ContractError, PlanError, ShardingError, SourceError
from sharding.layouts import for_ingest
from sharding.outcome import OutcomeKind
from sharding.plan import PlannedShard
from sharding.privacy import Pseudonyms
from sharding.samples import Sample
from sharding.sources import Sources

Progress = Callable[[str, int, int], None]
"""Called with the stage (`clean`, `read`, `encode`, `write`), how much of it is done, and how much there is."""

SCRATCH = ".scratch-ingest"


@dataclass(frozen=True)
class IngestReport:
    """What was made. ``seconds`` has the time of `clean`, `open`, `group`, `encode`, `describe` and `write`."""

    directory: str
    dictionary: Dictionary
    manifest: dict[str, Any]
    num_cells: int
    seconds: dict[str, float]


def ingest(
    data: DataConfig,
    shards: ShardsConfig,
    *,
    outcome_kind: OutcomeKind,
    factor_columns: Sequence[str],
    predictor_columns: Sequence[str],
    group_columns: Sequence[tuple[str, ...]],
    margin_columns: Sequence[str] = (),
    directory: str,
    seed: int = 0,
    progress: Progress | None = None,
    coding: Dictionary | None = None,
) -> IngestReport:
    """Make the dictionary and the shards of a run in ``directory`` (a path or URL).

    Parameters
    ----------
    outcome_kind
        What is known of a row, and what its cell keeps of it (docs/design/cells.md). Sums: ``binomial`` (0/1, or successes
        and trials), ``gaussian`` (any number), ``count`` (whole numbers, with exposure or without), ``category`` (counts
        by category). The outcome as a key of the cell: ``keyed_count``, ``keyed_trials`` and ``keyed_number``.
    factor_columns
        Columns that group rows: always factors, kept as text with leading zeros.
    predictor_columns
        Columns with fixed effects or slopes: factors or numbers, by declaration or by how they are stored.
    group_columns
        Combinations of factors whose observed levels the dictionary lists, `("state", "county")` as `state:county`.
    margin_columns
        Columns of no term of the model, to count people by: factors. Like those of `shards.by`, they take no row from the fit:
        a missing value is a level, if the column does not say otherwise.
    seed
        Of `by: random` and `by: hash`.
    coding
        What an earlier ingest decided, which stays (:mod:`sharding.frozen`): shards of rows that are the same have the
        same bytes. Columns that it does not have are coded as without it.

    Raises
    ------
    ShardingError
        Nothing of an earlier ingest is left in doubt: either it is whole, or there is no manifest.
    """
    report = progress or (lambda stage, done, total: None)
    clock = _Clock()
    asked = requested.columns(data, shards, outcome_kind, factor_columns, predictor_columns, margin_columns)
    frozen.check_labels(coding)
    pseudonyms = _pseudonyms(data)
    storage.make_directory(directory)
    with (
        cleaned_rows.removed_on_failure(directory),
        _scratch(directory) as scratch,
        for_ingest.cleaned(data, list(asked.needed), directory, scratch, report) as (data, upstream),
        connected(data.memory_limit, data.threads, scratch / "spill") as connection,
    ):
        clock.lap("clean")
        found = sources.open_sources(data, asked.needed, scratch)
        before = [storage.fingerprint(file.url) for file in found.files]
        sources.register_file_systems(connection, found)
        _trust_footers(connection, "float" not in found.kinds.values())
        reasons = Reasons()
        rows = requested.row_source(data, shards, found, reasons, asked, seed)
        cells = CellTable(connection, rows, reasons, coding)
        clock.lap("open")
        report("read", 0, 1)
        rows_grouped, rejects = _group(cells, connection, found, data.max_unreadable)
        rejects |= upstream.quarantined if upstream is not None else {}
        clock.lap("group")
        report("read", 1, 1)
        report("encode", 0, 1)
        codings = cells.encode()
        quarantine = cells.quarantined()
        undeclared.check(_undeclared(data, cells, quarantine), rows_grouped)
        cells.check_codes(quarantine)
        reasons.check(quarantine)
        num_cells = cells.num_good_cells()
        if num_cells == 0:
            raise _nothing_left(quarantine, rejects)
        clock.lap("encode")
        privacy.check_levels(data, codings, cells.num_good_rows() if len(data.outcome_columns) == 1 else None)
        seen = noting.of_cells(connection, cells, codings, rows.outcome)
        sample = Sample(connection, cells, found, scratch)
        of_files, scales = noting.OfFiles(connection, cells, rows.outcome).look(sample, found, coding)
        unused = ineffective.unused(data, asked.names, [] if shards.column is None else [shards.column])
        dictionary = _describe(cells, codings, group_columns, coding)
        dictionary = replace(dictionary, notes=(*seen, *of_files, *unused), scales=scales)
        planned, order = _plan(cells, dictionary, shards, seed, num_cells, coding)
        if [storage.fingerprint(file.url) for file in found.files] != before:
            raise SourceError("data.source", "files that changed during ingest", "files at rest", "Run ingest again.")
        if upstream is not None:
            upstream.check_unchanged()
        by_file = quarantine_files.by_file(cells, found, quarantine, rejects)
        clock.lap("describe")
        report("encode", 1, 1)
        storage.remove(storage.join(directory, store.MANIFEST))
        entries = []
        _trust_footers(connection, True)  # no file is read for the cells, and sorting them takes less memory
        for entry in store.write_shards(directory, planned, cells.stream(order), outcome_kind == "keyed_trials"):
            entries.append(entry)
            report("write", len(entries), len(planned))
        _trust_footers(connection, "float" not in found.kinds.values())
        quarantine_files.write(data, directory, cells, by_file, scratch, connection, found, pseudonyms)
        storage.publish_json(storage.join(directory, store.DICTIONARY), dictionary.to_json())
        read = [{**entry, "num_rows": file.num_rows} for entry, file in zip(before, found.files, strict=True)]
        read = upstream.sources if upstream is not None else read
        totals = _totals(rows_grouped, cells.num_good_rows(), quarantine, rejects)
        people = accounting.accounted(connection, rows.outcome, reasons)
        outside = accounting.outside(connection, cells, rows.outcome, coding)
        weights = accounting.weights(cells, rows.outcome, codings)
        manifest = _manifest(entries, totals, people, outside, weights, quarantine, rejects, read)
        _remove_other_shards(directory, entries)
        storage.publish_json(storage.join(directory, store.MANIFEST), manifest)
        clock.lap("write")
    return IngestReport(directory, dictionary, manifest, num_cells, clock.seconds)


def _undeclared(
    data: DataConfig, cells: CellTable, quarantine: dict[str, int]
) -> dict[str, tuple[ModelColumn | None, int]]:
    """Columns that do not say `missing`, with the number of rows that have no value; of weights, of those with an outcome."""
    found: dict[str, tuple[ModelColumn | None, int]] = {
        column.name: (column, cells.num_missing[column.name]) for column in cells.columns if column.config.missing is None
    }
    if data.weight is not None and data.column(data.weight).missing is None:
        found[data.weight] = (None, quarantine.get("weight:missing", 0))
    return found


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now


@contextmanager
def _scratch(directory: str) -> Iterator[Path]:
    """Give a private local directory: in the run directory where that is local. Leftovers of killed runs of it are removed."""
    if storage.is_local(directory):
        path = storage.local_path(storage.join(directory, SCRATCH))
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
    else:
        prefix = f"caucus-ingest-{storage.sha256_bytes(directory.encode())[:16]}-"
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            if left.lstat().st_uid == os.getuid():
                shutil.rmtree(left)
        path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _trust_footers(connection: duckdb.DuckDBPyConnection, trusted: bool) -> None:
    """Minima and maxima in Parquet footers leave NaN out, and DuckDB concludes from them that a float column has none."""
    connection.execute(f"SET disabled_optimizers = '{'' if trusted else 'statistics_propagation'}'")


def _pseudonyms(data: DataConfig) -> Pseudonyms | None:
    """What ids are written as; None where none is written, and no key is needed."""
    is_written = data.keep_quarantined_rows and data.id_column is not None and data.duplicates != "allow"
    return Pseudonyms.from_environment(data.privacy.id_key_env) if is_written else None


def _group(
    cells: CellTable, connection: duckdb.DuckDBPyConnection, found: Sources, max_unreadable: float
) -> tuple[int, dict[tuple[str, str], int]]:
    num_rows = cells.group()
    rejects = unreadable.count(connection, found) if found.is_text else {}
    if found.is_text:
        unreadable.check(connection, found, rejects, max_unreadable)
        unreadable.check_lines(connection, found, num_rows + sum(rejects.values()))
    if num_rows + sum(rejects.values()) == 0:
        raise sources.no_rows(len(found.files))
    if num_rows == 0:
        raise _nothing_left({}, rejects)
    if found.num_rows is not None and found.num_rows != num_rows:
        raise SourceError(
            "data.source", f"{num_rows:,} rows", f"{found.num_rows:,} rows, as the files' footers say",
            "Copy the files again."
        )  # fmt: skip
    return num_rows, rejects


def _nothing_left(quarantine: dict[str, int], rejects: dict[tuple[str, str], int]) -> ContractError:
    reasons = ", ".join(f"{count:,} {name}" for name, count in quarantine_files.by_reason(quarantine, rejects).items())
    return ContractError(
        "data", f"every row quarantined ({reasons})", "rows that keep the contract",
        "Correct data.columns (missing_values, levels), data.delimiter or the files."
    )  # fmt: skip


def _describe(
    cells: CellTable,
    codings: dict[str, FactorCoding],
    group_columns: Sequence[tuple[str, ...]],
    coding: Dictionary | None,
) -> Dictionary:
    for group in group_columns:
        unknown = [name for name in group if name not in codings]
        if unknown:
            raise ContractError(
                f"group {':'.join(group)!r}", f"{unknown} that are not factors of the model", f"among {sorted(codings)}",
                "Name them in factor_columns, or declare `type: factor`."
            )  # fmt: skip
    outcome = frozen.outcome(coding, cells.outcome_coding())
    return Dictionary(
        factors=codings,
        numerics=cells.numeric_codings(codings),
        groups={":".join(group): frozen.groups(coding, codings, group, cells.groups(group)) for group in group_columns},
        parents=frozen.parents(coding, codings, cells.parents(codings)),
        outcome=outcome,
    )


def _plan(
    cells: CellTable,
    dictionary: Dictionary,
    shards: ShardsConfig,
    seed: int,
    num_cells: int,
    coding: Dictionary | None,
) -> tuple[list[PlannedShard], list[str]]:
    """Return the shards and the columns to sort the cells by."""
    if shards.method == "columns":
        not_factors = [name for name in shards.columns if name not in dictionary.factors]
        if not_factors:
            raise PlanError(
                "shards.by",
                f"{not_factors}, numeric in the model",
                "factors",
                "Choose a factor, or declare `type: factor`.",
            )
        decided = coding if coding is not None and {*coding.factors} == {*dictionary.factors} else dictionary
        nested = _nested_factor(decided, shards.columns)
        order = [cells.code_of(name) for name in (*shards.columns, *nested)]
        levels = dictionary.factors[shards.columns[0]].levels
        counts = cells.counts(order)
        return plan.plan_by_columns(
            counts, levels, target_cells=shards.target_cells, min_cells=shards.smallest_shard
        ), order  # fmt: skip
    num_shards = shards.num_shards or plan.num_buckets(num_cells, shards.target_cells)
    if shards.method == "random":
        cells.bucket_by_content(num_shards, seed)
    elif shards.column in dictionary.factors:
        cells.bucket_by_level(shards.column, dictionary.factors[shards.column], num_shards, seed)
    elif shards.column in dictionary.numerics:
        raise PlanError(
            "shards.column", f"{shards.column!r}, numeric in the model", "a factor or a column outside the model",
            "Choose another column, or `by: random`."
        )  # fmt: skip
    return plan.plan_buckets(cells.counts(["bucket"]), shards.method, num_shards), ["bucket"]


def _nested_factor(dictionary: Dictionary, by: tuple[str, ...]) -> list[str]:
    """The factor to cut large levels by: nested in the last of ``by`` if one is, and of the most levels."""
    others = [name for name in dictionary.factors if name not in by]
    nested = [name for name in others if by[-1] in dictionary.parents.get(name, {})]
    best = max(nested or others, key=lambda name: (len(dictionary.factors[name].levels), name), default=None)
    return [] if best is None else [best]


def _totals(
    rows_grouped: int, good_rows: int, quarantine: dict[str, int], rejects: dict[tuple[str, str], int]
) -> dict[str, int]:
    totals = {
        "rows_read": rows_grouped + sum(rejects.values()),
        "rows_in_cells": good_rows,
        "rows_quarantined": sum(quarantine_files.by_reason(quarantine, rejects).values()),
    }
    if totals["rows_read"] != totals["rows_in_cells"] + totals["rows_quarantined"]:
        raise ShardingError(f"rows do not reconcile: {totals}. This is a defect of Caucus; please report it.")
    return totals


def _manifest(
    entries: list[dict[str, Any]],
    totals: dict[str, int],
    people: dict[str, Any],
    outside: list[dict[str, Any]],
    weights: dict[str, Any] | None,
    quarantine: dict[str, int],
    rejects: dict[tuple[str, str], int],
    fingerprints: list[dict[str, Any]],
) -> dict[str, Any]:
    if people["people"] != sum(entry["num_rows"] for entry in entries):
        raise ShardingError(f"people do not reconcile: {people}. This is a defect of Caucus; please report it.")
    for reason, count in quarantine_files.by_reason({}, rejects).items():  # of a line that cannot be read nothing is known
        people["left_out"].setdefault(reason, {"people": count, "outcomes": 0})
    return {
        "schema_version": store.SCHEMA_VERSION,
        "shards": entries,
        "totals": totals,
        "quarantine": quarantine_files.by_reason(quarantine, rejects),
        "people": people,
        "outside": outside,
        **({} if weights is None else {"weights": weights}),
        "sources": fingerprints,
    }


def _remove_other_shards(directory: str, entries: list[dict[str, Any]]) -> None:
    """Delete shards of an earlier ingest that the new manifest does not name."""
    kept = {entry["path"].rsplit("/", 1)[-1] for entry in entries}
    for url in storage.list_files(storage.join(directory, "shards")):
        name = url.rsplit("/", 1)[-1]
        if name.endswith(".parquet") and name not in kept:
            storage.remove(url)
