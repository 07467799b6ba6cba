"""New outcomes of every family against SciPy's moments, and the people of its cells."""

import numpy as np
import pytest
from scipy import stats

from fitting import families, loo, pointwise, replicates
from fitting.cell_design import CellDesign
from fitting.errors import ModelError

NUM_DRAWS = 20_000
ROWS = np.array([1.0, 7.0])
Z = 5.0


def case(name):
    """Statistics of two cells, linear predictors of one draw (P,), and exact mean and variance of each cell's sum."""
    rows = {"num_trials": ROWS}
    if name == "poisson":
        exposure = np.array([2.0, 9.0])
        return (
            rows | {"sum_y": np.array([1.0, 8.0]), "sum_exposure": exposure},
            [-0.3],
            np.exp(-0.3) * exposure,
            np.exp(-0.3) * exposure,
        )
    if name == "negative_binomial":
        one = stats.nbinom(2.5, 2.5 / (2.5 + 3 * np.exp(0.2)))
        statistics = rows | {"y": np.array([1.0, 4.0]), "exposure": np.full(2, 3.0)}
        return statistics, [0.2, np.log(2.5)], ROWS * one.mean(), ROWS * one.var()
    if name == "beta_binomial":
        p = 1 / (1 + np.exp(-0.4))
        one = stats.betabinom(6, p * 3.0, (1 - p) * 3.0)
        statistics = rows | {"successes": np.array([2.0, 5.0]), "trials": np.full(2, 6.0)}
        return statistics, [0.4, np.log(3.0)], ROWS * one.mean(), ROWS * one.var()
    one = stats.t(8.0, 0.7, 1.3)
    return rows | {"y": np.array([0.1, 3.0])}, [0.7, np.log(1.3), np.log(8.0)], ROWS * one.mean(), ROWS * one.var()


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "beta_binomial", "student_t"])
def test_new_outcomes_have_the_moments_of_the_family(name):
    """Means to five standard errors; variances to 10%, five errors of a kurtosis of 10 and less."""
    statistics, at, mean, variance = case(name)
    family = families.make(name)
    eta = np.broadcast_to(np.array(at)[:, None, None], (len(at), 2, NUM_DRAWS))
    new = replicates.draw(np.random.default_rng(0), family, statistics, eta, np.ones(NUM_DRAWS))
    assert np.all(np.abs(new.total.mean(axis=1) - mean) < Z * np.sqrt(variance / NUM_DRAWS))
    np.testing.assert_allclose(new.total.var(axis=1), variance, rtol=0.1)
    np.testing.assert_allclose(new.realised, np.broadcast_to(new.realised[:, :1], new.realised.shape))
    if name == "student_t":
        spread = ROWS * stats.t(8.0).expect(np.abs)
        np.testing.assert_allclose(new.replicated.mean(axis=1), spread, rtol=0.03)
        np.testing.assert_allclose(new.realised[:, 0], ROWS * np.abs(statistics["y"] - 0.7) / 1.3)
    else:
        np.testing.assert_allclose(new.replicated.mean(axis=1), 1.0, rtol=0.1)
        observed = pointwise.totals(family, statistics)
        np.testing.assert_allclose(new.realised[:, 0], (observed - mean) ** 2 / variance)


def test_categories_have_no_sum():
    family = families.make("categorical", categories=("a", "b"))
    with pytest.raises(ModelError, match="categories"):
        replicates.draw(np.random.default_rng(0), family, {"num_trials": ROWS}, np.zeros((1, 2, 3)), np.ones(3))


def test_people_of_categories_and_of_like_rows_add_up_to_their_cells():
    """The log likelihood of a cell is that of its people, whatever the family."""
    rng = np.random.default_rng(1)
    categorical = families.make("categorical", categories=("a", "b", "c"))
    counts = np.array([[2.0, 0.0], [1.0, 3.0], [4.0, 1.0]])
    statistics = {f"count_{k}": counts[k] for k in range(3)} | {"num_trials": counts.sum(axis=0)}
    cases = [(categorical, statistics, 2)]
    for name, size in (("negative_binomial", 2), ("beta_binomial", 2), ("student_t", 3)):
        cases.append((families.make(name), case(name)[0], size))
    for family, cells, size in cases:
        eta = rng.normal(size=(size, 2, 5))
        people = pointwise.persons(family, cells)
        summed = sum(p.num_people[:, None] * pointwise.log_likelihood(family, p.statistics, eta) for p in people)
        np.testing.assert_allclose(summed, pointwise.log_likelihood(family, cells, eta))
    assert [p.outcome for p in pointwise.persons(categorical, statistics)] == ["a", "b", "c"]
    assert pointwise.persons(families.make("poisson"), case("poisson")[0]) == ()


def test_a_person_of_a_categorical_cell_is_left_out_as_dirichlet_says():
    """Shares with a Dirichlet posterior, two cells alike: the density of one more is (a_k - 1) / (sum a - 1)."""
    rng, family = np.random.default_rng(2), families.make("categorical", categories=("a", "b", "c"))
    counts = np.array([[20.0, 10.0], [30.0, 5.0], [25.0, 15.0]])
    posterior = 1.0 + counts.sum(axis=1)
    share = rng.dirichlet(posterior, NUM_DRAWS)
    theta = np.log(share[:, 1:] / share[:, :1]).T
    statistics = {f"count_{k}": counts[k] for k in range(3)} | {"num_trials": counts.sum(axis=0)}
    places = tuple(np.full(2, k, dtype=np.int32) for k in range(2))
    found = loo.shard(family, CellDesign(places, (None, None), (0, 1), statistics), theta, np.ones(NUM_DRAWS))
    for k, people in enumerate(found.people):
        exact = np.log((posterior[k] - 1) / (posterior.sum() - 1))
        np.testing.assert_allclose(
            people.each.elpd, exact, atol=Z * share[:, k].std() / share[:, k].mean() / np.sqrt(NUM_DRAWS)
        )
