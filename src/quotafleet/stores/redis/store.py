"""The store itself: it carries claims and settlements over, for threads and event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from threading import Event, Lock
from typing import Any, Final
from weakref import WeakKeyDictionary

from ..._clock import Clock, SystemClock
from ..._core.health.circuit_breaker import HealthChange
from ..._core.quota.account import Account
from ..._core.quota.ledger import LIFETIME, LimitsFor
from ..._core.quota.reservations import Claim, ClaimAnswer, NotReady, Settlement
from ...errors import ConfigError, StoreError
from ...keys import ApiKey
from ...protocols import FleetMember
from . import _codec as wire
from ._background import BackgroundWorker
from ._batches import BatchBuilder
from ._coalescing import Coalescer
from ._connection import MERGE, Cut, RedisConnection, Unready
from ._degraded import REJOINS_AFTER
from ._health_sync import HealthSync
from ._outage import OnFailure, Outage
from ._quota_leases import shares_of
from ._reserve import TURNS, Claims
from ._step import ClaimRequest, Round, StepAnswer

#: Seconds to wait for a connection or an answer; a step takes well under a millisecond.
TIMEOUT: Final = 2.0


class RedisStore:
    """The ledger of a fleet, in Redis 6.2 or later, or Valkey.

    Args:
        url: where it is: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``,
            ``redis+cluster://``; see `docs/configuration.md`. It may hold a password, and is never
            shown.
        namespace: fleets of one server with different names don't see each other.
        lifetime: seconds after which an unsettled reservation comes back.
        timeout: seconds to wait for a connection or an answer.
        share_for: seconds for which a process may spend by itself a share of what an owner has,
            without asking the server for each call; 0 = every call asks.
        on_failure: what calls do while the server is away: ``"wait"`` as for headroom,
            ``"degrade"``: go on with this process's part of the quota, or ``"fail"`` with
            `StoreError`.
        limits_for: the configured limits of an organization (project ``None``) or project, for one
            model family. A pool gives its own.
        clock: what tells this process's time.

    Raises:
        ConfigError: a URL that can't be read, an empty namespace, another `on_failure`, a
            `share_for` that is negative or longer than a minute.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        lifetime: float = LIFETIME,
        timeout: float = TIMEOUT,
        share_for: float = 0.0,
        on_failure: OnFailure = "wait",
        limits_for: LimitsFor | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not namespace:
            raise ConfigError("the store's namespace is empty", cure="Leave it out, or name it")
        self._server = RedisConnection(url, timeout=timeout)
        self._namespace = namespace
        self._clock = clock or SystemClock()
        self._absence = Outage(
            on_failure,
            fleet_size=lambda: self._health.size,
            rejoins_after=timeout + REJOINS_AFTER,
        )
        self._books = BatchBuilder(
            namespace,
            lifetime=lifetime,
            limits_for=limits_for,
            clock=self._clock,
            by_owner=self._server.is_cluster,
        )
        self._lock = self._books.lock
        self._view = self._books.view
        self._shares = shares_of(
            self._books, share_for, self._clock, lambda: self._health.size or 1
        )
        self._companion = BackgroundWorker(self._flushed, self._subscribe, self._heard, self._due)
        self._claims = Claims(
            self._books,
            self._absence,
            self._companion,
            clock=self._clock,
            shares=self._shares,
        )
        self._health = HealthSync(
            self._server,
            namespace,
            process=lambda: self.process,
            clock=self._clock,
            merged=self._merged_elsewhere,
            in_flight=self._in_flight,
        )
        self._rounds = self._make_rounds()
        #: Of each event loop that has claimed.
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Coalescer] = WeakKeyDictionary()
        self._flushing = Lock()  # held while batches are brought over
        #: Organizations that are to be merged once the server is back.
        self._merges: list[tuple[str, str]] = []

    def __repr__(self) -> str:
        return f"<RedisStore {self._server!r} namespace={self._namespace!r}>"

    def _make_rounds(self) -> Coalescer:
        return Coalescer(self._books, clock=self._clock, waits=lambda: self._claims.waits)

    @property
    def is_local(self) -> bool:
        """It takes a round trip to answer."""
        return False

    def bind(self, limits_for: LimitsFor, freed: Callable[[Account], bool]) -> None:
        """Serve a pool: its limits, and whom to tell when an account has more than it seemed.

        `freed` is called in a thread of the store's; it returns whether any call waits for that.
        """
        self._books.limits_for = limits_for
        self._books.freed = freed

    def join(self, member: FleetMember) -> None:
        """Let a pool hear what other processes find out, from its first claim on."""
        self._health.join(member)

    def publish(self, changes: Sequence[HealthChange]) -> None:
        """Tell the other processes, and ask for leave to probe. Never blocks."""
        self._health.publish(changes)

    @property
    def process(self) -> str:
        """The name of this process in the server."""
        return self._books.process

    @property
    def steps(self) -> int:
        """Steps that were run so far: round trips."""
        return self._books.steps

    @property
    def repaired(self) -> int:
        """Keys and rows in the server that were damaged, and that steps of this store repaired."""
        return self._books.repaired

    @property
    def granted_alone(self) -> int:
        """Reservations that this process made on its own so far, while the server was away."""
        return self._claims.granted_alone

    @property
    def script_clock(self) -> Callable[[], float] | None:
        """A clock for the script in place of the server's own; for tests that compare stores."""
        return self._books.script_clock

    @script_clock.setter
    def script_clock(self, clock: Callable[[], float]) -> None:
        self._books.script_clock = clock

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
                if self._absence.on_failure == "fail":
                    raise
        with self._lock:
            self._merges.append((organization, into))
        self._companion.nudge(soon=True)

    def _merge(self, organization: str, into: str, now: float) -> None:
        view = self._view
        with self._lock:
            organization, into = view.resolve(organization), view.resolve(into)
        if organization == into:
            return
        self._flush(tells=False)  # who waits is woken once the keys have their new owners
        for _ in range(TURNS):
            if self._server.is_cluster:  # there the two may be on different servers
                break
            keys = [wire.prefix(self._namespace, name) for name in (organization, into)]
            which, *target = self._server.step(keys, [self._books.clock(), into], MERGE)
            if not target:
                break
            moved = (organization, into)[int(which) - 1]
            with self._lock:  # another process was first, perhaps the other way round
                view.merge(moved, target[0].decode(), now)
                organization, into = view.resolve(organization), view.resolve(into)
            if organization == into:
                return
        with self._lock:
            if self._server.is_cluster:
                self._books.carry_over(organization, into, now)
            else:
                view.merge(organization, into, now)
        self._companion.nudge(soon=True)
        self._health.merged(organization, into)

    def _in_flight(self) -> int:
        with self._lock:
            return self._view.in_flight

    def _merged_elsewhere(self, organization: str, into: str) -> None:
        with self._lock:
            if self._shares is not None:
                self._shares.give_back({organization, into})
            self._view.merge(organization, into, self._clock.now())

    # Reserve

    def reserve(self, claim: Claim, now: float) -> ClaimAnswer:
        """Reserve the claim's costs on its first account that fits, or say when one will.

        Raises:
            StoreError: the server refuses, or is away and `on_failure` is ``"fail"``.
        """
        if self._health.is_new(claim) and self._health.read():
            return NotReady(None, now)  # what was ranked is not what is usable: rank again
        answer = self._claims.at_once(claim, now)
        if answer is not None:
            return answer
        talk = self._claims.talk(claim)
        try:
            ask = next(talk)
            while True:
                try:
                    answered = self._carry(ask)
                except StoreError as error:
                    ask = talk.throw(error)
                else:
                    ask = talk.send(answered)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            talk.close()

    def _carry(self, ask: ClaimRequest) -> StepAnswer:
        """Bring a claim over, alone or with others; return what came of it."""
        rounds = self._rounds
        rider = rounds.join(ask)
        if not rider.leads:
            alarm = Event()
            rider.wake = alarm.set
            try:
                if not rider.is_done:
                    alarm.wait()
            except BaseException:  # an interrupt
                rounds.quit(rider)
                raise
        if rider.leads:
            departure = rounds.leave(rider)
            try:
                sent = rounds.step(departure)
                answer = self._server.turn(sent.keys, sent.text, sent.sent_at)
                freed = rounds.arrived(departure, sent, answer)
            except BaseException as error:  # also an interrupt: those that went along go on
                rounds.failed(departure, error)
                raise
            self._books.tell(freed)
        return rider.result()

    async def areserve(self, claim: Claim, now: float) -> ClaimAnswer:
        """Do as `reserve`, without blocking the event loop."""
        if self._health.is_new(claim) and await self._health.aread():
            return NotReady(None, now)
        answer = self._claims.at_once(claim, now)
        if answer is not None:
            return answer
        talk = self._claims.talk(claim)
        try:
            ask = next(talk)
            while True:
                try:
                    answered = await self._acarry(ask)
                except StoreError as error:
                    ask = talk.throw(error)
                else:
                    ask = talk.send(answered)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            talk.close()

    async def _acarry(self, ask: ClaimRequest) -> StepAnswer:
        """Do as `_carry`, with others of this event loop."""
        loop = asyncio.get_running_loop()
        rounds = self._loops.get(loop)
        if rounds is None:
            rounds = self._loops[loop] = self._make_rounds()
        rider = rounds.join(ask)
        if not rider.leads:
            alarm = loop.create_future()
            rider.wake = partial(_ring, alarm)
            try:
                await alarm
            except BaseException:  # also cancellation
                rounds.quit(rider)
                raise
        if rider.leads:
            departure = rounds.leave(rider)
            try:
                sent = rounds.step(departure)
                answer = await self._server.aturn(sent.keys, sent.text, sent.sent_at)
                freed = rounds.arrived(departure, sent, answer)
            except BaseException as error:  # also cancellation: those that went along go on
                rounds.failed(departure, error)
                raise
            self._books.tell(freed)
        return rider.result()

    # Settle

    def settle(self, settlement: Settlement, now: float) -> bool:
        """Take in what became of a reservation, once. True if capacity came back.

        It is brought to the server with the next claim, or a few milliseconds later.
        """
        return self._claims.settle(settlement, now)

    async def asettle(self, settlement: Settlement, now: float) -> bool:
        """Do as `settle`; never suspends."""
        return self._claims.settle(settlement, now)

    # Batches

    def flush(self) -> None:
        """Bring all settlements to the server now, and give back what it lent.

        Raises:
            StoreError: it can't be reached, or refuses; they stay in the buffer.
        """
        self._flush()

    def _flush(self, *, tells: bool = True) -> bool:
        """Do as `flush`; returns whether the server was asked."""
        self._give_back()
        return self._bring_all(tells=tells)

    def _bring_all(self, *, tells: bool = True) -> bool:
        brought = False
        with self._flushing:  # so that all is there when it returns, whoever brought it
            while self._bring(tells):
                brought = True
        return brought

    async def aflush(self) -> None:
        """Do as `flush`, without blocking the event loop."""
        self._give_back()
        while (group := self._next_group()) is not None:
            try:
                await self._acarry(ClaimRequest(group))
            except Cut:
                await self._acarry(ClaimRequest(group))

    def _give_back(self, *, ended: bool = False) -> None:
        if self._shares is not None:
            with self._lock:
                self._shares.give_back(ended_at=self._clock.now() if ended else inf)

    def _due(self) -> float | None:
        """Return in how many seconds a share is to be given back; ``None`` = none is lent."""
        if self._shares is None:
            return None
        with self._lock:
            ends_at = self._shares.next_end()
        return max(0.0, ends_at - self._clock.now()) if ends_at < inf else None

    def _next_group(self) -> str | None:
        """Return whose settlements are to be brought now."""
        with self._lock:
            return self._books.buffer.first()

    def _bring(self, tells: bool) -> bool:
        group = self._next_group()
        if group is None:
            return False
        try:
            self._carry(ClaimRequest(group, tells=tells))
        except Cut:  # a batch may be sent again: it has its number
            self._carry(ClaimRequest(group, tells=tells))
        return True

    def _said(self, sent: Round) -> None:
        """Bring over a step that no claim goes with, apart from the others."""
        answer = self._server.step(sent.keys, [sent.text])
        with self._lock:
            self._books.arrived(sent, answer, self._clock.now())

    def _flushed(self) -> bool:
        try:
            self._give_back(ended=True)
            if self._claims.is_alone and not self._rejoined():
                return False
            if self._bring_all():
                self._claims.is_back()
            while self._merges:
                self._merge(*self._merges[0], self._clock.now())
                del self._merges[0]
        except StoreError:
            return False
        return True

    def _rejoined(self) -> bool:
        """Ask whether the server is back, and tell it what this process spent on its own."""
        try:
            self._said(self._claims.knock())
        except StoreError:
            self._claims.is_away()
            raise
        rejoins = self._claims.answers()
        self._bring_all()
        if rejoins:
            self._claims.is_back()
        return rejoins

    # Slots

    def _subscribe(self) -> Any:
        return self._server.subscription(f"{self._books.group_prefix('')}w:{self.process}")

    def _heard(self, prefix: str) -> None:
        """A slot of an organization is free, and it is this process's turn."""
        now = self._clock.now()
        with self._lock:
            accounts = self._view.under(prefix)
            self._view.slot_is_free(accounts, now)
        if not self._books.tell(accounts):
            self._claims.waits_no_more(prefix)
            with self._lock:
                group = self._books.group(accounts[0].organization) if accounts else ""
                sent = self._books.round(group, leaves=prefix)
            self._said(sent)

    # Closing

    def close(self) -> None:
        """Bring over what is in the buffer, as far as the server answers, and let go of it."""
        self._health.close()
        self._companion.close()
        self._claims.rejoin()
        self._give_back()
        self._flushed()
        self._server.close()

    async def aclose(self) -> None:
        """Do as `close`."""
        self._health.close()
        self._companion.close()
        self._claims.rejoin()
        try:
            await self.aflush()
        except StoreError:
            pass  # reservations come back within their lifetime
        await self._server.aclose()


def _ring(alarm: asyncio.Future[None]) -> None:
    if not alarm.done():  # whom it should wake may have been cancelled
        alarm.set_result(None)
