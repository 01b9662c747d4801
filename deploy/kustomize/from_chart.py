#!/usr/bin/env python3
"""Writes the kustomize bases from the charts, so that both say the same; with --check says where they differ.

  deploy/kustomize/from_chart.py [--check] KUBECONFIG

KUBECONFIG leads to an API server on which the charts are installed and uninstalled again: Helm has no other way to render that knows its
capabilities. What it rendered is read from its release. Kinds of an old server are written as those of new ones: PodDisruptionBudget of
policy/v1. Labels that say Helm are left out. Needs helm-sdkpy and PyYAML.
"""

import asyncio
import base64
import gzip
import json
import pathlib
import subprocess
import sys

import yaml
from helm_sdkpy import Configuration, Install, Uninstall

ROOT = pathlib.Path(__file__).resolve().parent
CHARTS = ROOT.parent / "charts"
NAMESPACE = "mindos"
# Settings of the examples, which overlays replace.
BASES = {
    "control-plane": ("mindos", {"serviceMonitor": {"enabled": False}}),
    "agent": (
        "mindos-agent",
        {
            "global": {"mindos": {"cluster": "example", "controlPlane": "https://mindos.example.com:8091"}},
            "ca": {"crt": "the roots of the control plane, in PEM\n"},
            "runs": {"namespaces": ["mindos-runs"]},
            "serviceMonitor": {"enabled": False},
            "injector": {"serviceMonitor": {"enabled": False}},
        },
    ),
}
NEWER = {"policy/v1beta1": "policy/v1"}
HELM_LABELS = {"app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "helm.sh/chart"}


class Dumper(yaml.SafeDumper):
    """Long texts as blocks, and no aliases."""

    def ignore_aliases(self, _):
        return True


def text(dumper, value):
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


Dumper.add_representer(str, text)


def kubectl(kubeconfig, *words, given=None):
    done = subprocess.run(
        ["kubectl", "--kubeconfig", kubeconfig, *words], capture_output=True, text=True, check=False, input=given
    )
    if done.returncode != 0:
        raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


async def rendered(kubeconfig, chart, values):
    """What Helm makes of a chart on that server."""
    helm = Configuration(namespace=NAMESPACE, kubeconfig=kubeconfig)
    release = chart
    # Without waiting: what is made is looked at, not run.
    await Install(helm).run(release, str(CHARTS / chart), values=values, create_namespace=True, wait=False)
    try:
        secrets = json.loads(
            kubectl(kubeconfig, "-n", NAMESPACE, "get", "secret", "-l", f"owner=helm,name={release}", "-o", "json")
        )
        packed = base64.b64decode(base64.b64decode(secrets["items"][-1]["data"]["release"]))
        return json.loads(gzip.decompress(packed))["manifest"]
    finally:
        await Uninstall(helm).run(release)


def plain(node):
    """Without what Helm puts there for itself."""
    if isinstance(node, dict):
        # Of a Service the selector is the labels themselves.
        for field in ("labels", "matchLabels", "selector"):
            if isinstance(node.get(field), dict):
                node[field] = {key: value for key, value in node[field].items() if key not in HELM_LABELS}
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return node


def base(manifest):
    """The objects of a base, in an order of their own."""
    objects = [plain(found) for found in yaml.safe_load_all(manifest) if found]
    for found in objects:
        found["apiVersion"] = NEWER.get(found["apiVersion"], found["apiVersion"])
    objects.sort(key=lambda found: (found["kind"], found["metadata"]["name"], found["metadata"].get("namespace", "")))
    head = "# Written by deploy/kustomize/from_chart.py: change the chart instead.\n"
    documents = [yaml.dump(found, Dumper=Dumper, sort_keys=True, width=140) for found in objects]
    return head + "---\n".join(documents)


async def main():
    words = sys.argv[1:]
    check = "--check" in words
    words = [word for word in words if word != "--check"]
    if len(words) != 1:
        raise SystemExit(__doc__)
    kubeconfig = words[0]
    # A role of the agent is in there.
    made = kubectl(kubeconfig, "create", "namespace", "mindos-runs", "--dry-run=client", "-o", "json")
    kubectl(kubeconfig, "apply", "-f", "-", given=made)
    differ = []
    for name, (chart, values) in BASES.items():
        path = ROOT / "base" / name / "objects.yaml"
        found = base(await rendered(kubeconfig, chart, values))
        if not check:
            path.write_text(found, "utf-8")
            print(f"wrote {path.relative_to(ROOT.parent.parent)}")
        elif not path.exists() or path.read_text("utf-8") != found:
            differ.append(str(path.relative_to(ROOT.parent.parent)))
    if differ:
        raise SystemExit(f"differ from what the charts say: {', '.join(differ)}; run deploy/kustomize/from_chart.py")
    if check:
        print("the bases say what the charts say")


asyncio.run(main())
