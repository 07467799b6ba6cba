"""State, county, precinct: three nested levels against dense algebra, and draws and moments that hold little at a time."""

import numpy as np
import pytest
from scipy import stats

from fitting import audit, combiner, in_memory, scale_marginal, scale_proposal, verdict
from fitting import tree as tr
from fitting.coding import distinct
from fitting.errors import ImproperPosteriorError
from fitting.scale_source import Source

FORMULA = "y ~ 1 + x + (1 | state/county/precinct) + (1 | race) + (1 | state:race)"


def nation(family, size=600, seed=2):
    """People of 3 states, 8 counties and 30 precincts, unevenly, one row each: columns and outcome."""
    rng = np.random.default_rng(seed)
    precinct = np.sort(rng.choice(30, size=size, p=rng.dirichlet(np.full(30, 2.0))))
    county = precinct * 8 // 30
    state = county * 3 // 8
    race, x = rng.integers(0, 3, size), rng.integers(0, 2, size).astype(float)
    effects = [rng.normal(0, sd, n) for sd, n in ((0.5, 3), (0.4, 8), (0.6, 30), (0.3, 3))]
    eta = 0.3 + 0.5 * x + sum(e[i] for e, i in zip(effects, (state, county, precinct, race), strict=True))
    columns = {
        "state": np.array([f"s{i}" for i in state]), "county": np.array([f"c{i}" for i in county]),
        "precinct": np.array([f"p{i:02d}" for i in precinct]), "race": np.array([f"r{i}" for i in race]), "x": x,
    }  # fmt: skip
    outcome = rng.random(size) < 1 / (1 + np.exp(-eta)) if family == "binomial" else eta + rng.normal(size=size)
    return columns, outcome.astype(float)


@pytest.fixture(scope="module", params=["gaussian", "binomial"])
def fitted(request, cells_of):
    columns, outcome = nation(request.param)
    cells = cells_of(columns, outcome, request.param)
    run = in_memory.fit(
        cells, FORMULA, family=request.param, shards=cells["state"], num_draws=60, num_chains=2, method="laplace"
    )
    return run, columns, outcome, request.param


def dense_design(run, columns):
    """Design matrix of the rows with the coefficients in the tree's order, by their names alone."""
    design = np.zeros((len(columns["x"]), run.hierarchy.model.tree.num_coefficients))
    for j, name in enumerate(run.hierarchy.model.coefficient_names().tolist()):
        if name == "Intercept":
            design[:, j] = 1.0
        elif name == "x":
            design[:, j] = columns["x"]
        elif name:
            term, level = name[2:-1].split("[")
            design[:, j] = [
                ":".join(parts) == level for parts in zip(*(columns[c] for c in term.split(":")), strict=True)
            ]
    return design


def dense_prior(run, psi):
    """Prior precision (D,) of a diagonal prior, from the scales' names."""
    sd = dict(zip(run.hierarchy.names(), np.exp(psi), strict=True))
    precision = np.ones(run.hierarchy.model.tree.num_coefficients)
    precision[run.hierarchy.fixed_places] = run.hierarchy.fixed_precision
    for j, block in enumerate(run.hierarchy.model.block_names().tolist()):
        if "|" in block:
            precision[j] = sd[f"sd({block})"] ** -2.0
    return precision


def dense_likelihood(run, columns, outcome, family, mean, sigma):
    """Precision and shift of the likelihood: exact for a normal outcome, Newton's at ``mean`` for a binary one."""
    design = dense_design(run, columns)
    if family == "gaussian":
        return design.T @ design / sigma**2, design.T @ outcome / sigma**2
    eta = design @ mean
    p = 1 / (1 + np.exp(-eta))
    weight = p * (1 - p)
    return design.T @ (weight[:, None] * design), design.T @ (outcome - p + weight * eta)


def test_three_levels_are_three_levels_of_the_tree(fitted):
    run, _, _, _ = fitted
    model = run.hierarchy.model
    assert model.chain == (("state",), ("state", "county"), ("state", "county", "precinct"))
    assert model.tree.num_nodes == (1, 3, 8, 30)
    assert model.tree.block_sizes[-2:] == (1, 1)


