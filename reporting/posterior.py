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

from reporting.errors import DrawsError, RunDirectoryError

SCHEMA_VERSION = 1
SAMPLE_DIMS = ("chain", "draw")


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
    datasets = {"posterior": _dataset(draws, coords)}
    if sample_stats:
        datasets["sample_stats"] = _dataset(sample_stats, coords)
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs = {"schema_version": SCHEMA_VERSION, "creation_library": "caucus", **attrs}
    encoding = {f"/{group}": {str(name): {"_FillValue": None} for name in dataset.variables}
                for group, dataset in datasets.items()}
    return bytes(tree.to_netcdf(engine="h5netcdf", encoding=encoding))


def read_posterior(source: str | Path | bytes) -> xr.DataTree:
    """Return the tree of a file that :func:`write_posterior` made, wholly in memory.

    ``source`` is a local path or the bytes of the file (for a run on an object store).

    Raises
    ------
    RunDirectoryError
        The file is missing, is not netCDF, or has no group ``posterior``.
    """
    where = "posterior (bytes)" if isinstance(source, bytes) else str(source)
    do = "Run the merge again, or restore the file."
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        with xr.open_datatree(io.BytesIO(content), engine="h5netcdf") as opened:
            tree = opened.load()
    except (OSError, ValueError, KeyError) as error:
        raise RunDirectoryError(where, f"no readable netCDF ({type(error).__name__})", "posterior draws", do) from error
    if "posterior" not in tree.children:
        raise RunDirectoryError(where, f"groups {sorted(tree.children)}", "a group 'posterior'", do)
    return tree


def variables(tree: xr.DataTree, group: str = "posterior") -> tuple[dict[str, Variable], dict[str, list[str]]]:
    """Return ``(draws, coords)`` of a group, as :func:`write_posterior` takes them."""
    dataset = tree[group].to_dataset()
    draws = {str(name): Variable(tuple(str(dim) for dim in array.dims[2:]), np.asarray(array.values))
             for name, array in dataset.data_vars.items()}
    coords = {str(dim): [str(label) for label in dataset[dim].values] for dim in dataset.dims if dim not in SAMPLE_DIMS}
    return draws, coords


def check_draws(draws: Mapping[str, Variable], coords: Mapping[str, Sequence[str]]) -> tuple[int, int]:
    """Return (num_chains, num_draws) shared by all ``draws``; :class:`DrawsError` where something does not fit."""
    if not draws:
        raise DrawsError("(none)", "no variables", "at least one", "Give the draws of the model's coefficients.")
    first = next(iter(draws))
    sample_shape = draws[first].values.shape[:2]
    for name, (dims, values) in draws.items():
        if "/" in name or name in {"", "."} or name in coords or name in SAMPLE_DIMS:
            raise DrawsError(name, "a name that netCDF or a dimension already uses", "a name of its own without '/'",
                             "Rename the variable, or give its dimension another name (bambi writes `race_dim`).")
        if values.ndim != len(dims) + 2 or values.shape[:2] != sample_shape:
            raise DrawsError(name, f"shape {values.shape} with dimensions {tuple(dims)}",
                             f"(chain, draw, {', '.join(dims)}) beginning with {sample_shape} as {first!r}",
                             "Give the array as (chain, draw, *shape) and name the dimensions of shape only.")
        for dim, size in zip(dims, values.shape[2:], strict=True):
            if dim not in coords or len(coords[dim]) != size:
                found = f"{len(coords[dim])} labels" if dim in coords else "no labels"
                raise DrawsError(name, f"{found} for dimension {dim!r}", f"{size} labels", "Pass them in `coords`.")
    return int(sample_shape[0]), int(sample_shape[1])


def _dataset(draws: Mapping[str, Variable], coords: Mapping[str, Sequence[str]]) -> xr.Dataset:
    num_chains, num_draws = check_draws(draws, coords)
    used = {dim for variable in draws.values() for dim in variable.dims}
    labels = {dim: (dim, np.array([str(x) for x in coords[dim]], dtype=object)) for dim in coords if dim in used}
    arrays = {name: ((*SAMPLE_DIMS, *dims), values) for name, (dims, values) in draws.items()}
    samples = {"chain": np.arange(num_chains), "draw": np.arange(num_draws)}
    return xr.Dataset(arrays, coords={**samples, **labels})
