"""Classic combiners against closed forms, and what is wrong where a rule is broken."""

import pickle

import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma, polygamma

from fitting import classic, shard_draws
from fitting.classic import COMBINERS
from fitting.shard_draws import CombinerError

CHAINS, DRAWS = 4, 1000
FRACTIONATED = [name for name, combiner in COMBINERS.items() if combiner.kind == "fractionated"]
POWERED = [name for name, combiner in COMBINERS.items() if combiner.kind == "powered"]
MOMENT = ["consensus", "gaussian", "swiss"]  # exact for Gaussians


def normal(rng, mean, covariance, chains=CHAINS, draws=DRAWS):
    lower = np.linalg.cholesky(np.atleast_2d(covariance))
    return np.asarray(mean) + rng.standard_normal((chains, draws, len(lower))) @ lower.T


def assert_moments(draws, mean, covariance, noise=2.0, bias=0.0, false_alarm=1e-6):
    """Mean and sds of draws (chain, draw, D), within normal limits at ``noise / n`` squared standard errors.

    ``noise`` is 1 for draws that are independent; estimating moments and drawing from them doubles it.
    """
    flat, sd = draws.reshape(-1, draws.shape[-1]), np.sqrt(np.diag(covariance))
    limit = stats.norm.isf(false_alarm / (4 * len(sd))) * np.sqrt(noise / len(flat))
    off = np.max(np.abs(flat.mean(axis=0) - mean) / sd)
    assert off <= limit, f"means off by {off:.3g} sds, allowed {limit:.3g}"
    ratio = np.max(np.abs(flat.std(axis=0) / sd - 1))
    assert ratio <= limit / np.sqrt(2) + bias, f"sds off by {ratio:.3g}, allowed {limit / np.sqrt(2) + bias:.3g}"


class Conjugate:
    """Normal data of known covariance in S shards with a normal prior: what each shard says, and the posterior."""

    def __init__(self, num_shards=5, size=3, seed=0):
        rng = np.random.default_rng(seed)
        square = rng.normal(size=(num_shards, size, size + 3))
        self.likelihood = square @ np.swapaxes(square, 1, 2)
        self.shift = np.einsum("sde,se->sd", self.likelihood, rng.normal(size=(num_shards, size)) * 0.5)
        self.prior = 8.0 * np.eye(size)  # strong, so that counting it otherwise shows
        self.prior_shift = self.prior @ np.full(size, 1.0)
        self.covariance = np.linalg.inv(self.prior + self.likelihood.sum(axis=0))
        self.mean = self.covariance @ (self.prior_shift + self.shift.sum(axis=0))

    def draws(self, prior_power, likelihood_power, seed=1):
        found = []
        for s, (precision, shift) in enumerate(zip(self.likelihood, self.shift, strict=True)):
            covariance = np.linalg.inv(prior_power * self.prior + likelihood_power * precision)
            mean = covariance @ (prior_power * self.prior_shift + likelihood_power * shift)
            found.append(normal(np.random.default_rng([seed, s]), mean, covariance))
        return np.stack(found)

    def of_kind(self, kind, seed=1):
        size = len(self.shift)
        return self.draws(1 / size, 1.0, seed) if kind == "fractionated" else self.draws(1.0, size, seed)


@pytest.fixture(scope="module")
def conjugate():
    return Conjugate()


# ---- Gaussians: exact ----


@pytest.mark.parametrize("name", MOMENT)
def test_gaussian_subposteriors_merge_to_the_posterior(conjugate, name):
    combiner = COMBINERS[name]
    merged = combiner.merge(conjugate.of_kind(combiner.kind))
    assert merged.shape == (CHAINS, DRAWS, 3)
    assert_moments(merged, conjugate.mean, conjugate.covariance)
    correlation, expected = np.corrcoef(merged.reshape(-1, 3).T), conjugate.covariance
    expected = expected / np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.max(np.abs(correlation - expected)) < stats.norm.isf(1e-7) * np.sqrt(2 / (CHAINS * DRAWS))


