"""The restricted profile of the Pod Security Standards, and rights without wildcards: pure functions over objects."""

import copy
import re

TEMPLATES = {
    "Pod": ("spec",),
    "Deployment": ("spec", "template", "spec"),
    "ReplicaSet": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "DaemonSet": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}
SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
# Fields that a server of 1.20 drops, as ends of their paths.
UNKNOWN_IN_1_20 = (".x-kubernetes-validations", ".matchConditions", ".unhealthyPodEvictionPolicy", ".ports[0].appProtocol")


def template(found):
    """The spec of the pods that an object makes, or None."""
    path = TEMPLATES.get(found.get("kind"))
    if path is None:
        return None
    spec = found
    for field in path:
        spec = (spec or {}).get(field) or {}
    return spec


def restricted(found):
    """What an object's pods have that the restricted profile refuses, and what they lack of what it asks for; beyond it, a root that cannot be written."""
    spec = template(found)
    if spec is None:
        return
    whole = spec.get("securityContext") or {}
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} is set"
    for volume in spec.get("volumes") or []:
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume.get('name')} is a {kind}"
    for sysctl in whole.get("sysctls") or []:
        if sysctl.get("name") not in SYSCTLS:
            yield f"sysctl {sysctl.get('name')}"
    if (whole.get("windowsOptions") or {}).get("hostProcess"):
        yield "hostProcess is set"
    around = found
    for field in TEMPLATES[found["kind"]][:-1]:
        around = around.get(field) or {}
    for key, value in ((around.get("metadata") or {}).get("annotations") or {}).items():
        if key.startswith("container.apparmor.security.beta.kubernetes.io/") and not re.match(r"^(runtime/default|localhost/.*)$", value):
            yield f"annotation {key}: {value}"
    containers = [one for field in ("initContainers", "containers", "ephemeralContainers") for one in spec.get(field) or []]
    if not containers:
        yield "no containers"
    for one in containers:
        yield from (f"container {one.get('name')}: {what}" for what in container(one, whole))


