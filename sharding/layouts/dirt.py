"""The dirt report (`dirt.json`): what was rejected and what was altered, by file, rule and column; no value of anybody."""

from __future__ import annotations

from datetime import date
from typing import Any

from sharding.errors import ShardingError
from sharding.layouts import library
from sharding.layouts.files import ROLES, RawFile
from sharding.layouts.read import Read
from sharding.layouts.schema import Layout

DIRT = "dirt.json"
SCHEMA_VERSION = 1
MEANINGS = {
    "lines:blank": "Line with nothing but spaces; it is no row.",
    "file:cut": "Last line of a file, without a line end, that is not whole: the file was cut.",
    "quotes:broken": "Quotation marks that no reading makes into the right number of fields.",
    "fields:too_few": "Fewer fields than the file has columns, or a line shorter than the fixed width.",
    "fields:too_many": "More fields than the file has columns, or a line longer than the fixed width.",
    "lines:repeated_header": "The header again, in the middle of the file.",
    "encoding:cp1252": "Line that is not UTF-8, read as Windows-1252.",
    "encoding:latin-1": "Line that is not UTF-8, read as ISO 8859-1.",
    "encoding:replaced": "Bytes that are no character in any encoding of the layout, replaced by U+FFFD.",
    "bytes:nul": "Line with NUL bytes, which were dropped.",
    "bytes:carriage_return": "Line with a carriage return inside it, which became a space.",
    "quotes:stray": "Line with a quotation mark inside a quoted value, taken as part of it.",
    "id:missing": "Row without an id.",
    "id:duplicate": "Row with the id of another row, which was kept.",
    "status:left_out": "Row with a status that takes no part (removed, denied).",
    "election:registered_after": "Registered after election day: could not vote, so no non-voter.",
    "spaces:trimmed": "Value with spaces at its ends, which were dropped.",
    "missing:blank": "Blank value, which became the missing level.",
    "missing:marker": "Value that the layout says means missing, which became the missing level.",
    "code:unseen": "Code that the layout does not know.",
    "dates:malformed": "Value that does not look like a date of the declared format.",
    "dates:impossible": "Value that looks like a date and is no day.",
    "dates:placeholder": "Date that stands for an unknown one.",
    "birth_date:placeholder": "Date or year of birth that stands for an unknown one; its age is a level of its own.",
    "age:impossible": "Age that nobody has; the same level.",
    "number:malformed": "Value that is no number.",
    "vote:later": "Voted last in a later election: nobody knows about this one.",
    "zeros:restored": "Number that had lost its leading zeros.",
    "election:other": "History of another election.",
    "vote:not_counted": "Ballot that did not count, or a row that says `did not vote`.",
    "id:unknown": "History of an id that no row of voters has.",
    "history:repeated": "Further row of a person in the same election.",
}
"""What the rules mean; ``age:under_18`` has the layout's age in its name."""


def report(
    layout: Layout, election: date | None, found: list[tuple[RawFile, Read]], ignored: list[str]
) -> dict[str, Any]:
    """Return what `dirt.json` holds; ``found`` has the counts of the joins added.

    Raises
    ------
    ShardingError
        Rows in are not rows out and quarantined, in a file. It cannot happen.
    """
    listed = []
    counts: list[dict[str, Any]] = []
    totals = {role: {"rows_in": 0, "rows_out": 0, "rows_quarantined": 0} for role in ROLES}
    for file, read in found:
        quarantined = sum(count.count for count in read.counts if count.action == "quarantined")
        if read.rows_in != read.rows_out + quarantined:
            raise ShardingError(f"rows do not reconcile in {file.label}. This is a defect of Caucus; please report it.")
        rows = {"rows_in": read.rows_in, "rows_out": read.rows_out, "rows_quarantined": quarantined}
        listed.append({"file": file.label, "role": file.role, "encodings": list(read.encodings), **rows})
        for key, value in rows.items():
            totals[file.role][key] += value
        counts += [
            {"file": file.label, "role": file.role, "rule": count.rule, "column": count.column, "source": count.source,
             "action": count.action, "count": count.count}
            for count in read.counts
        ]  # fmt: skip
    young = f"age:under_{layout.people.minimum_age}"
    meanings = MEANINGS | {
        young: f"Under {layout.people.minimum_age} on election day: could not vote, so no non-voter."
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "layout": layout.name,
        "layout_sha256": library.sha256(layout),
        "party": layout.party,
        "election": None if election is None else election.isoformat(),
        "totals": totals,
        "files": listed,
        "counts": counts,
        "ignored_files": ignored,
        "rules": {rule: meanings[rule] for rule in sorted({count["rule"] for count in counts})},
    }
