"""A zip file whose table of contents is damaged is an error with a remedy, whatever the damage makes of it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from sharding import layouts
from sharding.errors import SourceError
from sharding.layouts import files


def test_a_member_before_the_first_byte_is_a_damaged_archive(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("ncvoter1.txt", "ncid\tregistr_dt\n" * 50)
    packed = sink.getvalue()
    (tmp_path / "ncvoter.zip").write_bytes(packed[:40] + packed[60:])  # 20 bytes less than the table of contents says
    found, _ = files.find(layouts.load("nc"), [str(tmp_path)])
    with pytest.raises(SourceError, match=r"damaged archive \(OSError\)"), files.opened(found[0]) as stream:
        stream.read()
