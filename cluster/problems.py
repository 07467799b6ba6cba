"""What pydantic refused -> sentences a person can act on: line, key, found, expected, the nearest right spelling."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cluster.errors import Problem
from cluster.yaml_source import Path, Place, Source

_SECRET = ("secret", "token", "password", "credential")


def explain(error: ValidationError, source: Source, root: type[BaseModel]) -> tuple[Problem, ...]:
    """Return one `Problem` per place in the file, in the order of the file's lines."""
    grouped: dict[Path, list[ErrorDetails]] = {}
    for details in _without_echoes(error.errors(include_url=False)):
        grouped.setdefault(_blamed_path(details, source.values), []).append(details)
    return tuple(_problem(path, group, source, root) for path, group in sorted(grouped.items(), key=_line_of(source)))


def _without_echoes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out that a list is too short where that is so only because its items are wrong."""
    faulty = {details["loc"][:-1] for details in errors}
    return [details for details in errors if details["type"] != "too_short" or details["loc"] not in faulty]


def _line_of(source: Source) -> Callable[[tuple[Path, list[ErrorDetails]]], tuple[int, str]]:
    def order(item: tuple[Path, list[ErrorDetails]]) -> tuple[int, str]:
        line = source.place(item[0]).where.rpartition(":")[2]
        return (int(line) if line.isdigit() else 1 << 30, str(item[0]))

    return order


def _written_path(details: ErrorDetails, values: Any) -> Path:
    """Drop from pydantic's location the names of union members, which nobody wrote."""
    path: list[str | int] = []
    *inner, last = details["loc"] or ("",)
    for part in inner:
        if _was_written(values, part):
            path, values = [*path, part], values[part]
    if _was_written(values, last) or details["type"] == "missing":
        path.append(last)
    return tuple(path)


def _was_written(values: Any, part: str | int) -> bool:
    if isinstance(values, list):
        return isinstance(part, int) and part < len(values)
    return isinstance(values, dict) and part in values


def _blamed_path(details: ErrorDetails, values: Any) -> Path:
    """Follow the sentence of a check on a whole section to the key that it names: ``priors: 'sx' is ...``."""
    path = _written_path(details, values)
    found = details["input"]
    if details["type"] == "union_tag_invalid" and isinstance(found, dict):
        return (*path, *[key for key, value in found.items() if value == details["ctx"]["tag"]][:1])
    words = re.findall(r"^(\w+)(?=: )|'([^']+)'", _sentence(details)) if details["type"] == "value_error" else []
    for word in ("".join(pair) for pair in words):
        if isinstance(found, dict) and word in found:
            path, found = (*path, word), found[word]
    return path


def _problem(path: Path, group: list[ErrorDetails], source: Source, root: type[BaseModel]) -> Problem:
    place = source.place(path)
    key = ".".join(map(str, path))
    unknown = [details for details in group if details["type"] == "extra_forbidden"]
    if unknown and len(unknown) == len(group):
        return _unknown_key(path, place, root)
    if any(details["type"] == "missing" for details in group):
        return Problem(place.where, key, "nothing", "this key", _describe(path, root))
    value = group[0]["input"]
    is_number = isinstance(value, int | float)
    own = [_sentence(details) for details in group if details["type"] == "value_error"]
    if any(is_number and "quote it" in sentence for sentence in own):
        return Problem(place.where, key, place.text, "text", _quote(place))
    if own:
        return Problem(place.where, key, "", "", " or ".join(own))
    found = "(hidden)" if any(word in key.lower() for word in _SECRET) else _shown(group[0], place)
    expected = list(dict.fromkeys(_expected(details) for details in group if details["type"] != "extra_forbidden"))
    if is_number and any(details["type"] == "string_type" for details in group):
        hint = _quote(place)
    else:
        words = [word for details in group for word in _allowed_words(details)]
        hint = _did_you_mean(place.text or str(value), words)
    return Problem(place.where, key, found, " or ".join(expected), hint)


def _quote(place: Place) -> str:
    return f'Quote it: "{place.text}". A number loses leading zeros'


def _unknown_key(path: Path, place: Place, root: type[BaseModel]) -> Problem:
    key, last = ".".join(map(str, path)), str(path[-1])
    names = [name for model in _models_at(root, path[:-1]) for name in model.model_fields]
    homes = [
        f"{section}.{last}"
        for section in root.model_fields
        for model in _models_at(root, (section,))
        if last in model.model_fields
    ]
    hint = _one_of(homes) or _did_you_mean(last, names) or "Known here: " + ", ".join(sorted(set(names)))
    return Problem(place.where, key, f"the unknown key {last!r}", "a known key", hint)


def _sentence(details: ErrorDetails) -> str:
    return details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").removesuffix(".")


def _expected(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if "expected" in context or "expected_tags" in context:
        return f"one of {context.get('expected', context.get('expected_tags'))}"
    message = _sentence(details)
    for start in ("Input should be ", "Input should "):
        message = message.removeprefix(start)
    return message


def _allowed_words(details: ErrorDetails) -> list[str]:
    context = details.get("ctx", {})
    text = str(context.get("expected", context.get("expected_tags", "")))
    return text.replace(" or ", ", ").replace("'", "").split(", ") if text else []


def _shown(details: ErrorDetails, place: Place) -> str:
    value = details["input"]
    if isinstance(value, dict | list) and not place.text:
        kind = "a section" if isinstance(value, dict) else "a list"
        return f"{kind} of {len(value)}"
    text = place.text or ("nothing" if value is None else repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    return _one_of(difflib.get_close_matches(word, list(dict.fromkeys(words)), n=1))


def _one_of(words: list[str]) -> str:
    return f"Did you mean `{words[0]}`?" if words else ""


def _describe(path: Path, root: type[BaseModel]) -> str:
    for model in _models_at(root, path[:-1]):
        field = model.model_fields.get(str(path[-1]))
        if field is not None and field.description:
            return field.description
    return ""


def _models_at(root: Any, path: Path) -> list[type[BaseModel]]:
    """Return the models that a section at ``path`` may be."""
    kinds = [root]
    for part in path:
        kinds = [inner for kind in kinds for inner in _inner(kind, str(part))]
    return [model for kind in kinds for model in _members(kind) if _is_model(model)]


def _inner(kind: Any, part: str) -> Iterator[Any]:
    for member in _members(kind):
        if _is_model(member):
            if part in member.model_fields:
                yield member.model_fields[part].annotation
        elif get_origin(member) in (dict, list, tuple):
            yield get_args(member)[-1 if get_origin(member) is dict else 0]


def _members(kind: Any) -> list[Any]:
    origin = get_origin(kind)
    if origin is Annotated:
        return _members(get_args(kind)[0])
    if origin in (Union, UnionType):
        return [member for argument in get_args(kind) for member in _members(argument)]
    return [kind]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
