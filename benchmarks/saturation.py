"""How near the physical limit a saturating batch comes.

    python benchmarks/saturation.py

The same batch of small calls over unequal organizations, whose limits are configured, through the
real SDK over real sockets; the provider is the mock, in a process of its own. The *fluid limit* is
the time in which all buckets together, full at first, could yield so many requests: nothing can be
faster. Printed: time over the fluid limit, refusals, losses; healthy owners first, then with a
revoked key, one without credit, a flaky and a connection-cutting organization among six.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

import httpx

from quotafleet import KeyPool, Limits, Organization
from quotafleet.openai import AsyncOpenAI
from quotafleet.testing import MockFleet, MockSettings, serve_process

MODEL = "gpt-4o-mini"
#: The second key of the first organization adds no capacity.
UNEQUAL = {
    "acme": {"rpm": 300, "tpm": 200_000, "keys": 2},
    "beta": {"rpm": 180, "tpm": 200_000},
    "gamma": {"rpm": 120, "tpm": 200_000},
}
SICK = {
    name: {"rpm": 240, "tpm": 200_000}
    for name in ("good", "fine", "revoked", "broke", "flaky", "cutting")
}
FAULTS = [
    {"match": {"key": "revoked-1"}, "action": "revoke_key"},
    {"match": {"key": "broke-1"}, "action": "quota", "times": None},
    {"match": {"key": "flaky-1"}, "action": "500", "times": None, "probability": 0.3},
    {"match": {"key": "cutting-1"}, "action": "reset_conn", "times": None},
]


def pool_of(fleet: MockFleet, base_url: str, limits: Mapping[str, Mapping[str, int]]) -> KeyPool:
    """Return a pool whose organizations hold the fleet's keys and state these limits."""
    organizations = []
    for name, values in limits.items():
        keys = tuple(key.secret for key in fleet.keys if key.project == f"proj_{name}")
        rates = {limit: value for limit, value in values.items() if limit != "keys"}
        organizations.append(
            Organization(name=name, keys=keys, base_url=base_url, limits=Limits(**rates))
        )
    return KeyPool(organizations)


async def batch(pool: KeyPool, count: int, at_once: int = 200) -> tuple[float, Counter[str]]:
    """Send so many small calls; return the seconds it took and how they ended."""
    client = AsyncOpenAI(pool=pool)
    ended: Counter[str] = Counter()
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with places:
            try:
                answer = await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": f"Say {number} in one word."}],
                )
                ended["answered" if answer.choices else "empty"] += 1
            except Exception as error:  # whatever it is, it is a call that was lost
                ended[type(error).__name__] += 1

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(count)))
    seconds = time.monotonic() - began
    await client.close()
    return seconds, ended


def rejected(url: str) -> Counter[str]:
    """Return what the mock refused, by reason."""
    return Counter(httpx.get(f"{url}/_mock/state").json()["rejected"])


def healthy(count: int = 1200) -> None:
    fleet = MockFleet.simple(UNEQUAL)
    burst = sum(values["rpm"] for values in UNEQUAL.values())
    fluid = (count - burst) / (burst / 60)
    with serve_process(fleet, MockSettings(ttft_s=0.05)) as server:
        pool = pool_of(fleet, server.base_url, UNEQUAL)
        seconds, ended = asyncio.run(batch(pool, count))
        refused = rejected(server.url).total()
    print(
        f"{count} calls, three organizations: {seconds:.2f} s over a fluid limit of {fluid:.2f} s: "
        f"{seconds / fluid:.3f}; refused {refused} ({refused / count:.2%}), "
        f"lost {count - ended['answered']}"
    )


def sick(count: int = 700) -> None:
    fleet = MockFleet.simple(SICK)
    with serve_process(fleet, MockSettings(ttft_s=0.02)) as server:
        httpx.post(f"{server.url}/_mock/faults", json=FAULTS).raise_for_status()
        pool = pool_of(fleet, server.base_url, SICK)
        _, ended = asyncio.run(batch(pool, count))
    asked = {key.owner: key.granted for key in pool.status().keys}
    print(f"{count} calls, four of six sick: lost {count - ended['answered']}; attempts: {asked}")


if __name__ == "__main__":
    healthy()
    sick()
