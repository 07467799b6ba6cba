"""Ways of damaging a file's bytes. The same seed gives the same bytes."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable

import numpy as np

Mutation = Callable[[np.random.Generator, bytes], bytes]

TOKENS = (
    b'"', b'""', b"\"\n", b",", b"\t", b"|", b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf",
    b"\xc3", b"\xe9", b"\x1a", b"NULL", b"NaN", b"1e999", b"-0", b"0" * 400, b"9" * 40, b"##/##/####", b"=1+1", b"\\N", b"'",
    "\u202e".encode(), "\u2028".encode(), "\x85".encode(),
)  # fmt: skip


def mutate(rng: np.random.Generator, data: bytes) -> tuple[str, bytes]:
    """Damage ``data`` in one to three ways; return the name of the first way, and the bytes."""
    names = [str(name) for name in rng.choice(list(MUTATIONS), rng.integers(1, 4))]
    for name in names:
        data = MUTATIONS[name](rng, data)
    return names[0], data


def _span(rng: np.random.Generator, data: bytes, longest: int) -> tuple[int, int]:
    start = int(rng.integers(0, len(data) + 1))
    return start, min(len(data), start + int(rng.integers(1, longest + 1)))


def _flip(rng: np.random.Generator, data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
        changed[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def _overwrite(rng: np.random.Generator, data: bytes) -> bytes:
    start, stop = _span(rng, data, 64)
    return data[:start] + rng.bytes(stop - start) + data[stop:]


def _insert(rng: np.random.Generator, data: bytes) -> bytes:
    start, _ = _span(rng, data, 1)
    return data[:start] + rng.bytes(int(rng.integers(1, 64))) + data[start:]


def _insert_token(rng: np.random.Generator, data: bytes) -> bytes:
    for _ in range(int(rng.integers(1, 5))):
        start, _ = _span(rng, data, 1)
        data = data[:start] + TOKENS[int(rng.integers(0, len(TOKENS)))] + data[start:]
    return data


def _delete(rng: np.random.Generator, data: bytes) -> bytes:
    start, stop = _span(rng, data, 256)
    return data[:start] + data[stop:]


def _truncate(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(0, len(data) + 1))]


def _duplicate(rng: np.random.Generator, data: bytes) -> bytes:
    start, stop = _span(rng, data, 2_000)
    return data[:stop] + data[start:stop] * int(rng.integers(1, 4)) + data[stop:]


def _swap(rng: np.random.Generator, data: bytes) -> bytes:
    a, b, c = sorted(int(place) for place in rng.integers(0, len(data) + 1, 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _zero(rng: np.random.Generator, data: bytes) -> bytes:
    start, stop = _span(rng, data, 512)
    return data[:start] + bytes(stop - start) + data[stop:]


def _recode(rng: np.random.Generator, data: bytes) -> bytes:
    encoding = str(rng.choice(["utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp1252", "cp500"]))
    return data.decode("latin-1").encode(encoding, "replace")


def _pack(rng: np.random.Generator, data: bytes) -> bytes:
    """Pack what may be packed already, or is not said to be."""
    if rng.random() < 0.5:
        return gzip.compress(data, 1, mtime=0)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.txt", "../b.txt")[: int(rng.integers(1, 3))]:
            archive.writestr(zipfile.ZipInfo(name), data)
    return packed.getvalue()


def _append(rng: np.random.Generator, data: bytes) -> bytes:
    return data + data[: int(rng.integers(0, len(data) + 1))]


MUTATIONS: dict[str, Mutation] = {
    "flip bits": _flip, "overwrite bytes": _overwrite, "insert bytes": _insert, "insert tokens": _insert_token,
    "delete a block": _delete, "truncate": _truncate, "duplicate a block": _duplicate, "swap blocks": _swap,
    "zero a block": _zero, "other encoding": _recode, "pack": _pack, "append itself": _append,
}  # fmt: skip
