"""Writes sbom.json (CycloneDX): what the kiosk needs at the door, as it is installed here; prints it as pinned names.

The environment also holds what only the tests and the converter need: that is left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# Its own validation takes ten seconds, for addresses that packages give of themselves.
OPTIONS = ("--pyproject", "pyproject.toml", "--output-reproducible", "--no-validate")
TOOL = ("cyclonedx_py", "environment", *OPTIONS, sys.executable)


def needed(requirements: Iterable[str]) -> dict[str, str]:
    """Name and version, as installed here, of what meets these requirements and of all that it needs in turn."""
    found: dict[str, str] = {}
    waiting = [(Requirement(text), "") for text in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, asked_by = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": asked_by}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for seen_name, extra in seen if seen_name == name}:
            seen.add((name, extra))
            installed = distribution(name)
            found[name] = installed.version
            waiting += [(Requirement(text), extra) for text in installed.requires or ()]
    return found


def keep(document: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """A bill of materials without other components than these."""
    components = [part for part in document["components"] if canonicalize_name(part["name"]) in names]
    kept = {part["bom-ref"] for part in components} | {document["metadata"]["component"]["bom-ref"]}
    graph = [
        {**node, "dependsOn": [ref for ref in node.get("dependsOn", ()) if ref in kept]}
        for node in document["dependencies"]
        if node["ref"] in kept
    ]
    return {**document, "components": components, "dependencies": graph}


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = needed(project["dependencies"])
    told = subprocess.run([sys.executable, "-m", *TOOL], cwd=ROOT, check=True, capture_output=True, text=True)
    document = keep(json.loads(told.stdout), frozenset(needs))
    listed = {canonicalize_name(part["name"]): part["version"] for part in document["components"]}
    if listed != needs:
        sys.exit(f"sbom.json would be wrong about {sorted(set(listed.items()) ^ set(needs.items()))}")
    (ROOT / "sbom.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for name, version in sorted(needs.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
