"""The strategies that come with quotafleet: the contract of all, and each one's own promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest

from quotafleet import ConfigError, Demand
from quotafleet.protocols import C, Strategy
from quotafleet.strategies import STRATEGIES, HeadroomWeighted, LeastUsed, RoundRobin, strategy
from quotafleet.testing.contracts import FakeOwner, StrategyContract

ONE = Demand(model="m", input_tokens=10)


def best(strategy: Strategy, owners: Sequence[FakeOwner]) -> str:
    return next(iter(strategy.rank(owners, ONE, 0.0))).owner


class TestRoundRobinContract(StrategyContract):
    def make(self, random: Random) -> Strategy:
        return RoundRobin()


class TestLeastUsedContract(StrategyContract):
    def make(self, random: Random) -> Strategy:
        return LeastUsed(random)


class TestHeadroomWeightedContract(StrategyContract):
    def make(self, random: Random) -> Strategy:
        return HeadroomWeighted(random)


class TestRoundRobin:
    def test_owners_take_turns(self) -> None:
        owners = [FakeOwner(name) for name in "abc"]
        turns = RoundRobin()
        assert [best(turns, owners) for _ in range(7)] == list("abcabca")

    def test_who_does_not_fit_is_followed_by_the_next_in_turn(self) -> None:
        owners = [FakeOwner(name) for name in "abcd"]
        turns = RoundRobin()
        rankings = ["".join(o.owner for o in turns.rank(owners, ONE, 0.0)) for _ in range(3)]
        assert rankings == ["abcd", "bcda", "cdab"]

    def test_the_turn_survives_a_fleet_that_shrinks(self) -> None:
        owners = [FakeOwner(name) for name in "abcd"]
        turns = RoundRobin()
        for _ in range(4):
            best(turns, owners)
        assert best(turns, owners[:2]) in "ab"
        assert {best(turns, owners[:2]) for _ in range(2)} == {"a", "b"}


class TestLeastUsed:
    def test_prefers_the_fewest_in_flight(self) -> None:
        owners = [FakeOwner("busy", in_flight=3, granted=3), FakeOwner("idle", granted=9)]
        assert {best(LeastUsed(Random(seed)), owners) for seed in range(20)} == {"idle"}

    def test_the_first_is_no_busier_than_the_second(self) -> None:
        owners = [FakeOwner(f"o{n}", in_flight=n) for n in range(9)]
        for seed in range(50):
            one, other, *_ = LeastUsed(Random(seed)).rank(owners, ONE, 0.0)
            assert one.in_flight < other.in_flight

    def test_the_fewest_so_far_break_a_tie(self) -> None:
        owners = [FakeOwner("busy", granted=10_000), FakeOwner("fresh", granted=9_999)]
        assert {best(LeastUsed(Random(seed)), owners) for seed in range(20)} == {"fresh"}

    def test_calls_so_far_never_outweigh_one_in_flight(self) -> None:
        owners = [FakeOwner("idle", granted=1_000_000), FakeOwner("fresh", in_flight=1)]
        assert {best(LeastUsed(Random(seed)), owners) for seed in range(20)} == {"idle"}

    def test_avoids_the_busiest_of_many(self) -> None:
        owners = [FakeOwner(f"o{n}", in_flight=n) for n in range(100)]
        ranks = LeastUsed(Random(1))
        picked = [int(best(ranks, owners)[1:]) for _ in range(1000)]
        assert sum(picked) / len(picked) < 36  # blind chance gives 49.5, the better of two 33


class TestHeadroomWeighted:
    def test_prefers_the_largest_share_left(self) -> None:
        owners = [FakeOwner("in debt", headroom=-0.5), FakeOwner("low", headroom=0.1)]
        assert {best(HeadroomWeighted(Random(seed)), owners) for seed in range(20)} == {"low"}

    def test_the_first_has_no_less_than_the_second(self) -> None:
        owners = [FakeOwner(f"o{n}", headroom=n / 10 - 0.2) for n in range(9)]
        for seed in range(50):
            one, other, *_ = HeadroomWeighted(Random(seed)).rank(owners, ONE, 0.0)
            assert one.headroom(ONE.costs, 0.0) > other.headroom(ONE.costs, 0.0)

    def test_asks_with_the_costs_of_the_call(self) -> None:
        asked = []

        class Owner(FakeOwner):
            def headroom(self, costs: object, now: float) -> float:
                asked.append((costs, now))
                return 1.0

        list(HeadroomWeighted(Random(0)).rank([Owner("a"), Owner("b")], ONE, 7.0))
        assert asked == [(ONE.costs, 7.0)] * 2

    def test_drains_unequal_owners_in_proportion(self) -> None:
        class Owner(FakeOwner):
            def __init__(self, owner: str, size: int) -> None:
                super().__init__(owner)
                self.size = size

            def headroom(self, costs: object, now: float) -> float:
                return 1.0 - self.granted / self.size

        owners = [Owner("small", 100), Owner("large", 900)]
        ranks = HeadroomWeighted(Random(0))
        for _ in range(500):
            next(iter(ranks.rank(owners, ONE, 0.0))).grant()
        assert [owner.granted for owner in owners] == pytest.approx([50, 450], abs=2)

    def test_looks_at_every_part_of_a_large_fleet(self) -> None:
        owners = [FakeOwner(f"o{n}") for n in range(100)]
        ranks = HeadroomWeighted(Random(0))
        for _ in range(500):
            best(ranks, owners)
        assert all(owner.looks for owner in owners)


class OwnStrategy:
    """What a user writes: the last owner first."""

    def rank(self, candidates: Sequence[C], demand: Demand, now: float) -> Iterator[C]:
        yield from reversed(candidates)


class TestOwnStrategyContract(StrategyContract):
    is_fair = False

    def make(self, random: Random) -> Strategy:
        return OwnStrategy()


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which modules and installed packages are found."""
    (tmp_path / "their_strategies.py").write_text(
        "class Mine:\n"
        "    def rank(self, candidates, demand, now):\n"
        "        yield from candidates\n"
        "class NoRank:\n"
        "    pass\n"
        "class Needs:\n"
        "    def __init__(self, argument): pass\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[quotafleet.strategies]\nmine = their_strategies:Mine\nbroken = their_strategies:Missing\n"
        "round-robin = their_strategies:NoRank\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


class TestByName:
    @pytest.mark.parametrize("name", STRATEGIES)
    def test_each_strategy_of_the_table(self, name: str) -> None:
        owners = [FakeOwner("a"), FakeOwner("b")]
        made = strategy(name, Random(0))
        assert {owner.owner for owner in made.rank(owners, ONE, 0.0)} == {"a", "b"}

    def test_names_of_the_table(self) -> None:
        made = [type(strategy(name, Random(0))) for name in STRATEGIES]
        assert made == [RoundRobin, LeastUsed, HeadroomWeighted]

    def test_each_pool_has_one_of_its_own(self) -> None:
        assert strategy("round-robin", Random(0)) is not strategy("round-robin", Random(0))

    @pytest.mark.usefixtures("on_path")
    def test_a_class_of_a_module(self) -> None:
        made = strategy("their_strategies:Mine", Random(0))
        assert type(made).__name__ == "Mine"

    @pytest.mark.usefixtures("on_path")
    def test_an_entry_point(self) -> None:
        assert type(strategy("mine", Random(0))).__name__ == "Mine"

    @pytest.mark.usefixtures("on_path")
    def test_an_entry_point_takes_no_name_of_ours(self) -> None:
        assert type(strategy("round-robin", Random(0))) is RoundRobin

    def test_an_unknown_name_is_told_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown strategy 'round_robin'") as caught:
            strategy("round_robin", Random(0))
        assert "Did you mean 'round-robin'?" in caught.value.cure
        assert caught.value.place == "strategy"

    def test_a_name_near_to_nothing_is_told_all(self) -> None:
        with pytest.raises(ConfigError) as caught:
            strategy("zzz", Random(0))
        assert "Did you mean" not in caught.value.cure
        assert all(name in caught.value.cure for name in STRATEGIES)

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("no_such_module:Mine", "ModuleNotFoundError"),
            ("their_strategies:NotThere", "AttributeError"),
            ("their_strategies:Needs", "TypeError"),
            ("their_strategies:NoRank", "has no method `rank`"),
            ("broken", "AttributeError"),
        ],
    )
    @pytest.mark.usefixtures("on_path")
    def test_one_that_cannot_be_made_says_why(self, name: str, problem: str) -> None:
        with pytest.raises(ConfigError, match=problem) as caught:
            strategy(name, Random(0))
        assert repr(name) in str(caught.value)
        assert caught.value.place == "strategy"
