"""Files appear whole or not at all, privately, and inside their directory."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sharding import storage
from sharding.errors import ShardCorruptError, StorageError


def test_published_file_is_private_and_complete(tmp_path: Path) -> None:
    url = storage.join(str(tmp_path), "a/b/file.json")
    digest = storage.publish_json(url, {"b": 1, "a": "é"})
    assert storage.read_bytes(url) == '{"a":"é","b":1}\n'.encode()
    assert digest == storage.sha256_bytes(storage.read_bytes(url))
    assert stat.S_IMODE(os.stat(url).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o700


@pytest.mark.parametrize("directory", ["local", "memory://unfinished"])
def test_failed_write_leaves_the_old_file_and_nothing_else(directory: str, tmp_path: Path) -> None:
    base = str(tmp_path) if directory == "local" else directory
    url = storage.join(base, "file")
    storage.publish_bytes(url, b"old")

    def write() -> None:
        with storage.publishing(url) as file:
            file.write(b"half of the n")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write()
    assert storage.read_bytes(url) == b"old"
    assert len(storage.list_files(base)) == 1
    assert directory != "local" or os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("part", ["../x", "a/../../x", "/etc/passwd", "", ".", "a//b", "a\\b", "x\0y"])
def test_path_escape_is_refused(part: str) -> None:
    with pytest.raises(StorageError, match="expected a relative path"):
        storage.join("runs/one", part)


def test_listing_is_sorted_and_skips_what_is_hidden(tmp_path: Path) -> None:
    for name in ["b.csv", "a.csv", ".hidden.csv", "_tmp/c.csv", "sub/d.csv"]:
        storage.publish_bytes(str(tmp_path / name), b"x")
    assert [Path(url).name for url in storage.list_files(str(tmp_path))] == ["a.csv", "b.csv", "d.csv"]
    assert [Path(url).name for url in storage.list_files(str(tmp_path / "*.csv"))] == ["a.csv", "b.csv"]
    assert storage.list_files(str(tmp_path / "no")) == []


def test_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    before = storage.fingerprint(str(path))
    assert storage.fingerprint(str(path)) == before
    os.utime(path, ns=(1, 1))
    assert storage.fingerprint(str(path)) != before


def test_errors_of_reading(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file; expected a file"):
        storage.read_bytes(str(tmp_path / "none"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ShardCorruptError, match="not JSON"):
        storage.read_json(str(tmp_path / "bad.json"))
    with pytest.raises(StorageError, match="known scheme"):
        storage.read_bytes("nosuchscheme://x")
    with pytest.raises(StorageError, match="expected a local path"):
        storage.local_path("memory://x")


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.canonical_json({"x": float("nan")})


@pytest.fixture(params=["local", "memory", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> str:
    """An empty directory of each kind of store."""
    return {"local": f"{tmp_path}/base", "memory": f"memory://{tmp_path.name}", "s3": f"{bucket}/{tmp_path.name}"}[
        request.param
    ]


def test_of_two_writers_the_first_counts(base: str) -> None:
    assert storage.create_bytes(f"{base}/marker", b"first")
    assert not storage.create_bytes(f"{base}/marker", b"second")
    assert storage.read_bytes(f"{base}/marker") == b"first"
    assert storage.children(base) == {"marker"}


def test_of_many_writers_at_once_one_counts(base: str) -> None:
    if base.startswith("memory"):
        return  # has no other process, and no atomic create
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.create_bytes(f"{base}/marker", str(i).encode()), range(8)))
    assert sum(won) == 1
    assert storage.read_bytes(f"{base}/marker") == str(won.index(True)).encode()


def test_names_are_relative_and_without_hidden_ones(base: str) -> None:
    for name in ("sites/b", "sites/_a/c", "sites/.hidden", "alone"):
        storage.publish_bytes(storage.join(base, name), b"x")
    assert storage.names_below(base, "sites") == ["sites/_a/c", "sites/b"]
    assert storage.names_below(base, "alone") == ["alone"]
    assert storage.names_below(base, "absent") == []
    assert storage.children(base) == {"sites", "alone"}
    assert storage.children(f"{base}/absent") == set()
    with pytest.raises(NotADirectoryError):
        storage.children(f"{base}/alone")


def test_a_file_too_large_to_hold_arrives_whole(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_BYTES_HELD", 1000)
    data = bytes(range(256)) * 1000
    assert storage.publish_bytes(f"{base}/large", data) == storage.sha256_bytes(data)
    assert storage.read_bytes(f"{base}/large") == data
    fetched = storage.Fetched(f"{base}/large")
    fetched.file.seek(0)
    assert fetched.file.read() == data
    storage.copy(f"{base}/large", f"{base}/again")
    assert storage.sha256_file(f"{base}/again") == storage.sha256_bytes(data)


@pytest.mark.parametrize("place", ["head", "middle", "tail"])
def test_fingerprint_changes_with_the_content_of_a_file_that_keeps_its_size_and_time(tmp_path: Path, place: str) -> None:
    """As after `rsync -t`, `cp -p`, `tar x`, or an editor that puts the time back."""
    path = tmp_path / "voters.csv"
    content = bytearray(b"state,voted\n" + b"AL,1\n" * 200_000)
    path.write_bytes(content)
    times, before = (path.stat().st_atime_ns, path.stat().st_mtime_ns), storage.fingerprint(str(path))
    at = {"head": 15, "middle": len(content) // 2 // 5 * 5, "tail": len(content) - 2}[place]
    content[at] = ord("0") if content[at] != ord("0") else ord("1")
    path.write_bytes(content)
    os.utime(path, ns=times)
    after = storage.fingerprint(str(path))
    assert after["num_bytes"] == before["num_bytes"]
    assert after["fingerprint"] != before["fingerprint"]
