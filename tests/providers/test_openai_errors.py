from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet.limits import DAY, MINUTE, MONTH, Metric
from quotafleet.outcomes import OK, Kind, Outcome
from quotafleet.providers import OpenAI

ORG = "organization org-acme"
VISIT = "Visit https://platform.openai.com/account/rate-limits to learn more."


def body(message: str = "", code: object = None, kind: object = None) -> bytes:
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}).encode()


def read(
    status: int,
    message: str = "",
    code: object = None,
    kind: object = None,
    **headers: str,
) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return OpenAI().read(status, named, body(message, code, kind))


@pytest.mark.parametrize(
    ("on", "limit", "used", "requested", "delay", "metric", "period", "seconds"),
    [
        ("requests per min (RPM)", 500, 500, 1, "120ms", Metric.REQUESTS, MINUTE, 0.12),
        ("tokens per min (TPM)", 200000, 195869, 4412, "84ms", Metric.TOKENS, MINUTE, 0.084),
        ("tokens per min (TPM)", 500000, 442231, 249686, "23.03s", Metric.TOKENS, MINUTE, 23.03),
        ("tokens per min (TPM)", 30000, 22999, 12528, "11.054s", Metric.TOKENS, MINUTE, 11.054),
        ("requests per day (RPD)", 50, 50, 1, "28m48s", Metric.REQUESTS, DAY, 1728),
        ("requests per day (RPD)", 200, 200, 1, "7m12s", Metric.REQUESTS, DAY, 432),
        ("tokens per day (TPD)", 100000, 100000, 10, "8.64s", Metric.TOKENS, DAY, 8.64),
        ("tokens per min (TPM)", 100000, 96749, 19126, "114h18m0s", Metric.TOKENS, MONTH, 411480),
        ("input-images per min", 5, 5, 1, "12s", None, MINUTE, 12),
    ],
)
def test_published_texts_of_full_buckets(
    on: str,
    limit: int,
    used: int,
    requested: int,
    delay: str,
    metric: Metric | None,
    period: float,
    seconds: float,
) -> None:
    found = read(
        429,
        f"Rate limit reached for gpt-4o in {ORG} on {on}: Limit {limit}, Used {used}, "
        f"Requested {requested}. Please try again in {delay}. {VISIT}",
        "rate_limit_exceeded",
        "tokens",
    )
    assert found.kind is Kind.RATE_LIMITED
    assert found.scope == "organization"
    assert found.model_only
    assert (found.limit, found.used, found.requested) == (limit, used, requested)
    assert found.metric is metric
    assert found.period == period
    assert found.retry_after == pytest.approx(seconds)
    assert not found.charged
    assert found.code == "rate_limit_exceeded"


def test_a_projects_own_limit_is_the_projects() -> None:
    found = read(
        429,
        f"Rate limit reached for gpt-4o in project proj_abc {ORG} on tokens per min (TPM): "
        "Limit 10000, Used 9900, Requested 500. Please try again in 2.4s.",
        "rate_limit_exceeded",
        "tokens",
    )
    assert (found.kind, found.scope, found.period) == (Kind.RATE_LIMITED, "project", MINUTE)


def test_a_shared_limit_is_told_in_the_message() -> None:
    found = read(
        429,
        f"Rate limit reached for gpt-image-2-codex (for limit gpt-image) in {ORG} on "
        "input-images per min: Limit 5, Used 5, Requested 1. Please try again in 12s.",
        "rate_limit_exceeded",
        "input-images",
    )
    assert found.kind is Kind.RATE_LIMITED
    assert found.metric is None
    assert "(for limit gpt-image)" in found.message


@pytest.mark.parametrize(
    ("message", "kind", "limit", "used", "metric", "seconds"),
    [
        (
            f"Rate limit reached for default-text-davinci-003 in {ORG} on requests per min. "
            "Limit: 20.000000 / min. Current: 24.000000 / min.",
            "requests",
            20,
            24,
            Metric.REQUESTS,
            3,
        ),
        (
            f"Rate limit reached for default-gpt-3.5-turbo in {ORG} on requests per min. "
            "Limit: 3 / min. Please try again in 20s.",
            "requests",
            3,
            None,
            Metric.REQUESTS,
            20,
        ),
        (
            f"Rate limit exceeded for images per minute in {ORG}. Limit: 5/1min. Current: 6/1min.",
            "requests",
            5,
            6,
            Metric.IMAGES,
            12,
        ),
        (
            f"Rate limit reached for default-gpt-4 in {ORG} on tokens_usage_based per min. "
            "Limit: 90000 / min. Current: 91000 / min.",
            "tokens_usage_based",
            90000,
            91000,
            Metric.TOKENS,
            None,
        ),
    ],
)
def test_older_texts(
    message: str,
    kind: str,
    limit: float,
    used: float | None,
    metric: Metric,
    seconds: float | None,
) -> None:
    found = read(429, message, None, kind)
    assert found.kind is Kind.RATE_LIMITED
    assert (found.limit, found.used, found.metric, found.period) == (limit, used, metric, MINUTE)
    assert found.retry_after == seconds


