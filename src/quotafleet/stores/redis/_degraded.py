"""A process on its own: while the server is away it goes on with its part of the quota.

Theory of operation. The fleet has `size` processes, as far as was known last, and each has a part:
of every bucket's rate the `size`-th, and of what the bucket held by this process's last look the
`size`-th too. So together they spend what the bucket held and what it refills; beyond that only
what others had taken since a process looked. Calls in flight are parted likewise, in whole calls.
A call that is larger than a part saves up for it.

What a part yields is *owed* to the server. Once that answers, all that is owed is told, again and
again, while the process stays on its own for `REJOINS_AFTER`: by then the others have found the
server too, and nobody takes what another has spent already. Owed is what was taken, less what came
back, but no more than the part lacks now: what was spent long ago has been refilled there and here.

Answers teach a part nothing: they tell of the owner's whole bucket, of which each process has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import floor, inf
from typing import Final

from ..._core.quota.account import Account
from ..._core.quota.ledger import Ledger
from ..._core.quota.reservations import (
    Claim,
    ClaimAnswer,
    HeadReservation,
    NeverFits,
    NotReady,
    Reservation,
    ReservationState,
    Settlement,
)
from ..._core.quota.token_bucket import MARGIN, TokenBucket
from ...limits import Costs, Limits
from . import _codec as wire

#: Seconds for which a process stays on its own once the server answers, beyond its time-out: within
#: them the others come to it, who ask five times a second.
REJOINS_AFTER: Final = 1.0
#: Seconds after which a call that no part can serve asks again.
ASKS_AGAIN_AFTER: Final = 1.0


@dataclass(slots=True)
class Part:
    """This process's part of one bucket, and how much of what it took the server was told."""

    bucket: TokenBucket
    account: Account
    told: float = 0.0

    def owed(self) -> float:
        """Return what the server is to be told now; below 0 = it gets something back."""
        spent = self.bucket.taken - self.bucket.returned
        new, self.told = spent - self.told, spent
        return min(new, self.bucket.capacity - self.bucket.level)


@dataclass(frozen=True, slots=True)
class Debt:
    """What is owed of an account's buckets, by the script's names of them."""

    account: Account
    amounts: list[tuple[str, float]]


