"""What the audit used to say of right numbers; and planted faults that the same checks still find."""

from types import SimpleNamespace

import numpy as np
import pytest

from fitting import audit, families, in_memory, rounds, verdict
from fitting.config import AuditConfig
from fitting.rounds import Round, Schedule


def flagged(result):
    return [s["shard_id"] for s in result["shards"] if s["heterogeneity"]["p_adjusted"] < 0.001]


def wrong_variance(cells_of, shards, seed=1):
    """A gaussian model of outcomes whose spread grows with x: random shards differ by more than the model's variance."""
    rng = np.random.default_rng(seed)
    x = rng.exponential(1.0, 6000).round(2)
    y = 1.0 + 0.5 * x + rng.normal(size=6000) * (0.2 + x**2)
    return cells_of({"x": x, "shard": rng.integers(0, shards, 6000)}, y, "gaussian")


@pytest.mark.parametrize("num_shards", [5, 20])
def test_random_shards_under_a_wrong_variance_tell_no_other_story(cells_of, num_shards):
    cells = wrong_variance(cells_of, num_shards)
    run = in_memory.fit(cells, "y ~ 1 + x", family="gaussian", shards=cells["shard"])
    assert flagged(in_memory.audit(run)) == []


def test_a_shard_with_another_slope_is_still_found_under_a_wrong_variance(cells_of):
    cells = wrong_variance(cells_of, 10)
    odd = cells["shard"] == 3
    moved = 4.0 * cells["x"] * odd
    cells["sum_y"] = cells["sum_y"] + moved * cells["num_trials"]
    run = in_memory.fit(cells, "y ~ 1 + x", family="gaussian", shards=cells["shard"])
    assert flagged(in_memory.audit(run)) == ["03"]


def test_one_shard_is_compared_with_nobody(cells_of):
    """A prior far from the data is no other shard."""
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, 4000).astype(float)
    cells = cells_of({"x": x}, 50.0 + 3.0 * x + rng.normal(size=4000), "gaussian")
    priors = {"intercept": "normal(0, 1)", "b": "normal(0, 0.1)"}
    result = in_memory.audit(in_memory.fit(cells, "y ~ 1 + x", family="gaussian", chosen_priors=priors))
    assert flagged(result) == []


def test_an_outcome_with_heavy_tails_far_from_zero_is_judged_as_near_zero():
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2, 800).astype(float)
    near = {"x": x, "y": np.round(0.5 * x + rng.standard_t(4, 800), 3), "num_trials": np.ones(800)}
    far = near | {"y": near["y"] + 1e5}
    results = [in_memory.audit(in_memory.fit(c, "y ~ 1 + x", family="student_t", num_draws=250)) for c in (near, far)]
    assert [r["verdict"] for r in results] == ["pass", "pass"]
    of_near, of_far = (r["total"]["log_ratio_sd"] for r in results)
    assert of_far == pytest.approx(of_near, rel=0.2)


def test_rounds_to_and_fro_are_damped_and_steady_ones_are_not():
    schedule = Schedule("vi", 20, 0.01, 1.0, families.make("binomial"))
    moves = (0.4, 0.41, 0.4, 0.405)
    assert rounds.next_round(schedule, [Round("vi", 1.0, move, along=-0.99) for move in moves]).damping == 0.5
    assert rounds.next_round(schedule, [Round("vi", 1.0, move, along=0.99) for move in moves]).damping == 1.0
    nearer = [Round("vi", 1.0, move, along=-0.99) for move in (0.4, 0.3, 0.2, 0.15)]
    assert rounds.next_round(schedule, nearer).damping == 1.0


def test_a_step_knows_whether_it_goes_on_or_back(cells_of):
    """Sites shifted by the same amount each time, and to and fro, of a model whose posterior follows them."""
    cells = cells_of({"x": np.tile([0.0, 1.0], 100)}, np.tile([0.0, 1.0, 1.0, 1.0, 0.0], 40))
    run = in_memory.fit(cells, "y ~ 1 + x", num_draws=5)

    def alongs(shifts):
        state, found = rounds.init(run.hierarchy), []
        for shift in shifts:
            moved = [site._replace(shift=site.shift + shift) for site in run.sites]
            state, _ = rounds.step(run.hierarchy, state, run.restrictions, moved)
            found.append(state.along)
        return found[2:]

    assert alongs([0.0, 1.0, 2.0, 3.0]) == pytest.approx([1.0, 1.0])
    assert alongs([0.0, 1.0, 0.0, 1.0]) == pytest.approx([-1.0, -1.0])


def test_a_damped_round_has_settled_only_if_a_whole_one_would_have():
    schedule = Schedule("vi", 20, 0.01, 1.0, families.make("binomial"))
    assert rounds.next_round(schedule, [Round("vi", 0.25, 0.005)]) is not None
    assert rounds.next_round(schedule, [Round("vi", 1.0, 0.005)]) is None


