"""Florida: a file of voters and a file of history for each of 67 counties, without header and without quotes."""

from __future__ import annotations

import numpy as np

from sharding.dirty import people as invented
from sharding.dirty.lines import Column, TextFormat
from sharding.dirty.people import Counties, People
from sharding.dirty.tables import Roles, Table, history_rows, names

STATE = "FL"
CODES = ["ALA", "BAK", "BAY", "BRA", "BRE", "BRO", "CAL", "CHA", "CIT", "CLA", "CLL", "CLM", "DES", "DIX", "DUV", "ESC", "FLA", "FRA", "GAD", "GIL", "GLA", "GUL", "HAM", "HAR", "HEN", "HER", "HIG", "HIL", "HOL", "IND", "JAC", "JEF", "LAF", "LAK", "LEE", "LEO", "LEV", "LIB", "MAD", "MAN", "MRN", "MRT", "DAD", "MON", "NAS", "OKA", "OKE", "ORA", "OSC", "PAL", "PAS", "PIN", "POL", "PUT", "SAN", "SAR", "SEM", "STJ", "STL", "SUM", "SUW", "TAY", "UNI", "VOL", "WAK", "WAL", "WAS"]
"""County codes in the alphabetical order of the counties."""
ELECTIONS = {"11/05/2024": None, "11/08/2022": 0.5, "08/20/2024": 0.3}
TYPES = ("GEN", "GEN", "PRI")


def tables(people: People, counties: Counties) -> list[Table]:
    """Return voters and history."""
    county = invented.take(tuple(CODES), people.county)
    ids = invented.padded(people.number + 100_000_000, 9)
    columns: dict[str, Column] = {
        "County Code": county, "Voter ID": ids, "Name Last": people.choice("last", invented.surnames()),
        "Name First": people.choice("first", invented.forenames()), "Requested public records exemption": "N",
        "Residence Address Line 1": people.choice("street", invented.addresses()), "Residence City (USPS)": "NOWHERE",
        "Residence State": "FL", "Residence Zipcode": people.choice("zip", tuple(f"000{i:02d}" for i in range(100))),
        "Gender": people.choice("gender", ("F", "M", "U"), (52, 45, 3)),
        "Race": people.choice("race", ("1", "2", "3", "4", "5", "6", "7", "9"), (1, 2, 13, 18, 60, 2, 1, 3)),
        "Birth Date": invented.dates(people.birthday, "%m/%d/%Y"), "Registration Date": invented.dates(people.registered, "%m/%d/%Y"),
        "Party Affiliation": people.choice("party", ("DEM", "REP", "NPA", "LPF"), (32, 40, 27, 1)),
        "Precinct": people.choice("precinct", tuple(f"{i:03d}" for i in range(1, 41))), "Voter Status": "ACT",
        "Congressional District": people.choice("district", tuple(str(i) for i in range(1, 29))), "House District": "1",
        "Senate District": "1", "County Commission District": "1", "School Board District": "1",
    }  # fmt: skip
    roles = Roles(
        id="Voter ID", birth="Birth Date", placeholder="01/01/1900", underage="02/03/2007", registered="Registration Date",
        codes={"Race": "8", "Party Affiliation": "ZZZ", "Gender": "K"},
        markers={"Race": ("UNK",), "Party Affiliation": ("NULL",), "Gender": ("UNK",)},
        status="Voter Status", left_out="PRE", name="Name Last", kept=("County Code", "Precinct"),
    )  # fmt: skip
    form = TextFormat(has_header=False)
    voters = Table("voters", names("fl_voter_2016"), columns, form, roles, tuple(f"{c}_20241210.txt" for c in CODES),
                   people.county.astype(np.int64), np.arange(len(people)))  # fmt: skip
    who, when = history_rows(people, tuple(ELECTIONS.values()))
    voted: dict[str, Column] = {
        "County Code": county.take(who), "Voter ID": ids.take(who), "Election Date": invented.take(tuple(ELECTIONS), when),
        "Election Type": invented.take(TYPES, when), "History Code": people.choice("method", ("A", "E", "Y"), (35, 40, 25)).take(who),
    }  # fmt: skip
    voting = Roles(id="Voter ID", election="Election Date", vote="History Code", codes={"History Code": "Q"}, not_counted=("B", "P", "N"))
    files = tuple(f"{c}_H_20241210.txt" for c in CODES)
    history = Table("history", names("fl_history_2016"), voted, form, voting, files, people.county.astype(np.int64)[who], who, when == 0)
    return [voters, history]
