"""The table of health: every state, every event, and attribution of late answers."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet._core.health import (
    ASK_FOR,
    FAULTS_OF_FLAKY,
    FAULTS_TO_OPEN,
    HUNG_FOR,
    OPEN_AT_MOST,
    OPEN_FOR,
    OPENINGS_ALIKE,
    PARK_AT_MOST,
    PARK_FOR,
    PROBE_FOR,
    SLOW_FAULT,
    TABLE,
    Event,
    Level,
    News,
    State,
    Subject,
    rests_for,
    told_by,
)
from quotafleet._outcome import Kind, Outcome

#: The states that don't end by themselves.
LASTING = (State.CLOSED, State.HALF_OPEN, State.DEAD)


def subject(state: State = State.CLOSED) -> Subject:
    made = Subject("key acme#1")
    made.state = state
    return made


def test_a_single_fault_is_chance_three_in_a_row_open() -> None:
    one = subject()
    assert [one.tell(Event.FAULT, 0.0) for _ in range(FAULTS_TO_OPEN)] == [False, False, True]
    assert one.state is State.OPEN
    assert one.until == OPEN_FOR


def test_a_success_between_faults_starts_the_count_anew() -> None:
    one = subject()
    for _ in range(5):
        one.tell(Event.FAULT, 0.0)
        one.tell(Event.FAULT, 0.0)
        one.tell(Event.SUCCESS, 0.0)
    assert one.state is State.CLOSED


def test_one_that_fails_now_and_then_is_left_alone_later() -> None:
    one = subject()
    one.tell(Event.FAULT, 0.0)
    one.tell(Event.SUCCESS, 0.0)
    faults = [one.tell(Event.FAULT, 0.0) for _ in range(FAULTS_OF_FLAKY)]
    assert faults == [False] * (FAULTS_OF_FLAKY - 1) + [True]
    one.tell(Event.DUE, 0.0)
    one.tell(Event.PROBE, 0.0)
    one.tell(Event.SUCCESS, 0.0)
    assert one.flaky, "its probe was answered"


def test_backoff_doubles_up_to_its_bound_and_a_success_resets_it() -> None:
    one, lasted = subject(), []
    one.tell(Event.COOL, 0.0)
    for _ in range(8):
        lasted.append(one.until)
        one.tell(Event.DUE, 0.0)
        one.tell(Event.PROBE, 0.0)
        one.tell(Event.FAULT, 0.0)
    assert lasted == [OPEN_FOR, OPEN_FOR, OPEN_FOR, 2, 4, 8, 16, OPEN_AT_MOST]
    one.tell(Event.DUE, 0.0)
    one.tell(Event.PROBE, 0.0)
    one.tell(Event.SUCCESS, 0.0)
    assert one.state is State.CLOSED
    assert one.reason == ""
    one.tell(Event.COOL, 0.0)
    assert one.until == OPEN_FOR


def test_retry_after_is_a_minimum() -> None:
    one = subject()
    one.tell(Event.COOL, 10.0, retry_after=25.0)
    assert one.until == 35.0


def test_parking_lasts_longer_and_is_probed_rarely() -> None:
    one = subject()
    one.tell(Event.PARK, 0.0, reason="insufficient_quota")
    assert (one.state, one.until, one.reason) == (State.PARKED, PARK_FOR, "insufficient_quota")
    for _ in range(10):
        one.tell(Event.DUE, 0.0)
        one.tell(Event.PROBE, 0.0)
        one.tell(Event.PARK, 0.0)
    assert one.until == PARK_AT_MOST


def test_dead_stays_dead_until_revived() -> None:
    one = subject()
    one.tell(Event.KILL, 0.0)
    for event in Event:
        if event is not Event.REVIVE:
            assert not one.tell(event, 1e9)
    assert one.until == inf
    assert one.tell(Event.REVIVE, 0.0)
    assert one.usable


def test_a_probe_that_never_reports_is_given_up() -> None:
    one = subject(State.HALF_OPEN)
    one.tell(Event.PROBE, 5.0)
    assert not one.usable
    assert one.until == 5.0 + PROBE_FOR
    one.tell(Event.DUE, one.until)
    assert one.usable


@given(st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 100)), max_size=60))
def test_only_the_tables_moves_happen_and_instants_are_sound(
    events: list[tuple[Event, float]],
) -> None:
    one, now = subject(), 0.0
    for event, seconds in events:
        now += seconds
        before = one.state
        changed = one.tell(event, now)
        assert changed == (one.state is not before or one.since == now) or not changed
        if changed:
            assert TABLE[before, event] is one.state
            assert one.since == now
            assert one.until >= now
            assert (one.until < inf) == (one.state not in LASTING)
        else:
            assert one.state is before
        assert one.usable == (one.state in (State.CLOSED, State.HALF_OPEN))


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(kind=Kind.OK), None),
        (Outcome(kind=Kind.RATE_LIMITED, scope="organization"), None),
        (Outcome(kind=Kind.BAD_REQUEST), None),
        (Outcome(kind=Kind.SERVER_ERROR), (Level.OWNER, Event.FAULT)),
        (Outcome(kind=Kind.NETWORK), (Level.OWNER, Event.FAULT)),
        (Outcome(kind=Kind.TIMEOUT), (Level.OWNER, Event.FAULT)),
        (Outcome(kind=Kind.OVERLOADED), (Level.PROVIDER_MODEL, Event.COOL)),
        (Outcome(kind=Kind.QUOTA_EXHAUSTED), (Level.OWNER, Event.PARK)),
        (Outcome(kind=Kind.KEY_INVALID), (Level.KEY, Event.KILL)),
        (Outcome(kind=Kind.ACCESS_DENIED, model_only=True), (Level.OWNER_MODEL, Event.KILL)),
        (Outcome(kind=Kind.ACCESS_DENIED, scope="key"), (Level.KEY, Event.KILL)),
        (Outcome(kind=Kind.ACCESS_DENIED, scope="organization"), (Level.OWNER, Event.KILL)),
    ],
)
def test_what_an_outcome_says_of_health(outcome: Outcome, told: tuple[Level, Event] | None) -> None:
    assert told_by(outcome) == told


def test_who_asks_and_is_not_answered_probes_by_itself() -> None:
    one = subject(State.OPEN)
    one.tell(Event.ASK, 5.0)
    assert (one.state, one.until, one.usable) == (State.ASKING, 5.0 + ASK_FOR, False)
    one.tell(Event.DUE, one.until)
    assert one.usable


@given(st.sampled_from(State), st.sampled_from(State), st.floats(0, 100))
def test_what_another_process_told_holds_whatever_was_known(
    before: State, told: State, until: float
) -> None:
    one = subject(before)
    one.faults, one.proven, one.until = FAULTS_TO_OPEN - 1, True, -1.0
    news = News(one.name, told, until, "why", 3)
    assert one.take(news, 7.0) == (told is not before or told is not State.CLOSED)
    assert one.state is told
    assert not one.take(news, 8.0)
    if told is not State.CLOSED:
        assert one.news == news
    if told is not before:
        assert (one.since, one.faults) == (7.0, 0)
        assert one.proven == (told is not State.CLOSED)


def test_what_another_process_left_alone_often_is_left_alone_for_longer() -> None:
    one = subject()
    one.take(News(one.name, State.HALF_OPEN, openings=3), 0.0)
    one.tell(Event.PROBE, 0.0)
    one.tell(Event.FAULT, 0.0)
    assert one.until == OPEN_FOR * 2 ** (3 - OPENINGS_ALIKE)


def test_a_rest_that_goes_on_is_the_same_rest() -> None:
    one = subject(State.OPEN)
    one.since, one.until = 1.0, 5.0
    assert one.take(News(one.name, State.OPEN, 9.0), 2.0)
    assert (one.since, one.until) == (1.0, 9.0)


def test_repr_tells_name_and_state() -> None:
    assert repr(subject()) == "<Subject key acme#1: closed>"


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
