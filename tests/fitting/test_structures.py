"""Structured priors against closed forms in dense algebra, inside a posterior, and moved from one layout to another."""

import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from scipy import integrate

from fitting import families, hierarchy, in_memory, relayout, sites
from fitting.config import ModelConfig
from fitting.errors import ModelError
from fitting.structures import StructureConfig
from fitting.structures.base import CONSTRAINT_SD
from fitting.structures.random_walk import TREND_SD

LEVELS = tuple("abcdefg")
PATH = [["a", "b"], ["b", "c"], ["c", "d"], ["d", "a"], ["e", "f"]]  # a ring of four, a pair, and the island g
CONFIGS = {
    "random_walk": {"structure": "random_walk"},
    "second_order": {"structure": "random_walk", "order": 2},
    "cyclic": {"structure": "cyclic_random_walk"},
    "second_order_cyclic": {"structure": "cyclic_random_walk", "order": 2},
    "icar": {"structure": "icar", "neighbours": PATH},
    "bym2": {"structure": "bym2", "neighbours": PATH},
    "ar1": {"structure": "ar1"},
    "monotonic": {"structure": "monotonic"},
    "sum_to_zero": {"structure": "sum_to_zero"},
}
SD, OWN, SIZE = 0.7, 0.4, len(LEVELS)


def build(name, levels=LEVELS):
    return TypeAdapter(StructureConfig).validate_python(CONFIGS[name]).build(levels)


def unconstrained(name, size=SIZE):
    """Dense precision of unit scale before it is scaled, from its definition."""
    if name.startswith("second_order"):
        whole = np.eye(size, k=0) - 2 * np.eye(size, k=1) + np.eye(size, k=2)
        ring = whole + np.eye(size, k=2 - size) - 2 * np.eye(size, k=1 - size)
        differences = ring if "cyclic" in name else whole[:-2]
    elif name in ("random_walk", "cyclic"):
        whole = np.eye(size, k=1) - np.eye(size) + np.eye(size, k=1 - size)
        differences = whole if name == "cyclic" else whole[:-1]
    else:
        differences = np.zeros((len(PATH), size))
        for row, (a, b) in enumerate(PATH):
            differences[row, LEVELS.index(a)], differences[row, LEVELS.index(b)] = 1.0, -1.0
    return differences.T @ differences


def free(name, size=SIZE):
    """Orthonormal directions that the intrinsic precision leaves free, shape (size, number of them)."""
    if name in ("icar", "bym2"):
        rows = [np.isin(LEVELS, list(part)).astype(float) for part in ("abcd", "ef")]
    else:
        rows = [np.ones(size), np.arange(size) - (size - 1) / 2][: 2 if name == "second_order" else 1]
    return np.stack([row / np.linalg.norm(row) for row in rows], axis=1)


def scaled_covariance(name):
    """Covariance of unit sd outside the free directions: generalised inverse over the geometric mean of its diagonal."""
    if name in ("icar", "bym2"):  # each connected part by itself; the island is exchangeable
        whole = np.linalg.pinv(unconstrained("icar"))
        for part in ("abcd", "ef"):
            rows = np.isin(LEVELS, list(part))
            whole[np.ix_(rows, rows)] /= np.exp(np.mean(np.log(np.diagonal(whole)[rows])))
        whole[-1, -1] = 1.0
        return whole
    covariance = np.linalg.pinv(unconstrained(name), rcond=1e-10, hermitian=True)
    return covariance / np.exp(np.mean(np.log(np.diagonal(covariance))))


def assert_covariance(structure, psi, expected, directions=None):
    """The precision is the inverse of ``expected`` off the free ``directions``, and its log determinant is right."""
    precision, log_determinant = structure.precision(np.array(psi), np)
    covariance = np.linalg.inv(precision)
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-10)
    rest = np.eye(len(expected)) if directions is None else np.eye(len(expected)) - directions @ directions.T
    np.testing.assert_allclose(rest @ covariance @ rest, rest @ expected @ rest, atol=1e-8)
    np.testing.assert_allclose(log_determinant, np.linalg.slogdet(precision)[1], rtol=1e-8)


