#!/usr/bin/env python3
"""Drives every endpoint of the stub through Prism, which holds each request and answer against GitHub's own description.

    python3 check.py <folder with node_modules>

Fails where an answer does not fit the description, where the status is not the one expected, or where an endpoint was not driven.
"""

import base64
import hashlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from stub import api_app, api_issues, api_pulls, api_repository, web  # noqa: E402,F401
from stub.app_token import DIGEST_INFO, der  # noqa: E402

KEY = os.path.join(HERE, "../../control-plane/server/src/catch_up/test_key.pem")
R = "/repos/ada/shelf"
CONNECTIONS = {}


def private_key():
    """Modulus and private exponent of the key in KEY."""
    with open(KEY, "rb") as file:
        data = base64.b64decode(b"".join(file.read().splitlines()[1:-1]))
    _, inner, _ = der(data)
    _, _, at = der(inner)
    tag, value, following = der(inner, at)
    if tag == 0x30:
        _, value, _ = der(inner, following)
        _, inner, _ = der(value)
        _, _, at = der(inner)
        tag, value, following = der(inner, at)
    _, _, following = der(inner, following)
    _, private, _ = der(inner, following)
    return int.from_bytes(value, "big"), int.from_bytes(private, "big")


def app_token(app_id):
    """A token of the App, as it makes them itself."""
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
    now = int(time.time())
    text = f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part({'iat': now - 30, 'exp': now + 300, 'iss': str(app_id)})}"
    modulus, private = private_key()
    size = (modulus.bit_length() + 7) // 8
    digest = DIGEST_INFO + hashlib.sha256(text.encode()).digest()
    padded = b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest
    signature = pow(int.from_bytes(padded, "big"), private, modulus).to_bytes(size, "big")
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def call(base, method, path, body=None, token=None, accept="application/vnd.github+json"):
    """Status, headers, JSON."""
    headers = {"Accept": accept, "User-Agent": "mindos-forge-check", "X-GitHub-Api-Version": "2022-11-28"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    # Prism passes `Connection: close` on, and then loses one answer in ten; so connections are kept.
    host = base.removeprefix("http://")
    connection = CONNECTIONS.setdefault(host, http.client.HTTPConnection(host, timeout=30))
    try:
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        raise
    return answer.status, answer.headers, json.loads(text) if text else None


def admin(base, method, path, body=None):
    status, _, answer = call(base, method, "/_admin/" + path, body)
    assert status == 200, (path, answer)
    return answer


def free_port():
    import socket
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(node, folder, scale="1000000", api=None):
    """The stub, and Prism in front of it. Returns (processes, what the stub said, the address of Prism)."""
    trimmed = os.path.join(node, "github-trimmed.json")
    if not os.path.exists(trimmed):
        with open(trimmed + ".new", "wb") as file:
            environment = dict(os.environ, NODE_PATH=os.path.join(node, "node_modules"))
            subprocess.run(["node", os.path.join(HERE, "trim-openapi.js")], stdout=file, env=environment, check=True)
        os.rename(trimmed + ".new", trimmed)
    port = free_port()
    prism = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-B", os.path.join(HERE, "github.py"), "--folder", folder, "--scale", scale, "--api-url", prism]
    stub = subprocess.Popen(words, stdout=subprocess.PIPE)
    said = json.loads(stub.stdout.readline())
    program = os.path.join(node, "node_modules/@stoplight/prism-cli/dist/index.js")
    log = open(os.path.join(folder, "prism.log"), "wb")
    words = ["node", program, "proxy", "-h", "127.0.0.1", "-p", str(port), "--errors", trimmed, said["stub"]]
    front = subprocess.Popen(words, stdout=log, stderr=log)
    for _ in range(600):
        try:
            call(prism, "GET", "/rate_limit")
            return [front, stub], said, prism
        except OSError:
            time.sleep(0.1)
    raise SystemExit("prism did not start")


class Drive:
    def __init__(self, base):
        self.base, self.faults, self.calls = base, [], 0

    def __call__(self, status, method, path, body=None, token=None, **more):
        self.calls += 1
        got, headers, answer = call(self.base, method, path, body, token or self.token, **more)
        kind = answer.get("type", "") if isinstance(answer, dict) else ""
        if got != status or "stoplight" in str(kind):
            self.faults.append(f"{method} {path}: {got} instead of {status}: {self.said(answer)}")
        return answer


    @staticmethod
    def said(answer):
        found = answer.get("validation") if isinstance(answer, dict) else None
        return "; ".join(one["message"] for one in found) if found else json.dumps(answer)[:600]


def drive(it, stub, app, installed):
    it.token = app
    it(200, "GET", "/app")
    it(200, "GET", "/app/installations")
    it(200, "GET", f"/app/installations/{installed}")
    it(404, "GET", "/app/installations/99")
    it(200, "GET", R + "/installation")
    it(404, "GET", "/repos/ada/nothing/installation")
    made = it(201, "POST", f"/app/installations/{installed}/access_tokens", {"repositories": ["shelf"], "permissions": {"contents": "read"}})
    reader = made["token"]
    it(422, "POST", f"/app/installations/{installed}/access_tokens", {"permissions": {"checks": "write", "actions": "write"}})
    it(401, "GET", "/app", token="a.b.c")
    writer = it(201, "POST", f"/app/installations/{installed}/access_tokens", {})["token"]
    it(200, "GET", "/installation/repositories", token=writer)
    it(403, "POST", R + "/issues", {"title": "t"}, token=reader)
    it(401, "GET", R, token="ghp_nobody")
    it(200, "GET", "/user", token="ada-token")
    it(200, "GET", "/users/ada")
    it(200, "GET", "/users/mindos%5Bbot%5D", token=writer)
    it(200, "GET", "/rate_limit", token=writer)
    it.token = writer

    repository = it(200, "GET", R)
    head = it(200, "GET", R + "/git/ref/heads%2Fmain")["object"]["sha"]
    it(404, "GET", R + "/git/ref/heads%2Fnone")
    it(200, "GET", R + "/git/matching-refs/heads%2Fm")
    it(200, "GET", R + "/branches?per_page=1")
    it(200, "GET", R + "/branches/main")
    it(404, "GET", R + "/branches/a%2Fb")
    it(200, "GET", R + "/commits?sha=main&path=README.md")
    it(200, "GET", R + f"/commits/{head}")
    it(200, "GET", R + "/contents/%2F")
    it(200, "GET", R + "/contents/docs")
    readme = it(200, "GET", R + "/contents/docs%2Fa%20b.md?ref=main")
    assert base64.b64decode(readme["content"]) == b"# A\n", readme
    assert call(stub, "GET", R + "/contents", None, writer)[0] == 200
    it(404, "GET", R + "/contents/none.md")
    it(200, "GET", R + "/collaborators")
    it(204, "GET", R + "/collaborators/ada")
    it(404, "GET", R + "/collaborators/eve")
    it(200, "GET", R + "/collaborators/bob/permission")

    blob = it(201, "POST", R + "/git/blobs", {"content": base64.b64encode(b"new\n").decode(), "encoding": "base64"})["sha"]
    it(200, "GET", R + f"/git/blobs/{blob}")
    base_tree = it(200, "GET", R + f"/git/commits/{head}")["tree"]["sha"]
    it(200, "GET", R + f"/git/trees/{base_tree}?recursive=1")
    entries = [
        {"path": "new/file.txt", "mode": "100644", "type": "blob", "sha": blob},
        {"path": "src/one.py", "mode": "100644", "type": "blob", "content": "one = 1\ntwo = 2\n"},
        {"path": "gone.txt", "mode": "100644", "type": "blob", "sha": None},
    ]
    tree = it(201, "POST", R + "/git/trees", {"base_tree": base_tree, "tree": entries})["sha"]
    it(422, "POST", R + "/git/trees", {"base_tree": base_tree, "tree": [{"path": "../x", "mode": "100644", "type": "blob", "content": "x"}]})
    person = {"name": "Agent", "email": "agent@example.com", "date": "2026-01-02T03:04:05Z"}
    commits = [it(201, "POST", R + "/git/commits", {"message": "One", "tree": tree, "parents": [head], "author": person, "committer": person}) for _ in range(2)]
    assert commits[0]["sha"] == commits[1]["sha"], "the same commit twice is one"
    sha = commits[0]["sha"]
    it(201, "POST", R + "/git/refs", {"ref": "refs/heads/agent/one", "sha": head})
    it(422, "POST", R + "/git/refs", {"ref": "refs/heads/agent/one", "sha": head})
    it(200, "PATCH", R + "/git/refs/heads%2Fagent%2Fone", {"sha": sha, "force": False})
    it(422, "PATCH", R + "/git/refs/heads%2Fagent%2Fone", {"sha": head, "force": False})
    it(200, "GET", R + "/compare/main...agent%2Fone")

    it(200, "GET", R + "/labels")
    it(201, "POST", R + "/labels", {"name": "ai-agent", "color": "0e8a16", "description": "By an agent"})
    it(422, "POST", R + "/labels", {"name": "AI-Agent"})
    it(200, "GET", R + "/labels/ai-agent")
    it(404, "GET", R + "/labels/none")
    issue = it(201, "POST", R + "/issues", {"title": "First", "body": "Text", "labels": ["bug"]})["number"]
    it(200, "GET", R + f"/issues/{issue}")
    it(404, "GET", R + "/issues/999")
    it(200, "PATCH", R + f"/issues/{issue}", {"title": "First!", "labels": ["bug", "ai-help"]})
    it(200, "GET", R + "/issues?state=all&labels=bug")
    it(200, "POST", R + f"/issues/{issue}/labels", {"labels": ["plan-pending"]})
    it(200, "GET", R + f"/issues/{issue}/labels")
    it(200, "DELETE", R + f"/issues/{issue}/labels/bug")
    it(404, "DELETE", R + f"/issues/{issue}/labels/bug")
    it(200, "PUT", R + f"/issues/{issue}/labels", {"labels": ["ai-agent"]})
    comment = it(201, "POST", R + f"/issues/{issue}/comments", {"body": "Said"})["id"]
    for number in range(4):
        it(201, "POST", R + f"/issues/{issue}/comments", {"body": f"More {number}"})
    _, headers, page = call(it.base, "GET", R + f"/issues/{issue}/comments?per_page=2&page=2", None, writer)
    assert 'rel="next"' in headers["Link"] and 'rel="prev"' in headers["Link"] and len(page) == 2, headers["Link"]
    it(200, "GET", R + f"/issues/{issue}/comments")
    it(200, "GET", R + "/issues/comments?sort=updated&direction=desc")
    it(200, "GET", R + f"/issues/comments/{comment}")
    it(200, "PATCH", R + f"/issues/comments/{comment}", {"body": "Said again"})
    for path in (f"/issues/comments/{comment}/reactions", f"/issues/{issue}/reactions"):
        given = it(201, "POST", R + path, {"content": "rocket"})["id"]
        it(200, "POST", R + path, {"content": "rocket"})
        it(200, "GET", R + path)
        it(204, "DELETE", R + f"{path}/{given}")
    it(204, "DELETE", R + f"/issues/comments/{comment}")

    pull = it(201, "POST", R + "/pulls", {"title": "P", "head": "agent/one", "base": "main", "body": "B", "draft": True})["number"]
    it(422, "POST", R + "/pulls", {"title": "P", "head": "agent/one", "base": "main"})
    it(422, "POST", R + "/pulls", {"title": "P", "head": "agent/none", "base": "main"})
    it(200, "GET", R + "/pulls?head=ada:agent/one&state=open")
    whole = it(200, "GET", R + f"/pulls/{pull}")
    assert (whole["draft"], whole["changed_files"], whole["commits"]) == (True, 3, 1), whole
    it(200, "PATCH", R + f"/pulls/{pull}", {"title": "P2"})
    it(200, "GET", R + f"/pulls/{pull}/files")
    it(200, "GET", R + f"/pulls/{pull}/commits")
    it(200, "GET", R + f"/commits/{sha}/pulls")
    it(404, "GET", R + f"/pulls/{pull}/merge")
    it(201, "POST", R + f"/pulls/{pull}/requested_reviewers", {"reviewers": ["bob"]})
    lines = [{"path": "src/one.py", "line": 2, "side": "RIGHT", "start_line": 1, "start_side": "RIGHT", "body": "Here"}]
    review = it(200, "POST", R + f"/pulls/{pull}/reviews", {"commit_id": sha, "body": "Seen", "event": "COMMENT", "comments": lines})["id"]
    it(422, "POST", R + f"/pulls/{pull}/reviews", {"commit_id": sha, "body": "x", "event": "REQUEST_CHANGES"})
    it(422, "POST", R + f"/pulls/{pull}/reviews", {"commit_id": sha, "body": "x", "event": "COMMENT", "comments": [{"path": "src/one.py", "line": 99, "body": "b"}]})
    it(200, "POST", R + f"/pulls/{pull}/reviews", {"body": "No", "event": "REQUEST_CHANGES"}, token="bob-token")
    it(200, "GET", R + f"/pulls/{pull}/reviews")
    it(200, "GET", R + f"/pulls/{pull}/reviews/{review}")
    it(200, "PUT", R + f"/pulls/{pull}/reviews/{review}", {"body": "Seen twice"})
    said = it(200, "GET", R + f"/pulls/{pull}/reviews/{review}/comments")[0]["id"]
    it(200, "GET", R + f"/pulls/{pull}/comments")
    it(200, "GET", R + "/pulls/comments")
    it(200, "GET", R + f"/pulls/comments/{said}")
    it(200, "PATCH", R + f"/pulls/comments/{said}", {"body": "There"})
    it(201, "POST", R + f"/pulls/{pull}/comments/{said}/replies", {"body": "Right"}, token="bob-token")
    lone = it(201, "POST", R + f"/pulls/{pull}/comments", {"body": "b", "commit_id": sha, "path": "src/one.py", "line": 1, "side": "RIGHT"})["id"]
    given = it(201, "POST", R + f"/pulls/comments/{said}/reactions", {"content": "eyes"})["id"]
    it(200, "GET", R + f"/pulls/comments/{said}/reactions")
    it(204, "DELETE", R + f"/pulls/comments/{said}/reactions/{given}")
    it(204, "DELETE", R + f"/pulls/comments/{lone}")

    check = {"name": "security", "head_sha": sha, "status": "completed", "conclusion": "neutral", "completed_at": "2026-01-02T03:04:05Z"}
    output = {"title": "T", "summary": "S", "annotations": [{"path": "src/one.py", "start_line": 1, "end_line": 1, "annotation_level": "warning", "message": "m"}]}
    run = it(201, "POST", R + "/check-runs", check | {"output": output})["id"]
    it(200, "GET", R + f"/check-runs/{run}")
    it(200, "PATCH", R + f"/check-runs/{run}", {"name": "security", "conclusion": "success", "status": "completed"})
    it(200, "GET", R + f"/check-runs/{run}/annotations")
    it(200, "GET", R + f"/commits/{sha}/check-runs?check_name=security")
    it(403, "POST", R + "/check-runs", check, token="ada-token")

    call(stub, "PATCH", R + f"/pulls/{pull}", {"state": "closed"}, writer)
    whole = it(201, "POST", R + "/pulls", {"title": "Q", "head": "agent/one", "base": "main"}, token="ada-token")
    it(200, "PUT", R + f"/pulls/{whole['number']}/merge", {}, token="ada-token")
    it(204, "GET", R + f"/pulls/{whole['number']}/merge")
    it(204, "DELETE", R + "/git/refs/heads%2Fagent%2Fone")
    it(422, "DELETE", R + "/git/refs/heads%2Fagent%2Fone")
    assert repository["full_name"] == "ada/shelf"
    sent = it(200, "GET", "/app/hook/deliveries?per_page=5", token=app)
    it(202, "POST", f"/app/hook/deliveries/{sent[0]['id']}/attempts", token=app)
    it(204, "DELETE", "/installation/token", token=reader)
    it(401, "GET", R, token=reader)


def limits(it, stub, app, installed):
    """The secondary limit, in GitHub's words, and the primary one."""
    admin(stub, "POST", "limits", {"scale": 1})
    writer = call(stub, "POST", f"/app/installations/{installed}/access_tokens", {}, app)[2]["token"]
    issue = call(stub, "POST", R + "/issues", {"title": "Limits"}, writer)[2]["number"]
    answers = [call(stub, "POST", R + f"/issues/{issue}/comments", {"body": "x"}, writer) for _ in range(81)]
    refused = [(status, headers["Retry-After"], body["message"]) for status, headers, body in answers if status != 201]
    assert len(refused) == 2 and refused[0][:2] == (403, "60") and "secondary rate limit" in refused[0][2], refused
    admin(stub, "POST", "limits", {"scale": 1, "primary": 3})
    answers = [call(stub, "GET", R, None, writer) for _ in range(4)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 403] and answers[3][1]["X-RateLimit-Remaining"] == "0", answers
    it(403, "GET", R, token=writer)
    admin(stub, "POST", "limits", {"scale": 1_000_000, "primary": 5000})


def main():
    node = os.path.abspath(sys.argv[1])
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "source")
        for path, text in {"README.md": "# Shelf\n", "docs/a b.md": "# A\n", "src/one.py": "one = 1\n", "gone.txt": "x\n"}.items():
            os.makedirs(os.path.dirname(os.path.join(source, path)), exist_ok=True)
            with open(os.path.join(source, path), "w") as file:
                file.write(text)
        processes, said, prism = start(node, folder)
        it = Drive(prism)
        try:
            stub = said["stub"]
            for login in ("ada", "bob"):
                admin(stub, "POST", "user", {"login": login, "token": f"{login}-token"})
            admin(stub, "POST", "repository", {"full_name": "ada/shelf", "people": {"bob": "write"}, "folder": source})
            permissions = {"contents": "write", "issues": "write", "pull_requests": "write", "checks": "write", "metadata": "read"}
            admin(stub, "POST", "app", {"slug": "mindos", "id": 7, "key_file": KEY.replace("test_key.pem", "test_key.pub.der"), "permissions": permissions})
            installed = admin(stub, "POST", "install", {"account": "ada"})["id"]
            admin(stub, "POST", "hook", {"url": "http://127.0.0.1:9/none", "secret": "s"})
            drive(it, stub, app_token(7), installed)
            limits(it, stub, app_token(7), installed)
            driven = {(one["method"], one["template"]) for one in admin(stub, "GET", "log")}
        finally:
            for process in processes:
                process.terminate()
            for fault in it.faults:
                print("FAULT", fault)
        missing = [f"{method} {template}" for method, _, template, *_ in web.ROUTES if (method, template) not in driven]
        for one in missing:
            print("NOT DRIVEN", one)
        if it.faults or missing:
            raise SystemExit(1)
        print(f"forge: {it.calls} calls of {len(web.ROUTES)} endpoints fit GitHub's description, in {time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()
