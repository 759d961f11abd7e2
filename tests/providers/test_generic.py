from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet.errors import ConfigError
from quotafleet.keys import ApiKey, Secret
from quotafleet.limits import DAY, MINUTE, MONTH, Metric
from quotafleet.outcomes import Kind, Observation, Reading
from quotafleet.protocols import Plan, Provider
from quotafleet.providers import PROVIDERS, Generic, OpenAI, provider
from quotafleet.usage import Demand, Usage


def observe(headers: dict[str, str]) -> Observation:
    return Generic().observe(200, headers)


def reading(limit: float, level: float, period: float | None) -> Reading:
    return Reading(metric=Metric.REQUESTS, limit=limit, level=level, period=period)


@pytest.mark.parametrize(
    ("headers", "readings"),
    [
        (
            {
                "ratelimit-policy": '"burst";q=100;w=60,"daily";q=1000;w=86400',
                "ratelimit": '"burst";r=50;t=30',
            },
            [reading(100, 50, MINUTE)],
        ),
        (
            {
                "ratelimit-policy": '"burst";q=100;w=60, "daily";q=1000;w=86400',
                "ratelimit": '"burst";r=50;t=30, "daily";r=999;t=1',
            },
            [reading(100, 50, MINUTE), reading(1000, 999, DAY)],
        ),
        (
            {
                "ratelimit-policy": '"fixed window";"api";q=1000;w=300',
                "ratelimit": '"api";r=999;t=295',
            },
            [reading(1000, 999, 300)],
        ),
        (
            {
                "ratelimit-policy": '"a,b;c";q=10;w=1;pk=:Zm9v:',
                "ratelimit": '"a,b;c";r=9;t=1',
            },
            [reading(10, 9, 1)],
        ),
        (
            {"ratelimit-policy": '"one";q=100;w=60', "ratelimit": '"other";r=50;t=30'},
            [reading(100, 50, MINUTE)],
        ),
        ({"ratelimit": '"burst";r=50;t=30'}, []),
        (
            {"ratelimit-policy": '"x";q=5;w=1;qu="content-bytes"', "ratelimit": '"x";r=1;t=1'},
            [],
        ),
        (
            {"ratelimit": "limit=100, remaining=50, reset=30", "ratelimit-policy": "100;w=60"},
            [reading(100, 50, MINUTE)],
        ),
        ({"ratelimit": "limit=100, remaining=50, reset=30"}, [reading(100, 50, None)]),
        (
            {
                "ratelimit-limit": "100",
                "ratelimit-remaining": "50",
                "ratelimit-reset": "30",
                "ratelimit-policy": "10;w=1, 100;w=60",
            },
            [reading(100, 50, MINUTE)],
        ),
        (
            {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "50"},
            [reading(100, 50, None)],
        ),
    ],
)
def test_the_fields_of_the_drafts(headers: dict[str, str], readings: list[Reading]) -> None:
    assert observe(headers) == Observation(readings=tuple(readings))


def test_a_policy_on_tokens_counts_tokens() -> None:
    found = observe({"ratelimit-policy": '"tokens";q=100;w=60', "ratelimit": '"tokens";r=9;t=1'})
    assert [one.metric for one in found.readings] == [Metric.TOKENS]


@pytest.mark.parametrize(
    ("headers", "count"),
    [
        ({"ratelimit-policy": '"a";q=100;w=60', "ratelimit": '"a";r=150'}, 1),
        ({"ratelimit-policy": '"a";q=100;w=60', "ratelimit": '"a";r=-1'}, 1),
        ({"ratelimit-limit": "100", "ratelimit-remaining": "NaN"}, 1),
        ({"ratelimit-limit": "1", "ratelimit-remaining": "50"}, 1),
    ],
)
def test_malformed_fields_are_counted(headers: dict[str, str], count: int) -> None:
    assert observe(headers) == Observation(ignored=count)


def grouped(suffix: str, limit: str, remaining: str, reset: str | None = None) -> dict[str, str]:
    headers = {
        f"x-ratelimit-limit-{suffix}": limit,
        f"x-ratelimit-remaining-{suffix}": remaining,
    }
    return headers if reset is None else headers | {f"x-ratelimit-reset-{suffix}": reset}


def test_groqs_requests_are_per_day() -> None:
    (found,) = observe(grouped("requests", "14400", "14397", "17.399999999s")).readings
    assert (found.period, found.level) == (DAY, pytest.approx(14400 - 2.9))


def test_mistrals_names_tell_the_period() -> None:
    headers = grouped("req-minute", "60", "59") | grouped("tokens-month", "1000000", "999000")
    assert [(one.metric, one.period) for one in observe(headers).readings] == [
        (Metric.REQUESTS, MINUTE),
        (Metric.TOKENS, MONTH),
    ]


def test_a_reset_without_a_unit_tells_nothing() -> None:
    # 120 RPM with 500 ms to go (Azure): as seconds it would look like a daily limit.
    assert observe(grouped("requests", "120", "119", "500")).readings == (reading(120, 119, None),)


def test_a_fixed_window_is_not_taken_for_a_small_bucket() -> None:
    (found,) = observe(grouped("requests", "100", "50", "10s")).readings
    assert (found.period, found.burst) == (None, None)


def test_negative_headers_are_ignored() -> None:
    assert observe(grouped("tokens", "-1", "-1", "0")) == Observation(), "-1: not known"


