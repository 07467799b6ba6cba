"""Folders that commands fill: the simulated nation and the configs that go with it."""

import os
from importlib import resources
from pathlib import Path

from cluster.errors import RunDirectoryError

NATION_CONFIGS = ("nation-turnout.yaml", "nation-support.yaml")


def init(name: str, *, num_rows: int) -> list[str]:
    """Make the folder ``name`` with a config and a simulated file; return what to tell.

    Raises
    ------
    RunDirectoryError
        The folder exists and is not empty.
    """
    from sharding import simulate

    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunDirectoryError(name, "exists already and is not empty", "Name a new folder.")
    made = simulate.simulate(folder, num_rows=num_rows, seed=1, num_answers=min(50_000, num_rows // 10))
    write_configs(folder)
    first = folder / NATION_CONFIGS[0]
    return [
        f"{made.num_rows:,} simulated voters in {folder}/voters, the truth about them in {folder}/truth",
        *(f"config: {folder / config}" for config in NATION_CONFIGS),
        f"next: caucus plan {first}, then caucus run {first}",
    ]


def write_configs(folder: str | os.PathLike[str]) -> list[Path]:
    """Write the configs of the nation into ``folder``, where they are not there yet; return their paths."""
    written = []
    for name in NATION_CONFIGS:
        target = Path(folder) / name
        if not target.exists():
            text = (resources.files("cluster") / "templates" / name).read_text(encoding="utf-8")
            target.write_text(text, encoding="utf-8")
        written.append(target)
    return written