def assert_posterior_is_dense(run, columns, outcome, family):
    rng, tree = np.random.default_rng(0), run.hierarchy.model.tree
    last = run.moments.mean  # the sites were made within a move of 0.01 sds of these means
    logs = []
    for _ in range(3):
        psi = run.proposal.mode + 0.4 * rng.normal(size=run.hierarchy.size)
        sigma = float(run.hierarchy.residual_sd(psi))
        likelihood, shift = dense_likelihood(run, columns, outcome, family, last, sigma)
        prior = dense_prior(run, psi)
        covariance = np.linalg.inv(likelihood + np.diag(prior))
        whole = shift.copy()
        whole[run.hierarchy.fixed_places] += run.hierarchy.fixed_precision * run.hierarchy.fixed_mean
        mean, sd = covariance @ whole, np.sqrt(np.diagonal(covariance))
        found = combiner.conditional_moments(run.hierarchy, run.natural, psi)
        np.testing.assert_allclose((found.mean - mean) / sd, 0.0, atol=2e-3)
        np.testing.assert_allclose(
            tr.dense(tree, found.covariance), tr.dense(tree, tr.from_dense(tree, covariance)), atol=2e-3 * sd.max() ** 2
        )
        evidence = 0.5 * (np.log(prior).sum() + np.linalg.slogdet(covariance)[1] + whole @ mean)
        if family == "gaussian":
            evidence -= len(outcome) * np.log(sigma) + 0.5 * np.sum(outcome**2) / sigma**2
        logs.append(scale_marginal.log_density(run.hierarchy, run.natural, psi) - evidence - run.hierarchy.log_prior(psi))
    np.testing.assert_allclose(logs, logs[0], atol=5e-3)


def test_posterior_given_scales_is_that_of_dense_algebra(fitted):
    assert_posterior_is_dense(*fitted)


def test_precincts_cut_off_from_their_counties_are_caught(fitted):
    run, columns, outcome, family = fitted
    tree, precision = run.hierarchy.model.tree, run.natural.precision.copy()
    deepest = precision[tree.entry_starts[3] : tree.entry_starts[4]].reshape(tree.num_nodes[3], -1)
    deepest[:, tree.widths[2] : tree.widths[3]] = 0.0
    broken = run._replace(natural=run.natural._replace(precision=precision))
    with pytest.raises((AssertionError, np.linalg.LinAlgError)):
        assert_posterior_is_dense(broken, columns, outcome, family)


def test_moments_taken_in_turn_are_those_of_all_points_together(fitted):
    run, _, _, _ = fitted
    hierarchy, natural, proposal = run.hierarchy, run.natural, run.proposal
    tree = hierarchy.model.tree
    uniforms = stats.qmc.Sobol(hierarchy.size, scramble=True, rng=np.random.default_rng(0)).random(32)
    points, log_q = scale_proposal.sample(proposal, uniforms)
    log_w = np.array([scale_marginal.log_density(hierarchy, natural, psi) for psi in points]) - log_q
    weights = np.exp(log_w - log_w.max())
    weights /= weights.sum()
    given = [combiner.conditional_moments(hierarchy, natural, psi) for psi in points]
    mean = sum(w * g.mean for w, g in zip(weights, given, strict=True))
    second = sum(
        w * (tr.dense(tree, g.covariance) + np.outer(g.mean, g.mean)) for w, g in zip(weights, given, strict=True)
    )
    found = combiner.moments(hierarchy, natural, proposal, threads=2)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        found.covariance, tr.from_dense(tree, second - np.outer(mean, mean)), rtol=1e-9, atol=1e-10
    )
    np.testing.assert_array_equal(found.covariance, combiner.moments(hierarchy, natural, proposal).covariance)


