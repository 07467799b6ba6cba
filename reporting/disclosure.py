"""What may leave a run directory: the one place that turns private estimates into published ones.

A published row is a group of at least ``min_count`` people and as many known outcomes: two counts, an estimate and its
interval. With ``n`` known outcomes, ``N`` people, posterior sd ``s`` and mean ``p``, every estimate is rounded to a step

    h >= max(s / 2, min_count * influence, min_count / N),

the last of shares only. ``influence`` is how far one person's outcome moves the mean: ``s^2 / (p (1 - p))`` for a share, to first
order (the covariance of the mean with the logit of its own probability), and ``2 s / sqrt(n)`` otherwise, for an outcome two
standard deviations from the mean. So one outcome changes a published number with probability ``1 / min_count`` at most, and
what a total and the other parts leave for a hidden group is wider than all that the group could hold.

Rounding is up or down at random, without bias (``h floor(x / h + u)``), and ``u`` depends on a secret key and the name
of the group alone: the same value is published as the same number, and nobody can see how close it was to another.

Between two publications a row stays as it was until ``min_count`` known outcomes of its group are others (:func:`merge`).
docs/design/privacy.md has the attackers, what is promised, and what is not.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reporting import margins
from reporting.estimates import ALL, interval_columns, label_columns

MAX_SHARE_STEP = 0.2
"""A share that would be rounded more coarsely tells nothing and is withheld."""
MAX_STEP_SDS = 4.0
"""The same for other outcomes, in posterior sds."""
PUBLISHED = ("people", "known_outcomes", "estimate", "low", "high", "step", "as_of")
WHOLE = ("people", "known_outcomes", "as_of")
_TIDY = np.array([1.0, 2.0, 5.0, 10.0])

LEDGER = pa.schema(
    [("margin", pa.string()), ("group", pa.string()), ("data", pa.string())]
    + [(name, pa.float64()) for name in ("exact_known", "exact_total", *PUBLISHED)]
)
"""A row per group and category, published or withheld (then :data:`PUBLISHED` are null): the exact counts that it was made from,
and ``data``, which data that was. Private."""


class Rule(NamedTuple):
    """How groups are published.

    ``key`` is secret, 32 bytes; ``totals_are_counts`` says that raw mean times known outcomes counts people (shares without survey weights);
    ``categories`` is the column that names an outcome's categories, where a group has a row for each.
    """

    min_count: int
    is_share: bool
    key: bytes
    totals_are_counts: bool
    categories: str | None = None


def publishable(tables: Mapping[str, pa.Table], rule: Rule, data: str, number: int) -> pa.Table:
    """Return the rows of all margins as :data:`LEDGER`, those that are too small to be published with nulls.

    Parameters
    ----------
    tables
        As :func:`reporting.estimates.summarise_groups` makes them, by margin.
    data
        Names the data that the run was made from: other data, another name.
    number
        Of the publication, from 1: its rows say so in ``as_of``.
    """
    parts = [_rows(name, table, rule, data, number) for name, table in tables.items()]
    return pa.concat_tables(parts) if parts else LEDGER.empty_table()


class Merged(NamedTuple):
    """What is published after an earlier publication: its ``rows``, the ``ledger`` to keep, and how many rows stayed as they were."""

    rows: pa.Table
    ledger: pa.Table
    num_kept: int


def merge(now: pa.Table, earlier: pa.Table, rule: Rule) -> Merged:
    """Return what is published after ``earlier``, the ledger of the publications before, by the rows that were made now.

    A row replaces the earlier one of its group if at least ``min_count`` known outcomes of the group are others (added, taken away, or
    of another value), or if both were made from the same data with none of them another (then the model is another). Changes are
    judged by counts, which can only tell too few. Otherwise the earlier row stays, withheld ones too. What ``now`` has nothing of is not
    published, and stays in the ledger. A row with the same numbers as before is as of before.
    """
    old = {_key(row): row for row in earlier.to_pylist()}
    pairs = [(old.pop(_key(row), None), row) for row in now.to_pylist()]
    changed: dict[tuple[str, str], float] = {}
    for was, row in pairs:
        if was is not None:
            group = _group_of(row, rule)
            changed[group] = max(changed.get(group, 0.0), _outcomes_changed(was, row, rule))
    rows, num_kept = [], 0
    for was, row in pairs:
        number = 0.0 if was is None else changed[_group_of(row, rule)]
        if was is None or number >= rule.min_count or (was["data"] == row["data"] and number == 0):
            same = was is not None and all(was[name] == row[name] for name in PUBLISHED[:-1])
            rows.append(row | {"as_of": was["as_of"]} if same and was is not None else row)
        else:
            rows.append(was)
            num_kept += 1
    published = pa.Table.from_pylist(rows, schema=LEDGER)
    return Merged(published, pa.concat_tables([published, pa.Table.from_pylist([*old.values()], schema=LEDGER)]), num_kept)


def shown(ledger: pa.Table, names: Sequence[str], categories: str | None) -> dict[str, pa.Table]:
    """Return the published table of every margin: its columns and :data:`PUBLISHED`; withheld groups are not in it."""
    out = {}
    for name in names:
        columns = [*margins.columns(name), *([categories] if categories else [])] or [ALL]
        rows = ledger.filter(pc.and_(pc.equal(ledger["margin"], _sorted_name(name)), pc.is_valid(ledger["estimate"])))
        labels = [json.loads(group) for group in rows["group"].to_pylist()]
        named = {column: pa.array([label.get(column, ALL) for label in labels], pa.string()) for column in columns}
        numbers = {c: rows[c].cast(pa.int64()) if c in WHOLE else rows[c] for c in PUBLISHED}
        out[name] = pa.table({**named, **numbers})
    return out


def step(sd: np.ndarray, mean: np.ndarray, people: np.ndarray, known: np.ndarray, rule: Rule) -> np.ndarray:
    """Return the step of every group, 1, 2 or 5 times a power of ten; NaN where it would be too coarse to be of use."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if rule.is_share:
            inside = np.clip(mean * (1 - mean), 1e-12, None)
            least = np.maximum(sd / 2, rule.min_count * np.maximum(sd**2 / inside, 1 / people))
            most = np.full(len(sd), MAX_SHARE_STEP)
        else:
            least = np.maximum(sd / 2, rule.min_count * 2 * sd / np.sqrt(known))
            most = MAX_STEP_SDS * sd
        power = 10.0 ** np.floor(np.log10(least))
        tidy = power * _TIDY[np.searchsorted(_TIDY, least / power * (1 - 1e-12))]
    return np.where((least <= most) & np.isfinite(tidy) & (tidy > 0), tidy, np.nan)


