"""Errors of user-written models. Each says where, what was found, what was expected, and what to do; each pickles."""

from fitting.errors import FittingError


class UserModelError(FittingError, ValueError):
    """A user's model, or what was declared about it, cannot be fitted in shards."""

    def __init__(self, where: str, found: str, expected: str, do: str):
        self.where, self.found, self.expected, self.do = where, found, expected, do
        super().__init__(f"{where}: found {found}; expected {expected}. {do}")

    def __reduce__(self):
        return type(self), (self.where, self.found, self.expected, self.do)


class UserCodeError(UserModelError):
    """The user's function raised, or asked for something that this engine does not have."""


class UnknownSiteError(UserModelError):
    """A declared site is not in the model, or a sample site is not declared."""


class DiscreteLatentError(UserModelError):
    """A latent sample site is discrete: it has no unconstrained line."""


class GlobalSiteError(UserModelError):
    """A global site depends on the shard: on its data, its size, or one of its local sites."""


class RowError(UserModelError):
    """The likelihood is not one term per row, so that a shard cannot be padded or cut out."""


class ShardDataError(UserModelError):
    """The columns of the shards do not fit together."""
