#!/usr/bin/env python3
"""Writes the bill of materials of each shipped binary, as CycloneDX 1.5 JSON.

  deploy/sbom.py [--out DIR] [--target TRIPLE] [--check] [--built BINARY] [BINARY...]

`cargo cyclonedx` (0.5.9) does the work from Cargo.lock: every crate that is linked in or that builds it, with its version,
licence, package URL and the SHA-256 that the registry gives, and which needs which. What this adds: one file for each binary in DIR
(target/sbom unless said otherwise); no crate that is there for a feature of another member of the workspace alone, which the tool cannot
tell and `cargo tree` can; the time of the last commit instead of the present one, and no path of this machine, so that the same source
gives the same file.

--check validates each file against the schema of CycloneDX (PyPI cyclonedx-python-lib carries it): no crate that `cargo tree` names is
missing, each from the registry has a digest, each has a licence, and the graph from the binary reaches each.
--built BINARY builds that one (profile dev) and compares with what cargo says that it compiled.

C sources that crates bring along (SQLite, mimalloc, ring) are not listed on their own: their versions are those of their crates.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = {
    "mindos": "mindos",
    "mindos-control-plane": "mindos-control-plane",
    "mindos-sidecar": "mindos-agent-sidecar",
    "mindos-cluster-agent": "mindos-cluster-agent",
    "mindos-general": "mindos-generals",
}


def output(*command, **more):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def host():
    return re.search(r"^host: (\S+)$", output("rustc", "-vV"), re.M)[1]


def built(binary, target):
    """Name and version of all that `cargo tree` says is linked in or builds it."""
    lines = output("cargo", "tree", "--locked", "--package", PACKAGES[binary], "--target", target, "--edges", "normal,build",
                   "--prefix", "none", "--format", "{p}")
    return {tuple(line.split()[:2]) for line in lines.splitlines() if line.strip()}


def compiled(binary):
    """Name and version of all that cargo compiled for it, of the host and of the target, also where it was done before."""
    lines = output("cargo", "build", "--locked", "--package", PACKAGES[binary], "--bin", binary, "--message-format", "json")
    packages = set()
    for line in lines.splitlines():
        said = json.loads(line)
        if said["reason"] == "compiler-artifact":
            # `path+file:///folder#name@version`, or `#version` where the folder has the package's name.
            place, _, name = said["package_id"].partition("#")
            name = name if "@" in name else f"{place.rsplit('/', 1)[1]}@{name}"
            name, _, version = name.rpartition("@")
            packages.add((name, f"v{version}"))
    return packages


def key(component):
    return component["name"], f"v{component['version']}"


def pruned(document, wanted):
    """Only the components that are wanted, and the edges between them."""
    document["components"] = [part for part in document["components"] if key(part) in wanted]
    known = {part["bom-ref"] for part in document["components"]} | {document["metadata"]["component"]["bom-ref"]}
    document["dependencies"] = [edge for edge in document["dependencies"] if edge["ref"] in known]
    for edge in document["dependencies"]:
        if "dependsOn" in edge:
            edge["dependsOn"] = [ref for ref in edge["dependsOn"] if ref in known]
    return document


def reached(document):
    """References that the edges lead to from the binary."""
    edges = {edge["ref"]: edge.get("dependsOn", []) for edge in document["dependencies"]}
    found, todo = set(), [document["metadata"]["component"]["bom-ref"]]
    while todo:
        for ref in edges.get(todo.pop(), []):
            if ref not in found:
                found.add(ref)
                todo.append(ref)
    return found


def write(folder, target, binaries):
    """One run of the tool describes all binaries of the workspace, beside their manifests; those wanted are moved."""
    environment = dict(os.environ)
    environment.setdefault("SOURCE_DATE_EPOCH", output("git", "log", "-1", "--format=%ct").strip())
    subprocess.run(["cargo", "cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5", "--describe", "binaries",
                    "--target", target], cwd=ROOT, check=True, env=environment)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = json.loads(output("cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"))
    for package in metadata["packages"]:
        for written in pathlib.Path(package["manifest_path"]).parent.glob("*_bin.cdx.json"):
            binary = written.name.removesuffix("_bin.cdx.json")
            text = written.read_text("utf-8")
            written.unlink()
            if binary in binaries:
                # References to the crates of the project are paths; within the project they say as much.
                text = text.replace(f"path+file://{ROOT}/", "path+file:///")
                document = pruned(json.loads(text), built(binary, target))
                (folder / f"{binary}.cdx.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def check(path, binary, target, by_build):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = path.read_text("utf-8")
    faults = [f"schema: {fault}" for fault in JsonStrictValidator(SchemaVersion.V1_5).validate_str(text, all_errors=True) or ()]
    document = json.loads(text)
    listed = {key(part) for part in document["components"]}
    own = PACKAGES[binary]
    needed = {part for part in built(binary, target) if part[0] != own}
    # A crate may name what builds it and have no build script, so less is compiled than is needed by name.
    wanted = {part for part in compiled(binary) if part[0] != own} if by_build else needed
    faults += [f"not listed: {name} {version}" for name, version in sorted(wanted - listed)]
    faults += [f"listed, but not needed: {name} {version}" for name, version in sorted(listed - needed)]
    leads_to = reached(document)
    faults += [f"not reached from the binary: {part['bom-ref']}" for part in document["components"] if part["bom-ref"] not in leads_to]
    for part in document["components"]:
        if part["bom-ref"].startswith("registry+") and not part.get("hashes"):
            faults.append(f"no digest: {part['bom-ref']}")
        if not part.get("licenses"):
            faults.append(f"no licence: {part['bom-ref']}")
    if str(ROOT) in text:
        faults.append(f"holds paths of this machine: {ROOT}")
    return faults, len(listed)


def main():
    options = argparse.ArgumentParser(description="Writes CycloneDX bills of materials of the shipped binaries.")
    options.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "sbom")
    options.add_argument("--target", default=None, help="target triple [default: this machine's]")
    options.add_argument("--check", action="store_true", help="validate what was written")
    options.add_argument("--built", choices=[*PACKAGES], help="with --check: build this one and compare with what was compiled")
    options.add_argument("binary", nargs="*", choices=[[], *PACKAGES], help="default: all")
    given = options.parse_args()
    target = given.target or host()
    binaries = given.binary or list(PACKAGES)
    write(given.out, target, binaries)
    failed = False
    for binary in binaries:
        path = given.out / f"{binary}.cdx.json"
        if not path.exists():
            sys.exit(f"error: cargo cyclonedx wrote nothing for {binary}")
        faults, parts = check(path, binary, target, binary == given.built) if given.check else ([], None)
        for fault in faults:
            print(f"sbom: {binary}: {fault}")
        failed |= bool(faults)
        print(f"sbom: {path.name}" + (f": valid, {parts} components" if parts is not None and not faults else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
