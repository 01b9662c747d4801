"""A repository: itself, branches, commits, comparisons, files, people, and the Git database."""

import base64
import binascii
from datetime import datetime, timezone
from urllib.parse import quote

from .git import GitError
from .shapes import node_id
from .web import Answer, ApiError, invalid, route

REPOSITORY = "/repos/{owner}/{repo}"


def commit_of(repo, name):
    found = repo["git"].resolve(name)
    if found is None:
        raise ApiError(422, f"No commit found for SHA: {name}")
    return found


@route("GET", REPOSITORY, "metadata:read")
def repository(request, repo):
    return Answer(request.shapes.repository(repo, request.principal, whole=True))


@route("GET", REPOSITORY + "/branches", "contents:read")
def branches(request, repo):
    found = repo["git"].refs("refs/heads/")
    shape = lambda name: {
        "name": name.removeprefix("refs/heads/"), "protected": False,
        "commit": {"sha": found[name], "url": f"{request.shapes.at(repo)}/commits/{found[name]}"},
    }
    return request.page(sorted(found), shape)


@route("GET", REPOSITORY + "/branches/{branch+}", "contents:read")
def branch(request, repo, branch):
    sha = repo["git"].ref(f"refs/heads/{branch}")
    if sha is None:
        raise ApiError(404, "Branch not found")
    at = f"{request.shapes.at(repo)}/branches/{branch}"
    return Answer({
        "name": branch, "commit": request.shapes.commit(repo, sha), "protected": False, "protection_url": at + "/protection",
        "protection": {"enabled": False, "required_status_checks": {"enforcement_level": "off", "contexts": [], "checks": []}},
        "_links": {"self": at, "html": f"{request.shapes.web(repo)}/tree/{branch}"},
    })


@route("GET", REPOSITORY + "/commits", "contents:read")
def commits(request, repo):
    begin = request.query.get("sha", repo["default_branch"])
    sha = repo["git"].resolve(begin)
    if sha is None:
        raise ApiError(404, "Not Found")
    return request.page(repo["git"].history(sha, request.query.get("path")), lambda one: request.shapes.commit(repo, one))


@route("GET", REPOSITORY + "/commits/{ref+}/check-runs", "checks:read")
def check_runs(request, repo, ref):
    sha, name = commit_of(repo, ref), request.query.get("check_name")
    found = [one for one in repo["checks"].values() if one["sha"] == sha and name in (None, one["name"])]
    if request.query.get("filter", "latest") == "latest":
        found = list({one["name"]: one for one in found}.values())
    answer = request.page(sorted(found, key=lambda one: -one["id"]), lambda one: request.shapes.check(repo, one))
    answer.body = {"total_count": len(found), "check_runs": answer.body}
    return answer


@route("GET", REPOSITORY + "/commits/{ref+}/pulls", "pull_requests:read")
def pulls_of(request, repo, ref):
    sha = commit_of(repo, ref)
    has = lambda one: one["pull"] and sha in repo["git"].between(one["pull"]["base_sha"], one["pull"]["head_sha"])
    return request.page([one for one in repo["issues"].values() if has(one)], lambda one: request.shapes.pull(repo, one, whole=False))


@route("GET", REPOSITORY + "/commits/{ref+}", "contents:read")
def commit(request, repo, ref):
    return Answer(request.shapes.commit(repo, commit_of(repo, ref), whole=True))


