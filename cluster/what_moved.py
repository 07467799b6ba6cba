"""The end of an update: what changed in the files, which shards were fitted again, and what moved, in sds.

`update.json` has it in short, `update.parquet` every coefficient, scale and estimate before and after. Neither has a row
of a person, and both tell of a single one by what moved: they are private, as all of the run directory.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cluster import earlier_run
from cluster.earlier_run import EarlierRun
from cluster.kept_sites import KEPT
from cluster.run_directory import RunDirectory, describe_changes
from reporting import margins, moves, tables
from sharding import storage
from sharding.dictionary import Dictionary

SCHEMA_VERSION = 1
JSON, PARQUET = "update.json", "update.parquet"


def write(directory: RunDirectory) -> dict[str, Any]:
    """Write `update.json` and `update.parquet` of a run whose stages are all done, and forget what was set aside."""
    earlier = earlier_run.read(directory.path)
    compared = _compared(earlier.path, directory.path)
    explained = _explain(directory, earlier, compared)
    storage.publish_bytes(storage.join(directory.path, PARQUET), tables.to_parquet(pa.concat_tables(compared.values())))
    storage.publish_json(storage.join(directory.path, JSON), explained)
    earlier_run.forget(directory.path)
    return explained


def changed_files(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """Return `new`, `changed` or `gone` by URL, from fingerprints by URL; files that are as before are left out."""
    found = {}
    for url in sorted({*before, *now}):
        if before.get(url) != now.get(url):
            found[url] = "new" if url not in before else "gone" if url not in now else "changed"
    return found


def _compared(before: str, after: str) -> dict[str, pa.Table]:
    """Moves by table: the parameters, then every margin that both runs have."""
    found = {moves.PARAMETERS: moves.of_parameters(*_tables(before, after, "summary.parquet"))}
    old = storage.names_below(before, "estimates")
    for name in storage.names_below(after, "estimates"):
        stem = name.removeprefix("estimates/").removesuffix(".parquet")
        if name.endswith(".parquet") and stem != margins.CALIBRATION and name in old:
            margin = margins.of_file(stem)
            found[margin] = moves.of_margin(margin, *_tables(before, after, name))
    return found


def _tables(before: str, after: str, name: str) -> list[pa.Table]:
    urls = [storage.join(directory, name) for directory in (before, after)]
    return [tables.from_parquet(storage.read_bytes(url), url) for url in urls]


def _explain(directory: RunDirectory, earlier: EarlierRun, compared: dict[str, pa.Table]) -> dict[str, Any]:
    shards = storage.read_json(storage.join(directory.path, "shards/manifest.json"))
    dictionary = Dictionary.from_json(storage.read_json(storage.join(directory.path, "dictionary.json")))
    rounds = storage.read_json(storage.join(directory.path, "sites/rounds.json"))["rounds"]
    kept = set(storage.read_json(storage.join(directory.path, earlier_run.PLACED))["kept"])
    fitted = [record for record in rounds if record["method"] != KEPT]
    now = {stage: record.inputs for stage, record in directory.records.items() if stage != "report"}
    config_before, config_now = (
        earlier_run.as_config({name: of[name] for name in now}) for of in (earlier.inputs, now)
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "files": _files(earlier.manifest, shards),
        "num_files": {"before": len(earlier.manifest["sources"]), "after": len(shards["sources"])},
        "rows": {"before": earlier.manifest["totals"], "after": shards["totals"]},
        "new_levels": {
            name: list(coding.levels[len(earlier.dictionary.factors[name].levels) :])
            for name, coding in dictionary.factors.items()
            if name in earlier.dictionary.factors
        },
        "shards": _shards(earlier.manifest, shards, kept),
        "num_shards": {"kept": len(kept), "fitted": sum(e["num_trials"] > 0 for e in shards["shards"]) - len(kept)},
        "rounds": {
            "of_some_shards": sum("num_shards" in record for record in fitted),
            "of_all_shards": sum("num_shards" not in record for record in fitted),
        },
        "also_changed": "" if config_before == config_now else describe_changes(config_before, config_now),
        "moved": [{"table": name, **moves.summarise(table)} for name, table in compared.items()],
        "top": moves.top(pa.concat_tables(compared.values())),
        "verdict": {
            "before": earlier.verdict,
            "after": storage.read_json(storage.join(directory.path, "audit.json"))["verdict"],
        },
        "posterior": {"before": earlier.posterior, "after": directory.records["merge"].key},
    }


def _count(entry: dict[str, Any] | None, name: str) -> int | None:
    return None if entry is None else entry[name]


def _files(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    old, new = ({file["url"]: file for file in manifest["sources"]} for manifest in (before, after))
    prints = ({url: file["fingerprint"] for url, file in files.items()} for files in (old, new))
    return [
        {
            "url": url,
            "status": status,
            "num_rows_before": _count(old.get(url), "num_rows"),
            "num_rows_after": _count(new.get(url), "num_rows"),
        }
        for url, status in changed_files(*prints).items()
    ]


def _shards(before: dict[str, Any], after: dict[str, Any], kept: set[str]) -> list[dict[str, Any]]:
    """Every shard that is new, changed or gone, or was fitted again for another reason."""
    old, new = ({entry["shard_id"]: entry for entry in manifest["shards"]} for manifest in (before, after))
    found = []
    for shard_id in dict.fromkeys([*new, *old]):
        was, now = old.get(shard_id), new.get(shard_id)
        is_same = was is not None and now is not None and was["sha256"] == now["sha256"]
        if shard_id in kept or (is_same and now is not None and not now["num_trials"]):
            continue
        status = "same" if is_same else "new" if was is None else "gone" if now is None else "changed"
        counts = {
            f"{name}_{when}": _count(entry, name)
            for name in ("num_rows", "num_trials")
            for when, entry in (("before", was), ("after", now))
        }
        found.append({"shard_id": shard_id, "status": status, **counts})
    return found
