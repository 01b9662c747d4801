"""Pull requests, their files and commits, reviews and what they say of lines; check runs."""

import re
import time

from .api_issues import checked_body, issue_of, mine, newest_first
from .git import GitError
from .store import stamp
from .web import Answer, ApiError, invalid, route

REPOSITORY = "/repos/{owner}/{repo}"
PULLS = "pull_requests"
STATES = {"APPROVE": "APPROVED", "REQUEST_CHANGES": "CHANGES_REQUESTED", "COMMENT": "COMMENTED"}


def pull_of(repo, number):
    found = issue_of(repo, number)
    if not found["pull"]:
        raise ApiError(404, "Not Found")
    return found


def tell(request, repo, issue, action, **more):
    request.store.emit("pull_request", {"action": action, "issue": issue, "sender": request.login} | more, repo)


@route("GET", REPOSITORY + "/pulls", PULLS + ":read")
def pulls(request, repo):
    state, head, base = request.query.get("state", "open"), request.query.get("head"), request.query.get("base")
    fits = lambda one: (
        one["pull"] and state in ("all", one["state"]) and base in (None, one["pull"]["base"])
        and (head is None or head == f"{repo['owner']}:{one['pull']['head']}")
    )
    found = newest_first(request, filter(fits, repo["issues"].values()))
    return request.page(found, lambda one: request.shapes.pull(repo, one, whole=False))


@route("POST", REPOSITORY + "/pulls", PULLS + ":write")
def make_pull(request, repo):
    body, git = request.object("head", "base"), repo["git"]
    if not body.get("title"):
        raise invalid("PullRequest", "title", "missing_field")
    head, base = body["head"].rpartition(":")[2], body["base"]
    tips = {"head": git.ref(f"refs/heads/{head}"), "base": git.ref(f"refs/heads/{base}")}
    for name, tip in tips.items():
        if tip is None:
            raise invalid("PullRequest", name)
    if any(one["pull"] and one["state"] == "open" and (one["pull"]["head"], one["pull"]["base"]) == (head, base) for one in repo["issues"].values()):
        raise invalid("PullRequest", "base", "custom", f"A pull request already exists for {repo['owner']}:{head}.")
    middle = git.merge_base(tips["base"], tips["head"])
    if middle is None or not git.between(middle, tips["head"]):
        raise invalid("PullRequest", "head", "custom", f"No commits between {base} and {head}")
    issue = request.store.add_issue(repo, request.login, body["title"], checked_body(body.get("body"), "PullRequest"))
    issue["pull"] = {
        "id": request.store.next_id(), "head": head, "base": base, "head_sha": tips["head"], "base_sha": tips["base"],
        "draft": bool(body.get("draft")), "merged": False, "merged_at": None, "merged_by": None, "merge_sha": None, "requested": [],
        "reviews": [], "comments": [],
    }
    tell(request, repo, issue, "opened")
    return Answer(request.shapes.pull(repo, issue), 201)


@route("GET", REPOSITORY + "/pulls/comments", PULLS + ":read")
def all_review_comments(request, repo):
    since = request.query.get("since", "")
    found = [one for one in repo["review_comments"].values() if one["updated"] >= since]
    return request.page(found, lambda one: request.shapes.review_comment(repo, one))


def review_comment_of(repo, number):
    found = repo["review_comments"].get(int(number) if number.isdigit() else -1)
    if found is None:
        raise ApiError(404, "Not Found")
    return found


@route("GET", REPOSITORY + "/pulls/comments/{number}", PULLS + ":read")
def review_comment(request, repo, number):
    return Answer(request.shapes.review_comment(repo, review_comment_of(repo, number)))


@route("PATCH", REPOSITORY + "/pulls/comments/{number}", PULLS + ":write")
def edit_review_comment(request, repo, number):
    one, body = review_comment_of(repo, number), request.object("body")
    mine(request, repo, one)
    one |= {"body": checked_body(body["body"], "PullRequestReviewComment"), "updated": stamp()}
    return Answer(request.shapes.review_comment(repo, one))


@route("DELETE", REPOSITORY + "/pulls/comments/{number}", PULLS + ":write")
def delete_review_comment(request, repo, number):
    one = review_comment_of(repo, number)
    mine(request, repo, one)
    del repo["review_comments"][one["id"]]
    repo["issues"][one["pull"]]["pull"]["comments"].remove(one["id"])
    return Answer(status=204)


@route("GET", REPOSITORY + "/pulls/{number}", PULLS + ":read")
def pull(request, repo, number):
    issue = pull_of(repo, number)
    accept, git, pull = request.headers.get("Accept", ""), repo["git"], issue["pull"]
    if "diff" in accept or "patch" in accept:
        base = git.merge_base(pull["base_sha"], pull["head_sha"])
        words = ("diff", "-M", base, pull["head_sha"]) if "diff" in accept else ("format-patch", "--stdout", f"{base}..{pull['head_sha']}")
        kind = "diff" if "diff" in accept else "patch"
        return Answer(git.run(*words), headers={"Content-Type": f"application/vnd.github.{kind}; charset=utf-8"})
    return Answer(request.shapes.pull(repo, issue))