@route("GET", REPOSITORY + "/compare/{basehead+}", "contents:read")
def compare(request, repo, basehead):
    base, _, head = basehead.partition("...")
    git, shapes = repo["git"], request.shapes
    ends = [git.resolve(name.rpartition(":")[2]) for name in (base, head)]
    middle = git.merge_base(*ends) if all(ends) else None
    if middle is None:
        raise ApiError(404, "Not Found")
    ahead, behind = git.between(ends[0], ends[1]), git.between(ends[1], ends[0])
    status = "diverged" if ahead and behind else "ahead" if ahead else "behind" if behind else "identical"
    at, web = f"{shapes.at(repo)}/compare/{basehead}", f"{shapes.web(repo)}/compare/{basehead}"
    answer = request.page(ahead, lambda one: shapes.commit(repo, one))
    answer.body = {
        "url": at, "html_url": web, "permalink_url": web, "diff_url": web + ".diff", "patch_url": web + ".patch", "status": status,
        "base_commit": shapes.commit(repo, ends[0]), "merge_base_commit": shapes.commit(repo, middle), "ahead_by": len(ahead),
        "behind_by": len(behind), "total_commits": len(ahead), "commits": answer.body,
        "files": [shapes.file(repo, ends[1], one) for one in git.diff(middle, ends[1])[:300]],
    }
    return answer


def content(request, repo, entry, ref, listed=False):
    path = quote(entry["path"])
    at, web = f"{request.shapes.at(repo)}/contents/{path}?ref={ref}", f"{request.shapes.web(repo)}"
    kind = {"tree": "dir", "blob": "file", "commit": "submodule"}[entry["type"]]
    git_url = f"{request.shapes.at(repo)}/git/{'trees' if kind == 'dir' else 'blobs'}/{entry['sha']}"
    page = f"{web}/{'tree' if kind == 'dir' else 'blob'}/{ref}/{path}"
    shape = {
        "name": entry["path"].rpartition("/")[2], "path": entry["path"], "sha": entry["sha"], "size": entry.get("size", 0), "url": at, "html_url": page,
        "git_url": git_url, "download_url": None if kind == "dir" else f"{web}/raw/{ref}/{path}", "type": kind,
        "_links": {"self": at, "git": git_url, "html": page},
    }
    if not listed:
        data = repo["git"].blob(entry["sha"])
        shape |= {"content": base64.encodebytes(data).decode(), "encoding": "base64"} if len(data) <= 1 << 20 else {"content": "", "encoding": "none"}
    return shape


@route("GET", REPOSITORY + "/contents", "contents:read")
def contents_of_root(request, repo):
    return contents(request, repo, "")


@route("GET", REPOSITORY + "/contents/{path+}", "contents:read")
def contents(request, repo, path):
    ref = request.query.get("ref", repo["default_branch"])
    sha = repo["git"].resolve(ref)
    if sha is None:
        raise ApiError(404, f"No commit found for the ref {ref}")
    entry = repo["git"].entry(sha, path.strip("/"))
    if entry is None:
        raise ApiError(404, "Not Found")
    if entry["type"] == "tree":
        inner = repo["git"].tree_at(sha, (entry["path"] + "/x").lstrip("/"))
        return Answer([content(request, repo, one, ref, listed=True) for one in inner])
    if "raw" in request.headers.get("Accept", ""):
        return Answer(repo["git"].blob(entry["sha"]), headers={"Content-Type": "application/vnd.github.raw; charset=utf-8"})
    return Answer(content(request, repo, entry, ref))


@route("GET", REPOSITORY + "/collaborators", "metadata:read")
def collaborators(request, repo):
    shape = lambda login: request.shapes.user(login) | permissions(repo["people"][login])
    return request.page(sorted(repo["people"]), shape)


def permissions(level):
    rank = ("none", "read", "triage", "write", "maintain", "admin").index(level)
    names = {"pull": 1, "triage": 2, "push": 3, "maintain": 4, "admin": 5}
    return {"permissions": {name: rank >= least for name, least in names.items()}, "role_name": level}


@route("GET", REPOSITORY + "/collaborators/{login}/permission", "metadata:read")
def permission(request, repo, login):
    if login not in request.store.users:
        raise ApiError(404, "Not Found")
    level = repo["people"].get(login, "none" if repo["private"] else "read")
    user = request.shapes.user(login) | permissions(level)
    return Answer({"permission": level, "role_name": level, "user": user})


