"""The one rule by which a value becomes the label of a level, whatever file it is in and however that stores it.

The value as text, then :func:`label` of the text:

=====================  =============================================================================================
integer                its digits
floating point,        shortest text; a whole number has no point (1.0 is ``1``), no trailing zeros (1.50 is ``1.5``);
decimal                NaN is missing
boolean                ``true``, ``false``
date, timestamp        ``2024-11-05``; ``2024-11-05 20:15:00`` in UTC, without the time where that is midnight
text                   composed (Unicode NFC), without blanks at its ends; ``True`` and ``TRUE`` are ``true``, ``1.0`` is ``1``,
                       a date at midnight is the date. Case, leading zeros and blanks inside stay: ``01`` is not ``1``
=====================  =============================================================================================

So a column has the same labels in Parquet and in CSV, as integers and as floating point. Source rows, declared levels, markers
of missing values and poststratification frames all go through here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

import duckdb
import pyarrow as pa

Kind = Literal["text", "integer", "float", "boolean", "date", "null"]
"""How a column is stored; ``float`` has decimals too, ``date`` timestamps."""

BLANKS = "".join(c for c in map(chr, range(0x10000)) if c.isspace()) + "\0\u200b\ufeff"
"""What is taken off the ends of text: white space, NUL (padding of fixed width), zero-width blanks, marks of byte order."""
_BLANK_CLASS = "[" + "".join(f"\\x{{{ord(c):x}}}" for c in BLANKS) + "]+"
_AS_IT_IS = "[!-~]([ -~]*[!-/1-~])?"
"""Regular expression of text that is its own label, but for truth values: most of it, told without the work of the rest."""

_AS_TRUE, _AS_FALSE = ("True", "TRUE"), ("False", "FALSE")
_PLAIN = r"^-?(0)\.0+$|^(-?[1-9][0-9]*)\.0+$|^([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]00:00:00(?:\.0+)?$"
_KINDS: dict[str, Kind] = {
    "string": "text", "string_view": "text", "binary": "text", "binary_view": "text", "bool": "boolean",
    "float": "float", "double": "float", "halffloat": "float", "decimal32": "float", "decimal64": "float",
    "decimal128": "float", "decimal256": "float", "date32": "date", "date64": "date", "timestamp": "date", "null": "null",
    **{f"{sign}int{bits}": "integer" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def kind_of_type(stored: str) -> Kind | None:
    """Return the kind of an Arrow type, given as text; None where no level can be made of it (lists, structs, times)."""
    base = stored.removeprefix("dictionary<values=").split("[")[0].split("(")[0].split(",")[0].removeprefix("large_")
    return _KINDS.get(base)


def label(text: str) -> str:
    """Return the label of a text; of a label, the label itself."""
    stripped = text.strip(BLANKS)
    if stripped in _AS_TRUE:
        return "true"
    if stripped in _AS_FALSE:
        return "false"
    if "\0" in stripped:  # where DuckDB would end the composed text
        return stripped
    plain = re.sub(_PLAIN, r"\1\2\3", stripped, flags=re.ASCII) if stripped.endswith("0") else stripped
    return unicodedata.normalize("NFC", plain)


def label_sql(column: str, kind: Kind) -> str:
    """Return SQL of the label of a value, null where it is null or NaN. ``column`` is SQL; time zones are UTC in
    :func:`sharding.database.connected`."""
    text = f"CAST({column}{'::TIMESTAMP' if kind == 'date' else ''} AS VARCHAR)"
    if kind == "float":
        is_whole = f"{column} = floor({column}) AND abs({column}) < 9.2e18"
        number = f"rtrim(regexp_replace({text}, '(\\.[0-9]*?)0+$', '\\1'), '.')"
        return (
            f"CASE WHEN isnan(CAST({column} AS DOUBLE)) THEN NULL "
            f"WHEN {is_whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE {number} END"
        )
    if kind not in ("text", "date"):
        return text
    stripped = f"regexp_replace({text}, '^{_BLANK_CLASS}|{_BLANK_CLASS}$', '', 'g')"
    plain = f"(CASE WHEN ends_with({stripped}, '0') THEN regexp_replace({stripped}, '{_PLAIN}', '\\1\\2\\3') ELSE {stripped} END)"
    return (
        f"CASE WHEN regexp_full_match({text}, '{_AS_IT_IS}') AND {text} NOT IN {(*_AS_TRUE, *_AS_FALSE)} THEN {text} "
        f"WHEN {stripped} IN {_AS_TRUE} THEN 'true' WHEN {stripped} IN {_AS_FALSE} THEN 'false' "
        f"WHEN contains({stripped}, chr(0)) THEN {stripped} ELSE nfc_normalize({plain}) END"
    )


def of_arrow(column: pa.Array | pa.ChunkedArray, missing_values: Sequence[str] = ("",)) -> list[str | None]:
    """Return the labels of a column of a frame, as ingest makes them of the same column of a file.

    None is a missing value: null, NaN, or a label among ``missing_values``.

    Raises
    ------
    TypeError
        No level can be made of values of this type.
    """
    kind = kind_of_type(str(column.type))
    if kind is None:
        raise TypeError(f"no level can be made of values of the type {column.type}")
    if kind == "null":
        return [None] * len(column)
    dense = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(dense.type):
        dense = dense.dictionary_decode()
    distinct = dense.dictionary_encode()
    if isinstance(distinct, pa.ChunkedArray):
        distinct = distinct.combine_chunks()
    of_code = [None if text in missing_values else text for text in _of_values(distinct.dictionary, kind)]
    return [None if code is None else of_code[code] for code in distinct.indices.to_pylist()]


def _of_values(values: pa.Array, kind: Kind) -> list[str | None]:
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    if pa.types.is_timestamp(values.type) and values.type.unit == "ns" and values.type.tz is not None:
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)  # DuckDB has few casts of the other
    if kind == "text":
        values = values.cast(pa.string())
    with duckdb.connect(":memory:", config={"preserve_insertion_order": "true"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("frame", pa.table({"value": values}))
        rows = connection.execute(f"SELECT {label_sql('value', kind)} FROM frame").fetchall()
    return [row[0] for row in rows]

