"""Cells in blocks: value and gradient against the same sum in one piece, for every family, whatever the block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting import cell_blocks, families
from fitting.cell_design import CellDesign

NUM_COEFFICIENTS = 7
FAMILIES = {
    name: families.make(name, None, tuple("abc") if name in ("categorical", "ordinal") else ())
    for name in families.FAMILIES
    if name not in (*families.ALIASES, "gaussian")  # its sites are in closed form
}


def make_cells(family, num_cells, seed=0):
    """A design of two nonzeros for each linear predictor, outcomes that every family can have, and offsets."""
    rng = np.random.default_rng(seed)
    predictors = tuple(np.repeat(np.arange(family.num_predictors), 2).tolist())
    places = tuple(rng.integers(0, NUM_COEFFICIENTS, num_cells) for _ in predictors)
    values = tuple(rng.normal(size=num_cells) if k % 2 else None for k in range(len(predictors)))
    trials = rng.integers(1, 9, num_cells).astype(float)
    counts = rng.multinomial(trials.astype(int), np.full(3, 1 / 3)).T.astype(float)
    statistics = {name: counts[k % 3] for k, name in enumerate(family.statistics)}
    statistics |= {name: trials for name in ("num_trials", "trials", "exposure", "sum_exposure") if name in statistics}
    return CellDesign(places, values, predictors, statistics), 0.3 * rng.normal(size=(family.num_predictors, num_cells))


def in_one_piece(family, design, offset, theta):
    eta = [jnp.asarray(row) for row in offset]
    for place, value, p in zip(design.places, design.values, design.predictors, strict=True):
        eta[p] = eta[p] + (1.0 if value is None else value) * theta[place]
    return families.log_likelihood(family, design.statistics, jnp.stack(eta), xp=jnp).sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_value_and_gradient_are_those_of_the_cells_in_one_piece(name):
    family = FAMILIES[name]
    theta = 0.3 * np.random.default_rng(1).normal(size=(2, NUM_COEFFICIENTS))
    with jax.enable_x64(True):
        for num_cells, block in ((8, 8), (50, 16)):
            design, offset = make_cells(family, num_cells)
            cells = jax.tree.map(jnp.asarray, cell_blocks.cut(design, np.arange(NUM_COEFFICIENTS), offset, block))
            found = jax.vmap(jax.value_and_grad(lambda t, cells=cells: 3.0 * cell_blocks.total(family, cells, t)))(theta)
            expected = jax.vmap(
                jax.value_and_grad(lambda t, d=design, o=offset: 3.0 * in_one_piece(family, d, o, t))
            )(jnp.asarray(theta))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), found, expected)


def test_a_block_that_is_not_filled_is_not_looked_at():
    design, offset = make_cells(families.BINOMIAL, 20)
    cells = cell_blocks.cut(design, np.arange(NUM_COEFFICIENTS), offset, 8)
    assert cells.num_filled == 3
    cells.offset[3:] = np.nan
    with jax.enable_x64(True):
        theta = jnp.zeros(NUM_COEFFICIENTS)
        for num_filled, is_looked_at in ((3, False), (4, True)):
            told = jax.tree.map(jnp.asarray, cells._replace(num_filled=np.int32(num_filled)))
            assert np.isnan(cell_blocks.total(families.BINOMIAL, told, theta)) == is_looked_at


def test_shapes_are_few():
    shapes = set()
    for num_cells in (1, 300, 5_000, 16_384, 16_385, 30_000):
        design, offset = make_cells(families.BINOMIAL, num_cells)
        cells = cell_blocks.cut(design, np.arange(NUM_COEFFICIENTS), offset)
        assert cells.num_filled * cells.value.shape[-1] >= num_cells
        shapes.add(cells.value.shape)
    assert shapes == {(64, 2, 256), (128, 2, 256)}
