"""The root without a shard, against the same by dense algebra; shards that share branches, and trees without any."""

import numpy as np
import pytest

from fitting import in_memory, root
from fitting import tree as tr


@pytest.fixture(scope="module", params=["y ~ 1 + x + (1 | s/c/p) + (1 | r) + (1 | s:r)", "y ~ 1 + x"])
def parts(request):
    """Five shards: two of one state, one that has parts of three states."""
    rng = np.random.default_rng(0)
    p = rng.integers(0, 40, 500)
    c, r, x = p // 3, rng.integers(0, 3, 500), rng.integers(0, 2, 500).astype(float)
    s = c // 4
    shard = np.where(s == 0, p % 2, np.where(rng.random(500) < 0.2, 4, 2 + (s > 1)))
    columns = {n: np.array([f"{n}{i:02d}" for i in v]) for n, v in (("s", s), ("c", c), ("p", p), ("r", r))}
    cells = {**columns, "x": x, "num_trials": np.ones(500), "num_successes": (rng.random(500) < 0.4).astype(float)}
    return in_memory.fit(cells, request.param, shards=shard, num_draws=5, num_chains=1, num_rounds=2)


def dense_root(run, precision, shift, psi):
    tree = run.hierarchy.model.tree
    precision, shift, _ = run.hierarchy.add_prior(psi, precision, shift)
    size = tree.block_sizes[0]
    covariance = np.linalg.inv(tr.dense(tree, precision))
    return covariance[:size, :size], (covariance @ shift)[:size]


def test_root_with_without_and_alone(parts):
    run, psi = parts, parts.proposal.mode
    roots = root.Roots(run.hierarchy, run.natural.precision, run.natural.shift, psi)
    for restriction, site in zip(run.restrictions, run.sites, strict=True):
        own = np.zeros_like(run.natural.precision), np.zeros_like(run.natural.shift)
        own[0][restriction.entries], own[1][restriction.coefficients] = site.precision, site.shift
        for found, entries, shift in (
            (roots.without(restriction, site.precision, site.shift), run.natural.precision - own[0], run.natural.shift - own[1]),
            (roots.alone(restriction, site.precision, site.shift), *own),
            (roots.whole, run.natural.precision, run.natural.shift),
            (roots.prior, 0 * own[0], 0 * own[1]),
        ):  # fmt: skip
            covariance, mean = dense_root(run, entries, shift, psi)
            np.testing.assert_allclose(found.root @ found.root.T, covariance, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(found.root @ found.solved, mean, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(np.linalg.solve(found.precision, found.shift), mean, rtol=1e-7, atol=1e-9)


def test_branches_are_whole(parts):
    tree = parts.hierarchy.model.tree
    for restriction in parts.restrictions:
        part = root.branches(tree, restriction)
        assert set(restriction.coefficients) <= set(part.coefficients)
        assert np.all(np.diff(part.entries) > 0)
        if tree.num_levels:
            assert part.tree.num_nodes[1] == restriction.tree.num_nodes[1]


def test_a_site_larger_than_the_whole_leaves_no_distribution(parts):
    roots = root.Roots(parts.hierarchy, parts.natural.precision, parts.natural.shift, parts.proposal.mode)
    restriction, site = parts.restrictions[0], parts.sites[0]
    with pytest.raises(np.linalg.LinAlgError):
        roots.without(restriction, 1e6 * site.precision, site.shift)
