r"""The exact hierarchical prior: fixed effects, group effects given their scales and correlations, and hyperpriors.

Hyperparameters live on the unconstrained line as one vector psi: per group term the logs of its k standard deviations,
then, if correlated, k(k-1)/2 inverse hyperbolic tangents of canonical partial correlations (Lewandowski, Kurowicka &
Joe 2009, J. Multivariate Analysis 100, section 2: :math:`p_{ij} \sim 2\,\mathrm{Beta}(b_j, b_j) - 1` with
:math:`b_j = \eta + (k - 2 - j)/2`, j from 0), or the own hyperparameters of its structure (`fitting.structures`); last the
log residual sd of a Gaussian family. Each Jacobian counts once, here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fitting import families, priors
from fitting import model as models
from fitting.coding import Coding
from fitting.config import ModelConfig
from fitting.errors import ModelError
from fitting.families import Family
from fitting.formula import term_name
from fitting.model import FixedBlock, GroupBlock, Model
from fitting.priors import Prior
from fitting.shrinkage import HorseshoeConfig, Shrinkage

Array = Any
PSI_BOUND = 12.0  # log sds, from the spread of the outcome
LOWEST_SHARE = -30.0


@dataclass(frozen=True)
class Hierarchy:
    """Priors of one model, ready for arithmetic.

    ``fixed_*`` have shape (F,), without the coefficients under ``shrinkage``; ``scale_priors[g]`` holds one prior per
    coefficient of group term g.
    """

    model: Model
    fixed_places: np.ndarray
    fixed_mean: np.ndarray
    fixed_precision: np.ndarray
    scale_priors: tuple[tuple[Prior, ...], ...]
    correlation_priors: tuple[Prior, ...]
    residual_prior: Prior | None
    shrinkage: Shrinkage | None = None

    @property
    def family(self) -> Family:
        """The model's family."""
        return self.model.family

    @cached_property
    def _prior_entries(self) -> np.ndarray:
        """Places that a prior precision is added to, each once: fixed effects, padding (ones), blocks of group effects."""
        diagonal = self.model.tree.diagonal
        return np.concatenate(
            [
                diagonal[self.fixed_places],
                diagonal[self.model.is_padding],
                diagonal[self.shrinkage.places] if self.shrinkage is not None else diagonal[:0],
                *(group.entries.ravel() for group in self.model.groups),
            ]
        )

    @cached_property
    def slices(self) -> list[slice]:
        """The part of psi of each group term."""
        out, start = [], 0
        for group in self.model.groups:
            stop = start + num_hyperparameters(group)
            out.append(slice(start, stop))
            start = stop
        return out

    @property
    def size(self) -> int:
        """Length H of psi."""
        own = 0 if self.shrinkage is None else self.shrinkage.size
        return sum(num_hyperparameters(g) for g in self.model.groups) + own + (self.residual_prior is not None)

    @cached_property
    def shrinkage_slice(self) -> slice:
        """The part of psi of the shrinkage, after all group terms."""
        start = self.slices[-1].stop if self.slices else 0
        return slice(start, start + (0 if self.shrinkage is None else self.shrinkage.size))

    @cached_property
    def spread(self) -> float:
        """What linear predictors are of the size of: the outcome's spread if it is a number, else 1."""
        return outcome_spread(self.model) if self.family.is_number else 1.0

    @cached_property
    def origin(self) -> np.ndarray:
        """Where scales are of the size of their units, shape (H,): the log of the outcome's spread, per unit of what they multiply."""
        origin, coding = np.zeros(self.size), self.model.coding
        spread = self.spread
        for group, part in zip(self.model.groups, self.slices, strict=True):
            sds = [math.log(spread / unscaled(coding, numbers)) for numbers in group.numbers]
            origin[part.start : part.start + len(sds)] = sds
        if self.shrinkage is not None:
            origin[self.shrinkage_slice.start] = math.log(spread)
        if self.residual_prior is not None:
            origin[-1] = math.log(spread)
        return origin

    @cached_property
    def bounds(self) -> np.ndarray:
        """Lowest and highest psi, (2, H): beyond is a numerical accident, not a scale.

        A residual sd, and groups beside it, can be as small a part of the spread of an outcome that is a number as doubles resolve.
        """
        low = np.full(self.size, -PSI_BOUND)
        if self.family.is_number:
            for group, part in zip(self.model.groups, self.slices, strict=True):
                low[part.start : part.start + len(group.coefficient_names)] = LOWEST_SHARE
            low[self.shrinkage_slice.stop :] = LOWEST_SHARE
        return self.origin + np.stack([low, np.full(self.size, PSI_BOUND)])

    def names(self) -> list[str]:
        """Names of the hyperparameters on their natural scale, ``sd(1|state)``, ``cor(1,female|state)``, ``sigma``."""
        out = []
        for group in self.model.groups:
            out += [f"sd({variable})" for variable in group.variables]
            if group.correlated:
                names = group.coefficient_names
                out += [f"cor({names[j]},{names[i]}|{group.name})" for i in range(len(names)) for j in range(i)]
            if group.structure is not None:
                out += [f"{own}({group.variables[0]})" for own in group.structure.hyperparameters]
        out += [] if self.shrinkage is None else self.shrinkage.hyperparameters()
        return out + (["sigma"] if self.residual_prior is not None else [])

    def described(self) -> dict[str, Prior]:
        """The prior of every fixed coefficient and hyperparameter, by its full name."""
        spread = self.fixed_precision**-0.5
        fixed = [Prior("normal", (float(m), round(float(s), 12))) for m, s in zip(self.fixed_mean, spread, strict=True)]
        names = self.model.coefficient_names()[self.fixed_places].tolist()
        out = dict(zip(names, fixed, strict=True))
        for g, (group, part) in enumerate(zip(self.model.groups, self.slices, strict=True)):
            own = [*self.scale_priors[g]]
            if group.correlated:
                own += [self.correlation_priors[g]] * (part.stop - part.start - len(own))
            out |= dict(zip(self.names()[part][: len(own)], own, strict=True))  # a structure's own are its own matter
        return out | ({"sigma": self.residual_prior} if self.residual_prior is not None else {})

    def natural(self, psi: np.ndarray) -> np.ndarray:
        """Standard deviations, correlations and residual sd of every draw of psi, (M, H): shape (M, H)."""
        out = np.array(psi, dtype=np.float64)
        for group, part in zip(self.model.groups, self.slices, strict=True):
            k = len(group.coefficient_names)
            out[:, part.start : part.start + k] = np.exp(psi[:, part.start : part.start + k])
            if group.correlated:
                for m, row in enumerate(psi[:, part.start + k : part.stop]):
                    lower = correlation_cholesky(row, k)
                    out[m, part.start + k : part.stop] = (lower @ lower.T)[np.tril_indices(k, -1)]
            if group.structure is not None:
                out[:, part.start + k : part.stop] = group.structure.natural(psi[:, part.start + k : part.stop])
        out[:, self.shrinkage_slice] = np.exp(psi[:, self.shrinkage_slice])
        if self.residual_prior is not None:
            out[:, -1] = np.exp(psi[:, -1])
        return out

    def residual_sd(self, psi: Array, xp: Any = np) -> Array:
        """Residual sd of a Gaussian family; 1 for the others."""
        return xp.exp(psi[..., -1]) if self.residual_prior is not None else xp.ones(psi.shape[:-1])

    def log_prior(self, psi: Array, xp: Any = np) -> Array:
        """Log density of psi on the unconstrained line, Jacobian included once."""
        total: Any = 0.0
        for g, part in enumerate(self.slices):
            total = total + self._log_prior_of(g, psi[part], xp)
        if self.shrinkage is not None:
            total = total + self.shrinkage.log_prior(psi[self.shrinkage_slice], xp)
        if self.residual_prior is not None:
            total = total + priors.log_density(self.residual_prior, xp.exp(psi[-1]), xp=xp) + psi[-1]
        return total

    def _log_prior_of(self, g: int, psi: Array, xp: Any) -> Array:
        group = self.model.groups[g]
        k = len(group.coefficient_names)
        total: Any = 0.0
        for j in range(k):
            total = total + priors.log_density(self.scale_priors[g][j], xp.exp(psi[j]), xp=xp) + psi[j]
        if group.correlated:
            eta = self.correlation_priors[g].args[0]
            place = k
            for i in range(1, k):
                for j in range(i):
                    total = total + (eta + (k - 2 - j) / 2) * xp.log1p(-(xp.tanh(psi[place]) ** 2))
                    place += 1
        if group.structure is not None:
            total = total + group.structure.log_prior(psi[k:], xp)
        return total

    def group_precision(self, g: int, psi: Array, xp: Any = np) -> tuple[Array, Array]:
        """Prior precision of one block of coefficients in group term g, shape (m, m), and its log determinant."""
        structure = self.model.groups[g].structure
        if structure is not None:
            return structure.precision(psi, xp)
        k = len(self.model.groups[g].coefficient_names)
        if k == 1:
            return xp.exp(-2.0 * psi[0]).reshape(1, 1), -2.0 * psi[0]
        sd = xp.exp(psi[:k])
        if not self.model.groups[g].correlated:
            return xp.diag(sd**-2.0), -2.0 * xp.sum(psi[:k])
        lower = sd[:, None] * correlation_cholesky(psi[k:], k, xp)
        inverse = xp.linalg.inv(lower)
        return inverse.T @ inverse, -2.0 * xp.sum(xp.log(xp.diagonal(lower)))

    def add_prior(
        self, psi: Array, precision: Array, shift: Array, xp: Any = np, reference: np.ndarray | None = None
    ) -> tuple[Array, Array, Array]:
        """Natural parameters, (E,) and (D,), with the prior given psi multiplied in, and the prior's log determinant.

        With a ``reference``, (D,), they are those of the coefficients' distance from it, and the log determinant has what that adds
        to the density of psi.
        """
        about = None if reference is None or not len(reference) else reference
        values: list[Array] = [xp.asarray(self.fixed_precision), xp.ones(int(self.model.is_padding.sum()))]
        log_determinant: Any = float(np.sum(np.log(self.fixed_precision)))
        pulls: list[tuple[np.ndarray, Array]] = []
        if self.shrinkage is not None:
            shrunk = self.shrinkage.precision(psi[self.shrinkage_slice], xp)
            values.append(shrunk)
            log_determinant = log_determinant + xp.sum(xp.log(shrunk))
            if about is not None:
                pulls.append((self.shrinkage.places, shrunk * about[self.shrinkage.places]))  # places: each once
        for g, (group, part) in enumerate(zip(self.model.groups, self.slices, strict=True)):
            block, log_det = self.group_precision(g, psi[part], xp)
            entries = group.entries
            values.append(xp.full(entries.size, block[0, 0]) if block.size == 1 else xp.broadcast_to(block, entries.shape).ravel())
            log_determinant = log_determinant + len(group.blocks) * log_det
            if about is not None and about[group.blocks].any():
                pulls.append((group.blocks.ravel(), (about[group.blocks] @ block).ravel()))
        where, what = self._prior_entries, xp.concatenate(values)
        fixed_shift = self.fixed_precision * (self.fixed_mean if about is None else self.fixed_mean - about[self.fixed_places])
        for places, pull in pulls:
            assert about is not None
            log_determinant = log_determinant - xp.sum(pull * about[places])
            shift = shift.at[places].add(-pull) if xp is not np else _less(shift, places, pull)
        if xp is np:
            precision, shift = precision.copy(), shift.copy()
            precision[where] += what  # every place occurs once
            shift[self.fixed_places] += fixed_shift
            return precision, shift, log_determinant
        return precision.at[where].add(what), shift.at[self.fixed_places].add(fixed_shift), log_determinant

    def log_conditional_prior(self, psi: Array, theta: Array, xp: Any = np) -> Array:
        """``log p(theta | psi)`` without its constant, for one draw, shapes (H,) and (D,)."""
        centred = theta[self.fixed_places] - self.fixed_mean
        total = -0.5 * xp.sum(self.fixed_precision * centred**2)
        if self.shrinkage is not None:
            shrunk = self.shrinkage.precision(psi[self.shrinkage_slice], xp)
            total = total + 0.5 * xp.sum(xp.log(shrunk) - shrunk * theta[self.shrinkage.places] ** 2)
        for g, (group, part) in enumerate(zip(self.model.groups, self.slices, strict=True)):
            block, log_det = self.group_precision(g, psi[part], xp)
            effects = theta[group.blocks]
            total = total + 0.5 * len(effects) * log_det - 0.5 * xp.sum((effects @ block) * effects)
        return total

    def score(self, psi: np.ndarray, second_moments: list[np.ndarray], shrunk: np.ndarray | None = None) -> np.ndarray:
        """Gradient of ``log p(psi) + E log p(theta | psi)`` for given ``E sum theta theta'`` over each term's blocks; shape (H,).

        With moments under the posterior given psi this is the gradient of the marginal log density (Fisher's identity).
        ``shrunk`` are the second moments of the coefficients under shrinkage, (F,). The residual sd's own part is left to
        the caller. Central differences of functions of k <= a few numbers.
        """
        gradient = np.zeros(self.size)
        step = 1e-5
        for g, (part, moment) in enumerate(zip(self.slices, second_moments, strict=True)):
            count = len(self.model.groups[g].blocks)

            def value(x: np.ndarray, g: int = g, count: int = count, moment: np.ndarray = moment) -> float:
                block, log_det = self.group_precision(g, x)
                return float(self._log_prior_of(g, x, np) + 0.5 * count * log_det - 0.5 * np.sum(block * moment))

            for i in range(part.start, part.stop):
                above, below = psi[part].copy(), psi[part].copy()
                above[i - part.start] += step
                below[i - part.start] -= step
                gradient[i] = (value(above) - value(below)) / (2 * step)
        if self.shrinkage is not None and shrunk is not None:
            gradient[self.shrinkage_slice] = self.shrinkage.score(psi[self.shrinkage_slice], shrunk)
        if self.residual_prior is not None:
            ends = [priors.log_density(self.residual_prior, np.exp(psi[-1] + s)) + psi[-1] + s for s in (step, -step)]
            gradient[-1] = float(ends[0] - ends[1]) / (2 * step)
        return gradient


