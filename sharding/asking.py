"""Object stores are asked here. Each client has errors of its own; what leaves here is one of three.

* `StoreRefusedError`: no permission, no credentials, no such bucket. A person has to do something.
* ``ConnectionError``: what passes by itself did not, for as long as `sharding.retrying` is patient. It is safe to run again.
* ``FileNotFoundError`` and the other errors of files, as Python has them.

All of them can be sent from a worker to its driver, which most errors of these clients cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from sharding.errors import StoreRefusedError
from sharding.retrying import is_transient, patiently

T = TypeVar("T")

EXTRAS = {
    "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure",
}  # fmt: skip
"""The extra of this package that serves a scheme."""

_NOT_LET_IN = {
    "NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError", "CredentialUnavailableError",
    "DefaultCredentialsError",
}  # fmt: skip  # classes of botocore, azure and google.auth; told by name, to import none of them


def ask(url: str, operation: Callable[[], T], *, writes: bool = False) -> T:
    """Return what ``operation`` on ``url`` returns; it is tried again for what passes. Errors of local files stay as they are.

    Parameters
    ----------
    writes
        Whether it makes the file, so that what is not found can only be the bucket.

    Raises
    ------
    StoreRefusedError
        No permission, no credentials, no such bucket.
    ConnectionError
        The store could not be reached, or was not able to answer.
    """
    if "://" not in url or url.startswith("file://"):
        return patiently(operation)
    try:
        return patiently(operation)
    except Exception as error:
        if is_transient(error):
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise
            reason = _first_line(error.__cause__ or error)  # by HTTP, fsspec finds no file where it reaches no server
            raise ConnectionError(f"{url}: the store did not answer ({reason})") from error
        if _is_not_let_in(error):
            raise StoreRefusedError(
                repr(url), "no permission, or no credentials that count", "leave to do this",
                "Give credentials to driver and workers, by the environment or an instance role, or correct the name."
            ) from error  # fmt: skip
        if _is_no_bucket(error) or (writes and isinstance(error, FileNotFoundError)):
            raise StoreRefusedError(
                repr(url), "no such bucket or container", "one that exists", "Make it, or correct its name."
            ) from error
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found = (str(getattr(error, name, "")) for name in ("status", "status_code", "code"))  # aiohttp, Azure, gcsfs
    return next((int(status) for status in found if status.isdigit()), None)


def _is_not_let_in(error: BaseException) -> bool:
    return any(
        isinstance(e, PermissionError)
        or {kind.__name__ for kind in type(e).__mro__} & _NOT_LET_IN
        or _status(e) in (401, 403)
        or (isinstance(e, OSError) and str(e).startswith("Forbidden: "))  # gcsfs
        for e in _chain(error)
    )


def _is_no_bucket(error: BaseException) -> bool:
    codes = {getattr(e, "error_code", None) for e in _chain(error)}  # Azure
    responses = [getattr(e, "response", None) for e in _chain(error)]
    codes |= {r.get("Error", {}).get("Code") for r in responses if isinstance(r, dict)}  # botocore
    return bool(codes & {"ContainerNotFound", "NoSuchBucket"})


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}".rstrip(": ")
