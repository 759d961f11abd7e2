"""After an attempt: another owner, the same again after a while, or stop.

Theory of operation. The table says for each kind of outcome whether another attempt can help,
whether it must go to another owner, and whether it counts. What ends a key or parks an owner
doesn't count against `stop`, but ends the call after `OWNERS_ASKED` owners. Faults of a provider
draw on a budget that all calls share, so that an outage isn't multiplied by the number of attempts.

Failover comes first, waiting second: as long as an owner of the call hasn't been tried, the next
attempt goes there at once; then the wait policy's delay applies and all may be tried again. Where
the others have no quota left for now, an owner that answered with an error is asked again as long
as its health lets it: one that fails three calls in ten still serves seven. One that did not answer
in time isn't: another such wait would cost the call more. A rate limit needs no delay of its own:
its bucket knows when.

An answer whose kind is not certain is a verdict on the request that one other owner is asked to
confirm, or another key of the same owner where a credential was refused. The flow blames the first
one if the second takes the request; if it doesn't, the answer is the caller's.

A rate limit that states neither which limit nor a delay doesn't count while the call may still
wait: health keeps the call away from that owner for longer each time.

Policies are tenacity's: any ``wait_*`` (`tenacity.wait`) and ``stop_*`` (`tenacity.stop`) object,
or a function of a `RetryCallState`. Delays get full jitter here, and only here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tenacity import Future, RetryCallState, Retrying, stop_after_attempt, wait_exponential

from ...outcomes import Kind, Outcome
from ..health.circuit_breaker import is_uncertain, states_no_delay

#: Owners that one call asks at most where each refuses in a way that doesn't count: trouble that
#: three of them share is more likely the call's.
OWNERS_ASKED: Final = 3
#: The same for attempts, where they are keys of one owner.
UNCOUNTED: Final = 8

WaitPolicy = Callable[[RetryCallState], float]
StopPolicy = Callable[[RetryCallState], bool]


@dataclass(frozen=True, slots=True)
class RetryRule:
    """What an outcome asks for."""

    retries: bool
    #: The owner that gave it is not asked again by this call while others are left.
    avoids_owner: bool = False
    #: The owner that gave it is asked last by this call: if it is well, and no other has room now.
    asks_owner_last: bool = False
    #: The attempt counts for the stop policy.
    counts: bool = True
    #: A further attempt draws on the shared budget, and waits by the wait policy.
    is_fault: bool = False


RAISE: Final = RetryRule(retries=False)
RULES: Final[dict[Kind, RetryRule]] = {
    Kind.OK: RAISE,
    Kind.RATE_LIMITED: RetryRule(retries=True),
    Kind.SLOW_DOWN: RetryRule(retries=True),
    Kind.QUOTA_EXHAUSTED: RetryRule(retries=True, counts=False),
    Kind.KEY_INVALID: RetryRule(retries=True, counts=False),
    Kind.ACCESS_DENIED: RetryRule(retries=True, avoids_owner=True, counts=False),
    Kind.TOO_LARGE: RetryRule(retries=True, avoids_owner=True, counts=False),
    Kind.OVERLOADED: RetryRule(retries=True, is_fault=True),
    Kind.SERVER_ERROR: RetryRule(retries=True, asks_owner_last=True, is_fault=True),
    Kind.TIMEOUT: RetryRule(retries=True, avoids_owner=True, is_fault=True),
    Kind.NETWORK: RetryRule(retries=True, asks_owner_last=True, is_fault=True),
    Kind.CONFLICT: RetryRule(retries=True, is_fault=True),
    Kind.BAD_REQUEST: RAISE,
    Kind.CONTENT: RAISE,
    Kind.CANCELLED: RAISE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do next: `retry` after `delay` seconds.

    Not with the owners in `avoid`, and with those in `last` only where no other has room.
    """

    retry: bool
    delay: float = 0.0
    avoid: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    #: The next attempt is to show whether this one's answer was the owner's fault.
    is_second_opinion: bool = False


STOP: Final = Verdict(retry=False)


