#!/usr/bin/env python3
"""Asks `models.py` and aimock the same, in all dialects, and wants the same text, tool calls and counts from both.

    python3 check_models.py <folder with node_modules>

Ollama's counts are left out: aimock's are always 0 there.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from check import free_port  # noqa: E402

CASES = [
    ("You are security-general, one", "Whole weeks"), ("You are code-review-general, one", "Whole weeks"),
    ("You are security-general, one", "Whole weeks (limited)"), ("You are security-general, one", "Whole weeks (limited)"),
    ("You are architecture-general, one", "Whole weeks (unfit)"), ("You are architecture-general, one", "does not fit the schema"),
    ("Your task: write a plan for the issue", "Sundays"), ("Your task: fix the issue", "Sundays"), ("You are nobody", "x"),
    ("You are security-general, one", "Whole weeks (cut)"), ("You are architecture-general, one", "Whole weeks (cut)"),
    ("You are security-general, one", "Whole weeks (limited for long)"), ("You are architecture-general, one", "Whole weeks (limited)"),
]


def bodies(system, user, stream):
    messages = [{"role": "user", "content": user}]
    with_system = [{"role": "system", "content": system}, *messages]
    yield "/v1/chat/completions", {"model": "m", "messages": with_system, "stream": stream} | ({"stream_options": {"include_usage": True}} if stream else {})
    yield "/v1/messages", {"model": "m", "max_tokens": 99, "system": system, "messages": messages, "stream": stream}
    yield "/api/chat", {"model": "m", "messages": with_system, "stream": stream}


def ask(port, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    try:
        return answer.status, answer.getheader("Retry-After"), answer.read().decode()
    except http.client.IncompleteRead:
        return "cut", None, ""
    finally:
        connection.close()


def heard(path, stream, text):
    """(text, calls, counts) of an answer."""
    said, calls, counts = "", {}, [0, 0]
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith(("data: {", "{"))] if stream else [text]
    for at, one in enumerate(json.loads(line) for line in lines):
        if path == "/api/chat":
            said += one["message"].get("content") or ""
            for call in one["message"].get("tool_calls") or []:
                calls[at] = (call["function"]["name"], json.dumps(call["function"]["arguments"]))
        elif path == "/v1/messages":
            for block in one.get("content", []):
                said += block.get("text", "")
                if block["type"] == "tool_use":
                    calls[len(calls)] = (block["name"], json.dumps(block["input"]))
            if one["type"] == "content_block_start" and one["content_block"]["type"] == "tool_use":
                calls[one["index"]] = (one["content_block"]["name"], "")
            if one["type"] == "content_block_delta":
                said += one["delta"].get("text", "")
                if "partial_json" in one["delta"]:
                    name, arguments = calls[one["index"]]
                    calls[one["index"]] = (name, arguments + one["delta"]["partial_json"])
            usage = one.get("usage") or one.get("message", {}).get("usage") or {}
            counts = [usage.get("input_tokens", counts[0]), usage.get("output_tokens", counts[1])]
        else:
            for choice in one.get("choices", []):
                part = choice.get("delta") or choice.get("message") or {}
                said += part.get("content") or ""
                for number, call in enumerate(part.get("tool_calls") or []):
                    name, arguments = calls.get(call.get("index", number), ("", ""))
                    function = call["function"]
                    calls[call.get("index", number)] = (name or function.get("name", ""), arguments + function.get("arguments", ""))
            if one.get("usage"):
                counts = [one["usage"]["prompt_tokens"], one["usage"]["completion_tokens"]]
    same = [(name, json.loads(arguments)) for name, arguments in calls.values()]
    return said, same, counts if path != "/api/chat" else None


def main():
    node = os.path.abspath(sys.argv[1])
    ours, theirs, checked = free_port(), free_port(), 0
    fixtures = os.path.join(HERE, "fixtures")
    with tempfile.TemporaryFile() as log:
        aimock = ["node", os.path.join(node, "node_modules/@copilotkit/aimock/dist/cli.js"), "-p", str(theirs), "-f", fixtures, "--strict"]
        scripted = [sys.executable, "-B", os.path.join(HERE, "models.py"), "--fixtures", fixtures, "--port", str(ours)]
        processes = [subprocess.Popen(words, stdout=log, stderr=log) for words in (aimock, scripted)]
        try:
            for port in (ours, theirs):
                for _ in range(300):
                    try:
                        ask(port, "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "nothing"}]})
                        break
                    except OSError:
                        time.sleep(0.1)
            for stream in (False, True):
                for system, user in CASES:
                    for path, body in bodies(system, user, stream):
                        mine, other = ask(ours, path, body), ask(theirs, path, body)
                        if mine[0] == 200 and other[0] == 200:
                            mine, other = heard(path, stream, mine[2]), heard(path, stream, other[2])
                        else:
                            mine, other = mine[:2], other[:2]
                        assert mine == other, f"{path} stream={stream} {user!r}: {mine} and {other}"
                        checked += 1
        finally:
            for process in processes:
                process.terminate()
    print(f"forge: models.py and aimock answer {checked} questions alike")


if __name__ == "__main__":
    main()
