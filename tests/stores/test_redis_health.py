"""What one process finds of keys and owners is known to all; one of them probes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from itertools import count
from time import monotonic, sleep

import pytest
from tests.stores.redis_kit import TestServer, serving

from quotafleet import Demand, KeyPool, Lease, NoUsableKey, Organization, StoreError, WaitTimeout
from quotafleet._core.health.circuit_breaker import CircuitState, HealthChange
from quotafleet.events import OwnersMerged
from quotafleet.keys import Secret
from quotafleet.outcomes import Kind, Observation, Outcome
from quotafleet.stores.redis import RedisStore, _health_sync

ONE = Demand(model="m")
REVOKED = Outcome(kind=Kind.KEY_INVALID, scope="key", code="invalid_api_key")
BROKE = Outcome(kind=Kind.QUOTA_EXHAUSTED, scope="organization", code="insufficient_quota")
OVERLOADED = Outcome(kind=Kind.OVERLOADED, scope="provider", code="overloaded")
NAMES = count()


def secret(name: str) -> str:
    return f"sk-proj-{name * 8}-{name}0123456789abcdef"


def eventually(happened: Callable[[], bool], what: str = "") -> None:
    """Wait for what must happen soon; the bound is for machines with other work to do."""
    until = monotonic() + 30
    while not happened():
        assert monotonic() < until, what or "it never happened"
        sleep(0.005)


class Process:
    """A pool over a store of its own, as another process has."""

    def __init__(self, url: str, namespace: str, *names: str, **options: float) -> None:
        self.store = RedisStore(url, namespace=namespace, **options)  # type: ignore[arg-type]
        self.events: list[object] = []
        self.pool = KeyPool(
            [Organization(name=n, keys=(secret(n + "1"), secret(n + "2"))) for n in names],
            store=self.store,
            listeners=[self.events.append],
            strategy="round-robin",
        )
        for key in self.pool.keys:
            self.pool._fleet.key_circuit(key).proven = True

    def lease(self, timeout: float = 30.0) -> Lease:
        return self.pool.lease(ONE, timeout=timeout)

    def sick(self) -> dict[str, str]:
        return {one.subject: one.state for one in self.pool.status().unavailable}

    def stop(self) -> None:
        """Fall silent, as a process that was killed: nothing is told, nothing held on."""
        self.store._health._closed.set()
        self.store._health._some.set()
        self.store._companion.close()
        for thread in self.store._health._threads:
            thread.join(20)
        self.store._health._threads = []


Make = Callable[..., Process]


@pytest.fixture
def make(server: TestServer) -> Iterator[Make]:
    namespace, made = f"health-{next(NAMES)}", []

    def process(*names: str, **options: float) -> Process:
        made.append(Process(server.url, namespace, *(names or ("a", "b")), **options))
        return made[-1]

    yield process
    for one in made:
        one.pool.close()


def begun(*processes: Process) -> None:
    """Let processes have made their first call, and hear of the others."""
    for process in processes:
        process.lease().settle()


def kill(process: Process, lease: Lease, outcome: Outcome = REVOKED) -> None:
    """Let a key that never worked be refused: a proven one dies by two requests only."""
    process.pool._fleet.key_circuit(lease.key).proven = False
    lease.fail(outcome)


@pytest.mark.parametrize("way", ["by message", "by looking"])
def test_what_one_finds_all_know(way: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "by message":
        monkeypatch.setattr(_health_sync, "EXCHANGES_EVERY", 3600.0)
    else:
        monkeypatch.setattr(_health_sync.HealthSync, "_listen", lambda self: None)
    first, *others = processes = [make() for _ in range(3)]
    begun(*processes)
    revoked = first.lease()
    kill(first, revoked)
    broke = first.lease()
    broke.fail(BROKE)
    want = {f"key {revoked.key_id}": "dead", f"organization {broke.owner}": "parked"}
    for other in others:
        eventually(lambda other=other: other.sick() == want, f"{want} is not known")  # type: ignore[misc]
        (parked,) = [one for one in other.pool.status().unavailable if one.state == "parked"]
        assert parked.reason == "insufficient_quota"
        assert parked.retry_after is not None
        assert 500 < parked.retry_after <= 600
    others[0].pool.revive()
    for process in processes:
        eventually(lambda process=process: not process.sick(), "it was not revived for all")  # type: ignore[misc]


def test_a_new_process_begins_with_what_is_known(make: Make) -> None:
    first = make()
    begun(first)
    for lease in [first.lease() for _ in range(4)]:
        if lease.owner == "a":
            kill(first, lease)
    eventually(lambda: not first.store._health._outgoing)
    first.pool.close()
    assert {make().lease().owner for _ in range(4)} == {"b"}


async def test_a_new_process_begins_so_in_an_event_loop_too(make: Make) -> None:
    first = make("a")
    begun(first)
    for lease in [first.lease() for _ in range(2)]:
        kill(first, lease)
    first.pool.close()
    second = make("a")
    with pytest.raises(NoUsableKey):
        await second.pool.alease(ONE, timeout=30)
    await second.pool.aclose()


def test_one_process_probes_and_the_others_hear_what_came_of_it(make: Make) -> None:
    processes = [make() for _ in range(5)]
    begun(*processes)
    processes[0].lease().fail(OVERLOADED)
    for process in processes:
        eventually(lambda process=process: bool(process.sick()))  # type: ignore[misc]
    granted: list[Lease] = []
    threads = [
        threading.Thread(target=lambda process=process: granted.append(process.lease(120.0)))
        for process in processes
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: bool(granted), "nobody probes")
    sleep(2 * _health_sync.EXCHANGES_EVERY)  # longer than a rest: all others have asked by now
    assert len(granted) == 1
    granted[0].settle()
    for thread in threads:
        thread.join(60)
    assert len(granted) == len(processes)
    for lease in granted[1:]:
        lease.settle()
    for process in processes:
        eventually(lambda process=process: not process.sick())  # type: ignore[misc]


def test_a_probe_that_fails_rests_for_all_and_for_longer(make: Make) -> None:
    first, second = make(), make()
    begun(first, second)
    first.lease().fail(OVERLOADED)
    probe = first.lease()
    probe.fail(OVERLOADED)

    def rest() -> float:
        (sick,) = second.pool._scheduler.health_tracker.ailing()
        return sick.consecutive_opens

    eventually(lambda: bool(second.sick()) and rest() == 2)


def test_a_process_that_dies_while_it_probes_is_followed_by_another(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_health_sync, "CLAIM_FOR", 1.0)
    monkeypatch.setattr(_health_sync, "USED_WITHIN", 0.9)
    first, second = make(), make()
    begun(first, second)
    first.lease().fail(OVERLOADED)
    eventually(lambda: bool(second.sick()))
    first.lease()
    first.stop()
    second.lease(60.0).settle()
    assert not second.sick()


def record(process: Process, subject: str) -> _health_sync.Record:
    health = process.store._health
    raw = process.store._server.client().hget(health._prefix + "health", subject)
    found = _health_sync.read_record(raw)
    assert found is not None
    return found


def test_a_claim_is_held_on_as_long_as_the_probe_is_in_flight(make: Make) -> None:
    process = make()
    begun(process)
    process.lease().fail(OVERLOADED)
    probe = process.lease()
    before = record(process, "model m at openai")
    process.store._health._exchange()
    after = record(process, "model m at openai")
    assert after.after > before.after
    assert after.version == before.version  # nobody is woken for that
    probe.settle()
    eventually(lambda: record(process, "model m at openai").state == "closed")


def test_what_is_milder_does_not_hide_what_is_worse(make: Make) -> None:
    first, second = make(), make()
    begun(first, second)
    now = monotonic()
    told = first.store.publish, second.store.publish
    told[0](
        [HealthChange("organization a", CircuitState.PARKED, now + 600, "insufficient_quota", 1)]
    )
    eventually(lambda: second.sick() == {"organization a": "parked"})
    told[1]([HealthChange("organization a", CircuitState.OPEN, now + 1, "server_error", 1)])
    eventually(lambda: not second.store._health._outgoing)
    second.store._health._exchange()
    assert record(first, "organization a").state == "parked"


@pytest.mark.usefixtures("believed_at_once")
def test_owners_that_one_finds_to_be_one_are_one_for_all(make: Make) -> None:
    first, second = make(), make()
    begun(first, second)
    for _ in range(4):
        lease = first.lease()
        lease.observe(Observation(organization_id="org-1"))
        lease.settle()
    (stays,) = {key.organization for key in first.pool.keys}
    eventually(lambda: {key.organization for key in second.pool.keys} == {stays})
    eventually(lambda: any(isinstance(event, OwnersMerged) for event in second.events))
    third = make()
    begun(third)
    assert {key.organization for key in third.pool.keys} == {stays}
    assert {process.lease().owner for process in (first, second, third)} == {stays}


@pytest.mark.usefixtures("believed_at_once")
async def test_an_answer_to_a_task_merges_owners_too(make: Make) -> None:
    process = make()
    for _ in range(4):
        lease = await process.pool.alease(ONE)
        await asyncio.to_thread(lease.observe, Observation(organization_id="org-1"))
        await lease.asettle()
    assert len({key.organization for key in process.pool.keys}) == 1


def test_owners_that_two_processes_merge_in_opposite_ways_are_one(make: Make) -> None:
    first, second = make("a", "b", "c"), make("a", "b", "c")
    begun(first, second)
    first.store.merge("a", "b", 0.0)
    second.store.merge("b", "a", 0.0)
    second.store.merge("c", "a", 0.0)
    first.store.merge("a", "c", 0.0)
    for process in (first, second):
        names = {process.store._view.resolve(name) for name in ("a", "b", "c")}
        assert len(names) == 1
        assert process.lease().owner in ("a", "b", "c")


def test_no_secret_is_stored_nor_a_name_that_tells_of_one(make: Make, server: TestServer) -> None:
    process = make()
    begun(process)
    for lease in [process.lease() for _ in range(4)]:
        kill(process, lease, Outcome(kind=Kind.KEY_INVALID, code=f"Bad {secret('a1')}"))
    eventually(lambda: not process.store._health._outgoing)
    process.store._health._exchange()
    stored = b""
    with server.client() as client:
        for key in client.scan_iter():
            stored += key + (client.dump(key) if client.type(key) != b"hash" else b"")
            if client.type(key) == b"hash":
                stored += b"".join(k + v for k, v in client.hgetall(key).items())
    assert b"dead" in stored
    for name in ("a1", "a2", "b1", "b2"):
        assert secret(name)[8:20].encode() not in stored
        assert secret(name)[-8:].encode() not in stored
    assert b"other" in stored


def test_a_fingerprint_is_of_one_secret_and_one_fleet() -> None:
    one = Secret(secret("a1"))
    names = [one.fingerprint("x"), one.fingerprint("y"), Secret(secret("a2")).fingerprint("x")]
    assert len(set(names)) == 3
    assert one.fingerprint("x") == Secret(secret("a1")).fingerprint("x")
    assert Secret("a" * 15).fingerprint("x") is None


def test_a_key_that_could_be_guessed_is_not_named(server: TestServer) -> None:
    with KeyPool([Organization(name="a", keys=("short",))], store=server.url) as pool:
        pool.lease(ONE).fail(REVOKED)
        store = pool.store
        assert isinstance(store, RedisStore)
        assert not store._health._outgoing


def test_health_is_shared_after_the_server_forgot_all(engine: str) -> None:
    with serving() as server:
        first, second = (Process(server.url, "n", "a", "b") for _ in range(2))
        begun(first, second)
        first.lease().fail(REVOKED)
        eventually(lambda: len(second.sick()) == 1)
        with server.client() as client:
            client.flushall()
        first.lease().fail(BROKE)
        eventually(lambda: "parked" in second.sick().values())
        server.stop()
        second.pool.revive()
        server.start()
        eventually(lambda: not first.sick(), "what was told while it was away is lost")
        first.pool.close()
        second.pool.close()


def test_a_server_that_is_away_at_the_start_is_told_by_the_claim(engine: str) -> None:
    with serving() as server:
        process = Process(server.url, "n", "a", "b", timeout=1.0, on_failure="fail")
        other = Process(server.url, "n", "a", "b")
        server.stop()
        with pytest.raises(StoreError):
            process.lease()
        server.start()
        begun(other)
        other.lease().fail(REVOKED)
        eventually(lambda: bool(process.sick()))
        process.pool.close()
        other.pool.close()


def test_closing_leaves_no_thread(make: Make) -> None:
    process = make()
    begun(process)
    threads = process.store._health._threads
    assert len(threads) == 2
    process.pool.close()
    assert not any(thread.is_alive() for thread in threads)


def test_a_lease_that_may_not_wait_is_refused_while_others_probe(make: Make) -> None:
    first, second = make(), make()
    begun(first, second)
    first.lease().fail(OVERLOADED)
    first.lease()
    eventually(lambda: second.sick().get("model m at openai") == "probing")
    with pytest.raises(WaitTimeout):
        second.lease(0.0)
