#!/usr/bin/env python3
"""A scripted model server: the fixtures of aimock, in the dialects of OpenAI, Anthropic and Ollama, with nothing but the standard library.

    python3 models.py --fixtures FOLDER [--port 0] [--upstream URL]

Prints one line of JSON with its address. With `--upstream` it answers nothing itself and passes everything on, such as to aimock, so that
requests can be held on their way. `GET /__aimock/journal` is aimock's journal; `/_admin/{fault,held,release,clear}` are as in the stub.

Of aimock's fixtures it knows: match by userMessage, systemMessage (one or all of several), model, hasToolResult, sequenceIndex; responses with
content, toolCalls, usage, or error with status and retryAfter; latency, chunkSize and truncateAfterChunks beside them.
"""

import argparse
import glob
import http.client
import json
import os
import secrets
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from stub.faults import Dropped, Faults  # noqa: E402
from stub.web import Server  # noqa: E402

KNOWN = {"userMessage", "systemMessage", "model", "hasToolResult", "sequenceIndex"}


def text_of(content):
    if isinstance(content, list):
        return "".join(one.get("text", "") for one in content if one.get("type", "text") == "text")
    return content or ""


class Asked:
    """A request, in whichever dialect it came."""

    def __init__(self, dialect, body):
        self.dialect, self.model, self.stream = dialect, body.get("model", ""), body.get("stream", dialect == "ollama")
        messages = body.get("messages", [])
        system = [text_of(one["content"]) for one in messages if one["role"] in ("system", "developer")]
        self.system = "\n".join(([text_of(body["system"])] if body.get("system") else []) + system)
        # A tool's output is a message of the user in Anthropic's dialect, and of a tool in the others.
        is_tool = lambda one: one["role"] == "tool" or (
            isinstance(one["content"], list) and any(part.get("type") == "tool_result" for part in one["content"])
        )
        users = [at for at, one in enumerate(messages) if one["role"] == "user" and not is_tool(one)]
        self.user = text_of(messages[users[-1]]["content"]) if users else ""
        self.has_tool_result = any(is_tool(one) for one in messages[(users[-1] + 1 if users else 0):])


class Fixtures:
    def __init__(self, folder):
        self.all, self.met, self.lock = [], {}, threading.Lock()
        for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
            with open(path) as file:
                self.all += json.load(file)["fixtures"]
        for one in self.all:
            if unknown := one["match"].keys() - KNOWN:
                raise SystemExit(f"a fixture matches by {sorted(unknown)}; known: {sorted(KNOWN)}")

    def find(self, asked):
        """The first that fits; those that count occurrences count what fits them otherwise."""
        with self.lock:
            counted = set()
            chosen = None
            for one in self.all:
                match = one["match"]
                system = match.get("systemMessage", [])
                wanted = [system] if isinstance(system, str) else system
                fits = (
                    match.get("userMessage", "") in asked.user and all(part in asked.system for part in wanted)
                    and match.get("model", asked.model) == asked.model
                    and match.get("hasToolResult", asked.has_tool_result) == asked.has_tool_result
                )
                if not fits:
                    continue
                key = json.dumps({name: value for name, value in match.items() if name != "sequenceIndex"}, sort_keys=True)
                if chosen is None and match.get("sequenceIndex", self.met.get(key, 0)) == self.met.get(key, 0):
                    chosen = one
                counted.add(key)
                if chosen is not None:
                    break
            for key in counted:
                self.met[key] = self.met.get(key, 0) + 1
            return chosen


def pieces(text, size):
    return [text[at : at + size] for at in range(0, len(text), size)] or [""]


def sse(value, event=None):
    return (f"event: {event}\n" if event else "") + f"data: {json.dumps(value)}\n\n"


