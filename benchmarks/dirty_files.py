"""Dirty files of every layout, read as the layout says: `python -m benchmarks.dirty_files --rows 1000000`.

Every fault that was planted must be counted, by file, rule and column, and nothing else; and what was clean must come out as it was, to
the last byte. The table goes to `docs/dirty-files.md`.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import measure
from benchmarks.problems import REPOSITORY
from sharding import layouts, storage
from sharding.dirty.generate import LAYOUTS, NO_FAULTS, generate
from sharding.layouts.schema import ColumnLayout, Layout

PAGE = REPOSITORY / "docs" / "dirty-files.md"
ELECTION = date(2024, 11, 5)

Key = tuple[str, str, str, str]
"""File, role, rule, column of the file (empty: whole rows or lines)."""


def planted_counts(planted: dict[str, Any], layout: Layout) -> Counter[Key]:
    """Return what must be counted: all that was planted, but for missing values in columns that the layout does not read."""
    read = {source for name in layout.columns for source in layout.sources_of(name)}
    return Counter(
        {
            (c["file"], c["role"], c["rule"], c["source"] or ""): c["count"]
            for c in planted["counts"] if c["rule"] != "missing:blank" or c["source"] in read
        }
    )  # fmt: skip


def found_counts(dirt: dict[str, Any]) -> Counter[Key]:
    """Return what was counted."""
    return Counter({(_base(c["file"]), c["role"], c["rule"], c["source"] or ""): c["count"] for c in dirt["counts"]})


def differences(planted: dict[str, Any], dirt: dict[str, Any], layout: Layout) -> list[str]:
    """Return every count that is not as planted, and every file whose rows are not; empty: all are."""
    expected, found = planted_counts(planted, layout), found_counts(dirt)
    keys = sorted({*expected, *found})
    wrong = [f"{key}: planted {expected[key]:,}, counted {found[key]:,}" for key in keys if expected[key] != found[key]]
    rows = ("rows_in", "rows_out", "rows_quarantined")
    there = {f["file"]: [f[name] for name in rows] for f in planted["files"]}
    here = {_base(f["file"]): [f[name] for name in rows] for f in dirt["files"]}
    files = sorted({*there, *here})
    return wrong + [f"{file}: rows {there.get(file)}, counted {here.get(file)}" for file in files if there.get(file) != here.get(file)]


def changed_values(clean: pa.Table, cleaned: pa.Table, layout: Layout, date_form: str) -> list[str]:
    """Return the columns of which a value is not what it was, with how many; empty: all are."""
    clean, cleaned = clean.sort_by("id"), cleaned.sort_by("id")
    if clean["id"].to_pylist() != cleaned["id"].to_pylist():
        return ["id: other people"]
    wrong = []
    for name in cleaned.column_names:
        expected = _expected(name, clean, layout, date_form)
        if expected is None:
            continue
        found = cleaned[name].combine_chunks().cast(expected.type)
        same = pc.fill_null(pc.or_kleene(pc.equal(found, expected), pc.and_(pc.is_null(found), pc.is_null(expected))), False)
        num_wrong = len(same) - (pc.sum(same).as_py() or 0)
        if num_wrong:
            wrong.append(f"{name}: {num_wrong:,} of {len(same):,} values")
    return wrong


def compared_columns(clean: pa.Table, layout: Layout) -> list[str]:
    """Return the columns of the layout whose values are compared."""
    return [name for name in layout.columns if _expected(name, clean[:0], layout, "%Y-%m-%d") is not None]


def _expected(name: str, clean: pa.Table, layout: Layout, date_form: str) -> pa.Array | None:
    if name in ("id", "voted"):
        return clean[name].combine_chunks()
    column = layout.columns[name]
    source = next((s for s in layout.sources_of(column.of or name) if s in clean.column_names), None)
    if source is None:
        return None
    distinct = clean[source].combine_chunks().dictionary_encode()
    if column.type == "age":
        is_year = layout.columns[column.of or ""].type == "year"
        levels = [_age(text, "%Y" if is_year else date_form, column, is_year=is_year) for text in distinct.dictionary.to_pylist()]
    elif column.type == "date":
        days = [None if text in ("", "(placeholder)") else _day(text, date_form) for text in distinct.dictionary.to_pylist()]
        return pa.array(days, pa.date32()).take(distinct.indices)
    elif column.type == "text":
        levels = [_level(text, column) for text in distinct.dictionary.to_pylist()]
    else:
        return None
    return pa.array(levels, pa.string()).take(distinct.indices)


def _day(text: str, form: str) -> date:
    return pc.strptime(pa.scalar(text), format=form, unit="s").as_py().date()  # type: ignore[no-any-return]


def _age(text: str, form: str, column: ColumnLayout, *, is_year: bool) -> str:
    if text in ("", "(placeholder)"):
        return text or "(missing)"
    born = _day(text, form)
    had_birthday = is_year or (born.month, born.day) <= (ELECTION.month, ELECTION.day)
    age = ELECTION.year - born.year - (not had_birthday)
    return f"{column.top}+" if age >= column.top else str(age)


def _level(text: str, column: ColumnLayout) -> str:
    if text in ("", "(unseen)"):
        return text or "(missing)"
    if column.codes is None:
        return text
    codes = column.codes if column.leading_zeros else {code.lstrip("0"): level for code, level in column.codes.items() if code != "00"}
    return codes[text if column.leading_zeros else text.lstrip("0")]


def _base(file: str) -> str:
    return file.rsplit("/", 1)[-1].rsplit("!", 1)[-1]


def prove(name: str, directory: Path, *, num_rows: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Generate and read the files of one layout; return figures, and everything that is wrong."""
    start = time.perf_counter()
    made = generate(directory / "dirty", name, num_rows=num_rows, seed=seed)
    generated = time.perf_counter()
    layout = layouts.load(name)
    result = layouts.clean(layout, [str(directory / "dirty/files")], str(directory / "run"), election=ELECTION)
    cleaned = time.perf_counter()
    planted = storage.read_json(str(directory / "dirty/truth/planted.json"))
    clean = pq.read_table(directory / "dirty/truth/clean.parquet")
    wrong = differences(planted, result.dirt, layout)
    wrong += changed_values(clean, pq.read_table(result.path), layout, planted["date_form"])
    faults = {key: n for key, n in planted_counts(planted, layout).items() if key[2] not in NO_FAULTS}
    lines = sum(f["rows_in"] for f in planted["files"])
    figures = {
        "layout": name, "files": made.num_files, "GB": made.num_bytes / 1e9, "lines": lines,
        "kinds of faults": len({(role, rule, column) for _, role, rule, column in faults}), "faults": sum(faults.values()),
        "values compared": len(clean) * (len(compared_columns(clean, layout)) + 1),
        "generate, s": generated - start, "read, s": cleaned - generated, "lines/s": lines / (cleaned - generated),
    }  # fmt: skip
    return figures, wrong


