#!/usr/bin/env python3
"""What is under deploy/ for Kubernetes, held against rules that a server of 2021 does not know.

    manifests.py                   what kustomize makes of every base and overlay, and the examples; needs kubectl
    manifests.py --self-test       every rule refuses a sample that breaks it
    manifests.py --pods FILE       objects of a file, such as `kubectl get pods -o json` prints: the restricted profile alone
    manifests.py --server CONFIG   the charts, installed by Helm on the server of this kubeconfig and read back; and that the bases agree

Checked are: strict schemas of Kubernetes 1.28 and of the newest that is known, custom resources by the schemas in deploy/crds; the restricted
profile of the Pod Security Standards, for every pod template; Services, each with pods behind it; RBAC without wildcards, all verbs of it
listed in .ci/kube/rbac.txt (UPDATE=1 writes that file). Tools are in .ci/kube/tools.txt.
"""

import argparse
import asyncio
import copy
import json
import os
import pathlib
import subprocess
import sys

import jsonschema
import kubernetes_validate
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import policy  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHARTS = ROOT / "deploy/charts"
BASES = ROOT / "deploy/kustomize"
VERBS = ROOT / ".ci/kube/rbac.txt"
VERSIONS = ("1.28", kubernetes_validate.latest_version())
NAMESPACE = "mindos"
# What the path of a kustomization for servers without policy/v1 has in it.
OLD = "kubernetes-1.20"
# Kinds of others, whose schemas we do not have.
FOREIGN = {("monitoring.coreos.com", "ServiceMonitor"), ("cert-manager.io", "Certificate"), ("cert-manager.io", "Issuer"), ("keda.sh", "ScaledObject"), ("keda.sh", "TriggerAuthentication")}
BUILT_IN = ("", "apps", "batch", "policy", "autoscaling")


class Faults(list):
    """What was found wrong."""

    def add(self, where, found, what):
        kind = found.get("kind", "?")
        name = (found.get("metadata") or {}).get("name", "?")
        self.append(f"{where}: {kind} {name}: {what}")


def kubectl(*words, config=None, given=None):
    if config:
        words = ("--kubeconfig", config, *words)
    done = subprocess.run([os.environ.get("KUBECTL", "kubectl"), *words], capture_output=True, text=True, check=False, input=given)
    if done.returncode != 0:
        raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def objects(text):
    return [found for found in yaml.safe_load_all(text) if found]


def group_of(found):
    version = found["apiVersion"]
    return version.split("/")[0] if "/" in version else ""


def custom():
    """Schemas of our own kinds, by group, version and kind; unknown fields are refused."""
    schemas = {}
    for path in sorted((ROOT / "deploy/crds").glob("*.yaml")):
        for crd in objects(path.read_text("utf-8")):
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
                for field in ("apiVersion", "kind"):
                    schema.setdefault("properties", {})[field] = {"type": "string"}
                schema["properties"]["metadata"] = {"type": "object"}
                schemas[(spec["group"], version["name"], spec["names"]["kind"])] = strict(schema)
    return schemas


