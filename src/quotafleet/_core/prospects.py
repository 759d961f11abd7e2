"""What a call may expect that isn't granted at once: when it may be, or in words why it won't."""

from __future__ import annotations

from math import floor, inf
from typing import Final

from .._limits import Metric
from ..errors import NoUsableKey, QueueFull, TooLarge, WaitTimeout
from .claims import Away, Oversize
from .health import Subject
from .queue import Ticket
from .routes import Route

TOKEN_METRICS: Final = frozenset({Metric.TOKENS, Metric.INPUT_TOKENS, Metric.OUTPUT_TOKENS})
#: Keys that an error names at most.
NAMED: Final = 32


def eta(ticket: Ticket, now: float, *, keeps_frontiers: bool) -> float:
    """Return the seconds until a call could be granted, behind those that wait now.

    What is ahead can't be served faster than all owners together refill.
    """
    lane, route = ticket.lane, ticket.lane.route
    if ticket.short is not None:
        soonest = ticket.short.ready_at
    elif keeps_frontiers and (frontier := route.frontier(ticket.costs, now)) is not None:
        soonest = frontier.first()[0]
    else:
        soonest = min((a.ready_at(ticket.costs, now) for a in route.ready), default=inf)
    seconds = max(0.0, min(soonest, route.usable_at()) - now)
    if not lane.waiting:
        return seconds
    ahead = lane.ahead_of(ticket, now)
    for metric, level, rate in route.supply(now):
        used = lane.used if metric in TOKEN_METRICS else 1.0
        missing = (ahead[metric] + ticket.costs[metric]) * used - level
        if rate and missing / rate > seconds:
            seconds = missing / rate
    return seconds


def why(ticket: Ticket, now: float) -> str:
    """Say in a few words what a call waits for."""
    route = ticket.lane.route
    if not route.ready:
        return f"no owner is usable now: {_sick(route)}"
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


def hopeless(ticket: Ticket) -> NoUsableKey:
    """Return the error of a call all of whose owners are dead."""
    return NoUsableKey(
        f"no key may serve {ticket.demand.model!r} any more: {_sick(ticket.lane.route)}",
        key_ids=_key_ids(ticket.lane.route),
        model=ticket.demand.model,
    )


def too_late(ticket: Ticket, now: float, seconds: float) -> WaitTimeout:
    """Return the error of a call that would need so many seconds, and may not wait for them."""
    return WaitTimeout(
        f"{ticket.demand.model or 'the call'} can't be granted in time: it may wait "
        f"{ticket.gives_up_at - now:.3g} s more and would need {seconds:.3g} s; "
        f"{why(ticket, now)}",
        retry_after=_finite(seconds),
        key_ids=_key_ids(ticket.lane.route),
        model=ticket.demand.model,
        waited_for=now - ticket.entered_at,
    )


def unanswered(ticket: Ticket, now: float, away: Away) -> WaitTimeout:
    """Return the error of a call that waited in vain for the store to come back."""
    waited = now - ticket.entered_at
    return WaitTimeout(
        f"{ticket.demand.model or 'the call'} can't be granted in time: the store has been "
        f"away for {now - away.since:.3g} s ({away.why}); the call waited for "
        f"{waited:.3g} s",
        key_ids=_key_ids(ticket.lane.route),
        model=ticket.demand.model,
        waited_for=waited,
    )


def crowded_out(ticket: Ticket, waiting: int, seconds: float) -> QueueFull:
    """Return the error of a call for which no place is left behind those that wait."""
    return QueueFull(
        f"{waiting} calls wait already (wait.max_waiting)",
        retry_after=_finite(seconds),
        model=ticket.demand.model,
    )


def oversize(ticket: Ticket, answer: Oversize) -> TooLarge:
    """Return the error of a call that no owner's limit would ever allow."""
    bucket = answer.bucket
    return TooLarge(
        f"the call needs {ticket.costs[bucket.metric]:g} {bucket.metric.name.lower()}, more than "
        f"{bucket.scope}'s whole limit of {bucket.limit:g} {bucket.name}, the largest of all "
        "owners: make it smaller, or add an owner with a higher limit",
        model=ticket.demand.model,
    )


def _sick(route: Route) -> str:
    subjects: dict[Subject, None] = {}
    for seat in route.seats.values():
        for subject in (*seat.subjects, *(s for _, s in seat.keys)):
            if not subject.usable:
                subjects[subject] = None
    told = [f"{s.name} {s.condition}" for s in list(subjects)[:8]]
    return "; ".join(told) or "their keys are on trial, none was answered yet"


def _key_ids(route: Route) -> tuple[str, ...]:
    return tuple(key.key_id for seat in route.seats.values() for key, _ in seat.keys)[:NAMED]


def _finite(seconds: float) -> float | None:
    return seconds if seconds < inf else None
