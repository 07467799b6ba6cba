"""Posterior draws in parts: a netCDF file written and read a few draws, or a few levels, at a time.

The file is the one of :mod:`reporting.posterior`, which has whole variables. A name that cannot be a variable's in netCDF (``educ[HS/GED]``,
``draw``) is percent-encoded there, and is in the attribute ``long_name``. Here nothing is held but the part at hand, so
that a factor of 170,000 levels costs no memory (1,000 draws of them are 1.4 GB). The same draws give the same bytes, however
they were cut into parts. h5netcdf declares the file; h5py moves the draws, with a hundredth of the overhead of a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import unquote

import h5netcdf
import h5py
import numpy as np

from reporting import late_errors
from reporting.errors import DrawsError, RunDirectoryError
from reporting.late_errors import LateErrors

SCHEMA_VERSION = 1
SAMPLE_DIMS = ("chain", "draw")


class Declared(NamedTuple):
    """A variable before its draws: names of its dimensions after chain and draw, and its type."""

    dims: tuple[str, ...]
    dtype: np.dtype[Any]


class DrawsWriter:
    """An open file whose variables are declared and wait for their draws."""

    def __init__(self, file: h5py.File, target: LateErrors):
        self._file, self._target = file, target

    def put(self, group: str, name: str, chain: int, begin: int, values: np.ndarray) -> None:
        """Write draws ``begin``, ``begin + 1``, ... of one chain, shape (draws, *shape); `OSError` as of any file."""
        self._file[group][file_name(name)][chain, begin : begin + len(values)] = values
        self._target.raise_error()


class DrawsReader:
    """An open file. ``num_chains`` and ``num_draws`` are those of all its variables."""

    def __init__(self, file: h5py.File):
        self._file = file
        self.num_chains, self.num_draws = (len(file["posterior"][dim]) for dim in SAMPLE_DIMS)

    def variable(self, name: str, group: str = "posterior") -> h5py.Dataset:
        """Draws of one variable, (chain, draw, *shape): sliced like an array, and read only where sliced."""
        return self._file[group][file_name(name)]


def file_name(name: str) -> str:
    """What a variable is called in the file: its name, percent-encoded where netCDF would not take it or would mistake it."""
    if name in (*SAMPLE_DIMS, "."):
        return f"%{ord(name[0]):02X}{name[1:]}"
    return "".join(f"%{ord(c):02X}" if c in "%/" or ord(c) < ord(" ") else c for c in name)


def true_name(in_file: str) -> str:
    """The name that :func:`file_name` encoded."""
    return unquote(in_file) if "%" in in_file else in_file


def _printable(text: str) -> str:
    """HDF5 ends a text at a NUL; the sign for one does not."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}")


@contextmanager
def writing(
    target: str | Path | IO[bytes],
    groups: Mapping[str, Mapping[str, Declared]],
    coords: Mapping[str, Sequence[str]],
    attrs: Mapping[str, str | int | float],
    num_chains: int,
    num_draws: int,
) -> Iterator[DrawsWriter]:
    """Declare a whole file at ``target``, a path or a binary file, and give what its draws are put into.

    Parameters
    ----------
    groups
        Group to its variables; empty groups are left out.
    coords
        Dimension to labels, in the order of the axis; every dimension of a variable needs its labels.
    attrs
        Written to the root of the file beside the schema version.

    Raises
    ------
    OSError
        The disk is full, or the like.
    """
    check_names({name: v.dims for declared in groups.values() for name, v in declared.items()}, coords)
    with late_errors.opened(target) as opened:
        _declare(opened, groups, coords, attrs, num_chains, num_draws)
        opened.raise_error()
        with h5py.File(opened, "r+") as whole:
            yield DrawsWriter(whole, opened)


def _declare(
    target: LateErrors,
    groups: Mapping[str, Mapping[str, Declared]],
    coords: Mapping[str, Sequence[str]],
    attrs: Mapping[str, str | int | float],
    num_chains: int,
    num_draws: int,
) -> None:
    with h5netcdf.File(target, "w") as file:
        file.attrs.update({"schema_version": SCHEMA_VERSION, "creation_library": "caucus", **attrs})
        for group_name, declared in groups.items():
            if not declared:
                continue
            group = file.create_group(group_name)
            used = [dim for dim in coords if any(dim in variable.dims for variable in declared.values())]
            group.dimensions = {
                "chain": num_chains,
                "draw": num_draws,
                **{dim: len(coords[dim]) for dim in used},
            }
            for name, (dims, dtype) in declared.items():
                variable = group.create_variable(file_name(name), (*SAMPLE_DIMS, *dims), dtype=dtype)
                if file_name(name) != name:
                    variable.attrs["long_name"] = _printable(name)
            for dim, size in (("chain", num_chains), ("draw", num_draws)):
                group.create_variable(dim, (dim,), data=np.arange(size))
            for dim in used:
                labels = group.create_variable(dim, (dim,), dtype=h5py.string_dtype())
                labels[...] = np.array([_printable(str(x)) for x in coords[dim]], dtype=object)


@contextmanager
def reading(source: str | Path | IO[bytes]) -> Iterator[DrawsReader]:
    """Open a local file, given by its path or open, for reading in parts.

    Raises
    ------
    RunDirectoryError
        The file is missing, is not netCDF, or has no group ``posterior``.
    """
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise unreadable(_name(source), f"no readable netCDF ({type(error).__name__})", "posterior draws") from error
    with file:
        if "posterior" not in file:
            raise unreadable(_name(source), f"groups {sorted(file)}", "a group 'posterior'")
        yield DrawsReader(file)


def _name(source: str | Path | IO[bytes]) -> str:
    return str(source) if isinstance(source, str | Path) else "the posterior file"


def unreadable(where: str, found: str, expected: str) -> RunDirectoryError:
    """The error of a posterior file that cannot be used."""
    return RunDirectoryError(where, found, expected, "Run the merge again, or restore the file.")


def check_names(dims_of: Mapping[str, tuple[str, ...]], coords: Mapping[str, Sequence[str]]) -> None:
    """:class:`DrawsError` where a name cannot stand in a file, or a dimension has no labels."""
    for name, dims in dims_of.items():
        if name == "" or name in coords:
            raise DrawsError(
                name,
                "no name, or that of a dimension",
                "a name of its own",
                "Rename the variable, or give its dimension another name (bambi writes `race_dim`).",
            )
        for dim in dims:
            if dim not in coords:
                raise DrawsError(
                    name, f"no labels for dimension {dim!r}", "labels of every dimension", "Pass them in `coords`."
                )
