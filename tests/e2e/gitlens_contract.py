#!/usr/bin/env python3
"""Checks the aggregator and the orchestrator of the GitLens contract from outside, by its tables alone.

    gitlens_contract.py AGGREGATOR ORCHESTRATOR [DISCORD_PORT]
    gitlens_contract.py --signed AGGREGATOR SECRET GITHUB_SECRET

The addresses are HOST:PORT of a fleet of the eleven generals in two clusters, all idle. With a third argument it plays
Discord on that port of this machine, where the control plane has to post with the token `not-a-real-token` to the channel
1186000000000000001, and checks form, pace, and that its own failures hold nothing up.
The second form checks signatures, where both secrets are configured. Needs nothing but Python's library.
"""

import hashlib
import hmac
import http.client
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GENERALS = {
    "code-review-general": ["code_review", "quality", "best_practices"],
    "quality-assurance-general": ["testing", "qa", "validation"],
    "architecture-general": ["design", "architecture", "patterns"],
    "security-general": ["security", "vulnerabilities", "compliance"],
    "deployment-general": ["deployment", "release", "cicd"],
    "documentation-general": ["docs", "readme", "guides"],
    "analytics-general": ["metrics", "analysis", "insights"],
    "metrics-general": ["performance", "monitoring", "observability"],
    "triage-general": ["prioritization", "triage", "routing"],
    "priority-general": ["urgency", "severity", "escalation"],
    "general-purpose-general": ["general", "multipurpose"],
}
# type: generals, strategy, assignments on two clusters, colour
ROUTING = {
    "pr_created": (["architecture-general", "security-general", "code-review-general"], "broadcast", 6, 0xFFC107),
    "needs_attention": (["triage-general", "priority-general"], "broadcast", 4, 0xDC3545),
    "review_started": (["code-review-general", "quality-assurance-general"], "load_balanced", 3, 0x2F81F7),
    "review_submitted": (["code-review-general", "quality-assurance-general"], "load_balanced", 3, 0x28A745),
    "pr_merged": (["deployment-general", "documentation-general"], "round_robin", 1, 0x20C997),
    "commit_graph": (["analytics-general", "metrics-general"], "round_robin", 1, 0x6F42C1),
    "something_else": (["general-purpose-general"], "round_robin", 1, 0x2F81F7),
}
ISO = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
CHANNEL = "1186000000000000001"

checks = 0


def check(fine, what, *shown):
    global checks
    checks += 1
    if not fine:
        sys.exit("gitlens contract: " + what + "".join("\n  " + repr(one) for one in shown))


def call(address, method, path, body=None, headers=None):
    """Status, JSON or text, raw bytes, seconds."""
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    connection = http.client.HTTPConnection(address, timeout=60)
    begun = time.monotonic()
    connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
    response = connection.getresponse()
    raw = response.read()
    took = time.monotonic() - begun
    is_json = response.headers.get_content_type() == "application/json"
    if is_json:
        value = json.loads(raw)
        compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        check(raw == compact, f"{method} {path} is not compact JSON", raw)
    else:
        value = raw.decode()
    connection.close()
    return response.status, value, took


def keys(value, expected, what):
    check(list(value) == expected, f"{what} has other fields, or another order", list(value), expected)


def is_distribution(answer, expected_strategy, what):
    keys(answer, ["distribution_id", "timestamp", "strategy", "assignments"], what)
    check(re.match(r"^dist-\d{13}$", answer["distribution_id"]), f"{what}: distribution_id", answer)
    check(ISO.match(answer["timestamp"]), f"{what}: timestamp", answer)
    check(answer["strategy"] == expected_strategy, f"{what}: strategy", answer)
    for one in answer["assignments"]:
        keys(one, ["general", "cluster", "status", "response"], f"{what}: assignment")
        check(one["status"] == "dispatched", f"{what}: status", one)
        check(one["general"].endswith("-" + one["cluster"]), f"{what}: general", one)
        response = one["response"]
        keys(
            response,
            ["job_id", "general", "cluster", "status", "processing_started", "estimated_completion"],
            f"{what}: response",
        )
        check(re.match("^" + re.escape(one["general"]) + r"-\d{13}$", response["job_id"]), f"{what}: job_id", one)
        check(response["status"] == "accepted" and ISO.match(response["processing_started"]), f"{what}: response", one)


def assigned(answer):
    return [one["general"] for one in answer["assignments"]]


