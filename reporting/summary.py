"""Summary of posterior draws: one row per parameter, with the Monte Carlo error of its mean.

Mean, sd and quantiles are over all draws of all chains. ``mcse_mean``, ``ess_bulk`` and ``r_hat`` are those of ArviZ
(Vehtari et al. 2021, "Rank-normalization, folding, and localization", Bayesian Analysis 16), computed for a block of
parameters at once (:mod:`reporting.convergence`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from reporting import convergence
from reporting.errors import DrawsError
from reporting.posterior import Variable, check_draws

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
MIN_DRAWS = 4
PARAMETERS_PER_BLOCK = 1000  # bounds memory: 1,000 parameters x 1,000 draws are 8 MB per working array

SCHEMA = pa.schema(
    [("variable", pa.string()), ("level", pa.string()), ("parameter", pa.string())]
    + [(name, pa.float64()) for name in ("mean", "sd", *QUANTILES, "mcse_mean", "ess_bulk", "r_hat")]
    + [("unit", pa.string())]
)


def summarise(
    draws: Mapping[str, Variable], coords: Mapping[str, Sequence[str]], units: Mapping[str, str] | None = None
) -> pa.Table:
    """Return one row per parameter, in the order of ``draws`` and of their labels.

    ``level`` is null for a scalar, and joins the labels with ``,`` for a variable with several dimensions;
    ``parameter`` is the full name, ``1|state[OH]``. ``units`` gives the unit of a variable ("log odds"); null without.
    ``r_hat`` is null with one chain and for a parameter that never moves.

    Raises
    ------
    DrawsError
        Shapes or labels that do not fit, fewer than four draws per chain, or values that are not finite.
    """
    check_draws(draws, coords)
    blocks = [_variable_table(name, variable, coords, (units or {}).get(name)) for name, variable in draws.items()]
    return pa.concat_tables(blocks).combine_chunks()


def moments(
    name: str, values: np.ndarray, quantiles: Mapping[str, float] = QUANTILES
) -> dict[str, np.ndarray]:
    """Return the numeric columns of :data:`SCHEMA` for ``values`` of shape (chain, draw, parameter).

    ``values`` is an array, or a variable of a file (:mod:`reporting.draws_file`), which is read a block at a time.

    ``quantiles`` maps the name of a column to its probability.

    Raises
    ------
    DrawsError
        Fewer than four draws per chain, or values that are not finite; ``name`` says whose.
    """
    if values.shape[1] < MIN_DRAWS:
        raise DrawsError(name, f"{values.shape[1]} draws per chain", f"at least {MIN_DRAWS}", "Draw more.")
    blocks = []
    for block in _blocks(values):
        if not np.isfinite(block).all():
            count = int((~np.isfinite(block)).sum())
            raise DrawsError(name, f"{count} values that are not finite", "finite draws", "Look at the audit of this run.")
        blocks.append(_block_moments(np.asarray(block, dtype=float), quantiles))
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, max(values.shape[2], 1), PARAMETERS_PER_BLOCK):  # the one place that reads draws from a file
        yield np.ascontiguousarray(np.moveaxis(values[..., start : start + PARAMETERS_PER_BLOCK], -1, 0))


def _block_moments(values: np.ndarray, quantiles: Mapping[str, float]) -> dict[str, np.ndarray]:
    """``values`` has the shape (parameter, chain, draw)."""
    num_parameters, num_chains, num_draws = values.shape
    pooled = values.reshape(num_parameters, num_chains * num_draws)
    split = convergence.split_chains(values)
    moves = np.ptp(pooled, axis=1) > 0
    ess_bulk = np.full(num_parameters, float(pooled.shape[1]))
    mcse = np.zeros(num_parameters)
    r_hat = np.full(num_parameters, np.nan)
    sd = pooled.std(axis=1, ddof=1)
    if moves.any():
        some = split[moves]
        scores = convergence.rank_normalise(some)
        ess_bulk[moves] = convergence.effective_size(scores)
        mcse[moves] = sd[moves] / np.sqrt(convergence.effective_size(some))
        if num_chains > 1:
            folded = np.abs(some - np.median(some, axis=(1, 2), keepdims=True))
            tails = convergence.r_hat(convergence.rank_normalise(folded))
            r_hat[moves] = np.maximum(convergence.r_hat(scores), tails)
    points = np.quantile(pooled, list(quantiles.values()), axis=1)
    return {"mean": pooled.mean(axis=1), "sd": sd,
            **dict(zip(quantiles, points, strict=True)), "mcse_mean": mcse, "ess_bulk": ess_bulk, "r_hat": r_hat}


def _variable_table(name: str, variable: Variable, coords: Mapping[str, Sequence[str]], unit: str | None) -> pa.Table:
    levels: list[str | None] = [None]
    parameters = [name]
    if variable.dims:
        joined = [",".join(map(str, labels)) for labels in itertools.product(*(coords[dim] for dim in variable.dims))]
        levels, parameters = list(joined), [f"{name}[{level}]" for level in joined]
    values = variable.values
    if len(variable.dims) != 1:
        values = np.asarray(values[...]).reshape(*values.shape[:2], len(levels))
    columns = moments(name, values)
    text = {"variable": [name] * len(levels), "level": levels, "parameter": parameters, "unit": [unit] * len(levels)}
    numbers = {key: pa.array(column, pa.float64(), mask=np.isnan(column)) for key, column in columns.items()}
    return pa.table({**text, **numbers}).select(SCHEMA.names).cast(SCHEMA)
