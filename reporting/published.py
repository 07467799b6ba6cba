"""Tables of a run without the counts and raw means that would tell of few people: :mod:`reporting.disclosure` applied to them.

What the model says of a group stays: it is an average over what the group has in common with others, and is never the
outcome of a few people by itself. Beside it, counts and raw means are null where they are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reporting.disclosure import Margin, hide
from reporting.estimates import ALL, label_columns

UNITS = 10


def estimates(
    tables: Mapping[str, pa.Table], min_count: int, *, is_share: bool, categories: str | None = None
) -> dict[str, pa.Table]:
    """Return the tables of all margins with `num_rows`, `num_trials` and `raw_mean` null where they are hidden.

    Known outcomes are hidden wherever people are, and raw means wherever known outcomes are. A raw mean that is a share is
    hidden, too, where few did, or few did not.

    Parameters
    ----------
    tables
        As :func:`reporting.estimates.summarise_groups` makes them, by margin.
    min_count
        The smallest count that is shown, other than 0; 1 shows all.
    categories
        The column that names the outcome's categories, where a group has a row for each.
    """
    groups = {name: _Groups.of(table, categories) for name, table in tables.items()}
    rows = _hide(groups, {name: of.num_rows for name, of in groups.items()}, {}, min_count)
    trials = _hide(groups, {name: of.num_trials for name, of in groups.items()}, rows, min_count)
    means = trials
    if is_share:
        means = _hide(groups, {name: of.successes for name, of in groups.items()}, trials, min_count, can_be_empty=True)
    return {
        name: _without(
            table, groups[name].which, {"num_rows": rows[name], "num_trials": trials[name], "raw_mean": means[name]}
        )
        for name, table in tables.items()
    }


def calibration(table: pa.Table, min_count: int, forced: np.ndarray | None = None) -> pa.Table:
    """Return a calibration of shares with `num_trials` and `observed` null in bins that tell of few people.

    The columns before `num_trials` name the groups and the bin, the bin last. The bins of a group add up to what is shown of it
    elsewhere; ``forced`` are the rows of groups of which nothing is.
    """
    names = table.column_names[: table.column_names.index("num_trials")]
    labels = list(zip(*(map(str, table[name].to_pylist()) for name in names), strict=True))
    trials, observed = (table[name].to_numpy() for name in ("num_trials", "observed"))
    did = np.round(trials * observed)
    counts = np.stack([did, np.round(trials) - did], axis=1).astype(np.int64)
    groups: dict[tuple[str, ...], int] = {}
    which = np.array([groups.setdefault(label[:-1], len(groups)) for label in labels], dtype=np.int64)
    totals = np.zeros((len(groups), 2), dtype=np.int64)
    np.add.at(totals, which, counts)
    of_group = Margin(tuple(names[:-1]), list(groups), totals)
    none = np.zeros(len(labels), dtype=bool) if forced is None else forced
    of_groups = np.zeros(len(groups), dtype=bool)
    of_groups[which[none]] = True
    hidden, _ = hide([Margin(tuple(names), labels, counts), of_group], min_count, [none, of_groups], can_be_empty=True)
    return _without(table, np.arange(len(labels)), {"num_trials": hidden, "observed": hidden})


def rounded_up(count: int, min_count: int) -> int:
    """Return a shard's or a file's count of people as people may read it: the next multiple of ``10 * (min_count - 1)``.

    Shards may be the groups of a margin, so an exact count could give away one that is hidden there.
    """
    unit = UNITS * (min_count - 1)
    return count if unit == 0 else -(-count // unit) * unit


class _Groups:
    """The groups of a table, and their counts: of a group with several rows (categories) the first has the counts."""

    def __init__(self, columns: tuple[str, ...], labels: list[tuple[str, ...]], which: np.ndarray, table: pa.Table):
        self.columns, self.labels, self.which = columns, labels, which
        first = np.unique(which, return_index=True)[1]
        self.num_rows, self.num_trials = (table[name].to_numpy()[first] for name in ("num_rows", "num_trials"))
        share = np.nan_to_num(table["raw_mean"].to_numpy(zero_copy_only=False))
        each = np.round(share * self.num_trials[which])
        if len(first) == len(which):
            self.successes = np.stack([each, self.num_trials - each], axis=1)
        else:
            self.successes = np.zeros((len(first), np.bincount(which).max()))
            self.successes[which, np.arange(len(which)) - first[which]] = each  # the rows of a group stand together

    @classmethod
    def of(cls, table: pa.Table, categories: str | None) -> _Groups:
        columns = tuple(name for name in label_columns(table) if name not in (ALL, categories))
        parts = [table[name].to_pylist() for name in columns]
        number: dict[tuple[str, ...], int] = {}
        keys = [tuple(map(str, key)) for key in zip(*parts, strict=True)] if parts else [()] * table.num_rows
        which = np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
        return cls(columns, list(number), which, table)

    def margin(self, counts: np.ndarray) -> Margin:
        return Margin(self.columns, self.labels, counts)


def _hide(
    groups: Mapping[str, _Groups],
    counts: Mapping[str, np.ndarray],
    forced: Mapping[str, np.ndarray],
    min_count: int,
    *,
    can_be_empty: bool = False,
) -> dict[str, np.ndarray]:
    margins = [of.margin(counts[name]) for name, of in groups.items()]
    before = [forced.get(name, np.zeros(len(of.labels), dtype=bool)) for name, of in groups.items()]
    return dict(zip(groups, hide(margins, min_count, before, can_be_empty=can_be_empty), strict=True))


def _without(table: pa.Table, which: np.ndarray, hidden: Mapping[str, np.ndarray]) -> pa.Table:
    """Nulls in the columns ``hidden``, by the group (``which``) that a row belongs to."""
    for name, of_group in hidden.items():
        field = table.schema.field(name)
        column = pc.if_else(pa.array(of_group[which]), pa.scalar(None, field.type), table[name].combine_chunks())
        table = table.set_column(table.column_names.index(name), field, column)
    return table
