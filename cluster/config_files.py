"""Config files: read with a limit, relative paths made whole, and written down resolved; whatever sections they have."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cluster import yaml_source
from cluster.errors import ConfigError, Problem
from sharding import credentials, storage
from sharding.errors import StorageError

_WRITTEN = "# Written by caucus: the config as it was used"
RESOLVED_HEADER = _WRITTEN + ", defaults filled in. {origin}\n"


def read(path: str | os.PathLike[str], overrides: Sequence[str]) -> tuple[yaml_source.Source, str, Path]:
    """Read a YAML file, or the `run.yaml` of a run directory, which may be a URL, and apply the ``--set`` to it.

    A run directory is itself, wherever it was copied or moved to: its own place replaces the `run.directory` of its `run.yaml`.

    Returns
    -------
    The source, the whole path or URL, and the folder that relative paths are relative to.

    Raises
    ------
    ConfigError
        No such file, one that cannot be read or is too large, no YAML, or a URL with a secret in it.
    """
    source, whole, folder = _read_remote(str(path).rstrip("/")) if "://" in str(path) else _read_local(Path(path))
    for setting in overrides:
        yaml_source.override(source, setting)
    problems = tuple(_secrets(source, source.values, ()))
    if problems:
        raise ConfigError(problems)
    return source, whole, folder


def _secrets(source: yaml_source.Source, value: Any, path: yaml_source.Path) -> Iterator[Problem]:
    """Refuse URLs with secrets, wherever a config has them: it is written to the run."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(source, inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _secrets(source, inner, (*path, i))
    elif isinstance(value, str) and _is_url(value, path) and (secret := credentials.found_in(value)):
        where = source.place(path).where.partition("=")[0]  # of a --set without its value
        yield Problem(where, ".".join(map(str, path)), secret, "a URL without secrets", credentials.INSTEAD.rstrip("."))


def _read_local(file: Path) -> tuple[yaml_source.Source, str, Path]:
    file = file / "run.yaml" if file.is_dir() else file
    name = os.path.relpath(file) if file.resolve().is_relative_to(Path.cwd()) else str(file)
    try:
        if file.stat().st_size > yaml_source.MAX_BYTES:
            raise ConfigError((Problem(name, "", "a larger file", f"at most {yaml_source.MAX_BYTES:,} bytes"),))
        source = _parsed(file.read_text(encoding="utf-8"), name, str(file.resolve().parent))
    except FileNotFoundError:
        hint = "`caucus init NAME` writes one"
        raise ConfigError((Problem(name, "", "no such file", "a config in YAML", hint),)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise ConfigError((Problem(name, "", str(reason), "a readable text file"),)) from None
    return source, str(file.resolve()), file.resolve().parent


def _read_remote(url: str) -> tuple[yaml_source.Source, str, Path]:
    url = url if url.endswith((".yaml", ".yml")) else storage.join(url, "run.yaml")
    try:
        data = storage.read_bytes(url)
        if len(data) > yaml_source.MAX_BYTES:
            raise ConfigError((Problem(url, "", "a larger file", f"at most {yaml_source.MAX_BYTES:,} bytes"),))
        source = _parsed(data.decode("utf-8"), url, url.rpartition("/")[0])
    except StorageError as error:
        raise ConfigError((Problem(url, "", "no such file", "a config in YAML", str(error)),)) from None
    except UnicodeDecodeError:
        raise ConfigError((Problem(url, "", "bytes that are not UTF-8", "a readable text file"),)) from None
    return source, url, Path.cwd()


def _is_url(value: str, path: yaml_source.Path) -> bool:
    """Whether it is taken for a URL or a path: a level or a formula may look like ``user:password@host``."""
    return "://" in value or (path[:1] != ("model",) and path[:2] != ("data", "columns"))


def _parsed(text: str, name: str, folder: str) -> yaml_source.Source:
    source = yaml_source.parse(text, name)
    if text.startswith(_WRITTEN) and storage.exists(storage.join(folder, "manifest.json")):
        run = source.values.setdefault("run", {})
        if isinstance(run, dict):
            run["directory"] = folder
    return source


def resolve(values: dict[str, Any], folder: Path, places: Iterable[tuple[str, str]]) -> None:
    """Make relative paths at ``(section, key)`` whole, from ``folder`` on; the default of `run.directory` among them."""
    run = values.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("directory", f"runs/{values.get('name', '')}")
    for section, key in (*places, ("run", "directory")):
        inner = values.get(section)
        if isinstance(inner, dict) and key in inner:
            inner[key] = _resolved(inner[key], folder, is_glob=(section, key) == ("data", "source"))


def dump(values: dict[str, Any], path: str, overrides: Sequence[str]) -> str:
    """YAML of a resolved config, with where it is from above it."""
    origin = f"From {os.path.basename(path)}" + "".join(f", --set {setting}" for setting in overrides)
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(values, stream)
    return RESOLVED_HEADER.format(origin=origin) + stream.getvalue()


def _resolved(value: Any, folder: Path, *, is_glob: bool) -> Any:
    if isinstance(value, list):
        return [_resolved(item, folder, is_glob=is_glob) for item in value]
    if not isinstance(value, str) or "://" in value:
        return value
    value = os.path.expanduser(value)
    if is_glob and glob.has_magic(value):  # the folder's own name is no part of the glob
        return os.path.normpath(os.path.join(glob.escape(str(folder)), value))
    return os.path.normpath(folder / value)