def test_too_large_for_the_limit_is_told_apart_from_a_full_bucket() -> None:
    found = read(
        429,
        f"Request too large for gpt-4o in {ORG} on tokens per min (TPM): Limit 30000, Requested "
        "36858. The input or output tokens must be reduced in order to run successfully. " + VISIT,
        "rate_limit_exceeded",
        "tokens",
        retry_after="5",
    )
    assert (found.kind, found.scope) == (Kind.TOO_LARGE, "organization")
    assert (found.limit, found.requested, found.metric) == (30000, 36858, Metric.TOKENS)
    assert (found.retry_after, found.model_only, found.charged) == (None, True, False)


def test_a_limit_of_nothing_is_no_access() -> None:
    message = f"Rate limit exceeded for images per minute in {ORG}. Limit: 0/1min. Current: 1/1min."
    found = read(429, message, "rate_limit_exceeded", "requests")
    assert (found.kind, found.model_only, found.retry_after) == (Kind.ACCESS_DENIED, True, None)


QUOTA = "insufficient_quota"
NO_ACCESS = "The model `x` does not exist or you do not have access to it."
PROJECT = "Project `proj_1` does not have access to model `x`"
INVALID = "invalid_request_error"


@pytest.mark.parametrize(
    ("status", "message", "code", "type_", "kind", "scope", "model_only"),
    [
        (429, "", "slow_down", "rate_limit_error", Kind.SLOW_DOWN, "organization", True),
        (503, "", "slow_down", None, Kind.SLOW_DOWN, "organization", True),
        (503, "", "server_is_overloaded", "service_unavailable_error", Kind.OVERLOADED,
         "provider", True),
        (429, "The model is overloaded", "rate_limit_exceeded", INVALID, Kind.OVERLOADED,
         "provider", True),
        (429, "The engine is currently overloaded, please try again later", None, "requests",
         Kind.OVERLOADED, "provider", True),
        (503, "That model is currently overloaded with other requests", None, "server_error",
         Kind.OVERLOADED, "provider", True),
        (429, "Resource Unavailable", None, None, Kind.OVERLOADED, "provider", True),
        (429, "", "resource_unavailable", None, Kind.OVERLOADED, "provider", True),
        (429, "You have no credits remaining.", "credit_balance_exhausted", QUOTA,
         Kind.QUOTA_EXHAUSTED, "organization", False),
        (429, "", "organization_spend_limit_exceeded", QUOTA, Kind.QUOTA_EXHAUSTED,
         "organization", False),
        (429, "", "organization_usage_limit_exceeded", QUOTA, Kind.QUOTA_EXHAUSTED,
         "organization", False),
        (429, "", "project_spend_limit_exceeded", QUOTA, Kind.QUOTA_EXHAUSTED, "project", False),
        (429, "You exceeded your current quota, please check your plan", QUOTA, QUOTA,
         Kind.QUOTA_EXHAUSTED, "organization", False),
        (429, "", None, QUOTA, Kind.QUOTA_EXHAUSTED, "organization", False),
        (429, "You exceeded your current quota", None, None, Kind.QUOTA_EXHAUSTED,
         "organization", False),
        (400, "Billing hard limit has been reached", "billing_hard_limit_reached", INVALID,
         Kind.QUOTA_EXHAUSTED, "organization", False),
        (429, "Your account is not active, please check your billing details",
         "billing_not_active", "billing_limit_user_error", Kind.QUOTA_EXHAUSTED,
         "organization", False),
        (401, "Incorrect API key provided", "invalid_api_key", INVALID, Kind.KEY_INVALID,
         "key", False),
        (401, "You must be a member of an organization to use the API", None, INVALID,
         Kind.KEY_INVALID, None, False),
        (401, "", "ip_not_authorized", INVALID, Kind.ACCESS_DENIED, "key", False),
        (401, "Your request's IP address is not authorized", None, INVALID, Kind.ACCESS_DENIED,
         "key", False),
        (403, "You have insufficient permissions. Missing scopes: model.request", None, INVALID,
         Kind.ACCESS_DENIED, None, False),
        (404, NO_ACCESS, "model_not_found", INVALID, Kind.ACCESS_DENIED, "organization", True),
        (400, "The requested model 'x' does not exist.", "model_not_found", INVALID,
         Kind.ACCESS_DENIED, "organization", True),
        (403, PROJECT, "model_not_found", INVALID, Kind.ACCESS_DENIED, "project", True),
        (403, PROJECT, None, INVALID, Kind.ACCESS_DENIED, "project", True),
        (404, NO_ACCESS, None, None, Kind.ACCESS_DENIED, "organization", True),
        (403, "Country, region, or territory not supported",
         "unsupported_country_region_territory", "request_forbidden", Kind.ACCESS_DENIED,
         "provider", False),
        (403, "Country, region, or territory not supported", None, None, Kind.ACCESS_DENIED,
         "provider", False),
        (400, "Your input exceeds the context window of this model.", "context_length_exceeded",
         INVALID, Kind.TOO_LARGE, None, False),
        (400, "too long", "string_above_max_length", INVALID, Kind.TOO_LARGE, None, False),
        (400, "This model's maximum context length is 8192 tokens.", None, INVALID,
         Kind.TOO_LARGE, None, False),
        (400, "", "content_policy_violation", None, Kind.CONTENT, None, False),
        (400, "", "moderation_blocked", None, Kind.CONTENT, None, False),
        (400, "", "invalid_prompt", None, Kind.CONTENT, None, False),
        (400, "The requested service tier is not allowed", "invalid_service_tier", INVALID,
         Kind.BAD_REQUEST, None, False),
        (400, "function 'overloaded' is not callable", None, INVALID, Kind.BAD_REQUEST,
         None, False),
        (404, "No such file", None, INVALID, Kind.BAD_REQUEST, None, False),
        (422, "", None, None, Kind.BAD_REQUEST, None, False),
        (409, "", None, None, Kind.CONFLICT, None, False),
        (408, "", None, None, Kind.TIMEOUT, "provider", False),
        (500, "The server had an error", None, "server_error", Kind.SERVER_ERROR,
         "provider", False),
        (502, "", None, None, Kind.SERVER_ERROR, "provider", False),
        (503, "", None, None, Kind.OVERLOADED, "provider", True),
        (429, "", None, None, Kind.RATE_LIMITED, "organization", True),
        (429, "something new", "something_new", "something_new", Kind.RATE_LIMITED,
         "organization", True),
    ],
)  # fmt: skip
def test_the_taxonomy(
    status: int,
    message: str,
    code: str | None,
    type_: str | None,
    kind: Kind,
    scope: str | None,
    model_only: bool,
) -> None:
    found = read(status, message, code, type_)
    assert (found.kind, found.scope, found.model_only) == (kind, scope, model_only)


