"""Which of two runs predicts better: their left-out densities over the people or cells that both have. ``caucus compare``.

Two models of the same file have different cells as soon as they use different columns. By person they are comparable all the
same if the columns of one run include those of the other: every fine cell is then part of one coarse cell. By cell they are
comparable if the cells are the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cluster import checks, posterior_files, run_directory
from cluster.errors import RunDirectoryError, StageError
from fitting import loo
from fitting.loo import Difference
from reporting import tables
from sharding import storage


@dataclass(frozen=True)
class Checked:
    """What ``caucus check`` wrote about a run: ``checks.json``, and its cells, of which ``columns`` describe them."""

    path: str
    summary: dict[str, Any]
    cells: pd.DataFrame
    columns: tuple[str, ...]

    @property
    def keyed(self) -> list[str]:
        """Statistics that tell cells apart: of families whose cells hold people alike in outcome, not sums."""
        found = [name for name in self.summary["statistics"] if name != "num_trials"]
        return found if self.summary["outcomes"] == ["row"] else []

    @property
    def summed(self) -> list[str]:
        """Statistics of a coarse cell that are the sums of those of its fine ones."""
        return [name for name in self.summary["statistics"] if name not in self.keyed]


@dataclass(frozen=True)
class Comparison:
    """Elpd of the first run minus that of the second, by person and by cell; None where that unit cannot be compared."""

    person: Difference | None
    cell: Difference | None


def compare(a: str, b: str) -> list[str]:
    """Compare two run directories that were checked, and return the lines of a table.

    Raises
    ------
    StageError
        A run has no checks, or those of an older posterior.
    RunDirectoryError
        The runs are of different outcomes, people or kinds of outcome, or of cells that do not nest.
    """
    first, second = read(a), read(b)
    return _lines(first, second, differences(first, second))


def read(path: str) -> Checked:
    """Read the checks of a run, if they are of its present posterior and unchanged."""
    do = f"Run `caucus check {os.path.relpath(path)}` first."
    summary_file = storage.join(path, checks.SUMMARY)
    if not storage.exists(summary_file):
        raise StageError("compare", f"{path} has no {checks.SUMMARY}", do)
    summary = storage.read_json(summary_file)
    record = run_directory.read_directory(path).records.get("merge")
    if record is None or record.files.get(posterior_files.POSTERIOR) != summary["posterior_sha256"]:
        raise StageError("compare", f"the checks in {path} are of an older posterior", do)
    file = storage.join(path, checks.LOO)
    if not storage.exists(file) or storage.sha256_bytes(storage.read_bytes(file)) != summary["files"]["loo.parquet"]:
        raise StageError("compare", f"{file} is not the file that was written", do)
    cells = tables.from_parquet(storage.read_bytes(file), file).to_pandas()
    columns = tuple(summary["columns"])
    for name in columns:
        if isinstance(cells[name].dtype, pd.CategoricalDtype):
            cells[name] = cells[name].astype(object)
    return Checked(path, summary, cells, columns)


def differences(a: Checked, b: Checked) -> Comparison:
    """Pair the people, and the cells, of two runs."""
    for key, what in (
        ("outcome", "the outcome"), ("statistics", "the kind of outcome (its cells hold"), ("categories", "the categories"),
    ):  # fmt: skip
        if a.summary[key] != b.summary[key]:
            close = ")" if key == "statistics" else ""
            found = f"{what} {b.summary[key]}{close}, and {a.path} has {a.summary[key]}"
            raise RunDirectoryError(b.path, found, "Compare runs of the same outcome.")
    is_reversed = not set(a.columns) <= set(b.columns)
    coarse, fine = (b, a) if is_reversed else (a, b)
    extra = [c for c in coarse.columns if c not in fine.columns]
    if extra:
        raise RunDirectoryError(
            fine.path,
            f"cells without {extra}, which {coarse.path} has, and the reverse for "
            f"{[c for c in fine.columns if c not in coarse.columns]}",
            "Their people cannot be paired. List the missing factors under `poststratify.by` of one run, and run and check it again.",
        )  # fmt: skip
    paired = _paired(coarse, fine)
    sign = -1.0 if is_reversed else 1.0  # of coarse minus fine
    same_cells = set(coarse.columns) == set(fine.columns)
    return Comparison(
        _by_person(paired, sign, fine.summary["outcomes"]), _by_cell(paired, sign) if same_cells else None
    )


def _paired(coarse: Checked, fine: Checked) -> pd.DataFrame:
    """A row per fine cell, with the numbers of the coarse cell that it is part of under ``_coarse``.

    Refused unless the fine cells add up to the coarse ones, statistic by statistic: then they are the same people.
    """
    keys, statistics = [*coarse.columns, *fine.keyed], fine.summed
    both: pd.DataFrame
    if keys:
        summed = fine.cells.groupby(keys, sort=False)[statistics].sum().reset_index()
        matched = coarse.cells[[*keys, *statistics]].merge(summed, on=keys, how="outer", suffixes=("", "_fine"))
        both = fine.cells.merge(coarse.cells, on=keys, how="left", suffixes=("", "_coarse"))
    else:
        summed = fine.cells[statistics].sum().to_frame().T
        matched = coarse.cells[statistics].join(summed, how="outer", rsuffix="_fine")
        both = fine.cells.merge(coarse.cells, how="cross", suffixes=("", "_coarse"))
    ours, theirs = (matched[[f"{s}{end}" for s in statistics]].to_numpy(float) for end in ("", "_fine"))
    different = int(np.sum(~np.isclose(ours, theirs, rtol=1e-9, atol=1e-9).all(axis=1)))
    if different:
        raise RunDirectoryError(
            fine.path,
            f"other people than {coarse.path}: {different:,} of {len(matched):,} cells differ in {' or '.join(statistics)}",
            "Compare runs of the same data.",
        )  # fmt: skip
    return both


def _by_person(paired: pd.DataFrame, sign: float, outcomes: list[str]) -> Difference | None:
    if not outcomes:
        return None
    count = np.concatenate([paired[f"people_{outcome}"].to_numpy(float) for outcome in outcomes])
    coarse, fine = (
        np.concatenate([paired[f"elpd_{outcome}{end}"].to_numpy(float) for outcome in outcomes])
        for end in ("_coarse", "")
    )
    return _signed(loo.compare(coarse, fine, count), sign)


def _by_cell(paired: pd.DataFrame, sign: float) -> Difference:
    return _signed(loo.compare(paired["elpd_coarse"].to_numpy(float), paired["elpd"].to_numpy(float)), sign)


def _signed(found: Difference, sign: float) -> Difference:
    return found._replace(elpd=sign * found.elpd)


def _lines(a: Checked, b: Checked, found: Comparison) -> list[str]:
    names = [a.summary["name"], b.summary["name"]]
    if names[0] == names[1]:
        names = [os.path.relpath(c.path) for c in (a, b)]
    width = max(20, *(len(n) for n in names)) + 2
    out = []
    for unit, difference in (("person", found.person), ("cell", found.cell)):
        if difference is None:
            continue
        out.append(f"by {unit:<{width - 3}}{'elpd':>14}{'se':>10}{'p_loo':>10}{'k > 0.7':>10}")
        for name, run in zip(names, (a, b), strict=True):
            row = run.summary["loo"][unit]
            numbers = ["-" if row[key] is None else f"{row[key]:,.1f}" for key in ("elpd", "se", "p_loo")]
            out.append(f"{name:<{width}}{numbers[0]:>14}{numbers[1]:>10}{numbers[2]:>10}{row['num_bad']:>10,}")
        out.append(f"{'difference':<{width}}{difference.elpd:>14,.1f}{difference.se:>10,.1f}")
        out += [
            _verdict(names, difference, f"{difference.num_units:,} {'people' if unit == 'person' else 'cells'}"),
            "",
        ]
    bad = sum(run.summary["loo"]["cell" if found.person is None else "person"]["num_bad"] for run in (a, b))
    if bad:
        out.append(f"k > 0.7 for {bad:,} units: their densities, and so the difference, are not to be trusted")
    if found.cell is None:
        out.append("the runs have different cells, so only people are compared")
    return out


def _verdict(names: list[str], difference: Difference, units: str) -> str:
    if not np.isfinite(difference.elpd):
        return f"no difference can be told from {units}"
    if abs(difference.elpd) < 4 or not abs(difference.elpd) > 2 * difference.se:
        return f"neither predicts clearly better (over {units})"
    return f"{names[0] if difference.elpd > 0 else names[1]} predicts better (over {units})"
