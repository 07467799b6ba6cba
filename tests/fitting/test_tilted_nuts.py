"""Sites by NUTS: moments against quadrature, their noise, and what stays fixed. One compiled program serves all."""

import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from fitting import cell_blocks, sites, tilted_nuts
from fitting import tree as tr
from fitting.cell_design import CellDesign
from fitting.families import BINOMIAL, GAUSSIAN
from fitting.sites import Site
from fitting.tree import Tree

SIZES = {"num_warmup": 100, "num_draws": 250, "num_chains": 4}
NUM_NONZEROS = 3


def make_design(places, trials, successes, values=None):
    """Every design of this file has three nonzeros a cell, so that all have one shape once padded."""
    places = [np.asarray(place) for place in places]
    values = [None] * len(places) if values is None else values
    while len(places) < NUM_NONZEROS:
        places, values = [*places, places[-1]], [*values, np.zeros(len(places[-1]))]  # of the last level, which is the least deep
    statistics = {"num_trials": np.asarray(trials), "num_successes": np.asarray(successes)}
    return CellDesign(tuple(places), tuple(values), (0,) * len(places), statistics)


def no_site(tree):
    return Site(np.zeros(tree.num_entries), np.zeros(tree.num_coefficients), np.zeros(2))


def gaussian_moments(tree, precision, shift):
    factor = tr.cholesky(tree, precision)
    return tr.solve(tree, factor, shift[:, None])[:, 0], tr.covariance(tree, factor)


def exact_moments(tree, cavity_precision, cavity_shift, design, num_nodes=41):
    """Mean and dense covariance of cavity times likelihood, by Gauss-Hermite nodes around its mode."""
    precision = tr.dense(tree, cavity_precision)
    mode, covariance = gaussian_moments(tree, cavity_precision, cavity_shift)
    for _ in range(50):
        site = sites.fit(tree, design, BINOMIAL, mode, 0 * covariance, num_nodes=1)
        mode, covariance = gaussian_moments(tree, cavity_precision + site.precision, cavity_shift + site.shift)
    size = tree.num_coefficients
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    z = np.array(list(itertools.product(nodes, repeat=size))).T
    log_weight = np.log(np.array(list(itertools.product(weights, repeat=size)))).sum(axis=1)
    lower = np.linalg.cholesky(np.linalg.inv(precision + tr.dense(tree, site.precision)))
    theta = mode[:, None] + lower @ z
    eta = sites.matrices(design, size)[0] @ theta
    trials, successes = (design.statistics[name][:, None] for name in ("num_trials", "num_successes"))
    log_target = (successes * eta - trials * np.logaddexp(0, eta)).sum(axis=0)
    log_target += cavity_shift @ theta - 0.5 * np.einsum("im,ij,jm->m", theta, precision, theta)
    log_weight = log_weight + log_target + 0.5 * (z**2).sum(axis=0)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = theta @ weight
    return mean, ((theta - mean[:, None]) * weight) @ (theta - mean[:, None]).T


def assert_unbiased(estimates, expected, *, resolution, false_alarm=1e-6):
    """estimates: (repetition, *event). ``resolution``: smallest bias that matters."""
    standard_error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    limit = stats.t(len(estimates) - 1).isf(false_alarm / (2 * np.size(standard_error))) * standard_error
    assert np.all(limit <= resolution), f"inconclusive: {np.max(limit):.3g}; repeat more"
    error = np.abs(estimates.mean(axis=0) - expected)
    assert np.all(error <= limit), f"off by {np.max(error / standard_error):.1f} standard errors"


