"""The physical bound: the shortest time in which the owners' quota could yield a batch.

A bucket of `L` per `P` seconds with capacity `C`, full at first, yields at most `C + L * T / P` in
`T` seconds; a window of `W` seconds that admits `N` yields `N` at once and after every `W`. In each
metric an owner yields what its scarcest limit does, and the fleet what its owners do together, less
what other applications take. The bound is the smallest `T` at which the
fleet yields the batch in every metric. Nothing is faster; a batch that can't be divided so that
every owner's last unit is used is slower. The bound excludes latency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

#: The longest batch considered, in seconds: thirty days.
LONGEST: Final = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """One limit of an owner.

    Args:
        metric: what it counts: ``"requests"``, ``"tokens"``.
        limit: units per period.
        period: seconds.
        burst: capacity of its bucket, in units; ``None``: the limit.
        window: seconds of the window that admits `burst` units, sliding or fixed; ``None``: it is a
            bucket.
        taken: units that other applications take in all.
        taken_per_second: units a second that they take, refused requests included, until `until`.
    """

    metric: str
    limit: float
    period: float = 60.0
    burst: float | None = None
    window: float | None = None
    taken: float = 0.0
    taken_per_second: float = 0.0
    until: float = inf

    def in_time(self, seconds: float) -> float:
        """Return the units that it yields in `seconds`."""
        full = self.limit if self.burst is None else self.burst
        if self.window is None:
            units = full + self.limit * seconds / self.period
        else:
            units = full * (1 + seconds // self.window)
        return max(0.0, units - self.taken - self.taken_per_second * min(seconds, self.until))


def yielded(owners: Iterable[Iterable[Supply]], metric: str, seconds: float) -> float:
    """Return the units of a metric that the owners yield; infinite: one has no limit."""
    total = 0.0
    for owner in owners:
        total += min((s.in_time(seconds) for s in owner if s.metric == metric), default=inf)
    return total


def fluid_bound(owners: Iterable[Iterable[Supply]], demand: Mapping[str, float]) -> float:
    """Return the seconds; infinite: never (no owner, or more than a month).

    Args:
        owners: the limits of each owner that serves. Leave dead owners out.
        demand: the charge of the whole batch, in units by metric.
    """
    fleet = [tuple(owner) for owner in owners]

    def suffices(seconds: float) -> bool:
        return all(yielded(fleet, m, seconds) >= units for m, units in demand.items())

    if not fleet or not suffices(LONGEST):
        return inf
    if suffices(0.0):
        return 0.0
    least, most = 0.0, LONGEST
    for _ in range(100):  # the yield only grows, so halving finds the bound
        middle = (least + most) / 2
        if suffices(middle):
            most = middle
        else:
            least = middle
    return most
