"""The store itself: one conversation with the server for each claim, and the buffer beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from math import inf
from random import Random
from threading import Lock
from typing import Any, Final

from ..._clock import Clock, SystemClock
from ..._core.bucket import Mark
from ..._core.health import News
from ..._core.ledger import (
    LIFETIME,
    Account,
    Answer,
    Claim,
    LimitsFor,
    Oversize,
    Reservation,
    Settlement,
    Short,
    State,
)
from ..._keys import ApiKey
from ..._limits import Costs, Limits
from ..._protocols import Member
from ...errors import ConfigError, StoreError
from . import _wire as wire
from ._away import Absence, OnFailure, waits_out
from ._buffer import Batch, Buffer
from ._companion import Companion
from ._health import Health
from ._server import MERGE, Lost, Part, Reply, Server, Unready
from ._view import View

#: Seconds to wait for a connection or an answer; a step takes well under a millisecond.
TIMEOUT: Final = 2.0
#: The least seconds for which an expired reservation is remembered.
KEEP: Final = 60.0
#: Seconds after which a call that waits for a slot asks again, in case a message was lost.
ASKS_AGAIN_AFTER: Final = 5.0
#: The same where messages don't come: in the first moments, and in a cluster.
LISTENS_WITHIN: Final = 0.1
#: Claims of one conversation: an owner that was merged, a bucket to be made, an answer lost.
TURNS: Final = 8

#: What a conversation asks of the server, and the answer.
Step = tuple[list[str], list[Part]]
Talk = Generator[Step, Reply, Answer]


class RedisStore:
    """The ledger of a fleet, in Redis 6.2 or later, or Valkey.

    Args:
        url: where it is: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``,
            ``redis+cluster://``; see `docs/configuration.md`. It may hold a password, and is never
            shown.
        namespace: fleets of one server with different names don't see each other.
        lifetime: seconds after which an unsettled reservation comes back.
        timeout: seconds to wait for a connection or an answer.
        on_failure: what calls do while the server is away: ``"wait"`` as for headroom, or
            ``"fail"`` with `StoreError`.
        limits_for: the configured limits of an organization (project ``None``) or project, for one
            model family. A pool gives its own.
        clock: what tells this process's time.

    Raises:
        ConfigError: a URL that can't be read, an empty namespace, another `on_failure`.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        lifetime: float = LIFETIME,
        timeout: float = TIMEOUT,
        on_failure: OnFailure = "wait",
        limits_for: LimitsFor | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not namespace:
            raise ConfigError("the store's namespace is empty", cure="Leave it out, or name it")
        self._server = Server(url, timeout=timeout)
        self._namespace = namespace
        self._lifetime = lifetime
        self._limits_for = limits_for
        self._clock = clock or SystemClock()
        self._lock = Lock()  # guards the view, the buffer and the numbers; for arithmetic only
        self._view = View(namespace, self._configured, lifetime=lifetime)
        self._flushing = Lock()  # held while batches are brought over
        self._buffer = Buffer()
        self._waits_out = waits_out(on_failure)
        self._absence = Absence()
        #: Organizations that are to be merged once the server is back.
        self._merges: list[tuple[str, str]] = []
        self._number = 0
        self._token = f"{Random().getrandbits(48):012x}"  # noqa: S311 - a name, not a secret
        self._companion = Companion(self._flushed, self._subscribe, self._heard)
        self._health = Health(
            self._server,
            namespace,
            process=lambda: self.process,
            clock=self._clock,
            merged=self._merged_elsewhere,
            in_flight=self._in_flight,
        )
        #: Bookings whose exchange is under way, with what is to become of them afterwards.
        self._exchanged: dict[int, Settlement | None] = {}
        self._freed: Callable[[Account], bool] | None = None
        self._waits = False
        self._booked_until = -inf
        #: Steps that were run so far: round trips.
        self.steps = 0
        #: A clock for the script in place of the server's own; for tests that compare stores.
        self.script_clock: Callable[[], float] | None = None

    def __repr__(self) -> str:
        return f"<RedisStore {self._server!r} namespace={self._namespace!r}>"

    @property
    def is_local(self) -> bool:
        """It takes a round trip to answer."""
        return False

    def bind(self, limits_for: LimitsFor, freed: Callable[[Account], bool]) -> None:
        """Serve a pool: its limits, and whom to tell when an account has more than it seemed.

        `freed` is called in a thread of the store's; it returns whether any call waits for that.
        """
        self._limits_for = limits_for
        self._freed = freed

    def join(self, member: Member) -> None:
        """Let a pool hear what other processes find out, from its first claim on."""
        self._health.join(member)

    def tell(self, news: Sequence[News]) -> None:
        """Tell the other processes, and ask for leave to probe. Never blocks."""
        self._health.tell(news)

    def _configured(self, organization: str, project: str | None, family: str) -> Limits:
        limits_for = self._limits_for
        return Limits() if limits_for is None else limits_for(organization, project, family)

    @property
    def process(self) -> str:
        """The name of this process in the server."""
        return f"{self._token}{os.getpid():x}"

    # The view

    def account(self, key: ApiKey, family: str, now: float) -> Account:
        """Return this process's view of what the key's owner may spend on a model family."""
        with self._lock:
            return self._view.account(key.organization, key.project, family, now)

    def merge(self, organization: str, into: str, now: float) -> None:
        """Make two organizations one: the provider says that they are.

        Raises:
            StoreError: the server refuses, or is away and `on_failure` is ``"fail"``. Else this is
                done once it is back.
        """
        if self._absence.away is None:
            try:
                self._merge(organization, into, now)
                return
            except Unready:
                if not self._waits_out:
                    raise
        with self._lock:
            self._merges.append((organization, into))
        self._companion.nudge(soon=True)

    def _merge(self, organization: str, into: str, now: float) -> None:
        with self._lock:
            organization, into = self._view.resolve(organization), self._view.resolve(into)
        if organization == into:
            return
        self._flush(tells=False)  # who waits is woken once the keys have their new owners
        for _ in range(TURNS):
            if self._server.is_cluster:  # there the two may be on different servers
                break
            keys = [wire.prefix(self._namespace, name) for name in (organization, into)]
            which, *target = self._server.step(keys, [self._header().packed(), into], MERGE)
            if not target:
                break
            moved = (organization, into)[int(which) - 1]
            with self._lock:  # another process was first, perhaps the other way round
                self._view.merge(moved, target[0].decode(), now)
                organization, into = self._view.resolve(organization), self._view.resolve(into)
            if organization == into:
                return
        with self._lock:
            self._view.merge(organization, into, now)
        self._health.merged(organization, into)

    def _in_flight(self) -> int:
        with self._lock:
            return self._view.in_flight

    def _merged_elsewhere(self, organization: str, into: str) -> None:
        with self._lock:
            self._view.merge(organization, into, self._clock.now())

    # Reserve

    def reserve(self, claim: Claim, now: float) -> Answer:
        """Reserve the claim's costs on its first account that fits, or say when one will.

        Raises:
            StoreError: the server refuses, or is away and `on_failure` is ``"fail"``.
        """
        if self._health.is_new(claim) and self._health.read():
            return Short(None, now)  # what was ranked is not what is usable: rank again
        talk = self._talk(claim)
        try:
            step = next(talk)
            while True:
                try:
                    reply = self._server.step(*step)
                except StoreError as error:
                    step = talk.throw(error)
                else:
                    step = talk.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def areserve(self, claim: Claim, now: float) -> Answer:
        """Do as `reserve`, without blocking the event loop."""
        if self._health.is_new(claim) and await self._health.aread():
            return Short(None, now)
        talk = self._talk(claim)
        try:
            step = next(talk)
            while True:
                try:
                    reply = await self._server.astep(*step)
                except StoreError as error:
                    step = talk.throw(error)
                else:
                    step = talk.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _talk(self, claim: Claim) -> Talk:
        """Claim; what a driver does is to carry the steps over and back."""
        held = claim.held
        if claim.dropped is not None:
            self.settle(Settlement(claim.dropped, wire.UNUSED), self._clock.now())
        accounts = list(claim.accounts)
        if held is not None:
            with self._lock:
                if held.state is not State.OPEN:
                    held = None
                else:
                    self._exchanged[held.number] = None
        try:
            if self._waits_out:
                absent = yield from self._absent(accounts, held)
                if absent is not None:
                    self._exchange(held, kept=True)
                    return absent
            if not self._server.is_cluster:
                answer = yield from self._ask(accounts, claim, claim.books_for, held)
            else:
                answer = yield from self._ask_each(accounts, claim, held)
        except BaseException as error:  # also cancellation: no booking is left half exchanged
            lost = not isinstance(error, StoreError) or isinstance(error, Lost)
            if lost and held is not None:  # it may be exchanged or not: neither is used
                self._take_back(held)
            self._exchange(held, kept=not lost)
            if not self._waits_out or not isinstance(error, Unready):
                raise
            return self._short_since(error, None if lost else held)
        kept = isinstance(answer, Short) and answer.booking is held
        self._exchange(held, kept=kept)
        return answer

    def _absent(
        self, accounts: list[Account], held: Reservation | None
    ) -> Generator[Step, Reply, Short | None]:
        """Return what a claim gets without asking while the server is away; ``None`` = ask it.

        An empty step goes first, so that nothing need be undone if that isn't answered either.
        """
        with self._lock:
            if self._absence.away is None or not accounts:
                return None
            if self._absence.holds_back(self._clock.now()):
                return self._absence.answer(held)
            self.steps += 1
            group = self._group(accounts[0].organization)
            step = self._step(self._header(), [], None, 0, None, group)
        try:
            yield step
        except Unready as error:
            return self._short_since(error, held)
        return None

    def _short_since(self, error: Unready, held: Reservation | None) -> Short:
        with self._lock:
            return self._absence.failed(str(error), self._clock.now(), held)

    def _is_back(self) -> None:
        """Let those that wait for the server ask it, if it was away. Not under a pool's lock."""
        with self._lock:
            accounts = self._view.all() if self._absence.ended() else ()
        self._tell(accounts)

    def _exchange(self, held: Reservation | None, *, kept: bool) -> None:
        """End an exchange. A booking that was given up for another is settled by that."""
        if held is None:
            return
        with self._lock:
            settlement = self._exchanged.pop(held.number)
            if not kept:
                held.state = State.SETTLED
                held.account.in_flight -= 1
        if kept and settlement is not None:
            self.settle(settlement, self._clock.now())

    def _ask_each(self, accounts: list[Account], claim: Claim, held: Reservation | None) -> Talk:
        """Ask a cluster, where an organization is one slot: one after the other, then the best."""
        best: Short | None = None
        oversize: Oversize | None = None
        by_owner: dict[str, list[Account]] = {}
        for account in accounts:
            by_owner.setdefault(account.organization, []).append(account)
        for some in by_owner.values():
            answer = yield from self._ask(some, claim, 0.0, None)
            if isinstance(answer, Reservation):
                if held is not None:
                    self._take_back(held)
                return answer
            if isinstance(answer, Oversize):
                if oversize is None or answer.bucket.limit > oversize.bucket.limit:
                    oversize = answer
            elif best is None or answer.ready_at < best.ready_at:
                best = answer
        if best is None:
            return oversize if oversize is not None else Short(None, inf)
        if held is not None and held.starts_at <= best.ready_at:
            return Short(held.account, held.starts_at, booking=held)
        if best.account is None or not claim.books_for > 0:
            return best
        booked = yield from self._ask([best.account], claim, claim.books_for, None)
        if held is not None:
            self._take_back(held)
        return booked

    def _take_back(self, held: Reservation) -> None:
        """Give a booking back that another was granted for."""
        with self._lock:
            self._put(Settlement(held, wire.UNUSED), self._clock.now())
        self._companion.nudge(soon=True)

    def _group(self, organization: str) -> str:
        """Return which settlements may ride together: in a cluster, those of one slot."""
        return organization if self._server.is_cluster else ""

    def _group_prefix(self, group: str) -> str:
        if group:
            return wire.prefix(self._namespace, group)
        return wire.fleet(self._namespace)

    def _ask(
        self, accounts: list[Account], claim: Claim, books_for: float, held: Reservation | None
    ) -> Talk:
        create = again = False
        with self._lock:
            self._number += 1
            number = self._number
        for _ in range(TURNS):
            if not accounts:
                return Short(None, inf)
            group = self._group(accounts[0].organization)
            waits = self._companion.listening.is_set()
            with self._lock:
                batch = self._buffer.begin(group)
                header = self._header(
                    batch=batch.number if batch else -1,
                    settlements=len(batch.endings) if batch else 0,
                    candidates=len(accounts),
                    create=create,
                    again=again,
                    horizon=wire.microseconds(books_for) if books_for > 0 else -1,
                    waits=waits and books_for > 0,
                    waited=self._waits,
                    costs=claim.costs,
                )
                step = self._step(header, accounts, batch, number, held, group)
                self.steps += 1
            sent_at = self._clock.now()
            try:
                raw = yield step
            except StoreError as error:
                with self._lock:
                    self._buffer.failed(batch)
                    once = again or held is not None or self._absence.away is not None
                    if once or not isinstance(error, Lost):
                        self._undo(accounts, number, claim.costs)
                        raise
                again = True
                continue
            except BaseException:  # also cancellation: what was granted must come back
                with self._lock:
                    self._buffer.failed(batch)
                    self._undo(accounts, number, claim.costs)
                raise
            reply = wire.read(raw)
            now = self._clock.now()
            with self._lock:
                freed = self._end_batch(group, batch, reply, now)
            self._tell(freed)
            if self._absence.away is not None:
                self._is_back()
            if reply.what == wire.MOVED:
                with self._lock:
                    self._view.merge(accounts[reply.which].organization, reply.name, now)
                    accounts = self._view.resolved(accounts, now)
            elif reply.what == wire.MISSING:
                create = True
            else:
                with self._lock:
                    return self._answer(accounts, claim, reply, number, held, sent_at, now)
        raise StoreError("Redis gave no answer to a claim: is something else writing to its keys?")

    def _header(self, **numbers: Any) -> wire.Header:
        clock = -1.0 if self.script_clock is None else wire.microseconds(self.script_clock())
        return wire.Header(
            lifetime=wire.microseconds(self._lifetime),
            keep=wire.microseconds(max(KEEP, self._lifetime)),
            clock=clock,
            **numbers,
        )

    def _step(
        self,
        header: wire.Header,
        accounts: list[Account],
        batch: Batch | None,
        number: int,
        held: Reservation | None,
        group: str,
    ) -> Step:
        known = [self._view.know(account) for account in accounts]
        keys = [one.prefix for one in known]
        parts: list[Part] = [
            header.packed(),
            self.process,
            self._id(number),
            "" if held is None else self._id(held.number),
        ]
        parts += [one.blob for one in known]
        if header.create:
            now = self._clock.now()
            parts += [self._view.hints(account, now) for account in accounts]
        for ending in batch.endings if batch is not None else ():
            keys.append(self._view.prefix(ending.organization))
            parts += [ending.reservation_id, ending.numbers, ending.blob]
        holder = group if held is None else held.account.organization
        keys.append(wire.prefix(self._namespace, holder))
        keys.append(self._group_prefix(group))
        return keys, parts

    def _id(self, number: int) -> str:
        return f"{self.process}:{number}"

    def _answer(
        self,
        accounts: list[Account],
        claim: Claim,
        reply: wire.Reply,
        number: int,
        held: Reservation | None,
        sent_at: float,
        now: float,
    ) -> Answer:
        marks: list[Mark] = []
        for index, (names, numbers) in enumerate(reply.views):
            # A repeated claim's answer shows only the account that it was granted on.
            which = reply.which if len(reply.views) == 1 else index
            seen = self._view.show(accounts[which], names, numbers, now)
            if which == reply.which:
                marks = seen
        account = accounts[reply.which] if reply.which >= 0 else None
        if reply.what == wire.GRANTED and account is not None:
            self._waits = False
            reservation = self._view.granted(account, claim.costs, marks, number, reply, sent_at)
            if reply.after <= 0:
                return reservation
            reservation.starts_at = now + reply.after
            self._booked_until = max(self._booked_until, reservation.starts_at)
            return Short(account, reservation.starts_at, booking=reservation)
        if reply.what == wire.OVERSIZE and account is not None:
            return Oversize(account, self._view.bucket(account, reply.name))
        return self._short(account, reply, claim, held, now)

    def _short(
        self,
        account: Account | None,
        reply: wire.Reply,
        claim: Claim,
        held: Reservation | None,
        now: float,
    ) -> Short:
        if held is not None and held.starts_at < now + reply.after:
            return Short(held.account, held.starts_at, booking=held)
        expires_at = now + reply.expires_after
        if reply.after == inf and claim.books_for > 0:
            if self._companion.listening.is_set():
                self._waits = True
                expires_at = min(expires_at, now + ASKS_AGAIN_AFTER)
            elif self._freed is not None:
                if not self._server.is_cluster:
                    self._companion.listen()
                expires_at = min(expires_at, now + LISTENS_WITHIN)
        return Short(account, now + reply.after, expires_at)

    def _undo(self, accounts: Iterable[Account], number: int, costs: Costs) -> None:
        """Take back a claim whose answer was lost, wherever it was granted."""
        for account in {a.organization: a for a in accounts}.values():
            blob = self._view.know(account).blob
            ending = wire.undoing(account.organization, self._id(number), blob, costs)
            self._buffer.add(self._group(account.organization), ending)

    # Settle

    def settle(self, settlement: Settlement, now: float) -> bool:
        """Take in what became of a reservation, once. True if capacity came back.

        It is brought to the server with the next claim, or a few milliseconds later.
        """
        reservation = settlement.reservation
        with self._lock:
            if reservation.number in self._exchanged:
                self._exchanged[reservation.number] = settlement
                return False
            ended = reservation.state is State.SETTLED
            if ended and settlement.outcome is None and not settlement.readings:
                return False
            if settlement.used is None and not settlement.readings and settlement.outcome is None:
                return False
            self._put(settlement, now)
            freed = self._view.take_in(settlement, now)
            soon = freed or settlement.outcome is not None or now > self._booked_until
        self._companion.nudge(soon=soon)
        return freed

    def _put(self, settlement: Settlement, now: float) -> None:
        """Put a settlement into the buffer."""
        reservation = settlement.reservation
        ending = self._view.ending(settlement, self._id(reservation.number), now)
        self._buffer.add(self._group(reservation.account.organization), ending)

    async def asettle(self, settlement: Settlement, now: float) -> bool:
        """Do as `settle`; never suspends."""
        return self.settle(settlement, now)

    # Batches

    def _end_batch(
        self, group: str, batch: Batch | None, reply: wire.Reply, now: float
    ) -> list[Account]:
        """Take in what came of a batch: what moved is sent again, what made room is told."""
        if batch is None:
            return []
        self._buffer.done(group, batch)
        for index, target in reply.moved:
            ending = batch.endings[index]
            if self._view.resolve(ending.organization) == ending.organization:
                self._view.merge(ending.organization, target, now)
            self._buffer.add(self._group(target), ending)
        owners = {batch.endings[index - 1].organization for index in reply.freed}
        return self._view.of(owners)

    def _tell(self, accounts: Iterable[Account]) -> bool:
        waiting = False
        if self._freed is not None:
            for account in accounts:
                waiting = self._freed(account) or waiting
        return waiting

    def flush(self) -> None:
        """Bring all settlements to the server now.

        Raises:
            StoreError: it can't be reached, or refuses; they stay in the buffer.
        """
        self._flush()

    def _flush(self, *, tells: bool = True) -> bool:
        """Do as `flush`; returns whether the server was asked."""
        brought = False
        with self._flushing:  # so that all is there when it returns, whoever brought it
            while self._bring(tells):
                brought = True
        return brought

    async def aflush(self) -> None:
        """Do as `flush`, without blocking the event loop."""
        while (work := self._next_batch()) is not None:
            group, batch, step = work
            try:
                raw = await self._server.astep(*step)
            except BaseException:  # also cancellation: the batch is sent again
                with self._lock:
                    self._buffer.failed(batch)
                raise
            self._brought(group, batch, raw)

    def _next_batch(self) -> tuple[str, Batch, Step] | None:
        with self._lock:
            group = self._buffer.first()
            batch = None if group is None else self._buffer.begin(group)
            if group is None or batch is None:
                return None
            header = self._header(batch=batch.number, settlements=len(batch.endings))
            self.steps += 1
            return group, batch, self._step(header, [], batch, 0, None, group)

    def _brought(self, group: str, batch: Batch, raw: Reply, tells: bool = True) -> None:
        with self._lock:
            freed = self._end_batch(group, batch, wire.read(raw), self._clock.now())
        if tells:
            self._tell(freed)

    def _bring(self, tells: bool) -> bool:
        work = self._next_batch()
        if work is None:
            return False
        group, batch, step = work
        try:
            raw = self._server.step(*step)
        except BaseException:  # also an interrupt: the batch is sent again
            with self._lock:
                self._buffer.failed(batch)
            raise
        self._brought(group, batch, raw, tells)
        return True

    def _flushed(self) -> bool:
        try:
            if self._flush():
                self._is_back()
            while self._merges:
                self._merge(*self._merges[0], self._clock.now())
                del self._merges[0]
        except StoreError:
            return False
        return True

    # Slots

    def _subscribe(self) -> Any:
        return self._server.subscription(f"{self._group_prefix('')}w:{self.process}")

    def _heard(self, prefix: str) -> None:
        """A slot of an organization is free, and it is this process's turn."""
        now = self._clock.now()
        with self._lock:
            accounts = self._view.under(prefix)
            self._view.slot_is_free(accounts, now)
        if not self._tell(accounts):
            header = self._header(waited=True)
            keys = [prefix, self._group_prefix("")]
            self.steps += 1
            self._server.step(keys, [header.packed(), self.process, "", ""])

    # Closing

    def close(self) -> None:
        """Bring over what is in the buffer, as far as the server answers, and let go of it."""
        self._health.close()
        self._companion.close()
        self._flushed()
        self._server.close()

    async def aclose(self) -> None:
        """Do as `close`."""
        self._health.close()
        self._companion.close()
        try:
            await self.aflush()
        except StoreError:
            pass  # reservations come back within their lifetime
        await self._server.aclose()
