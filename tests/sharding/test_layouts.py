"""Layouts: what is found, counted, joined and kept of small raw files."""

from __future__ import annotations

import gzip
import zipfile
from collections import Counter
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sharding import cleaned_rows, layouts
from sharding.errors import ContractError, LayoutError, SourceError
from sharding.layouts import cleaning, explain
from tests.sharding.layout_files import NC_PERSON, NC_VOTERS, header, line, nc_history, nc_voters

ELECTION = date(2024, 11, 5)
COLUMNS = ("id", "county", "race", "party", "registered", "age", "precinct")


def clean(folder: Path, layout: str = "nc", columns=COLUMNS, election: date | None = ELECTION):
    return layouts.clean(
        layouts.load(layout), [str(folder / "in")], str(folder / "run"), election=election, columns=columns
    )


def counts(result, role: str = "voters") -> dict[tuple[str, str | None], int]:
    found: Counter = Counter()
    for count in result.dirt["counts"]:
        if count["role"] == role:
            found[count["rule"], count["column"]] += count["count"]
    return dict(found)


def people(result) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(result.path).to_pylist()}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_clean_rows_come_out_as_they_went_in(raw):
    nc_voters(raw / "ncvoter92.txt", [{"ncid": "AA1", "precinct_abbrv": "007"}, {"ncid": "AA2", "county_id": "1"}])
    nc_history(raw / "ncvhis92.txt", [{"ncid": "AA2"}])
    result = clean(raw.parent)
    assert counts(result) == {}
    assert people(result)["AA1"] == {
        "id": "AA1", "county": "37183", "race": "white", "party": "DEM", "registered": date(2010, 1, 31), "age": "44",
        "precinct": "007", "voted": 0,
    }  # fmt: skip
    assert people(result)["AA2"]["voted"] == 1
    assert people(result)["AA2"]["county"] == "37001"


@pytest.mark.parametrize(
    ("row", "rule", "column", "action"),
    [
        ({"registr_dt": "##/##/####"}, "dates:malformed", "registered", "altered"),
        ({"registr_dt": "02/30/2020"}, "dates:impossible", "registered", "altered"),
        ({"registr_dt": "01/01/1900"}, "dates:placeholder", "registered", "altered"),
        ({"birth_year": "1900"}, "birth_date:placeholder", "birth_year", "altered"),
        ({"birth_year": "1902"}, "age:impossible", "age", "altered"),
        ({"birth_year": ""}, "missing:blank", "birth_year", "altered"),
        ({"race_code": "Q"}, "code:unseen", "race", "altered"),
        ({"race_code": "UNK"}, "missing:marker", "race", "altered"),
        ({"race_code": "W "}, "spaces:trimmed", "race", "noted"),
        ({"status_cd": "R"}, "status:left_out", "status", "quarantined"),
        ({"registr_dt": "11/06/2024"}, "election:registered_after", "registered", "quarantined"),
        ({"birth_year": "2007"}, "age:under_18", "birth_year", "quarantined"),
        ({"ncid": ""}, "id:missing", "id", "quarantined"),
        (header(NC_VOTERS), "lines:repeated_header", None, "quarantined"),
        ('"92"\t"1"\r\n', "fields:too_few", None, "quarantined"),
        (line((*NC_VOTERS, "more"), NC_PERSON), "fields:too_many", None, "quarantined"),
        ('"92"\t"1', "file:cut", None, "quarantined"),
        ('"92\t"1"\t"\r\n', "quotes:broken", None, "quarantined"),
        ("\r\n", "lines:blank", None, "noted"),
        (line(NC_VOTERS, NC_PERSON | {"ncid": "AA2", "last_name": 'A"B'}), "quotes:stray", None, "noted"),
        (line(NC_VOTERS, NC_PERSON | {"ncid": "AA2", "last_name": "A\0B"}), "bytes:nul", None, "altered"),
        (line(NC_VOTERS, NC_PERSON | {"ncid": "AA2", "last_name": "A\rB"}), "bytes:carriage_return", None, "altered"),
        (line(NC_VOTERS, NC_PERSON | {"ncid": "AA2", "last_name": "É"}).encode("cp1252"), "encoding:cp1252", None, "altered"),
        (line(NC_VOTERS, NC_PERSON | {"ncid": "AA2"}).encode().replace(b"EXAMPLE", b"\x81"), "encoding:latin-1", None, "altered"),
    ],
)  # fmt: skip
def test_every_fault_is_counted_once_and_nowhere_else(raw, row, rule, column, action):
    row = {"ncid": "AA2"} | row if isinstance(row, dict) else row
    nc_voters(raw / "ncvoter92.txt", [{"ncid": "AA1"}, row])
    nc_history(raw / "ncvhis92.txt", [{"ncid": "AA1"}])
    result = clean(raw.parent)
    assert counts(result) == {(rule, column): 1}
    assert [count["action"] for count in result.dirt["counts"]] == [action]
    assert len(people(result)) == result.dirt["totals"]["voters"]["rows_out"]
    assert len(people(result)) == (2 if action != "quarantined" and rule != "lines:blank" else 1)


