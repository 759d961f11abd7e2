"""Ten facts about OpenAI's limits, measured on recorded traffic, that the mock must reproduce."""

import re

import pytest

from quotafleet.testing import (
    LimitRules,
    MockFleet,
    MockKey,
    MockModelLimits,
    MockProject,
    MockSettings,
    ModelSpec,
)

from .mock_kit import (
    chat,
    clock,
    error,
    headers,
    made,
    one_org,
    post,
    provider,
    told,
    used,
    words_of,
)

TPM = "org-acme/gpt-4o-mini/tpm"


def test_one_request_of_3500_a_minute_resets_in_17ms() -> None:
    shown = headers(chat(provider({"rpm": 3500})).finish())
    assert shown["x-ratelimit-limit-requests"] == "3500"
    assert shown["x-ratelimit-remaining-requests"] == "3499"
    assert shown["x-ratelimit-reset-requests"] == "17ms"


def test_three_requests_of_200_a_day_reset_within_21m36s() -> None:
    mock = provider({"rpm": 500, "rpd": 200})
    for _ in range(2):
        chat(mock)
        clock(mock).advance(0.5)
    shown = headers(chat(mock))
    assert shown["x-ratelimit-limit-requests"] == "200"  # the daily limit hides the other
    minutes, seconds = re.fullmatch(
        r"(\d+)m([\d.]+)s", shown["x-ratelimit-reset-requests"]
    ).groups()  # type: ignore[union-attr]
    assert 20 * 60 + 51 < int(minutes) * 60 + float(seconds) <= 21 * 60 + 36


def test_a_full_minute_of_tokens_says_84ms() -> None:
    mock = provider({"tpm": 200_000})
    for tokens in (100_000, 95_869):
        assert chat(mock, words_of(tokens)).status == 200
    refused = chat(mock, words_of(4_412))
    assert refused.status == 429
    assert error(refused)["message"] == (
        "Rate limit reached for gpt-4o-mini in organization org-acme on tokens per min (TPM):"
        " Limit 200000, Used 195869, Requested 4412. Please try again in 84ms."
        " Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    assert error(refused)["type"] == "tokens"
    clock(mock).advance(0.085)
    assert chat(mock, words_of(4_412)).status == 200


@pytest.mark.parametrize("charge_rejected", [True, False])
def test_more_than_the_limit_never_succeeds_and_takes_no_tokens(charge_rejected: bool) -> None:
    settings = MockSettings(rules=LimitRules(refusals="counted" if charge_rejected else "free"))
    mock = provider({"rpm": 500, "tpm": 30_000}, settings=settings)
    for _ in range(5):
        refused = chat(mock, words_of(36_858))
        assert refused.status == 429
        assert error(refused)["message"] == (
            "Request too large for gpt-4o-mini in organization org-acme on tokens per min (TPM):"
            " Limit 30000, Requested 36858. The input or output tokens must be reduced in order to"
            " run successfully. Visit https://platform.openai.com/account/rate-limits to learn"
            " more."
        )
        assert "retry-after" not in headers(refused)
        assert used(mock, TPM) == 0
        assert used(mock, "org-acme/gpt-4o-mini/rpm") == (1 if charge_rejected else 0)
        clock(mock).advance(3600)


def test_keys_share_the_bucket_of_their_organisation() -> None:
    projects = tuple(MockProject(id=f"proj_{name}", org="org-acme") for name in ("a", "b"))
    keys = tuple(
        MockKey(name=name, secret=f"sk-{name}", project=f"proj_{name[0]}")
        for name in ("a1", "a2", "b1")
    )
    mock = made(one_org(projects=projects, keys=keys))
    left = [
        headers(chat(mock, model="gpt-4o", secret=f"sk-{name}"))["x-ratelimit-remaining-requests"]
        for name in ("a1", "a2", "b1")
    ]
    assert left == ["499", "498", "497"]


def test_a_projects_own_limit_is_another_bucket() -> None:
    own = {"gpt-4o": MockModelLimits(rpm=2)}
    projects = (
        MockProject(id="proj_a", org="org-acme", overrides=own),
        MockProject(id="proj_b", org="org-acme"),
    )
    keys = tuple(MockKey(name=n, secret=f"sk-{n}", project=f"proj_{n}") for n in ("a", "b"))
    mock = made(one_org(projects=projects, keys=keys))
    shown = headers(chat(mock, model="gpt-4o", secret="sk-a"))
    assert shown["x-ratelimit-limit-project-requests"] == "2"
    assert shown["x-ratelimit-remaining-requests"] == "499"
    chat(mock, model="gpt-4o", secret="sk-a")
    refused = chat(mock, model="gpt-4o", secret="sk-a")
    assert error(refused)["message"].startswith(
        "Rate limit reached for gpt-4o in project proj_a organization org-acme on requests per min"
        " (RPM): Limit 2, Used 2, Requested 1. Please try again in 30s."
    )
    other = chat(mock, model="gpt-4o", secret="sk-b")
    assert other.status == 200
    assert "x-ratelimit-limit-project-requests" not in headers(other)


def test_refused_tokens_do_not_raise_used() -> None:
    mock = provider({"rpm": 500, "tpm": 500_000})
    assert chat(mock, words_of(442_231), model="gpt-4.1").status == 200
    first = chat(mock, words_of(249_686), model="gpt-4.1")
    assert "Used 442231, Requested 249686. Please try again in 23.03s." in error(first)["message"]
    clock(mock).advance(5.478)  # 45,650 tokens
    second = chat(mock, words_of(249_686), model="gpt-4.1")
    assert re.search(r"Used 39658\d, Requested 249686", error(second)["message"])


def test_chat_ignores_max_tokens() -> None:
    mock = provider({"tpm": 200_000})
    exchange = chat(mock, "x" * 23, max_tokens=16_384)
    assert exchange.cost == 8 == used(mock, TPM)


def test_text_counts_in_bytes() -> None:
    exchange = chat(provider(), "中" * 100, n=2)
    assert exchange.cost == 75 + 1 + 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "n": 0}),
        ("/v1/completions", {"prompt": "hi", "temperature": 9}),
        ("/v1/embeddings", {"input": 5}),
    ],
)
def test_a_400_is_charged(path: str, body: dict[str, object]) -> None:
    mock = provider({"rpm": 500, "tpm": 200_000})
    refused = post(mock, {"model": "gpt-4o-mini", **body}, path)
    assert refused.status == 400
    assert headers(refused)["x-ratelimit-remaining-requests"] == "499"
    assert used(mock, "org-acme/gpt-4o-mini/rpm") == 1
    assert used(mock, TPM) >= 1


def test_responses_settle_at_completion() -> None:
    fleet = MockFleet.simple({"acme": {"tpm": 200_000}}, models=[ModelSpec(name="gpt-5-nano")])
    mock = made(fleet, settings=MockSettings(tokens_per_s=60))
    mock.script(output_tokens=567)
    asked = post(mock, {"model": "gpt-5-nano", "input": "hello there"}, "/v1/responses")
    assert headers(asked)["x-ratelimit-remaining-tokens"] == str(200_000 - 217 - 3)
    assert asked.latency_s == pytest.approx(567 / 60)
    clock(mock).advance(asked.latency_s)
    asked.finish()
    assert headers(asked)["x-ratelimit-remaining-tokens"] == str(200_000 - 350)
    assert used(mock, "org-acme/gpt-5-nano/tpm") == 350
    assert told(asked)["usage"]["output_tokens"] == 567
