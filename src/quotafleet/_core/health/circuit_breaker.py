"""Who may be asked: one state machine per circuit, as a table.

A *circuit* is whatever an outcome can speak of: a key, an owner (organization or project), an
owner's model family, a provider's model family. Each is in one of these states:

    CLOSED      in use
    OPEN        left alone until an instant, after faults or an overload
    PARKED      left alone for long, then probed: no credit, a model denied, nothing but refusals
    HALF_OPEN   the instant has come: a single attempt may probe
    PROBING     that attempt is in flight, all others keep away
    DEAD        a key that its provider named as revoked: probed at long intervals, or revived
    CLAIMING_PROBE  the instant has come, and this process asks the others for leave to probe

Where processes share health, one of them probes: a circuit whose instant has come is
CLAIMING_PROBE, and becomes HALF_OPEN in the process that may, for a short while; in the others it
is PROBING until the result is told, or until the claim on the probe ends. If nobody answers, each
probes by itself.

No single answer ends anything for good. A key that was answered before is OPEN at its first
refusal, and DEAD only once a second request is refused. It is then probed after half a minute, and
each time after twice as long: an outage of the provider's authentication ends, a revocation does
not. A key that never worked is probed after an hour. All intervals end at a day.

An answer whose kind is not certain (a status without a code) concerns its request, and moves
nothing here. If another owner then takes the same request, the first one is *blamed*: OPEN the
first time, PARKED when its probe is blamed again.

Refusals that state no delay grow: from the second in a row on, the owner's model family is OPEN for
2, 4 .. 60 s, and PARKED once nothing has passed for `NOTHING_PASSES_FOR` seconds. A refusal that
states more than a minute parks the family too, so that one call probes it, and status shows it.

A key that never got an answer is *on trial*: only `TRIALS` attempts may be under way with it at
first, `TRIAL_GROWTH` times as many every `TRIAL_FOR` seconds, until one is answered. A batch that
begins with hundreds of calls at once so loses a handful of attempts to a key that was revoked, not
hundreds, and a model that takes long to answer is not kept waiting.

What an attempt tells counts only if the attempt began after the circuit last changed: a late
success of an earlier call opens nothing, a late fault closes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final

from ...outcomes import Kind, Outcome

#: Faults in a row before an owner is left alone: one is chance, three is a state.
FAULTS_TO_OPEN: Final = 3
#: The same for one whose faults were followed by answers: it fails now and then, and still serves.
#: Where three attempts in ten fail, three in a row come every 40 attempts, six every 2,000.
FAULTS_OF_FLAKY: Final = 6
#: Seconds that an owner or model is left alone for the first times; doubled each further time. A
#: probe that fails once or twice may be chance, and to be left alone costs an owner its quota.
OPEN_FOR: Final = 1.0
OPENINGS_ALIKE: Final = 2
OPEN_AT_MOST: Final = 30.0
#: Seconds that one is left alone which did not answer in time: a probe would cost a call as long
#: again as the client waits for an answer, so such an owner is not probed by the second.
HUNG_FOR: Final = 30.0
#: How many times as long as its fault took one is left alone, up to `HUNG_FOR`: a connection that
#: is lost after seconds costs a call as much as a time-out does.
SLOW_FAULT: Final = 10.0
#: Seconds between probes of an owner without credit; doubled each time. Nobody adds credit by the
#: second, and a provider may take frequent probes amiss.
PARK_FOR: Final = 600.0
PARK_AT_MOST: Final = 14_400.0
#: Seconds for which the delay that one answer states may close what other calls use.
CLOSED_AT_MOST: Final = 60.0
#: Seconds until a dead key is probed, doubled each time: one that never worked, and one that did.
DEAD_FOR: Final = 3_600.0
PROVEN_DEAD_FOR: Final = 30.0
DEAD_AT_MOST: Final = 86_400.0
#: Seconds of nothing but refusals that state no delay, after which a model family is parked.
NOTHING_PASSES_FOR: Final = 180.0
#: Seconds between probes of a model family whose refusals state a longer delay.
LOCKED_AT_MOST: Final = 600.0
#: The reason of a park that denies nothing: calls may wait for its end.
LOCKED: Final = "rate_limited"
#: Seconds after which a probe that never reported is given up.
PROBE_FOR: Final = 900.0
#: Seconds to wait for leave to probe: a store answers in milliseconds, or not at all.
ASK_FOR: Final = 2.0

#: Attempts that may be under way with a key before it was ever answered.
TRIALS: Final = 5
#: Seconds after which more may: refusals of a key come within a round trip, which a busy client
#: reads late; answers may take long.
TRIAL_FOR: Final = 1.0
TRIAL_GROWTH: Final = 3


class CircuitState(Enum):
    """What a circuit's table row is."""

    CLOSED = "closed"
    OPEN = "open"
    PARKED = "parked"
    HALF_OPEN = "half-open"
    PROBING = "probing"
    DEAD = "dead"
    CLAIMING_PROBE = "claiming-probe"


