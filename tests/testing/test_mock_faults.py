"""Faults befall whom they are meant for, as often as ordered, and look like the real thing."""

from typing import Any, get_args

import pytest

from quotafleet.testing import MockFault, MockFleet, MockProvider, RequestMatch
from quotafleet.testing.mock.faults import Action, read_faults

from .mock_kit import SECRET, chat, clock, error, headers, made, post, provider, told, used


def two() -> MockProvider:
    return made(MockFleet.simple({"acme": {"rpm": 500, "tpm": 200_000}, "birch": {"rpm": 500}}))


@pytest.mark.parametrize(
    ("action", "status", "code", "start"),
    [
        (
            "429_rpm",
            429,
            "rate_limit_exceeded",
            "Rate limit reached for gpt-4o-mini in organization org-acme on requests per min (RPM):"
            " Limit 500, Used 500, Requested 1. Please try again in 120ms.",
        ),
        (
            "429_tpm",
            429,
            "rate_limit_exceeded",
            "Rate limit reached for gpt-4o-mini in organization org-acme on tokens per min (TPM):"
            " Limit 200000, Used 200000, Requested 2. Please try again in 0s.",
        ),
        (
            "too_large",
            429,
            "rate_limit_exceeded",
            "Request too large for gpt-4o-mini in organization org-acme on tokens per min (TPM):"
            " Limit 200000, Requested 200001.",
        ),
        ("slow_down", 429, "slow_down", "A sudden increase in your request rate"),
        ("overloaded", 503, "server_is_overloaded", "The model is temporarily overloaded."),
        ("500", 500, None, "The server had an error while processing your request."),
        ("quota", 429, "insufficient_quota", "You exceeded your current quota"),
        ("revoke_key", 401, "invalid_api_key", "Incorrect API key provided: sk-mock-"),
    ],
)
def test_a_refusal_on_order(action: Action, status: int, code: str | None, start: str) -> None:
    mock = provider()
    mock.inject(MockFault(action=action))
    refused = chat(mock)
    assert refused.status == status
    assert error(refused)["code"] == code
    assert error(refused)["message"].startswith(start)
    assert mock.admitted == 0
    assert used(mock, "org-acme/gpt-4o-mini/rpm") == 0
    assert chat(mock).status == (401 if action == "revoke_key" else 200)


def test_every_action_is_either_refusing_or_admitted() -> None:
    for action in get_args(Action):
        mock = provider()
        mock.inject(MockFault(action=action, code="server_error" if action == "error" else None))
        exchange = chat(mock, stream=True)
        assert exchange.fault is not None
        assert exchange.fault.action == action
        exchange.abort()
        assert mock.state()["keys"]["acme-1"]["in_flight"] == 0  # type: ignore[index]


def test_a_revoked_key_stays_revoked_and_its_sibling_works() -> None:
    mock = made(MockFleet.simple({"acme": {"rpm": 500, "keys": 2}}))
    mock.inject(MockFault(action="revoke_key"))
    assert [chat(mock).status for _ in range(3)] == [401, 401, 401]
    assert chat(mock, secret="sk-mock-acme-2").status == 200
    mock.revoke("acme-1", revoked=False)
    assert chat(mock).status == 200
    with pytest.raises(KeyError, match="no such key"):
        mock.revoke("nobody")


@pytest.mark.parametrize("key", ["acme-1", SECRET])
def test_a_key_is_matched_by_name_or_secret(key: str) -> None:
    mock = two()
    mock.inject(MockFault(action="500", match=RequestMatch(key=key)))
    assert chat(mock, secret="sk-mock-birch-1").status == 200
    assert chat(mock).status == 500


def test_model_endpoint_and_turn_are_matched() -> None:
    mock = two()
    mock.inject(MockFault(action="500", match=RequestMatch(model="gpt-4o", endpoint="chat", nth=2)))
    assert chat(mock, model="gpt-4o-mini").status == 200
    assert post(mock, {"model": "gpt-4o", "input": "x"}, "/v1/responses").status == 200
    assert [chat(mock, model="gpt-4o").status for _ in range(4)] == [200, 500, 200, 200]


