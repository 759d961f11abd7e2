"""What a shared admission costs: commands and round trips, and how fast one connection is.

    python benchmarks/redis.py [--calls 3000] [--owners 5] [--rounds 5]

It starts a server of its own (redis-server or valkey-server on PATH). The ratio is of admissions a
second to EVALSHAs of an empty script a second, over one connection to the same server: of one
caller to one, of 32 tasks of an event loop to 32, of 32 threads to 32, each of which calls redis-py
as anybody would. An admission is a claim and a settlement; where each claim asks the server, the
settlement rides with a later one, and claims of several callers go together. With shares most
claims don't ask. Rounds of all take turns, and the best of each counts, so other load on the
machine tells little.
The saturation part runs several processes over a quota that is scarce: there, shares are asked for
and hardly lent, and the slots' part counts how often processes ask for those.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])  # not this folder: this file is named redis

import redis
import redis.asyncio
from tests.stores.redis_kit import TestServer, serving

from quotafleet import ApiKey, Demand, Limits, Secret, Usage
from quotafleet._core.quota.reservations import Claim, Reservation, Settlement
from quotafleet.stores.redis import RedisStore

FLEET = Path(__file__).parents[1] / "tests" / "stores" / "fleet.py"


COSTS, USED = Demand(input_tokens=900).costs, Usage(input_tokens=700).costs
LIMITS = Limits(rpm=60_000_000, tpm=600_000_000)
#: Admissions from shares are so much faster that more of them make a round.
MORE = 20


class Bare:
    """The same callers, who run an empty script over one connection of a client of redis-py."""

    def __init__(self, server: TestServer, callers: int) -> None:
        self.callers = callers
        options: Any = {"max_connections": 1, "timeout": None}
        pool = redis.BlockingConnectionPool.from_url(server.url, **options)
        self.client = redis.Redis.from_pool(pool)
        self.sha = self.client.script_load("return 1")
        self.url, self.options = server.url, options

    def one(self, calls: int) -> None:
        """Let one caller run it, so many times."""
        for _ in range(calls):
            self.client.execute_command("EVALSHA", self.sha, 0)

    async def tasks(self, calls: int) -> float:
        """Return the seconds that a script takes among tasks of an event loop."""
        pool = redis.asyncio.BlockingConnectionPool.from_url(self.url, **self.options)
        client = redis.asyncio.Redis.from_pool(pool)

        async def work() -> None:
            for _ in range(calls // self.callers):
                await client.execute_command("EVALSHA", self.sha, 0)

        await client.execute_command("EVALSHA", self.sha, 0)
        took = await timed(self.callers, work)
        await client.aclose()
        return took / calls

    def close(self) -> None:
        """Let go of the connection."""
        self.client.close()


class Admissions:
    """One process that claims and settles: each caller one call after the other."""

    def __init__(
        self, server: TestServer, owners: int, *, callers: int = 1, share_for: float = 0.0
    ) -> None:
        self.callers = callers
        self.store = RedisStore(
            server.url,
            namespace=f"{owners} {callers} {share_for}",
            share_for=share_for,
            limits_for=lambda *_: LIMITS,
        )
        self.accounts = []
        for number in range(owners):
            secret = Secret(f"sk-o{number}-0123456789abcdef")
            key = ApiKey(key_id=f"o{number}#1", secret=secret, organization=f"o{number}")
            self.accounts.append(self.store.account(key, "m", 0.0))

    def one(self, calls: int) -> None:
        """Let one caller make so many admissions."""
        store, accounts, now = self.store, self.accounts, time.monotonic
        for _ in range(calls):
            answer = store.reserve(Claim(accounts, COSTS), now())
            assert isinstance(answer, Reservation)
            store.settle(Settlement(answer, USED), now())

    async def tasks(self, calls: int) -> float:
        """Return the seconds that an admission takes among tasks of an event loop."""
        store, accounts, now = self.store, self.accounts, time.monotonic

        async def work() -> None:
            for _ in range(calls // self.callers):
                answer = await store.areserve(Claim(accounts, COSTS), now())
                assert isinstance(answer, Reservation)
                await store.asettle(Settlement(answer, USED), now())

        await store.areserve(Claim(accounts, COSTS), now())
        return await timed(self.callers, work) / calls

    def close(self) -> None:
        """Close the store."""
        self.store.close()


async def timed(callers: int, work: Callable[[], Awaitable[None]]) -> float:
    """Return the seconds that so many tasks take together."""
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(callers)))
    return time.perf_counter() - began


def in_threads(side: Bare | Admissions, calls: int) -> float:
    """Return the seconds that a call takes among a side's callers, each in its thread."""
    with ThreadPoolExecutor(side.callers) as threads:
        list(threads.map(lambda _: None, range(side.callers)))  # they are there
        began = time.perf_counter()
        list(threads.map(side.one, [calls // side.callers] * side.callers))
        return (time.perf_counter() - began) / calls


def in_tasks(side: Bare | Admissions, calls: int) -> float:
    """Return the seconds that a call takes among a side's callers, each in its task."""
    return asyncio.run(side.tasks(calls))


def alone(side: Bare | Admissions, calls: int) -> float:
    """Return the seconds that a call takes where there is one caller, in this thread."""
    began = time.perf_counter()
    side.one(calls)
    return (time.perf_counter() - began) / calls


def admissions(
    server: TestServer, owners: int, callers: str, calls: int, rounds: int
) -> dict[str, Any]:
    """Measure admissions and bare scripts of the same callers over one connection, in turn."""
    number, measure = CALLERS[callers]
    bare, asking = Bare(server, number), Admissions(server, owners, callers=number)
    measure(bare, calls), measure(asking, calls)
    steps = asking.store.steps
    took = [(measure(bare, calls), measure(asking, calls)) for _ in range(rounds)]
    steps = asking.store.steps - steps
    bare.close(), asking.close()
    bare_took, ask_took = (min(column) for column in zip(*took, strict=True))
    return {
        "owners": owners,
        "callers": callers,
        "bare_us": round(bare_took * 1e6, 1),
        "admission_us": round(ask_took * 1e6, 1),
        "ratio": round(bare_took / ask_took, 2),
        "round_trips_per_admission": round(steps / calls / rounds, 3),
    }


def shares(server: TestServer, owners: int, calls: int, rounds: int) -> dict[str, Any]:
    """Measure claims that ask and claims from shares, of one caller, in turn."""
    asking, sharing = Admissions(server, owners), Admissions(server, owners, share_for=0.5)
    alone(asking, calls), alone(sharing, calls)
    steps = sharing.store.steps
    took = [(alone(asking, calls), alone(sharing, MORE * calls)) for _ in range(rounds)]
    steps = sharing.store.steps - steps
    asking.close(), sharing.close()
    ask, share = (min(column) for column in zip(*took, strict=True))
    return {
        "owners": owners,
        "share_for": 0.5,
        "admission_us": round(share * 1e6, 1),
        "times_asking": round(ask / share, 1),
        "round_trips_per_admission": round(steps / calls / MORE / rounds, 5),
    }


#: Who calls: how many, and how they are measured.
CALLERS: dict[str, tuple[int, Callable[[Bare | Admissions, int], float]]] = {
    "one": (1, alone),
    "32 tasks": (32, in_tasks),
    "32 threads": (32, in_threads),
}


def saturation(server: TestServer, **order: Any) -> dict[str, Any]:
    """Measure what processes need for each admission while the quota is scarce."""
    order["namespace"] = json.dumps(order)
    command = [sys.executable, str(FLEET), server.url, json.dumps(order)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(order["processes"])
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    reports = [json.loads(process.stdout.readline()) for process in processes]
    for process in processes:
        process.wait()
    counts = [len(report["granted"]) for report in reports]
    total = sum(counts)
    return {
        "limits": order["limits"],
        "share_for": order.get("share_for", 0),
        "holds": order.get("holds", 0.01),
        "admitted": counts,
        "round_trips_per_admission": round(sum(r["steps"] for r in reports) / total, 3),
        "jain": round(total**2 / (len(counts) * sum(c * c for c in counts)), 4),
    }


def main() -> None:
    """Measure, and print a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--owners", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with serving() as server:
        for owners in (1, options.owners):
            for callers in CALLERS:
                found = admissions(server, owners, callers, options.calls, options.rounds)
                print(json.dumps(found))
            print(json.dumps(shares(server, owners, options.calls, options.rounds)))
        common = {"processes": options.processes, "seconds": options.seconds, "tasks": 10}
        for more in (
            {"limits": {"rpm": 600, "rps": 30}},
            {"limits": {"tpm": 60_000}, "tokens": 100, "used": 60},
            {"limits": {"tpm": 60_000}, "tokens": 100, "used": 60, "share_for": 0.5},
            {"limits": {"concurrent": 6}, "holds": 0.05},
            {"limits": {"concurrent": 6}, "holds": 0.5},
        ):
            print(json.dumps(saturation(server, **common, **more)))


if __name__ == "__main__":
    main()
