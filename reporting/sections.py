"""What the report says about the answer: estimates, effects, scales and calibration, ready for the template."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from scipy import stats

from reporting import figures, people
from reporting import margins as margin_names
from reporting.estimates import (
    ALL,
    Comparison,
    compare_with_truth,
    interval_columns,
    joined_labels,
    label_columns,
    wilson_interval,
)
from reporting.figures import Interval
from reporting.posterior import variables
from reporting.run_directory import RunDirectory
from reporting.svg import fixed, percent, plain
from reporting.tables import require_columns

MAX_ROWS = 60  # a factor with more levels is shown by its ends and its distribution
END_ROWS = 15


@dataclass(frozen=True)
class Margin:
    """Estimates of one margin."""

    name: str
    num_groups: int
    figure: Markup
    distribution: Markup | None
    columns: list[str]
    rows: list[list[str]]
    note: str
    comparison: Comparison | None
    has_raw: bool


@dataclass(frozen=True)
class Tile:
    """One number at the head of the estimates."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Headline:
    """The estimate of all people, of each category where the outcome has several; ``lines`` say who is not in it."""

    tiles: list[Tile]
    lines: list[str]


@dataclass(frozen=True)
class Effects:
    """Effects of one term."""

    term: str
    num_levels: int
    figure: Markup
    distribution: Markup | None
    note: str


def value_text(run: RunDirectory, decimals: int = 1) -> Callable[[float], str]:
    """Return how an outcome is written: a percentage for shares, three digits otherwise."""
    return (lambda value: percent(value, decimals)) if run.is_share else plain


def interval_text(run: RunDirectory) -> str:
    """Return the interval's name, ``90%``, from the columns of the estimates."""
    for table in run.estimates.values():
        low, high = (float(name.removeprefix("q")) for name in interval_columns(table))
        return f"{high - low:g}%"
    return "90%"


def headline(run: RunDirectory) -> Headline | None:
    """Return the estimate of all people."""
    table = run.estimates.get(ALL)
    if table is None or not len(table):
        return None
    who = people.told(run.population)
    text, rows, categories = value_text(run), table.to_pylist(), [c for c in label_columns(table) if c != ALL]
    low, high = interval_columns(table)
    tiles = []
    for i, row in enumerate(rows):
        category = f": {row[categories[-1]]}" if categories else ""
        names = who.title + category if i == 0 else category.removeprefix(": ")
        tiles.append(Tile(names, text(row["mean"]), f"{text(row[low])} to {text(row[high])}"))
    if len(rows) == 1:
        raw = "–" if rows[0]["raw_mean"] is None else text(rows[0]["raw_mean"])
        counts = f"{rows[0]['num_trials']:,} known outcomes; {rows[0]['num_rows']:,} people in the estimates"
        tiles.append(Tile("Raw mean of known outcomes", raw, counts))
        if comparison := _comparison(run, table):
            truth = text(float(comparison.table["expected_mean"][0].as_py()))
            tiles.append(Tile("Truth of the simulation", truth, "known only because the file is simulated"))
    return Headline(tiles, who.lines)


def margins(run: RunDirectory) -> list[Margin]:
    """Return every margin but ``all``, the ones with fewest groups first."""
    tables = [(name, table) for name, table in run.estimates.items() if name != ALL and len(table)]
    return [_margin(run, name, table) for name, table in sorted(tables, key=lambda item: (len(item[1]), item[0]))]


