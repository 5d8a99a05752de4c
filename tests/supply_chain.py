"""What a release is made of: its packages from PyPI, all the way down, and its models.

    python tests/supply_chain.py pins                    name==version of each, for pip-audit
    python tests/supply_chain.py sbom ENVIRONMENT.json   the CycloneDX of a whole environment, cut down to the release
    python tests/supply_chain.py verdict AUDIT.json      what pip-audit found; exit 1 for a vulnerability, 2 if unknown

`make sbom` and `make audit` use it. An environment for tests holds much that no release needs, and cyclonedx-py lists
all of it; pip-audit calls a package it could not ask about one without known vulnerabilities.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("otel", "postgres")
"""What an installation may add; `train` and `test` are for those who build one."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(name: str = "ordersight", extras: Iterable[str] = EXTRAS) -> dict[str, str]:
    """Every distribution that `name` needs here, itself included, with its version. Raises where one is missing."""
    found: dict[str, str] = {}
    waiting = [(canonical(name), frozenset(extras))]
    seen = set()
    while waiting:
        wanted, asked = waiting.pop()
        if (wanted, asked) in seen:
            continue
        seen.add((wanted, asked))
        try:
            installed = distribution(wanted)
        except PackageNotFoundError:
            raise SystemExit(f"{wanted} is needed and not installed") from None
        found[wanted] = installed.version.partition("+")[0]
        for line in installed.requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *asked)):
                waiting.append((canonical(requirement.name), frozenset(requirement.extras)))
    return found


def pins(path: Path = ROOT / "constraints.txt") -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def models(folder: Path = ROOT / "manifests" / "models") -> list[dict[str, Any]]:
    """A component for each model, with the digest of its weights."""
    components = []
    for path in sorted(folder.glob("*/model.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        components.append(
            {
                "type": "machine-learning-model",
                "bom-ref": f"model:{said['name']}@{said['version']}",
                "name": said["name"],
                "version": str(said["version"]),
                "hashes": [{"alg": "SHA-256", "content": said["weights"]["sha256"]}],
            }
        )
    return components


def release_sbom(environment: dict[str, Any]) -> dict[str, Any]:
    """The environment's bill of materials with nothing in it but the release."""
    needed = closure()
    kept = {c["bom-ref"]: c for c in environment["components"] if canonical(c["name"]) in needed}
    missing = set(needed) - {canonical(c["name"]) for c in kept.values()}
    if missing:
        raise SystemExit(f"not in the environment's bill of materials: {', '.join(sorted(missing))}")
    (root,) = (ref for ref, c in kept.items() if canonical(c["name"]) == "ordersight")
    component = {**kept.pop(root), "type": "application"}
    added = models()
    dependencies = [
        {**d, "dependsOn": [ref for ref in d.get("dependsOn", ()) if ref in kept]}
        for d in environment["dependencies"]
        if d["ref"] in kept or d["ref"] == root
    ]
    for dependency in dependencies:
        if dependency["ref"] == root:
            dependency["dependsOn"] += [c["bom-ref"] for c in added]
    return {
        **environment,
        "metadata": {**environment["metadata"], "component": component},
        "components": [*kept.values(), *added],
        "dependencies": [*dependencies, *({"ref": c["bom-ref"]} for c in added)],
    }


def verdict(path: Path) -> tuple[int, list[str]]:
    """Exit status and what to say: 0 only where every package was looked up and nothing is known of it."""
    try:
        packages = json.loads(path.read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError, KeyError):
        return 2, ["NOT AUDITED: the index of vulnerabilities cannot be reached from here"]
    said = [f"{p['name']} {p['version']}: {v['id']}" for p in packages for v in p.get("vulns", ())]
    skipped = [p["name"] for p in packages if "skip_reason" in p]
    if skipped:
        some = ", ".join(skipped[:5]) + (" ..." if len(skipped) > 5 else "")
        said.append(f"NOT AUDITED: {len(skipped)} of {len(packages)} packages could not be looked up: {some}")
    if any("vulns" in p and p["vulns"] for p in packages):
        return 1, said
    if skipped or not packages:
        return 2, said or ["NOT AUDITED: nothing was looked up"]
    return 0, [f"{len(packages)} packages, no known vulnerability"]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pins"]:
            for package, version in sorted(closure().items()):
                if package != "ordersight":
                    print(f"{package}=={version}")
        case ["sbom", path]:
            json.dump(release_sbom(json.loads(Path(path).read_text(encoding="utf-8"))), sys.stdout, indent=1)
        case ["verdict", path]:
            status, said = verdict(Path(path))
            print("\n".join(said))
            raise SystemExit(status)
        case _:
            raise SystemExit(__doc__)
