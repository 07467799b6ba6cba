"""The only place that touches a file system: local paths, ``memory://``, ``s3://`` and every other fsspec URL.

Files appear whole or not at all: locally through a temporary name of the writer's own, fsync and rename (files 0600,
directories 0700); on an object store a put is atomic by itself. There is no rename on object stores, so nothing here relies
on one. Object stores are asked by :mod:`sharding.asking`: errors that pass by themselves are tried again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from sharding import credentials
from sharding.asking import EXTRAS, ask
from sharding.errors import ShardCorruptError, StorageError
from sharding.hashing_file import HashingFile

MAX_BYTES_HELD = 1 << 26
"""A file up to this size is held in memory on its way to an object store; a larger one is read from a temporary file."""
SAMPLE_BYTES = 1 << 16
"""What a fingerprint reads at the head, the middle and the tail of a file."""
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "created")
"""What file systems call that which changes when a file is written anew."""
NO_SUCH_FILE = "no such file"
"""What a `StorageError` has found where there is none; its place is the ``repr`` of the URL."""


SCHEMES = ("", "file", "memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "http", "https", "hdfs")
"""Schemes of URLs that are read; the empty one is a path. Others of fsspec run programs, unpack, or chain file systems."""


def resolve(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of ``url`` and the path in it.

    Raises
    ------
    StorageError
        A scheme that is not in `SCHEMES` or is not installed, chained URLs (``a::b``), a secret, or a character that no path has.
    """
    if secret := credentials.found_in(url):
        raise StorageError(credentials.hide(ascii(url)), secret, "a URL without secrets", credentials.INSTEAD)
    scheme = url.split("://", 1)[0] if "://" in url else ""
    if scheme not in SCHEMES or "::" in url or url.startswith("data:"):
        raise StorageError(
            ascii(url), f"the scheme {scheme!r}" if "::" not in url else "a chain of URLs",
            "a local path or a URL of a known scheme (s3://, gs://, abfs://, https://, memory://, ...)",
            "Copy the files to where they can be read so."
        )  # fmt: skip
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in url):
        raise StorageError(ascii(url), "a control character", "a path that can be typed", "Correct the path.")
    try:
        return cast("tuple[fsspec.AbstractFileSystem, str]", url_to_fs(url))
    except ImportError as error:
        how = f"`pip install 'caucus-bayes[{EXTRAS[scheme]}]'`" if scheme in EXTRAS else "its package of fsspec"
        raise StorageError(
            repr(url), "a scheme whose package is not installed", f"what serves {scheme}://", f"Install it: {how}."
        ) from error
    except ValueError as error:  # what the client of the store lacks: an account, a region
        raise StorageError(
            repr(url), f"that it cannot be used ({str(error).partition('.')[0]})", "a local path or a URL of a store",
            "Correct the URL, or give what it lacks by the environment (docs/cluster.md)."
        ) from error  # fmt: skip


def is_local(url: str) -> bool:
    """Whether ``url`` is a path of this machine."""
    return isinstance(resolve(url)[0], LocalFileSystem)


def local_path(url: str) -> Path:
    """Return the path of a local ``url``.

    Raises
    ------
    StorageError
        If ``url`` is not local.
    """
    fs, path = resolve(url)
    if not isinstance(fs, LocalFileSystem):
        raise StorageError(repr(url), "a remote URL", "a local path", "Give a path of this machine.")
    return Path(path)


def join(directory: str, *parts: str) -> str:
    """Return ``directory/part/...``; a part that would leave ``directory`` is refused."""
    for part in parts:
        if not part or "\\" in part or "\0" in part or any(piece in ("", ".", "..") for piece in part.split("/")):
            raise StorageError(
                f"path inside {directory!r}", repr(part), "a relative path without '..'",
                "The manifest or configuration that names it is damaged or was tampered with."
            )  # fmt: skip
    return "/".join([directory.rstrip("/") or "/", *parts])


