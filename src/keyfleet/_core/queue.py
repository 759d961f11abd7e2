"""Who waits, and in what order.

Theory of operation. Calls for one model wait in one *lane*, sorted by the instant they are due:

    due = min(arrival + PATIENCE[priority], the instant when the call gives up)

so priority, age, deadline and arrival are one order: a more urgent call is due sooner, an older one
has been due for longer (nobody starves), a near deadline comes first, and among equals the earlier.

The first of a lane is its *head*. Whatever fits the head goes to the head. While it waits for its
account, calls behind it may pass only where that doesn't delay it: the store checks the head's
`Guard` with each claim. So a large call isn't starved by small ones, and small ones use what it
leaves. Only calls that are smaller than the head in some metric, or that may go to an owner which
the head avoids, can fit where it doesn't; so only those are tried, at most `DEPTH`,
and none that differs from one that was tried and failed in neither.

Nobody polls: the head sleeps until its account is ready, the others until they give up; whoever
gets a grant goes on serving the lane until the next head has to wait, then wakes that one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Final, Literal

from .._limits import Costs, Metric
from .._usage import Demand
from .ledger import Guard, Reservation, Short

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._keys import ApiKey
    from ..errors import KeyfleetError
    from .health import Subject
    from .routes import Route, Seat

Priority = Literal["interactive", "normal", "batch"]

#: Seconds that a call of each priority is content to wait before it overtakes fresher ones of a
#: more urgent priority: a person, a service, a nightly job.
PATIENCE: Final[dict[str, float]] = {"interactive": 0.0, "normal": 60.0, "batch": 600.0}
#: How many calls behind the head are looked at for one that may pass.
DEPTH: Final = 32
#: How much one settled call moves the picture of how much calls really use: the last twenty count.
SMOOTHING: Final = 0.05


class Ticket:
    """One call's place: before, in, or out of a lane."""

    __slots__ = (
        "avoid",
        "costs",
        "demand",
        "due_at",
        "entered_at",
        "error",
        "gives_up_at",
        "key",
        "lane",
        "last",
        "left",
        "number",
        "reservation",
        "seat",
        "short",
        "waiting",
        "wake",
        "woken",
    )

    def __init__(
        self,
        number: int,
        demand: Demand,
        lane: Lane,
        priority: str,
        now: float,
        gives_up_at: float,
    ) -> None:
        self.number = number
        self.demand = demand
        self.costs: Costs = demand.costs
        self.lane = lane
        self.entered_at = now
        self.gives_up_at = gives_up_at
        self.due_at = min(now + PATIENCE[priority], gives_up_at)
        #: Owners that it is not granted while others are left, and those that come last.
        self.avoid: frozenset[str] = frozenset()
        self.last: frozenset[str] = frozenset()
        self.waiting = False
        self.left = False
        #: What was granted, until the waiter accepts it, with whose key.
        self.reservation: Reservation | None = None
        self.seat: Seat | None = None
        self.key: tuple[ApiKey, Subject] | None = None
        #: Why it will never be granted; raised in the waiter.
        self.error: KeyfleetError | None = None
        #: What the store said when it said no to the first claim.
        self.short: Short | None = None
        #: Set by the driver while the call sleeps; may be called from any thread.
        self.wake: Callable[[], None] | None = None
        #: It was woken since it last decided to sleep.
        self.woken = False

    def __lt__(self, other: Ticket) -> bool:
        return (self.due_at, self.number) < (other.due_at, other.number)

    def __repr__(self) -> str:
        return f"<Ticket {self.number} for {self.demand.model!r}>"


class Lane:
    """The calls that wait for one model, in the order in which they are due."""

    __slots__ = (
        "again",
        "backlog",
        "busy",
        "guard",
        "passers",
        "ready_at",
        "route",
        "used",
        "waiting",
    )

    def __init__(self, route: Route) -> None:
        self.route = route
        self.waiting: list[Ticket] = []
        #: Sum of the costs of all that wait, by metric.
        self.backlog = [0.0] * 7
        #: The instant at which the lane should be served next.
        self.ready_at = -inf
        #: Keeps calls of this and other lanes from delaying the head.
        self.guard: Guard | None = None
        #: Who serves the lane at present; one at a time.
        self.busy: Ticket | None = None
        #: The share of reserved tokens that was really used, smoothed.
        self.used = 1.0
        #: Something was freed while the store was asked: its answer may be too old.
        self.again = False
        #: The calls behind the head that are still to be tried in this round.
        self.passers: list[Ticket] = []

    @property
    def head(self) -> Ticket | None:
        """The call that is due first."""
        return self.waiting[0] if self.waiting else None

    def add(self, ticket: Ticket) -> None:
        """Put a call in its place."""
        ticket.waiting = True
        insort(self.waiting, ticket)
        for metric, cost in enumerate(ticket.costs):
            self.backlog[metric] += cost

    def remove(self, ticket: Ticket) -> None:
        """Take a call out. It may be the head: then its guard goes too."""
        ticket.waiting = False
        if self.waiting[0] is ticket:
            self.guard = None
        del self.waiting[bisect_left(self.waiting, ticket)]
        if not self.waiting:
            self.backlog = [0.0] * 7
            return
        for metric, cost in enumerate(ticket.costs):
            self.backlog[metric] -= cost

    def ahead_of(self, ticket: Ticket) -> list[float]:
        """Return the sum of the costs of all calls that are due before this one."""
        if not self.waiting or self.waiting[-1] < ticket:
            return self.backlog
        before = self.waiting[: bisect_left(self.waiting, ticket)]
        return [sum(column) for column in zip(*(t.costs for t in before), strict=True)] or [0.0] * 7

    def settled(self, reserved: Costs, used: Costs) -> None:
        """Learn how much of a reservation is really used."""
        tokens = reserved[Metric.TOKENS]
        if tokens:
            share = used[Metric.TOKENS] / tokens
            self.used += SMOOTHING * ((share if share < 1.0 else 1.0) - self.used)

    def may_pass(self, ticket: Ticket) -> bool:
        """Whether a call could fit where the head doesn't."""
        return _may_fit(ticket, self.waiting[0])

    def candidates_to_pass(self) -> Iterator[Ticket]:
        """Yield calls behind the head, each of which may fit where all yielded before don't."""
        tried = [self.waiting[0]]
        for ticket in self.waiting[1 : DEPTH + 1]:
            if all(_may_fit(ticket, other) for other in tried):
                tried.append(ticket)
                yield ticket


def _may_fit(ticket: Ticket, other: Ticket) -> bool:
    """Whether a call could fit where another doesn't.

    It is smaller in some metric, or an owner that the other avoids is open to it.
    """
    if not other.avoid <= ticket.avoid:
        return True
    return any(mine < theirs for mine, theirs in zip(ticket.costs, other.costs, strict=True))
