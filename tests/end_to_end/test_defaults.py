"""Every row of docs/defaults.md, as a run of a person's own file."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line
from line import Said

PAGE = Path(__file__).resolve().parents[2] / "docs" / "defaults.md"
NUM = 400
FRAME: dict[str, list[Any]] = {
    "state": [*line.STATES, *line.STATES], "race": ["Black", "White"] * 4, "female": [0, 0, 1, 1] * 2,
    "share": [0.5, 0.45, 0.55, 0.5] * 2, "n": [100.0] * 8,
}  # fmt: skip

ROWS: dict[str, Callable[[Path], None]] = {}


def row(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def register(function: Callable[[Path], None]) -> Callable[[Path], None]:
        ROWS[name] = function
        return function

    return register


def rows_of_the_page() -> list[str]:
    found = [cells.split(" | ")[0].removeprefix("| ") for cells in PAGE.read_text().splitlines() if cells.startswith("| ")]
    return [name for name in found if not name.startswith("What ")]


def test_every_row_of_the_page_has_a_test_and_every_test_a_row():
    assert sorted(rows_of_the_page()) == sorted(ROWS)


@pytest.mark.parametrize("name", rows_of_the_page())
def test_the_row(name: str, tmp_path: Path):
    ROWS[name](tmp_path)


# ---- what the rows are made of ----


def holes(column: str, number: int = 40) -> dict[str, Any]:
    """The small file with some values of a column missing."""
    columns = line.voters(NUM)
    return columns | {column: [None if i < number else value for i, value in enumerate(columns[column])]}


def run(folder: Path, columns: dict[str, Any] | None = None, *settings: str, config: str = line.CONFIG) -> Said:
    shutil.rmtree(folder / "run", ignore_errors=True)
    given = [argument for setting in settings for argument in ("--set", setting)]
    return line.caucus("run", line.make(folder, columns, config), *given)


def with_frame(folder: Path, changed: dict[str, list[Any]], *settings: str, columns: dict[str, Any] | None = None) -> Said:
    table = {name: changed.get(name, values) for name, values in FRAME.items()}
    pq.write_table(pa.table(table), folder / "f.parquet")
    return run(folder, columns, "poststratify.by=[all, state]", f"poststratify.frame={folder}/f.parquet", "poststratify.count=n", *settings)


def people(folder: Path, name: str = "all") -> dict[str, float]:
    table = pq.read_table(folder / "run" / "estimates" / f"{name}.parquet").to_pydict()
    return dict(zip(table[name], table["num_rows"], strict=True))


def known(folder: Path) -> int:
    return int(sum(pq.read_table(folder / "run" / "estimates" / "all.parquet")["num_trials"].to_pylist()))


def population(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "audit.json").read_text())["population"]


def left_out(folder: Path) -> dict[str, float]:
    return population(folder)["left_out"]


def refused(said: Said, *words: str) -> None:
    assert said.code == 2, said
    for word in words:
        assert word in said.message, said.message


def as_text(folder: Path, lines: list[str]) -> Path:
    (folder / "voters").mkdir(exist_ok=True)
    (folder / "voters" / "part-0.parquet").unlink(missing_ok=True)
    (folder / "voters" / "part-0.csv").write_bytes("\n".join(lines).encode("latin-1") + b"\n")
    (folder / "run.yaml").write_text(line.CONFIG)
    return folder / "run.yaml"


def text_lines(num_rows: int = 3000) -> list[str]:
    columns = line.voters(num_rows)
    return [",".join(columns), *(",".join(map(str, values)) for values in zip(*columns.values(), strict=True))]


# ---- missing ----


@row("A grouping factor of the data")
def _(folder: Path) -> None:
    refused(run(folder, holes("race")), "race: {missing: level}", "race: {missing: quarantine}")
    assert run(folder, holes("race"), "data.columns.race.missing=level").code == 0
    assert people(folder, "race")["(missing)"] == 40
    assert run(folder, holes("race"), "data.columns.race.missing=quarantine").code == 0
    assert (people(folder)["all"], left_out(folder)) == (NUM - 40, {"race:missing": 40})


@row("A fixed factor of the data")
def _(folder: Path) -> None:
    config = line.CONFIG.replace("+ (1 | race)", "+ race")
    refused(run(folder, holes("race"), config=config), "race: {missing: level}")
    assert run(folder, holes("race"), "data.columns.race.missing=level", config=config).code == 0
    assert people(folder)["all"] == NUM


@row("A number of the model")
def _(folder: Path) -> None:
    said = run(folder, holes("share"))
    refused(said, "share: {missing: quarantine}")
    assert "share: {missing: level}" not in said.message
    assert run(folder, holes("share"), "data.columns.share.missing=quarantine").code == 0
    assert left_out(folder) == {"share:missing": 40}


@row("The outcome")
def _(folder: Path) -> None:
    assert run(folder, holes("voted")).code == 0
    assert (people(folder)["all"], known(folder), left_out(folder)) == (NUM, NUM - 40, {})


@row("The trials of `{successes, trials}`")
def _(folder: Path) -> None:
    columns = holes("voted") | {"n": [None if i < 10 else 2 for i in range(NUM)]}
    settings = "data.outcome={successes: voted, trials: n}", "model.formula=y ~ 1 + (1 | state) + (1 | race)", "model.family=binomial"
    refused(run(folder, columns, *settings), "trials known in every row", "data.columns.trials.missing: quarantine")
    assert run(folder, columns, *settings, "data.columns.trials.missing=quarantine").code == 0
    assert people(folder)["all"] == 2 * (NUM - 10)


@row("The weight of a known outcome")
def _(folder: Path) -> None:
    columns = line.voters(NUM) | {"w": [None if i < 40 else 1.0 for i in range(NUM)]}
    refused(run(folder, columns, "data.weight=w"), "w: {missing: quarantine}")
    assert run(folder, columns, "data.weight=w", "data.columns.w.missing=quarantine").code == 0
    assert sum(left_out(folder).values()) == 40


@row("A column of `poststratify.by` that is in no term of the model")
def _(folder: Path) -> None:
    columns = line.voters(NUM) | {"seg": [None if i < 40 else "x" for i in range(NUM)]}
    assert run(folder, columns, "poststratify.by=[all, seg]").code == 0
    assert (people(folder)["all"], people(folder, "seg")) == (NUM, {"x": NUM - 40, "(missing)": 40})


@row("A grouping factor of a frame")
def _(folder: Path) -> None:
    hole = {"race": [None, *FRAME["race"][1:]]}
    assert with_frame(folder, hole).code == 0
    assert people(folder)["all"] == 800
    assert population(folder)["missing"] == [{"column": "race", "people": 100.0}]
    assert with_frame(folder, hole, "poststratify.missing=leave_out").code == 0
    assert (people(folder)["all"], left_out(folder)) == (700, {"race:missing": 100.0})
    refused(with_frame(folder, hole, "poststratify.missing=error"), "missing values in 'race'")


@row("A fixed factor or a number of a frame")
def _(folder: Path) -> None:
    hole = {"share": [None, *FRAME["share"][1:]]}
    refused(with_frame(folder, hole), "missing values in 'share'", "poststratify.missing: leave_out")
    assert with_frame(folder, hole, "poststratify.missing=leave_out").code == 0
    assert people(folder)["all"] == 700


@row("The count of a row of a frame")
def _(folder: Path) -> None:
    refused(with_frame(folder, {"n": [None, *FRAME["n"][1:]]}), "a count in every row")


# ---- unknown ----


@row("A value outside of the declared `levels`")
def _(folder: Path) -> None:
    levels = "data.columns.race.levels=[Black, White]"
    refused(run(folder, None, levels), "race:unexpected_level")
    assert run(folder, None, levels, "data.columns.race.unexpected=quarantine").code == 0
    others = line.voters()["race"].count("Other")
    assert left_out(folder) == {"race:unexpected_level": others}


@row("Text among the numbers of a column, in CSV (in Parquet a column of text is a factor)")
def _(folder: Path) -> None:
    lines = text_lines()
    for i in range(1, 6):
        cells = lines[i].split(",")
        lines[i] = ",".join([*cells[:4], "n/a", *cells[5:]])
    config = as_text(folder, lines)
    refused(line.caucus("run", config), "data.columns.share", "that are numbers and 1 that are not")
    declared = "--set", "data.columns.share={type: numeric, unexpected: quarantine}"
    assert line.caucus("run", config, *declared).code == 0
    assert left_out(folder) == {"share:not_a_number": 5}
    markers = "--set", "data.columns.share={missing_values: ['n/a'], missing: quarantine}"
    assert line.caucus("run", config, *markers).code == 0
    assert left_out(folder) == {"share:missing": 5}


@row("A level of a grouping factor of a frame that the data did not have")
def _(folder: Path) -> None:
    said = with_frame(folder, {"state": ["PR", *FRAME["state"][1:]]})
    assert said.code == 0
    assert population(folder)["new"][0]["people"] == 100.0
    assert people(folder, "state")["PR"] == 100
    gates = {gate["name"]: gate["status"] for gate in json.loads((folder / "run" / "audit.json").read_text())["gates"]}
    assert gates["new_levels"] != "pass", "an eighth of the people"


@row("A factor of a frame none of whose levels the data have")
def _(folder: Path) -> None:
    refused(with_frame(folder, {"state": [str(i) for i in range(8)]}), "no level of the data, in any row")


@row("A level of a frame that differs from the data's only in how it is written (`02`, `St Louis`)")
def _(folder: Path) -> None:
    columns = line.voters(NUM)
    columns["race"] = [{"Other": "Mixed-Race"}.get(race, race) for race in columns["race"]]
    assert with_frame(folder, {"race": ["Mixed Race", *FRAME["race"][1:]]}, columns=columns).code in (0, 3)
    (said,) = [message for message in data_messages(folder) if message.startswith("race: 12.50% of the people")]
    assert "'Mixed Race' for 'Mixed-Race'" in said


@row("A level of a fixed factor of a frame that the data did not have")
def _(folder: Path) -> None:
    refused(with_frame(folder, {"race": ["Martian", *FRAME["race"][1:]]}, "model.formula=voted ~ 1 + female + share + race + (1 | state)"), "not a level of the data")


@row("A number other than 0 and 1 in a frame, in a column that had these two")
def _(folder: Path) -> None:
    refused(with_frame(folder, {"female": [1, 1, 2, 2] * 2}), "0 and 1, which are its only values in the data")


@row("A number of a frame outside of the range that was fitted")
def _(folder: Path) -> None:
    assert with_frame(folder, {"share": [40.0, *FRAME["share"][1:]]}).code in (0, 3)
    audit = json.loads((folder / "run" / "audit.json").read_text())
    assert audit["verdict"] != "pass"
    assert any("share" in message["where"] + message["what"] for message in audit["messages"])


@row("A level of a later file (`caucus update`)")
def _(folder: Path) -> None:
    assert run(folder).code == 0
    later = line.voters(20, seed=3) | {"race": ["Asian"] * 20}
    pq.write_table(pa.table(later), folder / "voters" / "part-1.parquet")
    assert line.caucus("update", folder / "run.yaml").code == 0
    assert json.loads((folder / "run" / "dictionary.json").read_text())["factors"]["race"]["levels"] == ["Black", "Other", "White", "Asian"]


@row("The order of text levels, where it matters (ordinal outcomes, walks)")
def _(folder: Path) -> None:
    refused(run(folder, None, 'model.priors={"1|race": {structure: random_walk}}'), "levels: [")


@row("Dates before a bar of the formula")
def _(folder: Path) -> None:
    dates = {"female": [f"{1 + i % 5:02d}/15/2024" for i in range(NUM)]}
    refused(run(folder, line.voters(NUM) | dates), "data.columns.female: found dates", "type: factor")
    assert run(folder, line.voters(NUM) | dates, "data.columns.female.type=factor").code in (0, 3)


@row("Numbers written for people (1,234 or 45% or (5)) before a bar")
def _(folder: Path) -> None:
    columns = line.voters(NUM)
    columns["share"] = [f"{100 * share:g}%" for share in columns["share"]]
    refused(run(folder, columns), "data.columns.share", "signs of a unit", "type: factor")


@row("An outcome of two values other than 0 and 1, or true and false (1 and 2, yes and no)")
def _(folder: Path) -> None:
    columns = line.voters(NUM)
    coded = columns | {"voted": [["no", "yes"][value] for value in columns["voted"]]}
    refused(run(folder, coded), 'data.columns.voted.levels: ["no", "yes"]')
    assert run(folder, coded, "data.columns.voted.levels=[no, yes]").code == 0
    (mean,) = pq.read_table(folder / "run" / "estimates" / "all.parquet")["raw_mean"].to_pylist()
    assert mean == pytest.approx(sum(columns["voted"]) / NUM)


# ---- odd ----


COUNTS = line.CONFIG.replace("outcome: voted", "outcome: {count: visits, exposure: years}").replace("voted ~", "visits ~").replace("bernoulli", "poisson")


def visits(num: int = NUM, unit: int = 1, **changed: Any) -> dict[str, Any]:
    return line.voters(num) | {"visits": [i * 7 % 5 for i in range(num)], "years": [unit * (1 + i % 5) for i in range(num)]} | changed


def data_messages(folder: Path) -> list[str]:
    audit = json.loads((folder / "run" / "audit.json").read_text())
    found = [f"{m['where']}: {m['what']}. {m['do']}" for m in audit["messages"] if m.get("about") == "data" and m["severity"] == "warn"]
    assert audit["verdicts"]["data"] == ("warn" if found else "pass")
    return found


def write_more(folder: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), folder / "voters" / "part-1.parquet")


@row('A usual code for "not known" (999, -9) in a predictor, the outcome, an exposure, trials or a weight')
def _(folder: Path) -> None:
    columns = visits(years=[999 if i < 20 else 1 + i % 5 for i in range(NUM)])
    assert run(folder, columns, config=COUNTS).code in (0, 3)
    (said,) = data_messages(folder)
    assert 'data.columns.exposure.missing_values: ["", "999"]' in said
    assert run(folder, columns, 'data.columns.exposure.missing_values=["", "999"]', config=COUNTS).code in (0, 3)
    assert (data_messages(folder), known(folder)) == ([], NUM - 20)


@row("A spike at the end of a predictor, apart from the rest (age 0); a usual code among its values, of many more rows than beside it")
def _(folder: Path) -> None:
    for code, told in ((0, "0, apart from all other values"), (77, "77, a usual code")):
        ages = [18 + i * 11 % 70 for i in range(NUM)]
        assert run(folder, line.voters(NUM) | {"share": [code if i < 40 else age for i, age in enumerate(ages)]}).code in (0, 3)
        (said,) = data_messages(folder)
        assert f"rows have {told}" in said
        assert f'data.columns.share.missing_values: ["", "{code}"]' in said


@row("Levels that may be one (`St. Louis` and `St Louis`, `Yes` and `Y`), dates in several forms, text of another encoding")
def _(folder: Path) -> None:
    columns = line.voters(NUM)
    columns["race"] = [f"{race}." if i % 9 == 0 else race for i, race in enumerate(columns["race"])]
    assert run(folder, columns).code in (0, 3)
    (said,) = data_messages(folder)
    assert said.startswith("data.columns.race: 3 level(s) in several spellings")


@row("Numbers in a Parquet column of text before a bar, of more than 9 levels")
def _(folder: Path) -> None:
    columns = line.voters(NUM) | {"share": [str(20 + i % 12) for i in range(NUM)]}
    assert run(folder, columns).code in (0, 3)
    assert any("12 levels are numbers in a column of text" in said for said in data_messages(folder))
    assert run(folder, columns, "data.columns.share.type=factor").code in (0, 3)
    assert data_messages(folder) == []


@row("Files of one run that seem to be in different units, or code two values differently")
def _(folder: Path) -> None:
    config = line.make(folder, visits(), COUNTS)
    write_more(folder, visits(NUM - 1, 12))
    assert line.caucus("run", config).code in (0, 3)
    (said,) = data_messages(folder)
    assert said.startswith("data.columns.exposure: 1 of 2 files (part-1.parquet) have numbers some 12 times those of the others")


@row("A later file (`caucus update`) in other units than what was fitted: predictor, outcome, exposure, trials, weight")
def _(folder: Path) -> None:
    config = line.make(folder, visits(), COUNTS)
    assert line.caucus("run", config).code in (0, 3)
    assert data_messages(folder) == []
    write_more(folder, visits(100, 12))
    assert line.caucus("update", config).code in (0, 3)
    (said,) = [message for message in data_messages(folder) if message.startswith("data.columns.exposure")]
    assert "(part-1.parquet) have numbers some 12 times those of what was fitted" in said


@row("Weights of which few rows have most (design effect above 10, in all or in a level)")
def _(folder: Path) -> None:
    weight = ("data.weight=w", "poststratify.by=[all]")
    assert run(folder, line.voters(NUM) | {"w": [1.0 + i % 3 for i in range(NUM)]}, *weight).code in (0, 3)
    gate = {g["name"]: g for g in json.loads((folder / "run" / "audit.json").read_text())["gates"]}["weights"]
    assert (gate["status"], data_messages(folder)) == ("pass", [])
    w = [300.0 if i == 0 else 1.0 for i in range(NUM)]
    said = run(folder, line.voters(NUM) | {"w": w}, *weight)
    effect = NUM * (300**2 + NUM - 1) / (300 + NUM - 1) ** 2
    assert any(f"design effect of the weights: known outcomes over effective ones: {effect:.3g}" in text for text in data_messages(folder))
    assert any(text.startswith("w, state ") for text in data_messages(folder))
    assert "design effect" in said.out


@row("A weight of zero or below, where the outcome is known")
def _(folder: Path) -> None:
    w = [0.0 if i < 5 else -1.0 if i < 8 else 1.0 + i % 3 for i in range(NUM)]
    assert run(folder, line.voters(NUM) | {"w": w}, "data.weight=w").code in (0, 3)
    assert left_out(folder) == {"weight:not_positive": 8}


# ---- unreadable ----


@row("A line with too few or too many fields")
def _(folder: Path) -> None:
    lines = text_lines()
    lines[7] += ",more"
    assert line.caucus("run", as_text(folder, lines)).code == 0
    assert (people(folder)["all"], left_out(folder)) == (2999, {"csv:too_many_fields": 1})


@row("A quotation mark that is never closed")
def _(folder: Path) -> None:
    lines = text_lines()
    lines[7] = '"' + lines[7]
    assert line.caucus("run", as_text(folder, lines)).code == 0
    assert people(folder)["all"] == 2999
    assert sum(left_out(folder).values()) == 1


@row("Bytes that are not of the encoding")
def _(folder: Path) -> None:
    lines = text_lines()
    lines[7] = lines[7].replace(lines[7].split(",")[2], "Mam\xe9", 1)
    assert line.caucus("run", as_text(folder, lines)).code == 0
    assert left_out(folder) == {"csv:invalid_encoding": 1}
    assert line.caucus("run", folder / "run.yaml", "--set", "data.encoding=latin-1").code == 0
    assert people(folder, "race")["Mam\xe9"] == 1


@row("More than one line, and more than a thousandth")
def _(folder: Path) -> None:
    lines = text_lines()
    for i in range(7, 12):
        lines[i] += ",more"
    said = line.caucus("run", as_text(folder, lines))
    refused(said, "part-0.csv", "line 8", "data.max_unreadable")
    assert line.caucus("run", folder / "run.yaml", "--set", "data.max_unreadable=0.01").code == 0
    assert left_out(folder) == {"csv:too_many_fields": 5}


# ---- twice ----


@row("Equal rows")
def _(folder: Path) -> None:
    columns = {name: values * 2 for name, values in line.voters().items()}
    assert run(folder, columns).code == 0
    assert people(folder)["all"] == 800


@row("An id, where `id_column` is given")
def _(folder: Path) -> None:
    columns = {name: [*values, *values[:10]] for name, values in line.voters().items()}
    assert run(folder, columns, "data.id_column=voter_id").code == 0
    assert people(folder)["all"] == 410
    assert run(folder, columns, "data.id_column=voter_id", "data.duplicates=quarantine").code == 0
    assert (people(folder)["all"], left_out(folder)) == (400, {"id:duplicate": 10})
    refused(run(folder, columns, "data.id_column=voter_id", "data.duplicates=error"), "id:duplicate")


@row("An id that is a usual marker (NA, null, -9) or listed in `missing_values`")
def _(folder: Path) -> None:
    columns = line.voters(NUM)
    columns["voter_id"] = [("NA", "none")[i % 2] if i < 20 else text for i, text in enumerate(columns["voter_id"])]
    settings = "data.id_column=voter_id", "data.duplicates=quarantine", 'data.columns.voter_id.missing_values=["", "none"]'
    assert run(folder, columns, *settings).code == 0
    assert (people(folder)["all"], left_out(folder)) == (NUM, {})


@row("One id in more than 100 rows, where repeated ids matter")
def _(folder: Path) -> None:
    columns = line.voters(NUM)
    columns["voter_id"] = ["0" if i < 101 else text for i, text in enumerate(columns["voter_id"])]
    refused(run(folder, columns, "data.id_column=voter_id", "data.duplicates=quarantine"), "one value in 101 rows", "data.columns.voter_id.missing_values")


@row("A file that two patterns of `data.source` match")
def _(folder: Path) -> None:
    refused(run(folder, None, "data.source=[voters/*, voters/part-0.parquet]"), "1 file(s) named twice")


@row("Two files with the same bytes")
def _(folder: Path) -> None:
    line.make(folder)
    shutil.copy(folder / "voters/part-0.parquet", folder / "voters/part-1.parquet")
    refused(run(folder), "the same bytes", "data.allow_equal_files: true")
    assert run(folder, None, "data.allow_equal_files=true").code == 0
    assert people(folder)["all"] == 800


@row("A column that the run needs, in one file")
def _(folder: Path) -> None:
    lines = text_lines(400)
    lines[0] = lines[0].replace("voter_id", "race")
    refused(line.caucus("run", as_text(folder, lines)), "several columns called 'race'")


@row("A row of a frame")
def _(folder: Path) -> None:
    doubled = {name: values * 2 for name, values in FRAME.items()}
    pq.write_table(pa.table(doubled), folder / "f.parquet")
    said = run(folder, None, "poststratify.by=[all, state]", f"poststratify.frame={folder}/f.parquet", "poststratify.count=n")
    assert said.code == 0
    assert people(folder)["all"] == 1600
