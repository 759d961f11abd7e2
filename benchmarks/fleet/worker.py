"""One process of a fleet: says when it is ready, waits for the word, saturates, and reports.

    python -m benchmarks.fleet.worker ORDER STORE_URL BASE_URL

Prints ``ready``, reads a line, sends until its time is over, and prints a line of JSON: how its
calls ended, and its round trips to the store. What is under way then is given up.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

import openai as stock
from benchmarks.fleet.order import MODEL, TPM, Order

from quotafleet import KeyPool, Limits, Organization
from quotafleet.openai import AsyncOpenAI
from quotafleet.stores.redis import RedisStore


def pool_of(order: Order, store: RedisStore, base_url: str) -> KeyPool:
    """Return a pool of one key for each owner."""
    return KeyPool(
        [
            Organization(
                name=name,
                keys=(f"sk-mock-{name}-1",),
                base_url=base_url,
                limits=Limits(rpm=rpm, tpm=TPM),
            )
            for name, rpm in order.rpm.items()
        ],
        store=store,
    )


async def warm(base_url: str) -> None:
    """Import what the first call would: without a pool, for a model that nobody is charged for."""
    name = f"sk-mock-{next(iter(Order.read(sys.argv[1]).rpm))}-1"
    async with stock.AsyncOpenAI(api_key=name, base_url=base_url, max_retries=0) as client:
        try:
            await client.chat.completions.create(
                model="none", messages=[{"role": "user", "content": "Hello"}]
            )
        except stock.NotFoundError:
            pass


async def saturate(order: Order, pool: KeyPool) -> Counter[str]:
    """Keep so many calls under way until the time is over; return how they ended."""
    ended: Counter[str] = Counter()
    client = AsyncOpenAI(pool=pool, timeout=600.0)

    async def send() -> None:
        while True:
            try:
                await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "Hello"}]
                )
                ended["answered"] += 1
            except Exception as error:  # whatever it is, it is a call that was lost
                ended[f"{type(error).__name__}: {error}"[:200]] += 1

    tasks = [asyncio.create_task(send()) for _ in range(order.tasks)]
    await asyncio.sleep(order.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    return ended


async def main(order: Order, store_url: str, base_url: str) -> None:
    store = RedisStore(
        store_url,
        lifetime=order.lifetime,
        on_failure=order.on_failure,
        share_for=order.share_for,
    )
    await warm(base_url)
    async with pool_of(order, store, base_url) as pool:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        cpu = time.process_time()
        ended = await saturate(order, pool)
        cpu = time.process_time() - cpu
    report = {"ended": ended, "steps": store.steps, "cpu": cpu}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Order.read(sys.argv[1]), *sys.argv[2:]))
