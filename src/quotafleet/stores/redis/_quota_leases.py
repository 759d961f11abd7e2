"""Shares: what a process may spend of an owner by itself, for a moment, without asking the server.

Theory of operation. A claim that goes to the server may *want* a share of the account that grants
it: the server takes it from all the account's buckets at once, as it does a reservation, and says
how much of what was wanted it lends. Calls then take their *portions* from the share, and what they
used less comes back to it: no round trip. After `share_for` seconds the process spends no more of
it, and what is left goes back with its next claim, or by the companion.

*Never too many.* All that a share lets through was taken in the server before. A bucket that is
full gains nothing meanwhile for what is lent, since the provider's may be full too: the server
lowers its top (`booked`) until the share is given back, or for `GRACE` longer than it lasts. What
is given back later than that is gone.

*What a crash costs.* What was lent does not come back when a process dies: it may have been used.
So at most one share of each account is lost, once; the bucket refills.

*How large.* As much as this process used lately in `share_for`, and some more; at first `FIRST`
calls, and at most `GROWTH` times the last one. The server lends at most half of what is there,
divided by the number of processes; where that would be less than two calls, or the owner refused
lately, it lends nothing, and each call asks. So scarcity is shared by the order of asking.

Calls in flight are not lent: an account with a limit that doesn't refill is asked for each call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from ..._clock import Clock
from ..._core.quota.account import Account
from ..._core.quota.reservations import Claim, Reservation, ReservationState, Settlement
from ..._core.quota.token_bucket import Mark, TokenBucket
from ...errors import ConfigError
from ...limits import Costs
from . import _codec as wire
from ._batches import BatchBuilder
from ._process import pid
from ._replica import LeasedReservation
from ._step import StepAnswer, Wants

#: Seconds after a share's end for which the server still takes it for lent: a return within them
#: is taken in. The companion brings it within one; the rest is for a server that is slow.
GRACE: Final = 2.0
#: Seconds for which a share may last: others wait so long for what this process doesn't use.
LONGEST: Final = 60.0
#: Calls of the first share.
FIRST: Final = 8
#: A share is at most so many times the one before.
GROWTH: Final = 8.0
#: What is wanted more than was used lately.
SPARE: Final = 1.25
#: Seconds between two answers of an account whose headers are brought to the server.
TELLS_EVERY: Final = 0.1
#: The part of what an owner has that all shares together may be lent, at most.
AT_MOST: Final = 0.5


class QuotaLease:
    """What was lent of one account, and what is left of it."""

    __slots__ = (
        "account",
        "amounts",
        "buckets",
        "ends_at",
        "expires_at",
        "left",
        "lent_at",
        "marks",
        "metrics",
        "number",
        "since",
    )

    def __init__(
        self,
        account: Account,
        first: Reservation,
        amounts: list[float],
        *,
        since: float,
        lasts_for: float,
        lent_at: float,
    ) -> None:
        self.account = account
        self.number = first.number
        self.amounts = amounts
        self.left = list(amounts)
        #: Those that its limits count.
        self.metrics = tuple({bucket.metric for bucket in account.buckets})
        #: The limits that it was taken from: with another one known it is over.
        self.buckets: tuple[TokenBucket, ...] = account.buckets
        self.since = since
        self.ends_at = since + lasts_for
        #: Its portions' marks: the moment when all of it was taken.
        self.marks: list[Mark] = first.marks
        self.expires_at = first.expires_at
        self.lent_at = lent_at

    def fits(self, costs: Costs, now: float) -> bool:
        """Whether a call may be granted from it."""
        if now >= self.ends_at or self.account.buckets is not self.buckets:
            return False
        left = self.left
        return all(costs[metric] <= left[metric] for metric in self.metrics)

    def used_in(self, seconds: float, now: float) -> list[float]:
        """Return what would be used in so many seconds, at the pace up to now."""
        factor = seconds / max(now - self.since, 1e-4)
        return [
            max(0.0, lent - left) * factor
            for lent, left in zip(self.amounts, self.left, strict=True)
        ]


def shares_of(
    books: BatchBuilder, lasts_for: float, clock: Clock, processes: Callable[[], int]
) -> QuotaLeases | None:
    """Return the shares of a process; ``None`` = every call asks.

    Raises:
        ConfigError: `lasts_for` is negative, or longer than `LONGEST`.
    """
    if not 0 <= lasts_for <= LONGEST:
        raise ConfigError(
            f"share_for must be 0 to {LONGEST:g} seconds, not {lasts_for!r}",
            cure="A share longer than a second or so makes other processes wait for what it holds",
        )
    if lasts_for == 0:
        return None
    return QuotaLeases(books, lasts_for=lasts_for, clock=clock, processes=processes)


class QuotaLeases:
    """The shares of one process. Its books' lock guards them.

    Args:
        books: what this process holds.
        lasts_for: seconds for which a share may be spent.
        clock: what tells this process's time.
        processes: returns how many processes the fleet has, as far as is known.
    """

    def __init__(
        self, books: BatchBuilder, *, lasts_for: float, clock: Clock, processes: Callable[[], int]
    ) -> None:
        self._books = books
        self._lasts_for = lasts_for
        books.lends_for = wire.microseconds(lasts_for + GRACE)
        books.fraction = self._fraction
        self._clock = clock
        self._pid = pid()
        self._of: dict[Account, QuotaLease] = {}
        #: What is to be wanted next of accounts whose share is over.
        self._paces: dict[Account, list[float]] = {}
        #: Accounts of which a claim on its way wants a share: one at a time.
        self._asking: set[Account] = set()
        self._told_at: dict[Account, float] = {}
        self._processes = processes

    # Spending

    def grant(self, claim: Claim, now: float) -> LeasedReservation | None:
        """Grant a claim without asking the server; ``None`` = it must be asked.

        The ranking stands: an account is passed over only if it has nothing, as far as is known.
        """
        if self._pid != pid():
            self._forked()
        costs = claim.costs
        for account in claim.accounts:
            share = self._of.get(account)
            if (
                share is not None and now < share.ends_at and account.buckets is share.buckets
            ):  # the hot path: `fits` written out
                left = share.left
                for metric in share.metrics:
                    if costs[metric] > left[metric]:
                        break
                else:
                    for metric in share.metrics:
                        left[metric] -= costs[metric]
                    account.in_flight += 1
                    account.granted += 1
                    number = self._books.next_number()
                    marks, expires_at = share.marks, share.expires_at
                    return LeasedReservation(
                        number, account, costs, marks, expires_at, share.lent_at
                    )
            if account.ready_at(costs, now) <= now:
                return None
        return None

    def before(self, accounts: Sequence[Account], costs: Costs, now: float) -> int | None:
        """Return how many accounts come before the first whose share fits; ``None`` = none does."""
        for index, account in enumerate(accounts):
            share = self._of.get(account)
            if share is not None and share.fits(costs, now):
                return index
        return None

    def settle(self, settlement: Settlement, now: float) -> bool | None:
        """Take in what became of a portion, if no more than its share need know of it.

        ``None``: the server is to be told, as of any other reservation.
        """
        portion, used = settlement.reservation, settlement.used
        account = portion.account
        share = self._of.get(account)
        if settlement.outcome is not None:
            if share is not None:  # a refusal: what is lent is wrong by we don't know how much
                self._end(share, now)
            return None
        if settlement.readings and not portion.answered and self._tells(account, now):
            return None
        if used is None:
            portion.answered = portion.answered or bool(settlement.readings)
            return False
        if portion.state is ReservationState.SETTLED:
            return False
        freed: bool | None = False
        if share is not None:
            freed = self._fold(share, portion.costs, used, now)
        elif any(portion.costs[b.metric] != used[b.metric] for b in account.buckets):
            freed = None
        if freed is not None:
            portion.state, portion.answered = ReservationState.SETTLED, True
            account.in_flight -= 1
        return freed

    def _fold(self, share: QuotaLease, costs: Costs, used: Costs, now: float) -> bool | None:
        """Take what a call used less or more into a share; ``None`` = that has no room for it."""
        left, changed, freed = share.left, [], False
        for metric in share.metrics:
            back = costs[metric] - used[metric]
            if back:
                then = left[metric] + back
                if then < 0:  # more than there is: the debt is told, with all that is left
                    self._end(share, now)
                    return None
                if then > share.amounts[metric]:
                    return None
                changed.append((metric, then))
                freed = freed or back > 0
        for metric, then in changed:
            left[metric] = then
        return freed

    def _tells(self, account: Account, now: float) -> bool:
        if now < self._told_at.get(account, -inf) + TELLS_EVERY:
            return False
        self._told_at[account] = now
        return True

    # Borrowing

    def want(self, accounts: Sequence[Account], costs: Costs, now: float) -> Wants:
        """Return what a claim on these accounts wants of each, for `asked` to end it.

        Shares that can't serve such a call are given back with it.
        """
        wants = {account: self._want(account, costs, now) for account in accounts}
        self._asking.update(account for account, amounts in wants.items() if amounts)
        return wants

    def _want(self, account: Account, costs: Costs, now: float) -> list[float]:
        if account in self._asking:
            return []
        share = self._of.get(account)
        if share is not None:
            if share.fits(costs, now):
                return []
            self._end(share, now)
        if not account.buckets or any(bucket.period is None for bucket in account.buckets):
            return []
        pace = self._paces.pop(account, wire.UNUSED)
        return [max(FIRST * cost, SPARE * used) for cost, used in zip(costs, pace, strict=True)]

    def asked(self, wants: Wants) -> None:
        """Let other claims want shares of these accounts again."""
        self._asking.difference_update(account for account, amounts in wants.items() if amounts)

    def _fraction(self) -> float:
        """Which part of what there is the server may lend."""
        return AT_MOST / self._processes()

    def lent(
        self, reservation: Reservation, wants: Wants, answered: StepAnswer, sent_at: float
    ) -> None:
        """Take in the share that was lent along with a reservation."""
        account = reservation.account
        self._of[account] = QuotaLease(
            account,
            reservation,
            [int(amount * answered.part * 1e6) / 1e6 for amount in wants[account]],
            since=sent_at,
            lasts_for=self._lasts_for,
            lent_at=answered.lent_at,
        )

    # Giving back

    def _end(self, share: QuotaLease, now: float) -> None:
        if self._of.get(share.account) is share:
            del self._of[share.account]
            self._put(share, now)

    def _put(self, share: QuotaLease, now: float) -> None:
        """Put what is left into the buffer."""
        account = share.account
        most = (GROWTH * amount for amount in share.amounts)
        used = share.used_in(self._lasts_for, min(now, share.ends_at))
        self._paces[account] = [min(pace) for pace in zip(used, most, strict=True)]
        blob = self._books.view.know(account).blob
        number = self._books.identify(share.number)
        ending = wire.share_ending(account.organization, number, blob, share.left)
        self._books.buffer.add(self._books.group(account.organization), ending)

    def give_back(self, organizations: set[str] | None = None, *, ended_at: float = inf) -> bool:
        """Give back shares: of some organizations, that have ended; returns whether any was."""
        now = self._clock.now()
        over = [
            share
            for share in self._of.values()
            if share.ends_at <= ended_at
            and (organizations is None or share.account.organization in organizations)
        ]
        for share in over:
            self._end(share, now)
        return bool(over)

    def holds(self, organizations: set[str]) -> bool:
        """Whether there is a share of any of these organizations."""
        return any(account.organization in organizations for account in self._of)

    def next_end(self) -> float:
        """Return the instant when a share ends next; infinite = there is none."""
        return min((share.ends_at for share in self._of.values()), default=inf)

    def _forked(self) -> None:
        """Leave to the parent what it was lent."""
        self._pid = pid()
        self._of.clear()
        self._asking.clear()
