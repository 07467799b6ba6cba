"""``caucus check`` and ``caucus compare`` on families whose cells hold people by category, or people alike."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import line
from test_families import CASES, write


@pytest.mark.parametrize("case", ["categorical", "negative_binomial"])
def test_a_family_is_checked_and_compared(case: str, tmp_path: Path):
    outcome, name, family, data = CASES[case]
    runs = []
    for label, settings in (("full", ()), ("less", ("--set", f"model.formula={name} ~ 1 + (1 | state)"))):
        config = write(tmp_path / label, outcome, name, family, data)
        assert line.caucus("run", config, *settings).code == 0
        said = line.caucus("check", config, *settings)
        assert said.code == 0, said.err
        runs.append(tmp_path / label / "run")
    told = json.loads((runs[0] / "checks" / "checks.json").read_text())
    assert told["loo"]["person"]["num_units"] == 1100
    assert told["loo"]["person"]["num_bad"] == 0
    cells = pq.read_table(runs[0] / "checks" / "loo.parquet").to_pandas()
    people = sum(cells[f"people_{o}"] @ np.nan_to_num(cells[f"elpd_{o}"]) for o in told["outcomes"])
    assert told["loo"]["person"]["elpd"] == pytest.approx(people)
    assert (runs[0] / "checks" / "ppc.parquet").exists() == (case != "categorical")
    compared = line.caucus("compare", *runs)
    assert compared.code == 0, compared.err
    assert "full" in compared.out
    assert "predicts better (over 1,100 people)" in compared.out
    assert float(next(r for r in compared.out.splitlines() if r.startswith("difference")).split()[1]) > 0