def test_times_and_always() -> None:
    mock = provider()
    mock.inject(MockFault(action="500", times=2), MockFault(action="overloaded", times=None))
    assert [chat(mock).status for _ in range(5)] == [500, 500, 503, 503, 503]


def test_a_probability_is_drawn_from_the_seed() -> None:
    def statuses(seed: int) -> list[int]:
        mock = provider({"rpm": 100_000}, seed=seed)
        mock.inject(MockFault(action="500", probability=0.3, times=None))
        return [chat(mock).status for _ in range(300)]

    assert statuses(1) == statuses(1) != statuses(2)
    assert 60 <= statuses(1).count(500) <= 120


def test_a_delay_on_order_is_stated() -> None:
    mock = provider()
    mock.inject(MockFault(action="overloaded", retry_after_s=7.2))
    assert headers(chat(mock))["retry-after"] == "8"


def test_a_quota_fault_says_which() -> None:
    mock = provider()
    mock.inject(MockFault(action="quota", code="project_spend_limit_exceeded"))
    assert error(chat(mock))["code"] == "project_spend_limit_exceeded"


def test_limits_are_shown_with_a_429_on_order() -> None:
    mock = provider()
    chat(mock)
    mock.inject(MockFault(action="429_rpm"))
    shown = headers(chat(mock))
    assert shown["x-ratelimit-remaining-requests"] == "499"
    assert shown["x-ratelimit-remaining-tokens"] == "199996"
    assert shown["retry-after"] == "1"


@pytest.mark.parametrize(
    ("action", "values"),
    [("malformed_headers", ("unlimited", "", "soon")), ("negative_headers", ("-1", "-1", "0"))],
)
def test_headers_may_be_nonsense(action: Action, values: tuple[str, str, str]) -> None:
    mock = provider()
    mock.inject(MockFault(action=action))
    exchange = chat(mock)
    assert exchange.status == 200
    shown = headers(exchange)
    for group in ("requests", "tokens"):
        assert values == tuple(
            shown[f"x-ratelimit-{kind}-{group}"] for kind in ("limit", "remaining", "reset")
        )


def test_a_reset_is_not_charged_and_a_timeout_is() -> None:
    mock = provider()
    mock.inject(MockFault(action="reset_conn"), MockFault(action="timeout", seconds=9))
    reset = chat(mock)
    assert (reset.status, reset.drop) == (0, "reset")
    assert mock.admitted == 0
    silent = chat(mock)
    assert (silent.status, silent.drop, silent.hold_s) == (0, "timeout", 9)
    assert mock.admitted == 1
    assert used(mock, "org-acme/gpt-4o-mini/rpm") == 1


def test_a_stream_breaks_after_so_many_pieces() -> None:
    mock = provider()
    mock.script("one two three four", times=None)
    mock.inject(MockFault(action="stream_error", after_chunks=2, code="server_is_overloaded"))
    events = [event.data for event in chat(mock, stream=True).events()]
    assert [b"one" in e or b"two" in e for e in events] == [False, True, True, False]
    assert b'"code":"server_is_overloaded"' in events[-1]
    assert not any(b"[DONE]" in event for event in events)
    mock.inject(MockFault(action="stream_truncate", after_chunks=1))
    truncated = chat(mock, stream=True)
    assert truncated.drop == "truncate"
    assert len(list(truncated.events())) == 2


def test_an_error_in_a_stream_waits_for_a_stream() -> None:
    mock = provider()
    mock.inject(MockFault(action="stream_error"))
    assert chat(mock).fault is None
    assert chat(mock, stream=True).fault is not None


def test_a_fault_does_not_hide_an_unknown_key() -> None:
    mock = provider()
    mock.inject(MockFault(action="500"))
    assert chat(mock, secret="sk-unknown").status == 401
    assert chat(mock).status == 500


def test_a_fault_may_befall_a_model_that_is_not_there() -> None:
    mock = provider()
    mock.inject(MockFault(action="429_rpm"))
    assert "Limit 500, Used 500" in told(chat(mock, model="gpt-9"))["error"]["message"]
    assert chat(mock, model="gpt-9").status == 404


