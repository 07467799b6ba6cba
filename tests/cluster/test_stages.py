"""Which stages run, which are kept, and what a person is told about it. The stages themselves are stand-ins."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fakes import FakeStages

from cluster import cli, code_version, config, stages
from cluster.errors import MemoryProjectionError, RunDirectoryError, StageError, WorkerDiedError
from cluster.progress import PlainProgress
from cluster.run_directory import STAGES
from fitting.errors import ImproperPosteriorError

CONFIG = """\
name: turnout
data: {source: voters/*.parquet, outcome: voted, terms_of_use: synthetic}
model:
  formula: voted ~ 1 + female + (1 | state/county) + (1 | race)
  family: bernoulli
shards: {by: state}
poststratify: {by: [all, state, "race:age"]}
run: {seed: 1, executor: serial}
"""


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    fakes = FakeStages()
    fakes.install(monkeypatch)
    return fakes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "voters").mkdir()
    text = {name: ["a", "b"] for name in ("state", "county", "race", "age", "party")}
    pq.write_table(pa.table({"voted": [0, 1], "female": [0, 1], **text}), tmp_path / "voters" / "part-0.parquet")
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path / "run.yaml"


def run(file: Path, *overrides: str, only: str | None = None) -> tuple[tuple[str, ...], str]:
    """Run; return the stages that were redone, and what was said."""
    said = io.StringIO()
    finished = stages.run(config.load(file, overrides), PlainProgress(said), stages.SharedExecutor(), only=only)
    return finished.redone, said.getvalue()


def test_all_stages_run_once_and_a_second_run_redoes_nothing(file: Path, fakes: FakeStages):
    redone, _ = run(file)
    assert redone == STAGES
    redone, said = run(file)
    assert redone == ()
    assert [line.partition("  [")[0] for line in said.splitlines()] == [f"{stage}: done already" for stage in STAGES]
    assert set(fakes.calls.values()) == {1}


def test_ingest_is_told_the_columns_of_model_and_margins(file: Path, fakes: FakeStages):
    run(file)
    assert fakes.ingested["outcome_kind"] == "binomial"
    assert fakes.ingested["factor_columns"] == ("state", "county", "race")
    assert fakes.ingested["margin_columns"] == ("age",)
    assert fakes.ingested["predictor_columns"] == ("female",)
    assert fakes.ingested["group_columns"] == (("state",), ("state", "county"), ("race",))


def test_stages_are_given_their_key_and_the_directory(file: Path, fakes: FakeStages):
    run(file)
    context = fakes.contexts["merge"]
    manifest = json.loads(Path(context.directory, "manifest.json").read_text())
    assert context.key == manifest["stages"]["merge"]["key"]
    assert manifest["stages"]["merge"]["peak_memory_bytes"] > 2**20
    assert context.directory == f"{file.parent}/runs/turnout"
    assert config.load(context.directory).config == context.config


@pytest.mark.parametrize(
    ("override", "first", "told"),
    [
        ("model.priors.sd=half_normal(2)", "merge", "merge: starts (model.priors.sd: (not set) -> half_normal(2))"),
        ("fit.draws=500", "merge", "merge: starts (fit.draws: 250 -> 500)"),
        ("run.seed=2", "merge", "merge: starts (run.seed: 1 -> 2)"),
        ("audit.draws=500", "audit", "audit: starts (audit.draws: 1000 -> 500)"),
        ("poststratify.interval=0.5", "poststratify", "poststratify: starts (poststratify.interval: 0.9 -> 0.5)"),
        ("fit.rounds=3", "fit", "fit: starts (fit.rounds: 20 -> 3)"),
        ("fit={method: nuts}", "fit", "fit: starts ("),
        (
            "model.formula=voted ~ 1 + female + (1 | state/county) + (1 + female | race)",
            "fit",
            "fit: starts (model.formula",
        ),
        ("model.formula=voted ~ 1 + (1 | state)", "ingest", "ingest: starts (columns."),
        ("poststratify.by=[party]", "ingest", "ingest: starts (columns.margin_columns"),
        ("shards.target_cells=5000", "ingest", "ingest: starts (shards.target_cells: 200000 -> 5000)"),
        ("data.terms_of_use=public", "report", "report: starts (data.terms_of_use: synthetic -> public)"),
        ("data.memory_limit=1GB", None, ""),
        ("run.workers=7", None, ""),
    ],
)
def test_a_change_redoes_what_depends_on_it_and_says_why(
    file: Path, fakes: FakeStages, override: str, first: str | None, told: str
):
    run(file)
    redone, said = run(file, override)
    later = STAGES[STAGES.index(first) :] if first else ()
    expected = ("poststratify", "report") if first == "poststratify" else later
    if first == "audit":
        expected = ("audit", "poststratify", "report")
    assert redone == expected
    assert told in said
    assert "not run yet" not in said


def test_a_seed_matters_where_something_is_random(file: Path, fakes: FakeStages):
    run(file, "fit={method: nuts}", "shards={by: random}")
    assert run(file, "fit={method: nuts}", "shards={by: random}", "run.seed=2")[0] == STAGES
    assert run(file, "fit={method: nuts}", "run.seed=2")[0] == STAGES
    assert run(file, "fit={method: nuts}", "run.seed=3")[0] == STAGES[1:]


def test_a_new_source_file_is_ingested(file: Path, fakes: FakeStages):
    run(file)
    pq.write_table(pa.table({"voted": [0, 1]}), file.parent / "voters" / "part-1.parquet")
    redone, said = run(file)
    assert redone == STAGES
    assert "part-1.parquet is new" in said


def test_a_damaged_file_redoes_its_stage(file: Path, fakes: FakeStages):
    run(file)
    (file.parent / "runs/turnout/sites/ca.npz").write_bytes(b"other")
    redone, said = run(file)
    assert redone == STAGES[1:]
    assert "sites/ca.npz is not the file that was written" in said


def test_a_failed_run_goes_on_where_it_stopped(file: Path, fakes: FakeStages):
    fakes.fails["merge"] = WorkerDiedError(4, "WorkerCrashedError")
    with pytest.raises(WorkerDiedError):
        run(file)
    fakes.fails.clear()
    assert run(file)[0] == STAGES[2:]
    assert (fakes.calls["ingest"], fakes.calls["fit"], fakes.calls["merge"]) == (1, 1, 2)


def test_single_stages_want_the_ones_before_them(file: Path, fakes: FakeStages):
    with pytest.raises(StageError, match=r"needs the stage 'ingest': not run yet\. Run `caucus shard` first"):
        run(file, only="merge")
    assert run(file, only="ingest")[0] == ("ingest",)
    assert run(file, only="fit")[0] == ("fit",)
    assert run(file, only="fit")[0] == ()
    assert fakes.calls == {"ingest": 1, "fit": 1}


def test_another_run_in_the_directory_is_refused(file: Path, fakes: FakeStages):
    run(file)
    with pytest.raises(RunDirectoryError, match="name: turnout -> support"):
        run(file, "name=support", "run.directory=runs/turnout")
    with pytest.raises(RunDirectoryError, match=r"data\.outcome: voted -> age"):
        run(file, "data.outcome=age", "model.formula=age ~ 1 + (1 | state)", "poststratify.by=[state]")


def test_a_run_that_would_not_fit_is_refused_with_numbers(
    file: Path, fakes: FakeStages, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cluster.plan.available_bytes", lambda: 2**20)
    with pytest.raises(MemoryProjectionError, match=r"needs about \d+ MiB, expected at most the 1 MiB available"):
        run(file)
    assert "fit" not in fakes.calls


def command(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    """Run the command line; return its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.app(args=[str(argument) for argument in arguments], prog_name="caucus")
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    code = ended.value.code
    return int(code or 0), out, err


def test_the_version_is_told(capsys: pytest.CaptureFixture):
    assert command(capsys, "--version")[:2] == (0, f"caucus {code_version.version()}\n")


def test_command_run(file: Path, fakes: FakeStages, capsys: pytest.CaptureFixture):
    code, out, err = command(capsys, "run", file)
    assert (code, out.splitlines()) == (0, ["verdict: pass", f"report: {file.parent}/runs/turnout/report.html"])
    assert "merge: starts (not run yet)" in err
    code, out, _ = command(capsys, "run", file)
    assert (code, out.splitlines()[0]) == (0, "everything is done already; nothing was redone")


def test_a_failed_audit_is_exit_code_3_each_time(file: Path, fakes: FakeStages, capsys: pytest.CaptureFixture):
    fakes.verdict = "fail"
    for _ in range(2):
        code, out, err = command(capsys, "run", file)
        assert (code, "verdict: fail" in out) == (3, True)
        assert "do not use these numbers" in err
    assert fakes.calls["report"] == 1


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ImproperPosteriorError("merge", -1.0), 2, "smallest eigenvalue -1"),
        (WorkerDiedError(4, "OutOfMemoryError"), 4, "died 4 times"),
        (OSError(28, "No space left on device"), 4, "safe to run again"),
        (PermissionError(13, "Permission denied", "/data"), 2, "/data: Permission denied"),
        (KeyboardInterrupt(), 130, "goes on where this stopped"),
        (MemoryError(), 4, "out of memory"),
        (ZeroDivisionError("division by zero"), 1, "a fault of Caucus: ZeroDivisionError"),
    ],
)
def test_errors_become_one_message_and_an_exit_code(
    file: Path, fakes: FakeStages, capsys: pytest.CaptureFixture, error: BaseException, code: int, told: str
):
    fakes.fails["fit"] = error
    found, out, err = command(capsys, "run", file)
    assert (found, out) == (code, "")
    assert told in next(line for line in err.splitlines() if line.startswith("caucus: "))


def test_debug_shows_the_traceback(file: Path, fakes: FakeStages, capsys: pytest.CaptureFixture):
    fakes.fails["fit"] = ZeroDivisionError()
    with pytest.raises(SystemExit):
        cli.app(args=["run", str(file), "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_config_errors_are_exit_code_2_and_write_nothing(file: Path, fakes: FakeStages, capsys: pytest.CaptureFixture):
    code, out, err = command(capsys, "run", file, "--set", "model.famly=x", "--set", "fit.rounds=0")
    assert (code, out) == (2, "")
    assert "Did you mean `family`?" in err
    assert "`fit.rounds`: expected greater than 0" in err
    assert not (file.parent / "runs").exists()


def test_command_validate(file: Path, capsys: pytest.CaptureFixture):
    assert command(capsys, "validate", file)[0] == 0
    code, _, err = command(capsys, "validate", file, "--set", "data.source=nowhere/*.csv")
    assert code == 2
    assert "found no file" in err


def test_command_plan_and_status(file: Path, fakes: FakeStages, capsys: pytest.CaptureFixture):
    code, out, _ = command(capsys, "plan", file)
    assert code == 0
    assert "sources: files: 1, 0.0 MiB, rows: 2" in out
    assert "not started" in out
    assert not (file.parent / "runs").exists(), "a plan writes nothing"
    command(capsys, "run", file)
    code, out, _ = command(capsys, "plan", file, "--set", "model.priors.sd=half_normal(2)")
    assert "cells: 200; shards: 1" in out
    assert "merge         to do: model.priors.sd: (not set) -> half_normal(2)" in out
    code, out, _ = command(capsys, "status", file.parent / "runs" / "turnout")
    assert code == 0
    assert out.count(" done 20") == len(STAGES)


def test_command_plan_refuses(file: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.plan.available_bytes", lambda: 2**20)
    code, out, err = command(capsys, "plan", file)
    assert code == 2
    assert "memory: " in out
    assert "Lower `run.workers`" in err


def test_command_schema(capsys: pytest.CaptureFixture):
    code, out, _ = command(capsys, "schema")
    assert code == 0
    assert set(json.loads(out)["required"]) == {"name", "data", "model", "run"}


def test_command_doctor(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    code, out, _ = command(capsys, "doctor")
    assert code == 0, out
    assert "cores: " in out
    monkeypatch.setattr("cluster.plan.available_bytes", lambda: 2**20)
    assert command(capsys, "doctor")[0] == 2


def test_command_init(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(capsys, "init", "first", "--rows", 4000)
    assert code == 0
    assert "caucus run first/nation-turnout.yaml" in out
    assert command(capsys, "validate", "first/nation-turnout.yaml")[0] == 0
    assert command(capsys, "validate", "first/nation-support.yaml")[0] == 0
    code, _, err = command(capsys, "init", "first")
    assert (code, "not empty" in err) == (2, True)


def test_templates_are_the_configs():
    root = Path(__file__).parents[2]
    for name in ("nation-turnout.yaml", "nation-support.yaml"):
        assert (root / "configs" / name).read_bytes() == (root / "cluster" / "templates" / name).read_bytes()


def test_the_command_line_imports_nothing_heavy():
    heavy = ("jax", "ray", "duckdb", "pandas", "numpy", "pydantic")
    code = f"import sys, cluster.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_but_one_imports_ray(file: Path, fakes: FakeStages):
    before = "ray" in sys.modules
    run(file)
    assert ("ray" in sys.modules) == before
