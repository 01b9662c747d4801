"""Webhooks: what happened, signed and sent, in the order in which it happened. GitHub tries once; so does this."""

import hashlib
import hmac
import http.client
import json
import queue
import threading
import time
import uuid
from urllib.parse import urlsplit

from .store import node_id, stamp

SENT_MAX = 20_000


class Hooks:
    def __init__(self, store, shapes):
        self.store, self.shapes = store, shapes
        self.target, self.secret, self.events = None, b"", None
        self.sent, self.queue, self.next = [], queue.Queue(), 1_000
        self.idle = threading.Event()
        self.idle.set()
        threading.Thread(target=self.run, daemon=True).start()

    def emit(self, event, what, repository):
        """Takes what happened; the payload is made at once, as things are at this moment."""
        if self.target is None or (self.events is not None and event not in self.events):
            return
        payload = self.payload(event, what, repository)
        installation = self.store.installation_of(repository)
        if installation:
            payload["installation"] = {"id": installation["id"], "node_id": node_id("Installation", installation["id"])}
        self.next += 1
        one = {
            "id": self.next, "guid": str(uuid.uuid4()), "event": event, "action": payload.get("action"), "redelivery": False,
            "installation": installation["id"] if installation else None, "repository": repository["id"],
            "data": json.dumps(payload).encode(), "status": "pending", "status_code": 0, "duration": 0.0, "delivered_at": stamp(),
        }
        self.enqueue(one)

    def enqueue(self, one):
        if len(self.sent) < SENT_MAX:
            self.sent.append(one)
        self.idle.clear()
        self.queue.put(one)

    def again(self, number):
        """Sends one once more, under its GUID."""
        found = next((one for one in self.sent if one["id"] == number), None)
        if found is None:
            return False
        self.next += 1
        self.enqueue(found | {"id": self.next, "redelivery": True, "status": "pending", "status_code": 0, "delivered_at": stamp()})
        return True

    def payload(self, event, what, repository):
        shapes, sender = self.shapes, self.shapes.user(what["sender"])
        base = {"repository": shapes.repository(repository), "sender": sender}
        if event == "push":
            return base | self.push(what, repository)
        payload = {"action": what["action"]} | base
        for name in ("changes", "before", "after"):
            if name in what:
                payload[name] = what[name]
        if "label" in what:
            payload["label"] = shapes.label(repository, what["label"])
        if "reviewer" in what:
            payload["requested_reviewer"] = shapes.user(what["reviewer"])
        issue = what.get("issue")
        if event == "check_run":
            payload["check_run"] = shapes.check(repository, what["check"])
        elif event in ("issues", "issue_comment"):
            payload["issue"] = shapes.issue(repository, issue)
            if event == "issue_comment":
                payload["comment"] = shapes.comment(repository, what["comment"])
                if what["action"] == "edited":
                    payload["changes"] = {"body": {"from": what["from"]}}
        else:
            whole = event == "pull_request"
            payload |= {"number": issue["number"]} if whole else {}
            payload["pull_request"] = shapes.pull(repository, issue, whole)
            if event == "pull_request_review":
                payload["review"] = shapes.review(repository, issue, what["review"]) | {"state": what["review"]["state"].lower()}
            elif event == "pull_request_review_comment":
                payload["comment"] = shapes.review_comment(repository, what["comment"])
            elif event == "pull_request_review_thread":
                comments = [shapes.review_comment(repository, one) for one in what["thread"]]
                payload["thread"] = {"node_id": node_id("PullRequestReviewThread", what["thread"][0]["id"]), "comments": comments}
        return payload

    def push(self, what, repository):
        git, old, new, none = repository["git"], what["before"], what["after"], "0" * 40
        names = git.between(old, new) if old and new and git.kind(old) else [new] if new else []
        if old is None and new:
            default = git.ref(f"refs/heads/{repository['default_branch']}")
            names = git.between(default, new) if default and default != new else [new]
        commits = [self.pushed(repository, sha) for sha in names[-20:]]
        person = {"name": what["pusher"], "email": self.store.users[what["pusher"]]["email"]}
        return {
            "ref": what["ref"], "before": old or none, "after": new or none, "created": old is None, "deleted": new is None,
            "forced": bool(old and new and not git.is_ancestor(old, new)), "base_ref": None, "pusher": person, "commits": commits,
            "head_commit": commits[-1] if commits else None, "compare": f"{self.shapes.web(repository)}/compare/{old}...{new}",
        }

    def pushed(self, repository, sha):
        git, one = repository["git"], repository["git"].commit(sha)
        from .git import EMPTY
        files = git.diff(one["parents"][0] if one["parents"] else EMPTY, sha)
        paths = lambda *words: [file["path"] for file in files if file["status"] in words]
        person = lambda who: {"name": who["name"], "email": who["email"], "username": who["name"]}
        return {
            "id": sha, "tree_id": one["tree"], "distinct": True, "message": one["message"], "timestamp": one["author"]["date"],
            "url": f"{self.shapes.web(repository)}/commit/{sha}", "author": person(one["author"]), "committer": person(one["committer"]),
            "added": paths("added"), "removed": paths("removed"), "modified": paths("modified", "renamed", "copied"),
        }

    def run(self):
        while True:
            one = self.queue.get()
            begun = time.monotonic()
            try:
                one["status_code"] = self.send(one)
                one["status"] = "OK" if 200 <= one["status_code"] < 300 else "Invalid HTTP Response"
            except OSError:
                one["status"], one["status_code"] = "failed to connect to host", 502
            except http.client.HTTPException:
                one["status"], one["status_code"] = "failed to read the answer", 502
            one["duration"] = round(time.monotonic() - begun, 3)
            if self.queue.empty():
                self.idle.set()

    def send(self, one):
        target = urlsplit(self.target)
        connection = http.client.HTTPConnection(target.hostname, target.port, timeout=10)
        signature = hmac.new(self.secret, one["data"], hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json", "User-Agent": "GitHub-Hookshot/000000", "X-GitHub-Event": one["event"],
            "X-GitHub-Delivery": one["guid"], "X-GitHub-Hook-ID": "1", "X-GitHub-Hook-Installation-Target-Type": "integration",
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        try:
            connection.request("POST", target.path or "/", one["data"], headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()
