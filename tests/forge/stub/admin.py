"""What only tests may do, under `/_admin/`: set things up, act as somebody, make things go wrong, look at what happened.

| call | what |
|---|---|
| POST user {login, token?} | a user with a token; answers it |
| POST repository {full_name, private?, branch?, people?, folder?, login?} | a repository, with what is in `folder` as its first commit |
| POST app {slug, id, key_file, permissions} | the App |
| POST install {account, repositories?} | installs it; answers the installation |
| POST as {login, method, path, body} | an API call by somebody, apart from limits and the log |
| POST push {login, repository, branch, from?, files, message} | a commit on a branch as somebody pushes it: `files` maps paths to texts, or null to delete |
| POST resolve {login, repository, comment} | a person resolves the thread of a review comment |
| POST hook {url, secret, events?} | where webhooks go |
| POST limits {primary?, scale?} | other limits, counted from now |
| POST fault {..}, GET held, POST release {id, drop}, POST clear | see `faults` |
| GET log ?after=n | requests; GET deliveries: webhooks; GET peaks: the most within each window of the limits; GET used: requests of this hour by who asks |
| POST redeliver | sends webhooks that failed once more |
| GET settled | waits until all webhooks are out |
"""

import base64
import os
import time

from .app_token import public_key
from .store import Principal
from .web import ApiError, Request


class Admin:
    def __init__(self, stub):
        self.stub, self.store = stub, stub.store

    def carry_out(self, method, name, query, body):
        handler = getattr(self, f"{method.lower()}_{name}", None)
        if handler is None:
            raise ApiError(404, f"no {method} /_admin/{name}; see stub/admin.py")
        if name in ("held", "release", "fault", "clear", "log", "deliveries", "settled"):
            return handler(**query, **body)
        with self.store.lock:
            return handler(**query, **body)

    def post_user(self, login, token=None, name=None):
        self.store.user(login, name=name)
        return {"token": self.store.token(login, token)}

    def post_repository(self, full_name, private=True, branch="main", people=None, folder=None, login=None):
        repository = self.store.add_repository(full_name, private, branch, people)
        if folder:
            entries, git = [], repository["git"]
            for root, _, names in sorted(os.walk(folder)):
                for name in sorted(names):
                    path = os.path.join(root, name)
                    with open(path, "rb") as file:
                        mode = "100755" if os.access(path, os.X_OK) else "100644"
                        entries.append((mode, git.write_blob(file.read()), os.path.relpath(path, folder)))
            who = self.person(login or repository["owner"])
            git.move(f"refs/heads/{branch}", git.write_commit(git.write_tree(None, entries), [], "All that there is", who, who))
        return {"id": repository["id"], "sha": repository["git"].ref(f"refs/heads/{branch}")}

    def person(self, login):
        user = self.store.user(login)
        return user["name"] or login, user["email"], int(time.time())

    def post_app(self, slug, id, key_file, permissions):
        with open(key_file, "rb") as file:
            self.store.set_app(slug, id, public_key(file.read()), permissions)
        return {"login": self.store.bot()}

    def post_install(self, account, repositories=None):
        ids = None if repositories is None else [self.store.repositories[name.lower()]["id"] for name in repositories]
        return {"id": self.store.install(account, ids)["id"]}

    def post_as(self, login, method, path, body=None):
        self.store.user(login)
        raw, _, query = path.partition("?")
        pairs = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        request = Request(self.stub, Principal("user", login), method, raw, pairs, {}, body)
        answer, _ = self.stub.carry_out(request, method, raw)
        return {"status": answer.status, "body": answer.body.decode() if isinstance(answer.body, bytes) else answer.body}

    def post_push(self, login, repository, branch, files, message, **more):
        repo = self.store.repositories[repository.lower()]
        git, ref = repo["git"], f"refs/heads/{branch}"
        old = git.ref(ref)
        parent = old or git.resolve(more.get("from") or repo["default_branch"])
        entries = [("100644", None if text is None else git.write_blob(text.encode()), path) for path, text in files.items()]
        who = self.person(login)
        new = git.write_commit(git.write_tree(git.commit(parent)["tree"], entries), [parent], message, who, who)
        git.move(ref, new, old)
        self.store.moved(repo, ref, old, new, login)
        return {"sha": new, "parent": parent}

    def post_resolve(self, login, repository, comment):
        repo = self.store.repositories[repository.lower()]
        first = repo["review_comments"][comment]
        issue = repo["issues"][first["pull"]]
        thread = [one for one in repo["review_comments"].values() if comment in (one["id"], one["reply"])]
        self.store.emit("pull_request_review_thread", {"action": "resolved", "issue": issue, "thread": thread, "sender": login}, repo)
        return {}

    def post_hook(self, url, secret, events=None):
        hooks = self.stub.hooks
        hooks.target, hooks.secret, hooks.events = url, secret.encode(), events
        return {}

    def post_limits(self, primary=None, scale=None):
        limits = self.stub.limits
        limits.primary, limits.scale = primary or limits.primary, scale or limits.scale
        limits.seen.clear(), limits.used.clear(), limits.until.clear(), limits.peaks.clear()
        return {}

    def post_fault(self, **wanted):
        return {"id": self.stub.faults.add(wanted)}

    def get_held(self):
        with self.stub.faults.lock:
            return {str(number): what for number, (_, what) in self.stub.faults.held.items()}

    def post_release(self, id, drop=True):
        self.stub.faults.release(int(id), drop)
        return {}

    def post_clear(self):
        self.stub.faults.clear()
        return {}

    def get_log(self, after="0"):
        return [one for one in list(self.stub.log) if one["n"] > int(after)]

    def get_deliveries(self):
        return [{name: value for name, value in one.items() if name != "data"} for one in list(self.stub.hooks.sent)]

    def get_payload(self, id):
        return next(base64.b64encode(one["data"]).decode() for one in self.stub.hooks.sent if one["id"] == int(id))

    def get_peaks(self):
        return self.stub.limits.peaks

    def get_used(self):
        return {key: used for key, (_, used) in dict(self.stub.limits.used).items()}

    def post_redeliver(self):
        hooks = self.stub.hooks
        done = {one["guid"] for one in hooks.sent if one["status"] in ("OK", "pending")}
        failed = {one["guid"]: one["id"] for one in hooks.sent if one["guid"] not in done}
        return {"sent": sum(hooks.again(number) for number in failed.values())}

    def get_settled(self):
        return {"settled": self.stub.hooks.idle.wait(30)}