@pytest.fixture(scope="module")
def skewed():
    """Thirty fits of one shard: two successes of ten, one coefficient; its cells differ in nothing."""
    tree = Tree((1,), ())
    design = make_design([np.zeros(2, dtype=int)], [4, 6], [1, 1])
    mean, variance = np.array([0.5]), np.array([4.0])
    draws, results = [], []
    original = tilted_nuts.sample

    def recording_sample(*args, **kwargs):
        draws.append(original(*args, **kwargs))
        return draws[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tilted_nuts, "sample", recording_sample)
        for repetition in range(30):
            key = tilted_nuts.shard_key(7, repetition, 0)
            results.append(tilted_nuts.fit(key, tree, design, BINOMIAL, mean, variance, no_site(tree), **SIZES))
    exact = exact_moments(tree, 1 / variance, mean / variance, design)
    precision = np.array([site.precision[0] for site, _ in results]) + 1 / variance
    means = (np.array([site.shift[0] for site, _ in results]) + mean / variance) / precision
    return {
        "means": means,
        "variances": 1 / precision,
        "exact": exact,
        "draws": draws,
        "infos": [i for _, i in results],
    }


def test_moments_of_a_skewed_shard_are_unbiased(skewed):
    mean, covariance = skewed["exact"]
    sd = np.sqrt(covariance[0, 0])
    assert_unbiased(skewed["means"] / sd, mean[0] / sd, resolution=0.03)
    assert_unbiased(skewed["variances"] / sd**2, 1.0, resolution=0.06)


def test_monte_carlo_error_is_as_reported(skewed):
    sd = np.sqrt(skewed["exact"][1][0, 0])
    reported = np.mean([info.mcse for info in skewed["infos"]])
    found = skewed["means"].std(ddof=1) / sd
    # sd of 30 repetitions: chi-square with 29 degrees of freedom
    low, high = np.sqrt(stats.chi2(29).isf([1 - 1e-5, 1e-5]) / 29)
    assert low <= found / reported <= high
    assert all(info.is_proper and info.num_divergent == 0 and info.r_hat < 1.05 for info in skewed["infos"])
    assert all(info.ess_bulk > 200 and 0.7 < info.acceptance < 1 for info in skewed["infos"])


def test_control_variates_are_quieter_than_plain_moments(skewed):
    controlled, plain = [], []
    for draws in skewed["draws"]:
        one = draws._replace(z=draws.z[..., :1], u=draws.u[..., :1])
        mean, excess = tilted_nuts.moments(one)
        z = one.z.reshape(-1)
        controlled.append([mean[0], 1.0 + excess[0, 0]])
        plain.append([z.mean(), z.var(ddof=1)])
    independent = np.var(np.concatenate([draws.z[..., 0].ravel() for draws in skewed["draws"]])) / 1000
    quieter = np.var(controlled, axis=0, ddof=1)
    assert quieter[0] < 0.4 * independent  # of the mean of as many independent draws
    assert quieter[1] < 0.6 * np.var(plain, axis=0, ddof=1)[1]
    np.testing.assert_allclose(np.mean(controlled, axis=0), np.mean(plain, axis=0), atol=0.05)


def test_moments_are_right_from_a_wrong_reference():
    """The identities hold for any reference, here with a mean 1.3 sds off and a variance of half the tilted one."""
    design = make_design([np.zeros(2, dtype=int)], [4, 6], [1, 1])
    cavity_mean, cavity_variance = 0.5, 4.0
    mean, covariance = exact_moments(
        Tree((1,), ()), np.array([1 / cavity_variance]), np.array([cavity_mean / cavity_variance]), design
    )
    reference_variance = 0.5 * covariance[0, 0]
    reference_mean, lower = mean[0] - 1.3 * np.sqrt(covariance[0, 0]), np.sqrt(reference_variance)
    precision = 1 / reference_variance - 1 / cavity_variance
    shift = reference_mean / reference_variance - cavity_mean / cavity_variance
    first = np.arange(32) == 0
    target = tilted_nuts.Target(
        cells=cell_blocks.cut(design, np.zeros(1, dtype=int), np.full((1, 2), reference_mean)),
        lower=lower * np.outer(first, first),
        precision=precision * lower**2 * np.outer(first, first),
        shift=lower * (shift - precision * reference_mean) * first,
    )
    estimates = []
    for repetition in range(40):
        draws = tilted_nuts.sample(tilted_nuts.shard_key(3, repetition, 0), target, BINOMIAL, **SIZES)
        found, excess = tilted_nuts.moments(draws)
        estimates.append([found[0] * lower + reference_mean, (1 + excess[0, 0]) * reference_variance])
    sd = np.sqrt(covariance[0, 0])
    assert_unbiased(np.array(estimates)[:, 0] / sd, mean[0] / sd, resolution=0.1)
    assert_unbiased(np.array(estimates)[:, 1] / sd**2, 1.0, resolution=0.1)


