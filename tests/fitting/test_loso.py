"""Leaving a shard out by arithmetic against fitting without it, and against quadrature."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logsumexp

from fitting import checks, in_memory, loso, pointwise

FORMULA = "y ~ 1 + x + (1 | race) + (1 | state)"


def cells(family, seed=0, odd=None):
    """A nation of 8 states, a shard each; the outcomes of state ``odd`` fall with x where they rise elsewhere."""
    rng = np.random.default_rng(seed)
    state, race, x = np.repeat(np.arange(8), 20), np.tile(np.repeat(np.arange(5), 4), 8), np.tile([0.0, 1.0], 80)
    slope = np.where(state == (-1 if odd is None else odd), -1.0, 1.0)
    eta = rng.normal(0, 0.4, 8)[state] + rng.normal(0, 0.4, 5)[race] + slope * x
    trials = rng.integers(10, 40, 160)
    out = {"state": np.array([f"s{s}" for s in state]), "race": np.array([f"r{r}" for r in race]), "x": x}
    if family == "gaussian":
        y = [rng.normal(e, 1.0, n) for e, n in zip(eta, trials, strict=True)]
        sums = {"sum_y": np.array([v.sum() for v in y]), "squared_deviations": np.array([((v - v.mean()) ** 2).sum() for v in y])}
        return out | {"num_trials": trials.astype(float)} | sums
    return out | {"num_trials": trials, "num_successes": rng.binomial(trials, expit(eta))}


def fit(data, family, **options):
    options = {"num_draws": 1000, "num_chains": 4} | options
    return in_memory.fit(data, FORMULA, family=family, shards=data["state"], **options)


def without(run, s, num_draws=4000, seed=0):
    return loso.without(
        run.hierarchy, run.natural, run.proposal, run.restrictions[s], run.sites[s],
        num_draws=num_draws, seed=seed, num_points=128,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["binomial", "gaussian"])
def test_a_shard_is_left_out_as_if_the_rest_were_fitted_alone(family):
    """Means and sds of all that the rest informs; the state left out is drawn from its prior.

    0.15 sds: z of 5 at 4,000 draws is 0.08, the points of the scales add about as much.
    """
    data = cells(family)
    run = fit(data, family)
    rest = {name: values[data["state"] != "s3"] for name, values in data.items()}
    again = fit(rest, family)
    found = without(run, 3)
    names = list(run.hierarchy.model.coefficient_names())
    theirs = list(again.hierarchy.model.coefficient_names())
    shared = [name for name in theirs if name]
    if family == "gaussian":  # priors follow the data's scale, which differs a little without a state
        assert again.hierarchy.scale_priors[0][0].args[0] == pytest.approx(
            run.hierarchy.scale_priors[0][0].args[0], rel=0.05
        )
    flat = again.draws.theta.reshape(4000, -1)
    center = run.hierarchy.model.coding.numerics["x"]
    assert center.binary
    for name in shared:
        ours, other = found.theta[names.index(name)], flat[:, theirs.index(name)]
        assert abs(ours.mean() - other.mean()) < 0.15 * other.std(), name
        assert abs(ours.std() / other.std() - 1) < 0.15, name
    own = found.theta[names.index("1|state[s3]")]
    scale = np.exp(found.psi[:, run.hierarchy.names().index("sd(1|state)")])
    assert abs(own.mean()) < 5 * own.std() / np.sqrt(4000)
    assert np.square(own / scale).mean() == pytest.approx(1.0, abs=5 * np.sqrt(2 / 4000))
    assert found.efficiency > 0.3


def test_leaving_nothing_out_would_be_found():
    """The broken twin: the posterior with the shard is not the posterior without it."""
    data = cells("binomial", odd=3)
    run = fit(data, "binomial")
    names = list(run.hierarchy.model.coefficient_names())
    x = run.draws.theta[..., names.index("x")]
    assert abs(without(run, 3).theta[names.index("x")].mean() - x.mean()) > 1.0 * x.std()


def test_an_odd_shard_with_most_of_the_data_is_left_out_nearly_right():
    """The hard case: 73% of the people, and a slope turned round. The others' sites were made where it had pulled the mean."""
    data, rng = cells("binomial", odd=3), np.random.default_rng(9)
    big = data["state"] == "s3"
    rate = data["num_successes"] / data["num_trials"]
    data["num_trials"] = np.where(big, 20 * data["num_trials"], data["num_trials"])
    data["num_successes"] = np.where(big, rng.binomial(data["num_trials"], rate), data["num_successes"])
    run = fit(data, "binomial")
    again = fit({name: values[~big] for name, values in data.items()}, "binomial")
    found = without(run, 3).theta
    names, theirs = (list(r.hierarchy.model.coefficient_names()) for r in (run, again))
    x = run.draws.theta[..., names.index("x")].mean()
    assert x < 0 < found[names.index("x")].mean()
    flat = again.draws.theta.reshape(4000, -1)
    for name in filter(None, theirs):
        other = flat[:, theirs.index(name)]
        assert abs(found[names.index(name)].mean() - other.mean()) < 0.5 * other.std(), name


