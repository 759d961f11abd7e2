"""What a store is asked and told, and what it answers: the words between it and the scheduler.

A `Claim` is answered by a `Reservation`, or by `NotReady` (not now) or `NeverFits` (never). What
becomes of a reservation is told by a `Settlement`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from math import inf
from typing import Final, NamedTuple

from ...limits import Costs
from ...outcomes import Outcome, Reading
from .account import Account
from .token_bucket import MARGIN, Mark, TokenBucket

#: Seconds for which what an owner's headers told is recent: as long as buckets keep back.
RECENT: Final = MARGIN
#: The share of its capacity from which on a bucket was hardly used: no more than 0.6 s of a limit
#: per minute are missing, so much as any provider lets through at once.
HARDLY_USED: Final = 0.99


class ReservationState(Enum):
    """Where a reservation is in its life."""

    OPEN = "open"
    EXPIRED = "expired"
    SETTLED = "settled"


class Reservation:
    """The ledger's entry: what was taken, and from which buckets."""

    __slots__ = (
        "account",
        "answered",
        "costs",
        "expires_at",
        "marks",
        "number",
        "starts_at",
        "state",
    )

    def __init__(
        self,
        number: int,
        account: Account,
        costs: Costs,
        marks: list[Mark],
        expires_at: float,
    ) -> None:
        self.number = number
        self.account = account
        self.costs = costs
        #: For each bucket that it took from, the moment when it did.
        self.marks = marks
        self.expires_at = expires_at
        self.state = ReservationState.OPEN
        self.answered = False
        #: The instant from which it may be used; later than now = it is a future.
        self.starts_at = -inf

    def __repr__(self) -> str:
        return f"<Reservation {self.number} of {self.account.owner}: {self.state.value}>"

    def headers_matter(self, now: float) -> bool:
        """Whether the headers of its answer may tell what is not known.

        They tell of the moment when it was made. If the owner was hardly used then, and another
        answer told of it just now, they tell nothing that matters.
        """
        if now - self.account.heard_at >= RECENT:
            return True
        for mark in self.marks:
            bucket = mark[0]
            if mark[1] < HARDLY_USED * bucket.capacity or bucket.price != 1.0:
                return True
        return not self.marks


class HeadReservation:
    """A call that waits for an account until an instant, and must not be delayed by others."""

    __slots__ = ("account", "at", "costs")

    def __init__(self, account: Account, costs: Costs, at: float) -> None:
        self.account = account
        self.costs = costs
        self.at = at

    def is_delayed_by(self, account: Account, costs: Costs) -> bool:
        """Whether granting `costs` on `account` now would make the guarded call wait longer."""
        mine = self.account.buckets
        for bucket in account.buckets:
            cost, other = costs[bucket.metric], self.costs[bucket.metric]
            if (
                cost
                and other
                and bucket in mine
                and not bucket.spares(cost, other=other, at=self.at)
            ):
                return True
        return False


class Claim:
    """What a store is asked for: costs, on the first account of a ranking that fits.

    A shared store may *book* where none fits: it takes the costs at once and says from when on they
    may be used. `reserve_ahead`: it may, if that is within so many seconds. `held`: what was booked
    before, to be exchanged for what begins earlier. `dropped`: what was booked before and is of no
    use any more, to be given back. A store that doesn't book leaves the three alone.
    """

    __slots__ = ("accounts", "costs", "dropped", "guards", "held", "reserve_ahead")

    def __init__(
        self,
        accounts: Iterable[Account],
        costs: Costs,
        guards: tuple[HeadReservation, ...] = (),
        reserve_ahead: float = 0.0,
        held: Reservation | None = None,
        dropped: Reservation | None = None,
    ) -> None:
        self.accounts = accounts
        self.costs = costs
        self.guards = guards
        self.reserve_ahead = reserve_ahead
        self.held = held
        self.dropped = dropped


class StoreUnavailable(NamedTuple):
    """A shared store that could not answer.

    Args:
        since: the instant when it was first found so.
        why: what it, or the way to it, said last.
    """

    since: float
    why: str


class NotReady:
    """No account fits now.

    `ready_at` is the earliest instant when one will (infinite: when something is released) and
    `account` that one. At `expires_at` the oldest reservation comes back at the latest. With a
    `future` the costs are taken already, to be used from `ready_at` on. `away`: a shared
    store could not answer, and is to be asked again at `expires_at`.
    """

    __slots__ = ("account", "away", "expires_at", "future", "ready_at")

    def __init__(
        self,
        account: Account | None,
        ready_at: float,
        expires_at: float = inf,
        future: Reservation | None = None,
        away: StoreUnavailable | None = None,
    ) -> None:
        self.account = account
        self.ready_at = ready_at
        self.expires_at = expires_at
        self.future = future
        self.away = away


class NeverFits:
    """No account would ever fit: `bucket` of `account` is the largest that is too small."""

    __slots__ = ("account", "bucket")

    def __init__(self, account: Account, bucket: TokenBucket) -> None:
        self.account = account
        self.bucket = bucket


#: What a store answers to a `Claim`.
ClaimAnswer = Reservation | NotReady | NeverFits


class Settlement:
    """What became of a reservation, so far or in the end.

    `used` is what the provider's limits counted; ``None`` = still in flight, only headers so far.
    `headers_at_admission`: the readings tell the state at this request's admission, not a later
        one. `sent`: nothing but that the request leaves now.
    """

    __slots__ = ("headers_at_admission", "outcome", "readings", "reservation", "sent", "used")

    def __init__(
        self,
        reservation: Reservation,
        used: Costs | None,
        readings: tuple[Reading, ...] = (),
        outcome: Outcome | None = None,
        *,
        headers_at_admission: bool = True,
        sent: bool = False,
    ) -> None:
        self.reservation = reservation
        self.used = used
        self.readings = readings
        self.outcome = outcome
        self.headers_at_admission = headers_at_admission
        self.sent = sent
