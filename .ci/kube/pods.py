#!/usr/bin/env python3
"""Injected pods against the strict schemas of Kubernetes, and their sidecars against the restricted level of Pod Security.

    .ci/kube/pods.py        needs kubernetes-validate and PyYAML

What stands in control-plane/kube/tests/pods/native and plain is what injection makes of the pods beside them; a test of mindos-kube holds
that. Newer servers have schemas that older code cannot ask (the one in CI drops what it does not know).
"""

import pathlib
import sys

import kubernetes_validate
import yaml

PODS = pathlib.Path(__file__).resolve().parents[2] / "control-plane/kube/tests/pods"
NAME = "mindos-sidecar"
# Native sidecars are known from 1.28 on, and used from 1.29 on.
VERSIONS = {"native": ["1.28", "1.29", "1.33", "1.37"], "plain": ["1.25", "1.28", "1.37"]}


def restricted(sidecar):
    """What the restricted level forbids of a container; see kubernetes.io/docs/concepts/security/pod-security-standards."""
    context = sidecar.get("securityContext", {})
    wanted = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "capabilities": {"drop": ["ALL"]},
    }
    for key, value in wanted.items():
        if context.get(key) != value:
            yield f"securityContext.{key} is {context.get(key)}: expected {value}"
    if context.get("privileged") or context.get("runAsUser", 1) == 0 or "procMount" in context:
        yield f"securityContext is {context}"
    if any("hostPort" in port for port in sidecar.get("ports", [])):
        yield "it has a port of the host"


def main():
    failed, checked = [], 0
    for place, versions in VERSIONS.items():
        injected = [path for path in sorted((PODS / place).glob("*.yaml")) if path.read_text().startswith("# injected\n")]
        if not injected:
            failed.append(f"{PODS / place} holds no injected pod")
        for path in injected:
            pod = yaml.safe_load(path.read_text())
            for version in versions:
                # Another webhook's native sidecar is there in both.
                has_native = any("restartPolicy" in one for one in pod["spec"].get("initContainers", []))
                if has_native and version < "1.28":
                    continue
                checked += 1
                try:
                    kubernetes_validate.validate(pod, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    failed.append(f"{path.relative_to(PODS)} for {version}: {error.message} at {list(error.absolute_path)}")
            containers = pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
            sidecars = [container for container in containers if container["name"] == NAME]
            if len(sidecars) != 1:
                failed.append(f"{path.relative_to(PODS)} has {len(sidecars)} sidecars")
            failed.extend(f"{path.relative_to(PODS)}: {what}" for one in sidecars for what in restricted(one))
            kinds = {kind for volume in pod["spec"].get("volumes", []) for kind in volume if volume["name"].startswith("mindos-")}
            if not kinds <= {"name", "projected", "configMap", "secret"}:
                failed.append(f"{path.relative_to(PODS)} has volumes of {kinds}")
    for what in failed:
        print(what, file=sys.stderr)
    print(f"pods: {checked} checks of injected pods, {len(failed)} failed")
    return 1 if failed else 0


sys.exit(main())
