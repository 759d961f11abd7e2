"""One call as a generator of effects.

A driver performs each effect and answers with ``(now, result)``; threads, asyncio and a simulated
clock drive the same generators. A driver that fails to perform an effect throws the exception in
and keeps pumping: what the flow holds is settled before it comes out again.

    acquire:  Reserve* Wait* ...                         -> Grant
    call:     acquire, Send, Settle, (Wait, acquire, Send, Settle)*   -> Grant, Reply
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from math import ceil, inf
from typing import Final, Generic, TypeVar, cast

from ...errors import NoUsableKey, QueueFull, TooLarge, WaitTimeout
from ...limits import Costs, Metric
from ...outcomes import NOTHING, Kind, Observation, Outcome
from ...usage import Demand, Usage
from ..admission.effects import Effect, EffectResult, Grant, Release, Reserve, Send, Settle, Wait
from ..admission.scheduler import Scheduler
from ..admission.wait_queue import Priority
from ..health.circuit_breaker import CLOSED_AT_MOST
from ..quota.reservations import ClaimAnswer
from .retry import Attempts, RetryBudget, RetryPolicy, Verdict

R = TypeVar("R")


class AttemptResult(Generic[R]):
    """What came of one attempt: its meaning, and the driver's own `response`.

    A success that came whole says what the provider's limits counted (`used`) and what the answer
    told of itself (`usage`). Without `used` it is still to be settled when its body ends.
    """

    __slots__ = ("observation", "outcome", "response", "usage", "used")

    def __init__(
        self,
        *,
        outcome: Outcome,
        response: R,
        observation: Observation = NOTHING,
        used: Costs | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.outcome = outcome
        self.response = response
        self.observation = observation
        self.used = used
        self.usage = usage


_NONE: Final[Costs] = (0, 0, 0, 0, 0, 0, 0)
#: Refusals count as a request but not its tokens: two refused calls of 249,686 tokens did not raise
#: "Used" (earendil-works/pi#2366); that the request counts is what OpenAI's guide says.
_REFUSALS: Final = frozenset({Kind.RATE_LIMITED, Kind.SLOW_DOWN, Kind.TOO_LARGE})
#: Turned away before any limit looked: no rate-limit headers come with these.
_UNCOUNTED: Final = frozenset({Kind.KEY_INVALID, Kind.ACCESS_DENIED, Kind.QUOTA_EXHAUSTED})
#: What an abandoned attempt leaves: it may have been counted, so its estimate stays.
ABANDONED: Final = Outcome(kind=Kind.CANCELLED, charged=True)


def counted(costs: Costs, outcome: Outcome) -> Costs:
    """Return what the provider's limits counted for an attempt that failed so."""
    if outcome.kind in _REFUSALS:
        return (costs[0], 0, 0, 0, 0, 0, 0)
    if outcome.kind in _UNCOUNTED or (outcome.kind is Kind.NETWORK and not outcome.charged):
        return _NONE
    return (*costs[:5], 0, costs[6] if outcome.charged else 0)


class CallOptions:
    """What a call asks for.

    Args:
        demand: what it will need.
        wait_for: the most seconds that it may wait, for headroom and between attempts.
        deadline: the instant after which the call as a whole is of no use.
        priority: a key of `queue.PATIENCE`.
        pinned_key: the key whose owner holds what the call refers to; only that owner may serve it.
            ``None`` = any owner.
        tenant: on whose behalf it is made. Tenants that wait get equal shares; ``None`` is one too.
    """

    __slots__ = ("deadline", "demand", "pinned_key", "priority", "tenant", "wait_for")

    def __init__(
        self,
        demand: Demand,
        wait_for: float = inf,
        deadline: float = inf,
        priority: Priority = "normal",
        pinned_key: str | None = None,
        tenant: str | None = None,
    ) -> None:
        self.demand = demand
        self.tenant = tenant
        self.pinned_key = pinned_key
        self.wait_for = wait_for
        self.deadline = deadline
        self.priority = priority


def acquire(
    scheduler: Scheduler,
    order: CallOptions,
    now: float,
    avoid: frozenset[str] = frozenset(),
    last: frozenset[str] = frozenset(),
    waited: float = 0.0,
) -> Generator[Effect, EffectResult, Grant]:
    """Wait for a key and a reservation, if the call has `waited` for so many seconds already.

    Raises:
        CannotServe: it will not be granted, or not in time.
    """
    gives_up_at = min(now + max(0.0, order.wait_for - waited), order.deadline)
    waiter = scheduler.enter(
        order.demand, now, gives_up_at, order.priority, order.pinned_key, order.tenant
    )
    waiter.avoid, waiter.last = avoid, last
    try:
        while (effect := scheduler.step(waiter, now)) is not None:
            now, answer = yield effect
            if type(effect) is Reserve:
                orphan = scheduler.answered(effect, cast(ClaimAnswer, answer), now)
                if orphan is not None:
                    now, _ = yield Release(orphan)
                elif scheduler.is_done(waiter):
                    break
        return scheduler.accept(waiter, now)
    except BaseException:  # also cancellation: what was granted must come back on every path
        orphan = scheduler.leave(waiter, now)
        if orphan is not None:
            yield Release(orphan)
        raise