class CircuitEvent(Enum):
    """What happens to a circuit."""

    SUCCESS = "success"
    FAULT = "fault"
    COOL = "cool"
    PARK = "park"
    KILL = "kill"
    DUE = "due"
    CLAIM_PROBE = "claim-probe"
    PROBE = "probe"
    ABANDON = "abandon"
    REVIVE = "revive"


#: The table. What is missing leaves the state as it is.
TABLE: Final[dict[tuple[CircuitState, CircuitEvent], CircuitState]] = {
    (
        CircuitState.CLOSED,
        CircuitEvent.FAULT,
    ): CircuitState.OPEN,  # at the FAULTS_TO_OPEN-th in a row
    (CircuitState.CLOSED, CircuitEvent.COOL): CircuitState.OPEN,
    (CircuitState.CLOSED, CircuitEvent.PARK): CircuitState.PARKED,
    (CircuitState.CLOSED, CircuitEvent.KILL): CircuitState.DEAD,
    (CircuitState.OPEN, CircuitEvent.DUE): CircuitState.HALF_OPEN,
    (CircuitState.OPEN, CircuitEvent.PARK): CircuitState.PARKED,
    (CircuitState.OPEN, CircuitEvent.KILL): CircuitState.DEAD,
    (CircuitState.OPEN, CircuitEvent.REVIVE): CircuitState.CLOSED,
    (CircuitState.PARKED, CircuitEvent.DUE): CircuitState.HALF_OPEN,
    (CircuitState.PARKED, CircuitEvent.KILL): CircuitState.DEAD,
    (CircuitState.PARKED, CircuitEvent.REVIVE): CircuitState.CLOSED,
    (CircuitState.HALF_OPEN, CircuitEvent.PROBE): CircuitState.PROBING,
    (CircuitState.HALF_OPEN, CircuitEvent.KILL): CircuitState.DEAD,
    (CircuitState.HALF_OPEN, CircuitEvent.REVIVE): CircuitState.CLOSED,
    (CircuitState.PROBING, CircuitEvent.SUCCESS): CircuitState.CLOSED,
    (CircuitState.PROBING, CircuitEvent.FAULT): CircuitState.OPEN,
    (CircuitState.PROBING, CircuitEvent.COOL): CircuitState.OPEN,
    (CircuitState.PROBING, CircuitEvent.PARK): CircuitState.PARKED,
    (CircuitState.PROBING, CircuitEvent.KILL): CircuitState.DEAD,
    (CircuitState.PROBING, CircuitEvent.DUE): CircuitState.HALF_OPEN,
    (CircuitState.PROBING, CircuitEvent.ABANDON): CircuitState.HALF_OPEN,
    (CircuitState.PROBING, CircuitEvent.REVIVE): CircuitState.CLOSED,
    (CircuitState.DEAD, CircuitEvent.DUE): CircuitState.HALF_OPEN,
    (CircuitState.DEAD, CircuitEvent.REVIVE): CircuitState.CLOSED,
    (CircuitState.HALF_OPEN, CircuitEvent.COOL): CircuitState.OPEN,
    (CircuitState.HALF_OPEN, CircuitEvent.PARK): CircuitState.PARKED,
    # Where processes share health, CLAIM_PROBE comes in place of DUE and ABANDON.
    (CircuitState.OPEN, CircuitEvent.CLAIM_PROBE): CircuitState.CLAIMING_PROBE,
    (CircuitState.PARKED, CircuitEvent.CLAIM_PROBE): CircuitState.CLAIMING_PROBE,
    (CircuitState.PROBING, CircuitEvent.CLAIM_PROBE): CircuitState.CLAIMING_PROBE,
    (CircuitState.CLAIMING_PROBE, CircuitEvent.DUE): CircuitState.HALF_OPEN,  # nobody answered
    (CircuitState.DEAD, CircuitEvent.CLAIM_PROBE): CircuitState.CLAIMING_PROBE,
    (CircuitState.CLAIMING_PROBE, CircuitEvent.COOL): CircuitState.OPEN,
    (CircuitState.CLAIMING_PROBE, CircuitEvent.PARK): CircuitState.PARKED,
    (CircuitState.CLAIMING_PROBE, CircuitEvent.KILL): CircuitState.DEAD,
    (CircuitState.CLAIMING_PROBE, CircuitEvent.REVIVE): CircuitState.CLOSED,
}


