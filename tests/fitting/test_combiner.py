"""The merge against dense normal algebra and quadrature, and broken twins that the same checks must catch.

Errors of draws are judged by their own Monte Carlo error: a check that passes in truth fails once in a million.
"""

import numpy as np
import pytest
from scipy import stats

from fitting import combiner, families, hierarchy, in_memory, rounds, scale_marginal, scale_proposal
from fitting import tree as tr
from fitting.errors import ImproperPosteriorError
from fitting.sites import Site

GAUSSIAN_PRIORS = {
    "intercept": "normal(1, 2)",
    "b": "normal(0, 1)",
    "sd": "half_normal(0.8)",
    "sigma": "exponential(1)",
}


@pytest.fixture(scope="module")
def nested(cells_of):
    """Nested normal model with unknown scale and residual sd: 60 rows in six groups, in four shards that cut the groups."""
    rng = np.random.default_rng(0)
    group = np.sort(rng.integers(0, 6, 60))
    x = rng.integers(0, 2, 60).astype(float)
    outcome = 1.0 + 0.5 * x + rng.normal(0, 0.6, 6)[group] + rng.normal(0, 0.9, 60)
    columns = {"g": np.array([f"g{i}" for i in group]), "x": x, "shard": rng.integers(0, 4, 60)}
    cells = cells_of(columns, outcome, "gaussian")
    run = in_memory.fit(cells, "y ~ 1 + x + (1 | g)", family="gaussian", shards=cells["shard"],
                        chosen_priors=GAUSSIAN_PRIORS, num_draws=1500)  # fmt: skip
    rows = np.column_stack([np.ones(60), x, *(group == i for i in range(6))])
    return run, rows, outcome


@pytest.fixture(scope="module")
def exact(nested):
    return exact_posterior(*nested[1:])


def exact_posterior(rows, outcome, num_points=40):
    """Means and sds of (intercept, x, six effects, log sd, log sigma) by dense algebra on a grid of the two scales."""
    grid = [np.linspace(-4.5, 1.2, num_points), np.linspace(-0.7, 0.5, num_points)]
    logs, means, seconds = [], [], []
    prior_mean = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
    for log_sd in grid[0]:
        for log_sigma in grid[1]:
            sd, sigma = np.exp(log_sd), np.exp(log_sigma)
            prior = np.array([2.0, 1.0, *[sd] * 6]) ** 2
            cov = rows * prior @ rows.T + sigma**2 * np.eye(len(rows))
            logs.append(
                stats.multivariate_normal.logpdf(outcome, rows @ prior_mean, cov)
                + stats.halfnorm.logpdf(sd, scale=0.8) + log_sd + stats.expon.logpdf(sigma) + log_sigma
            )  # fmt: skip
            gain = (prior[:, None] * rows.T) @ np.linalg.inv(cov)
            mean = prior_mean + gain @ (outcome - rows @ prior_mean)
            variance = prior - np.einsum("dn,nd->d", gain, rows * prior)
            means.append(np.r_[mean, log_sd, log_sigma])
            seconds.append(np.r_[variance, 0, 0] + means[-1] ** 2)
    weight = np.exp(np.array(logs) - max(logs))
    weight /= weight.sum()
    mean = weight @ np.array(means)
    return mean, np.sqrt(weight @ np.array(seconds) - mean**2), np.array(logs).reshape(num_points, -1), grid


def in_order(run):
    """Places of intercept, x and the six effects."""
    names = run.hierarchy.model.coefficient_names().tolist()
    return [names.index(n) for n in ("Intercept", "x", *(f"1|g[g{i}]" for i in range(6)))]


def assert_draws_are_the_posterior(draws, run, exact, assert_moments):
    mean, sd, _, _ = exact
    both = np.concatenate([draws.theta[..., in_order(run)], draws.psi], axis=-1).reshape(-1, len(mean))
    assert_moments(both, mean, sd)