def container(one, whole):
    own = one.get("securityContext") or {}

    def either(field):
        return own.get(field, whole.get(field))

    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield "does not drop ALL capabilities"
    for added in capabilities.get("add") or []:
        if added != "NET_BIND_SERVICE":
            yield f"adds the capability {added}"
    if either("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if either("runAsUser") == 0:
        yield "runAsUser is 0"
    profile = (either("seccompProfile") or {}).get("type")
    if profile not in ("RuntimeDefault", "Localhost"):
        yield f"seccompProfile is {profile}"
    armor = (either("appArmorProfile") or {}).get("type")
    if armor not in (None, "RuntimeDefault", "Localhost"):
        yield f"appArmorProfile is {armor}"
    selinux = {**(whole.get("seLinuxOptions") or {}), **(own.get("seLinuxOptions") or {})}
    if selinux.get("type", "") not in SELINUX or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions are its own"
    if own.get("procMount") not in (None, "Default"):
        yield f"procMount is {own['procMount']}"
    for port in one.get("ports") or []:
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"
    for handler in [one.get("lifecycle") or {}]:
        for hook in handler.values():
            if isinstance(hook, dict) and (hook.get("httpGet") or hook.get("tcpSocket") or {}).get("host"):
                yield "a hook speaks to another host"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        found = one.get(probe) or {}
        if ((found.get("httpGet") or {}).get("host")) or ((found.get("tcpSocket") or {}).get("host")):
            yield f"{probe} speaks to another host"
    # What follows the profile does not ask for; we do.
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    resources = one.get("resources") or {}
    if not (resources.get("requests") or {}).get("memory") or not (resources.get("limits") or {}).get("memory"):
        yield "has no request or no limit of memory"


def wildcards(found):
    """Wildcards of a role, and rights by which a holder gets more than what is written there."""
    for rule in found.get("rules") or []:
        for field in ("apiGroups", "resources", "verbs", "nonResourceURLs", "resourceNames"):
            for value in rule.get(field) or []:
                if "*" in value:
                    yield f"{field} has `{value}`"
        for verb in {"escalate", "bind", "impersonate"} & set(rule.get("verbs") or []):
            yield f"verb {verb}"
        if "secrets" in (rule.get("resources") or []):
            open_verbs = set(rule.get("verbs") or []) - {"create"}
            if open_verbs and not rule.get("resourceNames"):
                yield f"secrets without names: {', '.join(sorted(open_verbs))}"
    if found.get("aggregationRule"):
        yield "aggregates other roles"


def unserved(all_found):
    """Services that no pod made here stands behind, with what is wrong."""
    pods = []
    for found in all_found:
        spec = template(found)
        if spec is not None:
            around = found
            for field in TEMPLATES[found["kind"]][:-1]:
                around = around.get(field) or {}
            pods.append(((around.get("metadata") or {}).get("labels") or {}, spec))
    for found in all_found:
        if found.get("kind") != "Service":
            continue
        selector = found["spec"].get("selector") or {}
        behind = [spec for labels, spec in pods if selector.items() <= labels.items()]
        if not behind:
            yield found, f"selects no pods: {selector}"
            continue
        names = {port.get("name") for spec in behind for one in spec.get("containers") or [] for port in one.get("ports") or []}
        for port in found["spec"].get("ports") or []:
            if isinstance(port.get("targetPort"), str) and port["targetPort"] not in names:
                yield found, f"port {port.get('name')} leads to {port['targetPort']}, which no container has"


def rights(where, found, rule):
    """The lines of a rule, one for each kind of objects, with all verbs."""
    names = rule.get("resourceNames") or []
    named = f" [{', '.join(sorted(names))}]" if names else ""
    lines = set()
    for group in rule.get("apiGroups") or [""]:
        for resource in [*(rule.get("resources") or []), *(rule.get("nonResourceURLs") or [])]:
            what = f"{resource}{'.' + group if group else ''}{named}"
            lines.add(f"{where} {found['kind']} {found['metadata']['name']}: {what}: {', '.join(sorted(rule.get('verbs') or []))}")
    return lines


def good():
    """A pod to which nobody objects."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    main = {"name": "main", "image": "x", "securityContext": context, "resources": {"requests": {"memory": "1Mi"}, "limits": {"memory": "1Mi"}}}
    first = {**copy.deepcopy(main), "name": "first", "restartPolicy": "Always"}
    spec = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [main],
        "initContainers": [first],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "good"}, "spec": spec}


def breaks():
    """Ways to break each rule, and a word of what is said then."""

    def at(path, value):
        def change(found):
            *way, last = path
            for field in way:
                found = found[field] if isinstance(field, int) else found.setdefault(field, {})
            if value is None:
                found.pop(last)
            else:
                found[last] = value

        return change

    one = ("spec", "containers", 0)
    own = (*one, "securityContext")
    init = ("spec", "initContainers", 0, "securityContext")
    whole = ("spec", "securityContext")
    return [
        ("hostNetwork", at(("spec", "hostNetwork"), True)),
        ("hostPID", at(("spec", "hostPID"), True)),
        ("hostIPC", at(("spec", "hostIPC"), True)),
        ("hostPath", at(("spec", "volumes"), [{"name": "v", "hostPath": {"path": "/"}}])),
        ("nfs", at(("spec", "volumes"), [{"name": "v", "nfs": {}}])),
        ("sysctl", at((*whole, "sysctls"), [{"name": "kernel.msgmax", "value": "1"}])),
        ("hostProcess", at((*whole, "windowsOptions"), {"hostProcess": True})),
        ("apparmor", at(("metadata", "annotations"), {"container.apparmor.security.beta.kubernetes.io/main": "unconfined"})),
        ("appArmorProfile", at((*own, "appArmorProfile"), {"type": "Unconfined"})),
        ("no containers", lambda found: found["spec"].update(containers=[], initContainers=[])),
        ("privileged", at((*own, "privileged"), True)),
        ("container main: allowPrivilegeEscalation", at((*own, "allowPrivilegeEscalation"), None)),
        ("container first: allowPrivilegeEscalation", at((*init, "allowPrivilegeEscalation"), True)),
        ("drop ALL", at((*own, "capabilities"), {"drop": ["NET_RAW"]})),
        ("SYS_ADMIN", at((*own, "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]})),
        ("runAsNonRoot", at((*whole, "runAsNonRoot"), None)),
        ("runAsNonRoot", at((*own, "runAsNonRoot"), False)),
        ("runAsUser", at((*own, "runAsUser"), 0)),
        ("runAsUser", at((*whole, "runAsUser"), 0)),
        ("seccompProfile", at((*whole, "seccompProfile"), None)),
        ("seccompProfile", at((*own, "seccompProfile"), {"type": "Unconfined"})),
        ("seLinuxOptions", at((*own, "seLinuxOptions"), {"type": "spc_t"})),
        ("seLinuxOptions", at((*whole, "seLinuxOptions"), {"user": "root"})),
        ("procMount", at((*own, "procMount"), "Unmasked")),
        ("hostPort", at((*one, "ports"), [{"containerPort": 1, "hostPort": 1}])),
        ("hook", at((*one, "lifecycle"), {"preStop": {"httpGet": {"host": "other", "port": 1}}})),
        ("readinessProbe", at((*one, "readinessProbe"), {"httpGet": {"host": "other", "port": 1}})),
        ("readOnlyRootFilesystem", at((*own, "readOnlyRootFilesystem"), None)),
        ("memory", at((*one, "resources"), {"requests": {"memory": "1Mi"}})),
    ]


def self_test(faults):
    """Each rule, broken once, in each kind that makes pods."""
    found = list(restricted(good()))
    if found:
        faults.append(f"a good pod is refused: {found}")
    tried = 0
    for kind, path in TEMPLATES.items():
        for word, change in breaks():
            pod = good()
            change(pod)
            made = pod
            if kind != "Pod":
                made = {"kind": kind, "metadata": {"name": "bad"}}
                spot = made
                for field in path[:-1]:
                    spot = spot.setdefault(field, {})
                spot.update(metadata=pod["metadata"], spec=pod["spec"])
            tried += 1
            if not any(word in what for what in restricted(made)):
                faults.append(f"{kind}: a pod passes that breaks the rule `{word}`")
    roles = [
        {"rules": [{"apiGroups": ["*"], "resources": ["pods"], "verbs": ["get"]}]},
        {"rules": [{"apiGroups": [""], "resources": ["pods/*"], "verbs": ["get"]}]},
        {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]},
        {"rules": [{"nonResourceURLs": ["/*"], "verbs": ["get"]}]},
        {"rules": [{"apiGroups": [""], "resources": ["roles"], "verbs": ["bind"]}]},
        {"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]},
        {"aggregationRule": {"clusterRoleSelectors": []}},
    ]
    for role in roles:
        tried += 1
        if not list(wildcards(role)):
            faults.append(f"a role passes: {role}")
    for selector, port, word in [({"app": "a"}, "main", ""), ({"app": "b"}, "main", "no pods"), ({"app": "a"}, "other", "no container")]:
        pod = good()
        pod["metadata"]["labels"] = {"app": "a", "more": "x"}
        pod["spec"]["containers"][0]["ports"] = [{"name": "main", "containerPort": 1}]
        service = {"kind": "Service", "metadata": {"name": "bad"}, "spec": {"selector": selector, "ports": [{"name": "p", "port": 1, "targetPort": port}]}}
        tried += 1
        said = [what for _, what in unserved([pod, service])]
        if len(said) != bool(word) or not all(word in what for what in said):
            faults.append(f"a Service with selector {selector} and target port {port}: {said}")
    return f"{tried} samples judged, each by the rule that it breaks"
