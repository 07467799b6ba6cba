"""Posterior predictive checks under true and false models; prior predictive draws against analytic moments."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from fitting import checks, families, formula, in_memory, model, predict, predictive, priors
from fitting import hierarchy as hierarchies
from fitting.cell_design import CellDesign


def cells(seed, family="binomial", overdispersion=0.0, slope=1.0, noise=None, size=240):
    """10 groups; ``overdispersion`` is an sd of every cell's own effect, ``noise`` sds of rows by group."""
    rng = np.random.default_rng(seed)
    group, x = rng.integers(0, 10, size), np.round(rng.normal(size=size), 1)
    eta = 0.3 + rng.normal(0, 0.4, 10)[group] + slope * np.where(x > 0, x, 0.0) + 0.3 * x
    eta += overdispersion * rng.normal(size=size)
    out = {"g": np.array([f"g{i}" for i in group]), "x": x, "high": np.where(x > 0.8, "high", "low")}
    trials = rng.integers(20, 60, size)
    if family == "gaussian":
        sds = np.ones(10) if noise is None else noise
        y = [rng.normal(e, sds[g], n) for e, g, n in zip(eta, group, trials, strict=True)]
        sums = {"sum_y": np.array([v.sum() for v in y]), "squared_deviations": np.array([((v - v.mean()) ** 2).sum() for v in y])}
        return out | {"num_trials": trials.astype(float)} | sums
    return out | {"num_trials": trials, "num_successes": rng.binomial(trials, expit(eta))}


def fit(data, family="binomial", **options):
    return in_memory.fit(data, "y ~ 1 + x + (1 | g)", family=family, num_draws=100, **options)


@pytest.mark.parametrize("family", ["binomial", "gaussian"])
def test_p_values_of_groups_the_model_does_not_know_are_near_uniform(family):
    """20 random groups of 12 cells: the fit hardly adapts to them, so p is uniform but for that (Gelman 2013). Alarm 1e-4."""
    found, inside = [], []
    for seed in range(4):
        data = cells(seed, family, slope=0.0)
        group = np.random.default_rng(100 + seed).permutation(240) % 20
        checked = checks.posterior_predictive(fit(data, family), group, num_draws=400).found
        found.append(checked.p_value)
        inside.append(checked.p_discrepancy)
    assert stats.kstest(np.concatenate(found), "uniform").pvalue > 1e-4
    assert stats.kstest(np.concatenate(inside), "uniform").pvalue > 1e-4


def test_a_planted_misfit_is_extreme_and_only_where_it_is():
    """The broken twin: a kink in x that the model has as a line."""
    data = cells(1, slope=1.5)
    run = fit(data)
    kink = checks.posterior_predictive(run, data["high"], num_draws=1000)
    assert kink.labels == ["high", "low"]
    by_group = checks.posterior_predictive(run, data["g"], num_draws=1000)
    middle = np.where((data["x"] > -0.5) & (data["x"] < 0.5), "middle", "ends")
    at_kink = checks.posterior_predictive(run, middle, num_draws=1000).found
    assert at_kink.p_value[1] > 0.999, "at the kink the line is above the data"
    assert np.all(np.abs(by_group.found.p_value - 0.5) < 0.45), "groups with an effect of their own are met"
    assert at_kink.observed[1] < at_kink.low[1]


def test_overdispersion_shows_inside_groups_and_not_in_their_totals():
    data = cells(2, overdispersion=0.8, slope=0.0)
    found = checks.posterior_predictive(fit(data), data["g"], num_draws=200).found
    assert np.median(found.p_discrepancy) < 0.01
    assert np.all(np.abs(found.p_value - 0.5) < 0.45)
    fine = cells(2, overdispersion=0.0, slope=0.0)
    healthy = checks.posterior_predictive(fit(fine), fine["g"], num_draws=200).found
    assert np.median(healthy.p_discrepancy) > 0.2


def test_a_group_of_noisier_people_shows_in_its_discrepancy():
    noise = np.ones(10)
    noise[4] = 2.0
    data = cells(3, "gaussian", slope=0.0, noise=noise)
    found = checks.posterior_predictive(fit(data, "gaussian"), data["g"], num_draws=200).found
    assert found.p_discrepancy[4] == 0.0
    assert np.all(np.delete(found.p_discrepancy, 4) > 0.99), "one sigma for all is too large for the others"


