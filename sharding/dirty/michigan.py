"""Michigan: voters and history in fixed widths, with a birth year and no birth date; LF ends a line."""

from __future__ import annotations

import numpy as np

from sharding.dirty import people as invented
from sharding.dirty.lines import Column, TextFormat
from sharding.dirty.people import Counties, People
from sharding.dirty.tables import Roles, Table, history_rows, names, widths

STATE = "MI"
ELECTIONS = {"102001104": None, "102001003": 0.5}
"""Codes of elections; that of the outcome first."""


def tables(people: People, counties: Counties) -> list[Table]:
    """Return voters and history."""
    county = invented.padded(people.county + 1, 2)
    ids = invented.padded(people.number, 13)
    columns: dict[str, Column] = {
        "LAST_NAME": people.choice("last", invented.surnames()), "FIRST_NAME": people.choice("first", invented.forenames()),
        "BIRTH_YEAR": invented.dates(people.birthday, "%Y"), "GENDER": people.choice("gender", ("F", "M"), (52, 48)),
        "DATE_OF_REGISTRATION": invented.dates(people.registered, "%m%d%Y"),
        "RESIDENCE_STREET_NUMBER": people.choice("number", tuple(str(i) for i in range(1, 200))),
        "STREET_NAME": people.choice("street", ("PHANTOM", "UNICORN", "MIRAGE")), "STREET_TYPE": "LN", "CITY": "NOWHERE", "STATE": "MI",
        "ZIP": people.choice("zip", tuple(f"000{i:02d}" for i in range(100))), "STATE_VOTER_REF": ids, "COUNTYCODE": county,
        "JURISDICTION": people.choice("jurisdiction", tuple(f"{i:05d}" for i in range(1, 41))),
        "WARD_PRECINCT": people.choice("precinct", tuple(f"{i:06d}" for i in range(1, 41))), "SCHOOL_CODE": "00001",
        "CONGRESSIONAL_DIST": people.choice("district", tuple(f"{i:05d}" for i in range(1, 14))), "REGISTRATION_STATUS": "A",
        "PERMANENT_ABSENTEE_IND": "N", "UOCAVA_STATUS": "N",
    }  # fmt: skip
    roles = Roles(
        id="STATE_VOTER_REF", birth="BIRTH_YEAR", placeholder="1900", underage="2008", registered="DATE_OF_REGISTRATION",
        date_form="%m%d%Y", codes={"GENDER": "K"}, markers={"GENDER": ("0",)}, status="REGISTRATION_STATUS",
        left_out="C", name="LAST_NAME", kept=("COUNTYCODE", "WARD_PRECINCT"),
    )  # fmt: skip
    form = TextFormat(has_header=False, line_end="\n", widths=widths("mi_voter_fixed_2016"))
    everyone = np.arange(len(people))
    voters = Table("voters", names("mi_voter_fixed_2016"), columns, form, roles, ("entire_state_v.lst",), np.zeros_like(everyone), everyone)
    who, when = history_rows(people, tuple(ELECTIONS.values()))
    voted: dict[str, Column] = {
        "voter id": ids.take(who), "county code": county.take(who), "jurisdiction": "00001", "school code": "00001",
        "election code": invented.take(tuple(ELECTIONS), when), "absentee": people.choice("method", ("Y", "N")).take(who),
    }  # fmt: skip
    form = TextFormat(has_header=False, line_end="\n", widths=widths("mi_history_fixed_2016"))
    voting = Roles(id="voter id", election="election code")
    files = ("entire_state_h.lst",)
    history = Table("history", names("mi_history_fixed_2016"), voted, form, voting, files, np.zeros_like(who), who, when == 0)
    return [voters, history]