def test_missing_and_unseen_values_are_levels_of_their_own(raw):
    rows = [{"ncid": "AA1", "race_code": "Q"}, {"ncid": "AA2", "race_code": " "}, {"ncid": "AA3", "birth_year": "1900"}]
    nc_voters(
        raw / "ncvoter92.txt", [*rows, {"ncid": "AA4", "birth_year": "19##"}, {"ncid": "AA5", "birth_year": "1920"}]
    )
    nc_history(raw / "ncvhis92.txt", [{"ncid": "AA1"}])
    found = people(clean(raw.parent))
    assert [found[name]["race"] for name in ("AA1", "AA2", "AA3")] == ["(unseen)", "(missing)", "white"]
    assert [found[name]["age"] for name in ("AA3", "AA4", "AA5")] == ["(placeholder)", "(missing)", "90+"]


def test_of_one_id_the_row_registered_last_is_kept_and_the_others_counted_in_their_files(raw):
    nc_voters(raw / "ncvoter1.txt", [{"ncid": "AA1", "county_id": "1"}, {"ncid": "AA2", "county_id": "1"}])
    nc_voters(raw / "ncvoter92.txt", [{"ncid": "AA1", "registr_dt": "05/01/2023"}, {"ncid": "AA2", "status_cd": "R"}])
    nc_history(raw / "ncvhis.txt", [{"ncid": "AA1"}])
    result = clean(raw.parent)
    assert {name: row["county"] for name, row in people(result).items()} == {"AA1": "37183", "AA2": "37001"}
    assert [file["rows_quarantined"] for file in result.dirt["files"]] == [1, 1, 0]
    assert counts(result) == {("id:duplicate", "id"): 1, ("status:left_out", "status"): 1}


def test_history_counts_votes_of_the_election_once_a_person(raw):
    nc_voters(raw / "ncvoter92.txt", [{"ncid": "AA1"}, {"ncid": "AA2"}, {"ncid": "AA3", "status_cd": "R"}])
    votes = [{"ncid": "AA1"}, {"ncid": "AA1", "voting_method": "ABSENTEE BY MAIL"}, {"ncid": "AA2", "election_lbl": "11/08/2022"},
             {"ncid": "ZZ1"}, {"ncid": "AA3"}, {"ncid": ""}, {"ncid": "AA2", "election_lbl": "##"}]  # fmt: skip
    nc_history(raw / "ncvhis92.txt", votes)
    result = clean(raw.parent)
    assert counts(result, "history") == {
        ("history:repeated", "id"): 1, ("election:other", None): 1, ("id:unknown", "id"): 1, ("id:missing", "id"): 1,
        ("dates:malformed", "election"): 1,
    }  # fmt: skip
    assert result.dirt["totals"]["history"] == {"rows_in": 7, "rows_out": 2, "rows_quarantined": 5}
    assert {name: row["voted"] for name, row in people(result).items()} == {"AA1": 1, "AA2": 0}


