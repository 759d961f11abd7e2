"""A clock that moves only when it is told to.

Everything in quotafleet that needs time is given a clock, so a test or a simulation of a whole day
runs in the time that its arithmetic takes, and runs the same way twice.
"""

from __future__ import annotations


class FakeClock:
    """Monotonic seconds that stand still until `advance` moves them."""

    __slots__ = ("_now",)

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return the current instant, in seconds since an arbitrary origin."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds`; a monotonic clock never goes back.

        Raises:
            ValueError: `seconds` is negative or not a number.
        """
        if not seconds >= 0:
            raise ValueError(f"a clock only moves forward: advance({seconds!r})")
        self._now += seconds

    def __repr__(self) -> str:
        return f"FakeClock({self._now!r})"
