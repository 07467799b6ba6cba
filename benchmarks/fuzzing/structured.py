"""Files that are whole as files, with contents that nobody would write: odd types, odd schemas, odd values."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ("voter_id", "name", "state", "race", "dem", "voted")
TEXTS = (
    "", " ", "White", "Black", "01", "1", "0", "NULL", "NaN", "nan", "-0", "1e999", "inf", "0x1F", '"', '""', "a\nb", "a\r\nb", ",", "\t",
    "é", "\u202e", "\x00", "\ufeff", "'; DROP TABLE cells; --", "$p1", "=1+1", "x" * 5_000,
)  # fmt: skip


def csv_file(rng: np.random.Generator) -> tuple[bytes, int]:
    """Return a CSV file of rows of any length with any values, written by Python's own writer, and how many rows it has."""
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator=str(rng.choice(["\n", "\r\n"])))
    writer.writerow(NAMES)
    num_rows = int(rng.integers(0, 60))
    usual = rng.random() < 0.7
    for _ in range(num_rows):
        length = len(NAMES) if usual or rng.random() < 0.8 else int(rng.integers(1, 10))
        texts = [TEXTS[int(i)] for i in rng.integers(0, len(TEXTS), length)]
        if rng.random() < 0.5:
            texts[-2:] = ["0.5", "1"][-length:]
        if not any(texts):
            texts[0] = "V1"
        writer.writerow([text.replace("\x00", "") if length == 1 else text for text in texts])
    return sink.getvalue().encode(), num_rows


def parquet_file(rng: np.random.Generator) -> tuple[bytes, int]:
    """Return a Parquet file whose columns have any types and names, and how many rows it has."""
    num_rows = int(rng.integers(0, 80))
    names = [name for name in NAMES if rng.random() < 0.97]
    if rng.random() < 0.1:
        names += ["Race", "state", '"', "filename"][: int(rng.integers(1, 5))]
    columns = [_column(rng, name, num_rows) for name in names]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, names=names), sink, row_group_size=int(rng.integers(1, 50)))
    return sink.getvalue(), num_rows


def _column(rng: np.random.Generator, name: str, num_rows: int) -> pa.Array:
    usual: dict[str, Any] = {"voted": [0, 1], "dem": [0.25, 0.5], "state": ["01", "02"]}
    if rng.random() < 0.75:
        values, kind = usual.get(name, ["White", "Black"]), None
    else:
        values, kind = _KINDS[int(rng.integers(0, len(_KINDS)))]
    drawn = [values[int(i)] for i in rng.integers(0, len(values), num_rows)]
    nothing = rng.random(num_rows) < rng.choice([0, 0.1, 1], p=[0.6, 0.35, 0.05])
    array = pa.array([None if is_null else value for value, is_null in zip(drawn, nothing, strict=True)], kind)
    is_text = pa.types.is_string(array.type)
    return array.dictionary_encode() if is_text and rng.random() < 0.3 else array


_KINDS: list[tuple[list[Any], pa.DataType]] = [
    (list(TEXTS), pa.string()), (list(TEXTS), pa.large_string()), ([b"\xff\x00", b""], pa.binary()), ([0, 1, 2**62], pa.int64()),
    ([0, 1, 255], pa.uint8()), ([0, 1, 2**64 - 1], pa.uint64()), ([0.0, 1.0, float("nan"), float("inf"), -0.0], pa.float64()),
    ([0.5, 1e-38], pa.float32()), ([np.float16(1), np.float16(0)], pa.float16()), ([True, False], pa.bool_()), ([None], pa.null()),
    ([decimal.Decimal("1.00"), decimal.Decimal("0.00")], pa.decimal128(9, 2)), ([datetime.date(1900, 1, 1)], pa.date32()),
    ([datetime.datetime(2024, 11, 5)], pa.timestamp("us", "UTC")), ([datetime.time(1)], pa.time64("us")),
    ([datetime.timedelta(1)], pa.duration("ms")), ([[1], []], pa.list_(pa.int64())), ([{"a": 1}], pa.struct([("a", pa.int64())])),
]  # fmt: skip
