"""Priors by name: ``parse("half_normal(1)")``, and their log densities.

==============================  ===========  =====================================================
``normal(mean, sd)``            coefficient  also the intercept
``half_normal(scale)``          scale        sds of group terms and the residual sd
``exponential(rate)``           scale        mean is ``1 / rate``
``half_student_t(df, scale)``   scale
``half_cauchy(scale)``          scale
``lkj(concentration)``          correlation  1 is uniform over correlation matrices, more pulls to zero
==============================  ===========  =====================================================

Densities are normalised, so that evidence and power-scaling can use them, and they are arithmetic of an array module
(``xp=numpy`` or ``xp=jax.numpy``). LKJ: Lewandowski, Kurowicka & Joe (2009), "Generating random correlation matrices
based on vines and extended onion method", J. Multivariate Analysis 100.
"""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy
from scipy.special import gammaln, multigammaln

from fitting.errors import PriorError

if TYPE_CHECKING:
    from fitting.families import Family

Role = Literal["coefficient", "scale", "correlation"]
"""What a prior is for. Signs and shapes differ, so a prior of one role does not do for another."""


class _Kind(NamedTuple):
    role: Role
    arguments: tuple[str, ...]
    positive: tuple[bool, ...]


_KINDS = {
    "normal": _Kind("coefficient", ("mean", "sd"), (False, True)),
    "half_normal": _Kind("scale", ("scale",), (True,)),
    "exponential": _Kind("scale", ("rate",), (True,)),
    "half_student_t": _Kind("scale", ("df", "scale"), (True, True)),
    "half_cauchy": _Kind("scale", ("scale",), (True,)),
    "lkj": _Kind("correlation", ("concentration",), (True,)),
}
_OWN = {"log_shape": (1.0, 1.5), "log_precision": (3.0, 1.5), "log_nu": (2.3, 0.8)}
CLASSES = ("intercept", "b", "sd", "cor", "sigma")
"""Keys of priors that stand for all parameters of a kind."""
_PARAMETER = re.compile("Intercept|sigma|nu|shape|precision|log_(sigma|nu|shape|precision)|cutpoint_1|log_step_[0-9]+")
_CALL = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*")


class Prior(NamedTuple):
    """A prior as ``parse`` returns it. ``parse(str(prior)) == prior``."""

    name: str
    args: tuple[float, ...]

    @property
    def role(self) -> Role:
        """What this kind of prior may be put on."""
        return _KINDS[self.name].role

    def times(self, factor: float) -> Prior:
        """The prior of the parameter times ``factor``, as of another unit."""
        if factor == 1.0:
            return self
        if self.name == "exponential":
            return Prior(self.name, (self.args[0] / factor,))
        if self.name == "half_student_t":
            return Prior(self.name, (self.args[0], self.args[1] * factor))
        return Prior(self.name, tuple(arg * factor for arg in self.args))

    def __str__(self) -> str:
        return f"{self.name}({', '.join(_number(value) for value in self.args)})"


def parameter_name(term: str) -> str:
    """Name of a fixed term's coefficient: the term's own, in backquotes where a parameter of some family has it."""
    return f"`{term}`" if _PARAMETER.fullmatch(term) else term


def term_key(term: str) -> str:
    """Key of a fixed term's prior: its name, in backquotes where a class or a parameter has it."""
    return f"`{term}`" if term in CLASSES else parameter_name(term)


def parse(text: str, role: Role | None = None) -> Prior:
    """Read a prior; with ``role``, also check that it suits such a parameter.

    Raises
    ------
    PriorError
        For an unknown name, a wrong number of arguments, an argument that is not a number or not positive where it has
        to be, or a prior of another role.
    """
    known = [name for name, kind in _KINDS.items() if role in (None, kind.role)]
    allowed = ", ".join(_signature(name) for name in known)
    match = _CALL.fullmatch(text)
    if match is None:
        raise PriorError(text, "something other than name(numbers)", allowed)
    name, arguments = match[1], [part.strip() for part in match[2].split(",")]
    if name not in _KINDS:
        close = get_close_matches(name, known, n=1)
        raise PriorError(text, f"unknown name {name!r}", f"{_signature(close[0])}, perhaps" if close else allowed)
    kind = _KINDS[name]
    if role not in (None, kind.role):
        raise PriorError(text, f"a prior for a {kind.role}", f"one for a {role}: {allowed}")
    if len(arguments) != len(kind.arguments) or "" in arguments:
        found = len([part for part in arguments if part])
        raise PriorError(text, f"{found} argument{'' if found == 1 else 's'}", _signature(name))
    return Prior(name, tuple(_argument(text, *found) for found in zip(arguments, *kind[1:], strict=True)))


