"""The token bucket that OpenAI's rate-limit headers describe.

Measured on recorded traffic, 2023-10..2026-08: for every header triple (limit L, remaining R,
reset T) of a period of P seconds, `R = floor(level)` and `T = trunc_ms((L - level) * P / L)`, where
the level refills continuously at L/P per second up to L. So `reset` is the time until the bucket
is full again, not the time until the next request fits; that one is `wait_s`.
"""

from __future__ import annotations

import math

# Float refill leaves a level a hair under a whole number; below this, it is that number.
# At the largest known limit (180,000,000 a minute) a double is still exact to 3e-8.
_HAIR = 1e-6


class MockBucket:
    """One limit's state: `level` units are left of `capacity`, refilled at `limit / period_s`.

    The level may be negative: work that cost more than was estimated is debited when it ends.
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
        """Tell whether `need` units could be taken now."""
        return self.level + _HAIR >= need

    def take(self, units: float) -> None:
        """Remove `units`; a negative number gives back, never above the capacity."""
        self.level = min(self.capacity, self.level - units)

    def charge_refusal(self) -> None:
        """Remove the one unit that a refused request costs, but never go below empty.

        A refusal that dug a debt would make the provider's own "try again in" untrue.
        """
        self.level = max(min(self.level, 0.0), self.level - 1)

    @property
    def used(self) -> int:
        """Units missing to the full bucket, rounded up, as 429 texts state them."""
        return math.ceil(self.capacity - self.level - _HAIR)

    def wait_s(self, need: float) -> float:
        """Seconds until `need` units are there; 0 if they are."""
        return max(0.0, need - self.level) / self.rate


def remaining(level: float) -> int:
    """Return the whole units of a level, as `x-ratelimit-remaining-*` states them."""
    return max(0, math.floor(level + _HAIR))


def burst_bucket(limit: float, period_s: float, quantum_s: float, *, now: float) -> MockBucket:
    """Return the short-window bucket of a quantised limit: same rate, `quantum_s` of capacity.

    "60,000 requests/minute may be enforced as 1,000 requests/second" (OpenAI help centre); no
    trace of it is in the headers, so it is a switch of the settings.
    """
    return MockBucket(limit, period_s, now=now, capacity=max(1.0, limit * quantum_s / period_s))


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
