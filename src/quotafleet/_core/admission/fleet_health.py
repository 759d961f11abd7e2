"""Who of a fleet may be asked at present: the health of its keys, owners and models, as it moves.

`health` says how one circuit moves, `slow_start` how fast an untested owner is used. Here is what
follows from it for the fleet: outcomes move the circuits that they speak of, instants end rests,
trials and pauses, and with each change candidates leave or join the ready ones of their candidate
sets. So a call looks at no circuit: `changes_at` says when time moves the next one.

What a change means to others is left here for the driver: `changed` for listeners, `changes` for
the other processes. Calls that wait for a candidate set are stirred at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from heapq import heappop, heappush
from math import inf
from typing import Final, assert_never

from ...keys import ApiKey
from ...limits import Costs
from ...outcomes import Outcome
from ..fleet.candidates import CandidateSet, OwnerCandidate
from ..fleet.fleet import Fleet
from ..health.circuit_breaker import (
    LOCKED,
    NOTHING_PASSES_FOR,
    PARK_FOR,
    TRIAL_FOR,
    TRIAL_GROWTH,
    Circuit,
    CircuitEvent,
    CircuitState,
    FaultScope,
    HealthChange,
    is_answered,
    locked_for,
    rests_for,
    states_no_delay,
    told_by,
)
from ..health.slow_start import LATE, REFUSED_WITHIN, SlowStarts
from .effects import Grant

#: Seconds for which a process that had leave to probe, and no call for it, lets others go first: as
#: long as a store holds its claim on the probe.
YIELDS_FOR: Final = 5.0

#: Instants at which to look at a circuit, the earliest first; some of no meaning any more.
Agenda = list[tuple[float, int, Circuit]]


class HealthTracker:
    """What is known of who may be asked. Not thread-safe: its pool holds a lock.

    Args:
        fleet: whose candidates are to join and leave their candidate sets.
        asks: other processes are told of health, and asked before a probe.
        stirred: called with a candidate set on which a candidate may have joined or left the ready
            ones.
    """

    def __init__(
        self, fleet: Fleet, *, asks: bool, stirred: Callable[[CandidateSet], None]
    ) -> None:
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
        #: Circuits that are not closed; mostly none, so that a call doesn't look at any.
        self._ailing: set[Circuit] = set()
        #: Closed circuits with faults in a row, fewer than open them.
        self._suspects: set[Circuit] = set()
        #: How fast owners are used that were not tested yet.
        self._slow_starts = SlowStarts()
        #: Calls that sleep before a further attempt: their model, since when, and why.
        self.resting_calls: dict[object, tuple[str, float, str]] = {}
        #: Circuits whose state changed, for the driver to tell listeners.
        self.changed: list[tuple[str, CircuitState, str]] = []
        #: What the other processes are to know of that, for the driver to tell them.
        self.changes: list[HealthChange] = []

    @property
    def troubled(self) -> bool:
        """Whether a success would change anything: a circuit is not closed, or tested."""
        return bool(self._ailing or self._suspects or self._slow_starts.testing)

    def ailing(self) -> Iterable[Circuit]:
        """Return the circuits that are not closed."""
        return sorted(self._ailing, key=lambda circuit: circuit.name)

    # What is granted

    def key_of(self, candidate: OwnerCandidate, costs: Costs, now: float) -> tuple[ApiKey, Circuit]:
        """Return the key that serves next, counted if it is on trial or the owner is probed."""
        key = candidate.next_key()
        circuit = key[1]
        if not circuit.proven:
            self._try_out(circuit, now)
            self._slow_starts.begin(candidate.family, candidate.circuits[2], candidate.account, now)
        if self._slow_starts.active:
            slow_start = self._slow_starts.active.get(candidate.family)
            if slow_start is not None:
                slow_start.slack -= 1
                if slow_start.slack < 0:
                    self._pace(candidate, costs, now)
        if self._ailing:
            self._begin_probe((*candidate.circuits, key[1]), now)
        return key

    def _try_out(self, circuit: Circuit, now: float) -> None:
        """Count an attempt with a key that was never answered; after some, it has to wait."""
        circuit.trials += 1
        if circuit.trials == circuit.allowed:
            self._look_at(circuit, now + TRIAL_FOR, self._trials)
            self._refresh(circuit)

    def _pace(self, candidate: OwnerCandidate, costs: Costs, now: float) -> None:
        """Count a grant of an owner that was not tested yet; it may have to pause."""
        family = candidate.family
        until = self._slow_starts.take(family, candidate.account, costs, now)
        if until is not None:
            self._look_at(family, until, self._trials)
            self._refresh(family)

    def _begin_probe(self, circuits: Iterable[Circuit], now: float) -> None:
        for circuit in circuits:
            if circuit.state is CircuitState.HALF_OPEN:
                self._apply(circuit, CircuitEvent.PROBE, now)

    def abandon(self, candidate: OwnerCandidate, key_circuit: Circuit, now: float) -> None:
        """Take in that nothing will come of a probe that a candidate was granted for."""
        for circuit in (*candidate.circuits, key_circuit):
            if circuit.state is CircuitState.PROBING:
                self._apply(circuit, self._given_up, now)

    # What is told

    def report(self, grant: Grant, outcome: Outcome, now: float) -> None:
        """Move the health of what an attempt's outcome speaks of."""
        told = told_by(outcome)
        if told is not None:
            level, event = told
            circuit = self._spoken_of(grant, level, outcome)
            if grant.at >= circuit.since:
                self._apply(
                    circuit,
                    event,
                    now,
                    retry_after=rests_for(outcome, now - grant.at),
                    reason=outcome.code or outcome.kind.value,
                )
        self._count_refusal(grant, outcome, now)
        if is_answered(outcome) and not grant.key_circuit.proven:
            self._prove(grant.key_circuit)
        if self._ailing or self._suspects:
            self._clear(grant, outcome, now)
        if self._slow_starts.testing:
            family, account = grant.candidate.family, grant.candidate.account
            if self._slow_starts.tested(family, account, grant.reserved_at, outcome, now):
                self._refresh(family)
                self._resume()

    def _count_refusal(self, grant: Grant, outcome: Outcome, now: float) -> None:
        """Keep away for longer from a model family that refuses without saying until when."""
        family = grant.candidate.family
        if outcome.ok:
            family.untold = 0
            return
        event, seconds = CircuitEvent.PARK, locked_for(outcome)
        if states_no_delay(outcome):
            self._suspects.add(family)
            seconds = family.refused_untold(grant.at, now)
            if seconds is not None and now - family.untold_since < NOTHING_PASSES_FOR:
                event = CircuitEvent.COOL
            elif seconds is not None:
                seconds = PARK_FOR
        if seconds is not None and grant.at >= family.since:
            self._apply(family, event, now, retry_after=seconds, reason=LOCKED)

    def blame(self, grant: Grant, outcome: Outcome, now: float, *, key_only: bool) -> None:
        """Take in that another owner took a request which this one would not.

        Args:
            grant: the attempt that was answered with an error.
            outcome: what that answer seemed to mean.
            now: the instant.
            key_only: the other attempt was made with another key of the same owner.
        """
        circuit = grant.key_circuit if key_only else grant.candidate.family
        if circuit.state is CircuitState.CLOSED and grant.at < circuit.since:
            return
        if circuit.state in (CircuitState.OPEN, CircuitState.PARKED, CircuitState.DEAD):
            return
        event = CircuitEvent.COOL if circuit.state is CircuitState.CLOSED else CircuitEvent.PARK
        self._apply(circuit, event, now, reason=outcome.code or outcome.kind.value)

    def _prove(self, circuit: Circuit) -> None:
        """Take a key off trial: it was answered."""
        circuit.proven = True
        self._refresh(circuit)

    def _clear(self, grant: Grant, outcome: Outcome, now: float) -> None:
        """End the probe that an attempt was, and forget the faults that its answer disproves."""
        answered = is_answered(outcome)
        for circuit in (*grant.candidate.circuits, grant.key_circuit):
            if circuit.state is CircuitState.PROBING and grant.at >= circuit.since:
                self._apply(circuit, CircuitEvent.SUCCESS if answered else self._given_up, now)
            elif answered and circuit in self._suspects:
                circuit.apply(CircuitEvent.SUCCESS, now)
                if not circuit.untold:
                    self._suspects.discard(circuit)

    @staticmethod
    def _spoken_of(grant: Grant, level: FaultScope, outcome: Outcome) -> Circuit:
        circuits = grant.candidate.circuits
        match level:
            case FaultScope.KEY:
                return grant.key_circuit
            case FaultScope.OWNER_MODEL:
                return grant.candidate.family
            case FaultScope.PROVIDER_MODEL:
                return circuits[2]
            case FaultScope.OWNER:
                if outcome.scope == "project" and len(circuits) > 3:
                    return circuits[3]
                return circuits[0]
            case _:
                assert_never(level)

    def apply_remote(self, change: HealthChange, now: float) -> bool:
        """Take in what another process found of a circuit; return whether that changed anything.

        It holds whatever this process found before: the store brings changes in order.
        """
        circuit = self._fleet.circuit(change.name)
        if not circuit.apply_change(change, now):
            return False
        self._moved(circuit)
        return True

    def revive(self, name: str | None, now: float) -> int:
        """Close every circuit, or those whose name holds `name`; return how many changed.

        What was learned of the accounts of that name is forgotten; those that it kept calls away
        from are counted too.
        """
        chosen = [s for s in self._fleet.circuits.values() if name is None or name in s.name]
        count = sum(self._apply(circuit, CircuitEvent.REVIVE, now) for circuit in chosen)
        for circuit, members in self._fleet.memberships.items():
            if name is not None and name not in circuit.name:
                continue
            for candidates, candidate in members:
                count += candidate.account.revive(now, is_named=name is not None)
                self._stirred(candidates)
        return count

    # What time brings

    @property
    def trials_until(self) -> float:
        """The instant when a trial or a pause ends next; infinite = there is none."""
        return self._trials[0][0] if self._trials else inf

    def wake_rested(self, now: float, *, waiting: bool) -> None:
        """Let what has rested or paused for long enough be used again. `waiting`: calls do."""
        while self._resting and self._resting[0][0] <= now:
            until, _, circuit = heappop(self._resting)
            if circuit.until == until:
                self._end_rest(circuit, now)
        while self._trials and self._trials[0][0] <= now:
            at, _, circuit = heappop(self._trials)
            again_at = now + REFUSED_WITHIN if waiting and now - at > LATE else None
            slow_start = self._slow_starts.active.get(circuit)
            if again_at is None and slow_start is not None:
                again_at = slow_start.pauses_on(now)
            if again_at is not None:  # what was refused may not be read yet
                self._rearm(circuit, at, again_at)
                continue
            if not self._slow_starts.resume(circuit, at, now):
                circuit.allowed *= TRIAL_GROWTH
            self._refresh(circuit)
            self._resume()
        self.changes_at = min(self.trials_until, self._resting[0][0] if self._resting else inf)

    def _resume(self) -> None:
        """Let owners go on whose pause ended by what another's test proved."""
        while self._slow_starts.resumed:
            self._refresh(self._slow_starts.resumed.pop())

    def _rearm(self, circuit: Circuit, at: float, until: float) -> None:
        """Look again at a key on trial, or an owner that pauses, once the client has caught up."""
        if circuit.pauses_until > -inf:
            if circuit.pauses_until != at:
                return
            circuit.pauses_until = until
        self._look_at(circuit, until, self._trials)
        self._refresh(circuit)

    def _end_rest(self, circuit: Circuit, now: float) -> None:
        if not self._asks or circuit.state is CircuitState.CLAIMING_PROBE:
            self._apply(circuit, CircuitEvent.DUE, now)
        elif circuit.state is CircuitState.HALF_OPEN:  # no call used its leave: the others' turn
            until = now + YIELDS_FOR
            self.apply_remote(replace(circuit.change, state=CircuitState.PROBING, until=until), now)
        else:
            self._apply(circuit, CircuitEvent.CLAIM_PROBE, now)

    def _look_at(self, circuit: Circuit, at: float, agenda: Agenda) -> None:
        self._number += 1
        heappush(agenda, (at, self._number, circuit))
        if at < self.changes_at:
            self.changes_at = at

    # What follows

    def _apply(
        self,
        circuit: Circuit,
        event: CircuitEvent,
        now: float,
        *,
        retry_after: float | None = None,
        reason: str = "",
    ) -> bool:
        if not circuit.apply(event, now, retry_after=retry_after, reason=reason):
            if circuit.faults:
                self._suspects.add(circuit)
            return False
        if self._asks:
            self.changes.append(circuit.change)
        self._moved(circuit)
        return True

    def _moved(self, circuit: Circuit) -> None:
        """Take in that a circuit's state changed."""
        for candidates, _ in self._fleet.memberships.get(circuit, ()):
            candidates.supply_changed()
        self.changed.append((circuit.name, circuit.state, circuit.reason))
        if circuit.state is CircuitState.CLOSED:
            self._ailing.discard(circuit)
        else:
            self._ailing.add(circuit)
        if circuit.until < inf:
            self._look_at(circuit, circuit.until, self._resting)
        self._refresh(circuit)

    def _refresh(self, circuit: Circuit) -> None:
        """Add or remove the candidates of a changed circuit, and wake calls that wait for them."""
        for candidates, candidate in self._fleet.memberships.get(circuit, ()):
            candidates.refresh(candidate)
            self._stirred(candidates)

    @property
    def _given_up(self) -> CircuitEvent:
        """What a probe that says nothing is to its circuit."""
        return CircuitEvent.CLAIM_PROBE if self._asks else CircuitEvent.ABANDON
