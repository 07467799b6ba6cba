"""Raw files of every layout as targets: one file is damaged, the others of its layout are whole."""

from __future__ import annotations

import codecs
import gzip
import io
import tempfile
import zipfile
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.fuzzing.target import CANARY, SilentLossError, Target
from sharding import layouts
from sharding.dirty.generate import FEWEST_ROWS, generate
from sharding.layouts import library
from sharding.layouts.schema import Layout

ELECTION = date(2024, 11, 5)
NUM_LINES = 60
FORMS: dict[str, Callable[[str, bytes], bytes]] = {
    "": lambda name, data: data,
    ".gz": lambda name, data: gzip.compress(data, 1, mtime=0),
    ".zip": lambda name, data: _zipped(name, data),
}


@cache
def base(layout: str) -> dict[str, bytes]:
    """Return the first lines of a generated file of each role, faults and all, unpacked."""
    with tempfile.TemporaryDirectory(prefix="caucus-fuzz-") as scratch:
        generate(Path(scratch) / "x", layout, num_rows=FEWEST_ROWS, seed=7)
        files = {path.name: path.read_bytes() for path in sorted((Path(scratch) / "x/files").iterdir())}
    if layout == "fl":
        files = {name: files[name] for name in ("DAD_20241210.txt", "DAD_H_20241210.txt")}
    elif layout in ("oh", "parquet"):
        files = dict(list(files.items())[:1])
    return {name.removesuffix(".gz"): _shorter(name, data) for name, data in files.items()}


def _shorter(name: str, data: bytes) -> bytes:
    if name.endswith(".parquet"):
        sink = io.BytesIO()
        pq.write_table(pq.read_table(io.BytesIO(data))[:NUM_LINES], sink, row_group_size=25)
        return sink.getvalue()
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    is_wide = data.startswith(codecs.BOM_UTF16_LE)
    text = data.decode("utf-16").encode() if is_wide else data
    short = b"\n".join(text.split(b"\n")[:NUM_LINES]) + b"\n"
    for town in (b"NOWHERE  ", b"NOWHERE", b"Nowhere"):  # as long as the canary, for files of fixed width
        short = short.replace(town, CANARY.encode())
    return codecs.BOM_UTF16_LE + short.decode().encode("utf-16-le") if is_wide else short


def _zipped(name: str, data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), data)
    return sink.getvalue()


def _read(layout: Layout, damaged: str) -> Callable[[Path, Path], dict[str, int]]:
    def read(path: Path, directory: Path) -> dict[str, int]:
        source = directory / "source"
        source.mkdir()
        for name, data in base(layout.name).items():
            if name != damaged:
                (source / name).write_bytes(data)
        path.rename(source / path.name)
        made = layouts.clean(layout, [str(source)], str(directory / "run"), election=ELECTION, memory_limit="500MB", threads=1)
        for file in made.dirt["files"]:
            if file["rows_in"] != file["rows_out"] + file["rows_quarantined"]:
                raise SilentLossError(f"rows do not reconcile: {file}")
            name = file["file"].rsplit("/", 1)[-1]
            if name.removesuffix(".gz") == damaged:
                expected = _num_rows(source / name, layout, file["role"])
                if expected != file["rows_in"]:
                    raise SilentLossError(f"{expected} rows in the file, {file['rows_in']} counted")
        voters = sum(file["rows_out"] for file in made.dirt["files"] if file["role"] == "voters")
        num_rows = pq.read_metadata(made.path).num_rows
        if num_rows != voters:
            raise SilentLossError(f"{voters} voters in the dirt report, {num_rows} in the clean file")
        return {}

    return read


def _num_rows(path: Path, layout: Layout, role: str) -> int:
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    files = layout.voters if role == "voters" or layout.history is None else layout.history
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        data = data.decode("utf-16", "replace").encode()
    elif files.is_utf16:
        data = data.decode("utf-16-le", "replace").encode()
    data = data.replace(b"\0", b"")  # counted as `bytes:nul`; a line of nothing else is blank
    num_lines = sum(bool(line.strip(b" \r")) for line in data.removeprefix(codecs.BOM_UTF8).split(b"\n"))
    return num_lines - int(files.header)


def targets() -> list[Target]:
    """Return a target for each kind of file of each layout, and some of them packed."""
    made = []
    names = {
        "nc": ("ncvoter_Statewide.txt", "ncvhis_Statewide.txt"), "nc-snapshot": ("VR_Snapshot_20241105.txt",), "oh": ("SWVF_1_22.txt",),
        "fl": ("DAD_20241210.txt", "DAD_H_20241210.txt"), "wa-2016": ("201611_VRDB_Extract.txt",),
        "wa-2020": ("20241210_VRDB_Extract.txt", "VotingHistory_2023_2024.txt"), "mi": ("entire_state_v.lst", "entire_state_h.lst"),
        "l2": ("VM2--PA--2024-12-10-DEMOGRAPHIC.tab",), "targetsmart": ("targetsmart_PA.tsv",), "parquet": ("voters-00000.parquet",),
    }  # fmt: skip
    for layout, files in names.items():
        for name in files:
            role = "history" if "his" in name.lower() or "_h" in name.lower() else "voters"
            made.append(_target(f"{layout} {role}", layout, name, "", is_outside=False))
    made.append(_target("oh gz", "oh", "SWVF_1_22.txt", ".gz", is_outside=True))
    made.append(_target("nc zip", "nc", "ncvoter_Statewide.txt", ".zip", is_outside=True))
    made.append(_target("oh inside gz", "oh", "SWVF_1_22.txt", ".gz", is_outside=False))
    made.append(Target("layout YAML", "mine.yaml", _good_yaml, _read_yaml))
    return made


def _good_yaml(rng: np.random.Generator) -> bytes:
    found = sorted(library.FOLDER.glob("*.yaml"))
    return found[int(rng.integers(0, len(found)))].read_bytes()


def _read_yaml(path: Path, directory: Path) -> dict[str, int]:
    layouts.load(str(path))
    return {}


def _target(title: str, layout: str, name: str, ending: str, *, is_outside: bool) -> Target:
    form = FORMS[ending]

    def good(rng: np.random.Generator) -> bytes:
        return form(name, base(layout)[name]) if is_outside else base(layout)[name]

    def pack(data: bytes) -> bytes:
        return data if is_outside else form(name, data)

    return Target(title, name + ending if ending != ".zip" else name.removesuffix(".txt") + ".zip", good, _read(layouts.load(layout), name), pack)
