"""Who gets what, and when: the production core on a simulated clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotafleet import (
    CannotServe,
    ConfigError,
    Demand,
    KeyPool,
    Limits,
    ModelLimits,
    NoUsableKey,
    Organization,
    PoolClosed,
    Priority,
    Project,
    QueueFull,
    RetryPolicy,
    TooLarge,
    Usage,
    WaitTimeout,
)
from quotafleet._core.call.flow import AttemptResult
from quotafleet._core.quota.token_bucket import MARGIN
from quotafleet.limits import MINUTE, Metric
from quotafleet.outcomes import NOTHING, OK, Kind, Observation, Outcome, Reading
from quotafleet.simulate import Simulation
from quotafleet.testing.clock import FakeClock

pytestmark = pytest.mark.usefixtures("many")

ONE = Demand(model="m")


def secret(name: str) -> str:
    return f"sk-{name}-0123456789abcdef"


class World:
    """A pool of organizations with such limits, on a clock of its own."""

    def __init__(
        self, *organizations: Organization, on_trial: bool = False, **owners: Limits
    ) -> None:
        made = [Organization(name=n, keys=(secret(n),), limits=x) for n, x in owners.items()]
        self.clock = FakeClock()
        self.pool = KeyPool(
            [*organizations, *made],
            clock=self.clock,
            strategy="round-robin",
            max_waiting=1000,
            retry=RetryPolicy(),
        )
        for key in self.pool.keys:
            self.pool._fleet.key_circuit(key).proven = not on_trial
        self.simulation = Simulation(self.pool, self.clock)
        self.granted: list[tuple[str, float, str]] = []
        self.refused: list[tuple[str, float, CannotServe]] = []

    def lease(
        self,
        name: str = "call",
        demand: Demand = ONE,
        *,
        at: float = 0.0,
        hold_for: float = 0.0,
        usage: Usage | None = None,
        timeout: float | None = None,
        priority: Priority = "normal",
    ) -> None:
        self.simulation.lease(
            demand,
            at=at,
            hold_for=hold_for,
            usage=usage,
            timeout=timeout,
            priority=priority,
            granted=lambda lease: self.granted.append((name, self.clock.now(), lease.owner)),
            refused=lambda error: self.refused.append((name, self.clock.now(), error)),
        )

    def drain(self, demand: Demand = ONE) -> None:
        """Take all there is now: the next call of this size waits."""
        while self.pool.eta(demand) == 0:
            self.pool.lease(demand).settle()

    def empty(self, model: str = "m") -> None:
        """Take all there is now, to the last fraction."""
        self.pool.eta(Demand(model=model))
        for account in self.pool._fleet.candidates(model).ready:
            for bucket in account.buckets:
                bucket.refill(self.clock.now())
                bucket.level = 0.0

    def run(self, until: float = float("inf")) -> None:
        self.simulation.run(until)

    @property
    def order(self) -> list[str]:
        return [name for name, _, _ in self.granted]


def tokens(count: int, model: str = "m") -> Demand:
    return Demand(model=model, input_tokens=count)


class TestWaiting:
    def test_a_saturated_batch_runs_at_the_fluid_limit(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=60))
        for n in range(1000):
            world.lease(str(n))
        world.run()
        assert len(world.granted) == 1000
        ideal = (1000 - 660) / 11
        assert world.granted[-1][1] == pytest.approx(ideal + MARGIN, rel=0.01)
        assert world.pool.status().waiting == 0

    def test_equal_calls_are_served_in_the_order_of_arrival(self) -> None:
        world = World(a=Limits(rpm=60))
        for n in range(150):
            world.lease(str(n), at=n * 0.01)
        world.run()
        assert world.order == [str(n) for n in range(150)]

    def test_wakes_exactly_and_nobody_polls(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        for n in range(3):
            world.lease(str(n))
        world.run()
        first = world.granted[0][1]
        assert [at for _, at, _ in world.granted] == pytest.approx([first + n for n in range(3)])

    def test_a_released_slot_wakes_the_next_at_once(self) -> None:
        world = World(a=Limits(concurrent=1))
        for n in range(5):
            world.lease(str(n), hold_for=2.0)
        world.run()
        assert [at for _, at, _ in world.granted] == [0, 2, 4, 6, 8]

    def test_a_refund_wakes_the_head_early(self) -> None:
        world = World(a=Limits(tpm=6000))
        world.lease("greedy", tokens(5900), hold_for=1.0, usage=Usage(input_tokens=0))
        world.lease("next", tokens(3000))
        world.run()
        assert world.granted[1][1] == pytest.approx(1.0)

    def test_other_models_do_not_wait_for_each_other(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        world.lease("waits")
        world.lease("passes", Demand(model="n"))
        world.run()
        assert world.order == ["passes", "waits"]

    def test_a_slot_shared_by_models_goes_to_the_one_that_waited(self) -> None:
        world = World(a=Limits(concurrent=1))
        world.lease("holds", hold_for=5.0)
        world.lease("first", at=1.0, hold_for=5.0)
        for n in range(3):
            world.lease(f"other {n}", Demand(model="n"), at=2.0, hold_for=1.0)
        world.run()
        assert [(name, at) for name, at, _ in world.granted] == [
            ("holds", 0.0),
            ("first", 5.0),
            ("other 0", 10.0),
            ("other 1", 11.0),
            ("other 2", 12.0),
        ]

    def test_expired_reservations_let_waiting_calls_in(self) -> None:
        world = World(a=Limits(concurrent=1))
        world.pool.lease(ONE)
        world.lease("patient", timeout=2000)
        world.run()
        assert world.granted == [("patient", 900.0, "a")]


class TestBackfill:
    def test_a_large_call_is_not_starved_by_small_ones(self) -> None:
        world = World(a=Limits(tpm=60_000))
        world.empty()
        world.lease("large", tokens(30_000))
        for n in range(400):
            world.lease(f"small {n}", tokens(100), at=n * 0.1)
        world.run(60.0)
        at = next(at for name, at, _ in world.granted if name == "large")
        assert at == pytest.approx(30.0, rel=0.05)

    def test_small_ones_pass_where_that_delays_nothing(self) -> None:
        world = World(a=Limits(tpm=60_000), b=Limits(tpm=6000))
        world.empty()
        world.lease("large", tokens(30_000))
        world.lease("small", tokens(50), at=10.0)
        world.run()
        assert world.order == ["small", "large"]
        assert world.granted[0][1] == pytest.approx(10.0)
        assert world.granted[0][2] == "b"

    def test_waiting_small_ones_pass_when_their_owner_is_ready(self) -> None:
        world = World(a=Limits(tpm=60_000), b=Limits(tpm=600))
        world.empty()
        world.lease("large", tokens(30_000))
        world.lease("small", tokens(200))
        world.run()
        by_name = {name: at for name, at, _ in world.granted}
        assert by_name["small"] < by_name["large"]
        assert by_name["large"] == pytest.approx(30.0, rel=0.05)

    @settings(max_examples=40, deadline=None)
    @given(
        sizes=st.lists(st.integers(1, 5000), min_size=2, max_size=40),
        gaps=st.lists(st.floats(0, 3), min_size=40, max_size=40),
    )
    def test_whatever_the_sizes_all_are_served_and_none_waits_beyond_the_fluid_bound(
        self, sizes: list[int], gaps: list[float]
    ) -> None:
        world = World(a=Limits(tpm=6000), b=Limits(tpm=5000))
        at = 0.0
        for n, size in enumerate(sizes):
            at += gaps[n]
            world.lease(str(n), tokens(size), at=at)
        world.run()
        assert len(world.granted) == len(sizes)
        assert not world.refused
        # Each owner alone could do the whole after so long.
        assert world.granted[-1][1] <= at + sum(sizes) / (5000 / 60) + 60


class TestPriority:
    def test_urgent_calls_go_first_and_batch_last(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        for priority in ("batch", "normal", "interactive"):
            world.lease(priority, priority=priority)
        world.run()
        assert world.order == ["interactive", "normal", "batch"]

    def test_age_overtakes_priority(self) -> None:
        world = World(a=Limits(rpm=6))
        world.empty()
        world.lease("old batch", priority="batch", timeout=5000)
        for n in range(100):
            world.lease(f"{n}", at=n * 10.0, timeout=5000)
        world.run(900.0)
        served = next(at for name, at, _ in world.granted if name == "old batch")
        assert 500 <= served <= 640

    def test_a_near_deadline_comes_first(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        world.lease("calm")
        world.lease("calm too")
        world.lease("pressed", timeout=3.0)
        world.run()
        assert world.order == ["pressed", "calm", "calm too"]

    def test_unknown_priority_is_told(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown priority 'urgent'.*interactive"):
            World(a=Limits(rpm=60)).pool.lease(ONE, priority="urgent")  # type: ignore[arg-type]


class TestRefusal:
    def test_a_call_that_cannot_make_it_is_told_at_once_with_the_eta(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        world.lease("hopeless", timeout=0.5)
        world.run()
        ((_, at, error),) = world.refused
        assert at == 0.0
        assert isinstance(error, WaitTimeout)
        assert isinstance(error, TimeoutError)
        assert error.retry_after == pytest.approx(1.0)
        assert "a has" in str(error)
        assert error.key_ids == ("a#1",)

    def test_the_queue_ahead_counts(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        for n in range(30):
            world.lease(str(n), timeout=20.5)
        world.run()
        assert world.order == [str(n) for n in range(20)]
        assert [name for name, _, _ in world.refused] == [str(n) for n in range(20, 30)]
        assert {at for _, at, _ in world.refused} == {0.0}
        assert world.refused[0][2].retry_after == pytest.approx(21)

    def test_refunds_that_are_usual_are_expected(self) -> None:
        """Reservations ten times the real use don't make the queue look ten times as long."""
        world = World(a=Limits(tpm=60_000))
        for n in range(300):
            used = Usage(input_tokens=100)
            world.lease(str(n), tokens(1000), at=n * 0.01, hold_for=0.5, usage=used, timeout=30)
        world.run()
        assert not world.refused

    def test_times_out_when_it_could_not_be_known_before(self) -> None:
        world = World(a=Limits(concurrent=1))
        world.lease("holds", hold_for=100)
        world.lease("waits", timeout=5)
        world.run()
        ((_, at, error),) = world.refused
        assert at == 5.0
        assert isinstance(error, WaitTimeout)
        assert error.waited_for == 5.0

    def test_too_large_is_refused_at_once(self) -> None:
        world = World(a=Limits(tpm=1000), b=Limits(tpm=2000))
        with pytest.raises(TooLarge, match="needs 2001 tokens, more than b's whole limit of 2000"):
            world.pool.lease(tokens(2001))

    def test_too_large_while_it_waits(self) -> None:
        world = World(a=Limits(tpm=60_000))
        held = world.pool.lease(tokens(1000))
        world.empty()
        world.lease("large", tokens(50_000))

        def shrink() -> None:
            told = Reading(metric=Metric.TOKENS, limit=40_000, level=10, period=MINUTE)
            held.observe(Observation(readings=(told,)))

        world.simulation.at(5.0, shrink)
        world.run()
        ((_, _, error),) = world.refused
        assert isinstance(error, TooLarge)

    def test_the_queue_is_bounded(self) -> None:
        world = World(a=Limits(rpm=600))
        world.empty()
        for n in range(1001):
            world.lease(str(n), timeout=1e6)
        world.run(0.05)
        ((name, _, error),) = world.refused
        assert name == "1000"
        assert isinstance(error, QueueFull)
        assert error.retry_after is not None

    def test_no_key_for_the_model(self) -> None:
        world = World(Organization(name="a", keys=(secret("a"),), only_models=("gpt-*",)))
        with pytest.raises(ConfigError, match="no key may use the model 'claude'"):
            world.pool.lease(Demand(model="claude"))
        world.pool.lease(Demand(model="gpt-5"))

    def test_a_closed_pool_refuses_and_ends_those_that_wait(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        world.simulation.at(0.5, world.pool.close)
        world.lease("waits")
        with pytest.raises(PoolClosed):
            world.run()
        with pytest.raises(PoolClosed):
            world.pool.lease(ONE)
        assert world.pool.status().waiting == 0


class TestEta:
    def test_zero_now_exact_when_drained_and_behind_the_queue(self) -> None:
        world = World(a=Limits(rpm=60))
        assert world.pool.eta(ONE) == 0.0
        world.empty()
        assert world.pool.eta(ONE) == pytest.approx(1.0)
        for n in range(10):
            world.lease(str(n))
        world.run(0.0)
        assert world.pool.eta(ONE) == pytest.approx(11.0)

    def test_behind_a_part_of_the_queue_only(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        for n in range(10):
            world.lease(str(n), priority="batch")
        world.lease("pressed", at=0.1, timeout=3)
        world.run()
        assert not world.refused
        assert world.order[0] == "pressed"

    def test_infinite_when_only_a_release_helps(self) -> None:
        world = World(a=Limits(concurrent=1))
        world.pool.lease(ONE)
        assert world.pool.eta(ONE) == float("inf")


def answer(kind: Kind, **told: object) -> Outcome:
    return OK if kind is Kind.OK else Outcome(kind=kind, **told)  # type: ignore[arg-type]


class Calls:
    """Whole calls against a scripted provider: outcome by owner, or by number."""

    def __init__(self, world: World, script: dict[str, Iterable[Outcome]]) -> None:
        self.world = world
        self.script = {owner: list(outcomes) for owner, outcomes in script.items()}
        self.sent: list[tuple[float, str]] = []
        self.done: list[tuple[float, Outcome]] = []
        self.refused: list[CannotServe] = []
        self.refused_at: list[float] = []
        self.observation: Observation = NOTHING
        self.takes = 0.1  # seconds of an attempt

    def send(self, lease: object) -> tuple[float, AttemptResult[object]]:
        owner = lease.owner  # type: ignore[attr-defined]
        self.sent.append((self.world.clock.now(), lease.key_id))  # type: ignore[attr-defined]
        outcomes = self.script.get(owner, [])
        outcome = outcomes.pop(0) if len(outcomes) > 1 else (outcomes or [OK])[0]
        return self.takes, AttemptResult(
            outcome=outcome, response=None, observation=self.observation
        )

    def call(self, at: float = 0.0, demand: Demand = ONE) -> None:
        def done(lease: object, reply: AttemptResult[object]) -> None:
            self.done.append((self.world.clock.now(), reply.outcome))
            if reply.outcome.ok:
                lease.settle()  # type: ignore[attr-defined]

        self.world.simulation.call(demand, at=at, send=self.send, done=done, refused=self.refuse)

    def refuse(self, error: CannotServe) -> None:
        self.refused.append(error)
        self.refused_at.append(self.world.clock.now())

    @property
    def asked(self) -> list[str]:
        return [key_id for _, key_id in self.sent]


class TestCalls:
    def test_a_fault_goes_to_another_owner_at_once(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.SERVER_ERROR)]})
        for n in range(4):
            calls.call(at=float(n))
        world.run()
        assert all(outcome.ok for _, outcome in calls.done)
        assert len(calls.done) == 4
        assert max(at for at, _ in calls.done) < 3.3

    def test_an_owner_that_keeps_failing_is_left_alone_then_probed_once(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.SERVER_ERROR)]})
        for n in range(100):
            calls.call(at=n * 0.1)
        world.run()
        assert len(calls.done) == 100
        assert all(outcome.ok for _, outcome in calls.done)
        # Three faults, then one probe after about 1, 2, 4 seconds.
        assert calls.asked.count("a#1") <= 3 + 4

    def test_it_comes_back_after_a_successful_probe(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.SERVER_ERROR)] * 3 + [OK]})
        for n in range(60):
            calls.call(at=n * 0.1)
        world.run()
        assert calls.asked[-20:].count("a#1") == 10
        assert world.pool.status().unavailable == ()

    def test_calls_wait_for_a_probe_however_long_it_may_take(self) -> None:
        """One owner, cut off for a moment: nobody is told that it would take the probe's limit."""
        world = World(a=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.NETWORK)] * 4 + [OK]})
        for n in range(20):
            calls.call(at=n * 0.05)
        world.run()
        assert not calls.refused
        assert len(calls.done) == 20
        assert all(outcome.ok for _, outcome in calls.done)

    def test_a_probe_that_never_reports_is_given_up_even_if_nobody_else_comes(self) -> None:
        world = World(a=Limits(rpm=600))
        lost = world.pool.lease(ONE)
        lost.fail(answer(Kind.OVERLOADED, scope="provider", retry_after=1.0))
        world.simulation.at(2.0, lambda: world.pool.lease(ONE) and None)
        world.lease("patient", at=3.0, timeout=5000)
        world.run(10.0)
        (queue,) = world.pool.status().queues
        assert queue.why.startswith("no owner is usable now: model m at openai is probing")
        world.run()
        assert world.granted == [("patient", pytest.approx(902.0), "a")]

    def test_a_stray_refusal_of_a_key_that_works_kills_nothing(self) -> None:
        world = World(
            Organization(name="a", keys=(secret("a1"), secret("a2")), limits=Limits(rpm=600))
        )
        calls = Calls(world, {"a": [answer(Kind.KEY_INVALID, scope="key", code="invalid_api_key")]})
        calls.script["a"].append(OK)
        for n in range(10):
            calls.call(at=n * 1.0)
        world.run()
        assert all(outcome.ok for _, outcome in calls.done)
        assert calls.asked.count("a#1") + calls.asked.count("a#2") == 11
        assert {key.health for key in world.pool.status().keys} == {"closed"}, "it was a stray"

    def test_without_credit_the_whole_owner_is_parked_and_probed_rarely(self) -> None:
        world = World(Organization(name="a", keys=(secret("a1"), secret("a2"))), b=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.QUOTA_EXHAUSTED, scope="organization")]})
        for n in range(1300):
            calls.call(at=float(n))
        world.run()
        assert all(outcome.ok for _, outcome in calls.done)
        assert sum(key.startswith("a") for key in calls.asked) == 2  # and one probe after 600 s

    def test_a_project_without_credit_does_not_park_its_organization(self) -> None:
        world = World(
            Organization(
                name="a",
                keys=(secret("a1"),),
                projects=(Project(name="lab", keys=(secret("lab"),)),),
            )
        )
        parked = answer(Kind.QUOTA_EXHAUSTED, scope="project")
        calls = Calls(world, {"a/lab": [parked]})
        for n in range(20):
            calls.call(at=float(n))
        world.run()
        assert all(outcome.ok for _, outcome in calls.done)
        assert calls.asked.count("a/lab#1") == 1
        assert [sick.subject for sick in world.pool.status().unavailable] == ["project a/lab"]

    def test_when_all_are_dead_the_providers_own_answer_is_the_last_word(self) -> None:
        world = World(a=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.KEY_INVALID, scope="key")]})
        calls.call()
        calls.call(at=10.0)
        world.run()
        assert [outcome.kind for _, outcome in calls.done] == [Kind.KEY_INVALID]
        (error,) = calls.refused
        assert isinstance(error, NoUsableKey)
        assert "key a#1 is dead" in str(error)

    def test_calls_that_wait_learn_when_the_last_key_dies(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        calls = Calls(world, {"a": [answer(Kind.KEY_INVALID, scope="key")]})
        for _ in range(5):
            calls.call()
        world.run()
        assert len(calls.done) == 2, "a second request confirms the first refusal"
        assert len(calls.refused) == 3
        assert all(isinstance(error, NoUsableKey) for error in calls.refused)
        assert max(calls.refused_at) == pytest.approx(2.2, abs=0.2)

    def test_revive_brings_a_dead_key_back(self) -> None:
        world = World(a=Limits(rpm=600))
        invalid = answer(Kind.KEY_INVALID, scope="key")
        calls = Calls(world, {"a": [invalid, invalid, OK]})
        calls.call()
        world.simulation.at(5.0, lambda: world.pool.revive("a#1") and None)
        calls.call(at=6.0)
        world.run()
        assert [outcome.kind for _, outcome in calls.done] == [Kind.KEY_INVALID, Kind.OK]

    def test_a_denied_model_stays_denied_and_others_work(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        denied = answer(Kind.ACCESS_DENIED, scope="organization", model_only=True)
        calls = Calls(world, {"a": [denied, OK]})
        for n in range(10):
            calls.call(at=float(n))
        calls.call(at=11.0, demand=Demand(model="n"))
        calls.call(at=12.0, demand=Demand(model="n"))
        world.run()
        assert all(outcome.ok for _, outcome in calls.done)
        assert calls.asked[:11].count("a#1") == 1
        assert sorted(calls.asked[11:]) == ["a#1", "b#1"]

    def test_an_overloaded_model_cools_at_all_owners_of_the_provider(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        busy = answer(Kind.OVERLOADED, scope="provider", retry_after=7.0)
        calls = Calls(world, {"a": [busy, OK], "b": [busy, OK]})
        calls.call()
        calls.call(at=1.0)
        world.run()
        assert calls.sent[1][0] >= 7.0
        assert all(outcome.ok for _, outcome in calls.done)

    def test_a_rate_limit_moves_to_another_owner_and_never_to_a_sibling(self) -> None:
        world = World(
            Organization(name="a", keys=(secret("a1"), secret("a2")), limits=Limits(rpm=600)),
            b=Limits(rpm=600),
        )
        limited = answer(
            Kind.RATE_LIMITED,
            scope="organization",
            metric=Metric.REQUESTS,
            period=MINUTE,
            limit=600.0,
            used=600.0,
            requested=1.0,
            retry_after=30.0,
        )
        calls = Calls(world, {"a": [limited, OK]})
        for n in range(20):
            calls.call(at=float(n))
        world.run()
        assert sum(key.startswith("a") for key in calls.asked) == 1
        assert all(outcome.ok for _, outcome in calls.done)

    def test_bad_requests_are_asked_once(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        wrong = answer(Kind.BAD_REQUEST, charged=True)
        calls = Calls(world, {"a": [wrong], "b": [wrong]})
        calls.call()
        world.run()
        assert len(calls.sent) == 1
        assert calls.done[0][1] is wrong

    def test_the_attempts_end(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        fault = answer(Kind.TIMEOUT, charged=True)
        calls = Calls(world, {"a": [fault], "b": [fault]})
        calls.call()
        world.run()
        assert len(calls.sent) == 8
        assert calls.done[0][1] is fault

    def test_a_deadline_ends_the_retries(self) -> None:
        world = World(a=Limits(rpm=600))
        fault = answer(Kind.TIMEOUT, charged=True, retry_after=50.0)
        calls = Calls(world, {"a": [fault]})
        order = world.pool.order(ONE, deadline=20.0)
        got: list[AttemptResult[object]] = []
        flow = world.pool.call_flow(order)
        from quotafleet.simulate import Process

        Process(
            world.simulation,
            world.pool,
            flow,
            send=lambda grant: calls.send(world.pool.leased(grant)),
            done=lambda result: got.append(result[1]),
        ).resume()
        world.run()
        assert len(calls.sent) == 1
        assert got[0].outcome is fault

    def test_headers_that_name_one_organization_merge_two(self) -> None:
        world = World(a=Limits(rpm=60), b=Limits(rpm=60))
        calls = Calls(world, {})
        calls.observation = Observation(organization_id="org-1", project_id="proj-1")
        for _ in range(6):
            calls.call()
        world.run()
        assert {key.organization for key in world.pool.keys} == {"a"}
        world.drain()
        assert sum(scope.granted for scope in world.pool.status().scopes) <= 62

    def test_projects_told_apart_by_headers(self) -> None:
        world = World(
            Organization(name="a", keys=(secret("a1"), secret("a2")), limits=Limits(rpm=600))
        )
        calls = Calls(world, {})
        for n, project in enumerate(("p1", "p2", "p1", "p2")):

            def tell(project: str = project) -> None:
                calls.observation = Observation(organization_id="org-1", project_id=project)

            world.simulation.at(n - 0.5 if n else 0.0, tell)
            calls.call(at=float(n))
        world.run()
        assert {key.project for key in world.pool.keys} == {"p1", "p2"}
        assert {scope.owner for scope in world.pool.status().scopes} == {"a/p1", "a/p2"}


class TestTrial:
    def test_a_burst_loses_a_handful_of_attempts_to_a_dead_key(self) -> None:
        world = World(a=Limits(rpm=6000), b=Limits(rpm=6000), on_trial=True)
        calls = Calls(world, {"a": [answer(Kind.KEY_INVALID, scope="key")]})
        for _ in range(500):
            calls.call()
        world.run()
        assert all(outcome.ok for _, outcome in calls.done)
        assert len(calls.done) == 500
        assert calls.asked.count("a#1") == 5

    def test_the_first_answer_ends_the_trial(self) -> None:
        world = World(a=Limits(rpm=60_000), on_trial=True)
        for n in range(500):
            world.lease(str(n), hold_for=0.1 if n < 5 else 10.0)
        world.run(0.15)
        assert len(world.granted) == 500
        assert {at for _, at, _ in world.granted[:5]} == {0.0}
        assert {at for _, at, _ in world.granted[5:]} == {0.1}

    def test_answers_that_take_long_do_not_hold_the_others_up_for_long(self) -> None:
        world = World(a=Limits(rpm=60_000), on_trial=True)
        for n in range(500):
            world.lease(str(n), hold_for=30.0)
        world.run(5.0)
        times = [at for _, at, _ in world.granted]
        assert len(times) == 500
        assert [times.count(at) for at in sorted(set(times))] == [5, 10, 30, 90, 270, 95]
        assert max(times) == pytest.approx(5.0)

    def test_a_sibling_that_was_answered_takes_the_load_of_one_on_trial(self) -> None:
        world = World(
            Organization(name="a", keys=(secret("a1"), secret("a2")), limits=Limits(rpm=6000)),
            on_trial=True,
        )
        world.pool._fleet.key_circuit(world.pool.keys[0]).proven = True
        used = [world.pool.lease(ONE).key_id for _ in range(100)]
        assert used.count("a#2") == 5

    def test_the_eta_knows_of_it(self) -> None:
        world = World(a=Limits(rpm=6000), on_trial=True)
        for _ in range(5):
            world.pool.lease(ONE)
        assert world.pool.eta(ONE) == pytest.approx(1.0)

    def test_nobody_is_told_that_it_would_take_the_whole_trial(self) -> None:
        world = World(a=Limits(rpm=6000), on_trial=True)
        for n in range(50):
            world.lease(str(n), hold_for=0.1, timeout=0.3)
        world.lease("late", at=0.05, timeout=0.01)
        world.run()
        assert len(world.granted) == 50
        ((name, at, error),) = world.refused
        assert (name, at) == ("late", pytest.approx(0.06))
        assert "on trial" in str(error)

    def test_a_key_that_is_revived_is_on_trial_again(self) -> None:
        world = World(a=Limits(rpm=6000), on_trial=True)
        world.pool.lease(ONE).settle()
        world.pool.lease(ONE).fail(answer(Kind.KEY_INVALID, scope="key"))
        world.pool.revive()
        for _ in range(5):
            world.pool.lease(ONE)
        assert world.pool.eta(ONE) == pytest.approx(1.0)


class TestSharing:
    def test_keys_of_one_owner_add_no_capacity_and_take_turns(self) -> None:
        world = World(
            Organization(
                name="a",
                keys=tuple(secret(f"a{n}") for n in range(4)),
                limits=Limits(rpm=60),
            )
        )
        used: list[str] = []
        while world.pool.eta(ONE) == 0:
            lease = world.pool.lease(ONE)
            used.append(lease.key_id)
            lease.settle()
        assert len(used) == 59 or len(used) == 60
        assert all(abs(used.count(key) - len(used) / 4) <= 1 for key in set(used))

    def test_a_shared_pattern_is_one_bucket_and_others_are_each_their_own(self) -> None:
        world = World(
            Organization(
                name="a",
                keys=(secret("a"),),
                limits=Limits(rpm=600),
                models={
                    "image-*": ModelLimits(limits=Limits(rpm=60), shared=True),
                    "gpt-*": ModelLimits(limits=Limits(rpm=120)),
                },
            )
        )
        world.drain(Demand(model="image-1"))
        assert world.pool.eta(Demand(model="image-2")) > 0
        world.drain(Demand(model="gpt-x"))
        assert world.pool.eta(Demand(model="gpt-y")) == 0
        limits = {s.family: s.levels[0].limit for s in world.pool.status().scopes}
        assert limits == {"image-*": 60, "gpt-x": 120, "gpt-y": 120}


class TestStatus:
    def test_tells_levels_waiting_and_why_and_no_secret(self) -> None:
        world = World(a=Limits(rpm=60))
        world.empty()
        world.lease("waits")
        world.run(0.0)
        status = world.pool.status()
        assert status.waiting == 1
        assert status.in_flight == 0
        assert "a has" in status.queues[0].why
        assert "rpm" in status.queues[0].why
        assert secret("a") not in repr(status)
        assert repr(world.pool) == (
            "<KeyPool: 1 keys of 1 organizations, 0 in flight, 1 waiting, 0 unavailable>"
        )


class TestFailover:
    def test_one_that_fails_now_and_then_serves_who_it_failed_where_no_other_can(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.SERVER_ERROR), OK], "b": [OK]})
        world.pool.eta(ONE)
        (b,) = (one for one in world.pool._fleet.candidates("m").ready if one.owner == "b")
        b.buckets[0].give_back(-6_000)  # nothing left for ten minutes
        calls.call()
        world.run(5.0)
        assert calls.asked == ["a#1", "a#1"]
        assert [outcome.ok for _, outcome in calls.done] == [True]
        world.run()

    def test_who_avoids_an_owner_does_not_keep_others_from_it(self) -> None:
        """The head may not go where it got no answer; the next in the queue may."""
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.TIMEOUT, charged=True), OK], "b": [OK]})
        world.pool.eta(ONE)
        a, b = sorted(world.pool._fleet.candidates("m").ready, key=lambda one: one.owner)
        b.buckets[0].give_back(-6_000)
        a.buckets[0].level = 1.0
        calls.call()
        world.simulation.at(0.05, lambda: setattr(a.buckets[0], "level", -1.0))
        calls.call(at=0.2)
        world.run(5.0)
        assert calls.asked == ["a#1", "a#1"]
        assert [at < 1.0 for at, _ in calls.done] == [True]
        world.run()

    def test_one_that_hung_is_not_probed_by_the_second(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.TIMEOUT, charged=True)], "b": [OK]})
        for n in range(100):
            calls.call(at=n * 0.2)
        world.run()
        assert calls.asked.count("a#1") == 3
        assert all(outcome.ok for _, outcome in calls.done)

    def test_one_whose_connections_are_lost_after_seconds_is_not_probed_by_the_second(self) -> None:
        world = World(a=Limits(rpm=600), b=Limits(rpm=600))
        calls = Calls(world, {"a": [answer(Kind.NETWORK, charged=True)], "b": [OK]})
        calls.takes = 2.0
        for n in range(100):
            calls.call(at=n * 0.3)
        world.run()
        probed = [at for at, key in calls.sent if key == "a#1" and at > 5.0]
        assert len(probed) == 1
        assert probed[0] > 20.0, "ten times as long as it took to fail"
        assert all(outcome.ok for _, outcome in calls.done)