def test_an_owner_may_refuse_with_any_status_and_code() -> None:
    mock = two()
    mock.inject(
        MockFault(
            action="refuse",
            status=412,
            code="account_suspended",
            message="Account suspended.",
            match=RequestMatch(key="acme-1"),
            times=None,
        )
    )
    assert chat(mock, secret="sk-mock-birch-1").status == 200
    refused = chat(mock)
    assert refused.status == 412
    assert error(refused)["code"] == "account_suspended"
    assert "x-ratelimit-limit-requests" not in headers(refused)
    assert used(mock, "org-acme/gpt-4o-mini/rpm") == 0


def test_one_prompt_is_refused_at_every_owner() -> None:
    mock = two()
    flagged = RequestMatch(text="forbidden words")
    mock.inject(MockFault(action="refuse", status=403, match=flagged, times=None))
    for secret in (SECRET, "sk-mock-birch-1"):
        assert chat(mock, "some forbidden words", secret=secret).status == 403
        assert chat(mock, "harmless", secret=secret).status == 200


def test_an_outage_lasts_as_long_as_ordered() -> None:
    mock = two()
    during = RequestMatch(start_s=10, end_s=70)
    mock.inject(MockFault(action="refuse", status=401, match=during, times=None))
    statuses = []
    for _ in range(8):
        statuses.append({chat(mock, secret=s).status for s in (SECRET, "sk-mock-birch-1")})
        clock(mock).advance(10)
    assert statuses == [{200}, *[{401}] * 6, {200}]


BASE_RESP = {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_may_hide_under_status_200(stream: bool) -> None:
    mock = provider()
    mock.inject(
        MockFault(action="refuse", status=200, code="upstream_error"),
        MockFault(action="refuse", status=200, body=BASE_RESP),
    )
    hidden = chat(mock, stream=stream)
    assert (hidden.status, hidden.streamed, hidden.ok) == (200, False, False)
    assert error(hidden)["code"] == "upstream_error"
    assert told(chat(mock, stream=stream)) == BASE_RESP
    assert mock.admitted == 0


def test_the_first_event_of_a_stream_may_be_an_error() -> None:
    mock = provider()
    mock.inject(MockFault(action="stream_error", after_chunks=0, code="server_is_overloaded"))
    exchange = chat(mock, stream=True)
    assert exchange.status == 200
    (only,) = exchange.events()
    assert b'"code":"server_is_overloaded"' in only.data


@pytest.mark.parametrize(("action", "status"), [("overloaded", 503), ("429_rpm", 429)])
def test_a_delay_of_a_day_is_stated(action: Action, status: int) -> None:
    mock = provider()
    mock.inject(MockFault(action=action, retry_after_s=86_400))
    refused = chat(mock)
    assert refused.status == status
    assert headers(refused)["retry-after"] == "86400"


def test_a_reset_may_contradict_the_limits_period() -> None:
    mock = provider()
    mock.inject(MockFault(action="odd_reset", seconds=86_399))
    shown = headers(chat(mock))
    assert shown["x-ratelimit-limit-requests"] == "500"
    assert shown["x-ratelimit-reset-requests"] == "23h59m59s"


def test_faults_are_read_from_json() -> None:
    (fault,) = read_faults({"match": {"key": "acme-1", "nth": 3}, "action": "429_tpm"})
    assert fault == MockFault(action="429_tpm", match=RequestMatch(key="acme-1", nth=3))
    assert len(read_faults([{"action": "500", "times": None}, {"action": "quota"}])) == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([{"action": "explode"}], "0.action"),
        ([{"action": "500", "match": {"kee": "x"}}], "0.match.kee"),
        ([{"action": "500", "often": 3}], "0.often"),
        ([{"action": "500", "probability": 2}], "probability must be above 0"),
        ([{"action": "500", "times": 0}], "times must be at least 1"),
        ([{"action": "error", "code": "nothing"}], "no error 'nothing'"),
        ([{"action": "quota", "code": "nothing"}], "no error 'nothing'"),
        ("500", "body"),
    ],
)
def test_a_wrong_fault_is_told_with_its_place(data: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_faults(data)


def test_time_does_not_consume_faults() -> None:
    mock = provider()
    mock.inject(MockFault(action="500"))
    clock(mock).advance(10_000)
    assert chat(mock).status == 500
