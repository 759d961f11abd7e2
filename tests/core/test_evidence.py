"""No single answer costs a key, a fleet or a day: who is at fault, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.core.test_scheduling import ONE, World, answer, secret

from quotafleet import (
    CannotServe,
    Demand,
    KeyPool,
    Limits,
    NoUsableKey,
    Organization,
    WaitTimeout,
)
from quotafleet._core.call.flow import AttemptResult
from quotafleet._core.health.circuit_breaker import NOTHING_PASSES_FOR
from quotafleet.events import LimitChanged
from quotafleet.limits import Metric
from quotafleet.outcomes import OK, Kind, Observation, Outcome, Reading
from quotafleet.simulate import Process
from quotafleet.testing.clock import FakeClock

HOUR = 3600.0
WIDE = Limits(rpm=6000)

#: What an owner answers: its key, the instant, the model.
Answers = Callable[[str, float, str], Outcome]


class Calls:
    """Whole calls against a provider that answers by key, instant and model."""

    def __init__(self, world: World, answers: Answers) -> None:
        self.world, self.answers = world, answers
        self.sent: list[tuple[float, str]] = []
        self.done: list[tuple[float, Outcome]] = []
        self.errors: list[tuple[float, CannotServe]] = []

    def call(self, at: float = 0.0, *, model: str = "m", timeout: float | None = None) -> None:
        world = self.world

        def send(grant: object) -> tuple[float, AttemptResult[object]]:
            lease = world.pool.leased(grant)  # type: ignore[arg-type]
            now = world.clock.now()
            self.sent.append((now, lease.key_id))
            return 0.1, AttemptResult(outcome=self.answers(lease.key_id, now, model), response=None)

        def done(result: tuple[object, AttemptResult[object]]) -> None:
            grant, reply = result
            self.done.append((world.clock.now(), reply.outcome))
            if reply.outcome.ok:
                world.pool.leased(grant).settle()  # type: ignore[arg-type]

        def begin() -> None:
            order = world.pool.order(Demand(model=model), timeout=timeout)
            flow = world.pool.call_flow(order)
            Process(
                world.simulation,
                world.pool,
                flow,
                send=send,
                done=done,
                failed=lambda error: self.errors.append((world.clock.now(), error)),
            ).resume()

        world.simulation.at(at, begin)

    @property
    def lost(self) -> int:
        return len(self.errors) + sum(not outcome.ok for _, outcome in self.done)

    def asked(self, key: str) -> int:
        return sum(one.startswith(key) for _, one in self.sent)


def fleet(count: int) -> World:
    owners = [
        Organization(name=f"o{n}", keys=(secret(f"o{n}"),), limits=WIDE) for n in range(count)
    ]
    return World(*owners)


def unavailable(world: World) -> list[tuple[str, str]]:
    return [(one.subject, one.state) for one in world.pool.status().unavailable]


UNCERTAIN = {
    "403": answer(Kind.ACCESS_DENIED, scope="key", certain=False),
    "401": answer(Kind.KEY_INVALID, scope="key", certain=False),
    "400": answer(Kind.BAD_REQUEST, certain=False),
}


@pytest.mark.parametrize("refusal", UNCERTAIN.values(), ids=UNCERTAIN)
def test_a_flagged_prompt_costs_no_key_of_forty(refusal: Outcome) -> None:
    world = fleet(40)
    calls = Calls(world, lambda key, now, model: refusal if model == "flagged" else OK)
    for n in range(80):
        calls.call(n * 0.1)
    calls.call(10.0, model="flagged")
    for n in range(80):
        calls.call(20.0 + n * 0.1)
    world.run()
    assert len(calls.sent) - 160 <= 3
    assert calls.lost == 1
    assert {key.health for key in world.pool.status().keys} == {"closed"}
    assert unavailable(world) == []


@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("owners", [1, 3])
def test_all_are_back_within_a_minute_after_an_outage_of_authentication(
    certain: bool, owners: int
) -> None:
    refusal = answer(Kind.KEY_INVALID, scope="key", certain=certain)
    world = fleet(owners)
    calls = Calls(world, lambda key, now, model: refusal if 100 <= now < 160 else OK)
    for n in range(240):
        calls.call(float(n))
    world.run()
    assert unavailable(world) == []
    late = [key for at, key in calls.sent if at >= 220]
    assert {key.split("#")[0] for key in late} == {f"o{n}" for n in range(owners)}
    assert all(outcome.ok for at, outcome in calls.done if at >= 221)
    assert not any(at >= 220 for at, _ in calls.errors)


@pytest.mark.parametrize("owners", [2, 4, 8])
@pytest.mark.parametrize("refusal", UNCERTAIN.values(), ids=UNCERTAIN)
def test_an_owner_with_trouble_of_its_own_loses_no_call_and_wastes_few(
    owners: int, refusal: Outcome
) -> None:
    world = fleet(owners)
    calls = Calls(world, lambda key, now, model: refusal if key.startswith("o0") else OK)
    for n in range(int(HOUR)):
        calls.call(float(n))
    world.run()
    assert calls.lost == 0
    assert 2 <= calls.asked("o0") <= 5
    ((subject, state),) = unavailable(world)
    assert (subject, state) == ("model m of o0", "parked")


def test_an_owner_whose_trouble_is_over_is_used_again() -> None:
    world = fleet(2)
    refusal = UNCERTAIN["400"]
    calls = Calls(world, lambda key, now, model: refusal if key == "o0#1" and now < 300 else OK)
    for n in range(int(HOUR)):
        calls.call(float(n))
    world.run()
    assert calls.lost == 0
    assert unavailable(world) == []
    assert calls.asked("o0") > 1000


def test_one_key_of_an_owner_that_is_refused_without_a_code_is_left_alone() -> None:
    world = World(Organization(name="a", keys=(secret("a1"), secret("a2")), limits=WIDE))
    refusal = UNCERTAIN["401"]
    calls = Calls(world, lambda key, now, model: refusal if key == "a#1" else OK)
    for n in range(int(HOUR)):
        calls.call(float(n))
    world.run()
    assert calls.lost == 0
    assert calls.asked("a#1") <= 5


def test_a_request_that_two_owners_refuse_is_the_callers() -> None:
    world = fleet(8)
    calls = Calls(world, lambda key, now, model: UNCERTAIN["400"])
    calls.call()
    world.run()
    assert len(calls.sent) == 2
    assert [outcome.kind for _, outcome in calls.done] == [Kind.BAD_REQUEST]
    assert unavailable(world) == []


def test_a_denied_model_is_probed_and_fails_at_once_meanwhile() -> None:
    denied = answer(Kind.ACCESS_DENIED, scope="organization", model_only=True)
    world = fleet(2)
    calls = Calls(world, lambda key, now, model: denied if now < 500 else OK)
    calls.call(0.0)
    calls.call(10.0)
    calls.call(700.0)
    world.run()
    assert [(round(at), o.kind) for at, o in calls.done] == [
        (0, Kind.ACCESS_DENIED),
        (700, Kind.OK),
    ]
    ((at, error),) = calls.errors
    assert (at, type(error)) == (10.0, NoUsableKey)


@pytest.mark.parametrize("owners", [1, 3])
@pytest.mark.parametrize(
    "refusal",
    [
        answer(Kind.OVERLOADED, scope="provider", retry_after=86_400.0),
        answer(Kind.SERVER_ERROR, scope="provider", retry_after=86_400.0),
        answer(Kind.RATE_LIMITED, scope="organization", retry_after=86_400.0),
        answer(Kind.QUOTA_EXHAUSTED, scope="organization", retry_after=86_400.0),
    ],
    ids=lambda outcome: outcome.kind.value,
)
def test_a_day_of_delay_ends_a_call_within_what_it_may_wait(owners: int, refusal: Outcome) -> None:
    world = fleet(owners)
    calls = Calls(world, lambda key, now, model: refusal)
    calls.call(timeout=2.0)
    world.run()
    ((at, outcome),) = calls.done
    assert at <= 2.0
    assert outcome is refusal, "the provider's last answer"


def test_what_one_answer_closes_for_others_is_probed_after_a_minute() -> None:
    world = fleet(3)
    refusal = answer(Kind.OVERLOADED, scope="provider", retry_after=86_400.0)
    calls = Calls(world, lambda key, now, model: OK if calls.sent[1:] else refusal)
    calls.call(timeout=2.0)
    calls.call(30.0, timeout=2.0)
    calls.call(61.0, timeout=2.0)
    world.run()
    assert [round(at) for at, outcome in calls.done if outcome.ok] == [61]
    ((at, error),) = calls.errors
    assert (at, type(error)) == (30.0, WaitTimeout)


def test_waits_add_up_to_what_the_call_may_wait() -> None:
    world = fleet(1)
    refusal = answer(Kind.RATE_LIMITED, scope="organization", retry_after=1.5)
    calls = Calls(world, lambda key, now, model: refusal)
    calls.call(timeout=4.0)
    world.run()
    ((at, _),) = calls.done
    assert at <= 4.0


@pytest.mark.parametrize(("passes_at", "requests"), [(12.0, 6), (45.0, 8)])
def test_refusals_without_a_delay_grow_and_lose_no_call_that_may_wait(
    passes_at: float, requests: int
) -> None:
    world = fleet(1)
    refusal = answer(Kind.RATE_LIMITED, scope="organization", model_only=True)
    calls = Calls(world, lambda key, now, model: OK if now >= passes_at else refusal)
    calls.call()
    world.run()
    ((at, outcome),) = calls.done
    assert outcome.ok
    assert at <= 2 * passes_at + 1
    assert len(calls.sent) <= requests


def test_an_owner_that_lets_nothing_pass_for_minutes_is_parked_and_comes_back() -> None:
    world = fleet(2)
    refusal = answer(Kind.RATE_LIMITED, scope="organization", model_only=True)
    calls = Calls(world, lambda key, now, model: refusal if key == "o0#1" and now < 1500 else OK)
    for n in range(int(HOUR)):
        calls.call(float(n))
    seen: list[tuple[str, str]] = []
    world.simulation.at(NOTHING_PASSES_FOR + 100, lambda: seen.extend(unavailable(world)))
    world.run()
    assert seen == [("model m of o0", "parked")]
    assert calls.lost == 0
    assert sum(key == "o0#1" and at < 1500 for at, key in calls.sent) <= 15
    assert unavailable(world) == []


def test_a_long_lock_is_shown_probed_and_revived() -> None:
    world = fleet(1)
    refusal = answer(Kind.RATE_LIMITED, scope="organization", model_only=True, retry_after=86_400.0)
    calls = Calls(world, lambda key, now, model: refusal if len(calls.sent) < 3 else OK)
    calls.call(0.0, timeout=2.0)
    calls.call(590.0, timeout=2.0)
    calls.call(605.0, timeout=2.0)
    world.run(650.0)
    assert [round(at) for at, _ in calls.sent] == [0, 605]
    (lock,) = world.pool.status().unavailable
    assert (lock.subject, lock.state, lock.reason) == ("model m of o0", "parked", "rate_limited")
    assert lock.age == pytest.approx(world.clock.now() - 605.1)
    assert lock.retry_after is not None
    assert lock.retry_after <= 600
    assert world.pool.revive("o0") >= 1
    assert world.pool.eta(ONE) == 0
    calls.call(660.0, timeout=2.0)
    world.run()
    assert not unavailable(world)


def test_a_call_that_sleeps_before_a_further_attempt_is_counted_and_says_why() -> None:
    world = fleet(1)
    refusal = answer(Kind.SERVER_ERROR, scope="provider", retry_after=30.0)
    calls = Calls(world, lambda key, now, model: OK if now > 10 else refusal)
    calls.call()
    world.run(5.0)
    (queue,) = world.pool.status().queues
    assert (queue.model, queue.waiting) == ("m", 1)
    assert "server_error" in queue.why
    world.run()
    assert world.pool.status().waiting == 0
    assert calls.lost == 0


def test_revive_forgets_what_answers_taught_of_what_it_names() -> None:
    world = World(acme=Limits(rpm=600), birch=Limits(rpm=600))
    told = answer(
        Kind.RATE_LIMITED,
        scope="organization",
        metric=Metric.REQUESTS,
        period=60.0,
        limit=200.0,
        used=200.0,
        requested=1.0,
        retry_after=50.0,
    )
    for lease in [world.pool.lease(ONE) for _ in range(2)]:
        lease.fail(told)
    assert world.pool.eta(ONE) > 1
    assert world.pool.revive("acme") == 1
    assert world.pool.eta(ONE) == 0
    left = {s.owner: s.levels[0] for s in world.pool.status().scopes}
    assert left["acme"].limit == 600
    assert left["birch"].limit == 200, "it was not named"
    assert world.pool.revive() == 1
    assert world.pool.revive() == 0


def test_a_limit_above_the_configured_one_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[object] = []
    pool = KeyPool(
        [Organization(name="acme", keys=(secret("acme"),), limits=Limits(rpm=100))],
        listeners=[seen.append],
        clock=FakeClock(),
    )
    more = Reading(metric=Metric.REQUESTS, limit=500.0, level=400.0, period=60.0)
    for reading in (more._replace(limit=50.0), more, more):
        lease = pool.lease(ONE)
        lease.observe(Observation(readings=(reading,)))
        lease.settle()
    (raised,) = [event for event in seen if isinstance(event, LimitChanged)]
    assert raised == LimitChanged(
        owner="acme", metric="requests", period=60.0, configured=100.0, told=500.0
    )
    assert sum("more than the configured 100" in line for line in caplog.messages) == 1
    assert pool.status().scopes[0].levels[0].limit <= 100