@route("PATCH", REPOSITORY + "/pulls/{number}", PULLS + ":write")
def edit_pull(request, repo, number):
    issue, body = pull_of(repo, number), request.body or {}
    changed = {}
    for name in ("title", "body"):
        if name in body and body[name] != issue[name]:
            changed[name] = {"from": issue[name] or ""}
            issue[name] = checked_body(body[name], "PullRequest")
    if "base" in body and body["base"] != issue["pull"]["base"]:
        tip = repo["git"].ref(f"refs/heads/{body['base']}")
        if tip is None:
            raise invalid("PullRequest", "base")
        changed["base"] = {"ref": {"from": issue["pull"]["base"]}, "sha": {"from": issue["pull"]["base_sha"]}}
        issue["pull"] |= {"base": body["base"], "base_sha": tip}
    issue["updated"] = stamp()
    if changed:
        tell(request, repo, issue, "edited", changes=changed)
    state = body.get("state", issue["state"])
    if state != issue["state"]:
        if state == "open" and repo["git"].ref(f"refs/heads/{issue['pull']['head']}") is None:
            raise invalid("PullRequest", "state", "custom", "The pull request cannot be reopened: its head branch was deleted.")
        closed = state == "closed"
        issue |= {"state": state, "closed": stamp() if closed else None, "closed_by": request.login if closed else None}
        tell(request, repo, issue, "closed" if closed else "reopened")
    return Answer(request.shapes.pull(repo, issue))


def base_of(repo, pull):
    return repo["git"].merge_base(pull["base_sha"], pull["head_sha"]) or pull["base_sha"]


@route("GET", REPOSITORY + "/pulls/{number}/files", PULLS + ":read")
def files(request, repo, number):
    pull = pull_of(repo, number)["pull"]
    found = repo["git"].diff(base_of(repo, pull), pull["head_sha"])
    return request.page(found[:3000], lambda one: request.shapes.file(repo, pull["head_sha"], one))


@route("GET", REPOSITORY + "/pulls/{number}/commits", PULLS + ":read")
def commits(request, repo, number):
    pull = pull_of(repo, number)["pull"]
    found = repo["git"].between(base_of(repo, pull), pull["head_sha"])
    return request.page(found[:250], lambda one: request.shapes.commit(repo, one))


@route("GET", REPOSITORY + "/pulls/{number}/merge", PULLS + ":read")
def is_merged(request, repo, number):
    if not pull_of(repo, number)["pull"]["merged"]:
        raise ApiError(404, "Not Found")
    return Answer(status=204)


@route("PUT", REPOSITORY + "/pulls/{number}/merge", "contents:write")
def merge(request, repo, number):
    """Merges by a commit with two parents; what conflicts is refused."""
    issue, git, me = pull_of(repo, number), repo["git"], request.store.users[request.login]
    pull = issue["pull"]
    ref = f"refs/heads/{pull['base']}"
    tip = git.ref(ref)
    if issue["state"] != "open" or pull["draft"]:
        raise ApiError(405, "Pull Request is not mergeable")
    try:
        tree = git.text("merge-tree", "--write-tree", tip, pull["head_sha"]).split()[0]
    except GitError:
        raise ApiError(405, "Pull Request is not mergeable") from None
    who = (me["name"] or me["login"], me["email"], int(time.time()))
    sha = git.write_commit(tree, [tip, pull["head_sha"]], f"Merge pull request #{issue['number']} from {repo['owner']}/{pull['head']}\n\n{issue['title']}", who, who)
    git.move(ref, sha, tip)
    now = stamp()
    pull |= {"merged": True, "merged_at": now, "merged_by": request.login, "merge_sha": sha}
    issue |= {"state": "closed", "closed": now, "closed_by": request.login, "updated": now}
    tell(request, repo, issue, "closed")
    request.store.moved(repo, ref, tip, sha, request.login)
    return Answer({"sha": sha, "merged": True, "message": "Pull Request successfully merged"})


@route("POST", REPOSITORY + "/pulls/{number}/requested_reviewers", PULLS + ":write")
def ask_reviewers(request, repo, number):
    issue = pull_of(repo, number)
    for login in request.object().get("reviewers", []):
        if login not in repo["people"]:
            raise ApiError(422, "Reviews may only be requested from collaborators. One or more of the users or teams you specified is not a collaborator of the repository.")
        if login not in issue["pull"]["requested"]:
            issue["pull"]["requested"].append(login)
            tell(request, repo, issue, "review_requested", reviewer=login)
    return Answer(request.shapes.pull(repo, issue, whole=False), 201)


