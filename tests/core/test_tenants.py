"""Tenants that wait for the same share it equally; one alone has the queue to itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.test_scheduling import ONE, World, tokens

from quotafleet import Demand, Limits, Priority, QueueFull, WaitTimeout
from quotafleet._core.admission.fair_queueing import FairQueue
from quotafleet._core.admission.wait_queue import DEPTH, PATIENCE, Waiter, WaitQueue
from quotafleet._core.fleet.candidates import CandidateSet
from quotafleet._core.quota.reservations import HeadReservation
from quotafleet.simulate import Process

#: Costs of a whole number of requests: with no owner's rate known, a request is a second.
SIZES = st.integers(1, 9)
TENANTS = st.sampled_from(["a", "b", "c", None])


class Queue:
    """A queue whose calls are served by hand."""

    def __init__(self) -> None:
        self.queue = WaitQueue(CandidateSet("m"))
        self.now = 0.0
        self.number = 0

    def waiter(
        self,
        tenant: str | None,
        size: int = 1,
        priority: Priority = "normal",
        gives_up_at: float = float("inf"),
    ) -> Waiter:
        self.number += 1
        demand = Demand(model="m", requests=size)
        return Waiter(self.number, demand, self.queue, priority, self.now, gives_up_at, tenant)

    def add(self, *args: object, **named: object) -> Waiter:
        waiter = self.waiter(*args, **named)  # type: ignore[arg-type] # passed on
        self.queue.add(waiter)
        return waiter

    def serve(self, waiter: Waiter | None = None) -> Waiter:
        """Grant a call that waits, the head by default."""
        served = waiter or self.queue.head
        assert served is not None
        self.queue.remove(served)
        if self.queue.waiting:
            self.queue.charge(served, self.now)
        return served


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "serve", "serve", "leave"]),
        TENANTS,
        SIZES,
        st.sampled_from(sorted(PATIENCE)),
        st.floats(0, 100),
    ),
    min_size=1,
    max_size=150,
)


@given(actions=ACTIONS)
def test_one_tenant_is_served_in_the_order_of_the_queue(
    actions: list[tuple[str, str | None, int, str, float]],
) -> None:
    queue, waiting = Queue(), list[Waiter]()
    for action, _, size, priority, gap in actions:
        queue.now += gap
        if action == "add":
            waiting.append(queue.add("a", size, priority, queue.now + size * 100))
        elif waiting:
            first = min(waiting, key=lambda t: (t.due_at, t.number))
            assert queue.queue.head is first
            waiting.remove(queue.serve() if action == "serve" else first)
            if action == "leave":
                queue.queue.remove(first)
    assert sorted(waiting, key=lambda t: (t.due_at, t.number)) == list(queue.queue)


@given(actions=ACTIONS)
def test_while_two_tenants_wait_what_they_are_served_differs_by_one_call_of_each(
    actions: list[tuple[str, str | None, int, str, float]],
) -> None:
    queue = Queue()
    waiting: dict[str | None, list[Waiter]] = defaultdict(list)
    served: Counter[str | None] = Counter()
    largest: Counter[str | None] = Counter()
    #: Pair of tenants -> lowest and highest difference of what they were served, since both wait.
    apart: dict[tuple[str | None, str | None], tuple[int, int]] = {}
    tenants = ("a", "b", "c", None)
    for action, tenant, size, priority, gap in actions:
        queue.now += gap
        if action == "add":
            waiting[tenant].append(queue.add(tenant, size, priority))
            largest[tenant] = max(largest[tenant], size)
        elif action == "leave" and waiting[tenant]:
            queue.queue.remove(waiting[tenant].pop())
        elif queue.queue.waiting:
            done = queue.serve()
            assert done is min(waiting[done.tenant], key=lambda t: (t.due_at, t.number))
            waiting[done.tenant].remove(done)
            served[done.tenant] += done.costs[0]
        for pair in combinations(tenants, 2):
            one, other = pair
            if not waiting[one] or not waiting[other]:
                apart.pop(pair, None)
                continue
            now = served[one] - served[other]
            low, high = apart.get(pair, (now, now))
            low, high = apart[pair] = (min(low, now), max(high, now))
            assert high - low <= largest[one] + largest[other]
    assert queue.queue.waiting == sum(map(len, waiting.values())) == len(list(queue.queue))


@given(actions=ACTIONS)
def test_who_may_come_first_does_and_who_may_not_does_not(
    actions: list[tuple[str, str | None, int, str, float]],
) -> None:
    queue = Queue()
    for action, tenant, size, priority, gap in actions:
        queue.now += gap
        if action == "add":
            waiter = queue.waiter(tenant, size, priority)
            expected = queue.queue.shares.comes_first(waiter)
            queue.queue.add(waiter)
            assert (queue.queue.head is waiter) is expected
        elif queue.queue.waiting:
            queue.serve()


@given(
    sizes=st.lists(st.tuples(TENANTS, SIZES, st.sampled_from(sorted(PATIENCE))), min_size=2),
    taken=st.integers(0, 20),
)
def test_calls_that_may_pass_are_looked_at_in_the_order_in_which_they_are_served(
    sizes: list[tuple[str | None, int, str]], taken: int
) -> None:
    queue = Queue()
    for tenant, size, priority in sizes:
        queue.add(tenant, size, priority)
    for _ in range(min(taken, len(sizes) - 2)):
        queue.serve()
    expected = list(queue.queue._in_turn(0.0))[: DEPTH + 1]
    backfill = list(queue.queue.backfill_candidates(0.0))
    served = [queue.serve() for _ in expected]
    assert served == expected
    smallest = [s for n, s in enumerate(served) if all(s.costs < t.costs for t in served[:n])]
    assert [served[0], *backfill] == smallest


def test_who_comes_back_has_neither_credit_nor_debt() -> None:
    queue = Queue()
    for _ in range(20):
        queue.add("flood")
    for _ in range(5):
        queue.serve()
    queue.add("late")
    queue.add("late")
    order = [queue.serve().tenant for _ in range(6)]
    assert order.count("late") == 2
    assert sorted(order[:2], key=str) == ["flood", "late"]
    for _ in range(6):
        assert queue.serve().tenant == "flood"
    for _ in range(4):  # idle for six grants: that is no credit for more than every second call
        queue.add("late")
    assert [queue.serve().tenant for _ in range(4)].count("late") == 2


def test_a_grant_to_one_who_did_not_wait_counts_too() -> None:
    queue = Queue()
    for _ in range(5):
        queue.add("patient")
    for _ in range(2):
        queue.queue.charge(queue.waiter("eager"), 0.0)
    queue.add("eager")
    order = [queue.serve().tenant for _ in range(6)]
    assert order[:2] == ["patient", "patient"]
    assert "eager" in order[:4]


def test_what_was_served_is_forgotten() -> None:
    queue = Queue()
    for n in range(500):
        queue.add("flood")
        queue.add(f"visitor {n}")
        queue.serve()
        queue.serve()
        if n > 20:
            queue.add("flood")
    assert len(queue.queue.shares.by_tenant) < 60
    while queue.queue.waiting:
        queue.serve()
    assert queue.queue.shares.by_tenant == {}
    assert queue.queue.shares.floor == 0.0


def test_who_was_served_more_is_not_forgotten_before_the_others_were() -> None:
    queue = Queue()
    queue.add("patient")
    for _ in range(10):
        queue.queue.charge(queue.waiter("eager"), 0.0)
    for n in range(50):
        queue.queue.charge(queue.waiter(f"visitor {n}"), 0.0)
    queue.add("eager")
    queue.add("patient")
    assert [queue.serve().tenant for _ in range(3)] == ["patient", "patient", "eager"]


def test_when_another_tenants_call_becomes_the_head_the_formers_guard_ends() -> None:
    town, kit = Town(a=Limits(rpm=60)), Queue()
    town.empty()
    (account,) = town.pool._fleet.candidates("m").ready
    queue = kit.queue
    first, backfilled = kit.add("a", 9), kit.add("a")
    queue.guard, queue.backfill = HeadReservation(account, first.costs, 9.0), [backfilled]
    assert not queue.charge(kit.waiter("a"), 0.0)  # nobody else is there
    other = kit.add("b", 5)
    assert not queue.charge(kit.waiter("b"), 0.0)
    assert queue.guard is not None
    queue.charge(kit.waiter("a", 2), 0.0)
    assert queue.head is other
    assert queue.guard is None
    assert queue.backfill == []


def test_what_is_ahead_is_counted_as_far_as_it_will_be_served_before() -> None:
    queue = Queue()
    for _ in range(10):
        queue.add("a", 2)
    queue.add("b")
    assert queue.queue.ahead_of(queue.waiter("a"), 0.0)[0] == 21
    assert queue.queue.ahead_of(queue.waiter("b"), 0.0)[0] == 2
    assert queue.queue.ahead_of(queue.waiter("c"), 0.0)[0] == 0
    for _ in range(4):
        queue.queue.charge(queue.waiter("a"), 0.0)
    assert queue.queue.ahead_of(queue.waiter("b"), 0.0)[0] == 1  # `a` was served more already


def test_shares_are_told_without_secrets_of_calls() -> None:
    queue = Queue()
    queue.add("a")
    assert repr(queue.queue.shares.order[0]) == "<Share of 'a': 1 wait, 0 s served>"


class Town(World):
    """A world whose calls have tenants."""

    def ask(
        self, tenant: str | None, demand: Demand = ONE, *, at: float = 0.0, **said: object
    ) -> None:
        name = f"{tenant}"
        self.simulation.lease(
            demand,
            at=at,
            tenant=tenant,
            granted=lambda lease: self.granted.append((name, self.clock.now(), lease.owner)),
            refused=lambda error: self.refused.append((name, self.clock.now(), error)),
            **said,  # type: ignore[arg-type] # passed on
        )

    def served(self, name: str) -> list[float]:
        return [at for one, at, _ in self.granted if one == name]


def test_a_flood_delays_others_by_one_call_each_not_by_all_of_its_calls() -> None:
    town = Town(a=Limits(rpm=60))
    town.empty()
    for _ in range(300):
        town.ask("flood")
    for _ in range(5):
        town.ask("calm", at=10.5)
    town.run()
    assert town.served("calm") == pytest.approx([12.0, 14.0, 16.0, 18.0, 20.0], abs=1.1)
    assert len(town.served("flood")) == 300
    assert town.granted[-1][1] == pytest.approx(305, abs=1.5)  # and nothing is lost by it


def test_shares_are_of_what_binds_not_of_calls() -> None:
    town = Town(a=Limits(tpm=60_000))
    town.empty()
    for _ in range(100):
        town.ask("large", tokens(4000))
    for _ in range(1600):
        town.ask("small", tokens(500), timeout=10_000)
    town.run(100.0)
    large, small = 4000 * len(town.served("large")), 500 * len(town.served("small"))
    assert large + small == pytest.approx(100_000, rel=0.06)
    assert large == pytest.approx(small, rel=0.12)


def test_a_priority_orders_its_tenants_own_calls_only() -> None:
    town = Town(a=Limits(rpm=60))
    town.empty()
    for _ in range(50):
        town.ask("pushy", priority="interactive")
    for _ in range(10):
        town.ask("modest", priority="batch")
    town.ask("modest", priority="interactive", at=0.5)
    town.run(20.6)
    assert len(town.served("modest")) in (10, 11)
    assert town.granted[0][0] == "pushy"  # among equals the more urgent


def test_a_short_wait_behind_a_flood_is_not_refused() -> None:
    town = Town(a=Limits(rpm=60))
    town.empty()
    for _ in range(300):
        town.ask("flood")
    town.ask("calm", at=1.5, timeout=3.0)
    for _ in range(3):
        town.ask("eager", at=10.5, timeout=3.0)
    town.run()
    assert len(town.served("calm")) == 1
    # Turns are two seconds apart, so the third can't make it, and is told at once.
    assert town.served("eager") == pytest.approx([11.0, 13.0])
    ((name, at, error),) = town.refused
    assert (name, at) == ("eager", 10.5)
    assert isinstance(error, WaitTimeout)


def test_calls_without_a_tenant_are_one_tenant_together() -> None:
    town = Town(a=Limits(rpm=60))
    town.empty()
    for _ in range(50):
        town.ask(None)
    for _ in range(5):
        town.ask("calm", at=5.5)
    town.run(16.0)
    assert len(town.served("calm")) == 5


def test_a_queue_that_others_filled_turns_no_tenant_away() -> None:
    town = Town(a=Limits(rpm=60))
    town.empty()
    for _ in range(1001):  # the queue holds 1,000
        town.ask("flood", timeout=5000)
    for _ in range(501):
        town.ask("calm", at=0.5, timeout=5000)
    town.run(1.0)
    assert [(name, type(error)) for name, _, error in town.refused] == [
        ("flood", QueueFull),
        ("calm", QueueFull),
    ]


def test_small_calls_of_others_pass_a_large_head_where_that_delays_nothing() -> None:
    town = Town(a=Limits(tpm=60_000), b=Limits(tpm=6000))
    town.empty()
    town.ask("large", tokens(30_000))
    town.ask("large", tokens(30_000))
    for _ in range(10):
        town.ask("small", tokens(200), at=0.1)
    town.run()
    assert town.served("large")[0] == pytest.approx(30.0, rel=0.05)
    assert max(town.served("small")) <= 30.5  # `b` is too small for the large ones


def test_the_next_tenants_call_is_tried_once_it_is_the_head() -> None:
    town = Town(a=Limits(tpm=60_000), b=Limits(tpm=6000))
    town.empty()
    town.ask("one", tokens(30_000))
    town.ask("other", tokens(20_000), at=0.1)
    town.ask("one", tokens(50), at=0.2)  # passes, at `b`: now it is the other's turn
    town.run(1.0)
    (queue,) = town.pool._scheduler.waiting_queues()
    assert queue.guard is not None
    assert queue.guard.costs == tokens(20_000).costs  # and nobody else may delay it
    town.run()
    assert town.served("other") == pytest.approx([20.0], rel=0.05)
    assert town.served("one") == pytest.approx([0.5, 50.0], rel=0.05)


@settings(max_examples=30, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(1, 5000),
            st.floats(0, 2),
            st.sampled_from(sorted(PATIENCE)),
        ),
        min_size=2,
        max_size=40,
    )
)
def test_whatever_tenants_ask_all_are_served_at_the_fluid_bound(
    calls: list[tuple[str, int, float, str]],
) -> None:
    town = Town(a=Limits(tpm=6000), b=Limits(tpm=5000))
    at = 0.0
    for tenant, size, gap, priority in calls:
        at += gap
        town.ask(tenant, tokens(size), at=at, priority=priority)
    town.run()
    assert len(town.granted) == len(calls)
    assert not town.refused
    total = sum(size for _, size, _, _ in calls)
    assert town.granted[-1][1] <= at + total / (5000 / 60) + 60
    assert town.pool.status().waiting == 0


def test_shares_alone_know_no_clock_and_no_owner() -> None:
    shares = FairQueue()
    queue = Queue()
    waiter = queue.waiter("a")
    assert shares.comes_first(waiter)
    shares.add(waiter)
    shares.remove(waiter)
    assert not shares.order


def test_leases_take_a_tenant() -> None:
    town = Town(a=Limits(rpm=60))
    with town.pool.lease(ONE, tenant="a") as lease:
        assert lease.owner == "a"
    order = town.pool.order(ONE, tenant="b")
    Process(town.simulation, town.pool, town.pool.flow(order), done=lambda grant: None).resume()
    assert order.tenant == "b"