@pytest.mark.parametrize(
    ("code", "kind", "scope", "model_only"),
    [
        ("credit_balance_exhausted", Kind.QUOTA_EXHAUSTED, "organization", False),
        ("insufficient_quota", Kind.QUOTA_EXHAUSTED, "organization", False),
        ("billing_not_active", Kind.QUOTA_EXHAUSTED, "organization", False),
        ("billing_hard_limit_reached", Kind.QUOTA_EXHAUSTED, "organization", False),
        ("rate_limit_exceeded", Kind.RATE_LIMITED, "organization", True),
        ("unsupported_country_region_territory", Kind.ACCESS_DENIED, "provider", False),
        ("ip_not_authorized", Kind.ACCESS_DENIED, "key", False),
        ("invalid_api_key", Kind.KEY_INVALID, "key", False),
        ("model_not_found", Kind.ACCESS_DENIED, "organization", True),
        ("context_length_exceeded", Kind.TOO_LARGE, None, False),
        ("invalid_prompt", Kind.CONTENT, None, False),
    ],
)
def test_a_code_is_enough(code: str, kind: Kind, scope: str | None, model_only: bool) -> None:
    found = read(500, "", code)
    assert (found.kind, found.scope, found.model_only) == (kind, scope, model_only)


def test_a_type_is_enough() -> None:
    assert read(500, "", None, "insufficient_quota").kind is Kind.QUOTA_EXHAUSTED
    assert read(500, "", None, "billing_limit_user_error").kind is Kind.QUOTA_EXHAUSTED