def test_a_call_that_is_charged_more_than_most_is_not_refused_again_and_again() -> None:
    """Its refusal told what it is charged: the next attempt waits for as much."""
    world = World(a=Limits(tpm=60_000))
    world.drain(tokens(1_000))
    refused = answer(
        Kind.RATE_LIMITED,
        scope="organization",
        metric=Metric.TOKENS,
        period=MINUTE,
        limit=60_000.0,
        used=58_900.0,
        requested=3_000.0,
        retry_after=1.9,
    )
    calls = Calls(world, {"a": [refused, OK]})
    calls.call(demand=tokens(1_000))
    world.run()
    assert [len(calls.sent), len(calls.done)] == [2, 1]
    (account,) = world.pool._fleet.accounts()
    assert account.buckets[0].taken == pytest.approx(60_000 + 1_000 + 3_000, abs=1_000)


class TestOpening:
    def test_a_batch_begins_no_faster_than_any_provider_lets_through(self) -> None:
        world = World(a=Limits(rpm=600), on_trial=True)
        calls = Calls(world, {"a": [OK]})
        for _ in range(200):
            calls.call()
        world.run(0.15)
        assert 12 <= len(calls.sent) <= 14
        world.run(1.0)
        assert len(calls.done) == 200, "after a few answers all goes"

    def test_a_window_of_a_second_is_found_out_by_a_handful_of_refusals(self) -> None:
        world = World(a=Limits(rpm=600), on_trial=True)
        refused = answer(
            Kind.RATE_LIMITED,
            scope="organization",
            metric=Metric.REQUESTS,
            period=MINUTE,
            limit=600.0,
            used=20.0,
            requested=1.0,
            retry_after=1.0,
        )
        calls = Calls(world, {"a": [*[OK] * 10, *[refused] * 3, OK]})
        for _ in range(200):
            calls.call()
        world.run(11.0)
        (account,) = world.pool._fleet.accounts()
        assert account.buckets[0].burst == 10
        seconds = Counter(int(at) for at, _ in calls.sent[13:])
        assert max(seconds.values()) <= 20
        assert sum(seconds.values()) >= 90
        world.run()

    def test_where_answers_take_long_it_goes_on_at_the_rate_of_the_limit(self) -> None:
        world = World(a=Limits(rpm=120), on_trial=True)
        for n in range(100):
            world.lease(str(n), hold_for=60.0)
        world.run(3.0)
        assert 5 <= len(world.granted) <= 60
        world.run(40.0)
        assert len(world.granted) == 100, "no test was refused"
        world.run()
