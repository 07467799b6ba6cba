"""``caucus publish``: the one door out of a run directory, which is private as a whole.

What was published lies in the run directory too (`publication.parquet`), with the exact counts that it was made from and the
key of its rounding, so that a second publication says nothing of the few people by whom the data differ.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from cluster import run_directory, stages
from cluster.code_version import version
from cluster.config import Loaded, RunConfig
from cluster.errors import AuditFailedError, PublishError, StageError
from fitting.families import mean_is_share
from reporting import disclosure, margins, publication, tables
from reporting.disclosure import LEDGER, Rule
from reporting.estimates import ALL, interval_columns, label_columns
from reporting.publication import Publication
from sharding import storage, store
from sharding.errors import StorageError

LEDGER_FILE = "publication.parquet"


class Ledger(NamedTuple):
    """What a run has published: rows of `disclosure.LEDGER`, the key, and what was said about the latest publication."""

    rows: pa.Table
    key: bytes
    about: dict[str, Any]


def publish(loaded: Loaded, to: str, after: str | None = None) -> list[str]:
    """Write what readers may have of a finished run into the folder ``to``, and return lines that say what.

    Parameters
    ----------
    after
        The run directory of an earlier run of the same people, whose publications this one continues.

    Raises
    ------
    StageError
        The run is not finished.
    AuditFailedError
        Its audit failed.
    PublishError
        ``to`` is in the run directory, or is no folder that this run has published.
    """
    config, path = loaded.config, loaded.config.run.directory
    identity = stages.identity(config)
    if run_directory.open_existing(path, identity) is None:
        raise StageError("publish", f"there is no run in {path}", "Run `caucus run` first.")
    with run_directory.locked(path):
        directory = run_directory.open_directory(path, identity)
        for step in stages.steps(loaded, directory):
            if step.stage != "report" and step.reason:
                raise StageError("publish", f"needs the stage {step.stage!r}: {step.reason}", "Run `caucus run` first.")
        audit = storage.read_json(storage.join(path, "audit.json"))
        if audit["verdict"] == "fail":
            raise AuditFailedError(storage.join(path, "audit.json"))
        earlier = _ledger(path) or (_ledger(after) if after else None)
        if after and earlier is None:
            raise PublishError(after, "has published nothing", "Leave --after away, or name the run that published before.")
        _check_target(path, to, earlier)
        found = {name: _table(path, name) for name in config.poststratify.columns}
        made, ledger, num_kept = _make(config, directory, audit, found, earlier)
        _write_ledger(path, ledger)  # before anybody can read what it is about
        _write(made, to)
    return _lines(made, found, num_kept, to)


def _make(
    config: RunConfig, directory: run_directory.RunDirectory, audit: dict[str, Any], found: Mapping[str, pa.Table], earlier: Ledger | None
) -> tuple[Publication, Ledger, int]:
    named = [column for column in label_columns(found[ALL]) if column != ALL]
    is_share = mean_is_share(config.model.family)
    counted = is_share and config.data.weight is None
    key = earlier.key if earlier else secrets.token_bytes(32)
    rule = Rule(config.publish.min_count, is_share, key, counted, named[0] if named else None)
    before: dict[str, Any] = earlier.about if earlier else {"number": 0, "id": secrets.token_hex(16)}
    about = _about(config, audit, found[ALL], rule) | {"id": before["id"], "number": before["number"] + 1}
    now = disclosure.publishable(found, rule, _data(directory.path), about["number"])
    merged = disclosure.merge(now, earlier.rows if earlier else LEDGER.empty_table(), rule)
    has_news = about["number"] in merged.rows["as_of"].to_pylist()
    if earlier and not has_news and (merged.num_kept or about == before | {"number": about["number"]}):
        about = before  # the same bytes again
    made = Publication(disclosure.shown(merged.rows, list(found), rule.categories), about)
    return made, Ledger(merged.ledger, key, about), merged.num_kept


def _about(config: RunConfig, audit: dict[str, Any], everybody: pa.Table, rule: Rule) -> dict[str, Any]:
    low, high = (float(name.removeprefix("q")) for name in interval_columns(everybody))
    return {
        "name": config.name, "outcome": config.model.formula.partition("~")[0].strip(), "formula": config.model.formula.strip(),
        "family": config.model.family, "interval": f"{high - low:g}%", "min_count": rule.min_count, "is_share": rule.is_share,
        "categories": rule.categories, "left_out": _left_out(audit), "terms_of_use": config.data.terms_of_use, "caucus": version(),
    }  # fmt: skip


def _left_out(audit: dict[str, Any]) -> str:
    """How many of the people are not in the estimates, in whole percents, rounded up."""
    population = audit["population"]
    share = 1 - population["counted"] / population["people"]
    whose = "the people of the files" if population["frame"] == "file" else "the population"
    return f"all of {whose}." if share <= 0 else f"of {whose}, less than {math.floor(100 * share) + 1}% are left out."


def _data(path: str) -> str:
    """A name of the data: of the content of the source files, wherever they lie."""
    sources = store.read_manifest(path)["sources"]
    return storage.sha256_bytes(storage.canonical_json(sorted(source["fingerprint"] for source in sources)))


def _table(path: str, margin: str) -> pa.Table:
    url = storage.join(path, f"estimates/{margins.file(margin)}")
    return tables.from_parquet(storage.read_bytes(url), url)


# ---- the ledger ----


def _ledger(path: str) -> Ledger | None:
    url = storage.join(path, LEDGER_FILE)
    if not storage.exists(url):
        return None
    table = tables.from_parquet(storage.read_bytes(url), url)
    try:
        said = json.loads(table.schema.metadata[b"ledger"])
        return Ledger(table.cast(LEDGER), bytes.fromhex(said["key"]), said["about"])
    except (KeyError, TypeError, ValueError, pa.ArrowInvalid) as error:
        do = "Restore it from a copy: without it nobody can tell what was published before."
        raise PublishError(url, f"is damaged ({type(error).__name__})", do) from None


def _write_ledger(path: str, ledger: Ledger) -> None:
    said = json.dumps({"key": ledger.key.hex(), "about": ledger.about}, sort_keys=True)
    table = ledger.rows.combine_chunks().replace_schema_metadata({"ledger": said})
    storage.publish_bytes(storage.join(path, LEDGER_FILE), tables.to_parquet(table))


# ---- the folder ----


def _check_target(path: str, to: str, earlier: Ledger | None) -> None:
    """Refuse a folder in the run directory or around it, and one that holds anything but this run's publications."""
    places = [f"{os.path.realpath(p)}/" if storage.is_local(p) else f"{p.rstrip('/')}/" for p in (path, to)]
    if places[0].startswith(places[1]) or places[1].startswith(places[0]):
        raise PublishError(to, f"is in the run directory {path}, or holds it", "Publish into a folder of its own: --to.")
    try:
        present = storage.children(to)
    except NotADirectoryError:
        raise PublishError(to, "is a file", "Name a folder: --to.") from None
    if not present:
        return
    try:
        found = storage.read_json(storage.join(to, publication.MANIFEST))
        is_ours = found["kind"] == publication.KIND
    except (StorageError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise PublishError(to, "holds things that are no publication", "Name a new or empty folder: --to.")
    if earlier is None or found.get("id") != earlier.about["id"]:
        do = "Name another folder, or continue the publications of that run with `--after ITS_RUN_DIRECTORY`."
        raise PublishError(to, "is a publication of another run", do)


def _write(made: Publication, to: str) -> None:
    """Local folders appear whole or not at all; on an object store the manifest is removed first and written last."""
    if not storage.is_local(to):
        storage.remove(storage.join(to, publication.MANIFEST))
        sha256 = {name: storage.publish_bytes(storage.join(to, name), data) for name, data in made.files.items()}
        for name in set(storage.names_below(to, "estimates")) - set(sha256):
            storage.remove(storage.join(to, name))
        storage.publish_json(storage.join(to, publication.MANIFEST), publication.manifest(made, sha256))
        return
    target = storage.local_path(to)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        sha256 = {name: storage.publish_bytes(str(temporary / "new" / name), data) for name, data in made.files.items()}
        storage.publish_json(str(temporary / "new" / publication.MANIFEST), publication.manifest(made, sha256))
        _open_to_readers(temporary / "new")
        if target.exists():
            os.replace(target, temporary / "old")
        os.replace(temporary / "new", target)
    finally:
        shutil.rmtree(temporary)


def _open_to_readers(folder: Path) -> None:
    """The permissions that new files have for this user, where those of a run are the owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    for place in (folder, *folder.rglob("*")):
        place.chmod((0o777 if stat.S_ISDIR(place.stat().st_mode) else 0o666) & ~mask)


def _lines(made: Publication, found: Mapping[str, pa.Table], num_kept: int, to: str) -> list[str]:
    lines = [f"published in {to}, number {made.about['number']}:"]
    lines += [f"  {name}: {len(made.tables[name]):,} of {len(table):,} rows" for name, table in found.items()]
    if num_kept:
        few = made.about["min_count"]
        lines.append(f"{num_kept:,} rows stay as they were published before: fewer than {few} known outcomes of their groups are others, or none")
    return lines
