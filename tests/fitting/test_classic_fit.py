"""The audit of merged draws that have no density: right on healthy draws, and right about what is wrong with broken ones."""

import numpy as np
import pytest
from scipy.special import expit

from fitting import classic_fit, in_memory
from fitting.classic_fit import ClassicRun, ModelData
from fitting.combiner import Draws
from fitting.config import AuditConfig
from fitting.own_effects import Partition
from fitting.shard_draws import CombinerError
from fitting.subposterior import Subposterior

FORMULA = "y ~ 1 + x + (1 | race)"


@pytest.fixture(scope="module")
def healthy(cells_of):
    """Draws of a well merged posterior, as if a combiner had made them."""
    rng = np.random.default_rng(0)
    race, x = rng.integers(0, 8, 20_000), rng.integers(0, 2, 20_000).astype(float)
    shard = rng.integers(0, 4, len(x))
    outcome = rng.random(len(x)) < expit(-0.5 + 0.3 * x + rng.normal(0, 0.5, 8)[race])
    cells = cells_of({"x": x, "race": np.array([f"r{r}" for r in race]), "shard": shard}, outcome.astype(float))
    return in_memory.fit(cells, FORMULA, shards=cells["shard"], num_draws=1000)


def as_classic(run, change=lambda theta, psi: (theta, psi), draws=1000, r_hat=1.0, divergent=0):
    """The draws of a run, changed, as a classic merge of its shards."""
    theta, psi = change(run.draws.theta[:, :draws].copy(), run.draws.psi[:, :draws].copy())
    every = np.flatnonzero(~run.hierarchy.model.is_padding)
    part = Subposterior(theta[..., every], psi, theta[..., :0], r_hat, 1000.0, divergent, 0.9)
    count = len(run.designs)
    return ClassicRun(
        ModelData(run.hierarchy, run.restrictions, run.designs),
        "consensus",
        Partition(every, tuple(np.zeros(0, dtype=int) for _ in range(count))),
        (part,) * count,
        Draws(theta, psi, np.ones(count)),
        np.full(len(every) + psi.shape[-1], float(theta.shape[0] * draws)),
    )


def sd_of(run):
    return run.draws.theta.reshape(-1, run.draws.theta.shape[-1]).std(axis=0)


def gate(result, name):
    return next(g for g in result["gates"] if g["name"] == name)


def place_of(run, name):
    return int(np.flatnonzero(run.hierarchy.model.coefficient_names() == name)[0])


def test_healthy_draws_pass(healthy):
    result = classic_fit.audit(as_classic(healthy))
    assert result["verdict"] == "pass", result["messages"]
    assert result["messages"] == []
    assert gate(result, "score")["value"] < 0.02
    assert [s["shard_id"] for s in result["shards"]] == ["00", "01", "02", "03"]


@pytest.mark.parametrize(("size", "verdict"), [(0.25, "warn"), (-1.0, "fail"), (5.0, "fail")])
def test_a_shifted_coefficient_is_located_and_sized(healthy, size, verdict):
    place, sd = place_of(healthy, "x"), sd_of(healthy)

    def shift(theta, psi):
        theta[..., place] += size * sd[place]
        return theta, psi

    result = classic_fit.audit(as_classic(healthy, shift))
    assert result["verdict"] == verdict
    assert gate(result, "score")["where"] == "x"
    worst = result["coefficients"][0]
    assert worst["name"] == "x"
    assert abs(worst["score"] + size) < 4.8 * worst["score_mcse"] + 0.02 * abs(size)  # 4.8: false alarm 1e-6


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_a_wrong_width_is_located_and_sized(healthy, factor):
    place = place_of(healthy, "x")

    def stretch(theta, psi):
        centre = theta[..., place].mean()
        theta[..., place] = centre + factor * (theta[..., place] - centre)
        return theta, psi

    result = classic_fit.audit(as_classic(healthy, stretch))
    assert result["verdict"] == "fail"
    assert gate(result, "sd_ratio")["where"] == "x"
    assert gate(result, "score")["status"] == "pass"
    assert result["coefficients"][0]["sd_ratio"] == pytest.approx(factor, rel=0.1)


def test_a_wrong_scale_is_located(healthy):
    spread = healthy.draws.psi.std()
    result = classic_fit.audit(as_classic(healthy, lambda theta, psi: (theta, psi + 1.5 * spread)))
    assert result["verdict"] == "fail"
    assert gate(result, "score")["where"] == "sd(1|race)"
    assert result["coefficients"][0]["score"] == pytest.approx(-1.5, abs=0.15)


def test_few_draws_are_noise_and_said_to_be(healthy):
    result = classic_fit.audit(as_classic(healthy, draws=8))
    assert gate(result, "score")["status"] == "pass"
    assert gate(result, "sd_ratio")["status"] == "pass"
    assert gate(result, "noise")["status"] == "warn"
    assert result["verdict"] == "warn"


def test_limits_are_those_of_the_config(healthy):
    run = as_classic(healthy, lambda theta, psi: (theta + 0.25 * sd_of(healthy), psi))
    strict = AuditConfig(warn_above={"score": 0.05}, fail_above={"score": 0.1})
    assert classic_fit.audit(run, strict)["verdict"] == "fail"
    assert classic_fit.audit(run)["verdict"] == "warn"


def test_samplers_that_failed_are_named(healthy):
    result = classic_fit.audit(as_classic(healthy, r_hat=1.2, divergent=3))
    assert result["verdict"] == "fail"
    assert gate(result, "r_hat")["status"] == "fail"
    assert result["messages"][-1]["what"].startswith("12 divergent draws")


def test_an_unknown_combiner_is_refused_before_anything_is_fitted():
    with pytest.raises(CombinerError, match="one of consensus, gaussian"):
        classic_fit.fit({}, "y ~ 1", shards=[0], combiner="median")