class FaultScope(Enum):
    """Which circuit of an attempt an outcome speaks of."""

    KEY = "key"
    OWNER = "owner"
    OWNER_MODEL = "owner and model"
    PROVIDER_MODEL = "provider and model"


#: Outcomes that tell of health. A rate limit does not: it moves a bucket, not a state.
FAULTS: Final = {
    Kind.SERVER_ERROR: (FaultScope.OWNER, CircuitEvent.FAULT),
    Kind.TIMEOUT: (FaultScope.OWNER, CircuitEvent.FAULT),
    Kind.NETWORK: (FaultScope.OWNER, CircuitEvent.FAULT),
    Kind.OVERLOADED: (FaultScope.PROVIDER_MODEL, CircuitEvent.COOL),
    Kind.QUOTA_EXHAUSTED: (FaultScope.OWNER, CircuitEvent.PARK),
    Kind.KEY_INVALID: (FaultScope.KEY, CircuitEvent.KILL),
    Kind.ACCESS_DENIED: (FaultScope.OWNER_MODEL, CircuitEvent.PARK),
}
#: Kinds that are verdicts on the request unless they are certain.
REQUEST_LEVEL: Final = frozenset({Kind.KEY_INVALID, Kind.ACCESS_DENIED, Kind.BAD_REQUEST})

#: Outcomes that tell that a probe reached a provider which answers.
ANSWERED: Final = frozenset(
    {Kind.OK, Kind.RATE_LIMITED, Kind.TOO_LARGE, Kind.BAD_REQUEST, Kind.CONFLICT, Kind.CONTENT}
)


@dataclass(frozen=True, slots=True)
class HealthChange:
    """What one process tells the others of a circuit.

    Args:
        name: the circuit.
        state: its state from now on.
        until: the instant on this process's clock when that ends; infinite = it doesn't by itself.
        reason: the provider's code of what happened.
        consecutive_opens: how often in a row it was left alone.
    """

    name: str
    state: CircuitState
    until: float = inf
    reason: str = ""
    consecutive_opens: int = 0