@given(
    st.dictionaries(
        st.sampled_from(
            ["ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining",
             "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens",
             "x-ratelimit-reset-tokens"]
        ),
        st.one_of(
            st.text(),
            st.text('"abcrqtw=;,0123456789.- ', max_size=40),
            st.builds('"a";q={};w={};r={}'.format, st.integers(), st.integers(), st.integers()),
        ),
    )
)  # fmt: skip
def test_any_headers_give_sane_readings(headers: dict[str, str]) -> None:
    for found in observe(headers).readings:
        assert 0 < found.limit <= 1e12
        assert 0 <= found.level <= found.limit
        assert found.period is None or 0 < found.period < 1e9


def read(status: int, message: str = "", code: object = None, kind: object = None) -> Kind:
    body = json.dumps({"error": {"message": message, "code": code, "type": kind}}).encode()
    return Generic().read(status, {}, body).kind


@pytest.mark.parametrize(
    ("status", "message", "code", "kind"),
    [
        (400, "API key not valid. Please pass a valid API key.", None, Kind.KEY_INVALID),
        (401, "Invalid API Key", None, Kind.KEY_INVALID),
        (402, "Insufficient Balance", None, Kind.QUOTA_EXHAUSTED),
        (402, "", None, Kind.QUOTA_EXHAUSTED),
        (400, "Your credit balance is too low to access the API", None, Kind.QUOTA_EXHAUSTED),
        (403, "", None, Kind.ACCESS_DENIED),
        (404, "The model `x` was not found", None, Kind.ACCESS_DENIED),
        (404, "", "DeploymentNotFound", Kind.ACCESS_DENIED),
        (429, "", None, Kind.RATE_LIMITED),
        (429, "Requests rate limit exceeded", None, Kind.RATE_LIMITED),
        (429, "x is temporarily rate-limited upstream", 429, Kind.OVERLOADED),
        (429, "The system is currently experiencing high demand", "no_capacity", Kind.OVERLOADED),
        (498, "", "capacity_exceeded", Kind.OVERLOADED),
        (429, "", "no_capacity", Kind.OVERLOADED),
        (498, "", None, Kind.OVERLOADED),
        (529, "Overloaded", None, Kind.OVERLOADED),
        (503, "", None, Kind.OVERLOADED),
        (400, "", "content_filter", Kind.CONTENT),
        (400, "maximum context length is 4096 tokens", None, Kind.TOO_LARGE),
        (418, "", None, Kind.BAD_REQUEST),
        (599, "", None, Kind.SERVER_ERROR),
    ],
)
def test_the_common_wording(status: int, message: str, code: object, kind: Kind) -> None:
    assert read(status, message, code) is kind


def test_geminis_rate_limit_is_no_empty_purse() -> None:
    error = {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "message": "You exceeded your current quota. Please retry in 48.939935699s.",
    }
    found = Generic().read(429, {}, json.dumps([{"error": error}]).encode())
    assert (found.kind, found.retry_after) == (Kind.RATE_LIMITED, pytest.approx(48.939935699))


def test_azures_wording_tells_the_delay() -> None:
    text = "have exceeded call rate limit of your current tier. Please retry after 33 seconds."
    body = json.dumps({"error": {"code": "429", "message": text}}).encode()
    assert Generic().read(429, {}, body).retry_after == 33


def test_bodies_without_an_error_object() -> None:
    assert Generic().read(401, {}, b'{"detail":"Invalid API Key"}').message == "Invalid API Key"
    assert Generic().read(429, {}, b'{"message":"Requests rate limit exceeded"}').message


@given(st.integers(0, 999), st.binary())
def test_no_body_raises(status: int, body: bytes) -> None:
    Generic().read(status, {}, body)
    Generic().read_event(body)
    Generic().usage("chat", body)


def test_every_model_has_its_own_bucket() -> None:
    assert Generic().family("llama-3-2024-01-01") == "llama-3-2024-01-01"


def test_real_usage_replaces_the_estimate() -> None:
    plan = Plan(endpoint="chat", demand=Demand(input_tokens=5, output_tokens=1))
    used = Usage(input_tokens=9, output_tokens=40)
    assert Generic().charge(plan, used) == used
    assert Generic().charge(plan, None) == Usage(input_tokens=5, output_tokens=1)


def test_images_that_were_asked_for_stay_counted() -> None:
    plan = Plan(endpoint="images", demand=Demand(images=2))
    used = Usage(input_tokens=9, output_tokens=40)
    assert Generic().charge(plan, used) == Usage(input_tokens=9, output_tokens=40, images=2)


KEY = ApiKey(
    key_id="k",
    secret=Secret("sk-test-0123456789abcdef"),
    organization="acme",
    organization_id="org-acme",
    project_id=None,
)


def test_credentials_name_the_owner_to_openai_only() -> None:
    bearer = "Bearer sk-test-0123456789abcdef"
    assert OpenAI().credentials(KEY) == {
        "authorization": bearer,
        "openai-organization": "org-acme",
        "openai-project": None,
    }
    assert Generic().credentials(KEY) == {
        "authorization": bearer,
        "openai-organization": None,
        "openai-project": None,
    }


@pytest.mark.parametrize("name", PROVIDERS)
def test_providers_by_name(name: str) -> None:
    found: Provider = provider(name)
    assert found.name == name


def test_only_a_generic_endpoint_has_no_place_of_its_own() -> None:
    assert provider("openai").base_url == "https://api.openai.com/v1"
    assert provider("generic").base_url == ""


def test_an_unknown_provider_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'openai'") as raised:
        provider("open-ai")
    assert "generic" in raised.value.cure
    with pytest.raises(ConfigError, match="unknown provider 'zzz'"):
        provider("zzz")
