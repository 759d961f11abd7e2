"""Another owner, the same again, or stop; tenacity's objects as policies; the budget."""

from __future__ import annotations

import pytest
from tenacity import stop_after_attempt, stop_after_delay, wait_exponential, wait_fixed
from tenacity.stop import stop_any

from quotafleet import RetryPolicy
from quotafleet._core.call.retry import RULES, UNCOUNTED, Attempts, RetryBudget, Verdict
from quotafleet.outcomes import Kind, Outcome

OTHERS = frozenset({"a", "b", "c"})


def decide(
    kind: Kind,
    *,
    policy: RetryPolicy | None = None,
    attempts: Attempts | None = None,
    others: frozenset[str] = OTHERS,
    budget: RetryBudget | None = None,
    now: float = 0.0,
    owner: str = "a",
    may_wait: bool = True,
    has_siblings: bool = False,
    **told: object,
) -> Verdict:
    return (policy or RetryPolicy()).decide(
        attempts or Attempts(0.0),
        Outcome(kind=kind, **told),  # type: ignore[arg-type]
        owner=owner,
        others=others,
        budget=budget or RetryBudget(),
        now=now,
        may_wait=may_wait,
        has_siblings=has_siblings,
    )


def test_every_kind_has_a_rule() -> None:
    assert set(RULES) == set(Kind)


@pytest.mark.parametrize("kind", [Kind.BAD_REQUEST, Kind.CONTENT, Kind.CANCELLED, Kind.OK])
def test_what_was_charged_and_wrong_is_never_repeated(kind: Kind) -> None:
    assert not decide(kind).retry


@pytest.mark.parametrize("kind", [Kind.SERVER_ERROR, Kind.NETWORK])
def test_another_owner_first_at_once_and_the_same_last(kind: Kind) -> None:
    assert decide(kind) == Verdict(retry=True, delay=0.0, last=frozenset({"a"}))


def test_an_owner_that_did_not_answer_is_avoided() -> None:
    assert decide(Kind.TIMEOUT) == Verdict(retry=True, delay=0.0, avoid=frozenset({"a"}))


def test_waiting_second_when_all_owners_were_tried() -> None:
    policy = RetryPolicy(wait=wait_fixed(7))
    verdict = decide(Kind.SERVER_ERROR, policy=policy, others=frozenset({"a"}))
    assert verdict == Verdict(retry=True, delay=7.0, avoid=frozenset())


def test_retry_after_is_a_minimum_of_the_delay() -> None:
    policy = RetryPolicy(wait=wait_fixed(2))
    alone = frozenset({"a"})
    assert decide(Kind.SERVER_ERROR, policy=policy, others=alone, retry_after=9.0).delay == 9.0
    assert decide(Kind.SERVER_ERROR, policy=policy, others=alone, retry_after=1.0).delay == 2.0


def test_jitter_is_applied_to_the_delay_in_one_place() -> None:
    policy = RetryPolicy(wait=wait_fixed(8), jitter=lambda delay: delay / 4)
    assert decide(Kind.TIMEOUT, policy=policy, others=frozenset()).delay == 2.0


def test_exponential_wait_reads_the_attempt_number() -> None:
    policy = RetryPolicy(wait=wait_exponential(multiplier=1, max=30))
    attempts = Attempts(0.0)
    alone = frozenset({"a"})
    delays = [
        decide(Kind.TIMEOUT, policy=policy, attempts=attempts, others=alone).delay for _ in range(6)
    ]
    assert delays == [1, 2, 4, 8, 16, 30]


def test_a_rate_limit_needs_no_delay_and_avoids_nobody() -> None:
    assert decide(Kind.RATE_LIMITED, retry_after=20.0) == Verdict(retry=True)


def test_stop_policies_read_attempts_and_time_on_our_clock() -> None:
    policy = RetryPolicy(stop=stop_any(stop_after_attempt(3), stop_after_delay(10)))
    attempts = Attempts(100.0)
    verdicts = [
        decide(Kind.SERVER_ERROR, policy=policy, attempts=attempts, now=101.0).retry
        for _ in range(3)
    ]
    assert verdicts == [True, True, False]
    assert decide(Kind.TIMEOUT, policy=policy, attempts=Attempts(100.0), now=109.0).retry
    assert not decide(Kind.TIMEOUT, policy=policy, attempts=Attempts(100.0), now=110.0).retry


