from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet.errors import ConfigError
from quotafleet.protocols import Plan
from quotafleet.providers import OpenAI
from quotafleet.usage import Demand, Usage

JSON = "application/json"


def plan(path: str, provider: OpenAI | None = None, **request: Any) -> Plan:
    body = json.dumps(request).encode()
    return (provider or OpenAI()).plan("POST", path, JSON, body)


def chat(*texts: str, provider: OpenAI | None = None, **rest: Any) -> Plan:
    messages = [{"role": "user", "content": text} for text in texts]
    return plan("/chat/completions", provider, model="gpt-4o", messages=messages, **rest)


@pytest.mark.parametrize(
    ("text", "messages", "charge"),
    [("x" * 23, 1, 8), ("x" * 93, 2, 27), ("x" * 7243, 2, 1814), ("中" * 100, 1, 77)],
)
def test_chat_costs_what_was_measured_whatever_max_tokens(
    text: str, messages: int, charge: int
) -> None:
    found = chat(text, *[""] * (messages - 1), max_tokens=16384)
    assert found.demand.tokens == charge
    assert found.max_output_tokens == 16384
    assert (found.endpoint, found.demand.model, found.stream) == ("chat", "gpt-4o", False)


def test_chat_counts_bytes_of_text_only() -> None:
    message = {
        "role": "assistant",
        "name": "somebody",
        "content": [{"type": "text", "text": "x" * 40}, {"type": "input_audio", "input_audio": {}}],
        "tool_calls": [{"function": {"arguments": "x" * 400}}],
    }
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 400}}]
    found = plan("chat/completions", model="m", messages=[message], tools=tools)
    assert found.demand.tokens == 10 + 1 + 1


@pytest.mark.parametrize(
    ("model", "volume", "family"),
    [
        ("gpt-5.5", 272_000 * 4 - 8, "gpt-5.5"),
        ("gpt-5.5", 272_001 * 4, "gpt-5.5-long-context"),
        ("gpt-5.5-2026-04-01", 272_001 * 4, "gpt-5.5-long-context"),
        ("gpt-4.1", 300_000 * 4, "gpt-4.1"),
    ],
)
def test_long_requests_have_limits_of_their_own(model: str, volume: int, family: str) -> None:
    messages = [{"role": "user", "content": "x" * volume}]
    demand = plan("chat/completions", model=model, messages=messages).demand
    assert OpenAI().family(demand.model) == family
    assert demand.tokens == -(-volume // 4) + 2


def test_where_long_requests_begin_can_be_told() -> None:
    provider = OpenAI(long_context={"gpt-4o": 10})
    assert chat("x" * 80, provider=provider).demand.model == "gpt-4o-long-context"
    assert chat("x", provider=provider).demand.model == "gpt-4o"


def test_every_image_costs_the_same() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "x" * 4000}}] * 2
    found = plan("chat/completions", messages=[{"content": [*parts, {"text": "four"}]}])
    assert found.demand.tokens == 1 + 1 + 1 + 2 * 765


def test_every_choice_adds_a_token_and_multiplies_what_may_be_written() -> None:
    found = chat("four", n=3, max_completion_tokens=100)
    assert found.demand.output_tokens == 3
    assert found.max_output_tokens == 300


def test_lone_surrogates_are_counted() -> None:
    body = rb'{"messages": [{"content": "\ud800"}]}'
    assert OpenAI().plan("POST", "chat/completions", JSON, body).demand.input_tokens == 1 + 1


def test_the_documented_formula_where_asked_for() -> None:
    cautious = OpenAI(reserve="max_tokens")
    assert chat("x" * 23, provider=cautious, max_tokens=16384).demand.tokens == 16384
    assert chat("x" * 23, provider=cautious, max_tokens=100, n=2).demand.tokens == 200
    assert chat("x" * 23, provider=cautious).demand.tokens == 16
    assert chat("x" * 4000, provider=cautious, max_tokens=1).demand.tokens == 1000 + 1 + 1


@given(st.text(), st.integers(1, 5), st.integers(1, 10_000))
def test_the_documented_reserve_is_never_the_smaller(text: str, n: int, most: int) -> None:
    for path, request in (
        ("chat/completions", {"messages": [{"content": text}], "max_tokens": most, "n": n}),
        ("completions", {"prompt": text, "max_tokens": most, "n": n}),
        ("responses", {"input": text, "max_output_tokens": most}),
    ):
        measured = plan(path, **request)
        documented = plan(path, OpenAI(reserve="max_tokens"), **request)
        assert documented.demand.tokens >= measured.demand.tokens
        if path != "responses":
            assert documented.demand.tokens >= n * max(most, len(text.encode()) // 4)


def test_an_unknown_reserve_is_refused() -> None:
    wrong: Any = "all"
    with pytest.raises(ConfigError, match="max_tokens"):
        OpenAI(reserve=wrong)


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        ({"prompt": "x" * 43}, 10 + 1),
        ({"prompt": ["x" * 4, "x" * 4], "n": 3}, 2 + 6),
        ({"prompt": "x" * 4, "n": 2, "best_of": 5}, 1 + 5),
        ({"prompt": [1, 2, 3]}, 3 + 1),
        ({"prompt": [[1, 2], [3]]}, 3 + 2),
        ({}, 1),
    ],
)
def test_completions(request_: dict[str, Any], tokens: int) -> None:
    found = plan("completions", model="davinci-002", **request_)
    assert (found.endpoint, found.demand.tokens) == ("completions", tokens)


