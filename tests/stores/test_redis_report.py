"""A live fleet is read as it stands: levels, rates, health, processes."""

from __future__ import annotations

import os
import socket
from itertools import count

import pytest
from tests.stores.redis_kit import TestServer
from tests.stores.test_redis_health import BROKE, ONE, REVOKED, eventually, secret

from quotafleet import ConfigError, Demand, KeyPool, Limits, Organization, StoreError, Usage
from quotafleet.outcomes import Observation
from quotafleet.stores.redis import FleetReport, RedisStore, _members, read_fleet

NAMES = count()


def pool(server: TestServer, namespace: str, **limits: float) -> KeyPool:
    return KeyPool(
        [
            Organization(name=name, keys=(secret(name),), limits=Limits(**limits))
            for name in ("a/b".replace("/", "-"), "c")
        ],
        store=RedisStore(server.url, namespace=namespace),
        strategy="round-robin",
    )


@pytest.fixture
def namespace() -> str:
    return f"report:{next(NAMES)}"


def levels(report: FleetReport, organization: str) -> dict[str, float]:
    (scope,) = [s for s in report.scopes if s.organization == organization and s.family]
    return {level.name: level.available for level in scope.levels}


def test_levels_and_rates_are_those_of_the_pool(server: TestServer, namespace: str) -> None:
    with pool(server, namespace, tpm=60_000, rpd=1000, concurrent=5) as made:
        leases = [made.lease(Demand(model="m", input_tokens=10_000)) for _ in range(2)]
        leases[0].settle(Usage(requests=1, input_tokens=10_000))
        made.store.flush()  # type: ignore[attr-defined]
        report = read_fleet(server.url, namespace)
        for organization in ("a-b", "c"):
            (scope,) = [s for s in report.scopes if s.organization == organization and s.family]
            found = {level.name: level for level in scope.levels}
            assert scope.family == "m"
            assert found["tpm"].limit == 60_000
            assert found["tpm"].refills_per_second == 1000
            assert 49_000 <= found["tpm"].available <= 59_750
            assert 998 <= found["rpd"].available <= 999
            assert not found["tpm"].learned
        slots = {s.organization: s.levels[0].available for s in report.scopes if not s.family}
        assert slots == {leases[0].owner: 5, leases[1].owner: 4}
        held = {owner.organization: owner.in_flight for owner in report.owners}
        assert held == {leases[0].owner: 0, leases[1].owner: 1}


def test_processes_say_where_they_run_and_what_they_do(server: TestServer, namespace: str) -> None:
    with pool(server, namespace, rpm=600) as one, pool(server, namespace, rpm=600) as two:
        lease = one.lease(ONE)
        two.lease(ONE).settle()
        eventually(
            lambda: (
                sorted(p.in_flight for p in read_fleet(server.url, namespace).processes) == [0, 1]
            )
        )
        for process in read_fleet(server.url, namespace).processes:
            assert (process.host, process.pid) == (socket.gethostname(), os.getpid())
            assert 0 <= process.runs_for < 3600
            assert process.waiting == 0
        lease.settle()
        two.close()
        assert len(read_fleet(server.url, namespace).processes) == 1


def test_a_process_that_falls_silent_is_forgotten(
    server: TestServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quotafleet.stores.redis._health_sync.ALIVE_FOR", 0.5)
    monkeypatch.setattr("quotafleet.stores.redis._health_sync.EXCHANGES_EVERY", 3600.0)
    assert _members.ALIVE_FOR > 5
    with pool(server, namespace, rpm=600) as made:
        made.lease(ONE).settle()
        eventually(lambda: not read_fleet(server.url, namespace).processes)
        with server.client() as client:
            eventually(lambda: not list(client.scan_iter(f"*{namespace[-1]}:*processes")))


@pytest.mark.usefixtures("believed_at_once")
def test_health_and_merges_are_shown_and_no_secret(server: TestServer, namespace: str) -> None:
    with pool(server, namespace, rpm=600) as made:
        for outcome in (REVOKED, BROKE):
            made.lease(ONE).fail(outcome)
        eventually(lambda: len(read_fleet(server.url, namespace).health) == 2)
        dead, parked = read_fleet(server.url, namespace).health
        assert dead.subject.startswith("key ")
        assert dead.state == "dead"
        assert dead.retry_after is not None
        assert 3500 < dead.retry_after <= 3600, "it is probed after an hour"
        assert (parked.state, parked.reason) == ("parked", "insufficient_quota")
        assert parked.retry_after is not None
        assert 500 < parked.retry_after <= 600
        made.revive()
        for _ in range(2):
            lease = made.lease(ONE)
            lease.observe(Observation(organization_id="org-1"))
            lease.settle()
        eventually(lambda: bool(read_fleet(server.url, namespace).merges))
        report = read_fleet(server.url, namespace)
        (merge,) = report.merges
        assert {merge.organization, merge.into} == {"a-b", "c"}
        assert {scope.organization for scope in report.scopes} == {merge.into}
        assert not report.health
        assert secret("c")[8:16] not in repr(report)


def test_an_empty_namespace_says_which_there_are(server: TestServer, namespace: str) -> None:
    with pool(server, namespace, rpm=600) as made:
        made.lease(ONE).settle()
        with pytest.raises(ConfigError, match=namespace) as told:
            read_fleet(server.url, "nowhere")
        assert "nowhere" in str(told.value)


def test_a_server_that_does_not_answer_is_told() -> None:
    with pytest.raises(StoreError, match="refused"):
        read_fleet("redis://:hidden@127.0.0.1:1/0", "default")
