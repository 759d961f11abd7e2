"""Who waits, and in what order.

Theory of operation. Calls for one model wait in one *queue*, sorted by the instant they are due:

    due = min(arrival + PATIENCE[priority], the instant when the call gives up)

so priority, age, deadline and arrival are one order: a more urgent call is due sooner, an older one
has been due for longer (nobody starves), a near deadline comes first, and among equals the earlier.

That is the order of one tenant's calls. Where several tenants wait in a queue they take turns, each
getting the same share of what the owners can serve: see `shares`. Calls without a tenant are one
tenant together. Who finds nobody waiting is served at once and uses what nobody else wants.

The first of a queue is its *head*. Whatever fits the head goes to the head. While it waits for its
account, calls behind it may pass only where that doesn't delay it: the store checks the head's
`HeadReservation` with each claim. So a large call isn't starved by small ones, and small ones use
what it leaves. Only calls that are smaller than the head in some metric, or that may go to an
owner which the head avoids, can fit where it doesn't; so only those are tried, at most `DEPTH`,
and none that differs from one that was tried and failed in neither.

A store that is shared by processes *books* for a head instead: the costs are taken at once, and the
head sleeps until they may be used. So no guard is needed, and heads of all processes are served in
the order in which they asked.

Nobody polls: the head sleeps until its account is ready, the others until they give up; whoever
gets a grant goes on serving the queue until the next head has to wait, then wakes that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heapreplace
from itertools import islice
from math import inf
from operator import lt
from typing import TYPE_CHECKING, Final, Literal

from ...limits import Costs, Metric
from ...usage import Demand
from ..quota.account import Account
from ..quota.reservations import HeadReservation, NotReady, Reservation
from .fair_queueing import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...errors import QuotafleetError
    from ...keys import ApiKey
    from ..fleet.candidates import CandidateSet, OwnerCandidate
    from ..health.circuit_breaker import Circuit

#: A person waits; a service waits; a nightly job waits.
Priority = Literal["interactive", "normal", "batch"]

#: Seconds that a call of each priority is content to wait before it overtakes fresher ones of a
#: more urgent priority: a person, a service, a nightly job.
PATIENCE: Final[dict[str, float]] = {"interactive": 0.0, "normal": 60.0, "batch": 600.0}
#: How many calls behind the head are looked at for one that may pass.
DEPTH: Final = 32
#: How much one settled call moves the picture of how much calls really use: the last twenty count.
SMOOTHING: Final = 0.05


class Waiter:
    """One call's place: before, in, or out of a queue."""

    __slots__ = (
        "asks_every_owner",
        "avoid",
        "candidate",
        "costs",
        "demand",
        "due_at",
        "entered_at",
        "error",
        "future",
        "gives_up_at",
        "key",
        "last",
        "left",
        "number",
        "queue",
        "reservation",
        "reserved_at",
        "short",
        "tenant",
        "waiting",
        "wake",
        "woken",
    )

    def __init__(
        self,
        number: int,
        demand: Demand,
        queue: WaitQueue,
        priority: Priority,
        now: float,
        gives_up_at: float,
        tenant: str | None = None,
    ) -> None:
        self.number = number
        self.demand = demand
        self.costs: Costs = demand.costs
        self.queue = queue
        self.entered_at = now
        self.gives_up_at = gives_up_at
        self.due_at = min(now + PATIENCE[priority], gives_up_at)
        #: Owners that it is not granted while others are left, and those that come last.
        self.avoid: frozenset[str] = frozenset()
        self.last: frozenset[str] = frozenset()
        self.tenant = tenant
        self.waiting = False
        self.left = False
        #: What was granted, until the waiter accepts it, with whose key.
        self.reservation: Reservation | None = None
        self.reserved_at = now
        self.candidate: OwnerCandidate | None = None
        self.key: tuple[ApiKey, Circuit] | None = None
        #: Why it will never be granted; raised in the waiter.
        self.error: QuotafleetError | None = None
        #: What the store said when it said no to the first claim.
        self.short: NotReady | None = None
        #: What a shared store took for it already, to be used from an instant on.
        self.future: Reservation | None = None
        #: Every owner is to be asked, not only those that seem to have enough.
        self.asks_every_owner = False
        #: Set by the driver while the call sleeps; may be called from any thread.
        self.wake: Callable[[], None] | None = None
        #: It was woken since it last decided to sleep.
        self.woken = False

    @property
    def is_open(self) -> bool:
        """Whether it has no answer yet that counts, and wants one."""
        return not self.left and self.error is None and self.reservation is None

    def __lt__(self, other: Waiter) -> bool:
        return (self.due_at, self.number) < (other.due_at, other.number)

    def __repr__(self) -> str:
        return f"<Waiter {self.number} for {self.demand.model!r}>"