def log_density(prior: Prior, x: Any, xp: Any = numpy) -> Any:
    """Log density at ``x``, elementwise; minus infinity outside the support.

    For ``lkj``, ``x`` is the lower Cholesky factor of a correlation matrix, shape (..., d, d), and the density is over
    such factors (over the correlation when d is 2), shape (...).
    """
    args = prior.args
    if prior.name == "normal":
        mean, sd = args
        return -0.5 * ((x - mean) / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi))
    if prior.name == "lkj":
        return _lkj_cholesky(args[0], x, xp)
    return xp.where(x < 0, -xp.inf, _positive_log_density(prior, x, xp))


def default_priors(family: Family, outcome_sd: float = 1.0, outcome_mean: float = 0.0) -> dict[str, Prior]:
    """Weakly informative priors by class: ``intercept``, ``b``, ``sd``, ``cor``, ``sigma`` if gaussian, and own parameters.

    They are on the scale of the linear predictor, for predictors in sds; ``fitting.hierarchy.build`` turns them into other units. As in rstanarm
    (vignette "Prior Distributions for rstanarm Models"): intercept and coefficients have sd 2.5, times the outcome's sd
    if it is a number (gaussian, student_t), and the residual sd is exponential with the outcome's sd as its mean. For the
    sds of group terms, a half-normal, as in bambi, of scale 1 (times the outcome's sd); for correlations lkj(1), as in both.

    A likelihood's own parameters have normal priors on the unconstrained line, lognormal ones of the parameter itself, each
    wide enough to leave a factor of 10 either way: shape of a negative binomial around 3, precision of a beta-binomial
    around 20, sigma of a Student t around the outcome's sd, its degrees of freedom around 10 (from 2 to 50 at 95%).
    """
    unit, centre = (outcome_sd, outcome_mean) if family.is_number else (1.0, 0.0)
    priors = {
        "intercept": Prior("normal", (centre, 2.5 * unit)),
        "b": Prior("normal", (0.0, 2.5 * unit)),
        "sd": Prior("half_normal", (unit,)),
        "cor": Prior("lkj", (1.0,)),
    }
    own = {name: Prior("normal", _OWN.get(name, (0.0, 1.5))) for name in family.own}
    if family.name == "student_t":
        own["log_sigma"] = Prior("normal", (math.log(unit), 1.0))
    if family.name == "ordinal":
        own["cutpoint_1"] = Prior("normal", (0.0, 2.5))
    return priors | own | ({"sigma": Prior("exponential", (1 / unit,))} if family.name == "gaussian" else {})


def _positive_log_density(prior: Prior, x: Any, xp: Any) -> Any:
    args = prior.args
    if prior.name == "half_normal":
        return -0.5 * (x / args[0]) ** 2 + 0.5 * math.log(2 / math.pi) - math.log(args[0])
    if prior.name == "exponential":
        return math.log(args[0]) - args[0] * x
    df, scale = args if prior.name == "half_student_t" else (1.0, args[0])
    constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * math.log(df * math.pi) + math.log(2 / scale)
    return float(constant) - (df + 1) / 2 * xp.log1p((x / scale) ** 2 / df)


def _lkj_cholesky(concentration: float, x: Any, xp: Any) -> Any:
    """Row i (from 1) of the factor has its diagonal to the power d - i + 2 (concentration - 1)."""
    dimension = x.shape[-1]
    powers = dimension - numpy.arange(2, dimension + 1) + 2 * (concentration - 1)
    diagonal = xp.diagonal(x, axis1=-2, axis2=-1)[..., 1:]
    shape = concentration + (dimension - 1) / 2
    log_normaliser = 0.0
    if dimension > 1:
        log_normaliser = float(
            (dimension - 1) / 2 * math.log(math.pi)
            + multigammaln(shape - 0.5, dimension - 1)
            - (dimension - 1) * gammaln(shape)
        )
    return (powers * xp.log(diagonal)).sum(-1) - log_normaliser


def _argument(text: str, value: str, name: str, positive: bool) -> float:
    try:
        number = float(value)
    except ValueError:
        raise PriorError(text, f"{name} {value!r}", "a number") from None
    if not math.isfinite(number) or (positive and number <= 0):
        raise PriorError(text, f"{name} {value}", "a positive number" if positive else "a finite number")
    return number


def _signature(name: str) -> str:
    return f"{name}({', '.join(_KINDS[name].arguments)})"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
