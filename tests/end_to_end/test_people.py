"""Nobody vanishes: rows of totals are people, frames are those of the data, later files are in their units, and it is said."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line

MODEL = "model: {formula: 'FORMULA', family: FAMILY}\nfit: {draws: 100, min_ess: 100}\naudit: {draws: 100}\n"
HEAD = "name: small\nrun: {directory: run, executor: serial}\n"


def caucus(folder: Path, columns: dict[str, Any] | None, formula: str, family: str, *more: str, **sections: str) -> line.Said:
    """Write ``d.parquet`` and a config in ``folder``, and run it."""
    folder.mkdir(exist_ok=True)
    if columns is not None:
        pq.write_table(pa.table(columns), folder / "d.parquet")
    data = sections.pop("data", "outcome: y")
    text = HEAD + f"data: {{source: d.parquet, terms_of_use: made up, {data}}}\n"
    text += MODEL.replace("FORMULA", formula).replace("FAMILY", family)
    text += "".join(f"{name}: {{{content}}}\n" for name, content in sections.items())
    (folder / "run.yaml").write_text(text)
    return line.caucus("run", folder / "run.yaml", *more)


def table(folder: Path, name: str) -> dict[str, list[Any]]:
    return pq.read_table(folder / "run" / "estimates" / f"{name}.parquet").to_pydict()


def audit(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "audit.json").read_text())


def totals(seed: int) -> dict[str, np.ndarray]:
    """Wards of very different sizes; of one the result is not known, and one has nobody."""
    rng = np.random.default_rng(seed)
    trials = np.array([900, 3, 40, 7, 200, 0, 11, 60])
    return {"g": np.array(list("aabbccdd")), "s": rng.binomial(trials, 0.3), "m": trials, "unknown": np.arange(8) == 4}


def test_a_row_of_totals_is_as_many_people_as_rows_of_people(tmp_path: Path):
    rows = totals(3)
    people = np.repeat(np.arange(8), rows["m"])
    did = np.concatenate([np.arange(m) < s for m, s in zip(rows["m"], rows["s"], strict=True)]).astype(int)
    one_by_one = {"g": rows["g"][people], "y": pa.array(did, mask=rows["unknown"][people])}
    together = {"g": rows["g"], "s": pa.array(rows["s"], mask=rows["unknown"]), "m": rows["m"]}
    same = {"poststratify": "by: [all, g]"}
    assert caucus(tmp_path / "a", one_by_one, "y ~ 1 + (1 | g)", "bernoulli", **same).code == 0
    said = caucus(
        tmp_path / "b", together, "outcome ~ 1 + (1 | g)", "binomial", data="outcome: {successes: s, trials: m}", **same
    )  # fmt: skip
    assert said.code == 0, said
    for name in ("all", "g", "calibration"):
        a, b = table(tmp_path / "a", name), table(tmp_path / "b", name)
        assert a == b, name
    assert table(tmp_path / "b", "all")["num_rows"] == [int(rows["m"].sum())]
    assert audit(tmp_path / "b")["population"]["people"] == rows["m"].sum()
    a, b = (audit(tmp_path / name) for name in "ab")
    assert [shard["num_rows"] for shard in a["shards"]] == [shard["num_rows"] for shard in b["shards"]]


def test_totals_of_a_beta_binomial_are_people_too(tmp_path: Path):
    rows = totals(4)
    columns = {"g": np.tile(rows["g"], 4), "s": np.tile(rows["s"], 4), "m": np.tile(rows["m"], 4)}
    said = caucus(
        tmp_path, columns, "outcome ~ 1 + (1 | g)", "beta_binomial", data="outcome: {successes: s, trials: m}", poststratify="by: [all, g]"
    )  # fmt: skip
    assert said.code in (0, 3), said
    (everybody,) = (dict(zip(found, row, strict=True)) for found in [table(tmp_path, "all")] for row in zip(*found.values(), strict=True))
    assert everybody["num_rows"] == everybody["num_trials"] == columns["m"].sum()
    assert everybody["raw_mean"] == pytest.approx(columns["s"].sum() / columns["m"].sum())
    groups = table(tmp_path, "g")
    assert everybody["mean"] == pytest.approx(np.average(groups["mean"], weights=groups["num_rows"]))


def test_rows_without_trials_are_counted_or_refused(tmp_path: Path):
    columns = {"g": list("aabb"), "s": [1, 2, 3, None], "m": [5, 6, None, None]}
    outcome = "outcome: {successes: s, trials: m}"
    said = caucus(tmp_path, columns, "outcome ~ 1 + (1 | g)", "binomial", data=outcome)
    assert said.code == 2
    assert "2 row(s) trials:missing" in said.message
    assert "how many people" in said.message
    declared = outcome + ", columns: {trials: {missing: quarantine}, g: {levels: [a, b]}}"
    said = caucus(tmp_path, columns, "outcome ~ 1 + (1 | g)", "binomial", data=declared)
    assert said.code in (0, 3), said
    assert audit(tmp_path)["population"]["files"]["people"] == 11


def survey(seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    area, urban = rng.choice([2, 10, 33], 600), rng.random(600) < 0.4
    share = np.round(rng.normal(50, 10, 600), 1)
    y = rng.random(600) < 1 / (1 + np.exp(0.5 - 0.04 * (share - 50) - 0.5 * urban - 0.3 * (area == 33)))
    return {"area": area, "urban": urban, "share": share, "y": y.astype(int)}


FORMULA = "y ~ 1 + share + (1 | area) + (1 | urban)"
FRAME = {"area": [2, 10, 33, 33], "urban": [True, False, True, False], "share": [40.0, 50.0, 60.0, 55.0], "n": [1.0, 20.0, 30.0, 0.5]}
OWN = "by: [all, urban], frame: f.parquet, count: n"


def framed(folder: Path, frame: dict[str, Any], *more: str, poststratify: str = OWN) -> line.Said:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(frame), folder / "f.parquet")
    return caucus(folder, survey(), FORMULA, "bernoulli", *more, poststratify=poststratify)


def test_a_frame_of_the_same_people_in_other_types_gives_the_same_estimates(tmp_path: Path):
    other = {"area": [2.0, 10.0, 33.0, 33.0], "urban": ["TRUE", "False ", "true", "FALSE"], "share": pa.array(FRAME["share"], pa.float32())}
    for name, frame in {"a": FRAME, "b": FRAME | other}.items():
        said = framed(tmp_path / name, frame)
        assert said.code == 0, said
        assert "people:" not in said.out
    for name in ("all", "urban"):
        assert table(tmp_path / "a", name) == table(tmp_path / "b", name)


def test_people_of_a_frame_that_the_data_did_not_have_are_in_it_and_are_told(tmp_path: Path):
    more = {"area": [2.0, None, 99.0, 33.0], "urban": ["true", "false", None, "false"]}
    said = framed(tmp_path, FRAME | more)
    assert said.code == 0, said
    assert "verdict: warn" in said.out
    assert "levels of area that the data did not have (99, (missing)): 50 of 51.5 (97.1%)" in said.out
    assert "levels of urban that the data did not have ((missing)): 30 of 51.5" in said.out
    found = table(tmp_path, "urban")
    assert dict(zip(found["urban"], found["num_rows"], strict=True)) == {"false": 20, "true": 1, "(missing)": 30}
    by_name = dict(zip(found["urban"], found["sd"], strict=True))
    assert by_name["(missing)"] > by_name["true"], "two effects of these people are drawn"
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Everybody" not in report
    assert "levels of area that the data did not have (99, (missing))" in report
    left = line.caucus("run", tmp_path / "run.yaml", "--set", "poststratify.missing=leave_out")
    assert "people: 1.5 of 51.5 people" in left.out
    assert left.redone == ["audit", "poststratify", "report"], "no shard is fitted again"
    assert "1.5 of 51.5 people" in (tmp_path / "run" / "report.html").read_text()


def test_a_frame_that_cannot_be_right_ends_the_run_before_the_fit(tmp_path: Path):
    said = framed(tmp_path, FRAME | {"area": ["A2", "A10", "A33", "A33"]})
    assert said.code == 2
    assert "in any row" in said.message
    assert said.redone == ["ingest"]
    assert framed(tmp_path, FRAME).code == 0
    framed_again = framed(tmp_path, FRAME | {"area": ["A2", "A10", "A33", "A33"]})
    assert framed_again.code == 2
    assert not (tmp_path / "run" / "estimates").exists(), "estimates of another frame are not left lying"


def test_a_frame_in_other_units_is_told(tmp_path: Path):
    said = framed(tmp_path, FRAME | {"share": [0.40, 0.50, 0.60, 0.55]})
    assert said.code == 0, said
    assert "verdict: warn" in said.out
    assert "share outside of what was fitted, or in other units: 51.5 of 51.5 (100.0%)" in said.out


def test_rows_that_were_left_out_are_told_first(tmp_path: Path):
    columns = survey()
    share = [None if i % 10 else x for i, x in enumerate(columns["share"])]
    said = caucus(
        tmp_path, columns | {"share": share}, FORMULA, "bernoulli", data="outcome: y, columns: {share: {missing: quarantine}}"
    )  # fmt: skip
    assert said.code == 0, said
    assert "people: 60 of 600 people" in said.out
    assert "known outcomes that were not fitted: 540 of 600 (90.0%): share:missing 540" in said.out
    report = (tmp_path / "run" / "report.html").read_text()
    assert "60 of 600 people" in report
    assert "Everybody" not in report
    again = line.caucus("run", tmp_path / "run.yaml")
    assert "people: 60 of 600 people" in again.out, "told again where nothing is redone"


def test_weights_of_0_without_a_word_do_not_pass(tmp_path: Path):
    columns = survey() | {"w": [0.0 if i % 8 == 0 else 1.0 for i in range(600)]}
    said = caucus(tmp_path, columns, FORMULA, "bernoulli", data="outcome: y, weight: w")
    assert said.code == 0, said
    assert "verdict: warn" in said.out
    assert "weight:not_positive 75" in said.out
    (gate,) = [gate for gate in audit(tmp_path)["gates"] if gate["name"] == "rows"]
    assert (gate["status"], gate["about"], gate["value"]) == ("warn", "data", 0.125)
    declared = "outcome: y, weight: w, columns: {w: {unexpected: quarantine}}"
    assert "verdict: pass" in caucus(tmp_path / "declared", columns, FORMULA, "bernoulli", data=declared).out


def test_later_files_are_in_the_units_of_the_first(tmp_path: Path):
    (tmp_path / "d").mkdir()
    columns = survey() | {"female": np.arange(600) % 2}
    pq.write_table(pa.table(columns), tmp_path / "d" / "0.parquet")
    formula = FORMULA.replace("share", "share + female")
    said = caucus(tmp_path, None, formula, "bernoulli", "--set", "data.source=d/*.parquet")
    assert said.code == 0, said
    update = ("update", tmp_path / "run.yaml", "--set", "data.source=d/*.parquet")
    pq.write_table(pa.table({name: values[:60] for name, values in columns.items()} | {"female": [1, 2] * 30}), tmp_path / "d" / "1.parquet")
    refused = line.caucus(*update)
    assert refused.code == 2
    assert "data.columns.female: found 30 row(s) with other numbers than 0 and 1 (the column goes from 0 to 2)" in refused.message
    other_units = {name: values[:60] for name, values in columns.items()} | {"share": columns["share"][:60] / 100}
    pq.write_table(pa.table(other_units), tmp_path / "d" / "1.parquet")
    said = line.caucus(*update)
    assert said.code == 0, said
    assert "share outside of what was fitted, or in other units: 60 of 660 (9.1%) people" in said.out
    assert "verdict: warn" in said.out
    assert "  warn (data): share from 0." in said.out, "and why"


def test_margins_called_alike_have_estimates_of_their_own(tmp_path: Path):
    rng = np.random.default_rng(2)
    columns = survey() | {"urban-area": rng.choice(["x", "y"], 600), "home state": rng.choice(["p", "q"], 600), "z:4": rng.choice(["u", "v"], 600)}
    said = caucus(
        tmp_path, columns, FORMULA, "bernoulli",
        poststratify="by: [all, 'urban:area', urban-area, home state, '`z:4`', '`z:4`:home state']",
    )  # fmt: skip
    assert said.code == 0, said
    assert set(table(tmp_path, "urban-area")) >= {"urban", "area"}
    assert set(table(tmp_path, "urban%2Darea")["urban-area"]) == {"x", "y"}
    assert set(table(tmp_path, "home state")["home state"]) == {"p", "q"}
    assert len(table(tmp_path, "z%3A4-home state")["mean"]) == 4
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(f"By {name}" in report for name in ("urban × area", "urban-area", "home state", "z:4", "z:4 × home state"))
    checked = line.caucus("check", tmp_path / "run.yaml")
    assert checked.code == 0, checked
    assert "home state" in checked.out
    assert "<b>Model: pass.</b>" in (tmp_path / "run" / "report.html").read_text()
    assert line.caucus("run", tmp_path / "run.yaml").redone == []


@pytest.mark.parametrize("family", ["categorical", "beta_binomial"])
def test_every_share_is_a_percentage(family: str, tmp_path: Path):
    rng = np.random.default_rng(5)
    columns: dict[str, Any] = {"g": rng.choice(list("abc"), 300)}
    if family == "categorical":
        columns |= {"y": rng.choice(["left", "right", "none"], 300)}
        said = caucus(tmp_path, columns, "y ~ 1 + (1 | g)", family, poststratify="by: [all, g]")
    else:
        columns |= {"s": rng.integers(0, 5, 300), "m": np.full(300, 10)}
        data = "outcome: {successes: s, trials: m}"
        said = caucus(tmp_path, columns, "outcome ~ 1 + (1 | g)", family, data=data, poststratify="by: [all, g]")
    assert said.code in (0, 3), said
    report = (tmp_path / "run" / "report.html").read_text()
    first = report[report.index("tiles headline") :].split("</div>")[0]
    assert "Everybody" in first
    assert "%</b>" in first
