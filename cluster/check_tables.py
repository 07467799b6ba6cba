"""The checks as tables and as lines: one row per cell, shard or group, and what a person reads first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fitting import loo, loso, predict, predictive
from fitting.predict import Calibration
from fitting.predictive import PriorTerm, Replicates

if TYPE_CHECKING:
    from cluster.check_tasks import LooResult, MarginCheck
    from cluster.work import Work

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
MAX_LINES = 8


# ---- cells and shards ----


def cells(work: Work, found: Sequence[LooResult]) -> pa.Table:
    """``loo.parquet``: a row per cell with its columns, counts, densities left out, and Pareto k (null where it is tame)."""
    factors = work.hierarchy.model.coding.factors
    columns: dict[str, pa.Array] = {}
    ids = np.repeat(np.arange(len(found), dtype=np.int32), [len(r.found.cells.elpd) for r in found])
    columns["shard_id"] = _labelled(ids, [e["shard_id"] for e in work.entries])
    for name in found[0].columns:
        values = np.concatenate([r.columns[name] for r in found])
        columns[name] = _labelled(values, factors[name]) if name in factors else pa.array(values)
    whole = [np.concatenate([getattr(r.found.cells, f) for r in found]) for f in loo.Elpd._fields]
    columns |= {"elpd": pa.array(whole[0]), "p_loo": pa.array(whole[1] - whole[0]), "k_hat": _or_null(whole[2])}
    for i, first in enumerate(found[0].found.people):
        each = [np.concatenate([getattr(r.found.people[i].each, f) for r in found]) for f in loo.Elpd._fields]
        absent = np.concatenate([r.found.people[i].num_people for r in found]) == 0
        columns[f"people_{first.outcome}"] = pa.array(np.concatenate([r.found.people[i].num_people for r in found]))
        columns[f"elpd_{first.outcome}"] = pa.array(each[0], mask=absent)
        columns[f"k_hat_{first.outcome}"] = _or_null(np.where(absent, np.nan, each[2]))
    return pa.table(columns)


def shards(work: Work, found: Sequence[LooResult], out: Sequence[loso.ShardOut]) -> pa.Table:
    """``loso.parquet``: a row per shard, its cells left out one by one (``loo``) and all together (``loso``)."""
    names = work.hierarchy.model.coefficient_names()[loso.common(work.hierarchy)]
    rows = []
    for entry, result, shard in zip(work.entries, found, out, strict=True):
        one = loo.estimate((result.found.cells, np.ones(len(result.found.cells.elpd))))
        each = [(p.each, p.num_people) for p in result.found.people]
        where = int(np.argmax(np.abs(shard.move)))
        rows.append({
            "shard_id": entry["shard_id"], "num_cells": len(result.found.cells.elpd),
            "num_trials": entry["num_trials"],
            "elpd_loo": one.elpd, "se_loo": _finite(one.se), "p_loo": one.p_loo, "num_bad_k": one.num_bad,
            "elpd_loso": shard.elpd, "mcse_loso": shard.mcse, "num_poor": shard.num_poor,
            "elpd_loo_person": loo.estimate(*each).elpd if each else None, "elpd_loso_person": _finite(shard.elpd_person),
            **_predicted(shard),
            "move": float(shard.move[where]), "move_where": str(names[where]), "efficiency": shard.efficiency,
        })  # fmt: skip
    return pa.Table.from_pylist(rows)


def _predicted(shard: loso.ShardOut) -> dict[str, float | None]:
    """What was observed beside what the others predict; nothing where the outcome has categories."""
    if not np.isfinite(shard.observed):
        return dict.fromkeys(("observed", "predicted", "q05", "q95", "p_value"))
    low, high = np.quantile(shard.predicted, [0.05, 0.95])
    above = float(np.mean(shard.predicted > shard.observed) + 0.5 * np.mean(shard.predicted == shard.observed))
    return {
        "observed": shard.observed, "predicted": float(shard.predicted.mean()), "q05": low, "q95": high, "p_value": above,
    }  # fmt: skip


def worst_shard(work: Work, out: Sequence[loso.ShardOut]) -> dict[str, Any]:
    """The shard that moves a common coefficient furthest, how far (posterior sds) and which."""
    names = work.hierarchy.model.coefficient_names()[loso.common(work.hierarchy)]
    size = np.array([np.abs(shard.move).max() for shard in out])
    s = int(np.argmax(size))
    where = int(np.argmax(np.abs(out[s].move)))
    return {
        "shard_id": work.entries[s]["shard_id"], "move": float(out[s].move[where]), "move_where": str(names[where]),
        "num_shards": len(out), "num_poor": sum(shard.num_poor for shard in out),
        "num_outside": None if not np.isfinite(out[0].observed) else sum(not _inside(shard) for shard in out),
    }  # fmt: skip


def _inside(shard: loso.ShardOut) -> bool:
    low, high = np.quantile(shard.predicted, [0.05, 0.95])
    return bool(low <= shard.observed <= high)


# ---- groups ----


def add(parts: Sequence[MarginCheck]) -> MarginCheck:
    """The same groups of several shards as one, in the order of the groups' codes."""
    codes, which = np.unique(np.concatenate([p.codes for p in parts]), axis=0, return_inverse=True)
    places = np.split(which.ravel(), np.cumsum([len(p.codes) for p in parts])[:-1])

    def total(values: Sequence[np.ndarray]) -> np.ndarray:
        out = np.zeros((len(codes), *values[0].shape[1:]))
        for place, value in zip(places, values, strict=True):  # in the order of the shards: the same sum every time
            out[place] += value
        return out

    known = [p.calibration for p in parts if p.calibration is not None]
    return parts[0]._replace(
        codes=codes,
        replicates=Replicates(*(total([p.replicates[f] for p in parts]) for f in range(len(Replicates._fields)))),
        prior=total([p.prior for p in parts]),
        calibration=total(known) if known else None,
    )


