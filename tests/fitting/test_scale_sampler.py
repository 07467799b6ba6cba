"""The learned proposal: its density is what it draws from, and draws resampled from it are the exact posterior's."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from fitting import combiner, in_memory, mixing, scale_marginal, scale_proposal, scale_sampler, scale_source
from fitting.scale_source import Source


@pytest.fixture(scope="module")
def run(cells_of):
    """Three crossed terms that explain the same variation, with few levels: scales that can be zero."""
    rng = np.random.default_rng(3)
    a, b, size = rng.integers(0, 5, 3000), rng.integers(0, 4, 3000), 3000
    eta = 0.3 + rng.normal(0, 0.5, 5)[a] + rng.normal(0, 0.1, 4)[b]
    columns = {
        "a": np.array([f"a{i}" for i in a]),
        "b": np.array([f"b{i}" for i in b]),
        "shard": rng.integers(0, 3, size),
    }
    cells = cells_of(columns, rng.random(size) < 1 / (1 + np.exp(-eta)))
    formula = "y ~ 1 + (1 | a) + (1 | b) + (1 | a:b)"
    return in_memory.fit(cells, formula, shards=cells["shard"], num_draws=10)


def log_density(run, points):
    return np.array([scale_marginal.log_density(run.hierarchy, run.natural, p) for p in points])


def source_of(run, num_draws):
    """One that has learned for many draws, the t around the mode for one."""
    return Source(run.hierarchy, run.natural, run.proposal, num_draws=num_draws)


def test_the_stated_density_is_the_one_that_is_drawn_from(run):
    """Weights 1 / density make any function's mean its integral: the share of a box in a larger one is that of their volumes."""
    learned = scale_sampler.learn(run.hierarchy, run.natural, run.proposal)
    points, log_q = scale_sampler.sample(learned, np.random.default_rng(0), 40_000)
    z = np.linalg.solve(run.proposal.axes, (points - run.proposal.mode).T).T
    inside = np.abs(z).max(axis=1) < 1.0
    weight = np.exp(-(log_q[inside] - log_q[inside].mean()))
    for h in range(z.shape[1]):
        low = z[inside, h] < 0.2
        share = weight @ low / weight.sum()
        error = np.sqrt(np.sum((weight * (low - share)) ** 2)) / weight.sum()
        assert abs(share - 0.6) < 5 * error < 0.1


def test_learned_proposals_have_more_even_weights_than_the_t(run):
    efficiency = []
    for num_draws in (4000, 1):
        source = source_of(run, num_draws)
        assert isinstance(source.proposal, scale_sampler.Learned) == (num_draws > 1)
        points, log_q = source.sample(np.random.default_rng(1), 2000)
        log_w = log_density(run, points) - log_q
        w = np.exp(log_w - log_w.max())
        efficiency.append(w.sum() ** 2 / (w**2).sum() / len(w))
    assert efficiency[0] > max(0.8, efficiency[1])


def test_draws_are_those_of_importance_sampling(run):
    """Means of all hyperparameters against 20,000 weighted points of the t. Six Monte Carlo errors."""
    draws = combiner.draw(run.hierarchy, run.natural, run.proposal, num_draws=1000, num_chains=4, seed=2)
    points, log_q = source_of(run, 1).sample(np.random.default_rng(5), 20_000)
    log_w = log_density(run, points) - log_q
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    mean = w @ points
    flat = draws.psi.reshape(-1, run.hierarchy.size)
    noise = np.sqrt((w**2) @ (points - mean) ** 2 + flat.var(axis=0) / 2000)
    assert np.all(np.abs(flat.mean(axis=0) - mean) < 6 * noise)
    found = combiner.mixed(run.hierarchy, draws.psi)
    assert found.ess.min() > 2000


