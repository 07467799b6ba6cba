"""Wide files as two vendors ship them, and plain Parquet: one row a person, one column an election."""

from __future__ import annotations

import numpy as np

from sharding.dirty import people as invented
from sharding.dirty.lines import Column, TextFormat
from sharding.dirty.people import Counties, People
from sharding.dirty.tables import Roles, Table, names

STATE = "PA"


def l2(people: People, counties: Counties) -> list[Table]:
    """Return an L2-like file: tabs, full words, modelled ethnicity."""
    columns: dict[str, Column] = {
        "LALVOTERID": invented.prefixed("LALPA", people.number, 9), "Voters_Active": "A",
        "Voters_FirstName": people.choice("first", invented.forenames()), "Voters_LastName": people.choice("last", invented.surnames()),
        "Residence_Addresses_AddressLine": people.choice("street", invented.addresses()), "Residence_Addresses_City": "Nowhere",
        "Residence_Addresses_State": STATE, "Residence_Addresses_Zip": people.choice("zip", tuple(f"000{i:02d}" for i in range(100))),
        "Voters_Age": invented.padded(2024 - invented.years(people.birthday), 1),
        "Voters_Gender": people.choice("gender", ("F", "M"), (52, 48)), "Voters_BirthDate": invented.dates(people.birthday, "%m/%d/%Y"),
        "Parties_Description": people.choice("party", ("Democratic", "Republican", "Non-Partisan", "Libertarian"), (40, 40, 19, 1)),
        "EthnicGroups_EthnicGroup1Desc": people.choice(
            "race", ("European", "Likely African-American", "Hispanic and Portuguese", "East and South Asian", "Other"), (70, 12, 10, 4, 4)
        ),
        "Voters_CalculatedRegDate": invented.dates(people.registered, "%m/%d/%Y"),
        "Voters_OfficialRegDate": invented.dates(people.registered, "%m/%d/%Y"), "Voters_VotingPerformanceEvenYearGeneral": "50%",
        "General_2024": invented.take(("", "Y"), people.voted.astype(np.int64)), "General_2022": people.choice("2022", ("", "Y")),
        "General_2020": people.choice("2020", ("", "Y"), (30, 70)), "County": invented.take(counties.names, people.county),
        "Voters_FIPS": invented.take(tuple(fips[2:] for fips in counties.fips), people.county),
        "Precinct": people.choice("precinct", tuple(f"{i:04d}" for i in range(1, 41))),
    }  # fmt: skip
    roles = Roles(
        id="LALVOTERID", birth="Voters_BirthDate", placeholder="01/01/1900", underage="02/03/2007", registered="Voters_OfficialRegDate",
        codes={"Voters_Gender": "K", "EthnicGroups_EthnicGroup1Desc": "Martian"},
        markers={"Voters_Gender": ("UNK",), "EthnicGroups_EthnicGroup1Desc": ("NULL",), "Parties_Description": ("UNK",)},
        name="Voters_LastName", kept=("Voters_FIPS", "Precinct"),
    )  # fmt: skip
    every = list(names("l2_uniform_selected"))
    every.insert(every.index("General_2022"), "General_2024")
    everyone = np.arange(len(people))
    return [Table("voters", tuple(every), columns, TextFormat(), roles, ("VM2--PA--2024-12-10-DEMOGRAPHIC.tab",),
                  np.zeros_like(everyone), everyone)]  # fmt: skip


