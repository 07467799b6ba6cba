"""Errors of the fitting layer. Each says where, what was found, what was expected, and what to do; each pickles."""


class FittingError(Exception):
    """Base of every error that this package raises on purpose."""


class FormulaError(FittingError, ValueError):
    """A model formula that cannot be read, or that asks for something formulas here do not have.

    ``position`` counts characters of ``formula`` from 1.
    """

    def __init__(self, formula: str, position: int, found: str, expected: str):
        self.formula, self.position, self.found, self.expected = formula, position, found, expected
        super().__init__(f"formula {formula!r}, character {position}: found {found}; expected {expected}")

    def __reduce__(self):
        return type(self), (self.formula, self.position, self.found, self.expected)


class PriorError(FittingError, ValueError):
    """A prior that cannot be read, or that does not suit the parameter it is written for."""

    def __init__(self, prior: str, found: str, expected: str):
        self.prior, self.found, self.expected = prior, found, expected
        super().__init__(f"prior {prior!r}: found {found}; expected {expected}")

    def __reduce__(self):
        return type(self), (self.prior, self.found, self.expected)


class ModelError(FittingError, ValueError):
    """A formula, its priors and the data's dictionary do not fit together."""

    def __init__(self, where: str, found: str, expected: str):
        self.where, self.found, self.expected = where, found, expected
        super().__init__(f"{where}: found {found}; expected {expected}")

    def __reduce__(self):
        return type(self), (self.where, self.found, self.expected)


class ImproperPosteriorError(FittingError):
    """The product of prior and sites is not a distribution, so it has no draws."""

    def __init__(self, where: str, min_eigenvalue: float):
        self.where, self.min_eigenvalue = where, min_eigenvalue
        super().__init__(
            f"{where}: the precision has smallest eigenvalue {min_eigenvalue:.3g}, expected > 0. "
            "Lower `fit.damping`, or merge small shards."
        )

    def __reduce__(self):
        return type(self), (self.where, self.min_eigenvalue)


class ImproperCavityError(FittingError):
    """The cavity of a shard is not a distribution, so its tilted distribution cannot be fitted."""

    def __init__(self, shard_id: str, min_eigenvalue: float):
        self.shard_id, self.min_eigenvalue = shard_id, min_eigenvalue
        super().__init__(
            f"shard {shard_id!r}: the cavity precision has smallest eigenvalue {min_eigenvalue:.3g}, expected > 0. "
            "Lower `fit.damping`, or merge the shard with a neighbour."
        )

    def __reduce__(self):
        return type(self), (self.shard_id, self.min_eigenvalue)
