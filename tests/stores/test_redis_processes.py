"""Several processes, one quota: none too many, all of it, each its share, whoever dies."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.stores.redis_kit import TestServer

from quotafleet import Demand, KeyPool, Limits, Organization, Usage
from quotafleet.stores.redis import RedisStore

FLEET = Path(__file__).with_name("fleet.py")
NAMES = count()

pytestmark = pytest.mark.realtime


class Process:
    """One process of a fleet, told to begin, and what it reported."""

    def __init__(self, url: str, order: dict[str, Any]) -> None:
        command = [sys.executable, str(FLEET), url, json.dumps(order)]
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, "the process ended without a word"
        return json.loads(line)  # type: ignore[no-any-return]

    def begin(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def fleet(url: str, size: int, **order: Any) -> Iterator[list[Process]]:
    order["namespace"] = f"fleet-{next(NAMES)}"
    processes = [Process(url, order) for _ in range(size)]
    try:
        for process in processes:
            process.hear()
        for process in processes:
            process.begin()
        yield processes
    finally:
        for process in processes:
            process.end()


def admitted(reports: list[dict[str, Any]], owner: str = "o0") -> list[float]:
    return sorted(at for report in reports for at, who in report["granted"] if who == owner)


def most_beyond(times: list[float], limit: float, period: float, cost: float = 1.0) -> float:
    """Return by how much the fullest window goes beyond a bucket that was full at its start."""
    capacity, rate = limit, limit / period
    level, at, worst = capacity, times[0], 0.0
    for now in times:
        level = min(capacity, level + (now - at) * rate) - cost
        at = now
        worst = max(worst, -level)
    return worst


def jain(counts: list[int]) -> float:
    return sum(counts) ** 2 / (len(counts) * sum(c * c for c in counts))


def test_processes_together_use_the_whole_quota_and_no_more(server: TestServer) -> None:
    rps = 40.0  # what a busy machine falls behind, the bucket makes up for: it holds a second's
    with fleet(server.url, 3, seconds=4.0, tasks=10, limits={"rps": rps}) as processes:
        reports = [process.hear() for process in processes]
    times = admitted(reports)
    assert most_beyond(times, rps, 1.0) < 1  # granted at one instant, told a moment later
    fluid = rps + rps * (times[-1] - times[0])
    assert len(times) >= fluid * 0.8
    counts = [len(report["granted"]) for report in reports]
    assert min(counts) > 0
    assert sum(report["steps"] for report in reports) <= 1.5 * len(times) + 10


def test_processes_with_shares_go_over_nothing_though_some_are_killed(server: TestServer) -> None:
    """What the dead were lent is lost once; the others go on with the whole quota."""
    rps = 60.0
    order = {"limits": {"rps": rps}, "tasks": 5, "share_for": 0.5}
    with fleet(server.url, 3, seconds=7.0, **order) as processes:
        time.sleep(2.0)
        processes[0].popen.kill()
        killed_at = time.time()
        reports = [process.hear() for process in processes[1:]]
    times = admitted(reports)
    assert most_beyond(times, rps, 1.0) < 1  # the killed one's are not known, and came on top
    late = [at for at in times if at > killed_at + 3.0]  # what it was lent is given up by then
    assert len(late) >= 0.6 * rps * (times[-1] - killed_at - 3.0)
    assert sum(report["steps"] for report in reports) <= 1.5 * len(times) + 10


def test_processes_with_shares_use_the_whole_quota_and_ask_less(server: TestServer) -> None:
    order = {"limits": {"tpm": 60_000}, "tokens": 100, "used": 60, "share_for": 0.5}
    with fleet(server.url, 3, seconds=4.0, tasks=5, **order) as processes:
        reports = [process.hear() for process in processes]
    times = admitted(reports)
    assert most_beyond(times, 60_000, 60.0, cost=60.0) < 60
    # Many find the bucket full, and few must ask.
    assert sum(report["steps"] for report in reports) <= 0.8 * len(times) + 10


def test_equal_processes_get_equal_shares_once_it_is_scarce(server: TestServer) -> None:
    with fleet(server.url, 3, seconds=4.0, tasks=5, limits={"rpm": 600, "rps": 20}) as processes:
        reports = [process.hear() for process in processes]
    began = max(report["granted"][0][0] for report in reports) + 0.5
    counts = [sum(at > began for at, _ in report["granted"]) for report in reports]
    assert jain(counts) > 0.95, counts


def test_what_killed_processes_held_comes_back_within_its_lifetime(server: TestServer) -> None:
    lifetime = 2.0
    order = {"limits": {"concurrent": 6}, "tasks": 6, "holds": 0.05, "lifetime": lifetime}
    with fleet(server.url, 3, seconds=8.0, **order) as processes:
        time.sleep(1.5)
        for process in processes[:2]:
            process.popen.kill()
        killed_at = time.time()
        report = processes[2].hear()
    after = [at for at, _ in report["granted"] if at > killed_at + lifetime + 0.5]
    # All six slots are the last one's now; each is held for 50 ms and some.
    in_flight = 0
    for first in after:
        in_flight = max(in_flight, sum(first <= at < first + 0.05 for at in after))
    assert in_flight >= 5, f"{in_flight} slots of 6 are in use"


def test_slots_are_never_too_many_and_wake_who_waits_elsewhere(server: TestServer) -> None:
    order = {"limits": {"concurrent": 2}, "tasks": 4, "holds": 0.02}
    with fleet(server.url, 3, seconds=3.0, **order) as processes:
        reports = [process.hear() for process in processes]
    times = admitted(reports)
    # Asking again every few seconds would give each process a handful.
    assert all(len(report["granted"]) > 15 for report in reports), [
        len(report["granted"]) for report in reports
    ]
    held = max(sum(first <= at < first + 0.018 for at in times) for first in times)
    assert held <= 2
    assert sum(report["steps"] for report in reports) <= 1.5 * len(times) + 20
    counts = [len(report["granted"]) for report in reports]
    assert jain(counts) > 0.9, counts


async def _use(pool: KeyPool, times: int, granted: list[KeyPool]) -> None:
    for _ in range(times):
        lease = await pool.alease(Demand(model="m"), timeout=60)
        granted.append(pool)
        await asyncio.sleep(0.01)
        await lease.asettle(Usage())


@asynccontextmanager
async def one_slot(server: TestServer) -> AsyncIterator[tuple[KeyPool, KeyPool]]:
    """Two processes of a fleet that may have one call in flight."""
    keys, limits = ("sk-acme-0123456789abcdef",), Limits(concurrent=1)
    acme = Organization(name="acme", keys=keys, limits=limits)
    namespace = f"fleet-{next(NAMES)}"
    first, second = (
        KeyPool([acme], store=RedisStore(server.url, namespace=namespace)) for _ in range(2)
    )
    for pool in (first, second):
        for key in pool.keys:  # nobody answers here, so nobody is on trial
            pool._fleet.key_circuit(key).proven = True
    yield first, second
    await first.aclose()
    await second.aclose()


def test_a_process_goes_on_with_its_slot_for_a_moment_only(server: TestServer) -> None:
    async def compete() -> None:
        async with one_slot(server) as (first, second):
            granted: list[KeyPool] = []
            hogging = [asyncio.ensure_future(_use(first, 150, granted)) for _ in range(4)]
            await asyncio.sleep(0.5)
            before = len(granted)
            await _use(second, 1, granted)
            assert len(granted) - before < 300, "the rest of the 600"
            await asyncio.gather(*hogging)

    asyncio.run(compete())


def test_who_waits_no_more_keeps_no_slot_from_others(server: TestServer) -> None:
    """A process that took slots for its calls, and has none left, stands in nobody's way."""

    async def take_turns() -> None:
        async with one_slot(server) as pools:
            granted: list[KeyPool] = []
            await asyncio.gather(*(_use(pools[n % 2], 5, granted) for n in range(6)))
            began = time.monotonic()
            for pool in pools:
                for _ in range(3):
                    await _use(pool, 1, granted)
            assert time.monotonic() - began < 4.5, "somebody waited until it asked again"

    asyncio.run(take_turns())
