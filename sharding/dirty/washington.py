"""Washington: one file, tabs and a blank line after each row in 2016, bars and files of history in 2020; no party, no race."""

from __future__ import annotations

import numpy as np

from sharding.dirty import people as invented
from sharding.dirty.lines import Column, TextFormat
from sharding.dirty.people import Counties, People
from sharding.dirty.tables import Roles, Table, history_rows, names

STATE = "WA"
CODES = ["AD", "AS", "BE", "CH", "CM", "CR", "CU", "CZ", "DG", "FE", "FR", "GA", "GR", "GY", "IS", "JE", "KI", "KP", "KS", "KT", "LE", "LI", "MA", "OK", "PA", "PE", "PI", "SJ", "SK", "SM", "SN", "SP", "ST", "TH", "WK", "WL", "WM", "WT", "YA"]
"""County codes in the alphabetical order of the counties."""
ELECTIONS = {"11/05/2024": None, "08/06/2024": 0.4}
HISTORY = ("VoterHistoryID", "CountyCode", "StateVoterID", "ElectionDate")


def tables_2016(people: People, counties: Counties) -> list[Table]:
    """Return the voters; who voted is told by ``LastVoted``."""
    columns = _columns(people, "Birthdate")
    day = invented.take(("11/08/2022", "11/05/2024"), people.voted.astype(np.int64))
    columns |= {"LastVoted": day, "CountyVoterID": invented.padded(people.number % 1_000_000, 7)}
    form = TextFormat(line_end="\r\n\r\n")
    return [_voters(people, columns, "wa_voter_2016", "Birthdate", form, "201611_VRDB_Extract.txt")]


def tables_2020(people: People, counties: Counties) -> list[Table]:
    """Return voters and history."""
    columns, form = _columns(people, "birthdate"), TextFormat(delimiter="|")
    voters = _voters(people, columns, "wa_voter_2020", "birthdate", form, "20241210_VRDB_Extract.txt")
    who, when = history_rows(people, tuple(ELECTIONS.values()))
    voted: dict[str, Column] = {
        "VoterHistoryID": invented.padded(np.arange(len(who)) + 1, 1), "CountyCode": invented.take(tuple(CODES), people.county[who]),
        "StateVoterID": columns["StateVoterID"].take(who), "ElectionDate": invented.take(tuple(ELECTIONS), when),  # type: ignore[union-attr]
    }  # fmt: skip
    voting = Roles(id="StateVoterID", election="ElectionDate")
    files = ("VotingHistory_2023_2024.txt",)
    return [voters, Table("history", HISTORY, voted, form, voting, files, np.zeros_like(who), who, when == 0)]


def _voters(people: People, columns: dict[str, Column], layout: str, birth: str, form: TextFormat, file: str) -> Table:
    roles = Roles(
        id="StateVoterID", birth=birth, placeholder="01/01/1900", underage="02/03/2007", registered="Registrationdate",
        codes={"Gender": "K"}, markers={"Gender": ("UNK",)}, status="StatusCode", left_out="Cancelled", name="LName",
        kept=("CountyCode", "PrecinctCode"),
    )  # fmt: skip
    everyone = np.arange(len(people))
    return Table("voters", names(layout), columns, form, roles, (file,), np.zeros_like(everyone), everyone)


def _columns(people: People, birth: str) -> dict[str, Column]:
    return {
        "StateVoterID": invented.padded(people.number + 10_000_000, 1),
        "FName": people.choice("first", invented.forenames()), "LName": people.choice("last", invented.surnames()),
        birth: invented.dates(people.birthday, "%m/%d/%Y"), "Gender": people.choice("gender", ("F", "M", "U"), (52, 45, 3)),
        "RegStNum": people.choice("number", tuple(str(i) for i in range(1, 200))),
        "RegStName": people.choice("street", ("PHANTOM", "UNICORN", "MIRAGE")), "RegStType": "LN", "RegCity": "NOWHERE", "RegState": "WA",
        "RegZipCode": people.choice("zip", tuple(f"000{i:02d}" for i in range(100))), "CountyCode": invented.take(tuple(CODES), people.county),
        "PrecinctCode": people.choice("precinct", tuple(f"{i:04d}" for i in range(1, 41))), "PrecinctPart": "000.0",
        "LegislativeDistrict": people.choice("district", tuple(str(i) for i in range(1, 50))), "CongressionalDistrict": "1",
        "Registrationdate": invented.dates(people.registered, "%m/%d/%Y"), "StatusCode": "Active",
    }  # fmt: skip
