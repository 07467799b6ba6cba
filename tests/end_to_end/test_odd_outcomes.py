"""What an outcome or a weight has beside its values: markers, codes and spellings as categories, weights on another scale."""

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

CONFIG = """\
name: odd
data: {{source: "voters/*", outcome: y, terms_of_use: synthetic}}
model: {{formula: y ~ 1 + u, family: {family}}}
fit: {{draws: 100, min_ess: 100}}
audit: {{draws: 100}}
publish: {{min_count: 1}}
run: {{directory: run, seed: 1, executor: serial}}
"""


def told(folder: Path, family: str, values: list[Any]) -> tuple[str, list[str]]:
    """The verdict about the data, and what is told of the outcome."""
    u = np.random.default_rng(1).integers(0, 2, len(values))
    said = line.caucus("run", line.make(folder, {"y": values, "u": u.tolist()}, CONFIG.format(family=family)))
    assert said.code in (0, 3), said
    audit = json.loads((folder / "run" / "audit.json").read_text())
    return audit["verdicts"]["data"], [m["what"] for m in audit["messages"] if m["where"] == "data.columns.y"]


def test_a_marker_of_a_missing_value_is_no_category_without_a_word(tmp_path: Path):
    values = np.random.default_rng(2).choice(["D", "R", "N/A"], 600, p=[0.4, 0.4, 0.2]).tolist()
    verdict, what = told(tmp_path, "categorical", values)
    assert verdict == "warn"
    assert any("the level 'N/A', a usual marker of a missing value" in text for text in what)
    said = line.caucus("run", tmp_path / "run.yaml", "--set", "data.columns.y.missing_values=['', 'N/A']")
    assert said.code == 0, "the advice helps"
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["verdicts"]["data"] == "pass"


def test_spellings_of_one_category_are_told(tmp_path: Path):
    values = np.random.default_rng(3).choice(["Green", "green", "Blue"], 600).tolist()
    verdict, what = told(tmp_path, "categorical", values)
    assert verdict == "warn"
    assert any("in several spellings" in text for text in what)


@pytest.mark.parametrize(("code", "is_odd"), [(99, True), (-9, True), (6, False)])
def test_codes_among_ordered_categories_are_told(code: int, is_odd: bool, tmp_path: Path):
    values = np.random.default_rng(4).integers(1, 6, 600)
    values[:40] = code
    verdict, what = told(tmp_path, "ordinal", values.tolist())
    assert bool(what) == is_odd
    assert (verdict == "warn") == is_odd


@pytest.mark.parametrize(("factor", "code"), [(1000.0, 2), (0.001, 2), (1.2, 0)])
def test_later_weights_on_another_scale_are_refused(factor: float, code: int, tmp_path: Path):
    columns = line.voters() | {"w": np.random.default_rng(5).uniform(0.8, 1.2, 400).tolist()}
    config = line.make(tmp_path, columns, line.CONFIG.replace("outcome: voted", "outcome: voted, weight: w"))
    assert line.caucus("run", config).code == 0
    later = line.voters(seed=6) | {"w": (np.array(columns["w"]) * factor).tolist()}
    pq.write_table(pa.table(later), tmp_path / "voters" / "part-1.parquet")
    said = line.caucus("update", config)
    assert said.code == code, said
    if code:
        assert "weights that average" in said.message