def labels(work: Work, columns: tuple[str, ...], codes: np.ndarray) -> list[str]:
    """One label per group, ``CA:06037``; ``all`` for everybody."""
    if not columns:
        return ["all"]
    factors = work.hierarchy.model.coding.factors
    return [":".join(factors[c][code] for c, code in zip(columns, row, strict=True)) for row in codes.tolist()]


def replicates(names: Sequence[str], labels: Mapping[str, list[str]], checked: Sequence[MarginCheck]) -> pa.Table:
    """``ppc.parquet``: a row per group of every margin."""
    parts = []
    for name, margin in zip(names, checked, strict=True):
        found = predictive.check(margin.replicates)
        parts.append(pa.table({
            "margin": [name] * len(labels[name]), "level": labels[name],
            "num_trials": np.round(margin.replicates.num_trials).astype(np.int64), "observed": found.observed,
            "mean": found.mean, "sd": found.sd, "q05": found.low, "q95": found.high,
            "p_value": found.p_value, "p_discrepancy": found.p_discrepancy,
        }))  # fmt: skip
    return pa.concat_tables(parts)


def outside(names: Sequence[str], table: pa.Table) -> dict[str, Any]:
    """Per margin: groups, those with a p-value within 0.025 of 0 or 1, and the probability of so many; worst group."""
    out = {}
    margin, level = np.array(table["margin"].to_pylist()), table["level"].to_pylist()
    for name in names:
        rows = np.flatnonzero(margin == name)
        entry: dict[str, Any] = {"num_groups": len(rows)}
        for column in ("p_value", "p_discrepancy"):
            p = table[column].to_numpy()[rows]
            number, chance = predictive.num_outside(p)
            worst = int(np.argmax(np.abs(p - 0.5)))
            entry[column] = {"num_outside": number, "chance": chance, "worst": level[rows[worst]], "worst_p": p[worst]}
        out[name] = entry
    return out


def prior(
    names: Sequence[str], labels: Mapping[str, list[str]], checked: Sequence[MarginCheck], terms: Sequence[PriorTerm]
) -> pa.Table:
    """``prior_predictive.parquet``: single terms and scales, then expected means of the groups of every margin."""
    rows = [_prior_row(t.kind, "", t.name, t.values, None, None, checked[0].calibration is not None) for t in terms]
    for name, margin in zip(names, checked, strict=True):
        people, observed = margin.replicates.num_trials, margin.replicates.observed
        for g, label in enumerate(labels[name]):
            values, share = margin.prior[g] / people[g], margin.calibration is not None
            rows.append(_prior_row("group", name, label, values, round(people[g]), observed[g] / people[g], share))
    return pa.Table.from_pylist(rows)


