"""User-written models: exact answers, what is refused, and twins that must fail."""

import inspect
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro import handlers
from scipy.special import digamma, polygamma

from fitting import (
    user_checks,
    user_combiner,
    user_draws,
    user_errors,
    user_in_memory,
    user_locals,
    user_model,
    user_rounds,
    user_shards,
    user_tilted,
)
from fitting import user_gaussian as gaussian
from fitting.user_errors import UserModelError
from fitting.user_model import ShardedModel
from fitting.user_tilted import NUTS, VI

ROOT = Path(__file__).resolve().parents[2]
SMALL = NUTS(num_warmup=100, num_draws=150, num_chains=2)


# ---- normal data, normal effects of groups within shards: everything is known ----


TRACES = []


def normal_groups(data, sizes):
    TRACES.append(sizes["rows"])
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("group", sizes["group"]):
        effect = numpyro.sample("effect", dist.Normal(mu, 0.7))
    with numpyro.plate("rows", sizes["rows"]):
        numpyro.sample("y", dist.Normal(effect[data["group"]], 1.0), obs=data["y"])


NORMAL = ShardedModel(normal_groups, ("mu",), local_factors=("group",), local_sites=("effect",))


def normal_rows(num_shards):
    rng = np.random.default_rng(0)
    rows = {}
    for s, size in enumerate(np.linspace(34, 44, num_shards).astype(int)):  # all are padded to 48
        place = np.arange(size) % 3
        effect = 1.0 + 0.7 * rng.standard_normal(3)
        y = effect[place] + rng.standard_normal(size)
        rows[f"s{s}"] = {"group": np.array([f"{s}{g}" for g in place]), "y": y}
    return rows


def exact_normal(rows):
    """Mean and sd of mu, then of every group's effect, in the order of the shards."""
    group = np.concatenate([columns["group"] for columns in rows.values()])
    y = np.concatenate([columns["y"] for columns in rows.values()])
    levels, code = np.unique(group, return_inverse=True)
    count, total = np.bincount(code), np.bincount(code, y)
    size = len(levels) + 1
    precision = np.zeros((size, size))
    precision[0, 0] = 1 / 4 + len(levels) / 0.49
    precision[0, 1:] = precision[1:, 0] = -1 / 0.49
    precision[1:, 1:] = np.diag(count + 1 / 0.49)
    covariance = np.linalg.inv(precision)
    return covariance @ np.concatenate([[0.0], total]), np.sqrt(np.diag(covariance))


@pytest.fixture(scope="module")
def normal_run():
    TRACES.clear()
    rows = normal_rows(5)
    run = user_in_memory.fit(NORMAL, rows, method=SMALL, num_draws=250, num_chains=4, seed=3)
    return rows, run, len(TRACES)


def test_merged_globals_of_a_normal_model_are_exact(normal_run):
    rows, run, _ = normal_run
    mean, sd = exact_normal(rows)
    np.testing.assert_allclose(run.posterior.mean, mean[:1], atol=1e-4 * sd[0])
    np.testing.assert_allclose(run.posterior.sd, sd[:1], rtol=1e-3)
    assert run.rounds[-1].move < 0.01


def test_locals_are_redrawn_from_their_exact_distribution(normal_run, assert_moments):
    rows, run, _ = normal_run
    mean, sd = exact_normal(rows)
    effect = run.variables["effect"]
    assert effect.dims == ("group",)
    assert run.coords["group"] == sorted({g for columns in rows.values() for g in columns["group"].tolist()})
    draws = np.concatenate([run.variables["mu"].values[..., None], effect.values], axis=-1)
    assert_moments(draws.reshape(-1, len(mean)), mean, sd, resolution=0.2)


def test_audit_of_an_exact_merge_passes_and_states_the_error_of_its_estimate(normal_run):
    total = normal_run[1].audit["total"]
    assert normal_run[1].audit["verdict"] == "pass"
    assert normal_run[1].audit["verdicts"] == {"data": "pass", "computation": "pass", "model": "pass"}
    assert total["log_ratio_mcse"] > 0  # L_s is estimated where there are locals
    assert abs(total["log_ratio_sd_uncorrected"] - total["log_ratio_mcse"]) < 0.3 * total["log_ratio_mcse"]


