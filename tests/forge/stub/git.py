"""A bare repository, read and written by the `git` program alone."""

import os
import re
import subprocess
import tempfile
from datetime import datetime, timezone

EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


class GitError(Exception):
    """What git said when it refused."""


class Repository:
    """The repository at `path`; the caller sees to it that one thread writes at a time."""

    def __init__(self, path):
        self.path = path
        self.compared = {}

    @classmethod
    def made(cls, path, branch):
        """A new bare one, whose HEAD names `branch` and which takes pushes."""
        subprocess.run(["git", "init", "-q", "--bare", f"--initial-branch={branch}", path], check=True)
        repository = cls(path)
        repository.run("config", "http.receivepack", "true")
        return repository

    def run(self, *words, data=None, env=None):
        environment = dict(os.environ, GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL="/dev/null", **(env or {}))
        done = subprocess.run(["git", f"--git-dir={self.path}", *words], input=data, env=environment, capture_output=True)
        if done.returncode != 0:
            raise GitError(done.stderr.decode(errors="replace").strip())
        return done.stdout

    def text(self, *words, **more):
        return self.run(*words, **more).decode(errors="replace")

    def refs(self, prefix="refs/"):
        """Names and what they point at."""
        lines = self.text("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return {name: sha for name, sha in (line.split(" ") for line in lines) if name.startswith(prefix)}

    def ref(self, name):
        return self.refs().get(name)

    def kind(self, sha):
        """`commit`, `tree`, `blob`, or None where there is no such object."""
        if not re.fullmatch(r"[0-9a-f]{40}", sha or ""):
            return None
        try:
            return self.text("cat-file", "-t", sha).strip()
        except GitError:
            return None

    def resolve(self, name):
        """The commit that a branch, tag, or SHA (whole or the beginning of it) names."""
        if not name or name.startswith("-") or ".." in name or "\0" in name:
            return None
        for one in (f"refs/heads/{name}", f"refs/tags/{name}", name):
            try:
                return self.text("rev-parse", "--verify", "--quiet", "--end-of-options", one + "^{commit}").strip()
            except GitError:
                continue
        return None

    def commit(self, sha):
        """A commit's parts."""
        head, _, message = self.text("cat-file", "commit", sha).partition("\n\n")
        fields = {"parents": [], "message": message.removesuffix("\n")}
        for line in head.splitlines():
            word, _, rest = line.partition(" ")
            if word == "parent":
                fields["parents"].append(rest)
            elif word == "tree":
                fields["tree"] = rest
            elif word in ("author", "committer"):
                name, email, seconds = re.fullmatch(r"(.*?) ?<(.*)> (-?\d+) [+-]\d{4}", rest).groups()
                date = datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
                fields[word] = {"name": name, "email": email, "date": date}
        return fields

    def tree(self, sha, recursive=False):
        """Entries: mode, type, sha, size (of blobs), path."""
        words = ["ls-tree", "-l", "-z"] + (["-r", "-t"] if recursive else [])
        entries = []
        for line in self.run(*words, sha).split(b"\0"):
            if line:
                head, _, path = line.partition(b"\t")
                mode, kind, name, size = head.decode().split()
                entry = {"path": path.decode(errors="replace"), "mode": mode, "type": kind, "sha": name}
                entries.append(entry | ({"size": int(size)} if size != "-" else {}))
        return entries

    def entry(self, commit, path):
        """The entry at `path` of a commit, or None."""
        if not path:
            return {"path": "", "mode": "040000", "type": "tree", "sha": self.commit(commit)["tree"]}
        found = [one for one in self.tree_at(commit, path) if one["path"] == path]
        return found[0] if found else None

    def tree_at(self, commit, path):
        parent, _, _ = path.rpartition("/")
        try:
            return self.tree(f"{commit}:{parent}") if not parent else [
                one | {"path": f"{parent}/{one['path']}"} for one in self.tree(f"{commit}:{parent}")
            ]
        except GitError:
            return []

    def blob(self, sha):
        return self.run("cat-file", "blob", sha)

    def write_blob(self, data):
        return self.text("hash-object", "-w", "-t", "blob", "--stdin", data=data).strip()

    def write_tree(self, base, entries):
        """A tree: that of `base` (or none) with `entries` of (mode, sha or None to delete, path)."""
        with tempfile.TemporaryDirectory() as folder:
            env = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
            if base:
                self.run("read-tree", base, env=env)
            lines = b"".join(
                f"{mode if sha else 0} {sha or '0' * 40}\t{path}\0".encode() for mode, sha, path in entries
            )
            self.run("update-index", "-z", "--index-info", data=lines, env=env)
            return self.text("write-tree", env=env).strip()

    def write_commit(self, tree, parents, message, author, committer):
        """A commit of exactly these bytes; people are (name, email, seconds since the epoch)."""
        lines = [f"tree {tree}"] + [f"parent {parent}" for parent in parents]
        for word, (name, email, seconds) in (("author", author), ("committer", committer)):
            lines.append(f"{word} {re.sub('[<>]', '', name)} <{re.sub('[<>]', '', email)}> {seconds} +0000")
        data = ("\n".join(lines) + "\n\n" + message).encode()
        return self.text("hash-object", "-w", "-t", "commit", "--stdin", data=data).strip()

    def move(self, ref, new, old=None):
        """Points `ref` at `new`; with `old` only if it is that."""
        self.run("update-ref", ref, new, *([old] if old else []))

    def delete(self, ref):
        self.run("update-ref", "-d", ref)

    def is_ancestor(self, old, new):
        try:
            self.run("merge-base", "--is-ancestor", old, new)
            return True
        except GitError:
            return False

    def merge_base(self, one, other):
        try:
            return self.text("merge-base", one, other).strip()
        except GitError:
            return None

    def between(self, base, head):
        """Commits of `head` that `base` lacks, oldest first."""
        return self.text("rev-list", "--reverse", "--topo-order", f"{base}..{head}").split()

    def history(self, commit, path=None, limit=1000):
        words = ["rev-list", f"--max-count={limit}", commit] + (["--", path] if path else [])
        return self.text(*words).split()

    def diff(self, base, head):
        """What changed from `base` to `head`, as GitHub lists it: path, old path, status, sha, additions, deletions, patch."""
        key = (base, head)
        if key not in self.compared:
            if len(self.compared) > 200:
                self.compared.clear()
            self.compared[key] = self.compare(base, head)
        return self.compared[key]

    def compare(self, base, head):
        words = ("diff", "--no-color", "--no-ext-diff", "-M", base, head)
        raw = self.run(*words, "--raw", "--no-abbrev", "-z").split(b"\0")
        files, at = [], 0
        while at < len(raw) and raw[at]:
            _, _, old, new, status = raw[at].decode().split(" ")
            word = {"A": "added", "D": "removed", "R": "renamed", "C": "copied"}.get(status[0], "modified")
            one = {"status": word, "sha": old if word == "removed" else new, "path": raw[at + 1].decode(errors="replace")}
            at += 2
            if word in ("renamed", "copied"):
                one |= {"old": one["path"], "path": raw[at].decode(errors="replace")}
                at += 1
            files.append(one)
        numbers = self.run(*words, "--numstat", "-z").split(b"\0")
        at = 0
        for one in files:
            added, deleted, path = numbers[at].split(b"\t")
            at += 1 if path else 3
            one["binary"] = added == b"-"
            one["additions"], one["deletions"] = (0, 0) if one["binary"] else (int(added), int(deleted))
        patches = re.split(r"(?m)^diff --git .*\n", self.text(*words, "-p"))[1:]
        for one, patch in zip(files, patches, strict=True):
            begins = re.search(r"(?m)^@@", patch)
            one["patch"] = patch[begins.start():].removesuffix("\n") if begins else None
        return files
