"""The stub's HTTP: routes, who asks, limits, faults, pages and the log of all requests."""

import hashlib
import json
import re
import secrets
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlencode

from .faults import Dropped
from .limits import WORDS

DOCS = "https://docs.github.com/rest"
ROUTES = []


class ApiError(Exception):
    """An answer that is not what was asked for."""

    def __init__(self, status, message, errors=None, headers=None):
        self.status, self.headers = status, headers or {}
        self.body = {"message": message, "documentation_url": DOCS, "status": str(status)}
        if errors is not None:
            self.body["errors"] = errors


def invalid(resource, field, code="invalid", message=None):
    """422 in the words of GitHub's validation."""
    error = {"resource": resource, "field": field, "code": code} | ({"message": message} if message else {})
    return ApiError(422, "Validation Failed", [error])


class Answer:
    """Status, JSON (or bytes) and more headers."""

    def __init__(self, body=None, status=200, headers=None):
        self.body, self.status, self.headers = body, status, headers or {}


def route(method, path, need=None, content=None):
    """Declares a handler. `need` is `area:level` for the repository in the path, or `app`, `user`; `content` whether it counts as a
    write of content: all writes do but those of the Git database and of tokens. `{name+}` takes slashes too."""
    pattern = re.compile(re.sub(r"\{(\w+)(\+?)\}", lambda found: f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})", path) + "$")
    counted = method != "GET" if content is None else content

    def declare(function):
        ROUTES.append((method, pattern, path, need, counted, function))
        return function

    return declare