def test_marginal_density_of_the_scales_is_that_of_the_dense_normal(nested):
    run, rows, outcome = nested
    _, _, logs, grid = exact_posterior(rows, outcome, num_points=8)
    ours = [[scale_marginal.log_density(run.hierarchy, run.natural, np.array([a, b])) for b in grid[1]] for a in grid[0]]
    np.testing.assert_allclose(np.array(ours) - logs, (np.array(ours) - logs)[0, 0], atol=1e-8)


def test_draws_are_the_exact_posterior(nested, exact, assert_moments):
    run, _, _ = nested
    assert_draws_are_the_posterior(run.draws, run, exact, assert_moments)
    assert run.draws.acceptance.min() > 0.6
    places, (mean, sd, _, _) = in_order(run), exact
    np.testing.assert_allclose((run.moments.mean[places] - mean[:8]) / sd[:8], 0.0, atol=0.03)
    np.testing.assert_allclose(
        np.sqrt(run.moments.covariance[run.hierarchy.model.tree.diagonal][places]), sd[:8], rtol=0.03
    )


def prior_counted_once_per_shard(run, monkeypatch):
    """Every shard multiplies the fixed effects' prior in, as a local posterior would."""
    prior, parts = run.hierarchy, []
    for restriction, site in zip(run.restrictions, run.sites, strict=True):
        precision, shift = site.precision.copy(), site.shift.copy()
        places = restriction.tree.diagonal[prior.fixed_places]  # the root comes first in every part
        precision[places] += prior.fixed_precision
        shift[prior.fixed_places] += prior.fixed_precision * prior.fixed_mean
        parts.append((restriction, Site(precision, shift, site.constants)))
    return parts


def a_site_used_twice(run, monkeypatch):
    parts = list(zip(run.restrictions, run.sites, strict=True))
    return [*parts, parts[0]]


def no_jacobian(run, monkeypatch):
    whole = hierarchy.Hierarchy._log_prior_of
    monkeypatch.setattr(hierarchy.Hierarchy, "_log_prior_of", lambda self, g, psi, xp: whole(self, g, psi, xp) - psi[0])
    return list(zip(run.restrictions, run.sites, strict=True))


@pytest.mark.parametrize("fault", [prior_counted_once_per_shard, a_site_used_twice, no_jacobian])
def test_broken_twins_are_caught(nested, exact, assert_moments, fault, monkeypatch):
    run, _, _ = nested
    natural = combiner.product(run.hierarchy.model.tree, fault(run, monkeypatch))
    proposal = scale_proposal.propose(run.hierarchy, natural, run.proposal.mode)
    draws = combiner.draw(run.hierarchy, natural, proposal, num_draws=1500, num_chains=4, seed=1)
    with pytest.raises(AssertionError, match="off by"):
        assert_draws_are_the_posterior(draws, run, exact, assert_moments)


