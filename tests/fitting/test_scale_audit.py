"""Errors of scales that sites leave, against exact quadrature; and healthy problems, where there are none to find."""

import numpy as np
import pytest

from benchmarks import audit_scales
from fitting import in_memory, scale_audit
from fitting.config import AuditConfig

PRIORS = {"intercept": "normal(0, 2.5)", "b": "normal(0, 2.5)", "sd": "half_normal(1)"}


def sparse(num_groups, num_rows, sd, seed, trials=1, family="binomial"):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), num_rows)
    eta = -0.3 + rng.normal(0, sd, num_groups)[group]
    cells = {"g": np.array([f"g{i:03d}" for i in group]), "num_trials": np.full(len(group), float(trials))}
    if family == "poisson":
        cells |= {"sum_y": rng.poisson(np.exp(eta)).astype(float), "sum_exposure": np.ones(len(group)), "num_trials": np.ones(len(group))}
    else:
        cells |= {"num_successes": rng.binomial(trials, 1 / (1 + np.exp(-eta))).astype(float)}
    return cells, group % 4


def exact_scale(cells, num_nodes=61):
    """Mean and sd of sd(1|g) in ``y ~ 1 + (1 | g)`` by quadrature over effects, and a grid of intercept and log sd."""
    _, group = np.unique(cells["g"], return_inverse=True)
    trials, successes = (np.bincount(group, cells[k]) for k in ("num_trials", "num_successes"))
    kinds, counts = np.unique(np.stack([trials, successes]), axis=1, return_counts=True)
    z, w = np.polynomial.hermite_e.hermegauss(num_nodes)
    w = w / w.sum()
    intercepts, logs = np.linspace(-3, 2.5, 111), np.linspace(np.log(0.02), np.log(9), 200)
    log_p = np.empty((len(intercepts), len(logs)))
    for j, log_sd in enumerate(logs):
        eta = intercepts[:, None, None] + np.exp(log_sd) * z
        value = kinds[1][:, None] * eta - kinds[0][:, None] * np.logaddexp(0, eta)
        log_p[:, j] = np.log(np.exp(value) @ w) @ counts - 0.5 * (intercepts / 2.5) ** 2 - 0.5 * np.exp(2 * log_sd) + log_sd
    p = np.exp(log_p - log_p.max()).sum(axis=0)
    p /= p.sum()
    mean = p @ np.exp(logs)
    return mean, np.sqrt(p @ (np.exp(logs) - mean) ** 2)


def fit(cells, shards, formula="y ~ 1 + (1 | g)", **options):
    return in_memory.fit(cells, formula, shards=shards, chosen_priors=PRIORS, **options)


def gates(result):
    return {g["name"]: g for g in result["gates"]}


PROBLEMS = [(400, 3, 0.8, 1), (40, 5, 1.2, 2), (100, 4, 1.1, 3), (300, 3, 2.0, 4), (250, 2, 2.5, 5)]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_errors_of_a_scale_are_those_that_quadrature_finds(problem):
    """Corrected moments within 0.15 sds and 12% of the exact ones, with Monte Carlo error; what is drawn is further off."""
    cells, shards = sparse(*problem)
    run = fit(cells, shards)
    mean, sd = exact_scale(cells)
    found = in_memory.scale_errors(run)
    assert abs(found.corrected_mean[0] - mean) < (0.1 + 3 * found.shift_mcse[0]) * sd
    assert abs(np.log(found.corrected_sd[0] / sd)) < 0.1 + 3 * found.log_sd_mcse[0]
    assert found.log_sd[0] < -0.1
    result = in_memory.audit(run)
    named = [g for name, g in gates(result).items() if name.startswith("scale_s") and g["status"] != "pass"]
    assert named
    assert all(g["where"] == "sd(1|g)" and g["about"] == "computation" for g in named)
    assert result["verdicts"]["computation"] != "pass"


def test_the_same_error_is_found_whatever_the_cut_into_shards():
    cells, shards = sparse(60, 4, 1.2, 9)
    run = fit(cells, shards)
    apart = fit(cells, np.arange(len(shards)) % 5)  # every group in several shards
    found, other = in_memory.scale_errors(run), in_memory.scale_errors(apart)
    np.testing.assert_allclose(other.corrected_mean, found.corrected_mean, rtol=1e-3)
    np.testing.assert_allclose(other.corrected_sd, found.corrected_sd, rtol=1e-2)


