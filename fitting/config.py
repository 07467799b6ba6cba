"""What a person writes under ``model:``, ``fit:`` and ``audit:``. Frozen; a key that is not known is an error."""

from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PositiveInt, Tag, field_validator, model_validator

from fitting import columns as data_columns
from fitting import families
from fitting import formula as formulas
from fitting import priors as prior_texts
from fitting import splines as smooth
from fitting.columns import DataColumns
from fitting.errors import PriorError
from fitting.families import ALIASES, OUTCOMES
from fitting.members import MembershipConfig
from fitting.priors import Prior, Role
from fitting.shrinkage import HorseshoeConfig
from fitting.splines import SplineConfig
from fitting.structures import StructureConfig

Family = Literal[
    "bernoulli", "binomial", "beta_binomial", "poisson", "negative_binomial", "gaussian", "student_t", "categorical", "ordinal"
]  # fmt: skip
Link = Literal["logit", "probit", "cloglog", "log", "identity", "softmax"]

_ROLES: dict[str, Role] = {
    "intercept": "coefficient",
    "b": "coefficient",
    "sd": "scale",
    "cor": "correlation",
    "sigma": "scale",
}


class Frozen(BaseModel):
    """Base of the configs of this package."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Frozen):
    """``model:`` what is modelled, and what is believed beforehand."""

    formula: str = Field(description="lme4/brms notation, for example voted ~ 1 + female + (1 | state/county).")
    family: Family = Field(description="Distribution of the outcome.")
    link: Link | None = Field(
        default=None,
        description="Of bernoulli and binomial: logit (if not given), probit or cloglog; others have one link.",
    )
    priors: dict[str, str | StructureConfig | HorseshoeConfig] = Field(
        default_factory=dict,
        description="By class (intercept, b, sd, cor, sigma), by fixed term (female, race:age), by scale (1|state), or by "
        "own parameter (log_shape). A scale can have a structure: {structure: random_walk, order: 1, sd: half_normal(1)}.",
    )
    splines: dict[str, SplineConfig] = Field(
        default_factory=dict,
        description="Smooth effects by their numeric columns: income: {df: 10, degree: 3, sd: half_normal(1)}. With the column "
        "in the formula as well its slope is a fixed effect.",
    )
    multi_membership: dict[str, MembershipConfig] = Field(
        default_factory=dict,
        description="Grouping factors of the formula, (1 | area), that stand for several columns: area: {columns: [area_1, area_2], "
        "weights: [share_1, share_2]}.",
    )

    @field_validator("formula")
    @classmethod
    def _read_formula(cls, text: str) -> str:
        formulas.parse(text)
        return text

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        formula = self.parsed_formula()
        effects = {c for term in (*formula.fixed, *(t for g in formula.groups for t in g.coefficients)) for c in term}
        for name, config in self.multi_membership.items():
            own = [group for group in formula.groups if name in group.columns]
            if not own or name in effects or any(group.columns != (name,) for group in own):
                raise ValueError(
                    f"multi_membership: expected {name!r} in the formula as in (1 | {name}), and nowhere else"
                )
            if {name, formula.outcome} & {*config.columns, *config.weight_columns}:
                raise ValueError(f"multi_membership: {name!r} or the outcome among its own columns; expected others")
        for column in self.splines:
            if column == formula.outcome or column in self.multi_membership:
                role = "the outcome" if column == formula.outcome else "a grouping factor of several columns"
                raise ValueError(f"splines: {column!r} is {role}; expected a numeric predictor")
        return self

    @model_validator(mode="after")
    def _check_priors(self) -> Self:
        self.parsed_priors()
        if OUTCOMES[ALIASES.get(self.family, self.family)] != "category":  # categories are known from the data
            families.make(self.family, self.link)
        elif self.link is not None:
            families.make(self.family, self.link, ("a", "b", "c"))
        return self

    def parsed_formula(self) -> formulas.Formula:
        """The formula, read."""
        return formulas.parse(self.formula)

    def data_columns(self) -> DataColumns:
        """The columns of the data that the model reads, by their roles."""
        return data_columns.of(self.parsed_formula(), self.splines, self.multi_membership)

    def parsed_priors(self) -> dict[str, Prior]:
        """The priors that were written, by their keys; those of the sds of structured terms among them.

        A class that is not among them has its default.
        """
        formula = self.parsed_formula()
        roles = dict(_ROLES)
        if self.family != "gaussian":
            del roles["sigma"]
        for term in formula.fixed[formulas.INTERCEPT in formula.fixed :]:
            roles[prior_texts.term_key(formulas.term_name(term))] = "coefficient"
        for group in formula.groups:
            roles |= dict.fromkeys(group.names, "scale")
        roles |= dict.fromkeys(self._own(), "coefficient")
        roles |= dict.fromkeys(map(smooth.name, self.splines), "scale")
        parsed = {
            smooth.name(column): prior_texts.parse(spline.sd, "scale")
            for column, spline in self.splines.items()
            if spline.sd is not None
        }
        for key, text in self.priors.items():
            if key not in roles:
                close = get_close_matches(key, roles, n=1)
                hint = f"{close[0]!r}, perhaps" if close else "one of " + ", ".join(roles)
                raise ValueError(f"priors: {key!r} is neither a class nor a term of the model; expected {hint}")
            if key in parsed:
                raise ValueError(f"priors: {key!r} has the prior `sd` under `splines`; expected one of the two")
            if isinstance(text, HorseshoeConfig):
                if key != "b":
                    raise ValueError(f"priors: {key!r} is a horseshoe; expected one for b, all fixed coefficients")
                continue
            if not isinstance(text, str):
                if "|" not in key:
                    raise ValueError(
                        f"priors: {key!r} has a structure; expected one only for a group term such as 1|{key}"
                    )
                if text.sd is not None:
                    parsed[key] = prior_texts.parse(text.sd, "scale")
                continue
            try:
                parsed[key] = prior_texts.parse(text, roles[key])
            except PriorError as error:
                raise ValueError(f"priors: {key!r}: {error}") from None
        return parsed

    def structures(self) -> dict[str, StructureConfig]:
        """The structured priors, by the names of their terms' coefficients (``1|age``)."""
        return {key: value for key, value in self.priors.items() if not isinstance(value, str | HorseshoeConfig)}

    def ordered_columns(self) -> dict[str, str]:
        """Columns whose levels need an order, with what needs it: the outcome of an ordinal family, factors with such a structure."""
        outcome = {self.parsed_formula().outcome: "the family ordinal"} if self.family == "ordinal" else {}
        return outcome | {
            key.rpartition("|")[2].split(":")[-1]: f"the structure {config.structure} of {key}"
            for key, config in self.structures().items()
            if config.needs_order
        }

    def horseshoe(self) -> HorseshoeConfig | None:
        """The horseshoe on the fixed coefficients, if there is one."""
        prior = self.priors.get("b")
        return prior if isinstance(prior, HorseshoeConfig) else None

    def _own(self) -> tuple[str, ...]:
        name = ALIASES.get(self.family, self.family)
        if name == "ordinal":  # how many there are is known from the data
            return ("cutpoint_1", *(f"log_step_{k}" for k in range(2, 20)))
        return () if OUTCOMES[name] == "category" else families.make(name).own


