"""The table of health: every state, every event, and attribution of late answers."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet._core.health.circuit_breaker import (
    ASK_FOR,
    CLOSED_AT_MOST,
    DEAD_AT_MOST,
    DEAD_FOR,
    FAULTS_OF_FLAKY,
    FAULTS_TO_OPEN,
    HUNG_FOR,
    OPEN_AT_MOST,
    OPEN_FOR,
    OPENINGS_ALIKE,
    PARK_AT_MOST,
    PARK_FOR,
    PROBE_FOR,
    PROVEN_DEAD_FOR,
    SLOW_FAULT,
    TABLE,
    Circuit,
    CircuitEvent,
    CircuitState,
    FaultScope,
    HealthChange,
    rests_for,
    told_by,
)
from quotafleet.outcomes import Kind, Outcome

#: The states that don't end by themselves.
LASTING = (CircuitState.CLOSED, CircuitState.HALF_OPEN)


def circuit(state: CircuitState = CircuitState.CLOSED) -> Circuit:
    made = Circuit("key acme#1")
    made.state = state
    return made


def test_a_single_fault_is_chance_three_in_a_row_open() -> None:
    one = circuit()
    assert [one.apply(CircuitEvent.FAULT, 0.0) for _ in range(FAULTS_TO_OPEN)] == [
        False,
        False,
        True,
    ]
    assert one.state is CircuitState.OPEN
    assert one.until == OPEN_FOR


def test_a_success_between_faults_starts_the_count_anew() -> None:
    one = circuit()
    for _ in range(5):
        one.apply(CircuitEvent.FAULT, 0.0)
        one.apply(CircuitEvent.FAULT, 0.0)
        one.apply(CircuitEvent.SUCCESS, 0.0)
    assert one.state is CircuitState.CLOSED


def test_one_that_fails_now_and_then_is_left_alone_later() -> None:
    one = circuit()
    one.apply(CircuitEvent.FAULT, 0.0)
    one.apply(CircuitEvent.SUCCESS, 0.0)
    faults = [one.apply(CircuitEvent.FAULT, 0.0) for _ in range(FAULTS_OF_FLAKY)]
    assert faults == [False] * (FAULTS_OF_FLAKY - 1) + [True]
    one.apply(CircuitEvent.DUE, 0.0)
    one.apply(CircuitEvent.PROBE, 0.0)
    one.apply(CircuitEvent.SUCCESS, 0.0)
    assert one.flaky, "its probe was answered"


def test_backoff_doubles_up_to_its_bound_and_a_success_resets_it() -> None:
    one, lasted = circuit(), []
    one.apply(CircuitEvent.COOL, 0.0)
    for _ in range(8):
        lasted.append(one.until)
        one.apply(CircuitEvent.DUE, 0.0)
        one.apply(CircuitEvent.PROBE, 0.0)
        one.apply(CircuitEvent.FAULT, 0.0)
    assert lasted == [OPEN_FOR, OPEN_FOR, OPEN_FOR, 2, 4, 8, 16, OPEN_AT_MOST]
    one.apply(CircuitEvent.DUE, 0.0)
    one.apply(CircuitEvent.PROBE, 0.0)
    one.apply(CircuitEvent.SUCCESS, 0.0)
    assert one.state is CircuitState.CLOSED
    assert one.reason == ""
    one.apply(CircuitEvent.COOL, 0.0)
    assert one.until == OPEN_FOR


def test_retry_after_is_a_minimum() -> None:
    one = circuit()
    one.apply(CircuitEvent.COOL, 10.0, retry_after=25.0)
    assert one.until == 35.0


def test_parking_lasts_longer_and_is_probed_rarely() -> None:
    one = circuit()
    one.apply(CircuitEvent.PARK, 0.0, reason="insufficient_quota")
    assert (one.state, one.until, one.reason) == (
        CircuitState.PARKED,
        PARK_FOR,
        "insufficient_quota",
    )
    for _ in range(10):
        one.apply(CircuitEvent.DUE, 0.0)
        one.apply(CircuitEvent.PROBE, 0.0)
        one.apply(CircuitEvent.PARK, 0.0)
    assert one.until == PARK_AT_MOST


@pytest.mark.parametrize(
    ("proven", "lasts"),
    [
        (False, [DEAD_FOR * 2**n for n in range(5)] + [DEAD_AT_MOST]),
        (True, [PROVEN_DEAD_FOR * 2**n for n in range(6)]),
    ],
)
def test_a_dead_key_is_probed_at_intervals_that_double(proven: bool, lasts: list[float]) -> None:
    one, seen = circuit(), []
    one.proven = proven
    if proven:
        one.apply(CircuitEvent.KILL, 0.0)
        assert one.state is CircuitState.OPEN, "one refusal of a key that worked is no proof"
        one.apply(CircuitEvent.DUE, 0.0)
        one.apply(CircuitEvent.PROBE, 0.0)
    for _ in lasts:
        assert one.apply(CircuitEvent.KILL, 0.0)
        assert one.state is CircuitState.DEAD
        seen.append(one.until)
        assert one.apply(CircuitEvent.DUE, 0.0)
        assert one.apply(CircuitEvent.PROBE, 0.0)
    assert seen == lasts
    assert one.apply(CircuitEvent.SUCCESS, 0.0)
    assert one.usable


def test_a_dead_key_may_be_revived() -> None:
    one = circuit()
    one.apply(CircuitEvent.KILL, 0.0)
    assert one.apply(CircuitEvent.REVIVE, 0.0)
    assert one.usable


def test_a_stated_instant_sets_a_park_and_one_answer_closes_nothing_for_a_day() -> None:
    one = circuit()
    one.apply(CircuitEvent.PARK, 0.0, retry_after=3.0)
    assert one.until == 3.0
    one = circuit()
    one.apply(CircuitEvent.PARK, 0.0, retry_after=1e9)
    assert one.until == PARK_AT_MOST
    one = circuit()
    one.apply(CircuitEvent.COOL, 0.0, retry_after=86_400.0)
    assert one.until == CLOSED_AT_MOST


def test_refusals_in_a_row_that_state_no_delay_grow() -> None:
    one, now, seen = circuit(), 0.0, []
    for _ in range(9):
        seen.append(one.refused_untold(now, now))
        assert one.refused_untold(now - 0.1, now) is None, "it was granted before the last refusal"
        now += 1.0
    assert seen == [None, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_probe_that_never_reports_is_given_up() -> None:
    one = circuit(CircuitState.HALF_OPEN)
    one.apply(CircuitEvent.PROBE, 5.0)
    assert not one.usable
    assert one.until == 5.0 + PROBE_FOR
    one.apply(CircuitEvent.DUE, one.until)
    assert one.usable


@given(st.lists(st.tuples(st.sampled_from(CircuitEvent), st.floats(0, 100)), max_size=60))
def test_only_the_tables_moves_happen_and_instants_are_sound(
    events: list[tuple[CircuitEvent, float]],
) -> None:
    one, now = circuit(), 0.0
    for event, seconds in events:
        now += seconds
        before = one.state
        changed = one.apply(event, now)
        assert changed == (one.state is not before or one.since == now) or not changed
        if changed:
            assert TABLE[before, event] is one.state
            assert one.since == now
            assert one.until >= now
            assert (one.until < inf) == (one.state not in LASTING)
        else:
            assert one.state is before
        assert one.usable == (one.state in (CircuitState.CLOSED, CircuitState.HALF_OPEN))


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(kind=Kind.OK), None),
        (Outcome(kind=Kind.RATE_LIMITED, scope="organization"), None),
        (Outcome(kind=Kind.BAD_REQUEST), None),
        (Outcome(kind=Kind.SERVER_ERROR), (FaultScope.OWNER, CircuitEvent.FAULT)),
        (Outcome(kind=Kind.NETWORK), (FaultScope.OWNER, CircuitEvent.FAULT)),
        (Outcome(kind=Kind.TIMEOUT), (FaultScope.OWNER, CircuitEvent.FAULT)),
        (Outcome(kind=Kind.OVERLOADED), (FaultScope.PROVIDER_MODEL, CircuitEvent.COOL)),
        (Outcome(kind=Kind.QUOTA_EXHAUSTED), (FaultScope.OWNER, CircuitEvent.PARK)),
        (Outcome(kind=Kind.KEY_INVALID), (FaultScope.KEY, CircuitEvent.KILL)),
        (
            Outcome(kind=Kind.ACCESS_DENIED, model_only=True),
            (FaultScope.OWNER_MODEL, CircuitEvent.PARK),
        ),
        (Outcome(kind=Kind.ACCESS_DENIED, scope="key"), (FaultScope.KEY, CircuitEvent.PARK)),
        (Outcome(kind=Kind.ACCESS_DENIED), None),
        (Outcome(kind=Kind.ACCESS_DENIED, scope="key", certain=False), None),
        (Outcome(kind=Kind.KEY_INVALID, scope="key", certain=False), None),
        (Outcome(kind=Kind.QUOTA_EXHAUSTED, scope="key"), (FaultScope.KEY, CircuitEvent.PARK)),
        (
            Outcome(kind=Kind.ACCESS_DENIED, scope="organization"),
            (FaultScope.OWNER, CircuitEvent.PARK),
        ),
    ],
)
def test_what_an_outcome_says_of_health(
    outcome: Outcome, told: tuple[FaultScope, CircuitEvent] | None
) -> None:
    assert told_by(outcome) == told


def test_who_asks_and_is_not_answered_probes_by_itself() -> None:
    one = circuit(CircuitState.OPEN)
    one.apply(CircuitEvent.CLAIM_PROBE, 5.0)
    assert (one.state, one.until, one.usable) == (CircuitState.CLAIMING_PROBE, 5.0 + ASK_FOR, False)
    one.apply(CircuitEvent.DUE, one.until)
    assert one.usable


@given(st.sampled_from(CircuitState), st.sampled_from(CircuitState), st.floats(0, 100))
def test_what_another_process_told_holds_whatever_was_known(
    before: CircuitState, told: CircuitState, until: float
) -> None:
    one = circuit(before)
    one.faults, one.proven, one.until = FAULTS_TO_OPEN - 1, True, -1.0
    changes = HealthChange(one.name, told, until, "why", 3)
    assert one.apply_change(changes, 7.0) == (told is not before or told is not CircuitState.CLOSED)
    assert one.state is told
    assert not one.apply_change(changes, 8.0)
    if told is not CircuitState.CLOSED:
        assert one.change == changes
    if told is not before:
        assert (one.since, one.faults) == (7.0, 0)
        assert one.proven == (told is not CircuitState.CLOSED)


def test_what_another_process_left_alone_often_is_left_alone_for_longer() -> None:
    one = circuit()
    one.apply_change(HealthChange(one.name, CircuitState.HALF_OPEN, consecutive_opens=3), 0.0)
    one.apply(CircuitEvent.PROBE, 0.0)
    one.apply(CircuitEvent.FAULT, 0.0)
    assert one.until == OPEN_FOR * 2 ** (3 - OPENINGS_ALIKE)


def test_a_rest_that_goes_on_is_the_same_rest() -> None:
    one = circuit(CircuitState.OPEN)
    one.since, one.until = 1.0, 5.0
    assert one.apply_change(HealthChange(one.name, CircuitState.OPEN, 9.0), 2.0)
    assert (one.since, one.until) == (1.0, 9.0)


def test_repr_tells_name_and_state() -> None:
    assert repr(circuit()) == "<Circuit key acme#1: closed>"


@pytest.mark.parametrize(
    ("kind", "took", "rests"),
    [
        (Kind.TIMEOUT, 0.5, HUNG_FOR),
        (Kind.SERVER_ERROR, 0.05, 0.05 * SLOW_FAULT),
        (Kind.NETWORK, 1.5, 1.5 * SLOW_FAULT),
        (Kind.NETWORK, 60.0, HUNG_FOR),
        (Kind.OVERLOADED, 6.0, None),
        (Kind.RATE_LIMITED, 6.0, None),
    ],
)
def test_a_fault_that_took_long_is_not_asked_for_again_soon(
    kind: Kind, took: float, rests: float | None
) -> None:
    assert rests_for(Outcome(kind=kind), took) == rests


def test_a_fault_says_itself_when_to_come_again() -> None:
    told = Outcome(kind=Kind.SERVER_ERROR, retry_after=90.0)
    assert rests_for(told, 6.0) == 90.0
