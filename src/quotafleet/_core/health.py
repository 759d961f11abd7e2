"""Who may be asked: one state machine per subject, as a table.

A *subject* is whatever an outcome can speak of: a key, an owner (organization or project), an
owner's model family, a provider's model family. Each is in one of these states:

    CLOSED      in use
    OPEN        left alone until an instant, after faults or an overload
    PARKED      left alone for long: no credit, a spend limit reached
    HALF_OPEN   the instant has come: a single attempt may probe
    PROBING     that attempt is in flight, all others keep away
    DEAD        not asked again until it is revived: revoked, or denied the model
    ASKING      the instant has come, and the other processes are asked whether this one may probe

Where processes share health, one of them probes: a subject whose instant has come is ASKING, and
becomes HALF_OPEN in the process that may, for a short while; in the others it is PROBING until the
result is told, or until the claim on the probe ends. If nobody answers, each probes by itself.

A key that never got an answer is *on trial*: only `TRIALS` attempts may be under way with it at
first, `TRIAL_GROWTH` times as many every `TRIAL_FOR` seconds, until one is answered. A batch that
begins with hundreds of calls at once so loses a handful of attempts to a key that was revoked, not
hundreds, and a model that takes long to answer is not kept waiting.

What an attempt tells counts only if the attempt began after the subject last changed: a late
success of an earlier call opens nothing, a late fault closes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final

from .._outcome import Kind, Outcome

if TYPE_CHECKING:
    from .opening import Opening

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


class State(Enum):
    """What a subject's table row is."""

    CLOSED = "closed"
    OPEN = "open"
    PARKED = "parked"
    HALF_OPEN = "half-open"
    PROBING = "probing"
    DEAD = "dead"
    ASKING = "asking"


class Event(Enum):
    """What happens to a subject."""

    SUCCESS = "success"
    FAULT = "fault"
    COOL = "cool"
    PARK = "park"
    KILL = "kill"
    DUE = "due"
    ASK = "ask"
    PROBE = "probe"
    ABANDON = "abandon"
    REVIVE = "revive"


#: The table. What is missing leaves the state as it is.
TABLE: Final[dict[tuple[State, Event], State]] = {
    (State.CLOSED, Event.FAULT): State.OPEN,  # at the FAULTS_TO_OPEN-th in a row
    (State.CLOSED, Event.COOL): State.OPEN,
    (State.CLOSED, Event.PARK): State.PARKED,
    (State.CLOSED, Event.KILL): State.DEAD,
    (State.OPEN, Event.DUE): State.HALF_OPEN,
    (State.OPEN, Event.PARK): State.PARKED,
    (State.OPEN, Event.KILL): State.DEAD,
    (State.OPEN, Event.REVIVE): State.CLOSED,
    (State.PARKED, Event.DUE): State.HALF_OPEN,
    (State.PARKED, Event.KILL): State.DEAD,
    (State.PARKED, Event.REVIVE): State.CLOSED,
    (State.HALF_OPEN, Event.PROBE): State.PROBING,
    (State.HALF_OPEN, Event.KILL): State.DEAD,
    (State.HALF_OPEN, Event.REVIVE): State.CLOSED,
    (State.PROBING, Event.SUCCESS): State.CLOSED,
    (State.PROBING, Event.FAULT): State.OPEN,
    (State.PROBING, Event.COOL): State.OPEN,
    (State.PROBING, Event.PARK): State.PARKED,
    (State.PROBING, Event.KILL): State.DEAD,
    (State.PROBING, Event.DUE): State.HALF_OPEN,
    (State.PROBING, Event.ABANDON): State.HALF_OPEN,
    (State.PROBING, Event.REVIVE): State.CLOSED,
    (State.DEAD, Event.REVIVE): State.CLOSED,
    # Where processes share health, ASK comes in place of DUE and ABANDON.
    (State.OPEN, Event.ASK): State.ASKING,
    (State.PARKED, Event.ASK): State.ASKING,
    (State.PROBING, Event.ASK): State.ASKING,
    (State.ASKING, Event.DUE): State.HALF_OPEN,  # nobody answered
    (State.ASKING, Event.PARK): State.PARKED,
    (State.ASKING, Event.KILL): State.DEAD,
    (State.ASKING, Event.REVIVE): State.CLOSED,
}


class Level(Enum):
    """Which subject of an attempt an outcome speaks of."""

    KEY = "key"
    OWNER = "owner"
    OWNER_MODEL = "owner and model"
    PROVIDER_MODEL = "provider and model"


#: Outcomes that tell of health. A rate limit does not: it moves a bucket, not a state.
FAULTS: Final = {
    Kind.SERVER_ERROR: (Level.OWNER, Event.FAULT),
    Kind.TIMEOUT: (Level.OWNER, Event.FAULT),
    Kind.NETWORK: (Level.OWNER, Event.FAULT),
    Kind.OVERLOADED: (Level.PROVIDER_MODEL, Event.COOL),
    Kind.QUOTA_EXHAUSTED: (Level.OWNER, Event.PARK),
    Kind.KEY_INVALID: (Level.KEY, Event.KILL),
    Kind.ACCESS_DENIED: (Level.OWNER_MODEL, Event.KILL),
}