@route("GET", REPOSITORY + "/collaborators/{login}", "metadata:read")
def collaborator(request, repo, login):
    if login not in repo["people"]:
        raise ApiError(404, "Not Found")
    return Answer(status=204)


def ref_shape(request, repo, name, sha):
    at = request.shapes.at(repo)
    return {
        "ref": name, "node_id": node_id("Ref", name), "url": f"{at}/git/{name}",
        "object": {"sha": sha, "type": "commit", "url": f"{at}/git/commits/{sha}"},
    }


@route("GET", REPOSITORY + "/git/ref/{ref+}", "contents:read")
def get_ref(request, repo, ref):
    sha = repo["git"].ref(f"refs/{ref}")
    if sha is None:
        raise ApiError(404, "Not Found")
    return Answer(ref_shape(request, repo, f"refs/{ref}", sha))


@route("GET", REPOSITORY + "/git/matching-refs/{ref+}", "contents:read")
def matching_refs(request, repo, ref):
    found = repo["git"].refs(f"refs/{ref}")
    return Answer([ref_shape(request, repo, name, found[name]) for name in sorted(found)])


@route("POST", REPOSITORY + "/git/refs", "contents:write", content=False)
def make_ref(request, repo):
    body = request.object("ref", "sha")
    name, sha, git = body["ref"], body["sha"], repo["git"]
    if not name.startswith("refs/") or name.count("/") < 2:
        raise ApiError(422, "Reference name must start with 'refs/' and have at least two slashes.")
    if git.kind(sha) != "commit":
        raise ApiError(422, "Object does not exist")
    found = git.refs()
    if name in found:
        raise ApiError(422, "Reference already exists")
    if any(other.startswith(name + "/") or name.startswith(other + "/") for other in found):
        raise ApiError(422, "Reference update failed")
    try:
        git.move(name, sha)
    except GitError:
        raise ApiError(422, f"{name} is not a valid ref name.") from None
    request.store.moved(repo, name, None, sha, request.login)
    return Answer(ref_shape(request, repo, name, sha), 201)


@route("PATCH", REPOSITORY + "/git/refs/{ref+}", "contents:write", content=False)
def move_ref(request, repo, ref):
    body, name, git = request.object("sha"), f"refs/{ref}", repo["git"]
    old = git.ref(name)
    if old is None:
        raise ApiError(422, "Reference does not exist")
    if git.kind(body["sha"]) != "commit":
        raise ApiError(422, "Object does not exist")
    if not body.get("force") and not git.is_ancestor(old, body["sha"]):
        raise ApiError(422, "Update is not a fast forward")
    if old != body["sha"]:
        git.move(name, body["sha"], old)
        request.store.moved(repo, name, old, body["sha"], request.login)
    return Answer(ref_shape(request, repo, name, body["sha"]))


@route("DELETE", REPOSITORY + "/git/refs/{ref+}", "contents:write", content=False)
def delete_ref(request, repo, ref):
    name = f"refs/{ref}"
    old = repo["git"].ref(name)
    if old is None:
        raise ApiError(422, "Reference does not exist")
    repo["git"].delete(name)
    request.store.moved(repo, name, old, None, request.login)
    return Answer(status=204)


@route("POST", REPOSITORY + "/git/blobs", "contents:write", content=False)
def make_blob(request, repo):
    body = request.body if isinstance(request.body, dict) else {}
    if not isinstance(body.get("content"), str):
        raise invalid("Blob", "content", "missing_field")
    try:
        encoded = body.get("encoding", "utf-8") == "base64"
        data = base64.b64decode(body["content"]) if encoded else body["content"].encode()
    except (binascii.Error, ValueError):
        raise ApiError(422, "content is not valid Base64") from None
    sha = repo["git"].write_blob(data)
    return Answer({"url": f"{request.shapes.at(repo)}/git/blobs/{sha}", "sha": sha}, 201)