def test_a_damaged_site_fails_the_audit_and_is_named(normal_run):
    _, run, _ = normal_run
    prior = user_combiner.prior_of(NORMAL, run.shards[0])
    site = run.sites[2]
    bad = (*run.sites[:2], gaussian.Gaussian(site.precision, site.shift + 10.0), *run.sites[3:])
    _, draws = user_combiner.sample(
        prior, gaussian.product(bad), run.posterior.mean, jax.random.key(5), user_combiner.Sampling(250, 4)
    )
    flat = draws.g.reshape(-1, 1)
    passes = [user_locals.run(jax.random.key(s), NORMAL, shard, flat) for s, shard in enumerate(run.shards)]
    exact = [
        gaussian.log_density(site, flat) - report.log_likelihood for site, report in zip(run.sites, passes, strict=True)
    ]
    assert max(np.std(e) for e in exact) < 0.1  # the whole sites are the likelihood
    ratios = np.array(
        [np.std(r.log_likelihood - gaussian.log_density(t, flat)) for r, t in zip(passes, bad, strict=True)]
    )
    assert np.argmax(ratios) == 2
    assert ratios[2] > 1.0


def test_shards_of_equal_sizes_share_one_program(normal_run):
    _, _, traced = normal_run
    few = len(set(TRACES))
    assert few == 1  # five shards of 34 to 44 rows
    TRACES.clear()
    shards = user_shards.code(NORMAL, normal_rows(5))
    posterior = normal_run[1].posterior
    for s, shard in enumerate(shards):
        user_tilted.fit(user_tilted.shard_key(3, s, 9), NORMAL, shard, posterior, normal_run[1].sites[s], SMALL)
    assert not TRACES, "nothing is traced again"
    assert traced < 60


def test_a_guide_of_numpyro_gives_the_same_site(normal_run):
    _, run, _ = normal_run
    fit = user_tilted.fit(
        jax.random.key(1), NORMAL, run.shards[0], run.posterior, run.sites[0], VI("AutoMultivariateNormal", 2000)
    )
    width = run.posterior.sd[0]
    np.testing.assert_allclose(fit.site.precision, run.sites[0].precision, atol=0.1 / width**2)
    np.testing.assert_allclose(
        fit.site.shift, run.sites[0].shift, atol=0.1 * (1 + abs(run.posterior.mean[0])) / width**2
    )


# ---- a positive global: one Jacobian, at the combiner (method notes: log rate 0.264, sd 0.155) ----


def gamma_exponential(data, sizes):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", sizes["rows"]):
        numpyro.sample("y", dist.Exponential(rate), obs=data["y"])


GAMMA = ShardedModel(gamma_exponential, ("rate",))
LOG_RATE_MEAN, SHAPE = 0.264, 42.0
LOG_RATE_SD = float(np.sqrt(polygamma(1, SHAPE)))


def gamma_rows():
    y = np.random.default_rng(1).exponential(size=40)
    y *= (np.exp(digamma(SHAPE) - LOG_RATE_MEAN) - 1.0) / y.sum()
    return {f"{s:02d}": {"y": y[2 * s : 2 * s + 2]} for s in range(20)}


def merged_log_rate():
    shards = user_shards.code(GAMMA, gamma_rows())
    prior = user_combiner.prior_of(GAMMA, shards[0])

    def fit_sites(number, posterior, sites):
        return [
            user_tilted.fit(user_tilted.shard_key(1, s, number), GAMMA, shard, posterior, site, SMALL)
            for s, (shard, site) in enumerate(zip(shards, sites, strict=True))
        ]

    sampling, schedule = user_combiner.Sampling(250, 4), user_rounds.Schedule(max_rounds=3)
    return user_rounds.run(prior, len(shards), fit_sites, schedule, sampling, 1)[0].posterior


def assert_log_rate(posterior):
    """Twenty shards of two rows: what is left is the noise of the combiner and what two rows have of a skew."""
    assert abs(posterior.mean[0] - LOG_RATE_MEAN) < 0.03 * LOG_RATE_SD, f"log rate {posterior.mean[0]:.3f}"
    assert abs(posterior.sd[0] / LOG_RATE_SD - 1) < 0.03, f"sd {posterior.sd[0]:.3f}"


def test_the_jacobian_is_counted_once():
    assert round(LOG_RATE_SD, 3) == 0.155
    assert_log_rate(merged_log_rate())


def test_a_jacobian_in_every_shard_would_be_seen(monkeypatch):
    def with_jacobian(made, data, mask, g, l):
        prior, rest = user_model.densities(made, data, mask, g, l)
        return prior, rest + g.sum()  # log |d exp(g) / dg|

    monkeypatch.setattr(user_tilted, "densities", with_jacobian)
    user_tilted._sample.clear_cache()
    with pytest.raises(AssertionError, match=r"log rate 0\.6"):
        assert_log_rate(merged_log_rate())
    user_tilted._sample.clear_cache()


