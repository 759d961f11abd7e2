"""A batch larger than the quota, through LiteLLM's Router, by keyfleet and by two of its own ways.

    python benchmarks/litellm_saturation.py [--requests 152] [--rpm 30] [--owners 4]

Prints, for each, how many requests were lost (the caller got an error), how many the provider
refused, and the time over the fluid bound: what is left after the full buckets, divided by the rate
at which they refill. Nothing sends faster than that without being refused.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import time
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import httpx
import litellm

from keyfleet.testing import Fleet, serve_process
from litellm_keyfleet import KeyfleetRouting

MESSAGES = [{"role": "user", "content": "What is a fleet?"}]


async def batch(router: Any, count: int) -> tuple[int, float]:
    began = time.monotonic()
    calls = (router.acompletion("fast", MESSAGES) for _ in range(count))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return sum(isinstance(one, BaseException) for one in answers), time.monotonic() - began


def _state(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/_mock/state").json()
    return found


def run(way: str, owners: int, rpm: int, count: int) -> tuple[int, int, int, float]:
    fleet = Fleet.simple({f"o{number}": {"rpm": rpm} for number in range(owners)})
    callbacks = list(litellm.callbacks)  # LiteLLM's strategies stay in this list for ever
    with serve_process(fleet) as server:
        models = [
            {
                "model_name": "fast",
                "litellm_params": {
                    "model": "openai/gpt-4o-mini",
                    "api_key": secret,
                    "api_base": server.base_url,
                    "rpm": rpm,
                },
                "model_info": {"id": secret[-6:], "keyfleet_provider": "openai"},
            }
            for secret in fleet.secrets()
        ]
        asyncio.run(batch(litellm.Router(model_list=models[:1]), 3))  # its imports are not timed
        strategy = "simple-shuffle" if way == "keyfleet" else way
        router = litellm.Router(model_list=models, routing_strategy=strategy)
        routing = KeyfleetRouting.install(router) if way == "keyfleet" else None
        httpx.post(f"{server.url}/_mock/reset").raise_for_status()
        lost, took = asyncio.run(batch(router, count))
        if routing is not None:
            routing.uninstall()
        state = _state(server.url)
    litellm.callbacks = callbacks
    return lost, sum(state["rejected"].values()), state["received"], took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=152)
    parser.add_argument("--rpm", type=int, default=30)
    parser.add_argument("--owners", type=int, default=4)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    litellm.suppress_debug_info = True
    fluid = (given.requests - given.owners * given.rpm) / (given.owners * given.rpm / 60)
    print(f"litellm: {given.requests} requests, {given.owners} owners of {given.rpm} rpm;")
    print(f"the fluid bound is {fluid:.2f} s\n")
    print(f"{'':24}{'lost':>14}{'refused':>16}{'time':>10}{'over the bound':>16}")
    for way in ("simple-shuffle", "usage-based-routing-v2", "keyfleet"):
        lost, refused, received, took = run(way, given.owners, given.rpm, given.requests)
        over = f"{took / fluid - 1:+.1%}" if not lost else "-"
        share = f"{refused} ({refused / max(1, received):.1%})"
        part = f"{lost} ({lost / given.requests:.0%})"
        print(f"{way:24}{part:>14}{share:>16}{took:>8.2f} s{over:>16}")


if __name__ == "__main__":
    main()
