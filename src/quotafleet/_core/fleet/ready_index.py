"""Which of many owners may fit a call now, without a look at each.

Theory of operation. While calls wait, nearly every owner is short, and to ask each of n when it
will be ready costs n looks for every grant. A *ready index* keeps the owners of one candidate set
in a heap by the instant when each is ready for one size of call. That instant moves later when
something is taken from the owner, which is noticed when it comes up, and earlier only when
something comes back to it, which `put` is told. So a claim looks at the few whose instant has
come.

It is kept for a *size*: costs of one power of two share one, so that a small call isn't told to
wait for what a large one needs. Within a size the instant is that of the call that last asked. And
it is kept for a second, or for `KEPT_FOR` an owner, at most: what no one told it of is found then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

from ...limits import Costs
from ..quota.account import Account
from ..quota.reservations import NotReady

#: Owners of a candidate set below which a look at each is cheaper: 64 looks take some 30 us.
MANY: Final = 64
#: Owners that a claim is given at a time.
AT_A_TIME: Final = 16
#: Seconds for each owner after which it is laid anew: a look at each takes a microsecond or two.
KEPT_FOR: Final = 0.001


def size_of(costs: Costs) -> tuple[int, ...]:
    """Return which sizes count as one: each cost up to the next power of two."""
    return tuple(int(cost).bit_length() for cost in costs)


class ReadyIndex:
    """The owners of one candidate set, by when they are ready for calls of one size."""

    __slots__ = ("_at", "_costs", "_heap", "_made_at", "_number")

    def __init__(self, accounts: Iterable[Account], costs: Costs, now: float) -> None:
        self._costs = costs
        self._made_at = now
        #: The instant that counts; entries of the heap with another are out of date.
        self._at = {account: account.ready_at(costs, now) for account in accounts}
        self._heap = [(at, number, one) for number, (one, at) in enumerate(self._at.items())]
        self._number = len(self._heap)
        heapify(self._heap)

    def is_old(self, now: float) -> bool:
        """Whether it should be laid anew."""
        return not 0 <= now - self._made_at < max(1.0, KEPT_FOR * len(self._at))

    def add(self, account: Account) -> None:
        """Take in an owner that has become usable; a claim will find out when it is ready."""
        self._push(account, -inf)

    def drop(self, account: Account) -> None:
        """Take out an owner that isn't usable any more."""
        self._at.pop(account, None)

    def put(self, account: Account, now: float) -> None:
        """Take in that something was taken from an owner, or came back to it."""
        if account in self._at:
            self._push(account, account.ready_at(self._costs, now))

    def _push(self, account: Account, at: float) -> None:
        self._at[account] = at
        self._number += 1
        heappush(self._heap, (at, self._number, account))

    def due(self, now: float) -> list[Account]:
        """Return owners whose instant has come. They stay due until they are `put`."""
        found: dict[Account, float] = {}
        while len(found) < AT_A_TIME:
            at, account = self.first()
            if account is None or at > now:
                break
            heappop(self._heap)
            found[account] = at
        for account, at in found.items():
            self._push(account, at)
        return list(found)

    def short(self, due: Sequence[Account], costs: Costs, answer: NotReady, now: float) -> NotReady:
        """Return what an answer means for all owners: the claim was given only those `due`.

        Before its instant none of them fits, though one may hold enough: it is kept for another
        call.
        """
        for account in due:
            at = account.ready_at(costs, now)
            self._push(account, at if at > now else answer.ready_at)
        ready_at, first = self.first()
        return NotReady(first, ready_at, answer.expires_at)

    def first(self) -> tuple[float, Account | None]:
        """Return the earliest instant and its owner; infinite = no call of this size fits any."""
        heap = self._heap
        while heap:
            at, _, account = heap[0]
            if self._at.get(account) == at:
                return at, account if at < inf else None
            heappop(heap)
        return inf, None
