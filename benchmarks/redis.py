"""What a shared admission costs: commands and round trips, and how fast one connection is.

    python benchmarks/redis.py [--calls 3000] [--owners 5] [--rounds 5]

It starts a server of its own (redis-server or valkey-server on PATH). The ratio compares one
admission, which is a claim together with the settlement of the one before, with an EVALSHA of an
empty script through the same client on the same server: what is left is the ledger's own work.
Rounds of both take turns, and the best of each counts, so other load on the machine tells little.
The saturation part runs several processes over a quota that is scarce.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])  # not this folder: this file is named redis

from tests.stores.redis_kit import TestServer, serving

from keyfleet import ApiKey, Demand, Limits, Secret, Usage
from keyfleet._core.ledger import Claim, Reservation, Settlement
from keyfleet.stores.redis import RedisStore

FLEET = Path(__file__).parents[1] / "tests" / "stores" / "fleet.py"


def admissions(server: TestServer, calls: int, owners: int, rounds: int) -> dict[str, Any]:
    """Measure one connection: bare scripts and admissions, in turn."""
    limits = Limits(rpm=60_000_000, tpm=600_000_000)
    store = RedisStore(server.url, namespace="one", limits_for=lambda *_: limits)
    accounts = []
    for number in range(owners):
        secret = Secret(f"sk-o{number}-0123456789abcdef")
        key = ApiKey(key_id=f"o{number}#1", secret=secret, organization=f"o{number}")
        accounts.append(store.account(key, "m", 0.0))
    costs, used = Demand(input_tokens=900).costs, Usage(input_tokens=700).costs
    client = store._server.client()
    empty = client.script_load("return 1")

    def bare() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            client.execute_command("EVALSHA", empty, 0)
        return time.perf_counter() - began

    def ours() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            answer = store.reserve(Claim(accounts, costs), time.monotonic())
            assert isinstance(answer, Reservation)
            store.settle(Settlement(answer, used), time.monotonic())
        return time.perf_counter() - began

    bare(), ours()
    before = store.steps
    pairs = [(bare(), ours()) for _ in range(rounds)]
    stats = server.client().info("commandstats")
    made = {
        "calls": calls,
        "owners": owners,
        "bare_us": round(min(b for b, _ in pairs) / calls * 1e6, 1),
        "admission_us": round(min(o for _, o in pairs) / calls * 1e6, 1),
        "ratio": round(statistics.median(b / o for b, o in pairs), 3),
        "round_trips_per_admission": round((store.steps - before) / calls / rounds, 3),
        "server_us_per_script": stats["cmdstat_evalsha"]["usec_per_call"],
    }
    store.close()
    return made


def saturation(server: TestServer, **order: Any) -> dict[str, Any]:
    """Measure what processes need for each admission while the quota is scarce."""
    order["namespace"] = json.dumps(order["limits"])
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
            {"limits": {"concurrent": 6}, "holds": 0.05},
        ):
            print(json.dumps(saturation(server, **common, **more)))


if __name__ == "__main__":
    main()