def _margin(run: RunDirectory, name: str, table: pa.Table) -> Margin:
    require_columns(f"estimates/{name}", table, ("num_rows", "num_trials", "raw_mean", "mean", "sd"))
    comparison = _comparison(run, table)
    columns = label_columns(table)
    records = table.to_pylist()
    for i, (record, label) in enumerate(zip(records, joined_labels(table), strict=True)):
        record |= {"label": label, "truth": comparison.table["expected_mean"][i].as_py() if comparison else None}
    records.sort(key=lambda record: (-record["mean"], record["label"]))
    shown, note = ends(records, f"{len(records):,} groups", f"estimates/{margin_names.file(name)}")
    low, high = interval_columns(table)
    text = value_text(run)
    rows = [Interval(r["label"], r["mean"], r[low], r[high], r["raw_mean"], r["truth"]) for r in shown]
    means = [record["mean"] for record in records]
    head = [*columns, "People", "Known outcomes", "Raw mean", "Estimate", f"{interval_text(run)} interval", "Sd"]
    body = [[*(str(r[column]) for column in columns), f"{r['num_rows']:,}", f"{r['num_trials']:,}",
             text(r["raw_mean"]) if r["raw_mean"] is not None else "–", text(r["mean"]), f"{text(r[low])} to {text(r[high])}",
             percent(r["sd"], 2) if run.is_share else plain(r["sd"])] for r in shown]
    if comparison:
        head.append("Truth")
        for line, record in zip(body, shown, strict=True):
            line.append(text(record["truth"]))
    outcome = f"{run.outcome}, {'share' if run.is_share else 'mean'}"
    distribution = figures.histogram(means, text, f"{outcome}: all {len(means):,} groups") if note else None
    picture = figures.intervals(rows, text, outcome, gap_after=END_ROWS if note else None)
    return Margin(margin_names.title(name), len(records), picture, distribution, head, body, note, comparison,
                  any(r["raw_mean"] is not None for r in shown))


def _comparison(run: RunDirectory, table: pa.Table) -> Comparison | None:
    """The truth beside a margin; None where a simulated nation's truth does not have this outcome and margin."""
    if run.truth is None:
        return None
    columns = label_columns(table)
    margin = ALL if columns in ([], [ALL]) else ":".join(columns)
    known = zip(run.truth["outcome"].to_pylist(), run.truth["margin"].to_pylist(), strict=True)
    return (
        compare_with_truth(table, run.truth, outcome=run.outcome, is_share=run.is_share)
        if (run.outcome, margin) in set(known) else None
    )  # fmt: skip


def ends(records: list[Any], what: str, where: str) -> tuple[list[Any], str]:
    if len(records) <= MAX_ROWS:
        return records, ""
    note = f"{what}: the {END_ROWS} highest and the {END_ROWS} lowest are shown; all are in {where}."
    return records[:END_ROWS] + records[-END_ROWS:], note


def is_scale(name: str) -> bool:
    """Whether a variable is a scale or a correlation rather than an effect."""
    return name == "sigma" or (name.startswith(("sd(", "cor(")) and name.endswith(")"))


def effects(run: RunDirectory) -> list[Effects]:
    """Return the population-level coefficients together, then one entry per term with levels."""
    if run.summary is None:
        return []
    terms: dict[str, list[dict[str, Any]]] = {}
    for record in run.summary.to_pylist():
        if not is_scale(record["variable"]):
            term = record["variable"] if record["level"] is not None else ""
            terms.setdefault(term, []).append(record)
    return [_effects(term, records) for term, records in sorted(terms.items(), key=_fewest_levels)]


def _fewest_levels(item: tuple[str, list[dict[str, Any]]]) -> tuple[bool, int]:
    term, records = item
    return term != "", len(records)


def _effects(term: str, records: list[dict[str, Any]]) -> Effects:
    if term:
        records = sorted(records, key=lambda record: (-record["mean"], record["level"]))
    shown, note = ends(records, f"{len(records):,} levels", "summary.parquet")
    rows = [Interval(r["level"] if term else r["parameter"], r["mean"], r["q05"], r["q95"],
                     css="" if r["q05"] > 0 or r["q95"] < 0 else "near") for r in shown]
    units = {r["unit"] for r in records}
    unit = (units.pop() if len(units) == 1 else None) or "effect on the linear predictor"
    means = [record["mean"] for record in records]
    distribution = figures.histogram(means, plain, f"{unit}: all {len(means):,} levels") if note else None
    picture = figures.intervals(rows, plain, unit, zero=True, gap_after=END_ROWS if note else None)
    per = "; ".join(f"{r['parameter']}: {r['unit']}" for r in shown if r["unit"] and r["unit"] != unit)
    return Effects(term or "Coefficients", len(records), picture, distribution, " ".join(filter(None, [note, per and f"{per}."])))


