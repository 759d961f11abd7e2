"""A batch larger than the quota: by two of LiteLLM's own strategies, and by quotafleet.

    python benchmarks/litellm_saturation.py [--requests 152] [--rpm 30] [--owners 4]
        [--store redis://...] [--way ...]

quotafleet comes three times: under LiteLLM's Router, as the plain function `acompletion`, and as
`completion` in threads.

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
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
sys.path[0] = str(Path(__file__).parents[1])  # not this folder: one of its files is named redis

import httpx
import litellm

from litellm_quotafleet import QuotafleetRouting, acompletion, completion
from quotafleet import KeyPool, Limits, Organization
from quotafleet.testing import MockFleet, serve_process

MODEL = "gpt-4o-mini"
MESSAGES = [{"role": "user", "content": "What is a fleet?"}]
SIMPLE, BY_USAGE = "simple-shuffle", "usage-based-routing-v2"
ROUTER, PLAIN, THREADS = "quotafleet", "quotafleet-acompletion", "quotafleet-completion"
WAYS = (SIMPLE, BY_USAGE, ROUTER, PLAIN, THREADS)
#: Threads that share the batch of synchronous calls: more than LiteLLM can keep busy at once.
WORKERS = 64

#: Sends so many calls at once; returns how many failed.
Batch = Callable[[int], Awaitable[int]]


def deployments(keys: Sequence[str], base_url: str, rpm: int) -> list[Any]:
    return [
        {
            "model_name": "fast",
            "litellm_params": {
                "model": f"openai/{MODEL}",
                "api_key": secret,
                "api_base": base_url,
                "rpm": rpm,
            },
            "model_info": {"id": secret[-6:], "quotafleet_provider": "openai"},
        }
        for secret in keys
    ]


def by_router(way: str, models: list[Any], store: str) -> Batch:
    strategy = SIMPLE if way == ROUTER else way
    router: Any = litellm.Router(model_list=models, routing_strategy=strategy)
    if way == ROUTER:
        QuotafleetRouting.install(router, store=store)
    return gathered(lambda: router.acompletion("fast", MESSAGES))


def by_functions(way: str, pool: KeyPool) -> Batch:
    if way == PLAIN:
        return gathered(lambda: acompletion(MODEL, MESSAGES, pool=pool))

    def one(_: int) -> bool:
        try:
            completion(MODEL, MESSAGES, pool=pool)
        except Exception:  # whatever it is, the caller has no answer
            return False
        return True

    def share(count: int) -> int:
        with ThreadPoolExecutor(WORKERS) as threads:
            return list(threads.map(one, range(count))).count(False)

    return lambda count: asyncio.to_thread(share, count)


def gathered(call: Callable[[], Awaitable[Any]]) -> Batch:
    async def batch(count: int) -> int:
        answers = await asyncio.gather(*(call() for _ in range(count)), return_exceptions=True)
        return sum(isinstance(one, BaseException) for one in answers)

    return batch


async def timed(given: argparse.Namespace, keys: Sequence[str], base_url: str) -> dict[str, float]:
    """Run a batch once LiteLLM has imported what it imports at the first calls."""
    way, rpm = given.way, given.rpm
    models = deployments(keys, base_url, rpm)
    if way in (PLAIN, THREADS):
        limits = Limits(rpm=rpm)
        owners = [
            Organization(name=f"o{n}", keys=(key,), base_url=base_url, limits=limits)
            for n, key in enumerate(keys)
        ]
        await by_functions(way, KeyPool(owners[:1]))(3)
        batch = by_functions(way, KeyPool(owners, store=given.store))
    else:
        await by_router(SIMPLE, models[:1], given.store)(3)
        batch = by_router(way, models, given.store)
    await asyncio.sleep(2)  # its loggers come after the answers
    control = base_url.removesuffix("/v1")
    async with httpx.AsyncClient(base_url=control) as client:
        (await client.post("/_mock/reset")).raise_for_status()
        began = time.monotonic()
        lost = await batch(given.requests)
        took = time.monotonic() - began
        state = (await client.get("/_mock/state")).json()
    refused = sum(state["rejected"].values())
    return {"lost": lost, "refused": refused, "received": state["received"], "took": took}


def run(given: argparse.Namespace) -> dict[str, float]:
    fleet = MockFleet.simple({f"o{number}": {"rpm": given.rpm} for number in range(given.owners)})
    with serve_process(fleet) as server:
        return asyncio.run(timed(given, fleet.secrets(), server.base_url))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=152)
    parser.add_argument("--rpm", type=int, default=30)
    parser.add_argument("--owners", type=int, default=4)
    parser.add_argument(
        "--store", default="memory", help="quotafleet's: redis://... for a shared one"
    )
    parser.add_argument("--way", choices=WAYS, help="only this one, as JSON")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    logging.disable(logging.CRITICAL)
    litellm.suppress_debug_info = True
    if given.way:
        print(json.dumps(run(given)))
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