@pytest.mark.parametrize("name", MOMENT)
def test_prior_counted_once_per_shard_is_caught(conjugate, name):
    powers = (1.0, 1.0) if COMBINERS[name].kind == "fractionated" else (5.0, 5.0)
    with pytest.raises(AssertionError, match="off by"):
        assert_moments(COMBINERS[name].merge(conjugate.draws(*powers)), conjugate.mean, conjugate.covariance)


@pytest.mark.parametrize("name", MOMENT)
def test_the_wrong_kind_of_subposterior_is_caught(conjugate, name):
    other = "powered" if COMBINERS[name].kind == "fractionated" else "fractionated"
    with pytest.raises(AssertionError, match="off by"):
        assert_moments(COMBINERS[name].merge(conjugate.of_kind(other)), conjugate.mean, conjugate.covariance)


@pytest.mark.parametrize("name", MOMENT)
def test_shards_without_data_return_the_prior(name):
    """Fractions of the prior multiply to the prior, and powers of nothing leave it whole."""
    problem = Conjugate()
    problem.likelihood, problem.shift = 0 * problem.likelihood, 0 * problem.shift
    merged = COMBINERS[name].merge(problem.of_kind(COMBINERS[name].kind))
    assert_moments(merged, np.full(3, 1.0), np.linalg.inv(problem.prior))


def test_opposite_correlations_need_full_weights():
    """Two shards correlated by 0.95 and -0.95: variance 0.049 together; diagonal weights say 0.5."""
    rng, rho = np.random.default_rng(3), np.array([[0, 0.95], [0.95, 0]])
    draws = np.stack([normal(rng, np.zeros(2), np.eye(2) + rho), normal(rng, np.zeros(2), np.eye(2) - rho)])
    exact = np.eye(2) * (1 - 0.95**2) / 2
    for merge in (classic.consensus, classic.gaussian):
        assert_moments(merge(draws), np.zeros(2), exact)
    diagonal = classic.consensus(draws, weights="diagonal")
    assert_moments(diagonal, np.zeros(2), np.eye(2) / 2)
    with pytest.raises(AssertionError, match="sds off"):
        assert_moments(diagonal, np.zeros(2), exact)


@pytest.mark.parametrize("name", ["nonparametric", "semiparametric"])
def test_kernel_products_reach_a_skewed_posterior(name, assert_mean_close):
    """Two shards of gamma/exponential: the log rate is skewed in each. Kernels of width h widen sds by about h^2 / 2."""
    shape, rate = Exponential.shape + Exponential.rows, Exponential.rate + Exponential.total
    sd, burn_in = np.sqrt(polygamma(1, shape)), 2000

    def assert_exact(draws):
        merged = COMBINERS[name].merge(draws, seed=5, thin=6, burn_in=burn_in)
        assert_mean_close(merged, digamma(shape) - np.log(rate), resolution=0.3 * sd)
        size, widening = shard_draws.effective_size(merged), burn_in ** (-2 / 5) / 2
        limit = stats.norm.isf(1e-6) * np.sqrt(0.75 / size) + widening
        assert abs(merged.std() / sd - 1) < limit < 0.27, f"sd off by {merged.std() / sd - 1:.2g}"

    assert_exact(Exponential(2).draws(draws=1500))
    with pytest.raises(AssertionError, match="sd off"):
        assert_exact(Exponential(2).draws("powered", draws=1500))


# ---- gamma / exponential: a transform, and its Jacobian ----


