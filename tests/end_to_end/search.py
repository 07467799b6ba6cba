"""Looking for a text in everything that a run wrote: bytes, and what is compressed in Parquet, Arrow, netCDF, gz and zip."""

from __future__ import annotations

import base64
import gzip
import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def forms(text: str) -> list[bytes]:
    """How a text may stand in a file: as it is, in UTF-16, in hexadecimal, in base64, and as a plain hash."""
    plain = text.encode()
    hashes = [hashlib.new(name, plain) for name in ("md5", "sha1", "sha256", "sha512", "blake2b")]
    encoded = [base64.b64encode(b" " * i + plain)[4:-4] for i in range(3)]
    return [
        plain, plain.lower(), text.encode("utf-16-le"), plain.hex().encode(), *encoded,
        *(h.hexdigest().encode() for h in hashes), *(h.digest() for h in hashes),
    ]  # fmt: skip


def contents(file: Path) -> Iterator[bytes]:
    """The bytes of a file, and its values as text where the file compresses or encodes them."""
    data = file.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        yield _table(pq.read_table(pa.BufferReader(data)))
    elif data[:6] == b"ARROW1":
        yield _table(pa.ipc.open_file(pa.BufferReader(data)).read_all())
    elif data[:4] == b"\x89HDF":
        found: list[str] = []
        with h5py.File(file) as tree:
            tree.visititems(lambda name, item: found.append(_item(name, item)))
            found.append(repr(dict(tree.attrs)))
        yield "\n".join(found).encode()
    elif data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif data[:2] == b"PK":
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                yield archive.read(name)


def found_in(folders: Iterable[Path], texts: Iterable[str]) -> list[tuple[str, str]]:
    """(file, text) for every text that a file below one of the folders holds, or that its name holds."""
    wanted = {text: forms(text) for text in texts}
    hits = []
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            parts = [str(file.relative_to(folder)).encode()]
            if file.is_file() and not file.is_symlink():
                parts += contents(file)
            for text, looks in wanted.items():
                if any(look in part for part in parts for look in looks):
                    hits.append((str(file), text))
    return hits


def _table(table: pa.Table) -> bytes:
    return (repr(table.schema.metadata) + repr(table.to_pydict())).encode()


def _item(name: str, item: h5py.Dataset | h5py.Group) -> str:
    values = item[()] if isinstance(item, h5py.Dataset) else ""
    text = repr(values.tolist()) if isinstance(values, np.ndarray) and values.dtype.kind in "OSU" else ""
    return f"{name} {dict(item.attrs)!r} {text}"
