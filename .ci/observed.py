#!/usr/bin/env python3
"""Has a real Prometheus load the alert rules and scrape a real control plane, and asks it everything that the rules and the dashboard ask.

    .ci/observed.py target/debug/mindos

1. `promtool check rules` and `promtool test rules` on deploy/prometheus.
2. A control plane with work that succeeds, fails and is parked, webhooks good and forged, a sink, and a queue of tasks that is not there; a Prometheus that scrapes it.
3. Every rule is loaded and healthy. Every expression of rules and dashboard is evaluated without an error or a warning, and each
   selector in it has series: none names a metric or a label that nobody shows. What a panel asks for has a result.
4. The dashboard is what Grafana's schema wants, as far as that is known here: there is no Grafana to load it.

Prints `observed: ...` with what was counted.
"""

import hashlib
import hmac
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy/prometheus/alerts.yaml"
TESTS = ROOT / "deploy/prometheus/alerts.test.yaml"
DASHBOARD = ROOT / "deploy/grafana/mindos.json"
SECONDS = 60
# Grafana puts four scrape intervals here at least.
RATE_INTERVAL = "4s"
SECRET = "observed"
SELECTOR = re.compile(r"\b((?:mindos|process)_\w+)\s*(\{[^}]*\})?")
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
# What Grafana itself defines.
BUILT_IN = {"__rate_interval", "__interval", "__range"}
COMMAND = 'case "$(cat)" in *poison*) exit 65;; *weak*) exit 1;; esac; echo done'


class Wrong(Exception):
    pass


def need(is_so, what):
    if not is_so:
        raise Wrong(what)


def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url, body=None, headers=None):
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def until(what, ask):
    ends = time.monotonic() + SECONDS
    last = None
    while time.monotonic() < ends:
        try:
            if found := ask():
                return found
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(0.1)
    raise Wrong(f"{what}: not within {SECONDS} s ({last})")