def random_shard(seed=3):
    """Root of two coefficients, of which the second occurs in no cell, and two groups; a site and a posterior."""
    rng = np.random.default_rng(seed)
    tree = Tree((2, 1), (np.zeros(2, dtype=int),))
    matrix = np.diag(np.full(4, 0.3))
    for group in (2, 3):
        path = [0, 1, group]
        z = rng.normal(size=(3, 2))
        matrix[np.ix_(path, path)] += 0.4 * z @ z.T
    cavity = tr.from_dense(tree, matrix)
    shift = rng.normal(size=4) * 0.5
    design = make_design(
        [np.array([2, 2, 3, 3]), np.zeros(4, dtype=int)], [3, 5, 4, 6], [0, 2, 3, 1], [None, np.array([1.0, 0.5, 1, 2])]
    )
    return tree, cavity, shift, design


def test_moments_on_a_tree_are_the_projection_of_the_exact_ones():
    tree, cavity, cavity_shift, design = random_shard()
    mean, covariance = gaussian_moments(tree, cavity, cavity_shift)
    old = sites.fit(tree, design, BINOMIAL, mean, covariance, num_nodes=11)
    mean, covariance = gaussian_moments(tree, cavity + old.precision, cavity_shift + old.shift)
    means, covariances = [], []
    for repetition in range(12):
        key = tilted_nuts.shard_key(1, repetition, 0)
        site, info = tilted_nuts.fit(key, tree, design, BINOMIAL, mean, covariance, old, **SIZES)
        assert info.is_proper
        found = gaussian_moments(tree, cavity + site.precision, cavity_shift + site.shift)
        means.append(found[0])
        covariances.append(found[1])
    exact_mean, exact_covariance = exact_moments(tree, cavity, cavity_shift, design, num_nodes=17)
    sd = np.sqrt(np.diag(exact_covariance))
    assert_unbiased(np.array(means) / sd, exact_mean / sd, resolution=0.05)
    scale = tr.from_dense(tree, np.outer(sd, sd))
    assert_unbiased(np.array(covariances) / scale, tr.from_dense(tree, exact_covariance) / scale, resolution=0.08)