def test_a_dead_key_does_not_count_against_the_attempts_and_is_bounded_all_the_same() -> None:
    policy = RetryPolicy(stop=stop_after_attempt(1))
    attempts = Attempts(0.0)
    kinds = [Kind.KEY_INVALID, Kind.QUOTA_EXHAUSTED] * (UNCOUNTED // 2)
    retries = [decide(kind, policy=policy, attempts=attempts).retry for kind in kinds]
    assert retries == [True] * (UNCOUNTED - 1) + [False]
    assert not decide(Kind.SERVER_ERROR, policy=policy, attempts=Attempts(0.0)).retry


def test_trouble_that_three_owners_share_ends_the_call() -> None:
    attempts = Attempts(0.0)
    retries = [
        decide(Kind.KEY_INVALID, attempts=attempts, owner=owner).retry for owner in ("a", "b", "c")
    ]
    assert retries == [True, True, False]


class TestSecondOpinion:
    @pytest.mark.parametrize("kind", [Kind.BAD_REQUEST, Kind.ACCESS_DENIED, Kind.KEY_INVALID])
    def test_an_uncertain_answer_is_asked_for_once_at_another_owner(self, kind: Kind) -> None:
        attempts = Attempts(0.0)
        policy = RetryPolicy(stop=stop_after_attempt(1))
        first = decide(kind, policy=policy, attempts=attempts, certain=False)
        assert first == Verdict(retry=True, avoid=frozenset({"a"}), is_second_opinion=True)
        assert not decide(kind, attempts=attempts, owner="b", certain=False).retry

    def test_nobody_else_can_be_asked(self) -> None:
        alone = frozenset({"a"})
        assert not decide(Kind.BAD_REQUEST, others=alone, certain=False).retry
        assert not decide(Kind.BAD_REQUEST, others=alone, certain=False, has_siblings=True).retry

    def test_a_credential_is_compared_with_another_of_its_owner(self) -> None:
        alone = frozenset({"a"})
        verdict = decide(Kind.ACCESS_DENIED, others=alone, certain=False, has_siblings=True)
        assert verdict == Verdict(retry=True, is_second_opinion=True)


def test_a_refusal_that_states_no_delay_counts_only_where_the_call_may_not_wait() -> None:
    attempts = Attempts(0.0)
    policy = RetryPolicy(stop=stop_after_attempt(2))
    for _ in range(20):
        assert decide(Kind.RATE_LIMITED, policy=policy, attempts=attempts).retry
    assert decide(Kind.RATE_LIMITED, policy=policy, attempts=attempts, may_wait=False).retry
    assert not decide(Kind.RATE_LIMITED, policy=policy, attempts=attempts, may_wait=False).retry
    once = RetryPolicy(stop=stop_after_attempt(1))
    assert not decide(Kind.RATE_LIMITED, policy=once).retry, "its caller wants no repetition"


def test_too_large_goes_to_each_other_owner_once_then_stops() -> None:
    assert decide(Kind.TOO_LARGE, scope="organization").avoid == {"a"}
    assert not decide(Kind.TOO_LARGE, scope="organization", others=frozenset({"a"})).retry


def test_too_large_for_the_model_stops_at_once() -> None:
    assert not decide(Kind.TOO_LARGE).retry


def test_denied_model_avoids_the_owner() -> None:
    assert decide(Kind.ACCESS_DENIED, model_only=True).avoid == {"a"}


def test_conflict_is_repeated_once() -> None:
    attempts = Attempts(0.0)
    assert decide(Kind.CONFLICT, attempts=attempts).retry
    assert not decide(Kind.CONFLICT, attempts=attempts).retry


class TestBudget:
    def test_faults_draw_on_it_and_rate_limits_do_not(self) -> None:
        budget = RetryBudget(most=2, per_second=0)
        assert decide(Kind.SERVER_ERROR, budget=budget).retry
        assert decide(Kind.SERVER_ERROR, budget=budget).retry
        assert not decide(Kind.SERVER_ERROR, budget=budget).retry
        assert decide(Kind.RATE_LIMITED, budget=budget).retry

    def test_calls_and_time_earn_it_back_up_to_its_bound(self) -> None:
        budget = RetryBudget(most=1, per_call=0.25, per_second=0.5)
        assert budget.spend(0.0)
        for _ in range(3):
            budget.earn()
        assert not budget.spend(0.0)
        budget.earn()
        assert budget.spend(0.0)
        assert not budget.spend(1.0)
        assert budget.spend(2.0)
        for _ in range(100):
            budget.earn()
        assert budget.level == 1
