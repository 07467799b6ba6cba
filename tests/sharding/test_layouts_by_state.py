"""Each layout on a small file of its own form, and a twin in which one fact is another, which must be told apart."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharding import layouts
from sharding.errors import ContractError, SourceError
from tests.sharding.layout_files import line

ELECTION = date(2024, 11, 5)
OH = (
    "SOS_VOTERID",
    "COUNTY_NUMBER",
    "DATE_OF_BIRTH",
    "REGISTRATION_DATE",
    "VOTER_STATUS",
    "PARTY_AFFILIATION",
    "CITY",
    "GENERAL-11/05/2024",
)
WA = ("StateVoterID", "FName", "Birthdate", "CountyCode", "Registrationdate", "LastVoted", "StatusCode")
L2 = ("LALVOTERID", "Residence_Addresses_State", "Voters_FIPS", "Voters_BirthDate", "Voters_OfficialRegDate", "Parties_Description",
      "CommercialData_EstimatedHHIncomeAmount", "General_2024")  # fmt: skip
TS = ("vb.voterbase_id", "vb.vf_source_state", "vb.vf_county_code", "vb.voterbase_dob", "vb.vf_registration_date",
      "ts.tsmart_partisan_score", "vb.vf_g2024")  # fmt: skip


def text(
    names: tuple[str, ...], rows: list[tuple[str, ...]], delimiter: str, quote: str = "", *, header: bool = True
) -> bytes:
    lines = [line(names, dict(zip(names, row, strict=True)), delimiter=delimiter, quote=quote) for row in rows]
    first = [line(names, dict(zip(names, names, strict=True)), delimiter=delimiter, quote=quote)] if header else []
    return "".join([*first, *lines]).encode()


def fixed(layout: str, role: str, rows: list[dict[str, str]]) -> bytes:
    files = getattr(layouts.load(layout), role)
    return "".join(
        "".join(row.get(name, "").ljust(width) for name, width in zip(files.fields, files.widths, strict=True)) + "\n"
        for row in rows
    ).encode("latin-1")


def oh(folder: Path, vote: str = "X") -> None:
    rows = [
        ("OH1", "01", "1980-05-05", "2010-01-01", "ACTIVE", "D", "A, B", vote),
        ("OH2", "88", "1900-01-01", "2010-01-01", "ACTIVE", "", "C", ""),
    ]
    (folder / "SWVF_1_22.txt").write_bytes(text(OH, rows, ",", '"'))


def fl(folder: Path, code: str = "A") -> None:
    fields = layouts.load("fl").voters.fields
    people = [{"Voter ID": "1", "County Code": "DAD", "Voter Status": "ACT", "Race": "4", "Birth Date": "05/05/1980", "Name Last": 'O"X'},
              {"Voter ID": "2", "County Code": "XXX", "Voter Status": "ACT", "Race": "9", "Birth Date": ""},
              {"Voter ID": "3", "County Code": "DAD", "Voter Status": "PRE"}]  # fmt: skip
    (folder / "DAD_20241210.txt").write_bytes("".join(line(fields, person, quote="") for person in people).encode())
    history = layouts.load("fl").history
    assert history is not None
    votes = [
        ("DAD", "1", "11/05/2024", "GEN", code),
        ("DAD", "2", "11/05/2024", "GEN", "B"),
        ("DAD", "2", "11/05/2024", "RUN", "A"),
    ]
    (folder / "DAD_H_20241210.txt").write_bytes(text(history.fields, votes, "\t", header=False))


def wa_2016(folder: Path, last: str = "11/05/2024") -> None:
    rows = [
        ("1", 'A"', "05/05/1980", "KI", "01/01/2010", last, "Active"),
        ("2", "B", "05/05/1980", "KI", "01/01/2010", "11/03/2020", "Active"),
    ]
    (folder / "VRDB.txt").write_bytes(text(WA, rows, "\t").replace(b"\r\n", b"\r\n\r\n"))


def wa_2020(folder: Path, day: str = "11/05/2024") -> None:
    rows = [
        ("1", "A", "05/05/1980", "KI", "01/01/2010", "", "Active"),
        ("2", "B", "05/05/1980", "KI", "01/01/2010", "", "Active"),
    ]
    (folder / "2024_VRDB.txt").write_bytes(text(WA, rows, "|"))
    votes = [("9", "KI", "1", day), ("10", "KI", "7", "11/05/2024"), ("11", "KI", "2", "11/03/2020")]
    names = ("VoterHistoryID", "CountyCode", "StateVoterID", "ElectionDate")
    (folder / "VotingHistory.txt").write_bytes(text(names, votes, "|"))


def mi(folder: Path, code: str = "102001104") -> None:
    people = [{"STATE_VOTER_REF": "1", "LAST_NAME": "É", "COUNTYCODE": "83", "BIRTH_YEAR": "1980", "DATE_OF_REGISTRATION": "01312010",
               "REGISTRATION_STATUS": "A", "CITY": "X"},
              {"STATE_VOTER_REF": "2", "COUNTYCODE": "01", "BIRTH_YEAR": "1980", "DATE_OF_REGISTRATION": "01312010", "REGISTRATION_STATUS": "A"}]  # fmt: skip
    (folder / "entire_state_v.lst").write_bytes(fixed("mi", "voters", people))
    votes = [{"voter id": "1", "election code": code}, {"voter id": "2", "election code": "7"}]
    (folder / "entire_state_h.lst").write_bytes(fixed("mi", "history", votes))


def l2(folder: Path, vote: str = "Y") -> None:
    rows = [
        ("L1", "PA", "7", "05/05/1980", "01/01/2010", "Democratic", "$50,000", vote),
        ("L2", "PA", "007", "05/05/1980", "01/01/2010", "Whig", "?", ""),
    ]
    (folder / "VM2--PA-DEMOGRAPHIC.tab").write_bytes(text(L2, rows, "\t"))


def targetsmart(folder: Path, vote: str = "M") -> None:
    rows = [
        ("PA-1", "PA", "7", "19800505", "20100101", "55.5", vote),
        ("PA-2", "PA", "007", "19801305", "20100101", "", ""),
    ]
    (folder / "targetsmart_PA.tsv").write_bytes(text(TS, rows, "\t"))


def parquet(folder: Path, vote: int | None = 1) -> None:
    columns = {"id": ["1", "2"], "county": ["01001", "01003"], "race": ["w", "UNK"], "party": ["D", "R"], "sex": ["F", "M"],
               "birth_date": pa.array([date(1980, 5, 5), None]), "registered": pa.array([date(2010, 1, 1)] * 2), "status": ["a", "a"],
               "g2024": pa.array([vote, 0])}  # fmt: skip
    pq.write_table(pa.table(columns), folder / "people.parquet")


CASES = {
    "oh": (oh, ("id", "county", "party", "age"), {"birth_date:placeholder": 1, "missing:blank": 1}, "?", {"code:unseen": 1}),
    "fl": (fl, ("id", "county", "race", "age"), {"code:unseen": 1, "missing:blank": 6, "status:left_out": 1}, "P", {}),
    "wa-2016": (wa_2016, ("id", "county", "age"), {"lines:blank": 3}, "11/04/2025", {"vote:later": 1}),
    "wa-2020": (wa_2020, ("id", "county", "age"), {}, "11/06/2024", {}),
    "mi": (mi, ("id", "county", "age", "city"), {"missing:blank": 1, "encoding:cp1252": 1}, "102001105", {}),
    "l2": (l2, ("id", "county", "party", "income", "age"), {"zeros:restored": 1, "code:unseen": 1, "number:malformed": 1}, "?", {"code:unseen": 1}),
    "targetsmart": (targetsmart, ("id", "county", "partisan_score", "age"),
                    {"zeros:restored": 1, "dates:impossible": 1, "missing:blank": 1}, " ", {}),
    "parquet": (parquet, ("id", "county", "race", "age"), {"missing:marker": 1, "missing:blank": 1}, 0, {}),
}  # fmt: skip


def read(folder: Path, layout: str, columns: tuple[str, ...]):
    source, out = str(folder), str(folder.parent / f"out-{folder.name}")
    result = layouts.clean(layouts.load(layout), [source], out, election=ELECTION, columns=columns)
    found: Counter = Counter()
    for count in result.dirt["counts"]:
        if count["role"] == "voters":
            found[count["rule"]] += count["count"]
    return {row["id"]: row for row in pq.read_table(result.path).to_pylist()}, found


@pytest.mark.parametrize("layout", CASES)
def test_a_layout_reads_files_of_its_form_and_its_twin_is_told_apart(layout, tmp_path):
    write, columns, expected, other, more = CASES[layout]
    for name in ("good", "twin"):
        (tmp_path / name).mkdir()
    write(tmp_path / "good")
    people, counts = read(tmp_path / "good", layout, columns)
    assert counts == expected
    assert [row["voted"] for _, row in sorted(people.items())] == [1, 0]
    write(tmp_path / "twin", other)
    if layouts.load(layout).history is not None:
        with pytest.raises(SourceError, match="no vote in"):  # it was the only one
            read(tmp_path / "twin", layout, columns)
        return
    twin, twin_counts = read(tmp_path / "twin", layout, columns)
    assert min(twin.items())[1]["voted"] != 1
    assert twin_counts - counts == Counter(more)


def test_codes_of_counties_become_fips(tmp_path):
    for layout, county in (("oh", "39001"), ("fl", "12086"), ("wa-2020", "53033"), ("mi", "26165"), ("l2", "007")):
        (tmp_path / layout).mkdir()
        CASES[layout][0](tmp_path / layout)
        people, _ = read(tmp_path / layout, layout, ("id", "county"))
        assert min(people.items())[1]["county"] == county


def test_party_of_a_state_without_is_refused(tmp_path):
    wa_2020(tmp_path)
    with pytest.raises(ContractError, match="without party"):
        read(tmp_path, "wa-2020", ("id", "party"))


def test_a_list_of_elections_in_one_field(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        'extends: oh\nname: mine\nvote: {form: packed, column: HISTORY, counted: [], entry: "GE {date:%Y%m%d}"}\n'
    )
    (tmp_path / "in").mkdir()
    rows = [("OH1", "PE 20240319;GE 20241105(A)"), ("OH2", "GE 20201103")]
    names = ("SOS_VOTERID", "HISTORY", "DATE_OF_BIRTH", "REGISTRATION_DATE", "VOTER_STATUS")
    (tmp_path / "in/swvf.txt").write_bytes(
        text(names, [(*row, "1980-01-01", "2010-01-01", "ACTIVE") for row in rows], ",")
    )
    people, _ = read(tmp_path / "in", str(tmp_path / "mine.yaml"), ("id",))
    assert [row["voted"] for _, row in sorted(people.items())] == [1, 0]
