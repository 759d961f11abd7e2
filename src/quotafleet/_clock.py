"""The only file that reads time.

Everything else is *given* `now`, so that the production scheduler also runs on a simulated
clock, and so that tests need no sleep.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic instants, in seconds; only their differences mean anything."""

    def now(self) -> float:
        """Return the current instant in seconds."""
        ...


class SystemClock:
    """The machine's monotonic clock, which no change of the wall clock moves."""

    __slots__ = ()

    now = staticmethod(time.monotonic)