def expect(answer, kind, clusters, what):
    generals, strategy, count, _ = ROUTING[kind]
    is_distribution(answer, strategy, what)
    everywhere = {f"{general}-{cluster}" for general in generals for cluster in clusters}
    found = assigned(answer)
    check(len(found) == count, f"{what}: {kind} led to {len(found)} assignments, not {count}", found)
    check(len(set(found)) == count and set(found) <= everywhere, f"{what}: {kind} went elsewhere", found)
    if strategy == "broadcast":
        check(set(found) == everywhere, f"{what}: {kind} did not go everywhere", found)


class Discord(BaseHTTPRequestHandler):
    """Tells the first message to come again, fails the fourth once, hangs with the sixth."""

    protocol_version = "HTTP/1.1"
    taken, times, requests, lock = [], [], [0], threading.Lock()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.requests[0] += 1
            number = self.requests[0]
        if number == 1:
            return self.answer(429, {"message": "slow down", "retry_after": 1}, {"Retry-After": "1"})
        if number == 5:
            return self.answer(502, {})
        if number == 7:
            time.sleep(3)
        with self.lock:
            self.taken.append((self.path, self.headers.get("Authorization"), body))
            self.times.append(time.monotonic())
        return self.answer(200, {"id": "1"})

    def answer(self, code, value, headers=None):
        raw = json.dumps(value).encode()
        self.send_response(code)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


def the_table(aggregator, orchestrator, clusters):
    before = call(orchestrator, "GET", "/distributions")[1]["total"]
    slowest = 0
    for place, kind in enumerate(ROUTING):
        event = {
            "type": kind,
            "timestamp": "2026-11-20T08:30:00.%03dZ" % place,
            "repository": "octo/hello",
            "user": "ann",
            "metadata": {"pr_number": 40 + place, "title": "A title", "description": "d" * 300, "branch": "topic"},
        }
        code, answer, took = call(aggregator, "POST", "/events", event)
        slowest = max(slowest, took)
        check(code == 202, "POST /events answers 202", code, answer)
        keys(answer, ["message", "event_id"], "POST /events")
        check(answer["message"] == "Event received and forwarded to Mind OS", "message", answer)
        check(re.match("^" + kind + r"-\d{13}$", answer["event_id"]), "event_id", answer)
        time.sleep(1.2)
        code, listed, _ = call(orchestrator, "GET", "/distributions")
        keys(listed, ["total", "recent"], "GET /distributions")
        check(code == 200 and listed["total"] == before + place + 1, "each event is one distribution", listed["total"])
        expect(listed["recent"][-1], kind, clusters, "GET /distributions")
        if place == 0:
            # The same piece of news again is the same event.
            check(call(aggregator, "POST", "/events", event)[0] == 202, "an event sent again is answered the same")
            check(call(orchestrator, "GET", "/distributions")[1]["total"] == before + 1, "and is one distribution")
    return slowest


def the_aggregator(aggregator):
    code, health, _ = call(aggregator, "GET", "/health")
    keys(health, ["status", "service", "timestamp"], "GET /health")
    check(code == 200 and health["status"] == "healthy" and health["service"] == "gitlens-aggregator", "health", health)
    check(ISO.match(health["timestamp"]), "health", health)
    code, stats, _ = call(aggregator, "GET", "/stats")
    keys(stats, ["total_events", "event_types", "recent_events"], "GET /stats")
    check(code == 200 and stats["total_events"] == 7, "every event is counted, and once", stats)
    check(stats["event_types"] == dict.fromkeys(ROUTING, 1), "by type", stats["event_types"])
    check([one["type"] for one in stats["recent_events"]] == list(ROUTING), "the last ten, newest last", stats)
    keys(stats["recent_events"][0], ["type", "timestamp", "repository", "user", "metadata"], "an event")
    check(stats["recent_events"][0]["metadata"]["pr_number"] == 40, "metadata are kept", stats["recent_events"][0])

    webhook = {
        "event_type": "pr_merged",
        "repository": {"full_name": "octo/hello"},
        "sender": {"login": "bob"},
        "pull_request": {"number": 7, "title": "t", "body": "b", "head": {"sha": "abc", "ref": "topic"}},
    }
    code, answer, _ = call(aggregator, "POST", "/webhook/gitlens", webhook)
    check((code, answer) == (200, {"message": "Webhook processed"}), "a webhook", code, answer)
    check(call(aggregator, "POST", "/webhook/gitlens", {})[:2] == (200, {"message": "Webhook processed"}), "the defaults")
    recent = call(aggregator, "GET", "/stats")[1]["recent_events"]
    known = {"pr_number": 7, "commit_sha": "abc", "branch": "topic", "title": "t", "description": "b"}
    check(recent[-2]["metadata"] == known and recent[-2]["user"] == "bob", "a webhook becomes an event", recent[-2])
    plain = (recent[-1]["type"], recent[-1]["repository"], recent[-1]["user"])
    check(plain == ("pr_created", "unknown", "unknown"), "defaults of a webhook", recent[-1])

    for body in ["{", "[]", "7", "{}", {"type": 7}, {"type": "a", "metadata": []}, {"type": "a", "timestamp": "now"}]:
        code, answer, _ = call(aggregator, "POST", "/events", body)
        check((code, answer) == (400, {"error": "Failed to process event"}), "a malformed event", body, code, answer)
    for body in ["{", "[]", {"repository": "x"}, {"event_type": 7}]:
        code, answer, _ = call(aggregator, "POST", "/webhook/gitlens", body)
        check((code, answer) == (400, {"error": "Failed to process webhook"}), "a malformed webhook", body, code, answer)
    code, answer, _ = call(aggregator, "POST", "/webhooks/github", {}, {"X-GitHub-Event": "push"})
    check((code, answer) == (401, "bad sig"), "a delivery without a signature", code, answer)