def dashboard():
    """Checks the dashboard; returns its expressions, each with the panel's title."""
    board = json.loads(DASHBOARD.read_text("utf-8"))
    for name, kind in {"uid": str, "title": str, "schemaVersion": int, "version": int, "refresh": str, "tags": list}.items():
        need(isinstance(board.get(name), kind), f"dashboard: `{name}` is no {kind.__name__}")
    need(re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", board["uid"]), "dashboard: `uid` has up to 40 letters, digits, - and _")
    need(board["schemaVersion"] >= 36, "dashboard: `schemaVersion` is older than data sources by uid")
    need(board.get("id") is None, "dashboard: `id` belongs to one Grafana")
    need(set(board["time"]) == {"from", "to"}, "dashboard: `time` has from and to")
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    need(variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus", "dashboard: no data source is chosen")
    panels = board["panels"] + [inner for panel in board["panels"] for inner in panel.get("panels", [])]
    ids = [panel["id"] for panel in panels]
    need(len(ids) == len(set(ids)) and all(isinstance(each, int) for each in ids), "dashboard: ids of panels are numbers of their own")
    places = {}
    expressions = []
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels:
        title = panel.get("title")
        need(title and panel.get("type") in {"row", "stat", "timeseries"}, f"dashboard: panel {panel['id']} has a title and a type known here")
        at = panel["gridPos"]
        need(all(isinstance(at.get(name), int) for name in "hwxy"), f"dashboard: {title} has no place")
        need(at["x"] >= 0 and at["y"] >= 0 and 1 <= at["w"] <= 24 - at["x"] and at["h"] >= 1, f"dashboard: {title} is out of the 24 columns")
        for place in [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]:
            need(place not in places, f"dashboard: {title} lies on {places.get(place)}")
            places[place] = title
        if panel["type"] == "row":
            need("targets" not in panel, f"dashboard: {title} is a row and asks nothing")
            continue
        need(panel.get("targets"), f"dashboard: {title} asks nothing")
        need(panel.get("datasource") == source, f"dashboard: {title} names a data source of its own")
        need({"defaults", "overrides"} <= set(panel["fieldConfig"]), f"dashboard: {title} has no fieldConfig")
        refs = [target["refId"] for target in panel["targets"]]
        need(len(refs) == len(set(refs)), f"dashboard: {title} has a refId twice")
        for target in panel["targets"]:
            need(target.get("datasource", source) == source, f"dashboard: {title} {target['refId']} has another data source")
            expressions.append((f"panel {title}", target["expr"]))
    for annotation in board["annotations"]["list"]:
        need(annotation["datasource"] == source and annotation["name"], "dashboard: an annotation has no name or source")
        expressions.append((f"annotation {annotation['name']}", annotation["expr"]))
    for text in re.findall(r'"((?:[^"\\]|\\.)*)"', DASHBOARD.read_text("utf-8")):
        for name in VARIABLE.findall(text):
            need(name in variables or name in BUILT_IN, f"dashboard: ${name} is defined nowhere")
    return expressions


def webhook(api, secret, number):
    body = (ROOT / "tests/data/github-webhooks/issues.opened.1.json").read_bytes()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": "application/json",
        "x-github-event": "issues",
        "x-github-delivery": f"observed-{number}",
        "x-hub-signature-256": f"sha256={signature}",
    }
    return get(f"{api}/webhooks/github", body, headers)[0]


def run(mindos, folder, started):
    listen, agents, aggregator, console, nobody = port(), port(), port(), port(), port()
    api = f"http://127.0.0.1:{listen}"

    def start(name, *arguments):
        log = open(folder / f"{name}.log", "wb")
        started.append((name, subprocess.Popen([str(word) for word in arguments], stdout=log, stderr=log, cwd=folder)))

    def call(*arguments):
        done = subprocess.run([str(mindos), *arguments, "--server", api], capture_output=True, text=True)
        need(done.returncode == 0, f"mindos {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")

    (folder / "settings.yaml").write_text(
        f"github_secret: {SECRET}\nsinks: {{ci: {{url: 'http://127.0.0.1:{nobody}/'}}}}\n"
        f"tasks: {{rabbitmq: {{port: {nobody}}}}}\n"
        f"anchors: [{{file: {folder / 'anchor.jsonl'}}}]\n"
        "quotas: [{name: all, source: '*', events: 1000000, per: 1s}]\n"
    )
    start("control-plane", mindos, "control-plane", "--data-dir", folder / "data", "--listen", f"127.0.0.1:{listen}",
          "--agent-listen", f"127.0.0.1:{agents}", "--aggregator-port", aggregator, "--settings", folder / "settings.yaml")
    until("the control plane", lambda: get(f"{api}/readyz")[0] == 200)
    start("sidecar", mindos, "sidecar", "--control-plane", f"http://127.0.0.1:{agents}", "--cluster", "east", "--instance", "east-0",
          "--general", f"name=general-purpose-general,type=general-purpose-general,slots=4,command={COMMAND}")
    (folder / "prometheus.yaml").write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{RULES}']\n"
        f"scrape_configs: [{{job_name: mindos, static_configs: [{{targets: ['127.0.0.1:{listen}']}}]}}]\n"
    )
    done = subprocess.run(["promtool", "check", "config", folder / "prometheus.yaml"], capture_output=True, text=True)
    need(done.returncode == 0, f"promtool check config: {done.stdout}{done.stderr}")
    start("prometheus", "prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
          f"--web.listen-address=127.0.0.1:{console}", "--log.level=warn")

    for number, word in enumerate(["good", "good", "poison", "weak"]):
        call("send", "--type", "com.example.observed", "--source", f"/observed/{number}", "--id", "1", "--data", json.dumps({"word": word}))
    need(webhook(api, SECRET, 1) == 202, "a webhook was refused")
    need(webhook(api, "another", 2) == 401, "a forged webhook was taken")

    prometheus = f"http://127.0.0.1:{console}/api/v1"

    def ask(path, **query):
        status, body = get(f"{prometheus}/{path}?{urllib.parse.urlencode(query)}")
        answer = json.loads(body)
        need(status == 200 and answer["status"] == "success", f"{path} {query}: {answer.get('error', status)}")
        return answer

    def instant(expression):
        answer = ask("query", query=expression)
        need(not answer.get("warnings"), f"{expression}: {answer.get('warnings')}")
        return answer["data"]["result"]

    until("a scrape", lambda: instant("up{job='mindos'} == 1"))
    until("rules that were evaluated", lambda: all(
        rule["lastEvaluation"] > "0002" for group in ask("rules")["data"]["groups"] for rule in group["rules"]))
    groups = ask("rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    for rule in rules:
        need(rule["health"] == "ok", f"rule {rule['name']} is {rule['health']}: {rule.get('lastError')}")
    expressions = [(f"rule {rule['name']}", rule["query"]) for rule in rules]
    named = RULES.read_text("utf-8").count("- alert:")
    need(len(rules) == named, f"{len(rules)} rules were loaded of {named}")
    expressions += dashboard()

    selectors = {}
    for where, expression in expressions:
        expression = expression.replace("$__rate_interval", RATE_INTERVAL)
        need("$" not in expression, f"{where}: a variable is left in `{expression}`")
        instant(expression)
        found = SELECTOR.findall(expression)
        need(found, f"{where}: `{expression}` names no metric")
        for name, labels in found:
            selectors.setdefault(name + labels, where)
    # Work takes its time until it has failed, was parked, and was told to the sink.
    for selector, where in selectors.items():
        until(f"{where}: series of {selector}", lambda: instant(f"count({selector})"))
    # A panel draws something; rules and annotations ask for what is not so, as a rule.
    drawn = 0
    for where, expression in expressions:
        if where.startswith("panel "):
            until(f"{where}: a result of `{expression}`", lambda: instant(expression.replace("$__rate_interval", RATE_INTERVAL)))
            drawn += 1
    print(f"observed: {len(rules)} rules loaded and tested, {len(expressions)} expressions evaluated, all {drawn} of panels "
          f"with a result, {len(selectors)} selectors with series")


def main():
    mindos = pathlib.Path(sys.argv[1]).resolve()
    for command in (["check", "rules", RULES], ["test", "rules", TESTS]):
        done = subprocess.run(["promtool", *map(str, command)], capture_output=True, text=True)
        need(done.returncode == 0, f"promtool {' '.join(command[:2])}: {done.stdout}{done.stderr}")
    # A rule without a case would pass.
    cases = TESTS.read_text("utf-8")
    for name in re.findall(r"- alert: (\w+)", RULES.read_text("utf-8")):
        fires = re.search(rf"alertname: {name}\n +exp_alerts:\n", cases)
        rests = f"alertname: {name}, exp_alerts: []" in cases
        need(fires and rests, f"alerts.test.yaml has no case in which {name} fires, or none in which it does not")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mindos-observed-"))
    started = []
    try:
        run(mindos, folder, started)
    except Wrong as wrong:
        for name, process in started:
            log = (folder / f"{name}.log").read_text("utf-8", "replace").splitlines()
            print(f"-- {name} ({process.poll()})", *log[-15:], sep="\n")
        print(f"observed: FAILED: {wrong}")
        return 1
    finally:
        for _, process in reversed(started):
            process.terminate()
        for _, process in started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Wrong as wrong:
        print(f"observed: FAILED: {wrong}")
        sys.exit(1)
