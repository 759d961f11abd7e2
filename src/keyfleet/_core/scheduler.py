"""Joins the parts: who may serve a call, in what order calls are served, when to look again.

The scheduler decides and performs nothing: `step` returns the next effect for a call (`Reserve`,
`Wait`) or None when it is granted, and a driver carries it out. Calls that must be woken are left
in `woken` for the driver to wake once it has let go of its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import chain
from math import floor, inf
from typing import Final, assert_never

from .._keys import ApiKey
from .._limits import Costs, Metric
from .._outcome import Kind, Observation, Outcome
from .._protocols import Strategy
from .._usage import Demand
from ..errors import ConfigError, NoUsableKey, PoolClosed, QueueFull, TooLarge, WaitTimeout
from .account import Account
from .claims import Answer, Away, Claim, Guard, Oversize, Reservation, Short
from .claims import State as Open
from .effects import Grant, Reserve, Wait
from .frontier import Frontier
from .health import (
    ANSWERED,
    HUNG_FOR,
    TRIAL_FOR,
    TRIAL_GROWTH,
    Event,
    Level,
    News,
    State,
    Subject,
    told_by,
)
from .identity import Identities, Regrouping, regrouped
from .opening import LATE, REFUSED_WITHIN, Openings
from .queue import PATIENCE, Lane, Ticket
from .routes import Route, Seat, allows, owner_of

TOKEN_METRICS: Final = frozenset({Metric.TOKENS, Metric.INPUT_TOKENS, Metric.OUTPUT_TOKENS})
#: Seconds ahead that a shared store may book for a call. A full bucket refills in a minute, so only
#: daily limits, and more than five processes that each wait for a whole one, go beyond.
BOOKS_FOR: Final = 300.0
#: Seconds for which a process that had leave to probe, and no call for it, lets others go first: as
#: long as a store holds its claim on the probe.
YIELDS_FOR: Final = 5.0
#: Seconds of gain below which a sleeping head is not woken to sleep a little less.
WORTH_WAKING: Final = 0.001


#: How much more of one owner's scarcest limit than of another's a call may take, each against what
#: the usual call takes, and seconds for which it then waits for the other, if that has as large a
#: share left, or nearly.
SUITS: Final = 1.1
SUITS_WITHIN: Final = 2.0
SUITS_SLACK: Final = 0.05


class Scheduler:
    """The state of one fleet in one process. Not thread-safe: its pool holds a lock."""

    def __init__(
        self,
        keys: Sequence[ApiKey],
        *,
        account_of: Callable[[ApiKey, str], Account],
        family_of: Callable[[ApiKey, str], str],
        strategy: Strategy,
        max_waiting: int,
        shared: bool = False,
        asks: bool = False,
    ) -> None:
        self._keys = {key.key_id: key for key in keys}
        self._account_of = account_of
        self._family_of = family_of
        self._strategy = strategy
        self._max_waiting = max_waiting
        #: The store takes time to answer, and serves other processes too.
        self._shared = shared
        #: Other processes are told of health, and asked before a probe.
        self._asks = asks
        #: It could not answer the last claim.
        self._away: Away | None = None
        self._routes: dict[tuple[str, str | None], Route] = {}
        self._lanes: dict[tuple[str, str | None], Lane] = {}
        self._busy_lanes: dict[Lane, None] = {}
        self._subjects: dict[str, Subject] = {}
        self._seats_of: dict[Subject, list[tuple[Route, Seat]]] = {}
        self._resting: list[tuple[float, int, Subject]] = []
        #: Subjects that are not closed; mostly none, so that a call doesn't look at any.
        self._ailing: set[Subject] = set()
        #: When keys on trial may have more attempts, and owners that open may be granted more.
        self._trials: list[tuple[float, int, Subject]] = []
        #: Closed subjects with faults in a row, fewer than open them.
        self._suspects: set[Subject] = set()
        #: How fast owners are used that were not tested yet.
        self._openings = Openings()
        self._identities = Identities()
        self._number = 0
        self._closed = False
        #: Calls to be woken by the driver.
        self.woken: list[Ticket] = []
        #: Subjects whose state changed, for the driver to tell listeners.
        self.changed: list[tuple[str, State, str]] = []
        #: What the other processes are to know of that, for the driver to tell them.
        self.news: list[News] = []
        self.waiting = 0

    # Routes

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The fleet's keys, as far as is known of their owners by now."""
        return tuple(self._keys.values())

    def route(self, model: str, holder: str | None = None) -> Route:
        """Return the owners that may serve a model, or only the owner of a key.

        Raises:
            ConfigError: no key may be used for the model.
        """
        route = self._routes.get((model, holder))
        if route is None:
            route = Route(model, holder)
            self._fill(route)
            if not route.seats:
                raise ConfigError(
                    f"no key may use the model {model!r}",
                    cure="Check `only_models` of the organizations, or the model's name",
                )
            self._routes[model, holder] = route
        return route

    def _fill(self, route: Route) -> None:
        route.clear()
        keys = self._keys.values()
        held_by = None if route.holder is None else owner_of(self._keys[route.holder])
        for key in keys if held_by is None else [k for k in keys if owner_of(k) == held_by]:
            if allows(key, route.model):
                self._seat(route, key)
        for seat in route.seats.values():
            seat.position = -1
            route.refresh(seat)

    def _seat(self, route: Route, key: ApiKey) -> None:
        account = self._account_of(key, self._family_of(key, route.model))
        seat = route.seats.get(account)
        if seat is None:
            seat = route.seats[account] = Seat(account, self._owner_subjects(account, key, route))
            route.kin.setdefault(account.organization, []).append(account)
            for subject in seat.subjects:
                self._seats_of.setdefault(subject, []).append((route, seat))
        subject = self._subject(f"key {key.key_id}")
        seat.keys.append((key, subject))
        self._seats_of.setdefault(subject, []).append((route, seat))

    def _owner_subjects(self, account: Account, key: ApiKey, route: Route) -> tuple[Subject, ...]:
        names = [
            f"organization {account.organization}",
            f"model {route.model} of {account.owner}",
            f"model {route.model} at {key.provider} {key.base_url}".rstrip(),
        ]
        if account.project is not None:
            names.append(f"project {account.owner}")
        return tuple(self._subject(name) for name in names)

    def _subject(self, name: str) -> Subject:
        return self._subjects.setdefault(name, Subject(name))

    # A call's way in

    def at_once(
        self, demand: Demand, now: float, reserve: Callable[[Claim, float], Answer]
    ) -> Grant | None:
        """Grant a call that nobody stands in the way of; ``None`` = it must `enter`.

        The usual case, without a ticket and a flow: nobody waits, nothing is due, the first owner
        that `reserve` (a local store's) is asked for fits.
        """
        lane = self._lanes.get((demand.model, None))
        if (
            lane is None
            or self.waiting
            or self._closed
            or ((self._resting or self._trials) and self._next_change() <= now)
        ):
            return None
        ready: Iterable[Account] = lane.route.ready
        if len(lane.route.ready) > 1:
            ready = self._strategy.rank(lane.route.ready, demand, now)
        answer = reserve(Claim(ready, demand.costs), now)
        if type(answer) is not Reservation:
            return None
        seat = self._seat_of(lane.route, answer.account)
        return Grant(demand, lane, seat, self._key_of(seat, demand.costs, now), answer, now, now)

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
            route = self.route(demand.model, holder)
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
        if (self._resting or self._trials) and self._next_change() <= now:
            self._wake_rested(now)
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
        return Wait(ticket, min(ticket.gives_up_at, self._looks_at(ticket, now)))

    @staticmethod
    def _looks_at(ticket: Ticket, now: float) -> float:
        """Return when a call serves its lane by itself.

        The head does when the lane is due. Another does once when it may fit by its own claim's
        answer; from then on the head sees to it.
        """
        lane, short = ticket.lane, ticket.short
        if lane.head is ticket:
            # Who is asking the store at present wakes it.
            return lane.ready_at if lane.busy is lane.asking is None else inf
        if ticket.booking is not None:  # it was the head, until a more urgent call came
            return ticket.booking.starts_at
        if short is None or short.ready_at <= now:
            return inf
        lane.ready_at = min(lane.ready_at, short.ready_at)
        return short.ready_at

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
        if booking.state is not Open.OPEN:  # lost while it was to be exchanged
            ticket.booking = None
            return
        if self._seat_of(ticket.lane.route, booking.account).position >= 0:
            self._granted(ticket, booking, now)

    @property
    def _keeps_frontiers(self) -> bool:
        """Whether what the store's owners hold is known here, while calls wait."""
        return bool(self._busy_lanes) and not self._shared

    def _claim(self, ticket: Ticket, now: float) -> Reserve:
        lane, frontier = ticket.lane, None
        ready = lane.route.ready_except(ticket.avoid | ticket.last)
        if lane.waiting and lane.route.is_mixed(now):
            ready = self._suited(ticket, ready, now)
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

    @staticmethod
    def _suited(ticket: Ticket, ready: list[Account], now: float) -> list[Account]:
        """Return the ready owners, less those that suit a call worse than one that is soon ready.

        A fleet may be short of requests at one owner and of tokens at another. If each took what
        comes first, both would be left with much of what they aren't short of. So a call waits for
        the owner of which it takes less, if that one has as large a share left.
        """
        lane, costs = ticket.lane, ticket.costs
        others = []
        for seat in lane.route.seats.values():
            account, pauses_until = seat.account, seat.family.pauses_until
            at = account.ready_at(costs, now)
            if pauses_until > -inf:
                at = max(at, pauses_until)
            elif seat.position < 0:
                continue
            if now < at < min(now + SUITS_WITHIN, ticket.gives_up_at):
                strain = lane.strain(account, costs)
                others.append((SUITS * strain, account.headroom(costs, now) + SUITS_SLACK))

        def suits(account: Account) -> bool:
            strain, headroom = lane.strain(account, costs), account.headroom(costs, now)
            return not any(less < strain and headroom < most for less, most in others)

        return [account for account in ready if suits(account)] if others else ready

    def _shared_claim(self, ticket: Ticket, ranking: Iterable[Account], now: float) -> Claim:
        """Only the head's claim may book: one call of a lane, and of a process, at a time."""
        lane, head = ticket.lane, ticket.lane.head
        is_first = head is ticket or (lane.asking is None and (head is None or ticket < head))
        if is_first and head is not ticket:
            lane.asking = ticket
        books_for = min(BOOKS_FOR, ticket.gives_up_at - now) if is_first else 0.0
        held = ticket.booking
        if held is None or self._seat_of(ticket.lane.route, held.account).position >= 0:
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
            if ticket.lane.head is not None:  # it sleeps until it is woken, see `_looks_at`
                self.woken.append(ticket.lane.head)
        self._away = answer.away if type(answer) is Short else None
        match answer:
            case Reservation():
                if frontier is not None:
                    frontier.put(answer.account, now)
                return self._granted(ticket, answer, now)
            case Oversize():
                if frontier is None:
                    self._fail(ticket, _oversize(ticket, answer))
                ticket.thorough = True  # an owner that is not due may be larger
            case Short():
                if frontier is not None:
                    answer = _beyond(frontier, effect, answer, now)
                if answer.booking is not None and not self._wants(ticket):
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
        if not self._wants(ticket):
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
        ticket.seat = self._seat_of(ticket.lane.route, reservation.account)
        ticket.key = self._key_of(ticket.seat, ticket.costs, now)
        return None

    @staticmethod
    def _wants(ticket: Ticket) -> bool:
        return not ticket.left and ticket.error is None and ticket.reservation is None

    def _still_short(self, ticket: Ticket, answer: Short, now: float) -> None:
        lane = ticket.lane
        ready_at = min(answer.ready_at, lane.route.usable_at())
        # What is not known ends at the latest when a reservation or a probe is given up.
        look_at = min(ready_at, answer.expires_at, self._next_change())
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
            raise self._too_late(ticket, now)
        eta = self._eta(ticket, now)
        is_away = ticket.short is not None and ticket.short.away is not None
        if (
            ticket.gives_up_at < now + eta < inf
            and not is_away
            and not lane.route.may_be_freed(ticket.costs, now)
        ):
            raise self._too_late(ticket, now, eta)
        places = self._max_waiting
        if self.waiting >= places and not (
            self.waiting < 2 * places and lane.has_place(ticket.tenant, places)
        ):
            raise QueueFull(
                f"{self.waiting} calls wait already (wait.max_waiting)",
                retry_after=_finite(eta),
                model=ticket.demand.model,
            )
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

    def _try_out(self, subject: Subject, now: float) -> None:
        """Count an attempt with a key that was never answered; after some, it has to wait."""
        subject.trials += 1
        if subject.trials == subject.allowed:
            self._number += 1
            heappush(self._trials, (now + TRIAL_FOR, self._number, subject))
            self._refresh(subject)

    def _pace(self, seat: Seat, costs: Costs, now: float) -> None:
        """Count a grant of an owner that was not tested yet; it may have to pause."""
        family = seat.family
        until = self._openings.take(family, seat.account, costs, now)
        if until is not None:
            self._number += 1
            heappush(self._trials, (until, self._number, family))
            self._refresh(family)

    def _key_of(self, seat: Seat, costs: Costs, now: float) -> tuple[ApiKey, Subject]:
        """Return the key that serves next, counted if it is on trial or the owner is probed."""
        key = seat.next_key()
        subject = key[1]
        if not subject.proven:
            self._try_out(subject, now)
            self._openings.begin(seat.family, seat.subjects[2], seat.account, now)
        opening = seat.family.opening
        if opening is not None:
            opening.slack -= 1
            if opening.slack < 0:
                self._pace(seat, costs, now)
        if self._ailing:
            self._begin_probe(seat, now)
        return key

    @staticmethod
    def _seat_of(route: Route, account: Account) -> Seat:
        seat = route.seats.get(account)
        if seat is not None:
            return seat
        # Its owner was merged into another, or split by project, after it was granted.
        return route.seats[route.kin[account.organization][0]]

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
            self._abandon(ticket.seat, now)
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

    @property
    def troubled(self) -> bool:
        """Whether a success would change anything: a subject is not closed, or tested."""
        return bool(self._ailing or self._suspects or self._openings.testing)

    def prove(self, subject: Subject) -> None:
        """Take a key off trial: it was answered."""
        subject.proven = True
        self._refresh(subject)

    def report(self, grant: Grant, outcome: Outcome, now: float) -> None:
        """Move the health of what an attempt's outcome speaks of."""
        told = told_by(outcome)
        if told is not None:
            level, event = told
            subject = self._spoken_of(grant, level, outcome)
            if grant.at >= subject.since:
                self._tell(
                    subject,
                    event,
                    now,
                    retry_after=HUNG_FOR if outcome.kind is Kind.TIMEOUT else outcome.retry_after,
                    reason=outcome.code or outcome.kind.value,
                )
        if outcome.kind in ANSWERED and not grant.key_subject.proven:
            self.prove(grant.key_subject)
        if self._ailing or self._suspects:
            self._clear(grant, outcome, now)
        if self._openings.testing and self._openings.tested(grant, outcome, now):
            self._refresh(grant.seat.family)
            self._resume()

    def _clear(self, grant: Grant, outcome: Outcome, now: float) -> None:
        """End the probe that an attempt was, and forget the faults that its answer disproves."""
        answered = outcome.kind in ANSWERED
        for subject in grant.seat.subjects:
            if subject.state is State.PROBING and grant.at >= subject.since:
                self._tell(subject, Event.SUCCESS if answered else self._given_up, now)
            elif answered and subject in self._suspects:
                subject.tell(Event.SUCCESS, now)
                self._suspects.discard(subject)

    @staticmethod
    def _spoken_of(grant: Grant, level: Level, outcome: Outcome) -> Subject:
        subjects = grant.seat.subjects
        match level:
            case Level.KEY:
                return grant.key_subject
            case Level.OWNER_MODEL:
                return grant.seat.family
            case Level.PROVIDER_MODEL:
                return subjects[2]
            case Level.OWNER:
                if outcome.scope == "project" and len(subjects) > 3:
                    return subjects[3]
                return subjects[0]
            case _:
                assert_never(level)

    def _tell(
        self,
        subject: Subject,
        event: Event,
        now: float,
        *,
        retry_after: float | None = None,
        reason: str = "",
    ) -> bool:
        if not subject.tell(event, now, retry_after=retry_after, reason=reason):
            if subject.faults:
                self._suspects.add(subject)
            return False
        if self._asks:
            self.news.append(subject.news)
        self._moved(subject)
        return True

    def told(self, news: News, now: float) -> bool:
        """Take in what another process found of a subject; return whether that changed anything.

        It holds whatever this process found before: the store brings news in order.
        """
        subject = self._subject(news.name)
        if not subject.take(news, now):
            return False
        self._moved(subject)
        return True

    def _moved(self, subject: Subject) -> None:
        """Take in that a subject's state changed."""
        for route, _ in self._seats_of.get(subject, ()):
            route.supply_changed()
        self.changed.append((subject.name, subject.state, subject.reason))
        if subject.state is State.CLOSED:
            self._ailing.discard(subject)
        else:
            self._ailing.add(subject)
        if subject.until < inf:
            self._number += 1
            heappush(self._resting, (subject.until, self._number, subject))
        self._refresh(subject)

    def _refresh(self, subject: Subject) -> None:
        """Let the seats of a subject join or leave the ready ones, and calls that wait know."""
        for route, seat in self._seats_of.get(subject, ()):
            route.refresh(seat)
            lane = self._lanes.get((route.model, route.holder))
            if lane is not None and lane.head is not None:
                self._hurry(lane, -inf)

    def _wake_rested(self, now: float) -> None:
        while self._resting and self._resting[0][0] <= now:
            until, _, subject = heappop(self._resting)
            if subject.until == until:
                self._end_rest(subject, now)
        while self._trials and self._trials[0][0] <= now:
            at, _, subject = heappop(self._trials)
            if self.waiting and now - at > LATE:  # so late, what was refused may not be read yet
                self._rearm(subject, at, now)
                continue
            if not self._openings.resume(subject, at, now):
                subject.allowed *= TRIAL_GROWTH
            self._refresh(subject)
            self._resume()

    def _resume(self) -> None:
        """Let owners go on whose pause ended by what another's test proved."""
        while self._openings.resumed:
            self._refresh(self._openings.resumed.pop())

    def _rearm(self, subject: Subject, at: float, now: float) -> None:
        """Look again at a key on trial, or an owner that pauses, once the client has caught up."""
        until = now + REFUSED_WITHIN
        if subject.pauses_until > -inf:
            if subject.pauses_until != at:
                return
            subject.pauses_until = until
        self._number += 1
        heappush(self._trials, (until, self._number, subject))
        self._refresh(subject)

    def _end_rest(self, subject: Subject, now: float) -> None:
        if not self._asks or subject.state is State.ASKING:
            self._tell(subject, Event.DUE, now)
        elif subject.state is State.HALF_OPEN:  # no call used its leave: the others' turn
            until = now + YIELDS_FOR
            self.told(replace(subject.news, state=State.PROBING, until=until), now)
        else:
            self._tell(subject, Event.ASK, now)

    def _next_change(self) -> float:
        """Return the instant when a subject that rests, or a key on trial, may be used again."""
        trial = self._trials[0][0] if self._trials else inf
        return min(trial, self._resting[0][0]) if self._resting else trial

    def _begin_probe(self, seat: Seat, now: float) -> None:
        for subject in seat.subjects:
            if subject.state is State.HALF_OPEN:
                self._tell(subject, Event.PROBE, now)

    def _abandon(self, seat: Seat, now: float) -> None:
        for subject in seat.subjects:
            if subject.state is State.PROBING:
                self._tell(subject, self._given_up, now)

    @property
    def _given_up(self) -> Event:
        """What a probe that says nothing is to its subject."""
        return Event.ASK if self._asks else Event.ABANDON

    def revive(self, name: str | None, now: float) -> int:
        """Close every subject, or those whose name holds `name`; return how many changed."""
        chosen = [s for s in self._subjects.values() if name is None or name in s.name]
        return sum(self._tell(subject, Event.REVIVE, now) for subject in chosen)

    def others(self, model: str, holder: str | None = None) -> frozenset[str]:
        """Return the owners that could serve a model now."""
        return frozenset(account.owner for account in self.route(model, holder).ready)

    # Identity

    def identify(self, grant: Grant, observation: Observation) -> Regrouping | None:
        """Take in who the provider says a key belongs to; returns what follows from it.

        The caller merges the organizations in the store, then calls `regroup`.
        """
        return self._identities.tell(grant.key, observation, self._keys)

    def merged(self, organization: str, into: str) -> bool:
        """Take in that two organizations are one; return whether keys change their owner by that.

        The caller has merged them in the store.
        """
        self._identities.merged(organization, into)
        if all(key.organization != organization for key in self._keys.values()):
            return False
        self.regroup(Regrouping(merges=((organization, into),)))
        return True

    def regroup(self, regrouping: Regrouping) -> None:
        """Lay the routes anew, now that keys turned out to have other owners."""
        merges, projects = dict(regrouping.merges), dict(regrouping.projects)
        for key in self.keys:
            self._keys[key.key_id] = regrouped(key, merges, projects)
        self._seats_of.clear()
        for route in self._routes.values():
            self._fill(route)
        for lane in self._busy_lanes:
            self._hurry(lane, -inf)

    # Telling

    def accounts(self) -> Iterable[Account]:
        """Return every account on some route, each once."""
        return {account: None for route in self._routes.values() for account in route.seats}

    def key_subject(self, key: ApiKey) -> Subject:
        """Return the health of a key."""
        return self._subject(f"key {key.key_id}")

    def ailing(self) -> Iterable[Subject]:
        """Return the subjects that are not closed."""
        return sorted(self._ailing, key=lambda subject: subject.name)

    def waiting_lanes(self) -> Iterable[Lane]:
        """Return the lanes in which calls wait."""
        return tuple(self._busy_lanes)

    def eta(self, demand: Demand, now: float) -> float:
        """Return the seconds until such a call could be granted, behind those that wait now."""
        self._wake_rested(now)
        eta = self._eta(self.enter(demand, now, inf), now)
        if eta == inf and self._trials:
            return self._trials[0][0] - now
        return eta

    def _eta(self, ticket: Ticket, now: float) -> float:
        """What is ahead can't be served faster than all owners together refill."""
        lane, route = ticket.lane, ticket.lane.route
        if ticket.short is not None:
            soonest = ticket.short.ready_at
        elif self._keeps_frontiers and (frontier := route.frontier(ticket.costs, now)) is not None:
            soonest = frontier.first()[0]
        else:
            soonest = min((a.ready_at(ticket.costs, now) for a in route.ready), default=inf)
        eta = max(0.0, min(soonest, route.usable_at()) - now)
        if not lane.waiting:
            return eta
        ahead = lane.ahead_of(ticket, now)
        for metric, level, rate in route.supply(now):
            used = lane.used if metric in TOKEN_METRICS else 1.0
            missing = (ahead[metric] + ticket.costs[metric]) * used - level
            if rate and missing / rate > eta:
                eta = missing / rate
        return eta

    def _too_late(
        self, ticket: Ticket, now: float, eta: float | None = None
    ) -> WaitTimeout | NoUsableKey:
        route = ticket.lane.route
        key_ids = tuple(key.key_id for seat in route.seats.values() for key, _ in seat.keys)[:32]
        if route.is_hopeless:
            return NoUsableKey(
                f"no key may serve {ticket.demand.model!r} any more: {self._sick(route)}",
                key_ids=key_ids,
                model=ticket.demand.model,
            )
        waited = now - ticket.entered_at
        if eta is None and self._away is not None:
            return WaitTimeout(
                f"{ticket.demand.model or 'the call'} can't be granted in time: the store has been "
                f"away for {now - self._away.since:.3g} s ({self._away.why}); the call waited for "
                f"{waited:.3g} s",
                key_ids=key_ids,
                model=ticket.demand.model,
                waited_for=waited,
            )
        if eta is None:
            eta = max(self._eta(ticket, now), ticket.lane.ready_at - now)
        return WaitTimeout(
            f"{ticket.demand.model or 'the call'} can't be granted in time: it may wait "
            f"{ticket.gives_up_at - now:.3g} s more and would need {eta:.3g} s; "
            f"{self.why(ticket, now)}",
            retry_after=_finite(eta),
            key_ids=key_ids,
            model=ticket.demand.model,
            waited_for=waited,
        )

    def why(self, ticket: Ticket, now: float) -> str:
        """Say in a few words what a call waits for."""
        route = ticket.lane.route
        if not route.ready:
            return f"no owner is usable now: {self._sick(route)}"
        account = min(route.ready, key=lambda a: a.ready_at(ticket.costs, now))
        bucket = account.binding(ticket.costs, now)
        ahead = ticket.lane.waiting
        behind = f"{ahead} calls wait for the same" if ahead else "no other call waits"
        if bucket is None:
            return behind
        return (
            f"{bucket.scope} has {floor(bucket.level)} of {bucket.limit:g} {bucket.name} left, "
            f"the call needs {ticket.costs[bucket.metric]:g}; {behind}"
        )

    def _sick(self, route: Route) -> str:
        subjects: dict[Subject, None] = {}
        for seat in route.seats.values():
            for subject in (*seat.subjects, *(s for _, s in seat.keys)):
                if not subject.usable:
                    subjects[subject] = None
        told = [f"{s.name} {s.condition}" for s in list(subjects)[:8]]
        return "; ".join(told) or "their keys are on trial, none was answered yet"


def _beyond(frontier: Frontier, effect: Reserve, answer: Short, now: float) -> Short:
    """Return what a claim's answer means for all owners: it was given only those that were due."""
    for account in effect.due:
        frontier.put_off(account, effect.claim.costs, now, answer.ready_at)
    ready_at, first = frontier.first()
    return Short(first, ready_at, answer.expires_at)


def _oversize(ticket: Ticket, answer: Oversize) -> TooLarge:
    bucket = answer.bucket
    return TooLarge(
        f"the call needs {ticket.costs[bucket.metric]:g} {bucket.metric.name.lower()}, more than "
        f"{bucket.scope}'s whole limit of {bucket.limit:g} {bucket.name}, the largest of all "
        "owners: make it smaller, or add an owner with a higher limit",
        model=ticket.demand.model,
    )


def _finite(seconds: float) -> float | None:
    return seconds if seconds < inf else None
