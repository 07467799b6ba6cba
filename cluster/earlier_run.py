"""The finished run that an update starts from, set aside in `updating/` until the update has finished.

What is there outlives a kill: sites to keep, the coding they are written in, and the numbers to compare with.
`updating/plan.json` is written last and removed first: where it is, an update is under way.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

from cluster.run_directory import RunDirectory
from sharding import storage
from sharding.dictionary import Dictionary

SCHEMA_VERSION = 1
FOLDER = "updating"
PLAN = f"{FOLDER}/plan.json"
PLACED = f"{FOLDER}/placed.json"

_COPIES = {
    "dictionary.json": "dictionary.json",
    "shards/manifest.json": "shards.json",
    "sites/rounds.json": "rounds.json",
    "summary.parquet": "summary.parquet",
}


@dataclass(frozen=True)
class EarlierRun:
    """The run as it was: ``inputs`` of its stages, key of its ``posterior``, ``verdict``, coding, shards and last rounds."""

    path: str
    inputs: dict[str, dict[str, Any]]
    posterior: str
    verdict: str
    dictionary: Dictionary
    dictionary_sha256: str
    manifest: dict[str, Any]
    rounds: dict[str, Any]

    def fits_alike(self, fit: dict[str, Any]) -> bool:
        """Whether a fit with these inputs makes sites of the same model in the same way."""
        return own(self.inputs["fit"]) == own(fit)

    def site_paths(self) -> dict[tuple[str, str], str]:
        """Where in `sites/` the site of each shard was, by its id and sha256."""
        entries = [entry for entry in self.manifest["shards"] if entry["num_trials"]]
        pairs = zip(entries, self.rounds["sites"], strict=True)
        return {(entry["shard_id"], entry["sha256"]): path for entry, path in pairs}

    def copy_of(self, path: str) -> str:
        """Where the copy of a file in `sites/` is."""
        return storage.join(self.path, "sites", os.path.basename(path))


def own(inputs: dict[str, Any]) -> dict[str, Any]:
    """What a stage depends on apart from earlier stages and files."""
    return {name: value for name, value in inputs.items() if name not in ("after", "sources", "coding")}


def as_config(inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the stages depend on in the config, section by section; where the files are is not among it."""
    found: dict[str, Any] = {}
    for of_stage in inputs.values():
        for section, values in own(of_stage).items():
            if section not in ("columns", "results"):  # made from the formula and the margins; of the code, not the config
                found[section] = found.get(section, {}) | values
    return found | {"data": {name: value for name, value in found["data"].items() if name != "source"}}


def is_under_way(directory: str) -> bool:
    """Whether an update of the run has begun and not finished."""
    return storage.exists(storage.join(directory, PLAN))


def set_aside(directory: RunDirectory) -> None:
    """Copy what an update of a finished run needs."""
    forget(directory.path)
    rounds = storage.read_json(storage.join(directory.path, "sites/rounds.json"))
    copies = {**_COPIES, **{path: f"sites/{os.path.basename(path)}" for path in rounds["sites"]}}
    copies |= {name: name for name in directory.records["poststratify"].files}
    for name, copy in copies.items():
        storage.copy(storage.join(directory.path, name), storage.join(directory.path, FOLDER, copy))
    plan = {
        "schema_version": SCHEMA_VERSION,
        "inputs": {stage: record.inputs for stage, record in directory.records.items()},
        "posterior": directory.records["merge"].key,
        "verdict": storage.read_json(storage.join(directory.path, "audit.json"))["verdict"],
    }
    storage.publish_json(storage.join(directory.path, PLAN), plan)


def read(directory: str) -> EarlierRun:
    """Read what was set aside."""
    path = storage.join(directory, FOLDER)
    plan = storage.read_json(storage.join(directory, PLAN))
    coding = storage.read_bytes(storage.join(path, "dictionary.json"))
    return EarlierRun(
        path,
        plan["inputs"],
        plan["posterior"],
        plan["verdict"],
        Dictionary.from_json(json.loads(coding)),
        storage.sha256_bytes(coding),
        storage.read_json(storage.join(path, "shards.json")),
        storage.read_json(storage.join(path, "rounds.json")),
    )


def forget(directory: str) -> None:
    """Remove what was set aside."""
    storage.remove(storage.join(directory, PLAN))
    storage.remove(storage.join(directory, FOLDER))