def test_weights_left_out_give_other_draws(run):
    """Negative control: proposals taken as they come are not the posterior."""
    right = (
        combiner.draw(run.hierarchy, run.natural, run.proposal, num_draws=2000, num_chains=4, seed=2)
        .psi[..., 1]
        .ravel()
    )
    points, _ = source_of(run, 1).sample(np.random.default_rng(5), 8000)
    assert stats.ks_2samp(right, points[:, 1]).pvalue < 1e-6


def test_the_same_draws_for_any_number_of_threads(run):
    options = {"num_draws": 120, "num_chains": 4, "seed": 7}
    one = combiner.draw(run.hierarchy, run.natural, run.proposal, **options)
    three = combiner.draw(run.hierarchy, run.natural, run.proposal, **options, threads=3)
    np.testing.assert_array_equal(one.psi, three.psi)
    np.testing.assert_array_equal(one.theta, three.theta)


def test_a_pass_that_fell_short_teaches_the_next(monkeypatch):
    """A bent marginal of four hyperparameters: what few pilots had not seen is learned from the densities of draws."""

    def bent(_hierarchy, _sites, psi):
        return -0.5 * float(
            psi[0] ** 2 + (psi[1] - 0.6 * psi[0] + 0.3 * psi[0] ** 2) ** 2 + (psi[2] - 0.7 * psi[3]) ** 2 + psi[3] ** 2
        )

    monkeypatch.setattr(scale_marginal, "log_density", bent)
    monkeypatch.setattr(scale_sampler, "num_pilots", lambda size: 12)
    around = scale_proposal.Proposal(np.zeros(4), np.eye(4), np.ones((2, 4)))
    source = Source(SimpleNamespace(size=4), None, around, num_draws=250, num_chains=4)

    def looked_up(seed, count):
        points, log_q = source.sample(np.random.default_rng(seed), count)
        return points, np.array([bent(None, None, p) for p in points]), log_q

    def efficiency():
        _, log_p, log_q = looked_up(1, 2000)
        w = np.exp(log_p - log_q - (log_p - log_q).max())
        return w.sum() ** 2 / (w**2).sum() / len(w)

    before = efficiency()
    for chain in range(4):
        source.note(chain, *looked_up(chain, 250)[:2])
    batches = []
    assert source.improve(lambda psi: batches.append(psi.shape) or len(batches) == 2)
    assert batches == [(4, 250, 4)] * 2
    assert efficiency() > 0.8 > 0.7 > before
    assert not source.improve(lambda psi: False)


@pytest.mark.parametrize("sweeps", [0, 50])
def test_weights_do_not_depend_on_the_constant_that_a_density_is_stated_up_to(monkeypatch, sweeps):
    """Points of two proposals, the second stated e^5 too high; without its constant the first one's points are forgotten."""
    around = [scale_proposal.Proposal(np.full(2, at), np.eye(2), np.ones((2, 2))) for at in (0.0, 0.5)]
    source = Source(SimpleNamespace(size=2), None, around[0], num_draws=1)
    for proposal in around:
        source.proposal = proposal
        points, _ = source.sample(np.random.default_rng(1), 500)
        source.note(0, points, stats.norm.logpdf(points).sum(axis=1))
    before = source._log_weights()
    stated = scale_source._log_density
    monkeypatch.setattr(scale_source, "_log_density", lambda q, points: stated(q, points) + 5.0 * (q is around[1]))
    monkeypatch.setattr(scale_source, "MAX_SWEEPS", sweeps)
    after = source._log_weights()
    assert np.allclose(after - after.mean(), before - before.mean(), atol=1e-4) == (sweeps > 0)


def test_independent_draws_have_a_good_r_hat_however_few_they_are():
    """The limit is that of one in a thousand, in two looks: ranks, and distances from the median; never below 1.01."""
    rng = np.random.default_rng(3)
    above = [mixing.of(rng.normal(size=(4, 40, 500))) for _ in range(8)]
    count = sum(int((found.r_hat > found.highest_r_hat).sum()) for found in above)
    assert stats.binom.isf(1e-4, 4000, 2e-3) > count > stats.binom.ppf(1e-4, 4000, 0.5e-3)
    assert mixing.highest_r_hat(4, 250) == mixing.highest_r_hat(4, 4000) == mixing.R_HAT
    apart = rng.normal(size=(4, 40, 1)) + 0.8 * np.arange(4)[:, None, None]
    assert not mixing.of(apart).is_enough(10)


