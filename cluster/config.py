"""One YAML file describes a run: the sections belong to the packages that use them and are composed here.

Relative paths in the file (`data.source`, `poststratify.frame`, `run.directory`) are taken from the file's own folder,
also those given by ``--set``, so that a run does not depend on where the command was typed.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fsspec.registry import known_implementations
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from cluster import config_files, maps, threads, yaml_source
from cluster.errors import ConfigError, Problem
from cluster.problems import explain
from fitting.config import AuditConfig, FitConfig, ModelConfig, VIConfig
from reporting import margins
from sharding.config import DataConfig, ShardsConfig


class Frozen(BaseModel):
    """A section of the config: unknown keys are errors, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")




class PoststratifyConfig(Frozen):
    """Which groups get estimates, and the population they are estimated for."""

    by: tuple[str, ...] = Field(
        default=("all",), description="Margins: `all`, a column, or columns joined by `:` such as race:age; a column with a `:` in its name in backquotes."
    )
    frame: str = Field(
        default="file", description="`file` counts every row of data.source; or the URL of a table of counts."
    )
    count: str | None = Field(default=None, description="Column of the frame that holds the counts; not for `file`.")
    missing: Literal["level", "leave_out", "error"] = Field(
        default="level", description="People of a frame of your own without a value in a column: a level `(missing)`, which is that of "
        "the fit, or is drawn from its group's distribution like a new one; left out of the population, and counted; or an error. Columns "
        "with fixed effects, structured priors or memberships, and numbers, have no such level: there `level` is an error, too."
    )  # fmt: skip
    interval: float = Field(default=0.9, gt=0, lt=1, description="Probability inside the intervals that are shown.")

    @field_validator("by")
    @classmethod
    def _margins(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        found = [margins.columns(name) for name in by]
        own = sorted({column for columns in found for column in columns if margins.is_own(column)})
        if own:
            raise ValueError(
                f"{own} are columns that tables of estimates have already; expected other names. Give the column another "
                f"one: `data.columns: {{my_{own[0]}: {{source: {own[0]}}}}}`"
            )
        return tuple(dict.fromkeys(map(margins.name, found)))

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The columns of every margin by its name, everybody's (none) among them."""
        return {name: margins.columns(name) for name in (margins.ALL, *self.by)}

    @model_validator(mode="after")
    def _counted(self) -> "PoststratifyConfig":
        if (self.frame == "file") != (self.count is None):
            raise ValueError("expected `count` with a frame of your own, and no `count` with `frame: file`")
        return self


class PublishConfig(Frozen):
    """What `caucus publish` may tell of few people: docs/design/privacy.md. The run directory itself is private."""

    min_count: int = Field(
        default=11, ge=1, description="Groups of fewer people, or fewer known outcomes, are not published by `caucus publish`, and what is "
        "published is rounded so that fewer cannot be told from it; 1 publishes every group (invented or public data)."
    )  # fmt: skip


class RunSection(Frozen):
    """Where the run is kept, and where its work happens. Nothing here but the seed changes a number."""

    directory: str = Field(
        description="A folder on this machine or one that all workers mount, or a URL such as s3://bucket/runs/name."
    )
    seed: int = Field(default=1, ge=0, lt=2**32, description="All randomness of the run derives from it.")
    executor: str = Field(
        default="auto",
        description="serial (this process), ray (started here), ray://host:port (a running cluster), or auto "
        "(the cluster, in a job of one; otherwise what is fastest here).",
    )
    workers: PositiveInt = Field(
        default_factory=threads.usable_cores, description="Processes for a Ray that is started here."
    )
    max_in_flight: PositiveInt | None = Field(
        default=None, description="Tasks submitted and not yet finished; twice the workers if not given, in bundles where they are short."
    )
    task_gpus: float = Field(default=0.0, ge=0, description="GPUs that a task on a cluster asks for, such as 0.25.")
    shards_per_task: PositiveInt = Field(
        default=1, description="Shards that a task fits; NUTS samples them side by side, which is for a GPU. 1 with classic and own models."
    )
    ship_code: bool = Field(
        default=False, description="Send this package's code to a running cluster that has not got it, or another version."
    )

    @field_validator("directory")
    @classmethod
    def _place(cls, directory: str) -> str:
        if not directory.isprintable():
            raise ValueError(f"expected a path that can be typed, found {directory!a}")
        scheme, _, rest = directory.partition("://")
        if not rest:
            return directory
        if scheme in ("file", "local") or scheme not in known_implementations:
            raise ValueError(f"expected a path, or a URL such as s3://, gs:// or abfs://, found the scheme {scheme}://")
        return directory.rstrip("/")

    @field_validator("executor")
    @classmethod
    def _known(cls, executor: str) -> str:
        if not re.fullmatch(r"serial|ray|auto|ray://.+|[\w.-]+:\d+", executor):
            raise ValueError(f"expected serial, ray, auto, ray://host:port or host:port, found {executor!r}")
        return executor

    def require_single_shards(self, what: str) -> None:
        """Refuse more than one shard for a task; ``what`` fits none together."""
        if self.shards_per_task > 1:
            raise ValueError(f"run: 'shards_per_task' is {self.shards_per_task} with {what}; expected 1. Remove it")

    @property
    def is_on_cluster(self) -> bool:
        """Whether tasks go to a cluster that was not started here; `auto` in a Ray job is one (``RAY_ADDRESS``)."""
        return ":" in self.executor or (self.executor == "auto" and bool(os.environ.get("RAY_ADDRESS")))


class RunConfig(Frozen):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Letters, digits, `.`, `_` and `-`.")
    data: DataConfig
    model: ModelConfig
    shards: ShardsConfig = Field(default_factory=ShardsConfig)
    fit: FitConfig = Field(default_factory=VIConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    poststratify: PoststratifyConfig = PoststratifyConfig()
    publish: PublishConfig = PublishConfig()
    run: RunSection

    @model_validator(mode="after")
    def _one_outcome(self) -> "RunConfig":
        outcome, named = self.model.parsed_formula().outcome, list(self.data.outcome_columns)
        if len(named) == 1 and outcome != named[0]:
            raise ValueError(
                f"model: 'formula' is about {outcome!r} and `data.outcome` is {named[0]!r}; expected one name. "
                f"If it is called otherwise in the files, write `outcome: {{{outcome}: column}}`"
            )
        return self

    @model_validator(mode="after")
    def _no_margin_of_the_outcome(self) -> "RunConfig":
        outcome = self.model.parsed_formula().outcome
        if any(outcome in columns for columns in self.poststratify.columns.values()):
            raise ValueError(f"poststratify: 'by' has the outcome {outcome!r}; expected columns that group people")
        return self

    @model_validator(mode="after")
    def _spread(self) -> "RunConfig":
        corrected = self.fit.spread == "sandwich"
        if corrected and (self.model.family not in ("bernoulli", "binomial") or self.fit.method == "exact"):
            raise ValueError(
                f"fit: 'spread' is sandwich with the family {self.model.family} and the method {self.fit.method}; expected "
                "bernoulli or binomial, and another method than exact. Set `fit.spread: model`"
            )
        return self

    @model_validator(mode="after")
    def _alone(self) -> "RunConfig":
        if self.fit.method == "classic":
            self.run.require_single_shards("the method classic")
        return self


@dataclass(frozen=True)
class Loaded:
    """A valid config, the file and the ``--set`` it came from, and where everything stands in them."""

    config: RunConfig
    path: str
    overrides: tuple[str, ...]
    source: yaml_source.Source

    def problem(self, key: str, found: str, expected: str, hint: str = "") -> Problem:
        """Describe something wrong with the value of ``key`` that its section alone could not see."""
        return Problem(self.source.place(tuple(key.split("."))).where, key, found, expected, hint)


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Loaded:
    """Read, override and validate a config.

    Parameters
    ----------
    path
        A YAML file, or a run directory (its `run.yaml` is read), which may be a URL.
    overrides
        Settings ``a.b.c=value``, applied in order.

    Raises
    ------
    ConfigError
        With every problem found, each with its line.
    """
    source, whole, folder = config_files.read(path, overrides)
    places = [("data", "source")]
    for section, key, is_path in (("poststratify", "frame", _is_a_file), ("data", "layout", _is_yaml)):
        inner = source.values.get(section)
        if isinstance(inner, dict) and is_path(inner.get(key)):
            places.append((section, key))
    config_files.resolve(source.values, folder, places)
    maps.read_into(source, folder)
    try:
        config = RunConfig.model_validate(source.values)
    except ValidationError as error:
        raise ConfigError(explain(error, source, RunConfig)) from None
    return Loaded(config, whole, tuple(overrides), source)


def _is_a_file(frame: Any) -> bool:
    return frame is not None and frame != "file"


def _is_yaml(layout: Any) -> bool:
    return str(layout).endswith((".yaml", ".yml"))


def for_cluster(loaded: Loaded) -> str:
    """Return the resolved config as YAML for the cluster that it is sent to: with that cluster's executor and cores."""
    run = loaded.config.run
    executor = run.executor if run.executor == "serial" else "auto"
    config = loaded.config.model_copy(update={"run": run.model_copy(update={"executor": executor})})
    return dump(replace(loaded, config=config), without={"run": {"workers"}})


def dump(loaded: Loaded, without: dict[str, set[str]] | None = None) -> str:
    """Return the resolved config as YAML that `load` reads back to the same config."""
    values = loaded.config.model_dump(mode="json", exclude_none=True, exclude=without)
    return config_files.dump(values, loaded.path, loaded.overrides)
