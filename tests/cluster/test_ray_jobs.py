"""Runs as jobs of a Ray cluster: what is sent, who is trusted, and what a command ends with."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
import requests
import typer

from cluster import config, job_commands, ray_jobs
from cluster.errors import ClusterUnreachableError, ConfigError, InsecureClusterError, JobError
from cluster.ray_jobs import Job

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))
import line

from benchmarks import ray_clusters

T = TypeVar("T")


@pytest.mark.parametrize("address", ["ray://host:10001", "ftp://host", "http://", "http://user:secret@host:8265", "http://host/?token=secret"])
def test_what_is_no_job_server_is_refused(address: str):
    with pytest.raises(JobError, match="no address of a job server") as told:
        ray_jobs.connect(address)
    assert "secret" not in str(told.value)


def test_nothing_there_is_safe_to_run_again():
    (port,) = ray_clusters.ports(1)
    with pytest.raises(ClusterUnreachableError) as told:
        ray_jobs.connect(f"127.0.0.1:{port}")
    assert told.value.exit_code == 4


@pytest.mark.parametrize("headers", ["[]", "{", '{"a": 1}'])
def test_headers_that_are_none_are_told_and_not_shown(headers: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_JOB_HEADERS", headers)
    with pytest.raises(JobError, match="RAY_JOB_HEADERS is no JSON object"):
        ray_jobs.connect("127.0.0.1:1")


class AnswersAll(BaseHTTPRequestHandler):
    """A job server without a token."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    httpd = HTTPServer(("127.0.0.1", 0), AnswersAll)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_a_remote_cluster_that_lets_everybody_in_is_refused(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_jobs, "_is_loopback", lambda address: False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token that this server does not ask for")
    with pytest.raises(InsecureClusterError, match="answers whoever asks"):
        ray_jobs.connect(server)


def test_loopback_is_told_by_the_address():
    assert all(map(ray_jobs._is_loopback, ["http://127.0.0.1:8265", "http://localhost:1", "http://[::1]:1"]))
    assert not any(map(ray_jobs._is_loopback, ["http://10.0.0.7:8265", "http://0.0.0.0:1", "https://localhost.example.org"]))


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 3, 3), ("FAILED", 4, 4), ("FAILED", 1, 1), ("FAILED", None, 4),
     ("FAILED", -9, 4), ("FAILED", 137, 4), ("STOPPED", None, 130)],
)  # fmt: skip
def test_a_command_ends_as_the_run_ended(status: str, code: int | None, expected: int):
    assert ray_jobs.exit_code(Job("id", "run", 1, status, 0.0, 0.0, code, "")) == expected


def test_secrets_in_a_config_are_not_sent(tmp_path: Path):
    for key, value in [("data.source", "https://store/x?sig=AbC"), ("data.source", "ftp://user:secret@host/x.csv")]:
        with pytest.raises(ConfigError, match="expected a URL without secrets") as refused:
            config.load(line.make(tmp_path), [f"{key}={value}"])
        assert "secret@" not in str(refused.value)
    with pytest.raises(JobError, match="no value") as told:
        ray_jobs._environment(("AWS_SECRET_ACCESS_KEY=secret",))
    assert "=secret" not in str(told.value)


def test_the_config_that_is_sent_is_for_the_cluster(tmp_path: Path):
    loaded = config.load(line.make(tmp_path), ["run.executor=ray", "run.workers=7"])
    (tmp_path / "sent.yaml").write_text(config.for_cluster(loaded))
    sent = config.load(tmp_path / "sent.yaml").config
    assert (sent.run.executor, sent.run.directory) == ("auto", loaded.config.run.directory)
    assert "workers:" not in (tmp_path / "sent.yaml").read_text()
    assert sent.model == loaded.config.model


def test_a_job_needs_what_it_was_told_to_need(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ray_jobs.NEEDED, "CAUCUS_TEST_A,CAUCUS_TEST_B")
    monkeypatch.setenv("CAUCUS_TEST_A", "secret")
    with pytest.raises(JobError, match=r"not set on .*: CAUCUS_TEST_B\. Set them"):
        ray_jobs.require_environment()


class Tunnel:
    """A job server behind a tunnel that drops: ``answers`` are what it says, in turn; the last one for ever."""

    def __init__(self, *answers: str | BaseException):
        self.answers = list(answers)

    def get_address(self) -> str:
        return "http://127.0.0.1:8265"

    def get_job_info(self, submission_id: str) -> SimpleNamespace:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return SimpleNamespace(
            submission_id=submission_id, metadata={}, start_time=1, end_time=2, status=SimpleNamespace(value=answer),
            driver_exit_code=0, message="",
        )  # fmt: skip

    def get_job_logs(self, submission_id: str) -> str:
        return "said\n"


DROPPED = [
    requests.exceptions.ConnectionError("HTTPConnectionPool(host='127.0.0.1', port=8265): Max retries exceeded"),
    requests.exceptions.ChunkedEncodingError("Connection broken"), requests.exceptions.ReadTimeout("timed out"),
    ConnectionResetError(104, "reset"), RuntimeError("Request failed with status code 502"), OSError(113, "No route to host"),
]  # fmt: skip


