"""The report: verdict first, nothing from outside, nothing that a level's name can break, parts may be missing."""

import json
import re
from html.parser import HTMLParser

import pytest

from reporting import report, sections
from reporting.errors import RunDirectoryError, TableError
from reporting.run_directory import read
from reporting.tables import read_table, to_parquet
from reporting.verdict import judge, worst_score

HOSTILE = '<script>alert(1)</script>"onload="x\'{{ 7*7 }}$\\frac$&amp;https://evil.example/x.png'
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = set(), [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(path):
    return Page(report.build(path).read_text())


def outside_references(text):
    page = Page(text)
    found = [value for name, value in page.attributes
             if (name in ("src", "href", "xlink:href", "srcset", "action", "data") and not value.startswith("#"))
             or name.startswith("on")]
    found += sorted(page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"})
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.S)) + "".join(
        value for name, value in page.attributes if name == "style")
    return found + re.findall(r"url\(|@import|https?:", style)


def test_a_nation_is_one_small_offline_file(fake_run):
    path = fake_run(counties=61).write()
    target = report.build(path)
    text = target.read_text()
    assert target == path / "report.html"
    assert len(text) < 3_000_000
    assert outside_references(text) == []
    assert [item.name for item in path.iterdir() if item.name.startswith(".")] == []
    page = Page(text)
    assert page.tags >= {"svg", "table", "details"}
    for section in ("Estimates", "Effects", "Scales", "Calibration", "Audit", "Data", "What was run"):
        assert section in page.text
    assert page.text.index("Pass: Computed as asked; whether the model fits is not checked yet") < page.text.index("Estimates")
    assert "3,111 groups: the 15 highest and the 15 lowest are shown" in page.text
    assert report.build(path).read_text() == text


def test_the_offline_check_can_fail():
    assert outside_references('<img src="https://x.example/a.png">') == ["https://x.example/a.png", "img"]
    assert outside_references('<p style="background:url(x)" onclick="y">a</p>') == ["y", "url("]


def test_hostile_names_are_text(fake_run):
    run = fake_run(counties=1, states=["OH", HOSTILE], verdict="warn")
    path = run.write()
    manifest = run.manifest() | {"versions": {HOSTILE: HOSTILE}, "priors": {HOSTILE: HOSTILE}}
    run.json("manifest.json", manifest)
    run.json("audit.json", run.audit() | {
        "messages": [{"severity": "warning", "where": HOSTILE, "what": f"`{HOSTILE}`", "do": HOSTILE}],
        "levels": [{"term": HOSTILE, "level": HOSTILE, "issue": HOSTILE}]})
    text = report.build(path).read_text()
    assert outside_references(text) == []
    assert "<script" not in text
    assert "49$" not in text
    assert HOSTILE in Page(text).text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("pass", ["Pass: Computed as asked; whether the model fits is not checked yet", "Computation: pass.", "agrees with it", "0.04 posterior sds off", "too little to matter"]),
        ("warn", ["Warn: Usable with care", "warns about score", "0.19 posterior sds off", "What to do", "fit.rounds=20"]),
        ("fail", ["Fail: Do not use these numbers yet", "the audit fails on score", "1.7 sds, limit 0.3", "not for use"]),
    ],
)
def test_the_verdict_is_in_plain_words(fake_run, verdict, words):
    text = page_of(fake_run(counties=1, verdict=verdict).write()).text
    for word in words:
        assert word in text
    assert ("audit failed: not for use" in text) == (verdict == "fail")


