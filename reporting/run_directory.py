"""A finished run directory, read into memory; what a run may lack is None or empty.

Only ``run.yaml``, ``manifest.json`` and ``audit.json`` are needed. From ``manifest.json`` these keys are used where
present: ``seed``, ``executor``, ``versions`` (package to version), ``priors`` (parameter or class to text), ``stages``
(name to ``seconds`` and ``peak_memory_bytes``) ``is_share`` (whether means are shares of people), and ``truth`` (folder with ``expected.parquet``; a relative
one is taken from the run directory).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xarray as xr
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from reporting import margins
from reporting.errors import RunDirectoryError
from reporting.posterior import read_posterior
from reporting.tables import read_table


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run. ``estimates`` maps a margin to its table; ``posterior`` has what has no levels: the scales."""

    path: Path
    config: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]
    audit: dict[str, Any]
    checks: dict[str, Any] | None
    shards: dict[str, Any] | None
    dictionary: dict[str, Any] | None
    posterior: xr.DataTree | None
    summary: pa.Table | None
    estimates: dict[str, pa.Table]
    calibration: pa.Table | None
    truth: pa.Table | None

    @property
    def outcome(self) -> str:
        """Name of the outcome: the left side of the formula."""
        return str(self.config.get("model", {}).get("formula", "")).partition("~")[0].strip() or "outcome"

    @property
    def is_share(self) -> bool:
        """Whether estimates are shares, to be shown as percentages: the manifest says so (`fitting.families` decides)."""
        return bool(self.manifest.get("is_share", False))

    @property
    def population(self) -> dict[str, Any] | None:
        """Who is in the estimates and who is not, from `audit.json`; None where nobody said."""
        return self.audit.get("population")

    def prior(self, parameter: str) -> str | None:
        """Return the text of a parameter's prior: its own, its term's, or its class's."""
        priors = {**self.config.get("model", {}).get("priors", {}), **self.manifest.get("priors", {})}
        kind, _, rest = parameter.partition("(")
        term = rest.removesuffix(")")
        family = {"sd": "sd", "cor": "cor", "sigma": "sigma", "Intercept": "intercept"}.get(kind, "b")
        text = next((priors[key] for key in (parameter, term, family) if key in priors), None)
        return None if text is None else str(text)


def read(directory: str | Path) -> RunDirectory:
    """Read a run directory.

    Raises
    ------
    RunDirectoryError
        A needed file is missing, or a file that is there cannot be read.
    """
    root = Path(directory)
    config_text = _text(root / "run.yaml")
    try:
        config = YAML(typ="safe", pure=True).load(config_text)
    except YAMLError as error:
        raise _unreadable(root / "run.yaml", error) from error
    manifest = read_json(root / "manifest.json")
    estimates = {path.stem: read_table(path) for path in sorted((root / "estimates").glob("*.parquet"))}
    calibration = estimates.pop(margins.CALIBRATION, None)
    truth = root / manifest["truth"] / "expected.parquet" if manifest.get("truth") else None
    return RunDirectory(
        path=root,
        config=_mapping(root / "run.yaml", config),
        config_text=config_text,
        manifest=manifest,
        audit=read_json(root / "audit.json"),
        checks=_checks(root, manifest),
        shards=_optional_json(root / "shards" / "manifest.json"),
        dictionary=_optional_json(root / "dictionary.json"),
        posterior=read_posterior(root / "posterior.nc", only_scalars=True) if (root / "posterior.nc").exists() else None,
        summary=_optional_table(root / "summary.parquet"),
        estimates={margins.of_file(stem): table for stem, table in estimates.items()},
        calibration=calibration,
        truth=_optional_table(truth) if truth else None,
    )


def _checks(root: Path, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """What `caucus check` found of the present posterior."""
    found = _optional_json(root / "checks" / "checks.json")
    merged = manifest.get("stages", {}).get("merge", {}).get("files", {}).get("posterior.nc")
    return found if found is not None and found.get("posterior_sha256") == merged else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON mapping in a file; :class:`RunDirectoryError` if there is none."""
    try:
        return _mapping(path, json.loads(_text(path)))
    except json.JSONDecodeError as error:
        raise _unreadable(path, error) from error


def _mapping(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RunDirectoryError(str(path), f"a {type(value).__name__}", "a mapping of names to values",
                                "Run the stage that writes it again.")
    return value


def _optional_json(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None


def _optional_table(path: Path) -> pa.Table | None:
    return read_table(path) if path.exists() else None


def _unreadable(path: Path, error: Exception) -> RunDirectoryError:
    return RunDirectoryError(str(path), f"no readable file ({type(error).__name__})", "a finished run's file",
                             "Finish the run first (`caucus run`), or restore the file.")
