"""Every refusal is the provider's own, word for word: clients read the delay out of the text."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from quotafleet.testing import (
    Exchange,
    MockFault,
    MockFleet,
    MockKey,
    MockModelLimits,
    MockOrganization,
    MockProject,
    MockProvider,
    MockSettings,
    ModelSpec,
)
from quotafleet.testing.mock.errors import FIXED

from .mock_kit import SECRET, chat, error, headers, made, one_org, post, provider, told, words_of

VISIT = "Visit https://platform.openai.com/account/rate-limits to learn more."


def last_of(times: int, of: MockProvider, **fields: Any) -> Exchange:
    for _ in range(times):
        exchange = chat(of, **fields)
    return exchange


def test_requests_per_minute() -> None:
    refused = last_of(3, provider({"rpm": 2}))
    assert refused.status == 429
    assert error(refused) == {
        "message": "Rate limit reached for gpt-4o-mini in organization org-acme on requests per min"
        f" (RPM): Limit 2, Used 2, Requested 1. Please try again in 30s. {VISIT}",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert headers(refused)["retry-after"] == "30"
    assert headers(refused)["x-ratelimit-remaining-requests"] == "0"


def test_the_500th_request_waits_120ms() -> None:
    refused = last_of(501, provider({"rpm": 500}))
    assert (
        "Limit 500, Used 500, Requested 1. Please try again in 120ms." in error(refused)["message"]
    )
    assert headers(refused)["retry-after"] == "1"  # whole seconds, at least one
    assert "retry-after-ms" not in headers(refused)


def test_requests_per_day() -> None:
    refused = last_of(51, provider({"rpm": 500, "rpd": 50}))
    message = error(refused)["message"]
    assert "on requests per day (RPD): Limit 50, Used 50, Requested 1." in message
    assert "Please try again in 28m48s." in message


def test_tokens_per_minute() -> None:
    mock = provider({"tpm": 30_000})
    chat(mock, words_of(22_999))
    refused = chat(mock, words_of(12_528))
    assert error(refused)["message"] == (
        "Rate limit reached for gpt-4o-mini in organization org-acme on tokens per min (TPM):"
        f" Limit 30000, Used 22999, Requested 12528. Please try again in 11.054s. {VISIT}"
    )


def test_tokens_per_day() -> None:
    mock = provider({"tpd": 1000})
    chat(mock, words_of(1000))
    message = error(chat(mock, words_of(10)))["message"]
    assert "on tokens per day (TPD): Limit 1000, Used 1000, Requested 10." in message
    assert "Please try again in 14m24s." in message


def test_free_accounts_are_told_to_pay() -> None:
    fleet = one_org(
        org=MockOrganization(id="org-acme", tier="free", limits={"*": MockModelLimits(rpm=1)})
    )
    refused = last_of(2, made(fleet), model="gpt-4o")
    assert error(refused)["message"].endswith(
        f"{VISIT} You can increase your rate limit by adding a payment method to your account at"
        " https://platform.openai.com/account/billing."
    )


def test_a_shared_limit_is_named() -> None:
    spec = ModelSpec(name="gpt-image-2-codex", family="gpt-image", limits=MockModelLimits(ipm=5))
    mock = made(one_org(spec))
    picture = {"model": "gpt-image-2-codex", "prompt": "a cat"}
    for _ in range(5):
        assert post(mock, picture, "/v1/images/generations").status == 200
    refused = post(mock, picture, "/v1/images/generations")
    assert error(refused)["message"] == (
        "Rate limit reached for gpt-image-2-codex (for limit gpt-image) in organization org-acme on"
        " input-images per min: Limit 5, Used 5, Requested 1. Please try again in 12s."
        f" {VISIT}"
    )
    assert error(refused)["type"] == "input-images"
    assert not [name for name in headers(refused) if name.startswith("x-ratelimit")]


def test_dall_e_states_no_time() -> None:
    mock = provider({"ipm": 5})
    refused = post(mock, {"model": "dall-e-3", "prompt": "x", "n": 5}, "/v1/images/generations")
    assert refused.status == 200
    refused = post(mock, {"model": "dall-e-3", "prompt": "x"}, "/v1/images/generations")
    assert error(refused)["message"] == (
        "Rate limit exceeded for images per minute in organization org-acme."
        " Limit: 5/1min. Current: 6/1min."
    )


def test_a_project_is_named_before_its_organisation() -> None:
    projects = (
        MockProject(id="proj_a", org="org-acme", overrides={"*": MockModelLimits(tpm=100)}),
    )
    mock = made(
        one_org(projects=projects, keys=(MockKey(name="a", secret=SECRET, project="proj_a"),))
    )
    chat(mock, words_of(90), model="gpt-4o")
    refused = chat(mock, words_of(50), model="gpt-4o")
    assert error(refused)["message"] == (
        "Rate limit reached for gpt-4o in project proj_a organization org-acme on tokens per min"
        f" (TPM): Limit 100, Used 90, Requested 50. Please try again in 24s. {VISIT}"
    )
    assert headers(refused)["x-ratelimit-remaining-project-tokens"] == "10"


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("FAKE-OPENAI-KEY", "FAKE-OPE***-KEY"),
        ("sk-proj-0123456789abcdef", "sk-proj-************cdef"),
        ("short", "*****"),
    ],
)
def test_a_wrong_key_is_masked(secret: str, shown: str) -> None:
    refused = chat(provider(), secret=secret)
    assert refused.status == 401
    assert error(refused) == {
        "message": f"Incorrect API key provided: {shown}. You can find your API key at"
        " https://platform.openai.com/account/api-keys.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert not [name for name in headers(refused) if "ratelimit" in name or "organization" in name]


def test_no_key_at_all() -> None:
    refused = chat(provider(), secret=None)
    assert refused.status == 401
    assert error(refused)["message"].startswith("You didn't provide an API key.")


def test_an_address_that_is_not_allowed() -> None:
    key = MockKey(name="a", secret=SECRET, project="proj_acme", ip_allow=frozenset({"10.0.0.1"}))
    mock = made(one_org(keys=(key,)))
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    assert error(post(mock, body, client_ip="10.0.0.2"))["code"] == "ip_not_authorized"
    assert post(mock, body, client_ip="10.0.0.1").status == 200


def test_a_model_that_does_not_exist() -> None:
    refused = chat(provider(), model="gpt-9")
    assert refused.status == 404
    assert error(refused)["code"] == "model_not_found"
    assert (
        error(refused)["message"]
        == "The model `gpt-9` does not exist or you do not have access to it."
    )
    assert "x-ratelimit-limit-requests" not in headers(refused)
    refused = post(provider(), {"model": "gpt-9", "input": "hi"}, "/v1/responses")
    assert refused.status == 400
    assert error(refused)["message"] == "The requested model 'gpt-9' does not exist."


def test_a_model_the_project_may_not_use() -> None:
    project = MockProject(id="proj_acme", org="org-acme", allowed_models=frozenset({"gpt-4o"}))
    specs = (ModelSpec(name="gpt-4o", aliases=("gpt-4o-2024-08-06",)), ModelSpec(name="other"))
    mock = made(one_org(*specs, projects=(project,)))
    refused = chat(mock, model="other")
    assert refused.status == 403
    assert error(refused)["message"] == "Project `proj_acme` does not have access to model `other`"
    assert chat(mock, model="gpt-4o-2024-08-06").status == 200


def test_an_input_longer_than_the_context() -> None:
    mock = made(one_org(ModelSpec(name="small", context_tokens=10, limits=MockModelLimits(rpm=9))))
    refused = chat(mock, "x" * 44, model="small")
    assert refused.status == 400
    assert error(refused) == {
        "message": "This model's maximum context length is 10 tokens. However, your messages"
        " resulted in 11 tokens. Please reduce the length of the messages.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    assert headers(refused)["x-ratelimit-remaining-requests"] == "8"
    refused = post(mock, {"model": "small", "input": "x" * 44}, "/v1/responses")
    assert error(refused)["message"].startswith(
        "Your input exceeds the context window of this model."
    )
    assert "x-ratelimit-remaining-requests" not in headers(refused)


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff"])
def test_a_body_that_is_not_json_is_not_charged(body: bytes) -> None:
    mock = provider()
    refused = post(mock, body)
    assert refused.status == 400
    assert error(refused)["message"].startswith("We could not parse the JSON body of your request.")
    assert mock.state()["buckets"] == {}


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"messages": []}, "missing_required_parameter", "Missing required parameter: 'messages'."),
        (
            {"messages": 5},
            "invalid_type",
            "Invalid type for 'messages': expected an array of objects, but got an integer"
            " instead.",
        ),
        (
            {"n": 0},
            "integer_below_min_value",
            "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        ),
        (
            {"n": 129},
            "integer_above_max_value",
            "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 129"
            " instead.",
        ),
        (
            {"temperature": 2.5},
            "decimal_above_max_value",
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got"
            " 2.5 instead.",
        ),
        (
            {"temperature": -1},
            "decimal_below_min_value",
            "Invalid 'temperature': decimal below minimum value. Expected a value >= 0, but got"
            " -1.0 instead.",
        ),
    ],
)
def test_parameters_that_are_wrong(fields: dict[str, Any], code: str, message: str) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], **fields}
    refused = post(provider(), body)
    assert refused.status == 400
    assert error(refused)["code"] == code
    assert error(refused)["message"] == message


def test_no_model_and_no_such_path() -> None:
    assert error(post(provider(), {}))["message"] == "you must provide a model parameter"
    refused = post(provider(), {}, "/v1/nothing")
    assert refused.status == 404
    assert error(refused)["message"] == "Invalid URL (POST /v1/nothing)"


@pytest.mark.parametrize(
    ("org", "project", "code", "message"),
    [
        (
            {"credits_usd": Decimal(0)},
            {},
            "credit_balance_exhausted",
            "You have no credits remaining. Add credits to continue using the API at"
            " https://platform.openai.com/settings/organization/billing/.",
        ),
        (
            {"spend_limit_usd": Decimal(5), "month_spend_usd": Decimal(5)},
            {},
            "organization_spend_limit_exceeded",
            None,
        ),
        (
            {"usage_limit_usd": Decimal(5), "month_spend_usd": Decimal(6)},
            {},
            "organization_usage_limit_exceeded",
            None,
        ),
        (
            {},
            {"spend_limit_usd": Decimal(5), "month_spend_usd": Decimal(5)},
            "project_spend_limit_exceeded",
            None,
        ),
    ],
)
def test_money_that_is_spent(
    org: dict[str, Any], project: dict[str, Any], code: str, message: str | None
) -> None:
    fleet = one_org(
        org=MockOrganization(id="org-acme", **org),
        projects=(MockProject(id="proj_acme", org="org-acme", **project),),
    )
    refused = chat(made(fleet), model="gpt-4o")
    assert refused.status == 429
    assert error(refused)["type"] == "insufficient_quota"
    assert error(refused)["code"] == code
    assert message is None or error(refused)["message"] == message
    assert "retry-after" not in headers(refused)


@pytest.mark.parametrize(
    ("code", "status", "kind", "message"),
    [
        (
            "insufficient_quota",
            429,
            "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing details. For more"
            " information on this error, read the docs:"
            " https://platform.openai.com/docs/guides/error-codes/api-errors.",
        ),
        (
            "engine_overloaded",
            429,
            "requests",
            "The engine is currently overloaded, please try again later",
        ),
        (
            "model_overloaded",
            503,
            "server_error",
            "That model is currently overloaded with other requests.",
        ),
        ("server_is_overloaded", 503, "service_unavailable_error", None),
        ("slow_down", 429, "rate_limit_error", None),
        ("resource_unavailable", 429, None, "Resource Unavailable"),
        (
            "billing_hard_limit_reached",
            400,
            "billing_limit_user_error",
            "Billing hard limit has been reached",
        ),
        (
            "billing_not_active",
            429,
            "billing_not_active",
            "Your account is not active, please check your billing details on our website.",
        ),
        (
            "invalid_service_tier",
            400,
            "invalid_request_error",
            "Invalid service_tier argument: The requested service tier is not allowed for this"
            " project.",
        ),
        (
            "server_error",
            500,
            "server_error",
            "The server had an error while processing your request. Sorry about that!",
        ),
        ("unsupported_country_region_territory", 403, "request_forbidden", None),
    ],
)
def test_errors_on_order(code: str, status: int, kind: str | None, message: str | None) -> None:
    mock = provider()
    mock.inject(MockFault(action="error", code=code))
    refused = chat(mock)
    assert refused.status == status
    assert error(refused)["type"] == kind
    assert message is None or error(refused)["message"] == message


@pytest.mark.parametrize("row", FIXED.values(), ids=FIXED)
def test_every_fixed_row_is_whole(row: Callable[[], Any]) -> None:
    problem = row()
    assert problem.status >= 400
    assert problem.message
    assert problem.reason


def test_advice_headers_are_switches() -> None:
    settings = MockSettings(retry_after=False, retry_after_ms=True, x_should_retry=True)
    mock = made(MockFleet.simple({"acme": {"rpm": 7, "tpm": 100}}), settings=settings)
    for _ in range(7):
        chat(mock)
    shown = headers(chat(mock))
    assert "retry-after" not in shown
    assert shown["retry-after-ms"] == "8572"  # 60/7 s, rounded up
    assert shown["x-should-retry"] == "true"
    assert headers(chat(mock, words_of(101)))["x-should-retry"] == "false"


def test_an_answer_has_its_ids_and_its_owner() -> None:
    exchange = chat(provider())
    shown = headers(exchange)
    assert shown["openai-organization"] == "org-acme"
    assert shown["openai-project"] == "proj_acme"
    assert shown["openai-version"] == "2020-10-01"
    assert shown["openai-processing-ms"] == "0"
    assert len(shown["x-request-id"].removeprefix("req_")) == 32
    assert told(exchange)["id"].startswith("chatcmpl-")


@pytest.mark.parametrize(
    ("given", "code", "part"),
    [
        (["x" * (4 * 8192)] * 2, None, None),
        (["x" * (4 * 8192 + 1)], None, "you requested 8193 tokens"),
        ([[1] * 8193], None, "you requested 8193 tokens"),
        ([1] * 8193, None, "you requested 8193 tokens"),
        (["x"] * 2049, "array_above_max_length", "maximum length 2048"),
        (["x" * 32_000] * 38, "max_tokens_per_request", "Requested 304000 tokens, max 300000"),
        (["x", ""], None, "cannot be an empty string"),
    ],
)
def test_embeddings_have_limits_by_input_and_by_request(
    given: list[Any], code: str | None, part: str | None
) -> None:
    mock = provider({"rpm": 500, "tpm": 1_000_000})
    exchange = post(mock, {"model": "text-embedding-3-small", "input": given}, "/v1/embeddings")
    assert exchange.status == (200 if part is None else 400)
    if part is not None:
        assert part in error(exchange)["message"]
        assert error(exchange)["code"] == code