# ---- what is refused, and how it is said ----


def refuse(model, match, kind=UserModelError, rows=None, **declared):
    rows = rows or {s: {"y": np.ones(20 + 13 * (s == "b")), "x": np.zeros(20 + 13 * (s == "b"))} for s in "ab"}
    sharded = ShardedModel(model, **{"global_sites": ("mu",), **declared})
    with pytest.raises(kind, match=match):
        user_checks.check(sharded, user_shards.code(sharded, rows))


def observe(mean, data, sizes):
    with numpyro.plate("rows", sizes["rows"]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=data["y"])


def plain(data, sizes):
    observe(numpyro.sample("mu", dist.Normal(0.0, 1.0)), data, sizes)


def two_levels(data, sizes):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    observe(numpyro.sample("local", dist.Normal(mu, 1.0)), data, sizes)


def discrete(data, sizes):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    observe(mu + numpyro.sample("kind", dist.Bernoulli(0.5)), data, sizes)


def growing(data, sizes):
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(sizes["rows"]), 1.0).to_event(1))
    observe(mu, data, sizes)


def data_in_prior(data, sizes):
    observe(numpyro.sample("mu", dist.Normal(0.1 * data["x"].sum(), 1.0)), data, sizes)


def local_above_global(data, sizes):
    local = numpyro.sample("local", dist.Normal(0.0, 1.0))
    observe(numpyro.sample("mu", dist.Normal(local, 1.0)), data, sizes)


def prior_as_a_factor(data, sizes):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.factor("shrink", -(mu**2))
    observe(mu, data, sizes)


def average_of_rows(data, sizes):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    observe(mu * jnp.mean(data["y"] + jnp.arange(sizes["rows"]) * data["x"]), data, sizes)


def scaled_latent(data, sizes):
    with handlers.scale(scale=0.5):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    observe(mu, data, sizes)


def subsampled(data, sizes):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("some", 40, subsample_size=4):
        local = numpyro.sample("local", dist.Normal(mu, 1.0))
    observe(local.sum(), data, sizes)


def improper(data, sizes):
    observe(numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ())), data, sizes)


def absent_column(data, sizes):
    observe(numpyro.sample("mu", dist.Normal(0.0, 1.0)) * data["income"], data, sizes)


def test_a_good_model_passes():
    sharded = ShardedModel(plain, ("mu",))
    user_checks.check(sharded, user_shards.code(sharded, {"a": {"y": np.ones(20)}, "b": {"y": np.ones(33)}}))


@pytest.mark.parametrize(
    ("model", "match", "kind", "declared"),
    [
        (plain, "Did you mean 'mu'", user_errors.UnknownSiteError, {"global_sites": ("mux",)}),
        (plain, "an observed site", user_errors.UnknownSiteError, {"global_sites": ("y",)}),
        (two_levels, r"they differ in \['local', 'other'\]", user_errors.UnknownSiteError, {"local_sites": ("other",)}),
        (two_levels, r"\['local'\] in the model", user_errors.UnknownSiteError, {"local_sites": ()}),
        (discrete, "latent site 'kind'", user_errors.DiscreteLatentError, {}),
        (growing, "one shape in all shards", user_errors.GlobalSiteError, {}),
        (data_in_prior, "may not use `data`", user_errors.GlobalSiteError, {}),
        (local_above_global, "Sample the globals first", user_errors.GlobalSiteError, {}),
        (prior_as_a_factor, "observed site 'shrink'", user_errors.RowError, {}),
        (average_of_rows, "rows that count one by one", user_errors.RowError, {}),
        (scaled_latent, "a scale on its density", UserModelError, {}),
        (subsampled, "Leave `subsample_size` out", UserModelError, {}),
        (improper, "use a proper one", user_errors.UserCodeError, {}),
        (absent_column, "asked for 'income'", user_errors.UserCodeError, {}),
    ],
)
def test_refusals(model, match, kind, declared):
    rows = {"a": {"y": np.arange(20.0), "x": np.ones(20)}, "b": {"y": np.arange(33.0), "x": 1 + np.arange(33.0)}}
    refuse(model, match, kind, rows, **declared)