@pytest.mark.parametrize("name", ["random_walk", "second_order", "cyclic", "second_order_cyclic", "icar"])
def test_an_intrinsic_prior_is_the_scaled_inverse_of_its_differences(name):
    assert_covariance(build(name), [np.log(SD)], SD**2 * scaled_covariance(name), free(name))


@pytest.mark.parametrize("name", ["random_walk", "second_order", "cyclic", "second_order_cyclic"])
def test_its_variances_have_geometric_mean_one_and_its_mean_is_held_at_zero(name):
    precision, _ = build(name).precision(np.zeros(1), np)
    directions, covariance = free(name), np.linalg.inv(precision)
    rest = np.eye(len(LEVELS)) - directions @ directions.T
    variance = np.diagonal(rest @ covariance @ rest)
    np.testing.assert_allclose(np.exp(np.mean(np.log(variance))), 1.0)
    ones = np.full(len(LEVELS), 1 / len(LEVELS))
    np.testing.assert_allclose(np.sqrt(ones @ covariance @ ones), CONSTRAINT_SD)
    if name == "second_order":
        line = directions[:, 1]
        np.testing.assert_allclose(np.sqrt(line @ covariance @ line / len(LEVELS)), TREND_SD)


def is_the_same_turned(name):
    precision, _ = build(name).precision(np.array([0.3]), np)
    return np.allclose(np.roll(precision, (2, 2), axis=(0, 1)), precision, atol=1e-9 * precision.max())


def test_a_circle_has_no_first_level():
    assert is_the_same_turned("cyclic")
    assert is_the_same_turned("second_order_cyclic")
    assert not is_the_same_turned("random_walk")


def test_every_part_of_a_map_has_its_sum_at_zero():
    covariance = np.linalg.inv(build("icar").precision(np.zeros(1), np)[0])
    for part, direction in zip(("abcd", "ef"), free("icar").T, strict=True):
        np.testing.assert_allclose(
            np.sqrt(direction @ covariance @ direction / len(part)), CONSTRAINT_SD, err_msg="mean of a part"
        )
    np.testing.assert_allclose(covariance[-1], np.eye(len(LEVELS))[-1], atol=1e-12)


def test_bym2_is_the_sum_of_a_map_and_of_noise():
    rho = 1 / (1 + np.exp(-OWN))
    expected = SD**2 * (rho * scaled_covariance("bym2") + (1 - rho) * np.eye(len(LEVELS)))
    assert_covariance(build("bym2"), [np.log(SD), OWN], expected)
    np.testing.assert_allclose(build("bym2").natural(np.array([OWN])), rho)
    with pytest.raises(AssertionError):
        assert_covariance(build("bym2"), [np.log(SD), -OWN], expected)


def test_ar1_has_its_stationary_covariance():
    rho, index = np.tanh(OWN), np.arange(len(LEVELS))
    expected = SD**2 * rho ** np.abs(index[:, None] - index)
    assert_covariance(build("ar1"), [np.log(SD), OWN], expected)
    np.testing.assert_allclose(build("ar1").natural(np.array([OWN])), rho)
    with pytest.raises(AssertionError):
        assert_covariance(build("ar1"), [np.log(SD), 2 * OWN], expected)


def test_sum_to_zero_is_independence_given_the_sum():
    size = len(LEVELS)
    assert_covariance(build("sum_to_zero"), [np.log(SD)], SD**2 * np.eye(size), np.full((size, 1), size**-0.5))
    covariance = np.linalg.inv(build("sum_to_zero").precision(np.zeros(1), np)[0])
    np.testing.assert_allclose(np.sqrt(covariance.sum()) / size, CONSTRAINT_SD)


