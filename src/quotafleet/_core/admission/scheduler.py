"""Admission: who may serve a call, in what order calls are served, when to look again.

The scheduler decides and performs nothing: `step` returns a call's next effect (`Reserve`, `Wait`),
or None when it is granted. A driver performs it, and wakes the calls in `woken` without its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from math import inf
from typing import Final, assert_never

from ...errors import ConfigError, NoUsableKey, PoolClosed, TooLarge, WaitTimeout
from ...protocols import Strategy
from ...usage import Demand
from ..fleet.candidates import CandidateSet
from ..fleet.fleet import Fleet
from ..fleet.ownership import Regrouping
from ..quota.account import Account
from ..quota.reservations import (
    Claim,
    ClaimAnswer,
    HeadReservation,
    NeverFits,
    NotReady,
    Reservation,
    ReservationState,
    StoreUnavailable,
)
from .effects import Grant, Reserve, Wait
from .fleet_health import HealthTracker
from .refusals import crowded_out, eta, hopeless, oversize, too_late, unanswered
from .resource_fit import best_fit
from .wait_queue import PATIENCE, Priority, Waiter, WaitQueue

#: Seconds ahead that a shared store may reserve for a call; a full bucket refills in a minute.
RESERVE_AHEAD: Final = 300.0
#: Seconds of gain below which a sleeping head is not woken to sleep a little less.
WORTH_WAKING: Final = 0.001


class Scheduler:
    """Who of a fleet serves whom, in one process. Not thread-safe: its pool holds a lock.

    Args:
        fleet: the keys, and the candidate sets that are laid over them.
        strategy: ranks the owners that may serve a call.
        max_waiting: calls that may wait at a time.
        shared: the store takes time to answer, and serves other processes too.
        asks: other processes are told of health, and asked before a probe.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        strategy: Strategy,
        max_waiting: int,
        shared: bool = False,
        asks: bool = False,
    ) -> None:
        self.fleet = fleet
        self.health_tracker = HealthTracker(fleet, asks=asks, stirred=self._stirred)
        self._strategy = strategy
        self._max_waiting = max_waiting
        self._shared = shared
        #: The store could not answer the last claim.
        self._away: StoreUnavailable | None = None
        self._queues: dict[tuple[str, str | None], WaitQueue] = {}
        self._busy_queues: dict[WaitQueue, None] = {}
        self._number = 0
        self.is_closed = False
        #: Calls to be woken by the driver.
        self.woken: list[Waiter] = []
        self.waiting = 0

    # A call's way in

    def at_once(
        self, demand: Demand, now: float, reserve: Callable[[Claim, float], ClaimAnswer]
    ) -> Grant | None:
        """Grant a call that nobody stands in the way of; ``None`` = it must `enter`.

        The usual case, without a waiter and a flow: nobody waits, nothing is due, the first owner
        that `reserve` (a local store's) is asked for fits.
        """
        queue = self._queues.get((demand.model, None))
        if queue is None or self.waiting or self.is_closed or self.health_tracker.changes_at <= now:
            return None
        ready: Iterable[Account] = queue.candidates.ready
        if len(queue.candidates.ready) > 1:
            ready = self._strategy.rank(queue.candidates.ready, demand, now)
        if type(answer := reserve(Claim(ready, demand.costs), now)) is not Reservation:
            return None
        candidate = queue.candidates.candidate_of(answer.account)
        key = self.health_tracker.key_of(candidate, demand.costs, now)
        return Grant(demand, queue, candidate, key, answer, now, now)

    def enter(
        self,
        demand: Demand,
        now: float,
        gives_up_at: float,
        priority: Priority = "normal",
        pinned_key: str | None = None,
        tenant: str | None = None,
    ) -> Waiter:
        """Take a call in. Follow with `step` until it returns None.

        Raises:
            PoolClosed: the pool was closed.
            ConfigError: no key may be used for the model; an unknown priority.
        """
        if self.is_closed:
            raise PoolClosed
        if priority not in PATIENCE:
            raise ConfigError(
                f"unknown priority {priority!r}", cure=f"Known: {', '.join(PATIENCE)}"
            )
        queue = self._queues.get((demand.model, pinned_key))
        if queue is None:
            candidates = self.fleet.candidates(demand.model, pinned_key)
            queue = self._queues[demand.model, pinned_key] = WaitQueue(candidates)
        self._number += 1
        return Waiter(self._number, demand, queue, priority, now, gives_up_at, tenant)

    def step(self, waiter: Waiter, now: float) -> Reserve | Wait | None:
        """Return what to do next for a call; None = it is granted, `accept` it.

        Raises:
            CannotServe: it will not be granted.
            PoolClosed: the pool was closed meanwhile.
        """
        queue = waiter.queue
        if self.health_tracker.changes_at <= now:
            self.health_tracker.wake_rested(now, waiting=self.waiting > 0)
        if waiter.reservation is None and not waiter.waiting and waiter.error is None:
            if waiter.short is None and self._may_try(waiter, now):
                return self._claim(waiter, now)
            self._queue(waiter, now)
        if waiter.future is not None and (queue.busy is None or queue.busy is waiter):
            self._redeem(waiter, now)
        effect = self._serve(queue, waiter, now)
        if effect is not None:
            return effect
        if waiter.reservation is not None:
            return None
        if waiter.error is not None:
            raise waiter.error
        if now >= waiter.gives_up_at:
            raise self._too_late(waiter, now)
        return Wait(waiter, min(waiter.gives_up_at, queue.looks_at(waiter, now)))

    @staticmethod
    def is_done(waiter: Waiter) -> bool:
        """Whether a call is granted and no other waits that it should serve first."""
        queue = waiter.queue
        return waiter.reservation is not None and queue.busy is None and not queue.waiting

    def _may_try(self, waiter: Waiter, now: float) -> bool:
        queue = waiter.queue
        if queue.asking is None and queue.comes_first(waiter):
            return True
        return queue.may_try(waiter) and self._seems_to_fit(waiter, now)

    def _seems_to_fit(self, waiter: Waiter, now: float) -> bool:
        """Whether asking the store for a call behind the head is worth a round trip."""
        ready = waiter.queue.candidates.ready
        return not self._shared or any(a.ready_at(waiter.costs, now) <= now for a in ready)

    def _redeem(self, waiter: Waiter, now: float) -> None:
        """Grant a call what was booked for it, once it may be used."""
        future = waiter.future
        if future is None or future.starts_at > now or waiter.error is not None:
            return
        if future.state is not ReservationState.OPEN:  # lost while it was to be exchanged
            waiter.future = None
            return
        if waiter.queue.candidates.candidate_of(future.account).position >= 0:
            self._granted(waiter, future, now)

    @property
    def _keeps_ready_index(self) -> bool:
        """Whether what the store's owners hold is known here, while calls wait."""
        return bool(self._busy_queues) and not self._shared

    def _claim(self, waiter: Waiter, now: float) -> Reserve:
        queue, ready_index = waiter.queue, None
        ready = queue.candidates.ready_except(waiter.avoid | waiter.last)
        if queue.waiting and queue.candidates.is_mixed(now):
            ready = best_fit(waiter, ready, now)
        if (
            self._keeps_ready_index
            and ready is queue.candidates.ready
            and not waiter.asks_every_owner
        ):
            if now >= queue.expires_at:
                queue.candidates.rest()  # what came back by expiring was told to nobody
            ready_index = queue.candidates.ready_index(waiter.costs, now)
            if ready_index is not None:
                ready = ready_index.due(now)
        ranking: Iterable[Account] = ready
        if len(ready) > 1:
            ranking = self._strategy.rank(ready, waiter.demand, now)
        if waiter.last and ready_index is None and ready is not queue.candidates.ready:
            ranking = chain(ranking, queue.candidates.ready_last(waiter.avoid, waiter.last))
        if self._shared:
            return Reserve(waiter, self._shared_claim(waiter, ranking, now))
        guards: tuple[HeadReservation, ...] = ()
        if self._busy_queues:
            guards = tuple(
                other.guard
                for other in self._busy_queues
                if other.guard is not None and other.holds_back(waiter)
            )
        return Reserve(waiter, Claim(ranking, waiter.costs, guards), ready_index, ready)

    def _shared_claim(self, waiter: Waiter, ranking: Iterable[Account], now: float) -> Claim:
        """Only the head's claim may book: one call of a queue, and of a process, at a time."""
        queue, head = waiter.queue, waiter.queue.head
        is_first = head is waiter or (queue.asking is None and (head is None or waiter < head))
        if is_first and head is not waiter:
            queue.asking = waiter
        reserve_ahead = min(RESERVE_AHEAD, waiter.gives_up_at - now) if is_first else 0.0
        held = waiter.future
        if held is None or waiter.queue.candidates.candidate_of(held.account).position >= 0:
            return Claim(ranking, waiter.costs, (), reserve_ahead, held)
        waiter.future = None
        return Claim(ranking, waiter.costs, (), reserve_ahead, None, held)

    def _serve(self, queue: WaitQueue, waiter: Waiter, now: float) -> Reserve | None:
        """Return the queue's next claim, if it is due and nobody else serves it."""
        if queue.busy is not None and queue.busy is not waiter:
            return None
        head = queue.head
        while queue.backfill:
            backfilled = queue.backfill.pop()
            if backfilled.waiting:
                return self._claim(backfilled, now)
        while head is not None and head.future is not None and queue.ready_at <= now:
            self._redeem(head, now)
            if head.waiting:
                break
            head = queue.head
        if head is not None and queue.ready_at <= now and queue.asking is None:
            queue.busy = waiter
            return self._claim(head, now)
        if queue.busy is waiter:
            queue.busy = None
            if head is not None and head is not waiter:
                self.woken.append(head)
        return None

    def answered(self, effect: Reserve, answer: ClaimAnswer, now: float) -> Reservation | None:
        """Take in the store's answer. Returns a reservation that nobody wants, to be released."""
        waiter, ready_index = effect.waiter, effect.ready_index
        if waiter.queue.asking is waiter:
            waiter.queue.asking = None
            head = waiter.queue.head
            if head is not None:  # it sleeps until it is woken, see `WaitQueue.looks_at`
                self.woken.append(head)
        self._away = answer.away if type(answer) is NotReady else None
        match answer:
            case Reservation():
                if ready_index is not None:
                    ready_index.put(answer.account, now)
                return self._granted(waiter, answer, now)
            case NeverFits():
                if ready_index is None:
                    self._fail(waiter, oversize(waiter, answer))
                waiter.asks_every_owner = True  # an owner that is not due may be larger
            case NotReady():
                if ready_index is not None:
                    answer = ready_index.short(effect.due, effect.claim.costs, answer, now)
                if answer.future is not None and not waiter.is_open:
                    return answer.future
                waiter.future = answer.future
                if waiter.waiting:
                    self._still_short(waiter, answer, now)
                else:
                    waiter.short = answer
            case _:
                assert_never(answer)
        return None

    def _granted(self, waiter: Waiter, reservation: Reservation, now: float) -> Reservation | None:
        if not waiter.is_open:
            return reservation
        waiter.reservation = reservation
        waiter.reserved_at = now
        waiter.future = None
        queue = waiter.queue
        if waiter.waiting:
            self._unqueue(waiter)
            self.woken.append(waiter)
        if queue.waiting and queue.charge(waiter, now):
            queue.ready_at = -inf
        waiter.candidate = waiter.queue.candidates.candidate_of(reservation.account)
        waiter.key = self.health_tracker.key_of(waiter.candidate, waiter.costs, now)
        return None

    def _still_short(self, waiter: Waiter, answer: NotReady, now: float) -> None:
        queue = waiter.queue
        ready_at = min(answer.ready_at, queue.candidates.usable_at())
        # What is not known ends at the latest when a reservation or a probe is given up.
        look_at = min(ready_at, answer.expires_at, self.health_tracker.changes_at)
        look_at = max(look_at, now + WORTH_WAKING / 1000)
        if waiter is not queue.head:
            queue.ready_at = min(queue.ready_at, look_at)
            return
        if queue.again:
            queue.again = False
            if answer.future is None:
                return
        queue.ready_at = look_at
        queue.expires_at = answer.expires_at
        queue.guard = None
        if answer.account is not None and answer.ready_at <= ready_at:
            queue.guard = HeadReservation(answer.account, waiter.costs, answer.ready_at)
        if queue.candidates.is_hopeless or (
            waiter.gives_up_at < ready_at < inf
            and answer.away is None
            and not queue.candidates.may_be_freed(waiter.costs, now)
        ):
            self._fail(waiter, self._too_late(waiter, now))
            return
        if answer.away is not None:  # nor does anybody else fit
            queue.backfill = []
            return
        backfill = queue.backfill_candidates(now)
        queue.backfill = [one for one in backfill if self._seems_to_fit(one, now)][::-1]

    def _fail(self, waiter: Waiter, error: TooLarge | WaitTimeout | NoUsableKey) -> None:
        waiter.error = error
        if waiter.waiting:
            self._unqueue(waiter)
            self.woken.append(waiter)

    def _queue(self, waiter: Waiter, now: float) -> None:
        queue = waiter.queue
        if queue.candidates.is_hopeless:
            raise hopeless(waiter)
        seconds = self._eta(waiter, now)
        is_away = waiter.short is not None and waiter.short.away is not None
        if (
            waiter.gives_up_at < now + seconds < inf
            and not is_away
            and not queue.candidates.may_be_freed(waiter.costs, now)
        ):
            raise too_late(waiter, now, seconds)
        places = self._max_waiting
        if self.waiting >= places and not (
            self.waiting < 2 * places and queue.has_place(waiter.tenant, places)
        ):
            raise crowded_out(waiter, self.waiting, seconds)
        queue.add(waiter)
        self.waiting += 1
        self._busy_queues[queue] = None
        if queue.head is waiter and waiter.short is not None:
            # Who comes before the head was tried first, so it knows already when it fits.
            self._still_short(waiter, waiter.short, now)
            queue.backfill = []  # they were told their own instants

    def _unqueue(self, waiter: Waiter) -> None:
        queue = waiter.queue
        was_head = queue.head is waiter
        queue.remove(waiter)
        self.waiting -= 1
        if queue.head is None:
            queue.ready_at = -inf
            queue.guard = None
            queue.backfill = []
            queue.candidates.rest()
            self._busy_queues.pop(queue, None)
        elif was_head:
            queue.ready_at = -inf

    # A call's way out

    def accept(self, waiter: Waiter, now: float) -> Grant:
        """Turn a granted waiter into a grant."""
        reservation, candidate = waiter.reservation, waiter.candidate
        if reservation is None or candidate is None or waiter.key is None:
            raise AssertionError("only a granted waiter can be accepted")
        waiter.reservation = None
        waiter.left = True
        return Grant(
            waiter.demand,
            waiter.queue,
            candidate,
            waiter.key,
            reservation,
            waiter.entered_at,
            now,
            waiter.reserved_at,
        )

    def leave(self, waiter: Waiter, now: float) -> Reservation | None:
        """Take a call out that gave up; returns what it was granted and never accepted."""
        queue = waiter.queue
        if waiter.left:
            return None
        if waiter.waiting:
            self._unqueue(waiter)
        waiter.left = True
        if queue.busy is waiter:
            queue.busy = None
        if queue.asking is waiter:
            queue.asking = None
        if queue.head is not None:
            self._hurry(queue, now if waiter.reservation is not None else queue.ready_at)
        reservation = waiter.reservation or waiter.future
        waiter.reservation = waiter.future = None
        if waiter.candidate is not None and waiter.key is not None:
            self.health_tracker.abandon(waiter.candidate, waiter.key[1], now)
        return reservation

    def close(self) -> None:
        """Refuse new calls, and let those that wait fail."""
        self.is_closed = True
        for queue in list(self._busy_queues):
            for waiter in list(queue):
                waiter.error = PoolClosed()
                self._unqueue(waiter)
                self.woken.append(waiter)

    # What comes back

    def freed(self, account: Account, now: float) -> bool:
        """Look whether a waiting head fits earlier, after something came back to an owner.

        Returns whether any call waits for that owner.
        """
        awaited = False
        for queue in self._busy_queues:
            awaited = awaited or account.organization in queue.candidates.by_organization
            queue.candidates.came_back(account.organization, now)
            if queue.busy is not None:
                queue.again = True
                continue
            head = queue.shares.order[0].waiting[0]
            by_organization = queue.candidates.by_organization.get(account.organization, ())
            ready = (other.ready_at(head.costs, now) for other in by_organization)
            earliest = min(ready, default=inf)
            if earliest < queue.ready_at - WORTH_WAKING:
                self._hurry(queue, earliest)
        return awaited

    def _hurry(self, queue: WaitQueue, at: float) -> None:
        queue.ready_at = min(queue.ready_at, at)
        self.woken.append(queue.shares.order[0].waiting[0])

    def _stirred(self, candidates: CandidateSet) -> None:
        """Let the calls that wait for a candidate set look who is ready now."""
        queue = self._queues.get((candidates.model, candidates.pinned_key))
        if queue is not None and queue.head is not None:
            self._hurry(queue, -inf)

    def merged(self, organization: str, into: str) -> bool:
        """Take in that two organizations are one; return whether keys change their owner by that.

        The caller has merged them in the store.
        """
        regrouping = self.fleet.merged(organization, into)
        if regrouping is None:
            return False
        self.regroup(regrouping)
        return True

    def regroup(self, regrouping: Regrouping) -> None:
        """Let keys change their owners, and calls that wait look who is ready now."""
        self.fleet.regroup(regrouping)
        for queue in self._busy_queues:
            self._hurry(queue, -inf)

    # Telling

    def waiting_queues(self) -> Iterable[WaitQueue]:
        """Return the queues in which calls wait."""
        return tuple(self._busy_queues)

    def eta(self, demand: Demand, now: float) -> float:
        """Return the seconds until such a call could be granted, behind those that wait now."""
        self.health_tracker.wake_rested(now, waiting=self.waiting > 0)
        seconds = self._eta(self.enter(demand, now, inf), now)
        return seconds if seconds < inf else self.health_tracker.trials_until - now

    def _eta(self, waiter: Waiter, now: float) -> float:
        return eta(waiter, now, keeps_frontiers=self._keeps_ready_index)

    def _too_late(self, waiter: Waiter, now: float) -> WaitTimeout | NoUsableKey:
        """Return the error of a call that may not wait for what it needs."""
        if waiter.queue.candidates.is_hopeless:
            return hopeless(waiter)
        if self._away is not None:
            return unanswered(waiter, now, self._away)
        return too_late(waiter, now, max(self._eta(waiter, now), waiter.queue.ready_at - now))
