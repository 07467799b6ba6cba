"""Storage errors that pass by themselves are tried again, with longer and longer waits; all others are raised at once.

What passes by itself: a service that is down or asks to slow down (408, 429, 5xx), a connection that broke, a request that
got no answer in time. What does not: no such file, no permission, no credentials, a full disk.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

WAITS_SECONDS = (0.2, 0.5, 1.2, 3.0, 7.5, 18.0)
"""Mean wait before each further attempt: half a minute in all, which outlasts a restart of a service."""

LONGEST_SECONDS = 60.0
"""After this time nothing is tried again. Clients of GCS and Azure try again themselves, half a minute to a minute each time."""

_STATUSES = {408, 429, 500, 502, 503, 504}
_CODES = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ConditionalRequestConflict"}
_ERRNOS = {errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH}
_BROKEN_CONNECTIONS = {
    "ConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ServerTimeoutError", "ConnectionClosedError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError",
    "ServiceRequestError", "ServiceResponseError", "IncompleteRead", "ResponseParserError", "ProtocolError",
}  # fmt: skip  # classes of botocore, aiohttp, azure.core, http.client and urllib3; told by name, to import none of them

_count_lock = threading.Lock()
_count = 0


def num_retries() -> int:
    """Return how often this process has tried an operation on storage again."""
    return _count


def patiently(operation: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Return what ``operation`` returns; while it fails for a reason that passes, wait and call it again.

    It may be called after it took effect and the answer was lost, so it has to be one that may be done twice.
    """
    global _count
    began = time.monotonic()
    for wait in WAITS_SECONDS:
        try:
            return operation()
        except Exception as error:
            if not is_transient(error) or time.monotonic() - began > LONGEST_SECONDS:
                raise
            with _count_lock:
                _count += 1
            log.info("storage failed, tries again", extra={"error": type(error).__name__, "wait_seconds": wait})
        sleep(wait * random.uniform(0.5, 1.5))  # spreads the workers; no number depends on it
    return operation()


def is_transient(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, passes by itself."""
    seen: BaseException | None = error
    while seen is not None:
        if _passes(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _passes(error: BaseException) -> bool:
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if {kind.__name__ for kind in type(error).__mro__} & _BROKEN_CONNECTIONS:
        return True
    response = getattr(error, "response", None)  # botocore
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _STATUSES or response.get("Error", {}).get("Code") in _CODES
    if any(getattr(error, name, None) in _STATUSES for name in ("status", "status_code", "code")):  # aiohttp, Azure, gcsfs
        return True
    if isinstance(error, OSError) and str(error).startswith("Forbidden: "):  # gcsfs; GCS has 403 for too many requests, too
        return "rate limit" in str(error).lower()
    return isinstance(error, OSError) and error.errno in _ERRNOS