def _less(shift: np.ndarray, places: np.ndarray, pull: np.ndarray) -> np.ndarray:
    out = shift.copy()
    out[places] -= pull  # every place occurs once
    return out


def outcome_spread(model: Model) -> float:
    """Sd of an outcome that is a number, about what the fixed terms are modelled from: its mean if they can be a constant, else zero."""
    outcome = model.coding.outcome
    return outcome.sd if _has_constant(model) else math.hypot(outcome.mean, outcome.sd)


def num_hyperparameters(group: GroupBlock) -> int:
    """Length of a group term's part of psi."""
    k = len(group.coefficient_names)
    own = 0 if group.structure is None else len(group.structure.hyperparameters)
    return k + (k * (k - 1) // 2 if group.correlated else 0) + own


def correlation_cholesky(unconstrained: Array, k: int, xp: Any = np) -> Array:
    """Lower Cholesky factor of a correlation matrix, (k, k), from k(k-1)/2 unconstrained canonical partial correlations."""
    partial = xp.tanh(unconstrained)
    rows, place = [xp.concatenate([xp.ones(1), xp.zeros(k - 1)])], 0
    for i in range(1, k):
        entries: list[Array] = []
        rest: Any = 1.0
        for _ in range(i):
            entries.append(partial[place] * xp.sqrt(rest))
            rest = rest * (1.0 - partial[place] ** 2)
            place += 1
        rows.append(xp.concatenate([xp.stack([*entries, xp.sqrt(rest)]), xp.zeros(k - i - 1)]))
    return xp.stack(rows)


def of_config(config: ModelConfig, coding: Coding) -> Hierarchy:
    """The model of a config on a coding, with its priors: those that are written, defaults for the others."""
    family = families.make(config.family, config.link, coding.outcome.categories)
    if family.is_number and not coding.outcome.sd > 0:
        raise ModelError("data.outcome", "one value in all rows", "numbers that differ: there is no spread to model")
    built = models.build(
        config.parsed_formula(), coding, family, config.structures(), config.splines, config.multi_membership
    )
    defaults, written = priors.default_priors(family, outcome_spread(built), coding.outcome.mean), config.parsed_priors()
    return build(built, defaults | written, config.horseshoe(), frozenset(defaults) - frozenset(written))


def build(
    model: Model, chosen: Mapping[str, Prior], horseshoe: HorseshoeConfig | None = None, defaults: frozenset[str] = frozenset()
) -> Hierarchy:
    """Priors of a model: by class (``intercept``, ``b``, ``sd``, ``cor``, ``sigma``; all needed), or by a term's own name.

    A term has one name for all linear predictors of a family: ``1|state`` is that of every category.

    Parameters
    ----------
    defaults
        Classes that nobody chose. Their priors follow the units of the data: a coefficient per unit of a column that is not scaled has
        the prior of one per sd, turned into that unit, and a constant at the zero of a number that is not centred is given the room
        that the slopes' priors leave it there.
    """
    places, mean, precision = [], [], []
    shrunk: list[int] = []
    for block in model.fixed:
        if horseshoe is not None and block.columns and _key(block) not in chosen:
            shrunk += block.coefficients.tolist()
            continue
        prior = _fixed_prior(model, block, chosen, defaults)
        for place in block.coefficients:
            places.append(place)
            mean.append(prior.args[0])
            precision.append(prior.args[1] ** -2.0)
    scales = []
    for group in model.groups:
        prefix = model.family.prefixes[group.predictor]
        of_term = []
        for variable, part in zip(group.variables, group.numbers, strict=True):
            name = variable.removeprefix(prefix)
            is_default = name not in chosen and "sd" in defaults
            of_term.append(chosen.get(name, chosen["sd"]).times(1.0 / unscaled(model.coding, part) if is_default else 1.0))
        scales.append(tuple(of_term))
    hierarchy = Hierarchy(
        model,
        np.array(places, dtype=np.int64),
        np.array(mean, dtype=np.float64),
        np.array(precision, dtype=np.float64),
        tuple(scales),
        tuple(chosen["cor"] for _ in model.groups),
        chosen["sigma"] if model.family.has_residual_scale else None,
        _shrinkage(model, shrunk, horseshoe) if horseshoe is not None and shrunk else None,
    )
    check_names(hierarchy)
    return hierarchy


def check_names(hierarchy: Hierarchy) -> None:
    """Refuse a model two of whose parameters have one name: files and audits know parameters by their names.

    Raises
    ------
    ModelError
        Levels or categories spell what another term, level or category spells: ``a]:g[b`` of f, and ``a`` of f with ``b`` of g.
    """
    model = hierarchy.model
    natural = families.natural_own(model.family, np.zeros((1, len(model.family.own))))
    variables = [name for group in model.groups for name in group.variables]
    names = [*hierarchy.names(), *(name for name, _ in natural), *variables]
    count = Counter([*names, *model.coefficient_names()[~model.is_padding].tolist()])
    repeated = [name for name, times in count.items() if times > 1]
    if repeated:
        raise ModelError(
            f"parameter {repeated[0]!r}", f"{count[repeated[0]]} parameters of that name",
            "names that differ. Rename a level or a category whose name has ':', '[' or ']' in it",
        )  # fmt: skip


def _has_constant(model: Model) -> bool:
    """Whether the fixed terms can be the same number for everybody: by an intercept, cutpoints, or all levels of a factor."""
    return not model.family.has_intercept or constant_of(model) is not None


def constant_of(model: Model) -> FixedBlock | None:
    """The block whose coefficients, all the same number, are that number for everybody."""
    return next((block for block in model.fixed if block.is_intercept or _is_levels(model, block)), None)


def _is_levels(model: Model, block: FixedBlock) -> bool:
    """Whether the coefficients are the means of groups: every level, or combination of levels, has one, and no number is in them."""
    return bool(block.columns) and block.full == frozenset(block.columns)


def _fixed_prior(model: Model, block: FixedBlock, chosen: Mapping[str, Prior], defaults: frozenset[str]) -> Prior:
    if block.is_own:
        own, is_location = chosen[block.names[0]], block.names[0] in model.family.locations
        return _with_room(model, own) if is_location and block.names[0] in defaults else own
    if block.columns and _key(block) in chosen:
        return chosen[_key(block)]
    of_class = "intercept" if block.is_intercept else "b"
    if of_class not in defaults:
        return chosen[of_class]
    has_intercept = any(other.is_intercept for other in model.fixed)
    if block.is_intercept or (_is_levels(model, block) and not has_intercept and model.family.has_intercept):
        return _with_room(model, chosen["intercept"]) if "intercept" in defaults else chosen["intercept"]
    return chosen["b"].times(1.0 / unscaled(model.coding, block.columns))


def _key(block: FixedBlock) -> str:
    return priors.term_key(term_name(block.columns))


def unscaled(coding: Coding, columns: Sequence[str]) -> float:
    """Product of the sds of the numbers among some columns that keep their unit."""
    kept = [coding.numerics[c].scale for c in columns if c in coding.numerics and coding.numerics[c].keep_unit]
    return float(np.prod(kept))


def _with_room(model: Model, prior: Prior) -> Prior:
    mean, sd = prior.args
    return Prior(prior.name, (mean, sd * _room_at_zero(model)))


def _room_at_zero(model: Model) -> float:
    """How much wider a constant is believed to be where numbers are zero than where they are at their means.

    Slopes per sd have the constant's own prior width, so ``a = a' - sum_j b_j m_j / s_j`` has that times the root of
    ``1 + sum_j (m_j / s_j)^2``, over the fixed terms with numbers that are not centred.
    """
    total = 1.0
    for columns, centred in dict.fromkeys((b.columns, b.centred) for b in model.fixed if b.predictor == 0 and b.columns):
        numerics = [model.coding.numerics[c] for c in columns if c in model.coding.numerics and c not in centred]
        away = [1.0 + (n.center / n.scale) ** 2 for n in numerics if not n.binary]
        total += float(np.prod(away)) - 1.0
    return math.sqrt(total)


def _shrinkage(model: Model, places: list[int], config: HorseshoeConfig) -> Shrinkage:
    names = model.coefficient_names()[places].tolist()
    return Shrinkage(np.array(places, dtype=np.int64), tuple(names), config.scale, config.slab)
