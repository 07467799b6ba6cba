"""Columns that tell who somebody is, ids as pseudonyms, and what of a rejected row is kept."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from sharding import storage
from sharding.config import DataConfig, PrivacyConfig
from sharding.dictionary import FactorCoding
from sharding.errors import PrivacyError
from sharding.privacy import KINDS, Pseudonyms, check_columns, check_levels, personal_kind

KEY = "3f9c1d7be0a84265b1c7f20d9e6a5348c2d1f7e6a9b0435d8e7f1a2b3c4d5e6f"
DATA: dict[str, Any] = {"source": "x.parquet", "outcome": "voted", "terms_of_use": "synthetic"}
PERSONAL = {
    "name": "first_name last_name midl_name name_suffix_lbl name_prefx_cd FIRST-NAME LastName FName LName VOTER_NAME Voters_LastName "
    "vb.tsmart_first_name name PREVNAME NAMESUFFIX",
    "address": "res_street_address mail_addr1 RESIDENTIAL_ADDRESS1 HOUSE_NUM HOME-STREET MAILADD1 RADDNUMBER RSTREETNAME RegStNum "
    "RESIDENTIAL_ZIP_PLUS4 vb.vf_reg_zip4 vb.tsmart_latitude Residence_Addresses_AddressLine apartment MailStreet1 BldgNum",
    "phone": "full_phone_number PHONE_NUM vb.voterbase_phone VoterTelephones_CellPhoneFormatted Telephone mobile_phone",
    "email": "email Email_address e-mail EmailAddr",
    "birth_date": "DOB DATE_OF_BIRTH Birthdate Voters_BirthDate vb.voterbase_dob birth_date dateOfBirth",
    "id": "ncid voter_reg_num VOTER_ID StateVoterID LALVOTERID voterbase_id SOS_VOTERID SBOEID STATE_VOTER_REF UNIQUE-ID "
    "drivers_lic ssn household_id Mailing_Families_FamilyID respondent_id",
}  # fmt: skip
USABLE = (
    "state county county_name precinct precinct_name county_id COUNTYCODE city mail_city Residence_Addresses_City zip zip_code "
    "RESIDENTIAL_ZIP age birth_year birth_age year_of_birth race_code party_cd gender status VOTER_STATUS vb.vf_g2020 Voters_FIPS "
    "has_phone email_flag CongressionalDistrict house_district registr_dt dem_share_2020 female voted income STATE_HOUSE vtd_desc"
)


def test_columns_are_told_by_what_files_call_them() -> None:
    found = {name: personal_kind(name) for names in PERSONAL.values() for name in names.split()}
    assert found == {name: kind for kind, names in PERSONAL.items() for name in names.split()}
    assert {name: personal_kind(name) for name in USABLE.split()} == dict.fromkeys(USABLE.split())


def test_a_personal_column_is_refused_under_any_name_and_used_if_allowed() -> None:
    data = DataConfig(**DATA, columns={"area": {"source": "last_name"}})
    with pytest.raises(PrivacyError, match=r"'area' \(column 'last_name'\), which looks like the name of a person"):
        check_columns({"area": "model.formula"}, (), source_name=data.source_name)
    check_columns({"area": "model.formula"}, ["last_name"], source_name=data.source_name)
    with pytest.raises(PrivacyError, match=r"f7.*looks like a phone number"):
        check_columns({"f7": "model.formula"}, (), declared={"f7": "phone"})
    for kind in KINDS:
        with pytest.raises(PrivacyError, match="privacy"):
            check_columns({"x": "model.formula"}, (), declared={"x": kind})


@pytest.mark.parametrize(
    ("levels", "num_people", "message"),
    [
        (("a", "b", "z.beeblebrox@example.org"), 900, "1 of 3 levels that look like an e-mail address"),
        (("a", "(919) 555-0101"), 900, "1 of 2 levels that look like a phone number"),
        (("078-05-1120", "b"), 900, "look like an identifier"),
        (tuple(f"{i} Elm St" for i in range(400)), 9000, "400 of 400 levels that look like an address"),
        (tuple(f"1970-{m:02d}-{d:02d}" for m in range(1, 13) for d in range(1, 32)), 9000, "full date of birth"),
        (tuple(f"p{i}" for i in range(150)), 200, "150 levels in 200 rows, nearly one per person"),
    ],
)
def test_levels_that_are_people(levels: tuple[str, ...], num_people: int, message: str) -> None:
    codings = {"group": FactorCoding(levels, levels[0])}
    with pytest.raises(PrivacyError, match=message) as caught:
        check_levels(DataConfig(**DATA), codings, num_people)
    assert not any(level in str(caught.value) for level in levels if len(level) > 4)
    check_levels(DataConfig(**DATA, privacy={"allow": ["group"]}), codings, num_people)


def test_levels_that_are_groups() -> None:
    codings = {
        "precinct": FactorCoding(tuple(f"{i} MAIN ST FIRE HALL" if i < 150 else f"P{i}" for i in range(400)), "P399"),
        "fips": FactorCoding(tuple(f"{i:05d}" for i in range(3000)), "00000"),
        "tract": FactorCoding(tuple(f"{37_000_000_000 + i}" for i in range(3000)), "37000000000"),
    }
    check_levels(DataConfig(**DATA), codings, 7000)
    check_levels(DataConfig(**DATA), codings, None)


def test_a_plain_hash_of_an_id_is_refused() -> None:
    for method in ("sha256", "md5", "SHA1", "none"):
        with pytest.raises(ValidationError, match="hmac-sha256"):
            PrivacyConfig(id_method=method)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"10\^8"):
        PrivacyConfig(id_method="sha256")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("", "no key"),
        ("short", "a key of 5 bytes"),
        ("0" * 64, "repeats itself"),
        ("password" * 8, "repeats itself"),
        ("abababababababababababababababababababac", "repeats itself"),
        ("".join(map(chr, range(64, 110))), "a sequence"),
    ],
)
def test_weak_keys_are_refused(key: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAUCUS_ID_KEY", key)
    with pytest.raises(PrivacyError, match=found) as caught:
        Pseudonyms.from_environment("CAUCUS_ID_KEY")
    assert not key or key not in str(caught.value)


def test_pseudonyms_are_hmac_and_cannot_be_enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAUCUS_ID_KEY", KEY)
    made = Pseudonyms.from_environment("CAUCUS_ID_KEY")
    expected = hmac.new(KEY.encode(), b"id\0V000001", "sha256").hexdigest()[:32]
    assert made.of(["V000001", None, "", "V000001"]) == [expected, None, None, expected]
    other = Pseudonyms(KEY[::-1].encode())
    assert other.of(["V000001"]) != [expected]
    assert other.fingerprint != made.fingerprint
    assert KEY not in made.fingerprint


def test_kept_rows_have_pseudonyms_and_lines_only_their_place(
    helpers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = helpers.people(60)
    ids = table["voter_id"].to_pylist()
    ids[7] = ids[3]
    table = table.set_column(0, "voter_id", pa.array(ids))
    pq.write_table(table, tmp_path / "people.parquet")
    options = {"id_column": "voter_id", "duplicates": "quarantine", "keep_quarantined_rows": True}
    with pytest.raises(PrivacyError, match="environment variable CAUCUS_ID_KEY: found no key"):
        helpers.run(tmp_path / "people.parquet", tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("CAUCUS_ID_KEY", KEY)
    helpers.run(tmp_path / "people.parquet", tmp_path / "run", **options)
    kept = pq.read_table(tmp_path / "run/quarantine/rows.parquet")
    assert kept["id"].to_pylist() == Pseudonyms(KEY.encode()).of([ids[3]])
    recorded = storage.read_json(str(tmp_path / "run/quarantine/ids.json"))
    assert recorded["key_fingerprint"] == Pseudonyms(KEY.encode()).fingerprint
    written = b"".join(file.read_bytes() for file in sorted((tmp_path / "run").rglob("*")) if file.is_file())
    assert ids[3].encode() not in written
    assert KEY.encode() not in written


def test_a_column_of_names_stops_an_ingest_before_anything_is_read(helpers: Any, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="model column 'last_name'"):
        helpers.run(tmp_path / "none.parquet", tmp_path / "run", factor_columns=["last_name"], group_columns=[])


def test_a_factor_with_a_level_per_person_is_refused(helpers: Any, tmp_path: Path) -> None:
    table = helpers.people(300).append_column("code", pa.array([f"k{i}" for i in range(300)]))
    pq.write_table(table, tmp_path / "people.parquet")
    options = {"factor_columns": ["state", "code"], "group_columns": [("state",)]}
    with pytest.raises(PrivacyError, match=r"data\.columns\.code: found 300 levels in 300 rows"):
        helpers.run(tmp_path / "people.parquet", tmp_path / "run", **options)
    helpers.run(tmp_path / "people.parquet", tmp_path / "run", privacy={"allow": ["code"]}, **options)