def test_neither_order_nor_split_of_shards_matters(nested, cells_of):
    run, rows, outcome = nested
    columns = {"g": np.array([f"g{i}" for i in np.argmax(rows[:, 2:], axis=1)]), "x": rows[:, 1], "id": np.arange(60)}
    cells = cells_of(columns, outcome, "gaussian")
    alone = in_memory.fit(cells, "y ~ 1 + x + (1 | g)", family="gaussian", chosen_priors=GAUSSIAN_PRIORS, num_draws=5)
    parts = list(zip(run.restrictions, run.sites, strict=True))[::-1]
    backwards = combiner.product(run.hierarchy.model.tree, parts)
    for other in (alone.natural, backwards):
        for a, b in zip(run.natural, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def slopes(family="binomial", size=400):
    rng = np.random.default_rng(3)
    group, x = rng.integers(0, 8, size), rng.integers(0, 3, size).astype(float)
    eta = -0.5 + 0.4 * x + rng.normal(0, 0.7, 8)[group] + rng.normal(0, 0.4, 8)[group] * x
    h = rng.integers(0, 3, size)
    outcome = rng.random(size) < 1 / (1 + np.exp(-eta)) if family == "binomial" else eta + rng.normal(size=size)
    return {"g": np.array([f"g{i}" for i in group]), "h": np.array([f"h{i}" for i in h]), "x": x}, outcome


@pytest.mark.parametrize("family", ["binomial", "gaussian"])
def test_gradient_of_the_marginal_density(family, cells_of):
    columns, outcome = slopes(family)
    cells = cells_of(columns, outcome, family)
    run = in_memory.fit(cells, "y ~ 1 + x + (1 + x | g) + (1 | g:h)", family=family, num_draws=5, num_chains=2)
    rng = np.random.default_rng(4)
    for _ in range(3):
        psi = run.proposal.mode + 0.5 * rng.normal(size=run.hierarchy.size)
        value, gradient = scale_marginal.value_and_gradient(run.hierarchy, run.natural, psi)
        np.testing.assert_allclose(value, scale_marginal.log_density(run.hierarchy, run.natural, psi))
        numeric = [
            (scale_marginal.log_density(run.hierarchy, run.natural, psi + 1e-5 * e)
             - scale_marginal.log_density(run.hierarchy, run.natural, psi - 1e-5 * e)) / 2e-5
            for e in np.eye(run.hierarchy.size)
        ]  # fmt: skip
        np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)


def no_data(run):
    tree = run.hierarchy.model.tree
    return scale_marginal.Natural(np.zeros(tree.num_entries), np.zeros(tree.num_coefficients), np.zeros(2))


def test_without_data_the_prior_comes_back(cells_of, assert_mean_close):
    """Three correlated slopes: half-normal sds, LKJ(2) correlations, whose margin is 2 Beta(5/2, 5/2) - 1."""
    columns, outcome = slopes()
    columns["z"] = columns["x"] == 1.0
    cells = cells_of(columns, outcome)
    run = in_memory.fit(
        cells, "y ~ 1 + x + (1 + x + z | g) + (1 | h)", num_draws=5, num_rounds=1,
        chosen_priors={"intercept": "normal(0.5, 2)", "cor": "lkj(2)", "sd": "half_normal(0.7)", "1|h": "exponential(2)"},
    )  # fmt: skip
    prior, nothing = run.hierarchy, no_data(run)
    proposal = scale_proposal.propose(prior, nothing, run.proposal.mode)
    draws = combiner.draw(prior, nothing, proposal, num_draws=3000, num_chains=4, seed=0)
    natural = prior.natural(draws.psi.reshape(-1, prior.size)).reshape(4, 3000, -1)
    sds, correlations = natural[..., [0, 1, 2]], natural[..., 3:6]
    assert_mean_close(sds, 0.7 * np.sqrt(2 / np.pi), resolution=0.1)
    assert_mean_close(sds**2, 0.49, resolution=0.1)
    assert_mean_close(natural[..., 6], 0.5, resolution=0.1)
    assert_mean_close(correlations, 0.0, resolution=0.1)
    assert_mean_close(correlations**2, 1 / 6, resolution=0.04)
    assert_mean_close(correlations**4, 3 / 48, resolution=0.04)
    names = prior.model.coefficient_names().tolist()
    intercept = draws.theta[..., names.index("Intercept")]
    assert_mean_close(intercept, 0.5, resolution=0.2)
    assert_mean_close((intercept - 0.5) ** 2, 4.0, resolution=0.6)
    effects = prior.model.groups[0].coefficients
    assert_mean_close(draws.theta[..., effects[:, 0]] ** 2, 0.49, resolution=0.2)
    pair = draws.theta[..., effects[:, 0]] * draws.theta[..., effects[:, 1]]
    assert_mean_close(pair, 0.0, resolution=0.2)


