"""The fluid bound: the shortest time in which the owners' quota could yield a batch.

A bucket of `L` per `P` seconds with capacity `C`, full at first, yields at most `C + L * T / P` in
`T` seconds. An owner yields of a metric what the scarcest of its buckets of that metric does, and
the fleet what its owners do together, less what others take. The bound is the smallest `T` at which
the fleet yields the batch in every metric. Nothing is faster; a batch that can't be divided so that
every owner's last unit is used is slower. Latency isn't in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

#: The longest batch that is looked at, in seconds: thirty days.
LONGEST: Final = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """One bucket of an owner.

    Args:
        metric: what it counts: ``"requests"``, ``"tokens"``.
        limit: units per period.
        period: seconds.
        burst: its capacity, in units; ``None`` = the limit.
        taken: units that others take of it meanwhile.
    """

    metric: str
    limit: float
    period: float = 60.0
    burst: float | None = None
    taken: float = 0.0

    def in_time(self, seconds: float) -> float:
        """Return the units that it yields in so many seconds."""
        full = self.limit if self.burst is None else self.burst
        return max(0.0, full + self.limit * seconds / self.period - self.taken)


def yielded(owners: Iterable[Iterable[Supply]], metric: str, seconds: float) -> float:
    """Return the units of a metric that owners together yield; infinite = one has no limit."""
    total = 0.0
    for owner in owners:
        total += min((s.in_time(seconds) for s in owner if s.metric == metric), default=inf)
    return total


def fluid_bound(owners: Iterable[Iterable[Supply]], demand: Mapping[str, float]) -> float:
    """Return the seconds; infinite = never (no owner, or more than a month).

    Args:
        owners: the buckets of each owner that serves. Leave dead owners out.
        demand: what the batch as a whole is charged, in units by metric.
    """
    fleet = [tuple(owner) for owner in owners]

    def suffices(seconds: float) -> bool:
        return all(yielded(fleet, m, seconds) >= units for m, units in demand.items())

    if not fleet or not suffices(LONGEST):
        return inf
    if suffices(0.0):
        return 0.0
    least, most = 0.0, LONGEST
    for _ in range(100):  # what is yielded only grows, so halving finds it
        middle = (least + most) / 2
        if suffices(middle):
            most = middle
        else:
            least = middle
    return most