def test_rounds_of_tilted_sites_reach_the_posterior():
    """Four shards, two groups, a predictor seen in eight people of one shard only, so that its posterior is skewed.

    Expectation propagation has the sd right where variational inference is 6% off.
    """
    rng = np.random.default_rng(5)
    tree = Tree((2, 1), (np.zeros(2, dtype=int),))
    prior = np.zeros(tree.num_entries)
    prior[tree.diagonal] = [0.16, 0.16, 1.0, 1.0]
    places = [np.array([2, 3, 2]), np.zeros(3, dtype=int), np.ones(3, dtype=int)]
    values = [None, None, np.array([0.0, 0.0, 1.0])]
    successes = np.c_[rng.binomial(12, 0.2, (4, 2)), [1, 0, 0, 0]]
    trials = np.c_[np.full((4, 2), 12), [8, 0, 0, 0]]
    designs = [make_design(places, *counts, values) for counts in zip(trials, successes, strict=True)]
    everything = make_design(
        [np.tile(place, 4) for place in places], trials.ravel(), successes.ravel(), [None, None, np.tile(values[2], 4)]
    )

    def merge(found):
        precision = prior + np.sum([site.precision for site in found], axis=0)
        return gaussian_moments(tree, precision, np.sum([site.shift for site in found], axis=0))

    mean, covariance = gaussian_moments(tree, prior, np.zeros(4))
    for _ in range(20):
        current = [sites.fit(tree, design, BINOMIAL, mean, covariance, num_nodes=21) for design in designs]
        mean, covariance = merge(current)
    exact_mean, exact_covariance = exact_moments(tree, prior, np.zeros(4), everything, num_nodes=21)
    sd = np.sqrt(np.diag(exact_covariance))
    variational = np.sqrt(covariance[tree.diagonal]) / sd
    means, sds = [], []
    for round_number in range(8):
        found = [
            tilted_nuts.fit(
                tilted_nuts.shard_key(0, k, round_number), tree, design, BINOMIAL, mean, covariance, site, **SIZES
            )
            for k, (design, site) in enumerate(zip(designs, current, strict=True))
        ]
        assert all(info.is_proper for _, info in found)
        current = [site for site, _ in found]
        mean, covariance = merge(current)
        means.append(mean)
        sds.append(np.sqrt(covariance[tree.diagonal]))
    # The sd of the skewed coefficient has a Monte Carlo error of 2% a round, so 1% for rounds 3 to 8 together.
    np.testing.assert_allclose(np.mean(means[2:], axis=0) / sd, exact_mean / sd, atol=0.05)
    np.testing.assert_allclose(np.mean(sds[2:], axis=0) / sd, 1, atol=0.04)
    assert variational[1] < 0.95


def test_one_program_serves_shards_of_many_sizes():
    tilted_nuts._sample.clear_cache()  # other tests compile other shapes
    for num_groups, num_cells in ((2, 2), (5, 300), (11, 5_000)):
        tree = Tree((1, 1), (np.zeros(num_groups, dtype=int),))
        precision = np.zeros(tree.num_entries)
        precision[tree.diagonal] = 1.0
        mean, covariance = gaussian_moments(tree, precision, np.zeros(num_groups + 1))
        groups = 1 + np.arange(num_cells) % num_groups
        design = make_design([groups, np.zeros(num_cells, int)], [5] * num_cells, [2] * num_cells)
        _, info = tilted_nuts.fit(
            tilted_nuts.shard_key(0, 0, 0), tree, design, BINOMIAL, mean, covariance, no_site(tree), **SIZES
        )
        assert info.is_proper
    assert tilted_nuts._sample._cache_size() == 1


def test_padded_sizes_are_few_and_never_short():
    sizes = np.arange(1, 5000)
    padded = np.array([tilted_nuts.padded_size(int(size)) for size in sizes])
    assert np.all(padded >= sizes)
    assert np.all(padded[128:] <= 1.5 * sizes[128:])
    assert sorted(set(padded))[:5] == [32, 128, 192, 256, 384]


def fit_random_shard(key, site=None):
    tree, cavity, shift, design = random_shard()
    mean, covariance = gaussian_moments(tree, cavity, shift)
    site = no_site(tree) if site is None else site
    return tilted_nuts.fit(key, tree, design, BINOMIAL, mean, covariance, site, **SIZES)


