"""Whose turn it is among the tenants of a queue: start-time fair queueing.

Theory of operation. Each tenant with waiting calls has a *share*: its calls in the order in which
they are due, and what it was *served* so far. What a call costs a queue is the time that all owners
together need to earn it, in the metric where that is longest: its *price*, in seconds.

    served := max(served, floor)         when a tenant's first call comes to wait
    served := served + price             when one of its calls is granted while others wait
    floor   = the least served of all tenants that wait

The tenant that was served least comes next; among equals, the one whose first call is due first.
From that follows:

- Over any time in which two tenants always wait, what they were served differs by no more than the
  prices of one call of each, whatever the number and size of their calls (Goyal, Vin and Cheng,
  "Start-time Fair Queuing", SIGCOMM 1996, theorem 1). So nobody starves, and who sends a thousand
  calls at once delays the others by one call each, not by a thousand.
- Who comes back begins at the floor: idle time is no credit, and what was used while nobody else
  wanted it is no debt.
- A tenant's priorities and deadlines order its own calls; they take nothing from other tenants.
  With one tenant the order is that of the queue alone.

A queue keeps its shares sorted, so a call costs the logarithm of the tenants, and of its tenant's
calls. What tenants were served is forgotten once nobody waits, or once the floor has passed it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Generic, Protocol, Self, TypeVar

from ...limits import Costs

#: Shares without calls that may be kept besides as many as have some, before they are looked over.
_SPARE = 16


class Queued(Protocol):
    """What the order needs of a waiting call; it sorts by when the call is due."""

    @property
    def tenant(self) -> str | None:
        """Whose call it is."""
        ...

    @property
    def costs(self) -> Costs:
        """What it takes, by metric."""
        ...

    @property
    def due_at(self) -> float:
        """The instant by which it should be served."""
        ...

    @property
    def number(self) -> int:
        """Its number; breaks ties."""
        ...

    def __lt__(self, other: Self) -> bool: ...


Q = TypeVar("Q", bound=Queued)


class TenantQueue(Generic[Q]):
    """One tenant's calls in a queue, and what it was served."""

    __slots__ = ("backlog", "rank", "served", "tenant", "waiting")

    def __init__(self, tenant: str | None, served: float) -> None:
        self.tenant = tenant
        self.served = served
        self.waiting: list[Q] = []
        #: Sum of the costs of all that wait, by metric.
        self.backlog = [0.0] * 7
        #: Its place among the shares, as it was sorted in.
        self.rank = (served, 0.0, 0)

    def __lt__(self, other: TenantQueue[Q]) -> bool:
        return self.rank < other.rank

    def __repr__(self) -> str:
        return f"<Share of {self.tenant!r}: {len(self.waiting)} wait, {self.served:g} s served>"

    def ahead_of(self, waiter: Q) -> list[float]:
        """Return the sum of the costs of the calls that are due before this one."""
        if not self.waiting or self.waiting[-1] < waiter:
            return self.backlog
        before = self.waiting[: bisect_left(self.waiting, waiter)]
        return [sum(column) for column in zip(*(t.costs for t in before), strict=True)] or [0.0] * 7


class FairQueue(Generic[Q]):
    """The shares of a queue; those with waiting calls are in order."""

    __slots__ = ("by_tenant", "order")

    def __init__(self) -> None:
        self.by_tenant: dict[str | None, TenantQueue[Q]] = {}
        self.order: list[TenantQueue[Q]] = []

    @property
    def floor(self) -> float:
        """What who waits was served at least, in seconds."""
        return self.order[0].served if self.order else 0.0

    def of(self, tenant: str | None) -> TenantQueue[Q]:
        """Return a tenant's share, a new one where it has none."""
        share = self.by_tenant.get(tenant)
        if share is None:
            if len(self.by_tenant) > 2 * len(self.order) + _SPARE:
                floor = self.floor
                kept = (s for s in self.by_tenant.values() if s.waiting or s.served > floor)
                self.by_tenant = {share.tenant: share for share in kept}
            share = self.by_tenant[tenant] = TenantQueue(tenant, self.floor)
        elif not share.waiting and share.served < self.floor:
            share.served = self.floor
        return share

    def add(self, waiter: Q) -> None:
        """Put a call in its place."""
        share = self.of(waiter.tenant)
        was_first = share.waiting[0] if share.waiting else None
        insort(share.waiting, waiter)
        for metric, cost in enumerate(waiter.costs):
            share.backlog[metric] += cost
        if was_first is None or share.waiting[0] is waiter:
            if was_first is not None:
                self._take_out(share)
            self._put_in(share)

    def remove(self, waiter: Q) -> None:
        """Take a call out; when the last one goes, what all were served is forgotten."""
        share = self.by_tenant[waiter.tenant]
        place = bisect_left(share.waiting, waiter)
        if place == 0:
            self._take_out(share)
        del share.waiting[place]
        if not share.waiting:
            share.backlog = [0.0] * 7
            if not self.order:
                self.by_tenant.clear()
            return
        for metric, cost in enumerate(waiter.costs):
            share.backlog[metric] -= cost
        if place == 0:
            self._put_in(share)

    def charge(self, tenant: str | None, price: float) -> None:
        """Count what a tenant was served, in seconds, while others or more of its calls wait."""
        share = self.of(tenant)
        if share.waiting:
            self._take_out(share)
        share.served += price
        if share.waiting:
            self._put_in(share)

    def comes_first(self, waiter: Q) -> bool:
        """Whether a call that doesn't wait yet would be served before all that wait."""
        if not self.order:
            return True
        share = self.by_tenant.get(waiter.tenant)
        if share is not None and share.waiting and not waiter < share.waiting[0]:
            return False
        served = self.floor if share is None else max(share.served, self.floor)
        return (served, waiter.due_at, waiter.number) < self.order[0].rank

    def _take_out(self, share: TenantQueue[Q]) -> None:
        del self.order[bisect_left(self.order, share)]

    def _put_in(self, share: TenantQueue[Q]) -> None:
        first = share.waiting[0]
        share.rank = (share.served, first.due_at, first.number)
        insort(self.order, share)
