"""What a call may expect that isn't granted at once: when it may be, or in words why it won't."""

from __future__ import annotations

from math import floor, inf
from typing import Final

from ...errors import NoUsableKey, QueueFull, TooLarge, WaitTimeout
from ...limits import Metric
from ..fleet.candidates import CandidateSet
from ..health.circuit_breaker import Circuit
from ..quota.reservations import NeverFits, StoreUnavailable
from .wait_queue import Waiter

TOKEN_METRICS: Final = frozenset({Metric.TOKENS, Metric.INPUT_TOKENS, Metric.OUTPUT_TOKENS})
#: Keys that an error names at most.
NAMED: Final = 32


def eta(waiter: Waiter, now: float, *, keeps_frontiers: bool) -> float:
    """Return the seconds until a call could be granted, behind those that wait now.

    What is ahead can't be served faster than all owners together refill.
    """
    queue, candidates = waiter.queue, waiter.queue.candidates
    if waiter.short is not None:
        soonest = waiter.short.ready_at
    elif keeps_frontiers and (ready_index := candidates.ready_index(waiter.costs, now)) is not None:
        soonest = ready_index.first()[0]
    else:
        soonest = min((a.ready_at(waiter.costs, now) for a in candidates.ready), default=inf)
    seconds = max(0.0, min(soonest, candidates.usable_at()) - now)
    if not queue.waiting:
        return seconds
    ahead = queue.ahead_of(waiter, now)
    for metric, level, rate in candidates.supply(now):
        used = queue.used if metric in TOKEN_METRICS else 1.0
        missing = (ahead[metric] + waiter.costs[metric]) * used - level
        if rate and missing / rate > seconds:
            seconds = missing / rate
    return seconds


def why(waiter: Waiter, now: float) -> str:
    """Say in a few words what a call waits for."""
    candidates = waiter.queue.candidates
    if not candidates.ready:
        return f"no owner is usable now: {_sick(candidates)}"
    account = min(candidates.ready, key=lambda a: a.ready_at(waiter.costs, now))
    bucket = account.binding(waiter.costs, now)
    ahead = waiter.queue.waiting
    behind = f"{ahead} calls wait for the same" if ahead else "no other call waits"
    if bucket is None:
        return behind
    return (
        f"{bucket.scope} has {floor(bucket.level)} of {bucket.limit:g} {bucket.name} left, "
        f"the call needs {waiter.costs[bucket.metric]:g}; {behind}"
    )


def hopeless(waiter: Waiter) -> NoUsableKey:
    """Return the error of a call all of whose owners are dead."""
    return NoUsableKey(
        f"no key may serve {waiter.demand.model!r} any more: {_sick(waiter.queue.candidates)}",
        key_ids=_key_ids(waiter.queue.candidates),
        model=waiter.demand.model,
    )


def too_late(waiter: Waiter, now: float, seconds: float) -> WaitTimeout:
    """Return the error of a call that would need so many seconds, and may not wait for them."""
    return WaitTimeout(
        f"{waiter.demand.model or 'the call'} can't be granted in time: it may wait "
        f"{waiter.gives_up_at - now:.3g} s more and would need {seconds:.3g} s; "
        f"{why(waiter, now)}",
        retry_after=_finite(seconds),
        key_ids=_key_ids(waiter.queue.candidates),
        model=waiter.demand.model,
        waited_for=now - waiter.entered_at,
    )


def unanswered(waiter: Waiter, now: float, away: StoreUnavailable) -> WaitTimeout:
    """Return the error of a call that waited in vain for the store to come back."""
    waited = now - waiter.entered_at
    return WaitTimeout(
        f"{waiter.demand.model or 'the call'} can't be granted in time: the store has been "
        f"away for {now - away.since:.3g} s ({away.why}); the call waited for "
        f"{waited:.3g} s",
        key_ids=_key_ids(waiter.queue.candidates),
        model=waiter.demand.model,
        waited_for=waited,
    )


def crowded_out(waiter: Waiter, waiting: int, seconds: float) -> QueueFull:
    """Return the error of a call for which no place is left behind those that wait."""
    return QueueFull(
        f"{waiting} calls wait already (wait.max_waiting)",
        retry_after=_finite(seconds),
        model=waiter.demand.model,
    )


def oversize(waiter: Waiter, answer: NeverFits) -> TooLarge:
    """Return the error of a call that no owner's limit would ever allow."""
    bucket = answer.bucket
    return TooLarge(
        f"the call needs {waiter.costs[bucket.metric]:g} {bucket.metric.name.lower()}, more than "
        f"{bucket.scope}'s whole limit of {bucket.limit:g} {bucket.name}, the largest of all "
        "owners: make it smaller, or add an owner with a higher limit",
        model=waiter.demand.model,
    )


def _sick(candidates: CandidateSet) -> str:
    circuits: dict[Circuit, None] = {}
    for candidate in candidates.by_account.values():
        for circuit in (*candidate.circuits, *(s for _, s in candidate.keys)):
            if not circuit.usable:
                circuits[circuit] = None
    told = [f"{s.name} {s.condition}" for s in list(circuits)[:8]]
    return "; ".join(told) or "their keys are on trial, none was answered yet"


def _key_ids(candidates: CandidateSet) -> tuple[str, ...]:
    return tuple(
        key.key_id for candidate in candidates.by_account.values() for key, _ in candidate.keys
    )[:NAMED]


def _finite(seconds: float) -> float | None:
    return seconds if seconds < inf else None
