"""Who of a fleet may be asked at present: the health of its keys, owners and models, as it moves.

`health` says how one subject moves, `opening` how fast an untested owner is used. Here is what
follows from it for the fleet: outcomes move the subjects that they speak of, instants end rests,
trials and pauses, and with each change seats leave or join the ready ones of their routes. So a
call looks at no subject: `changes_at` says when time moves the next one.

What a change means to others is left here for the driver: `changed` for listeners, `news` for the
other processes. Calls that wait for a route are stirred at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from heapq import heappop, heappush
from math import inf
from typing import Final, assert_never

from .._keys import ApiKey
from .._limits import Costs
from .._outcome import Outcome
from .effects import Grant
from .fleet import Fleet
from .health import (
    ANSWERED,
    TRIAL_FOR,
    TRIAL_GROWTH,
    Event,
    Level,
    News,
    State,
    Subject,
    rests_for,
    told_by,
)
from .opening import LATE, REFUSED_WITHIN, Openings
from .routes import Route, Seat

#: Seconds for which a process that had leave to probe, and no call for it, lets others go first: as
#: long as a store holds its claim on the probe.
YIELDS_FOR: Final = 5.0

#: Instants at which to look at a subject, the earliest first; some of no meaning any more.
Agenda = list[tuple[float, int, Subject]]


class Conditions:
    """What is known of who may be asked. Not thread-safe: its pool holds a lock.

    Args:
        fleet: whose seats are to join and leave their routes.
        asks: other processes are told of health, and asked before a probe.
        stirred: called with a route on which a seat may have joined or left the ready ones.
    """

    def __init__(self, fleet: Fleet, *, asks: bool, stirred: Callable[[Route], None]) -> None:
        self._fleet = fleet
        self._asks = asks
        self._stirred = stirred
        #: When what rests may be asked again.
        self._resting: Agenda = []
        #: When keys on trial may have more attempts, and owners that open may be granted more.
        self._trials: Agenda = []
        self._number = 0
        #: The instant when one of all these may be used again; `wake_rested` is due then.
        self.changes_at = inf
        #: Subjects that are not closed; mostly none, so that a call doesn't look at any.
        self._ailing: set[Subject] = set()
        #: Closed subjects with faults in a row, fewer than open them.
        self._suspects: set[Subject] = set()
        #: How fast owners are used that were not tested yet.
        self._openings = Openings()
        #: Subjects whose state changed, for the driver to tell listeners.
        self.changed: list[tuple[str, State, str]] = []
        #: What the other processes are to know of that, for the driver to tell them.
        self.news: list[News] = []

    @property
    def troubled(self) -> bool:
        """Whether a success would change anything: a subject is not closed, or tested."""
        return bool(self._ailing or self._suspects or self._openings.testing)

    def ailing(self) -> Iterable[Subject]:
        """Return the subjects that are not closed."""
        return sorted(self._ailing, key=lambda subject: subject.name)

    # What is granted

    def key_of(self, seat: Seat, costs: Costs, now: float) -> tuple[ApiKey, Subject]:
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

    def _try_out(self, subject: Subject, now: float) -> None:
        """Count an attempt with a key that was never answered; after some, it has to wait."""
        subject.trials += 1
        if subject.trials == subject.allowed:
            self._look_at(subject, now + TRIAL_FOR, self._trials)
            self._refresh(subject)

    def _pace(self, seat: Seat, costs: Costs, now: float) -> None:
        """Count a grant of an owner that was not tested yet; it may have to pause."""
        family = seat.family
        until = self._openings.take(family, seat.account, costs, now)
        if until is not None:
            self._look_at(family, until, self._trials)
            self._refresh(family)

    def _begin_probe(self, seat: Seat, now: float) -> None:
        for subject in seat.subjects:
            if subject.state is State.HALF_OPEN:
                self._tell(subject, Event.PROBE, now)

    def abandon(self, seat: Seat, now: float) -> None:
        """Take in that nothing will come of a probe that a seat was granted for."""
        for subject in seat.subjects:
            if subject.state is State.PROBING:
                self._tell(subject, self._given_up, now)

    # What is told

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
                    retry_after=rests_for(outcome, now - grant.at),
                    reason=outcome.code or outcome.kind.value,
                )
        if outcome.kind in ANSWERED and not grant.key_subject.proven:
            self._prove(grant.key_subject)
        if self._ailing or self._suspects:
            self._clear(grant, outcome, now)
        if self._openings.testing and self._openings.tested(grant, outcome, now):
            self._refresh(grant.seat.family)
            self._resume()

    def _prove(self, subject: Subject) -> None:
        """Take a key off trial: it was answered."""
        subject.proven = True
        self._refresh(subject)

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

    def told(self, news: News, now: float) -> bool:
        """Take in what another process found of a subject; return whether that changed anything.

        It holds whatever this process found before: the store brings news in order.
        """
        subject = self._fleet.subject(news.name)
        if not subject.take(news, now):
            return False
        self._moved(subject)
        return True

    def revive(self, name: str | None, now: float) -> int:
        """Close every subject, or those whose name holds `name`; return how many changed."""
        chosen = [s for s in self._fleet.subjects.values() if name is None or name in s.name]
        return sum(self._tell(subject, Event.REVIVE, now) for subject in chosen)

    # What time brings

    @property
    def trials_until(self) -> float:
        """The instant when a trial or a pause ends next; infinite = there is none."""
        return self._trials[0][0] if self._trials else inf

    def wake_rested(self, now: float, *, waiting: bool) -> None:
        """Let what has rested or paused for long enough be used again. `waiting`: calls do."""
        while self._resting and self._resting[0][0] <= now:
            until, _, subject = heappop(self._resting)
            if subject.until == until:
                self._end_rest(subject, now)
        while self._trials and self._trials[0][0] <= now:
            at, _, subject = heappop(self._trials)
            again_at = now + REFUSED_WITHIN if waiting and now - at > LATE else None
            if again_at is None and subject.opening is not None:
                again_at = subject.opening.pauses_on(now)
            if again_at is not None:  # what was refused may not be read yet
                self._rearm(subject, at, again_at)
                continue
            if not self._openings.resume(subject, at, now):
                subject.allowed *= TRIAL_GROWTH
            self._refresh(subject)
            self._resume()
        self.changes_at = min(self.trials_until, self._resting[0][0] if self._resting else inf)

    def _resume(self) -> None:
        """Let owners go on whose pause ended by what another's test proved."""
        while self._openings.resumed:
            self._refresh(self._openings.resumed.pop())

    def _rearm(self, subject: Subject, at: float, until: float) -> None:
        """Look again at a key on trial, or an owner that pauses, once the client has caught up."""
        if subject.pauses_until > -inf:
            if subject.pauses_until != at:
                return
            subject.pauses_until = until
        self._look_at(subject, until, self._trials)
        self._refresh(subject)

    def _end_rest(self, subject: Subject, now: float) -> None:
        if not self._asks or subject.state is State.ASKING:
            self._tell(subject, Event.DUE, now)
        elif subject.state is State.HALF_OPEN:  # no call used its leave: the others' turn
            until = now + YIELDS_FOR
            self.told(replace(subject.news, state=State.PROBING, until=until), now)
        else:
            self._tell(subject, Event.ASK, now)

    def _look_at(self, subject: Subject, at: float, agenda: Agenda) -> None:
        self._number += 1
        heappush(agenda, (at, self._number, subject))
        if at < self.changes_at:
            self.changes_at = at

    # What follows

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

    def _moved(self, subject: Subject) -> None:
        """Take in that a subject's state changed."""
        for route, _ in self._fleet.seats_of.get(subject, ()):
            route.supply_changed()
        self.changed.append((subject.name, subject.state, subject.reason))
        if subject.state is State.CLOSED:
            self._ailing.discard(subject)
        else:
            self._ailing.add(subject)
        if subject.until < inf:
            self._look_at(subject, subject.until, self._resting)
        self._refresh(subject)

    def _refresh(self, subject: Subject) -> None:
        """Let the seats of a subject join or leave the ready ones, and calls that wait know."""
        for route, seat in self._fleet.seats_of.get(subject, ()):
            route.refresh(seat)
            self._stirred(route)

    @property
    def _given_up(self) -> Event:
        """What a probe that says nothing is to its subject."""
        return Event.ASK if self._asks else Event.ABANDON
