"""The dirt report: what was set aside, changed or noted when raw files were read; counts only, never what is in a row.

A section of ``report.html``, and a page of its own for a run that has gone no further than its files (``caucus dirt``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reporting import pages
from reporting.errors import RunDirectoryError
from reporting.run_directory import read_json

DIRT = "dirt.json"
MAX_FILES = 200
NOTABLE_SHARE = 0.01
"""Share of the rows of a role from which on a rule is worth a look."""
ACTIONS = {"quarantined": "left out", "altered": "changed", "noted": "kept as it is"}

_COPY = "Copy the file again, or ask for it anew: rows are lost."
_ADVICE = {
    "file:cut": _COPY,
    "quotes:broken": "Set `quoting: none` in the layout if a quotation mark is data in these files.",
    "fields:too_few": "Look at the delimiter and the quoting of the layout; few such rows are torn lines.",
    "fields:too_many": "Look at the delimiter and the quoting of the layout; few such rows have a delimiter in a name.",
    "encoding:cp1252": "Nothing, if accented names are expected. All lines: put cp1252 first in `encodings`.",
    "encoding:latin-1": "Nothing, if accented names are expected. All lines: put latin-1 first in `encodings`.",
    "encoding:replaced": "Look at `encodings` of the layout: characters are lost.",
    "bytes:nul": "Nothing for a few; many mean that the file is UTF-16.",
    "id:missing": "Ask who made the file; people without an id cannot be joined to their history.",
    "id:duplicate": "Look at `people.keep` of the layout: first, or latest registered.",
    "code:unseen": "Add the code to `codes` of the layout, once you know what it means.",
    "dates:malformed": "Add the format to `formats` of the layout if these are dates.",
    "birth_date:placeholder": "Keep the level: an unknown age is no age of 120.",
    "election:other": "Nothing: the history has every election.",
    "id:unknown": "Few are people removed since. Many: the two files are of different days.",
    "vote:not_counted": "Nothing: a rejected ballot is no vote.",
    "number:malformed": "Look at the column's type in the layout.",
}


@dataclass(frozen=True)
class Total:
    """Rows of one role: where each went."""

    role: str
    rows_in: str
    rows_out: str
    rows_quarantined: str
    reconciles: bool


@dataclass(frozen=True)
class Dirt:
    """What the page shows. A rule's row: rule, column, what became of it, count, share of the role's rows, meaning, advice."""

    layout: str
    election: str
    totals: list[Total]
    notable: list[str]
    rules: dict[str, list[list[str]]]
    files: list[list[str]]
    num_files: int
    ignored: list[str]


def read(directory: str | Path) -> Dirt | None:
    """Return what ``dirt.json`` of a run says; None without one (sources that needed no cleaning).

    Raises
    ------
    RunDirectoryError
        It is there and not what it should be.
    """
    path = Path(directory) / DIRT
    return summarise(read_json(path), str(path)) if path.exists() else None


def summarise(content: dict[str, Any], where: str) -> Dirt:
    """Return the tables of what ``dirt.json`` holds, as :func:`read` does; ``where`` is its path or URL."""
    try:
        if content["schema_version"] != 1:
            raise ValueError("schema_version")
        return _tables(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(where, f"not a dirt report ({type(error).__name__})", "one as ingest writes it",
                                "Run ingest again.") from error


def _tables(dirt: dict[str, Any]) -> Dirt:
    roles = sorted(dirt["totals"], key=lambda role: (role != "voters", role))
    totals = {role: dirt["totals"][role] for role in roles if dirt["totals"][role]["rows_in"]}
    counts: dict[tuple[str, str, str, str], int] = {}
    commonest: dict[str, dict[str, int]] = {}
    touched: dict[tuple[str, str], int] = {}
    for entry in dirt["counts"]:
        key = (entry["role"], entry["rule"], entry["source"] or entry["column"] or "", entry["action"])
        counts[key] = counts.get(key, 0) + int(entry["count"])
        by_rule = commonest.setdefault(entry["file"], {})
        by_rule[entry["rule"]] = by_rule.get(entry["rule"], 0) + int(entry["count"])
        touched[entry["file"], entry["action"]] = touched.get((entry["file"], entry["action"]), 0) + int(entry["count"])
    order = {action: i for i, action in enumerate(ACTIONS)}
    rules: dict[str, list[list[str]]] = {role: [] for role in totals}
    notable = []
    for (role, rule, column, action), count in sorted(counts.items(), key=lambda item: (order[item[0][3]], -item[1], item[0])):
        share = count / max(int(totals[role]["rows_in"]), 1)
        advice = _ADVICE.get(rule, "")
        rules[role].append([rule, column or "–", ACTIONS[action], f"{count:,}", f"{share:.2%}", str(dirt["rules"].get(rule, "")), advice])
        is_lost = action == "quarantined" and rule not in ("election:other", "status:left_out", "vote:not_counted")
        if share >= NOTABLE_SHARE and advice and (is_lost or rule in ("code:unseen", "dates:malformed", "number:malformed")):
            notable.append(f"{rule}{f' in {column}' if column else ''}: {share:.1%} of the rows of {role}. {advice}")
    files = [
        [
            str(file["file"]), str(file["role"]), ", ".join(file.get("encodings", [])) or "–",
            *(f"{int(file[key]):,}" for key in ("rows_in", "rows_out", "rows_quarantined")),
            f"{touched.get((file['file'], 'altered'), 0):,}",
            max(commonest.get(file["file"], {"–": 0}).items(), key=lambda item: (item[1], item[0]))[0],
        ]
        for file in sorted(dirt["files"], key=lambda file: (-int(file["rows_quarantined"]), str(file["file"])))
    ]  # fmt: skip
    return Dirt(
        layout=str(dirt["layout"]),
        election=str(dirt.get("election") or "–"),
        totals=[_total(role, total) for role, total in totals.items()],
        notable=notable,
        rules=rules,
        files=files[:MAX_FILES],
        num_files=len(files),
        ignored=[str(name) for name in dirt.get("ignored_files", [])],
    )


def render(dirt: Dirt) -> str:
    """Return the page, which opens offline and has no script."""
    return pages.environment().get_template("dirt.html").render(dirt=dirt)


def _total(role: str, total: dict[str, Any]) -> Total:
    rows_in, rows_out, left_out = (int(total[key]) for key in ("rows_in", "rows_out", "rows_quarantined"))
    return Total(role, f"{rows_in:,}", f"{rows_out:,}", f"{left_out:,}", rows_in == rows_out + left_out)