@pytest.mark.parametrize("num_impossible", [0, 3, 9])
def test_draws_in_turn_hold_few_at_a_time(fitted, monkeypatch, num_impossible):
    """Also where the first proposals are impossible: the mean weight is taken from the others."""
    run, _, _, _ = fitted
    calls, made, impossible = [], [], set()
    given = combiner._draw_given

    def watched(hierarchy, sites, psi, seed, score_variance, copies):
        calls.append(seed)
        if len(calls) <= num_impossible:
            impossible.add(tuple(psi))
        if tuple(psi) in impossible:
            made.append(0)
            raise np.linalg.LinAlgError
        result = given(hierarchy, sites, psi, seed, score_variance, copies)
        made.append(len(result[1]))
        return result

    monkeypatch.setattr(combiner, "_draw_given", watched)
    options = {"num_draws": 40, "seed": 4, "warmup": 5}
    source = Source(run.hierarchy, run.natural, run.proposal, num_draws=40, seed=4)
    in_turn = combiner.draw_in_turn(run.hierarchy, run.natural, source, chain=0, warmup=5)
    first = next(in_turn)
    # a whole warm-up for the mean weight (again while nothing in it is possible), then proposals one at a time
    warmups = 5 * (1 + num_impossible // 5)
    copies = [number for number, kept in enumerate(made) if kept]
    assert len(calls) == copies[0] + 1 > warmups
    assert not any(made[:warmups])
    rest = list(in_turn)
    together = combiner.draw(run.hierarchy, run.natural, run.proposal, num_chains=1, threads=3, **options)
    np.testing.assert_array_equal(together.theta[0], [first.theta, *(one.theta for one in rest)])
    np.testing.assert_array_equal(together.psi[0], [first.psi, *(one.psi for one in rest)])
    psi = together.psi[0]
    assert first.moved
    assert [one.moved for one in rest] == (psi[1:] != psi[:-1]).any(axis=1).tolist()
    assert len({one.theta[0] for one in (first, *rest)}) == 40  # drawn anew where psi is the same
    assert not impossible & {tuple(p) for p in psi}


def test_no_possible_proposal_is_an_error(fitted):
    run, _, _, _ = fitted
    broken = run.natural._replace(precision=-1e6 * np.abs(run.natural.precision))
    with pytest.raises(ImproperPosteriorError):
        combiner.draw(run.hierarchy, broken, run.proposal, num_draws=5, num_chains=1, seed=0)


def test_stored_draws_are_judged_as_draws_in_memory(fitted, monkeypatch):
    """The audit takes draws a few rows or columns at a time, from wherever they are."""
    run, _, _, _ = fitted

    class Stored:
        def __init__(self, values):
            self.values, self.shape, self.largest = values, values.shape, 0

        def __getitem__(self, key):
            part = self.values[key]
            self.largest = max(self.largest, part.size)
            return part

    flat = run.draws.theta.reshape(-1, run.draws.theta.shape[-1])
    stored, rng = Stored(flat), np.random.default_rng(1)
    log_ratio = 0.3 * rng.normal(size=len(flat))
    whole = audit.importance(log_ratio, flat)
    monkeypatch.setattr(audit, "COEFFICIENTS_AT_ONCE", 7)
    for a, b in zip(audit.importance(log_ratio, stored), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
    assert stored.largest <= 7 * len(flat)
    psi = run.draws.psi.reshape(len(flat), -1)
    together = verdict._log_sites(run.hierarchy, run.natural, flat, psi)
    monkeypatch.setattr(verdict, "DRAW_CHUNK", 11)
    np.testing.assert_allclose(verdict._log_sites(run.hierarchy, run.natural, stored, psi), together, rtol=1e-9)


def test_distinct_combinations_are_sorted_and_numbered():
    codes = np.random.default_rng(0).integers(0, [4, 3, 5], size=(200, 3))
    kinds, which = distinct(codes, (4, 3, 5))
    expected, place = np.unique(codes, axis=0, return_inverse=True)
    np.testing.assert_array_equal(kinds, expected)
    np.testing.assert_array_equal(which, place.ravel())