def test_draws_that_stand_still_are_few():
    rng = np.random.default_rng(0)
    free = rng.normal(size=(4, 250, 1))
    assert mixing.of(free).is_enough(400)
    slow = np.repeat(free[:, ::10], 10, axis=1)
    assert mixing.of(slow).ess[0] < 200
    assert mixing.can_do_better(mixing.of(slow), 400, 1000)
    assert not mixing.can_do_better(mixing.of(slow), 400, 300)
    assert mixing.of(np.ones((4, 250, 1))).ess[0] == 1.0


@pytest.fixture(scope="module")
def gaussian():
    """Two scales with an exact marginal: closed form in the coefficients, a grid in the scales."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(6), 5)
    y = rng.normal(0, 0.5, 6)[group] + rng.normal(size=30)
    cells = {
        "g": np.array([f"g{i}" for i in group]),
        "num_trials": np.ones(30),
        "sum_y": y,
        "squared_deviations": 0.0 * y,
    }
    run = in_memory.fit(cells, "y ~ 1 + (1 | g)", family="gaussian", num_draws=10)
    axes = [run.proposal.mode[h] + np.linspace(low, 3.0, 121) for h, low in ((0, -7.0), (1, -2.0))]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    log_p = log_density(run, grid.reshape(-1, 2)).reshape(grid.shape[:2])
    p = np.exp(log_p - log_p.max())
    return run, axes, p / p.sum()


def functions(psi, axes, p):
    """Deviations from what the grid says of both log scales: mean, square, and the shares below the 5% and the 95% quantile, (M, 8)."""
    found = []
    for h, (axis, own) in enumerate(zip(axes, (p.sum(axis=1), p.sum(axis=0)), strict=True)):
        mean = own @ axis
        ends = np.interp((0.05, 0.95), np.cumsum(own) - 0.5 * own, axis)
        found += [psi[:, h] - mean, (psi[:, h] - mean) ** 2 - own @ (axis - mean) ** 2]
        found += [(psi[:, h] < end) - share for end, share in zip(ends, (0.05, 0.95), strict=True)]
    return np.stack(found, axis=1)


def z_scores(run, axes, p, kind):
    """Forty seeds of 100 draws each: what a bias of order 1 / N would show in."""
    means = []
    for seed in range(40):
        source = Source(run.hierarchy, run.natural, run.proposal, num_draws=100, seed=seed)
        if kind == "learned":
            source.proposal = scale_sampler.learn(run.hierarchy, run.natural, run.proposal)
        if kind == "unweighted":
            psi = source.sample(np.random.default_rng(seed), 100)[0]
        else:
            psi = np.stack([one.psi for one in combiner.draw_in_turn(run.hierarchy, run.natural, source, chain=0)])
        if kind == "chosen":
            source.improve(lambda psi: True)
            psi = np.stack([one.psi for one in combiner.draw_in_turn(run.hierarchy, run.natural, source, chain=0)])
            assert len(psi) == 100
        means.append(functions(psi, axes, p).mean(axis=0))
    return np.mean(means, axis=0) / (np.std(means, axis=0, ddof=1) / np.sqrt(40))


@pytest.mark.parametrize("kind", ["t", "learned", "chosen", "unweighted"])
def test_resampling_has_no_bias_to_speak_of(gaussian, kind):
    """Eight functions, limit for a false alarm of 1e-3: t with 39 degrees of freedom. Without weights it is exceeded."""
    run, axes, p = gaussian
    limit = stats.t.isf(1e-3 / 16, 39)
    assert (np.abs(z_scores(run, axes, p, kind)).max() > limit) == (kind == "unweighted")