def test_scales_of_few_levels_are_drawn_right(assert_moments):
    """Two levels leave a skewed, heavy-tailed scale: against quadrature over it. Six thousand draws, false alarm 1e-6."""
    cells = {"g": np.array(["a", "b"]), "num_trials": np.array([40.0, 50.0]), "num_successes": np.array([12.0, 31.0])}
    run = in_memory.fit(cells, "y ~ 1 + (1 | g)", num_draws=2500)
    log_sd = np.linspace(-9, 4, 4001)
    logs = np.array([scale_marginal.log_density(run.hierarchy, run.natural, np.array([v])) for v in log_sd])
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    given = [scale_marginal.condition(run.hierarchy, run.natural, np.array([v])) for v in log_sd[::20]]
    tree = run.hierarchy.model.tree
    means = np.array([tr.backward(tree, g.factor, g.solved)[:, 0] for g in given])
    variances = np.array([tr.covariance(tree, g.factor)[tree.diagonal] for g in given])
    w = weight[::20] / weight[::20].sum()
    mean = w @ means
    sd = np.sqrt(w @ (variances + means**2) - mean**2)
    assert_moments(run.draws.theta.reshape(-1, len(mean)), mean, sd)
    np.testing.assert_allclose(run.moments.mean, mean, atol=0.03 * sd.min())
    psi = run.draws.psi.reshape(-1)
    cumulative = np.interp(psi, log_sd, np.cumsum(weight))
    deciles = np.bincount(np.minimum((cumulative * 10).astype(int), 9), minlength=10) / len(psi)
    # a proposal accepted with probability a leaves about M a / (2 - a) independent draws
    effective = len(psi) * run.draws.acceptance.mean() / (2 - run.draws.acceptance.mean())
    assert np.all(np.abs(deciles - 0.1) < stats.norm.isf(1e-6 / 20) * np.sqrt(0.09 / effective))


def test_threads_and_repetition_change_nothing(nested):
    run, _, _ = nested
    options = {"num_draws": 20, "num_chains": 2, "seed": 5}
    first = combiner.draw(run.hierarchy, run.natural, run.proposal, **options)
    second = combiner.draw(run.hierarchy, run.natural, run.proposal, **options, threads=3)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    other = combiner.draw(run.hierarchy, run.natural, run.proposal, **(options | {"seed": 6}))
    assert not np.array_equal(first.theta, other.theta)


def test_scales_that_are_known_by_name_are_where_the_search_starts(nested):
    hierarchy_ = nested[0].hierarchy
    assert hierarchy_.names() == ["sd(1|g)", "sigma"]
    started = combiner.start(hierarchy_, known={"sigma": -1.25, "sd(1|of_no_term)": 9.0})
    sd = hierarchy_.model.coding.outcome.sd
    np.testing.assert_allclose(started, [np.log(0.3 * sd), -1.25], rtol=1e-12)


def test_sites_that_are_no_distribution_are_refused(nested):
    run, _, _ = nested
    broken = run.natural._replace(precision=-run.natural.precision)
    with pytest.raises(ImproperPosteriorError, match="product of all sites"):
        scale_proposal.propose(run.hierarchy, broken, run.proposal.mode)


def test_a_model_without_groups_has_no_hyperparameters(assert_moments):
    cells = {"x": np.array([0.0, 1.0]), "num_trials": np.array([300.0, 200.0]), "num_successes": np.array([90.0, 90.0])}
    run = in_memory.fit(cells, "y ~ 1 + x", num_draws=2000)
    assert run.draws.psi.shape == (4, 2000, 0)
    assert np.array_equal(run.draws.acceptance, np.ones(4))
    sd = np.sqrt(run.moments.covariance[run.hierarchy.model.tree.diagonal])
    assert_moments(run.draws.theta.reshape(-1, 2), run.moments.mean, sd)


def test_blend_moves_in_natural_parameters():
    rng = np.random.default_rng(0)
    old, new = (Site(*rng.normal(size=(3, 2))) for _ in range(2))
    np.testing.assert_allclose(rounds.blend(old, new, 0.25).shift, 0.75 * old.shift + 0.25 * new.shift)
    assert rounds.blend(old, new, 1.0) is new
    assert families.make("bernoulli") == families.BINOMIAL
