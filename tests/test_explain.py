"""What one answer means, by kind of fault. The bodies are in the providers' documented shapes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quotafleet import ConfigError, explain
from quotafleet.explain import Explanation

NOON = {"date": "Mon, 30 Nov 2026 12:00:00 GMT"}


def of(
    status: int,
    body: object,
    headers: Mapping[str, str] | None = None,
    provider: str = "generic",
    *,
    stream: bool = False,
) -> Explanation:
    text = body if isinstance(body, str) else json.dumps(body)
    return explain(status, headers or {}, text.encode(), provider=provider, stream=stream)


def error(message: str = "", **more: object) -> dict[str, object]:
    return {"error": {"message": message, **more}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, error("Your input was flagged", metadata={"reasons": ["violence"]})),
        (403, ""),
        (401, ""),
        (403, "<html><body>Attention Required!</body></html>"),
        (401, error("You have insufficient permissions. Missing scopes: api.files.read")),
        (403, error("Forbidden")),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "azure", "generic"])
def test_a_refusal_that_names_no_key_never_speaks_of_one(
    status: int, body: object, provider: str
) -> None:
    found = of(status, body, provider=provider)
    assert found.subject in ("request", "nobody", "provider")
    assert "out of use" not in found.action


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (401, error("Incorrect API key provided: sk-...", code="invalid_api_key"), {}),
        (401, {"detail": "Invalid API Key"}, {}),
        (400, {"code": "invalid-argument", "error": "Incorrect API key provided: xa***"}, {}),
        (401, {"type": "error", "error": {"type": "authentication_error",
                                          "message": "invalid x-api-key"}}, {}),
        (400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid.",
                         "details": [{"reason": "API_KEY_INVALID"}]}}, {}),
        (403, {"message": "The security token included in the request is expired"},
         {"x-amzn-errortype": "ExpiredTokenException:http://internal"}),
    ],
)  # fmt: skip
def test_a_code_or_wording_that_names_the_key_does(
    status: int, body: object, headers: dict[str, str]
) -> None:
    found = of(status, body, headers)
    assert (found.kind, found.subject) == ("key_invalid", "key")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, {"code": "permission-denied", "error": "Your team has used all available credits"}),
        (412, error("Account acme is suspended, possibly due to reaching the spending limit")),
        (402, error("Insufficient Balance", code="invalid_request_error")),
        (400, error("Your credit balance is too low to access the API")),
        (403, error("用户额度不足", code="insufficient_user_quota")),
        (429, error("您的账户已欠费，请充值后重试。", code="1113")),
        (200, {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "no balance"}}),
        (403, error("Your account is restricted. Contact billing.")),
    ],
)
def test_money_parks_an_owner_whatever_the_status(status: int, body: object) -> None:
    found = of(status, body)
    assert (found.kind, found.subject) == ("quota_exhausted", "owner")
    assert found.action.startswith("park")


def test_a_throttle_that_passes_in_a_minute_is_no_empty_purse() -> None:
    throttled = error("You exceeded your current quota. See error-code#token-limit",
                      code="insufficient_quota")  # fmt: skip
    assert of(429, throttled).kind == "rate_limited"
    assert of(402, error("busy", metadata={"error_type": "in_flight_budget_exhausted"}),
              {"retry-after": "3"}).seconds == 3  # fmt: skip


GOOGLE = "type.googleapis.com/google.rpc."


def exhausted(*violations: Mapping[str, str], delay: str = "") -> list[dict[str, Any]]:
    details: list[dict[str, Any]] = [{"@type": f"{GOOGLE}QuotaFailure", "violations": violations}]
    if delay:
        details.append({"@type": f"{GOOGLE}RetryInfo", "retryDelay": delay})
    text = "You exceeded your current quota"
    return [error(text, code=429, status="RESOURCE_EXHAUSTED", details=details)]


def test_quotas_in_details_are_read_and_the_longest_period_binds() -> None:
    minute = {"quotaId": "GenerateContentInputTokensPerModelPerMinute", "quotaValue": "250000"}
    day = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "50"}
    found = of(429, exhausted(minute, delay="26.5s"))
    assert (found.metric, found.period, found.limit) == ("INPUT_TOKENS", 60.0, 250_000)
    assert found.seconds == 26.5
    found = of(429, exhausted(minute, day))
    assert (found.metric, found.period, found.limit) == ("REQUESTS", 86_400.0, 50)


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        (error("Try again in 50 seconds."), {}, 50),
        (error("Please wait 2 minutes before retrying"), {}, 120),
        (error("slow"), {"retry-after": "1", "retry-after-ms": "0"}, 1),
        (error("slow"), {"retry-after": "1", "retry-after-ms": "1500"}, 1.5),
        (error("You will regain access on 2026-12-01 at 00:00 UTC."), NOON, 43_200),
        (error("Resets at 2026-11-30T12:00:30Z"), NOON, 30),
        (error("full", metadata={"headers": {"X-RateLimit-Reset": "1796126400000"}}), NOON, 86_400),
        (error("full", resets_at="2026-11-30T13:00:00Z"), NOON, 3_600),
        (error("您的套餐将于 2026-11-30 21:00:00 重置", code="1308"), NOON, 3_600),
        (error("nothing stated"), {}, None),
    ],
)
def test_a_delay_is_read_wherever_it_stands(
    body: object, headers: Mapping[str, str], seconds: float | None
) -> None:
    assert of(429, body, headers).seconds == seconds


@pytest.mark.parametrize(
    ("text", "metric", "period", "limit"),
    [
        ("rate limit of 30,000 input tokens per minute", "INPUT_TOKENS", 60.0, 30_000),
        ("Your rate limit is 60 queries per minute", "REQUESTS", 60.0, 60),
        ("Tokens per Minute (actual/limit): 65605/16000", "TOKENS", 60.0, 16_000),
        ("reached organization max RPM: 20", "REQUESTS", 60.0, 20),
        ("limited to 40 API calls / minute", "REQUESTS", 60.0, 40),
        ("Details: TPM limit reached.", "TOKENS", 60.0, None),
        ("You are past the per minute request limit", "REQUESTS", 60.0, None),
        ("Too many tokens per day, please wait", "TOKENS", 86_400.0, None),
        ("Rate limit of 8 per 86400s exceeded", None, 86_400.0, 8),
    ],
)
def test_a_text_states_metric_period_and_limit(
    text: str, metric: str | None, period: float | None, limit: float | None
) -> None:
    found = of(429, error(text))
    assert (found.kind, found.metric, found.period, found.limit) == (
        "rate_limited", metric, period, limit,
    )  # fmt: skip


def test_a_share_of_nothing_used_is_no_limit_of_zero() -> None:
    text = "Hit token rate limit. Minute limit: 0 / 1600000 tokens. Day limit: 21 / 10 tokens."
    found = of(429, error(text))
    assert (found.kind, found.period) == ("rate_limited", 86_400.0)


@pytest.mark.parametrize("body", [error("upstream broke", code=502), {"error": "out of order"}])
def test_an_error_under_200_is_an_error(body: object) -> None:
    assert of(200, body).kind in ("server_error", "bad_request")
    ordinary = {"choices": [{"message": {"content": 'say "error": {"code": 1}'}}], "error": None}
    assert of(200, ordinary).kind == "ok"


def test_an_unknown_4xx_asks_for_a_second_opinion_and_a_known_one_does_not() -> None:
    assert "second opinion" in of(400, error("engine 7 is on fire")).action
    assert "second opinion" not in of(400, error("This model's maximum context length is 8")).action


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({"x-ratelimit-limit-requests": "250", "x-ratelimit-remaining-requests": "249",
          "x-ratelimit-reset-requests": "0", "x-ratelimit-renewalperiod-requests": "60"},
         [("REQUESTS", 60.0, 250, 249)]),
        ({"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1"}, []),
        ({"anthropic-ratelimit-input-tokens-limit": "400000",
          "anthropic-ratelimit-input-tokens-remaining": "399000",
          "anthropic-ratelimit-tokens-limit": "480000",
          "anthropic-ratelimit-tokens-remaining": "479000"},
         [("INPUT_TOKENS", 60.0, 400_000, 399_000)]),
        ({"x-ratelimit-limit-req-10-second": "60", "x-ratelimit-remaining-req-10-second": "53"},
         [("REQUESTS", 10.0, 60, 53)]),
        ({"x-ratelimitbysize-limit-minute": "500000", "x-ratelimitbysize-remaining-minute": "401"},
         [("TOKENS", 60.0, 500_000, 401)]),
        ({"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "9"},
         [("REQUESTS", 86_400.0, 1000, 9)]),
        ({"x-ratelimit-limit-requests": "1800", "x-ratelimit-remaining-requests": "1800",
          "x-ratelimit-limit-tokens": "10000", "x-ratelimit-remaining-tokens": "10000"},
         [("REQUESTS", 60.0, 1800, 1800), ("TOKENS", 60.0, 10_000, 10_000)]),
        ({"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "99",
          "llm_provider-x-ratelimit-reset-requests": "600ms"}, [("REQUESTS", 60.0, 100, 99)]),
        ({"ratelimit": '"api";r=999;t=295', "ratelimit-policy": '"api";q=1000;w=300'},
         [("REQUESTS", 300.0, 1000, 999)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("provider", ["azure", "generic"])
def test_headers_state_what_is_counted_and_over_how_long(
    headers: dict[str, str], limits: list[tuple[str, float, float, float]], provider: str
) -> None:
    assert list(of(200, {}, headers, provider).limits) == limits


def test_a_wrong_status_or_provider_names_the_cure() -> None:
    with pytest.raises(ConfigError, match="42 is no HTTP status"):
        of(42, "")
    with pytest.raises(ConfigError, match="unknown provider 'opnai'"):
        of(429, "", provider="opnai")


@pytest.mark.skipif("QUOTAFLEET_ANSWERS" not in os.environ, reason="no file of answers is given")
def test_a_file_of_real_answers_is_read_right() -> None:
    """Judge by answers with what a careful client concludes; print the misread ones by kind."""
    rows = Path(os.environ["QUOTAFLEET_ANSWERS"]).read_text("utf-8").splitlines()
    wrong: Counter[str] = Counter()
    for row in map(json.loads, rows):
        found = of(row["status"], row["body"], row["headers"], row["dialect"], stream=row["stream"])
        expected = row["expect"]["kinds"]
        if found.kind not in expected:
            wrong[f"{expected[0]} read as {found.kind}"] += 1
        severe = {"key_invalid", "quota_exhausted", "access_denied"}
        assert found.kind in expected or found.kind not in severe, row
    print(*(f"{count:4} {what}" for what, count in wrong.most_common()), sep="\n")
    assert wrong.total() <= 0.02 * len(rows)
