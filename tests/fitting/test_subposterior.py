"""Subposteriors of the hierarchical model: which part of the prior each carries, and draws against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from fitting import classic_fit, in_memory, own_effects, subposterior
from fitting.config import AuditConfig
from fitting.families import log_likelihood
from fitting.shard_draws import CombinerError

SIZES = {"num_warmup": 300, "num_draws": 600, "num_chains": 4}


def people(seed=0, size=3000, num_shards=3):
    """Counties within states, a factor that crosses them, and shards by state and at random."""
    rng = np.random.default_rng(seed)
    state, race = rng.integers(0, num_shards, size), rng.integers(0, 4, size)
    county = 4 * state + rng.integers(0, 4, size)
    columns = {
        "x": rng.integers(0, 2, size).astype(float),
        "race": np.array([f"r{r}" for r in race]),
        "state": np.array([f"s{s}" for s in state]),
        "county": np.array([f"c{c:02d}" for c in county]),
        "shard": rng.integers(0, num_shards, size),
    }
    eta = -0.5 + 0.4 * columns["x"] + rng.normal(0, 0.5, 4)[race] + rng.normal(0, 0.4, 4 * num_shards)[county]
    return columns, eta, rng


FORMULA = "y ~ 1 + x + (1 + x | race) + (1 | state/county)"


@pytest.fixture(scope="module")
def crossed(cells_of):
    """The same people with either outcome, cut by state or at random."""
    columns, eta, rng = people()
    cells = {
        "gaussian": cells_of(columns, eta + rng.normal(size=len(eta)), "gaussian"),
        "binomial": cells_of(columns, (rng.random(len(eta)) < expit(eta)).astype(float)),
    }
    return {
        (family, shards): classic_fit.prepare(cells[family], FORMULA, shards=cells[family][shards], family=family)
        for family, shards in (("binomial", "state"), ("binomial", "shard"), ("gaussian", "state"))
    }


def targets(data, kind="fractionated"):
    pairs = list(zip(data.restrictions, data.designs, strict=True))
    partition = own_effects.partition(data.hierarchy, pairs)
    made = [
        subposterior.target(data.hierarchy, pair, partition.common, own, kind=kind, num_shards=len(pairs))
        for pair, own in zip(pairs, partition.own, strict=True)
    ]
    return partition, made


def log_posterior(data, psi, theta):
    """Every factor of the model once, by its own definition."""
    hierarchy = data.hierarchy
    total = hierarchy.log_prior(psi) + hierarchy.log_conditional_prior(psi, theta)
    for restriction, design in zip(data.restrictions, data.designs, strict=True):
        part, eta = theta[restriction.coefficients], 0.0
        for place, value in zip(design.places, design.values, strict=True):
            eta = eta + part[place] * (1.0 if value is None else value)
        total += log_likelihood(hierarchy.family, design.statistics, eta[None], hierarchy.residual_sd(psi)).sum()
    return float(total)


def log_product(data, partition, made, psi, theta):
    """Log of the product of all subposterior densities at one point."""
    total = 0.0
    with jax.enable_x64(True):
        for given, own in zip(made, partition.own, strict=True):
            part = np.zeros(len(given.shift))
            part[: len(partition.common) + len(own)] = theta[np.concatenate([partition.common, own])]
            total += float(subposterior.log_density(data.hierarchy, given, jnp.asarray(psi), jnp.asarray(part)))
    return total


def differences(data, partition, made):
    """Log product less log posterior at random points, less its first value: zeros if the product is the posterior."""
    rng, hierarchy = np.random.default_rng(0), data.hierarchy
    found = []
    for _ in range(4):
        psi, theta = rng.normal(size=hierarchy.size) * 0.7, rng.normal(size=hierarchy.model.tree.num_coefficients)
        theta[hierarchy.model.is_padding] = 0.0
        found.append(log_product(data, partition, made, psi, theta) - log_posterior(data, psi, theta))
    return np.array(found) - found[0]


def assert_product_is_posterior(data, partition, made):
    np.testing.assert_allclose(differences(data, partition, made), 0.0, atol=1e-8, err_msg="not the posterior")


# ---- the product of subposteriors is the posterior: prior once, Jacobian once, own priors whole ----


@pytest.mark.parametrize(("family", "shards"), [("binomial", "shard"), ("binomial", "state"), ("gaussian", "state")])
def test_fractions_multiply_to_the_posterior(crossed, family, shards):
    data = crossed[family, shards]
    partition, made = targets(data)
    names = data.hierarchy.model.coefficient_names()
    own = [sorted(set(name.split("[")[0] for name in names[places])) for places in partition.own]
    assert own == ([[]] * 3 if shards == "shard" else [["1|state", "1|state:county"]] * 3)
    assert all(name for name in names[partition.common])
    assert_product_is_posterior(data, partition, made)


@pytest.mark.parametrize("fault", ["whole prior in each", "no prior", "own prior fractionated"])
def test_a_wrong_share_of_the_prior_is_caught(crossed, fault):
    data = crossed["binomial", "state"]
    partition, made = targets(data)

    def spoil(given):
        if fault == "own prior fractionated":
            is_state_or_county = np.arange(3) > 0
            return given._replace(
                prior_weight=np.where(given.prior_weight == 1.0, 1 / 3, given.prior_weight),
                level_weight=np.where(is_state_or_county, given.level_weight / 3, given.level_weight),
            )
        return given._replace(prior_power=(3.0 if fault == "whole prior in each" else 0.0) * given.prior_power)

    with pytest.raises(AssertionError, match="not the posterior"):
        assert_product_is_posterior(data, partition, [spoil(given) for given in made])


def test_a_powered_shard_has_the_whole_prior_and_its_likelihood_three_times(crossed):
    data = crossed["binomial", "shard"]
    partition, made = targets(data, "powered")
    thrice = tuple(
        design._replace(statistics={name: 3.0 * column for name, column in design.statistics.items()})
        for design in data.designs
    )
    for s in range(3):
        alone = data._replace(restrictions=data.restrictions[s : s + 1], designs=thrice[s : s + 1])
        one = partition._replace(own=partition.own[s : s + 1])
        assert_product_is_posterior(alone, one, made[s : s + 1])


def test_powered_shards_with_levels_of_their_own_are_refused(crossed):
    data = crossed["binomial", "state"]
    with pytest.raises(CombinerError, match="shard 0: found 5 group effects with cells in no other shard"):
        classic_fit.sample(data, "powered")


def test_no_shards_are_refused(crossed):
    data = crossed["binomial", "shard"]
    pair = data.restrictions[0], data.designs[0]
    with pytest.raises(CombinerError, match="shards: found 0; expected 1 or more"):
        subposterior.target(data.hierarchy, pair, np.arange(2), np.arange(0), kind="fractionated", num_shards=0)


def test_a_level_in_two_shards_of_three_is_common(cells_of):
    columns, eta, _ = people()
    shard = np.where(columns["state"] == "s2", 1, columns["shard"])  # state 2 whole in shard 1, the others in all
    cells = cells_of(columns | {"shard": shard}, (eta > 0).astype(float))
    data = classic_fit.prepare(cells, "y ~ 1 + (1 | state)", shards=cells["shard"])
    partition, _ = targets(data)
    names = data.hierarchy.model.coefficient_names()
    assert sorted(names[partition.common]) == ["1|state[s0]", "1|state[s1]", "Intercept"]
    assert [list(names[own]) for own in partition.own] == [[], ["1|state[s2]"], []]


# ---- draws: the nested normal model ----


GROUPS, PER_GROUP = 36, 30
PRIORS = {"intercept": "normal(1, 0.5)", "sd": "half_normal(1)", "sigma": "exponential(1)"}


def nested_rows():
    rng = np.random.default_rng(8)
    group = np.repeat(np.arange(GROUPS), PER_GROUP)
    return group, 0.3 + rng.normal(0, 0.6, GROUPS)[group] + rng.normal(0, 1.0, len(group))


@pytest.fixture(scope="module")
def nested(cells_of):
    """Three shards of twelve whole groups; draws of every shard, and the exact posterior."""
    group, y = nested_rows()
    cells = cells_of({"g": np.array([f"g{j:02d}" for j in group]), "shard": group % 3}, y, "gaussian")
    options = {"shards": cells["shard"], "family": "gaussian", "chosen_priors": PRIORS}
    run = classic_fit.fit(cells, "y ~ 1 + (1 | g)", combiner="consensus", seed=1, **options, **SIZES)
    exact = in_memory.fit(cells, "y ~ 1 + (1 | g)", num_draws=1250, **options)
    return run.data, run.partition, run.subposteriors, exact


def quadrature(groups, prior_power, own_power=1.0):
    """Mean and sd of (intercept, log tau, log sigma) for some groups, group effects integrated out, on a grid of scales.

    With ``own_power`` other than 1 the effects' normal prior is taken to that power, normaliser and all.
    """
    group, y = nested_rows()
    kept = np.isin(group, groups)
    mean = np.array([y[group == j].mean() for j in groups])
    within = sum(((y[group == j] - m) ** 2).sum() for j, m in zip(groups, mean, strict=True))
    count = len(groups)
    log_tau, log_sigma = np.meshgrid(np.linspace(-5, 2.5, 601), np.linspace(-0.25, 0.25, 201), indexing="ij")
    tau, sigma = np.exp(log_tau), np.exp(log_sigma)
    log_p = prior_power * (-0.5 * tau**2 + log_tau - sigma + log_sigma)
    log_p += -0.5 * within / sigma**2 - (kept.sum() - count) * log_sigma
    effect_variance = tau**2 / own_power  # N(0, tau^2)^p is proportional to tau^(1 - p) N(0, tau^2 / p)
    log_p += count * (1 - own_power) * log_tau
    variance = sigma**2 / PER_GROUP + effect_variance
    precision = count / variance + prior_power / 0.25
    shift = mean.sum() / variance + prior_power * 1.0 / 0.25
    log_p += -0.5 * count * np.log(variance) - 0.5 * (mean**2).sum() / variance
    log_p += -0.5 * np.log(precision) + 0.5 * shift**2 / precision
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    centre = shift / precision
    means = np.array([(weight * f).sum() for f in (centre, log_tau, log_sigma)])
    squares = [(weight * f).sum() for f in (centre**2 + 1 / precision, log_tau**2, log_sigma**2)]
    return means, np.sqrt(np.array(squares) - means**2)


def assert_law(draws, mean, sd, assert_mean_close):
    """Means, and mean squares about the exact means, by their own Monte Carlo errors."""
    z = (draws - mean) / sd
    assert_mean_close(z, 0.0, resolution=0.2)
    assert_mean_close(z**2, 1.0, resolution=0.4)


def test_a_subposterior_agrees_with_quadrature(nested, assert_mean_close):
    data, partition, found, _ = nested
    assert list(data.hierarchy.model.coefficient_names()[partition.common]) == ["Intercept"]
    for s, part in enumerate(found):
        assert part.r_hat < 1.02
        assert part.ess_bulk > 500
        assert part.num_divergent < 10
        assert_law(part.merged, *quadrature(np.arange(s, GROUPS, 3), 1 / 3), assert_mean_close)
    groups = np.arange(0, GROUPS, 3)
    for wrong in (quadrature(groups, 1.0), quadrature(groups, 1 / 3, own_power=1 / 3)):
        with pytest.raises(AssertionError, match="off by"):
            assert_law(found[0].merged, *wrong, assert_mean_close)


def test_quadrature_agrees_with_the_exact_posterior(nested, assert_mean_close):
    exact = nested[3]
    whole = np.concatenate([exact.draws.theta[..., :1], exact.draws.psi], axis=-1)
    assert_law(whole, *quadrature(np.arange(GROUPS), 1.0), assert_mean_close)


def test_shards_draw_from_their_own_streams(nested):
    first, second = nested[2][0].merged, nested[2][1].merged
    correlation = [np.corrcoef(first[..., j].ravel(), second[..., j].ravel())[0, 1] for j in range(3)]
    assert np.max(np.abs(correlation)) < stats.norm.isf(1e-7) / np.sqrt(min(p.ess_bulk for p in nested[2][:2]))
    keys = [jax.random.key_data(subposterior.shard_key(1, s)).tolist() for s in range(50)]
    assert len({tuple(key) for key in keys}) == 50
    assert keys[3] == jax.random.key_data(subposterior.shard_key(1, 3)).tolist()


@pytest.mark.parametrize("name", ["consensus", "gaussian"])
def test_the_audit_sizes_what_a_merge_of_nested_groups_gets_wrong(nested, name):
    """Shards whose groups happen to vary less have more weight than they should: the intercept is off by half an sd."""
    data, partition, found, exact = nested
    run = classic_fit.merge(data, partition, found, name)
    merged, right = (
        np.concatenate([d.theta, d.psi], axis=-1).reshape(-1, d.theta.shape[-1] + 2) for d in (run.draws, exact.draws)
    )
    sd = right.std(axis=0)
    true = (right.mean(axis=0) - merged.mean(axis=0)) / sd
    errors, _ = classic_fit.errors(run)
    assert list(errors.names) == [*data.hierarchy.model.coefficient_names(), "sd(1|g)", "sigma"]
    z = stats.norm.isf(1e-6 / (4 * len(sd)))
    noise = 1 / len(right) + 1.5 / classic_fit.REFERENCE_DRAWS  # nearly independent draws of psi: 1 / acceptance and more
    np.testing.assert_allclose(errors.mean, true, atol=z * np.sqrt(noise))
    np.testing.assert_allclose(np.exp(errors.log_sd), merged.std(axis=0) / sd, atol=z * np.sqrt(1.25 * noise))
    assert 0.3 < abs(true[0]) < 1
    np.testing.assert_allclose(merged.std(axis=0) / sd, 1.0, atol=0.15)  # and not the 1.7 of a fractionated own prior
    judged = classic_fit.judge(errors, AuditConfig(), 1.0, name)
    assert judged["verdict"] == "fail"
    assert {g["name"]: g["status"] for g in judged["gates"]}["score"] == "fail"
    assert run.named()["1|g[g00]"].shape == (4, 600)


def redrawn(data, partition, exact, rng):
    """Own effects of every shard given draws of the common coefficients and scales from the exact posterior."""
    psi = exact.draws.psi.reshape(-1, data.hierarchy.size)
    common = exact.draws.theta.reshape(len(psi), -1)[:, partition.common]
    pairs = zip(data.restrictions, data.designs, strict=True)
    return np.concatenate(
        [
            own_effects.redraw(data.hierarchy, pair, partition.common, own, common, psi, rng)
            for pair, own in zip(pairs, partition.own, strict=True)
        ],
        axis=1,
    )


def test_own_effects_given_the_common_ones_have_their_exact_law(nested):
    """Gaussian: exact. Kept as their shards sampled them, they would be as uncertain as those shards' intercepts are."""
    data, partition, found, exact = nested
    places = np.concatenate(partition.own)
    draws, right = redrawn(data, partition, exact, np.random.default_rng(0)), exact.draws.theta.reshape(5000, -1)
    sd, z = right[:, places].std(axis=0), stats.norm.isf(1e-6 / (4 * len(places)))
    np.testing.assert_allclose(
        (draws.mean(axis=0) - right[:, places].mean(axis=0)) / sd, 0.0, atol=z * np.sqrt(2 / 5000)
    )
    np.testing.assert_allclose(draws.std(axis=0) / sd, 1.0, atol=z * np.sqrt(1 / 5000))
    together = np.corrcoef(right[:, 0], draws.T)[0, 1:]
    expected = np.corrcoef(right[:, 0], right[:, places].T)[0, 1:]
    np.testing.assert_allclose(together, expected, atol=z * np.sqrt(2 / 5000))
    kept = np.concatenate([part.own.reshape(2400, -1).std(axis=0) for part in found])
    assert np.mean(kept / sd) > 1.1


def test_own_effects_of_a_binomial_model_agree_with_the_rounds(cells_of):
    """Counties within states as shards: the site under merged moments is that of the rounds, so draws agree within noise."""
    columns, eta, rng = people(size=6000)
    cells = cells_of(columns, (rng.random(len(eta)) < expit(eta)).astype(float))
    exact = in_memory.fit(cells, FORMULA, shards=cells["state"], num_draws=250)
    data = classic_fit.ModelData(exact.hierarchy, exact.restrictions, exact.designs)
    partition, _ = targets(data)
    places = np.concatenate(partition.own)
    assert len(places) == 15
    draws, right = redrawn(data, partition, exact, np.random.default_rng(0)), exact.draws.theta.reshape(1000, -1)
    sd, z = right[:, places].std(axis=0), stats.norm.isf(1e-6 / (4 * len(places)))
    np.testing.assert_allclose(
        (draws.mean(axis=0) - right[:, places].mean(axis=0)) / sd, 0.0, atol=z * np.sqrt(2 / 1000)
    )
    np.testing.assert_allclose(draws.std(axis=0) / sd, 1.0, atol=z * np.sqrt(2.5 / 1000))
