"""Raw voter files as states and vendors ship them, read as a layout (YAML) says: docs/layouts.md."""

from sharding.layouts.cleaning import Cleaned, clean
from sharding.layouts.library import load, names
from sharding.layouts.schema import Layout

__all__ = ["Cleaned", "Layout", "clean", "load", "names"]
