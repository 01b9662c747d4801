"""The App, its installations and tokens; users and limits."""

from .store import LEVELS
from .web import Answer, ApiError, route


@route("GET", "/app", "app")
def app(request):
    return Answer(request.shapes.app())


@route("GET", "/app/installations", "app")
def installations(request):
    return request.page(list(request.store.installations.values()), request.shapes.installation)


def installation(request, text):
    found = request.store.installations.get(int(text) if text.isdigit() else -1)
    if found is None:
        raise ApiError(404, "Integration not found")
    return found


@route("GET", "/app/installations/{number}", "app")
def one_installation(request, number):
    return Answer(request.shapes.installation(installation(request, number)))


@route("GET", "/repos/{owner}/{repo}/installation", "app")
def repository_installation(request, repo):
    found = request.store.installation_of(repo)
    if found is None:
        raise ApiError(404, "Not Found")
    return Answer(request.shapes.installation(found))


@route("POST", "/app/installations/{number}/access_tokens", "app", content=False)
def access_token(request, number):
    """A token of the installation: never for more than the App has, nor for a repository that it is not installed in."""
    store, found, body = request.store, installation(request, number), request.body or {}
    granted = store.app["permissions"]
    wanted = body.get("permissions") or granted
    for area, level in wanted.items():
        if LEVELS[level] > LEVELS[granted.get(area)]:
            raise ApiError(422, "The permissions requested are not granted to this installation.")
    seen = [one for one in store.repositories.values() if one["owner"] == found["account"]]
    if found["repositories"] is not None:
        seen = [one for one in seen if one["id"] in found["repositories"]]
    chosen = None
    if "repositories" in body or "repository_ids" in body:
        names, ids = body.get("repositories", []), body.get("repository_ids", [])
        chosen = [one for one in seen if one["name"] in names or one["id"] in ids]
        if len(chosen) != len(names) + len(ids):
            raise ApiError(422, "There is at least one repository that does not exist or is not accessible to the parent installation.")
    permissions = {"metadata": "read", **wanted}
    limited = [one["id"] for one in chosen] if chosen is not None else found["repositories"]
    text, until = store.installation_token(found, limited, permissions)
    shape = {
        "token": text, "expires_at": until, "permissions": permissions,
        "repository_selection": "all" if limited is None else "selected",
    }
    if chosen is not None:
        shape["repositories"] = [request.shapes.repository(one) for one in chosen]
    return Answer(shape, 201)


@route("DELETE", "/installation/token", "user", content=False)
def revoke(request):
    word = request.headers.get("Authorization").split(" ")[1]
    if request.principal.kind != "installation":
        raise ApiError(403, "Resource not accessible by personal access token")
    del request.store.tokens[word]
    return Answer(status=204)


@route("GET", "/installation/repositories", "user")
def repositories(request):
    if request.principal.kind != "installation":
        raise ApiError(403, "You must authenticate with an installation access token in order to list repositories for an installation.")
    seen = [one for one in request.store.repositories.values() if request.principal.sees(one)]
    answer = request.page(seen, lambda one: request.shapes.repository(one, request.principal))
    answer.body = {"total_count": len(seen), "repositories": answer.body}
    return answer


@route("GET", "/user", "user")
def user(request):
    if request.principal.kind == "installation":
        raise ApiError(403, "Resource not accessible by integration")
    return Answer(request.shapes.private_user(request.login))


@route("GET", "/users/{login}")
def any_user(request, login):
    if login not in request.store.users:
        raise ApiError(404, "Not Found")
    return Answer(request.shapes.whole_user(login))


@route("GET", "/rate_limit")
def rate_limit(request):
    limits = request.stub.limits
    key = request.principal.key if request.principal else None
    _, used = limits.used.get(key, (0, 0))
    one = {"limit": limits.primary, "used": used, "remaining": max(limits.primary - used, 0), "reset": 0}
    return Answer({"resources": {"core": one, "search": one | {"limit": 30, "remaining": 30, "used": 0}}, "rate": one})


@route("GET", "/app/hook/deliveries", "app")
def deliveries(request):
    sent = [one for one in reversed(request.stub.hooks.sent) if one["installation"]]
    shape = lambda one: {
        name: one[name] for name in ("id", "guid", "delivered_at", "redelivery", "duration", "status", "status_code", "event", "action")
    } | {"installation_id": one["installation"], "repository_id": one["repository"]}
    size = min(max(int(request.query.get("per_page", 30)), 1), 100)
    begin = int(request.query.get("cursor", "v1_0").removeprefix("v1_"))
    following = f'<{request.store.api}/app/hook/deliveries?per_page={size}&cursor=v1_{begin + size}>; rel="next"'
    headers = {"Link": following} if begin + size < len(sent) else {}
    return Answer([shape(one) for one in sent[begin : begin + size]], headers=headers)


@route("POST", "/app/hook/deliveries/{number}/attempts", "app", content=False)
def redeliver(request, number):
    if not request.stub.hooks.again(int(number)):
        raise ApiError(404, "Not Found")
    return Answer({}, 202)