def strict(schema):
    """An OpenAPI schema as one of JSON: nothing is known that it does not name, and `nullable` means that."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: ({name: strict(one) for name, one in value.items()} if key == "properties" else strict(value)) for key, value in schema.items()}
    if "properties" in made and "additionalProperties" not in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    if made.pop("nullable", False) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    return made


def schemas(where, found, known, faults):
    """One object by the schemas of all versions."""
    version = found["apiVersion"].split("/")[-1]
    group = group_of(found)
    if (group, found["kind"]) in FOREIGN:
        return
    ours = known.get((group, version, found["kind"]))
    if ours:
        for error in jsonschema.Draft7Validator(ours).iter_errors(found):
            faults.add(where, found, f"{'.'.join(map(str, error.absolute_path))}: {error.message}")
        return
    if group not in BUILT_IN and not group.endswith(".k8s.io"):
        faults.add(where, found, f"{group} is neither Kubernetes' nor ours nor listed as another's")
        return
    for target in VERSIONS:
        try:
            kubernetes_validate.validate(found, target, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
            what = " ".join(str(error).split())[:300] or type(error).__name__
            faults.add(where, found, f"for {target}: {what}")


def pods(where, found, faults):
    """The restricted profile, for whatever makes pods."""
    for what in policy.restricted(found):
        faults.add(where, found, what)


def verbs(where, all_found, faults):
    """Every right that is given, a line each, none of it a wildcard."""
    lines = set()
    for found in all_found:
        if found["kind"] not in ("Role", "ClusterRole"):
            continue
        for what in policy.wildcards(found):
            faults.add(where, found, what)
        for rule in found.get("rules") or []:
            lines |= policy.rights(where, found, rule)
    return lines


def judge(where, found, known, faults):
    if not found:
        faults.append(f"{where}: makes nothing")
    for one in found:
        # Those for an older server are for that one to judge.
        if OLD not in where:
            schemas(where, one, known, faults)
        pods(where, one, faults)
    return verbs(where, found, faults)


def of_kustomize(faults):
    """Everything that kustomize renders."""
    folders = sorted(path.parent for path in BASES.rglob("kustomization.yaml"))
    if not folders:
        raise SystemExit(f"there is no kustomization under {BASES.relative_to(ROOT)}")
    known = custom()
    counts, lines, examples = {}, set(), 0
    for folder in folders:
        where = str(folder.relative_to(ROOT / "deploy"))
        found = objects(kubectl("kustomize", str(folder)))
        if all(one["kind"] == "Component" for one in objects((folder / "kustomization.yaml").read_text("utf-8"))):
            continue
        counts[where] = len(found)
        for one, what in policy.unserved(found):
            faults.add(where, one, what)
        # Overlays change bases, so that only bases are listed; their wildcards are looked for all the same.
        rights = judge(where, found, known, faults)
        if "base" in folder.parts:
            lines |= rights
    for path in sorted((ROOT / "deploy/examples").glob("*.yaml")):
        found = objects(path.read_text("utf-8"))
        judge(str(path.relative_to(ROOT / "deploy")), found, known, faults)
        examples += len(found)
    text = "".join(f"{line}\n" for line in sorted(lines))
    if os.environ.get("UPDATE"):
        VERBS.write_text(text, "utf-8")
    if not VERBS.exists() or VERBS.read_text("utf-8") != text:
        listed = set(VERBS.read_text("utf-8").splitlines()) if VERBS.exists() else set()
        faults.extend(f"given, but not listed in {VERBS.relative_to(ROOT)}: {line}" for line in sorted(lines - listed))
        faults.extend(f"listed in {VERBS.relative_to(ROOT)}, but not given: {line}" for line in sorted(listed - lines))
    return f"{sum(counts.values())} objects of {len(counts)} kustomizations and {examples} of examples by schemas of {' and '.join(VERSIONS)}, {len(lines)} rights, all listed"


def within(wanted, found):
    """Whether what is wanted stands in what was found: of maps what is named, lists whole."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(within(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(within, wanted, found))
    return wanted == found


async def of_charts(config, faults):
    """Every chart on a real server: linted, installed, read back, taken away."""
    from helm_sdkpy import Configuration, HelmError, Install, Lint, Uninstall

    settings = yaml.safe_load((pathlib.Path(__file__).resolve().parent / "charts.yaml").read_text("utf-8"))
    server = json.loads(kubectl("get", "--raw", "/version", config=config))
    counts = []
    for case in settings:
        chart, values = case["chart"], case.get("values") or {}
        where = f"chart {chart} ({case['name']})"
        helm = Configuration(namespace=NAMESPACE, kubeconfig=config)
        for namespace in (NAMESPACE, *case.get("namespaces", [])):
            made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            kubectl("apply", "-f", "-", config=config, given=json.dumps(made))
        if case.get("refused"):
            try:
                await Install(helm).run(chart, str(CHARTS / chart), values=values, wait=False)
            except HelmError as error:
                if case["refused"] not in str(error):
                    faults.append(f"{where}: refused, but not for `{case['refused']}`: {error}")
                continue
            faults.append(f"{where}: installed, though {case['refused']}")
            await Uninstall(helm).run(chart, wait=False)
            continue
        linted = await Lint(helm).run(str(CHARTS / chart))
        for message in linted.get("Messages") or linted.get("messages") or []:
            if message.get("Severity", 0) >= 3:
                faults.append(f"{where}: lint: {message}")
        try:
            await Install(helm).run(chart, str(CHARTS / chart), values=values, wait=False)
        except HelmError as error:
            faults.append(f"{where}: not installed: {error}")
            continue
        try:
            found = release(config, chart)
            live = read_back(config, found, where, faults)
            for one in live:
                pods(where, one, faults)
            for one, what in policy.unserved(live):
                faults.add(where, one, what)
            verbs(where, live, faults)
            for one in case.get("has", []):
                kind, name = one.split("/")
                if not any(each["kind"] == kind and each["metadata"]["name"] == name for each in live):
                    faults.append(f"{where}: has no {one}")
            for one, wanted in case.get("shows", {}).items():
                kind, name = one.split("/")
                if not any(each["kind"] == kind and each["metadata"]["name"] == name and within(wanted, each) for each in live):
                    faults.append(f"{where}: no {one} with {wanted}")
            counts.append(len(live))
        finally:
            await Uninstall(helm).run(chart, wait=False)
    return f"{len(counts)} charts with {sum(counts)} objects installed on {server['gitVersion']} and read back"


