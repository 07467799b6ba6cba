"""Draws in the posterior file: written and read in parts, in any parts the same; estimates made where the people are."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cluster import margin_tables, posterior_files
from cluster.margin_tables import MarginSums
from cluster.posterior_files import Part, StoredDraws
from fitting import combiner, in_memory
from fitting.audit import importance
from fitting.local_importance import local
from fitting.scale_source import Source
from reporting import draws_file, posterior, tables

FORMULA = "y ~ 1 + x + (1 + x | g) + (1 | g:h)"
SIZES = {"num_chains": 2, "num_draws": 30}


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(3)
    g, h, x = rng.integers(0, 5, 300), rng.integers(0, 4, 300), rng.integers(0, 2, 300).astype(float)
    columns = {"g": np.array([f"g{i}" for i in g]), "h": np.array([f"h{i}" for i in h]), "x": x}
    cells = {**columns, "num_trials": np.ones(300), "num_successes": (rng.random(300) < 0.5).astype(float)}
    fitted = in_memory.fit(cells, FORMULA, num_draws=30, num_chains=2, seed=4)
    draws = combiner.draw(fitted.hierarchy, fitted.natural, fitted.proposal, **SIZES, seed=4)  # as often as they come, once
    return fitted._replace(draws=draws)


def written(run, directory: Path, numbers_at_once: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(posterior_files, "NUMBERS_AT_ONCE", numbers_at_once)
    directory.mkdir()
    source = Source(run.hierarchy, run.natural, run.proposal, **SIZES, seed=4)
    parts = posterior_files.parts_in_turn(run.hierarchy, run.natural, source, min_ess=0, threads=2)
    posterior_files.write(str(directory), run.hierarchy, parts, "test", **SIZES)
    return directory


def test_parts_of_any_size_give_the_same_bytes(run, tmp_path, monkeypatch):
    size = run.hierarchy.model.tree.num_coefficients
    folders = [written(run, tmp_path / str(n), n, monkeypatch) for n in (1, 7 * size, 1 << 23)]
    assert len({(f / "posterior.nc").read_bytes() for f in folders}) == 1
    assert len({(f / "summary.parquet").read_bytes() for f in folders}) == 1
    assert sorted(p.name for p in folders[0].iterdir()) == ["posterior.nc", "summary.parquet"]


def test_what_is_written_is_what_was_drawn(run, tmp_path, monkeypatch):
    directory = str(written(run, tmp_path / "run", 100, monkeypatch))
    stored = StoredDraws(directory, run.hierarchy)
    flat = run.draws.theta.reshape(60, -1).copy()
    flat[:, run.hierarchy.model.is_padding] = 0.0
    np.testing.assert_array_equal(stored[:, :], flat)
    np.testing.assert_array_equal(stored.psi, run.draws.psi.reshape(60, -1))
    np.testing.assert_array_equal(stored.acceptance, run.draws.acceptance)
    kept, places = np.array([0, 3, 29, 30, 59]), np.array([1, 0, flat.shape[1] - 1, 4])
    some = StoredDraws(directory, run.hierarchy, kept)
    assert some.shape == (5, flat.shape[1])
    np.testing.assert_array_equal(some[:, places], flat[np.ix_(kept, places)])
    np.testing.assert_array_equal(some[1:3, 2:6], flat[kept][1:3, 2:6])
    names = run.hierarchy.model.coefficient_names().tolist()
    draws, coords = posterior.variables(posterior.read_posterior(Path(directory) / "posterior.nc"))
    effect = draws["x|g"].values[..., coords["g"].index("g2")].reshape(-1)
    np.testing.assert_array_equal(effect, flat[:, names.index("x|g[g2]")])
    np.testing.assert_allclose(draws["sd(1|g)"].values.reshape(-1), np.exp(stored.psi[:, 0]))
    summary = tables.read_table(f"{directory}/summary.parquet").to_pylist()
    found = next(row for row in summary if row["parameter"] == "x|g[g2]")
    np.testing.assert_allclose(found["mean"], effect.mean())
    scalars = posterior.read_posterior(Path(directory) / "posterior.nc", only_scalars=True)["posterior"]
    assert "sd(1|g)" in scalars
    assert "x|g" not in scalars
    assert dict(scalars.sizes) == {"chain": 2, "draw": 30}


def test_the_audit_of_stored_draws_is_that_of_draws_in_memory(run, tmp_path, monkeypatch):
    stored = StoredDraws(str(written(run, tmp_path / "run", 100, monkeypatch)), run.hierarchy)
    flat = run.draws.theta.reshape(60, -1).copy()
    flat[:, run.hierarchy.model.is_padding] = 0.0
    restrictions = [run.hierarchy.model.tree.restrict([np.array([s])]) for s in range(5)]
    ratios = 0.6 * np.random.default_rng(0).normal(size=(5, 60))
    together = importance(ratios.sum(axis=0), flat)
    for a, b in zip(local(ratios, restrictions, stored, together), local(ratios, restrictions, flat, together), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_memory_does_not_grow_with_the_draws(tmp_path, monkeypatch):
    """4,000 levels x 600 draws are 19 MB; neither writing, summarising nor reading a shard's part takes half of that."""
    rng, levels = np.random.default_rng(0), 4_000
    g = np.array([f"g{i:04d}" for i in range(levels)])
    cells = {"g": g, "num_trials": np.full(levels, 9.0), "num_successes": rng.integers(0, 10, levels).astype(float)}
    run = in_memory.fit(cells, "y ~ 1 + (1 | g)", num_draws=4, num_chains=1, num_rounds=1)
    size = run.hierarchy.model.tree.num_coefficients
    monkeypatch.setattr(posterior_files, "NUMBERS_AT_ONCE", 1 << 16)
    parts = (
        Part(chain, begin, rng.normal(size=(20, size)), rng.normal(size=(20, 1)), np.ones(20, dtype=bool))
        for chain in range(2)
        for begin in range(0, 300, 20)
    )
    tracemalloc.start()
    monkeypatch.setattr("reporting.summary.PARAMETERS_PER_BLOCK", 100)
    posterior_files.write(str(tmp_path), run.hierarchy, parts, "test", num_chains=2, num_draws=300)
    stored = StoredDraws(str(tmp_path), run.hierarchy)
    assert stored[:, np.arange(1, 500)].shape == (600, 499)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "posterior.nc").stat().st_size > 600 * levels * 8
    assert peak < 0.5 * 600 * levels * 8