@pytest.mark.parametrize("error", DROPPED, ids=lambda error: type(error).__name__)
def test_a_watcher_waits_for_a_tunnel_that_drops(error: Exception, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_jobs, "LOOK_SECONDS", 0.0)
    job, said = Job("caucus-x-1", "x", 1, "RUNNING", 0.0, 0.0, None, ""), []
    ended = ray_jobs.follow(Tunnel("RUNNING", error, error, "RUNNING", error, "SUCCEEDED"), job, said.append)
    assert (ended.status, said) == ("SUCCEEDED", ["said\n"])
    monkeypatch.setattr(ray_jobs, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(ClusterUnreachableError, match="the run goes on there") as given_up:
        ray_jobs.follow(Tunnel(error), job, said.append)
    assert "HTTPConnectionPool" not in str(given_up.value)


def test_who_stops_a_watcher_is_told_that_the_run_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(typer.Exit) as ended:
        job_commands._follow(Tunnel(KeyboardInterrupt()), Job("caucus-x-1", "x", 1, "RUNNING", 0.0, 0.0, None, ""))
    assert ended.value.exit_code == 130
    assert "the run goes on there" in capsys.readouterr().err


def forward(plain: str, context: ssl.SSLContext) -> tuple[socket.socket, str]:
    """Listen with TLS, and pass everything on to a plain server, as an ingress does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for s in (source, target):
                s.close()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                secure = context.wrap_socket(connection, server_side=True)
            except OSError:  # a client that does not trust us
                connection.close()
                continue
            where = urlsplit(plain)
            behind = socket.create_connection((where.hostname, where.port))
            for pair in ((secure, behind), (behind, secure)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener, f"https://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray_clusters.Node]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", ray_clusters.TOKEN)
        with ray_clusters.head(2) as node:
            yield node


def pair_of_ports() -> tuple[int, int]:
    """Two neighbouring ports, the second of which is free."""
    while True:
        first = ray_clusters.ports(1)[0]
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", first + 1)):
            return first, first + 1


def scraped(port: int) -> str:
    """What a run tells at its port; nothing where none listens yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def until(found: Callable[[], T], told: Callable[[], str]) -> T:
    """Ask until there is an answer; it fails with what is told then."""
    deadline = time.monotonic() + 180
    while not (answer := found()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.5)
    return answer


def terminated_watcher(file: Path, *to: str) -> tuple[int, bool]:
    """How ``caucus logs --follow`` ends that is sent SIGTERM when it has said something, and whether it says that the run goes on."""
    command = [sys.executable, "-m", "cluster", "logs", str(file), *to, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        watcher.terminate()
        said = watcher.communicate(timeout=60)[1]
    return watcher.returncode, "the run goes on there" in said and "interrupted" not in said


@pytest.mark.ray
def test_submit_stop_and_submit_again(cluster: ray_clusters.Node, tmp_path: Path):
    """From a second shell: sent, watched, stopped, sent again to its end; each ends with the run's own code."""
    file, to = line.make(tmp_path), ("--address", cluster.jobs)
    assert "never sent" in line.caucus("status", file, *to).out
    lacking = line.caucus("submit", file, *to, "--needs-env", "CAUCUS_NO_SUCH_SECRET")
    assert lacking.code == 2, lacking
    assert "CAUCUS_NO_SUCH_SECRET" in lacking.out
    assert not (tmp_path / "run").exists(), "nothing was begun"

    slow = ("--set", "fit.draws=20000", "--set", "fit.chains=4")
    first, metrics = pair_of_ports()
    with socket.create_server(("127.0.0.1", first)):  # as another run of this head that came first
        assert line.caucus("submit", file, *to, *slow, "--metrics", f"127.0.0.1:{first}-{first + 1}", "--no-wait").code == 0
        seen = until(lambda: scraped(metrics), lambda: line.caucus("logs", file, *to).out)
    assert 'caucus_run_info{' in seen
    twice = line.caucus("submit", file, *to)
    assert twice.code == 4, twice
    assert "attempt 2 of the run is" in twice.message
    until(lambda: "fit: done" in line.caucus("logs", file, *to).out, lambda: line.caucus("logs", file, *to).out)
    shown = line.caucus("status", file, *to).out
    assert "-2  running" in shown
    assert "  now: " in shown
    assert terminated_watcher(file, *to) == (130, True), "and not that the run was interrupted"
    assert "-2  running" in line.caucus("status", file, *to).out
    stopped = line.caucus("stop", file, *to)
    assert (stopped.code, "-2  stopped" in stopped.out) == (0, True), stopped
    ended = line.caucus("logs", file, *to).out
    assert "caucus: interrupted" in ended, "it gave its lease back"
    assert "SIGTERM" not in ended

    done = line.caucus("submit", file, *to)
    assert done.code == 0, done
    assert "fit: done already" in done.out
    assert "verdict: pass" in done.out
    assert line.caucus("logs", file, *to, "--follow").code == 0
    alone = line.make(tmp_path / "alone")
    assert line.caucus("run", alone).code == 0
    assert line.sha256(tmp_path / "run" / "posterior.nc") == line.sha256(tmp_path / "alone" / "run" / "posterior.nc")

    told = [job.metadata | {"entrypoint": job.entrypoint} for job in ray_jobs.connect(cluster.jobs).list_jobs() if job.submission_id]
    assert len(told) == 3
    assert str(tmp_path) not in json.dumps(told), "what everybody may list names no file"
    assert line.caucus("list", *to).out.count("caucus-small-") == 3


@pytest.mark.ray
def test_tokens_and_tls(cluster: ray_clusters.Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    openssl = shutil.which("openssl")
    assert openssl, "this test makes a certificate"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    listener, secure = forward(cluster.jobs, context)
    try:
        with pytest.raises(ClusterUnreachableError):
            ray_jobs.connect(secure)  # a certificate that nobody vouches for
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        monkeypatch.setattr(ray_jobs, "_is_loopback", lambda address: False)
        ray_jobs.connect(secure).list_jobs()  # asked without the token, it refused
        monkeypatch.setenv("RAY_JOB_HEADERS", json.dumps({"Authorization": "Bearer another"}))
        with pytest.raises(JobError, match="does not let this user in"):
            ray_jobs.connect(secure)
    finally:
        listener.close()