class Circuit:
    """One row of the fleet's health."""

    __slots__ = (
        "allowed",
        "consecutive_opens",
        "faults",
        "flaky",
        "name",
        "pauses_until",
        "proven",
        "reason",
        "since",
        "state",
        "trials",
        "until",
        "untold",
        "untold_at",
        "untold_since",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = CircuitState.CLOSED
        #: The instant of the last change of state.
        self.since = -inf
        #: The instant when OPEN, PARKED or PROBING ends.
        self.until = inf
        self.faults = 0
        #: Its last faults were followed by an answer.
        self.flaky = False
        #: How often in a row it was left alone: the exponent of the backoff.
        self.consecutive_opens = 0
        #: The provider's code of what happened, for status.
        self.reason = ""
        #: Of a key: it was answered once; else, how many attempts it had and may have.
        self.proven = False
        self.trials = 0
        self.allowed = TRIALS
        #: Of an owner's model family: refusals in a row that stated no delay, the instant of the
        #: first, and of the last.
        self.untold = 0
        self.untold_since = self.untold_at = -inf
        #: Of an owner's model family: no more is granted before this instant; -infinite = now.
        self.pauses_until = -inf

    def __repr__(self) -> str:
        return f"<Circuit {self.name}: {self.state.value}>"

    @property
    def usable(self) -> bool:
        """Whether an attempt may be made now."""
        if self.pauses_until > -inf:
            return False
        return self.state is CircuitState.CLOSED or self.state is CircuitState.HALF_OPEN

    @property
    def condition(self) -> str:
        """What is the matter with it, for a message."""
        if self.pauses_until > -inf:
            return "is not granted more before its first answers"
        return f"is {self.state.value} ({self.reason})"

    @property
    def trusted(self) -> bool:
        """Whether another attempt may be made with a key that is usable."""
        return self.proven or self.trials < self.allowed

    def apply(
        self, event: CircuitEvent, now: float, *, retry_after: float | None = None, reason: str = ""
    ) -> bool:
        """Move by the table; return whether the state changed."""
        if event is CircuitEvent.KILL and self.state is CircuitState.CLOSED and self.proven:
            event = (
                CircuitEvent.COOL
            )  # the first refusal of a key that works: another is to confirm
        if self.state is CircuitState.CLOSED and not self._breaks(event):
            return False
        state = TABLE.get((self.state, event))
        if state is None:
            return False
        self.state = state
        self.since = now
        self.reason = reason or self.reason
        self.until = now + self._lasts(state, retry_after)
        if state is CircuitState.CLOSED:
            self.flaky = event is CircuitEvent.SUCCESS
            self._begin_anew(proven=self.flaky and self.proven)
        return True

    def apply_change(self, change: HealthChange, now: float) -> bool:
        """Become what another process told, whatever the table says; return whether that is new."""
        moved = change.state is not self.state
        if not moved and (change.state is CircuitState.CLOSED or change.until == self.until):
            return False
        self.state, self.until, self.reason = change.state, change.until, change.reason
        self.consecutive_opens = change.consecutive_opens
        self.faults = 0
        if moved:
            self.since = now
        if change.state is CircuitState.CLOSED:
            self._begin_anew()
        return True

    @property
    def change(self) -> HealthChange:
        """What other processes are to know."""
        return HealthChange(self.name, self.state, self.until, self.reason, self.consecutive_opens)

    def refused_untold(self, granted_at: float, now: float) -> float | None:
        """Count a refusal that stated no delay; return the seconds to keep away from now on.

        ``None`` = not more than any refusal asks for. Refusals of attempts that were granted before
        the last one say nothing new.
        """
        if granted_at < self.untold_at:
            return None
        if not self.untold:
            self.untold_since = now
        self.untold += 1
        self.untold_at = now
        return min(2.0 ** (self.untold - 1), CLOSED_AT_MOST) if self.untold > 1 else None

    def _begin_anew(self, *, proven: bool = False) -> None:
        self.consecutive_opens = 0
        self.untold = 0
        self.reason = ""
        self.proven = proven  # a key that is revived is on trial again
        self.trials, self.allowed = 0, TRIALS

    def _breaks(self, event: CircuitEvent) -> bool:
        """Count faults in a row; return whether the event is enough to leave CLOSED."""
        if event is CircuitEvent.SUCCESS:
            self.flaky = self.flaky or self.faults > 0
            self.faults = 0
            return False
        if event is CircuitEvent.FAULT:
            self.faults += 1
            if self.faults < (FAULTS_OF_FLAKY if self.flaky else FAULTS_TO_OPEN):
                return False
        self.faults = 0
        self.flaky = False
        return True

    def _lasts(self, state: CircuitState, retry_after: float | None) -> float:
        if state is CircuitState.PROBING:
            return PROBE_FOR
        if state is CircuitState.CLAIMING_PROBE:
            return ASK_FOR
        opens = self.consecutive_opens
        match state:
            case CircuitState.OPEN:
                lasts = min(OPEN_FOR * 2.0 ** max(0, opens - OPENINGS_ALIKE), OPEN_AT_MOST)
                lasts = max(lasts, min(retry_after or 0.0, CLOSED_AT_MOST))
            case CircuitState.PARKED if retry_after is not None:
                lasts = min(max(retry_after, OPEN_FOR), PARK_AT_MOST)
            case CircuitState.PARKED:
                lasts = min(PARK_FOR * 2.0**opens, PARK_AT_MOST)
            case CircuitState.DEAD:
                first, before = (PROVEN_DEAD_FOR, 1) if self.proven else (DEAD_FOR, 0)
                lasts = min(first * 2.0 ** max(0, opens - before), DEAD_AT_MOST)
            case _:
                return inf
        self.consecutive_opens = min(opens + 1, 30)
        return lasts


def rests_for(outcome: Outcome, took: float) -> float | None:
    """Return the least seconds for which the circuit of a fault is left alone; ``None`` = not told.

    Args:
        outcome: what came of an attempt.
        took: the seconds that it took.
    """
    if outcome.kind is Kind.TIMEOUT:
        return HUNG_FOR
    told = FAULTS.get(outcome.kind)
    if told is None or told[1] is not CircuitEvent.FAULT:
        return outcome.retry_after
    return max(outcome.retry_after or 0.0, min(SLOW_FAULT * took, HUNG_FOR))


def told_by(outcome: Outcome) -> tuple[FaultScope, CircuitEvent] | None:
    """Return which circuit an outcome speaks of, and what it says. ``None`` = of none."""
    told = FAULTS.get(outcome.kind)
    if told is None or not (outcome.certain or outcome.kind not in REQUEST_LEVEL):
        return None
    level, event = told
    if outcome.kind is Kind.QUOTA_EXHAUSTED and outcome.scope == "key":
        level = FaultScope.KEY  # a spend limit of the key's own
    if level is FaultScope.OWNER_MODEL and not outcome.model_only:
        if outcome.scope is None:
            return None
        # Denied whatever the model: the key's own address list, or its permissions.
        level = FaultScope.KEY if outcome.scope == "key" else FaultScope.OWNER
    return level, event


def is_uncertain(outcome: Outcome) -> bool:
    """Whether an answer is a verdict on its request that another owner may not share."""
    return not outcome.certain and outcome.kind in REQUEST_LEVEL


def is_answered(outcome: Outcome) -> bool:
    """Whether an outcome shows that a probe reached a provider which serves this owner."""
    return outcome.kind in ANSWERED and not is_uncertain(outcome)


def states_no_delay(outcome: Outcome) -> bool:
    """Whether an outcome is a rate limit that says neither which one nor until when."""
    return (
        outcome.kind in (Kind.RATE_LIMITED, Kind.SLOW_DOWN)
        and outcome.retry_after is None
        and (outcome.limit is None or outcome.period is None or outcome.metric is None)
    )


def locked_for(outcome: Outcome) -> float | None:
    """Return the seconds until a rate limit's long delay is probed; ``None`` = it is short.

    What a bucket of ours explains needs no lock: the bucket says when.
    """
    delay = outcome.retry_after
    if outcome.kind not in (Kind.RATE_LIMITED, Kind.SLOW_DOWN) or delay is None:
        return None
    is_explained = None not in (outcome.metric, outcome.limit, outcome.period)
    if delay <= CLOSED_AT_MOST or is_explained:
        return None
    return min(delay, LOCKED_AT_MOST)