def the_orchestrator(orchestrator, clusters):
    code, health, _ = call(orchestrator, "GET", "/health")
    check(code == 200 and health["service"] == "mindos-orchestrator", "health", health)
    code, status, _ = call(orchestrator, "GET", "/status")
    keys(
        status,
        ["total_generals", "generals_by_cluster", "generals_by_status", "recent_distributions", "total_distributions"],
        "GET /status",
    )
    check(status["total_generals"] == 22 and sorted(status["generals_by_cluster"]) == clusters, "22 generals", status)
    keys(status["generals_by_status"], ["active", "inactive", "busy"], "generals_by_status")
    check(len(status["recent_distributions"]) <= 10, "the last ten", len(status["recent_distributions"]))
    for listed in status["generals_by_cluster"].values():
        check([one["name"] for one in listed] == list(GENERALS), "the eleven", listed)
        for one in listed:
            keys(one, ["name", "status", "load", "specialization"], "a listed general")
            check(re.match(r"^\d+/\d+$", one["load"]), "load", one)
            check(one["specialization"] == GENERALS[one["name"]], "specialization", one)

    code, one, _ = call(orchestrator, "GET", f"/generals/{clusters[0]}/security-general")
    fields = "name cluster namespace endpoint status specialization current_load max_load"
    keys(one, fields.split(), "a general")
    check(code == 200 and one["namespace"] == "agents" and one["max_load"] == 10, "a general", one)
    tail = "/api/v1/namespaces/agents/services/security-general:8080/proxy"
    check(one["endpoint"].startswith("https://") and one["endpoint"].endswith(tail), "endpoint", one)
    for path in [f"/generals/{clusters[0]}/no-such-general", "/generals/nowhere/security-general", "/generals/A B/C"]:
        code, answer, _ = call(orchestrator, "GET", path.replace(" ", "%20"))
        check((code, answer) == (404, {"error": "General not found"}), path, code, answer)
        code, answer, _ = call(orchestrator, "PUT", path.replace(" ", "%20") + "/status", {"status": "active"})
        check((code, answer) == (404, {"error": "General not found"}), path, code, answer)
        code, answer, _ = call(orchestrator, "PUT", path.replace(" ", "%20") + "/status", {"status": "gone"})
        check((code, answer) == (400, {"error": "Invalid status"}), "the status is checked first", code, answer)

    def distribute(generals, strategy, to=(), kind="custom", **more):
        event = {"type": kind, "timestamp": "2026-11-20T08:30:00Z", "repository": "octo/hello", "user": "ann",
                 "metadata": {}}
        body = {"event": event, "target_clusters": list(to), "llm_generals": list(generals),
                "distribution_strategy": strategy, **more}
        return call(orchestrator, "POST", "/distribute", body)

    for kind, (generals, strategy, _, _) in ROUTING.items():
        code, answer, took = distribute(generals, strategy, clusters, kind)
        check(code == 200 and took < 10, "POST /distribute", code, answer)
        expect(answer, kind, clusters, "POST /distribute")
    code, answer, _ = distribute([], "broadcast")
    is_distribution(answer, "broadcast", "to all")
    check(len(answer["assignments"]) == 22, "empty lists mean all", len(answer["assignments"]))
    code, answer, _ = distribute(["security-general"], "no-such-strategy")
    is_distribution(answer, "no-such-strategy", "an unknown strategy")
    check(len(answer["assignments"]) == 1, "an unknown strategy takes the first candidate", answer)
    total = call(orchestrator, "GET", "/distributions")[1]["total"]
    code, answer, _ = distribute(["security-general"], "broadcast", ["nowhere"])
    is_distribution(answer, "broadcast", "nobody there")
    check(code == 200 and answer["assignments"] == [], "no candidate is no assignment", answer)
    check(call(orchestrator, "GET", "/distributions")[1]["total"] == total, "and is not counted")
    four = {tuple(assigned(distribute(["triage-general", "priority-general"], "round_robin")[1])) for _ in range(4)}
    check(len(four) == 4, "round robin goes round", four)
    twice = [distribute(["triage-general"], "broadcast", event={
        "type": "custom", "timestamp": "2026-11-20T08:30:00.250Z", "repository": "r", "user": "u", "metadata": {}})[1]
        for _ in range(2)]
    check(twice[0]["distribution_id"] == twice[1]["distribution_id"], "a repetition is the same distribution", twice)

    path = f"/generals/{clusters[0]}/triage-general"
    for word, seen in [("inactive", [f"triage-general-{clusters[1]}"]), ("busy", None), ("active", None)]:
        code, answer, _ = call(orchestrator, "PUT", path + "/status", {"status": word})
        keys(answer, ["message", "name", "cluster", "status"], "PUT status")
        wanted = {"message": "Status updated", "name": "triage-general", "cluster": clusters[0], "status": word}
        check((code, answer) == (200, wanted), "PUT status", code, answer)
        check(call(orchestrator, "GET", path)[1]["status"] == word, "the status that was set", word)
        counts = call(orchestrator, "GET", "/status")[1]["generals_by_status"]
        check(counts[word] >= 1 and sum(counts.values()) == 22, "it is counted", counts)
        if seen is not None:
            check(assigned(distribute(["triage-general"], "broadcast")[1]) == seen, "an inactive general gets nothing")
    for body in [{}, {"status": "gone"}, {"status": 7}, "{", "[]"]:
        code, answer, _ = call(orchestrator, "PUT", path + "/status", body)
        check((code, answer) == (400, {"error": "Invalid status"}), "PUT status", body, code, answer)

    event = {"type": "custom"}
    whole = {"event": event, "target_clusters": [], "llm_generals": [], "distribution_strategy": "broadcast"}
    broken = ["{", "[]", "null", {**whole, "event": 7}, {**whole, "event": {}}, {**whole, "llm_generals": "x"}]
    broken += [{name: value for name, value in whole.items() if name != left_out} for left_out in whole]
    for body in broken:
        code, answer, _ = call(orchestrator, "POST", "/distribute", body)
        check((code, answer) == (400, {"error": "Failed to distribute event"}), "malformed", body, code, answer)

    code, text, _ = call(orchestrator, "GET", "/metrics")
    series = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    check(code == 200 and series["mindos_llm_generals_total"] == "22", "metrics", code)
    total = call(orchestrator, "GET", "/distributions")[1]["total"]
    check(series["mindos_distributions_total"] == str(total), "metrics agree", series["mindos_distributions_total"], total)
    for name, kind in [("generals_total", "gauge"), ("generals_active", "gauge"), ("generals_busy", "gauge")]:
        check(f"# TYPE mindos_llm_{name} {kind}" in text and f"mindos_llm_{name}" in series, "a gauge", name)
    check("# TYPE mindos_distributions_total counter" in text, "a counter")


