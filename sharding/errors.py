"""Errors of the sharding layer."""


class ShardingError(Exception):
    """Base of every error raised by `sharding`."""
