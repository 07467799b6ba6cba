"""Voter files to cells to shards to arrays."""