def table(figures: list[dict[str, Any]]) -> str:
    """Return the Markdown table of what was found."""
    columns = list(figures[0])
    forms = {"GB": "{:.2f}", "generate, s": "{:.0f}", "read, s": "{:.0f}", "layout": "{}"}
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in figures:
        lines.append("| " + " | ".join(forms.get(name, "{:,.0f}").format(row[name]) for name in columns) + " |")
    return "\n".join(lines)


def main() -> int:
    """Prove every layout, print and write the table; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dirty_files", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layouts", nargs="*", choices=list(LAYOUTS), default=list(LAYOUTS))
    arguments = parser.parse_args()
    figures = []
    for name in arguments.layouts:
        directory = Path(tempfile.mkdtemp(prefix="caucus-dirty-"))
        try:
            row, wrong = prove(name, directory, num_rows=arguments.rows, seed=arguments.seed)
        finally:
            shutil.rmtree(directory)
        figures.append(row | {"wrong": len(wrong)})
        print(f"{name}: {row['faults']:,} faults in {row['lines']:,} lines, {len(wrong)} wrong", file=sys.stderr)
        for line in wrong[:20]:
            print(f"  {line}", file=sys.stderr)
    text = table(figures)
    print(text)
    if arguments.layouts == list(LAYOUTS):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        described = ", ".join(f"{key} {value}" for key, value in measure.machine().items())
        command = f"`python -m benchmarks.dirty_files --rows {arguments.rows} --seed {arguments.seed}`"
        before = PAGE.read_text().split("<!-- table -->")[0]
        PAGE.write_text(f"{before}<!-- table -->\n{command}, generator and reader in one process of at most {peak:.1f} GiB:\n\n{text}\n\nMachine: {described}.\n")
    return int(any(row["wrong"] for row in figures))


if __name__ == "__main__":
    sys.exit(main())
