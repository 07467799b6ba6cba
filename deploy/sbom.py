"""A bill of materials in CycloneDX 1.5 JSON of what is installed and Caucus needs: ``python deploy/sbom.py [FILE]``.

From the metadata of the environment alone, without a network: the packages that ``caucus`` and its extras reach, their versions,
licences as they declare them, where they are from, and who needs whom. The same environment gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata

ROOT = "caucus"
EXTRAS = ("ray", "s3")


def name_of(requirement: str) -> str:
    """Return the normalised name of a requirement, ``ray`` of ``ray[default]>=2.52; extra == 'ray'``."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[;<>=!~(]", requirement, maxsplit=1)[0]).lower()


def reached(root: str = ROOT) -> dict[str, metadata.Distribution]:
    """Return the installed packages that ``root`` needs, itself included, by normalised name."""
    installed = {name_of(d.metadata["Name"]): d for d in metadata.distributions() if d.metadata["Name"]}
    found: dict[str, metadata.Distribution] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name in installed and name not in found:
            found[name] = installed[name]
            waiting += needs(installed[name], EXTRAS if name == root else ())
    return dict(sorted(found.items()))


def needs(distribution: metadata.Distribution, extras: tuple[str, ...] = ()) -> list[str]:
    """Return the names that a package requires; those of other extras are left out."""
    required = distribution.requires or []
    wanted = [r for r in required if "extra ==" not in r or any(re.search(rf"extra == ['\"]{e}['\"]", r) for e in extras)]
    return sorted({name_of(r) for r in wanted})


def bill(packages: dict[str, metadata.Distribution]) -> dict[str, object]:
    """Return the document."""
    components = [_component(name, package) for name, package in packages.items() if name != ROOT]
    version = packages[ROOT].version if ROOT in packages else "0"
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": ROOT, "name": ROOT, "version": version}},
        "components": components,
        "dependencies": [
            {"ref": name, "dependsOn": [n for n in needs(package, EXTRAS if name == ROOT else ()) if n in packages]}
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
