"""What quotafleet costs in instructions, which no other load on the machine changes.

    python benchmarks/instructions.py

Counts what `benchmarks/overhead.py` and `langchain_overhead.py` time, in processes that run under
valgrind's callgrind (which must be on PATH; a few minutes). Instructions say nothing of caches:
code that is run once a call is colder, and slower by the instruction, than a benchmark's loop.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from shutil import which
from tempfile import TemporaryDirectory
from typing import Final

import langchain_openai
import openai
from overhead import DEMAND, USAGE, chat, client_over, fleet_of_one, pool_of
from pydantic import SecretStr

import langchain_quotafleet
from quotafleet import KeyPool, Organization
from quotafleet.testing import MockSettings, serve_process

#: Calls that are counted, and as many before them that aren't.
LEASES: Final = 1_000
CALLS: Final = 60


def counted(*arguments: str) -> int:
    """Return the instructions of the counted part of this program, run with `arguments`."""
    with TemporaryDirectory() as folder:
        told = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--instr-atstart=no"),
                f"--callgrind-out-file={folder}/callgrind.out",
                *(sys.executable, __file__, *arguments),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"Collected : (\d+)", told.stderr)
    if found is None:
        raise RuntimeError(f"callgrind told nothing of what it counted:\n{told.stderr}")
    return int(found[1])


def count(call: Callable[[], object], times: int) -> None:
    """Make calls, and let callgrind count the second half of them."""
    gc.freeze()  # a full collection of all modules' objects would fall on one call in thousands
    for switch in ("on", "off"):
        for _ in range(times):
            call()
        control = ["callgrind_control", "-i", switch, str(os.getpid())]
        subprocess.run(control, check=True, stdout=subprocess.DEVNULL)


def child(what: str, *arguments: str) -> None:
    """Be one of the counted processes."""
    if what == "lease":
        pool = pool_of(int(arguments[0]))
        count(lambda: pool.lease(DEMAND).settle(USAGE), LEASES)
    elif what in ("stock", "drop-in"):
        model = chat_model(what, *arguments)
        with asyncio.Runner() as runner:
            count(lambda: runner.run(model.ainvoke("Hello there")), CALLS)
    else:
        base_url, secret = arguments
        if what == "bare":
            client = openai.OpenAI(api_key=secret, base_url=base_url, max_retries=0)
        else:
            client = client_over(secret, base_url)
        count(lambda: chat(client), CALLS)


def chat_model(what: str, base_url: str, secret: str) -> langchain_openai.ChatOpenAI:
    name = "gpt-4o-mini"
    if what == "stock":
        key = SecretStr(secret)
        return langchain_openai.ChatOpenAI(model=name, api_key=key, base_url=base_url)
    acme = Organization(name="acme", keys=(secret,), base_url=base_url)
    return langchain_quotafleet.ChatOpenAI(model=name, pool=KeyPool([acme]))


def main() -> None:
    """Count, and print."""
    if which("valgrind") is None:
        sys.exit("valgrind is not on PATH: install it with your system's package manager")
    print("organizations   instructions of a lease + settle")
    for organizations in (10, 10_000):
        print(f"{organizations:>13,}   {counted('lease', str(organizations)) / LEASES:>12,.0f}")
    for what, ways in (("an SDK call", ("bare", "pooled")), ("`ainvoke`", ("stock", "drop-in"))):
        print(f"\nInstructions of {what}")
        print("cookies      without   over a pool   ratio")
        for cookies in (True, False):
            fleet = fleet_of_one()
            with serve_process(fleet, MockSettings(edge_cookies=cookies)) as server:
                place = (server.base_url, fleet.secrets()[0])
                bare, pooled = (counted(way, *place) / CALLS for way in ways)
            print(
                f"{'yes' if cookies else 'no':>7}   {bare:>10,.0f}    {pooled:>10,.0f}"
                f"   {pooled / bare:>5.3f}"
            )


if __name__ == "__main__":
    if sys.argv[1:]:
        child(*sys.argv[1:])
    else:
        main()
