"""What is admitted, what is charged and to whom, and what is settled at the end."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quotafleet.testing import (
    FakeClock,
    LimitRules,
    LongContext,
    MockCall,
    MockFleet,
    MockModelLimits,
    MockOrganization,
    MockProject,
    MockProvider,
    MockSettings,
    ModelSpec,
    RequestSize,
)

from .mock_kit import (
    SECRET,
    chat,
    clock,
    error,
    headers,
    made,
    one_org,
    post,
    provider,
    used,
    words_of,
)

CALL = MockCall(secret=SECRET, model="gpt-4o-mini", ask=RequestSize(text_bytes=400, messages=2))


def test_a_parsed_call_is_charged_like_a_request() -> None:
    mock = provider()
    assert mock.admit(CALL).cost == 103
    assert mock.admit(replace(CALL, output_tokens=77)).output_tokens == 77


def test_a_refusal_by_tokens_costs_a_request_and_none_of_them_if_so_set() -> None:
    for charge, requests in ((True, 2), (False, 1)):
        mock = provider(
            {"rpm": 500, "tpm": 100},
            settings=MockSettings(rules=LimitRules(refusals="counted" if charge else "free")),
        )
        chat(mock, words_of(60))
        assert chat(mock, words_of(60)).status == 429
        assert used(mock, "org-acme/gpt-4o-mini/rpm") == requests
        assert used(mock, "org-acme/gpt-4o-mini/tpm") == 60


def test_who_waits_as_long_as_told_is_admitted_however_often_it_was_refused() -> None:
    mock = provider({"rpm": 6})
    for _ in range(6):
        chat(mock)
    for _ in range(20):
        assert chat(mock).status == 429
    clock(mock).advance(10.0)  # "Please try again in 10s."
    assert chat(mock).status == 200


def test_all_buckets_are_debited_or_none() -> None:
    own = MockModelLimits(rpm=10, tpm=1000)
    mock = made(
        one_org(
            ModelSpec(name="gpt-4o", limits=MockModelLimits(rpm=10, tpm=100)),
            projects=(MockProject(id="proj_acme", org="org-acme", overrides={"*": own}),),
        ),
        settings=MockSettings(rules=LimitRules(refusals="free")),
    )
    chat(mock, words_of(80), model="gpt-4o")
    assert chat(mock, words_of(80), model="gpt-4o").status == 429
    for bucket, units in (
        ("proj_acme/gpt-4o/rpm", 1),
        ("proj_acme/gpt-4o/tpm", 80),
        ("org-acme/gpt-4o/rpm", 1),
        ("org-acme/gpt-4o/tpm", 80),
    ):
        assert used(mock, bucket) == units


def test_a_project_with_limits_of_its_own_is_reported_by_itself() -> None:
    own = {"gpt-4o": MockModelLimits(rpm=10)}
    project = MockProject(id="proj_acme", org="org-acme", overrides=own)
    mock = made(one_org(projects=(project,)))
    chat(mock, words_of(80), model="gpt-4o")
    state: Any = mock.state()
    assert state["admitted_per_second"] == {
        "org-acme/gpt-4o": {"0": [1, 80]},
        "proj_acme/gpt-4o": {"0": [1, 80]},
    }


def test_the_first_bucket_that_is_short_is_named() -> None:
    mock = provider({"rpm": 1, "tpm": 100})
    chat(mock, words_of(90))
    refused = chat(mock, words_of(90))
    assert "requests per min (RPM)" in error(refused)["message"]


def test_models_of_a_family_share_one_bucket() -> None:
    specs = [ModelSpec(name=n, family="gpt-4o", limits=MockModelLimits(rpm=5)) for n in ("a", "b")]
    mock = made(one_org(*specs))
    chat(mock, model="a")
    assert headers(chat(mock, model="b"))["x-ratelimit-remaining-requests"] == "3"


def test_an_alias_shares_the_bucket_of_its_model() -> None:
    mock = provider()
    chat(mock, model="gpt-4o-mini-2024-07-18")
    assert headers(chat(mock))["x-ratelimit-remaining-requests"] == "498"


def test_organisations_share_nothing() -> None:
    mock = made(MockFleet.simple({"acme": {"rpm": 1}, "birch": {"rpm": 1}}))
    assert [chat(mock, secret=f"sk-mock-{org}-1").status for org in ("acme", "birch", "acme")] == [
        200,
        200,
        429,
    ]


def test_a_long_context_has_limits_of_its_own() -> None:
    long = LongContext(threshold=1000, limits=MockModelLimits(rpm=2, tpm=5000))
    spec = ModelSpec(name="gpt-5.5", long_context=long, limits=MockModelLimits(rpm=9, tpm=9000))
    mock = made(one_org(spec))
    assert headers(chat(mock, model="gpt-5.5"))["x-ratelimit-limit-requests"] == "9"
    shown = headers(chat(mock, "x" * 8000, model="gpt-5.5"))
    assert shown["x-ratelimit-limit-requests"] == "2"
    assert used(mock, "org-acme/gpt-5.5/rpm") == 1
    assert used(mock, "org-acme/gpt-5.5-long-context/rpm") == 1


def test_images_read_are_counted_and_shown_only_when_there_are_some() -> None:
    mock = provider({"rpm": 9, "tpm": 9000, "input_images": 3})
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert "x-ratelimit-limit-input-images" not in headers(chat(mock))
    shown = headers(chat(mock, [image, image]))
    assert shown["x-ratelimit-remaining-input-images"] == "1"
    refused = chat(mock, [image, image])
    assert "on input-images per min: Limit 3, Used 2, Requested 2." in error(refused)["message"]


def test_a_quantised_limit_refuses_bursts_and_shows_nothing_of_it() -> None:
    mock = provider(
        {"rpm": 600}, settings=MockSettings(rules=LimitRules(window_s=1, refusals="free"))
    )
    statuses = [chat(mock).status for _ in range(12)]
    assert statuses == [200] * 10 + [429] * 2
    shown = headers(chat(mock))
    assert shown["x-ratelimit-limit-requests"] == "600"
    assert shown["x-ratelimit-remaining-requests"] == "590"
    clock(mock).advance(0.1)
    assert chat(mock).status == 200


def test_a_request_larger_than_the_quantum_passes_when_that_is_full() -> None:
    mock = provider({"tpm": 6000}, settings=MockSettings(rules=LimitRules(window_s=1)))
    assert chat(mock, words_of(1000)).status == 200
    assert chat(mock, words_of(10)).status == 429
    clock(mock).advance(11)
    assert chat(mock, words_of(100)).status == 200


def test_traffic_may_not_rise_too_fast() -> None:
    mock = provider({"tpm": 100_000_000}, settings=MockSettings(ramp_base_tokens=1000))
    call = MockCall(secret=SECRET, model="gpt-4o-mini", ask=RequestSize(token_ids=500))
    assert [mock.admit(call).status for _ in range(3)] == [200, 200, 429]
    refused = mock.admit(call)
    assert refused.problem is not None
    assert refused.problem.code == "slow_down"
    assert 5 <= int(headers(refused)["retry-after"]) <= 30
    clock(mock).advance(60)
    assert [mock.admit(call).status for _ in range(4)] == [200, 200, 200, 429]
    clock(mock).advance(60)  # 1.5 x 1,500
    assert [mock.admit(call).status for _ in range(5)] == [200, 200, 200, 200, 429]
    clock(mock).advance(17 * 60)  # all forgotten
    assert [mock.admit(call).status for _ in range(3)] == [200, 200, 429]


def test_the_guard_can_be_switched_off() -> None:
    mock = provider({"tpm": 100_000_000}, settings=MockSettings(ramp_base_tokens=None))
    call = MockCall(secret=SECRET, model="gpt-4.1", ask=RequestSize(token_ids=900_000))
    assert [mock.admit(call).status for _ in range(3)] == [200, 200, 200]


def responses(mock: MockProvider, output: int, **fields: Any) -> Any:
    mock.script(output_tokens=output)
    body = {"model": "gpt-5-nano", "input": "x" * 400, **fields}
    return post(mock, body, "/v1/responses")


def test_responses_give_back_what_they_did_not_use() -> None:
    mock = provider()
    exchange = responses(mock, 17)
    assert used(mock, "org-acme/gpt-5-nano/tpm") == 317
    exchange.finish()
    assert used(mock, "org-acme/gpt-5-nano/tpm") == 117


def test_responses_may_go_into_debt() -> None:
    mock = provider({"tpm": 400})
    responses(mock, 500).finish()
    assert used(mock, "org-acme/gpt-5-nano/tpm") == 600
    state: Any = mock.state()
    assert state["buckets"]["org-acme/gpt-5-nano/tpm"]["remaining"] == 0
    assert responses(mock, 1).status == 429


def test_streamed_responses_show_the_state_at_admission() -> None:
    mock = provider()
    exchange = responses(mock, 600, stream=True)
    exchange.finish()
    assert headers(exchange)["x-ratelimit-remaining-tokens"] == str(200_000 - 317)


def test_chat_is_not_settled_unless_told_to() -> None:
    mock = provider()
    exchange = chat(mock, words_of(100), max_tokens=4)
    exchange.finish()
    assert used(mock, "org-acme/gpt-4o-mini/tpm") == 100
    mock = provider(settings=MockSettings(true_up=True))
    mock.script(output_tokens=50)
    chat(mock, words_of(100)).finish()
    assert used(mock, "org-acme/gpt-4o-mini/tpm") == 98 + 50


def test_finishing_twice_counts_once() -> None:
    mock = provider()
    exchange = responses(mock, 500)
    exchange.finish().finish()
    exchange.abort(1000)
    assert used(mock, "org-acme/gpt-5-nano/tpm") == 600
    assert (mock.completed, mock.aborted) == (1, 0)


def test_who_leaves_pays_for_what_was_produced() -> None:
    fleet = one_org(
        ModelSpec(name="gpt-5-nano", output_usd=Decimal(10), limits=MockModelLimits(tpm=10_000)),
        org=MockOrganization(id="org-acme", credits_usd=Decimal(1)),
    )
    mock = made(fleet)
    exchange = responses(mock, 500, stream=True)
    exchange.produced(30)
    exchange.produced(12)
    exchange.abort()
    assert used(mock, "org-acme/gpt-5-nano/tpm") == 142
    state: Any = mock.state()
    assert state["aborted"] == 1
    assert state["orgs"]["org-acme"]["month_spend_usd"] == "0.00042"
    assert state["keys"]["acme-1"]["in_flight"] == 0


def test_money_is_spent_until_there_is_none() -> None:
    spec = ModelSpec(name="m", input_usd=Decimal(10), output_usd=Decimal(100))
    org = MockOrganization(id="org-acme", credits_usd=Decimal("0.005"))
    mock = made(one_org(spec, org=org))
    call = MockCall(secret=SECRET, model="m", ask=RequestSize(token_ids=100), output_tokens=20)
    for _ in range(2):  # 0.003 each
        mock.admit(call).finish()
    refused = mock.admit(call)
    assert refused.problem is not None
    assert refused.problem.code == "credit_balance_exhausted"


def test_latency_follows_the_length_of_the_answer() -> None:
    settings = MockSettings(ttft_s=0.5, tokens_per_s=50)
    exchange = provider(settings=settings).admit(replace(CALL, output_tokens=100))
    assert exchange.ttft_s == 0.5
    assert exchange.latency_s == 2.5
    assert headers(exchange)["openai-processing-ms"] == "2500"


@given(st.integers(0, 2**32))
def test_jitter_stays_within_its_share_and_repeats(seed: int) -> None:
    settings = MockSettings(ttft_s=1.0, jitter=0.2)
    first, again = (provider(settings=settings, seed=seed) for _ in range(2))
    latencies = [first.admit(CALL).latency_s for _ in range(5)]
    assert latencies == [again.admit(CALL).latency_s for _ in range(5)]
    assert all(0.8 <= latency <= 1.2 for latency in latencies)


def test_the_report_counts_by_key_reason_and_second() -> None:
    mock = made(MockFleet.simple({"acme": {"rpm": 3, "keys": 2}}))
    for key in (1, 2, 1, 2):
        chat(mock, words_of(10), secret=f"sk-mock-acme-{key}").finish()
        clock(mock).advance(0.6)
    chat(mock, model="none")
    state: Any = mock.state()
    assert state["received"] == 5
    assert state["admitted"] == state["completed"] == 3
    assert state["refused"] == 1
    assert state["rejected"] == {"rpm": 1, "model_not_found": 1}
    assert state["keys"]["acme-1"]["admitted"] == 2
    assert state["keys"]["acme-2"]["rejected"] == {"rpm": 1}
    assert state["admitted_per_second"]["org-acme/gpt-4o-mini"] == {"0": [2, 20], "1": [1, 10]}
    assert "sk-mock" not in str(state)


def test_reset_forgets_everything() -> None:
    mock = provider({"rpm": 1})
    before = mock.state()
    chat(mock)
    mock.revoke("acme-1")
    mock.script("never said")
    mock.reset()
    assert mock.state() == before
    assert chat(mock).status == 200


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 400)), min_size=1, max_size=60),
    st.integers(1, 30),
    st.integers(100, 2000),
)
def test_no_window_admits_more_than_limit_and_refill(
    steps: list[tuple[float, int]], rpm: int, tpm: int
) -> None:
    mock = MockProvider(MockFleet.simple({"acme": {"rpm": rpm, "tpm": tpm}}), clock=FakeClock())
    admitted: list[tuple[float, int]] = []
    for pause, tokens in steps:
        clock(mock).advance(pause)
        if mock.admit(replace(CALL, ask=RequestSize(text_bytes=4 * tokens))).status == 200:
            admitted.append((mock.clock.now(), tokens + 1))
    for i, (begin, _) in enumerate(admitted):
        for j in range(i, len(admitted)):
            window = admitted[j][0] - begin
            part = admitted[i : j + 1]
            assert len(part) <= rpm + rpm * window / 60 + 1e-3
            assert sum(tokens for _, tokens in part) <= tpm + tpm * window / 60 + 1e-3