def test_actions_are_worst_first_and_say_where_how_far_and_what_to_do():
    audit = {
        "verdict": "fail",
        "gates": [{"name": "score", "value": 0.5, "warn_above": 0.1, "fail_above": 0.3, "status": "fail",
                   "where": "1|state[OH]", "meaning": "error in sds", "do": "Run more rounds."},
                  {"name": "k_hat", "value": 0.1, "warn_above": 0.5, "fail_above": 0.7, "status": "pass"}],
        "shards": [{"shard_id": "wi-03", "status": "warn", "score": 0.01, "heterogeneity": {"p_adjusted": 0.0004}},
                   {"shard_id": "oh", "status": "warn", "score": 0.2, "score_where": "1|race[black]", "log_ratio_sd": 0.6}],
        "levels": [{"term": "1|race", "level": level, "issue": "no_trials"} for level in ("a", "b", "c", "d", "other")],
        "prior_sensitivity": [{"parameter": "sigma", "prior": 0.01, "likelihood": 0.2, "flag": "-"}],
        "messages": [{"severity": "error", "where": "shard oh", "what": "did not converge", "do": "Look."},
                     {"severity": "warn", "where": "shard wi-03", "what": "tells another story", "do": "Look."},
                     {"severity": "fail", "where": "1|state[OH]", "what": "error in sds: 0.5", "do": "Run more rounds."}],
    }
    actions = judge(audit, 10).actions
    assert [action.severity for action in actions] == ["fail", "fail", "warn", "warn", "info"]
    assert [a.where for a in actions if a.what == "5 levels with no known outcome"] == ["1|race"]
    assert (actions[0].where, actions[0].level, actions[0].size) == ("1|state", "OH", "0.5 sds, limit 0.3")
    assert actions[0].do == "Run more rounds."
    assert {action.where for action in actions} >= {"shard wi-03", "shard oh", "1|race"}
    assert all(action.do for action in actions)
    assert worst_score(audit) == (0.5, "1|state[OH]")


def test_an_unknown_verdict_is_a_failure():
    assert judge({"verdict": "splendid"}, None).status == "fail"
    assert judge({}, None).status == "fail"


@pytest.mark.parametrize("missing", ["posterior.nc", "summary.parquet", "estimates", "shards", "truth", "dictionary.json",
                                     "estimates/calibration.parquet"])
def test_missing_optional_parts_are_left_out(fake_run, missing):
    path = fake_run(counties=1).write()
    gone = path / missing
    if gone.is_dir():
        for file in gone.iterdir():
            file.unlink()
        gone.rmdir()
    else:
        gone.unlink()
    text = page_of(path).text
    assert ("Calibration" in text) == (not missing.startswith("estimates"))
    assert ("Truth of the simulation" in text) == (missing not in ("truth", "estimates"))
    assert ("From file to cells" in text) == (missing != "shards")


def test_only_three_files_are_needed(fake_run):
    run = fake_run(counties=1)
    run.path.mkdir()
    (run.path / "run.yaml").write_text("name: bare\n")
    run.json("manifest.json", {})
    run.json("audit.json", {"verdict": "pass"})
    assert "Pass: Computed as asked" in page_of(run.path).text
    assert "Ready to use" not in page_of(run.path).text
    for name in ("run.yaml", "manifest.json", "audit.json"):
        content = (run.path / name).read_text()
        for broken in (None, "[1, 2", "[1, 2]"):
            (run.path / name).unlink(missing_ok=True) if broken is None else (run.path / name).write_text(broken)
            with pytest.raises(RunDirectoryError, match=re.escape(name)):
                report.build(run.path)
        (run.path / name).write_text(content)


def test_a_table_without_its_columns_is_named(fake_run):
    path = fake_run(counties=1).write()
    table = read_table(path / "estimates" / "state.parquet")
    (path / "estimates" / "state.parquet").write_bytes(to_parquet(table.drop_columns(["raw_mean"])))
    with pytest.raises(TableError, match=r"estimates/state.*raw_mean"):
        report.build(path)


def test_rows_that_do_not_add_up_are_said_so(fake_run):
    run = fake_run(counties=1)
    path = run.write()
    assert "every row is accounted for" in page_of(path).text
    manifest = json.loads((path / "shards/manifest.json").read_text())
    manifest["totals"]["rows_in_cells"] -= 1
    run.json("shards/manifest.json", manifest)
    assert "this does not add up" in page_of(path).text


def test_the_report_of_a_run_says_first_that_it_is_private(fake_run):
    run = fake_run(counties=1, states=["OH", "PA", "WY", "VT"])
    run.num_rows[:] = [5000, 4000, 7, 60]
    [margin] = [m for m in sections.margins(read(run.write())) if m.name == "state"]
    assert {row[0]: row[1] for row in margin.rows}["WY"] == "7"
    text = page_of(run.path).text
    assert text.index("Private: not to be passed on.") < text.index("Outcome")
    assert "caucus publish RUN --to FOLDER" in text
