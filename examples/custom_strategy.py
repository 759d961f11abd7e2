"""A strategy of your own: prefer the organizations that you name, in that order.

It sends nothing, so it needs no key:  python examples/custom_strategy.py
"""

from collections.abc import Iterator, Sequence

from quotafleet import Demand, KeyPool, Limits, Organization
from quotafleet.protocols import C


class Preferred:
    """Rank the named owners first, in the order given."""

    def __init__(self, *owners: str) -> None:
        self._owners = owners

    def rank(self, candidates: Sequence[C], demand: Demand, now: float) -> Iterator[C]:
        """Yield all candidates; the pool takes the first that has room."""
        last = len(self._owners)

        def place(candidate: C) -> int:
            named = candidate.owner in self._owners
            return self._owners.index(candidate.owner) if named else last

        yield from sorted(candidates, key=place)


def main() -> None:
    """Grant four calls: the preferred organization takes what fits, the other the rest."""
    prepaid = Organization(name="prepaid", keys=("sk-prepaid-0123456789ab",), limits=Limits(rpm=2))
    metered = Organization(name="metered", keys=("sk-metered-0123456789ab",), limits=Limits(rpm=60))
    with KeyPool([metered, prepaid], strategy=Preferred("prepaid", "metered")) as pool:
        for _ in range(4):
            with pool.lease(Demand(model="gpt-4o-mini")) as lease:
                print(lease.key_id)


if __name__ == "__main__":
    main()
