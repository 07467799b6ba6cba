"""Cells that belong to several levels: designs, sites and posteriors against dense algebra."""

import numpy as np
import pytest
from pydantic import ValidationError

from fitting import hierarchy, in_memory, sites
from fitting import tree as tr
from fitting.cell_design import CellDesign
from fitting.config import ModelConfig
from fitting.errors import ModelError
from fitting.structures.base import CONSTRAINT_SD
from fitting.tree import Tree

AREAS = tuple("abcde")
FORMULA = "y ~ 1 + (1 | state) + (1 | area)"
EQUAL = {"area": {"columns": ["area_1", "area_2"]}}
WEIGHTED = {"area": {"columns": ["area_1", "area_2"], "weights": ["share_1", "share_2"]}}


def movers(num_rows=160, seed=6):
    """People of two areas, now and then the same one; ``a`` is only in the first column, ``e`` only in the second."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 4, num_rows), rng.integers(1, 5, num_rows)
    share = rng.choice([0.2, 0.5, 0.9], num_rows)
    columns = {
        "area_1": np.array(AREAS)[first], "area_2": np.array(AREAS)[second], "share_1": share, "share_2": 1 - share,
        "state": np.array(["AL", "OH", "WY"])[rng.integers(0, 3, num_rows)],
    }  # fmt: skip
    effect = rng.normal(size=5)
    return columns, 0.5 + share * effect[first] + (1 - share) * effect[second] + 0.5 * rng.normal(size=num_rows)


def dense_design(names, columns, weighted):
    out = np.zeros((len(columns["state"]), len(names)))
    for j, name in enumerate(names):
        if name == "Intercept":
            out[:, j] = 1.0
        elif name.startswith("1|state"):
            out[:, j] = columns["state"] == name[8:-1]
        elif name:
            for column, share in (("area_1", "share_1"), ("area_2", "share_2")):
                out[:, j] += (columns[column] == name[7:-1]) * (columns[share] if weighted else 0.5)
    return out


def fit(columns, outcome, memberships, **options):
    cells = columns | {"num_trials": np.ones(len(outcome)), "sum_y": outcome, "squared_deviations": np.zeros(len(outcome))}
    return in_memory.fit(cells, FORMULA, family="gaussian", multi_membership=memberships, num_draws=2, **options)


@pytest.mark.parametrize("memberships", [EQUAL, WEIGHTED])
def test_the_posterior_is_that_of_dense_algebra(memberships, assert_gaussian_posterior_is_dense):
    columns, outcome = movers()
    run = fit(columns, outcome, memberships, shards=columns["state"])
    names = run.hierarchy.model.coefficient_names().tolist()
    assert run.hierarchy.names() == ["sd(1|state)", "sd(1|area)", "sigma"]
    assert [name for name in names if "area" in name] == [f"1|area[{area}]" for area in AREAS]
    design = dense_design(names, columns, memberships is WEIGHTED)
    scale_of = [0 if name.startswith("1|state") else 1 if name.startswith("1|area") else -1 for name in names]

    def prior_of(psi):
        own = np.array([np.exp(-2 * psi[g]) if g >= 0 else 0.0 for g in scale_of])
        return np.diag(np.where(run.hierarchy.model.is_padding, 1.0, own))

    assert_gaussian_posterior_is_dense(run, design, outcome, prior_of)
    with pytest.raises(AssertionError):  # the other weights are another model
        assert_gaussian_posterior_is_dense(run, dense_design(names, columns, memberships is EQUAL), outcome, prior_of)


def test_a_membership_can_have_a_structure(assert_gaussian_posterior_is_dense):
    columns, outcome = movers()
    run = fit(columns, outcome, WEIGHTED, chosen_priors={"1|area": {"structure": "sum_to_zero"}})
    names = run.hierarchy.model.coefficient_names().tolist()
    areas = [names.index(f"1|area[{area}]") for area in AREAS]
    unit = np.eye(5) - 0.2 + CONSTRAINT_SD**-2 / 25

    def prior_of(psi):
        states = np.exp(-2 * psi[0]) * np.array([name.startswith("1|state") for name in names])
        out = np.diag(np.where(run.hierarchy.model.is_padding, 1.0, states))
        out[np.ix_(areas, areas)] = unit * np.exp(-2 * psi[1])
        return out

    assert_gaussian_posterior_is_dense(run, dense_design(names, columns, True), outcome, prior_of)


def test_shards_add_up_to_the_whole_with_a_binary_outcome():
    """A shard that lacks levels, and cells with one level twice; sites of the whole and of its parts at the same place."""
    columns, outcome = movers()
    cells = columns | {"num_trials": np.ones(160), "num_successes": (outcome > 0.5).astype(float)}
    config = ModelConfig(formula=FORMULA, family="binomial", multi_membership=WEIGHTED)
    coding, coded = in_memory.code(cells, config.parsed_formula(), cells, roles=config.data_columns())
    built = hierarchy.of_config(config, coding).model
    rng = np.random.default_rng(1)
    mean, spread = rng.normal(size=built.tree.num_coefficients), np.zeros(built.tree.num_entries)
    spread[built.tree.diagonal] = 0.3

    def site_of(rows):
        design = built.design(
            {n: v[rows] for n, v in coded.items()}, {n: cells[n][rows] for n in ("num_trials", "num_successes")}
        )
        return sites.fit(built.tree, design, built.family, mean, spread, num_nodes=9)

    whole, parts = site_of(np.arange(160)), [site_of(np.flatnonzero(coded["area_1"] == a)) for a in range(4)]
    np.testing.assert_allclose(sum(p.precision for p in parts), whole.precision, atol=1e-10)
    np.testing.assert_allclose(sum(p.shift for p in parts), whole.shift, atol=1e-10)


def repeated(seed=0, num_cells=50):
    """Cells with nonzeros that are, in some cells, one coefficient twice or three times: at the root and in a leaf."""
    rng = np.random.default_rng(seed)
    tree = Tree((4, 2), (np.zeros(3, dtype=int),))
    node = rng.integers(0, 3, num_cells)
    leaves = [4 + 2 * node + rng.integers(0, 2, num_cells) for _ in range(2)]
    root = [rng.integers(0, 3, num_cells) for _ in range(3)]
    places = (*leaves, *root, np.full(num_cells, 3))
    values = (rng.normal(size=num_cells), None, *rng.normal(size=(2, num_cells)), None, None)
    dense = np.zeros((num_cells, tree.num_coefficients))
    for place, value in zip(places, values, strict=True):
        np.add.at(dense, (np.arange(num_cells), place), 1.0 if value is None else value)
    return tree, CellDesign(places, values, (0,) * len(places), {}), dense, rng


def assert_algebra(tree, design, dense, rng):
    root = rng.normal(size=(tree.num_coefficients,) * 2)
    covariance, weight = root @ root.T, rng.uniform(size=len(dense))
    mean = rng.normal(size=tree.num_coefficients)
    np.testing.assert_allclose(sites.predictor_mean(design, mean)[0], dense @ mean)
    np.testing.assert_allclose(sites.matrices(design, len(mean))[0].toarray(), dense)
    np.testing.assert_allclose(sites.transpose_multiply(tree, design, weight[None]), dense.T @ weight)
    np.testing.assert_allclose(
        sites.predictor_covariance(tree, design, tr.from_dense(tree, covariance))[0, 0],
        np.einsum("ni,ij,nj->n", dense, covariance, dense),
    )
    np.testing.assert_allclose(
        tr.dense(tree, sites.information(tree, design, weight[None, None])),
        dense.T @ (weight[:, None] * dense),
        atol=1e-12,
    )


@pytest.mark.parametrize("at_once", [7, sites.CELLS_AT_ONCE], ids=["in runs of cells", "all cells at once"])
def test_a_coefficient_twice_in_a_cell_counts_with_the_sum_of_its_values(at_once, monkeypatch):
    monkeypatch.setattr(sites, "CELLS_AT_ONCE", at_once)
    tree, design, dense, rng = repeated()
    assert_algebra(tree, design, dense, rng)
    last = np.zeros_like(dense)  # the last of its values instead
    for place, value in zip(design.places, design.values, strict=True):
        last[np.arange(len(dense)), place] = 1.0 if value is None else value
    with pytest.raises(AssertionError):
        assert_algebra(tree, design, last, rng)


def test_one_level_twice_is_one_nonzero_and_weights_can_be_numbers():
    columns, outcome = movers()
    numbers = {"area": {"columns": ["area_1", "area_2"], "weights": [0.75, 0.25]}}
    run = fit(columns, outcome, numbers)
    names = run.hierarchy.model.coefficient_names().tolist()
    design = run.designs[0]
    whole = sites.matrices(design, len(names))[0].toarray()
    expected = dense_design(names, columns | {"share_1": np.full(160, 0.75), "share_2": np.full(160, 0.25)}, True)
    np.testing.assert_allclose(whole, expected[:, run.restrictions[0].coefficients])
    same = columns["area_1"] == columns["area_2"]
    assert same.any()
    present = np.stack([v for v in design.values if v is not None])
    np.testing.assert_array_equal(np.sort(present[:, same], axis=0)[0], 0.0)
    assert (present[:, ~same] > 0).all()


@pytest.mark.parametrize(
    ("formula", "memberships", "message"),
    [
        ("y ~ 1 + (1 | state)", EQUAL, "in the formula"),
        ("y ~ 1 + (1 | state:area)", EQUAL, "in the formula"),
        ("y ~ 1 + area + (1 | area)", EQUAL, "nowhere else"),
        (FORMULA, {"area": {"columns": ["area_1"]}}, "at least 2"),
        (FORMULA, {"area": {"columns": ["area_1", "area_1"]}}, "twice"),
        (FORMULA, {"area": {"columns": ["area", "area_1"]}}, "among its own columns"),
        (FORMULA, {"area": {"columns": ["area_1", "area_2"], "weights": ["share_1"]}}, "1 weights for 2 columns"),
        (FORMULA, {"area": {"columns": ["area_1", "area_2"], "weights": [1.5, -0.5]}}, "numbers from 0"),
    ],
)
def test_a_membership_that_cannot_be_is_refused(formula, memberships, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate({"formula": formula, "family": "gaussian", "multi_membership": memberships})


def test_a_level_that_the_data_do_not_have_is_refused():
    columns, outcome = movers()
    run = fit(columns, outcome, EQUAL)
    codes = {"state": np.zeros(2, dtype=int), "area_1": np.array([0, -1]), "area_2": np.zeros(2, dtype=int)}
    with pytest.raises(ModelError, match="column 'area_1': found 1 cells"):
        run.hierarchy.model.design(codes, {}, [])
