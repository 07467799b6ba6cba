"""A run directory holds files and folders, and nothing that leads out of it or never ends."""

import os
import stat

from cluster.errors import RunDirectoryError
from sharding import storage


def check(path: str) -> None:
    """Refuse a run directory in which there is a symbolic link, a pipe, a socket or a device; object stores have none.

    Raises
    ------
    RunDirectoryError
        Names the first of them. The run directory may itself be a link: its owner made that one.
    """
    if not storage.is_local(path):
        return
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            try:
                mode = os.lstat(os.path.join(folder, name)).st_mode
            except FileNotFoundError:  # published or removed by the run that is at work
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                where = os.path.relpath(os.path.join(folder, name), path)
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "a pipe, a socket or a device"
                do = "A run writes only files and folders: find out who put it there, and remove it."
                raise RunDirectoryError(path, f"{where!r} in it is {kind}", do)