def test_monotonic_effects_are_one_slope_along_cumulated_shares():
    structure, own = build("monotonic"), np.array([0.4, -0.3, 1.1, -2.0, 0.2])
    shares = structure.natural(own)
    curve = np.concatenate([[0.0], np.cumsum(shares), [1.0]])
    curve -= curve.mean()
    expected = SD**2 * (np.outer(curve, curve) + CONSTRAINT_SD**2 * np.eye(len(LEVELS)))
    assert_covariance(structure, [np.log(SD), *own], expected)
    np.testing.assert_allclose(structure.natural(np.zeros(5)), 1 / 6)
    np.testing.assert_allclose(structure.natural(np.stack([np.zeros(5), own])), [np.full(5, 1 / 6), shares])
    with pytest.raises(AssertionError):
        assert_covariance(structure, [np.log(SD), *-own], expected)


def test_steps_of_monotonic_effects_go_one_way():
    rng = np.random.default_rng(0)

    def steps(name, own):
        precision, _ = build(name).precision(np.array([0.0, *own]), np)
        effects = np.linalg.solve(np.linalg.cholesky(precision).T, rng.normal(size=(len(LEVELS), 200)))
        return np.diff(effects, axis=0)

    def go_one_way(found):
        return np.all((found > -6 * CONSTRAINT_SD).all(axis=0) | (found < 6 * CONSTRAINT_SD).all(axis=0))

    assert all(go_one_way(steps("monotonic", rng.normal(size=5))) for _ in range(5))
    assert not go_one_way(steps("random_walk", []))


def test_shares_of_monotonic_effects_are_uniform_on_the_simplex():
    structure = build("monotonic", LEVELS[:4])  # three shares, two of them own

    def total(log_density):
        return integrate.dblquad(lambda x, y: np.exp(log_density(np.array([x, y]))), -25, 25, -25, 25, epsabs=1e-6)[0]

    assert total(lambda own: structure.log_prior(own, np)) == pytest.approx(1.0, abs=1e-4)
    first = total(lambda own: structure.log_prior(own, np) + np.log(structure.natural(own)[0]))
    assert first == pytest.approx(1 / 3, abs=1e-4)
    with pytest.raises(AssertionError):  # the density of a logistic for each number is none of equal shares
        assert total(
            lambda own: (-np.logaddexp(0, own) - np.logaddexp(0, -own)).sum() + np.log(structure.natural(own)[0])
        ) == pytest.approx(1 / 3, abs=1e-4)


def mass(log_prior):
    return integrate.quad(lambda x: np.exp(log_prior(x)), -18, 18, epsabs=1e-9, limit=200)[0]


@pytest.mark.parametrize(("name", "tail"), [("ar1", 1e-8), ("bym2", 1e-3)])
def test_own_priors_are_densities_on_the_unconstrained_line(name, tail):
    structure = build(name)
    assert mass(lambda x: structure.log_prior(np.array([x]), np)) == pytest.approx(1.0, abs=tail)
    with pytest.raises(AssertionError):  # without its Jacobian it is none
        assert mass(lambda x: -np.log(2.0) if name == "ar1" else -np.log(np.pi)) == pytest.approx(1.0, abs=tail)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("random_walk", "a"),
        ("second_order", "ab"),
        ("cyclic", "ab"),
        ("ar1", "ab"),
        ("monotonic", "ab"),
        ("sum_to_zero", "a"),
        ("icar", "xyz"),
    ],
)
def test_too_few_levels_or_names_that_the_map_does_not_have_are_told(name, levels):
    with pytest.raises(ModelError, match=f"structure: {CONFIGS[name]['structure']}"):
        build(name, tuple(levels))


