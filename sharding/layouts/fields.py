"""Where the wanted fields of a file are, and its rows of them, block by block: text, fixed width or Parquet."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharding import storage
from sharding.errors import ContractError, SourceError
from sharding.layouts import files, lines
from sharding.layouts.files import RawFile
from sharding.layouts.lines import LineReader, RowBlock
from sharding.layouts.schema import FileLayout


@dataclass
class Tally:
    """What was met in a file: counts of lines by rule, the encodings, and the rows that went in."""

    counts: Counter[str] = field(default_factory=Counter)
    encodings: set[str] = field(default_factory=set)
    rows_in: int = 0


@dataclass(frozen=True)
class Field:
    """A field that is wanted: the names that it may have in the files, the present one first, and who asks for it."""

    names: tuple[str, ...]
    where: str


def rows(
    file: RawFile, layout: FileLayout, wanted: Sequence[Field], tally: Tally
) -> Iterator[tuple[RowBlock, list[str]]]:
    """Yield blocks of rows with the ``wanted`` fields as text columns in this order, and the names that the file has for them.

    Raises
    ------
    SourceError, ContractError
        The file cannot be read as what it is said to be, or has no such field.
    """
    if layout.format == "parquet":
        yield from _parquet_rows(file, wanted, tally)
        return
    with files.opened(file) as stream:
        blocks = lines.blocks(stream, layout, file.label, tally.counts, tally.encodings)
        names, first = _header(blocks, file, layout, tally) if layout.header else (layout.fields, None)
        places = _places(wanted, names, file.label, is_header=layout.header)
        reader = LineReader(layout, len(names), list(dict.fromkeys(places)), tally.counts, tally.encodings)
        order = [f"f{place}" for place in places]
        for block in chain([] if first is None else [first], blocks):
            yield _ordered(reader.read(block), order), [names[place] for place in places]
        tally.encodings |= set() if tally.encodings else {"ascii"}
        tally.rows_in += reader.num_rows_in


def _ordered(block: RowBlock, order: list[str]) -> RowBlock:
    columns = [block.table.column(name) for name in order]
    return RowBlock(pa.table(columns, [str(i) for i in range(len(columns))]), block.lines)


def _header(
    blocks: Iterator[lines.Block], file: RawFile, layout: FileLayout, tally: Tally
) -> tuple[tuple[str, ...], lines.Block | None]:
    """Return the names in the first line that is not blank, and what comes after it in its block."""
    for block in blocks:
        data = block.data
        while data:
            line, _, data = data.partition(b"\n")
            text = line.strip(b" \r")
            if text:
                read = lines.decoded(lines.Lines.of(text + b"\n"), layout, Counter(), set(tally.encodings)).data
                decoded = read.decode("utf-8", "replace")[:-1]
                named = decoded.split(layout.delimiter)
                if layout.quoting == "standard":
                    named = [name.strip().removeprefix('"').removesuffix('"') for name in named]
                return tuple(name.strip() for name in named), lines.Block(data, block.is_cut) if data else None
            tally.counts["lines:blank"] += 1
    raise SourceError(file.label, "an empty file", "a first line with the names of the fields", "Copy the file again.")


def _places(wanted: Sequence[Field], names: Sequence[str], label: str, *, is_header: bool) -> list[int]:
    """Where the fields are. Of a first line that has none of them nothing is told: a file without a header begins with a person."""
    known = {name.lower() for item in wanted for name in item.names}
    is_told = not is_header or any(name.lower() in known for name in names)
    return [_place(item, names, label, is_header=is_header, is_told=is_told) for item in wanted]


def _place(item: Field, names: Sequence[str], label: str, *, is_header: bool, is_told: bool) -> int:
    lowered = [name.lower() for name in names]
    for name in item.names:
        found = [i for i, other in enumerate(names) if other == name] or [
            i for i, other in enumerate(lowered) if other == name.lower()
        ]
        if len(found) > 1:
            raise ContractError(
                f"{item.where}, file {label!r}", f"{len(found)} fields called {name!r}", "one", "Rename one of them in the file."
            )  # fmt: skip
        if found:
            return found[0]
    near = difflib.get_close_matches(item.names[0].lower(), lowered, n=1, cutoff=0.75) if is_told else []
    what = "the first line" if is_header else "the layout"
    raise ContractError(
        f"{item.where}, file {label!r}", f"no field {' or '.join(map(repr, item.names))} among the {len(names)} of {what}",
        "a field of this name" + (f" (is it {names[lowered.index(near[0])]!r}?)" if near else ""),
        "Add the name to `aliases` of the column in a layout of your own (`extends:`), or check delimiter and encoding."
    )  # fmt: skip


def _parquet_rows(file: RawFile, wanted: Sequence[Field], tally: Tally) -> Iterator[tuple[RowBlock, list[str]]]:
    if file.member is not None:
        raise SourceError(file.label, "Parquet inside a zip file", "a Parquet file", "Unpack it.")
    try:
        with storage.opened(file.url) as stream:
            parquet = pq.ParquetFile(stream)
            names = parquet.schema_arrow.names
            named = [names[place] for place in _places(wanted, names, file.label, is_header=True)]
            num_rows = 0
            for batch in parquet.iter_batches(batch_size=100_000, columns=list(dict.fromkeys(named))):
                columns = [_as_text(batch.column(name), name, file.label) for name in named]
                table = pa.table(columns, [str(i) for i in range(len(columns))])
                yield RowBlock(table, np.arange(num_rows, num_rows + batch.num_rows)), named
                num_rows += batch.num_rows
            tally.rows_in += num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise SourceError(
            file.label, f"a file that cannot be read as Parquet ({type(error).__name__})", "a whole Parquet file", "Copy it again."
        ) from None  # fmt: skip


def _as_text(column: pa.Array, name: str, label: str) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise ContractError(
            f"column {name!r}, file {label!r}", f"stored as {column.type}", "text, numbers, booleans or dates", "Write it as one of these."
        )  # fmt: skip
    return pc.fill_null(pc.cast(column, pa.string()), "")