class WaitQueue:
    """The calls that wait for one model, in the order in which they are served."""

    __slots__ = (
        "again",
        "asking",
        "backfill",
        "busy",
        "candidates",
        "expires_at",
        "guard",
        "ready_at",
        "shares",
        "used",
        "usual",
        "waiting",
    )

    def __init__(self, candidates: CandidateSet) -> None:
        self.candidates = candidates
        #: What calls that wait cost, smoothed.
        self.usual: list[float] = []
        self.shares = FairQueue[Waiter]()
        #: How many calls wait.
        self.waiting = 0
        #: The instant at which the queue should be served next.
        self.ready_at = -inf
        #: When the oldest reservation comes back, as the head's last claim was told.
        self.expires_at = inf
        #: Keeps calls of this and other queues from delaying the head.
        self.guard: HeadReservation | None = None
        #: Who serves the queue at present; one at a time.
        self.busy: Waiter | None = None
        #: The share of reserved tokens that was really used, smoothed.
        self.used = 1.0
        #: Who asks a shared store to book for it, before it takes its place; one at a time.
        self.asking: Waiter | None = None
        #: Something was freed while the store was asked: its answer may be too old.
        self.again = False
        #: The calls behind the head that are still to be tried in this round.
        self.backfill: list[Waiter] = []

    @property
    def head(self) -> Waiter | None:
        """The call that is served next."""
        order = self.shares.order
        return order[0].waiting[0] if order else None

    def __iter__(self) -> Iterator[Waiter]:
        for share in self.shares.order:
            yield from share.waiting

    def add(self, waiter: Waiter) -> None:
        """Put a call in its place."""
        waiter.waiting = True
        self.waiting += 1
        self.shares.add(waiter)
        pairs = zip(waiter.costs, self.usual or waiter.costs, strict=True)
        self.usual = [one + SMOOTHING * (cost - one) for cost, one in pairs]

    def load_ratio(self, account: Account, costs: Costs) -> float:
        """Return how much more of an owner's scarcest limit a call takes than the usual one."""
        usual = account.worth(self.usual)
        return account.worth(costs) / usual if usual else 1.0

    def remove(self, waiter: Waiter) -> None:
        """Take a call out. It may be the head: then its guard goes too."""
        waiter.waiting = False
        self.waiting -= 1
        if self.head is waiter:
            self.guard = None
        self.shares.remove(waiter)

    def has_place(self, tenant: str | None, places: int) -> bool:
        """Whether a tenant holds less than its equal part of a number of places.

        A queue that others have filled is no reason to turn it away.
        """
        share = self.shares.by_tenant.get(tenant)
        held = len(share.waiting) if share is not None else 0
        tenants = len(self.shares.order) + (held == 0)
        return tenants > 1 and (held + 1) * tenants <= places

    def charge(self, waiter: Waiter, now: float) -> bool:
        """Count a grant to its tenant, if others share the queue; return whether the head changed.

        Then the guard and those that were to pass were the former head's.
        """
        shares = self.shares
        if len(shares.by_tenant) == 1 and waiter.tenant in shares.by_tenant:
            return False
        head = self.head
        shares.charge(waiter.tenant, self.candidates.price(waiter.costs, now))
        if self.head is head:
            return False
        self.guard = None
        self.backfill = []
        return True

    def ahead_of(self, waiter: Waiter, now: float) -> list[float]:
        """Return the sum of the costs of calls that will be served before this one, at least.

        Its tenant's that are due before it, and of each other tenant so much as brings that to
        what this one will have been served by then. Of many tenants, those that come first count.
        """
        shares, price = self.shares, self.candidates.price
        own = shares.by_tenant.get(waiter.tenant)
        ahead = [0.0] * 7 if own is None else own.ahead_of(waiter)
        if not any(share is not own for share in shares.order[:2]):
            return ahead
        served = shares.floor if own is None else max(own.served, shares.floor)
        until = served + price(ahead, now)
        ahead = list(ahead)
        for share in shares.order[: DEPTH + 1]:
            more = until - share.served
            if share is not own and more > 0:
                work = price(share.backlog, now)
                part = 1.0 if work <= more else more / work
                for metric, cost in enumerate(share.backlog):
                    ahead[metric] += part * cost
        return ahead

    def settled(self, reserved: Costs, used: Costs) -> None:
        """Learn how much of a reservation is really used."""
        tokens = reserved[Metric.TOKENS]
        if tokens:
            share = used[Metric.TOKENS] / tokens
            self.used += SMOOTHING * ((share if share < 1.0 else 1.0) - self.used)

    def comes_first(self, waiter: Waiter) -> bool:
        """Whether a call that doesn't wait would be the head."""
        return self.head is None or self.shares.comes_first(waiter)

    def may_try(self, waiter: Waiter) -> bool:
        """Whether a call that doesn't wait may be tried: as the head, or to pass it."""
        head = self.head
        if head is None or _may_fit(waiter, head):
            return True
        return self.shares.comes_first(waiter)

    def looks_at(self, waiter: Waiter, now: float) -> float:
        """Return when a call that waits here serves the queue by itself.

        The head does when the queue is due. Another does once when it may fit by its own claim's
        answer; from then on the head sees to it.
        """
        if self.head is waiter:
            # Who is asking the store at present wakes it.
            return self.ready_at if self.busy is self.asking is None else inf
        if waiter.future is not None:  # it was the head, until a more urgent call came
            return waiter.future.starts_at
        short = waiter.short
        if short is None or short.ready_at <= now:
            return inf
        self.ready_at = min(self.ready_at, short.ready_at)
        return short.ready_at

    def holds_back(self, waiter: Waiter) -> bool:
        """Whether a call, of this or another queue, may not delay the head.

        Between queues the head that is due sooner counts: two must not guard against each other.
        """
        head = self.head
        if head is None or head is waiter:
            return False
        if waiter.queue is not self:
            return head < waiter
        return waiter.waiting or not self.shares.comes_first(waiter)

    def backfill_candidates(self, now: float) -> Iterator[Waiter]:
        """Yield calls behind the head, each of which may fit where all yielded before don't."""
        head, *behind = islice(self._in_turn(now), DEPTH + 1)
        tried = [head]
        for waiter in behind:
            if all(_may_fit(waiter, other) for other in tried):
                tried.append(waiter)
                yield waiter

    def _in_turn(self, now: float) -> Iterator[Waiter]:
        """Yield the calls in the order in which they will be served, the head first."""
        order = self.shares.order
        if len(order) == 1:
            yield from order[0].waiting
            return
        # Of more shares than that, none behind has its turn while so many calls are served.
        turns = [(share.rank, place, 0) for place, share in enumerate(order[: DEPTH + 1])]
        heapify(turns)
        while turns:
            (served, _, _), place, taken = turns[0]
            waiting = order[place].waiting
            yield waiting[taken]
            if taken + 1 == len(waiting):
                heappop(turns)
                continue
            after, price = waiting[taken + 1], self.candidates.price(waiting[taken].costs, now)
            heapreplace(turns, ((served + price, after.due_at, after.number), place, taken + 1))


def _may_fit(waiter: Waiter, other: Waiter) -> bool:
    """Whether a call could fit where another doesn't.

    It is smaller in some metric, or an owner that the other avoids is open to it.
    """
    return not other.avoid <= waiter.avoid or any(map(lt, waiter.costs, other.costs))
