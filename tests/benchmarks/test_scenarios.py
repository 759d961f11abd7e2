"""The race's scenarios: each has the physical bound that its provider really enforces."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.race.scenarios import MODEL, SCENARIOS, Scenario

from quotafleet.testing import FakeClock, MockCall, MockProvider, RequestSize

SECONDS = 8.0
STEP = 0.01


def greedy(scenario: Scenario) -> float:
    """Return the seconds of a client that knows every level and never gets a refusal."""
    clock = FakeClock()
    mock = MockProvider(scenario.fleet(), clock=clock, settings=scenario.settings)
    size = RequestSize(text_bytes=scenario.jobs[0].size, messages=1)
    while mock.admitted < len(scenario.jobs):
        mock.accounts.catch_up(clock.now())
        if not _served(mock, scenario, size):
            clock.advance(STEP)
    assert mock.refused == 0
    return clock.now()


def _served(mock: MockProvider, scenario: Scenario, size: RequestSize) -> bool:
    for secret in scenario.secrets().values():
        chain = mock.accounts.chain(mock.accounts.keys[secret], MODEL, 0)
        assert chain is not None
        tokens = scenario.charged(size.text_bytes, size.max_tokens)
        for meter in chain.meters:
            meter.refill(mock.clock.now())
        needs = {0: 1, 1: 1, 4: tokens}
        if all(meter.wait_s(needs[meter.index]) == 0 for meter in chain.meters):
            return mock.admit(MockCall(secret=secret, model=MODEL, ask=size)).ok
    return False


@pytest.mark.parametrize(
    "name",
    [
        *("requests", "quantised", "shared", "shared_alone", "daily"),
        *(f"{kind}_{known}" for kind in ("single", "sliding") for known in ("stated", "shown")),
    ],
)
def test_the_bound_is_reached_and_never_beaten(name: str) -> None:
    scenario = SCENARIOS[name](SECONDS)
    bound = scenario.bound()
    assert bound - STEP <= greedy(scenario) <= bound + 1.0


def test_the_charge_is_that_of_the_profile() -> None:
    usual, larger = SCENARIOS["tokens"](1.0), SCENARIOS["formula_max"](1.0)
    assert usual.charged(400, 1000) == 102
    assert (larger.charged(400, 50), larger.charged(400, 1000)) == (100, 1000)


def test_each_way_of_stating_a_limit_is_as_its_name_says() -> None:
    for kind in ("single", "sliding"):
        stated, shown, untold = (
            SCENARIOS[f"{kind}_{known}"](1.0) for known in ("stated", "shown", "untold")
        )
        assert (stated.told is not None, stated.rules.stated) == (True, False)
        assert (shown.told is not None, shown.rules.stated) == (False, True)
        assert (untold.told is not None, untold.rules.stated) == (False, False)
        assert replace(stated.rules, stated=True) == shown.rules


def test_every_scenario_bears_its_key() -> None:
    assert [make(1.0).name for make in SCENARIOS.values()] == list(SCENARIOS)
