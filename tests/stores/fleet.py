"""One process of a fleet, for tests: it leases as fast as it may, and prints when it was granted.

python fleet.py URL '{"seconds": 2, "tasks": 20, "limits": {"rpm": 6000}, ...}'
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from quotafleet import CannotServe, Demand, KeyPool, Limits, Organization, Usage
from quotafleet.stores.redis import RedisStore


async def main(url: str, order: dict[str, Any]) -> None:
    store = RedisStore(
        url,
        namespace=order.get("namespace", "fleet"),
        lifetime=order.get("lifetime", 900.0),
        share_for=order.get("share_for", 0.0),
        on_failure=order.get("on_failure", "wait"),
        timeout=order.get("timeout", 2.0),
    )
    organizations = [
        Organization(
            name=f"o{n}", keys=(f"sk-o{n}-0123456789abcdef",), limits=Limits(**order["limits"])
        )
        for n in range(order.get("owners", 1))
    ]
    pool = KeyPool(organizations, store=store)
    for key in pool.keys:  # nobody answers here, so nobody is on trial
        pool._fleet.key_circuit(key).proven = True
    print(json.dumps({"ready": True}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    ends_at = time.monotonic() + order["seconds"]
    demand = Demand(model="m", input_tokens=order.get("tokens", 0))
    used = Usage(input_tokens=order.get("used", order.get("tokens", 0)))
    granted: list[tuple[float, str]] = []

    async def work() -> None:
        while time.monotonic() < ends_at:
            try:
                lease = await pool.alease(demand, deadline=ends_at)
            except CannotServe:
                return
            granted.append((time.time(), lease.owner))
            await asyncio.sleep(order.get("holds", 0.01))
            await lease.asettle(used)

    await asyncio.gather(*(work() for _ in range(order.get("tasks", 20))))
    await pool.aclose()
    report = {"granted": granted, "steps": store.steps, "alone": store.granted_alone}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