def hunk_of(repo, pull, path, line, side):
    """The lines of the diff up to `line`, and its place in it; None where the diff does not show that line."""
    found = [one for one in repo["git"].diff(base_of(repo, pull), pull["head_sha"]) if one["path"] == path]
    if not found:
        raise ApiError(422, "Unprocessable Entity", ["Path could not be resolved"])
    hunk, old, new, position = [], 0, 0, 0
    for text in (found[0]["patch"] or "").split("\n"):
        if begins := re.match(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@", text):
            hunk, old, new = [text], int(begins[1]), int(begins[2])
            position += 1 if position else 0
            continue
        position += 1
        hunk.append(text)
        here = {"+": (None, new), "-": (old, None), "\\": (None, None)}.get(text[:1], (old, new))
        if here[0 if side == "LEFT" else 1] == line:
            return "\n".join(hunk), position
        old, new = old + (here[0] is not None), new + (here[1] is not None)
    return None


def checked_comment(repo, pull, wanted):
    side, line = wanted.get("side", "RIGHT"), wanted.get("line")
    if line is None or not wanted.get("path") or not wanted.get("body"):
        raise ApiError(422, "Unprocessable Entity", ["Line could not be resolved"])
    at = hunk_of(repo, pull, wanted["path"], line, side)
    begin = wanted.get("start_line")
    if at is None or (begin is not None and (begin >= line or hunk_of(repo, pull, wanted["path"], begin, wanted.get("start_side", side)) is None)):
        raise ApiError(422, "Unprocessable Entity", ["Line could not be resolved"])
    return {"hunk": at[0], "position": at[1], "path": wanted["path"], "line": line, "side": side, "start_line": begin, "body": wanted["body"]}


def add_review_comment(request, repo, issue, checked, review, commit, reply=None):
    now = stamp()
    one = checked | {
        "id": request.store.next_id(), "pull": issue["number"], "review": review, "commit": commit, "user": request.login, "created": now,
        "updated": now, "reply": reply,
    }
    repo["review_comments"][one["id"]] = one
    issue["pull"]["comments"].append(one["id"])
    request.store.emit("pull_request_review_comment", {"action": "created", "issue": issue, "comment": one, "sender": request.login}, repo)
    return one


@route("GET", REPOSITORY + "/pulls/{number}/comments", PULLS + ":read")
def review_comments(request, repo, number):
    found = [repo["review_comments"][one] for one in pull_of(repo, number)["pull"]["comments"]]
    return request.page(found, lambda one: request.shapes.review_comment(repo, one))


@route("POST", REPOSITORY + "/pulls/{number}/comments", PULLS + ":write")
def make_review_comment(request, repo, number):
    issue, body = pull_of(repo, number), request.object("body", "commit_id", "path")
    checked = checked_comment(repo, issue["pull"], body)
    one = add_review_comment(request, repo, issue, checked, None, body["commit_id"])
    return Answer(request.shapes.review_comment(repo, one), 201)


@route("POST", REPOSITORY + "/pulls/{number}/comments/{comment}/replies", PULLS + ":write")
def reply(request, repo, number, comment):
    issue, first = pull_of(repo, number), review_comment_of(repo, comment)
    checked = {name: first[name] for name in ("hunk", "position", "path", "line", "side", "start_line")}
    one = add_review_comment(request, repo, issue, checked | {"body": request.object("body")["body"]}, None, first["commit"], first["id"])
    return Answer(request.shapes.review_comment(repo, one), 201)


@route("GET", REPOSITORY + "/pulls/{number}/reviews", PULLS + ":read")
def reviews(request, repo, number):
    issue = pull_of(repo, number)
    return request.page(issue["pull"]["reviews"], lambda one: request.shapes.review(repo, issue, one))


@route("POST", REPOSITORY + "/pulls/{number}/reviews", PULLS + ":write")
def make_review(request, repo, number):
    issue, body = pull_of(repo, number), request.object()
    pull, event = issue["pull"], body.get("event")
    if event not in (None, *STATES):
        raise invalid("PullRequestReview", "event")
    if event in ("APPROVE", "REQUEST_CHANGES") and issue["user"] == request.login:
        raise ApiError(422, "Unprocessable Entity", [f"Can not {event.lower().replace('_', ' ')} {'on ' if event == 'REQUEST_CHANGES' else ''}your own pull request"])
    if event in ("COMMENT", "REQUEST_CHANGES") and not body.get("body") and not (event == "COMMENT" and body.get("comments")):
        raise ApiError(422, "Unprocessable Entity", ["Body can't be blank"])
    commit = body.get("commit_id") or pull["head_sha"]
    if commit not in repo["git"].between(base_of(repo, pull), pull["head_sha"]):
        raise ApiError(422, "Unprocessable Entity", ["Commit is not part of the pull request"])
    checked = [checked_comment(repo, pull, one) for one in body.get("comments", [])]
    review = {
        "id": request.store.next_id(), "user": request.login, "body": checked_body(body.get("body") or "", "PullRequestReview"), "commit": commit,
        "state": STATES.get(event, "PENDING"), "submitted": stamp() if event else None,
    }
    pull["reviews"].append(review)
    for one in checked:
        add_review_comment(request, repo, issue, one, review["id"], commit)
    if event:
        request.store.emit("pull_request_review", {"action": "submitted", "issue": issue, "review": review, "sender": request.login}, repo)
    return Answer(request.shapes.review(repo, issue, review))


def review_of(issue, number):
    found = [one for one in issue["pull"]["reviews"] if str(one["id"]) == number]
    if not found:
        raise ApiError(404, "Not Found")
    return found[0]


@route("GET", REPOSITORY + "/pulls/{number}/reviews/{review}", PULLS + ":read")
def one_review(request, repo, number, review):
    issue = pull_of(repo, number)
    return Answer(request.shapes.review(repo, issue, review_of(issue, review)))


@route("PUT", REPOSITORY + "/pulls/{number}/reviews/{review}", PULLS + ":write")
def edit_review(request, repo, number, review):
    issue = pull_of(repo, number)
    one = review_of(issue, review)
    one["body"] = checked_body(request.object("body")["body"], "PullRequestReview")
    return Answer(request.shapes.review(repo, issue, one))


@route("GET", REPOSITORY + "/pulls/{number}/reviews/{review}/comments", PULLS + ":read")
def comments_of_review(request, repo, number, review):
    issue = pull_of(repo, number)
    found = [repo["review_comments"][one] for one in issue["pull"]["comments"]]
    wanted = [one for one in found if one["review"] == review_of(issue, review)["id"]]
    return request.page(wanted, lambda one: request.shapes.review_comment(repo, one))


def said_of_check(request, repo, one, body):
    output = body.get("output")
    if output is not None:
        one["output"] |= {name: output[name] for name in ("title", "summary", "text") if name in output}
        given = output.get("annotations", [])
        if len(given) > 50:
            raise ApiError(422, "Invalid request.\n\nNo more than 50 items are allowed.")
        one["annotations"] += given
    for name, at in (("name", "name"), ("details_url", "details"), ("external_id", "external"), ("started_at", "started")):
        if name in body:
            one[at] = body[name]
    if body.get("conclusion"):
        one |= {"status": "completed", "conclusion": body["conclusion"], "completed": body.get("completed_at", stamp())}
    elif "status" in body:
        if body["status"] == "completed":
            raise ApiError(422, "Invalid request.\n\nMissing conclusion.")
        one |= {"status": body["status"], "conclusion": None, "completed": None}
    action = "completed" if one["status"] == "completed" else "created"
    request.store.emit("check_run", {"action": action, "check": one, "sender": request.login}, repo)


@route("POST", REPOSITORY + "/check-runs", "checks:write")
def make_check(request, repo):
    if request.principal.kind != "installation":
        raise ApiError(403, "You must authenticate via a GitHub App.")
    body = request.object("name", "head_sha")
    if repo["git"].kind(body["head_sha"]) != "commit":
        raise ApiError(422, f"No commit found for SHA: {body['head_sha']}")
    one = {
        "id": request.store.next_id(), "sha": body["head_sha"], "name": body["name"], "status": "queued", "conclusion": None, "output": {},
        "annotations": [], "started": stamp(), "completed": None, "external": "", "details": None, "suite": request.store.next_id(),
    }
    said_of_check(request, repo, one, body)
    repo["checks"][one["id"]] = one
    return Answer(request.shapes.check(repo, one), 201)


def check_of(repo, number):
    found = repo["checks"].get(int(number) if number.isdigit() else -1)
    if found is None:
        raise ApiError(404, "Not Found")
    return found


@route("GET", REPOSITORY + "/check-runs/{number}", "checks:read")
def check(request, repo, number):
    return Answer(request.shapes.check(repo, check_of(repo, number)))


@route("PATCH", REPOSITORY + "/check-runs/{number}", "checks:write")
def edit_check(request, repo, number):
    one = check_of(repo, number)
    said_of_check(request, repo, one, request.object())
    return Answer(request.shapes.check(repo, one))


@route("GET", REPOSITORY + "/check-runs/{number}/annotations", "checks:read")
def annotations(request, repo, number):
    one = check_of(repo, number)
    empty = {"start_column": None, "end_column": None, "title": None, "raw_details": None}
    shape = lambda given: empty | given | {"blob_href": f"{request.shapes.at(repo)}/git/blobs/{one['sha']}"}
    return request.page(one["annotations"], shape)
