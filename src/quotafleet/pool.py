"""The pool: wires the core, and lets its flows advance.

A call that needn't wait is granted without a flow; `_drivers` drives every other. A flow advances
under the pool's lock, and so does a local store. Everything that takes time (sleeping, sending, a
remote store) happens outside it. One pool serves many threads and event loops.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from itertools import islice
from math import inf
from pathlib import Path
from random import Random
from threading import Lock
from typing import Final, TypeVar, cast

from ._clock import Clock, SystemClock
from ._core.admission.effects import Effect, Grant, Reserve, Settle, Wait
from ._core.admission.scheduler import Scheduler
from ._core.admission.wait_queue import PATIENCE, Priority
from ._core.call.flow import AttemptResult, CallOptions, abandoned, acquire, call, settled_by
from ._core.call.retry import RetryBudget, RetryPolicy
from ._core.fleet.fleet import Fleet
from ._core.fleet.ownership import Regrouping
from ._core.quota.account import Account
from ._core.quota.reservations import Settlement
from ._drivers import arun, run, to_the_end
from ._lease import Lease, LeaseContext
from ._listeners import EventDispatcher
from ._membership import Membership
from ._status import Counts, Status, repr_of, status_of
from .errors import CannotServe
from .events import Listener
from .keys import ApiKey
from .outcomes import NOTHING, OK
from .owners import Organization, Owners
from .protocols import FleetStore, Provider, SharedStore, Store, Strategy
from .providers import resolved as resolved_providers
from .stores import MemoryStore, open_store
from .strategies import strategy as strategy_named
from .usage import Demand

R = TypeVar("R")
T = TypeVar("T")

#: Seconds a call may wait for headroom, unless it says otherwise.
WAIT_TIMEOUT: Final = 600.0
#: Calls that may wait at a time: about 20 MB of them.
MAX_WAITING: Final = 10_000
#: Accounts of a ranking that a remote store is sent.
RANKED: Final = 16


class KeyPool:
    """A fleet of keys behind one door.

    Args:
        organizations: the owners, with their keys and limits.
        providers: rules by provider name, in place of the default ones; see `quotafleet.providers`.
        strategy: a strategy, or the name of one; see `quotafleet.strategies`.
        store: where buckets live, or a shared store's URL; ``None``: in this process's memory.
        retry: when an attempt is repeated, and after how long.
        wait_timeout: seconds that one attempt may wait for headroom.
        max_waiting: calls that may wait at a time.
        listeners: called with every event; see `quotafleet.events`.
        clock: what tells the time; tests and simulations give their own.

    Raises:
        ConfigError: no key, a name or secret twice, an unknown strategy or provider.
    """

    def __init__(  # noqa: PLR0913 - each is one setting of a pool, by name
        self,
        organizations: Iterable[Organization],
        *,
        providers: Mapping[str, Provider] | None = None,
        strategy: Strategy | str = "headroom-weighted",
        store: Store | str | None = None,
        retry: RetryPolicy | None = None,
        wait_timeout: float = WAIT_TIMEOUT,
        max_waiting: int = MAX_WAITING,
        listeners: Iterable[Listener] = (),
        clock: Clock | None = None,
    ) -> None:
        random = Random()  # noqa: S311 - spreads load, keeps no secret
        owners = Owners(organizations)
        self._owners = owners
        self._providers = resolved_providers(owners.keys, {**(providers or {}), **owners.providers})
        self._clock = clock or SystemClock()
        opened = open_store(store) if isinstance(store, str) else store
        self._store: Store = opened or MemoryStore(owners.limits_for)
        self._local = self._store.is_local
        self._retry = retry or RetryPolicy(jitter=lambda delay: random.uniform(0.0, delay))
        self._wait_timeout = wait_timeout
        self._events = EventDispatcher(listeners, self._clock)
        self._lock = Lock()  # guards the scheduler and its fleet, the budget and the counts
        self._budget = RetryBudget()
        self._counts: dict[str, Counts] = {key.key_id: Counts() for key in owners.keys}
        self._merged: list[tuple[str, str]] = []
        #: Headers that were malformed.
        self.ignored_headers = 0
        self._fleet = Fleet(
            owners.keys,
            account_of=lambda key, family: self._store.account(key, family, self._clock.now()),
            family_of=self._family_of,
        )
        self._scheduler = Scheduler(
            self._fleet,
            strategy=strategy_named(strategy, random) if isinstance(strategy, str) else strategy,
            max_waiting=max_waiting,
            shared=not self._local,
            asks=isinstance(self._store, FleetStore),
        )
        self._health = self._scheduler.health_tracker
        if isinstance(self._store, SharedStore):
            self._store.bind(owners.limits_for, self._freed_elsewhere)
        if isinstance(self._store, FleetStore):
            self._store.join(
                Membership(
                    self._scheduler,
                    lock=self._lock,
                    clock=self._clock,
                    wake=self._tell,
                    emit=self._events.emit,
                )
            )

    @classmethod
    def from_config(cls, config: str | os.PathLike[str] | Mapping[str, object]) -> KeyPool:
        """Return the pool of a TOML file or of a dict of the same shape.

        Raises:
            ConfigError: it names the file, the place, the value and the cure.
        """
        from .config import load  # noqa: PLC0415 - pydantic is needed only for configurations

        return cls(**load(config if isinstance(config, Mapping) else Path(config)))

    @classmethod
    def from_env(cls) -> KeyPool:
        """Return the default pool: `QUOTAFLEET_CONFIG`, else the file, else `OPENAI_API_KEYS`.

        Raises:
            ConfigError: none of them is there, or it is wrong.
        """
        from .config import load_default  # noqa: PLC0415

        return cls(**load_default())

    def __repr__(self) -> str:
        if not self._lock.acquire(timeout=0.1):  # a debugger stopped in whoever holds it
            return "<KeyPool: busy>"
        try:
            return repr_of(self._scheduler)
        finally:
            self._lock.release()

    # Facts about keys

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The fleet's keys, under their owners as far as is known by now."""
        return self._fleet.keys

    @property
    def clock(self) -> Clock:
        """What tells the pool's time; deadlines are its instants."""
        return self._clock

    @property
    def store(self) -> Store:
        """Where the pool's buckets live."""
        return self._store

    @property
    def retry(self) -> RetryPolicy:
        """When an attempt is repeated, and after how long."""
        return self._retry

    @property
    def failed_listeners(self) -> int:
        """How often a listener raised."""
        return self._events.failed

    def provider(self, key: ApiKey) -> Provider:
        """Return the rules of a key's provider."""
        return self._providers[key.provider]

    def base_url(self, key: ApiKey) -> str:
        """Return where requests with a key go."""
        return key.base_url or self._providers[key.provider].base_url

    def _family_of(self, key: ApiKey, model: str) -> str:
        family = self._providers[key.provider].family(model)
        return self._owners.shared_family(key.organization, family)

    # Leases

    def lease(
        self,
        demand: Demand,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: Priority = "normal",
        tenant: str | None = None,
    ) -> Lease:
        """Wait for a key and a reservation, to be held for a ``with`` block.

        Args:
            demand: what the call will need.
            timeout: seconds it may wait; ``None`` = the pool's `wait_timeout`.
            deadline: the instant on the pool's clock after which it is of no use.
            priority: ``"interactive"``, ``"normal"`` or ``"batch"``.
            tenant: on whose behalf: tenants that wait for a model get equal shares of it.

        Returns:
            A lease. Where ``with`` can't be used, end it by `Lease.settle` or its by_organization.

        Raises:
            WaitTimeout: not in time; raised at once where that is certain.
            TooLarge: no owner's limit would ever allow it.
            QueueFull: too many wait already.
            NoUsableKey: every key is dead, or parked, or denied the model.
            ConfigError: no key may be used for the model.
        """
        order = self.order(
            demand, timeout=timeout, deadline=deadline, priority=priority, tenant=tenant
        )
        grant = self._at_once(order)
        if grant is None:
            return self.leased(run(self, self.flow(order)))
        return self._handed_out(grant)

    def alease(
        self,
        demand: Demand,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: Priority = "normal",
        tenant: str | None = None,
    ) -> LeaseContext:
        """Do as `lease`, without blocking the event loop.

        The result serves both ``async with pool.alease(...) as lease`` and
        ``lease = await pool.alease(...)``.
        """
        order = self.order(
            demand, timeout=timeout, deadline=deadline, priority=priority, tenant=tenant
        )
        return LeaseContext(lambda: self._alease(order))

    async def _alease(self, order: CallOptions) -> Lease:
        grant = self._at_once(order)
        if grant is None:
            return self.leased(await arun(self, self.flow(order)))
        return self._handed_out(grant)

    def order(
        self,
        demand: Demand,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        priority: Priority = "normal",
        pinned_key: str | None = None,
        tenant: str | None = None,
    ) -> CallOptions:
        """Return what a call asks for, with the pool's defaults filled in.

        Only the owner of the key `pinned_key` may serve it, if that is given: state that a call
        refers to exists nowhere else.
        """
        return CallOptions(
            demand,
            self._wait_timeout if timeout is None else timeout,
            inf if deadline is None else deadline,
            priority,
            pinned_key,
            tenant,
        )

    def leased(self, grant: Grant) -> Lease:
        """Return what the caller holds of a flow's grant, counted and told to listeners."""
        with self._lock:
            self._counts[grant.key.key_id].granted += 1
        return self._handed_out(grant)

    def _handed_out(self, grant: Grant) -> Lease:
        if self._events.listeners:
            self._events.leased(grant)
        return Lease(self, grant)

    # Whole calls

    def call(
        self,
        order: CallOptions,
        send: Callable[[Lease], AttemptResult[R]],
        *,
        retry: RetryPolicy | None = None,
    ) -> tuple[Lease, AttemptResult[R]]:
        """Send until an answer is final: backoff, failover, retries.

        Args:
            order: see `order`.
            send: makes one attempt with the lease's key. What it raises ends the call.
            retry: in place of the pool's own policy.

        Returns:
            The last attempt's lease and reply. After a success that did not come whole, the lease
            is still to be ended.

        Raises:
            CannotServe: no further attempt was granted.
        """
        last: tuple[Grant, AttemptResult[object]] | None = None
        begun = self._at_once(order)
        if begun is not None:
            lease = self._handed_out(begun)
            try:
                first = send(lease)
            except BaseException:  # also an interrupt: what was granted must come back
                self.finish(abandoned(begun))
                raise
            if self._succeeded(begun, first):
                return lease, first
            last = begun, cast(AttemptResult[object], first)
        flow = self.call_flow(order, retry, last)
        grant, reply = run(self, flow, lambda grant: send(self.leased(grant)))
        return Lease(self, grant), reply  # type: ignore[return-value]

    async def acall(
        self,
        order: CallOptions,
        send: Callable[[Lease], Awaitable[AttemptResult[R]]],
        *,
        retry: RetryPolicy | None = None,
    ) -> tuple[Lease, AttemptResult[R]]:
        """Do as `call`, without blocking the event loop."""
        last: tuple[Grant, AttemptResult[object]] | None = None
        begun = self._at_once(order)
        if begun is not None:
            lease = self._handed_out(begun)
            try:
                first = await send(lease)
            except BaseException:  # also cancellation: what was granted must come back
                self.finish(abandoned(begun))
                raise
            if self._succeeded(begun, first):
                return lease, first
            last = begun, cast(AttemptResult[object], first)
        flow = self.call_flow(order, retry, last)
        grant, reply = await arun(self, flow, lambda grant: send(self.leased(grant)))
        return Lease(self, grant), reply  # type: ignore[return-value]

    def _succeeded(self, grant: Grant, reply: AttemptResult[R]) -> bool:
        """Take in what came of an attempt that was made without a flow."""
        settle = settled_by(grant, reply)
        if settle is not None:
            self.finish(settle)
        if not reply.outcome.ok:
            return False
        with self._lock:
            self._budget.earn()
        return True

    def _at_once(self, order: CallOptions) -> Grant | None:
        """Grant and count a call that nobody stands in the way of; else ``None``."""
        if not self._local or order.pinned_key is not None or order.priority not in PATIENCE:
            return None
        with self._lock:
            now = self._clock.now()
            if now > order.deadline:
                return None
            grant = self._scheduler.at_once(order.demand, now, self._store.reserve)
            if grant is not None:
                self._counts[grant.key.key_id].granted += 1
            return grant

    # Flows and their drivers; `quotafleet.simulate` is the third

    def flow(self, order: CallOptions) -> Generator[Effect, tuple[float, object], Grant]:
        """Return the flow that waits for a key."""
        return acquire(self._scheduler, order, self._clock.now())

    def call_flow(
        self,
        order: CallOptions,
        retry: RetryPolicy | None = None,
        last: tuple[Grant, AttemptResult[object]] | None = None,
    ) -> Generator[Effect, tuple[float, object], tuple[Grant, AttemptResult[object]]]:
        """Return the flow of a whole call, after a `last` attempt if one was made already."""
        policy = retry or self._retry
        return call(self._scheduler, policy, self._budget, order, self._clock.now(), last)

    def advance(
        self,
        flow: Generator[Effect, tuple[float, object], T],
        told: tuple[float, object] | None,
        error: BaseException | None,
    ) -> Effect:
        """Advance a flow to the next effect that takes time. Raises what the flow raises."""
        try:
            with self._lock:
                if error is not None:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(told) if told is not None else next(flow)
                while self._local and type(effect) is Reserve:
                    now = self._clock.now()
                    effect = flow.send((now, self._store.reserve(effect.claim, now)))
                if type(effect) is Wait:
                    if effect.waiter is not None:
                        effect.waiter.woken = False
                elif type(effect) is Reserve:
                    effect.claim.accounts = list(islice(effect.claim.accounts, RANKED))
        except CannotServe as refusal:
            if self._events.listeners:
                self._events.gave_up(refusal)
            raise
        finally:
            if self._scheduler.woken or self._health.changed:
                self._tell()
        return effect

    def _tell(self) -> None:
        """Wake the chosen waiters and publish what changed, without the lock."""
        with self._lock:
            woken, self._scheduler.woken = self._scheduler.woken, []
            changed, self._health.changed = self._health.changed, []
            if self._health.changes and isinstance(self._store, FleetStore):
                changes, self._health.changes = self._health.changes, []
                self._store.publish(changes)  # under the lock, which keeps their order
        for waiter in woken:
            waiter.woken = True
            wake = waiter.wake
            if wake is not None:
                wake()
        if changed:
            self._events.moved(changed)

    # Settling

    def sent(self, grant: Grant) -> None:
        """Take in that a grant's request leaves only now; for leases."""
        if self._local:
            with self._lock:
                self._store.settle(
                    Settlement(grant.reservation, None, sent=True), self._clock.now()
                )

    def finish(self, settle: Settle) -> None:
        """Take in what became of a grant, so far or in the end; for leases and adapters."""
        now = self._clock.now()
        settlement = settle.settlement()
        freed = False if self._local else self._store.settle(settlement, now)
        with self._lock:
            if self._local:
                freed = self._store.settle(settlement, now)
            regrouping = self._take_in(settle, freed, now)
            if regrouping is not None and self._local:
                self._merge(regrouping, now)
        if regrouping is not None and not self._local:
            self._merge_remotely(regrouping, now)
        self._tell_of(settle)

    async def afinish(self, settle: Settle) -> None:
        """Do as `finish`. It runs to its end even if the task is cancelled meanwhile."""
        if self._local:
            self.finish(settle)
            return
        now = self._clock.now()
        freed, cancelled = await to_the_end(self._store.asettle(settle.settlement(), now))
        with self._lock:
            regrouping = self._take_in(settle, freed, now)
        if regrouping is not None:
            work = asyncio.to_thread(self._merge_remotely, regrouping, now)
            _, again = await to_the_end(work)
            cancelled = cancelled or again
        self._tell_of(settle)
        if cancelled is not None:
            raise cancelled

    def _take_in(self, settle: Settle, freed: bool, now: float) -> Regrouping | None:
        """Let counts, health, identities and those that wait learn of it; under the lock."""
        regrouping = None
        grant, outcome = settle.grant, settle.outcome
        if settle.used is not None:
            self._counts[grant.key.key_id].ended(outcome, settle.usage)
            if outcome is not None and outcome.ok:
                grant.queue.settled(grant.reservation.costs, settle.used)
        if outcome is not None and (
            outcome is not OK or self._health.troubled or not grant.key_circuit.proven
        ):
            self._health.report(grant, outcome, now)
        observation = settle.observation
        if observation is not NOTHING:
            self.ignored_headers += observation.ignored
            if observation.organization_id is not None:
                regrouping = self._fleet.identify(grant.key, observation, grant.reservation.number)
        if freed and self._scheduler.waiting:
            self._scheduler.freed(grant.reservation.account, now)
        return regrouping

    def _freed_elsewhere(self, account: Account) -> bool:
        """Wake who waits for an owner, of which a shared store says that it has more."""
        with self._lock:
            awaited = self._scheduler.freed(account, self._clock.now())
        self._tell()
        return awaited

    def _tell_of(self, settle: Settle) -> None:
        """Wake waiters and call listeners, without the lock."""
        if self._scheduler.woken or self._health.changed:
            self._tell()
        if self._merged:
            merged, self._merged = self._merged, []
            self._events.merged(merged)
        if settle.observation is not NOTHING:
            self._events.observed(settle)
        if self._events.listeners and settle.used is not None:
            self._events.ended(settle, self._clock.now())

    def _merge(self, regrouping: Regrouping, now: float) -> None:
        """Merge owners in the store and on the candidate sets; under the lock."""
        for organization, into in regrouping.merges:
            self._store.merge(organization, into, now)
        self._regroup(regrouping)

    def _merge_remotely(self, regrouping: Regrouping, now: float) -> None:
        """Do as `_merge`, without the lock while the store takes its time, or calls back."""
        for organization, into in regrouping.merges:
            self._store.merge(organization, into, now)
        with self._lock:
            self._regroup(regrouping)

    def _regroup(self, regrouping: Regrouping) -> None:
        self._scheduler.regroup(regrouping)
        self._merged += regrouping.merges

    # Telling

    def eta(self, demand: Demand) -> float:
        """Return the seconds until such a call could be granted, behind those that wait now.

        0.0 = now; infinite = only when a call in flight ends, or never by waiting.

        Raises:
            ConfigError: no key may be used for the model.
        """
        with self._lock:
            eta = self._scheduler.eta(demand, self._clock.now())
        self._tell()  # a look at what rests may end its rest
        return eta

    def status(self) -> Status:
        """Return the state of every owner and key as it is now, frozen. It holds no secret."""
        with self._lock:
            return status_of(self._scheduler, self._counts, self._clock.now())

    def revive(self, name: str | None = None) -> int:
        """Use again all that was left alone, or what has `name` in its name; return how many."""
        with self._lock:
            count = self._health.revive(name, self._clock.now())
        self._tell()
        return count

    # Closing

    def close(self) -> None:
        """Refuse new calls, fail those that wait; leases that are held may still be settled."""
        with self._lock:
            self._scheduler.close()
        self._tell()
        self._store.close()

    async def aclose(self) -> None:
        """Do as `close`."""
        with self._lock:
            self._scheduler.close()
        self._tell()
        await self._store.aclose()

    def __enter__(self) -> KeyPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> KeyPool:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
