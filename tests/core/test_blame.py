"""Whom a second opinion blames: never the key that took the request, never what rests already."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from quotafleet._core.admission.fleet_health import HealthTracker
from quotafleet._core.call import flow
from quotafleet._core.health.circuit_breaker import Circuit, CircuitEvent, CircuitState
from quotafleet.outcomes import Kind, Outcome

REFUSED = Outcome(kind=Kind.BAD_REQUEST, certain=False)


def attempt(family: Circuit, at: float = 0.0) -> Any:
    candidate = SimpleNamespace(family=family, has_siblings=False)
    return SimpleNamespace(
        at=at,
        candidate=candidate,
        key=SimpleNamespace(key_id="a#1"),
        key_circuit=Circuit("key a#1"),
    )


def blame(family: Circuit, at: float) -> None:
    fleet: Any = SimpleNamespace(memberships={})
    tracker = HealthTracker(fleet, asks=False, stirred=lambda candidates: None)
    tracker.blame(attempt(family, at), REFUSED, at + 1.0, key_only=False)


def test_a_key_that_takes_the_request_the_second_time_was_not_at_fault() -> None:
    grant = attempt(Circuit("model m of a"))
    reply: Any = SimpleNamespace(outcome=REFUSED)
    flow._blame(cast(Any, None), (grant, reply), grant, 0.0)  # no health is asked for
    assert grant.candidate.family.state is CircuitState.CLOSED


def test_an_attempt_from_before_the_last_change_blames_nobody() -> None:
    family = Circuit("model m of a")
    family.since = 5.0
    blame(family, at=4.0)
    assert family.state is CircuitState.CLOSED
    blame(family, at=6.0)
    assert family.state is CircuitState.OPEN


@pytest.mark.parametrize("event", [CircuitEvent.COOL, CircuitEvent.PARK])
def test_what_rests_already_is_not_blamed_again(event: CircuitEvent) -> None:
    family = Circuit("model m of a")
    family.apply(event, 0.0)
    until = family.until
    blame(family, at=1.0)
    assert family.until == until
