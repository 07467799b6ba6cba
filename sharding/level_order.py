"""The order of levels: one rule for factors and for the categories of an outcome.

Declared `levels` keep their order. Otherwise the order that the files store counts (an ordered categorical), then the value
of numbers and dates, and last the alphabet. What follows the alphabet has no order of its own: where an order matters (an
ordinal outcome, a random walk over levels) :func:`check` refuses it before anything is fitted. Levels are labels
(:mod:`sharding.labels`): a code with leading zeros is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from sharding import labels, privacy
from sharding.dictionary import Dictionary
from sharding.errors import ContractError

Order = tuple[str, ...]
"""Labels in the order of one file, those that no row has too."""

MAX_SHOWN = 100
"""So many levels are listed in a message, and no more."""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?|-?inf", re.IGNORECASE)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9:.]+)?")
_TRUTH = {"false", "true"}


def arrange(found: Iterable[str], orders: Sequence[Order] = ()) -> tuple[list[str], bool]:
    """Return levels in order, and whether that is an order of their own rather than the alphabet's.

    ``orders`` are those of the files that store one; they count if together they leave one order of what is ``found``.
    """
    levels = sorted(found)
    holding = sum("\0" in level for level in levels)
    if holding:
        raise ContractError(
            "data", f"{holding} level(s) with a NUL byte inside", "text that can be shown and written to any file",
            "Remove the byte in the file; at the ends of values it is taken off."
        )  # fmt: skip
    merged = _merge([tuple(label for label in order if label in set(levels)) for order in dict.fromkeys(orders)])
    if orders and merged is not None and len(merged) == len(levels):
        return merged, True
    if all(_NUMBER.fullmatch(level) for level in levels):
        return sorted(levels, key=lambda level: (Decimal(level), level)), True
    return levels, _TRUTH.issuperset(levels) or all(_DATE.fullmatch(level) for level in levels)


def _merge(orders: Sequence[Order]) -> list[str] | None:
    """The one order that all ``orders`` are parts of; None if they contradict each other or leave it open."""
    later: dict[str, set[str]] = {label: set() for order in orders for label in order}
    for order in orders:
        for first, second in pairwise(order):
            later[first].add(second)
    merged: list[str] = []
    while later:
        first_ones = set(later).difference(*later.values())
        if len(first_ones) != 1:
            return None
        merged.append(first_ones.pop())
        del later[merged[-1]]
    return merged


def stored(file: pq.ParquetFile, name: str) -> Order | None:
    """Return the labels of an ordered categorical in the order that a Parquet file has them; None where it stores none.

    The order is that of the dictionary page. Where a writer has left that out, or the categories are numbers (of which Parquet
    keeps no dictionary), the file has lost it, whatever the metadata of pandas say.
    """
    place = file.schema_arrow.get_field_index(name)
    if place < 0 or file.metadata.num_row_groups == 0:
        return None
    kind = file.schema_arrow.field(place).type
    if not (pa.types.is_dictionary(kind) and kind.ordered):
        return None
    leaf = next((i for i in range(file.metadata.num_columns) if file.schema.column(i).path == name), None)
    if leaf is None or not file.metadata.row_group(0).column(leaf).has_dictionary_page:
        return None
    batch = next(file.iter_batches(1, row_groups=[0], columns=[name]), None)
    if batch is None:
        return None
    values = labels.of_arrow(batch.column(0).dictionary, missing_values=())
    return tuple(dict.fromkeys(label for label in values if label is not None))


def check(dictionary: Dictionary, needed: Mapping[str, str]) -> None:
    """Refuse columns whose levels have no order of their own.

    Parameters
    ----------
    needed
        What needs the order, in words, by column; the outcome is named as in the model. Columns without levels are not looked at.

    Raises
    ------
    ContractError
        With the line of `levels` to paste.
    """
    for name, why in needed.items():
        coding = dictionary.factors.get(name)
        levels = coding.levels if coding is not None else dictionary.outcome.categories
        is_ordered = coding.ordered if coding is not None else dictionary.outcome.ordered
        if levels is None or is_ordered:
            continue
        privacy.check_looks(name, levels)
        line = ", ".join(json.dumps(level, ensure_ascii=False) for level in sorted(levels, key=_likely))
        paste = f"{name}: {{levels: [{line}]}}" if len(levels) <= MAX_SHOWN else f"{name}: {{levels: [...]}}"
        raise ContractError(
            f"data.columns.{name}", f"{len(levels)} levels of text without an order", f"their order, which {why} needs",
            f"Put them in order under `data.columns` (what stands here is a guess): `{paste}`. An ordered categorical in the "
            "file, the same in every file, does too; a level for missing values has a place in the order only if `levels` "
            "names it."
        )  # fmt: skip


def _likely(level: str) -> tuple[float, bool, str]:
    """A guess for a person to correct: by the first number, words before it first (under 30, 30-44, 65 and over)."""
    number = re.search(r"[0-9]+", level)
    return (float(number[0]) if number else float("inf"), level[:1].isdigit(), level)