def test_shards_that_are_fitted_together_have_the_sites_they_have_alone():
    """Three of one shape, one of another and one that nothing has to be sampled for; within Monte Carlo error, in their order."""
    tree, cavity, shift, design = random_shard()
    mean, covariance = gaussian_moments(tree, cavity, shift)
    more = make_design(
        [np.array([2, 3] * 40), np.zeros(80, dtype=int)], [3] * 80, [1, 2] * 40, [None, np.linspace(-1, 1, 80)]
    )
    silent = make_design([np.array([2]), np.array([0])], [0], [0])
    other = cell_blocks.ROOM + 2
    large = make_design([2 + np.arange(other) % 2, np.zeros(other, dtype=int)], np.ones(other), np.arange(other) % 2)
    designs = [design, large, more, silent, design]
    shards = [
        tilted_nuts.Tilted(tilted_nuts.shard_key(5, s, 0), tree, d, mean, covariance, no_site(tree))
        for s, d in enumerate(designs)
    ]
    together = tilted_nuts.fit_together(shards, BINOMIAL, **SIZES)
    for shard, (site, info) in zip(shards, together, strict=True):
        alone, _ = tilted_nuts.fit(shard.rng_key, tree, shard.design, BINOMIAL, *shard[3:], **SIZES)
        assert info.is_proper
        found, expected = (gaussian_moments(tree, cavity + s.precision, shift + s.shift) for s in (site, alone))
        sd = np.sqrt(expected[1][tree.diagonal])
        # two estimates of the same mean, and of an sd from some thousand draws
        assert np.all(np.abs(found[0] - expected[0]) / sd < 6 * np.sqrt(2) * max(info.mcse, 1e-9)), info
        np.testing.assert_allclose(np.sqrt(found[1][tree.diagonal]) / sd, 1, atol=0.1)
    assert np.any(together[0][0].shift != together[4][0].shift), "each has draws of its own"
    assert together[3][1] == tilted_nuts.EXACT


def test_draws_depend_on_seed_shard_and_round_only():
    first = fit_random_shard(tilted_nuts.shard_key(1, 2, 3))
    again = fit_random_shard(tilted_nuts.shard_key(1, 2, 3))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for other in ((0, 2, 3), (1, 3, 3), (1, 2, 2), (1, 3, 2)):
        site, _ = fit_random_shard(tilted_nuts.shard_key(*other))
        assert np.any(site.shift != first[0].shift)


def test_a_cavity_that_is_no_distribution_leaves_the_site_as_it_was():
    cavity = random_shard()[1]
    too_much = Site(1.5 * cavity, np.zeros(4), np.zeros(2))
    site, info = fit_random_shard(tilted_nuts.shard_key(0, 0, 0), too_much)
    assert site is too_much
    assert not info.is_proper


def test_an_estimate_that_is_no_distribution_leaves_the_site_as_it_was(monkeypatch):
    monkeypatch.setattr(tilted_nuts, "moments", lambda draws: (np.zeros(3), -1.5 * np.eye(3)))
    old = no_site(random_shard()[0])
    site, info = fit_random_shard(tilted_nuts.shard_key(0, 0, 0), old)
    assert site is old
    assert not info.is_proper


def test_a_shard_without_answers_has_an_empty_site():
    tree, cavity, shift, design = random_shard()
    mean, covariance = gaussian_moments(tree, cavity, shift)
    silent = make_design(design.places, np.zeros(4, int), np.zeros(4, int), design.values)
    site, info = tilted_nuts.fit(
        tilted_nuts.shard_key(0, 0, 0), tree, silent, BINOMIAL, mean, covariance, no_site(tree), **SIZES
    )
    assert info == tilted_nuts.EXACT
    jax.tree.map(np.testing.assert_array_equal, site, no_site(tree))


def test_gaussian_family_needs_no_draws():
    tree, cavity, shift, design = random_shard()
    mean, covariance = gaussian_moments(tree, cavity, shift)
    counts = design.statistics["num_trials"]
    design = design._replace(statistics={"num_trials": counts, "sum_y": counts * 0.5, "squared_deviations": counts * 0.75})
    site, info = tilted_nuts.fit(
        tilted_nuts.shard_key(0, 0, 0), tree, design, GAUSSIAN, mean, covariance, no_site(tree), **SIZES
    )
    expected = sites.fit(tree, design, GAUSSIAN, mean, covariance, num_nodes=1)
    assert info == tilted_nuts.EXACT
    jax.tree.map(np.testing.assert_array_equal, site, expected)