def weighted(num_shards, odd=None, seed=4):
    """Survey weights from 0.02 to 20 that have nothing to do with outcomes, in random shards; ``odd`` has another slope."""
    rng = np.random.default_rng(seed)
    size = 16_000
    x, z, shard = rng.integers(0, 2, size), rng.integers(0, 8, size), rng.integers(0, num_shards, size)
    weight = np.exp(1.5 * rng.normal(size=size)).clip(0.02, 20.0)
    weight /= weight.mean()
    eta = -0.4 + 0.6 * x * np.where(shard == odd, -4.0, 1.0) + 0.1 * z
    y = rng.random(size) < 1 / (1 + np.exp(-eta))
    cell = np.ravel_multi_index((shard, z, x), (num_shards, 8, 2))
    s, b, a = (part.ravel() for part in np.indices((num_shards, 8, 2)))
    sums = {"num_trials": weight, "num_successes": weight * y, "sum_weight_squared": weight**2, "sum_weight_squared_successes": weight**2 * y}
    cells = {name: np.bincount(cell, value, 16 * num_shards) for name, value in sums.items()}
    return cells | {"x": a.astype(float), "z": np.array([f"z{i}" for i in b]), "shard": s}


@pytest.mark.parametrize("seed", [4, 5])
def test_random_shards_with_survey_weights_tell_no_other_story(seed):
    """On numbers that are right: those of weighted maximum likelihood."""
    cells = weighted(16, seed=seed)
    run = in_memory.fit(cells, "y ~ 1 + x + z", shards=cells["shard"])
    assert flagged(in_memory.audit(run)) == []
    design = np.column_stack([cells["x"], cells["z"][:, None] == np.unique(cells["z"])])
    beta = np.zeros(9)
    for _ in range(20):
        p = 1 / (1 + np.exp(-design @ beta))
        curvature = design.T @ ((cells["num_trials"] * p * (1 - p))[:, None] * design)
        beta += np.linalg.solve(curvature, design.T @ (cells["num_successes"] - cells["num_trials"] * p))
    drawn = run.draws.theta[..., run.hierarchy.model.coefficient_names().tolist().index("x")]
    assert abs(drawn.mean() - beta[0]) < 0.15 * drawn.std()


def test_a_shard_with_another_slope_is_found_under_survey_weights():
    cells = weighted(16, odd=5)
    assert flagged(in_memory.audit(in_memory.fit(cells, "y ~ 1 + x + z", shards=cells["shard"]))) == ["05"]


def test_weights_that_say_nothing_blame_nobody(cells_of, monkeypatch):
    """No coefficient is named by importance weights that cannot be had, as where digits cancel."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2, 4000).astype(float)
    cells = cells_of({"x": x, "shard": rng.integers(0, 4, 4000)}, rng.random(4000) < 0.4)
    run = in_memory.fit(cells, "y ~ 1 + x", shards=cells["shard"])
    monkeypatch.setattr(audit, "HOPELESS", 1e-12)
    shift = next(g for g in in_memory.audit(run)["gates"] if g["name"] == "shift")
    assert (shift["status"], shift["where"]) == ("fail", "all shards together")


def test_a_score_that_is_no_number_fails_and_blames_nobody(cells_of, monkeypatch):
    cells = cells_of({"x": np.tile([0.0, 1.0], 100)}, np.tile([0.0, 1.0, 1.0, 1.0, 0.0], 40))
    run = in_memory.fit(cells, "y ~ 1 + x", num_draws=50)
    honest = audit.score

    def unknown(*arguments, **options):
        return honest(*arguments, **options)._replace(total=np.full(2, np.nan))

    monkeypatch.setattr(verdict, "score", unknown)
    result = in_memory.audit(run)
    score = next(g for g in result["gates"] if g["name"] == "score")
    assert (score["status"], score["where"]) == ("fail", "all shards together, could not be computed")


@pytest.mark.parametrize(
    ("method", "spread", "k_hat", "expected"),
    [("nuts", 0.4, 0.3, 0.08), ("vi", 0.4, 0.3, 0.4), ("nuts", 3.0, 0.3, 0.4), ("nuts", 0.3, 1.1, 0.4), ("nuts", 0.03, 0.9, 0.08)],
)
def test_sampled_sites_are_judged_by_weights_where_these_can_be_read(method, spread, k_hat, expected):
    """Variational sites made afresh differ from sampled ones, rightly, at a level without a failure."""
    evidence = SimpleNamespace(
        score=SimpleNamespace(total=np.array([-0.4, 0.02])), rounds=[{"method": method}],
        importance=SimpleNamespace(
            log_ratio_sd=spread, k_hat=k_hat, shift=np.array([0.05, 0.0]), shift_mcse=np.array([0.01, 0.01])
        ),
    )  # fmt: skip
    assert verdict._comparable(evidence).max() == pytest.approx(expected)


@pytest.mark.parametrize("was_sampled", [False, True])
def test_advice_is_not_what_was_done_already(cells_of, monkeypatch, was_sampled):
    """Few answers, one group without a failure: every gate's advice, asked for at limits of nothing."""
    group = np.arange(40) % 8
    cells = cells_of({"g": np.array([f"g{i}" for i in group])}, (group == 0) | (np.arange(40) % 3 == 0))
    run = in_memory.fit(cells, "y ~ 1 + (1 | g)", num_draws=250)
    monkeypatch.setattr(verdict, "_was_sampled", lambda evidence: was_sampled)
    nothing = {"score": 1e-9, "log_ratio_sd": 1e-9, "k_hat": -9.0}
    result = in_memory.audit(run, AuditConfig.model_validate({"warn_above": nothing, "fail_above": nothing}))
    advice = [m["do"] for m in result["messages"] if "fit.method" in m["do"]]
    assert len(advice) >= 2
    assert all(("fit.method: exact" if was_sampled else "fit.method: nuts") in do for do in advice)
