"""Every exception -> one clear message and the exit code that says what to do next."""

import errno
import os
import select
import sys
import traceback

from cluster.errors import (
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_MEND,
    EXIT_RUN_AGAIN,
    EXIT_UNREAD,
    ClusterError,
)

_MEND = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_MEND_NUMBERS = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMOTE_STORES = {"botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "adlfs", "azure", "google", "requests"}
_STDOUT = 1
_LAYERS = {"sharding": "ShardingError", "fitting": "FittingError", "reporting": "ReportingError"}


def explain(error: BaseException) -> tuple[str, int]:
    """Return the message for a person, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; `caucus run` goes on where this stopped", EXIT_INTERRUPTED
    if isinstance(error, ClusterError):
        return str(error), error.exit_code
    if _is_of_a_layer(error):
        return str(error), EXIT_MEND
    if isinstance(error, OSError) and _is_to_mend(error):
        where = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
        return f"{where}. Correct the path, or its permissions.", EXIT_MEND
    if isinstance(error, MemoryError):
        return "out of memory. Lower `run.workers` or `shards.target_cells`, then run again.", EXIT_RUN_AGAIN
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return f"{error}. Make room (or raise the quota, or the limit on the size of files); then it is safe to run again.", EXIT_RUN_AGAIN
    if isinstance(error, OSError) or _is_of_a_remote_store(error):
        return f"{error}. Nothing half-written is left; it is safe to run again.", EXIT_RUN_AGAIN
    return (
        f"a fault of Caucus: {type(error).__name__}: {str(error).partition(os.linesep)[0]}. "
        "Run it again with --debug and report what that prints.",
        EXIT_FAULT,
    )


def _is_to_mend(error: OSError) -> bool:
    """Whether trying again is no use. An error of the system that names no file, as of a working folder that is gone, is about no path of
    the user's; fsspec has errors that are no more than a text."""
    is_about_a_path = error.filename is not None or error.errno is None
    return is_about_a_path and (isinstance(error, _MEND) or error.errno in _MEND_NUMBERS)


def tell(error: BaseException, *, debug: bool) -> int:
    """Print the message to stderr, with ``debug`` the traceback before it, and return the exit code.

    Nothing is said where output went to a pipe that has been closed (``caucus status | head -1``): so do other commands.
    """
    if isinstance(error, BrokenPipeError) and _is_unread(_STDOUT):
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)  # for what is still to be flushed
        return EXIT_UNREAD
    message, code = explain(error)
    if debug:
        traceback.print_exception(error)
    print(f"caucus: {message}", file=sys.stderr)
    return code


def _is_unread(descriptor: int) -> bool:
    """Whether it is the writing end of a pipe that nobody reads."""
    pipe = select.poll()
    pipe.register(descriptor, select.POLLOUT)
    return any(happened & select.POLLERR for _, happened in pipe.poll(0))


def _is_of_a_remote_store(error: BaseException) -> bool:
    """Whether the error was raised by a client of an object store: network, or a service that is down."""
    return any(kind.__module__.partition(".")[0] in _REMOTE_STORES for kind in type(error).__mro__)


def _is_of_a_layer(error: BaseException) -> bool:
    """Whether a base error of the packages below is among the error's classes; told by name, to import nothing."""
    names = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    return any((f"{package}.errors", name) in names for package, name in _LAYERS.items())
