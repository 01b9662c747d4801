"""What the stub knows: people, tokens, repositories and what is said in them. Plain dictionaries; `shapes` makes GitHub's JSON of them."""

import base64
import os
import secrets
import threading
import time
from datetime import datetime, timezone

from .git import Repository

# GitHub tells content that is read from what is written; these are what an App may ask for.
PERMISSIONS = ("checks", "contents", "issues", "metadata", "pull_requests")
LEVELS = {None: 0, "none": 0, "read": 1, "write": 2, "admin": 3}


def stamp(seconds=None):
    """A time as GitHub writes it."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def node_id(kind, number):
    return base64.b64encode(f"0:{kind}{number}".encode()).decode()


class Principal:
    """Who asks: a user, an installation of the App, or the App itself. `permissions` is None for users: theirs are by repository."""

    def __init__(self, kind, login, permissions=None, repositories=None, expires=None, installation=None):
        self.kind, self.login, self.permissions = kind, login, permissions
        self.repositories, self.expires, self.installation = repositories, expires, installation

    @property
    def key(self):
        """Limits are counted by this."""
        return f"installation/{self.installation}" if self.kind == "installation" else f"{self.kind}/{self.login}"

    def sees(self, repository):
        if self.kind == "installation":
            return self.repositories is None or repository["id"] in self.repositories
        return self.kind == "user" and (not repository["private"] or self.login in repository["people"])

    def may(self, repository, area, level):
        """Whether `level` (read, write) of `area` (issues, contents, ..) is granted."""
        if self.kind == "installation":
            return LEVELS[self.permissions.get(area)] >= LEVELS[level]
        if self.kind != "user":
            return False
        if level == "read" or area in ("issues", "pull_requests"):
            return True
        return LEVELS[repository["people"].get(self.login)] >= LEVELS["write"]


class Store:
    """All of it. `lock` is held while a request is carried out."""

    def __init__(self, folder, api, web, git):
        self.folder, self.api, self.web, self.git = folder, api, web, git
        self.lock = threading.RLock()
        self.number = 1_000_000
        self.users, self.tokens, self.repositories, self.installations = {}, {}, {}, {}
        self.app = None
        self.hooks = []
        self.emit = lambda event, payload, repository: None
        self.user("ghost")

    def next_id(self):
        self.number += 1
        return self.number

    def user(self, login, kind="User", name=None):
        """The user of this login, made where there is none."""
        if login not in self.users:
            self.users[login] = {
                "login": login, "id": self.next_id(), "type": kind, "name": name, "created": stamp(),
                "email": f"{login}@users.noreply.github.com",
            }
        return self.users[login]

    def token(self, login, text=None):
        """A personal token of a user."""
        self.user(login)
        text = text or "ghp_" + secrets.token_hex(18)
        self.tokens[text] = Principal("user", login)
        return text

    def set_app(self, slug, app_id, key, permissions):
        """The one App; `key` is its public key (modulus, exponent)."""
        self.user(f"{slug}[bot]", "Bot")
        self.app = {
            "id": app_id, "slug": slug, "key": key, "permissions": permissions, "created": stamp(),
            "owner": self.user("mindos-owner")["login"],
        }

    def install(self, account, repositories=None):
        """Installs the App in an account; for all of its repositories or those of these ids."""
        one = {"id": self.next_id(), "account": self.user(account)["login"], "repositories": repositories, "created": stamp()}
        self.installations[one["id"]] = one
        return one

    def installation_of(self, repository):
        for one in self.installations.values():
            if one["account"] == repository["owner"] and (one["repositories"] is None or repository["id"] in one["repositories"]):
                return one
        return None

    def installation_token(self, installation, repositories, permissions, life=3600):
        text = "ghs_" + secrets.token_hex(18)
        until = time.time() + life
        login = f"{self.app['slug']}[bot]"
        self.tokens[text] = Principal("installation", login, permissions, repositories, until, installation["id"])
        return text, stamp(until)

    def principal(self, text):
        """Whose token this is; None for nobody's, also where it has expired."""
        found = self.tokens.get(text)
        return None if found and found.expires and found.expires < time.time() else found

    def add_repository(self, full_name, private=True, branch="main", people=None):
        owner, name = full_name.split("/")
        self.user(owner)
        path = os.path.join(self.folder, owner, name + ".git")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        now = stamp()
        repository = {
            "id": self.next_id(), "owner": owner, "name": name, "full_name": full_name, "private": private,
            "default_branch": branch, "created": now, "updated": now, "pushed": now,
            "people": {owner: "admin", **(people or {})}, "git": Repository.made(path, branch),
            "labels": {}, "issues": {}, "comments": {}, "review_comments": {}, "reactions": {}, "checks": {}, "last": 0,
        }
        for login in repository["people"]:
            self.user(login)
        for word, colour in (("bug", "d73a4a"), ("documentation", "0075ca"), ("enhancement", "a2eeef"), ("good first issue", "7057ff")):
            self.label(repository, word, colour, default=True)
        self.repositories[full_name.lower()] = repository
        return repository

    def label(self, repository, name, colour="ededed", description=None, default=False):
        """The label of this name, in whatever case, made where there is none."""
        found = repository["labels"].get(name.lower())
        if not found:
            found = {"id": self.next_id(), "name": name, "color": colour, "description": description, "default": default}
            repository["labels"][name.lower()] = found
        return found

    def add_issue(self, repository, login, title, body):
        repository["last"] += 1
        now = stamp()
        issue = {
            "id": self.next_id(), "number": repository["last"], "title": title, "body": body, "user": login, "state": "open",
            "reason": None, "labels": [], "created": now, "updated": now, "closed": None, "closed_by": None,
            "comments": [], "assignees": [], "pull": None, "app": login == self.bot(),
        }
        repository["issues"][issue["number"]] = issue
        return issue

    def bot(self):
        return f"{self.app['slug']}[bot]" if self.app else None

    def add_comment(self, repository, issue, login, body):
        now = stamp()
        comment = {
            "id": self.next_id(), "issue": issue["number"], "user": login, "body": body, "created": now, "updated": now,
            "app": login == self.bot(),
        }
        repository["comments"][comment["id"]] = comment
        issue["comments"].append(comment["id"])
        issue["updated"] = now
        return comment

    def association(self, repository, login):
        """What somebody is to a repository, in GitHub's word."""
        if login == repository["owner"]:
            return "OWNER"
        if LEVELS[repository["people"].get(login)] >= LEVELS["read"]:
            return "COLLABORATOR"
        wrote = any(one["pull"] and one["pull"]["merged"] and one["user"] == login for one in repository["issues"].values())
        return "CONTRIBUTOR" if wrote else "NONE"

    def moved(self, repository, ref, old, new, login):
        """A branch was made, moved or deleted (`old` or `new` is None): tells of the push and moves what hangs on it."""
        repository["pushed"] = stamp()
        self.emit("push", {"ref": ref, "before": old, "after": new, "pusher": login, "sender": login}, repository)
        branch = ref.removeprefix("refs/heads/")
        for issue in list(repository["issues"].values()):
            pull = issue["pull"]
            if not pull or issue["state"] != "open" or pull["head"] != branch or not ref.startswith("refs/heads/"):
                continue
            if new is None:
                issue |= {"state": "closed", "closed": stamp(), "closed_by": login, "updated": stamp()}
                self.emit("pull_request", {"action": "closed", "issue": issue, "sender": login}, repository)
            elif pull["head_sha"] != new:
                before, pull["head_sha"] = pull["head_sha"], new
                issue["updated"] = stamp()
                more = {"action": "synchronize", "before": before, "after": new}
                self.emit("pull_request", more | {"issue": issue, "sender": login}, repository)