def test_the_examples_of_the_page_are_models():
    page = (Path(__file__).parents[2] / "docs" / "structured-priors.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    models = [ModelConfig.model_validate(YAML(typ="safe").load(text)["model"]) for text in examples]
    assert [set(m.structures()) for m in models] == [{"1|age", "1|state", "1|state:age"}, set(), set()]
    assert [set(m.splines) | set(m.multi_membership) for m in models] == [set(), {"income"}, {"area"}]
    source = (Path(__file__).parents[2] / "fitting" / "structures" / "cyclic_random_walk.py").read_text(
        encoding="utf-8"
    )
    code = re.sub(r'^ *""".*"""\n+', "", source, flags=re.MULTILINE)  # the page leaves the docstrings out
    (shown,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown in code, "the walk-through shows code that is not in the file"


# ---- inside a model ----

AGES, STATES = tuple("abcd"), ("AL", "OH", "WY")


def people(num_rows=240, seed=4):
    """Rows of three states by four ages, of which WY never has the youngest nor the oldest."""
    rng = np.random.default_rng(seed)
    state, age = rng.integers(0, 3, num_rows), rng.integers(0, 4, num_rows)
    age = np.where(state == 2, 1 + age % 2, age)
    county = np.array([f"{STATES[s]}-{c}" for s, c in zip(state, rng.integers(0, 2, num_rows), strict=True)])
    columns = {"state": np.array(STATES)[state], "age": np.array(AGES)[age], "county": county}
    return columns, 0.5 * age + 0.3 * state + rng.normal(size=num_rows)


def by_names(names, columns):
    """Dense design from the names of coefficients alone."""
    design = np.zeros((len(columns["state"]), len(names)))
    for j, name in enumerate(names):
        if name == "Intercept":
            design[:, j] = 1.0
        elif name:
            term, level = name[2:-1].split("[")
            found = zip(*(columns[c] for c in term.split(":")), strict=True)
            design[:, j] = [":".join(parts) == level for parts in found]
    return design


def walk_precision(size, sd):
    """A scaled random walk of order 1, its mean held at zero, from its definition."""
    intrinsic = unconstrained("random_walk", size)
    covariance = np.linalg.pinv(intrinsic, rcond=1e-10, hermitian=True)
    scale = np.exp(np.mean(np.log(np.diagonal(covariance))))
    return (scale * intrinsic + CONSTRAINT_SD**-2 / size**2) / sd**2


def test_a_walk_inside_each_state_is_that_of_dense_algebra(cells_of, assert_gaussian_posterior_is_dense):
    """Combinations that no row has are levels of the walk like any other."""
    columns, outcome = people()
    cells = cells_of(columns, outcome, "gaussian")
    run = in_memory.fit(
        cells, "y ~ 1 + (1 | state) + (1 | state:age)", family="gaussian", shards=cells["state"], num_draws=2,
        chosen_priors={"1|state:age": {"structure": "random_walk"}, "1|state": {"structure": "ar1", "sd": "half_normal(2)"}},
    )  # fmt: skip
    names = run.hierarchy.model.coefficient_names().tolist()
    assert run.hierarchy.names() == ["sd(1|state)", "rho(1|state)", "sd(1|state:age)", "sigma"]
    assert "1|state:age[WY:a]" in names

    def prior_of(psi, correlation=1.0):
        precision = np.diag([float(not name) for name in names])
        rows = [names.index(f"1|state[{s}]") for s in STATES]
        index = np.arange(3)
        covariance = np.exp(2 * psi[0]) * np.tanh(psi[1]) ** np.abs(index[:, None] - index)
        precision[np.ix_(rows, rows)] = np.linalg.inv(covariance)
        for state in STATES:
            rows = [names.index(f"1|state:age[{state}:{age}]") for age in AGES]
            walk = walk_precision(len(AGES), np.exp(psi[2]))
            precision[np.ix_(rows, rows)] = np.diag(np.diagonal(walk)) + correlation * (
                walk - np.diag(np.diagonal(walk))
            )
        return precision

    design = by_names(names, columns)
    assert_gaussian_posterior_is_dense(run, design, outcome, prior_of)
    with pytest.raises(AssertionError):  # the levels of a walk are not independent
        assert_gaussian_posterior_is_dense(run, design, outcome, lambda psi: prior_of(psi, 0.5))


def test_monotonic_effects_are_those_of_dense_algebra(cells_of, assert_gaussian_posterior_is_dense):
    """Given the shares, the marginal density of which is among what is compared."""
    columns, outcome = people()
    cells = cells_of(columns, outcome, "gaussian")
    run = in_memory.fit(
        cells, "y ~ 1 + (1 | age)", family="gaussian", shards=cells["state"], num_draws=2,
        chosen_priors={"1|age": {"structure": "monotonic", "sd": "half_normal(2)"}},
    )  # fmt: skip
    names = run.hierarchy.model.coefficient_names().tolist()
    assert run.hierarchy.names() == ["sd(1|age)", "share_1(1|age)", "share_2(1|age)", "sigma"]

    def prior_of(psi, turned=False):
        precision = np.diag([float(not name) for name in names])
        first = 1 / (1 + 2 * np.exp(-psi[1]))
        second = (1 - first) / (1 + np.exp(-psi[2]))
        curve = np.cumsum([0.0, *((second, first) if turned else (first, second)), 1 - first - second])
        curve -= curve.mean()
        rows = [names.index(f"1|age[{age}]") for age in AGES]
        covariance = np.exp(2 * psi[0]) * (np.outer(curve, curve) + CONSTRAINT_SD**2 * np.eye(len(AGES)))
        precision[np.ix_(rows, rows)] = np.linalg.inv(covariance)
        return precision

    design = by_names(names, columns)
    assert_gaussian_posterior_is_dense(run, design, outcome, prior_of)
    with pytest.raises(AssertionError):  # the shares of other steps
        assert_gaussian_posterior_is_dense(run, design, outcome, lambda psi: prior_of(psi, turned=True))


def test_a_site_in_another_layout_has_the_same_density_and_comes_back_the_same(cells_of):
    columns, outcome = people()
    cells = cells_of(columns, outcome > 0.5)
    config = ModelConfig(formula="y ~ 1 + (1 | state/county) + (1 | age) + (1 | state:age)", family="binomial")
    walks = config.model_copy(update={"priors": {
        "1|state:age": TypeAdapter(StructureConfig).validate_python({"structure": "random_walk"}),
        "1|state": TypeAdapter(StructureConfig).validate_python({"structure": "ar1"}),
    }})  # fmt: skip
    statistics = {name: np.asarray(cells[name], dtype=float) for name in ("num_trials", "num_successes")}
    coding, coded = in_memory.code(cells, config.parsed_formula(), statistics)
    old, new = (hierarchy.of_config(c, coding).model for c in (config, walks))
    assert old.tree.block_sizes != new.tree.block_sizes
    rng = np.random.default_rng(0)
    names = {name: i for i, name in enumerate(new.coefficient_names().tolist()) if name}
    theta = rng.normal(size=(new.tree.num_coefficients, 3))
    theta_old = np.stack([theta[names[n]] if n in names else np.zeros(3) for n in old.coefficient_names().tolist()])
    for state in range(3):
        rows = np.flatnonzero(coded["state"] == state)
        part = {name: values[rows] for name, values in coded.items()}
        nodes = old.touched_nodes(part)
        restriction = old.tree.restrict(nodes)
        design = old.design(part, {n: v[rows] for n, v in statistics.items()}, within=restriction)
        zero = np.zeros(restriction.tree.num_coefficients), np.zeros(restriction.tree.num_entries)
        site = sites.fit(restriction.tree, design, families.BINOMIAL, *zero, num_nodes=5)
        nodes_new, moved = relayout.move(old, new, nodes, site)
        there = new.tree.restrict(nodes_new)
        before = sites.log_density(restriction.tree, site, theta_old[restriction.coefficients])
        np.testing.assert_allclose(sites.log_density(there.tree, moved, theta[there.coefficients]), before)
        nodes_back, back = relayout.move(new, old, nodes_new, moved)
        whole = np.zeros((2, old.tree.num_entries))
        whole[0, restriction.entries] = site.precision
        whole[1, old.tree.restrict(nodes_back).entries] = back.precision
        np.testing.assert_array_equal(whole[0], whole[1])
        np.testing.assert_array_equal(back.constants, site.constants)