@pytest.mark.parametrize(
    ("given_", "tokens"),
    [
        ("x" * 43, 10),
        ("x", 1),
        (["x" * 6, "x" * 6], 3),
        ([1, 2, 3], 3),
        ([[1, 2], [3, 4, 5]], 5),
        (None, 1),
    ],
)
def test_embeddings(given_: object, tokens: int) -> None:
    found = plan("embeddings", model="text-embedding-3-small", input=given_)
    assert (found.endpoint, found.demand.tokens) == ("embeddings", tokens)


def test_speech_and_images() -> None:
    assert plan("audio/speech", model="tts-1", input="x" * 43).demand == Demand(
        model="tts-1", input_tokens=10
    )
    found = plan("images/generations", model="gpt-image-1", prompt="a cat", n=4)
    assert (found.endpoint, found.demand.images, found.demand.tokens) == ("images", 4, 0)


@pytest.mark.parametrize(
    ("model", "tools", "predicted"),
    [
        ("gpt-4o", [], 19),
        ("gpt-4.1-mini", [{"type": "function"}], 217),
        ("gpt-4o", [{"type": "web_search"}], 19),
        ("gpt-5-nano", [], 217),
        ("gpt-5-nano", [{"type": "function"}], 496),
        ("gpt-5.5", [], 163),
        ("gpt-5.5-2026-04-01", [{"type": "function"}], 449),
        ("gpt-5.4", [], 163),
        ("ft:gpt-4o:acme::1", [], 19),
        ("gpt-6-sol", [], 217),
    ],
)
def test_responses_reserve_the_predicted_output(
    model: str, tools: list[dict[str, str]], predicted: int
) -> None:
    found = plan("responses", model=model, input="four", tools=tools)
    assert (found.endpoint, found.demand.output_tokens) == ("responses", predicted)


def test_responses_count_everything_that_the_model_reads() -> None:
    found = plan(
        "responses",
        model="gpt-4o",
        instructions="x" * 40,
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "x" * 80}]},
            {"type": "function_call", "arguments": "x" * 120},
            {"type": "function_call_output", "output": "x" * 160},
            {"role": "user", "content": [{"type": "input_image", "image_url": "data:..."}]},
        ],
    )
    assert found.demand.input_tokens == 10 + 20 + 30 + 40 + 765 + 3 + 5 * 4


def test_responses_count_with_the_given_counter() -> None:
    seen: list[tuple[str, str]] = []

    def count(text: str, model: str) -> int:
        seen.append((text, model))
        return 1000

    provider = OpenAI(count_tokens=count)
    found = plan("responses", provider, model="gpt-4o", input="hello", tools=[{"type": "function"}])
    assert seen == [("hello", "gpt-4o"), ('[{"type":"function"}]', "gpt-4o")]
    assert found.demand.input_tokens == 2000 + 3 + 4


def test_a_counter_that_fails_does_not_stop_the_call() -> None:
    def count(text: str, model: str) -> int:
        raise RuntimeError

    found = plan("responses", OpenAI(count_tokens=count), model="gpt-4o", input="x" * 40)
    assert found.demand.input_tokens == 10 + 3 + 4


def form(**values: str) -> bytes:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in values.items()
    ]
    file = (
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n'
        "Content-Type: audio/mpeg\r\n\r\n" + "\xff" * 100_000 + "\r\n"
    )
    return ("".join(parts[:1]) + file + "".join(parts[1:]) + "--b--\r\n").encode("latin-1")


def test_forms_tell_the_model_on_either_side_of_a_file() -> None:
    for names in (("model", "language"), ("language", "model")):
        values = {"model": "whisper-1", "language": "pt"}
        body = form(**{name: values[name] for name in names})
        found = OpenAI().plan(
            "POST", "audio/transcriptions", "multipart/form-data; boundary=b", body
        )
        assert found == Plan(endpoint="audio", demand=Demand(model="whisper-1"))


def test_forms_tell_images_and_streams() -> None:
    body = form(model="gpt-image-1", n="3", stream="true")
    found = OpenAI().plan("POST", "/images/edits", "multipart/form-data; boundary=b", body)
    assert found.demand == Demand(model="gpt-image-1", images=3)
    assert found.stream