def make_directory(url: str) -> None:
    """Create a directory and its parents, those created with mode 0700; nothing to do on an object store."""
    fs, path = resolve(url)
    if isinstance(fs, LocalFileSystem):
        missing = [p for p in [Path(path), *Path(path).parents] if not p.exists()]
        for parent in reversed(missing):
            parent.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def publishing(url: str) -> Iterator[HashingFile]:
    """Give a file to write that appears at ``url`` when the block ends well, and never in part.

    The file is written once, front to back. Its directory is created when missing.
    """
    fs, path = resolve(url)
    if isinstance(fs, LocalFileSystem):
        with _publishing_locally(Path(path)) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile() as spool:
        file = HashingFile(spool)
        yield file
        spool.flush()
        if file.num_bytes <= MAX_BYTES_HELD:
            data = Path(spool.name).read_bytes()
            ask(url, lambda: fs.pipe_file(path, data), writes=True)
        else:
            ask(url, lambda: fs.put_file(spool.name, path), writes=True)


@contextmanager
def publishing_path(url: str) -> Iterator[Path]:
    """Give the path of a file to write, in any order, that appears at ``url`` when the block ends well, and never in part.

    For formats that go back to what they wrote (HDF5); :func:`publishing` does without a second copy on an object store.
    """
    fs, path = resolve(url)
    if isinstance(fs, LocalFileSystem):
        with _appearing_at(Path(path)) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "file"
        publish_file(Path(folder) / "file", url)


@contextmanager
def _publishing_locally(path: Path) -> Iterator[HashingFile]:
    with _appearing_at(path) as temporary, temporary.open("wb") as target:
        yield HashingFile(target)


