"""Issues, what is said on them, labels and reactions. Pull requests are issues here, as at GitHub."""

from .store import stamp
from .web import Answer, ApiError, invalid, route

REPOSITORY = "/repos/{owner}/{repo}"
EITHER = "issues|pull_requests"
CONTENTS = ("+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes")
BODY_MAX = 65_536


def issue_of(repo, number):
    found = repo["issues"].get(int(number) if number.isdigit() else -1)
    if found is None:
        raise ApiError(404, "Not Found")
    return found


def checked_body(body, resource):
    if body is not None and len(body) > BODY_MAX:
        raise invalid(resource, "body", "custom", "body is too long (maximum is 65536 characters)")
    return body


def tell(request, repo, issue, action, **more):
    event = "pull_request" if issue["pull"] else "issues"
    request.store.emit(event, {"action": action, "issue": issue, "sender": request.login} | more, repo)


def newest_first(request, items):
    key = {"created": "created", "updated": "updated"}.get(request.query.get("sort", "created"), "created")
    descending = request.query.get("direction", "desc") == "desc"
    return sorted(items, key=lambda one: (one[key], one["id"]), reverse=descending)


@route("GET", REPOSITORY + "/issues", EITHER + ":read")
def issues(request, repo):
    state, labels = request.query.get("state", "open"), [one for one in request.query.get("labels", "").lower().split(",") if one]
    creator = request.query.get("creator")
    fits = lambda one: (
        state in ("all", one["state"]) and all(label in [name.lower() for name in one["labels"]] for label in labels)
        and creator in (None, one["user"])
    )
    return request.page(newest_first(request, filter(fits, repo["issues"].values())), lambda one: request.shapes.issue(repo, one))


@route("POST", REPOSITORY + "/issues", "issues:write")
def make_issue(request, repo):
    body = request.object("title")
    issue = request.store.add_issue(repo, request.login, body["title"], checked_body(body.get("body"), "Issue"))
    issue["assignees"] = [login for login in body.get("assignees", []) if login in repo["people"]]
    tell(request, repo, issue, "opened")
    add_labels(request, repo, issue, [one if isinstance(one, str) else one["name"] for one in body.get("labels", [])])
    return Answer(request.shapes.issue(repo, issue), 201)


@route("GET", REPOSITORY + "/issues/comments", EITHER + ":read")
def all_comments(request, repo):
    since = request.query.get("since", "")
    found = [one for one in repo["comments"].values() if one["updated"] >= since]
    key, descending = request.query.get("sort", "created"), request.query.get("direction") == "desc"
    found.sort(key=lambda one: (one["updated" if key == "updated" else "created"], one["id"]), reverse=descending)
    return request.page(found, lambda one: request.shapes.comment(repo, one))


def comment_of(repo, number):
    found = repo["comments"].get(int(number) if number.isdigit() else -1)
    if found is None:
        raise ApiError(404, "Not Found")
    return found


@route("GET", REPOSITORY + "/issues/comments/{number}", EITHER + ":read")
def comment(request, repo, number):
    return Answer(request.shapes.comment(repo, comment_of(repo, number)))


def mine(request, repo, one):
    """Who may change what somebody wrote: its author, and who may push."""
    if one["user"] != request.login and not request.principal.may(repo, "contents", "write"):
        raise ApiError(403, "Must have admin rights to Repository.")


@route("PATCH", REPOSITORY + "/issues/comments/{number}", EITHER + ":write")
def edit_comment(request, repo, number):
    one, body = comment_of(repo, number), request.object("body")
    mine(request, repo, one)
    before, one["body"], one["updated"] = one["body"], checked_body(body["body"], "IssueComment"), stamp()
    issue = repo["issues"][one["issue"]]
    if before != one["body"]:
        request.store.emit("issue_comment", {"action": "edited", "issue": issue, "comment": one, "from": before, "sender": request.login}, repo)
    return Answer(request.shapes.comment(repo, one))


@route("DELETE", REPOSITORY + "/issues/comments/{number}", EITHER + ":write")
def delete_comment(request, repo, number):
    one = comment_of(repo, number)
    mine(request, repo, one)
    del repo["comments"][one["id"]]
    issue = repo["issues"][one["issue"]]
    issue["comments"].remove(one["id"])
    request.store.emit("issue_comment", {"action": "deleted", "issue": issue, "comment": one, "sender": request.login}, repo)
    return Answer(status=204)


def subject_of(repo, kind, number):
    """Where reactions are kept: `issue/7`, `comment/12`, `review/13`."""
    if kind == "issue":
        issue_of(repo, number)
    elif kind == "comment":
        comment_of(repo, number)
    elif int(number) not in repo["review_comments"]:
        raise ApiError(404, "Not Found")
    return repo["reactions"].setdefault(f"{kind}/{number}", [])


def reactions(kind, path, need):
    """Declares the three calls for reactions to one kind of thing."""

    @route("GET", REPOSITORY + path, need + ":read")
    def listed(request, repo, number):
        wanted = request.query.get("content")
        found = [one for one in subject_of(repo, kind, number) if wanted in (None, one["content"])]
        return request.page(found, request.shapes.reaction)

    @route("POST", REPOSITORY + path, need + ":write")
    def made(request, repo, number):
        content, given = request.object("content")["content"], subject_of(repo, kind, number)
        if content not in CONTENTS:
            raise invalid("Reaction", "content")
        for one in given:
            if (one["user"], one["content"]) == (request.login, content):
                return Answer(request.shapes.reaction(one))
        one = {"id": request.store.next_id(), "user": request.login, "content": content, "created": stamp()}
        given.append(one)
        return Answer(request.shapes.reaction(one), 201)

    @route("DELETE", REPOSITORY + path + "/{reaction}", need + ":write")
    def deleted(request, repo, number, reaction):
        given = subject_of(repo, kind, number)
        found = [one for one in given if str(one["id"]) == reaction and one["user"] == request.login]
        if not found:
            raise ApiError(404, "Not Found")
        given.remove(found[0])
        return Answer(status=204)


