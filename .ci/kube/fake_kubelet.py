#!/usr/bin/env python3
"""Stands in for a kubelet in tests: a node whose pods "run". Standard library only, beside a `kubectl proxy`.

    PROXY=http://127.0.0.1:8901 fake_kubelet.py [--node fake-1] [--job-seconds 2] [--logs PORT CERT KEY]

Registers one Ready node with a lease, then: bound pods become Running and Ready; a pod with restartPolicy Never or OnFailure and no
annotation ends Succeeded after --job-seconds; a pod with a deletionTimestamp is removed, as a kubelet does after its containers ended.
A pod steers it by annotations:

    fake/phase    Failed | Succeeded | Running | Pending: how it ends, or that it does not
    fake/after    seconds until then
    fake/exit     exit code of its containers
    fake/message  termination message of its first container
    fake/ip       its address (127.0.0.1, say, where a real process stands in for the pod); 10.244.x.y otherwise
    fake/log      what `kubectl logs` shows of it, where --logs is given
"""

import argparse
import datetime
import http.client
import http.server
import json
import os
import ssl
import sys
import threading
import time
import urllib.parse

PROXY = urllib.parse.urlsplit(os.environ.get("PROXY", "http://127.0.0.1:8901"))
MERGE = "application/merge-patch+json"
seen = {}
logs = {}
local = threading.local()


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def connect():
    return http.client.HTTPConnection(PROXY.hostname, PROXY.port, timeout=30)


def call(method, path, body=None, kind="application/json"):
    for attempt in (1, 2):
        connection = getattr(local, "connection", None) or connect()
        local.connection = connection
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
            break
        except (OSError, http.client.HTTPException):
            connection.close()
            local.connection = None
            if attempt == 2:
                raise
    if answer.status >= 500:
        # The API server is away, or not quite there.
        raise OSError(f"{method} {path}: {answer.status}")
    if answer.status in (404, 409):
        return None
    if answer.status >= 300:
        print(method, path, answer.status, text[:300], flush=True)
        return None
    return json.loads(text)


def node(name, port):
    room = {"cpu": "10000", "memory": "64Ti", "pods": "100000", "ephemeral-storage": "64Ti"}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    while True:
        try:
            beat = now()
            call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
            ready = {"type": "Ready", "status": "True", "reason": "Fake", "message": "fake", "lastHeartbeatTime": beat, "lastTransitionTime": beat}
            status = {"capacity": room, "allocatable": room, "nodeInfo": {"kubeletVersion": "v0.0.0-fake"}, "conditions": [ready]}
            if port:
                status["addresses"] = [{"type": "InternalIP", "address": "127.0.0.1"}]
                status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": port}}
            call("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, MERGE)
            call("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, MERGE)
            leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
            spec = {"holderIdentity": name, "leaseDurationSeconds": 40}
            call("POST", leases, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec})
            call("PATCH", f"{leases}/{name}", {"spec": {"renewTime": beat.replace("Z", ".000000Z")}}, MERGE)
            time.sleep(8)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            print("the node is tried again:", problem, flush=True)
            time.sleep(1)


def status(pod, phase, code=0):
    meta, spec = pod["metadata"], pod["spec"]
    notes = meta.get("annotations") or {}
    done = phase in ("Succeeded", "Failed")
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}

    def container(one, first):
        state = {"running": {"startedAt": now()}}
        if done:
            state = {"terminated": {**ended, "exitCode": code, "reason": "Completed" if code == 0 else "Error"}}
            if first and "fake/message" in notes:
                state["terminated"]["message"] = notes["fake/message"]
        return {"name": one["name"], "image": one["image"], "imageID": "fake", "restartCount": 0, "ready": not done, "started": not done, "state": state}

    number = len(seen)
    address = notes.get("fake/ip") or f"10.244.{number // 250 % 250}.{number % 250 + 1}"
    conditions = [
        {"type": kind, "status": "False" if done and kind in ("Ready", "ContainersReady") else "True", "lastTransitionTime": now()}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    body = {"phase": phase, "conditions": conditions, "containerStatuses": [container(one, at == 0) for at, one in enumerate(spec["containers"])]}
    if not done:
        body |= {"startTime": now(), "podIP": address, "podIPs": [{"ip": address}]}
    if spec.get("initContainers"):
        body["initContainerStatuses"] = [
            container(one, False) if one.get("restartPolicy") == "Always" else {**container(one, False), "ready": True, "state": {"terminated": ended}}
            for one in spec["initContainers"]
        ]
    call("PATCH", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status", {"status": body}, MERGE)


def end(pod, phase, code):
    try:
        status(pod, phase, code)
    except (OSError, http.client.HTTPException) as problem:
        # The API server is away: as a kubelet does, again and again until it is back.
        print("the end of a pod is tried again:", problem, flush=True)
        threading.Timer(1, end, (pod, phase, code)).start()


def see(pod, options):
    meta = pod["metadata"]
    notes = meta.get("annotations") or {}
    logs[(meta["namespace"], meta["name"])] = notes.get("fake/log", "")
    if meta.get("deletionTimestamp"):
        call("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}})
        return
    if meta["uid"] in seen:
        return
    phase = notes.get("fake/phase")
    if phase == "Pending":
        return
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        seen[meta["uid"]] = True
        return
    status(pod, "Running")
    seen[meta["uid"]] = True
    phase = phase or ("Succeeded" if pod["spec"].get("restartPolicy") in ("Never", "OnFailure") else "Running")
    if phase != "Running":
        code = int(notes.get("fake/exit", 0 if phase == "Succeeded" else 1))
        threading.Timer(float(notes.get("fake/after", options.job_seconds)), end, (pod, phase, code)).start()


class Logs(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # /containerLogs/NAMESPACE/POD/CONTAINER
        parts = urllib.parse.urlsplit(self.path).path.split("/")
        text = logs.get(tuple(parts[2:4]), "") if len(parts) == 5 and parts[1] == "containerLogs" else ""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def serve_logs(port, certificate, key):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Logs)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


def watch(options):
    mine = f"fieldSelector=spec.nodeName%3D{options.node}"
    listed = call("GET", f"/api/v1/pods?{mine}")
    if listed is None:
        raise OSError("pods cannot be listed")
    for pod in listed["items"]:
        see(pod, options)
    connection = connect()
    connection.timeout = 600
    connection.request("GET", f"/api/v1/pods?watch=1&{mine}&resourceVersion={listed['metadata']['resourceVersion']}&timeoutSeconds=300")
    answer = connection.getresponse()
    while line := answer.readline():
        event = json.loads(line)
        if event["type"] == "ERROR":
            return
        if event["type"] != "DELETED":
            see(event["object"], options)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", default="fake-1")
    parser.add_argument("--job-seconds", type=float, default=2)
    parser.add_argument("--logs", nargs=3, metavar=("PORT", "CERT", "KEY"))
    options = parser.parse_args()
    port = int(options.logs[0]) if options.logs else None
    if options.logs:
        threading.Thread(target=serve_logs, args=(port, *options.logs[1:]), daemon=True).start()
    threading.Thread(target=node, args=(options.node, port), daemon=True).start()
    while True:
        try:
            watch(options)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            print("the watch is tried again:", problem, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