#: Outcomes that tell that a probe reached a provider which answers.
ANSWERED: Final = frozenset(
    {Kind.OK, Kind.RATE_LIMITED, Kind.TOO_LARGE, Kind.BAD_REQUEST, Kind.CONFLICT, Kind.CONTENT}
)


@dataclass(frozen=True, slots=True)
class News:
    """What one process tells the others of a subject.

    Args:
        name: the subject.
        state: its state from now on.
        until: the instant on this process's clock when that ends; infinite = it doesn't by itself.
        reason: the provider's code of what happened.
        openings: how often in a row it was left alone.
    """

    name: str
    state: State
    until: float = inf
    reason: str = ""
    openings: int = 0


class Subject:
    """One row of the fleet's health."""

    __slots__ = (
        "allowed",
        "faults",
        "flaky",
        "name",
        "opening",
        "openings",
        "pauses_until",
        "proven",
        "reason",
        "since",
        "state",
        "trials",
        "until",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.CLOSED
        #: The instant of the last change of state.
        self.since = -inf
        #: The instant when OPEN, PARKED or PROBING ends.
        self.until = inf
        self.faults = 0
        #: Its last faults were followed by an answer.
        self.flaky = False
        #: How often in a row it was left alone: the exponent of the backoff.
        self.openings = 0
        #: The provider's code of what happened, for status.
        self.reason = ""
        #: Of a key: it was answered once; else, how many attempts it had and may have.
        self.proven = False
        self.trials = 0
        self.allowed = TRIALS
        #: Of an owner's model family: how fast it is used until it is tested; ``None`` = it is.
        self.opening: Opening | None = None
        #: Of an owner's model family: no more is granted before this instant; -infinite = now.
        self.pauses_until = -inf

    def __repr__(self) -> str:
        return f"<Subject {self.name}: {self.state.value}>"

    @property
    def usable(self) -> bool:
        """Whether an attempt may be made now."""
        if self.pauses_until > -inf:
            return False
        return self.state is State.CLOSED or self.state is State.HALF_OPEN

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

    def tell(
        self, event: Event, now: float, *, retry_after: float | None = None, reason: str = ""
    ) -> bool:
        """Move by the table; return whether the state changed."""
        if self.state is State.CLOSED and not self._breaks(event):
            return False
        state = TABLE.get((self.state, event))
        if state is None:
            return False
        self.state = state
        self.since = now
        self.reason = reason or self.reason
        self.until = now + self._lasts(state, retry_after)
        if state is State.CLOSED:
            self.flaky = event is Event.SUCCESS
            self._begin_anew()
        return True

    def take(self, news: News, now: float) -> bool:
        """Become what another process told, whatever the table says; return whether that is new."""
        moved = news.state is not self.state
        if not moved and (news.state is State.CLOSED or news.until == self.until):
            return False
        self.state, self.until, self.reason = news.state, news.until, news.reason
        self.openings = news.openings
        self.faults = 0
        if moved:
            self.since = now
        if news.state is State.CLOSED:
            self._begin_anew()
        return True

    @property
    def news(self) -> News:
        """What other processes are to know."""
        return News(self.name, self.state, self.until, self.reason, self.openings)

    def _begin_anew(self) -> None:
        self.openings = 0
        self.reason = ""
        self.proven = False  # a key that comes back is on trial again
        self.trials, self.allowed = 0, TRIALS

    def _breaks(self, event: Event) -> bool:
        """Count faults in a row; return whether the event is enough to leave CLOSED."""
        if event is Event.SUCCESS:
            self.flaky = self.flaky or self.faults > 0
            self.faults = 0
            return False
        if event is Event.FAULT:
            self.faults += 1
            if self.faults < (FAULTS_OF_FLAKY if self.flaky else FAULTS_TO_OPEN):
                return False
        self.faults = 0
        self.flaky = False
        return True

    def _lasts(self, state: State, retry_after: float | None) -> float:
        if state is State.PROBING:
            return PROBE_FOR
        if state is State.ASKING:
            return ASK_FOR
        if state not in (State.OPEN, State.PARKED):
            return inf
        if state is State.OPEN:
            lasts = min(OPEN_FOR * 2.0 ** max(0, self.openings - OPENINGS_ALIKE), OPEN_AT_MOST)
        else:
            lasts = min(PARK_FOR * 2.0**self.openings, PARK_AT_MOST)
        self.openings = min(self.openings + 1, 30)
        return max(lasts, retry_after or 0.0)


def rests_for(outcome: Outcome, took: float) -> float | None:
    """Return the least seconds for which the subject of a fault is left alone; ``None`` = not told.

    Args:
        outcome: what came of an attempt.
        took: the seconds that it took.
    """
    if outcome.kind is Kind.TIMEOUT:
        return HUNG_FOR
    told = FAULTS.get(outcome.kind)
    if told is None or told[1] is not Event.FAULT:
        return outcome.retry_after
    return max(outcome.retry_after or 0.0, min(SLOW_FAULT * took, HUNG_FOR))


def told_by(outcome: Outcome) -> tuple[Level, Event] | None:
    """Return which subject an outcome speaks of, and what it says. ``None`` = of none."""
    told = FAULTS.get(outcome.kind)
    if told is None:
        return None
    level, event = told
    if level is Level.OWNER_MODEL and not outcome.model_only:
        # Denied whatever the model: the key's own address list, or its permissions.
        level = Level.KEY if outcome.scope == "key" else Level.OWNER
    return level, event
