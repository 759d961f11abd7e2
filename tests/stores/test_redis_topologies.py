"""Clusters, sentinels, TLS and sockets: real servers of these tests' own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
import redis
from tests.stores import test_redis_contract as contract
from tests.stores.redis_kit import TestServer, binary, free_port, serving
from tests.stores.test_redis_processes import admitted, fleet

from quotafleet import Demand, KeyPool, Lease, Limits, Organization, StoreError, Usage, WaitTimeout
from quotafleet._core.quota.ledger import LimitsFor
from quotafleet.protocols import Store
from quotafleet.stores.redis import RedisStore
from quotafleet.stores.redis._outage import OnFailure

pytestmark = [pytest.mark.realtime, pytest.mark.usefixtures("engine")]


@contextmanager
def cluster() -> Iterator[str]:
    with ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
        nodes = [stack.enter_context(serving(*options)) for _ in range(3)]
        first = nodes[0].client()
        bounds = [(0, 5460), (5461, 10922), (10923, 16383)]
        for node, (low, high) in zip(nodes, bounds, strict=True):
            client = node.client()
            client.execute_command("CLUSTER", "ADDSLOTS", *range(low, high + 1))
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", low + 1)
            if node is not nodes[0]:
                first.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        until = monotonic() + 30
        while not all(is_whole(node) for node in nodes):
            assert monotonic() < until, "the cluster doesn't come together"
            sleep(0.1)
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def is_whole(node: TestServer) -> bool:
    info = node.client().execute_command("CLUSTER", "INFO")
    told = (
        info
        if isinstance(info, dict)
        else dict(line.split(":") for line in info.decode().split("\r\n") if line)
    )
    return told["cluster_state"] == "ok" and told["cluster_known_nodes"] == "3"


@pytest.fixture(scope="module")
def cluster_url(engine: str) -> Iterator[str]:
    with cluster() as url:
        yield url


class TestRedisCluster(contract.TestRedisStore):
    """An organization is one slot, so a claim is one step for each that is tried."""

    examples = 5

    @pytest.fixture(autouse=True)
    def _clustered(self, cluster_url: str) -> None:
        self.url = cluster_url

    def make(self, limits_for: LimitsFor, lifetime: float) -> Store:
        store = RedisStore(
            self.url,
            namespace=f"cluster-{next(contract.NAMES)}",
            lifetime=lifetime,
            limits_for=limits_for,
            clock=self._clock(),
        )
        store.script_clock = self._clock().now
        self.made.append(store)
        return store

    def test_merged_organizations_spend_from_one_bucket(self) -> None:
        """They may be on different nodes: they are one from here on, in this process's view."""
        limits = Limits(tpd=1001)
        store = self._store(a=limits, b=limits)
        first, second = self._account(store, "a"), self._account(store, "b")
        self._take(store, first)
        store.merge("b", "a", self.now())
        first, second = self._account(store, "a"), self._account(store, "b")
        assert first is second
        assert self._room(store, second) == 9


async def test_tasks_of_a_pool_over_a_cluster(cluster_url: str) -> None:
    store = RedisStore(cluster_url, namespace=f"cluster-{next(contract.NAMES)}")
    owners = [
        Organization(name=f"o{n}", keys=(f"sk-o{n}-0123456789abcdef",), limits=Limits(rpd=3.5))
        for n in range(4)
    ]
    async with KeyPool(owners, store=store) as pool:
        for _ in range(12):  # three each
            lease = await pool.alease(Demand(model="m"), timeout=5)
            await lease.asettle()
        with pytest.raises(WaitTimeout):
            await pool.alease(Demand(model="m"), timeout=0.5)


def test_owners_that_turn_out_to_be_one_spend_from_one_bucket_in_all_processes(
    cluster_url: str,
) -> None:
    """They may be on different nodes: what the one spent is booked at the other."""
    namespace = f"cluster-{next(contract.NAMES)}"
    owners = [
        Organization(name=n, keys=(f"sk-{n}-0123456789abcdef",), limits=Limits(tpd=8640))
        for n in ("acme", "birch")
    ]
    one, two = (
        KeyPool(owners, store=RedisStore(cluster_url, namespace=namespace), strategy="round-robin")
        for _ in range(2)
    )
    with one, two:
        for _ in range(10):
            call = Demand(model="m", input_tokens=200)
            one.lease(call).settle(Usage(input_tokens=200))
        two.lease(Demand(model="m", requests=0)).release()
        first, second = one.store, two.store
        assert isinstance(first, RedisStore)
        assert isinstance(second, RedisStore)
        first.merge("birch", "acme", one.clock.now())
        first.flush()
        until = monotonic() + 30
        while second._view.resolve("birch") != "acme":
            assert monotonic() < until, "the other process isn't told"
            sleep(0.05)
        two.lease(Demand(model="m", requests=0)).release()
        assert {key.organization for key in two.keys} == {"acme"}
        (account,) = second._view.all()
        assert 8640 - account.buckets[0].level == pytest.approx(2000, abs=50)


def test_slots_of_a_cluster_wake_who_waits_elsewhere(cluster_url: str) -> None:
    """By a message, which reaches who listens at any node: nobody asks again and again."""
    order = {"limits": {"concurrent": 2}, "tasks": 4, "holds": 0.02}
    with fleet(cluster_url, 3, seconds=3.0, **order) as processes:
        reports = [process.hear() for process in processes]
    times = admitted(reports)
    counts = [len(report["granted"]) for report in reports]
    assert min(counts) > 15, counts
    held = max(sum(first <= at < first + 0.018 for at in times) for first in times)
    assert held <= 2
    assert sum(report["steps"] for report in reports) <= 1.5 * len(times) + 20


