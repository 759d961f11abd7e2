"""What the caller sees when a provider refuses, and what is tried before that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import openai
import pytest
from tenacity import stop_after_attempt, wait_none
from tests.transport.odd_server import OddServer, Seen, completion, reply, start
from tests.transport.support import (
    ASK,
    PLENTY,
    AsyncOpenAI,
    OpenAI,
    admitted,
    idle,
    mock,
    mock_pool,
    pool_at,
    secret,
)

from quotafleet import KeyPool, Limits, Organization, PoolClosed, RetryPolicy
from quotafleet.errors import QueueFull, TooLarge, WaitTimeout
from quotafleet.events import Event, Settled
from quotafleet.httpx import SENTINEL, http_client
from quotafleet.testing import MockFault, RequestMatch


def health(pool: KeyPool) -> dict[str, str]:
    return {key.key_id: key.health for key in pool.status().keys}


def noting(ended: list[str]) -> Callable[[Event], None]:
    """Return a listener that notes the outcomes of attempts."""

    def listen(event: Event) -> None:
        if isinstance(event, Settled):
            ended.append(event.outcome)

    return listen


def test_a_revoked_key_is_dead_and_another_answers() -> None:
    with mock() as (server, pool):
        server.provider.revoke("a-1")
        client = OpenAI(pool=pool)
        for _ in range(4):
            client.chat.completions.create(**ASK)
        assert admitted(server) == {"a-1": 0, "b-1": 4}
        assert server.provider.state()["received"] == 5
    assert health(pool) == {"a#1": "dead", "b#1": "closed"}


def test_when_every_key_is_dead_the_provider_has_the_last_word() -> None:
    with mock() as (server, pool):
        server.provider.revoke("a-1")
        server.provider.revoke("b-1")
        client = OpenAI(pool=pool)
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(**ASK)
        assert caught.value.code == "invalid_api_key"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert caught.value.response.headers["x-quotafleet-attempts"] == "2"
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(**ASK)
    assert refused.value.code == "no_usable_key"
    assert "dead" in str(refused.value)
    assert idle(pool)


@pytest.mark.parametrize(
    "action", ["429_rpm", "429_tpm", "500", "overloaded", "quota", "too_large"]
)
def test_what_one_owner_refuses_another_answers(action: Any) -> None:
    with mock() as (server, pool):
        server.provider.inject(MockFault(action=action, match=RequestMatch(key="a-1"), times=None))
        raw = OpenAI(pool=pool).chat.completions.with_raw_response
        made = [int(raw.create(**ASK).headers["x-quotafleet-attempts"]) for _ in range(2)]
        assert sorted(made) == [1, 2] or action in ("quota", "overloaded")
        assert admitted(server)["b-1"] == 2
    assert idle(pool)


async def test_what_one_owner_refuses_another_answers_in_asyncio() -> None:
    with mock() as (server, pool):
        server.provider.inject(MockFault(action="500", match=RequestMatch(key="a-1"), times=None))
        client = AsyncOpenAI(pool=pool)
        for _ in range(2):
            await client.chat.completions.create(**ASK)
        assert admitted(server) == {"a-1": 0, "b-1": 2}


def test_a_connection_that_breaks_is_replaced() -> None:
    with mock() as (server, pool):
        server.provider.inject(
            MockFault(action="reset_conn", match=RequestMatch(key="a-1"), times=None)
        )
        client = OpenAI(pool=pool)
        for _ in range(2):
            client.chat.completions.create(**ASK)
        assert admitted(server) == {"a-1": 0, "b-1": 2}
    assert idle(pool)


async def _breaks_half_way(seen: Seen, send: Any) -> None:
    await start(send, 200, {"content-type": "application/json", "content-length": "100000"})
    await send({"type": "http.response.body", "body": b'{"id": "chatcmpl-1", ', "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def broken_once(odd: OddServer) -> None:
    async def once(seen: Seen, send: Any) -> None:
        odd.answer = None
        await _breaks_half_way(seen, send)

    odd.answer = once


def test_an_answer_that_breaks_half_way_is_asked_for_again(odd: OddServer) -> None:
    broken_once(odd)
    ended: list[str] = []
    pool = pool_at(odd.base_url, "a", "b", listeners=[noting(ended)])
    OpenAI(pool=pool).chat.completions.create(**ASK)
    assert [seen.key for seen in odd.seen] == [secret("a"), secret("b")]
    assert ended == ["network", "ok"]
    assert idle(pool)


async def test_an_answer_that_breaks_half_way_is_asked_for_again_in_asyncio(odd: OddServer) -> None:
    broken_once(odd)
    ended: list[str] = []
    pool = pool_at(odd.base_url, "a", "b", listeners=[noting(ended)])
    await AsyncOpenAI(pool=pool).chat.completions.create(**ASK)
    assert [seen.key for seen in odd.seen] == [secret("a"), secret("b")]
    assert ended == ["network", "ok"]
    assert idle(pool)


def test_what_is_wrong_with_a_request_is_told_once() -> None:
    with mock() as (server, pool):
        client = OpenAI(pool=pool)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**{**ASK, "temperature": 17})
        assert server.provider.state()["received"] == 1
    assert idle(pool)


def test_a_refusal_is_read_so_that_its_connection_is_used_again(odd: OddServer) -> None:
    async def once(seen: Seen, send: Any) -> None:
        odd.answer = None
        body = b'{"error": {"message": "%s"}}' % (b"x" * 100_000)
        await reply(send, body, status=500)

    odd.answer = once
    OpenAI(pool=pool_at(odd.base_url, "a", "b")).chat.completions.create(**ASK)
    assert len(odd.seen) == 2
    assert odd.connections == 1


def test_the_last_refusal_comes_whole(odd: OddServer) -> None:
    async def sorry(seen: Seen, send: Any) -> None:
        body = b'{"error": {"message": "sorry", "type": "server_error", "code": "odd"}}'
        headers = {"x-should-retry": "true", "x-own": "yes"}
        await reply(send, body, status=500, headers=headers)

    odd.answer = sorry
    client = OpenAI(pool=pool_at(odd.base_url, "a"), max_retries=2)
    with pytest.raises(openai.InternalServerError, match="sorry") as caught:
        client.chat.completions.create(**ASK)
    assert caught.value.code == "odd"
    headers = caught.value.response.headers
    assert headers["x-own"] == "yes"
    assert headers.get_list("x-should-retry") == ["false"]
    assert headers["x-quotafleet-attempts"] == "3"
    assert len(odd.seen) == 3


def test_attempts_are_bounded_by_max_retries(odd: OddServer) -> None:
    async def no(seen: Seen, send: Any) -> None:
        await reply(send, b"{}", status=500)

    odd.answer = no
    client = OpenAI(pool=pool_at(odd.base_url, "a", "b", "c"), max_retries=0)
    for calls, expected in (
        (client, 1),
        (client.with_options(max_retries=1), 2),
        (client.with_options(max_retries=1).with_options(timeout=5), 2),
    ):
        odd.seen.clear()
        with pytest.raises(openai.InternalServerError):
            calls.chat.completions.create(**ASK)
        assert len(odd.seen) == expected


def test_a_timeout_is_the_sdks_own(odd: OddServer) -> None:
    with mock() as (server, _):
        pool = mock_pool(server, retry=RetryPolicy(wait=wait_none(), stop=stop_after_attempt(2)))
        server.provider.inject(MockFault(action="timeout", seconds=5, times=None))
        client = OpenAI(pool=pool, timeout=0.3)
        begun = time.monotonic()
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(**ASK)
        assert time.monotonic() - begun < 4.5
        assert server.provider.state()["received"] == 2
    assert idle(pool)


def test_a_refused_connection_is_the_sdks_own() -> None:
    pool = pool_at("http://127.0.0.1:9/v1", "a")
    with pytest.raises(openai.APIConnectionError):
        OpenAI(pool=pool, max_retries=1).chat.completions.create(**ASK)
    assert idle(pool)
    assert pool.status().keys[0].failed == 2


# The pool has no key to give


def emptied(odd: OddServer, **options: Any) -> KeyPool:
    """Return a pool that has nothing to give for a day."""
    owner = Organization(name="a", keys=(secret("a"),), base_url=odd.base_url, limits=Limits(rpd=1))
    pool = KeyPool([owner], **options)
    OpenAI(pool=pool).chat.completions.create(**ASK)
    return pool


def test_no_key_in_time_is_a_rate_limit_error(odd: OddServer) -> None:
    client = OpenAI(pool=emptied(odd, wait_timeout=0.2))
    begun = time.monotonic()
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**ASK)
    assert time.monotonic() - begun < 10
    error = caught.value
    assert (error.code, error.type) == ("wait_timeout", "quotafleet")
    assert 86_000 <= int(error.response.headers["retry-after"]) <= 86_400
    assert "of 1 rpd left, the call needs 1" in str(error)
    assert error.response.headers["x-quotafleet-attempts"] == "0"
    assert "x-quotafleet-key-id" not in error.response.headers
    cause = error.response.extensions["quotafleet"]
    assert isinstance(cause, WaitTimeout)
    assert cause.retry_after is not None
    assert len(odd.seen) == 1


async def test_no_key_in_time_is_a_rate_limit_error_in_asyncio(odd: OddServer) -> None:
    client = AsyncOpenAI(pool=emptied(odd, wait_timeout=0.2))
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(**ASK)
    assert caught.value.code == "wait_timeout"


@pytest.mark.parametrize("hint", ["x-quotafleet-timeout", "x-quotafleet-deadline-after"])
def test_a_call_may_say_how_long_it_waits(odd: OddServer, hint: str) -> None:
    client = OpenAI(pool=emptied(odd))
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**ASK, extra_headers={hint: "0.1"})
    assert caught.value.code == "wait_timeout"


def test_the_sdks_timeout_does_not_bound_the_wait(odd: OddServer) -> None:
    owner = Organization(
        name="a", keys=(secret("a"),), base_url=odd.base_url, limits=Limits(rpm=120)
    )
    client = OpenAI(pool=KeyPool([owner]), timeout=0.2)
    for _ in range(119):
        client.pool.lease(_demand()).__enter__().settle()
    raw = client.chat.completions.with_raw_response
    waits = [float(raw.create(**ASK).headers["x-quotafleet-waited-for"]) for _ in range(3)]
    assert max(waits) > 0.2


def _demand() -> Any:
    from quotafleet import Demand

    return Demand(model="gpt-4o-mini")


def test_a_call_that_is_too_large_is_told_at_once(odd: OddServer) -> None:
    owner = Organization(
        name="a", keys=(secret("a"),), base_url=odd.base_url, limits=Limits(tpm=100)
    )
    client = OpenAI(pool=KeyPool([owner]))
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "x" * 4_000}]
        )
    assert caught.value.code == "request_too_large"
    assert isinstance(caught.value.response.extensions["quotafleet"], TooLarge)
    assert "retry-after" not in caught.value.response.headers
    assert odd.seen == []


def test_a_full_queue_is_a_rate_limit_error(odd: OddServer) -> None:
    client = OpenAI(pool=emptied(odd, max_waiting=0, wait_timeout=1e6))
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**ASK)
    assert isinstance(caught.value.response.extensions["quotafleet"], QueueFull)


def test_a_model_that_no_key_may_use_is_a_bad_request(odd: OddServer) -> None:
    owner = Organization(
        name="a", keys=(secret("a"),), base_url=odd.base_url, only_models=("gpt-5*",)
    )
    with pytest.raises(openai.BadRequestError) as caught:
        OpenAI(pool=KeyPool([owner])).chat.completions.create(**ASK)
    assert caught.value.code == "model_not_served"
    assert "gpt-4o-mini" in str(caught.value)


def test_a_closed_pool_says_so(odd: OddServer) -> None:
    pool = pool_at(odd.base_url, "a")
    pool.close()
    with http_client(pool) as client, pytest.raises(PoolClosed):
        client.get("http://x/v1/models", headers={"authorization": f"Bearer {SENTINEL}"})


def test_plenty_is_plenty() -> None:
    with mock({"a": {**PLENTY, "keys": 2}, "b": PLENTY}) as (server, pool):
        client = OpenAI(pool=pool)
        for _ in range(8):
            client.chat.completions.create(**ASK)
        assert admitted(server) == {"a-1": 2, "a-2": 2, "b-1": 4}


BALANCE = b'{"choices": null, "base_resp": {"status_code": 1008, "status_msg": "no balance"}}'


def test_an_error_under_200_fails_over_and_parks_its_owner(odd: OddServer) -> None:
    async def answer(seen: Seen, send: Any) -> None:
        if seen.key == secret("broke"):
            await reply(send, BALANCE)
        else:
            await completion(seen, send)

    odd.answer = answer
    organizations = [
        Organization(name=name, keys=(secret(name),), base_url=odd.base_url, provider="generic")
        for name in ("broke", "rich")
    ]
    with KeyPool(organizations, strategy="round-robin") as pool:
        client = OpenAI(pool=pool)
        for _ in range(4):
            assert client.chat.completions.create(**ASK).choices[0].message.content == "yes"
        assert [one.subject for one in pool.status().unavailable] == ["organization broke"]


def test_an_error_under_200_that_no_owner_can_help_is_the_sdks_error(odd: OddServer) -> None:
    async def answer(seen: Seen, send: Any) -> None:
        await reply(send, BALANCE)

    odd.answer = answer
    organization = Organization(
        name="broke", keys=(secret("broke"),), base_url=odd.base_url, provider="generic"
    )
    with (
        KeyPool([organization], wait_timeout=0.2) as pool,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        OpenAI(pool=pool).chat.completions.create(**ASK)
    assert caught.value.status_code == 429
