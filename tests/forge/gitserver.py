#!/usr/bin/env python3
"""Git over smart HTTP, by `git http-backend`.

    GIT_TOKEN=t python3 gitserver.py <folder of bare repositories> <port>

The remote is `http://127.0.0.1:<port>/<owner>/<name>.git`, the user `x-access-token`, the password the token.
"""

import base64
import os
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BACKEND = os.path.join(subprocess.check_output(["git", "--exec-path"], text=True).strip(), "git-http-backend")


def body_into(handler, file):
    """Copies a request's body, whether it has a length or comes in chunks: git sends more than 1 MiB that way."""
    if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
        while size := int(handler.rfile.readline().split(b";")[0], 16):
            file.write(handler.rfile.read(size))
            handler.rfile.readline()
        while handler.rfile.readline().strip():
            pass
    else:
        left = int(handler.headers.get("Content-Length") or 0)
        while left > 0:
            piece = handler.rfile.read(min(left, 1 << 16))
            if not piece:
                raise ConnectionError("the body ended early")
            file.write(piece)
            left -= len(piece)


def password(header):
    """The password of a Basic `Authorization`, or None."""
    word, _, text = (header or "").partition(" ")
    if word.lower() != "basic":
        return None
    try:
        return base64.b64decode(text).decode().partition(":")[2]
    except ValueError:
        return None


class GitHandler(BaseHTTPRequestHandler):
    """One request. `allowed`, `before` and `after` are what a server of this hooks in."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    root = "."

    def allowed(self, token, path, writes):
        """The user's name; None for nobody."""
        wanted = os.environ.get("GIT_TOKEN")
        return "anonymous" if not wanted else "x-access-token" if token == wanted else None

    def before(self, path, writes):
        """Called ahead of git; what it returns goes to `after`."""

    def after(self, path, writes, user, seen):
        """Called when git is done, ahead of the answer."""

    def serve(self):
        path, _, query = self.path.partition("?")
        writes = "git-receive-pack" in (path + query)
        with tempfile.TemporaryFile() as body:
            body_into(self, body)
            size = body.tell()
            body.seek(0)
            user = self.allowed(password(self.headers.get("Authorization")), path, writes)
            if user is None:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="GitHub"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            seen = self.before(path, writes)
            environment = dict(
                os.environ, GIT_PROJECT_ROOT=self.root, GIT_HTTP_EXPORT_ALL="1", PATH_INFO=path, QUERY_STRING=query,
                REQUEST_METHOD=self.command, REMOTE_USER=user, REMOTE_ADDR=self.client_address[0],
                CONTENT_TYPE=self.headers.get("Content-Type", ""), CONTENT_LENGTH=str(size),
                GIT_PROTOCOL=self.headers.get("Git-Protocol", ""),
                HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding", ""),
            )
            done = subprocess.run([BACKEND], stdin=body, env=environment, capture_output=True)
        self.after(path, writes, user, seen)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = [line.partition(": ")[::2] for line in head.decode().split("\r\n") if line]
        status = next((int(value.split()[0]) for name, value in fields if name.lower() == "status"), 200)
        self.send_response(status if done.stdout else 500)
        for name, value in fields:
            if name.lower() != "status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        if done.stderr:
            sys.stderr.write(done.stderr.decode(errors="replace"))

    do_GET = do_POST = serve

    def log_message(self, *words):
        pass


def main():
    folder, port = os.path.abspath(sys.argv[1]), int(sys.argv[2])
    handler = type("Handler", (GitHandler,), {"root": folder})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
