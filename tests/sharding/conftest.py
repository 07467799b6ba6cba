"""A small voter file, and ingest with the usual arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding import store
from sharding.config import DataConfig, ShardsConfig
from sharding.ingest import IngestReport, ingest


def people(num_rows: int = 400, seed: int = 0) -> pa.Table:
    """Voters with leading zeros, a nested county, a binary and a county-level number, an answer known for a few."""
    rng = np.random.default_rng(seed)
    state = rng.integers(1, 5, num_rows)
    county = rng.integers(1, 4, num_rows)
    return pa.table(
        {
            "voter_id": [f"V{i:06d}" for i in range(num_rows)],
            "state": [f"{s:02d}" for s in state],
            "county": [f"{s:02d}{c:03d}" for s, c in zip(state, county, strict=True)],
            "race": rng.choice(["White", "Black", "Hispanic"], num_rows),
            "age": rng.choice(["18-29", "30-64", "65+"], num_rows),
            "female": pa.array(rng.integers(0, 2, num_rows), pa.int8()),
            "dem": (state * 7 + county) / 50.0,
            "voted": pa.array(rng.integers(0, 2, num_rows), pa.int8()),
            "support": pa.array([int(v) if v < 2 else None for v in rng.integers(0, 20, num_rows)], pa.int8()),
            "income": rng.normal(50, 10, num_rows),
        }
    )


def run(source: Any, directory: Any, *, shards: dict[str, Any] | None = None, **options: Any) -> IngestReport:
    """Ingest with state and county as groups; ``options`` go to ingest where it knows them, else to `data:`."""
    arguments: dict[str, Any] = {
        "outcome_kind": "binomial", "factor_columns": ["state", "county", "race"], "predictor_columns": ["female", "dem"],
        "group_columns": [("state",), ("state", "county"), ("race",)], "seed": 0, "coding": None,
        "margin_columns": (),
    }  # fmt: skip
    for name in list(arguments):
        arguments[name] = options.pop(name, arguments[name])
    source = [str(path) for path in source] if isinstance(source, list) else str(source)
    data = DataConfig(**{"source": source, "outcome": "voted", "terms_of_use": "synthetic", "threads": 2, **options})
    return ingest(
        data, ShardsConfig(**(shards or {"by": "state", "min_cells": 1})), directory=str(directory), **arguments
    )


def read_cells(report: IngestReport) -> pa.Table:
    """All cells of a run with labels instead of codes."""
    tables = []
    for entry in report.manifest["shards"]:
        columns: dict[str, Any] = store.read_shard(report.directory, entry)
        for name, coding in report.dictionary.factors.items():
            columns[name] = np.array(coding.levels, dtype=object)[columns[name]]
        tables.append(pa.table({name: pa.array(list(values)) for name, values in columns.items()}))
    return pa.concat_tables(tables)


def totals(table: pa.Table, keys: list[str], sums: list[str]) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """Sums by key, from cells."""
    grouped = table.group_by(keys).aggregate([(name, "sum") for name in sums])
    rows = grouped.select([*keys, *(f"{name}_sum" for name in sums)]).to_pylist()
    return {tuple(row[k] for k in keys): tuple(row[f"{s}_sum"] for s in sums) for row in rows}


class Helpers:
    """The functions above, for tests to call."""

    people = staticmethod(people)
    run = staticmethod(run)
    read_cells = staticmethod(read_cells)
    totals = staticmethod(totals)


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    """Functions that make people, ingest them and read the cells back."""
    return Helpers


@pytest.fixture
def voters(tmp_path: Path) -> Path:
    """A Parquet file of 400 voters."""
    path = tmp_path / "voters.parquet"
    pq.write_table(people(), path)
    return path
