"""What the drop-in costs beside stock: CPU of `ainvoke`, of `astream`, and of making a model.

    python benchmarks/langchain_overhead.py [--calls 3] [--rounds 300] [--all-headers]

The server is in a process of its own, so that its time is not counted. Both models live as long as
the benchmark and in one event loop, as in a program, so both keep their connections. They take
turns: see `turns`.

The owner has plenty, so few answers' headers are read. `--all-headers` reads each one's, as of an
owner that is used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import langchain_openai
from pydantic import SecretStr
from turns import Compared, compare

from langchain_quotafleet import ChatOpenAI
from quotafleet import KeyPool, Organization
from quotafleet._core.quota import reservations
from quotafleet.testing import MockFleet, MockSettings, serve_process

MODEL: Final = "gpt-4o-mini"
KEY: Final = "sk-mock-acme-1"
PROMPT: Final = "Say one word."


def show(what: str, told: Compared) -> None:
    half = [round(told.low, 3), round(told.high, 3)]
    each = {"ours": f"{told.ours * 1e3:.3f} ms", "stock": f"{told.theirs * 1e3:.3f} ms"}
    print(json.dumps({"what": what, "ratio": round(told.ratio, 3), "half": half, **each}))


async def ainvoke(llm: Any) -> None:
    await llm.ainvoke(PROMPT)


async def astream(llm: Any) -> None:
    async for _ in llm.astream(PROMPT):
        pass


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--all-headers", action="store_true")
    options = parser.parse_args()
    if options.all_headers:
        reservations.RECENT = 0.0  # type: ignore[misc] # so that no answer follows another closely
    fleet = MockFleet.simple({"acme": {"rpm": 6_000_000, "tpm": 2_000_000_000}})
    with serve_process(fleet, settings=MockSettings(ramp_base_tokens=None)) as server:
        place: dict[str, Any] = {"model": MODEL, "base_url": server.base_url, "stream_usage": True}
        pool = KeyPool([Organization(name="acme", keys=(KEY,), base_url=server.base_url)])
        ours = ChatOpenAI(model=MODEL, pool=pool)
        stock = langchain_openai.ChatOpenAI(api_key=SecretStr(KEY), **place)

        with asyncio.Runner() as runner:

            def calls(call: Callable[[Any], Awaitable[None]], llm: Any) -> Callable[[int], None]:
                async def some(times: int) -> None:
                    for _ in range(times):
                        await call(llm)

                return lambda times: runner.run(some(times))

            for call in (ainvoke, astream):
                ways = calls(call, ours), calls(call, stock)
                told = compare(*ways, rounds=options.rounds, times=options.calls)
                show(call.__name__, told)

        def making(make: Callable[[], object]) -> Callable[[int], object]:
            return lambda times: [make() for _ in range(times)]

        told = compare(
            making(lambda: ChatOpenAI(model=MODEL, pool=pool)),
            making(lambda: langchain_openai.ChatOpenAI(api_key=SecretStr(KEY), **place)),
            rounds=options.rounds,
            times=options.calls,
        )
        show("construction", told)


if __name__ == "__main__":
    main()
