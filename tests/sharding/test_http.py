"""Sources on a web server, which may or may not give parts of a file."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sharding import storage
from sharding.errors import StorageError

DATA = b"a,b\n" + b"1,2\n" * 100


class Server(BaseHTTPRequestHandler):
    """Of ``/ranges/...`` it gives parts; of other paths the whole, ``/unsized/...`` without saying how large it is."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "") if self.path.startswith("/ranges/") else ""
        data = DATA
        if asked:
            first, last = (int(place) for place in asked.removeprefix("bytes=").split("-"))
            data = DATA[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{len(DATA)}")
        if self.path.startswith("/ranges/"):
            self.send_header("Accept-Ranges", "bytes")
        if not self.path.startswith("/unsized/"):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_of_ranges_is_read_like_a_store(address: str):
    url = f"{address}/ranges/v.csv"
    assert storage.list_files(url) == [url]
    assert storage.fingerprint(url)["num_bytes"] == len(DATA)
    with storage.opened(url) as file:
        file.seek(4)
        assert file.read(4) == DATA[4:8]


@pytest.mark.parametrize("kind", ["whole", "unsized"])
def test_a_server_without_ranges_is_refused_and_the_file_not_blamed(address: str, kind: str):
    with pytest.raises(StorageError, match=r"sends the whole file when asked for a part.*Download the file"):
        storage.list_files(f"{address}/{kind}/v.csv")
