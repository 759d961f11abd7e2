"""Limiters: the token bucket that OpenAI's rate-limit headers describe, and windows.

Measured on recorded traffic, 2023-10..2026-08: for every header triple (limit L, remaining R,
reset T) of a period of P seconds, `R = floor(level)` and `T = trunc_ms((L - level) * P / L)`, where
the level refills continuously at L/P per second up to L. So `reset` is the time until the bucket
is full again, not the time until the next request fits; that one is `wait_s`.
"""

from __future__ import annotations

import math
from collections import deque

# Float refill leaves a level slightly under a whole number; a smaller gap counts as none.
# At the largest known limit (180,000,000 a minute) a double is still exact to 3e-8.
_HAIR = 1e-6


class MockBucket:
    """One limit's state: `level` units are left of `capacity`, refilled at `limit / period_s`.

    The level may be negative: a call that cost more than its estimate is debited when it ends.
    """

    __slots__ = ("_at", "capacity", "level", "limit", "period_s", "rate")

    def __init__(
        self, limit: float, period_s: float, *, now: float, capacity: float | None = None
    ) -> None:
        if limit <= 0 or period_s <= 0:
            raise ValueError(f"a bucket needs a limit and a period above 0: {limit}, {period_s}")
        self.limit = limit
        self.period_s = period_s
        self.rate = limit / period_s
        self.capacity = limit if capacity is None else capacity
        self.level = float(self.capacity)
        self._at = now

    def refill(self, now: float) -> None:
        """Bring the level up to `now`; an instant in the past changes nothing."""
        if now > self._at:
            self.level = min(self.capacity, self.level + (now - self._at) * self.rate)
            self._at = now

    def holds(self, need: float) -> bool:
        """Return whether `need` units are available now."""
        return self.level + _HAIR >= need

    def take(self, units: float) -> None:
        """Remove `units`; a negative number gives back, up to the capacity."""
        self.level = min(self.capacity, self.level - units)

    @property
    def used(self) -> int:
        """Units missing to the full bucket, rounded up, as 429 texts state them."""
        return math.ceil(self.capacity - self.level - _HAIR)

    def wait_s(self, need: float) -> float:
        """Return the seconds until `need` units are available; 0 if they are."""
        return max(0.0, need - self.level) / self.rate

    def reset_s(self, level: float) -> float:
        """Return what `x-ratelimit-reset-*` states at that level: seconds until it is full."""
        return (self.capacity - level) / self.rate


class MockWindow:
    """A limit on the units admitted in a window: a sliding log, or a counter that starts anew.

    It has the interface of `MockBucket`. Fixed windows begin at `now` and every `period_s` after.
    """

    __slots__ = ("_at", "_log", "_sliding", "_start", "capacity", "level", "limit", "period_s")

    def __init__(self, limit: float, period_s: float, *, now: float, sliding: bool) -> None:
        self.limit = limit
        self.period_s = period_s
        self.capacity = self.level = limit
        self._sliding = sliding
        self._log: deque[tuple[float, float]] = deque()  # instant at which units are free, units
        self._start = self._at = now

    def refill(self, now: float) -> None:
        """Drop what has left the window by `now`; an instant in the past changes nothing."""
        self._at = max(self._at, now)
        while self._log and self._log[0][0] <= self._at + _HAIR:
            self.level += self._log.popleft()[1]

    def holds(self, need: float) -> bool:
        """Return whether `need` units are available now."""
        return self.level + _HAIR >= need

    def take(self, units: float) -> None:
        """Count `units` into the window; a negative number gives back, up to the capacity."""
        units = max(units, self.level - self.capacity)
        if units:
            passed = 0.0 if self._sliding else (self._at - self._start) % self.period_s
            self._log.append((self._at - passed + self.period_s, units))
            self.level -= units

    @property
    def used(self) -> int:
        """Units in the window, rounded up, as 429 texts state them."""
        return math.ceil(self.capacity - self.level - _HAIR)

    def wait_s(self, need: float) -> float:
        """Return the seconds until `need` units are available; 0 if they are."""
        level, wait = self.level, 0.0
        for free_at, units in self._log:
            if level + _HAIR >= need:
                break
            level += units
            wait = free_at - self._at
        return wait

    def reset_s(self, level: float) -> float:
        """Return the seconds until the window is empty; 0 at a full level."""
        return self._log[-1][0] - self._at if self._log and level < self.capacity else 0.0


def remaining(level: float) -> int:
    """Return the whole units of a level, as `x-ratelimit-remaining-*` states them."""
    return max(0, math.floor(level + _HAIR))


def go_ms(seconds: float) -> str:
    """Format a duration as Go's `time.Duration.String()` does, truncated to milliseconds.

    >>> go_ms(60 / 3500), go_ms(9.9), go_ms(1252.666), go_ms(0)
    ('17ms', '9.9s', '20m52.666s', '0s')
    """
    ms = int(seconds * 1000 + 1e-9)
    if ms <= 0:
        return "0s"
    if ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, ms = divmod(ms, 1000)
    fraction = f".{ms:03d}".rstrip("0") if ms else ""
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{whole}{fraction}s"
