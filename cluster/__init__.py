"""Where work runs: configuration, executors, coordinator, stages and the command line."""

PACKAGES = ("cluster", "fitting", "reporting", "sharding")
"""This code, as it is sent to machines that have not got it."""
