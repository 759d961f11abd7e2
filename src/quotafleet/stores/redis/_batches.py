"""One process's books of the shared ledger: its view, what waits to be told, and what it asks.

From them the steps are made that go to the server: a claim with the settlements that ride along,
or a batch of those alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from random import Random
from threading import Lock
from typing import Final

from ..._clock import Clock
from ..._core.quota.account import Account
from ..._core.quota.ledger import LimitsFor
from ..._core.quota.reservations import Settlement
from ..._core.quota.token_bucket import TokenBucket
from ...limits import Costs, Limits
from . import _codec as wire
from ._buffer import Batch, Buffer
from ._degraded import DegradedMode
from ._process import pid
from ._replica import Replica
from ._step import (
    ClaimRequest,
    Heading,
    Places,
    Round,
    StepAnswer,
    StepReply,
    claim,
    read,
    settlement,
    text_of,
)

LOGGER: Final = logging.getLogger("quotafleet")
#: The least seconds for which an expired reservation is remembered.
KEEP: Final = 60.0


class BatchBuilder:
    """The view, the buffer and the numbers of one store, under one lock.

    Args:
        namespace: the fleet.
        lifetime: seconds after which an unsettled reservation comes back.
        limits_for: the configured limits; ``None`` until a pool gives its own.
        clock: what tells this process's time.
        by_owner: the server is a cluster, where settlements of one owner only may ride together.
    """

    def __init__(
        self,
        namespace: str,
        *,
        lifetime: float,
        limits_for: LimitsFor | None,
        clock: Clock,
        by_owner: bool,
    ) -> None:
        self.lock = Lock()  # guards all that follows; held for arithmetic only
        self.namespace = namespace
        self.limits_for = limits_for
        self.view = Replica(namespace, self._configured, lifetime=lifetime)
        self.buffer = Buffer()
        #: Whom to tell when an account has more than it seemed; called outside every lock.
        self.freed: Callable[[Account], bool] | None = None
        #: For how many microseconds claims are lent shares, and which part of what is there.
        self.lends_for = 0.0
        self.fraction: Callable[[], float] = lambda: 0.0
        #: Steps that were run so far: round trips.
        self.steps = 0
        #: Keys and rows in the server that something else had damaged, and that were made again.
        self.repaired = 0
        self._warned_of_repairs = False
        #: A clock for the script in place of the server's own.
        self.script_clock: Callable[[], float] | None = None
        self.by_owner = by_owner
        self.lifetime = lifetime
        self._keep = max(KEEP, lifetime)
        self._own_time = wire.clock(-1.0, lifetime, self._keep)
        self._clock = clock
        self._number = 0
        self._token = f"{Random().getrandbits(48):012x}"  # noqa: S311 - a name, not a secret
        self._named = (0, "")

    def _configured(self, organization: str, project: str | None, family: str) -> Limits:
        limits_for = self.limits_for
        return Limits() if limits_for is None else limits_for(organization, project, family)

    # Names

    @property
    def process(self) -> str:
        """The name of this process in the server."""
        mine = pid()
        if self._named[0] != mine:
            self._named = mine, f"{self._token}{mine:x}"
        return self._named[1]

    def next_number(self) -> int:
        """Return the number of a new reservation."""
        self._number += 1
        return self._number

    def identify(self, number: int) -> str:
        """Return what a reservation is called in the server."""
        return f"{self.process}:{number}"

    def group(self, organization: str) -> str:
        """Return which settlements may ride together: in a cluster, those of one slot."""
        return organization if self.by_owner else ""

    def group_prefix(self, group: str) -> str:
        """Return what the keys of a group begin with."""
        return wire.prefix(self.namespace, group) if group else wire.fleet(self.namespace)

    # Steps

    def clock(self) -> bytes:
        """Return what each script that touches buckets reads first."""
        if self.script_clock is None:
            return self._own_time
        return wire.clock(wire.microseconds(self.script_clock()), self.lifetime, self._keep)

    def round(
        self,
        group: str,
        asks: Sequence[ClaimRequest] = (),
        *,
        waits: bool = False,
        leaves: str = "",
        batch: Batch | None = None,
    ) -> Round:
        """Return a step of a group: claims, and the batch that rides along.

        Args:
            group: whose claims and settlements may ride together.
            asks: the claims, in the order in which they are served.
            waits: this process stands in a row for slots.
            leaves: the prefix of the keys in whose row it waits no more.
            batch: the settlements that ride along.
        """
        self.steps += 1
        places = Places()
        settlements = [
            settlement(
                places.of(self.view.prefix(ending.organization), ending.blob),
                ending.reservation_id,
                ending.numbers,
            )
            for ending in (batch.endings if batch is not None else ())
        ]
        claims = [self._claim(ask, places, batch) for ask in asks]
        keys = places.keys
        if leaves:
            keys.append(leaves)
        heading = Heading(
            self.clock(), self.process, self.by_owner, waits, self.lends_for, self.fraction()
        )
        text = text_of(heading, batch, settlements, claims, places, len(keys) if leaves else 0)
        keys.append(self.group_prefix(group))
        return Round(group, asks, batch, keys, text, places.accounts, self._clock.now())

    def _claim(self, ask: ClaimRequest, places: Places, batch: Batch | None) -> bytes:
        known = self.view.know
        now = self._clock.now() if ask.create else 0.0
        ranking = [
            places.candidate(
                account, known(account), self._hints(account, now, batch) if ask.create else None
            )
            for account in ask.accounts
        ]
        held = ask.held
        if held is None:
            return claim(ask, self.identify(ask.number), ranking, 0, "")
        whose = known(held.account)
        holder = places.of(whose.prefix, whose.blob)
        return claim(ask, self.identify(ask.number), ranking, holder, self.identify(held.number))

    def _hints(self, account: Account, now: float, batch: Batch | None = None) -> bytes:
        return self.view.hints(account, self.buffer.others(batch), now)

    def arrived(
        self, sent: Round, answer: bytes, now: float
    ) -> tuple[list[StepAnswer], list[Account]]:
        """Take in what a step answered; returns that, and the accounts that have more."""
        reply = read(answer)
        self.repaired += reply.repaired
        for place, names, numbers in reply.views:
            self.view.show(sent.accounts[place], names, numbers, now)
        return reply.answers, self._end_batch(sent.group, sent.batch, reply, now)

    # Settlements on their way

    def put(self, settlement: Settlement, now: float) -> None:
        """Put a settlement into the buffer."""
        reservation = settlement.reservation
        ending = self.view.ending(settlement, self.identify(reservation.number), now)
        self.buffer.add(self.group(reservation.account.organization), ending)

    def undo(self, accounts: Iterable[Account], number: int, costs: Costs) -> None:
        """Take back a claim whose answer was lost, wherever it was granted."""
        for account in {a.organization: a for a in accounts}.values():
            blob = self.view.know(account).blob
            group, name = self.group(account.organization), self.identify(number)
            undoing = wire.undoing(account.organization, name, blob, costs)
            self.buffer.add(group, undoing)
            if self.lends_for:
                self.buffer.add(group, wire.share_ending(account.organization, name, blob, None))

    def tell_alone(self, alone: DegradedMode, now: float, *, last: bool) -> None:
        """Put what this process spent on its own before all else; and what it holds, at the end."""
        if last:
            for number, account, taken in alone.open():
                known, left = self.view.know(account), max(0.0, taken.expires_at - now)
                levels = self._hints(account, now)
                name, whose = self.identify(number), account.organization
                ending = wire.kept(whose, name, known.blob, levels, taken.costs, left)
                self.buffer.add(self.group(whose), ending, first=True)
        for debt in alone.debts():
            account = debt.account
            known, levels = self.view.know(account), self._hints(account, now)
            ending = wire.spent(account.organization, known.blob, levels, debt.amounts)
            self.buffer.add(self.group(account.organization), ending, first=True)

    def carry_over(self, organization: str, into: str, now: float) -> None:
        """Merge two owners that the server can't: the one that stays has spent what the other did.

        Calls in flight settle with the one that stays.
        """
        seen: set[TokenBucket] = set()
        spent: list[tuple[Account, list[tuple[str, float]]]] = []
        for account in self.view.of({organization}):
            buckets = [bucket for bucket in account.buckets if bucket not in seen]
            seen.update(buckets)
            for bucket in buckets:
                bucket.refill(now)
            spent.append((account, [(wire.field(b), b.capacity - b.level) for b in buckets]))
        self.view.merge(organization, into, now)
        for gone, amounts in spent:
            account = self.view.account(into, gone.project, gone.family, now)
            blob, levels = self.view.know(account).blob, self._hints(account, now)
            self.buffer.add(self.group(into), wire.spent(into, blob, levels, amounts))

    def _end_batch(
        self, group: str, batch: Batch | None, reply: StepReply, now: float
    ) -> list[Account]:
        """Take in what came of a batch: what moved is sent again, what has room is returned."""
        if batch is None:
            return []
        self.buffer.done(group, batch)
        for index, target in reply.moved:
            ending = batch.endings[index]
            if self.view.resolve(ending.organization) == ending.organization:
                self.view.merge(ending.organization, target, now)
            self.buffer.add(self.group(target), ending)
        if not reply.freed:
            return []
        return self.view.of({batch.endings[index - 1].organization for index in reply.freed})

    def tell(self, accounts: Iterable[Account]) -> bool:
        """Tell the pool that accounts have more; whether any call waits for that. Takes no lock."""
        if self.repaired and not self._warned_of_repairs:
            self._warned_of_repairs = True
            LOGGER.warning(
                "Redis held damaged data of the fleet %r: %d keys or rows were made again from "
                "what this process knows. Does something else write to keys that begin with %r?",
                self.namespace,
                self.repaired,
                wire.fleet(self.namespace),
            )
        waiting = False
        if self.freed is not None:
            for account in accounts:
                waiting = self.freed(account) or waiting
        return waiting
