"""Where an order matters, there is one, from the file or from a person, or nothing is fitted."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end import line

GRADES = ("poor", "fair", "good", "excellent")
CONFIG = """\
name: grades
data: {{source: "voters/*", outcome: {outcome}, terms_of_use: synthetic{more}}}
model: {{formula: "{outcome} ~ 1 + x + (1 | group)", family: {family}, priors: {priors}}}
fit: {{draws: 100, min_ess: 100}}
audit: {{draws: 100}}
poststratify: {{by: [all, group]}}
publish: {{min_count: 1}}
run: {{directory: run, seed: 1, executor: serial}}
"""


def graded(*, ordered: bool | None) -> pa.Table:
    """Grades that rise with x; groups are grades too. As an ordered categorical, one that is not, or text."""
    rng = np.random.default_rng(4)
    x, group = rng.normal(size=900), rng.integers(0, 4, 900)
    grade = np.digitize(x + rng.logistic(size=900), [-1.5, 0.0, 1.5])
    columns = {}
    for name, codes in {"grade": grade, "group": group}.items():
        values = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(GRADES), ordered=bool(ordered))
        columns[name] = values.dictionary_decode() if ordered is None else values
    return pa.table({**columns, "x": x, "won": (rng.random(900) < 0.2 + 0.2 * group).astype(int)})


def make(folder: Path, table: pa.Table, text: str) -> Path:
    (folder / "voters").mkdir(parents=True)
    pq.write_table(table, folder / "voters" / "all.parquet")
    (folder / "config.yaml").write_text(text)
    return folder / "config.yaml"


ORDINAL = {"outcome": "grade", "family": "ordinal", "priors": "{}"}
WALK = {"outcome": "won", "family": "bernoulli", "priors": "{1|group: {structure: random_walk}}"}


def test_the_order_of_the_file_makes_the_slope_and_the_rows_of_the_tables(tmp_path: Path) -> None:
    config = make(tmp_path, graded(ordered=True), CONFIG.format(more="", **ORDINAL))
    said = line.caucus("run", config)
    assert said.code == 0, said.err
    summary = pq.read_table(tmp_path / "run" / "summary.parquet").to_pandas().set_index("parameter")
    assert 0.7 < summary.loc["x", "mean"] < 1.3  # 1 was simulated
    assert pq.read_table(tmp_path / "run" / "estimates" / "all.parquet")["grade"].to_pylist() == list(GRADES)
    groups = pq.read_table(tmp_path / "run" / "estimates" / "group.parquet")["group"].to_pylist()
    assert list(dict.fromkeys(groups)) == list(GRADES)


@pytest.mark.parametrize("ordered", [False, None])
@pytest.mark.parametrize(("settings", "column"), [(ORDINAL, "grade"), (WALK, "group")])
def test_text_without_an_order_is_refused_before_the_fit_and_the_line_helps(
    settings: dict[str, str], column: str, ordered: bool | None, tmp_path: Path
) -> None:
    text = CONFIG.format(more="", **settings)
    said = line.caucus("run", make(tmp_path, graded(ordered=ordered), text))
    assert said.code == 2
    assert "fit: round" not in said.err
    pasted = said.message.split("`")[3]
    assert pasted.startswith(f"{column}: {{levels: [")
    mended = CONFIG.format(more=f", columns: {{{pasted}}}", **settings)
    assert line.caucus("run", make(tmp_path / "again", graded(ordered=ordered), mended)).code == 0