def test_a_text_is_enough() -> None:
    found = read(429, "Request too large for m on tokens per min (TPM): Limit 9, Requested 10.")
    assert (found.kind, found.requested, found.model_only) == (Kind.TOO_LARGE, 10, True)


def test_a_status_is_enough() -> None:
    assert (read(402).kind, read(402).scope) == (Kind.QUOTA_EXHAUSTED, "organization")
    assert (read(403).kind, read(403).scope) == (Kind.ACCESS_DENIED, None)
    assert not read(403).certain, "it may be the request"


@pytest.mark.parametrize(
    "code",
    [
        "project_spend_limit_exceeded",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    ],
)
def test_spend_limits_last_a_month(code: str) -> None:
    found = read(429, "", code, QUOTA)
    assert (found.metric, found.period, found.retry_after) == (Metric.SPEND, MONTH, None)


def test_a_models_context_tells_its_numbers_and_was_charged() -> None:
    found = read(
        400,
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
        "context_length_exceeded",
        INVALID,
    )
    assert (found.limit, found.requested, found.charged) == (8192, 9000, True)


@pytest.mark.parametrize(
    ("status", "charged"), [(200, True), (400, True), (401, False), (404, False), (429, False)]
)
def test_what_was_charged(status: int, charged: bool) -> None:
    assert read(status).charged is charged


def test_the_type_tells_what_was_counted_where_the_text_does_not() -> None:
    assert read(429, "", "rate_limit_exceeded", "requests").metric is Metric.REQUESTS
    assert read(429, "", "rate_limit_exceeded", "tokens").metric is Metric.TOKENS


@pytest.mark.parametrize(
    ("text", "header", "seconds"), [("84ms", "1", 1), ("23.03s", "20", 23.03), ("1x", "20", 20)]
)
def test_the_longer_of_two_delays_counts(text: str, header: str, seconds: float) -> None:
    message = f"Rate limit reached. Please try again in {text}."
    assert read(429, message, "rate_limit_exceeded", retry_after=header).retry_after == seconds


def test_a_label_that_fits_the_arithmetic_wins_over_other_periods() -> None:
    # 200.4 of 200 used, told as 200 + 1: some 3 minutes of a day, and of nothing else.
    message = (
        f"Rate limit reached for m in {ORG} on requests per day (RPD): Limit 200, Used 200, "
        "Requested 1. Please try again in 400ms."
    )
    assert read(429, message, "rate_limit_exceeded").period == DAY


def test_a_success_is_ok() -> None:
    assert read(200) is OK


@pytest.mark.parametrize(
    ("status", "page", "kind"),
    [
        (502, b"<html>Bad gateway</html>", Kind.SERVER_ERROR),
        (401, b"\n<!DOCTYPE html><p>Log in</p>", Kind.SERVER_ERROR),
        (403, b"<html>Attention required</html>", Kind.SERVER_ERROR),
        (429, b"<html>rate limited</html>", Kind.RATE_LIMITED),
        (413, b"<html>Request Entity Too Large</html>", Kind.TOO_LARGE),
        (504, b"", Kind.TIMEOUT),
        (401, b"", Kind.KEY_INVALID),
        (503, b"upstream connect error", Kind.OVERLOADED),
        (500, b"\xff\xfe", Kind.SERVER_ERROR),
        (400, b"[]", Kind.BAD_REQUEST),
        (400, b'{"error": "no"}', Kind.BAD_REQUEST),
        (400, b'"no"', Kind.BAD_REQUEST),
        (302, b"", Kind.BAD_REQUEST),
    ],
)
def test_bodies_that_are_not_the_apis(status: int, page: bytes, kind: Kind) -> None:
    assert OpenAI().read(status, {}, page).kind is kind


def test_messages_are_short_and_on_one_line() -> None:
    found = read(400, "a\nb " + "word " * 1000)
    assert found.message.startswith("a b word")
    assert len(found.message) <= 300


SECRET_CHARS = string.ascii_letters + string.digits + "-_"


@given(
    st.sampled_from(["sk-", "sk-proj-", "sk-svcacct-", "gsk_", "xai-", "AIza"]),
    st.text(SECRET_CHARS, min_size=16, max_size=160),
    st.sampled_from(["Incorrect API key provided: {}.", "{}", "x={} ", '"{}"', "Bearer {}", "_{}"]),
    st.integers(0, 400),
    st.sampled_from([401, 429, 500]),
)
def test_no_secret_stays_in_an_outcome(
    prefix: str, rest: str, template: str, before: int, status: int
) -> None:
    secret = prefix + rest
    text = "é " * before + template.format(secret)
    for data in (body(text, secret, secret), text.encode(), json.dumps(text).encode()):
        found = OpenAI().read(status, {}, data)
        assert secret not in repr(found)
        assert rest[:8] not in found.message + found.code


