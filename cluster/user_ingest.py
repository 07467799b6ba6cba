"""Rows of Parquet files -> one shard per level of a column: the columns of the allow-list, and no other."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.user_config import UserRunConfig
from fitting import user_shards
from fitting.user_model import ShardedModel
from sharding import privacy, storage, store
from sharding.errors import ContractError, SourceError


def ingest(config: UserRunConfig, sharded: ShardedModel, directory: str) -> None:
    """Write ``shards/``, its manifest, and ``dictionary.json`` with the levels of the global factors.

    Raises
    ------
    PrivacyError
        A column that tells who somebody is, by its name or by its levels.
    SourceError, ContractError
        No file, no Parquet, a column that is not there, or missing values where they are an error.
    ShardDataError
        What the model declares of the columns is not so.
    """
    used = {name: "data.columns" for name in config.data.columns} | {config.shards.by: "shards.by"}
    privacy.check_columns(used, config.data.privacy.allow)
    files = [file for source in config.data.source for file in storage.list_files(source)]
    names = list(dict.fromkeys([*config.data.columns, config.shards.by]))
    table = pa.concat_tables([_read(file, names) for file in files], promote_options="default")
    num_read = table.num_rows
    table = _complete(table, config)
    label = pc.cast(table[config.shards.by], pa.string())
    levels = sorted(pc.unique(label).to_pylist())
    _check_levels(config, sharded, table, levels)
    parts = {level: table.filter(pc.equal(label, level)).select(list(config.data.columns)) for level in levels}
    rows = {quote(level, safe=" "): columns(part) for level, part in parts.items()}
    coded = user_shards.factor_levels(sharded, rows)
    user_shards.code(sharded, rows, coded)  # for what it refuses
    storage.remove(storage.join(directory, "shards"))
    entries = [_write(directory, shard_id, part) for shard_id, part in zip(rows, parts.values(), strict=True)]
    storage.publish_json(
        storage.join(directory, store.DICTIONARY),
        {"schema_version": 1, "factors": {name: {"levels": list(found)} for name, found in coded.items()}},
    )
    left_out = num_read - table.num_rows
    storage.publish_json(
        storage.join(directory, store.MANIFEST),
        {
            "schema_version": store.SCHEMA_VERSION,
            "shards": entries,
            "totals": {"rows_read": num_read, "rows_in_cells": table.num_rows, "rows_quarantined": left_out},
            "quarantine": {"missing": left_out} if left_out else {},
            "sources": [storage.fingerprint(file) for file in files],
        },
    )


def columns(table: pa.Table) -> dict[str, np.ndarray]:
    """Columns of a table as arrays; dictionary-encoded text as text."""
    return {name: _array(table[name]) for name in table.column_names}


def _array(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.to_numpy()


def _read(file: str, names: list[str]) -> pa.Table:
    try:
        with storage.opened(file) as opened:
            parquet = pq.ParquetFile(opened)
            absent = [name for name in names if name not in parquet.schema_arrow.names]
            if absent:
                raise ContractError(
                    f"file {file!r}", f"no column {absent[0]!r}", f"one of {parquet.schema_arrow.names[:40]}",
                    "Correct `data.columns` or `shards.by`.",
                )  # fmt: skip
            return parquet.read(columns=names)
    except pa.ArrowInvalid as error:
        raise SourceError(repr(file), "bytes that are not Parquet", "a Parquet file", "Write it as Parquet.") from error


def _complete(table: pa.Table, config: UserRunConfig) -> pa.Table:
    kept = np.ones(table.num_rows, dtype=bool)
    counts = {}
    for name in table.column_names:
        missing = pc.fill_null(pc.is_null(table[name], nan_is_null=True), True).to_numpy()
        counts[name] = int(missing.sum())
        kept &= ~missing
    if not kept.all() and config.data.missing == "error":
        worst = max(counts, key=lambda name: counts[name])
        raise ContractError(
            f"column {worst!r}", f"{counts[worst]:,} missing values", "none",
            "Set `data.missing: quarantine` to leave such rows out and count them, or mend the files.",
        )  # fmt: skip
    if not kept.any():
        raise ContractError("data.source", "no complete row", "at least one", "Correct the source or the columns.")
    return table.filter(pa.array(kept))


def _check_levels(config: UserRunConfig, sharded: ShardedModel, table: pa.Table, shards: list[str]) -> None:
    """Levels are named in what is written: of factors in the posterior, of ``shards.by`` also as files."""
    factors = {*sharded.factors, *sharded.local_factors} & {*config.data.columns}
    found = {name: pc.unique(pc.cast(table[name], pa.string())).to_pylist() for name in sorted(factors)}
    for name, levels in (found | {config.shards.by: shards}).items():
        if name not in config.data.privacy.allow:
            privacy.check_looks(name, levels)


def _write(directory: str, shard_id: str, table: pa.Table) -> dict[str, Any]:
    path = f"shards/{shard_id}.parquet"
    sink = io.BytesIO()
    plain = pa.table({name: pa.array(values) for name, values in columns(table).items()})
    pq.write_table(
        plain.replace_schema_metadata({"schema_version": str(store.SCHEMA_VERSION)}), sink, compression="zstd"
    )  # fmt: skip
    sha256 = storage.publish_bytes(storage.join(directory, path), sink.getvalue())
    return {
        "shard_id": shard_id, "path": path, "num_cells": table.num_rows, "num_rows": table.num_rows,
        "num_trials": table.num_rows, "num_bytes": len(sink.getvalue()), "sha256": sha256,
    }  # fmt: skip
