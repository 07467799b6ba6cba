"""YAML text -> plain values, with the line of every one of them.

Nothing is constructed but mappings, lists and scalars: the text is composed to nodes (ruamel, YAML 1.2, safe) and read
from there, so tags cannot name Python objects. Size, depth and the number of nodes, aliases expanded, are limited while
the values are built, so a small file cannot grow to fill the memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cluster.errors import ConfigError, Problem

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 50
READABLE = "YAML that can be read"

Path = tuple[str | int, ...]
_CONSTRUCTORS = {"int": "construct_yaml_int", "float": "construct_yaml_float", "bool": "construct_yaml_bool"}
_KINDS = {*_CONSTRUCTORS, "null", "str", "timestamp", "seq", "map"}
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Place:
    """Where a value stands (``run.yaml:12`` or the ``--set`` that gave it) and how it was written there."""

    where: str
    text: str = ""


@dataclass
class Source:
    """Plain values, and the place of each by its path; a key's own place is under ``path`` as well as its value's."""

    values: dict[str, Any]
    places: dict[Path, Place]

    def place(self, path: Path) -> Place:
        """Return the place of ``path``, or of the nearest thing around it that was written."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]


def parse(text: str, name: str) -> Source:
    """Read a mapping from YAML text; ``name`` is what messages call the file.

    Raises
    ------
    ConfigError
        Not YAML, too large, a key given twice, a tag, or no mapping at the top.
    """
    if len(text) > MAX_BYTES:
        raise _error(name, "", f"{len(text):,} characters", f"at most {MAX_BYTES:,}")
    root = _compose(text, name)
    reader = _Reader(name)
    values = reader.read(root, ()) if root is not None else None
    if not isinstance(values, dict):
        found = "an empty file" if root is None else f"a {type(values).__name__}"
        reader.problems.append(Problem(f"{name}:1", "", found, "keys such as `name:` and `data:` at the top"))
    if reader.problems:
        raise ConfigError(tuple(reader.problems))
    assert isinstance(values, dict)
    return Source(values, reader.places)


def override(source: Source, setting: str) -> None:
    """Apply one ``a.b.c=value`` to ``source``; the value is YAML.

    Raises
    ------
    ConfigError
        Not of that form, or ``a.b`` is a value that has no keys.
    """
    where = f"--set {setting}"
    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise _error(where, "", repr(setting), "a setting of the form a.b.c=value")
    path = tuple(key.split("."))
    inner = source.values
    for depth, part in enumerate(path[:-1], start=1):
        inner = inner.setdefault(part, {})
        source.places.setdefault(path[:depth], Place(where))
        if not isinstance(inner, dict):
            raise _error(where, _dotted(path[:depth]), repr(inner), "a section with keys")
    for old in [place for place in source.places if place[: len(path)] == path]:
        del source.places[old]
    reader = _Reader(where, lines=False)
    root = _compose(text, where)
    inner[path[-1]] = reader.read(root, path) if root is not None else None
    source.places |= {path: Place(where, text)} | reader.places
    if reader.problems:
        raise ConfigError(tuple(reader.problems))


def _compose(text: str, name: str) -> Node | None:
    try:
        depth = 0
        for number, event in enumerate(YAML(typ="safe", pure=True).parse(text)):  # a stream: stops before it is built
            if number > 2 * MAX_NODES:
                raise _error(f"{name}:{event.start_mark.line + 1}", "", "more", f"at most {MAX_NODES:,} values")
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _error(f"{name}:{event.start_mark.line + 1}", "", "deeper nesting", f"at most {MAX_DEPTH} levels")
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        line = f"{name}:{error.problem_mark.line + 1}" if error.problem_mark else name
        raise _error(line, "", f"a fault: {error.problem}", READABLE) from None
    except YAMLError as error:
        fault, _, _ = str(error).partition("\n")
        raise _error(name, "", f"a fault: {fault}", READABLE) from None


class _Reader:
    def __init__(self, name: str, *, lines: bool = True):
        self.name, self.lines = name, lines
        self.places: dict[Path, Place] = {}
        self.problems: list[Problem] = []
        self._nodes = 0
        self._yaml = YAML(typ="safe", pure=True)

    def read(self, node: Node, path: Path) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            limit = f"at most {MAX_NODES:,} values and {MAX_DEPTH} levels, aliases expanded"
            raise _error(self._where(node), _dotted(path[:1]), "more", limit)
        self.places.setdefault(path, Place(self._where(node), node.value if isinstance(node, ScalarNode) else ""))
        kind = str(node.tag).removeprefix(_TAG)
        if kind not in _KINDS:
            self._refuse(node, path, f"the tag {node.tag}", "a value without a tag")
            return None
        if isinstance(node, MappingNode):
            return dict(self._items(node, path))
        if isinstance(node, SequenceNode):
            return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        if kind == "null":
            return None
        if kind not in _CONSTRUCTORS:
            return node.value
        try:
            return getattr(self._yaml.constructor, _CONSTRUCTORS[kind])(node)
        except ValueError:
            self._refuse(node, path, repr(node.value), f"a value of type {kind}")
            return None

    def _items(self, node: MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, str] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            inner = (*path, key)
            if not isinstance(key_node, ScalarNode) or key == "<<":
                self._refuse(key_node, path, "a merge or a compound key", "plain keys")
            elif key.count("(") != key.count(")") and key_node.style is None:
                hint = "Inside { } a comma ends a value: quote it, as in {b: 'normal(0, 1)'}"
                self._refuse(key_node, inner, f"half a bracket, {key!r}", "a key", hint)
            elif key in seen:
                self._refuse(key_node, inner, f"it again after {seen[key]}", "the key once")
            else:
                seen[key] = self._where(key_node)
                self.places[inner] = Place(seen[key], value_node.value if isinstance(value_node, ScalarNode) else "")
                yield key, self.read(value_node, inner)

    def _refuse(self, node: Node, path: Path, found: str, expected: str, hint: str = "") -> None:
        self.problems.append(Problem(self._where(node), _dotted(path), found, expected, hint))

    def _where(self, node: Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}" if self.lines else self.name


def _error(where: str, key: str, found: str, expected: str) -> ConfigError:
    return ConfigError((Problem(where, key, found, expected),))


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))
