"""`caucus run-model`: what may be executed, what is read, and the same numbers wherever tasks run."""

import json
import pickle
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cluster import cli, user_code, user_config
from cluster.errors import ConfigError
from reporting import posterior

CODE = """
import numpyro
from numpyro import distributions as dist

from fitting.user_model import ShardedModel


def normal_states(data, sizes):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("state", sizes["state"]):
        effect = numpyro.sample("effect", dist.Normal(mu, 0.7))
    with numpyro.plate("rows", sizes["rows"]):
        numpyro.sample("y", dist.Normal(effect[data["state"]], 1.0), obs=data["y"])


MODEL = ShardedModel(normal_states, global_sites=("mu",), local_factors=("state",))
"""
CONFIG = """
name: mine
data: {source: rows.parquet, columns: [state, y], terms_of_use: synthetic}
model: {file: my_model.py}
shards: {by: region}
fit: {method: nuts, rounds: 2, draws: 100, chains: 2, shard_draws: 100, shard_warmup: 100, shard_chains: 2}
audit: {draws: 100}
run: {executor: serial, workers: 2}
"""


@pytest.fixture
def project(tmp_path):
    rng = np.random.default_rng(0)
    state = np.arange(120) % 6
    table = {
        "region": [f"R{s // 3}" for s in state],
        "state": [f"S{s}" for s in state],
        "y": (1 + 0.7 * rng.standard_normal(6))[state] + rng.standard_normal(120),
        "name": [f"somebody {i}" for i in range(120)],
    }
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    (tmp_path / "my_model.py").write_text(CODE)
    (tmp_path / "run.yaml").write_text(CONFIG)
    return tmp_path / "run.yaml"


def caucus(*arguments):
    return CliRunner().invoke(cli.app, ["run-model", *map(str, arguments)])


# ---- what may be executed ----


def test_code_is_not_executed_without_the_flag(project):
    marker = project.parent / "executed"
    (project.parent / "my_model.py").write_text(f"open({str(marker)!r}, 'w')\n")
    result = caucus(project)
    assert result.exit_code == 2
    assert "--allow-code" in result.stderr
    assert not marker.exists()
    assert not (project.parent / "runs").exists()


@pytest.mark.parametrize("file", ["/etc/passwd", "../other.py", "a/../../b.py", "~/x.py", "https://a/b.py"])
def test_paths_that_lead_elsewhere_are_refused(project, file):
    project.write_text(CONFIG.replace("my_model.py", file))
    with pytest.raises(ConfigError, match="inside the config's folder"):
        user_config.load(project)
    if not file.startswith(("~", "https")):
        with pytest.raises(user_code.CodeFileError, match="leads elsewhere"):
            user_code.resolve(file, project.parent)


def test_a_link_that_leads_elsewhere_is_refused(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "my_model.py"
    outside.write_text(CODE)
    (project.parent / "my_model.py").unlink()
    (project.parent / "my_model.py").symlink_to(outside)
    result = caucus(project, "--allow-code")
    assert result.exit_code == 2
    assert "a link that leads elsewhere" in result.stderr


def test_only_the_bytes_that_were_hashed_are_executed(project):
    path, sha256 = user_code.resolve("my_model.py", project.parent)
    (project.parent / "my_model.py").write_text(CODE + "\n# another\n")
    with pytest.raises(user_code.CodeFileError, match="another content"):
        user_code.load(path, sha256)


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("MODEL = 3", "MODEL of type int"),
        ("", "MODEL of type NoneType"),
        ("(", "SyntaxError"),
    ],
)
def test_a_file_without_a_model_is_an_error_with_its_name(project, code, match):
    (project.parent / "my_model.py").write_text(code)
    result = caucus(project, "--allow-code")
    assert result.exit_code == 2
    assert match in result.stderr
    assert "my_model.py" in result.stderr


def test_errors_pickle():
    for error in (user_code.CodeNotAllowedError("m.py"), user_code.CodeFileError("m.py", "this", "that")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert type(again) is type(error)
        assert str(again) == str(error)


# ---- what is read ----


def test_a_misspelt_key_names_the_right_one(project):
    project.write_text(CONFIG.replace("shard_draws", "shard_draw"))
    with pytest.raises(ConfigError, match="Did you mean `shard_draws`"):
        user_config.load(project)


def test_shards_together_are_refused(project):
    with pytest.raises(ConfigError, match=r"'shards_per_task' is 2 with a model of your own; expected 1"):
        user_config.load(project, ["run.shards_per_task=2"])


def test_an_absent_column_is_an_error(project):
    result = caucus(project, "--allow-code", "--set", "data.columns=[state, yy]")
    assert result.exit_code == 2
    assert "no column 'yy'" in result.stderr


def test_levels_that_are_people_are_refused_and_not_told(project):
    file = project.parent / "rows.parquet"
    table = pq.read_table(file).to_pydict()
    pq.write_table(pa.table(table | {"state": ["zqx@example.org", *table["state"][1:]]}), file)
    result = caucus(project, "--allow-code", "--debug")
    assert result.exit_code == 2
    assert "1 of 7 levels that look like an e-mail address" in result.stderr
    assert "zqx" not in result.output


def test_guides_of_the_config_are_those_of_the_fit():
    from fitting import user_tilted

    assert get_args(user_config.Guide) == user_tilted.GUIDES


# ---- runs ----


def finished(project, executor, directory):
    settings = ("--set", f"run.executor={executor}", "--set", f"run.directory={directory}")
    return caucus(project, "--allow-code", *settings)


def test_a_run_is_audited_resumes_and_reads_no_other_column(project, monkeypatch):
    result = finished(project, "serial", "out")
    assert result.exit_code == 0, result.stderr
    assert "verdict: pass" in result.stdout
    out = project.parent / "out"
    audit = json.loads((out / "audit.json").read_bytes())
    assert [shard["shard_id"] for shard in audit["shards"]] == ["R0", "R1"]
    draws, coords = posterior.variables(posterior.read_posterior(out / "posterior.nc"))
    assert draws["mu"].values.shape == (2, 100)
    assert draws["effect"].dims == ("state",)
    assert coords["state"] == [f"S{s}" for s in range(6)]
    assert not any(b"somebody" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert "redone" in finished(project, "serial", "out").stdout
    before = {path.name: path.read_bytes() for path in (out / "sites").glob("*.round-*.arrow")}
    (out / "sites" / "R0.round-01.arrow").unlink()
    (out / "sites" / "rounds.json").unlink()
    fitted = []
    from cluster import user_tasks

    whole = user_tasks.user_tilted.fit
    monkeypatch.setattr(user_tasks.user_tilted, "fit", lambda *a, **k: fitted.append(a) or whole(*a, **k))
    assert finished(project, "serial", "out").exit_code == 0
    assert len(fitted) == 1, "only the site that is gone is fitted again"
    assert {path.name: path.read_bytes() for path in (out / "sites").glob("*.round-*.arrow")} == before


@pytest.mark.ray
def test_serial_and_ray_give_the_same_bytes(project):
    for executor in ("ray", "serial"):
        result = finished(project, executor, executor)
        assert result.exit_code == 0, result.stderr
    for name in ("posterior.nc", "summary.parquet", "audit.json", "sites/R1.arrow"):
        assert (project.parent / "ray" / name).read_bytes() == (project.parent / "serial" / name).read_bytes(), name
