"""A bill of materials in CycloneDX 1.5 JSON of what is installed and Caucus needs: ``python deploy/sbom.py [FILE]``.

From the metadata of the environment alone, without a network: the packages that ``caucus-bayes`` and its extras reach, their versions,
licences as they declare them, where they are from, and who needs whom. The same environment gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = "caucus-bayes"
EXTRAS = frozenset({"ray", "s3", "metrics"})


class Package(NamedTuple):
    """An installed package, and those of its extras that somebody asked for: ``ray[default]`` asks for ``default``."""

    distribution: metadata.Distribution
    extras: frozenset[str]

    def needs(self) -> Iterator[Requirement]:
        """Yield what it requires on this machine, with these extras."""
        for text in self.distribution.requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *self.extras)):
                yield requirement


def normalised(name: str) -> str:
    """Return the name as PyPI compares it: ``ruamel.yaml`` is ``ruamel-yaml``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def reached(root: str = ROOT, extras: frozenset[str] = EXTRAS) -> dict[str, Package]:
    """Return the installed packages that ``root`` needs, itself included, by normalised name."""
    installed = {normalised(d.metadata["Name"]): d for d in metadata.distributions() if d.metadata["Name"]}
    found: dict[str, Package] = {}
    waiting = [(root, extras)]
    while waiting:
        name, asked = waiting.pop()
        before = found.get(name)
        if name not in installed or (before and asked <= before.extras):
            continue
        found[name] = Package(installed[name], asked | (before.extras if before else frozenset()))
        waiting += [(normalised(need.name), frozenset(need.extras)) for need in found[name].needs()]
    return dict(sorted(found.items()))


def bill(packages: dict[str, Package]) -> dict[str, object]:
    """Return the document."""
    components = [_component(name, package.distribution) for name, package in packages.items() if name != ROOT]
    version = packages[ROOT].distribution.version if ROOT in packages else "0"
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": ROOT, "name": ROOT, "version": version}},
        "components": components,
        "dependencies": [
            {"ref": name, "dependsOn": sorted({normalised(need.name) for need in package.needs()} & packages.keys())}
            for name, package in packages.items()
        ],
    }  # fmt: skip


def _component(name: str, package: metadata.Distribution) -> dict[str, object]:
    about = package.metadata
    text = about.get("License-Expression") or (about.get("License") or "").partition("\n")[0].strip()
    text = text or "; ".join(c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith("License ::"))
    made: dict[str, object] = {
        "type": "library", "bom-ref": name, "name": about["Name"], "version": package.version,
        "purl": f"pkg:pypi/{name}@{package.version}",
    }  # fmt: skip
    return made | ({"licenses": [{"license": {"name": text[:200]}}]} if text else {})


def main() -> None:
    """Write the bill to the file that is named, or print it."""
    document = json.dumps(bill(reached()), indent=1, sort_keys=True) + "\n"
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            file.write(document)
    else:
        sys.stdout.write(document)


if __name__ == "__main__":
    main()
