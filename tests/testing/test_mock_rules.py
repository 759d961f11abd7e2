"""How limits are enforced, charged and stated, for the provider or one organization."""

from dataclasses import replace
from typing import Any

import pytest

from quotafleet.testing import (
    CoConsumer,
    LimitRules,
    MockCall,
    MockFleet,
    MockModelLimits,
    MockOrganization,
    MockProvider,
    MockSettings,
    RequestSize,
)
from quotafleet.testing.mock.cost import PROFILES
from quotafleet.testing.mock.specs import Enforcement

from .mock_kit import SECRET, chat, clock, error, headers, made, one_org, provider, used, words_of


def ruled(limits: dict[str, int], **rules: Any) -> MockProvider:
    return provider(limits, settings=MockSettings(rules=LimitRules(**rules)))


def owned(*consumers: CoConsumer, rules: LimitRules | None = None, **limits: int) -> MockProvider:
    """Return a provider with one organization that has its own rules and co-consumers."""
    org = MockOrganization(
        id="org-acme",
        limits={"*": MockModelLimits(**limits)},
        rules={} if rules is None else {"*": rules},
        co_consumers=consumers,
    )
    return made(one_org(org=org))


def admitted_at(mock: MockProvider, seconds: float, step: float = 0.25) -> list[float]:
    """Ask at every step, and return the instants at which a request is admitted."""
    found = []
    for _ in range(int(seconds / step)):
        if chat(mock, model="gpt-4o").status == 200:
            found.append(mock.clock.now())
        clock(mock).advance(step)
    return found


@pytest.mark.parametrize(
    ("enforced", "window_s", "expected"),
    [
        ("single", None, [0.0, 1.0, 2.0, 3.0]),
        ("bucket", 1.0, [0.0, 1.0, 2.0, 3.0]),
        ("sliding", 1.0, [0.0, 1.0, 2.0, 3.0]),
        ("fixed", 1.0, [0.0, 1.0, 2.0, 3.0]),
        ("fixed", 2.0, [0.0, 0.25, 2.0, 2.25]),
    ],
)
def test_sixty_a_minute_by_the_second(
    enforced: Enforcement, window_s: float | None, expected: list[float]
) -> None:
    mock = ruled({"rpm": 60}, enforced=enforced, window_s=window_s, refusals="free")
    assert admitted_at(mock, 4.0) == expected
    shown = headers(chat(mock, model="gpt-4o"))
    assert shown["x-ratelimit-limit-requests"] == "60"
    assert int(shown["x-ratelimit-remaining-requests"]) > 55


def test_one_by_one_concerns_requests_and_not_tokens() -> None:
    mock = ruled({"rpm": 60, "tpm": 6000}, enforced="single", refusals="free")
    assert chat(mock, words_of(4000)).status == 200
    clock(mock).advance(1.0)
    assert chat(mock, words_of(2000)).status == 200


@pytest.mark.parametrize(("enforced", "wait_s"), [("sliding", 60), ("fixed", 40), ("bucket", 20)])
def test_three_a_minute(enforced: Enforcement, wait_s: float) -> None:
    mock = ruled({"rpm": 3}, enforced=enforced, refusals="free")
    clock(mock).advance(20.0)
    assert [chat(mock).status for _ in range(4)] == [200, 200, 200, 429]
    assert used(mock, "org-acme/gpt-4o-mini/rpm") == 3
    assert int(headers(chat(mock))["retry-after"]) == wait_s
    clock(mock).advance(wait_s - 0.5)
    assert chat(mock).status == 429
    clock(mock).advance(0.5)
    assert chat(mock).status == 200


