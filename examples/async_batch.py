"""Many calls at once: all are started, the pool lets through what the quota allows.

It talks to the mock provider, so it needs no key:  python examples/async_batch.py
"""

import asyncio

import openai

from quotafleet import KeyPool
from quotafleet.openai import AsyncOpenAI
from quotafleet.testing import MockFleet, serve

CALLS = 130
#: Together they admit 120 calls at once, and two more each second.
LIMITS = {"acme": 80, "birch": 30, "cedar": 10}
MOCK = MockFleet.simple({name: {"rpm": rpm} for name, rpm in LIMITS.items()})


async def ask(client: AsyncOpenAI, number: int) -> str:
    """Ask one question; an error is that of the SDK, as without a pool."""
    try:
        answer = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": f"What is {number} squared?"}],
            max_tokens=20,
            extra_headers={"x-quotafleet-priority": "batch"},
        )
    except openai.RateLimitError as error:  # not within wait.timeout
        return f"not answered: {error}"
    return answer.choices[0].message.content or ""


async def main() -> None:
    """Send them all, and show how the work was shared."""
    with serve(MOCK) as server:
        organizations = [
            {
                "name": name,
                "keys": [f"sk-mock-{name}-1"],
                "base_url": server.base_url,
                "limits": {"rpm": rpm},
            }
            for name, rpm in LIMITS.items()
        ]
        pool = KeyPool.from_config({"organizations": organizations, "wait": {"timeout": 60}})
        async with pool, AsyncOpenAI(pool=pool) as client:
            answers = await asyncio.gather(*(ask(client, number) for number in range(CALLS)))
            print(len(answers), "calls,", sum("not answered" in a for a in answers), "not answered")
            for key in pool.status().keys:
                print(f"{key.key_id}: {key.answered} answered, {key.refused} refused")


if __name__ == "__main__":
    asyncio.run(main())