@dataclass(frozen=True)
class Scale:
    """One scale or correlation: its numbers, its prior's text, and their picture if draws are at hand."""

    name: str
    prior: str
    mean: str
    interval: str
    ess: str
    r_hat: str
    figure: Markup | None


def scales(run: RunDirectory) -> list[Scale]:
    """Return every scale and correlation in the summary."""
    if run.summary is None:
        return []
    draws = variables(run.posterior)[0] if run.posterior is not None else {}
    out = []
    for record in run.summary.to_pylist():
        name = record["variable"]
        if not is_scale(name) or record["level"] is not None:
            continue
        prior = run.prior(name)
        figure = None
        if name in draws:
            support = (-1.0, 1.0) if name.startswith("cor(") else (0.0, math.inf)
            figure = figures.prior_to_posterior(name, draws[name].values, density(prior), support)
        r_hat = "–" if record["r_hat"] is None else fixed(record["r_hat"], 3)
        out.append(Scale(name, prior or "not recorded", plain(record["mean"]),
                         f"{plain(record['q05'])} to {plain(record['q95'])}", plain(record["ess_bulk"]), r_hat, figure))
    return out


def density(prior: str | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the density of a prior written as ``name(numbers)``; None for one that cannot be drawn.

    ``lkj(η)`` gives the density of one correlation of two effects, that of 2 Beta(η, η) - 1.
    """
    name, _, rest = (prior or "").replace(" ", "").partition("(")
    try:
        arguments = [float(part) for part in rest.removesuffix(")").split(",")]
    except ValueError:
        return None
    match name, arguments:
        case "half_normal", [scale]:
            return stats.halfnorm(scale=scale).pdf
        case "exponential", [rate]:
            return stats.expon(scale=1 / rate).pdf
        case "half_student_t", [df, scale]:
            return lambda x: 2 * stats.t(df, scale=scale).pdf(x) * (np.asarray(x) >= 0)
        case "half_cauchy", [scale]:
            return stats.halfcauchy(scale=scale).pdf
        case "lkj", [eta]:
            return stats.beta(eta, eta, loc=-1, scale=2).pdf
    return None


@dataclass(frozen=True)
class Calibration:
    """Observed against expected by bin of the prediction."""

    figure: Markup
    rows: list[list[str]]
    differences: list[float]


def calibration_note(run: RunDirectory) -> str:
    """Say how far observed and expected shares of a bin are apart at most."""
    shown = calibration(run)
    if shown is None or not run.is_share:
        return ""
    worst = max(shown.differences, key=abs)
    return f"By tenths of the prediction, observed and expected shares differ by {100 * abs(worst):.1f} points at most."


def calibration(run: RunDirectory) -> Calibration | None:
    """Return the calibration, from ``estimates/calibration.parquet``, where there are bins with known outcomes."""
    if run.calibration is None:
        return None
    require_columns("estimates/calibration", run.calibration, ("bin", "num_trials", "observed", "expected"))
    records = run.calibration.to_pylist()
    if len(records) < 2:
        return None
    text = value_text(run)
    points = []
    for r in records:
        half = 0.0
        if run.is_share:
            low, high = wilson_interval(np.array(r["observed"]), np.array(r["num_trials"]))
            half = float(high - low) / 2
        points.append((r["expected"], r["observed"], half))
    rows = [[str(r["bin"]), f"{r['num_trials']:,}", text(r["expected"]), text(r["observed"]),
             text(r["observed"] - r["expected"])] for r in records]
    return Calibration(figures.calibration(points, text), rows, [r["observed"] - r["expected"] for r in records])