class Exponential:
    """40 exponential waiting times under a gamma(2, 1) rate, in S shards; draws of the log rate, whose law is log gamma.

    The log rate has density ``rate^shape exp(-b rate)`` with the Jacobian, one power of the rate, in it: tempered with the
    prior each shard has ``shape / S``; kept whole in every shard, ``(shape - 1) / S + 1``.
    """

    shape, rate, rows = 2.0, 1.0, 40
    total = np.exp(digamma(42.0) - 0.264) - 1.0  # so that the posterior mean of the log rate is 0.264

    def __init__(self, num_shards, jacobian=False):
        self.num_shards = num_shards
        self.prior_shape = (self.shape - 1) / num_shards + 1 if jacobian else self.shape / num_shards

    def parameters(self, kind="fractionated"):
        """Shape and rate of each shard's gamma."""
        each, count = self.rows / self.num_shards, self.num_shards
        if kind == "powered":
            return self.shape + self.rows, self.rate + self.total
        return self.prior_shape + each, (self.rate + self.total) / count

    def draws(self, kind="fractionated", draws=DRAWS, seed=2):
        shape, rate = self.parameters(kind)
        size = (CHAINS, draws, 1)
        return [np.log(np.random.default_rng([seed, s]).gamma(shape, 1 / rate, size)) for s in range(self.num_shards)]


def test_the_jacobian_counts_once_where_it_is_tempered():
    """Products of 20 subposterior densities on a grid: 0.264 and 0.155; with 20 Jacobians 0.641 and 0.129."""
    grid = np.linspace(-2, 3, 4001)
    found = {}
    for jacobian in (False, True):
        shape, rate = Exponential(20, jacobian).parameters()
        log_p = 20 * (shape * grid - rate * np.exp(grid))
        weight = np.exp(log_p - log_p.max())
        mean = weight @ grid / weight.sum()
        found[jacobian] = mean, np.sqrt(weight @ grid**2 / weight.sum() - mean**2)
    np.testing.assert_allclose(found[False], (0.264, 0.155), atol=0.0006)
    np.testing.assert_allclose(found[True], (0.641, 0.129), atol=0.0006)


@pytest.mark.parametrize("num_shards", [2, 20])
def test_consensus_on_skewed_shards_is_as_wrong_as_its_closed_form(num_shards):
    """An average of independent log gammas; beside the posterior it is off by 1.6 sds where shards have two rows each."""
    shape, rate = Exponential(num_shards).parameters()
    merged = classic.consensus(Exponential(num_shards).draws())
    mean, sd = digamma(shape) - np.log(rate), np.sqrt(polygamma(1, shape) / num_shards)
    assert_moments(merged, [mean], [[sd**2]], noise=4.0)  # kurtosis of a log gamma of shape 2: 4.2 before averaging
    off = (merged.mean() - 0.264) / 0.155
    assert abs(off) < 0.2 if num_shards == 2 else off < -1.0


@pytest.mark.parametrize("name", POWERED)
def test_powered_shards_alike_are_the_posterior(name):
    """Shards with the same data: each is the whole posterior, skewness and all."""
    merged = COMBINERS[name].merge(Exponential(4).draws("powered"))
    shape, rate = Exponential.shape + Exponential.rows, Exponential.rate + Exponential.total
    assert_moments(merged, [digamma(shape) - np.log(rate)], [[polygamma(1, shape)]])
    exact = stats.loggamma(shape, loc=-np.log(rate))
    assert stats.kstest(merged.reshape(-1)[::2], exact.cdf).pvalue > 1e-6


# ---- barycenters ----


