"""What a pool logs: changes of state, bounded, without a secret."""

from __future__ import annotations

import logging

import pytest

from quotafleet import Demand, KeyPool, Organization
from quotafleet._log import MAX_LINES, PERIOD, EventLog
from quotafleet.events import Available, OwnersMerged, Unavailable
from quotafleet.outcomes import Kind, Outcome
from quotafleet.testing import FakeClock

REVOKED = Outcome(kind=Kind.KEY_INVALID, scope="key", code="invalid_api_key")
NO_CREDIT = Outcome(kind=Kind.QUOTA_EXHAUSTED, scope="organization", code="insufficient_quota")
SECRET = "sk-never-shown-0123456789"


def test_an_owner_that_goes_out_of_use_and_comes_back_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        caplog.at_level(logging.INFO, "quotafleet"),
        KeyPool([Organization(name="acme", keys=(SECRET,))], clock=FakeClock()) as pool,
    ):
        pool.lease(Demand(model="m")).fail(NO_CREDIT)
        pool.revive("acme")
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "organization acme is out of use (parked): insufficient_quota"),
        ("INFO", "organization acme is in use again"),
    ]
    assert SECRET not in caplog.text


def test_calls_are_logged_only_where_debug_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    for level, expected in ((logging.INFO, 0), (logging.DEBUG, 2)):
        caplog.clear()
        with (
            caplog.at_level(level, "quotafleet"),
            KeyPool([Organization(name="acme", keys=(SECRET,))]) as pool,
        ):
            pool.lease(Demand(model="m")).release()
        assert len(caplog.records) == expected, caplog.text


def test_an_outage_is_no_flood(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    log = EventLog(clock)
    log(Unavailable(subject="key a#1", state="open", reason="server_error"))
    caplog.clear()
    with caplog.at_level(logging.INFO, "quotafleet"):
        for number in range(500):
            log(Unavailable(subject=f"key b#{number}", state="open", reason="server_error"))
        assert len(caplog.records) == MAX_LINES - 1
        clock.advance(PERIOD)
        log(OwnersMerged(organization="a", into="b"))
        log(Available(subject="key a#1"))
        log(Available(subject="key a#1"))
    lines = [one.getMessage() for one in caplog.records[MAX_LINES - 1 :]]
    assert lines == [
        f"{501 - MAX_LINES} further changes were not logged",
        "organization a is the same as b: they share one quota",
        "key a#1 is in use again",
    ]


def test_probes_of_what_stays_out_of_use_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(FakeClock())
    with caplog.at_level(logging.INFO, "quotafleet"):
        for state in ("open", "half-open", "probing", "open", "dead"):
            log(Unavailable(subject="key a#1", state=state, reason="invalid_api_key"))
    assert [one.getMessage() for one in caplog.records] == [
        "key a#1 is out of use (open): invalid_api_key",
        "key a#1 is out of use (dead): invalid_api_key",
    ]
