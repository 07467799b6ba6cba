"""A run at work: its model and its shards, and tasks sent to all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster import site_files, tasks
from cluster.context import StageContext
from cluster.tasks import ModelRef
from cluster.threads import usable_cores
from fitting import splines
from fitting.config import VIConfig
from fitting.hierarchy import Hierarchy
from sharding import level_order, storage, store
from sharding.dictionary import Dictionary
from sharding.errors import ContractError

if TYPE_CHECKING:
    from cluster.config import RunConfig

DEFAULT_NODES = 11


@dataclass(frozen=True)
class Work:
    """A run at work: its model, its shards in the order of the manifest, and where tasks run."""

    context: StageContext
    ref: ModelRef
    hierarchy: Hierarchy
    entries: tuple[dict[str, Any], ...]

    @property
    def directory(self) -> str:
        return self.context.directory

    @property
    def threads(self) -> int:
        return usable_cores()

    @property
    def num_nodes(self) -> int:
        fit = self.context.config.fit
        return fit.quadrature_nodes if isinstance(fit, VIConfig) else DEFAULT_NODES

    def site_path(self, entry: dict[str, Any], number: int, key: str) -> str:
        """Where the site of a shard and round is that was made from ``key``.

        The key is in the name: a worker that was cut off, and writes after the run has gone on with another model or other
        data, writes a file that nobody reads.
        """
        return storage.join(self.directory, site_files.name(entry["shard_id"], number, key))

    def map(self, fn: Callable[[Any], Any], tasks_of_shards: Iterator[Any], **shown: Any) -> list[Any]:
        """Results in the order of the shards; the first error of a shard is raised once the others are done.

        A task's second field is its shard's entry in the manifest, or it is `tasks.Together` of such.
        """
        results: list[Any] = [None] * len(self.entries)
        number = {entry["shard_id"]: s for s, entry in enumerate(self.entries)}
        error = None
        outcomes = self.context.executor.map_unordered(
            fn,
            tasks_of_shards,
            num_tasks=len(self.entries),  # or fewer, together
            max_in_flight=self.context.config.run.max_in_flight,
            memory_bytes=self.context.task_bytes,
        )
        done = 0
        self.context.progress.update(done=done, total=len(self.entries), **shown)
        for outcome in outcomes:
            is_together = isinstance(outcome.task, tasks.Together)
            parts = outcome.task.tasks if is_together else (outcome.task,)
            done += len(parts)
            for _ in parts:
                self.context.progress.task(is_good=outcome.error is None, attempt=outcome.attempt)
            self.context.retries.update(tasks=outcome.attempt - 1, storage=outcome.storage_retries)
            self.context.progress.update(done=done, total=len(self.entries), **shown)
            if outcome.error is not None:
                error = error or outcome.error
                continue
            for part, value in zip(parts, outcome.value if is_together else [outcome.value], strict=True):
                results[number[part[1]["shard_id"]]] = value
        if error is not None:
            raise error
        return results

    def longest_first(self) -> list[int]:
        """Shards with the most cells first, so that no worker is left with a long one at the end."""
        return sorted(range(len(self.entries)), key=lambda s: (-self.entries[s]["num_cells"], s))


def open_work(context: StageContext) -> Work:
    """Read what a stage needs from the run directory.

    Raises
    ------
    ContractError
        A margin of `poststratify` is a number in the model, or what needs ordered levels has none. Only ingest knows; told before
        anything is fitted.
    """
    manifest = store.read_manifest(context.directory)
    dictionary = storage.read_bytes(storage.join(context.directory, store.DICTIONARY))
    level_order.check(Dictionary.from_json(json.loads(dictionary)), context.config.model.ordered_columns())
    ref = model_ref(context.directory, dictionary, context.config)
    entries = tuple(e for e in manifest["shards"] if e["num_trials"])
    hierarchy = tasks.build_hierarchy(ref)
    columns = {column for margin in context.config.poststratify.columns.values() for column in margin}
    coding = hierarchy.model.coding
    numeric = sorted((columns & set(coding.numerics)) - set(coding.factors))
    if numeric:
        raise ContractError(
            "poststratify.by", f"{numeric}, numeric in the model", "factors",
            "Choose a factor, or declare `type: factor` in data.columns.",
        )  # fmt: skip
    return Work(context, ref, hierarchy, entries)


def model_ref(directory: str, dictionary: bytes, config: RunConfig) -> ModelRef:
    """Which model a config means, with the coding of this dictionary."""
    model = config.model
    dumped = model.model_dump(mode="json")
    priors = {
        key: value if isinstance(value, str) else storage.canonical_json(value).decode()
        for key, value in dumped["priors"].items()
    }
    terms = {name: dumped[name] for name in ("splines", "multi_membership") if dumped[name]}
    for column, spline in dumped["splines"].items():
        if (sd := spline.pop("sd")) is not None:
            priors[splines.name(column)] = sd
    return ModelRef(
        directory,
        storage.sha256_bytes(dictionary),
        model.formula,
        model.family,
        model.link,
        tuple(sorted(priors.items())),
        storage.canonical_json(terms).decode() if terms else "",
    )
