"""Write the tables of docs/yaml.md from the config's own schema: ``python docs/generate_yaml.py``.

The text between ``<!-- keys:SECTION -->`` and ``<!-- end -->`` is replaced; `tests/test_docs.py` fails where it is not what
this script would write.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.config import PoststratifyConfig, PublishConfig, RunConfig, RunSection
from fitting.config import AuditConfig, ExactConfig, LaplaceConfig, ModelConfig, NUTSConfig, VIConfig
from sharding.config import ColumnConfig, DataConfig, ShardsConfig

PAGE = Path(__file__).parent / "yaml.md"
SECTIONS: dict[str, tuple[str, type[BaseModel]]] = {
    "top": ("", RunConfig),
    "data": ("data.", DataConfig),
    "columns": ("data.columns.NAME.", ColumnConfig),
    "model": ("model.", ModelConfig),
    "shards": ("shards.", ShardsConfig),
    "fit": ("fit.", LaplaceConfig),
    "fit-vi": ("fit.", VIConfig),
    "fit-nuts": ("fit.", NUTSConfig),
    "fit-exact": ("fit.", ExactConfig),
    "audit": ("audit.", AuditConfig),
    "poststratify": ("poststratify.", PoststratifyConfig),
    "publish": ("publish.", PublishConfig),
    "run": ("run.", RunSection),
}
OWN_TABLE = set(SECTIONS)  # described under their own heading
WORDS = {
    "data.columns": "Contract of columns, by the model's name; see below.",
    "data.format": "`auto` goes by the file's ending.",
    "data.columns.NAME.minimum": "Smallest value allowed.",
    "data.columns.NAME.maximum": "Largest value allowed.",
    "shards.by": "A column, a list of columns from coarse to fine, `hash`, or `random`.",
    "fit.method": "How a shard's site is fitted.",
    "run.max_in_flight": "Tasks under way at most; not set: twice the workers.",
}
TEXT_OR_LIST = ("data.source", "shards.by")
DEFAULTS = {"run.workers": "all cores", "run.directory": "`runs/NAME`"}
"""What the schema cannot say: one item for a list of one, and defaults that the machine or the name of the run decides."""


def keys(section: str) -> dict[str, tuple[str, str, str]]:
    """Keys of a section with what is accepted, the default, and the description; those of ``fit`` shared by all are in `fit`."""
    prefix, model = SECTIONS[section]
    schema = model.model_json_schema()
    found: dict[str, tuple[str, str, str]] = {}
    for name, entry in _leaves(schema, schema, ""):
        shared = section.startswith("fit-") and name in LaplaceConfig.model_fields
        nested = section == "top" and name != "name"
        if shared or nested:
            continue
        key = prefix + name
        required = name.partition(".")[0] in schema.get("required", ()) and key not in DEFAULTS
        default = "required" if required else DEFAULTS.get(key) or _default(entry)
        words = entry.get("description") or WORDS[key]
        accepted = _accepted(entry, schema)
        if key in TEXT_OR_LIST:
            accepted = "text, or a list"
        if key == "fit.method":
            accepted, default = "`vi`, `laplace`, `nuts`, `exact`", "`vi`"
        found[key] = (accepted, default, re.sub(r"\s+", " ", words))
    return found


def table(section: str) -> str:
    """Return the Markdown table of a section."""
    lines = ["| key | accepted | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{key}` | {_cell(a)} | {_cell(default)} | {_cell(words)} |"
        for key, (a, default, words) in keys(section).items()
    ]
    return "\n".join(lines)


def written(page: str) -> str:
    """Return the page with every table as it is now."""
    for section in SECTIONS:
        pattern = re.compile(rf"(<!-- keys:{section} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(
                f"docs/yaml.md has no place for {section!r}; expected '<!-- keys:{section} -->' and '<!-- end -->'"
            )
        page = pattern.sub(lambda match, section=section: f"{match[1]}{table(section)}\n{match[2]}", page)
    return page


def _leaves(schema: dict[str, Any], root: dict[str, Any], above: str) -> list[tuple[str, dict[str, Any]]]:
    out: list[tuple[str, dict[str, Any]]] = []
    for name, entry in schema["properties"].items():
        inner = _resolved(entry, root)
        if "properties" in inner and name not in OWN_TABLE:
            defaults = entry.get("default", {})
            for key, leaf in _leaves(inner, root, f"{above}{name}."):
                own = key.rpartition(".")[2]
                out.append((key, leaf | ({"default": defaults[own]} if own in defaults else {})))
        else:
            out.append((above + name, entry))
    return out


def _resolved(entry: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    return root["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry


def _default(entry: dict[str, Any]) -> str:
    value = entry.get("default")
    if value is None:
        return "not set"
    if isinstance(value, list | dict) and not value:
        return "none"
    if isinstance(value, list):
        return f"`{value[0]!r}`" if len(value) == 1 and not value[0] else ", ".join(f"`{item}`" for item in value)
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _accepted(entry: dict[str, Any], root: dict[str, Any]) -> str:
    entry = _resolved(entry, root)
    if "anyOf" in entry:
        return " or ".join(_accepted(option, root) for option in entry["anyOf"] if option.get("type") != "null")
    if "enum" in entry:
        return ", ".join(f"`{option}`" for option in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    kind = entry.get("type")
    if kind == "array":
        return "a list"
    if kind == "object":
        return "a mapping"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}[str(kind)]
    if "minimum" in entry:
        entry = {name: value for name, value in entry.items() if name != "exclusiveMinimum"}
    limits = [("exclusiveMinimum", "above"), ("minimum", "from"), ("exclusiveMaximum", "below"), ("maximum", "to")]
    return " ".join([words, *(f"{word} {entry[name]}".removesuffix(".0") for name, word in limits if name in entry)])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