reactions("comment", "/issues/comments/{number}/reactions", EITHER)
reactions("issue", "/issues/{number}/reactions", EITHER)
reactions("review", "/pulls/comments/{number}/reactions", "pull_requests")


@route("GET", REPOSITORY + "/issues/{number}", EITHER + ":read")
def issue(request, repo, number):
    return Answer(request.shapes.issue(repo, issue_of(repo, number)))


@route("PATCH", REPOSITORY + "/issues/{number}", EITHER + ":write")
def edit_issue(request, repo, number):
    one, body = issue_of(repo, number), request.body or {}
    mine(request, repo, one)
    changed = {}
    for name in ("title", "body"):
        if name in body and body[name] != one[name]:
            changed[name] = {"from": one[name] or ""}
            one[name] = checked_body(body[name], "Issue")
    one["updated"] = stamp()
    if changed:
        tell(request, repo, one, "edited", changes=changed)
    if "labels" in body:
        wanted = [label if isinstance(label, str) else label["name"] for label in body["labels"]]
        for name in [name for name in one["labels"] if name.lower() not in [other.lower() for other in wanted]]:
            remove_label(request, repo, one, name)
        add_labels(request, repo, one, wanted)
    state = body.get("state", one["state"])
    if state != one["state"]:
        closed = state == "closed"
        one |= {"state": state, "closed": stamp() if closed else None, "closed_by": request.login if closed else None}
        one["reason"] = None if one["pull"] else body.get("state_reason", "completed") if closed else "reopened"
        tell(request, repo, one, "closed" if closed else "reopened")
    return Answer(request.shapes.issue(repo, one))


@route("GET", REPOSITORY + "/issues/{number}/comments", EITHER + ":read")
def comments(request, repo, number):
    since = request.query.get("since", "")
    found = [repo["comments"][one] for one in issue_of(repo, number)["comments"]]
    return request.page([one for one in found if one["updated"] >= since], lambda one: request.shapes.comment(repo, one))


@route("POST", REPOSITORY + "/issues/{number}/comments", EITHER + ":write")
def make_comment(request, repo, number):
    one, body = issue_of(repo, number), request.object("body")
    comment = request.store.add_comment(repo, one, request.login, checked_body(body["body"], "IssueComment"))
    request.store.emit("issue_comment", {"action": "created", "issue": one, "comment": comment, "sender": request.login}, repo)
    return Answer(request.shapes.comment(repo, comment), 201)


def add_labels(request, repo, issue, names):
    for name in names:
        if not 1 <= len(name) <= 50:
            raise invalid("Label", "name")
        label = request.store.label(repo, name)
        if label["name"] not in issue["labels"]:
            issue["labels"].append(label["name"])
            issue["updated"] = stamp()
            tell(request, repo, issue, "labeled", label=label["name"])


def remove_label(request, repo, issue, name):
    issue["labels"].remove(name)
    issue["updated"] = stamp()
    tell(request, repo, issue, "unlabeled", label=name)


def labels_of(request, repo, one):
    return Answer([request.shapes.label(repo, name) for name in one["labels"]])


@route("GET", REPOSITORY + "/issues/{number}/labels", EITHER + ":read")
def issue_labels(request, repo, number):
    return request.page(issue_of(repo, number)["labels"], lambda name: request.shapes.label(repo, name))


def wanted_labels(request):
    body = request.body
    names = body.get("labels", []) if isinstance(body, dict) else body or []
    return [one if isinstance(one, str) else one["name"] for one in names]


@route("POST", REPOSITORY + "/issues/{number}/labels", EITHER + ":write")
def label_issue(request, repo, number):
    one = issue_of(repo, number)
    add_labels(request, repo, one, wanted_labels(request))
    return labels_of(request, repo, one)


@route("PUT", REPOSITORY + "/issues/{number}/labels", EITHER + ":write")
def set_labels(request, repo, number):
    one, wanted = issue_of(repo, number), wanted_labels(request)
    for name in [name for name in one["labels"] if name.lower() not in [other.lower() for other in wanted]]:
        remove_label(request, repo, one, name)
    add_labels(request, repo, one, wanted)
    return labels_of(request, repo, one)


@route("DELETE", REPOSITORY + "/issues/{number}/labels/{name+}", EITHER + ":write")
def unlabel_issue(request, repo, number, name):
    one = issue_of(repo, number)
    found = [label for label in one["labels"] if label.lower() == name.lower()]
    if not found:
        raise ApiError(404, "Label does not exist")
    remove_label(request, repo, one, found[0])
    return labels_of(request, repo, one)


@route("GET", REPOSITORY + "/labels", EITHER + ":read")
def labels(request, repo):
    return request.page(sorted(repo["labels"]), lambda name: request.shapes.label(repo, name))


@route("POST", REPOSITORY + "/labels", EITHER + ":write")
def make_label(request, repo):
    body = request.object("name")
    if body["name"].lower() in repo["labels"]:
        raise invalid("Label", "name", "already_exists")
    request.store.label(repo, body["name"], body.get("color", "ededed"), body.get("description"))
    return Answer(request.shapes.label(repo, body["name"]), 201)


@route("GET", REPOSITORY + "/labels/{name+}", EITHER + ":read")
def label(request, repo, name):
    if name.lower() not in repo["labels"]:
        raise ApiError(404, "Not Found")
    return Answer(request.shapes.label(repo, name))
