"""A publication: the folder that readers get. It is made of what :mod:`reporting.disclosure` let through, and of nothing else.

No function here sees a run directory. No file has a hash of a private one: whoever knows all but one person's outcome could
compute the private file for either outcome, and compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from pyarrow import csv

from reporting import disclosure, figures, margins, pages, tables
from reporting.estimates import ALL
from reporting.figures import Interval
from reporting.sections import END_ROWS, ends
from reporting.svg import percent, plain

SCHEMA_VERSION = 1
KIND = "caucus publication"
MANIFEST, README, REPORT = "manifest.json", "README.md", "report.html"
COLUMNS = {
    "people": "about how many people the group has",
    "known_outcomes": "about how many of them (or of the people asked) have a known outcome",
    "estimate": "expected outcome of the group's people by the model: a share from 0 to 1, or a mean in units of the outcome",
    "low": "lower end of the interval, with what rounding adds to it",
    "high": "upper end of the interval",
    "step": "what the estimate was rounded to, up or down",
    "as_of": "number of the publication that this row is from",
}
"""The columns of every table, after those that name the group."""
CHECKED = "What the checks of the computation and of the model said is known to who made them: whether one warns can hang on one person."
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Publication:
    """What is published: the ``tables`` of margins, as :func:`reporting.disclosure.shown` makes them, and ``about`` them.

    ``about`` has name, outcome, formula, family, interval, min_count, is_share, left_out (words), terms_of_use, caucus (version), number and id.
    """

    tables: Mapping[str, pa.Table]
    about: Mapping[str, Any]
    files: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        made: dict[str, bytes] = {}
        for name, table in self.tables.items():
            stem = f"estimates/{margins.file(name)}"
            made[stem] = tables.to_parquet(table)
            made[stem.removesuffix("parquet") + "csv"] = _csv(table)
        made[REPORT] = _report(self).encode()
        made[README] = _readme(self).encode()
        object.__setattr__(self, "files", made)


def _csv(table: pa.Table) -> bytes:
    """Text that a spreadsheet would take for a formula has an apostrophe before it."""
    for i, column in enumerate(table.schema):
        if column.type == pa.string():
            texts = [f"'{text}" if text.startswith(_FORMULA_SIGNS) else text for text in table[column.name].to_pylist()]
            table = table.set_column(i, column, pa.array(texts, pa.string()))
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink)
    return sink.getvalue().to_pybytes()


@dataclass(frozen=True)
class Margin:
    """A margin of the page."""

    title: str
    file: str
    note: str
    figure: Markup
    columns: list[str]
    rows: list[list[str]]


def _report(made: Publication) -> str:
    found = [_margin(name, table, made.about) for name, table in made.tables.items() if len(table)]
    return pages.environment().get_template("publication.html").render(
        about=made.about, checked=CHECKED, margins=found, columns=COLUMNS,
    )  # fmt: skip


def _margin(name: str, table: pa.Table, about: Mapping[str, Any]) -> Margin:
    text = (lambda value: percent(value, 1)) if about["is_share"] else plain
    columns = [c for c in table.column_names if c not in COLUMNS]
    records = sorted(table.to_pylist(), key=lambda row: (-row["estimate"], [row[c] for c in columns]))
    file = f"estimates/{margins.file(name)}"
    some, note = ends(records, f"{len(records):,} groups", file)
    picture = figures.intervals(
        [Interval(":".join(str(row[c]) for c in columns), row["estimate"], row["low"], row["high"]) for row in some],
        text, f"{about['outcome']}, {'share' if about['is_share'] else 'mean'}", gap_after=END_ROWS if note else None,
    )  # fmt: skip
    rows = [
        [*(str(row[c]) for c in columns), f"{row['people']:,}", f"{row['known_outcomes']:,}", text(row["estimate"]),
         f"{text(row['low'])} to {text(row['high'])}", text(row["step"]), str(row["as_of"])]
        for row in some
    ]  # fmt: skip
    head = [*columns, "People", "Known outcomes", "Estimate", f"{about['interval']} interval", "Rounded to", "As of"]
    return Margin(margins.title(name), file, note, picture, head, rows)


def _readme(made: Publication) -> str:
    about, min_count = made.about, made.about["min_count"]
    kept = sum(pc.sum(pc.less(t["as_of"], about["number"])).as_py() or 0 for t in made.tables.values())
    lines = [
        f"# {about['name']}",
        "",
        f"Estimates of `{about['outcome']}` by the model `{about['formula']}` ({about['family']}), made with Caucus {about['caucus']}. "
        f"{CHECKED}",
        "",
        f"People: {about['left_out']}",
        "",
        "## Files",
        "",
        "`report.html` has all in one page. `estimates/` has a table of each grouping, as Parquet and as CSV with the same rows "
        "(there, a name that a spreadsheet would take for a formula begins with an apostrophe). "
        "`manifest.json` has the sha256 of every file.",
        "",
        "| table | groups |",
        "|---|---|",
        *(f"| `estimates/{margins.file(name)}` | {len(table):,} |" for name, table in made.tables.items()),
        "",
        "## Columns",
        "",
        "The first columns name the group"
        + (f", the last of them (`{about['categories']}`) the category of the outcome" if about["categories"] else "")
        + f"; `{ALL}` is everybody.",
        "",
        "| column | meaning |",
        "|---|---|",
        *(f"| `{column}` | {meaning} |" for column, meaning in COLUMNS.items()),
        "",
        "## How to read them",
        "",
        f"* An interval holds the expected outcome with a probability of {about['interval']} at least, by the model.",
        *_withheld(min_count),
        f"* This is publication {about['number']} of these estimates. A group's row stays as it was until {min_count} of its known outcomes are others"
        + (f"; {kept:,} rows are of earlier ones (`as_of`), and of the model of that time." if kept else "; all rows are of this one."),
        "",
    ]
    terms = about["terms_of_use"]
    return "\n".join([*lines, *(["## Terms of use of the data", "", str(terms).strip(), ""] if terms else [])])


def _withheld(min_count: int) -> list[str]:
    if min_count == 1:
        return ["* No group is withheld for having few people; estimates are rounded to what their intervals support."]
    return [
        f"* Groups of fewer than {min_count} people or known outcomes are not listed, nor those whose estimate would be rounded too coarsely to be of use.",
        f"* Counts are multiples of {min_count - 1}, rounded up or down at random, estimates multiples of `step`: parts do not add up to their total exactly.",
    ]


def manifest(made: Publication, sha256: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of ``manifest.json``: what is published, and the hash of every file of it."""
    about = dict(made.about)
    return {"kind": KIND, "schema_version": SCHEMA_VERSION, **about, "columns": COLUMNS, "files": dict(sha256)}


assert tuple(COLUMNS) == disclosure.PUBLISHED, "every published column is explained"