@pytest.mark.parametrize(
    ("method", "path", "content_type", "body"),
    [
        ("GET", "models", "", b""),
        ("POST", "files", "multipart/form-data; boundary=b", b"--b--"),
        ("POST", "batches", JSON, b'{"input_file_id": "f"}'),
        ("GET", "chat/completions", JSON, b'{"model": "gpt-4o"}'),
        ("DELETE", "responses/resp_1", "", b""),
        ("POST", "chat/completions", JSON, b"{not json"),
        ("POST", "chat/completions", JSON, b"[" * 100_000),
        ("POST", "chat/completions", JSON, b"[1]"),
    ],
)
def test_what_is_not_known_costs_one_request(
    method: str, path: str, content_type: str, body: bytes
) -> None:
    assert OpenAI().plan(method, path, content_type, body).demand == Demand()


def test_paths_may_have_a_version_and_a_query() -> None:
    assert plan("/v1/embeddings?x=1", input="four").endpoint == "embeddings"


def test_an_unknown_endpoint_still_tells_its_model() -> None:
    found = plan("moderations", model="omni-moderation-latest", input="x")
    assert found == Plan(endpoint="other", demand=Demand(model="omni-moderation-latest"))


def test_streams_are_seen() -> None:
    assert chat("x", stream=True).stream


@given(st.text(max_size=200), st.text(max_size=50))
def test_more_text_never_costs_less(text: str, more: str) -> None:
    assert chat(text + more).demand.tokens >= chat(text).demand.tokens
    for path, name in (("embeddings", "input"), ("completions", "prompt"), ("responses", "input")):
        longer, shorter = plan(path, **{name: text + more}), plan(path, **{name: text})
        assert longer.demand.tokens >= shorter.demand.tokens


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["content", "type", "text", "arguments", "output"]), inner, max_size=4
        ),
    ),
    max_leaves=12,
)
FIELDS = ["model", "messages", "n", "max_tokens", "prompt", "best_of", "input", "tools",
          "instructions", "max_output_tokens", "stream"]  # fmt: skip
PATHS = ["chat/completions", "completions", "responses", "embeddings", "audio/speech",
         "images/generations", "images/edits", "files", "???"]  # fmt: skip


@given(
    st.sampled_from(PATHS),
    st.one_of(
        st.binary(),
        st.dictionaries(st.sampled_from(FIELDS), VALUES).map(
            lambda value: json.dumps(value).encode()
        ),
    ),
    st.sampled_from([JSON, "multipart/form-data; boundary=b", ""]),
    st.sampled_from(["auto", "max_tokens"]),
)
def test_no_body_raises(
    path: str, body: bytes, content_type: str, reserve: Literal["auto", "max_tokens"]
) -> None:
    found = OpenAI(reserve=reserve).plan("POST", path, content_type, body)
    assert found.demand.requests == 1
    assert found.demand.tokens >= 0


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o", "gpt-4o"),
        ("gpt-4-0613", "gpt-4"),
        ("gpt-3.5-turbo-1106", "gpt-3.5-turbo"),
        ("gpt-3.5-turbo-16k-0613", "gpt-3.5-turbo-16k"),
        ("gpt-4-1106-preview", "gpt-4-1106-preview"),
        ("gpt-4o-realtime-preview-2024-12-17", "gpt-4o-realtime-preview"),
        ("text-embedding-ada-002", "text-embedding-ada-002"),
        ("davinci-002", "davinci-002"),
        ("gpt-4-32k", "gpt-4-32k"),
        ("gpt-5.5", "gpt-5.5"),
        ("ft:gpt-4o-mini-2024-07-18:acme::AbC", "gpt-4o-mini"),
        ("ft:gpt-3.5-turbo-0613:acme", "gpt-3.5-turbo"),
        ("davinci:ft-acme-2023-01-01-00-00-00", "davinci"),
        ("", ""),
    ],
)
def test_the_family_is_the_name_without_a_date(model: str, family: str) -> None:
    assert OpenAI().family(model) == family


def test_shared_limits_are_named_by_the_user() -> None:
    provider = OpenAI(families={"gpt-image-2-codex": "gpt-image"})
    assert provider.family("gpt-image-2-codex-2026-09-01") == "gpt-image"


USED = Usage(input_tokens=100, output_tokens=567)


@pytest.mark.parametrize("endpoint", ["chat", "completions", "embeddings", "images", "other"])
def test_the_estimate_stays_where_no_later_debit_was_seen(endpoint: str) -> None:
    demand = Demand(input_tokens=8, output_tokens=1, images=2, spend=Decimal("0.1"))
    charged = OpenAI().charge(Plan(endpoint=endpoint, demand=demand), USED)
    assert charged == Usage(input_tokens=8, output_tokens=1, images=2, spend=Decimal("0.1"))


def test_responses_are_settled_with_what_was_used() -> None:
    found = Plan(endpoint="responses", demand=Demand(input_tokens=90, output_tokens=217))
    assert OpenAI().charge(found, USED) == USED
    assert OpenAI().charge(found, None) == Usage(input_tokens=90, output_tokens=217)
