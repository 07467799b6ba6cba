"""Rows of a user's model as shards: factors coded once for all shards, local factors within each, rows padded."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from fitting.user_errors import ShardDataError
from fitting.user_model import ROWS, Shard, ShardedModel, padded

MIN_ROWS = 16

Columns = Mapping[str, np.ndarray]


def code(
    sharded: ShardedModel, rows: Mapping[str, Columns], levels: Mapping[str, tuple[str, ...]] | None = None
) -> list[Shard]:
    """Code and pad the rows of every shard, in the order given.

    Parameters
    ----------
    rows
        Shard id to columns of equal length.
    levels
        Levels of the factors, where they are known already; by default those that occur, sorted.

    Raises
    ------
    ShardDataError
        Columns that differ between shards, text in a column that is no factor, missing values, an empty shard, or a level
        of a local factor in two shards.
    """
    levels = factor_levels(sharded, rows) if levels is None else levels
    seen: dict[tuple[str, str], str] = {}
    shards = []
    for shard_id, columns in rows.items():
        shard = code_shard(sharded, shard_id, columns, levels)
        for factor, own in shard.levels.items():
            for level in own:
                first = seen.setdefault((factor, level), shard_id)
                if first != shard_id:
                    raise ShardDataError(
                        f"local factor {factor!r}", f"the same level in shards {first!r} and {shard_id!r}",
                        "every level in one shard",
                        "Cut the shards by this column, or declare it in `factors` and its effects in `global_sites`.",
                    )  # fmt: skip
        shards.append(shard)
    return shards


def factor_levels(sharded: ShardedModel, rows: Mapping[str, Columns]) -> dict[str, tuple[str, ...]]:
    """Levels of the global factors over all shards, sorted as text."""
    found: dict[str, set[str]] = {name: set() for name in sharded.factors}
    for shard_id, columns in rows.items():
        for name in found:
            found[name].update(_text(shard_id, columns, name))
    return {name: tuple(sorted(values)) for name, values in found.items()}


def code_shard(sharded: ShardedModel, shard_id: str, columns: Columns, levels: Mapping[str, tuple[str, ...]]) -> Shard:
    """One shard, coded by the levels of the global factors."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values()), 0):
        raise ShardDataError(
            f"shard {shard_id!r}", f"columns of lengths {lengths}", "columns of one length, at least 1",
            "Give every column of a shard one value per row; leave empty shards out.",
        )  # fmt: skip
    num_rows = next(iter(lengths.values()))
    total = padded(num_rows + 1, MIN_ROWS)  # always one row of padding: `fitting.user_checks` tries what it does
    data: dict[str, np.ndarray] = {}
    own: dict[str, tuple[str, ...]] = {}
    sizes = {ROWS: total}
    for name in sorted({*columns, *sharded.factors, *sharded.local_factors}):
        if name in sharded.factors or name in sharded.local_factors:
            text = _text(shard_id, columns, name)
            known = tuple(sorted(set(text))) if name in sharded.local_factors else levels[name]
            number = {level: i for i, level in enumerate(known)}
            unknown = sorted(set(text) - set(known))
            if unknown:
                raise ShardDataError(
                    f"shard {shard_id!r}, factor {name!r}", f"{len(unknown)} levels beside the {len(known)} known ones", "no others",
                    "Code all shards with the same levels.",
                )  # fmt: skip
            values = np.array([number[level] for level in text], dtype=np.int32)
            if name in sharded.local_factors:
                own[name] = known
            sizes[name] = padded(len(known)) if name in sharded.local_factors else len(known)
        else:
            values = _numbers(shard_id, name, columns[name])
        data[name] = np.concatenate([values, np.repeat(values[:1], total - num_rows)])
    return Shard(shard_id, data, np.arange(total) < num_rows, tuple(sorted(sizes.items())), own)


def _text(shard_id: str, columns: Columns, name: str) -> list[str]:
    if name not in columns:
        near = get_close_matches(name, columns, n=1)
        raise ShardDataError(
            f"shard {shard_id!r}", f"no column {name!r}", f"one of {sorted(columns)}",
            f"Did you mean {near[0]!r}?" if near else "Give the column, or take it out of the declaration.",
        )  # fmt: skip
    values = np.asarray(columns[name])
    if values.dtype == object and any(value is None for value in values):
        raise _missing(shard_id, name)
    if values.dtype.kind == "f":
        if np.isnan(values).any():
            raise _missing(shard_id, name)
        raise ShardDataError(
            f"shard {shard_id!r}, factor {name!r}", f"numbers of type {values.dtype}", "text, whole numbers or booleans",
            "Write the levels as text.",
        )  # fmt: skip
    return [str(value) for value in values.tolist()]


def _numbers(shard_id: str, name: str, column: Any) -> np.ndarray:
    values = np.asarray(column)
    if values.dtype.kind not in "fiub" or values.ndim != 1:
        raise ShardDataError(
            f"shard {shard_id!r}, column {name!r}", f"values of type {values.dtype}, shape {values.shape}",
            "numbers, shape (rows,)", "Declare a column of labels in `factors` or `local_factors`, or leave it out.",
        )  # fmt: skip
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise _missing(shard_id, name)
        return values
    return values.astype(np.int64)


def _missing(shard_id: str, name: str) -> ShardDataError:
    return ShardDataError(
        f"shard {shard_id!r}, column {name!r}", "missing or infinite values", "a value in every row",
        "Leave such rows out, or give them a value and a column that says so.",
    )  # fmt: skip
