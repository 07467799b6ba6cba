"""Who is in the numbers, in words; and what the head of the report says of computation, data and model."""

from typing import Any

import pytest

from reporting import people, report
from reporting.run_directory import read
from reporting.verdict import judge

EVERYBODY: dict[str, Any] = {
    "frame": "file", "people": 1000, "counted": 1000, "left_out": {}, "fitted": 300,
    "files": {"people": 1000, "outcomes": 300, "left_out": []}, "missing": [], "new": [], "combinations": [], "outside": [],
}  # fmt: skip
LOST = [{"reason": "age:missing", "declared": True, "people": 900, "outcomes": 30}]
SOME = EVERYBODY | {
    "counted": 100, "left_out": {"age:missing": 900}, "fitted": 270,
    "files": {"people": 1000, "outcomes": 300, "left_out": LOST},
}  # fmt: skip
OF_FRAME = EVERYBODY | {
    "frame": "f.csv", "people": 50.5, "counted": 50.5, "files": SOME["files"], "fitted": 270,
    "missing": [{"column": "age", "people": 5.0}, {"column": "race", "people": 10.1}],
    "new": [{"column": "age", "levels": ["x", "(missing)"], "num_levels": 2, "people": 10.0}],
    "combinations": [{"columns": ["state", "county"], "people": 1.0, "contradicts": True}],
    "outside": [{"of": "frame", "column": "share", "people": 50.5, "squeezed": True, "minimum": 3.0, "maximum": 97.0,
                 "found_minimum": 0.1, "found_maximum": 0.9, "shift": -2.9, "spread": 0.01}],
}  # fmt: skip


def test_everybody_is_everybody():
    assert people.told(EVERYBODY) == people.People("Everybody", [])


def test_nobody_is_called_everybody_where_people_were_left_out():
    who = people.told(SOME)
    assert who.title == "100 of 1,000 people"
    assert who.lines == [
        "left out of the estimates: 900 of 1,000 (90.0%) people: age:missing 900",
        "known outcomes that were not fitted: 30 of 300 (10.0%): age:missing 30",
    ]
    assert people.told(None).title != "Everybody"


def test_people_of_a_frame_of_whom_the_data_say_little():
    who = people.told(OF_FRAME)
    assert who.title == "All 50.5 people of the frame"
    said = "\n".join(who.lines)
    assert "rows left out of the fit: 900 of 1,000" in said
    assert "without a value in race: 10.1 of 50.5 (20.0%) people" in said
    assert "without a value in age" not in said, "it is one of the new levels"
    assert "levels of age that the data did not have (x, (missing)): 10 of 50.5 (19.8%)" in said
    assert "combinations of state and county that contradict the data: 1 of 50.5" in said
    assert "share outside of what was fitted, or in other units: 50.5 of 50.5 (100.0%) people (from 0.1 to 0.9, fitted 3 to 97)" in said


def audit(**changes: Any) -> dict[str, Any]:
    return {"verdict": "pass", "gates": [], "population": EVERYBODY} | changes


GATE = {"name": "rows", "value": 0.9, "warn_above": 0.05, "fail_above": 0.5, "where": "age:missing", "meaning": "share", "do": "mend"}
PPC = {"state": {
    "num_groups": 51, "p_value": {"num_outside": 3, "chance": 0.4, "worst": "OH", "worst_p": 0.01},
    "p_discrepancy": {"num_outside": 1, "chance": 0.7, "worst": "WY", "worst_p": 0.02},
}}  # fmt: skip
OFF = {"state": PPC["state"] | {"p_value": {"num_outside": 20, "chance": 1e-9, "worst": "OH", "worst_p": 0.0}}}


@pytest.mark.parametrize(
    ("changes", "checks", "statuses"),
    [
        ({}, None, ("pass", "pass", "unchecked")),
        ({}, {"ppc": PPC}, ("pass", "pass", "pass")),
        ({}, {"ppc": OFF}, ("pass", "pass", "warn")),
        ({}, {"ppc": None}, ("pass", "pass", "unchecked")),
        ({"verdict": "warn", "gates": [GATE | {"status": "warn", "about": "data"}]}, None, ("pass", "warn", "unchecked")),
        ({"verdict": "fail", "gates": [GATE | {"status": "fail"}]}, None, ("fail", "pass", "unchecked")),
        ({"verdict": "warn", "gates": [GATE | {"status": "warn", "about": "model"}]}, {"ppc": PPC}, ("pass", "pass", "warn")),
        ({"verdict": "warn", "messages": [{"severity": "warn", "where": "x", "what": "y", "do": "z"}]}, None, ("warn", "pass", "unchecked")),
        ({"verdict": "warn", "messages": [{"severity": "warn", "about": "model", "where": "x", "what": "y", "do": "z"}]}, {"ppc": PPC},
         ("pass", "pass", "warn")),
        ({"population": None}, None, ("pass", "unchecked", "unchecked")),
    ],
)  # fmt: skip
def test_computation_data_and_model_are_told_apart(changes: dict[str, Any], checks: dict[str, Any] | None, statuses: tuple[str, ...]):
    verdict = judge(audit(**changes), 300, checks)
    assert tuple(aspect.status for aspect in verdict.aspects) == statuses
    assert ("ready" in verdict.headline.lower()) is False
    if statuses == ("pass", "pass", "unchecked"):
        assert "not checked yet" in verdict.headline


def test_the_first_tile_says_whom_it_is_of_and_who_is_not_in_it(fake_run):
    run = fake_run(counties=1)
    path = run.write()
    run.json("audit.json", run.audit() | {"population": SOME})
    text = report.build(path).read_text()
    assert "Everybody" not in text
    first = text[text.index("tiles headline") :]
    assert first.index("100 of 1,000 people") < first.index("Raw mean")
    assert first.index("left out of the estimates: 900 of 1,000") < first.index("Raw mean")
    run.json("audit.json", run.audit() | {"population": EVERYBODY})
    assert "Everybody" in report.build(path).read_text()


def test_conflicts_of_prior_and_data_are_no_thing_to_do(fake_run):
    run = fake_run(counties=1, verdict="warn")
    path = run.write()
    text = report.build(path).read_text()
    todo, rest = text.split('<section id="estimates">')
    assert "prior-data conflict" not in todo
    assert "prior-data conflict" in rest


def test_checks_of_an_earlier_posterior_are_not_told(fake_run):
    run = fake_run(counties=1)
    path = run.write()
    (path / "checks").mkdir()
    run.json("checks/checks.json", {"posterior_sha256": "a", "ppc": PPC})
    manifest = run.manifest()
    for sha256, is_told in (("a", True), ("b", False)):
        manifest["stages"]["merge"]["files"] = {"posterior.nc": sha256}
        run.json("manifest.json", manifest)
        assert (read(path).checks is not None) == is_told


def test_shares_are_what_the_manifest_says(fake_run):
    run = fake_run(counties=1)
    path = run.write()
    run.json("manifest.json", run.manifest() | {"is_share": False})
    assert "Expected mean of" in report.build(path).read_text()
