"""What processes tell each other of health: one probes, the others rest until they are told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quotafleet import Demand, KeyPool, Limits, NoUsableKey, Organization, WaitTimeout
from quotafleet._core.admission.fleet_health import YIELDS_FOR
from quotafleet._core.admission.scheduler import Scheduler
from quotafleet._core.health.circuit_breaker import ASK_FOR, CircuitState, HealthChange
from quotafleet._core.quota.account import Account
from quotafleet.events import Available, OwnersMerged, Unavailable
from quotafleet.outcomes import Kind, Observation, Outcome
from quotafleet.protocols import FleetMember, FleetStore
from quotafleet.stores import MemoryStore
from quotafleet.testing.clock import FakeClock

ONE = Demand(model="m")
OVERLOADED = Outcome(kind=Kind.OVERLOADED, scope="provider", code="overloaded", retry_after=2.0)
MODEL = "model m at openai"


class Wire(MemoryStore):
    """A store that notes what is told, and hands over what the test says others told."""

    def __init__(self) -> None:
        super().__init__(lambda organization, project, family: Limits(rpm=600))
        self.sent: list[HealthChange] = []

    @property
    def is_local(self) -> bool:
        return False

    def bind(self, limits_for: object, freed: object) -> None:
        pass

    def join(self, member: FleetMember) -> None:
        self.member = member

    def publish(self, changes: Sequence[HealthChange]) -> None:
        self.sent += changes


class Process:
    """A pool of two owners over such a store."""

    def __init__(self) -> None:
        self.store, self.clock = Wire(), FakeClock()
        self.events: list[object] = []
        names = ("a", "b")
        self.pool = KeyPool(
            [Organization(name=n, keys=(f"sk-{n}-0123456789abcdef",)) for n in names],
            store=self.store,
            clock=self.clock,
            listeners=[self.events.append],
            strategy="round-robin",
        )
        self.scheduler: Scheduler = self.pool._scheduler
        for key in self.pool.keys:
            self.scheduler.fleet.key_circuit(key).proven = True

    def told(
        self, name: str, state: CircuitState, after: float = float("inf"), why: str = ""
    ) -> None:
        self.store.member.apply_remote(
            [HealthChange(name, state, self.clock.now() + after, why, 1)]
        )

    def owners(self) -> set[str]:
        leases = [self.pool.lease(ONE, timeout=0.0) for _ in range(4)]
        for lease in leases:
            lease.settle()
        return {lease.owner for lease in leases}

    def state(self, name: str = MODEL) -> CircuitState:
        return self.scheduler.fleet.circuit(name).state

    def sent(self) -> list[tuple[str, CircuitState]]:
        sent, self.store.sent = self.store.sent, []
        return [(changes.name, changes.state) for changes in sent]

    def rested(self) -> None:
        """Let the model rest, and its rest end."""
        self.pool.lease(ONE).fail(OVERLOADED)
        assert self.sent() == [(MODEL, CircuitState.OPEN)]
        self.clock.advance(2.0)
        self.looks()

    def looks(self) -> None:
        """Let what is due happen, as any call does."""
        self.pool.eta(ONE)


def test_the_store_is_one_that_joins_processes() -> None:
    assert isinstance(Wire(), FleetStore)
    assert not isinstance(MemoryStore(lambda *_: Limits()), FleetStore)


def test_what_this_process_finds_is_told_with_its_end_and_reason() -> None:
    process = Process()
    process.pool.lease(ONE).fail(OVERLOADED)
    assert process.store.sent == [HealthChange(MODEL, CircuitState.OPEN, 2.0, "overloaded", 1)]


def test_what_others_found_is_left_alone_and_not_told_again() -> None:
    process = Process()
    process.told("organization a", CircuitState.PARKED, 600.0, "insufficient_quota")
    assert process.owners() == {"b"}
    (sick,) = process.pool.status().unavailable
    assert (sick.subject, sick.state) == ("organization a", "parked")
    assert (sick.reason, sick.retry_after) == ("insufficient_quota", 600.0)
    down = Unavailable(subject="organization a", state="parked", reason="insufficient_quota")
    assert process.events[0] == down
    process.told("organization a", CircuitState.CLOSED)
    assert process.owners() == {"a", "b"}
    assert Available(subject="organization a") in process.events
    assert process.sent() == []


def test_what_was_told_of_a_key_before_it_was_asked_for_holds() -> None:
    process = Process()
    for name in ("key a#1", "key b#1"):
        process.told(name, CircuitState.DEAD, why="invalid_api_key")
    with pytest.raises(NoUsableKey, match="invalid_api_key"):
        process.pool.lease(ONE)


def test_news_that_change_nothing_tell_nobody() -> None:
    process = Process()
    for _ in range(2):
        process.told("key a#1", CircuitState.DEAD)
    assert len(process.events) == 1


def test_a_rest_that_ended_is_asked_for_and_not_used_before_the_answer() -> None:
    process = Process()
    process.rested()
    assert process.sent() == [(MODEL, CircuitState.CLAIMING_PROBE)]
    with pytest.raises(WaitTimeout):
        process.pool.lease(ONE, timeout=0.0)


def test_who_may_probe_does_and_tells_what_came_of_it() -> None:
    process = Process()
    process.rested()
    process.sent()
    process.told(MODEL, CircuitState.HALF_OPEN, 3.0)
    probe = process.pool.lease(ONE)
    assert process.sent() == [(MODEL, CircuitState.PROBING)]
    probe.settle()
    assert process.sent() == [(MODEL, CircuitState.CLOSED)]
    assert process.owners() == {"a", "b"}


def test_who_may_not_probe_rests_until_the_claim_ends_and_asks_again() -> None:
    process = Process()
    process.rested()
    process.sent()
    process.told(MODEL, CircuitState.PROBING, 5.0)
    process.clock.advance(4.9)
    process.looks()
    assert process.state() is CircuitState.PROBING
    process.clock.advance(0.1)
    process.looks()
    assert process.sent() == [(MODEL, CircuitState.CLAIMING_PROBE)]


def test_if_nobody_answers_each_probes_by_itself() -> None:
    process = Process()
    process.rested()
    process.clock.advance(ASK_FOR)
    probe = process.pool.lease(ONE, timeout=0.0)
    assert process.state() is CircuitState.PROBING
    probe.settle()
    assert process.state() is CircuitState.CLOSED


def test_a_leave_to_probe_that_no_call_used_goes_to_the_others() -> None:
    process = Process()
    process.rested()
    process.told(MODEL, CircuitState.HALF_OPEN, 3.0)
    process.sent()
    process.clock.advance(3.0)
    process.looks()
    assert process.state() is CircuitState.PROBING
    assert process.sent() == []
    process.clock.advance(YIELDS_FOR)
    process.looks()
    assert process.sent() == [(MODEL, CircuitState.CLAIMING_PROBE)]


@pytest.mark.parametrize("ends", ["abandoned", "given up"])
def test_a_probe_that_says_nothing_is_asked_for_again(ends: str) -> None:
    process = Process()
    process.rested()
    process.told(MODEL, CircuitState.HALF_OPEN, 3.0)
    if ends == "abandoned":
        process.pool.lease(ONE).abandon()
    else:
        waiter = process.scheduler.enter(ONE, process.clock.now(), 1e6)
        candidate = next(iter(waiter.queue.candidates.by_account.values()))
        process.scheduler.health_tracker._begin_probe(candidate.circuits, process.clock.now())
        waiter.candidate, waiter.key = candidate, candidate.keys[0]
        process.scheduler.leave(waiter, process.clock.now())
        process.pool._tell()
    assert process.sent()[-1] == (MODEL, CircuitState.CLAIMING_PROBE)


def test_what_is_revived_is_revived_for_all() -> None:
    process = Process()
    process.told("organization a", CircuitState.PARKED, 600.0)
    process.told("key b#1", CircuitState.DEAD)
    assert process.pool.revive() == 2
    assert sorted(process.sent()) == sorted(
        [("organization a", CircuitState.CLOSED), ("key b#1", CircuitState.CLOSED)],
        key=lambda one: one[0],
    )


def test_owners_that_others_found_to_be_one_are_one_here() -> None:
    process = Process()
    process.owners()
    process.store.merge("b", "a", 0.0)
    process.store.member.merged("b", "a")
    assert {key.organization for key in process.pool.keys} == {"a"}
    assert process.owners() == {"a"}
    assert OwnersMerged(organization="b", into="a") in process.events
    seen = len(process.events)
    process.store.member.merged("b", "a")
    process.store.member.merged("elsewhere", "a")
    assert len(process.events) == seen


@pytest.mark.usefixtures("believed_at_once")
def test_what_an_answer_told_of_an_owner_goes_with_it() -> None:
    process = Process()
    for number in (2, 1):
        lease = process.pool.lease(ONE)
        lease.observe(Observation(organization_id=f"org-{number}", project_id="proj-1"))
        lease.settle()
    first, second = lease.owner, "b" if lease.owner == "a" else "a"
    process.store.merge(first, second, 0.0)
    process.store.member.merged(first, second)
    while (lease := process.pool.lease(ONE)).key_id != f"{second}#1":
        lease.settle()
    lease.observe(Observation(organization_id="org-1", project_id="proj-1"))
    lease.settle()
    assert {key.organization for key in process.pool.keys} == {second}


@pytest.mark.usefixtures("believed_at_once")
def test_a_store_may_call_back_while_it_merges() -> None:
    process = Process()
    accounts: list[Account] = []
    merge = process.store.merge

    def merging(organization: str, into: str, now: float) -> None:
        for account in process.scheduler.fleet.accounts():
            process.pool._freed_elsewhere(account)
            accounts.append(account)
        merge(organization, into, now)

    process.store.merge = merging  # type: ignore[method-assign]
    for _ in range(2):
        lease = process.pool.lease(ONE)
        lease.observe(Observation(organization_id="org-1"))
        lease.settle()
    assert accounts
    assert len({key.organization for key in process.pool.keys}) == 1
    process.pool.close()


def test_waiting_is_told_for_the_fleets_list() -> None:
    process = Process()
    assert process.store.member.waiting == 0
    assert [key.key_id for key in process.store.member.keys] == ["a#1", "b#1"]
