"""The bill of materials names everything that is reached, the extras of extras too."""

from importlib import metadata

import pytest
from packaging.requirements import Requirement

from deploy import sbom


@pytest.fixture(scope="module")
def packages() -> dict[str, sbom.Package]:
    return sbom.reached()


def test_what_an_extra_of_a_package_needs_is_in_the_bill(packages: dict[str, sbom.Package]):
    asked = {Requirement(text).name for text in metadata.requires("ray") or () if 'extra == "default"' in text}
    assert len(asked) > 5
    assert {sbom.normalised(name) for name in asked} <= packages.keys()
    assert packages["ray"].extras == {"default"}


def test_without_extras_there_is_no_ray():
    assert "ray" not in sbom.reached(extras=frozenset())


def test_whoever_is_needed_is_a_component_once(packages: dict[str, sbom.Package]):
    document = sbom.bill(packages)
    refs = [component["bom-ref"] for component in document["components"]]
    assert len(refs) == len(set(refs)) == len(packages) - 1
    assert {need for entry in document["dependencies"] for need in entry["dependsOn"]} <= set(refs)