def test_replicates_have_the_moments_of_the_model():
    """At one fixed coefficient: sums are binomial, or normal; z of 5 at 20,000 draws."""
    num_draws, trials = 20_000, np.array([10.0, 30.0])
    theta = np.full((1, num_draws), 0.4)
    where = CellDesign(
        (np.zeros(2, dtype=np.int32),), (None,), (0,), {"num_trials": trials, "num_successes": np.array([4.0, 9.0])}
    )
    group = {"m": np.zeros(2, dtype=int)}
    found, means = predictive.replicates(families.BINOMIAL, where, theta, np.ones(num_draws), group, {"m": 1}, (0,))
    p = expit(0.4)
    np.testing.assert_allclose(means, p)
    total = found["m"].replicated[0]
    assert total.mean() == pytest.approx(40 * p, abs=5 * np.sqrt(40 * p * (1 - p) / num_draws))
    assert total.var() == pytest.approx(40 * p * (1 - p), rel=5 * np.sqrt(2 / num_draws))
    assert found["m"].discrepancy_replicated.mean() == pytest.approx(2.0, abs=5 * 2 / np.sqrt(num_draws))
    realised = (4 - 10 * p) ** 2 / (10 * p * (1 - p)) + (9 - 30 * p) ** 2 / (30 * p * (1 - p))
    np.testing.assert_allclose(found["m"].discrepancy, realised)
    assert predictive.check(found["m"]).p_value[0] == pytest.approx(
        stats.binom.sf(13, 40, p) + 0.5 * stats.binom.pmf(13, 40, p), abs=0.005
    )
    numbers = {"num_trials": trials, "sum_y": np.array([1.0, 2.0]), "squared_deviations": np.array([9.0, 40.0]) - np.array([1.0, 4.0]) / trials}
    sd = np.full(num_draws, 1.5)
    gaussian, _ = predictive.replicates(
        families.GAUSSIAN, where._replace(statistics=numbers), theta, sd, group, {"m": 1}, (0,)
    )
    total = gaussian["m"].replicated[0]
    assert total.mean() == pytest.approx(16.0, abs=5 * 1.5 * np.sqrt(40 / num_draws))
    assert total.var() == pytest.approx(40 * 2.25, rel=5 * np.sqrt(2 / num_draws))
    assert stats.kstest(gaussian["m"].discrepancy_replicated[0], stats.chi2(40).cdf).pvalue > 1e-4
    np.testing.assert_allclose(gaussian["m"].discrepancy, (49 - 2 * 0.4 * 3 + 40 * 0.16) / 2.25)


def test_sums_of_shards_are_those_of_the_whole():
    data = cells(4)
    shards = np.random.default_rng(0).integers(0, 3, 240)
    run = fit(data, shards=shards)
    found = checks.posterior_predictive(run, data["g"], shards=shards, num_draws=300)
    whole = checks.posterior_predictive(fit(data), data["g"], num_draws=300)
    np.testing.assert_array_equal(found.num_trials, whole.num_trials)
    np.testing.assert_array_equal(found.found.observed, whole.found.observed)
    np.testing.assert_allclose(found.found.mean, whole.found.mean, atol=0.02)
    with pytest.raises(checks.ModelError, match="given to the fit"):
        checks.posterior_predictive(run, data["g"], num_draws=10)


def test_p_values_outside_are_counted_against_chance():
    assert predictive.num_outside(np.array([0.5, 0.01, 0.99])) == (2, pytest.approx(3 * 0.05**2 * 0.95 + 0.05**3))
    assert predictive.num_outside(np.full(4, 0.5)) == (0, 1.0)


def test_calibration_of_a_group_is_that_of_its_own_cells():
    rng = np.random.default_rng(5)
    expected, trials, group = rng.uniform(size=60), rng.integers(1, 9, 60).astype(float), rng.integers(0, 3, 60)
    observed = rng.binomial(trials.astype(int), expected).astype(float)
    found = predictive.group_calibration(expected, trials, observed, group, 4)
    for g in range(3):
        own = group == g
        for a, b in zip(found[g], predict.calibration(expected[own], trials[own], observed[own]), strict=True):
            np.testing.assert_array_equal(a, b)
    assert found[3].trials.sum() == 0


# ---- prior ----


def prior_of(family, text="y ~ 1 + x + (1 + x | g)", **chosen):
    rng = np.random.default_rng(0)
    columns = {"g": np.repeat(["a", "b"], 20), "x": rng.integers(0, 2, 40).astype(float)}
    if family == "gaussian":
        y = rng.normal(size=40)
        statistics = {"num_trials": np.ones(40), "sum_y": y, "squared_deviations": np.zeros(40)}
    else:
        statistics = {"num_trials": np.ones(40), "num_successes": np.zeros(40)}
    parsed = formula.parse(text)
    coding, _ = in_memory.code(columns, parsed, statistics)
    written = {name: priors.parse(value) for name, value in chosen.items()}
    made = families.make(family)
    return hierarchies.build(model.build(parsed, coding, made), priors.default_priors(made, 1.0, 0.5) | written)


SCALES = {
    "half_normal(0.7)": stats.halfnorm(scale=0.7), "exponential(2)": stats.expon(scale=0.5),
    "half_student_t(4, 0.5)": None, "half_cauchy(0.4)": stats.halfcauchy(scale=0.4),
}  # fmt: skip


