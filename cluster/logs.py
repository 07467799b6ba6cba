"""Logs as events with fields, one line each, to stderr: ``12:00:01 WARNING worker died, task runs again attempt=1``."""

import logging
import time

from cluster import terminal

_SILENT = ("gcsfs", "azure", "asyncio")
"""Clients of stores log the errors that they raise, with a traceback each, and leave tasks of asyncio behind; we say errors once."""
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class EventFormatter(logging.Formatter):
    """Time, level, event, and the fields given by ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one event."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(
            f" {name}={value}" for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"
        )
        return terminal.safe(f"{clock} {record.levelname} {record.getMessage()}{fields}")


def configure(*, verbose: bool) -> None:
    """Send the events of our packages to stderr: warnings, and with ``verbose`` everything."""
    handler = logging.StreamHandler()
    handler.setFormatter(EventFormatter())
    for package in ("cluster", "sharding", "fitting", "reporting"):
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if verbose else logging.WARNING)
        logger.propagate = False
    for package in _SILENT:
        logging.getLogger(package).setLevel(logging.WARNING if verbose else logging.CRITICAL)
