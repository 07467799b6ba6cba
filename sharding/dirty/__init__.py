"""Dirty voter files of invented people, in the layouts of states and vendors, with every fault counted."""
