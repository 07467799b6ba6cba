"""Weights by the shards that a coefficient occurs in: right where the weights of all shards together are useless."""

import numpy as np
import pytest
from scipy import stats

from fitting import in_memory, verdict
from fitting import tree as tr
from fitting.audit import importance
from fitting.local_importance import first_order, local

NUM_SHARDS, PER_SHARD, NUM_DRAWS = 40, 5, 1000
TREE = tr.Tree((2, 1), (np.zeros(NUM_SHARDS * PER_SHARD, dtype=int),))
NODES = [np.arange(s * PER_SHARD, (s + 1) * PER_SHARD) for s in range(NUM_SHARDS)]
RESTRICTIONS = [TREE.restrict([nodes]) for nodes in NODES]


def draws_and_ratios(sd_of_shard=0.35, tilt=0.0, seed=0):
    """Independent normal draws, (M, D). Each shard's ratio is noise over its own effects; the first one tilts its first effect.

    A ratio ``a z`` moves the mean of a standard normal z by a, exactly.
    """
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(NUM_DRAWS, TREE.num_coefficients))
    ratios = []
    for nodes in NODES:
        own = (theta[:, 2 + nodes] ** 2).sum(axis=1)  # symmetric: it moves no mean
        ratios.append(sd_of_shard * (own - PER_SHARD) / np.sqrt(2 * PER_SHARD))
    ratios[0] = ratios[0] + tilt * theta[:, 2]
    return theta, -np.array(ratios)


def judged(theta, ratios):
    total = importance(ratios.sum(axis=0), theta)
    return total, local(ratios, RESTRICTIONS, theta, total)


def test_healthy_shards_are_not_blamed_for_their_number():
    total, found = judged(*draws_and_ratios())
    assert total.log_ratio_sd > 2
    assert total.k_hat > 0.3
    z = stats.norm.isf(1e-6 / (2 * TREE.num_coefficients))
    assert np.all(np.abs(found.shift) <= z * found.shift_mcse)
    assert np.max(found.shift_mcse[2:]) < 0.05
    assert np.max(found.shift_mcse[:2]) < 0.12  # the common ones feel all shards
    assert found.log_ratio_sd == total.log_ratio_sd


def test_a_tilted_effect_is_found_and_sized():
    theta, ratios = draws_and_ratios(tilt=0.4)
    _, found = judged(theta, ratios)
    own = ratios[0]
    alone = importance(own, theta[:, 2:7])
    np.testing.assert_allclose(found.shift[2:7], alone.shift)
    assert abs(found.shift[2] + 0.4) < 4 * found.shift_mcse[2] + 0.1  # its sd is not 1 under the weights
    assert np.argmax(np.abs(found.shift) - 3 * found.shift_mcse) == 2


def test_first_order_is_the_move_of_a_normal_mean():
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(20_000, 3))
    shift, mcse, _ = first_order(0.2 * theta[:, 0] - 0.1 * theta[:, 1], theta)
    assert np.all(np.abs(shift - [0.2, -0.1, 0.0]) < 5 * mcse)
    assert np.all(mcse < 0.004)
    _, _, ratio = first_order(0.1 * theta[:, 0] ** 2, theta)
    np.testing.assert_allclose(ratio, [np.sqrt(1.2), 1.0, 1.0], atol=0.02)  # exactly (1 - 0.2) ** -0.5 = 1.118


@pytest.fixture(scope="module")
def sparse_run():
    """Twenty shards of 60 groups of five answers each: hardly a group is normal, and no mean is far off."""
    rng = np.random.default_rng(2)
    group = np.arange(1200)
    successes = rng.binomial(5, 1 / (1 + np.exp(1.5 + rng.normal(0, 1, 1200))))
    cells = {
        "s": np.array([f"s{i // 60:02d}" for i in group]), "g": np.array([f"g{i:04d}" for i in group]),
        "num_trials": np.full(1200, 5.0), "num_successes": successes.astype(float),
    }  # fmt: skip
    return in_memory.fit(cells, "y ~ 1 + (1 | s/g)", shards=cells["s"], num_draws=250, num_chains=4)


def gates(run):
    return {gate["name"]: gate for gate in in_memory.audit(run)["gates"]}


def test_a_large_model_is_judged_by_its_parts(sparse_run, monkeypatch):
    small = gates(sparse_run)
    assert small["log_ratio_sd"]["value"] > 2
    assert small["log_ratio_sd"]["status"] == "fail"
    monkeypatch.setattr(verdict, "MANY_COEFFICIENTS", 1_000)
    monkeypatch.setattr(verdict, "COEFFICIENTS_OF_LIMITS", 1221 / 16)  # so that this one may have four times the sd
    large = gates(sparse_run)
    assert large["log_ratio_sd"]["value"] == small["log_ratio_sd"]["value"]
    assert large["log_ratio_sd"]["fail_above"] == pytest.approx(4 * small["log_ratio_sd"]["fail_above"], rel=0.01)
    assert large["log_ratio_sd"]["status"] != "fail"
    assert large["score"] == small["score"]
    assert large["k_hat"]["value"] < small["k_hat"]["value"]


def test_a_damaged_shard_is_found_in_a_large_model(sparse_run, monkeypatch):
    monkeypatch.setattr(verdict, "MANY_COEFFICIENTS", 1_000)
    monkeypatch.setattr(verdict, "COEFFICIENTS_OF_LIMITS", 1221 / 16)
    sites = list(sparse_run.sites)
    sites[3] = sites[3]._replace(shift=sites[3].shift + 0.6)
    found = gates(in_memory.merge(sparse_run, sites))
    assert found["shift"]["status"] == "fail" or found["score"]["status"] == "fail"
    assert "s03" in found["score"]["where"] or "03" in found["log_ratio_sd"]["where"]