def openai(asked, answer, usage, size):
    """Chunks of a stream, or one document."""
    calls = answer.get("toolCalls", [])
    reason = answer.get("finishReason") or ("tool_calls" if calls else "stop")
    counted = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    base = {"id": "chatcmpl-" + secrets.token_hex(8), "created": int(time.time()), "model": asked.model}
    made = [
        {"id": f"call_{secrets.token_hex(8)}", "type": "function", "function": {"name": one["name"], "arguments": one["arguments"]}}
        for one in calls
    ]
    if not asked.stream:
        message = {"role": "assistant", "content": answer.get("content"), "refusal": None} | ({"tool_calls": made} if made else {})
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return [json.dumps(base | {"object": "chat.completion", "choices": [choice], "usage": counted})]
    chunk = lambda delta, reason=None: sse(
        base | {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}], "usage": None}
    )
    chunks = [chunk({"role": "assistant", "content": None if made else ""})]
    if answer.get("content"):
        chunks += [chunk({"content": piece}) for piece in pieces(answer["content"], size)]
    for at, one in enumerate(made):
        chunks.append(chunk({"tool_calls": [one | {"index": at, "function": {"name": one["function"]["name"], "arguments": ""}}]}))
        chunks += [
            chunk({"tool_calls": [{"index": at, "function": {"arguments": piece}}]}) for piece in pieces(one["function"]["arguments"], size)
        ]
    return chunks + [chunk({}, reason), sse(base | {"object": "chat.completion.chunk", "choices": [], "usage": counted}), "data: [DONE]\n\n"]


def anthropic(asked, answer, usage, size):
    calls = answer.get("toolCalls", [])
    reason = {"length": "max_tokens", "content_filter": "refusal"}.get(answer.get("finishReason"), "tool_use" if calls else "end_turn")
    blocks = [{"type": "text", "text": answer["content"]}] if answer.get("content") else []
    blocks += [{"type": "tool_use", "id": f"toolu_{secrets.token_hex(8)}", "name": one["name"], "input": json.loads(one["arguments"])} for one in calls]
    message = {"id": "msg_" + secrets.token_hex(8), "type": "message", "role": "assistant", "model": asked.model, "stop_sequence": None}
    if not asked.stream:
        counted = {"input_tokens": usage[0], "output_tokens": usage[1]}
        return [json.dumps(message | {"content": blocks, "stop_reason": reason, "usage": counted})]
    event = lambda value: sse(value, value["type"])
    begun = message | {"content": [], "stop_reason": None, "usage": {"input_tokens": usage[0], "output_tokens": 1}}
    chunks = [event({"type": "message_start", "message": begun}), event({"type": "ping"})]
    for at, block in enumerate(blocks):
        is_text = block["type"] == "text"
        empty = block | ({"text": ""} if is_text else {"input": {}})
        chunks.append(event({"type": "content_block_start", "index": at, "content_block": empty}))
        text = block["text"] if is_text else json.dumps(block["input"])
        delta = (lambda piece: {"type": "text_delta", "text": piece}) if is_text else (lambda piece: {"type": "input_json_delta", "partial_json": piece})
        chunks += [event({"type": "content_block_delta", "index": at, "delta": delta(piece)}) for piece in pieces(text, size)]
        chunks.append(event({"type": "content_block_stop", "index": at}))
    stop = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": usage[1]}}
    return chunks + [event(stop), event({"type": "message_stop"})]


