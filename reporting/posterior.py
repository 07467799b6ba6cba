"""Posterior draws as one ArviZ-readable netCDF file, byte for byte the same for the same draws.

A file holds the group ``posterior`` and, where given, ``sample_stats``, both with the dimensions ``chain`` and ``draw``
in front, as ArviZ expects. Names follow bambi and lme4 (``Intercept``, ``1|state``, ``sd(1|state)``); a factor with
thousands of levels is one array with one labelled dimension. No time of writing is stored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from reporting import draws_file
from reporting.draws_file import SAMPLE_DIMS, Declared, check_names, unreadable
from reporting.errors import DrawsError


class Variable(NamedTuple):
    """Draws of one named quantity.

    ``values`` has the shape (chain, draw, *shape); ``dims`` names the dimensions of ``shape`` only, so it is empty
    for a scalar.
    """

    dims: tuple[str, ...]
    values: np.ndarray


def write_posterior(
    draws: Mapping[str, Variable],
    coords: Mapping[str, Sequence[str]],
    attrs: Mapping[str, str | int | float],
    sample_stats: Mapping[str, Variable] | None = None,
) -> bytes:
    """Return the netCDF file of ``draws``.

    Parameters
    ----------
    draws
        Name to draws; all share one (chain, draw) shape. Number types are kept (int8, float64, ...).
    coords
        Dimension to labels, in the order of the axis; every dimension in ``draws`` needs its labels.
    attrs
        Written to the root of the file beside the schema version. Leave out anything that changes between
        identical runs.
    sample_stats
        As ``draws``, for what describes the sampler rather than the model.

    Raises
    ------
    DrawsError
        A shape, name or label that does not fit.
    """
    num_chains, num_draws = check_draws(draws, coords)
    if sample_stats:
        check_draws(sample_stats, coords)
    groups = {"posterior": draws, "sample_stats": sample_stats or {}}
    declared = {
        group: {name: Declared(dims, values.dtype) for name, (dims, values) in members.items()}
        for group, members in groups.items()
    }
    content = io.BytesIO()
    with draws_file.writing(content, declared, coords, attrs, num_chains, num_draws) as file:
        for group, members in groups.items():
            for name, (_, values) in members.items():
                for chain in range(num_chains):
                    file.put(group, name, chain, 0, values[chain])
    return content.getvalue()


def read_posterior(source: str | Path | bytes, *, only_scalars: bool = False) -> xr.DataTree:
    """Return the tree of a file that :func:`write_posterior` made, wholly in memory; :mod:`reporting.draws_file` reads parts.

    ``source`` is a local path or the bytes of the file (for a run on an object store). ``only_scalars`` leaves out, unread,
    every variable with levels.

    Raises
    ------
    RunDirectoryError
        The file is missing, is not netCDF, or has no group ``posterior``.
    """
    where = "posterior (bytes)" if isinstance(source, bytes) else str(source)
    try:
        opened = xr.open_datatree(io.BytesIO(source) if isinstance(source, bytes) else source, engine="h5netcdf")
        with opened:
            tree = opened.map_over_datasets(_scalars) if only_scalars else opened
            tree = tree.load()
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(where, f"no readable netCDF ({type(error).__name__})", "posterior draws") from error
    if "posterior" not in tree.children:
        raise unreadable(where, f"groups {sorted(tree.children)}", "a group 'posterior'")
    return tree


def _scalars(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset without the variables, and their labels, that have levels."""
    return dataset.drop_dims([dim for dim in dataset.dims if dim not in SAMPLE_DIMS])


def variables(tree: xr.DataTree, group: str = "posterior") -> tuple[dict[str, Variable], dict[str, list[str]]]:
    """Return ``(draws, coords)`` of a group, as :func:`write_posterior` takes them."""
    dataset = tree[group].to_dataset()
    draws = {draws_file.true_name(str(name)): Variable(tuple(str(dim) for dim in array.dims[2:]), np.asarray(array.values))
             for name, array in dataset.data_vars.items()}
    coords = {str(dim): [str(label) for label in dataset[dim].values] for dim in dataset.dims if dim not in SAMPLE_DIMS}
    return draws, coords


def check_draws(draws: Mapping[str, Variable], coords: Mapping[str, Sequence[str]]) -> tuple[int, int]:
    """Return (num_chains, num_draws) shared by all ``draws``; :class:`DrawsError` where something does not fit."""
    if not draws:
        raise DrawsError("(none)", "no variables", "at least one", "Give the draws of the model's coefficients.")
    first = next(iter(draws))
    sample_shape = draws[first].values.shape[:2]
    check_names({name: dims for name, (dims, _) in draws.items()}, coords)
    for name, (dims, values) in draws.items():
        if values.ndim != len(dims) + 2 or values.shape[:2] != sample_shape:
            raise DrawsError(name, f"shape {values.shape} with dimensions {tuple(dims)}",
                             f"(chain, draw, {', '.join(dims)}) beginning with {sample_shape} as {first!r}",
                             "Give the array as (chain, draw, *shape) and name the dimensions of shape only.")
        for dim, size in zip(dims, values.shape[2:], strict=True):
            if len(coords[dim]) != size:
                raise DrawsError(name, f"{len(coords[dim])} labels for dimension {dim!r}", f"{size} labels", "Pass them in `coords`.")
    return int(sample_shape[0]), int(sample_shape[1])
