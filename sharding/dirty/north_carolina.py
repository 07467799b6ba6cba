"""North Carolina: 67 columns and a long history; the election-day snapshot of the same columns is in UTF-16."""

from __future__ import annotations

import numpy as np

from sharding.dirty import people as invented
from sharding.dirty.lines import Column, TextFormat
from sharding.dirty.people import Counties, People
from sharding.dirty.tables import Roles, Table, history_rows, names

STATE = "NC"
ELECTIONS = {"11/05/2024": None, "11/08/2022": 0.5, "11/03/2020": 0.7}
"""Elections of the history; the share that voted, or None for the election that people's ``voted`` is of."""
METHODS = ("IN-PERSON", "ABSENTEE ONESTOP", "ABSENTEE BY MAIL")


def tables(people: People, counties: Counties, *, is_snapshot: bool = False) -> list[Table]:
    """Return registration and history."""
    number = invented.padded(people.county + 1, 1)
    county = invented.take(counties.names, people.county)
    ids = invented.prefixed(chr(65 + people.seed % 26) + "Z", people.number, 9)
    registration = invented.padded(people.number % 100_000, 12)
    columns: dict[str, Column] = {
        "county_id": number, "county_desc": county, "voter_reg_num": registration, "ncid": ids,
        "last_name": people.choice("last", invented.surnames()),
        "first_name": people.choice("first", invented.forenames()),
        "middle_name": people.choice("middle", invented.forenames()),
        "status_cd": "A", "voter_status_desc": "ACTIVE", "reason_cd": "AV", "voter_status_reason_desc": "VERIFIED",
        "res_street_address": people.choice("street", invented.addresses()), "res_city_desc": "NOWHERE", "state_cd": "NC",
        "zip_code": people.choice("zip", tuple(f"000{i:02d}" for i in range(100))), "mail_city": "NOWHERE",
        "confidential_ind": "N", "registr_dt": invented.dates(people.registered, "%m/%d/%Y"),
        "race_code": people.choice("race", ("W", "B", "A", "I", "M", "O", "U"), (64, 20, 2, 1, 1, 3, 9)),
        "ethnic_code": people.choice("ethnicity", ("NL", "HL", "UN"), (60, 5, 35)),
        "party_cd": people.choice("party", ("DEM", "REP", "UNA", "LIB"), (31, 30, 38, 1)),
        "gender_code": people.choice("gender", ("F", "M", "U"), (50, 43, 7)),
        "birth_year": invented.dates(people.birthday, "%Y"),
        "age_at_year_end": invented.padded(2024 - invented.years(people.birthday), 1), "birth_state": "OC", "drivers_lic": "Y",
        "precinct_abbrv": people.choice("precinct", tuple(f"{i:02d}" for i in range(1, 41))),
        "precinct_desc": people.choice("precinct", tuple(f"PRECINCT {i:02d}" for i in range(1, 41))),
        "cong_dist_abbrv": people.choice("district", tuple(f"{i:02d}" for i in range(1, 15))),
        "nc_senate_abbrv": "01", "nc_house_abbrv": "001", "vtd_abbrv": "V1", "vtd_desc": "V1",
    }  # fmt: skip
    roles = Roles(
        id="ncid", birth="birth_year", placeholder="1900", underage="2008", registered="registr_dt",
        codes={"race_code": "Q", "party_cd": "ZZZ", "gender_code": "K"},
        markers={"race_code": ("UNK",), "party_cd": ("NULL",), "gender_code": ("0",)},
        status="status_cd", left_out="R", name="last_name", kept=("county_id", "precinct_abbrv"),
    )  # fmt: skip
    form, file = TextFormat(quote='"'), "ncvoter_Statewide.txt"
    every = names("nc_voter_2022")
    if is_snapshot:
        every = tuple(name.replace("judic_dist_abbrv", "judic_dis_abbrv") for name in every)  # as it was called once
        form, file = TextFormat(encoding="utf-16-le", quote_is_data=False), "VR_Snapshot_20241105.txt"
    everyone = np.arange(len(people))
    voters = Table("voters", every, columns, form, roles, (file,), np.zeros_like(everyone), everyone)
    who, when = history_rows(people, tuple(ELECTIONS.values()))
    voted: dict[str, Column] = {
        "county_id": number.take(who), "county_desc": county.take(who), "voter_reg_num": registration.take(who),
        "election_lbl": invented.take(tuple(ELECTIONS), when), "election_desc": "GENERAL",
        "voting_method": people.choice("method", METHODS, (30, 60, 10)).take(who), "ncid": ids.take(who),
    }  # fmt: skip
    voting = Roles(id="ncid", election="election_lbl", drifting="voting_method", older_label="ABSENTEE", name="voted_party_desc")
    form = TextFormat(quote='"')
    files = ("ncvhis_Statewide.txt",)
    return [voters, Table("history", names("nc_history_2012"), voted, form, voting, files, np.zeros_like(who), who, when == 0)]
