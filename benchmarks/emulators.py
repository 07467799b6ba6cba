"""Emulators of S3, Google Cloud Storage and Azure Blob: started on a free port, stopped by process id."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import fsspec

from benchmarks.ray_clusters import ROOT, ports

BUCKET = "runs"
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Not a secret: the key of the one account that every Azurite has, from its manual."""


class NotInstalledError(Exception):
    """An emulator is not here; says how to install it."""


@dataclass(frozen=True)
class Store:
    """An object store that runs: how clients find it (``env``), and who is refused (``refused_env``, ``refused_url``)."""

    name: str
    scheme: str
    package: str
    server: str
    env: dict[str, str]
    refused_url: str = ""
    refused_env: dict[str, str] = field(default_factory=dict)

    @property
    def bucket(self) -> str:
        """URL of the bucket that is there."""
        return f"{self.scheme}://{BUCKET}"


def _s3(port: int) -> tuple[Store, list[str]]:
    _require("s3fs", "pip install 'caucus-bayes[s3]'")
    _require("moto", "pip install 'moto[server]'")
    env = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "testing",
           "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    store = Store("S3", "s3", "s3fs", "moto", env)
    return store, [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


def _gcs(port: int) -> tuple[Store, list[str]]:
    _require("gcsfs", "pip install 'caucus-bayes[gcs]'")
    _require("gcp_storage_emulator", "pip install gcp-storage-emulator")
    # gcsfs asks the service for the kind of a bucket by gRPC, which the emulator has not
    env = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    store = Store("Google Cloud Storage", "gs", "gcsfs", "gcp-storage-emulator", env, refused_url="gs://forbidden")
    return store, [sys.executable, "-m", "benchmarks.gcs_server", str(port)]


def _azure(port: int) -> tuple[Store, list[str]]:
    _require("adlfs", "pip install 'caucus-bayes[azure]'")
    azurite = shutil.which("azurite-blob") or shutil.which("azurite-blob", path=str(ROOT / "node_modules" / ".bin"))
    if azurite is None:
        raise NotInstalledError("azurite is not installed: npm install azurite")

    def connection(key: str) -> dict[str, str]:
        account = "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1"
        at = f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1"
        return {"AZURE_STORAGE_CONNECTION_STRING": f"{account};AccountKey={key};{at};"}

    store = Store(
        "Azure Blob", "abfs", "adlfs", "azurite", connection(_AZURITE_KEY), f"abfs://{BUCKET}", connection("A" * 86 + "==")
    )
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    return store, [azurite, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]


STORES = {"s3": _s3, "gcs": _gcs, "azure": _azure}


@contextmanager
def running(name: str) -> Iterator[Store]:
    """Start an emulator with a bucket in it; this process and its children find it by their environment.

    Raises
    ------
    NotInstalledError
        It, or its client, is not installed.
    """
    (port,) = ports(1)
    store, command = STORES[name](port)
    with tempfile.TemporaryDirectory(prefix="emulator-") as folder, open(Path(folder) / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
        before = {variable: os.environ.get(variable) for variable in store.env}
        try:
            os.environ.update(store.env)
            _wait_for(process, port)
            fs = fsspec.filesystem(store.scheme)
            fs.mkdir(BUCKET)
            yield store
        finally:
            for variable, value in before.items():
                os.environ.pop(variable) if value is None else os.environ.__setitem__(variable, value)
            process.kill()
            process.wait()


def _require(module: str, how: str) -> None:
    if find_spec(module) is None:
        raise NotInstalledError(f"{module} is not installed: {how}")


def _wait_for(process: subprocess.Popen[bytes], port: int, within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while True:
        assert process.poll() is None, "the emulator ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert time.monotonic() < deadline, "the emulator did not start"
            time.sleep(0.1)
