"""The demo: a small real nation, stand-ins for the fit, and estimates that are the truth give or take."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fakes import FakeStages

from cluster import demo
from cluster.errors import AuditFailedError
from cluster.progress import PlainProgress

ROWS, ANSWERS = 5_000, 1_000


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    fakes = FakeStages()
    fakes.install(monkeypatch)
    inference: Any = fakes.modules["cluster.inference"]
    audit, poststratify = inference.audit, inference.poststratify

    def write_estimates(context: Any) -> None:
        poststratify(context)
        truth = pq.read_table(Path(context.directory).parents[1] / "truth" / "expected.parquet").to_pylist()
        outcome = context.config.model.parsed_formula().outcome
        for margin in ("state", "state:county"):
            rows = [row for row in truth if (row["outcome"], row["margin"]) == (outcome, margin)]
            labels = [row["level"].split(":") for row in rows]
            mean = [row["expected_mean"] for row in rows]
            table = {name: [label[i] for label in labels] for i, name in enumerate(margin.split(":"))} | {
                "num_rows": [row["num_rows"] for row in rows],
                "num_trials": [row["num_answers"] for row in rows],
                "raw_mean": pa.array([row["raw_mean"] for row in rows], pa.float64()),
                "mean": mean,
                "sd": [0.01] * len(rows),
                "mcse": [0.001] * len(rows),
                "q05": [value - (0.02 if i else -0.01) for i, value in enumerate(mean)],  # the first one misses
                "q50": mean,
                "q95": [value + 0.02 for value in mean],
            }
            pq.write_table(pa.table(table), f"{context.directory}/estimates/{margin.replace(':', '-')}.parquet")

    def write_audit(context: Any) -> None:
        audit(context)
        blocks = [{"block": "1|state", "score": 0.02, "score_where": "1|state[OH]"}]
        Path(context.directory, "audit.json").write_text(json.dumps({"verdict": fakes.verdict, "blocks": blocks}))

    inference.audit, inference.poststratify = write_audit, write_estimates
    return fakes


def run(directory: Path) -> str:
    progress = PlainProgress()
    lines = demo.run(str(directory), num_rows=ROWS, num_answers=ANSWERS, executor="serial", progress=progress)
    return "\n".join(lines)


def test_from_nothing_to_a_comparison_and_not_twice(tmp_path: Path, fakes: FakeStages):
    told = run(tmp_path / "demo")
    for outcome in ("turnout", "support"):
        assert f"nation-{outcome}: verdict pass, worst score 0.020 posterior sd (1|state[OH])" in told
        assert f"report: {tmp_path}/demo/runs/nation-{outcome}/report.html" in told
    assert told.count("in 98% of 51 states") == 2
    assert "nothing was redone" not in told
    assert told.count("\nOH ") == 2
    assert told.count("%*") == 2
    again = run(tmp_path / "demo")
    assert again.endswith("everything was done already; nothing was redone")
    assert set(fakes.calls.values()) == {2}, "each stage once per outcome"


def test_a_failed_audit_is_told_after_the_results(tmp_path: Path, fakes: FakeStages):
    fakes.verdict = "fail"
    lines = demo.run(str(tmp_path), num_rows=ROWS, num_answers=ANSWERS, executor="serial", progress=PlainProgress())
    told = io.StringIO()
    with pytest.raises(AuditFailedError, match=r"nation-turnout/report\.html"):
        told.writelines(lines)
    assert told.getvalue().count("verdict fail") == 2
    assert fakes.calls["report"] == 2
