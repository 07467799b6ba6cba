"""The tests compute as the command does: on one thread, set before numpy and JAX start."""

from cluster import threads

threads.set_environment()
