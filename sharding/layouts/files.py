"""The files of a layout: which there are, which role each has, and their bytes as a stream.

A member of a zip file is a file of its own; gz and zip are read as they are, nothing is unpacked to the disk.
"""

from __future__ import annotations

import errno
import fnmatch
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Literal, cast

from sharding import storage
from sharding.errors import SourceError
from sharding.layouts.schema import FileLayout, Layout

Role = Literal["voters", "history"]
ROLES: tuple[Role, ...] = ("voters", "history")


@dataclass(frozen=True)
class RawFile:
    """A file, or a member of a zip file, as it was shipped."""

    url: str
    member: str | None
    role: Role
    fingerprint: str

    @property
    def label(self) -> str:
        """What a person knows it by."""
        return self.url if self.member is None else f"{self.url}!{self.member}"


def find(layout: Layout, sources: Sequence[str]) -> tuple[list[RawFile], list[str]]:
    """Return the files of ``sources`` (paths, URLs, directories, globs) in the order of their names, and those of no role.

    Raises
    ------
    SourceError
        A source matches nothing, a file named outright has no role, a zip file cannot be read, or there is no file of voters.
    """
    found: dict[str, RawFile] = {}
    ignored = []
    for source in sources:
        urls = storage.list_files(source)
        if not urls:
            raise SourceError(f"data.source {source!r}", "no file", "at least one", "Correct the path, URL or glob.")
        for url in urls:
            members = _members(url) if url.lower().endswith(".zip") else [None]
            print_of = storage.fingerprint(url)["fingerprint"]
            roles = [(member, _role(layout, member or url)) for member in members]
            if urls == [source] and not any(role for _, role in roles):
                raise SourceError(
                    repr(url), f"a name that no file of the layout {layout.name!r} has", f"one of {_patterns(layout)}",
                    "Rename the file, or put its name into a layout of your own (`extends:`)."
                )  # fmt: skip
            for member, role in roles:
                file = RawFile(url, member, role or "voters", print_of)
                if role is None:
                    ignored.append(file.label)
                else:
                    found[file.label] = file
    files = [found[label] for label in sorted(found)]
    if not any(file.role == "voters" for file in files):
        raise SourceError(
            "data.source", f"no file of voters among {len(files) + len(ignored)}", f"names such as {_patterns(layout)}",
            "Check data.source and data.layout."
        )  # fmt: skip
    return files, sorted(set(ignored))


@contextmanager
def opened(file: RawFile) -> Iterator[IO[bytes]]:
    """Give the bytes of ``file``, decompressed, to read front to back.

    Raises
    ------
    SourceError
        The archive is damaged, ends early, or is encrypted.
    """
    with ExitStack() as stack:
        try:
            raw: IO[bytes] = stack.enter_context(storage.opened(file.url))
            if file.member is not None:
                raw = stack.enter_context(stack.enter_context(zipfile.ZipFile(raw)).open(file.member))
            name = (file.member or file.url).lower()
            if name.endswith(".gz"):
                raw = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=raw)))
            yield raw
        except (
            zipfile.BadZipFile,
            EOFError,
            zlib.error,
            gzip.BadGzipFile,
            lzma.LZMAError,
            NotImplementedError,  # zipfile's, for a compression or a version that it does not know
        ) as error:
            raise _damaged(file.label, type(error).__name__) from None
        except OSError as error:  # a damaged table of contents names places before the file's first byte
            if file.member is None or error.errno != errno.EINVAL:
                raise
            raise _damaged(file.label, type(error).__name__) from None
        except RuntimeError as error:  # how zipfile tells that a password is needed
            if "password" not in str(error):
                raise
            raise SourceError(
                file.label, "an encrypted zip file", "one without a password", "Decrypt it first."
            ) from None


def _members(url: str) -> list[str]:
    try:
        with storage.opened(url) as file, zipfile.ZipFile(file) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:  # the last is zipfile's too
        raise _damaged(url, type(error).__name__) from None


def _damaged(label: str, found: str) -> SourceError:
    return SourceError(
        label, f"a damaged archive ({found})", "a whole one", "Copy the file again; it may have been cut on the way."
    )


def _role(layout: Layout, path: str) -> Role | None:
    base = path.replace("\\", "/").rsplit("/", 1)[-1].lower().removesuffix(".gz")
    for role in reversed(ROLES):  # a name of the history is often a longer name of the voters
        files = file_layout(layout, role)
        if files is not None and any(fnmatch.fnmatchcase(base, pattern.lower()) for pattern in files.names):
            return role
    return None


def file_layout(layout: Layout, role: Role) -> FileLayout | None:
    """Return how the files of a role are written; None if the layout has none."""
    return layout.voters if role == "voters" else layout.history


def _patterns(layout: Layout) -> str:
    return ", ".join(pattern for role in ROLES if (files := file_layout(layout, role)) for pattern in files.names)