def test_densities_of_a_left_out_gaussian_shard_by_quadrature():
    """One mean, known noise: the others' posterior is normal, and the shard's density has a closed form."""
    rng = np.random.default_rng(3)
    y = rng.normal(1.0, 1.0, (4, 30))
    data = {
        "g": np.repeat(["a", "b", "c", "d"], 3), "num_trials": np.full(12, 10.0),
        "sum_y": y.reshape(12, 10).sum(axis=1), "squared_deviations": 10.0 * y.reshape(12, 10).var(axis=1),
    }  # fmt: skip
    run = in_memory.fit(
        data, "y ~ 1", family="gaussian", shards=data["g"], chosen_priors={"intercept": "normal(0, 10)"}, num_draws=500
    )
    found = checks.leave_shard_out(run, num_draws=20_000)
    for s, out in enumerate(found):
        rest, own = np.delete(y, s, axis=0).ravel(), y[s].reshape(3, 10)
        grid = np.linspace(-0.6, 0.8, 400)  # log sigma
        sigma = np.exp(grid)
        precision = len(rest) / sigma**2 + 0.01
        mean, sd = rest.sum() / sigma**2 / precision, precision**-0.5
        rate = run.hierarchy.residual_prior.args[0]
        log_w = -len(rest) * grid - 0.5 * np.square(rest).sum() / sigma**2 + 0.5 * mean**2 * precision + np.log(sd)
        log_w += -rate * sigma + grid
        log_w -= logsumexp(log_w)
        exact = 0.0
        for values in own:
            covariance = np.eye(10) * sigma[:, None, None] ** 2 + (sd**2)[:, None, None]
            given = [
                stats.multivariate_normal(np.full(10, m), c).logpdf(values)
                for m, c in zip(mean, covariance, strict=True)
            ]
            exact += logsumexp(log_w + given)
        assert out.elpd == pytest.approx(exact, abs=5 * out.mcse + 0.05)
        assert out.mcse < 0.1
        assert out.num_poor == 0
        assert np.isnan(out.elpd_person)
        assert out.observed == pytest.approx(y[s].mean())
        moved = (y.mean() - rest.mean()) / run.draws.theta.std()
        assert out.move[0] == pytest.approx(moved, abs=0.15)


def test_people_of_a_left_out_shard_are_predicted_by_the_refitted_rest():
    data = cells("binomial")
    run = fit(data, "binomial")
    found = checks.leave_shard_out(run, num_draws=2000, seed=1)[3]
    rest = {name: values[data["state"] != "s3"] for name, values in data.items()}
    again = fit(rest, "binomial")
    theirs = list(again.hierarchy.model.coefficient_names())
    flat, psi = again.draws.theta.reshape(4000, -1), again.draws.psi.reshape(4000, -1)
    new = np.random.default_rng(0).normal(size=4000) * np.exp(psi[:, again.hierarchy.names().index("sd(1|state)")])
    own = data["state"] == "s3"
    race = np.stack([flat[:, theirs.index(f"1|race[{r}]")] for r in data["race"][own]])
    eta = flat[:, theirs.index("Intercept")] + flat[:, theirs.index("x")] * data["x"][own][:, None] + race + new
    rate = expit(eta).mean(axis=1)
    s, n = data["num_successes"][own], data["num_trials"][own]
    people = float(s @ np.log(rate) + (n - s) @ np.log1p(-rate))
    assert found.elpd_person == pytest.approx(people, abs=1.0)  # 500 people, whose mean rate is known to 0.005 each
    shift = abs(found.predicted.mean() - (n @ rate) / n.sum())
    assert shift < 5 * found.predicted.std() * np.sqrt(1 / 2000 + 1 / 4000)
    assert found.elpd_person > n.sum() * np.log(0.5)


