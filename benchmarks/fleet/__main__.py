"""Several processes saturate some owners through the real SDK, and are hurt meanwhile.

    python -m benchmarks.fleet [--seconds 60] [--processes 8] [--kill 3]
        [--away 10 --by stop|restart|empty] [--on-failure wait|fail|degrade] [--lenient]
        [--share-for 0.5] [--scale 1]

A redis-server (or valkey-server) of its own, the mock provider in a process of its own, each member
of the fleet in one. Printed: what was admitted as a share of the fluid limit (all buckets full at
first, and refilling), by how much the fullest window of any owner went beyond its limit by the
provider's own log, refusals, lost calls, shares of the processes, commands sent to the store for
each admitted attempt. ``--lenient``: the provider allows twice as much, so that nothing but the
fleet itself keeps the limits.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.fleet.conductor import run
from benchmarks.fleet.order import OWNERS, Order


def main() -> None:
    """Run as the command line says, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=20, help="calls under way in each process")
    parser.add_argument("--kill", type=int, default=0, help="so many processes midway")
    parser.add_argument("--away", type=float, default=0.0, help="seconds without the store")
    parser.add_argument("--by", choices=("stop", "restart", "empty"), default="stop")
    parser.add_argument("--on-failure", default="wait")
    parser.add_argument("--share-for", type=float, default=0.0, help="seconds; 0: calls ask")
    parser.add_argument("--lifetime", type=float, default=10.0, help="seconds of a reservation")
    parser.add_argument("--lenient", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0, help="of the limits")
    found = vars(parser.parse_args())
    scale = found.pop("scale")
    order = Order(rpm={name: round(rpm * scale) for name, rpm in OWNERS.items()}, **found)
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for line in run(order).lines():
        print(line)


if __name__ == "__main__":
    main()