@pytest.mark.parametrize("sd", SCALES)
def test_prior_draws_are_those_of_the_prior(sd):
    """Independent chains thinned to draws that are nearly independent; Kolmogorov-Smirnov, false alarm 1e-4 each."""
    prior = prior_of(
        "gaussian", intercept="normal(0.3, 0.8)", b="normal(0, 0.6)", sd=sd, cor="lkj(2)", sigma="exponential(1)"
    )
    draws = predictive.prior_draws(prior, num_draws=2000, seed=1)
    natural, theta = prior.natural(draws.psi[0]), draws.theta[0]
    thin = slice(None, None, 8)
    names = prior.names()
    scale = SCALES[sd].cdf if SCALES[sd] else lambda x: 2 * stats.t(4, scale=0.5).cdf(x) - 1
    for name in ("sd(1|g)", "sd(x|g)"):
        assert stats.kstest(natural[thin, names.index(name)], scale).pvalue > 1e-4, name
    correlation = natural[thin, names.index("cor(1,x|g)")]
    assert stats.kstest((correlation + 1) / 2, stats.beta(2, 2).cdf).pvalue > 1e-4
    assert stats.kstest(natural[thin, names.index("sigma")], stats.expon().cdf).pvalue > 1e-4
    labels = list(prior.model.coefficient_names())
    assert stats.kstest(theta[:, labels.index("Intercept")], stats.norm(0.3, 0.8).cdf).pvalue > 1e-4
    assert stats.kstest(theta[:, labels.index("x")], stats.norm(0.0, 0.6).cdf).pvalue > 1e-4
    whitened = theta[:, labels.index("1|g[b]")] / natural[:, names.index("sd(1|g)")]
    assert stats.kstest(whitened, stats.norm().cdf).pvalue > 1e-4


def test_prior_means_of_groups_have_their_analytic_moments():
    """Logit-normal moments by quadrature; and a wrong sd would be found."""
    data = cells(6, slope=0.0)
    run = in_memory.fit(
        data, "y ~ 1 + (1 | g)", num_draws=10, chosen_priors={"intercept": "normal(0.5, 0.7)", "sd": "half_normal(0.6)"}
    )
    found = checks.prior_predictive(run, data["g"], num_draws=2000)

    z, weight = np.polynomial.hermite_e.hermegauss(60)
    tau = np.linspace(0, 6, 601)[:, None] + 0.005

    def moment(power, sd_of_group):
        inner = expit(0.5 + z * np.sqrt(0.49 + (sd_of_group * tau) ** 2)) ** power @ weight / weight.sum()
        return np.average(inner, weights=stats.halfnorm.pdf(tau[:, 0]))

    mean, square = moment(1, 0.6), moment(2, 0.6)
    sd = np.sqrt(square - mean**2)
    assert np.all(
        np.abs(found.means.mean(axis=1) - mean) < 5 * 2 * sd / np.sqrt(2000)
    )  # draws repeat scales: twice the error
    assert np.all(np.abs(found.means.std(axis=1) / sd - 1) < 0.12)
    wider = np.sqrt(moment(2, 2.4) - moment(1, 2.4) ** 2)
    assert np.all(found.means.std(axis=1) < 0.9 * wider)
    assert found.labels == [f"g{i}" for i in range(10)]


def test_terms_say_what_each_prior_alone_implies():
    prior = prior_of("binomial", intercept="normal(1.0, 0.5)", b="normal(0, 2)", sd="half_normal(0.5)")
    terms = {t.name: t for t in predictive.prior_terms(prior, predictive.prior_draws(prior, num_draws=2000, seed=2))}
    assert list(terms)[:4] == ["Intercept", "x", "1|g", "x|g"]
    middle = {name: np.median(t.values) for name, t in terms.items()}
    for name in ("Intercept", "x", "1|g"):
        assert middle[name] == pytest.approx(expit(1.0), abs=0.05)
    np.testing.assert_allclose(
        np.quantile(terms["Intercept"].values, 0.9), expit(1 + 0.5 * stats.norm.isf(0.1)), atol=0.02
    )
    np.testing.assert_allclose(np.quantile(terms["x"].values, 0.1), expit(1 - 2 * stats.norm.isf(0.1)), atol=0.03)
    assert terms["sd(1|g)"].kind == "parameter"
    assert terms["sd(1|g)"].values.mean() == pytest.approx(0.5 * np.sqrt(2 / np.pi), abs=0.04)
    wild = prior_of("binomial", intercept="normal(0, 10)")
    said = predictive.prior_terms(wild, predictive.prior_draws(wild, num_draws=1000, seed=2))[0]
    assert predictive.extreme(said.values) == pytest.approx(2 * stats.norm.sf(np.log(99) / 10), abs=0.08)


def test_a_model_without_groups_has_a_prior_too():
    prior = prior_of("binomial", text="y ~ 1 + x")
    draws = predictive.prior_draws(prior, num_draws=100, seed=0)
    assert draws.psi.shape == (1, 100, 0)
    assert {t.kind for t in predictive.prior_terms(prior, draws)} == {"term"}