class _RoundsConfig(Frozen):
    """What every method shares: rounds over the shards, then draws from the merged posterior."""

    rounds: PositiveInt = Field(default=20, description="Rounds over all shards at most; 1 is a one-shot merge.")
    tolerance: float = Field(
        default=0.01, gt=0, description="Rounds stop when no mean moves by more posterior sds than this."
    )
    damping: float = Field(default=1.0, gt=0, le=1, description="Fraction of the full site step. 1 is undamped.")
    draws: PositiveInt = Field(default=250, description="Posterior draws kept, per chain; nearly independent.")
    chains: PositiveInt = Field(default=4, description="Chains of posterior draws.")
    min_ess: float = Field(
        default=400.0,
        gt=0,
        description="Effective draws of every scale, bulk and tail: more proposals are made for each draw, up to eight, until "
        "there are as many; the audit warns of a scale that has fewer.",
    )
    spread: Literal["model", "sandwich"] = Field(
        default="model",
        description="sandwich: corrected for survey weights (data.weight), people sampled independently.",
    )


class LaplaceConfig(_RoundsConfig):
    """Sites from the curvature at the mode."""

    method: Literal["laplace"] = "laplace"


class VIConfig(_RoundsConfig):
    """Variational sites: a full-covariance Gaussian, expectations by quadrature, no noise."""

    method: Literal["vi"] = "vi"
    quadrature_nodes: PositiveInt = Field(default=11, le=99, description="Gauss-Hermite nodes per cell.")


class NUTSConfig(_RoundsConfig):
    """Expectation propagation: the moments of each shard's tilted distribution by NUTS."""

    method: Literal["nuts"] = "nuts"
    shard_draws: PositiveInt = Field(default=250, description="Draws kept per shard, chain and round.")
    shard_warmup: PositiveInt = Field(default=100, description="Draws per shard, chain and round to tune the step.")
    shard_chains: PositiveInt = Field(default=4, ge=2, description="Chains per shard; two at least, for R-hat.")


