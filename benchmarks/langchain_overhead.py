"""What the drop-in costs beside stock: CPU of `ainvoke`, and of making a model.

    python benchmarks/langchain_overhead.py [--calls 300] [--rounds 7]

The server is in a process of its own, so that its time is not counted. Stock and drop-in take
turns in short rounds; the median of the rounds' ratios is told, which other load on the machine
moves little.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import langchain_openai
from pydantic import SecretStr

from keyfleet import KeyPool, Organization
from keyfleet.testing import Fleet, MockSettings, serve_process
from langchain_keyfleet import ChatOpenAI

MODEL: Final = "gpt-4o-mini"
KEY: Final = "sk-mock-acme-1"


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds that some work takes."""
    gc.collect()
    gc.disable()
    began = time.process_time()
    work()
    spent = time.process_time() - began
    gc.enable()
    return spent


def ratio(ours: Callable[[], object], stock: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Return the median of ours / stock over some rounds, in which they take turns to go first."""
    ours(), stock()
    found, times = [], []
    for number in range(rounds):
        if number % 2:
            mine, theirs = cpu(ours), cpu(stock)
        else:
            theirs, mine = cpu(stock), cpu(ours)
        found.append(mine / theirs)
        times.append((mine, theirs))
    return {
        "ratio": round(statistics.median(found), 3),
        "ours": min(mine for mine, _ in times),
        "stock": min(theirs for _, theirs in times),
    }


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    fleet = Fleet.simple({"acme": {"rpm": 6_000_000, "tpm": 2_000_000_000}})
    with serve_process(fleet, settings=MockSettings(ramp_base_tokens=None)) as server:
        place: dict[str, Any] = {"model": MODEL, "base_url": server.base_url}
        pool = KeyPool([Organization(name="acme", keys=(KEY,), base_url=server.base_url)])
        ours = ChatOpenAI(model=MODEL, pool=pool)
        stock = langchain_openai.ChatOpenAI(api_key=SecretStr(KEY), **place)

        async def calls(llm: Any) -> None:
            for _ in range(options.calls):
                await llm.ainvoke("Say one word.")

        def running(llm: Any) -> Callable[[], object]:
            # A loop of its own each time: stock on openai 3 can't go on in another.
            def run() -> None:
                asyncio.run(calls(llm))

            return run

        fresh = langchain_openai.ChatOpenAI

        def stock_run() -> None:
            # Its client's connections belong to the loop, which is gone by the next round.
            client = langchain_openai.chat_models._client_utils._cached_async_httpx_client
            client.cache_clear()
            asyncio.run(calls(fresh(api_key=SecretStr(KEY), **place)))

        del stock
        told = ratio(running(ours), stock_run, options.rounds)
        each = {name: f"{told[name] / options.calls * 1e3:.2f} ms" for name in ("ours", "stock")}
        print(json.dumps({"what": "ainvoke", "ratio": told["ratio"], **each}))

        def making(make: Callable[[], object]) -> Callable[[], object]:
            return lambda: [make() for _ in range(100)]

        told = ratio(
            making(lambda: ChatOpenAI(model=MODEL, pool=pool)),
            making(lambda: fresh(api_key=SecretStr(KEY), **place)),
            options.rounds,
        )
        each = {name: f"{told[name] / 100 * 1e3:.2f} ms" for name in ("ours", "stock")}
        print(json.dumps({"what": "construction", "ratio": told["ratio"], **each}))


if __name__ == "__main__":
    main()
