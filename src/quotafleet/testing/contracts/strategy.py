"""The contract of strategies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Final, TypeVar, overload

from hypothesis import given, settings
from hypothesis import strategies as st

from ...limits import Costs
from ...protocols import Strategy
from ...usage import Demand

T = TypeVar("T")


class FakeOwner:
    """A candidate whose numbers are given, and which counts how often it is looked at."""

    def __init__(
        self, owner: str, *, in_flight: int = 0, granted: int = 0, headroom: float = 1.0
    ) -> None:
        self._owner = owner
        self._in_flight = in_flight
        self._granted = granted
        self._headroom = headroom
        self.looks = 0

    def __repr__(self) -> str:
        return f"<{self._owner}: {self._in_flight} in flight, {self._granted} granted>"

    @property
    def owner(self) -> str:
        """Its name."""
        return self._owner

    @property
    def in_flight(self) -> int:
        """Calls that it serves now."""
        self.looks += 1
        return self._in_flight

    @property
    def granted(self) -> int:
        """Calls that it was given."""
        self.looks += 1
        return self._granted

    def headroom(self, costs: Costs, now: float) -> float:
        """Return the share left: each call that it was given takes a thousandth of it."""
        self.looks += 1
        return self._headroom - self._granted / 1000

    def grant(self) -> None:
        """Give it a call that ends at once."""
        self._granted += 1


class Watched(Sequence[T]):
    """A sequence that counts how many of its items were taken out, and can't be changed."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = tuple(items)
        self.taken = 0

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        found = self._items[index]
        self.taken += len(self._items[index]) if isinstance(index, slice) else 1
        return found


_FLEET: Final = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 1000), st.floats(-1, 1)), min_size=1, max_size=40
)
_DEMAND: Final = Demand(model="m", input_tokens=80, output_tokens=20)


class StrategyContract:
    """What a pool relies on in a `Strategy`. Subclass it and override `make`."""

    #: How many candidates may be looked at for the first one: a bound that their number
    #: doesn't move, since 10,000 owners must not cost a thousand times as much as ten.
    most_looks = 64
    #: Whether equal owners are to be served alike; False for one that prefers some on purpose.
    is_fair = True
    #: How many examples hypothesis tries.
    examples = 100

    def make(self, random: Random) -> Strategy:
        """Return a new strategy; one that draws by chance draws from `random`."""
        raise NotImplementedError("override make() to return your strategy")

    def test_yields_each_candidate_exactly_once(self) -> None:
        """Whatever their numbers, and as many as there are, also when that changes."""

        @settings(max_examples=self.examples, deadline=None)
        @given(fleets=st.lists(_FLEET, min_size=1, max_size=5), seed=st.integers(0, 2**32))
        def check(fleets: list[list[tuple[int, int, float]]], seed: int) -> None:
            strategy = self.make(Random(seed))
            for fleet in fleets:
                owners = [
                    FakeOwner(f"o{number}", in_flight=busy, granted=granted, headroom=share)
                    for number, (busy, granted, share) in enumerate(fleet)
                ]
                ranking = list(strategy.rank(Watched(owners), _DEMAND, 0.0))
                assert len(ranking) == len(owners), "a candidate is missing, or comes twice"
                assert {id(owner) for owner in ranking} == {id(owner) for owner in owners}

        check()

    def test_ranks_one_candidate_and_two(self) -> None:
        """The smallest fleets are fleets."""
        strategy = self.make(Random(0))
        for count in (1, 2, 1, 2):
            owners = [FakeOwner(f"o{number}") for number in range(count)]
            ranking = list(strategy.rank(Watched(owners), _DEMAND, 0.0))
            assert sorted(o.owner for o in ranking) == [o.owner for o in owners]

    def test_first_of_many_costs_no_more_than_of_few(self) -> None:
        """Ranking is lazy: the first of 10,000 looks at a bounded number of them."""
        owners = [FakeOwner(f"o{number}") for number in range(10_000)]
        watched = Watched(owners)
        strategy = self.make(Random(0))
        for call in range(1, 11):
            next(iter(strategy.rank(watched, _DEMAND, 0.0)))
            looked = sum(1 for owner in owners if owner.looks)
            assert looked <= call * self.most_looks, f"{looked} candidates in {call} calls"
            assert watched.taken <= call * self.most_looks * 2, f"{watched.taken} items taken"

    def test_changes_nothing_that_it_is_given(self) -> None:
        """A list stays in its order; ranking grants nothing."""
        owners = [FakeOwner(f"o{n}", in_flight=n % 3, headroom=n / 20) for n in range(20)]
        given_, facts = list(owners), [repr(owner) for owner in owners]
        for _ in range(10):
            list(self.make(Random(0)).rank(given_, _DEMAND, 0.0))
        assert [id(owner) for owner in given_] == [id(owner) for owner in owners]
        assert [repr(owner) for owner in owners] == facts

    def test_serves_equal_owners_alike(self) -> None:
        """Over many calls no owner gets less than a third of its share, or more than thrice."""
        if not self.is_fair:
            return
        owners = [FakeOwner(f"o{number}") for number in range(20)]
        strategy = self.make(Random(0))
        for call in range(2000):
            next(iter(strategy.rank(owners, _DEMAND, call / 10))).grant()
        got = sorted(owner.granted for owner in owners)
        assert got[0] >= 100 / 3, f"an owner is starved: {got}"
        assert got[-1] <= 300, f"an owner is favoured: {got}"

    def test_does_the_same_again_from_the_same_seed(self) -> None:
        """What is drawn by chance comes from the given generator, and from nothing else."""

        def run(seed: int) -> list[str]:
            owners = [FakeOwner(f"o{n}", in_flight=n % 4, headroom=n / 30) for n in range(30)]
            strategy = self.make(Random(seed))
            rankings = [list(strategy.rank(owners, _DEMAND, call / 10)) for call in range(20)]
            return [owner.owner for ranking in rankings for owner in ranking]

        assert run(7) == run(7)

    def test_a_ranking_may_be_left_unfinished(self) -> None:
        """Mostly the first owner fits; what was not asked for must not come back later."""
        owners = [FakeOwner(f"o{number}") for number in range(9)]
        strategy = self.make(Random(0))
        for _ in range(25):
            next(iter(strategy.rank(owners, _DEMAND, 0.0)))
            assert len({id(owner) for owner in strategy.rank(owners, _DEMAND, 0.0)}) == 9
