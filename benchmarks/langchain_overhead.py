"""What the drop-in costs beside stock: CPU of `ainvoke`, and of making a model.

    python benchmarks/langchain_overhead.py [--calls 100] [--rounds 15]

The server is in a process of its own, so that its time is not counted. Both models live as long as
the benchmark and in one event loop, as in a program, so both keep their connections. They take
turns in short rounds. The ratio is that of each one's cheapest round: other load on the machine
only ever adds to a round; the median of the rounds' ratios stands beside it.
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
    """Return what both cost at least over some rounds, in which they take turns to go first."""
    ours(), stock()
    times = []
    for number in range(rounds):
        if number % 2:
            mine, theirs = cpu(ours), cpu(stock)
        else:
            theirs, mine = cpu(stock), cpu(ours)
        times.append((mine, theirs))
    least = [min(column) for column in zip(*times, strict=True)]
    return {
        "ratio": round(least[0] / least[1], 3),
        "median": round(statistics.median(mine / theirs for mine, theirs in times), 3),
        "ours": least[0],
        "stock": least[1],
    }


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
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

        def show(what: str, told: dict[str, Any], count: int) -> None:
            each = {name: f"{told[name] / count * 1e3:.3f} ms" for name in ("ours", "stock")}
            print(
                json.dumps({"what": what, "ratio": told["ratio"], "median": told["median"], **each})
            )

        with asyncio.Runner() as runner:
            told = ratio(
                lambda: runner.run(calls(ours)), lambda: runner.run(calls(stock)), options.rounds
            )
        show("ainvoke", told, options.calls)

        def making(make: Callable[[], object]) -> Callable[[], object]:
            return lambda: [make() for _ in range(100)]

        told = ratio(
            making(lambda: ChatOpenAI(model=MODEL, pool=pool)),
            making(lambda: langchain_openai.ChatOpenAI(api_key=SecretStr(KEY), **place)),
            options.rounds,
        )
        show("construction", told, 100)


if __name__ == "__main__":
    main()