def targetsmart(people: People, counties: Counties) -> list[Table]:
    """Return a TargetSmart-like file: tabs, dates without separators, LF."""
    columns: dict[str, Column] = {
        "voterbase_id": invented.prefixed("PA-", people.number, 9), "vb.voterid": invented.padded(people.number, 12),
        "vb.tsmart_first_name": people.choice("first", invented.forenames()),
        "vb.tsmart_last_name": people.choice("last", invented.surnames()), "vb.voterbase_dob": invented.dates(people.birthday, "%Y%m%d"),
        "vb.voterbase_age": invented.padded(2024 - invented.years(people.birthday), 1),
        "vb.voterbase_gender": people.choice("gender", ("Female", "Male", "Unknown"), (51, 46, 3)),
        "vb.voterbase_race": people.choice("race", ("Caucasian", "African-American", "Hispanic", "Asian", "Other"), (70, 12, 10, 4, 4)),
        "vb.voterbase_registration_status": "Registered", "vb.vf_source_state": STATE, "vb.vf_voter_status": "Active",
        "vb.vf_party": people.choice("party", ("Democrat", "Republican", "Unaffiliated"), (40, 40, 20)),
        "vb.vf_registration_date": invented.dates(people.registered, "%Y%m%d"),
        "vb.vf_earliest_registration_date": invented.dates(people.registered, "%Y%m%d"),
        "vb.vf_reg_address_1": people.choice("street", invented.addresses()), "vb.vf_reg_city": "NOWHERE", "vb.vf_reg_state": STATE,
        "vb.vf_reg_zip": people.choice("zip", tuple(f"000{i:02d}" for i in range(100))), "vb.tsmart_state": STATE,
        "vb.vf_county_code": invented.take(tuple(fips[2:] for fips in counties.fips), people.county),
        "vb.tsmart_county_name": invented.take(counties.names, people.county),
        "vb.vf_precinct_name": people.choice("precinct", tuple(f"{i:04d}" for i in range(1, 41))),
        "vb.vf_g2024": invented.take(("", "Y"), people.voted.astype(np.int64)), "vb.vf_g2022": people.choice("2022", ("", "Y")),
        "vb.vf_g2020": people.choice("2020", ("", "Y"), (30, 70)), "vb.tsmart_partisan_score": "50.0",
    }  # fmt: skip
    roles = Roles(
        id="voterbase_id", birth="vb.voterbase_dob", placeholder="19000101", underage="20070203", registered="vb.vf_registration_date",
        date_form="%Y%m%d",
        codes={"vb.voterbase_gender": "K"},
        markers={"vb.voterbase_gender": ("UNK",), "vb.voterbase_race": ("NULL",), "vb.vf_party": ("UNK",)},
        name="vb.tsmart_last_name",
        kept=("vb.vf_county_code", "vb.vf_precinct_name"),
    )  # fmt: skip
    every = (*names("targetsmart_selected"), "vb.vf_g2022", "vb.vf_g2024")
    everyone = np.arange(len(people))
    return [Table("voters", every, columns, TextFormat(line_end="\n"), roles, ("targetsmart_PA.tsv",),
                  np.zeros_like(everyone), everyone)]  # fmt: skip


def parquet(people: People, counties: Counties) -> list[Table]:
    """Return plain Parquet in two files: text, two dates, the outcome in a column."""
    columns: dict[str, Column] = {
        "id": invented.padded(people.number, 9), "county": invented.take(counties.fips, people.county),
        "race": people.choice("race", ("White", "Black", "Hispanic", "Asian", "Other"), (70, 12, 10, 4, 4)),
        "party": people.choice("party", ("DEM", "REP", "NPA"), (40, 40, 20)), "sex": people.choice("gender", ("F", "M"), (52, 48)),
        "birth_date": invented.dates(people.birthday, "%Y-%m-%d"), "registered": invented.dates(people.registered, "%Y-%m-%d"),
        "status": "active", "g2024": invented.take(("0", "1"), people.voted.astype(np.int64)),
    }  # fmt: skip
    roles = Roles(
        id="id", birth="birth_date", placeholder="1900-01-01", underage="2007-02-03", registered="registered", date_form="%Y-%m-%d",
        markers={"race": ("UNK",), "party": ("NULL",), "sex": ("0",)}, status="status", left_out="removed", kept=("county",),
    )  # fmt: skip
    everyone = np.arange(len(people))
    files = ("voters-00000.parquet", "voters-00001.parquet")
    return [Table("voters", tuple(columns), columns, None, roles, files, everyone * 2 // max(len(people), 1), everyone)]
