"""Things that go wrong because a test wants them to: answers that get lost, 502, slowness, and requests that are held until they are let go."""

import re
import threading
import time

HELD_MAX = 600.0


class Dropped(Exception):
    """The connection is to be cut without an answer."""


class Fault:
    """One fault: what it is for (`method`, `path` as an expression, `template` of a route, skipping the first `skip`), what it does, and how
    often."""

    def __init__(self, number, wanted):
        accepted = {"method", "path", "template", "skip", "times", "do", "ms", "status", "headers", "body"}
        if unknown := set(wanted) - accepted:
            raise ValueError(f"unknown members {sorted(unknown)}; accepted: {sorted(accepted)}")
        self.number, self.do = number, wanted["do"]
        if self.do not in ("drop_before", "drop_after", "hold_before", "hold_after", "slow", "status"):
            raise ValueError(f"`do` is {self.do}")
        self.method, self.path = wanted.get("method"), re.compile(wanted.get("path", ""))
        self.template = wanted.get("template")
        self.skip, self.times = wanted.get("skip", 0), wanted.get("times", 1)
        self.ms, self.status = wanted.get("ms", 1000), wanted.get("status", 502)
        self.headers, self.body = wanted.get("headers", {}), wanted.get("body")
        self.go, self.drop = threading.Event(), True

    def fits(self, method, path, template):
        same = self.method in (None, method) and self.template in (None, template)
        return self.times > 0 and same and self.path.search(path) is not None


class Faults:
    def __init__(self):
        self.lock, self.all, self.held, self.next = threading.Lock(), [], {}, 0

    def add(self, wanted):
        with self.lock:
            self.next += 1
            self.all.append(Fault(self.next, wanted))
            return self.next

    def clear(self):
        with self.lock:
            held, self.all, self.held = list(self.held.values()), [], {}
        for fault, _ in held:
            fault.drop = True
            fault.go.set()

    def release(self, number, drop):
        with self.lock:
            fault, _ = self.held.pop(number)
        fault.drop = drop
        fault.go.set()

    def take(self, method, path, template=None):
        """The fault that this request meets, if any."""
        with self.lock:
            for fault in self.all:
                if fault.fits(method, path, template):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def hold(self, fault, method, path):
        with self.lock:
            self.held[fault.number] = (fault, f"{method} {path}")
        fault.go.wait(HELD_MAX)
        if fault.drop:
            raise Dropped

    def before(self, fault, method, path):
        """Meets a fault ahead of the request. Returns an answer (status, headers, body) that stands in for it, or None."""
        if fault is None:
            return None
        if fault.do == "slow":
            time.sleep(fault.ms / 1000)
        elif fault.do == "drop_before":
            raise Dropped
        elif fault.do == "hold_before":
            self.hold(fault, method, path)
        elif fault.do == "status":
            return fault.status, fault.headers, fault.body
        return None

    def after(self, fault, method, path):
        """Meets it when the request is carried out and not yet answered."""
        if fault is not None and fault.do == "drop_after":
            raise Dropped
        if fault is not None and fault.do == "hold_after":
            self.hold(fault, method, path)