async def test_who_waits_for_a_slot_of_a_cluster_asks_seldom(cluster_url: str) -> None:
    async with slots_of_a_cluster(cluster_url, 2) as (first, second):
        held = await first.alease(Demand(model="m"))
        waiting = asyncio.ensure_future(_lease(second))
        await asyncio.sleep(0.5)  # by then it hears messages
        before = _steps(second)
        await asyncio.sleep(1.5)
        assert _steps(second) - before <= 2
        await held.asettle()
        await asyncio.wait_for(waiting, 1.0)  # not only when it asks again


async def test_who_died_waiting_for_a_slot_of_a_cluster_keeps_it_from_nobody(
    cluster_url: str,
) -> None:
    async with slots_of_a_cluster(cluster_url, 3) as (first, second, third):
        held = await first.alease(Demand(model="m"))
        dead = asyncio.ensure_future(_lease(second))
        await asyncio.sleep(0.5)
        waiting = asyncio.ensure_future(_lease(third))
        await asyncio.sleep(0.5)
        store = second.store
        assert isinstance(store, RedisStore)
        store._companion._heard = lambda _: None  # type: ignore[method-assign]
        dead.cancel()
        await held.asettle()
        lease = await asyncio.wait_for(waiting, 30.0)
        await lease.asettle()


@asynccontextmanager
async def slots_of_a_cluster(url: str, size: int) -> AsyncIterator[list[KeyPool]]:
    """Processes of a fleet that may have one call in flight."""
    namespace = f"cluster-{next(contract.NAMES)}"
    acme = Organization(
        name="acme", keys=("sk-acme-0123456789abcdef",), limits=Limits(concurrent=1)
    )
    pools = [KeyPool([acme], store=RedisStore(url, namespace=namespace)) for _ in range(size)]
    yield pools
    for pool in pools:
        await pool.aclose()


async def _lease(pool: KeyPool) -> Lease:
    return await pool.alease(Demand(model="m"), timeout=60)


def _steps(pool: KeyPool) -> int:
    assert isinstance(pool.store, RedisStore)
    return pool.store.steps


@pytest.mark.parametrize("on_failure", ["fail", "wait"])
def test_a_failover_costs_seconds_and_no_quota(tmp_path: Path, on_failure: OnFailure) -> None:
    with ExitStack() as stack:
        master = stack.enter_context(serving())
        replica = stack.enter_context(serving("--replicaof", "127.0.0.1", str(master.port)))
        until = monotonic() + 20
        while replica.client().info("replication")["master_link_status"] != "up":
            assert monotonic() < until, "the replica doesn't follow"
            sleep(0.1)
        port = free_port()
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
            f"sentinel monitor fleet 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds fleet 500\n"
            "sentinel failover-timeout fleet 3000\n"
        )
        command = [str(binary()), str(config), "--sentinel"]
        sentinel = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        stack.callback(sentinel.wait)
        stack.callback(sentinel.kill)
        until = monotonic() + 20
        while not knows_replica(port):
            assert monotonic() < until, "the sentinel doesn't see the replica"
            sleep(0.2)
        url = f"redis+sentinel://127.0.0.1:{port}/fleet"
        store = RedisStore(url, timeout=1.0, on_failure=on_failure)
        owner = Organization(name="o", keys=("sk-o-0123456789abcdef",), limits=Limits(rpd=10.5))
        with KeyPool([owner], store=store) as pool:
            for _ in range(5):
                pool.lease(Demand(model="m")).settle()
            store.flush()
            master.client().wait(1, 2000)
            master.stop()
            until = monotonic() + 60
            granted = 0
            while granted < 5:
                assert monotonic() < until, "the replica was not made master"
                try:
                    pool.lease(Demand(model="m"), timeout=60).settle()
                    granted += 1
                except StoreError:
                    assert on_failure == "fail"
                    sleep(0.1)
            with pytest.raises(WaitTimeout):
                pool.lease(Demand(model="m"), timeout=0.2)


def knows_replica(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.execute_command("SENTINEL", "REPLICAS", "fleet"))
    except (redis.exceptions.RedisError, OSError):
        return False


def spends(url: str) -> None:
    """Lease and settle in a thread and in a task."""
    owner = Organization(name="o", keys=("sk-o-0123456789abcdef",), limits=Limits(rpd=2.5))

    async def in_a_task(pool: KeyPool) -> None:
        lease = await pool.alease(Demand(model="m"), timeout=20)
        await lease.asettle()

    with KeyPool([owner], store=RedisStore(url, on_failure="fail")) as pool:
        pool.lease(Demand(model="m"), timeout=20).settle()
        asyncio.run(in_a_task(pool))
        with pytest.raises(WaitTimeout):
            pool.lease(Demand(model="m"), timeout=0.2)


def test_a_unix_socket(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    with serving("--unixsocket", str(socket)):
        spends(f"unix://{socket}")


def test_tls_is_spoken_and_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH, to make a certificate with")
    made, key = tmp_path / "made.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    tls = (
        "--tls-cert-file",
        str(made),
        "--tls-key-file",
        str(key),
        "--tls-ca-cert-file",
        str(made),
    )
    with serving("--tls-port", str(port), *tls, "--tls-auth-clients", "no"):
        url = f"rediss://127.0.0.1:{port}/0"
        spends(f"{url}?ssl_ca_certs={made}")
        with pytest.raises(StoreError, match=r"(?i)certificate"):
            spends(url)