def test_ids_of_requests_and_owners_stay_readable() -> None:
    text = f"for org-{'a' * 24} in proj_{'b' * 24}, req_{'0' * 32}"
    assert read(500, text).message == text


def test_a_masked_key_stays_masked() -> None:
    assert read(401, "Incorrect API key provided: sk-proj-***********wxyz.").message == (
        "Incorrect API key provided: ***."
    )


def test_codes_are_no_free_text() -> None:
    assert read(500, "", "you said: hello there", "server_error").code == "server_error"
    assert read(500, "", "x" * 100).code == ""


@pytest.mark.parametrize(
    ("event", "kind", "code"),
    [
        (
            {"error": {"message": "m", "type": "tokens", "code": "rate_limit_exceeded"}},
            Kind.RATE_LIMITED,
            "rate_limit_exceeded",
        ),
        (
            {"type": "error", "code": "server_is_overloaded", "message": "m", "param": None},
            Kind.OVERLOADED,
            "server_is_overloaded",
        ),
        (
            {"type": "error", "error": {"type": "invalid_request_error", "message": "m"}},
            Kind.BAD_REQUEST,
            "invalid_request_error",
        ),
        (
            {
                "type": "response.failed",
                "response": {"status": "failed", "error": {"code": "server_error", "message": ""}},
            },
            Kind.SERVER_ERROR,
            "server_error",
        ),
        ({"error": {"code": 429, "message": "busy"}}, Kind.RATE_LIMITED, "429"),
        ({"error": {"code": 502, "message": "down"}, "choices": []}, Kind.SERVER_ERROR, "502"),
        ({"error": "down"}, Kind.SERVER_ERROR, ""),
        ({"error": {"code": "invalid_prompt"}}, Kind.CONTENT, "invalid_prompt"),
    ],
)
def test_errors_inside_a_stream(event: dict[str, object], kind: Kind, code: str) -> None:
    bare = json.dumps(event).encode()
    for data in (bare, b"event: error\ndata: " + bare + b"\n\n", b"data:" + bare + b"\r\n\r\n"):
        found = OpenAI().read_event(data)
        assert found is not None
        assert (found.kind, found.code, found.charged) == (kind, code, True)


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [{"delta": {"content": 'say "error": {"code": "x"}'}}]},
        {"type": "response.created", "response": {"status": "in_progress", "error": None}},
        {"type": "response.completed", "response": {"status": "completed", "error": None}},
        {"choices": [], "usage": {"prompt_tokens": 1}, "error": None},
        {"choices": [{"delta": {"error": "not at the top"}}]},
    ],
)
def test_ordinary_events_are_no_errors(event: dict[str, object]) -> None:
    bare = json.dumps(event).encode()
    assert OpenAI().read_event(bare) is None
    assert OpenAI().read_event(b"data: " + bare) is None


@pytest.mark.parametrize("data", [b"", b"data: [DONE]", b": keep-alive", b'"error"', b'{"error"'])
def test_other_lines_are_no_errors(data: bytes) -> None:
    assert OpenAI().read_event(data) is None


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=60)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "detail", "response", "status"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
BODIES = st.one_of(st.binary(), JUNK.map(lambda value: json.dumps(value).encode()))


@given(st.integers(0, 999), BODIES, st.dictionaries(st.sampled_from(["retry-after"]), st.text()))
def test_no_body_raises(status: int, data: bytes, headers: dict[str, str]) -> None:
    found = OpenAI().read(status, headers, data)
    assert found.ok <= (200 <= status < 300), "an error may come under 200, no success under 400"
    assert len(found.message) <= 300
    assert found.retry_after is None or found.retry_after >= 0
    OpenAI().read_event(data)
    OpenAI().read_event(b"data: " + data)


@pytest.mark.parametrize("part", ["Limit ", "try again in 1", "model ", "1ms", "sk-", "IP ", "a"])
def test_long_texts_are_read_in_linear_time(part: str) -> None:
    # A hang fails by pytest's timeout.
    OpenAI().read(429, {}, body(part * 150_000))
    OpenAI().read(403, {}, body(part * 150_000))
