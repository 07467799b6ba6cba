"""One side of race (c), run as a child process: cells of a voter file by `sharding.ingest`, or by one bare DuckDB query.

    python -m benchmarks.group_by duckdb 'voters/*.parquet' state county race age female

Both write what they make to a scratch directory and print one JSON line. Imports are not in the time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from sharding.config import DataConfig, ShardsConfig
from sharding.ingest import ingest

PREDICTORS = ("female", "dem_share", "pct_college")


def by_caucus(source: str, columns: list[str], directory: Path) -> dict[str, Any]:
    """Contract, dictionary, quarantine, cells, shards by state, manifest."""
    report = ingest(
        DataConfig.model_validate({"source": source, "outcome": "voted", "terms_of_use": "synthetic"}),
        ShardsConfig(by=("state",), min_cells=1),
        outcome_kind="binomial",
        factor_columns=[name for name in columns if name not in PREDICTORS],
        predictor_columns=[name for name in columns if name in PREDICTORS],
        group_columns=[("state", "county"), ("race", "age")],
        directory=str(directory / "run"),
    )
    return {
        "num_rows": report.manifest["totals"]["rows_in_cells"],
        "num_cells": report.num_cells,
        "stages": report.seconds,
    }


def by_duckdb(source: str, columns: list[str], directory: Path) -> dict[str, Any]:
    """Count and sum per cell, no check of anything, one Parquet file."""
    names, target = ", ".join(f'"{column}"' for column in columns), str(directory / "cells.parquet")
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT {names}, count(*) AS num_rows, sum(voted)::BIGINT AS num_successes FROM read_parquet($source) "
            f"GROUP BY {names}) TO '{target}' (FORMAT parquet)",
            {"source": source},
        )
        found = connection.execute(
            "SELECT sum(num_rows), count(*) FROM read_parquet($target)", {"target": target}
        ).fetchone()
    assert found is not None
    return {"num_rows": int(found[0]), "num_cells": int(found[1])}


def main() -> None:
    """Run one side."""
    side, source, *columns = sys.argv[1:]
    maker = {"caucus": by_caucus, "duckdb": by_duckdb}[side]
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        record = maker(source, columns, Path(folder))
        record |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
