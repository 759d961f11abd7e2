"""What health means to a fleet: candidates leave and join, one instant says when to look."""

from __future__ import annotations

from math import inf

from quotafleet import Organization
from quotafleet._core.admission.fleet_health import HealthTracker
from quotafleet._core.fleet.candidates import CandidateSet
from quotafleet._core.fleet.fleet import Fleet
from quotafleet._core.health.circuit_breaker import CircuitState, HealthChange
from quotafleet._core.quota.account import Account
from quotafleet.owners import Owners


def test_one_instant_says_when_time_moves_the_next_subject() -> None:
    names = ("a", "b")
    owners = Owners(Organization(name=name, keys=(f"sk-{name}-0123456789",)) for name in names)
    accounts = {name: Account(name, None, "m") for name in names}
    fleet = Fleet(
        owners.keys,
        account_of=lambda key, _: accounts[key.organization],
        family_of=lambda _, model: model,
    )
    for key in owners.keys:
        fleet.key_circuit(key).proven = True
    stirred: list[CandidateSet] = []
    health_tracker = HealthTracker(fleet, asks=False, stirred=stirred.append)
    candidates = fleet.candidates("m")
    assert health_tracker.changes_at == inf

    health_tracker.apply_remote(HealthChange("organization b", CircuitState.OPEN, until=20.0), 0.0)
    health_tracker.apply_remote(HealthChange("organization a", CircuitState.OPEN, until=10.0), 0.0)
    assert health_tracker.changes_at == 10.0
    assert candidates.ready == []
    assert stirred == [candidates, candidates]

    health_tracker.wake_rested(10.0, waiting=False)
    assert health_tracker.changes_at == 20.0
    assert candidates.ready == [accounts["a"]]

    health_tracker.wake_rested(20.0, waiting=False)
    assert health_tracker.changes_at == inf
    assert candidates.ready == [accounts["a"], accounts["b"]]
    assert stirred == [candidates] * 4
