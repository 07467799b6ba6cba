"""Tree algebra against dense linear algebra."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitting import descendants
from fitting import tree as tr


def random_tree(rng, depth, block_sizes=None):
    nodes, parents = 1, []
    sizes = [int(rng.integers(1, 5)) for _ in range(depth + 1)] if block_sizes is None else block_sizes
    for _ in range(depth):
        count = int(rng.integers(1, 6)) * nodes
        parents.append(np.sort(rng.integers(0, nodes, count)))
        nodes = count
    return tr.Tree(tuple(sizes), tuple(parents))


def random_precision(rng, tree, rows=200):
    """Sum of outer products along random paths, plus a diagonal: what sites and priors add up to."""
    matrix = np.diag(rng.uniform(0.5, 2.0, tree.num_coefficients))
    for _ in range(rows):
        level = int(rng.integers(0, tree.num_levels + 1))
        path = tr.path_coefficients(tree, level, int(rng.integers(0, tree.num_nodes[level])))
        z = rng.normal(size=len(path))
        matrix[np.ix_(path, path)] += np.outer(z, z)
    return matrix


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    depth=st.integers(0, 3),
    num_vectors=st.sampled_from([1, 3]),
    few_rows=st.sampled_from([0, descendants.FEW_ROWS]),
    nodes_at_once=st.sampled_from([2, descendants.NODES_AT_ONCE]),
)
def test_algebra_equals_dense(seed, depth, num_vectors, few_rows, nodes_at_once):
    """Whichever way sums over descendants are taken, by how many of them a node has."""
    with mock.patch.multiple(descendants, FEW_ROWS=few_rows, NODES_AT_ONCE=nodes_at_once):
        require_dense_algebra(np.random.default_rng(seed), depth, num_vectors)


def require_dense_algebra(rng, depth, num_vectors):
    tree = random_tree(rng, depth)
    matrix = random_precision(rng, tree)
    entries = tr.from_dense(tree, matrix)
    np.testing.assert_allclose(tr.dense(tree, entries), matrix)

    factor = tr.cholesky(tree, entries)
    shift = rng.normal(size=(tree.num_coefficients, num_vectors))
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(factor.log_determinant, np.linalg.slogdet(matrix)[1], rtol=1e-10)
    np.testing.assert_allclose(tr.solve(tree, factor, shift), inverse @ shift, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(tr.multiply(tree, entries, shift), matrix @ shift, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        tr.quadratic_form(tree, entries, shift), np.einsum("im,ij,jm->m", shift, matrix, shift), rtol=1e-9
    )
    np.testing.assert_allclose(tr.outer(tree, shift), tr.from_dense(tree, shift @ shift.T), rtol=1e-12, atol=1e-12)
    covariance = tr.covariance(tree, factor)
    np.testing.assert_allclose(covariance, tr.from_dense(tree, inverse), rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(tr.precision_from_covariance(tree, covariance), entries, rtol=1e-5, atol=1e-7)


def test_backward_gives_the_covariance():
    rng = np.random.default_rng(3)
    tree = random_tree(rng, 2)
    matrix = random_precision(rng, tree)
    factor = tr.cholesky(tree, tr.from_dense(tree, matrix))
    root = tr.backward(tree, factor, np.eye(tree.num_coefficients))
    np.testing.assert_allclose(root @ root.T, np.linalg.inv(matrix), rtol=1e-8, atol=1e-10)


def test_restriction_adds_up_to_the_whole():
    rng = np.random.default_rng(4)
    tree = random_tree(rng, 2, block_sizes=[3, 2, 1])
    leaf = np.array([1, 3])
    kept = [np.unique(tree.parents[1][leaf]), leaf]
    part = tree.restrict(kept)
    matrix = random_precision(rng, part.tree, rows=30)
    whole = np.zeros(tree.num_entries)
    whole[part.entries] = tr.from_dense(part.tree, matrix)
    np.testing.assert_allclose(tr.dense(tree, whole)[np.ix_(part.coefficients, part.coefficients)], matrix)


@pytest.mark.parametrize("size", [255, 256, 65_535, 65_536])
def test_every_coefficient_of_a_part_has_a_number_of_its_own_and_the_others_none(size):
    """Also where one byte, or two, are just enough: 255 and 65,535 say that a coefficient is not there."""
    tree = tr.Tree((1, 1), (np.zeros(size + 9, dtype=int),))
    part = tree.restrict([np.arange(5, size + 4)])
    numbers = part.numbers(tree.num_coefficients)
    np.testing.assert_array_equal(numbers[part.coefficients], np.arange(size))
    assert (np.delete(numbers, part.coefficients) == size).all()


def test_marginal_of_a_subtree_is_the_projection_of_its_covariances():
    """Marginalising the other nodes out leaves a Gaussian of the subtree: natural parameters from its covariances alone."""
    rng = np.random.default_rng(5)
    tree = random_tree(rng, 2, block_sizes=[3, 2, 2])
    matrix = random_precision(rng, tree)
    leaf = np.array([0, 2])
    part = tree.restrict([np.unique(tree.parents[1][leaf]), leaf])
    covariance = tr.covariance(tree, tr.cholesky(tree, tr.from_dense(tree, matrix)))
    expected = np.linalg.inv(np.linalg.inv(matrix)[np.ix_(part.coefficients, part.coefficients)])
    got = tr.dense(part.tree, tr.precision_from_covariance(part.tree, covariance[part.entries]))
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-9)


def test_indefinite_precision_is_refused():
    tree = tr.Tree((2, 1), (np.zeros(3, dtype=int),))
    matrix = np.eye(5)
    matrix[4, 4] = -1.0
    with pytest.raises(np.linalg.LinAlgError):
        tr.cholesky(tree, tr.from_dense(tree, matrix))


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_jax_agrees_with_numpy(depth):
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(depth)
    tree = random_tree(rng, depth)
    entries = tr.from_dense(tree, random_precision(rng, tree))
    shift = rng.normal(size=(tree.num_coefficients, 2))
    with jax.enable_x64(True):
        factor = tr.cholesky(tree, jnp.asarray(entries), jnp)
        solved = tr.solve(tree, factor, jnp.asarray(shift), jnp)
    expected = tr.cholesky(tree, entries)
    np.testing.assert_allclose(factor.log_determinant, expected.log_determinant, rtol=1e-12)
    np.testing.assert_allclose(solved, tr.solve(tree, expected, shift), rtol=1e-9, atol=1e-12)
