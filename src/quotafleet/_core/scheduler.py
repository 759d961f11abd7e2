"""Joins the parts: who may serve a call, in what order calls are served, when to look again.

The scheduler decides and performs nothing: `step` returns the next effect for a call (`Reserve`,
`Wait`) or None when it is granted, and a driver carries it out. Calls that must be woken are left
in `woken` for the driver to wake once it has let go of its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from math import inf
from typing import Final, assert_never

from .._protocols import Strategy
from .._usage import Demand
from ..errors import ConfigError, NoUsableKey, PoolClosed, TooLarge, WaitTimeout
from .account import Account
from .claims import Answer, Away, Claim, Guard, Oversize, Reservation, Short, State
from .conditions import Conditions
from .effects import Grant, Reserve, Wait
from .fleet import Fleet
from .identity import Regrouping
from .prospects import crowded_out, eta, hopeless, oversize, too_late, unanswered
from .queue import PATIENCE, Lane, Ticket
from .routes import Route
from .suits import suited

#: Seconds ahead that a shared store may book for a call. A full bucket refills in a minute, so only
#: daily limits, and more than five processes that each wait for a whole one, go beyond.
BOOKS_FOR: Final = 300.0
#: Seconds of gain below which a sleeping head is not woken to sleep a little less.
WORTH_WAKING: Final = 0.001


class Scheduler:
    """Who of a fleet serves whom, in one process. Not thread-safe: its pool holds a lock.

    Args:
        fleet: the keys, and the routes that are laid over them.
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
        self.conditions = Conditions(fleet, asks=asks, stirred=self._stirred)
        self._strategy = strategy
        self._max_waiting = max_waiting
        self._shared = shared
        #: The store could not answer the last claim.
        self._away: Away | None = None
        self._lanes: dict[tuple[str, str | None], Lane] = {}
        self._busy_lanes: dict[Lane, None] = {}
        self._number = 0
        self._closed = False
        #: Calls to be woken by the driver.
        self.woken: list[Ticket] = []
        self.waiting = 0

    # A call's way in

    def at_once(
        self, demand: Demand, now: float, reserve: Callable[[Claim, float], Answer]
    ) -> Grant | None:
        """Grant a call that nobody stands in the way of; ``None`` = it must `enter`.

        The usual case, without a ticket and a flow: nobody waits, nothing is due, the first owner
        that `reserve` (a local store's) is asked for fits.
        """
        lane = self._lanes.get((demand.model, None))
        if lane is None or self.waiting or self._closed or self.conditions.changes_at <= now:
            return None
        ready: Iterable[Account] = lane.route.ready
        if len(lane.route.ready) > 1:
            ready = self._strategy.rank(lane.route.ready, demand, now)
        answer = reserve(Claim(ready, demand.costs), now)
        if type(answer) is not Reservation:
            return None
        seat = lane.route.seat_of(answer.account)
        key = self.conditions.key_of(seat, demand.costs, now)
        return Grant(demand, lane, seat, key, answer, now, now)

    def enter(
        self,
        demand: Demand,
        now: float,
        gives_up_at: float,
        priority: str = "normal",
        holder: str | None = None,
        tenant: str | None = None,
    ) -> Ticket:
        """Take a call in. Follow with `step` until it returns None.

        Raises:
            PoolClosed: the pool was closed.
            ConfigError: no key may be used for the model; an unknown priority.
        """
        if self._closed:
            raise PoolClosed
        if priority not in PATIENCE:
            raise ConfigError(
                f"unknown priority {priority!r}", cure=f"Known: {', '.join(PATIENCE)}"
            )
        lane = self._lanes.get((demand.model, holder))
        if lane is None:
            route = self.fleet.route(demand.model, holder)
            lane = self._lanes[demand.model, holder] = Lane(route)
        self._number += 1
        return Ticket(self._number, demand, lane, priority, now, gives_up_at, tenant)

    def step(self, ticket: Ticket, now: float) -> Reserve | Wait | None:
        """Return what to do next for a call; None = it is granted, `accept` it.

        Raises:
            CannotServe: it will not be granted.
            PoolClosed: the pool was closed meanwhile.
        """
        lane = ticket.lane
        if self.conditions.changes_at <= now:
            self.conditions.wake_rested(now, waiting=self.waiting > 0)
        if ticket.reservation is None and not ticket.waiting and ticket.error is None:
            if ticket.short is None and self._may_try(ticket, now):
                return self._claim(ticket, now)
            self._queue(ticket, now)
        if ticket.booking is not None and (lane.busy is None or lane.busy is ticket):
            self._redeem(ticket, now)
        effect = self._serve(lane, ticket, now)
        if effect is not None:
            return effect
        if ticket.reservation is not None:
            return None
        if ticket.error is not None:
            raise ticket.error
        if now >= ticket.gives_up_at:
            raise self._too_late(ticket, now)
        return Wait(ticket, min(ticket.gives_up_at, lane.looks_at(ticket, now)))

    @staticmethod
    def is_done(ticket: Ticket) -> bool:
        """Whether a call is granted and no other waits that it should serve first."""
        lane = ticket.lane
        return ticket.reservation is not None and lane.busy is None and not lane.waiting

    def _may_try(self, ticket: Ticket, now: float) -> bool:
        lane = ticket.lane
        if lane.asking is None and lane.comes_first(ticket):
            return True
        return lane.may_try(ticket) and self._seems_to_fit(ticket, now)

    def _seems_to_fit(self, ticket: Ticket, now: float) -> bool:
        """Whether asking the store for a call behind the head is worth a round trip."""
        ready = ticket.lane.route.ready
        return not self._shared or any(a.ready_at(ticket.costs, now) <= now for a in ready)

    def _redeem(self, ticket: Ticket, now: float) -> None:
        """Grant a call what was booked for it, once it may be used."""
        booking = ticket.booking
        if booking is None or booking.starts_at > now or ticket.error is not None:
            return
        if booking.state is not State.OPEN:  # lost while it was to be exchanged
            ticket.booking = None
            return
        if ticket.lane.route.seat_of(booking.account).position >= 0:
            self._granted(ticket, booking, now)

    @property
    def _keeps_frontiers(self) -> bool:
        """Whether what the store's owners hold is known here, while calls wait."""
        return bool(self._busy_lanes) and not self._shared

    def _claim(self, ticket: Ticket, now: float) -> Reserve:
        lane, frontier = ticket.lane, None
        ready = lane.route.ready_except(ticket.avoid | ticket.last)
        if lane.waiting and lane.route.is_mixed(now):
            ready = suited(ticket, ready, now)
        if self._keeps_frontiers and ready is lane.route.ready and not ticket.thorough:
            if now >= lane.expires_at:
                lane.route.rest()  # what came back by expiring was told to nobody
            frontier = lane.route.frontier(ticket.costs, now)
            if frontier is not None:
                ready = frontier.due(now)
        ranking: Iterable[Account] = ready
        if len(ready) > 1:
            ranking = self._strategy.rank(ready, ticket.demand, now)
        if ticket.last and frontier is None and ready is not lane.route.ready:
            ranking = chain(ranking, lane.route.ready_last(ticket.avoid, ticket.last))
        if self._shared:
            return Reserve(ticket, self._shared_claim(ticket, ranking, now))
        guards: tuple[Guard, ...] = ()
        if self._busy_lanes:
            guards = tuple(
                other.guard
                for other in self._busy_lanes
                if other.guard is not None and other.holds_back(ticket)
            )
        return Reserve(ticket, Claim(ranking, ticket.costs, guards), frontier, ready)

    def _shared_claim(self, ticket: Ticket, ranking: Iterable[Account], now: float) -> Claim:
        """Only the head's claim may book: one call of a lane, and of a process, at a time."""
        lane, head = ticket.lane, ticket.lane.head
        is_first = head is ticket or (lane.asking is None and (head is None or ticket < head))
        if is_first and head is not ticket:
            lane.asking = ticket
        books_for = min(BOOKS_FOR, ticket.gives_up_at - now) if is_first else 0.0
        held = ticket.booking
        if held is None or ticket.lane.route.seat_of(held.account).position >= 0:
            return Claim(ranking, ticket.costs, (), books_for, held)
        ticket.booking = None
        return Claim(ranking, ticket.costs, (), books_for, None, held)

    def _serve(self, lane: Lane, ticket: Ticket, now: float) -> Reserve | None:
        """Return the lane's next claim, if it is due and nobody else serves it."""
        if lane.busy is not None and lane.busy is not ticket:
            return None
        head = lane.head
        while lane.passers:
            passer = lane.passers.pop()
            if passer.waiting:
                return self._claim(passer, now)
        while head is not None and head.booking is not None and lane.ready_at <= now:
            self._redeem(head, now)
            if head.waiting:
                break
            head = lane.head
        if head is not None and lane.ready_at <= now and lane.asking is None:
            lane.busy = ticket
            return self._claim(head, now)
        if lane.busy is ticket:
            lane.busy = None
            if head is not None and head is not ticket:
                self.woken.append(head)
        return None

    def answered(self, effect: Reserve, answer: Answer, now: float) -> Reservation | None:
        """Take in the store's answer. Returns a reservation that nobody wants, to be released."""
        ticket, frontier = effect.ticket, effect.frontier
        if ticket.lane.asking is ticket:
            ticket.lane.asking = None
            if ticket.lane.head is not None:  # it sleeps until it is woken, see `Lane.looks_at`
                self.woken.append(ticket.lane.head)
        self._away = answer.away if type(answer) is Short else None
        match answer:
            case Reservation():
                if frontier is not None:
                    frontier.put(answer.account, now)
                return self._granted(ticket, answer, now)
            case Oversize():
                if frontier is None:
                    self._fail(ticket, oversize(ticket, answer))
                ticket.thorough = True  # an owner that is not due may be larger
            case Short():
                if frontier is not None:
                    answer = frontier.short(effect.due, effect.claim.costs, answer, now)
                if answer.booking is not None and not ticket.is_open:
                    return answer.booking
                ticket.booking = answer.booking
                if ticket.waiting:
                    self._still_short(ticket, answer, now)
                else:
                    ticket.short = answer
            case _:
                assert_never(answer)
        return None

    def _granted(self, ticket: Ticket, reservation: Reservation, now: float) -> Reservation | None:
        if not ticket.is_open:
            return reservation
        ticket.reservation = reservation
        ticket.reserved_at = now
        ticket.booking = None
        lane = ticket.lane
        if ticket.waiting:
            self._unqueue(ticket)
            self.woken.append(ticket)
        if lane.waiting and lane.charge(ticket, now):
            lane.ready_at = -inf
        ticket.seat = ticket.lane.route.seat_of(reservation.account)
        ticket.key = self.conditions.key_of(ticket.seat, ticket.costs, now)
        return None

    def _still_short(self, ticket: Ticket, answer: Short, now: float) -> None:
        lane = ticket.lane
        ready_at = min(answer.ready_at, lane.route.usable_at())
        # What is not known ends at the latest when a reservation or a probe is given up.
        look_at = min(ready_at, answer.expires_at, self.conditions.changes_at)
        look_at = max(look_at, now + WORTH_WAKING / 1000)
        if ticket is not lane.head:
            lane.ready_at = min(lane.ready_at, look_at)
            return
        if lane.again:
            lane.again = False
            if answer.booking is None:
                return
        lane.ready_at = look_at
        lane.expires_at = answer.expires_at
        lane.guard = None
        if answer.account is not None and answer.ready_at <= ready_at:
            lane.guard = Guard(answer.account, ticket.costs, answer.ready_at)
        if lane.route.is_hopeless or (
            ticket.gives_up_at < ready_at < inf
            and answer.away is None
            and not lane.route.may_be_freed(ticket.costs, now)
        ):
            self._fail(ticket, self._too_late(ticket, now))
            return
        if answer.away is not None:  # nor does anybody else fit
            lane.passers = []
            return
        passers = lane.candidates_to_pass(now)
        lane.passers = [one for one in passers if self._seems_to_fit(one, now)][::-1]

    def _fail(self, ticket: Ticket, error: TooLarge | WaitTimeout | NoUsableKey) -> None:
        ticket.error = error
        if ticket.waiting:
            self._unqueue(ticket)
            self.woken.append(ticket)

    def _queue(self, ticket: Ticket, now: float) -> None:
        lane = ticket.lane
        if lane.route.is_hopeless:
            raise hopeless(ticket)
        seconds = self._eta(ticket, now)
        is_away = ticket.short is not None and ticket.short.away is not None
        if (
            ticket.gives_up_at < now + seconds < inf
            and not is_away
            and not lane.route.may_be_freed(ticket.costs, now)
        ):
            raise too_late(ticket, now, seconds)
        places = self._max_waiting
        if self.waiting >= places and not (
            self.waiting < 2 * places and lane.has_place(ticket.tenant, places)
        ):
            raise crowded_out(ticket, self.waiting, seconds)
        lane.add(ticket)
        self.waiting += 1
        self._busy_lanes[lane] = None
        if lane.head is ticket and ticket.short is not None:
            # Who comes before the head was tried first, so it knows already when it fits.
            self._still_short(ticket, ticket.short, now)
            lane.passers = []  # they were told their own instants

    def _unqueue(self, ticket: Ticket) -> None:
        lane = ticket.lane
        was_head = lane.head is ticket
        lane.remove(ticket)
        self.waiting -= 1
        if lane.head is None:
            lane.ready_at = -inf
            lane.guard = None
            lane.passers = []
            lane.route.rest()
            self._busy_lanes.pop(lane, None)
        elif was_head:
            lane.ready_at = -inf

    # A call's way out

    def accept(self, ticket: Ticket, now: float) -> Grant:
        """Turn a granted ticket into a grant."""
        reservation, seat = ticket.reservation, ticket.seat
        if reservation is None or seat is None or ticket.key is None:
            raise AssertionError("only a granted ticket can be accepted")
        ticket.reservation = None
        ticket.left = True
        return Grant(
            ticket.demand,
            ticket.lane,
            seat,
            ticket.key,
            reservation,
            ticket.entered_at,
            now,
            ticket.reserved_at,
        )

    def leave(self, ticket: Ticket, now: float) -> Reservation | None:
        """Take a call out that gave up; returns what it was granted and never accepted."""
        lane = ticket.lane
        if ticket.left:
            return None
        ticket.left = True
        if ticket.waiting:
            self._unqueue(ticket)
        if lane.busy is ticket:
            lane.busy = None
        if lane.asking is ticket:
            lane.asking = None
        if lane.head is not None:
            self._hurry(lane, now if ticket.reservation is not None else lane.ready_at)
        reservation, ticket.reservation = ticket.reservation or ticket.booking, None
        ticket.booking = None
        if ticket.seat is not None:
            self.conditions.abandon(ticket.seat, now)
        return reservation

    def close(self) -> None:
        """Refuse new calls, and let those that wait fail."""
        self._closed = True
        for lane in list(self._busy_lanes):
            for ticket in list(lane):
                ticket.error = PoolClosed()
                self._unqueue(ticket)
                self.woken.append(ticket)

    # What comes back

    def freed(self, account: Account, now: float) -> bool:
        """Look whether a waiting head fits earlier, after something came back to an owner.

        Returns whether any call waits for that owner.
        """
        awaited = False
        for lane in self._busy_lanes:
            awaited = awaited or account.organization in lane.route.kin
            lane.route.came_back(account.organization, now)
            if lane.busy is not None:
                lane.again = True
                continue
            head = lane.shares.order[0].waiting[0]
            kin = lane.route.kin.get(account.organization, ())
            ready = (other.ready_at(head.costs, now) for other in kin)
            earliest = min(ready, default=inf)
            if earliest < lane.ready_at - WORTH_WAKING:
                self._hurry(lane, earliest)
        return awaited

    def _hurry(self, lane: Lane, at: float) -> None:
        lane.ready_at = min(lane.ready_at, at)
        self.woken.append(lane.shares.order[0].waiting[0])

    def _stirred(self, route: Route) -> None:
        """Let the calls that wait for a route look who is ready now."""
        lane = self._lanes.get((route.model, route.holder))
        if lane is not None and lane.head is not None:
            self._hurry(lane, -inf)

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
        for lane in self._busy_lanes:
            self._hurry(lane, -inf)

    # Telling

    def waiting_lanes(self) -> Iterable[Lane]:
        """Return the lanes in which calls wait."""
        return tuple(self._busy_lanes)

    def eta(self, demand: Demand, now: float) -> float:
        """Return the seconds until such a call could be granted, behind those that wait now."""
        self.conditions.wake_rested(now, waiting=self.waiting > 0)
        seconds = self._eta(self.enter(demand, now, inf), now)
        return seconds if seconds < inf else self.conditions.trials_until - now

    def _eta(self, ticket: Ticket, now: float) -> float:
        return eta(ticket, now, keeps_frontiers=self._keeps_frontiers)

    def _too_late(self, ticket: Ticket, now: float) -> WaitTimeout | NoUsableKey:
        """Return the error of a call that may not wait for what it needs."""
        if ticket.lane.route.is_hopeless:
            return hopeless(ticket)
        if self._away is not None:
            return unanswered(ticket, now, self._away)
        return too_late(ticket, now, max(self._eta(ticket, now), ticket.lane.ready_at - now))
