"""The audit: right on healthy fits, and right about what is wrong with broken ones."""

import numpy as np
import pytest
from scipy import stats

from fitting import audit, combiner, in_memory, rounds
from fitting import tree as tr
from fitting.config import AuditConfig
from fitting.errors import ImproperPosteriorError
from fitting.sites import Site

FORMULA = "y ~ 1 + x + (1 | race) + (1 | state)"
BAD = 2


def people(seed=0, size=20_000, num_shards=8, base=0.8, by_state=False):
    rng = np.random.default_rng(seed)
    state, race = rng.integers(0, num_shards, size), rng.integers(0, 5, size)
    x, shard = rng.integers(0, 2, size).astype(float), rng.integers(0, num_shards, size)
    eta = base + 0.3 * x + rng.normal(0, 0.3, num_shards)[state] + rng.normal(0, 0.5, 5)[race]
    columns = {
        "x": x,
        "race": np.array([f"r{r}" for r in race]),
        "state": np.array([f"s{s:02d}" for s in state]),
        "shard": state if by_state else shard,
    }
    return columns, eta, rng


def fit(cells, **options):
    return in_memory.fit(cells, FORMULA, shards=cells["shard"], **({"num_chains": 2} | options))


@pytest.fixture(scope="module")
def healthy(cells_of):
    columns, eta, rng = people(by_state=True)
    return fit(cells_of(columns, rng.random(len(eta)) < 1 / (1 + np.exp(-eta))), num_draws=500)


@pytest.fixture(scope="module")
def healthy_cells(cells_of):
    columns, eta, rng = people(by_state=True)
    return cells_of(columns, rng.random(len(eta)) < 1 / (1 + np.exp(-eta)))


def replaced(run, change):
    new = list(run.sites)
    new[BAD] = change(run.restrictions[BAD].tree, new[BAD])
    return in_memory.merge(run, new)


def scaled(factor):
    return lambda tree, site: Site(factor * site.precision, factor * site.shift, site.constants)


def moved(size):
    """The site's own mean moved by ``size`` of its sds in its first coefficient."""

    def change(tree, site):
        step = np.zeros((tree.num_coefficients, 1))
        step[0] = size / np.sqrt(site.precision[0])
        return site._replace(shift=site.shift + tr.multiply(tree, site.precision, step)[:, 0])

    return change


def sds(run):
    return np.sqrt(run.moments.covariance[run.hierarchy.model.tree.diagonal])


def gate(result, name):
    return next(g for g in result["gates"] if g["name"] == name)


# ---- healthy ----


def test_a_healthy_fit_passes(healthy):
    result = in_memory.audit(healthy)
    assert result["verdict"] == "pass", result["messages"]
    assert result["messages"] == []
    assert {s["status"] for s in result["shards"]} == {"pass"}
    assert gate(result, "score")["value"] < 0.02
    assert gate(result, "log_ratio_sd")["value"] < 0.1
    assert result["total"]["efficiency"] > 0.97


def test_gaussian_sites_are_exact_and_the_audit_says_so(cells_of):
    columns, eta, rng = people(size=3000)
    run = fit(cells_of(columns, eta + rng.normal(size=len(eta)), "gaussian"), family="gaussian", num_draws=100)
    result = in_memory.audit(run)
    assert result["verdict"] == "pass"
    assert gate(result, "score")["value"] < 1e-6
    assert gate(result, "log_ratio_sd")["value"] < 1e-6
    assert result["total"]["efficiency"] == 1.0


def null_p_values(cells_of, family, seeds, base=0.8, size=20_000):
    values = []
    for seed in seeds:
        columns, eta, rng = people(seed, size, num_shards=25, base=base)
        if family == "gaussian":
            cells = cells_of(columns, eta + rng.normal(size=len(eta)), family)
        else:
            cells = cells_of(columns, rng.random(len(eta)) < 1 / (1 + np.exp(-eta)))
        run = fit(cells, family=family, num_draws=2)
        found = audit.heterogeneity(
            run.hierarchy, run.natural, run.restrictions, run.sites, run.moments, run.proposal.mode
        )
        values += [h.p_value for h in found]
    return np.array(values)