def test_barycenter_of_gaussians_that_commute():
    """Covariances with common axes: the barycenter's square root is the average of theirs."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    roots = rng.uniform(0.5, 3.0, size=(4, 3))
    covariances = np.stack([axes @ np.diag(root**2) @ axes.T for root in roots])
    expected = axes @ np.diag(roots.mean(axis=0) ** 2) @ axes.T
    np.testing.assert_allclose(classic.barycenter_covariance(covariances), expected, rtol=1e-8)
    means = rng.normal(size=(4, 3))
    draws = np.stack([normal(rng, m, v) for m, v in zip(means, covariances, strict=True)])
    assert_moments(classic.barycenter(draws), means.mean(axis=0), expected)


def test_barycenter_satisfies_its_equation():
    """The average of optimal maps from the barycenter is the identity (Agueh & Carlier 2011)."""
    rng = np.random.default_rng(1)
    square = rng.normal(size=(3, 4, 6))
    covariances = square @ np.swapaxes(square, 1, 2)
    centre = classic.barycenter_covariance(covariances)
    root, inverse_root = shard_draws.power(centre, 0.5), shard_draws.power(centre, -0.5)
    maps = [inverse_root @ shard_draws.power(root @ own @ root, 0.5) @ inverse_root for own in covariances]
    np.testing.assert_allclose(np.mean(maps, axis=0), np.eye(4), atol=1e-7)


def test_pie_averages_quantiles():
    """Margins of different sds: the average of their quantiles has the average sd, and keeps the dependence's sign."""
    rng = np.random.default_rng(4)
    draws = np.stack([normal(rng, [s, -s], v**2 * np.array([[1, 0.8], [0.8, 1]])) for s, v in ((0.0, 1.0), (1.0, 3.0))])
    merged = classic.pie(draws)
    assert_moments(merged, [0.5, -0.5], 4.0 * np.eye(2))
    assert np.corrcoef(merged.reshape(-1, 2).T)[0, 1] == pytest.approx(0.8, abs=0.04)


# ---- few draws ----


def many_coordinates(seed):
    return np.random.default_rng(seed).standard_normal((10, 4, 50, 50))


def variance_ratio(merge):
    """Merged over true variance for ten unit-normal shards, d = 50, n = 200; averaged over coordinates and three repetitions."""
    return np.mean([10 * merge(many_coordinates(seed)).reshape(200, 50).var(axis=0, ddof=1) for seed in range(3)])


@pytest.mark.parametrize("merge", [classic.consensus, classic.gaussian])
def test_precision_of_few_draws_is_unbiased(merge):
    """Standard error of the average 0.01; effective draws are estimated a few per cent below 200, which adds 0.01 to 0.02."""
    assert variance_ratio(merge) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("merge", [classic.consensus, classic.gaussian])
def test_uncorrected_precision_is_caught(merge, monkeypatch):
    monkeypatch.setattr(shard_draws, "precision_factor", lambda *_: 1.0)
    assert variance_ratio(merge) == pytest.approx(0.77, abs=0.04)


def test_precision_factor_is_that_of_an_inverse_wishart():
    rng = np.random.default_rng(0)
    precision = [np.linalg.inv(np.cov(rng.standard_normal((4, 20)))) for _ in range(4000)]
    found = np.mean([np.trace(p) / 4 for p in precision])
    assert 1 / found == pytest.approx(shard_draws.precision_factor(20, 4), rel=0.02)


def test_effective_draws_count_and_not_raw_ones():
    """An autoregression of 0.9 has a nineteenth of its draws."""
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((4, 4000, 2))
    for i in range(1, 4000):
        noise[:, i] += 0.9 * noise[:, i - 1]
    assert shard_draws.effective_size(noise) == pytest.approx(16000 / 19, rel=0.25)


# ---- seeds and order ----


