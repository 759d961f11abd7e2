"""One process's books of the shared ledger: its view, what waits to be told, and what it asks.

From them the steps are made that go to the server: a claim with the settlements that ride along,
or a batch of those alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from random import Random
from threading import Lock
from typing import Any, Final

from ..._clock import Clock
from ..._core.account import Account
from ..._core.bucket import Bucket
from ..._core.claims import Reservation, Settlement
from ..._core.ledger import LimitsFor
from ..._limits import Costs, Limits
from . import _wire as wire
from ._alone import Alone
from ._buffer import Batch, Buffer
from ._server import Part
from ._view import View

#: The least seconds for which an expired reservation is remembered.
KEEP: Final = 60.0

#: The keys and arguments of one run of a script.
Step = tuple[list[str], list[Part]]
#: What a claim wants of its accounts to be lent, in each metric; nothing = no share.
Wants = dict[Account, list[float]]


class Books:
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
        self.view = View(namespace, self._configured, lifetime=lifetime)
        self.buffer = Buffer()
        #: Whom to tell when an account has more than it seemed; called outside every lock.
        self.freed: Callable[[Account], bool] | None = None
        #: Claims may be lent a share.
        self.lends = False
        #: Steps that were run so far: round trips.
        self.steps = 0
        #: A clock for the script in place of the server's own.
        self.script_clock: Callable[[], float] | None = None
        self.by_owner = by_owner
        self.lifetime = lifetime
        self._clock = clock
        self._number = 0
        self._token = f"{Random().getrandbits(48):012x}"  # noqa: S311 - a name, not a secret

    def _configured(self, organization: str, project: str | None, family: str) -> Limits:
        limits_for = self.limits_for
        return Limits() if limits_for is None else limits_for(organization, project, family)

    # Names

    @property
    def process(self) -> str:
        """The name of this process in the server."""
        return f"{self._token}{os.getpid():x}"

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

    def header(self, **numbers: Any) -> wire.Header:
        """Return the numbers of a step."""
        clock = -1.0 if self.script_clock is None else wire.microseconds(self.script_clock())
        return wire.Header(
            lifetime=wire.microseconds(self.lifetime),
            keep=wire.microseconds(max(KEEP, self.lifetime)),
            clock=clock,
            **numbers,
        )

    def step(
        self,
        header: wire.Header,
        group: str,
        *,
        accounts: Iterable[Account] = (),
        wants: Wants | None = None,
        batch: Batch | None = None,
        number: int = 0,
        held: Reservation | None = None,
    ) -> Step:
        """Return a step: a claim on accounts, under a number, and the batch that rides along.

        `wants`: the shares that are wanted of them, if the header says for how long.
        """
        self.steps += 1
        accounts = list(accounts)
        known = [self.view.know(account) for account in accounts]
        keys = [one.prefix for one in known]
        parts: list[Part] = [
            header.packed(),
            self.process,
            self.identify(number),
            "" if held is None else self.identify(held.number),
        ]
        parts += [one.blob for one in known]
        if header.create:
            now = self._clock.now()
            parts += [self.view.hints(account, now) for account in accounts]
        if header.lends_for:
            parts += [wire.want((wants or {}).get(account, ())) for account in accounts]
        for ending in batch.endings if batch is not None else ():
            keys.append(self.view.prefix(ending.organization))
            parts += [ending.reservation_id, ending.numbers, ending.blob]
        holder = group if held is None else held.account.organization
        keys.append(wire.prefix(self.namespace, holder))
        keys.append(self.group_prefix(group))
        return keys, parts

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
            if self.lends:
                self.buffer.add(group, wire.share_ending(account.organization, name, blob, None))

    def tell_alone(self, alone: Alone, now: float, *, last: bool) -> None:
        """Put what this process spent on its own before all else; and what it holds, at the end."""
        if last:
            for number, account, taken in alone.open():
                known, left = self.view.know(account), max(0.0, taken.expires_at - now)
                levels = self.view.hints(account, now)
                name, whose = self.identify(number), account.organization
                ending = wire.kept(whose, name, known.blob, levels, taken.costs, left)
                self.buffer.add(self.group(whose), ending, first=True)
        for debt in alone.debts():
            account = debt.account
            known, levels = self.view.know(account), self.view.hints(account, now)
            ending = wire.spent(account.organization, known.blob, levels, debt.amounts)
            self.buffer.add(self.group(account.organization), ending, first=True)

    def carry_over(self, organization: str, into: str, now: float) -> None:
        """Merge two owners that the server can't: the one that stays has spent what the other did.

        Calls in flight settle with the one that stays.
        """
        seen: set[Bucket] = set()
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
            blob, levels = self.view.know(account).blob, self.view.hints(account, now)
            self.buffer.add(self.group(into), wire.spent(into, blob, levels, amounts))

    def next_batch(self) -> tuple[str, Batch, Step] | None:
        """Return a batch that is to be sent now, with its step; ``None`` = there is none."""
        group = self.buffer.first()
        batch = None if group is None else self.buffer.begin(group)
        if group is None or batch is None:
            return None
        header = self.header(batch=batch.number, settlements=len(batch.endings))
        return group, batch, self.step(header, group, batch=batch)

    def end_batch(
        self, group: str, batch: Batch | None, reply: wire.Reply, now: float
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
        owners = {batch.endings[index - 1].organization for index in reply.freed}
        return self.view.of(owners)

    def tell(self, accounts: Iterable[Account]) -> bool:
        """Tell the pool that accounts have more; whether any call waits for that. Takes no lock."""
        waiting = False
        if self.freed is not None:
            for account in accounts:
                waiting = self.freed(account) or waiting
        return waiting
