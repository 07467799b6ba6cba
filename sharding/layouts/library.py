"""Layouts by name (`configs/layouts/`) or by the path of a YAML file of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from sharding import storage
from sharding.errors import LayoutError
from sharding.layouts.schema import Layout

FOLDER = Path(__file__).parent / "shipped"
MAX_BYTES, MAX_DEPTH = 1 << 20, 20


def names() -> list[str]:
    """Return the names of the layouts that come with Caucus."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Layout:
    """Return a layout, checked.

    Parameters
    ----------
    name
        One of `names`, or a path or URL that ends in `.yaml` or `.yml`. A layout that says `extends: nc` is that layout with
        other values for the keys that it has.

    Raises
    ------
    LayoutError
        There is none of this name, or the file is no layout; every fault of the schema is told.
    """
    values = _merged(name, set())
    try:
        return Layout.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}" for fault in error.errors()]
        raise LayoutError(
            f"layout {name!r}", "; ".join(faults), "a layout as in docs/layouts.md", "Correct the file."
        ) from None


def sha256(layout: Layout) -> str:
    """Return a hash that changes with anything that the layout says."""
    return storage.sha256_bytes(storage.canonical_json(layout.model_dump(mode="json")))


def _merged(name: str, seen: set[str]) -> dict[str, Any]:
    if name in seen:
        raise LayoutError(f"layout {name!r}", "`extends` that leads back to it", "an end", "Correct `extends`.")
    values = _read(name)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise LayoutError(f"layout {name!r}", f"`extends` {base!r}", "a name", "Correct `extends`.")
    if base.endswith((".yaml", ".yml")) and "/" not in base and "/" in name:
        base = f"{name.rsplit('/', 1)[0]}/{base}"
    return _overlaid(_merged(base, seen | {name}), values)


def _overlaid(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _overlaid(below.get(key), value) for key, value in above.items()}
    return above


def _read(name: str) -> dict[str, Any]:
    if name.endswith((".yaml", ".yml")):
        url = name
    else:
        if name not in names():
            raise LayoutError(
                "data.layout", f"{name!r}", f"one of {', '.join(names())}, or the path of a YAML file",
                "Correct the name; docs/layouts.md says how to write your own."
            )  # fmt: skip
        url = str(FOLDER / f"{name}.yaml")
    with storage.opened(url) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise LayoutError(f"layout {name!r}", f"more than {MAX_BYTES:,} bytes", "a smaller file", "Check the path.")
    try:
        values = _parse(content.decode())
    except (YAMLError, UnicodeDecodeError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        raise LayoutError(
            f"layout {name!r}", f"text that is not plain YAML{line}", "YAML without aliases, tags or keys given twice",
            "Correct the file."
        ) from None  # fmt: skip
    if not isinstance(values, dict):
        raise LayoutError(f"layout {name!r}", "no mapping", "keys such as `voters:` at the top", "Correct the file.")
    return values


def _parse(text: str) -> Any:
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent) or depth > MAX_DEPTH:
            raise ValueError("aliases, or too deep")
    return YAML(typ="safe", pure=True).load(text)
