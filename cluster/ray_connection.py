"""Starts a Ray of our own or joins a running one, and says in our words why that fails.

With `cluster.ray_executor` the only file of the executors that imports Ray.
"""

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import ray

from cluster import PACKAGES
from cluster.bundles import BUNDLE_BYTES
from cluster.errors import ClusterError, ClusterUnreachableError, CodeMissingError, TokenRefusedError

log = logging.getLogger(__name__)

ASK_SECONDS = 5.0
"""How long one question to a head may take."""
HEAD_SECONDS = 40.0
"""How long a cluster's head may be silent."""
INLINE = {"RAY_max_direct_call_object_size": str(BUNDLE_BYTES)}
"""What a task of Ray is given, and gives back, of up to so many bytes travels with it. Otherwise from 100 kB on it is fetched from another
machine's object store first, which waits for a clock of 100 ms."""
CLIENT_TRIES, CLIENT_PAUSE = 4, 2.0
"""How often a head is asked for the server of a driver by ``ray://``, and seconds between."""
PATIENCE = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(12 * 3600)}
"""Or Ray itself ends this process after 60 s without a head, with code 1 and without a word, also while it merges and needs none."""
LEASE = {"RAY_worker_lease_timeout_milliseconds": "20000"}
"""How long Ray lets this process have a worker while there is work for it. It gives each back and asks anew after this time: by default
after 0.5 s, and where several machines work, one was then left without a task for 0.1 to 1.8 s."""
_WITHOUT_CODE = Path(__file__).resolve().parent / "templates"
"""A folder in which nothing can be imported. Ray puts the folder in which a driver connects first on the path of its workers: where
that is the folder of a config, a file `numpy.py` beside the config would be executed there."""
LOCAL = "local"
"""The address of a Ray that is started here."""


def connect(address: str, *, workers: int, environment: Mapping[str, str], ship_code: bool) -> None:
    """Start a Ray with so many CPUs (`LOCAL`), or join the one at the address; ``environment`` is that of a started one's workers.

    Raises
    ------
    TokenRefusedError
        The cluster wants a token, and was shown none or a wrong one.
    CodeMissingError
        Its machines do not have this package.
    ClusterUnreachableError
        Nothing answers there, or Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # each is an outcome, or was told by the one before it
    is_ours = address == LOCAL
    os.environ |= {**INLINE, **LEASE, **({} if is_ours else PATIENCE), **os.environ}
    if is_ours:
        os.environ |= _token(os.environ, Path(os.path.expanduser("~")))
    if ":" in address and _refuses(address):
        raise TokenRefusedError(address)
    umask = os.umask(0o077)  # sockets, logs and the access token are for this user only
    folder = Path(__file__).resolve().parent.parent
    code = {"py_modules": [str(folder / package) for package in PACKAGES]} if ship_code else {}
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings(), contextlib.chdir(_WITHOUT_CODE):
            # Ray's processes are forks that exec at once, so JAX's threads, if there are any, are not missed in them.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            warnings.filterwarnings("ignore", "Ray Client connection timed out", UserWarning)  # it is raised, too
            _start(
                tries=2 if is_ours else CLIENT_TRIES if address.startswith("ray://") else 1,
                address=address,
                runtime_env={"env_vars": dict(environment)} if is_ours else code,
                logging_level=logging.ERROR,
                log_to_driver=False,
                num_cpus=workers if is_ours else None,
                include_dashboard=False if is_ours else None,
            )
    except Exception as error:  # Ray raises a bare Exception too
        raise unusable(address, error) from error
    finally:
        os.umask(umask)
        if terminated is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)  # Ray's own prints a stack and ends this process where it stands


def unusable(address: str, error: Exception) -> ClusterError:
    """What a failure of Ray means to a person: what it says itself begins with its process, or ends in a traceback."""
    missing = re.search(rf"No module named '(({'|'.join(PACKAGES)})[.\w]*)'", str(error))
    if missing and address != LOCAL:
        return CodeMissingError(address, missing[1])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    if reason.startswith("Client is shutting down"):  # so Ray calls a connection of ray:// that is lost
        reason = "the connection was lost, and did not come back"
    return ClusterUnreachableError(address, reason)


def head() -> tuple[str, int]:
    """Host and port of the head of the cluster that this process is connected to."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)


def require_head(head: tuple[str, int]) -> None:
    """Raises ``ConnectionError`` where a cluster's head takes no connection for a while.

    Ray's own questions are never answered without one.
    """
    since = time.monotonic()
    while True:
        try:
            socket.create_connection(head, timeout=ASK_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() - since > HEAD_SECONDS:
                raise ConnectionError(f"its head takes no connection for {HEAD_SECONDS:.0f} s") from error
        time.sleep(1.0)


def _token(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return what gives a Ray of our own its token where it cannot keep one in the home folder, as in a read-only image."""
    is_given = any(environment.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    folder = home / ".ray"
    has_place = (folder / "auth_token").is_file() or os.access(folder if folder.exists() else home, os.W_OK)
    if is_given or has_place or environment.get("RAY_AUTH_MODE", "token") != "token":
        return {}
    return {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _refuses(address: str) -> bool:
    """Whether the head says that it was shown no token, or a wrong one. Ray itself only says, after 20 s, that it could not connect."""
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import gcs_service_pb2_grpc, ray_client_pb2_grpc

        gcs: Any = import_module("ray.core.generated.gcs_service_pb2")  # made when they are imported: nothing to check
        client: Any = import_module("ray.core.generated.ray_client_pb2")
    except ImportError:  # of another version of Ray: it stays at what Ray says
        return False
    with init_grpc_channel(address.removeprefix("ray://"), asynchronous=False) as channel:
        try:
            if address.startswith("ray://"):
                ping = client.ClusterInfoRequest(type=client.ClusterInfoType.PING)
                ray_client_pb2_grpc.RayletDriverStub(channel).ClusterInfo(ping, timeout=ASK_SECONDS)
            else:
                ask = gcs.CheckAliveRequest()
                gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).CheckAlive(ask, timeout=ASK_SECONDS)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def _start(tries: int, **settings: Any) -> None:
    """Call `ray.init`; a Ray of our own that was too slow to start, as on a busy machine, is started once more.

    So is the server that a head starts for a driver by ``ray://``, after a pause: it fails now and then, on a busy machine twice
    in a row (psutil.ZombieProcess, Ray 2.60).
    """
    was_running = ray.is_initialized()
    for tries_left in reversed(range(tries)):
        try:
            ray.init(**settings)
            return
        except Exception as error:  # Ray raises a bare Exception then
            if was_running:
                raise
            ray.shutdown()  # what did start
            if not tries_left or (settings["address"] != LOCAL and "Initialization failure" not in str(error)):
                raise
            log.warning("Ray did not start, starting it again", extra={"reason": str(error).partition("\n")[0]})
            if settings["address"] != LOCAL:
                time.sleep(CLIENT_PAUSE)