class DegradedMode:
    """What a process may spend on its own. Its store's lock guards it.

    Args:
        size: processes of the fleet, this one among them.
        accounts: returns the accounts of this process's view.
        lifetime: seconds after which an unsettled reservation comes back.
    """

    def __init__(
        self, size: int, accounts: Callable[[], Iterable[Account]], *, lifetime: float
    ) -> None:
        self.size = size
        self._view = accounts
        #: Since when the server answers again; ``None`` = it doesn't.
        self.answers_since: float | None = None
        self._ledger = Ledger(lambda *_: Limits(), lifetime=lifetime)
        self._parts: dict[TokenBucket, Part] = {}
        self._accounts: dict[Account, Account] = {}
        #: For each account the head that waits for it, which smaller calls must not delay.
        self._guards: dict[Account, HeadReservation] = {}
        self._open: dict[int, tuple[Reservation, Account]] = {}

    # Parts

    def _own(self, account: Account, now: float) -> Account:
        """Return this process's part of an account."""
        own = self._accounts.get(account)
        if own is None:
            own = Account(account.organization, account.project, account.family)
            self._accounts[account] = own
        own.buckets = tuple(self._part(bucket, account, now) for bucket in account.buckets)
        return own

    def _part(self, bucket: TokenBucket, account: Account, now: float) -> TokenBucket:
        part = self._parts.get(bucket)
        if part is None:
            part = self._parts[bucket] = Part(self._divided(bucket, now), account)
        return part.bucket

    def _divided(self, bucket: TokenBucket, now: float) -> TokenBucket:
        """Return a part of a bucket: it refills so much more slowly; slots are whole ones."""
        bucket.refill(now)
        if bucket.period is None:
            period, slots = None, floor(bucket.limit / self.size)
            held = sum(a.in_flight for a in self._view() if bucket in a.buckets)
            capacity, level = max(1.0, slots), float(slots - held)
        else:
            period, level = bucket.period * self.size, bucket.level / self.size
            capacity = bucket.capacity / self.size
        made = TokenBucket(
            scope=bucket.scope,
            name=bucket.name,
            metric=bucket.metric,
            period=period,
            limit=bucket.limit,
            now=now,
        )
        _set(made, like=bucket, level=level, capacity=capacity, now=now)
        return made

    @staticmethod
    def _widen(own: Account, costs: Costs, now: float) -> None:
        """Let the buckets hold what a call needs that is larger than the part."""
        for bucket in own.buckets:
            cost = costs[bucket.metric]
            if bucket.capacity < cost <= bucket.limit and bucket.period is not None:
                bucket.refill(now)
                _set(bucket, like=bucket, level=bucket.level, capacity=cost, now=now)

    # Reserve and settle

    def reserve(
        self, accounts: Iterable[Account], claim: Claim, number: int, now: float
    ) -> ClaimAnswer:
        """Reserve from this process's parts; the view shows that as if the server had."""
        costs = claim.costs
        of: dict[Account, Account] = {}
        for account in accounts:
            own = self._own(account, now)
            self._widen(own, costs, now)
            of[own] = account
        is_head = claim.reserve_ahead > 0
        guards = () if is_head else tuple(g for g in self._guards.values() if g.at > now)
        answer = self._ledger.reserve(Claim(of, costs, guards), now)
        if isinstance(answer, NeverFits):
            return NeverFits(of[answer.account], answer.bucket)
        if isinstance(answer, NotReady):
            if is_head and answer.account is not None and answer.ready_at < inf:
                self._guards[answer.account] = HeadReservation(
                    answer.account, costs, answer.ready_at
                )
            scarce = of[answer.account] if answer.account is not None else None
            expires_at = min(answer.expires_at, now + ASKS_AGAIN_AFTER)
            return NotReady(scarce, answer.ready_at, expires_at)
        if is_head:
            self._guards.pop(answer.account, None)
        return self._granted(answer, of[answer.account], number, now)

    def _granted(
        self, taken: Reservation, account: Account, number: int, now: float
    ) -> Reservation:
        self._open[number] = taken, account
        for bucket in account.buckets:
            bucket.refill(now)
        marks = [bucket.take(taken.costs[bucket.metric]) for bucket in account.buckets]
        account.in_flight += 1
        account.granted += 1
        return Reservation(number, account, taken.costs, marks, taken.expires_at)

    def settle(self, settlement: Settlement, now: float) -> bool:
        """Take in what became of a reservation; return whether it is one of these."""
        reservation, used = settlement.reservation, settlement.used
        found = self._open.get(reservation.number)
        if found is None:
            if used is not None and reservation.state is ReservationState.OPEN:
                self._give_slots(reservation)
            return False
        taken, _ = found
        self._ledger.settle(Settlement(taken, used, (), settlement.outcome), now)
        if used is not None:
            del self._open[reservation.number]
        return True

    def _give_slots(self, reservation: Reservation) -> None:
        """A call ended that held its slots before."""
        for bucket, *_ in reservation.marks:
            part = self._parts.get(bucket)
            if part is not None and bucket.period is None:
                part.bucket.give_back(reservation.costs[bucket.metric])

    # What the server is to know

    def debts(self) -> Iterator[Debt]:
        """Return what is owed since it was told last."""
        by_account: dict[Account, list[tuple[str, float]]] = {}
        for part in self._parts.values():
            owed = part.owed()
            if owed:
                by_account.setdefault(part.account, []).append((wire.field(part.bucket), owed))
        for account, amounts in by_account.items():
            yield Debt(account, amounts)

    def open(self) -> Iterator[tuple[int, Account, Reservation]]:
        """Return the reservations that are not settled yet, each with its number and account."""
        for number, (taken, account) in self._open.items():
            if taken.state is ReservationState.OPEN:
                yield number, account, taken


def _set(
    bucket: TokenBucket, *, like: TokenBucket, level: float, capacity: float, now: float
) -> None:
    """Give a bucket another's rule, but a capacity of its own: what is left by its margin."""
    margin = 0.0
    if bucket.period is not None:
        margin = min(MARGIN * like.limit / bucket.period / like.price, capacity)
    bucket.mirror(
        level=level,
        limit=like.limit,
        ceiling=like.ceiling,
        throttle=like.throttle,
        burst=(capacity + margin) * like.price,
        price=like.price,
        now=now,
    )