class ExactConfig(VIConfig):
    """Full-data NUTS, preconditioned by the posterior that variational rounds merge. No approximation; slowest."""

    method: Literal["exact"] = "exact"  # type: ignore[assignment]
    warmup: PositiveInt = Field(default=300, description="Warm-up draws per chain.")


class ClassicConfig(Frozen):
    """A classic combiner: every shard sampled by NUTS under its share of the prior, merged once. A baseline."""

    method: Literal["classic"] = "classic"
    combiner: Literal["consensus", "gaussian", "nonparametric", "semiparametric", "pie", "barycenter", "swiss"] = Field(
        default="consensus", description="How subposteriors are merged; docs/combiners.md says which fails when."
    )
    draws: PositiveInt = Field(default=500, description="Draws kept per chain, of every shard and of the merge.")
    chains: PositiveInt = Field(default=4, ge=2, description="Chains per shard; two at least, for R-hat.")
    warmup: PositiveInt = Field(default=500, description="Warm-up draws per shard and chain.")

    @property
    def rounds(self) -> int:
        """A classic merge has one."""
        return 1

    @property
    def spread(self) -> str:
        """It knows no other."""
        return "model"


def _method(value: Any) -> Any:
    return value.get("method", "vi") if isinstance(value, dict) else getattr(value, "method", None)


FitConfig = Annotated[
    Annotated[VIConfig, Tag("vi")]
    | Annotated[LaplaceConfig, Tag("laplace")]
    | Annotated[NUTSConfig, Tag("nuts")]
    | Annotated[ExactConfig, Tag("exact")]
    | Annotated[ClassicConfig, Tag("classic")],
    Discriminator(_method),
]
"""``fit:`` one config per method; ``vi`` where no method is written."""


class WarnAbove(Frozen):
    """Limits of the audit that make the verdict ``warn``."""

    score: float = Field(default=0.1, gt=0, description="Error of a coefficient's mean, in posterior sds.")
    log_ratio_sd: float = Field(default=1.0, gt=0, description="Sd of the log importance ratio, all shards together.")
    k_hat: float = Field(default=0.5, description="Pareto k of the importance ratios.")
    scale_shift: float = Field(default=0.1, gt=0, description="Error of a scale's mean, in posterior sds.")
    scale_sd: float = Field(default=0.05, gt=0, description="Error of a scale's log posterior sd: 0.05 is 5% too narrow.")
    rows: float = Field(default=0.05, ge=0, description="Share of known outcomes, or of people, left out without having been declared.")
    new_levels: float = Field(default=0.05, ge=0, description="Share of a frame's people on levels of a column that the data did not have.")
    outside: float = Field(default=0.01, ge=0, description="Share of people with a number outside of what was fitted.")
    weights: float = Field(default=10.0, ge=1, description="Design effect of survey weights: known outcomes over effective ones (Kish).")


class FailAbove(Frozen):
    """Limits of the audit that make the verdict ``fail``."""

    score: float = Field(default=0.3, gt=0, description="Error of a coefficient's mean, in posterior sds.")
    log_ratio_sd: float = Field(default=2.0, gt=0, description="Sd of the log importance ratio, all shards together.")
    k_hat: float = Field(default=0.7, description="Pareto k of the importance ratios.")
    scale_shift: float = Field(default=0.5, gt=0, description="Error of a scale's mean, in posterior sds.")
    scale_sd: float = Field(default=0.4, gt=0, description="Error of a scale's log posterior sd: 0.4 is a third too narrow.")
    rows: float = Field(default=0.5, ge=0, description="Share of known outcomes, or of people, left out without having been declared.")
    new_levels: float = Field(default=1.0, ge=0, description="Share of a frame's people on levels of a column that the data did not have.")
    outside: float = Field(default=1.0, ge=0, description="Share of people with a number outside of what was fitted.")
    weights: float = Field(default=100.0, ge=1, description="Design effect of survey weights: known outcomes over effective ones (Kish).")


class AuditConfig(Frozen):
    """``audit:`` how closely the merged posterior is checked against all of the data."""

    draws: PositiveInt = Field(default=1000, ge=100, description="Draws at which every shard's likelihood is computed.")
    warn_above: WarnAbove = WarnAbove()
    fail_above: FailAbove = FailAbove()
    max_extra_rounds: int = Field(default=3, ge=0, description="Damped rounds more while the audit fails.")

    @model_validator(mode="after")
    def _order(self) -> Self:
        for name in WarnAbove.model_fields:
            warn, fail = getattr(self.warn_above, name), getattr(self.fail_above, name)
            if warn > fail:
                raise ValueError(f"{name}: warn_above {warn} is higher than fail_above {fail}; expected the reverse")
        return self
