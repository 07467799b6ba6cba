"""Programs that JAX has compiled, kept on this machine: a worker that needs one again loads it in a third of the time.

An entry is machine code, which whoever can write it can choose. So the folder belongs to this user and nobody else may write to it, or it is
not used; and each kind of processor has its own, since a home directory can be on many machines. What a process that was killed
has left half-written is removed, under the lock that JAX takes for each entry.

``JAX_COMPILATION_CACHE_DIR`` in the environment says otherwise, and is then left to JAX.
"""

import hashlib
import logging
import os
import platform
import stat
from functools import cache
from pathlib import Path

import filelock

log = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
MIN_COMPILE_SECONDS = 0.3
LOCK_SECONDS = 10.0
VARIABLE = "JAX_COMPILATION_CACHE_DIR"


@cache
def use() -> None:
    """Let this process keep what it compiles; call where JAX is about to be needed, since this imports it."""
    if VARIABLE in os.environ:
        return
    try:
        folder = private_folder()
        remove_unfinished(folder)
    except (OSError, RuntimeError) as error:  # no home, read-only, somebody else's: compile again then
        log.info("compiled programs are not kept", extra={"reason": str(error)})
        return
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    reset_cache()  # what was compiled before has settled for this process that there is none


def private_folder() -> Path:
    """The folder of this user and kind of processor, made if it is not there.

    Raises
    ------
    PermissionError
        It is somebody else's, or others can write to it.
    OSError, RuntimeError
        It cannot be made, or this user has no home.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = (given if given.is_absolute() else Path.home() / ".cache") / "caucus"
    folder = base / f"jax-{_processor()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (base, folder):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{path} has to be a folder of this user that nobody else can write to")
    return folder


def remove_unfinished(folder: Path) -> None:
    """Remove entries whose writer was killed: JAX writes ``KEY-cache`` and then ``KEY-atime``, and never replaces the first."""
    with filelock.FileLock(folder / ".lockfile", timeout=LOCK_SECONDS):
        for entry in folder.glob("*-cache"):
            if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
                entry.unlink()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return hashlib.sha256("\n".join([platform.machine(), platform.processor(), *kept]).encode()).hexdigest()[:12]
