"""GitHub's limits, as it documents them.

Primary: requests an hour; what is answered 304 is given back. Secondary: 80 content writes a minute, 500 an hour, and 900 points a minute,
where a read takes one and a write five. `scale` makes all of these windows so many times shorter.
"""

import time
from collections import deque

WORDS = (
    "You have exceeded a secondary rate limit and have been temporarily blocked from content creation. Please retry your request again "
    "later. If you reach out to GitHub Support for help, please include the request ID {id}."
)
WINDOWS = {"content_minute": (80, 60.0), "content_hour": (500, 3600.0), "points_minute": (900, 60.0)}


class Limits:
    def __init__(self, scale=1.0, primary=5000):
        self.scale, self.primary = scale, primary
        self.seen, self.used, self.until, self.peaks = {}, {}, {}, {}

    def spent(self, key):
        """Counts a request against the hour; returns (limit, used, when it begins anew)."""
        hour = 3600.0 / self.scale
        begun, used = self.used.get(key, (time.time(), 0))
        if time.time() - begun >= hour:
            begun, used = time.time(), 0
        self.used[key] = (begun, used + 1)
        return self.primary, used + 1, int(begun + hour) + 1

    def give_back(self, key):
        """Takes back one request that does not count; returns how many do."""
        begun, used = self.used[key]
        self.used[key] = (begun, max(used - 1, 0))
        return self.used[key][1]

    def secondary(self, key, content, points):
        """Seconds to stay away for, or None where the request may pass."""
        now = time.monotonic()
        if self.until.get(key, 0.0) > now:
            return max(1, round(self.until[key] - now))
        for window, amount in (("content_minute", int(content)), ("content_hour", int(content)), ("points_minute", points)):
            most, length = WINDOWS[window]
            length /= self.scale
            line = self.seen.setdefault((key, window), deque())
            while line and line[0][0] <= now - length:
                line.popleft()
            spent = sum(one for _, one in line) if window == "points_minute" else len(line)
            if amount and spent + amount > most:
                wait = max(1.0, 60.0 / self.scale)
                self.until[key] = now + wait
                return round(wait)
        for window, amount in (("content_minute", int(content)), ("content_hour", int(content)), ("points_minute", points)):
            if amount:
                line = self.seen[(key, window)]
                line.append((now, amount))
                peak = sum(one for _, one in line) if window == "points_minute" else len(line)
                self.peaks[window] = max(self.peaks.get(window, 0), peak)
        return None