@route("GET", REPOSITORY + "/git/blobs/{sha}", "contents:read")
def blob(request, repo, sha):
    if repo["git"].kind(sha) != "blob":
        raise ApiError(404, "Not Found")
    data = repo["git"].blob(sha)
    return Answer({
        "sha": sha, "node_id": node_id("Blob", sha), "size": len(data), "url": f"{request.shapes.at(repo)}/git/blobs/{sha}",
        "content": base64.encodebytes(data).decode(), "encoding": "base64",
    })


def tree_shape(request, repo, sha, recursive=False):
    at = f"{request.shapes.at(repo)}/git"
    places = {"blob": "blobs", "tree": "trees", "commit": "commits"}
    entries = [one | {"url": f"{at}/{places[one['type']]}/{one['sha']}"} for one in repo["git"].tree(sha, recursive)]
    return {"sha": sha, "url": f"{at}/trees/{sha}", "tree": entries, "truncated": False}


@route("GET", REPOSITORY + "/git/trees/{name+}", "contents:read")
def tree(request, repo, name):
    git = repo["git"]
    found = name if git.kind(name) == "tree" else None
    if found is None:
        commit = git.resolve(name)
        if commit is None:
            raise ApiError(404, "Not Found")
        found = git.commit(commit)["tree"]
    return Answer(tree_shape(request, repo, found, "recursive" in request.query))


@route("POST", REPOSITORY + "/git/trees", "contents:write", content=False)
def make_tree(request, repo):
    body, git = request.object("tree"), repo["git"]
    base = body.get("base_tree")
    if base is not None:
        base = git.commit(base)["tree"] if git.kind(base) == "commit" else base
        if git.kind(base) != "tree":
            raise ApiError(422, "base_tree is not a valid tree oid")
    entries = []
    for one in body["tree"]:
        path, mode, sha = one.get("path", ""), one.get("mode", "100644"), one.get("sha")
        if not path or path.startswith("/") or any(part in ("", ".", "..", ".git") for part in path.split("/")):
            raise ApiError(422, "tree.path contains a malformed path component")
        if "content" in one:
            sha = git.write_blob(one["content"].encode())
        elif sha is not None and git.kind(sha) is None:
            raise ApiError(422, "tree.sha is not a valid blob")
        if sha is None and not (base and git_has(git, base, path)):
            raise ApiError(422, "GitRPC::BadObjectState")
        entries.append((mode, sha, path))
    sha = git.write_tree(base, entries)
    return Answer(tree_shape(request, repo, sha), 201)


def git_has(git, tree, path):
    return any(one["path"] == path for one in git.tree(tree, recursive=True))


def seconds(text):
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc).timestamp())


@route("POST", REPOSITORY + "/git/commits", "contents:write", content=False)
def make_commit(request, repo):
    body, git, store = request.object("message", "tree"), repo["git"], request.store
    if git.kind(body["tree"]) != "tree":
        raise ApiError(422, "Tree SHA does not exist")
    parents = body.get("parents", [])
    if any(git.kind(one) != "commit" for one in parents):
        raise ApiError(422, "Parent SHA does not exist or is not a commit object")
    now, me = int(datetime.now(timezone.utc).timestamp()), store.users[request.login]
    person = lambda given, default: (given["name"], given["email"], seconds(given["date"]) if given.get("date") else now) if given else default
    author = person(body.get("author"), (me["name"] or me["login"], me["email"], now))
    sha = git.write_commit(body["tree"], parents, body["message"], author, person(body.get("committer"), author))
    return Answer(request.shapes.short_commit(repo, sha), 201)


@route("GET", REPOSITORY + "/git/commits/{sha}", "contents:read")
def git_commit(request, repo, sha):
    if repo["git"].kind(sha) != "commit":
        raise ApiError(404, "Not Found")
    return Answer(request.shapes.short_commit(repo, sha))