def rounded(values: np.ndarray, steps: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Return ``values`` rounded to ``steps``, up or down by ``uniform`` in [0, 1): right on average."""
    multiples = np.floor(values / steps + uniform)
    digits = np.maximum(-np.floor(np.log10(steps)), 0) + 1
    return np.array([round(v, int(d)) for v, d in zip((multiples * steps).tolist(), digits.tolist(), strict=True)])


def _rows(name: str, table: pa.Table, rule: Rule, data: str, number: int) -> pa.Table:
    columns = [c for c in label_columns(table) if c != ALL or c in margins.columns(name)]
    labels = [dict(zip(columns, values, strict=True)) for values in zip(*(table[c].to_pylist() for c in columns), strict=True)]
    labels = labels or [{}] * len(table)
    keys = [json.dumps(label, sort_keys=True, ensure_ascii=False) for label in labels]
    people, known, mean, sd, raw = (
        table[c].cast(pa.float64()).to_numpy(zero_copy_only=False) for c in ("num_rows", "num_trials", "mean", "sd", "raw_mean")
    )
    groups = np.unique([_group(label, rule.categories) for label in labels], return_inverse=True)[1]
    steps = step(sd, mean, people, known, rule)
    coarsest = np.full(groups.max(initial=-1) + 1, -np.inf)
    np.maximum.at(coarsest, groups, np.where(np.isnan(steps), np.inf, steps))  # a group's categories have one step
    steps = coarsest[groups]
    is_shown = (people >= rule.min_count) & (known >= rule.min_count) & np.isfinite(steps)
    steps = np.where(is_shown, steps, 1.0)
    margin = _sorted_name(name)
    estimate = rounded(mean, steps, _uniform(rule, margin, keys, "estimate"))
    low, high = _interval(table, mean, estimate, steps, rule.is_share)
    base = np.full(len(table), float(max(rule.min_count - 1, 1)))
    of_counts = _uniform(rule, margin, [_group(label, rule.categories) for label in labels], "counts")
    numbers = {
        "people": rounded(people, base, of_counts),
        "known_outcomes": rounded(known, base, of_counts),
        "estimate": estimate, "low": low, "high": high, "step": steps, "as_of": np.full(len(table), float(number)),
    }  # fmt: skip
    return pa.table({
        "margin": pa.array([margin] * len(table), pa.string()), "group": pa.array(keys, pa.string()),
        "data": pa.array([data] * len(table), pa.string()), "exact_known": known, "exact_total": np.nan_to_num(raw) * known,
        **{column: pa.array(values, mask=~is_shown) for column, values in numbers.items()},
    }).cast(LEDGER)  # fmt: skip


def _interval(table: pa.Table, mean: np.ndarray, estimate: np.ndarray, steps: np.ndarray, is_share: bool) -> list[np.ndarray]:
    """Ends as far from the estimate as the further end is from the mean, and what rounding adds, up to a half step."""
    low, high = (table[name].to_numpy() for name in interval_columns(table))
    half = np.hypot(np.maximum(high - mean, mean - low), steps)
    half = np.ceil(half / (steps / 2)) * steps / 2
    least = np.where(low >= 0, 0.0, -np.inf)
    most = np.full(len(mean), 1.0 if is_share else np.inf)
    ends = (np.clip(estimate - half, least, most), np.clip(estimate + half, least, most))
    return [rounded(end, steps / 10, np.full(len(mean), 0.5)) for end in ends]


def _uniform(rule: Rule, margin: str, groups: Sequence[str], what: str) -> np.ndarray:
    """A number in [0, 1) of each group, by HMAC-SHA-256: always the same, and known to nobody without the key."""
    said = (json.dumps([margin, group, what], ensure_ascii=False).encode() for group in groups)
    digests = (hmac.new(rule.key, text, hashlib.sha256).digest() for text in said)
    return np.array([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests])


def _group(label: Mapping[str, str], categories: str | None) -> str:
    return json.dumps({c: v for c, v in label.items() if c != categories}, sort_keys=True, ensure_ascii=False)


def _sorted_name(name: str) -> str:
    """The name of a margin, whatever the order of its columns: the same groups are the same."""
    return margins.name(tuple(sorted(margins.columns(name))))


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["margin"], row["group"]


def _group_of(row: Mapping[str, Any], rule: Rule) -> tuple[str, str]:
    return row["margin"], _group(json.loads(row["group"]), rule.categories)


def _outcomes_changed(was: Mapping[str, Any], now: Mapping[str, Any], rule: Rule) -> float:
    """How many known outcomes are others at least: by their number and, where they are counted, by how many had this outcome or had not."""
    known, total = (now[name] - was[name] for name in ("exact_known", "exact_total"))
    return float(max(abs(known), abs(np.rint(total)), abs(np.rint(known - total))) if rule.totals_are_counts else abs(known))
