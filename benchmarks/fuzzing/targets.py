"""What is fuzzed: each target makes a good file of its kind, and reads a file that may be anything."""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.fuzzing import layout_targets, mutations, structured
from benchmarks.fuzzing.target import CANARY, SilentLossError, Target
from cluster import config
from cluster.errors import ConfigError
from sharding.config import DataConfig, ShardsConfig
from sharding.ingest import ingest

NUM_ROWS, NUM_COLUMNS = 120, 6
CONFIGS = Path(config.__file__).parent.parent / "configs"


def people(rng: np.random.Generator) -> pa.Table:
    """A small voter file with quotes, accents, blanks and leading zeros."""
    state = rng.integers(1, 4, NUM_ROWS)
    return pa.table(
        {
            "voter_id": [f"{CANARY}{i:04d}" for i in range(NUM_ROWS)],
            "name": rng.choice([f"{CANARY} José", f'{CANARY} "Bo"', f"{CANARY}, Ann", f"{CANARY}"], NUM_ROWS),
            "state": [f"{s:02d}" for s in state],
            "race": rng.choice(["White", "Black", "Ñandú", ""], NUM_ROWS),
            "dem": rng.choice([0.25, 0.5, 0.75], NUM_ROWS),
            "voted": pa.array(rng.integers(0, 2, NUM_ROWS), pa.int8()),
        }
    )


def _parquet(rng: np.random.Generator) -> bytes:
    sink = io.BytesIO()
    compression = str(rng.choice(["none", "snappy", "zstd", "gzip"]))
    pq.write_table(people(rng), sink, compression=compression, row_group_size=50, use_dictionary=bool(rng.integers(2)),
                   data_page_version=str(rng.choice(["1.0", "2.0"])), write_page_checksum=bool(rng.integers(2)))  # fmt: skip
    return sink.getvalue()


def _csv(rng: np.random.Generator, delimiter: str = ",") -> bytes:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(people(rng), sink, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue()


def _ingest(**options: Any) -> Callable[[Path, Path], dict[str, int]]:
    def read(path: Path, directory: Path) -> dict[str, int]:
        column = {"missing_values": ["", "NULL"], "missing": "quarantine", "unexpected": "quarantine"}
        columns = {"race": column, "state": column, "dem": {**column, "type": "numeric"}}
        columns["voted"] = {name: value for name, value in column.items() if name != "missing"}
        data = DataConfig(source=str(path), outcome="voted", columns=columns, terms_of_use="synthetic", threads=1,
                          max_unreadable=1.0, memory_limit="500MB", **options)  # fmt: skip
        report = ingest(
            data, ShardsConfig(by=("random",), num_shards=1), outcome_kind="binomial", factor_columns=["state", "race"],
            predictor_columns=["dem"], group_columns=[("state",)], directory=str(directory / "run"),
        )  # fmt: skip
        totals = report.manifest["totals"]
        return {name: totals[f"rows_{name}"] for name in ("read", "in_cells", "quarantined")}

    return read


def _parquet_rows(path: Path, directory: Path) -> dict[str, int]:
    counts = _ingest()(path, directory)
    return _reconciled(counts, pq.ParquetFile(path).metadata.num_rows)


def _odd_parquet(rng: np.random.Generator) -> bytes:
    return structured.parquet_file(rng)[0]


def _odd_csv(rng: np.random.Generator) -> bytes:
    return structured.csv_file(rng)[0]


def _config(path: Path, directory: Path) -> dict[str, int]:
    config.load(path)
    return {}


def _good_config(rng: np.random.Generator) -> bytes:
    found = sorted(CONFIGS.glob("*.yaml"))
    return found[int(rng.integers(0, len(found)))].read_bytes()


def _text_rows(encoding: str = "utf-8", **options: Any) -> Callable[[Path, Path], dict[str, int]]:
    def read(path: Path, directory: Path) -> dict[str, int]:
        counts = _ingest(encoding=encoding, **options)(path, directory)
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        lines = data.decode(encoding).encode() if encoding != "utf-8" else data
        within = num_lines(lines) - 1 - counts["read"]
        return _reconciled(counts, num_lines(lines) - 1 - min(within, breaks_within_values(lines, path)))

    return read


def num_lines(data: bytes) -> int:
    """Return how many lines are not blank, whatever ends them."""
    return sum(bool(line.strip(b"\0 ")) for line in data.replace(b"\r", b"\n").split(b"\n"))


def breaks_within_values(data: bytes, path: Path) -> int:
    """Return how many line breaks stand inside quoted values of whole rows, where they may, by Python's own reader."""
    text = io.StringIO(data.replace(b"\0", b" ").decode("latin-1"), newline="")
    rows = csv.reader(text, delimiter="\t" if ".tsv" in path.name else ",")
    return sum(len(re.findall(r"[\r\n]+", field)) for row in rows if len(row) == NUM_COLUMNS for field in row)


def _reconciled(counts: dict[str, int], num_rows: int) -> dict[str, int]:
    if counts["in_cells"] + counts["quarantined"] != num_rows:
        raise SilentLossError(f"{num_rows} rows in the file, {counts}")
    return counts


TARGETS = {
    target.name: target
    for target in (
        Target("parquet", "voters.parquet", _parquet, _parquet_rows),
        Target("csv", "voters.csv", _csv, _text_rows()),
        Target("tsv", "voters.tsv", lambda rng: _csv(rng, "\t"), _text_rows()),
        Target("csv.gz", "voters.csv.gz", lambda rng: gzip.compress(_csv(rng), 1, mtime=0), _text_rows()),
        Target("csv latin-1", "voters.csv", lambda rng: _csv(rng).decode().encode("latin-1"), _text_rows("latin-1")),
        Target("csv utf-16", "voters.csv", lambda rng: _csv(rng).decode().encode("utf-16"), _text_rows("utf-16")),
        Target("csv inside gz", "voters.csv.gz", _csv, _text_rows(), pack=lambda data: gzip.compress(data, 1, mtime=0)),
        Target("odd csv", "voters.csv", _odd_csv, _text_rows(), is_damaged=False),
        Target("odd parquet", "voters.parquet", _odd_parquet, _parquet_rows, is_damaged=False),
        Target("run config", "run.yaml", _good_config, _config, refusals=(ConfigError,)),
        *layout_targets.targets(),
    )
}


def make(name: str, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return an input of target ``name``: how it was made, and its bytes. The same ``rng`` gives the same."""
    target = TARGETS[name]
    mutation, data = "odd contents", target.good(rng)
    if target.is_damaged:
        mutation, data = mutations.mutate(rng, data)
    return mutation, target.pack(data)


def run(name: str, data: bytes, directory: Path) -> tuple[str, str]:
    """Let target ``name`` read ``data``; return the outcome and, where there is one, the error.

    Outcomes: ``ingested``, ``refused`` (an error that says what to do), and the faults ``traceback``, ``silent loss``
    and ``leak`` (a refusal that tells what is in a row).
    """
    target = TARGETS[name]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    path = directory / target.file_name
    path.write_bytes(data)
    try:
        target.read(path, directory)
    except target.refusals as error:
        return ("leak" if CANARY in str(error) else "refused"), f"{type(error).__name__}: {error}"
    except SilentLossError as error:
        return "silent loss", str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return "ingested", ""