class RetryBudget:
    """How many retries after faults the fleet still allows itself.

    Each call that succeeds earns a fifth of a retry, each second one, up to `most`: in an outage
    calls fail after few attempts instead of multiplying its load (as Finagle and gRPC do).
    """

    __slots__ = ("_at", "_most", "_per_call", "_per_second", "level")

    def __init__(
        self, *, per_call: float = 0.2, per_second: float = 1.0, most: float = 100.0
    ) -> None:
        self._per_call = per_call
        self._per_second = per_second
        self._most = most
        self._at: float | None = None
        self.level = most

    def earn(self) -> None:
        """Count a call that succeeded."""
        level = self.level + self._per_call
        self.level = level if level < self._most else self._most

    def spend(self, now: float) -> bool:
        """Take one retry; False if there is none."""
        if self._at is not None:
            earned = max(0.0, now - self._at) * self._per_second
            self.level = min(self.level + earned, self._most)
        self._at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Attempts:
    """What one call has behind it."""

    __slots__ = (
        "asked_again",
        "avoid",
        "conflicts",
        "counted",
        "last",
        "made",
        "refused_by",
        "started_at",
        "uncounted",
        "waited",
    )

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.made = 0
        self.counted = 0
        self.conflicts = 0
        #: A second opinion was asked for.
        self.asked_again = False
        #: Owners that refused in a way that doesn't count, and how often that happened.
        self.refused_by: frozenset[str] = frozenset()
        self.uncounted = 0
        #: Seconds spent waiting so far.
        self.waited = 0.0
        self.avoid: frozenset[str] = frozenset()
        self.last: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When to try again, how long to wait before, when to stop.

    Args:
        wait: tenacity's wait object; seconds before a further attempt at owners tried already.
        stop: tenacity's stop object.
        jitter: makes a delay out of a delay; the default of a pool is full jitter, a uniform
            choice from 0 to the delay (AWS, "Exponential backoff and jitter", 2015).
    """

    wait: WaitPolicy = field(default_factory=lambda: wait_exponential(multiplier=1.0, max=30.0))
    stop: StopPolicy = field(default_factory=lambda: stop_after_attempt(8))
    jitter: Callable[[float], float] = lambda delay: delay

    def decide(
        self,
        attempts: Attempts,
        outcome: Outcome,
        *,
        owner: str,
        others: frozenset[str],
        budget: RetryBudget,
        now: float,
        may_wait: bool = True,
        has_siblings: bool = False,
    ) -> Verdict:
        """Return what follows an attempt.

        Args:
            attempts: what the call has behind it.
            outcome: of the attempt.
            owner: at whom it was made.
            others: the owners that could serve the call too.
            budget: what the fleet allows itself after faults.
            now: the instant.
            may_wait: the call is allowed to wait for longer.
            has_siblings: the owner has other keys that are in use.
        """
        rule = RULES[outcome.kind]
        attempts.made += 1
        if is_uncertain(outcome):
            return _second_opinion(attempts, outcome, owner, others, has_siblings=has_siblings)
        attempts.counted += rule.counts and not (states_no_delay(outcome) and may_wait)
        if not rule.retries or (outcome.kind is Kind.TOO_LARGE and outcome.scope is None):
            return STOP
        if outcome.kind is Kind.CONFLICT:
            attempts.conflicts += 1
            if attempts.conflicts > 1:
                return STOP
        if rule.avoids_owner:
            attempts.avoid |= {owner}
        if rule.asks_owner_last:
            attempts.last |= {owner}
        if outcome.kind is Kind.TOO_LARGE and not others - attempts.avoid:
            return STOP
        if not rule.counts:
            attempts.refused_by |= {owner}
            attempts.uncounted += 1
            if len(attempts.refused_by) >= OWNERS_ASKED or attempts.uncounted >= UNCOUNTED:
                return STOP
            return Verdict(retry=True, avoid=attempts.avoid, last=attempts.last)
        state = _state(attempts, now)
        if self.stop(state) or (rule.is_fault and not budget.spend(now)):
            return STOP
        return self._again(attempts, rule, outcome, others, state)

    def _again(
        self,
        attempts: Attempts,
        rule: RetryRule,
        outcome: Outcome,
        others: frozenset[str],
        state: RetryCallState,
    ) -> Verdict:
        if not rule.is_fault or others - attempts.avoid - attempts.last:
            return Verdict(retry=True, avoid=attempts.avoid, last=attempts.last)
        attempts.avoid = attempts.last = frozenset()
        delay = max(self.jitter(self.wait(state)), outcome.retry_after or 0.0)
        return Verdict(retry=True, delay=delay)


def _second_opinion(
    attempts: Attempts,
    outcome: Outcome,
    owner: str,
    others: frozenset[str],
    *,
    has_siblings: bool,
) -> Verdict:
    """Return who is asked once whether an uncertain answer is this owner's fault."""
    elsewhere = others - attempts.avoid - {owner}
    siblings = has_siblings and outcome.kind is not Kind.BAD_REQUEST
    if attempts.asked_again or not (elsewhere or siblings):
        return STOP
    attempts.asked_again = True
    if elsewhere:
        attempts.avoid |= {owner}
    return Verdict(retry=True, avoid=attempts.avoid, last=attempts.last, is_second_opinion=True)


_RETRYING: Final = Retrying()


def _state(attempts: Attempts, now: float) -> RetryCallState:
    """Return the state as tenacity's objects read it, on our clock instead of theirs."""
    state = RetryCallState(_RETRYING, fn=None, args=(), kwargs={})
    state.attempt_number = max(attempts.counted, 1)
    state.start_time = attempts.started_at
    state.outcome_timestamp = now
    state.outcome = Future(state.attempt_number)
    return state
