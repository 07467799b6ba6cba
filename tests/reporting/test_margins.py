"""Margins by name, and their files: every name is read back, and no two margins share a file."""

import itertools

import pytest

from reporting import margins

NAMES = ["state", "home state", "state-county", "zip:4", "a/b", "%2D", "calibration", ".hidden", "Größe", "x" * 40, "a\\b", "all-"]


@pytest.mark.parametrize("columns", [(), *itertools.permutations(NAMES, 1), *itertools.permutations(NAMES, 2)])
def test_names_and_files_are_read_back(columns):
    name = margins.name(columns)
    assert margins.columns(name) == columns
    assert margins.of_file(margins.file(name)) == name


def test_no_two_margins_share_a_file_and_none_leaves_its_folder():
    found = [margins.file(margins.name(c)) for n in (0, 1, 2) for c in itertools.permutations(NAMES, n)]
    assert len(set(found)) == len(found)
    assert "calibration.parquet" not in found
    assert not any("/" in file or "\\" in file or file.startswith(".") for file in found)


@pytest.mark.parametrize(
    ("name", "columns"),
    [("state/county", ("state", "county")), (" race : home state ", ("race", "home state")), ("`zip:4`:race", ("zip:4", "race"))],
)
def test_blanks_around_a_name_are_not_part_of_it(name, columns):
    assert margins.columns(name) == columns


@pytest.mark.parametrize("name", ["", "a:", ":a", "a::b", "a:a", "`a", "``"])
def test_what_is_no_margin_is_refused(name):
    with pytest.raises(ValueError, match=r"margin|twice"):
        margins.columns(name)


def test_usual_files_have_plain_names():
    assert [margins.file(n) for n in ("all", "state", "state:county")] == ["all.parquet", "state.parquet", "state-county.parquet"]


def test_own_columns_of_estimates():
    assert all(map(margins.is_own, ["mean", "sd", "q05", "q02.5", "num_rows"]))
    assert not any(map(margins.is_own, ["quarter", "q", "means", "qa1"]))