@pytest.mark.parametrize("packed", ["plain", "gz", "zip"])
def test_archives_are_read_as_they_are(raw, packed, tmp_path):
    file = nc_voters(tmp_path / "ncvoter92.txt", [{"ncid": f"AA{i}"} for i in range(50)])
    if packed == "plain":
        file.rename(raw / "ncvoter92.txt")
    elif packed == "gz":
        (raw / "ncvoter92.txt.gz").write_bytes(gzip.compress(file.read_bytes()))
    else:
        with zipfile.ZipFile(raw / "ncvoter_Statewide.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(file, "folder/ncvoter_Statewide.txt")
            archive.writestr("readme.txt", "not a voter")
    result = clean(tmp_path, election=None, columns=("id", "race"))
    assert result.dirt["totals"]["voters"]["rows_out"] == 50
    assert len(result.dirt["ignored_files"]) == (1 if packed == "zip" else 0)


@pytest.mark.parametrize("packed", ["gz", "zip"])
def test_a_damaged_archive_is_an_error_not_a_shorter_file(raw, packed, tmp_path):
    data = nc_voters(tmp_path / "x.txt", [{"ncid": f"AA{i}", "last_name": str(i * i)} for i in range(500)]).read_bytes()
    if packed == "gz":
        (raw / "ncvoter92.txt.gz").write_bytes(gzip.compress(data)[:-400])
    else:
        with zipfile.ZipFile(raw / "ncvoter.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("ncvoter.txt", data)
        whole = bytearray((raw / "ncvoter.zip").read_bytes())
        whole[300:340] = bytes(40)
        (raw / "ncvoter.zip").write_bytes(whole)
    with pytest.raises(SourceError, match="damaged archive"):
        clean(tmp_path, election=None, columns=("id",))


@pytest.mark.parametrize("block_bytes", [64, 1000])
def test_blocks_may_end_anywhere(raw, monkeypatch, block_bytes):
    rows = [
        {"ncid": f"AA{i}", "last_name": "É\tB" if i % 7 == 0 else 'A"B' if i % 11 == 0 else "A"} for i in range(200)
    ]
    lines = [line(NC_VOTERS, NC_PERSON | row).encode("cp1252" if i % 2 else "utf-8") for i, row in enumerate(rows)]
    nc_voters(raw / "ncvoter92.txt", [*lines[:50], '"92"\t"1"\r\n', "\r\n", *lines[50:]])
    whole = clean(raw.parent, election=None, columns=("id", "race"))
    cleaned_rows.remove(str(raw.parent / "run"))
    monkeypatch.setattr("sharding.layouts.lines.BLOCK_BYTES", block_bytes)
    cut = clean(raw.parent, election=None, columns=("id", "race"))
    assert counts(cut) == counts(whole)
    assert people(cut) == people(whole)


def test_utf16_with_a_mark_is_read_by_any_layout(raw):
    nc_voters(raw / "ncvoter92.txt", [{"ncid": "AA1", "last_name": "É"}])
    (raw / "ncvoter92.txt").write_bytes((raw / "ncvoter92.txt").read_bytes().decode().encode("utf-16"))
    (raw / "vr_snapshot.txt").write_bytes((raw / "ncvoter92.txt").read_bytes().decode("utf-16").encode("utf-16-le"))
    for layout in ("nc", "nc-snapshot"):
        result = clean(raw.parent, layout, election=None, columns=("id", "race"))
        assert people(result) == {"AA1": {"id": "AA1", "race": "white"}}
        assert counts(result) == {}


def test_a_file_that_was_read_is_not_read_again_unless_it_or_the_layout_changed(raw, monkeypatch):
    nc_voters(raw / "ncvoter1.txt", [{"ncid": "AA1"}])
    nc_voters(raw / "ncvoter2.txt", [{"ncid": "AA2"}])
    clean(raw.parent, election=None, columns=("id", "race"))
    nc_voters(raw / "ncvoter2.txt", [{"ncid": "AA3"}])
    read = []
    original = cleaning.read
    monkeypatch.setattr(
        cleaning, "read", lambda request, file, target: read.append(file.url) or original(request, file, target)
    )
    second = clean(raw.parent, election=None, columns=("id", "race"))
    assert [Path(url).name for url in read] == ["ncvoter2.txt"]
    assert {*people(second)} == {"AA1", "AA3"}


def test_clean_files_are_private(raw):
    nc_voters(raw / "ncvoter1.txt", [{"ncid": "AA1"}])
    clean(raw.parent, election=None, columns=("id", "race"))
    made = [*(raw.parent / "run").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {0o700}


def test_a_column_that_is_not_there_is_an_error_that_says_which(raw):
    nc_voters(raw / "ncvoter1.txt", [{"ncid": "AA1"}])
    with pytest.raises(ContractError, match="no field 'nc_senate_abbrv'"):
        clean(raw.parent, election=None, columns=("senate_district",))


def test_a_field_that_the_layout_does_not_describe_is_text(raw):
    nc_voters(raw / "ncvoter1.txt", [{"ncid": "AA1", "gender_code": "07"}])
    result = clean(raw.parent, election=None, columns=("id", "gender_code"))
    assert people(result)["AA1"]["gender_code"] == "07"


def test_no_history_for_the_election_is_an_error(raw):
    nc_voters(raw / "ncvoter1.txt", [{"ncid": "AA1"}])
    with pytest.raises(SourceError, match="no file of the history"):
        clean(raw.parent)


def test_a_file_named_outright_must_have_a_role(raw):
    file = nc_voters(raw / "people.txt", [{"ncid": "AA1"}])
    with pytest.raises(SourceError, match="a name that no file of the layout"):
        layouts.clean(layouts.load("nc"), [str(file)], str(raw.parent / "run"), columns=("id",))


def test_every_layout_that_comes_with_caucus_is_valid():
    assert {layouts.load(name).name for name in layouts.names()} == {*layouts.names()}
    assert len(layouts.names()) >= 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: nc\nname: mine\npeeple: {}\n", "peeple"),
        ("extends: nc\nname: mine\npeople: {id: nobody}\n", "not one of `columns`"),
        ("extends: nc\nname: mine\nvoters: {encodings: [klingon]}\n", "not known to Python"),
        ("extends: nc\nname: mine\nvoters: {header: false}\n", "needs `fields`"),
        ("extends: nc\nname: mine\ncolumns: {race: {codes: {1: white}}}\n", "quote it in YAML"),
        ("extends: nc\nname: mine\ncolumns: {age: {of: race}}\n", "not a column of type date or year"),
        ("a: &a [1]\nb: [*a, *a]\n", "not plain YAML"),
        ("name: [\n", r"not plain YAML \(line 2\)"),
        ("- 1\n", "no mapping"),
        ("extends: mine.yaml\n", "leads back"),
    ],
)
def test_a_layout_of_ones_own_is_checked(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(LayoutError, match=message):
        layouts.load(str(tmp_path / "mine.yaml"))


def test_a_layout_of_ones_own_extends_another(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: nc\nname: mine\ncolumns: {race: {codes: {Z: other}}}\n")
    codes = layouts.load(str(tmp_path / "mine.yaml")).columns["race"].codes
    assert codes is not None
    assert (codes["W"], codes["Z"]) == ("white", "other")


def test_an_unknown_layout_names_those_there_are():
    with pytest.raises(LayoutError, match="nc-snapshot"):
        layouts.load("nz")


@pytest.mark.parametrize("name", layouts.names())
def test_a_layout_is_told_in_words(name):
    told = explain.explain(layouts.load(name))
    assert told[0].startswith(f"{name}: ")
    assert len(told) > 5 + len(layouts.load(name).columns)
    assert len(explain.listing()) == len(layouts.names())