def of_old_overlays(config, faults):
    """What is written for an older server, on one."""
    for folder in sorted(path.parent for path in BASES.rglob("kustomization.yaml") if OLD in str(path)):
        rendered = kubectl("kustomize", str(folder))
        for namespace in {(one["metadata"].get("namespace") or NAMESPACE) for one in objects(rendered)}:
            made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            kubectl("apply", "-f", "-", config=config, given=json.dumps(made))
        done = subprocess.run(
            [os.environ.get("KUBECTL", "kubectl"), "--kubeconfig", config, "apply", "--dry-run=server", "-f", "-"],
            capture_output=True, text=True, check=False, input=rendered,
        )
        if done.returncode != 0:
            faults.append(f"{folder.relative_to(ROOT)}: refused by the server: {done.stderr.strip()}")


def release(config, name):
    """What Helm rendered, out of its own record."""
    import base64
    import gzip

    found = json.loads(kubectl("-n", NAMESPACE, "get", "secret", "-l", f"owner=helm,name={name}", "-o", "json", config=config))
    packed = base64.b64decode(base64.b64decode(found["items"][-1]["data"]["release"]))
    return objects(json.loads(gzip.decompress(packed))["manifest"])


def read_back(config, rendered, where, faults):
    """The objects as the server holds them; what it dropped of them is a fault, but for fields that it is known not to have."""
    live = []
    for one in rendered:
        meta = one["metadata"]
        words = ["get", f"{one['kind']}.{one['apiVersion'].split('/')[-1]}.{group_of(one)}", meta["name"], "-o", "json"]
        words += ["-n", meta.get("namespace", NAMESPACE)]
        held = json.loads(kubectl(*words, config=config))
        live.append(held)
        for path in dropped(one, held):
            if not any(path.endswith(known) for known in policy.UNKNOWN_IN_1_20):
                faults.add(where, one, f"the server dropped {path}")
    return live


def dropped(sent, held, path=""):
    """Paths of what was sent and is not held."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            if value in (None, {}, [], ""):
                continue
            if not isinstance(held, dict) or key not in held:
                yield f"{path}.{key}"
            elif key not in ("data", "stringData", "annotations"):
                yield from dropped(value, held[key], f"{path}.{key}")
    elif isinstance(sent, list) and isinstance(held, list):
        for at, value in enumerate(sent):
            if at < len(held):
                yield from dropped(value, held[at], f"{path}[{at}]")


def agree(config):
    """That the bases say what the charts do."""
    done = subprocess.run([sys.executable, "-B", str(BASES / "from_chart.py"), "--check", config], capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [f"from_chart.py: {(done.stderr or done.stdout).strip()[-2000:]}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--pods", metavar="FILE", type=pathlib.Path)
    parser.add_argument("--server", metavar="CONFIG")
    options = parser.parse_args()
    faults = Faults()
    if options.self_test:
        said = policy.self_test(faults)
        if list(dropped({"a": 1, "b": [{"c": 2, "d": 3}], "e": []}, {"b": [{"d": 3}]})) != [".a", ".b[0].c"]:
            faults.append("what a server drops is not seen")
    elif options.pods:
        found = [one for outer in objects(options.pods.read_text("utf-8")) for one in outer.get("items", [outer])]
        for one in found:
            pods(str(options.pods), {"kind": "Pod", **one}, faults)
        said = f"{len(found)} objects are restricted"
    elif options.server:
        said = asyncio.run(of_charts(options.server, faults))
        of_old_overlays(options.server, faults)
        faults.extend(agree(options.server))
    else:
        said = of_kustomize(faults)
    for fault in faults:
        print(f"fault: {fault}")
    if faults:
        raise SystemExit(f"manifests: {len(faults)} faults")
    print(f"manifests: {said}")


if __name__ == "__main__":
    main()
