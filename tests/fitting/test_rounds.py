"""Rounds of sites: what the next one is fitted under, and that short cuts on the way change nothing at the end."""

import numpy as np
import pytest
from scipy import optimize

from benchmarks import families, family_problems
from fitting import combiner, in_memory, rounds, scale_marginal, scale_proposal

FORMULA = "y ~ 1 + x + (1 | g) + (1 | h)"


@pytest.fixture(scope="module")
def cells(cells_of):
    """5 large groups and 200 small ones, in three shards."""
    rng = np.random.default_rng(3)
    g, h = rng.integers(0, 5, 6000), rng.integers(0, 200, 6000)
    x = rng.integers(0, 2, 6000).astype(float)
    logit = -1.0 + 0.5 * x + rng.normal(0, 0.8, 5)[g] + rng.normal(0, 0.5, 200)[h]
    columns = {"g": np.char.mod("g%d", g), "h": np.char.mod("h%03d", h), "x": x, "shard": rng.integers(0, 3, 6000)}
    return cells_of(columns, rng.random(6000) < 1 / (1 + np.exp(-logit)))


def fit(cells, **options):
    return in_memory.fit(cells, FORMULA, shards=cells["shard"], num_draws=5, **options)


@pytest.fixture(scope="module")
def run(cells):
    return fit(cells, tolerance=1e-4)


def step(run, state):
    return rounds.step(run.hierarchy, state, run.restrictions, run.sites)


def test_a_far_round_takes_the_scales_at_their_mode_and_a_near_one_integrates_over_them(run):
    far, info = step(run, rounds.init(run.hierarchy))
    assert info.move > rounds.FAR
    at_mode = combiner.conditional_moments(run.hierarchy, run.natural, far.psi)
    assert not far.is_integrated
    near, info = step(run, far)
    assert info.move <= rounds.FAR
    assert near.is_integrated
    integrated = combiner.moments(run.hierarchy, run.natural, scale_proposal.around(run.hierarchy, run.natural, near.psi))
    for state, expected in ((far, at_mode), (near, integrated)):
        np.testing.assert_array_equal(state.moments.mean, expected.mean)
        np.testing.assert_array_equal(state.moments.covariance, expected.covariance)
    diagonal = run.hierarchy.model.tree.diagonal
    wider = near.moments.covariance[diagonal] / far.moments.covariance[diagonal]
    assert wider.max() > 1.1, "or the test could not tell one from the other"


def test_the_anchor_of_a_shard_is_its_part_of_the_whole(run):
    whole = rounds.init(run.hierarchy).moments
    assert whole.mean.any()
    for restriction in run.restrictions:
        for part, expected in zip(rounds.anchor(run.hierarchy, restriction), rounds.part_of(whole, restriction), strict=True):
            np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("change", [{"is_integrated": True}, {"move": 1.5}], ids=["integrated before", "moved less before"])
def test_there_is_no_way_back_and_no_short_cut_for_rounds_that_move_further(run, change):
    state, info = step(run, rounds.init(run.hierarchy)._replace(**change))
    assert info.move > rounds.FAR
    assert state.is_integrated
    proposal = scale_proposal.around(run.hierarchy, run.natural, state.psi)
    np.testing.assert_array_equal(state.moments.mean, combiner.moments(run.hierarchy, run.natural, proposal).mean)


def test_rounds_end_where_scales_at_their_mode_and_integrated_out_are_far_apart():
    """More than 1 sd here: with a way back the rounds went to and fro, 0.44 and 1.28 sd, to the last one allowed."""
    problem = family_problems.make("monotonic")
    assert len(families.fit(problem, "vi", "by state").moves) <= 5


def test_short_cuts_on_the_way_change_nothing_at_the_end(run, cells, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(combiner, "moments", lambda hierarchy, natural, proposal, **_: combiner.conditional_moments(hierarchy, natural, proposal.mode))
        sites = fit(cells, tolerance=1e-4).sites
    always_at_mode = in_memory.merge(run, sites)
    monkeypatch.setattr(rounds, "FAR", np.inf)
    always_integrated = fit(cells, tolerance=1e-4)
    sd = np.sqrt(run.moments.covariance[run.hierarchy.model.tree.diagonal])

    def off(other):
        return np.abs((other.moments.mean - run.moments.mean) / sd).max()

    assert off(always_integrated) < 1e-4
    assert off(always_at_mode) > 1e-3, "the broken twin, whose sites never see the spread of the scales"


def test_the_mode_of_the_scales_is_found_in_few_evaluations(run, monkeypatch):
    hierarchy, count = run.hierarchy, 0
    density = scale_marginal.value_and_gradient

    def counted(*arguments):
        nonlocal count
        count += 1
        return density(*arguments)

    def negative(psi):
        return -scale_marginal.log_density(hierarchy, run.natural, psi)

    expected = optimize.minimize(negative, run.proposal.mode + 0.5, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-9}).x
    monkeypatch.setattr(scale_marginal, "value_and_gradient", counted)
    for far in (-0.5, 0.5):
        count = 0
        found = scale_proposal.find_mode(hierarchy, run.natural, expected + far)
        assert np.abs(np.linalg.solve(run.proposal.axes, found - expected)).max() < 0.01
        assert count <= 9, "10 in units of psi"


def test_the_proposal_has_the_curvature_and_the_widths_of_the_marginal_on_any_number_of_threads(run):
    mode, size, h = run.proposal.mode, run.hierarchy.size, 1e-2

    def density(psi):
        return scale_marginal.log_density(run.hierarchy, run.natural, psi)

    found = scale_proposal.around(run.hierarchy, run.natural, mode, threads=3)
    for part, alone in zip(found, scale_proposal.around(run.hierarchy, run.natural, mode), strict=True):
        np.testing.assert_array_equal(part, alone)
    e = h * np.eye(size)
    hessian = [[density(mode + a + b) - density(mode + a - b) - density(mode - a + b) + density(mode - a - b) for a in e] for b in e]
    np.testing.assert_allclose(np.linalg.inv(found.axes @ found.axes.T), -np.array(hessian) / (4 * h**2), rtol=0.01, atol=0.05)
    for side, sign in enumerate((1.0, -1.0)):
        for i in range(size):
            drop = density(mode) - density(mode + sign * np.sqrt(2.0) * found.axes[:, i])
            np.testing.assert_allclose(found.widths[side, i], np.clip(drop**-0.5, 0.5, 3.0), rtol=1e-9)
    assert np.abs(found.widths[0] / found.widths[1] - 1).max() > 0.02, "or sides could be exchanged unseen"