def test_without_the_ratio_or_without_its_spread_nothing_is_found(monkeypatch):
    """Negative control: with the groups' own effects held at their means the error is missed."""
    cells, shards = sparse(*PROBLEMS[0])
    run = fit(cells, shards)
    sd = exact_scale(cells)[1]
    monkeypatch.setitem(scale_audit.NODES, 1, 1)
    found = in_memory.scale_errors(run)
    assert abs(np.log(found.corrected_sd[0] / sd)) > 0.15


HEALTHY = {
    "groups of 20": ((100, 1, 0.7, 1, 20), {}),
    "groups of 200": ((30, 1, 1.0, 2, 200), {}),
    "few levels": ((4, 10, 0.5, 3, 20), {}),
    "poisson": ((150, 20, 0.5, 4, 1, "poisson"), {"family": "poisson"}),
    "many trials": ((400, 1, 0.4, 5, 50), {}),
    "two answers, small sd": ((300, 30, 0.3, 6), {}),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_problems_have_no_alarm(name):
    problem, options = HEALTHY[name]
    result = in_memory.audit(fit(*sparse(*problem), **options))
    assert {n: g["value"] for n, g in gates(result).items() if g["status"] != "pass"} == {}


def test_a_crossed_and_a_nested_term_and_a_slope_have_no_alarm():
    rng = np.random.default_rng(8)
    size = 6000
    g, h, x = rng.integers(0, 40, size), rng.integers(0, 12, size), rng.normal(size=size).round(1)
    county = 10 * (g // 4) + rng.integers(0, 3, size)
    eta = 0.2 + rng.normal(0, 0.6, 40)[g] + rng.normal(0, 0.4, 12)[h] + rng.normal(0, 0.4, 110)[county] + rng.normal(0, 0.3, 40)[g] * x
    cells = {
        "g": np.array([f"g{i}" for i in g]), "h": np.array([f"h{i}" for i in h]), "c": np.array([f"c{i}" for i in county]), "x": x,
        "num_trials": np.ones(size), "num_successes": (rng.random(size) < 1 / (1 + np.exp(-eta))).astype(float),
    }  # fmt: skip
    result = in_memory.audit(fit(cells, g % 3, "y ~ 1 + x + (1 + x | g) + (1 | h) + (1 | c)"))
    assert {n: g["value"] for n, g in gates(result).items() if n.startswith("scale_s") and g["status"] != "pass"} == {}


def test_too_few_draws_of_a_scale_are_named():
    cells, shards = sparse(30, 10, 0.5, 7, 20)
    run = fit(cells, shards, num_draws=100, num_chains=2)
    stuck = run.draws.psi.copy()
    stuck[:, 1::2] = stuck[:, ::2]  # every draw twice: half as many
    stuck[:, 2::4], stuck[:, 3::4] = stuck[:, ::4], stuck[:, ::4]
    result = in_memory.audit(run._replace(draws=run.draws._replace(psi=stuck)), AuditConfig())
    ess = gates(result)["ess"]
    assert (ess["status"], ess["where"]) == ("warn", "sd(1|g)")


def test_every_scale_that_is_off_is_named():
    rng = np.random.default_rng(12)
    g, h = np.repeat(np.arange(120), 5), rng.integers(0, 120, 600)
    eta = rng.normal(0, 1.5, 120)[g] + rng.normal(0, 1.5, 120)[h]
    cells = {
        "g": np.array([f"g{i}" for i in g]), "h": np.array([f"h{i}" for i in h]), "num_trials": np.ones(600),
        "num_successes": (rng.random(600) < 1 / (1 + np.exp(-eta))).astype(float),
    }  # fmt: skip
    named = gates(in_memory.audit(fit(cells, g % 2, "y ~ 1 + (1 | g) + (1 | h)")))["scale_sd"]
    assert named["status"] != "pass"
    assert sorted(named["where"].split(", ")) == ["sd(1|g)", "sd(1|h)"]


@pytest.mark.parametrize("name", audit_scales.SMALL)
def test_gates_of_scales_are_right_by_a_reference(name):
    seed = list(audit_scales.SMALL).index(name)
    for row in audit_scales.judge(name, audit_scales.PROBLEMS[name], seed):
        assert not row.is_false_alarm, row
        assert not row.is_miss, row


def test_a_gate_that_never_warns_and_one_that_always_does_are_seen():
    """Negative control of the comparison."""
    row = audit_scales.Judged("", "sd(1|g)", "quadrature", -0.2, -0.2, -0.2, -0.2, "")
    assert row.is_miss
    assert row._replace(shift=0.0, log_sd=0.01, gates="scale_sd warn").is_false_alarm
    assert not row._replace(gates="scale_sd warn").is_miss