def _prior_row(
    kind: str, margin: str, level: str, values: np.ndarray, people: int | None, observed: float | None, share: bool
) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    return {
        "kind": kind, "margin": margin, "level": level, "num_trials": people, "observed": observed,
        "mean": float(finite.mean()), "sd": float(finite.std()),
        **{name: float(np.quantile(finite, q)) for name, q in QUANTILES.items()},
        "extreme": float(predictive.extreme(values)) if share and kind != "parameter" else None,
    }  # fmt: skip


def prior_summary(table: pa.Table) -> list[dict[str, Any]]:
    """The single terms and everybody, as ``checks.json`` has them."""
    kept = ("kind", "level", "q05", "q50", "q95", "extreme", "observed")
    rows = [row for row in table.to_pylist() if row["kind"] == "term" or row["margin"] == "all"]
    return [{name: row[name] for name in kept} for row in rows]


def calibration(names: Sequence[str], labels: Mapping[str, list[str]], checked: Sequence[MarginCheck]) -> pa.Table:
    """``calibration.parquet``: deciles of the expected share within every group of every margin."""
    rows = []
    for name, margin in zip(names, checked, strict=True):
        assert margin.calibration is not None, "shares have a calibration"
        for label, bins in zip(labels[name], margin.calibration, strict=True):
            rows += [{"margin": name, "level": label, **row} for row in predict.deciles(Calibration(*bins))]
    return pa.Table.from_pylist(rows)


# ---- what a person reads ----


def lines(summary: Mapping[str, Any]) -> list[str]:
    """Say ``checks.json`` in a few lines."""
    out = [f"{summary['name']}: {summary['formula']}", ""]
    out.append("leave one out        elpd         se     p_loo      units    k > 0.7")
    for unit in ("person", "cell"):
        found = summary["loo"][unit]
        if found is not None:
            se = "-" if found["se"] is None else f"{found['se']:,.1f}"
            elpd = "-inf" if found["elpd"] is None else f"{found['elpd']:,.1f}"
            p_loo = "-" if found["p_loo"] is None else f"{found['p_loo']:,.1f}"
            out.append(f"  by {unit:<7}{elpd:>15}{se:>11}{p_loo:>10}{found['num_units']:>11,}{found['num_bad']:>11,}")
    if summary["loo"]["corrected"] == "no":
        out.append("  the draws are too far from the exact posterior to be corrected: see the audit first")
    worst = summary["loso"]
    moves = f"{worst['shard_id']} moves {worst['move_where']} by {worst['move']:+.2f} posterior sds, the most of {worst['num_shards']:,}"
    only = "there is one, and without it there are no data (cut the file into several with `shards`)"
    out += ["", f"leave one shard out: {only if worst['num_shards'] == 1 else moves}"]
    if worst["num_outside"] is None:
        return [*out, "", "outcomes with categories have no sums, so they are not replicated"]
    out += [
        f"  observed outside the 90% interval that the others predict: {worst['num_outside']:,} shards, "
        f"about {0.1 * worst['num_shards']:,.0f} by chance",
        "",
        "replicated outcomes      groups  total p outside 95%   inside p outside 95%  worst",
    ]
    for name, found in summary["ppc"].items():
        total, inside = found["p_value"], found["p_discrepancy"]
        said = max((total, inside), key=lambda p: abs(p["worst_p"] - 0.5))
        out.append(
            f"  {name:<21}{found['num_groups']:>8,}{total['num_outside']:>22,}{inside['num_outside']:>23,}  "
            f"{said['worst']} (p {said['worst_p']:.3f})"
        )
    out += ["", "prior alone               5%     50%     95%   all or nothing"]
    for row in summary["prior"][:MAX_LINES] + [r for r in summary["prior"][MAX_LINES:] if r["kind"] == "group"]:
        extreme = "" if row["extreme"] is None else f"{row['extreme']:>17.0%}"
        name = "everybody" if row["kind"] == "group" else row["level"]
        out.append(f"  {name:<20}{row['q05']:>7.3g}{row['q50']:>8.3g}{row['q95']:>8.3g}{extreme}")
    return out


def _labelled(codes: np.ndarray, names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(list(names), pa.string()))


def _or_null(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
