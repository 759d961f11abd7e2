"""What health means to a fleet: seats leave and join, and one instant says when to look again."""

from __future__ import annotations

from math import inf

from quotafleet import Organization
from quotafleet._core.account import Account
from quotafleet._core.conditions import Conditions
from quotafleet._core.fleet import Fleet
from quotafleet._core.health import News, State
from quotafleet._core.routes import Route
from quotafleet._owners import Owners


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
        fleet.key_subject(key).proven = True
    stirred: list[Route] = []
    conditions = Conditions(fleet, asks=False, stirred=stirred.append)
    route = fleet.route("m")
    assert conditions.changes_at == inf

    conditions.told(News("organization b", State.OPEN, until=20.0), 0.0)
    conditions.told(News("organization a", State.OPEN, until=10.0), 0.0)
    assert conditions.changes_at == 10.0
    assert route.ready == []
    assert stirred == [route, route]

    conditions.wake_rested(10.0, waiting=False)
    assert conditions.changes_at == 20.0
    assert route.ready == [accounts["a"]]

    conditions.wake_rested(20.0, waiting=False)
    assert conditions.changes_at == inf
    assert route.ready == [accounts["a"], accounts["b"]]
    assert stirred == [route] * 4
