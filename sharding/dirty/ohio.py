"""Ohio: four gzipped files by county number, wide: a column for each election."""

from __future__ import annotations

import numpy as np

from sharding.dirty import people as invented
from sharding.dirty.lines import Column, TextFormat
from sharding.dirty.people import Counties, People
from sharding.dirty.tables import Roles, Table, names

STATE = "OH"
ELECTIONS = ("PRIMARY-03/17/2020", "GENERAL-11/03/2020", "PRIMARY-05/03/2022", "GENERAL-11/08/2022", "PRIMARY-03/19/2024",
             "GENERAL-11/05/2024")  # fmt: skip


def tables(people: People, counties: Counties) -> list[Table]:
    """Return the voters."""
    columns: dict[str, Column] = {
        "SOS_VOTERID": invented.prefixed("OH", people.number, 10), "COUNTY_NUMBER": invented.padded(people.county + 1, 2),
        "COUNTY_ID": invented.padded(people.number % 1_000_000, 7), "LAST_NAME": people.choice("last", invented.surnames()),
        "FIRST_NAME": people.choice("first", invented.forenames()), "DATE_OF_BIRTH": invented.dates(people.birthday, "%Y-%m-%d"),
        "REGISTRATION_DATE": invented.dates(people.registered, "%Y-%m-%d"), "VOTER_STATUS": "ACTIVE",
        "PARTY_AFFILIATION": people.choice("party", ("", "D", "R", "L"), (65, 15, 19, 1)),
        "RESIDENTIAL_ADDRESS1": people.choice("street", invented.addresses()), "RESIDENTIAL_CITY": "NOWHERE",
        "RESIDENTIAL_STATE": "OH", "RESIDENTIAL_ZIP": people.choice("zip", tuple(f"000{i:02d}" for i in range(100))),
        "CONGRESSIONAL_DISTRICT": people.choice("district", tuple(f"{i:02d}" for i in range(1, 16))),
        "PRECINCT_NAME": people.choice("precinct", tuple(f"NOWHERE {i:02d}" for i in range(1, 41))),
        "PRECINCT_CODE": people.choice("precinct", tuple(f"0{i:02d}AA" for i in range(1, 41))),
        "STATE_REPRESENTATIVE_DISTRICT": "01", "STATE_SENATE_DISTRICT": "01", "TOWNSHIP": "NOWHERE TWP",
    }  # fmt: skip
    for election in ELECTIONS:
        if election.startswith("PRIMARY"):
            columns[election] = people.choice(election, ("", "D", "R", "X"), (75, 11, 13, 1))
        else:
            columns[election] = people.choice(election, ("", "X"), (40, 60))
    columns[ELECTIONS[-1]] = invented.take(("", "X"), people.voted.astype(np.int64))
    roles = Roles(
        id="SOS_VOTERID", birth="DATE_OF_BIRTH", placeholder="1900-01-01", underage="2007-02-03", registered="REGISTRATION_DATE",
        date_form="%Y-%m-%d", codes={"PARTY_AFFILIATION": "Q"},
        markers={"PARTY_AFFILIATION": ("UNK", "NULL")}, status="VOTER_STATUS", left_out="", name="LAST_NAME",
        kept=("COUNTY_NUMBER", "PRECINCT_CODE"),
    )  # fmt: skip
    parts = tuple(f"SWVF_{first}_{first + 21}.txt.gz" for first in (1, 23, 45, 67))
    file_of_row = people.county.astype(np.int64) // 22
    everyone = np.arange(len(people))
    form = TextFormat(delimiter=",", quote='"')
    return [Table("voters", (*names("oh_voter"), *ELECTIONS), columns, form, roles, parts, file_of_row, everyone)]
