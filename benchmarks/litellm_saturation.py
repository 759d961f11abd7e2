"""A batch larger than the quota, through LiteLLM's Router, by keyfleet and by two of its own ways.

    python benchmarks/litellm_saturation.py [--requests 152] [--rpm 30] [--owners 4]

Prints, for each, how many requests were lost (the caller got an error), how many the provider
refused, and the time over the *fluid limit*: what is left after the full buckets, divided by the
rate at which they refill. Nothing sends faster than that without being refused. Each way has a
process of its own, since LiteLLM's callbacks are the process's, and stay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import httpx
import litellm

from keyfleet.testing import Fleet, serve_process
from litellm_keyfleet import KeyfleetRouting

MESSAGES = [{"role": "user", "content": "What is a fleet?"}]
KEYFLEET = "keyfleet"
WAYS = ("simple-shuffle", "usage-based-routing-v2", KEYFLEET)


async def batch(router: Any, count: int) -> tuple[int, float]:
    """Send so many calls at once; return how many failed, and the seconds until all had ended."""
    began = time.monotonic()
    calls = (router.acompletion("fast", MESSAGES) for _ in range(count))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return sum(isinstance(one, BaseException) for one in answers), time.monotonic() - began


async def timed(way: str, models: list[Any], url: str, count: int) -> tuple[int, float]:
    """Do as `batch`, once LiteLLM has imported what it imports at the first calls."""
    await batch(litellm.Router(model_list=models[:1]), 3)
    await asyncio.sleep(2)  # its loggers come after the answers
    strategy = "simple-shuffle" if way == KEYFLEET else way
    router = litellm.Router(model_list=models, routing_strategy=strategy)
    if way == KEYFLEET:
        KeyfleetRouting.install(router)
    async with httpx.AsyncClient() as client:
        (await client.post(f"{url}/_mock/reset")).raise_for_status()
    return await batch(router, count)


def run(way: str, owners: int, rpm: int, count: int) -> dict[str, float]:
    fleet = Fleet.simple({f"o{number}": {"rpm": rpm} for number in range(owners)})
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
        lost, took = asyncio.run(timed(way, models, server.url, count))
        state = httpx.get(f"{server.url}/_mock/state").json()
    refused = sum(state["rejected"].values())
    return {"lost": lost, "refused": refused, "received": state["received"], "took": took}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=152)
    parser.add_argument("--rpm", type=int, default=30)
    parser.add_argument("--owners", type=int, default=4)
    parser.add_argument("--way", choices=WAYS, help="only this one, as JSON")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    logging.disable(logging.CRITICAL)
    litellm.suppress_debug_info = True
    if given.way:
        print(json.dumps(run(given.way, given.owners, given.rpm, given.requests)))
        return
    burst = given.owners * given.rpm
    fluid = (given.requests - burst) / (burst / 60)
    print(f"litellm: {given.requests} requests, {given.owners} owners of {given.rpm} rpm;")
    print(f"the fluid limit is {fluid:.2f} s\n")
    print(f"{'':24}{'lost':>14}{'refused':>16}{'time':>10}{'over the limit':>16}")
    for way in WAYS:
        command = [sys.executable, *sys.argv, "--way", way]
        told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        over = f"{told['took'] / fluid - 1:+.1%}" if not told["lost"] else "-"
        share = f"{told['refused']} ({told['refused'] / max(1, told['received']):.1%})"
        part = f"{told['lost']} ({told['lost'] / given.requests:.0%})"
        print(f"{way:24}{part:>14}{share:>16}{told['took']:>8.2f} s{over:>16}")


if __name__ == "__main__":
    main()
