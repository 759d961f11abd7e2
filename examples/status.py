"""What a pool tells of itself: levels, health, queues, and events as they happen.

It sends nothing, so it needs no key:  python examples/status.py
"""

import threading

from quotafleet import (
    Demand,
    KeyPool,
    Limits,
    ModelLimits,
    Organization,
    Project,
    Usage,
    WaitTimeout,
)

DEMAND = Demand(model="gpt-4o-mini", input_tokens=300, output_tokens=100)


def make_pool() -> KeyPool:
    """Return a pool of two organisations that prints what happens."""
    acme = Organization(
        name="acme",
        keys=("sk-acme-0123456789abcdef", "sk-acme-fedcba9876543210"),
        limits=Limits(rpm=3, tpm=200_000),
        models={"gpt-4o": ModelLimits(limits=Limits(rpm=1))},
        projects=(
            Project(
                name="research",
                keys=("sk-research-0123456789abcdef",),
                limits=Limits(tpm=1_000),
            ),
        ),
    )
    birch = Organization(name="birch", keys=("sk-birch-0123456789abcdef",), limits=Limits(rpm=1))
    return KeyPool([acme, birch], listeners=[lambda event: print("  event:", event)])


def show(pool: KeyPool) -> None:
    """Print a pool's status."""
    status = pool.status()
    print(f"{status.in_flight} in flight, {status.waiting} waiting")
    for scope in status.scopes:
        levels = (f"{one.name} {one.available:.1f} of {one.limit:g}" for one in scope.levels)
        print(f"  {scope.owner:14} {scope.family:12} {', '.join(levels)}")
    for key in status.keys:
        print(f"  {key.key_id:18} {key.masked:12} {key.health}, {key.granted} granted")
    for queue in status.queues:
        print(f"  {queue.waiting} wait for {queue.model}: {queue.why}")


def main() -> None:
    """Use up what there is, let one call wait in vain, and show the pool in between."""
    with make_pool() as pool:
        print("a call could be granted in", pool.eta(DEMAND), "seconds")
        leases = [pool.lease(DEMAND) for _ in range(4)]
        show(pool)
        print(f"the next one in {pool.eta(DEMAND):.1f} seconds")
        try:
            pool.lease(DEMAND, timeout=2)
        except WaitTimeout as error:
            print("told at once:", error)
        waiter = threading.Thread(target=lambda: leases.append(pool.lease(DEMAND, timeout=90)))
        waiter.start()
        leases.pop().release()  # it was not sent: all comes back, and the waiter gets it
        waiter.join()
        for lease in leases:
            lease.settle(Usage(input_tokens=290, output_tokens=40))
        show(pool)


if __name__ == "__main__":
    main()
