"""The config of a run of a user's own NumPyro model (`caucus run-model`): what goes in is rows, not cells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, PositiveInt, Tag, ValidationError, model_validator

from cluster import config_files
from cluster.config import Frozen, RunSection
from cluster.errors import ConfigError
from cluster.problems import explain
from fitting.config import AuditConfig
from sharding.config import Name, PrivacyConfig

Guide = Literal[
    "AutoMultivariateNormal", "AutoLowRankMultivariateNormal", "AutoDiagonalNormal", "AutoNormal",
    "AutoLaplaceApproximation", "AutoIAFNormal", "AutoBNAFNormal", "AutoDAIS",
]  # fmt: skip


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class UserModelSection(Frozen):
    """``model:`` the user's code."""

    file: Name = Field(
        description="Python file that defines `MODEL`, a `fitting.user_model.ShardedModel`; inside the config's folder. "
        "It is executed, so `caucus run-model` also needs `--allow-code`."
    )


class UserDataConfig(Frozen):
    """``data:`` Parquet files, and the columns that may be read."""

    source: Annotated[tuple[Name, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        description="Path, fsspec URL, directory or glob of Parquet files, or a list of these."
    )
    columns: tuple[Name, ...] = Field(min_length=1, description="Columns that the model sees. No other is read.")
    missing: Literal["quarantine", "error"] = Field(
        default="error",
        description="Rows with a missing value in one of the columns: an error, or left out and counted.",
    )
    terms_of_use: Name = Field(description="Under which terms the data may be used.")
    privacy: PrivacyConfig = PrivacyConfig()


class UserShardsConfig(Frozen):
    """``shards:`` one shard per level of a column."""

    by: Name = Field(description="Column of the files; it need not be one of `data.columns`.")


class _UserFit(Frozen):
    rounds: PositiveInt = Field(default=6, description="Rounds over all shards at most.")
    tolerance: float = Field(default=0.05, gt=0, description="Rounds stop when no mean moves by more posterior sds.")
    damping: float = Field(
        default=1.0, gt=0, le=1, description="Fraction of the full site step, from the second round on."
    )
    draws: Annotated[int, Field(ge=25)] = Field(default=250, description="Posterior draws kept, per chain.")
    chains: Annotated[int, Field(ge=2)] = Field(default=4, description="Chains of posterior draws.")


class UserNUTSConfig(_UserFit):
    """Each shard's tilted distribution by NUTS."""

    method: Literal["nuts"] = "nuts"
    shard_draws: PositiveInt = Field(default=300, description="Draws kept per shard, chain and round.")
    shard_warmup: PositiveInt = Field(default=300, description="Warm-up draws per shard, chain and round.")
    shard_chains: PositiveInt = Field(default=4, ge=2, description="Chains per shard.")


class UserVIConfig(_UserFit):
    """Each shard's tilted distribution by a variational guide of NumPyro."""

    method: Literal["vi"] = "vi"
    guide: Guide = Field(default="AutoMultivariateNormal", description="Name of the guide in numpyro.infer.autoguide.")
    steps: PositiveInt = Field(default=3000, description="Optimisation steps per shard and round.")
    particles: PositiveInt = Field(default=8, description="Draws per step.")


def _method(value: Any) -> Any:
    return value.get("method", "nuts") if isinstance(value, dict) else getattr(value, "method", None)


UserFitConfig = Annotated[
    Annotated[UserNUTSConfig, Tag("nuts")] | Annotated[UserVIConfig, Tag("vi")], Discriminator(_method)
]


class UserRunConfig(Frozen):
    """A whole run of a user's own model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Letters, digits, `.`, `_` and `-`.")
    data: UserDataConfig
    model: UserModelSection
    shards: UserShardsConfig
    fit: UserFitConfig = Field(default_factory=UserNUTSConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    run: RunSection

    @model_validator(mode="after")
    def _relative(self) -> UserRunConfig:
        parts = self.model.file.replace("\\", "/").split("/")
        if self.model.file.startswith(("/", "~")) or ".." in parts or "://" in self.model.file:
            raise ValueError("model: 'file' is a path inside the config's folder, without `..`")
        return self

    @model_validator(mode="after")
    def _alone(self) -> UserRunConfig:
        self.run.require_single_shards("a model of your own")
        return self


@dataclass(frozen=True)
class UserLoaded:
    """A valid config, the file that it came from, and the ``--set`` that were applied."""

    config: UserRunConfig
    path: str
    overrides: tuple[str, ...]


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> UserLoaded:
    """Read, override and validate a config.

    Raises
    ------
    ConfigError
        With every problem found, each with its line.
    """
    source, whole, folder = config_files.read(path, overrides)
    config_files.resolve(source.values, folder, [("data", "source")])
    try:
        config = UserRunConfig.model_validate(source.values)
    except ValidationError as error:
        raise ConfigError(explain(error, source, UserRunConfig)) from None
    return UserLoaded(config, whole, tuple(overrides))


def dump(loaded: UserLoaded) -> str:
    """Return the resolved config as YAML."""
    return config_files.dump(loaded.config.model_dump(mode="json", exclude_none=True), loaded.path, loaded.overrides)