def test_heterogeneity_of_equal_shards_is_uniform(cells_of):
    """Gaussian family, where no correction of tails applies: 75 p-values. False alarm 1e-4."""
    assert stats.kstest(null_p_values(cells_of, "gaussian", range(3)), "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("base", "size"), [(0.8, 20_000), (-4.0, 20_000)])
def test_heterogeneity_of_equal_binomial_shards_raises_no_alarm(cells_of, base, size):
    """Corrected for skewness p-values may be large, never too small, rare outcomes included. False alarm 1e-4 each."""
    p = null_p_values(cells_of, "binomial", range(3), base, size)
    assert stats.kstest(p, "uniform", alternative="greater").pvalue > 1e-4
    assert p.min() * len(p) > 1e-4


def test_two_rare_events_in_one_shard_of_200_are_no_alarm():
    """An eighth of an event is expected in each: 22 shards with one and one with two are what Poisson's law gives."""
    shard = np.repeat(np.arange(200), 2)
    rare = np.tile([0.0, 1.0], 200)
    successes = np.where(rare == 0, 12.0, 0.0)
    successes[1:45:2] = 1.0
    successes[101] = 2.0
    cells = {"rare": rare, "num_trials": np.where(rare == 0, 247.0, 3.0), "num_successes": successes}
    run = in_memory.fit(cells, "y ~ 1 + rare", shards=shard, num_draws=50)
    result = in_memory.audit(run)
    assert min(s["heterogeneity"]["p_adjusted"] for s in result["shards"]) > 0.05
    assert result["verdict"] == "pass"


@pytest.mark.parametrize("expected", [0.02, 0.125, 1.0, 5.0, 50.0])
def test_unskewed_scores_do_not_understate_rare_events(expected):
    """Two-sided normal tails of corrected scores against exact Poisson tails."""
    counts = np.arange(np.ceil(expected) + 1, 300)
    exact = stats.poisson.sf(counts - 1, expected)
    far = exact > 1e-12
    z = (counts[far] - expected) / np.sqrt(expected)
    corrected = 2 * stats.norm.sf(audit.unskewed(z, np.full(far.sum(), expected)))
    assert np.all(corrected >= 0.5 * exact[far])
    assert np.all(audit.unskewed(z, np.full(far.sum(), expected)) <= z)
    np.testing.assert_allclose(audit.unskewed(z, np.full(far.sum(), 1e12)), z, rtol=1e-4)


# ---- importance ----


def test_importance_weights_correct_towards_the_target():
    """Draws of N(0, 1) for a target N(0.3, 1): the log weight is linear. Six Monte Carlo errors."""
    theta = np.random.default_rng(0).normal(size=(4000, 2))
    result = audit.importance(0.3 * theta[:, 0], theta)
    assert abs(result.shift[0] - 0.3) < 6 * result.shift_mcse[0] < 0.2
    assert abs(result.shift[1]) < 6 * result.shift_mcse[1]
    assert abs(result.sd_ratio[0] - 1) < 0.1
    np.testing.assert_allclose(result.efficiency, np.exp(-0.09), atol=0.05)
    np.testing.assert_allclose(result.log_ratio_sd, 0.3, rtol=0.05)


def test_pareto_k_is_high_for_heavy_weights_and_low_for_light_ones():
    """Weights that are a Pareto tail to the power k, and their inverses, which are bounded."""
    exceedance = np.random.default_rng(1).uniform(size=4000)
    heavy = -0.9 * np.log(exceedance)
    assert 0.7 < audit.k_hat(heavy) < 1.1
    assert audit.k_hat(-heavy) < 0.2
    result = audit.importance(heavy, np.zeros((4000, 1)))
    assert 0.7 < result.k_hat < 1.1


def test_no_spread_and_hopeless_spread():
    theta = np.random.default_rng(2).normal(size=(200, 3))
    exact = audit.importance(np.full(200, 7.0), theta)
    assert exact.efficiency == 1.0
    assert not exact.shift.any()
    hopeless = audit.importance(1e5 * theta[:, 0], theta)
    assert np.isnan(hopeless.shift).all()
    assert hopeless.k_hat == np.inf
    assert audit.importance(np.where(theta[:, 0] > 0, np.inf, 0.0), theta).k_hat == np.inf


# ---- faults of sites ----


@pytest.mark.parametrize("change", [scaled(1.3), moved(4.0), moved(30.0)])
def test_a_corrupted_site_is_located_and_sized(healthy, change):
    bad = replaced(healthy, change)
    true = (healthy.moments.mean - bad.moments.mean) / sds(healthy)
    result = in_memory.audit(bad)
    score = gate(result, "score")
    names = healthy.hierarchy.model.coefficient_names()
    assert score["status"] != "pass"
    assert score["where"] == f"{names[np.argmax(np.abs(true))]}, from shard {BAD:02d}"
    assert score["value"] == pytest.approx(np.max(np.abs(true)), rel=0.05)
    spread = np.array([s["log_ratio_sd"] for s in result["shards"]])
    assert np.argmax(spread) == BAD
    assert spread[BAD] > 3 * np.sort(spread)[-2]
    own = np.array([abs(s["score"]) for s in result["shards"]])
    assert np.argmax(own) == BAD
    assert f"shard {BAD:02d}" in gate(result, "log_ratio_sd")["where"]


def test_a_site_made_with_another_coding_is_located_and_sized(healthy, healthy_cells):
    """The shard's worker has its races in another order; the audit reads them as they are."""
    rotated = dict(zip([f"r{i}" for i in range(5)], [f"r{(i + 1) % 5}" for i in range(5)], strict=True))
    faulty = healthy_cells["shard"] == BAD
    race = np.array([rotated[r] if f else r for r, f in zip(healthy_cells["race"], faulty, strict=True)])
    recoded = fit(healthy_cells | {"race": race}, num_draws=500)
    true = (healthy.moments.mean - recoded.moments.mean) / sds(healthy)
    result = in_memory.audit(recoded._replace(designs=healthy.designs))
    score = gate(result, "score")
    assert score["where"].endswith(f"from shard {BAD:02d}")
    assert score["where"].startswith("1|race[")
    assert score["value"] == pytest.approx(np.max(np.abs(true)), rel=0.1)


def classic(run):
    """Each shard at its own mode under its share of the prior: the one-shot merge."""
    out, share = [], 1.0 / len(run.designs)
    prior = run.hierarchy
    for restriction, design in zip(run.restrictions, run.designs, strict=True):
        mode = rounds.part_of(rounds.init(prior).moments, restriction).mean
        for _ in range(100):
            site = audit.sites.fit(
                restriction.tree, design, prior.family, mode, np.zeros(restriction.tree.num_entries), num_nodes=1
            )
            precision = tr.dense(restriction.tree, site.precision) + np.diag(share * prior.fixed_precision)
            mode = np.linalg.solve(precision, site.shift + share * prior.fixed_precision * prior.fixed_mean)
        out.append(site)
    return in_memory.merge(run, out)


def test_a_one_shot_merge_with_a_rare_predictor_is_sized_beyond_one_newton_step(cells_of):
    rng = np.random.default_rng(5)
    rare, shard = (rng.random(40_000) < 0.01).astype(float), np.arange(40_000) // 250
    outcome = rng.random(40_000) < 1 / (1 + np.exp(2.94 - rare))
    cells = cells_of({"rare": rare, "shard": shard}, outcome)
    good = in_memory.fit(cells, "y ~ 1 + rare", shards=cells["shard"], num_draws=100)
    bad = classic(good)
    true = (good.moments.mean - bad.moments.mean) / sds(good)
    result = in_memory.audit(bad)
    score = gate(result, "score")
    assert np.max(np.abs(true)) > 5
    assert score["status"] == "fail"
    assert score["value"] == pytest.approx(np.max(np.abs(true)), rel=0.05)
    assert score["where"].startswith("rare, from about ")
    assert in_memory.audit(good)["verdict"] == "pass"


def test_without_more_passes_the_score_is_one_newton_step(healthy):
    bad = replaced(healthy, scaled(1.3))
    fresh = [
        audit.sites.fit(r.tree, d, bad.hierarchy.family, *rounds.part_of(bad.moments, r), num_nodes=11)
        for r, d in zip(bad.restrictions, bad.designs, strict=True)
    ]
    found = audit.score(bad.hierarchy, bad.restrictions, bad.sites, fresh, bad.moments, bad.proposal)
    assert found.num_refreshes == 0
    assert np.argmax(np.abs(found.shard_worst)) == BAD
    assert found.shard_share[BAD] > 0.8
    np.testing.assert_allclose(found.shard_share.sum(), 1.0)


# ---- faults of data ----


@pytest.mark.parametrize("by_state", [False, True])
def test_a_shard_with_turned_round_outcomes_is_located_and_sized(cells_of, by_state):
    columns, eta, rng = people(seed=7, size=100_000, by_state=by_state)
    cells = cells_of(columns, rng.random(len(eta)) < 1 / (1 + np.exp(-eta)))
    turned = np.where(cells["shard"] == BAD, cells["num_trials"] - cells["num_successes"], cells["num_successes"])
    good, bad = fit(cells, num_draws=100), fit(cells | {"num_successes": turned}, num_draws=500)
    common = good.hierarchy.model.tree.level_of == 0
    true = np.where(common, (bad.moments.mean - good.moments.mean) / sds(good), 0.0)
    result = in_memory.audit(bad)
    flagged = [s["shard_id"] for s in result["shards"] if s["heterogeneity"]["p_adjusted"] < 0.001]
    assert flagged == [f"{BAD:02d}"]
    entry = result["shards"][BAD]
    assert np.max(np.abs(true)) > 3
    assert abs(entry["influence"]) == pytest.approx(np.max(np.abs(true)), rel=0.25)
    assert entry["influence_sd"] < 0.5
    place = good.hierarchy.model.coefficient_names().tolist().index(entry["influence_where"])
    assert abs(true[place]) >= 0.75 * np.max(np.abs(true))
    assert result["verdict"] == "warn"
    assert any(f"shard {BAD:02d}" in m["where"] and "another story" in m["what"] for m in result["messages"])


# ---- separation, and data at the edge ----


def run_of(cells, text="y ~ 1 + x + (1 | g)", **options):
    return in_memory.fit(cells, text, shards=cells.get("shard"), **({"num_draws": 100, "num_chains": 2} | options))


def separated(result):
    return {(r["term"], r["level"]) for r in result["levels"] if r["issue"] == "separated"}


def test_separated_levels_are_named_references_too():
    cells = {
        "x": np.array([0.0, 1.0, 0.0, 1.0]), "educ": np.array(["a", "a", "b", "b"]), "g": np.array(["u", "v", "v", "u"]),
        "num_trials": np.array([30.0, 30.0, 30.0, 30.0]), "num_successes": np.array([0.0, 0.0, 9.0, 30.0]),
    }  # fmt: skip
    result = in_memory.audit(run_of(cells, "y ~ 1 + x + educ + (1 | g)"))
    assert separated(result) == {("fixed", "educ[a]")}
    cells["num_successes"] = np.array([0.0, 4.0, 0.0, 7.0])
    assert ("fixed", "x = 0") in separated(in_memory.audit(run_of(cells, "y ~ 1 + x + educ + (1 | g)")))
    cells["num_successes"] = np.array([3.0, 0.0, 0.0, 7.0])
    result = in_memory.audit(run_of(cells, "y ~ 1 + x + educ + (1 | g)"))
    assert separated(result) == {("1|g", "v")}
    assert result["verdict"] != "pass"
    assert not any(str(n) in str(result["levels"]) for n in (60, 30))  # no counts of people


def test_levels_that_chance_separates_are_listed_and_warn_of_nothing():
    """200 precincts of 20 people at a share of 0.12: 15 have no success by chance; one of 200 people is no chance."""

    def judged(size):
        trials = np.r_[np.full(199, 20.0), size]
        successes = np.random.default_rng(0).binomial(trials.astype(int), 0.12).astype(float)
        successes[-1] = 0.0
        if size > 20:  # nobody else
            successes[:-1] = np.maximum(successes[:-1], 1.0)
        cells = {"x": np.arange(200) % 2.0, "g": np.array([f"g{i:03d}" for i in range(200)]),
                 "num_trials": trials, "num_successes": successes}  # fmt: skip
        result = in_memory.audit(run_of(cells))
        return result, [m for m in result["messages"] if "every outcome of this level is the same" in m["what"]]

    result, messages = judged(20.0)
    assert len(separated(result)) >= 8
    assert not messages
    result, messages = judged(200.0)
    assert separated(result) == {("1|g", "g199")}
    assert len(messages) == 1


def test_laplace_under_separation_is_sized_against_quadrature():
    """40 people, no success: the exact mean of the effect is 0.4 sds below the mode."""
    trials, successes = np.array([8000.0, 40.0]), np.array([2800.0, 0.0])
    cells = {"x": np.array([0.0, 1.0]), "num_trials": trials, "num_successes": successes}
    run = run_of(cells, "y ~ 1 + x", method="laplace", num_draws=2000)
    result = in_memory.audit(run, AuditConfig(draws=4000))
    intercept, effect = np.linspace(-0.9, -0.3, 201)[:, None], np.linspace(-14.0, 4.0, 1801)[None, :]
    log_p = -0.5 * (intercept / 2.5) ** 2 - 0.5 * (effect / 2.5) ** 2
    for n, k, eta in zip(trials, successes, (intercept, intercept + effect), strict=True):
        log_p = log_p + k * eta - n * np.logaddexp(0, eta)
    weight = np.exp(log_p - log_p.max())
    true = ((weight * effect).sum() / weight.sum() - run.moments.mean[1]) / sds(run)[1]
    block = result["blocks"][0]
    assert block["shift_where"] == "x"
    assert block["shift"] == pytest.approx(true, rel=0.25)
    assert result["verdict"] == "fail"
    assert separated(result) == {("fixed", "x")}


@pytest.mark.parametrize(
    ("trials", "successes", "all_the_same"),
    [([50, 40, 30, 20], [0, 0, 0, 0], True), ([50, 40, 30, 20], [50, 40, 30, 20], True),
     ([1, 0, 0, 0], [1, 0, 0, 0], True), ([3, 0, 9, 0], [1, 0, 2, 0], False)],
    ids=["all zeros", "all ones", "one person", "cells without answers"],
)  # fmt: skip
def test_degenerate_data_are_fitted_and_audited(trials, successes, all_the_same):
    """Where all outcomes are the same the posterior is skewed, a Gaussian is poor, and the audit may say fail."""
    cells = {
        "x": np.array([0.0, 1.0, 0.0, 1.0]), "g": np.array(["u", "u", "v", "v"]), "shard": np.array([0, 0, 1, 1]),
        "num_trials": np.array(trials, dtype=float), "num_successes": np.array(successes, dtype=float),
    }  # fmt: skip
    run = run_of(cells, num_draws=500)
    result = in_memory.audit(run)
    assert np.isfinite(run.draws.theta).all()
    assert gate(result, "score")["value"] < 0.1
    assert all(s["log_ratio_sd"] is not None for s in result["shards"])
    if all_the_same:
        assert result["verdict"] != "pass"
        assert ("fixed", "Intercept") in separated(result)
    else:
        assert result["verdict"] in ("pass", "warn")


def test_one_row_and_one_level():
    cells = {"g": np.array(["only"]), "num_trials": np.array([1.0]), "num_successes": np.array([1.0])}
    result = in_memory.audit(run_of(cells, "y ~ 1 + (1 | g)"))
    assert result["verdict"] in ("pass", "warn")
    assert {"term": "1|g", "level": "only", "issue": "few_trials"} in result["levels"]


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
def test_a_huge_planted_shift_fails_without_a_crash(healthy, size):
    result = in_memory.audit(replaced(healthy, moved(size)))
    assert result["verdict"] == "fail"
    assert gate(result, "score")["status"] == "fail"
    assert gate(result, "log_ratio_sd")["status"] == "fail"
    numbers = [s[k] for s in result["shards"] for k in ("score", "log_ratio_sd", "influence")]
    assert all(n is None or np.isfinite(n) for n in numbers)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_site_that_is_no_number_is_refused(healthy, value):
    with pytest.raises(ImproperPosteriorError, match=f"site of shard number {BAD}"):
        replaced(healthy, lambda tree, site: site._replace(shift=site.shift + value))
    with pytest.raises(ImproperPosteriorError):
        replaced(healthy, lambda tree, site: site._replace(precision=site.precision + value))


def test_a_site_that_takes_information_away_is_refused(healthy):
    with pytest.raises(ImproperPosteriorError):
        replaced(healthy, scaled(-0.2))


def test_the_shards_part_needs_no_draws(healthy):
    """What a further pass over the data asks of a worker: the site made afresh, nothing else."""
    r, d, s = healthy.restrictions[0], healthy.designs[0], healthy.sites[0]
    report = audit.shard(r.tree, d, healthy.hierarchy.family, s, np.zeros((len(r.coefficients), 0)), 1.0,
                         rounds.part_of(healthy.moments, r), num_nodes=11)  # fmt: skip
    assert report.log_ratio.shape == (0,)
    np.testing.assert_allclose(report.fresh.precision, s.precision, rtol=0.05, atol=0.5)


def test_holm_adjusts_and_keeps_order():
    np.testing.assert_allclose(audit.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert audit.holm([0.9, 0.8]).max() <= 1.0


def test_few_integration_points_are_not_mistaken_for_an_error():
    """Eight scales and 32 points of them: the posterior's moments are rough, but equally so before and after new sites."""
    rng = np.random.default_rng(0)
    factors = {
        name: rng.integers(0, size, 600).astype(str)
        for name, size in zip("abcdefgh", [3, 4, 3, 5, 4, 3, 6, 4], strict=True)
    }
    eta = sum(rng.normal(0, 0.7, 6)[codes.astype(int)] for codes in factors.values())
    trials = rng.integers(1, 6, 600)
    cells = {**factors, "num_trials": trials, "num_successes": rng.binomial(trials, 1 / (1 + np.exp(-eta)))}
    formula = "y ~ 1 + " + " + ".join(f"(1 | {name})" for name in factors)
    run = in_memory.fit(cells, formula, shards=rng.integers(0, 5, 600))
    mirrored = run.proposal._replace(axes=-run.proposal.axes, widths=run.proposal.widths[::-1])
    moments = combiner.moments(run.hierarchy, run.natural, mirrored)
    sd = np.sqrt(moments.covariance[run.hierarchy.model.tree.diagonal])
    assert np.max(np.abs(moments.mean - run.moments.mean) / sd) > 0.05  # the points do matter
    for other in (run, run._replace(proposal=mirrored, moments=moments)):
        assert gate(in_memory.audit(other), "score")["value"] < 0.01