def discord(orchestrator, slowest):
    deadline = time.monotonic() + 60
    while len(Discord.taken) < 12 and time.monotonic() < deadline:
        time.sleep(0.1)
    with Discord.lock:
        taken, times = list(Discord.taken), list(Discord.times)
    check(len(taken) >= 12, "messages came in spite of refusals", len(taken))
    told = {}
    for path, authorization, body in taken:
        check(path == f"/channels/{CHANNEL}/messages", "where a message goes", path)
        check(authorization == "Bot not-a-real-token", "the bot's token", authorization)
        (embed,) = body["embeds"]
        told.setdefault(embed["title"], embed)
    for place, (kind, (_, _, _, colour)) in enumerate(ROUTING.items()):
        title = "GitLens: " + kind.replace("_", " ").title()
        check(title in told, f"a message for {kind}", sorted(told))
        embed = told[title]
        check(embed["color"] == colour, f"colour of {kind}", hex(embed["color"]))
        fields = [("Repository", "octo/hello", True), ("User", "ann", True)]
        check([(one["name"], one["value"], one["inline"]) for one in embed["fields"]] == fields, "fields", embed)
        check(embed["timestamp"] == "2026-11-20T08:30:00.%03dZ" % place, "the event's own time", embed)
        text = embed["description"]
        check(text.startswith("By **ann**") and f"#{40 + place}" in text and "A title" in text, "description", text)
        check("d" * 200 in text and "d" * 201 not in text, "the first 200 characters of the description", text)
    for first in range(len(times)):
        for last in range(first, len(times)):
            most = 10 + (times[last] - times[first]) / 2 + 2
            check(last - first + 1 <= most, "30 a minute and 10 at once", last - first + 1, times[last] - times[first])
    check(slowest < 3, "a publisher waits for no notifier", slowest)
    text = call(orchestrator, "GET", "/metrics")[1]
    check('mindos_notices_total{notifier="discord",outcome="sent"}' in text, "what was sent is counted")
    check('outcome="rate_limited"} 1' in text, "and what had to wait")