def test_shards_that_began_at_one_key_are_refused():
    """16 shards with the same noise: paired, they average to a variance 16 times too large."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, 250, 1))
    same = np.stack([noise + 0.1 * s for s in range(16)])
    assert same.mean(axis=0).var() == pytest.approx(16 * (1 / 16), rel=0.2)
    for combiner in COMBINERS.values():
        with pytest.raises(CombinerError, match="independent draws"):
            combiner.merge(same)


def test_slow_independent_chains_are_not_taken_for_one_key():
    rng = np.random.default_rng(1)
    walks = rng.standard_normal((12, 4, 500, 3))
    for i in range(1, 500):
        walks[:, :, i] += 0.95 * walks[:, :, i - 1]
    classic.consensus(walks)


@pytest.mark.parametrize("name", list(COMBINERS))
def test_the_seed_decides(conjugate, name):
    draws = conjugate.of_kind(COMBINERS[name].kind)[:, :, :50]
    first, again = (COMBINERS[name].merge(draws, seed=9) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, COMBINERS[name].merge(draws, seed=10))


def test_shuffling_breaks_trends_that_shards_share():
    """Chains that all drift one way: averaged in order the drift stays, shuffled it averages out."""
    rng = np.random.default_rng(5)
    drift = np.linspace(-0.25, 0.25, 1000)[:, None]
    draws = rng.standard_normal((25, 4, 1000, 1)) + drift
    trend = np.corrcoef(np.tile(drift[:, 0], 4), draws.mean(axis=0).ravel())[0, 1]
    assert trend > 0.4
    merged = classic.consensus(draws).ravel()
    assert abs(np.corrcoef(np.tile(drift[:, 0], 4), merged)[0, 1]) < stats.norm.isf(5e-7) / np.sqrt(4000)


@pytest.mark.parametrize("name", [name for name in COMBINERS if name not in ("barycenter",)])
def test_units_do_not_matter(conjugate, name):
    draws = conjugate.of_kind(COMBINERS[name].kind)[:, :, :100]
    unit, origin = np.array([1e3, 1.0, 1e-2]), np.array([5.0, -2.0, 0.0])
    if name == "pie":
        unit = np.full(3, 7.0)  # its dependence is that of the barycenter, whose distance has one unit
    merged = COMBINERS[name].merge(draws * unit + origin)
    np.testing.assert_allclose(merged, COMBINERS[name].merge(draws) * unit + origin, rtol=1e-6, atol=1e-6 * unit.max())


@pytest.mark.parametrize("name", list(COMBINERS))
def test_one_shard_is_its_own_posterior(name):
    draws = np.random.default_rng(0).standard_normal((1, 4, 100, 2))
    merged = COMBINERS[name].merge(draws)
    np.testing.assert_array_equal(np.sort(merged.reshape(-1, 2), axis=0), np.sort(draws.reshape(-1, 2), axis=0))


# ---- what is refused ----


def good(num_shards=2, draws=50, size=2):
    return [np.random.default_rng(s).standard_normal((2, draws, size)) for s in range(num_shards)]


def broken(change):
    draws = good()
    draws[1] = change(draws[1])
    return draws


REFUSED = {
    "no shard": ([], "no shard; expected draws of one shard"),
    "unequal coordinates": ([*good(), good(size=3)[0]], "shard 2: found 3 coordinates; expected 2"),
    "few for d": (good(draws=10, size=30), "effective draws of 30 coordinates; expected more than 32"),
    "three draws": (good(draws=3), "2 chains of 3 draws"),
    "flat": (broken(lambda x: x[0]), "shard 1: found an array of 2 dimensions"),
    "infinite": (broken(lambda x: np.where(x > 2, np.inf, x)), "shard 1: found draws that are no finite numbers"),
    "stuck": (broken(lambda x: x * [1, 0]), "the same value in every draw of coordinate 1"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_merged_is_refused(case):
    draws, message = REFUSED[case]
    with pytest.raises(CombinerError, match=message) as caught:
        classic.gaussian(draws)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # our own
    assert str(again) == str(caught.value)


def test_shards_of_unequal_length_are_merged_to_the_shortest():
    rng = np.random.default_rng(0)
    merged = classic.consensus([rng.standard_normal((4, 300, 2)), rng.standard_normal((2, 500, 2))])
    assert merged.shape == (2, 300, 2)


def test_unknown_combiner_names_those_there_are():
    with pytest.raises(CombinerError, match="consensus, gaussian"):
        classic.require("median")
    assert classic.require("swiss").kind == "powered"
    assert {*FRACTIONATED, *POWERED} == set(COMBINERS)
