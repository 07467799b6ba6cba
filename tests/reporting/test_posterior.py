"""The posterior file: ArviZ reads it, types and names survive, and the same draws give the same bytes."""

import hashlib
import pickle
import subprocess
import sys
import time

import arviz_base
import numpy as np
import pytest

from reporting.errors import DrawsError, RunDirectoryError, TableError
from reporting.posterior import Variable, read_posterior, variables, write_posterior


def small_draws():
    rng = np.random.default_rng(3)
    draws = {
        "Intercept": Variable((), rng.normal(size=(2, 10))),
        "1|state": Variable(("state",), rng.normal(size=(2, 10, 3))),
        "sd(1|state)": Variable((), rng.gamma(2, size=(2, 10))),
        "1|state:county": Variable(("state:county",), rng.normal(size=(2, 10, 2))),
    }
    return draws, {"state": ["OH", "01", 'A<b>"é'], "state:county": ["OH:39001", "OH:39003"]}


def test_arviz_reads_names_labels_and_types():
    draws, coords = small_draws()
    stats = {"diverging": Variable((), np.zeros((2, 10), np.int8))}
    tree = read_posterior(write_posterior(draws, coords, {"run": "demo"}, stats))
    assert arviz_base.convert_to_datatree(tree).children.keys() == {"posterior", "sample_stats"}
    assert list(tree["posterior"].data_vars) == list(draws)
    assert tree["posterior"]["1|state"].dims == ("chain", "draw", "state")
    assert [str(label) for label in tree["posterior"]["state"].values] == coords["state"]
    assert tree["posterior"]["1|state"].sel(state="01").values.tolist() == draws["1|state"].values[..., 1].tolist()
    assert tree["sample_stats"]["diverging"].dtype == np.int8
    assert tree["posterior"]["Intercept"].dtype == np.float64
    assert tree.attrs["run"] == "demo"
    assert arviz_base.extract(tree)["1|state"].sizes == {"state": 3, "sample": 20}
    again, labels = variables(tree)
    assert labels == coords
    for name, variable in draws.items():
        assert again[name].dims == variable.dims
        np.testing.assert_array_equal(again[name].values, variable.values)


SCRIPT = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_posterior import small_draws
from reporting.posterior import write_posterior
print(hashlib.sha256(write_posterior(*small_draws(), {"seed": 1})).hexdigest())
"""


def test_bytes_are_the_same_in_another_process_and_second(request):
    content = write_posterior(*small_draws(), {"seed": 1})
    time.sleep(1.1)
    folder = str(request.path.parent)
    other = subprocess.run([sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(content).hexdigest()
    assert write_posterior(*small_draws(), {"seed": 2}) != content


def test_a_nation_is_written_fast():
    labels = [f"S:{i:05d}" for i in range(3700)]
    draws = {"1|state:county": Variable(("state:county",), np.random.default_rng(0).normal(size=(4, 250, 3700)))}
    start = time.process_time()
    content = write_posterior(draws, {"state:county": labels}, {})
    assert time.process_time() - start < 2
    assert read_posterior(content)["posterior"]["1|state:county"].shape == (4, 250, 3700)


@pytest.mark.parametrize(
    ("name", "variable", "found"),
    [
        ("x", Variable(("state",), np.zeros((2, 10, 4))), "3 labels"),
        ("x", Variable(("race",), np.zeros((2, 10, 4))), "no labels"),
        ("x", Variable((), np.zeros((2, 9))), "shape"),
        ("x", Variable((), np.zeros((2, 10, 3))), "shape"),
        ("", Variable((), np.zeros((2, 10))), "no name"),
        ("state", Variable(("state",), np.zeros((2, 10, 3))), "a dimension"),
    ],
)
def test_what_does_not_fit_is_named(name, variable, found):
    draws, coords = small_draws()
    with pytest.raises(DrawsError, match=found) as caught:
        write_posterior({**draws, name: variable}, coords, {})
    assert caught.value.variable == name


def test_unreadable_files_say_where(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"posterior\.nc"):
        read_posterior(tmp_path / "posterior.nc")
    content = write_posterior(*small_draws(), {})
    for broken in (b"", b"not a file", content[: len(content) // 2]):
        with pytest.raises(RunDirectoryError, match="no readable netCDF"):
            read_posterior(broken)


@pytest.mark.parametrize("kind", [DrawsError, TableError, RunDirectoryError])
def test_errors_cross_processes(kind):
    error = kind("where", "found", "expected", "Do this.")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert str(again) == str(error)
    for part in ("where", "found", "expected", "Do this."):
        assert part in str(error)
