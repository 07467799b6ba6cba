"""A user's Python file: found only inside the config's folder, run only if allowed, and only as the bytes that were hashed."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from sharding.storage import sha256_bytes

if TYPE_CHECKING:
    from fitting.user_model import ShardedModel

NAME = "MODEL"
MAX_BYTES = 1 << 20


class CodeNotAllowedError(ClusterError):
    """The config names code to run, and nobody allowed that."""

    def __init__(self, file: str):
        self.file = file
        super().__init__(
            f"`model.file` names the Python file {file!r}, which would be executed here and on every worker; expected "
            "`--allow-code`. Read the file first; then run again with it."
        )

    def __reduce__(self):
        return type(self), (self.file,)


class CodeFileError(ClusterError):
    """The file is not where it may be, or not what it was when the run began."""

    def __init__(self, file: str, found: str, expected: str):
        self.file, self.found, self.expected = file, found, expected
        super().__init__(f"`model.file` {file!r}: found {found}; expected {expected}")

    def __reduce__(self):
        return type(self), (self.file, self.found, self.expected)


def resolve(file: str, folder: str | Path) -> tuple[str, str]:
    """Return the absolute path of ``file`` inside ``folder``, and its sha256; nothing is executed.

    Raises
    ------
    CodeFileError
        An absolute path, one that leaves ``folder`` (also by a symbolic link), no file, or one that is no Python.
    """
    inside = "a Python file inside the config's folder"
    if Path(file).is_absolute() or ".." in Path(file).parts or "\\" in file:
        raise CodeFileError(file, "a path that leads elsewhere", inside)
    root = Path(folder).resolve()
    path = (root / file).resolve()
    if not path.is_relative_to(root):
        raise CodeFileError(file, "a link that leads elsewhere", inside)
    if path.suffix != ".py" or not path.is_file():
        raise CodeFileError(file, "no file that ends in .py", inside)
    return str(path), sha256_bytes(_read(path))


@lru_cache(maxsize=4)
def load(path: str, sha256: str) -> ShardedModel:
    """Execute the file, once per process, and return its ``MODEL``.

    Raises
    ------
    CodeFileError
        Its bytes are not those with this sha256.
    UserCodeError
        It raises, or defines no ``MODEL``.
    """
    from fitting.user_errors import UserCodeError
    from fitting.user_model import ShardedModel

    text = _read(Path(path))
    name = Path(path).name
    if sha256_bytes(text) != sha256:
        raise CodeFileError(name, "another content than when the run began", "the same file on every machine")
    module = ModuleType(f"caucus_model_{sha256[:12]}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    try:
        exec(compile(text, path, "exec"), module.__dict__)  # noqa: S102  # what --allow-code allows; the hashed bytes, no others
    except Exception as error:  # whatever the user's code raises
        raise UserCodeError(
            f"file {name!r}", f"{type(error).__name__}: {error}", "a file that Python can run", "Run it with `python` first."
        ) from error  # fmt: skip
    found = getattr(module, NAME, None)
    if not isinstance(found, ShardedModel):
        raise UserCodeError(
            f"file {name!r}", f"{NAME} of type {type(found).__name__}", "a fitting.user_model.ShardedModel",
            f"Write `{NAME} = ShardedModel(model, global_sites=(...))` at the end.",
        )  # fmt: skip
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise CodeFileError(path.name, "a larger file", f"at most {MAX_BYTES:,} bytes")
    return text