@pytest.mark.parametrize(
    ("rows", "declared", "match"),
    [
        ({"a": {"y": ["x", "y"]}}, {}, "Declare a column of labels"),
        ({"a": {"y": [1.0, np.nan]}}, {}, "missing or infinite"),
        ({"a": {"y": []}}, {}, "at least 1"),
        ({"a": {"y": [1.0], "g": ["u"]}, "b": {"y": [1.0], "g": ["u"]}}, {"local_factors": ("g",)}, "'a' and 'b'"),
        ({"a": {"y": [1.0]}}, {"factors": ("yy",)}, "Did you mean 'y'"),
        ({"a": {"y": [1.0], "g": ["u", "v"]}}, {"factors": ("g",)}, "columns of one length"),
    ],
)
def test_refused_rows(rows, declared, match):
    arrays = {s: {name: np.array(values) for name, values in columns.items()} for s, columns in rows.items()}
    sharded = ShardedModel(plain, ("mu",), **declared)
    with pytest.raises(user_errors.ShardDataError, match=match):
        user_shards.code(sharded, arrays)


def test_errors_pickle():
    kinds = [kind for _, kind in inspect.getmembers(user_errors, inspect.isclass) if issubclass(kind, UserModelError)]
    assert len(kinds) >= 7
    for kind in kinds:
        error = pickle.loads(pickle.dumps(kind("here", "this", "that", "Do so.")))  # noqa: S301
        assert type(error) is kind
        assert str(error) == "here: found this; expected that. Do so."


# ---- small parts ----


def test_padded_sizes_are_few_and_large_enough():
    sizes = [user_model.padded(n) for n in range(1, 2000)]
    assert all(size >= n for n, size in enumerate(sizes, start=1))
    assert all(size <= 1.5 * n for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 25


def test_moments_of_gaussian_draws_have_no_noise():
    rng = np.random.default_rng(0)
    lower = np.array([[1.0, 0, 0], [0.5, 2.0, 0], [-1, 0.3, 0.4]])
    x = np.array([1.0, -2.0, 0.5]) + rng.standard_normal((2, 100, 3)) @ lower.T
    covariance = lower @ lower.T
    score = -(x - [1.0, -2.0, 0.5]) @ np.linalg.inv(covariance)
    found = gaussian.estimate(x, score, 2)
    np.testing.assert_allclose(found.moments.mean, [1.0, -2.0], atol=1e-10)
    np.testing.assert_allclose(found.moments.covariance, covariance[:2, :2], atol=1e-10)
    np.testing.assert_allclose(found.precision, np.linalg.inv(covariance[:2, :2]), rtol=1e-3)


def test_precision_of_noisy_draws_is_unbiased():
    """Without scores the noise is that of a sample covariance, and the inverse is corrected for it."""
    rng = np.random.default_rng(0)
    size, corrected, naive = 8, [], []
    for _ in range(300):
        x = rng.standard_normal((2, 50, size))
        found = gaussian.estimate(x, np.zeros_like(x), size)
        corrected.append(np.trace(found.precision) / size)
        naive.append(np.trace(np.linalg.inv(found.moments.covariance)) / size)
    error = np.std(corrected) / np.sqrt(len(corrected))
    assert abs(np.mean(corrected) - 1) < 0.05  # effective draws are estimated, at their least over coordinates
    assert np.mean(naive) - 1 > 0.05 + 5 * error


def test_cavities_are_proper_and_exact_where_there_is_one():
    posterior = gaussian.Moments(np.array([1.0, 2.0]), np.array([[1.0, 0.3], [0.3, 2.0]]))
    whole = np.linalg.inv(posterior.covariance)
    site = gaussian.Gaussian(0.4 * whole, 0.4 * whole @ np.array([0.5, 1.0]))
    context, smallest = gaussian.cavity(posterior, site)
    np.testing.assert_allclose(context.precision, whole - site.precision)
    np.testing.assert_allclose(context.shift, whole @ posterior.mean - site.shift)
    assert smallest == pytest.approx(0.6)
    wide, smallest = gaussian.cavity(posterior, gaussian.Gaussian(1.5 * whole, site.shift))
    assert smallest < 0
    assert np.linalg.eigvalsh(wide.precision)[0] > 0


def test_names_of_coordinates():
    places = (user_model.Place("tau", (), ()), user_model.Place("beta", (2,), ()))
    made = user_model.Program(NORMAL, (), places, (), ())
    assert user_draws.names(made) == ["tau", "beta[0]", "beta[1]"]
