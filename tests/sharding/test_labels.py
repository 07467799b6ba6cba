"""One rule for labels: the same value has the same label in every type, in Parquet, CSV, configs and frames."""

import datetime
import unicodedata
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding import labels
from sharding.config import ColumnConfig

TEXT = st.text() | st.from_regex(r"\A[ \t]*-?[0-9]{1,4}(\.0{0,3})?[ \u00a0]*\Z") | st.from_regex(
    r"\A(True|FALSE|true|2024-0[1-9]-11[ T]00:00:00(\.0+)?)\Z"
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=100))
def test_text_has_the_label_in_the_database_that_it_has_in_the_config(texts: list[str]) -> None:
    encodable = [t for t in texts if not any(0xD800 <= ord(c) < 0xE000 or ord(c) > 0xFFFF for c in t)]
    found = labels.of_arrow(pa.array(encodable, pa.string()), missing_values=())
    assert found == [labels.label(text) for text in encodable]
    assert [labels.label(labels.label(text)) for text in texts] == [labels.label(text) for text in texts]


_DAY = datetime.datetime(2024, 11, 5)
_ALIKE = {
    "whole numbers": (["1", "-3", "0"], [
        pa.array([1, -3, 0], pa.int8()), pa.array([1.0, -3.0, -0.0]), pa.array([1.0, -3.0, 0.0], pa.float32()),
        pa.array(np.array([1, -3, 0], np.float16)), pa.array([Decimal("1.00"), Decimal("-3.00"), Decimal("0.00")]),
        pa.array(["1", "-3", "0"]), pa.array([" 1.0", "-3.00\t", "-0.0"]), pa.array([b"1", b"-3", b"0"], pa.large_binary()),
        pa.array(["1.0", "-3", "0"]).dictionary_encode(), pa.array(["1", "-3", "0"], pa.string_view()),
    ]),
    "fractions": (["0.1", "2.5"], [
        pa.array([0.1, 2.5]), pa.array([0.1, 2.5], pa.float32()), pa.array([Decimal("0.100"), Decimal("2.500")]), pa.array(["0.1", "2.5"]),
    ]),
    "truth values": (["true", "false"], [
        pa.array([True, False]), pa.array(["TRUE", "FALSE"]), pa.array(["True", "False"]), pa.array(["true", " false "]),
    ]),
    "dates": (["2024-11-05"], [
        pa.array([_DAY.date()]), pa.array([_DAY], pa.timestamp("ns")), pa.array([_DAY], pa.timestamp("s")),
        pa.array([_DAY.replace(tzinfo=datetime.UTC)], pa.timestamp("us", "UTC")), pa.array(["2024-11-05 00:00:00"]),
    ]),
    "hours": (["2024-11-05 20:15:00"], [
        pa.array([_DAY.replace(hour=20, minute=15)], pa.timestamp("ms")),
        pa.array([_DAY.replace(hour=20, minute=15, tzinfo=datetime.UTC)], pa.timestamp("us", "America/New_York")),
    ]),
    "names": (["Doña Ana", "01", "al"], [
        pa.array(["Doña Ana", "01", "al"]), pa.array([unicodedata.normalize("NFD", "Doña Ana"), "01\0\0", "\u00a0al  "]),
    ]),
    "large": (["10000000000000000", "18446744073709551615"], [
        pa.array([10**16, 2**64 - 1], pa.uint64()), pa.array(["10000000000000000", "18446744073709551615"]),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", _ALIKE)
def test_a_value_has_one_label_whatever_its_type(name: str, tmp_path: Path) -> None:
    expected, columns = _ALIKE[name]
    for i, column in enumerate(columns):
        assert labels.of_arrow(column) == expected, column.type
        assert labels.of_arrow(pa.chunked_array([column, column])) == expected * 2
        assert _through_parquet(column, tmp_path / f"{i}.parquet") == expected, column.type


def test_missing_values_are_null_nan_and_markers() -> None:
    assert labels.of_arrow(pa.array([1.0, float("nan"), None])) == ["1", None, None]
    assert labels.of_arrow(pa.array(["", "  ", "NA", "x"]), ("", "NA")) == [None, None, None, "x"]
    assert labels.of_arrow(pa.array([None, None])) == [None, None]
    with pytest.raises(TypeError, match="list"):
        labels.of_arrow(pa.array([[1]]))


def test_what_the_config_declares_is_a_label_too() -> None:
    config = ColumnConfig(levels=(" AL", "TRUE", "1.0"), reference="True", missing_values=("  ", "-9.0"))
    assert (config.levels, config.reference, config.missing_values) == (("AL", "true", "1"), "true", ("", "-9"))


def _through_parquet(column: pa.Array, path: Path) -> list[str | None]:
    """As ingest reads it: by DuckDB, from a file."""
    kind = labels.kind_of_type(str(column.type))
    assert kind is not None
    pq.write_table(pa.table({"v": column}), path)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        query = f"SELECT {labels.label_sql('v', kind)} FROM read_parquet($path, binary_as_string=true)"
        return [row[0] for row in connection.execute(query, {"path": str(path)}).fetchall()]