def ollama(asked, answer, usage, size):
    base = {"model": asked.model, "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    calls = [{"function": {"name": one["name"], "arguments": json.loads(one["arguments"])}} for one in answer.get("toolCalls", [])]
    said = lambda text, more=None: {"message": {"role": "assistant", "content": text} | (more or {})}
    done = {
        "done": True, "done_reason": answer.get("finishReason", "stop"), "total_duration": 1, "load_duration": 1, "prompt_eval_count": usage[0],
        "prompt_eval_duration": 1, "eval_count": usage[1], "eval_duration": 1,
    }
    tools = {"tool_calls": calls} if calls else {}
    if not asked.stream:
        return [json.dumps(base | said(answer.get("content") or "", tools) | done)]
    lines = [base | said(piece) | {"done": False} for piece in pieces(answer.get("content") or "", size)]
    if calls:
        lines.append(base | said("", tools) | {"done": False})
    return [json.dumps(line) + "\n" for line in [*lines, base | said("") | done]]


PATHS = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic", "/api/chat": "ollama"}
WRITERS = {"openai": openai, "anthropic": anthropic, "ollama": ollama}
STREAMS = {"openai": "text/event-stream", "anthropic": "text/event-stream", "ollama": "application/x-ndjson"}


def refusal(dialect, status, error):
    """An error in the words of the dialect."""
    if dialect == "ollama":
        return {"error": error["message"]}
    if dialect == "anthropic":
        return {"type": "error", "error": {"type": error.get("type", "api_error"), "message": error["message"]}, "request_id": "req_1"}
    return {"error": {"message": error["message"], "type": error.get("type", "server_error"), "param": None, "code": error.get("code")}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    fixtures, faults, journal, upstream = None, Faults(), [], None

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(data)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def whole(self, status, value, headers=None):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def begin(self, status, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def admin(self, name, data):
        body = json.loads(data) if data else {}
        if name == "fault":
            return self.whole(200, {"id": self.faults.add(body)})
        if name == "release":
            self.faults.release(int(body["id"]), body.get("drop", True))
        elif name == "clear":
            self.faults.clear()
        elif name == "held":
            return self.whole(200, {str(number): what for number, (_, what) in list(self.faults.held.items())})
        return self.whole(200, {})

    def handle_one(self):
        path, data = self.path.partition("?")[0], self.read_body()
        if path.startswith("/_admin/"):
            return self.admin(path.removeprefix("/_admin/"), data)
        if path == "/__aimock/journal" and self.upstream is None:
            return self.whole(200, self.journal)
        fault = self.faults.take(self.command, path)
        if stands_in := self.faults.before(fault, self.command, path):
            status, headers, body = stands_in
            return self.whole(status, body or {"error": {"message": "fault", "type": "server_error", "param": None, "code": None}}, headers)
        if self.upstream:
            return self.pass_on(fault, path, data)
        if path not in PATHS:
            return self.whole(200 if path == "/v1/models" else 404, {"object": "list", "data": []})
        body = json.loads(data)
        asked = Asked(PATHS[path], body)
        fixture = self.fixtures.find(asked)
        entry = {"timestamp": int(time.time() * 1000), "method": "POST", "path": path, "body": body, "response": {"status": 200, "fixture": fixture}}
        self.journal.append(entry)
        if fixture is None or "error" in fixture["response"]:
            error = fixture["response"] if fixture else {"status": 503, "error": {"message": f"no fixture matches: {asked.user[:200]}"}}
            entry["response"]["status"] = error["status"]
            headers = {"Retry-After": str(error["retryAfter"])} if "retryAfter" in error else {}
            return self.whole(error["status"], refusal(asked.dialect, error["status"], error["error"]), headers)
        return self.speak(asked, fixture, fault, path)

    def speak(self, asked, fixture, fault, path):
        answer = fixture["response"]
        usage = answer.get("usage") or {"input_tokens": 1, "output_tokens": 1}
        chunks = WRITERS[asked.dialect](asked, answer, (usage["input_tokens"], usage["output_tokens"]), fixture.get("chunkSize", 200))
        latency, most = fixture.get("latency", 0) / 1000, fixture.get("truncateAfterChunks")
        if not asked.stream:
            time.sleep(latency)
            self.faults.after(fault, self.command, path)
            return self.whole(200, chunks[0].encode())
        self.begin(200, STREAMS[asked.dialect])
        for at, one in enumerate(chunks):
            time.sleep(latency)
            if most is not None and at >= most:
                raise Dropped
            if at == len(chunks) - 1:
                self.faults.after(fault, self.command, path)
            self.chunk(one.encode())
        self.wfile.write(b"0\r\n\r\n")

    def pass_on(self, fault, path, data):
        target = urlsplit(self.upstream)
        connection = http.client.HTTPConnection(target.hostname, target.port, timeout=60)
        drop = ("host", "connection", "transfer-encoding", "content-length", "keep-alive")
        headers = {name: text for name, text in self.headers.items() if name.lower() not in drop}
        try:
            connection.request(self.command, self.path, data or None, headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, text in answer.getheaders():
                if name.lower() not in drop:
                    self.send_header(name, text)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            before = None
            try:
                while piece := answer.read1(1 << 16):
                    if before is not None:
                        self.chunk(before)
                    before = piece
            except (http.client.IncompleteRead, ConnectionError):
                # Cut on the way: what came before that goes on.
                if before is not None:
                    self.chunk(before)
                raise Dropped from None
            self.faults.after(fault, self.command, path)
            if before is not None:
                self.chunk(before)
            self.wfile.write(b"0\r\n\r\n")
        except http.client.HTTPException:
            # Cut on the way: cut here too.
            raise Dropped from None
        finally:
            connection.close()

    def serve(self):
        try:
            self.handle_one()
        except (Dropped, ConnectionError):
            self.close_connection = True

    do_GET = do_POST = serve

    def log_message(self, *words):
        pass


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fixtures")
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--upstream")
    given = options.parse_args()
    Handler.fixtures = Fixtures(given.fixtures) if given.fixtures else None
    Handler.upstream = given.upstream
    one = Server(("127.0.0.1", given.port), Handler)
    print(json.dumps({"models": f"http://127.0.0.1:{one.server_address[1]}"}), flush=True)
    one.serve_forever()


if __name__ == "__main__":
    main()