def test_the_odd_shard_is_the_one_that_moves_the_rest():
    run = fit(cells("binomial", odd=5), "binomial", num_draws=100)
    found = checks.leave_shard_out(run, num_draws=64)
    names = run.hierarchy.model.coefficient_names()[loso.common(run.hierarchy)]
    moves = np.array([np.abs(out.move).max() for out in found])
    assert int(moves.argmax()) == 5
    assert names[int(np.argmax(np.abs(found[5].move)))] == "x"
    assert found[5].move[list(names).index("x")] < -1.0, "with it the slope is lower"
    assert moves[5] > 2 * np.delete(moves, 5).max()


def test_one_shard_is_predicted_from_the_prior_alone():
    data = cells("binomial")
    run = in_memory.fit(data, "y ~ 1", shards=None, num_draws=100, chosen_priors={"intercept": "normal(0.3, 0.5)"})
    found = checks.leave_shard_out(run, num_draws=4000)[0]
    rate = expit(np.random.default_rng(0).normal(0.3, 0.5, 100_000))
    assert found.predicted.mean() == pytest.approx(rate.mean(), abs=5 * rate.std() / np.sqrt(4000))
    assert found.predicted.std() == pytest.approx(rate.std(), rel=0.1)


def test_draws_depend_on_the_seed_alone():
    run = fit(cells("binomial"), "binomial", num_draws=50)
    one, same, other = (without(run, 2, num_draws=20, seed=s) for s in (4, 4, 5))
    np.testing.assert_array_equal(one.theta, same.theta)
    assert not np.array_equal(one.theta, other.theta)


def test_a_proposal_far_from_the_posterior_without_the_shard_is_fitted_anew(monkeypatch):
    """A proposal far off carries nothing; it is fitted again, and the answer stays."""
    run = fit(cells("gaussian"), "gaussian", num_draws=50)
    far = run.proposal._replace(mode=run.proposal.mode + 6 * run.proposal.axes.sum(axis=1))
    good = without(run, 1)
    found = loso.without(
        run.hierarchy, run.natural, far, run.restrictions[1], run.sites[1], num_draws=4000, seed=0, num_points=128
    )
    assert found.efficiency > loso.POOR_EFFICIENCY
    sd = good.theta[: len(good.mean)].std(axis=1)
    assert np.all(np.abs(found.mean - good.mean) < 0.15 * sd)
    monkeypatch.setattr(loso, "POOR_EFFICIENCY", 0.0)
    as_it_was = loso.without(
        run.hierarchy, run.natural, far, run.restrictions[1], run.sites[1], num_draws=10, seed=0, num_points=128
    )
    assert as_it_was.efficiency < 0.1, "or this test shows nothing"


def test_predictors_of_a_shard_use_its_own_part_of_the_tree():
    run = fit(cells("binomial"), "binomial", num_draws=2, num_chains=1)
    theta = np.random.default_rng(0).normal(size=(run.hierarchy.model.tree.num_coefficients, 3))
    eta = pointwise.predictors(run.designs[4], theta[run.restrictions[4].coefficients])
    names = list(run.hierarchy.model.coefficient_names())
    expected = theta[names.index("Intercept")] + theta[names.index("1|race[r0]")] + theta[names.index("1|state[s4]")]
    np.testing.assert_allclose(eta[0, 0], expected)
