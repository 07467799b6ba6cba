"""What passes by itself is tried again, and nothing else is."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import fsspec
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from fsspec.exceptions import FSTimeoutError

from sharding import retrying, storage


def s3(status: int, code: str) -> Exception:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


def caused(error: Exception) -> Exception:
    """As s3fs gives them: an OSError, with what botocore said as its cause."""
    told = OSError(errno.EIO, "told otherwise")
    told.__cause__ = error
    return told


PASSING = [
    s3(503, "SlowDown"), s3(503, "ServiceUnavailable"), s3(500, "InternalError"), s3(429, "TooManyRequests"),
    caused(s3(503, "SlowDown")), TimeoutError(), FSTimeoutError(), ConnectionResetError(),
    EndpointConnectionError(endpoint_url="http://store"), ConnectTimeoutError(endpoint_url="http://store"),
    ReadTimeoutError(endpoint_url="http://store"), OSError(errno.ESTALE, "stale file handle"),
]  # fmt: skip
LASTING = [
    s3(403, "AccessDenied"), s3(404, "NoSuchBucket"), caused(s3(403, "AccessDenied")), NoCredentialsError(), FileNotFoundError("x"),
    PermissionError(errno.EACCES, "no"), OSError(errno.ENOSPC, "disk full"), OSError(errno.EIO, "broken disk"), ValueError("a fault"),
]  # fmt: skip


def failing(errors: list[Exception]) -> Callable[[], str]:
    left = iter(errors)

    def operation() -> str:
        for error in left:
            raise error
        return "done"

    return operation


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_is_tried_again_and_counted(error: Exception) -> None:
    waited: list[float] = []
    before = retrying.num_retries()
    assert retrying.patiently(failing([error] * 3), sleep=waited.append) == "done"
    assert retrying.num_retries() == before + 3
    assert len(waited) == 3
    assert all(0.5 * mean <= wait <= 1.5 * mean for mean, wait in zip(retrying.WAITS_SECONDS, waited, strict=False))


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_does_not_pass_is_raised_at_once(error: Exception) -> None:
    waited: list[float] = []
    with pytest.raises(type(error)):
        retrying.patiently(failing([error]), sleep=waited.append)
    assert waited == []


def test_patience_ends() -> None:
    with pytest.raises(TimeoutError):
        retrying.patiently(failing([TimeoutError()] * 99), sleep=lambda wait: None)


def test_storage_is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation fails the first time; nothing that is written or read is another for it."""
    monkeypatch.setattr(retrying, "WAITS_SECONDS", (0.0,) * 6)
    failed: set[str] = set()
    fs = type(fsspec.filesystem("memory"))

    def shaky(name: str) -> Any:
        whole = getattr(fs, name)

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            if name not in failed:
                failed.add(name)
                raise s3(503, "SlowDown")
            return whole(self, *arguments, **options)

        return call

    names = {"pipe_file", "cat_file", "find", "info", "ls"}
    for name in names:
        monkeypatch.setattr(fs, name, shaky(name))
    base = "memory://shaky"
    storage.publish_bytes(f"{base}/a/b", b"content")
    assert storage.read_bytes(f"{base}/a/b") == b"content"
    assert storage.sha256_file(f"{base}/a/b") == storage.sha256_bytes(b"content")
    assert storage.names_below(base, "a") == ["a/b"]
    assert storage.exists(f"{base}/a/b")
    assert storage.children(base) == {"a"}
    assert failed == names
