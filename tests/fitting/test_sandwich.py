"""The spread corrected for weights: dense algebra, equal weights, and coverage under unequal ones."""

import numpy as np
import pytest

from fitting import combiner, families, in_memory, sandwich
from fitting import tree as tr
from fitting.errors import ModelError
from fitting.scale_source import Source

FORMULA = "y ~ 1 + x + (1 | state)"


def weighted_cells(rng, num_people=4000, largest=6.0):
    """Cells of people whose weights vary within cells, with their squared weights by outcome."""
    state, x = rng.integers(0, 6, num_people), rng.integers(0, 2, num_people)
    weight = rng.uniform(0.2, largest, num_people)
    weight /= weight.mean()
    y = rng.random(num_people) < 1 / (1 + np.exp(0.4 - 0.5 * x - 0.2 * (state - 2.5)))
    cell = state * 2 + x
    s, b = (a.ravel() for a in np.indices((6, 2)))
    return {
        "state": np.array([f"s{i}" for i in s]), "x": b,
        "num_trials": np.bincount(cell, weight, 12), "num_successes": np.bincount(cell, weight * y, 12),
        "sum_weight_squared": np.bincount(cell, weight**2, 12),
        "sum_weight_squared_successes": np.bincount(cell, weight**2 * y, 12),
    }, (state, x, weight, y)  # fmt: skip


def with_squares(run, cells):
    """The designs of a run with the squared weights beside the family's statistics (one shard)."""
    names = [*run.designs[0].statistics, *sandwich.SQUARED]
    return run.designs[0]._replace(statistics={name: np.asarray(cells[name], dtype=float) for name in names})


def test_score_variance_is_the_sum_over_people():
    rng = np.random.default_rng(3)
    cells, (state, x, weight, y) = weighted_cells(rng)
    run = in_memory.fit(cells, FORMULA, num_draws=2)
    tree, mean = run.hierarchy.model.tree, run.moments.mean
    found = sandwich.score_variance(run.restrictions[0].tree, with_squares(run, cells), run.hierarchy.family, mean)
    names = run.hierarchy.model.coefficient_names().tolist()
    dense = np.zeros((len(y), len(names)))
    dense[:, names.index("Intercept")], dense[:, names.index("x")] = 1.0, x
    for level in range(6):
        dense[state == level, names.index(f"1|state[s{level}]")] = 1.0
    score = (weight * (y - 1 / (1 + np.exp(-dense @ mean))))[:, None] * dense
    np.testing.assert_allclose(tr.dense(tree, found), score.T @ score, atol=1e-8)


def test_noise_has_the_covariance_asked_for():
    rng = np.random.default_rng(4)
    cells, _ = weighted_cells(rng, 500)
    run = in_memory.fit(cells, FORMULA, num_draws=2)
    tree = run.hierarchy.model.tree
    precision, _, _ = run.hierarchy.add_prior(run.proposal.mode, run.natural.precision, np.zeros(tree.num_coefficients))
    root = sandwich.noise(tree, precision, tr.cholesky(tree, precision), np.eye(tree.num_coefficients))
    np.testing.assert_allclose(root @ root.T, tr.dense(tree, precision), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("corrected", [True, False])
def test_intervals_cover_the_population_under_unequal_weights(corrected):
    """500 samples: 90% intervals of the slope. The uncorrected twin must be seen to be too narrow."""
    inside, num_samples = 0, 500
    z = 1.6449
    for sample in range(num_samples):
        rng = np.random.default_rng([7, sample])
        size = 400
        x = rng.integers(0, 2, size)
        weight = rng.choice([0.2, 4.0], size, p=[0.8, 0.2])
        weight /= weight.mean()
        y = rng.random(size) < 1 / (1 + np.exp(0.3 - 0.6 * x))
        cells = {
            "x": np.array([0, 1]), "num_trials": np.bincount(x, weight, 2), "num_successes": np.bincount(x, weight * y, 2),
            "sum_weight_squared": np.bincount(x, weight**2, 2),
            "sum_weight_squared_successes": np.bincount(x, weight**2 * y, 2),
        }  # fmt: skip
        run = in_memory.fit(cells, "y ~ 1 + x", num_draws=1, num_chains=1, chosen_priors={"b": "normal(0, 50)", "intercept": "normal(0, 50)"})
        covariance = tr.dense(run.hierarchy.model.tree, run.moments.covariance)
        if corrected:
            meat = sandwich.score_variance(run.hierarchy.model.tree, with_squares(run, cells), families.BINOMIAL, run.moments.mean)
            covariance = covariance @ tr.dense(run.hierarchy.model.tree, meat) @ covariance
        inside += abs(run.moments.mean[1] - 0.6) < z * np.sqrt(covariance[1, 1])
    low, high = 0.9 * num_samples - 4 * np.sqrt(0.09 * num_samples), 0.9 * num_samples + 4 * np.sqrt(0.09 * num_samples)
    assert (low < inside < high) == corrected, inside


def test_corrected_draws_have_the_corrected_covariance():
    rng = np.random.default_rng(5)
    cells, _ = weighted_cells(rng, 3000)
    run = in_memory.fit(cells, FORMULA, num_draws=2)
    h, tree = run.hierarchy, run.hierarchy.model.tree
    meat = sandwich.score_variance(tree, with_squares(run, cells), h.family, run.moments.mean)
    fixed = run.proposal._replace(widths=run.proposal.widths * 1e-9)  # scales at their mode: one Gaussian
    source = Source(h, run.natural, run.proposal, num_draws=4000, seed=1)
    source.proposal = fixed
    in_turn = combiner.draw_in_turn(h, run.natural, source, chain=0, score_variance=meat)
    theta = np.stack([one.theta for one in in_turn])
    precision, _, _ = h.add_prior(run.proposal.mode, run.natural.precision, np.zeros(tree.num_coefficients))
    scores, _, _ = h.add_prior(run.proposal.mode, meat, np.zeros(tree.num_coefficients))
    inverse = np.linalg.inv(tr.dense(tree, precision))
    expected = inverse @ tr.dense(tree, scores) @ inverse
    found = np.cov(theta.T)
    z = (found - expected) / np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / 4000)
    assert np.abs(z).max() < 5.0
    assert np.abs((np.diag(inverse) - np.diag(expected)) / np.diag(expected)).max() > 0.2, "weights must matter here"


def test_only_binomial_cells_have_what_it_needs():
    run = in_memory.fit(
        {"num_trials": np.ones(3), "sum_y": np.arange(3.0), "squared_deviations": np.zeros(3)}, "y ~ 1", family="gaussian"
    )
    with pytest.raises(ModelError, match="bernoulli or binomial"):
        sandwich.score_variance(run.hierarchy.model.tree, run.designs[0], run.hierarchy.family, np.zeros(1))