class Request:
    """A request as handlers see it."""

    def __init__(self, stub, principal, method, path, query, headers, body):
        self.stub, self.store, self.shapes, self.principal = stub, stub.store, stub.shapes, principal
        self.method, self.path, self.query, self.headers, self.body = method, path, query, headers, body
        self.login = principal.login if principal else None

    def object(self, *required):
        """The body as an object that has these members."""
        if not isinstance(self.body, dict):
            raise ApiError(400, "Problems parsing JSON")
        for name in required:
            if self.body.get(name) in (None, ""):
                raise invalid("Request", name, "missing_field")
        return self.body

    def page(self, items, shape):
        """One page of a list, with its Link header."""
        size = min(max(int(self.query.get("per_page", 30)), 1), 100)
        number = max(int(self.query.get("page", 1)), 1)
        last = max((len(items) + size - 1) // size, 1)
        links = []
        for rel, wanted, shown in (
            ("prev", number - 1, number > 1), ("next", number + 1, number < last), ("last", last, number < last),
            ("first", 1, number > 1),
        ):
            if shown:
                query = urlencode(self.query | {"per_page": size, "page": wanted})
                links.append(f'<{self.store.api}{self.path}?{query}>; rel="{rel}"')
        headers = {"Link": ", ".join(links)} if links else {}
        return Answer([shape(one) for one in items[(number - 1) * size : number * size]], headers=headers)


class Stub:
    """Everything behind the server."""

    def __init__(self, store, shapes, limits, faults, verify):
        self.store, self.shapes, self.limits, self.faults, self.verify = store, shapes, limits, faults, verify
        self.log, self.counter, self.log_lock, self.admin = [], 0, threading.Lock(), None

    def principal(self, header):
        """Who asks, by `Authorization`."""
        word, _, text = (header or "").partition(" ")
        if not header:
            return None
        if word.lower() not in ("bearer", "token") or not text:
            raise ApiError(401, "Bad credentials")
        found = self.verify(self.store, text) if text.count(".") == 2 else self.store.principal(text)
        if found is None:
            raise ApiError(401, "Bad credentials")
        return found

    def carry_out(self, request, method, raw):
        """Finds the handler and asks it. Returns (answer, template)."""
        known = False
        for wanted, pattern, template, need, _, function in ROUTES:
            found = pattern.match(raw)
            if not found:
                continue
            known = True
            if wanted != method:
                continue
            words = {name: unquote(value) for name, value in found.groupdict().items()}
            if template.startswith("/repos/{owner}/{repo}"):
                words["repo"] = self.repository(request, words.pop("owner"), words["repo"], need)
            elif need == "app" and (request.principal is None or request.principal.kind != "app"):
                raise ApiError(401, "A JSON web token could not be decoded")
            elif need == "user" and (request.principal is None or request.principal.kind == "app"):
                raise ApiError(401, "Requires authentication")
            return function(request, **words), template
        raise ApiError(405 if known else 404, "Not Found")

    def repository(self, request, owner, name, need):
        """The repository, where the asker sees it and may do what the route needs."""
        found, asker = self.store.repositories.get(f"{owner}/{name}".lower()), request.principal
        if need == "app":
            if asker is None or asker.kind != "app":
                raise ApiError(401, "A JSON web token could not be decoded")
            if found is None:
                raise ApiError(404, "Not Found")
            return found
        if found is None or (found["private"] and (asker is None or not asker.sees(found))):
            raise ApiError(404, "Not Found")
        if asker is not None and not asker.sees(found):
            raise ApiError(403, "Resource not accessible by integration")
        if need:
            areas, _, level = need.partition(":")
            if asker is None:
                if level != "read":
                    raise ApiError(401, "Requires authentication")
            elif not any(asker.may(found, area, level) for area in areas.split("|")):
                if asker.kind == "installation":
                    raise ApiError(403, "Resource not accessible by integration", headers={"X-Accepted-GitHub-Permissions": f"{areas}={level}"})
                raise ApiError(403, "Must have push access to the repository" if level == "write" else "Forbidden")
        return found


def found(method, raw):
    """The template of the route that a request takes, and whether it counts as a write of content."""
    for wanted, pattern, template, _, counted, _ in ROUTES:
        if wanted == method and pattern.match(raw):
            return template, counted
    return None, False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    stub = None

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status, body, headers):
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        fields = {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(data))} | headers
        if status in (204, 304):
            data = b""
            del fields["Content-Type"], fields["Content-Length"]
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def handle_one(self):
        raw, _, query = self.path.partition("?")
        data = self.read_body()
        if raw.startswith("/_admin/"):
            return self.admin(raw, query, data)
        stub, method = self.stub, self.command
        entry = {
            "at": time.time(), "method": method, "path": raw, "query": query, "template": None, "status": None, "by": None,
            "refused": None, "request": f"{secrets.token_hex(2)}:{secrets.token_hex(8)}".upper(), "agent": self.headers.get("User-Agent"),
        }
        with stub.log_lock:
            stub.counter += 1
            entry["n"] = stub.counter
            stub.log.append(entry)
        try:
            status, body, headers = self.dispatch(entry, method, raw, query, data)
        except Dropped:
            entry["status"] = "dropped"
            self.close_connection = True
            return None
        entry["status"] = status
        entry["ms"] = round((time.time() - entry["at"]) * 1000, 1)
        headers = {"X-GitHub-Request-Id": entry["request"], "X-GitHub-Media-Type": "github.v3; format=json"} | headers
        return self.answer(status, body, headers)

    def dispatch(self, entry, method, raw, query, data):
        stub, limit = self.stub, {}
        try:
            fault = stub.faults.take(method, raw, found(method, raw)[0])
            if stands_in := stub.faults.before(fault, method, raw):
                status, headers, body = stands_in
                return status, body if body is not None else {"message": "Server Error"}, headers
            if not self.headers.get("User-Agent"):
                raise ApiError(403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header")
            principal = stub.principal(self.headers.get("Authorization"))
            entry["by"] = key = principal.key if principal else f"address/{self.client_address[0]}"
            try:
                body = json.loads(data) if data else None
            except ValueError:
                raise ApiError(400, "Problems parsing JSON") from None
            entry["body"] = body if len(data) <= 1 << 16 else None
            with stub.store.lock:
                most, used, resets = stub.limits.spent(key)
                limit = {
                    "X-RateLimit-Limit": str(most), "X-RateLimit-Remaining": str(max(most - used, 0)), "X-RateLimit-Used": str(min(used, most)),
                    "X-RateLimit-Reset": str(resets), "X-RateLimit-Resource": "core",
                }
                if used > most:
                    entry["refused"] = "primary"
                    raise ApiError(403, f"API rate limit exceeded for {key.replace('/', ' ID ')}. If you reach out to GitHub Support for help, please include the request ID {entry['request']}.")
                _, content = found(method, raw)
                entry["content"] = content
                away = stub.limits.secondary(key, content, 1 if method == "GET" else 5)
                if away is not None:
                    entry["refused"] = "secondary"
                    raise ApiError(403, WORDS.format(id=entry["request"]), headers={"Retry-After": str(away)})
                request = Request(stub, principal, method, raw, dict(parse_qsl(query)), self.headers, body)
                answer, entry["template"] = stub.carry_out(request, method, raw)
            stub.faults.after(fault, method, raw)
            status, data, headers = self.fresh(answer, limit)
            if status == 304 and principal is not None:
                # Who had it already has spent nothing.
                with stub.store.lock:
                    used = stub.limits.give_back(key)
                headers |= {"X-RateLimit-Remaining": str(max(most - used, 0)), "X-RateLimit-Used": str(min(used, most))}
            return status, data, headers
        except ApiError as error:
            return error.status, error.body, limit | error.headers
        except (Dropped, ConnectionError):
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return 500, {"message": f"the stub failed: {error!r}"}, limit

    def fresh(self, answer, limit):
        """The answer, or 304 where the asker has it already."""
        headers = limit | answer.headers
        if self.command == "GET" and answer.status == 200:
            data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            tag = f'W/"{hashlib.sha256(data).hexdigest()}"'
            if self.headers.get("If-None-Match") == tag:
                return 304, None, headers | {"ETag": tag}
            return 200, data, headers | {"ETag": tag}
        return answer.status, answer.body, headers

    def admin(self, raw, query, data):
        try:
            body = self.stub.admin.carry_out(self.command, raw.removeprefix("/_admin/"), dict(parse_qsl(query)), json.loads(data) if data else {})
            return self.answer(200, body, {})
        except ApiError as error:
            return self.answer(error.status, error.body, {})
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return self.answer(400, {"message": repr(error)}, {})

    def serve(self):
        try:
            self.handle_one()
        except ConnectionError:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def log_message(self, *words):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request, address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, address)


def server(stub, port):
    """A server on loopback; port 0 is one that is free."""
    return Server(("127.0.0.1", port), type("StubHandler", (Handler,), {"stub": stub}))
