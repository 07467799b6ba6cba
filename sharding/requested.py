"""Which columns a run asks its files for, and what it makes of them: looked at in headers before a row is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sharding import cell_statistics, contract, ineffective, privacy, sources
from sharding.config import DataConfig, ShardsConfig
from sharding.contract import ModelColumn, Reasons
from sharding.errors import PlanError
from sharding.layouts import for_ingest, library
from sharding.outcome import OutcomeKind, resolve_outcome
from sharding.rows import RowIdentity, RowSource
from sharding.sources import Sources


class Requested(NamedTuple):
    """``names`` are the columns of cells, of which ``grouping`` ones are factors, ``predictors`` have effects, and ``outside`` ones are
    in no term of the model; ``needed`` are the columns of the files, each with the place that asks for it."""

    outcome_kind: OutcomeKind
    names: tuple[str, ...]
    grouping: frozenset[str]
    predictors: frozenset[str]
    outside: tuple[str, ...]
    needed: dict[str, str]


def columns(
    data: DataConfig, shards: ShardsConfig, outcome_kind: OutcomeKind, factor_columns: Sequence[str],
    predictor_columns: Sequence[str], margin_columns: Sequence[str],
) -> Requested:  # fmt: skip
    """Return the columns of a run; the arguments are those of :func:`sharding.ingest.ingest`.

    Raises
    ------
    ContractError, PrivacyError
        A name that the cells keep for themselves, or a column that looks personal and is not allowed.
    """
    outside = [name for name in (*margin_columns, *shards.columns) if name not in {*factor_columns, *predictor_columns}]
    names = tuple(dict.fromkeys([*factor_columns, *predictor_columns, *outside]))
    contract.check_names([*names, *data.outcome_columns])
    contract.check_names(names, cell_statistics.reserved_names(outcome_kind))
    ineffective.check(data, outcome_kind, names)
    needed = _needed(data, shards, names)
    declared = for_ingest.declared_kinds(data, list(needed))
    privacy.check_columns(_kept(data, names), data.privacy.allow, source_name=data.source_name, declared=declared)
    grouping = frozenset({*factor_columns, *outside})
    return Requested(outcome_kind, names, grouping, frozenset(predictor_columns), tuple(outside), needed)


def look(data: DataConfig, shards: ShardsConfig, asked: Requested) -> None:
    """Raise what ingest would before it reads a row, from the headers of the files; of raw files of a layout only cleaning knows the columns."""
    if data.layout is not None:
        library.load(data.layout)
        return
    found = sources.open_sources(data, asked.needed, None)
    row_source(data, shards, found, Reasons(), asked, 0)


def _needed(data: DataConfig, shards: ShardsConfig, names: Sequence[str]) -> dict[str, str]:
    """Source columns with the place that asks for each."""
    needed = {data.source_name(name): f"data.columns.{name}" for name in data.columns}
    needed |= {data.source_name(name): f"model column {name!r}" for name in names}
    for name, source in data.outcome_columns.items():
        needed.pop(data.source_name(name), None) if name not in names else None
        needed[source] = "data.outcome"
    if data.weight is not None:
        needed[data.source_name(data.weight)] = "data.weight"
    if data.id_column is not None and data.duplicates != "allow":
        needed.setdefault(data.id_column, "data.id_column")
    if shards.column is not None:
        needed.setdefault(data.source_name(shards.column), "shards.column")
    return needed


def _kept(data: DataConfig, names: Sequence[str]) -> dict[str, str]:
    """Columns whose values the run keeps, each with the place that asks for it; an id is compared, and not kept."""
    kept = {name: f"model column {name!r}" for name in names} | dict.fromkeys(
        data.outcome_columns.values(), "data.outcome"
    )
    return kept if data.weight is None else kept | {data.weight: "data.weight"}


def row_source(
    data: DataConfig, shards: ShardsConfig, found: Sources, reasons: Reasons, asked: Requested, seed: int
) -> RowSource:
    """What is read from the files: every column with its role, the outcome, and how rows are told apart and dealt.

    Raises
    ------
    ContractError, PlanError
        A column's uses, its declaration and the way it is stored contradict each other; the outcome has not the columns that it needs.
    """
    outcome = resolve_outcome(data, asked.outcome_kind, found, reasons)
    identity = None
    if data.id_column is not None and data.duplicates != "allow":
        error = ("every id once", "Say data.duplicates: quarantine, or correct the file.")
        number = reasons.add("id:duplicate", error=error if data.duplicates == "error" else None)
        identity = RowIdentity(data.id_column, found.kinds[data.id_column], data.column(data.id_column).missing_values, number)
    resolved = (
        contract.resolve_column(
            data, name, found.kinds[data.source_name(name)], is_text=found.is_text, is_grouping=name in asked.grouping,
            is_predictor=name in asked.predictors,
        )
        for name in asked.names
    )  # fmt: skip
    columns = tuple(_completed(column, found, is_outside=column.name in asked.outside) for column in resolved)
    bucket = None
    if shards.column is not None and shards.column not in asked.names:
        if shards.num_shards is None:
            raise PlanError(
                "shards", f"hash of column {shards.column!r}, which is not in the model", "shards.num_shards",
                "Set shards.num_shards."
            )  # fmt: skip
        bucket = (data.source_name(shards.column), shards.num_shards, seed)
    return RowSource(found, columns, outcome, bucket, identity)


def _completed(column: ModelColumn, found: Sources, *, is_outside: bool) -> ModelColumn:
    """The column with the orders that its files store, and, outside the model, with a level for missing values."""
    config = column.config
    if is_outside and config.missing is None:
        config = config.model_copy(update={"missing": "level"})
    return replace(column, config=config, orders=found.orders.get(column.source, ()))