def call(
    scheduler: Scheduler,
    policy: RetryPolicy,
    budget: RetryBudget,
    order: CallOptions,
    now: float,
    last: tuple[Grant, AttemptResult[object]] | None = None,
) -> Generator[Effect, EffectResult, tuple[Grant, AttemptResult[object]]]:
    """Send a request until an answer is final. A success that is still to come is not settled yet.

    `last` is an attempt that was made already, and was no success.

    Raises:
        CannotServe: no further attempt was granted, and no answer is there to be shown.
    """
    attempts = Attempts(now if last is None else last[0].entered_at)
    verdict = Verdict(retry=True)
    accused: tuple[Grant, AttemptResult[object]] | None = None
    while True:
        if last is None or attempts.made:
            try:
                grant = yield from acquire(
                    scheduler, order, now, verdict.avoid, verdict.last, attempts.waited
                )
            except (NoUsableKey, QueueFull, TooLarge, WaitTimeout):
                if last is not None:
                    return last  # the provider's own words say more
                raise
            attempts.waited += grant.waited_for
            reply, now = yield from _attempt(grant)
            if reply.outcome.ok:
                if accused is not None:
                    _blame(scheduler, accused, grant, now)
                budget.earn()
                return grant, reply
            last = grant, reply
        grant, reply = last
        order = _told(order, grant, reply.outcome)
        candidates = scheduler.fleet.candidates(order.demand.model, order.pinned_key)
        if not candidates.ready and CLOSED_AT_MOST < candidates.usable_at() - now < inf:
            return last  # every owner rests for long: the caller has an answer, and need not wait
        verdict = policy.decide(
            attempts,
            reply.outcome,
            owner=grant.candidate.account.owner,
            others=scheduler.fleet.others(order.demand.model, order.pinned_key),
            budget=budget,
            now=now,
            may_wait=attempts.waited < order.wait_for and now < order.deadline,
            has_siblings=grant.candidate.has_siblings,
        )
        if verdict.is_second_opinion:
            accused = last
        is_late = now + verdict.delay > order.deadline
        if not verdict.retry or is_late or attempts.waited + verdict.delay > order.wait_for:
            return last
        if verdict.delay:
            attempts.waited += verdict.delay
            now = yield from _rest(scheduler, order, reply.outcome, verdict.delay, now)


def _rest(
    scheduler: Scheduler, order: CallOptions, outcome: Outcome, delay: float, now: float
) -> Generator[Effect, EffectResult, float]:
    """Sleep before a further attempt, counted among the calls that wait; return the instant."""
    why = f"its last attempt ended with {outcome.code or outcome.kind.value}; it is repeated later"
    call = object()
    scheduler.health_tracker.resting_calls[call] = order.demand.model, now, why
    try:
        now, _ = yield Wait(None, now + delay)
    finally:
        scheduler.health_tracker.resting_calls.pop(call, None)
    return now


def _blame(
    scheduler: Scheduler,
    accused: tuple[Grant, AttemptResult[object]],
    served_by: Grant,
    now: float,
) -> None:
    """Take in that a request was served which another owner, or another key, had refused."""
    grant, reply = accused
    if grant.key.key_id == served_by.key.key_id:
        return  # the same key takes it now: nobody was at fault for long
    key_only = grant.candidate is served_by.candidate or (
        reply.outcome.kind is Kind.KEY_INVALID and grant.candidate.has_siblings
    )
    scheduler.health_tracker.blame(grant, reply.outcome, now, key_only=key_only)


def _told(order: CallOptions, grant: Grant, outcome: Outcome) -> CallOptions:
    """Return what a call asks for after a refusal that told what it is charged.

    A price is an average: a call that is charged more would be granted too early, and be refused,
    time after time.
    """
    demand = order.demand
    if outcome.requested is None or outcome.limit is None or outcome.metric is not Metric.TOKENS:
        return order
    buckets = grant.candidate.account.buckets
    price = max((b.price for b in buckets if b.metric is Metric.TOKENS), default=1.0)
    more = ceil(min(outcome.requested, outcome.limit) / price) - demand.tokens
    larger = replace(demand, input_tokens=demand.input_tokens + max(0, more))
    return CallOptions(
        larger, order.wait_for, order.deadline, order.priority, order.pinned_key, order.tenant
    )


def _attempt(grant: Grant) -> Generator[Effect, EffectResult, tuple[AttemptResult[object], float]]:
    """Send once, and settle unless the answer is a success whose body is still to come."""
    try:
        now, answer = yield Send(grant)
    except BaseException:  # also cancellation
        yield abandoned(grant)
        raise
    if not isinstance(answer, AttemptResult):
        raise TypeError(f"a driver answered Send with {type(answer).__name__}, not a Reply")
    settle = settled_by(grant, answer)
    if settle is not None:
        now, _ = yield settle
    return answer, now


def abandoned(grant: Grant) -> Settle:
    """Return what becomes of an attempt that ended without an answer: it may have left."""
    return Settle(grant, counted(grant.reservation.costs, ABANDONED), ABANDONED)


def settled_by(grant: Grant, reply: AttemptResult[R]) -> Settle | None:
    """Return what an attempt's answer tells so far; ``None`` = nothing until its body ends."""
    outcome = reply.outcome
    if not outcome.ok:
        return Settle(grant, counted(grant.reservation.costs, outcome), outcome, reply.observation)
    if reply.used is None and reply.observation is NOTHING:
        return None
    return Settle(grant, reply.used, outcome, reply.observation, reply.usage)