def signed(aggregator, secret, github_secret):
    event = {"type": "pr_created", "repository": "octo/hello", "user": "ann"}
    alert = {"status": "firing", "labels": {"alertname": "Down"}, "annotations": {}, "fingerprint": "0123456789abcdef",
             "startsAt": "2026-11-20T08:30:00Z", "endsAt": "0001-01-01T00:00:00Z", "generatorURL": ""}
    alerts = {"version": "4", "groupKey": "{}", "status": "firing", "receiver": "mindos", "groupLabels": {},
              "commonLabels": {}, "commonAnnotations": {}, "externalURL": "", "alerts": [alert]}
    push = {"ref": "refs/heads/main", "repository": {"full_name": "octo/hello"}, "sender": {"login": "ann"}}

    def sign(body, key):
        return hmac.new(key.encode(), body.encode(), hashlib.sha256).hexdigest()

    refused_json, refused_text = {"error": "bad sig"}, "bad sig"
    for path, body, code, refused in [
        ("/events", event, 202, refused_json),
        ("/webhook/gitlens", {}, 200, refused_json),
        ("/event", event, 200, refused_text),
        ("/alert", alerts, 200, refused_text),
    ]:
        body = json.dumps(body)
        for headers in [{}, {"X-Sig": "0" * 64}, {"X-Sig": sign(body + " ", secret)}, {"X-Sig": sign(body, secret + "x")}]:
            found = call(aggregator, "POST", path, body, headers)
            check(found[:2] == (401, refused), f"{path} without its signature", headers, found)
        for signature in [sign(body, secret), "sha256=" + sign(body, secret)]:
            found = call(aggregator, "POST", path, body, {"X-Sig": signature})
            check(found[0] == code, f"{path} with its signature", found)
            check(path not in ("/event", "/alert") or found[1] == "ok", f"{path} answers ok", found)
    body = json.dumps(push)
    for path in ["/webhooks/github", "/git"]:
        headers = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "1" + path.replace("/", "-")}
        found = call(aggregator, "POST", path, body, {**headers, "X-Hub-Signature-256": "sha256=" + "0" * 64})
        check(found[:2] == (401, "bad sig"), path, found)
        good = {**headers, "X-Hub-Signature-256": "sha256=" + sign(body, github_secret)}
        check(call(aggregator, "POST", path, body, good)[:2] == (200, "ok"), path)
    types = call(aggregator, "GET", "/stats")[1]["event_types"]
    check(types.get("pr_created") == 6 and types.get("commit_graph") == 2, "what was signed is counted", types)
    print(f"gitlens contract: {checks} checks of signatures passed")


def main():
    if sys.argv[1] == "--signed":
        return signed(*sys.argv[2:5])
    aggregator, orchestrator = sys.argv[1:3]
    if len(sys.argv) > 3:
        server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Discord)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    clusters = sorted(call(orchestrator, "GET", "/status")[1]["generals_by_cluster"])
    check(len(clusters) == 2, "two clusters", clusters)
    slowest = the_table(aggregator, orchestrator, clusters)
    the_aggregator(aggregator)
    the_orchestrator(orchestrator, clusters)
    if len(sys.argv) > 3:
        discord(orchestrator, slowest)
    print(f"gitlens contract: {checks} checks passed, slowest POST /events {slowest * 1000:.0f} ms")


if __name__ == "__main__":
    main()
