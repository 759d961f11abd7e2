"""One saturating batch through LangChain's `abatch`, three ways, against the mock provider.

    python benchmarks/langchain_saturation.py [--seconds 20]

Three organizations of unequal size. quotafleet's drop-in has all of them; LangChain's own means are
what its documentation offers: an `InMemoryRateLimiter` set to the sum of the limits, fallbacks
from one key to the next, and `with_retry` around all of it. The fluid limit is the time in which
the limits as a whole, full at the start, let so many requests through; nobody can be faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import urllib.request
from collections import Counter
from typing import Any, Final

import langchain_openai
from langchain_core.rate_limiters import InMemoryRateLimiter
from pydantic import SecretStr

from langchain_quotafleet import ChatOpenAI
from quotafleet import KeyPool, Limits, Organization
from quotafleet.testing import MockFleet, MockSettings, serve_process

MODEL: Final = "gpt-4o-mini"
RPM: Final = {"acme": 300, "birch": 180, "cedar": 120}
TPM: Final = 2_000_000


def pooled(base_url: str) -> Any:
    """Return quotafleet's drop-in over all owners."""
    pool = KeyPool(
        Organization(
            name=name,
            keys=(f"sk-mock-{name}-1",),
            base_url=base_url,
            limits=Limits(rpm=rpm, tpm=TPM),
        )
        for name, rpm in RPM.items()
    )
    return ChatOpenAI(model=MODEL, pool=pool)


def stock(base_url: str) -> Any:
    """Return what LangChain has: a rate limiter, fallbacks, and retries around them."""
    limiter = InMemoryRateLimiter(
        requests_per_second=sum(RPM.values()) / 60,
        check_every_n_seconds=0.05,
        max_bucket_size=sum(RPM.values()),
    )
    first, *others = (
        langchain_openai.ChatOpenAI(
            model=MODEL,
            api_key=SecretStr(f"sk-mock-{name}-1"),
            base_url=base_url,
            rate_limiter=limiter,
        )
        for name in RPM
    )
    return first.with_fallbacks(others).with_retry(stop_after_attempt=6)


async def batch(llm: Any, count: int) -> tuple[float, Counter[str]]:
    """Run a batch; return its seconds and how the calls ended."""
    prompts = [f"Say {number} in one word." for number in range(count)]
    began = time.monotonic()
    answers = await llm.abatch(prompts, return_exceptions=True)
    seconds = time.monotonic() - began
    ended = Counter(
        type(answer).__name__ if isinstance(answer, Exception) else "answered" for answer in answers
    )
    return seconds, ended


def measured(name: str, make: Any, count: int, fluid: float) -> dict[str, Any]:
    """Serve a fresh mock, run the batch, and report."""
    fleet = MockFleet.simple({owner: {"rpm": rpm, "tpm": TPM} for owner, rpm in RPM.items()})
    with serve_process(fleet, settings=MockSettings(ttft_s=0.1)) as server:
        seconds, ended = asyncio.run(batch(make(server.base_url), count))
        with urllib.request.urlopen(f"{server.url}/_mock/state") as answer:
            rejected = sum(json.load(answer)["rejected"].values())
    return {
        "way": name,
        "seconds": round(seconds, 2),
        "over_fluid": f"{seconds / fluid - 1:+.1%}",
        "lost": count - ended["answered"],
        "refused_by_provider": rejected,
        "ended": dict(ended),
    }


def main() -> None:
    """Run both, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="the fluid limit to aim at")
    fluid = parser.parse_args().seconds
    burst = sum(RPM.values())
    count = round(burst + fluid * burst / 60)
    print(f"{count} requests, full buckets of {burst}: at best {fluid:.1f} s")
    for name, make in (("quotafleet", pooled), ("limiter + fallbacks + retry", stock)):
        print(json.dumps(measured(name, make, count, fluid)))


if __name__ == "__main__":
    main()
