"""Errors of reporting: each says where, what was found, what was expected and what to do."""

from __future__ import annotations


class ReportingError(Exception):
    """Base of every error this package raises on purpose."""


class DrawsError(ReportingError):
    """Draws whose shape, labels or values cannot be written or summarised."""

    def __init__(self, variable: str, found: str, expected: str, do: str):
        self.variable, self.found, self.expected, self.do = variable, found, expected, do
        super().__init__(f"variable {variable!r}: found {found}, expected {expected}. {do}")

    def __reduce__(self) -> tuple[type[DrawsError], tuple[str, str, str, str]]:
        return type(self), (self.variable, self.found, self.expected, self.do)


class TableError(ReportingError):
    """A table without the columns or the rows that its reader needs."""

    def __init__(self, table: str, found: str, expected: str, do: str):
        self.table, self.found, self.expected, self.do = table, found, expected, do
        super().__init__(f"table {table!r}: found {found}, expected {expected}. {do}")

    def __reduce__(self) -> tuple[type[TableError], tuple[str, str, str, str]]:
        return type(self), (self.table, self.found, self.expected, self.do)


class RunDirectoryError(ReportingError):
    """A directory that is not a finished run, or a file in it that cannot be read."""

    def __init__(self, path: str, found: str, expected: str, do: str):
        self.path, self.found, self.expected, self.do = path, found, expected, do
        super().__init__(f"{path}: found {found}, expected {expected}. {do}")

    def __reduce__(self) -> tuple[type[RunDirectoryError], tuple[str, str, str, str]]:
        return type(self), (self.path, self.found, self.expected, self.do)
