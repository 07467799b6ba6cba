"""Inputs that nobody would write, and what readers do with them."""
