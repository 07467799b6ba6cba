"""The dirt report, as a page and as a section: what was counted, what it means, what to do."""

import copy
import json
import re

import pytest

from reporting import dirt, report
from reporting.errors import RunDirectoryError

DIRT = {
    "schema_version": 1, "layout": "fl", "layout_sha256": "0", "election": "2024-11-05",
    "totals": {"voters": {"rows_in": 1000, "rows_out": 970, "rows_quarantined": 30},
               "history": {"rows_in": 500, "rows_out": 400, "rows_quarantined": 100}},
    "files": [
        {"file": "in/ALA_1.txt", "role": "voters", "encodings": ["utf-8", "cp1252"], "rows_in": 600, "rows_out": 595, "rows_quarantined": 5},
        {"file": "in/<b>.zip!BAK_1.txt", "role": "voters", "encodings": ["utf-8"], "rows_in": 400, "rows_out": 375, "rows_quarantined": 25},
        {"file": "in/ALA_H_1.txt", "role": "history", "encodings": [], "rows_in": 500, "rows_out": 400, "rows_quarantined": 100},
    ],
    "counts": [
        {"file": "in/ALA_1.txt", "role": "voters", "rule": "fields:too_few", "column": None, "source": None, "action": "quarantined", "count": 5},
        {"file": "in/<b>.zip!BAK_1.txt", "role": "voters", "rule": "fields:too_few", "column": None, "source": None, "action": "quarantined",
         "count": 25},
        {"file": "in/ALA_1.txt", "role": "voters", "rule": "code:unseen", "column": "race", "source": "Race", "action": "altered", "count": 3},
        {"file": "in/ALA_H_1.txt", "role": "history", "rule": "election:other", "column": None, "source": None, "action": "quarantined",
         "count": 100},
    ],
    "ignored_files": ["in/readme.pdf"],
    "rules": {"fields:too_few": "Fewer fields than columns.", "code:unseen": "Code that the layout does not know.", "election:other": "Other."},
}  # fmt: skip


def test_counts_add_up_over_files_and_say_what_to_do():
    found = dirt.summarise(DIRT, "dirt.json")
    assert found.rules["voters"] == [
        ["fields:too_few", "–", "left out", "30", "3.00%", "Fewer fields than columns.", dirt._ADVICE["fields:too_few"]],
        ["code:unseen", "Race", "changed", "3", "0.30%", "Code that the layout does not know.", dirt._ADVICE["code:unseen"]],
    ]
    assert found.notable == [f"fields:too_few: 3.0% of the rows of voters. {dirt._ADVICE['fields:too_few']}"]
    assert [row[0] for row in found.files] == ["in/ALA_H_1.txt", "in/<b>.zip!BAK_1.txt", "in/ALA_1.txt"]
    assert found.files[2][2:] == ["utf-8, cp1252", "600", "595", "5", "3", "fields:too_few"]


def test_page_opens_offline_and_escapes_names_of_files():
    page = dirt.render(dirt.summarise(DIRT, "dirt.json"))
    assert "Voters: 1,000 rows = 970 kept + 30 left out: every row is accounted for." in page
    assert "&lt;b&gt;.zip!BAK_1.txt" in page
    assert "in/readme.pdf" in page
    assert not re.search(r"<script|https?://|<link|<b>\.zip", page)


def test_rows_that_do_not_add_up_are_told():
    broken = copy.deepcopy(DIRT)
    broken["totals"]["voters"]["rows_out"] = 969
    assert "this does not add up" in dirt.render(dirt.summarise(broken, "dirt.json"))


def test_section_of_the_report_and_none_without_dirt(fake_run):
    path = fake_run(states=["AL", "CA"]).write()
    assert "Raw files" not in report.build(path).read_text()
    assert dirt.read(path) is None
    (path / "dirt.json").write_text(json.dumps(DIRT))
    page = report.build(path).read_text()
    assert "<h3>Raw files</h3>" in page
    assert "Read by the layout <code>fl</code>" in page


@pytest.mark.parametrize("damage", ["{}", "[]", '{"schema_version": 2}', "not json", '{"schema_version": 1, "totals": []}'])
def test_a_damaged_file_is_an_error_that_names_it(damage, tmp_path):
    (tmp_path / "dirt.json").write_text(damage)
    with pytest.raises(RunDirectoryError, match=r"dirt\.json"):
        dirt.read(tmp_path)
