"""What a flow asks of its driver, and the grant that it is about.

A driver answers each effect with ``(now, result)``: `Reserve` with the store's answer, `Send` with
a `flow.AttemptResult`, the others with nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...keys import ApiKey
from ...limits import Costs
from ...outcomes import NOTHING, OK, Observation, Outcome
from ...usage import Demand, Usage
from ..fleet.candidates import OwnerCandidate
from ..fleet.ready_index import ReadyIndex
from ..health.circuit_breaker import CLOSED_AT_MOST, LOCKED_AT_MOST, Circuit
from ..quota.account import Account
from ..quota.reservations import Claim, Reservation, Settlement
from .wait_queue import Waiter, WaitQueue


class Grant:
    """What a call got: a key and a reservation on its owner."""

    __slots__ = (
        "at",
        "candidate",
        "demand",
        "entered_at",
        "key",
        "key_circuit",
        "queue",
        "reservation",
        "reserved_at",
    )

    def __init__(
        self,
        demand: Demand,
        queue: WaitQueue,
        candidate: OwnerCandidate,
        key: tuple[ApiKey, Circuit],
        reservation: Reservation,
        entered_at: float,
        at: float,
        reserved_at: float | None = None,
    ) -> None:
        self.demand = demand
        self.queue = queue
        self.candidate = candidate
        self.key, self.key_circuit = key
        self.reservation = reservation
        self.entered_at = entered_at
        #: When it was reserved, and when its waiter accepted it: a busy loop comes to that later.
        self.reserved_at = at if reserved_at is None else reserved_at
        self.at = at

    @property
    def waited_for(self) -> float:
        """Seconds from the call's entry to its grant."""
        return self.at - self.entered_at


class Reserve:
    """Effect: ask the store; the answer is for `waiter`, which need not be the caller's.

    `ready_index` has given the claim's accounts, `due`, where not all usable ones are in it.
    """

    __slots__ = ("claim", "due", "ready_index", "waiter")

    def __init__(
        self,
        waiter: Waiter,
        claim: Claim,
        ready_index: ReadyIndex | None = None,
        due: Sequence[Account] = (),
    ) -> None:
        self.waiter = waiter
        self.claim = claim
        self.ready_index = ready_index
        self.due = due


class Wait:
    """Effect: sleep until the instant `until`, or until the waiter is woken."""

    __slots__ = ("until", "waiter")

    def __init__(self, waiter: Waiter | None, until: float) -> None:
        self.waiter = waiter
        self.until = until


class Send:
    """Effect: send the request with the grant's key; answered by a `Reply`."""

    __slots__ = ("grant",)

    def __init__(self, grant: Grant) -> None:
        self.grant = grant


class Settle:
    """Effect: tell the store and the scheduler what became of a grant, so far or in the end.

    `used` is what the provider's limits counted; ``None`` = still in flight. `usage` is what the
    answer told, for counts and listeners.
    """

    __slots__ = ("grant", "observation", "outcome", "usage", "used")

    def __init__(
        self,
        grant: Grant,
        used: Costs | None,
        outcome: Outcome | None,
        observation: Observation = NOTHING,
        usage: Usage | None = None,
    ) -> None:
        self.grant = grant
        self.used = used
        self.outcome = outcome
        self.observation = observation
        self.usage = usage

    def settlement(self) -> Settlement:
        """Return what the store is to know. Levels of an attempt not charged say nothing."""
        outcome, observation = self.outcome, self.observation
        if outcome is OK and observation is NOTHING:
            return Settlement(self.grant.reservation, self.used)
        return Settlement(
            self.grant.reservation,
            self.used,
            observation.readings if outcome is None or outcome.charged else (),
            _bounded(outcome) if outcome is not None and not outcome.ok else None,
            headers_at_admission=observation.headers_at_admission,
        )


def _bounded(outcome: Outcome) -> Outcome:
    """Return what a store is to know of a refusal: it keeps away for a bounded time.

    Health probes a longer delay, shows it and can end it; see `locked_for`.
    """
    delay = outcome.retry_after
    if delay is None or delay <= CLOSED_AT_MOST:
        return outcome
    is_explained = None not in (outcome.metric, outcome.limit, outcome.period)
    most = LOCKED_AT_MOST if is_explained else CLOSED_AT_MOST
    return replace(outcome, retry_after=min(delay, most))


class Release:
    """Effect: give back a reservation that nobody accepted; nothing was sent."""

    __slots__ = ("reservation",)

    def __init__(self, reservation: Reservation) -> None:
        self.reservation = reservation


Effect = Reserve | Wait | Send | Settle | Release

#: What a driver answers: the instant, and what came of the effect.
EffectResult = tuple[float, object]
