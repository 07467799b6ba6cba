"""Small raw files of a layout, with invented people: lines are made from dictionaries of the fields that matter."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

NC_VOTERS = (
    "county_id", "voter_reg_num", "ncid", "last_name", "status_cd", "res_street_address", "registr_dt", "race_code",
    "ethnic_code", "party_cd", "gender_code", "birth_year", "precinct_abbrv",
)  # fmt: skip
NC_HISTORY = ("county_id", "voter_reg_num", "election_lbl", "voting_method", "ncid")
NC_PERSON = {
    "county_id": "92", "voter_reg_num": "000000012345", "last_name": "EXAMPLE", "status_cd": "A",
    "res_street_address": "1  NOWHERE RD   ", "registr_dt": "01/31/2010", "race_code": "W", "ethnic_code": "NL",
    "party_cd": "DEM", "gender_code": "F", "birth_year": "1980", "precinct_abbrv": "01-01",
}  # fmt: skip
NC_VOTE = {
    "county_id": "92",
    "voter_reg_num": "000000012345",
    "election_lbl": "11/05/2024",
    "voting_method": "ABSENTEE",
}


def line(
    names: Iterable[str], values: Mapping[str, str], *, delimiter: str = "\t", quote: str = '"', end: str = "\r\n"
) -> str:
    """Return one line; fields without a value are empty."""
    return delimiter.join(f"{quote}{values.get(name, '')}{quote}" for name in names) + end


def header(names: Iterable[str], **form: str) -> str:
    """Return the first line."""
    return line(names, {name: name for name in names}, **form)


def nc_voters(path: Path, people: Iterable[Mapping[str, str] | str | bytes], encoding: str = "utf-8") -> Path:
    """Write a registration file; an entry that is text or bytes is a line as it is."""
    return _write(path, NC_VOTERS, [p if isinstance(p, str | bytes) else NC_PERSON | p for p in people], encoding)


def nc_history(path: Path, votes: Iterable[Mapping[str, str] | str | bytes], encoding: str = "utf-8") -> Path:
    """Write a history file."""
    return _write(path, NC_HISTORY, [v if isinstance(v, str | bytes) else NC_VOTE | v for v in votes], encoding)


def _write(path: Path, names: tuple[str, ...], rows: list, encoding: str) -> Path:
    data = header(names).encode(encoding)
    for row in rows:
        text = line(names, row) if isinstance(row, dict) else row
        data += text.encode(encoding) if isinstance(text, str) else text
    path.write_bytes(data)
    return path


def fields(row: Mapping[str, str], **changes: str) -> dict[str, str]:
    """Return a copy of a row with other values."""
    return {**row, **changes}


def rows_of(text: str, delimiter: str) -> list[list[str]]:
    """Read lines as the csv module does, for comparison."""
    return list(csv.reader(text.splitlines(), delimiter=delimiter))
