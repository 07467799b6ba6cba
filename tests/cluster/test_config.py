"""A config is read whole, and every fault in it is told with its line."""

import itertools
import pickle
from pathlib import Path

import pytest

from cluster import config, errors
from cluster.errors import ConfigError

GOOD = """\
name: turnout
data:
  source: voters/*.parquet
  outcome: {voted: voted}
  terms_of_use: synthetic
model:
  formula: voted ~ 1 + female + (1 | state)
  family: binomial
run: {seed: 3, executor: serial}
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return file

    return write


def faults(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(file, overrides)
    return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]


def test_relative_paths_start_at_the_file(write, tmp_path: Path):
    loaded = config.load(write(GOOD))
    assert loaded.config.data.source == (f"{tmp_path}/voters/*.parquet",)
    assert loaded.config.run.directory == f"{tmp_path}/runs/turnout"
    absolute = config.load(write(GOOD.replace("voters/*.parquet", "s3://bucket/*.parquet")))
    assert absolute.config.data.source == ("s3://bucket/*.parquet",)


def test_overrides_are_yaml_and_win(write):
    settings = ["model.priors.sd=half_normal(2)", "run.seed=9", "fit={method: laplace, rounds: 4}"]
    loaded = config.load(write(GOOD), settings)
    assert loaded.config.model.priors == {"sd": "half_normal(2)"}
    assert loaded.config.run.seed == 9
    assert (loaded.config.fit.method, loaded.config.fit.rounds) == ("laplace", 4)
    assert loaded.overrides == tuple(settings)


def test_the_resolved_config_reads_back_the_same(write, tmp_path: Path):
    loaded = config.load(write(GOOD), ["model.priors.sd=half_normal(2)", "poststratify.by=[state, race/age]"])
    text = config.dump(loaded)
    again = tmp_path / "again"
    again.mkdir()
    (again / "run.yaml").write_text(text)
    assert config.load(again).config == loaded.config
    assert "--set model.priors.sd=half_normal(2)" in text
    assert loaded.config.poststratify.by == ("state", "race:age")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("  family:", "  famly:"),
            "8: `model.famly`: expected a known key, found the unknown key 'famly'. Did you mean",
        ),
        (
            ("binomial", "binom"),
            "8: `model.family`: expected one of 'bernoulli', 'binomial', 'beta_binomial', ",
        ),
        (
            ("run:", "rounds: 3\nrun:"),
            "9: `rounds`: expected a known key, found the unknown key 'rounds'. Did you mean `fit",
        ),
        (
            ("run:", "fit: {method: nut}\nrun:"),
            "9: `fit.method`: expected one of 'vi', 'laplace', 'nuts', 'exact', 'classic', found nut",
        ),
        (("seed: 3", "seed: -1"), "9: `run.seed`: expected greater than or equal to 0, found -1"),
        (("serial", "rey"), "9: `run.executor`: expected serial, ray, auto"),
        (("seed: 3", "directory: 'https3://x'"), "9: `run.directory`: expected a path, or a URL such as s3://"),
        (("seed: 3", "directory: 's3://key:secret@x/y'"), "9: `run.directory`: expected a URL without secrets, found a password before the host"),
        (("name: turnout", "name: 07"), '1: `name`: expected a valid string, found 07. Quote it: "07"'),
        (
            ("model:", "  columns: {county: {levels: [01, '03']}}\nmodel:"),
            "6: `data.columns.county.levels.0`: expected text, f",
        ),
        (("name: turnout", "name: a/b"), "1: `name`: expected"),
        (("name: turnout\n", ""), "1: `name`: expected this key, found nothing"),
        (("voted ~ 1", "voted ~ exp(x)"), "7: `model.formula`: formula 'voted ~ exp(x)"),
        (("run:", "poststratify: {interval: 2}\nrun:"), "9: `poststratify.interval`: expected less than 1, found 2"),
        (("run:", "poststratify: {frame: f.csv}\nrun:"), "9: `poststratify`: expected `count` with a frame"),
        (("run:", "poststratify: {by: [mean, 'state:q05']}\nrun:"), "9: `poststratify.by`: ['mean', 'q05'] are columns that"),
        (("run:", "poststratify: {by: ['state:']}\nrun:"), "9: `poststratify.by`: 'state:' is not a margin"),
        (("run:", "poststratify: {by: ['state:voted']}\nrun:"), "9: `poststratify.by`: poststratify: 'by' has the outcome 'voted'"),
        (("binomial", "binomial\n  priors: {sx: 'normal(0, 1)'}"), "9: `model.priors.sx`: priors: 'sx' is neither"),
        (
            ("binomial", "binomial\n  priors: {b: normal(0, 1)}"),
            "9: `model.priors.1)`: expected a key, found half a brac",
        ),
    ],
)
def test_a_fault_is_told_with_its_line(write, change: tuple[str, str], expected: str):
    assert change[0] in GOOD
    found = faults(write(GOOD.replace(*change, 1)))
    assert any(line.startswith(expected) for line in found), "\n".join(found)


def test_margins_keep_the_blanks_inside_a_name(write):
    loaded = config.load(write(GOOD), ["poststratify.by=[home state, 'race / home state', '`a:b`', 'a:b']"])
    assert loaded.config.poststratify.columns == {
        "all": (), "home state": ("home state",), "race:home state": ("race", "home state"), "`a:b`": ("a:b",), "a:b": ("a", "b"),
    }  # fmt: skip


def test_all_faults_are_told_at_once_in_the_order_of_the_file(write):
    text = GOOD.replace("binomial", "binom").replace("seed: 3", "sed: 3, workers: 0")
    assert [line.split(":")[0] for line in faults(write(text))] == ["8", "9", "9"]


def test_a_fault_of_an_override_names_the_override(write):
    (found,) = faults(write(GOOD), "fit.dampng=0.5")
    assert found.startswith("--set fit.dampng=0.5: `fit.dampng`: ")
    assert found.endswith("Did you mean `damping`?")
    (found,) = faults(write(GOOD), "damping")
    assert "a.b.c=value" in found
    (found,) = faults(write(GOOD), "name.first=x")
    assert "expected a section with keys" in found


def test_shards_together_are_refused_where_they_would_not_be(write):
    assert config.load(write(GOOD), ["run.shards_per_task=3", "fit.method=nuts"]).config.run.shards_per_task == 3
    assert config.load(write(GOOD), ["fit.method=classic"])
    (found,) = faults(write(GOOD), "run.shards_per_task=3", "fit.method=classic")
    assert found.startswith("--set run.shards_per_task=3: `run.shards_per_task`: ")
    assert "is 3 with the method classic; expected 1" in found


def test_secrets_are_not_repeated(write):
    text = GOOD.replace("binomial", "binomial\n  priors: {secret_token: [hunter2]}")
    assert "hunter2" not in "\n".join(faults(write(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: expected keys such as"),
        ("- 1\n", "1: expected keys such as `name:` and `data:` at the top, found a list"),
        ("name: x\nname: y\n", "2: `name`: expected the key once"),
        ("name: [1, 2\ndata: 3\n", "2: expected YAML that can be read"),
        ("name: !!python/object/apply:os.system [ls]\n", "1: `name`: expected a value without a tag"),
        ("name: !!python/name:os.system x\n", "1: `name`: expected a value without a tag"),
        ("a: &a {b: 1}\nc: {<<: *a}\n", "2: `c`: expected plain keys"),
        ("a: &a [*a]\n", "1: `a`: expected at most"),
        ("a: " + "[" * 500_000, "1: expected at most 50 levels"),
        ("a: !!int x\n", "1: `a`: expected a value of type int"),
        ("a: \x00\n", " expected YAML that can be read"),
        ("a: " + "x" * (1 << 20), " expected at most 1,048,576 bytes, found a larger file"),
    ],
)
def test_hostile_yaml_is_refused(write, text: str, expected: str):
    assert faults(write(text))[0].startswith(expected)


def test_aliases_cannot_grow_a_small_file(write):
    names = "abcdefghij"
    lines = [f"{new}: &{new} [{', '.join(['*' + old] * 10)}]" for old, new in itertools.pairwise(names)]
    (found,) = faults(write("\n".join(["a: &a [1, 1]", *lines])))
    assert "expected at most 100,000 values" in found


def test_files_that_cannot_be_read(tmp_path: Path):
    assert "no such file" in faults(tmp_path / "absent.yaml")[0]
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    assert "not UTF-8" in faults(tmp_path / "latin.yaml")[0]


ARGUMENTS = {
    "ConfigError": ((errors.Problem("run.yaml:1", "name", "1", "a string", "Quote it"),),),
    "WorkerDiedError": (4, "OutOfMemoryError"),
    "AuditFailedError": ("report.html",),
    "MemoryProjectionError": (2**30, 2**20, "one shard", "Lower it."),
    "RunDirectoryError": ("runs/x", "another run", "Choose another."),
    "RunDirectoryLockedError": ("runs/x", "busy", "Wait."),
    "StageError": ("fit", "no shards", "Run it."),
    "MissingExtraError": ("ray", "run.executor", "set serial"),
    "ShardTooLargeError": (2, 1 << 30),
    "ClusterTooSmallError": (1 << 34, 1 << 30, 600.0),
    "JobError": ("attempt 1 is running", "Wait.", 4),
    "InsecureClusterError": ("http://10.0.0.7:8265",),
    "ClusterUnreachableError": ("ray://x:1", "no answer"),
    "CodeDiffersError": ("node-1", "0.1.0 (0123)", "0.2.0 (4567)"),
    "NotSharedError": ("node-1", "'/runs/x/dictionary.json'"),
    "CodeMissingError": ("ray://x:1", "cluster"),
    "TokenRefusedError": ("ray://x:1",),
    "MetricsError": ("CAUCUS_METRICS_ADDRESS", "x", "a port", "Unset it."),
    "FrameError": ("census.csv", "no column n", "the column n"),
    "TaskError": ("KeyError", "'x'"),
    "PublishError": ("public", "is a file", "Name a folder: --to."),
    "UpdateError": ("run", "has no finished run", "Run `caucus run` first."),
}


def test_every_error_crosses_processes():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ClusterError)]
    for kind in kinds:
        if kind is not errors.ClusterError:
            error = kind(*ARGUMENTS[kind.__name__])
            again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
            assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


@pytest.mark.parametrize("given", ["folder", "file", "folder/"])
def test_a_copied_run_directory_is_itself(write, tmp_path: Path, given: str):
    loaded = config.load(write(GOOD))
    copy = tmp_path / "elsewhere" / "copy"
    copy.mkdir(parents=True)
    (copy / "run.yaml").write_text(config.dump(loaded))
    (copy / "manifest.json").write_text("{}")
    place = {"folder": str(copy), "file": str(copy / "run.yaml"), "folder/": f"{copy}/"}[given]
    assert config.load(place).config.run.directory == str(copy)
    assert config.load(place, ["run.directory=third"]).config.run.directory == str(copy / "third")
    assert config.load(place).config.data == loaded.config.data


def test_a_resolved_config_that_is_in_no_run_directory_keeps_its_own(write, tmp_path: Path):
    """So is a job's, in the folder that it was sent with."""
    loaded = config.load(write(GOOD))
    write(config.dump(loaded))
    assert config.load(tmp_path).config.run.directory == loaded.config.run.directory
    (tmp_path / "manifest.json").write_text("{}")  # of another tool, beside a config that a person wrote
    assert config.load(write(GOOD)).config.run.directory == loaded.config.run.directory
