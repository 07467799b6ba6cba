"""What clients of object stores raise becomes one of ours: a refusal (mend it), or an outage (run again)."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from sharding import asking, retrying, storage
from sharding.errors import StorageError, StoreRefusedError

URL = "gs://voters/runs/a"


class ServiceRequestError(Exception):
    """As azure.core's: what could not be sent. It cannot be pickled."""

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("cannot pickle")


class HttpResponseError(Exception):
    """As azure.core's."""

    def __init__(self, status_code: int, error_code: str = ""):
        self.status_code, self.error_code = status_code, error_code
        super().__init__(f"status {status_code}")


class HttpError(Exception):
    """As gcsfs's."""

    def __init__(self, code: int):
        self.code = code
        super().__init__(f"Invalid Credentials, {code}")


def s3(status: int, code: str) -> Exception:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


def raising(error: Exception) -> Callable[[], None]:
    def operation() -> None:
        raise error

    return operation


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "WAITS_SECONDS", (0.0,) * 6)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("Access Denied"), caused(OSError("told otherwise"), s3(403, "AccessDenied")), NoCredentialsError(),
        OSError("Forbidden: b/voters/o\nno storage.objects.list access"), HttpError(401), HttpResponseError(403),
        caused(RuntimeError("Failed to remove"), HttpResponseError(403)),
    ],
    ids=repr,
)  # fmt: skip
def test_no_permission_is_to_be_mended(error: Exception):
    with pytest.raises(StoreRefusedError, match=r"'gs://voters/runs/a': found no permission, or no credentials") as told:
        asking.ask(URL, raising(error))
    assert isinstance(pickle.loads(pickle.dumps(told.value)), StoreRefusedError)  # noqa: S301
    assert not isinstance(told.value, StorageError), "a file that may not be read is not one that is missing"


@pytest.mark.parametrize(
    "error", [caused(FileNotFoundError("bucket"), s3(404, "NoSuchBucket")), HttpResponseError(404, "ContainerNotFound")], ids=repr
)
def test_no_bucket_is_to_be_mended(error: Exception):
    with pytest.raises(StoreRefusedError, match="no such bucket or container"):
        asking.ask(URL, raising(error))


def test_a_file_that_is_missing_is_missing_and_one_that_cannot_be_made_has_no_bucket():
    with pytest.raises(FileNotFoundError):
        asking.ask(URL, raising(FileNotFoundError("x")))
    with pytest.raises(StoreRefusedError, match="no such bucket"):
        asking.ask(URL, raising(FileNotFoundError("x")), writes=True)


@pytest.mark.parametrize(
    "error", [ServiceRequestError("no route"), HttpResponseError(503), HttpError(502), caused(ValueError("x"), TimeoutError())], ids=repr
)
def test_an_outage_that_lasts_is_safe_to_run_again_and_can_be_sent_to_the_driver(error: Exception):
    with pytest.raises(ConnectionError, match="gs://voters/runs/a: the store did not answer") as told:
        asking.ask(URL, raising(error))
    assert retrying.is_transient(pickle.loads(pickle.dumps(told.value)))  # noqa: S301


def test_too_many_requests_of_gcs_pass():
    assert retrying.is_transient(OSError("Forbidden: b/voters/o\nUser Rate Limit Exceeded"))
    assert not retrying.is_transient(OSError("Forbidden: b/voters/o\nno storage.objects.list access"))


def test_errors_of_local_files_stay_what_they_are():
    with pytest.raises(PermissionError):
        asking.ask("/voters/runs/a", raising(PermissionError("no")))


def test_a_client_that_tries_for_long_itself_is_asked_twice(monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    calls: list[int] = []

    def slow() -> None:
        calls.append(1)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        retrying.patiently(slow)
    assert len(calls) == 2


@pytest.mark.parametrize(("url", "extra"), [("gs://a/b", "gcs"), ("abfs://a/b", "azure"), ("az://a/b", "azure"), ("s3://a/b", "s3")])
def test_an_extra_that_is_not_installed_is_named(url: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    def missing(url: str) -> None:
        raise ImportError("Please install it")

    monkeypatch.setattr(storage, "url_to_fs", missing)
    with pytest.raises(StorageError, match=rf"not installed; .*`pip install 'caucus-bayes\[{extra}\]'`"):
        storage.resolve(url)


def test_an_account_that_is_not_named_is_said(monkeypatch: pytest.MonkeyPatch):
    def no_account(url: str) -> None:
        raise ValueError("Must provide either a connection_string or account_name. And more.")

    monkeypatch.setattr(storage, "url_to_fs", no_account)
    with pytest.raises(StorageError, match=r"cannot be used \(Must provide either a connection_string or account_name\)"):
        storage.resolve("abfs://a/b")


def test_files_of_an_azure_account_keep_it_in_their_urls(monkeypatch: pytest.MonkeyPatch):
    fs = fsspec.filesystem("memory")
    name = Path(__file__).stem
    fs.pipe_file(f"/{name}/voters/a.parquet", b"a")
    url = f"abfs://{name}@account.dfs.core.windows.net/voters"

    def resolved(url: str) -> tuple[object, str]:
        return fs, "/" + url.partition("://")[2].replace("@account.dfs.core.windows.net", "")

    monkeypatch.setattr(storage, "url_to_fs", resolved)
    monkeypatch.setattr(fs, "_strip_protocol", lambda path: path)
    assert storage.list_files(url) == [f"{url}/a.parquet"]


def test_a_server_that_is_not_reached_is_no_missing_file():
    """fsspec says "no file" for it; nobody should look for a mistake in a name because a server is down."""
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9/x\.parquet: the store did not answer \(.*127\.0\.0\.1"):
        storage.list_files("http://127.0.0.1:9/x.parquet")
