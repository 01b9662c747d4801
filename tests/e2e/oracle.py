#!/usr/bin/env python3
"""What a replay of GitHub payloads must lead to, reckoned without the project.

Reads a folder of payloads named `<event>.<action>[.<n>].json`, the mapping of GitHub events to kinds and the routing table;
shares no code with the project. Prints one JSON object:

  payloads     files read
  routed       of them, those offered to routes (a ping is only recorded)
  events       payloads by GitHub event, e.g. "pull_request"
  kinds        routed payloads by kind; where the mapping has no word for one, its CloudEvents type stands for it
  routes       routed payloads by route
  deliveries   {"total", "by_kind", "by_route", "per_event"}: how many deliveries the strategies ask for
  broadcast    deliveries by general under broadcast, as "<cluster>/<name>"; generals of the other strategies are chosen freely

Every cluster is taken to run one general of each type, named after its type, and none to be missing.

usage: oracle.py --payloads DIR --kinds FILE --routes FILE [--clusters a,b] [--extra-merged FILE]...
"""

import argparse
import collections
import json
import pathlib
import sys


def reach(value, path):
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def same(left, right):
    # 1 == True in Python, and they are different things in JSON.
    return type(left) is type(right) and left == right


def kind_of(event, payload, rules):
    for rule in rules:
        if rule["event"] != event:
            continue
        if rule.get("actions") and payload.get("action") not in rule["actions"]:
            continue
        conditions = rule.get("where", {}).items()
        if all(any(same(reach(payload, path), one) for one in accepted) for path, accepted in conditions):
            return rule["kind"]
    return None


def type_of(event, payload):
    """The CloudEvents type, after the GitHub adapter of the CloudEvents project."""
    if event in ("push", "ping", "deployment", "fork", "gollum", "page_build", "public", "status"):
        return f"com.github.{event}"
    name = {"issues": "issue", "installation_repositories": "installation_repository"}.get(event, event)
    path = {"deployment_status": "deployment_status.state", "create": "ref_type", "delete": "ref_type"}.get(event, "action")
    return ".".join(["com.github", name] + [word for word in [reach(payload, path)] if word])


def route_of(kind, routes):
    for route in routes:
        if "kinds" not in route or kind in route["kinds"]:
            return route
    raise SystemExit("the routing table has no default")


def deliveries_of(route, candidates):
    strategy = route["strategy"]
    if strategy == "broadcast":
        return len(candidates)
    if strategy == "round_robin":
        return min(1, len(candidates))
    if strategy == "load_balanced":
        return min(route.get("count", 1), len(candidates))
    raise SystemExit(f"route {route['name']}: strategy {strategy} is not known here")


def reckon(payloads, rules, unrouted, routes, clusters):
    events, kinds, by_route = collections.Counter(), collections.Counter(), collections.Counter()
    by_kind, delivered, broadcast = collections.Counter(), collections.Counter(), collections.Counter()
    per_event = {}
    for event, payload in payloads:
        events[event] += 1
        if event in unrouted:
            continue
        kind = kind_of(event, payload, rules) or type_of(event, payload)
        route = route_of(kind, routes)
        candidates = [f"{cluster}/{name}" for cluster in clusters for name in route["types"]]
        count = deliveries_of(route, candidates)
        kinds[kind] += 1
        by_route[route["name"]] += 1
        by_kind[kind] += count
        delivered[route["name"]] += count
        per_event[route["name"]] = {"strategy": route["strategy"], "deliveries": count}
        if route["strategy"] == "broadcast":
            broadcast.update(candidates)
    return {
        "payloads": sum(events.values()),
        "routed": sum(kinds.values()),
        "events": dict(sorted(events.items())),
        "kinds": dict(sorted(kinds.items())),
        "routes": dict(sorted(by_route.items())),
        "deliveries": {
            "total": sum(delivered.values()),
            "by_kind": dict(sorted(by_kind.items())),
            "by_route": dict(sorted(delivered.items())),
            "per_event": dict(sorted(per_event.items())),
        },
        "broadcast": dict(sorted(broadcast.items())),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--payloads", type=pathlib.Path, required=True, help="folder of <event>.<action>[.<n>].json")
    parser.add_argument("--kinds", type=pathlib.Path, required=True, help="mapping of GitHub events to kinds")
    parser.add_argument("--routes", type=pathlib.Path, required=True, help="routing table, its last route the default")
    parser.add_argument("--clusters", default="prod-us,dev", help="comma-separated (default: %(default)s)")
    parser.add_argument(
        "--extra-merged", type=pathlib.Path, action="append", default=[], metavar="FILE",
        help="count a copy of this closed pull request with merged: true as well; may be repeated",
    )
    options = parser.parse_args()
    files = sorted(options.payloads.glob("*.json"))
    if not files:
        parser.error(f"{options.payloads} has no payloads")
    payloads = [(path.name.split(".", 1)[0], json.loads(path.read_text("utf-8"))) for path in files]
    for path in options.extra_merged:
        payload = json.loads(path.read_text("utf-8"))
        payload["pull_request"]["merged"] = True
        payloads.append((path.name.split(".", 1)[0], payload))
    mapping = json.loads(options.kinds.read_text("utf-8"))
    routes = json.loads(options.routes.read_text("utf-8"))
    clusters = [name for name in options.clusters.split(",") if name]
    result = reckon(payloads, mapping["rules"], mapping.get("unrouted", []), routes, clusters)
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
