#!/usr/bin/env python3
"""A stand-in for GitHub on loopback: the REST API, webhooks, and git over smart HTTP, all of the same bare repositories.

    python3 github.py --folder DIR [--port 0] [--git-port 0] [--scale 1] [--api-url URL]

Prints one line of JSON with the addresses once it listens. `stub/admin.py` says how tests set it up and look at it.
"""

import argparse
import json
import os
import sys
import threading
from http.server import ThreadingHTTPServer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import gitserver
from stub import api_app, api_issues, api_pulls, api_repository  # noqa: F401  (they declare routes)
from stub.admin import Admin
from stub.app_token import verified
from stub.faults import Dropped, Faults
from stub.hooks import Hooks
from stub.limits import Limits
from stub.shapes import Shapes
from stub.store import Store
from stub.web import Stub, server


def git_handler(stub):
    """Pushes and fetches by the same tokens, and with the same faults as the API."""

    class Handler(gitserver.GitHandler):
        root = stub.store.folder

        def repository(self, path):
            parts = path.strip("/").split("/")
            return stub.store.repositories.get("/".join(parts[:2]).removesuffix(".git").lower()) if len(parts) > 2 else None

        def allowed(self, token, path, writes):
            asker, found = stub.store.principal(token or ""), self.repository(path)
            if asker is None or found is None or not asker.sees(found):
                return None
            return asker.login if asker.may(found, "contents", "write" if writes else "read") else None

        def before(self, path, writes):
            self.fault = stub.faults.take("GIT", path, "git")
            stub.faults.before(self.fault, "GIT", path)
            with stub.log_lock:
                stub.counter += 1
                entry = {"n": stub.counter, "method": "GIT", "path": path, "query": self.path.partition("?")[2], "template": "git", "status": 200}
                stub.log.append(entry | {"refused": None, "by": None, "content": False})
            return self.repository(path)["git"].refs("refs/heads/") if writes else None

        def after(self, path, writes, user, seen):
            if writes:
                with stub.store.lock:
                    repository = self.repository(path)
                    now = repository["git"].refs("refs/heads/")
                    for name in sorted(seen.keys() | now.keys()):
                        if seen.get(name) != now.get(name):
                            stub.store.moved(repository, name, seen.get(name), now.get(name), user)
            stub.faults.after(self.fault, "GIT", path)

        def serve(self):
            try:
                super().serve()
            except (Dropped, ConnectionError):
                self.close_connection = True

        do_GET = do_POST = serve

    return Handler


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", required=True, help="where the bare repositories are")
    options.add_argument("--port", type=int, default=0, help="of the API")
    options.add_argument("--git-port", type=int, default=0)
    options.add_argument("--scale", type=float, default=1.0, help="how many times faster the windows of the limits pass")
    options.add_argument("--primary", type=int, default=5000, help="requests an hour")
    options.add_argument("--api-url", help="the API's address in answers, where something stands in front of it")
    options.add_argument("--web-url", default="https://github.com")
    given = options.parse_args()
    store = Store(os.path.abspath(given.folder), "", given.web_url, "")
    shapes = Shapes(store)
    stub = Stub(store, shapes, Limits(given.scale, given.primary), Faults(), verified)
    stub.hooks = Hooks(store, shapes)
    store.emit = stub.hooks.emit
    stub.admin = Admin(stub)
    api = server(stub, given.port)
    git = ThreadingHTTPServer(("127.0.0.1", given.git_port), git_handler(stub))
    git.daemon_threads = True
    address = f"http://127.0.0.1:{api.server_address[1]}"
    store.api, store.git = given.api_url or address, f"http://127.0.0.1:{git.server_address[1]}"
    threading.Thread(target=git.serve_forever, daemon=True).start()
    print(json.dumps({"api": store.api, "stub": address, "git": store.git}), flush=True)
    api.serve_forever()


if __name__ == "__main__":
    main()
