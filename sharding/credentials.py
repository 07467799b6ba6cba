"""Secrets in URLs: found, so that a config with one is refused, and hidden, so that no message shows one.

A URL is written to `run.yaml`, to manifests, logs and job metadata, and is shown on the terminal. So it cannot carry what only its
owner may know: a user and password before the host, or a key, token or signature among the parameters (presigned URLs of S3 and GCS,
shared access signatures of Azure).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

HIDDEN = "(hidden)"
INSTEAD = "Give credentials by the environment or an instance role: a URL is written to the run, and shown."

_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")  # container@account: no person
_USERS = ("hdfs",)  # user@host without a password is no secret
_NAMES = re.compile(
    r"sig(nature)?|token|secret|pass(word|wd|phrase)?|pwd?|pin|(api|access|account|shared|private|secret|subscription|client)?[-_.]?keys?([-_.]?id)?"
    r"|credentials?|auth(entication|orization)?|jwt|sas|session|bearer|hmac|policy|ticket|code|cookie|nonce|otp"
    r"|(aws|google|oss|obs)access(key)?id"
)
_LONG = re.compile(r"[\w+/=.~-]{32,}")  # a value that looks like a key, whatever its name
# in messages both begin at the beginning of what they may begin in, or they would take the square of a long name's length
_URL = re.compile(r"(?<![A-Za-z0-9+.-])([0-9+.-]*)([A-Za-z][A-Za-z0-9+.-]*://[^\s'\"`<>|]*)")
_BEFORE_AT = re.compile(r"(?<![^\s/@'\"`])([^\s/@'\"`]+)@(?=[\w\[])")
_LOGIN = re.compile(r"[^\s/@:'\"`]+:[^\s/@'\"`]+@(?=[\w\[])")


def found_in(url: str) -> str:
    """Say what secret a URL holds: ``a password before the host``, or the name of a parameter; empty where it holds none."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "a password before the host" if _LOGIN.match(url) else ""
    if _has_odd_port(rest):
        return "a password before the host"
    place, *parameters = re.split(r"[?#;]", rest, maxsplit=1)
    user, at, _ = unquote_plus(place).rpartition("@")
    is_name = ":" not in user and (scheme.lower() in _CONTAINERS + _USERS or "/" in user)
    if at and not is_name:
        return "a password before the host" if ":" in user else "a user or a key before the host"
    return next((f"the parameter {name!r}" for name in _secret_parameters(parameters)), "")


def _has_odd_port(rest: str) -> bool:
    """Whether what looks like a port is none and an ``@`` comes later: a password may have a question mark in it."""
    port = re.match(r"[^/?#;@\[\]:]*:([^/?#;@]*)[/?#;]", rest)
    return bool(port and not port[1].isdigit() and "@" in rest[port.end() :])


def _secret_parameters(parameters: list[str]) -> Iterator[str]:
    for pair in re.split(r"[?#;&]", parameters[0]) if parameters else ():
        name, _, value = (unquote_plus(part) for part in pair.partition("="))
        words = [word for word in re.split(r"[-_.\[\]]|(?<=[a-z])(?=[A-Z])", name) if word]
        if value and any(_NAMES.fullmatch(word.lower()) for word in (name, *words)):
            yield name
        elif _LONG.search(value) or _LONG.search(name):
            yield name if value else "without a name"


def hide(text: str) -> str:
    """Return a message in which no URL, and no ``user:password@host``, shows a secret."""
    return _BEFORE_AT.sub(_without_login, _URL.sub(lambda url: url[1] + _without_secrets(url[2]), text))


def _without_login(found: re.Match[str]) -> str:
    """Hide ``user:password`` from the first place where a user may begin, which is not after a letter, a digit or a slash."""
    text, before = found[1], found.string[found.start() - 1 : found.start()]
    last_colon = text.rfind(":", 0, len(text) - 1)
    for i in range(last_colon):
        previous = text[i - 1] if i else before
        if text[i] != ":" and not (previous.isalnum() or previous in ("_", "/")):
            return f"{text[:i]}{HIDDEN}@"
    return found[0]


def _without_secrets(url: str) -> str:
    if not found_in(url):
        return url
    scheme, _, rest = url.partition("://")
    if _has_odd_port(rest):
        return f"{scheme}://{HIDDEN}@{rest.rpartition('@')[2]}"
    place = re.split(r"[?#;]", rest, maxsplit=1)[0]
    host = place.rpartition("@")[2] if "@" in place and found_in(f"{scheme}://{place}") else place
    shown = f"{scheme}://{HIDDEN}@{host}" if host != place else f"{scheme}://{place}"
    return shown if len(place) == len(rest) else f"{shown}?{HIDDEN}"
