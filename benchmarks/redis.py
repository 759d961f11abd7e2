"""What a shared admission costs: commands and round trips, and how fast one connection is.

    python benchmarks/redis.py [--calls 3000] [--owners 5] [--rounds 5]

It starts a server of its own (redis-server or valkey-server on PATH). The ratio is of admissions a
second to EVALSHAs of an empty script a second, both one after the other over one connection of the
same client to the same server. An admission is a claim and a settlement; where each claim asks the
server, the settlement rides with the next one. With shares most claims don't ask. Rounds of all
take turns, and the best of each counts, so other load on the machine tells little.
The saturation part runs several processes over a quota that is scarce: there, shares are asked for
and hardly lent, and the slots' part counts how often processes ask for those.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])  # not this folder: this file is named redis

from tests.stores.redis_kit import TestServer, serving

from keyfleet import ApiKey, Demand, Limits, Secret, Usage
from keyfleet._core.claims import Claim, Reservation, Settlement
from keyfleet.stores.redis import RedisStore

FLEET = Path(__file__).parents[1] / "tests" / "stores" / "fleet.py"


COSTS, USED = Demand(input_tokens=900).costs, Usage(input_tokens=700).costs
LIMITS = Limits(rpm=60_000_000, tpm=600_000_000)
#: Admissions from shares are so much faster that more of them make a round.
MORE = 20


class Admissions:
    """One process that claims and settles, one call after the other."""

    def __init__(self, server: TestServer, owners: int, *, share_for: float = 0.0) -> None:
        self.store = RedisStore(
            server.url,
            namespace=f"{owners} {share_for}",
            share_for=share_for,
            limits_for=lambda *_: LIMITS,
        )
        self.accounts = []
        for number in range(owners):
            secret = Secret(f"sk-o{number}-0123456789abcdef")
            key = ApiKey(key_id=f"o{number}#1", secret=secret, organization=f"o{number}")
            self.accounts.append(self.store.account(key, "m", 0.0))

    def run(self, calls: int) -> float:
        """Return the seconds that an admission takes."""
        store, accounts, now = self.store, self.accounts, time.monotonic
        began = time.perf_counter()
        for _ in range(calls):
            answer = store.reserve(Claim(accounts, COSTS), now())
            assert isinstance(answer, Reservation)
            store.settle(Settlement(answer, USED), now())
        return (time.perf_counter() - began) / calls

    def bare(self, calls: int) -> float:
        """Return the seconds that an empty script takes, through the same client."""
        client = self.store._server.client()
        empty = client.script_load("return 1")
        began = time.perf_counter()
        for _ in range(calls):
            client.execute_command("EVALSHA", empty, 0)
        return (time.perf_counter() - began) / calls


def admissions(server: TestServer, calls: int, owners: int, rounds: int) -> dict[str, Any]:
    """Measure one connection: bare scripts, claims that ask, claims from shares, in turn."""
    asking = Admissions(server, owners)
    sharing = Admissions(server, owners, share_for=0.5)
    asking.bare(calls), asking.run(calls), sharing.run(calls)
    steps = asking.store.steps, sharing.store.steps
    took = [
        (asking.bare(calls), asking.run(calls), sharing.run(MORE * calls)) for _ in range(rounds)
    ]
    asked, shared = asking.store.steps - steps[0], sharing.store.steps - steps[1]
    for one in (asking, sharing):
        one.store.close()
    bare, ask, share = (min(column) for column in zip(*took, strict=True))
    return {
        "owners": owners,
        "bare_us": round(bare * 1e6, 1),
        "asking": {
            "admission_us": round(ask * 1e6, 1),
            "ratio": round(bare / ask, 2),
            "round_trips_per_admission": round(asked / calls / rounds, 3),
        },
        "shares": {
            "admission_us": round(share * 1e6, 1),
            "ratio": round(bare / share, 1),
            "times_asking": round(ask / share, 1),
            "round_trips_per_admission": round(shared / calls / MORE / rounds, 5),
        },
    }


def saturation(server: TestServer, **order: Any) -> dict[str, Any]:
    """Measure what processes need for each admission while the quota is scarce."""
    order["namespace"] = json.dumps(order)
    command = [sys.executable, str(FLEET), server.url, json.dumps(order)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(order["processes"])
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    reports = [json.loads(process.stdout.readline()) for process in processes]
    for process in processes:
        process.wait()
    counts = [len(report["granted"]) for report in reports]
    total = sum(counts)
    return {
        "limits": order["limits"],
        "share_for": order.get("share_for", 0),
        "holds": order.get("holds", 0.01),
        "admitted": counts,
        "round_trips_per_admission": round(sum(r["steps"] for r in reports) / total, 3),
        "jain": round(total**2 / (len(counts) * sum(c * c for c in counts)), 4),
    }


def main() -> None:
    """Measure, and print a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--owners", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with serving() as server:
        for owners in (1, options.owners):
            print(json.dumps(admissions(server, options.calls, owners, options.rounds)))
        common = {"processes": options.processes, "seconds": options.seconds, "tasks": 10}
        for more in (
            {"limits": {"rpm": 600, "rps": 30}},
            {"limits": {"tpm": 60_000}, "tokens": 100, "used": 60},
            {"limits": {"tpm": 60_000}, "tokens": 100, "used": 60, "share_for": 0.5},
            {"limits": {"concurrent": 6}, "holds": 0.05},
            {"limits": {"concurrent": 6}, "holds": 0.5},
        ):
            print(json.dumps(saturation(server, **common, **more)))


if __name__ == "__main__":
    main()