@contextmanager
def _appearing_at(path: Path, give_name: Callable[[str, Path], None] = os.replace) -> Iterator[Path]:
    """Give a temporary name beside ``path``; when the block ends well, what is there is on the disk and called ``path``."""
    make_directory(str(path.parent))
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)  # mkstemp makes it 0600
    try:
        yield Path(temporary)
        os.fsync(descriptor)
        give_name(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def publish_bytes(url: str, data: bytes) -> str:
    """Write ``data`` at ``url`` at once, and return its sha256."""
    with publishing(url) as file:
        file.write(data)
    return file.sha256


def create_bytes(url: str, data: bytes) -> bool:
    """Write ``data`` at ``url`` unless something is there already; return whether it was written. The first writer wins.

    Locally by a hard link, on an object store by a conditional put (``If-None-Match: *`` on S3 and Azure, generation 0 on GCS). A
    store that has neither looks first and then writes, which two writers at the same moment can both pass.
    """
    fs, path = resolve(url)
    try:
        if isinstance(fs, LocalFileSystem):
            with _appearing_at(Path(path), _link) as temporary:
                temporary.write_bytes(data)
        else:
            ask(url, lambda: fs.pipe_file(path, data, mode="create"), writes=True)
    except FileExistsError:
        return False
    return True


def _link(temporary: str, path: Path) -> None:
    os.link(temporary, path)
    os.unlink(temporary)


def copy(url: str, target: str) -> None:
    """Copy a file, of any store to any store, at once."""
    with opened(url) as source, publishing(target) as file:
        while block := source.read(1 << 22):
            file.write(block)


def publish_file(path: Path, url: str) -> str:
    """Copy the local file ``path`` to ``url`` at once, and return its sha256."""
    with path.open("rb") as source, publishing(url) as file:
        while block := source.read(1 << 22):
            file.write(block)
    return file.sha256


def publish_json(url: str, value: Any) -> str:
    """Write ``value`` as canonical JSON at ``url`` at once, and return its sha256."""
    return publish_bytes(url, canonical_json(value))


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """Give a seekable binary file to read."""
    fs, path = resolve(url)
    _refuse_special(fs, path)
    fs.invalidate_cache()
    # gcsfs would read ahead in the background, where nobody is patient
    options = {"cache_type": "readahead"} if url.startswith(("gs://", "gcs://")) else {}
    try:
        with ask(url, lambda: fs.open(path, "rb", **options)) as file:
            if (cache := getattr(file, "cache", None)) is not None:  # of a remote file: what it reads later is patient too
                fetch = cache.fetcher
                cache.fetcher = lambda *range_: ask(url, lambda: fetch(*range_))
            yield file
    except (FileNotFoundError, IsADirectoryError) as error:
        raise _no_such_file(url) from error


def _refuse_special(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Pipes and devices have no end, so they are not read."""
    if isinstance(fs, LocalFileSystem) and os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise StorageError(repr(path), "a pipe, a socket or a device", "a regular file", "Write its content to a file.")


def read_bytes(url: str) -> bytes:
    """Return everything at ``url``."""
    fs, path = resolve(url)
    _refuse_special(fs, path)
    try:
        return bytes(ask(url, lambda: fs.cat_file(path)))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise _no_such_file(url) from error


def _no_such_file(url: str) -> StorageError:
    return StorageError(repr(url), NO_SUCH_FILE, "a file", "Correct the path, or run the stage that writes it.")


def sha256_file(url: str) -> str:
    """Return the hexadecimal sha256 of the file at ``url``, read in pieces."""
    digest = hashlib.sha256()
    with opened(url) as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


class Fetched:
    """A copy of a remote file on this machine, open as ``file``; it has no name, and goes when nobody holds it any more."""

    def __init__(self, url: str):
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the next line
        weakref.finalize(self, self.file.close)
        with opened(url) as source:
            while block := source.read(1 << 22):
                self.file.write(block)
        self.file.flush()


def read_json(url: str) -> Any:
    """Return the JSON value at ``url``."""
    try:
        return json.loads(read_bytes(url))
    except (ValueError, RecursionError) as error:
        raise ShardCorruptError(
            repr(url), "bytes that are not JSON", "JSON", "Run the stage that writes it again."
        ) from error


def exists(url: str) -> bool:
    """Whether something is at ``url``."""
    return _kind(url) is not None


def _kind(url: str) -> str | None:
    """``file``, ``directory``, or None where nothing is. (fsspec's own questions take every error for a no.)"""
    fs, path = resolve(url)
    fs.invalidate_cache()
    try:
        return str(ask(url, lambda: fs.info(path))["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def remove(url: str) -> None:
    """Delete the file or directory at ``url``, if there is one."""
    fs, path = resolve(url)
    if exists(url):
        try:
            ask(url, lambda: fs.rm(path, recursive=True))
        except FileNotFoundError:  # it was removed, and the answer was lost
            return


def children(url: str) -> set[str]:
    """Return the names in a directory, hidden ones too; none where there is no directory.

    Raises
    ------
    NotADirectoryError
        At ``url`` is a file.
    """
    fs, path = resolve(url)
    kind = _kind(url)
    if kind is None:
        return set()
    if kind == "file":
        raise NotADirectoryError(url)
    found = ask(url, lambda: fs.ls(path, detail=False))
    return {name.rstrip("/").rsplit("/", 1)[-1] for name in found if name.rstrip("/") != path.rstrip("/")}


def names_below(directory: str, name: str) -> list[str]:
    """Return the paths in ``directory``, sorted, of the files at or below ``name``, without hidden ones."""
    url = join(directory, name)
    (fs, root), (_, path) = resolve(directory), resolve(url)
    found = [path] if _kind(url) == "file" else ask(url, lambda: fs.find(path))
    names = (file[len(root.rstrip("/")) + 1 :] for file in found)
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def list_files(pattern: str) -> list[str]:
    """Return the URLs, sorted, of the files that match a glob; of all files below it, where it is a directory.

    What is there under just this name is meant, also where the name has characters of globs: ``file[1].csv``.
    Hidden files are not listed; of a directory, nothing whose name, or whose directory's, starts with ``.`` or ``_``.
    """
    fs, path = resolve(pattern)
    fs.invalidate_cache()
    kind = _kind(pattern)
    if kind is None and any(character in path for character in "*?["):
        try:
            entries = ask(pattern, lambda: fs.glob(path, detail=True)).items()
        except FileNotFoundError:  # as gcsfs says where there is no bucket; the others find nothing
            return []
        found = [n for n, info in entries if _is_file(fs, n, info) and not n.rsplit("/", 1)[-1].startswith(".")]
    elif kind == "directory":
        files = ask(pattern, lambda: fs.find(path))
        below = [(name, name[len(path.rstrip("/")) :].strip("/").split("/")) for name in files]
        found = [name for name, pieces in below if not any(piece.startswith((".", "_")) for piece in pieces)]
    else:
        _refuse_special(fs, path)
        found = [path] if kind is not None else []
        if pattern.startswith(("http://", "https://")) and found:
            _require_ranges(pattern)
    return sorted(name if isinstance(fs, LocalFileSystem) else _url_of(fs, name, pattern) for name in found)


def _require_ranges(url: str) -> None:
    """See that a web server gives parts of a file: columns and blocks are read, not wholes."""
    fs, path = resolve(url)
    if len(ask(url, lambda: fs.cat_file(path, start=0, end=1))) > 1:
        raise StorageError(
            repr(url), "a server that sends the whole file when asked for a part", "one that knows ranges",
            "Download the file, and give its path, or put it on an object store."
        )  # fmt: skip


def _is_file(fs: fsspec.AbstractFileSystem, name: str, info: dict[str, Any]) -> bool:
    """Whether a path is a file; fsspec calls a link to one neither file nor directory."""
    return os.path.isfile(name) if isinstance(fs, LocalFileSystem) else info["type"] == "file"


def _url_of(fs: fsspec.AbstractFileSystem, name: str, pattern: str) -> str:
    """The URL of a file that ``pattern`` found; of ``abfs://container@account/...`` it keeps the account."""
    scheme, _, rest = pattern.partition("://")
    place = rest.partition("/")[0]
    return f"{scheme}://{place}/{name.lstrip('/').partition('/')[2]}" if "@" in place else str(fs.unstrip_protocol(name))


def fingerprint(url: str) -> dict[str, Any]:
    """Return ``{"url", "num_bytes", "fingerprint"}``, which change when the file is written anew.

    Of an object store it is the entity tag, or whatever else the store changes with the content. A local file, and one of a server
    that says nothing of the kind, is looked into: size and time of writing, and the bytes at its head, middle and tail, since `rsync -t`,
    `cp -p` and unpacked archives keep times. A change elsewhere that keeps size and time is found by reading all of it (`sha256_file`).
    """
    fs, path = resolve(url)
    fs.invalidate_cache()
    info = ask(url, lambda: fs.info(path))
    size, is_local_file = int(info["size"] or 0), isinstance(fs, LocalFileSystem)
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    if is_local_file:  # of what a link leads to
        found = os.stat(path)
        size, version = found.st_size, str(found.st_mtime_ns)
    if is_local_file or not version:
        version += " " + _sha256_of_samples(url, size)
    return {"url": url, "num_bytes": size, "fingerprint": sha256_bytes(f"{size} {version}".encode())}


def _sha256_of_samples(url: str, size: int) -> str:
    """Hash of the bytes at the head, the middle and the tail of a file; of all of a small one."""
    digest = hashlib.sha256()
    with opened(url) as file:
        if size <= 3 * SAMPLE_BYTES:
            digest.update(file.read())
        for place in (0, (size - SAMPLE_BYTES) // 2, size - SAMPLE_BYTES) if size > 3 * SAMPLE_BYTES else ():
            file.seek(place)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal sha256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return UTF-8 JSON with sorted keys and a newline at the end; equal values give equal bytes; NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
