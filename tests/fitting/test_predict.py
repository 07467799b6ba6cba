"""Expected outcomes against sums by hand, and levels that no data informed."""

import itertools

import numpy as np
import pytest
from scipy.special import expit

from fitting import families, formula, in_memory, model, predict, priors
from fitting import hierarchy as hierarchies


@pytest.fixture(scope="module")
def nation():
    rng = np.random.default_rng(0)
    size = 200
    columns = {
        "state": rng.choice(["AL", "OH", "WY"], size),
        "race": rng.choice(["a", "b"], size),
        "x": rng.integers(0, 2, size).astype(float),
    }
    columns["race"][columns["state"] == "WY"] = "a"
    statistics = {"num_trials": np.ones(size), "num_successes": np.zeros(size)}
    parsed = formula.parse("y ~ 1 + x + (1 + x | state) + (1 | state:race)")
    coding, coded = in_memory.code(columns, parsed, statistics)
    built = model.build(parsed, coding, families.BINOMIAL)
    return built, coded, statistics, hierarchies.build(built, priors.default_priors(families.BINOMIAL))


@pytest.mark.parametrize("family", ["binomial", "gaussian"])
def test_sums_equal_brute_force(nation, family):
    built, coded, statistics, _ = nation
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(built.tree.num_coefficients, 120))  # more draws than one chunk
    weight = rng.integers(0, 50, len(statistics["num_trials"])).astype(float)
    design = built.design(coded, statistics)
    groups = {"state": coded["state"], "all": np.zeros(len(weight), dtype=int)}
    sums, means = predict.group_sums(families.make(family), design, theta, groups, {"state": 4, "all": 1}, weight)
    eta = sum(
        (1.0 if v is None else v)[:, None] * theta[p] if v is not None else theta[p]
        for p, v in zip(design.places, design.values, strict=True)
    )
    expected = expit(eta) if family == "binomial" else eta
    np.testing.assert_allclose(means, expected.mean(axis=1)[None])
    np.testing.assert_allclose(sums["all"][0, 0], weight @ expected)
    for s in range(3):
        np.testing.assert_allclose(sums["state"][0, s], weight[coded["state"] == s] @ expected[coded["state"] == s])
    assert not sums["state"][0, 3].any()  # nobody lives there


def test_no_margin_is_no_sum(nation):
    built, coded, statistics, _ = nation
    theta = np.zeros((built.tree.num_coefficients, 3))
    sums, means = predict.group_sums(families.BINOMIAL, built.design(coded, statistics), theta, {}, {}, np.ones(200))
    assert sums == {}
    np.testing.assert_array_equal(means, 0.5)


def test_new_levels_are_drawn_from_their_groups_distribution(nation):
    """False alarm 1e-6: 4 second moments of 6,000 draws each."""
    built, coded, statistics, prior = nation
    unseen = {name: values[:2].copy() for name, values in coded.items()}
    unseen["state"][:], unseen["race"][:] = 2, 1
    noted = []
    built.design(unseen, {name: v[:2] for name, v in statistics.items()}, noted)
    new = [noted[0], noted[0]._replace(group=0, start=noted[0].start + 1, num_levels=2)]
    num_draws = 3000
    psi = np.tile([np.log(0.5), np.log(2.0), np.arctanh(-0.6), np.log(1.5)], (num_draws, 1))
    theta = np.zeros((built.tree.num_coefficients, num_draws))
    out = predict.draw_new_levels(prior, theta, psi, new, seed=3)
    fresh = out[built.tree.num_coefficients :]
    assert fresh.shape == (1 + 2 * 2, num_draws)
    z = 5.0
    pairs = fresh[1:].reshape(2, 2, -1).transpose(1, 0, 2).reshape(2, -1)
    for values, sd in ((fresh[0], 1.5), (pairs[0], 0.5), (pairs[1], 2.0)):
        assert abs(values.std() / sd - 1) < z / np.sqrt(2 * values.size)
    assert abs(np.corrcoef(pairs)[0, 1] + 0.6) < z * (1 - 0.6**2) / np.sqrt(pairs.shape[1])
    assert abs(np.corrcoef(fresh[1], fresh[3])[0, 1]) < z / np.sqrt(num_draws)  # two levels are independent
    np.testing.assert_array_equal(out, predict.draw_new_levels(prior, theta, psi, new, seed=3))


def test_calibration_keeps_every_trial():
    rng = np.random.default_rng(2)
    expected = np.r_[0.0, 1.0, rng.uniform(size=500)]
    trials = rng.integers(0, 9, 502).astype(float)
    observed = rng.binomial(trials.astype(int), expected).astype(float)
    total = predict.calibration(expected, trials, observed)
    assert total.trials.sum() == trials.sum()
    assert total.observed.sum() == observed.sum()
    np.testing.assert_allclose(total.expected.sum(), trials @ expected)
    rows = predict.deciles(total)
    assert sum(r["num_trials"] for r in rows) == trials.sum()
    assert [r["bin"] for r in rows] == list(range(1, 11))
    assert all(a["expected"] < b["expected"] for a, b in itertools.pairwise(rows))
    assert predict.deciles(predict.calibration(np.zeros(0), np.zeros(0), np.zeros(0))) == []