def test_a_fixed_window_admits_twice_its_limit_around_its_end() -> None:
    mock = ruled({"rpm": 3}, enforced="fixed")
    clock(mock).advance(59.9)
    assert [chat(mock).status for _ in range(3)] == [200, 200, 200]
    clock(mock).advance(0.1)
    assert [chat(mock).status for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize("enforced", ["bucket", "sliding"])
def test_owed_refusals_keep_out_who_goes_on_asking(enforced: Enforcement) -> None:
    mock = ruled({"rpm": 60}, enforced=enforced, window_s=1.0, refusals="owed")
    assert admitted_at(mock, 30.0, step=0.5) == [0.0]
    clock(mock).advance(30.0)
    assert chat(mock).status == 200


def test_counted_refusals_leave_the_stated_delay_true() -> None:
    mock = ruled({"rpm": 6}, refusals="counted")
    for _ in range(26):
        chat(mock)
    clock(mock).advance(10.0)
    assert chat(mock).status == 200


def test_refusals_are_charged_by_owner() -> None:
    owing, free = LimitRules(refusals="owed"), LimitRules(refusals="free")
    for rules, expected in ((owing, 4), (free, 1), (None, 1)):
        mock = owned(rules=rules, rpm=1)
        for _ in range(4):
            chat(mock, model="gpt-4o")
        assert used(mock, "org-acme/gpt-4o/rpm") == expected


def test_an_owner_may_state_nothing() -> None:
    mock = owned(rules=LimitRules(stated=False), rpm=1)
    assert not [name for name in headers(chat(mock, model="gpt-4o")) if "ratelimit" in name]
    refused = chat(mock, model="gpt-4o")
    assert "retry-after" not in headers(refused)
    assert error(refused)["message"] == "Rate limit exceeded, please try again later."


def test_a_stated_delay_may_be_below_the_truth() -> None:
    mock = ruled({"rpm": 6}, delay_scale=0.1)
    for _ in range(6):
        chat(mock)
    refused = chat(mock)
    assert "Please try again in 1s." in error(refused)["message"]
    assert headers(refused)["retry-after"] == "1"
    clock(mock).advance(1.0)
    assert chat(mock).status == 429


@pytest.mark.parametrize(
    ("profile", "max_tokens", "charged"),
    [
        ("chat_2025", 300, 102),
        ("chat_2024", 300, 401),
        ("docs_max", 300, 300),
        ("docs_max", 50, 100),
        ("reserve_max_tokens", 300, 400),
        ("reserve_max_tokens", None, 4196),
    ],
)
def test_each_owner_has_its_own_formula(profile: str, max_tokens: int | None, charged: int) -> None:
    mock = owned(rules=LimitRules(profiles={"chat": profile}), tpm=30_000)
    size = RequestSize(text_bytes=400, messages=1, max_tokens=max_tokens)
    call = MockCall(secret=SECRET, model="gpt-4o", ask=size, output_tokens=20)
    exchange = mock.admit(call)
    assert exchange.cost == charged
    exchange.finish()
    left = 120 if PROFILES[profile].true_up else charged
    assert used(mock, "org-acme/gpt-4o/tpm") == left


OTHER = CoConsumer(model="gpt-4o", per_second=0.5, text_bytes=400)


def test_a_co_consumer_draws_on_its_owners_limits() -> None:
    mock = owned(replace(OTHER, start_s=10.0, end_s=20.0), rpm=60, tpm=60_000)
    clock(mock).advance(9.9)
    assert used(mock, "org-acme/gpt-4o/rpm") == 0
    clock(mock).advance(0.1)
    assert used(mock, "org-acme/gpt-4o/tpm") == 102
    clock(mock).advance(600.0)
    report: Any = mock.state()
    assert report["orgs"]["org-acme"]["co_consumers"] == [
        {"admitted": 5, "refused": 0, "requests": 5.0, "tokens": 510}
    ]
    assert report["received"] == report["admitted"] == 0


def test_what_co_consumers_take_is_refused_to_others() -> None:
    mock = owned(replace(OTHER, per_second=1.0), rpm=60)
    clock(mock).advance(0.0)
    assert len(admitted_at(mock, 60.0, step=0.5)) == 59


def test_a_co_consumers_refused_requests_count_too() -> None:
    mock = owned(replace(OTHER, per_second=2.0), rules=LimitRules(refusals="owed"), rpm=60)
    clock(mock).advance(300.0)
    (other,) = mock.state()["orgs"]["org-acme"]["co_consumers"]  # type: ignore[index]
    assert other["requests"] == 601
    assert other["admitted"] == 119
    assert chat(mock, model="gpt-4o").status == 429


def test_rules_and_co_consumers_come_from_a_file() -> None:
    table = {
        "keys": {"k": "sk-mock-k"},
        "rules": {"*": {"enforced": "sliding", "window_s": 1, "profiles": {"chat": "docs_max"}}},
        "co_consumers": [{"model": "gpt-4o", "per_second": 2}],
    }
    (org,) = MockFleet.from_dict({"orgs": {"a": table}}).orgs
    assert org.rules["*"] == LimitRules(
        enforced="sliding", window_s=1, profiles={"chat": "docs_max"}
    )
    assert org.co_consumers == (CoConsumer(model="gpt-4o", per_second=2),)


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ({"rules": {"*": {"enforced": "leaky"}}}, r"orgs.a.rules.\*.enforced"),
        ({"rules": {"*": {"window_s": 61}}}, "at most 60 seconds"),
        ({"rules": {"*": {"delay_scale": -1}}}, "must not be negative"),
        ({"rules": {"*": {"profiles": {"chat": "none"}}}}, "no cost profile 'none'"),
        ({"rules": {"*": {"window": 1}}}, r"orgs.a.rules.\*.window: "),
        ({"co_consumers": [{"model": "gpt-4o", "per_second": 0}]}, "above 0"),
        (
            {"co_consumers": [{"model": "gpt-0", "per_second": 1}]},
            "gpt-0, which does not exist",
        ),
    ],
)
def test_wrong_rules_are_reported_with_their_place(table: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        MockFleet.from_dict({"orgs": {"a": {"keys": {"k": "sk-mock-k"}, **table}}})
