"""What quotafleet costs: a lease and its settlement, and an SDK call over a pool.

    python benchmarks/overhead.py

Both are printed beside something measured in the same run, since machines differ and are noisy:
leases beside ten calls of an empty Python function (CPU time, the best of several rounds), SDK
calls beside the same calls without a pool (CPU time; see `turns`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import openai
from turns import compare

from quotafleet import Demand, KeyPool, Limits, Organization, Usage
from quotafleet.openai import OpenAI
from quotafleet.testing import MockFleet, MockSettings, serve_process

DEMAND = Demand(model="gpt-4o-mini", input_tokens=120, output_tokens=80)
USAGE = Usage(input_tokens=118, output_tokens=64)
#: Enough for the benchmark never to wait.
PLENTY = 1_000_000_000


def pool_of(organizations: int) -> KeyPool:
    return KeyPool(
        Organization(
            name=f"org-{number}",
            keys=(f"sk-benchmark-{number:08d}",),
            limits=Limits(rpm=PLENTY, tpm=PLENTY),
        )
        for number in range(organizations)
    )


def best(rounds: int, times: int, call: Callable[[], object]) -> float:
    """Return the CPU seconds of one call, in the best of several rounds."""
    call()
    least = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            call()
        least = min(least, (time.process_time() - began) / times)
    return least


def nothing() -> None:
    pass


def ten_empty_calls() -> None:
    for _ in range(10):
        nothing()


def leases() -> None:
    unit = best(20, 20_000, ten_empty_calls)
    print(f"ten calls of an empty function: {unit * 1e6:.2f} us\n")
    print("organizations   lease + settle   in ten empty calls")
    for count in (1, 10, 100, 1_000, 10_000):
        pool = pool_of(count)

        def lease(pool: KeyPool = pool) -> None:
            pool.lease(DEMAND).settle(USAGE)

        seconds = best(7, 3_000, lease)
        print(f"{count:>13,}   {seconds * 1e6:>11.1f} us   {seconds / unit:>10.1f}")


def fleet_of_one() -> MockFleet:
    return MockFleet.simple({"acme": {"rpm": PLENTY, "tpm": PLENTY}})


def client_over(secret: str, base_url: str) -> OpenAI:
    limits = Limits(rpm=PLENTY, tpm=PLENTY)
    acme = Organization(name="acme", keys=(secret,), base_url=base_url, limits=limits)
    return OpenAI(pool=KeyPool([acme]))


def chat(client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello there"}]
    )


def chats(client: openai.OpenAI) -> Callable[[int], None]:
    def some(times: int) -> None:
        for _ in range(times):
            chat(client)

    return some


def sdk_calls(*, cookies: bool) -> None:
    fleet = fleet_of_one()
    with serve_process(fleet, MockSettings(edge_cookies=cookies)) as server:
        secret, base_url = fleet.secrets()[0], server.base_url
        bare = openai.OpenAI(api_key=secret, base_url=base_url, max_retries=0)
        pooled = client_over(secret, base_url)
        told = compare(chats(pooled), chats(bare), rounds=400, times=3)
    print(
        f"{'yes' if cookies else 'no':>7}   {told.theirs * 1e6:>9,.0f} us"
        f"   {told.ours * 1e6:>11,.0f} us   {told.ratio:>5.3f}   {told.low:.3f} to {told.high:.3f}"
    )


def main() -> None:
    leases()
    print("\nCPU of an SDK call; api.openai.com's edge sets two cookies, which clients bring back")
    print("cookies       without       over a pool   ratio   half of the rounds")
    for cookies in (True, False):
        sdk_calls(cookies=cookies)


if __name__ == "__main__":
    main()