LEVELS = {"a": [f"a{i}" for i in range(4)], "b": [f"b{i}" for i in range(6)]}
MARGIN, SHAPE = ("a", "b"), (2, 10)
NUMBER = margin_tables.Categories("y", ())


def sums(codes: list[list[int]], seed: int) -> MarginSums:
    rng = np.random.default_rng(seed)
    rows = rng.integers(2, 9, len(codes)).astype(float)
    expected = rows[:, None, None] * rng.random((len(codes), 1, 20))
    return MarginSums(np.array(codes), expected, rows, rows - 1, (rows // 2)[:, None], rows - 1)


def estimated(shards: list[MarginSums], shared_by_all: bool):
    from cluster.estimates import _add

    alone = margin_tables.alone([s.codes for s in shards])
    if shared_by_all:
        alone = [np.zeros_like(a) for a in alone]
    made = [
        margin_tables.summarise(MARGIN, LEVELS, s.some(np.flatnonzero(a)), SHAPE, 0.9, NUMBER)
        for s, a in zip(shards, alone, strict=True)
    ]
    total = _add([s.some(np.flatnonzero(~a)) for s, a in zip(shards, alone, strict=True)])
    return margin_tables.join([*made, margin_tables.summarise(MARGIN, LEVELS, total, SHAPE, 0.9, NUMBER)]), alone


def test_groups_summarised_where_they_are_give_the_same_table():
    shards = [sums([[0, 1], [0, 2], [3, 0]], 1), sums([[0, 2], [2, 5]], 2), sums([[1, 0]], 3)]
    table, alone = estimated(shards, False)
    assert [a.tolist() for a in alone] == [[True, False, True], [False, True], [True]]
    together, _ = estimated(shards, True)
    assert table.equals(together)
    assert list(zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True)) == [
        ("a0", "b1"), ("a0", "b2"), ("a1", "b0"), ("a2", "b5"), ("a3", "b0"),
    ]  # fmt: skip
    both = shards[0].expected[1] + shards[1].expected[0]
    rows = shards[0].num_rows[1] + shards[1].num_rows[0]
    np.testing.assert_allclose(table["mean"][1].as_py(), both.mean() / rows)
    assert table["num_rows"][1].as_py() == rows


def test_a_margin_that_shards_share_wholly_or_not_at_all():
    alike = [sums([[0, 1], [1, 1]], 1), sums([[0, 1], [1, 1]], 2)]
    assert not any(a.any() for a in margin_tables.alone([s.codes for s in alike]))
    assert estimated(alike, False)[0].num_rows == 2
    apart = [sums([[0, 1]], 1), sums([[1, 1]], 2)]
    assert estimated(apart, False)[0].num_rows == 2
    whole, which = margin_tables.groups_of({}, (), [], 5)
    assert whole.tolist() == [[0]]
    assert which.tolist() == [0] * 5


def test_names_that_netcdf_does_not_take_come_back(tmp_path):
    """Columns called like dimensions and parameters, levels with slashes, percents, brackets, colons and NUL."""
    rng = np.random.default_rng(5)
    size = 240
    levels = np.array(["HS/GED", "50%", "a:b", "[c]", 'say "x|y"', "(missing)"])
    nul = np.array(["n\0l", "null"])
    columns = {
        "draw": rng.normal(5, 1, size), "chain": rng.choice(nul, size), "sigma": rng.integers(0, 9, size),
        "educ": rng.choice(levels, size), "Intercept": rng.normal(size=size),
    }  # fmt: skip
    outcome = 2.0 + columns["draw"] + 0.3 * columns["sigma"] + rng.normal(size=size)
    cells = columns | {"num_trials": np.ones(size), "sum_y": outcome, "squared_deviations": np.zeros(size)}
    text = "y ~ 1 + draw + educ + Intercept + sigma + (1 | chain) + (1 + draw | educ:chain) + (1 | sigma)"
    run = in_memory.fit(cells, text, family="gaussian", num_draws=30, num_chains=2)
    posterior_files.write(str(tmp_path), run.hierarchy, posterior_files.parts_of(run.draws), "test", **SIZES)
    stored = StoredDraws(str(tmp_path), run.hierarchy)
    real = ~run.hierarchy.model.is_padding
    flat = run.draws.theta.reshape(60, -1)
    np.testing.assert_array_equal(stored[:, np.flatnonzero(real)], flat[:, real])
    np.testing.assert_array_equal(stored.psi, run.draws.psi.reshape(60, -1))
    draws, coords = posterior.variables(posterior.read_posterior(tmp_path / "posterior.nc"))
    assert {"Intercept", "`Intercept`", "sigma", "`sigma`", "draw", "educ[HS/GED]", "educ[50%]", "1|chain", "1|sigma"} <= {*draws}
    assert {"chain_dim", "sigma_dim", "educ:chain"} <= {*coords}
    np.testing.assert_allclose(draws["sigma"].values, np.exp(run.draws.psi[..., -1]))
    table = tables.from_parquet((tmp_path / "summary.parquet").read_bytes(), "summary")
    parameters = table["parameter"].to_pylist()
    assert len({*parameters}) == len(parameters)
    assert "1|educ:chain[a\\:b:null]" in parameters
    assert "1|chain[n\0l]" in parameters


@pytest.mark.parametrize("name", ["educ[HS/GED]", "50%", "a%2Fb", "draw", "%64raw", ".", "x y", "n\0l", "1|g:h"])
def test_names_in_files_are_each_their_own(name):
    in_file = draws_file.file_name(name)
    assert "/" not in in_file
    assert in_file not in draws_file.SAMPLE_DIMS
    assert draws_file.true_name(in_file) == name
