"""What a caller sees of an answer, and which of its headers are read."""

from __future__ import annotations

import gzip
import json
import pickle
from datetime import timedelta
from typing import Any

import pytest
from tests.transport.odd_server import CHAT, DONE, OddServer, Seen, Send, delta, events, reply
from tests.transport.support import pool_at

from quotafleet.httpx import SENTINEL, Family, family, owned_client
from quotafleet.testing.clock import FakeClock

POOLED = {"authorization": f"Bearer {SENTINEL}"}
BODY = json.dumps(CHAT).encode()
URL = "http://x/v1/chat/completions"
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": []}


class Limited:
    """Answers with headers of rate limits, of which so many requests remain."""

    def __init__(self, odd: OddServer) -> None:
        self.remaining = 9_999
        odd.answer = self.answer

    async def answer(self, seen: Seen, send: Send) -> None:
        headers = {
            "x-ratelimit-limit-requests": "10000",
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{(10_000 - self.remaining) * 6}ms",
        }
        await reply(send, BODY, headers=headers)


async def compressed(seen: Seen, send: Send) -> None:
    await reply(send, gzip.compress(BODY), headers={"content-encoding": "gzip"})


async def garbled(seen: Seen, send: Send) -> None:
    await reply(send, b"no gzip at all", headers={"content-encoding": "gzip"})


def client_at(odd: OddServer, kind: Family, **options: Any) -> Any:
    return owned_client(kind.module.Client(headers=POOLED), pool_at(odd.base_url, "a"), **options)


def aclient_at(odd: OddServer, kind: Family) -> Any:
    return owned_client(kind.module.AsyncClient(headers=POOLED), pool_at(odd.base_url, "a"))


@pytest.fixture
def kind(family_name: str) -> Family:
    return family(family_name)


class TestWhole:
    """A JSON answer is there before it is handed on; it looks like any other that was read."""

    @pytest.mark.parametrize("answer", [None, compressed])
    def test_it_was_read_and_closed(self, odd: OddServer, kind: Family, answer: Any) -> None:
        odd.answer = answer
        with client_at(odd, kind) as client:
            response = client.post(URL, json=ASK)
        assert isinstance(response, kind.module.Response)
        assert response.content == response.read() == BODY
        assert response.json() == CHAT
        assert (response.is_closed, response.is_stream_consumed) == (True, True)
        assert response.elapsed > timedelta()
        came = BODY if answer is None else gzip.compress(BODY)
        assert response.num_bytes_downloaded == len(came)
        assert next(iter(response.iter_bytes(100))) == BODY[:100]
        with pytest.raises(kind.module.StreamConsumed):
            list(response.iter_raw())

    @pytest.mark.parametrize("answer", [None, compressed])
    async def test_it_was_read_in_a_loop(self, odd: OddServer, kind: Family, answer: Any) -> None:
        odd.answer = answer
        async with aclient_at(odd, kind) as client:
            response = await client.post(URL, json=ASK)
        assert response.content == await response.aread() == BODY
        assert (response.is_closed, response.is_stream_consumed) == (True, True)
        assert response.elapsed > timedelta()
        assert [part async for part in response.aiter_bytes()] == [BODY]
        with pytest.raises(RuntimeError):
            list(response.iter_raw())

    def test_who_streams_gets_it_in_parts(self, odd: OddServer, kind: Family) -> None:
        odd.answer = compressed
        with client_at(odd, kind) as client:
            with client.stream("POST", URL, json=ASK) as response:
                assert not response.is_closed
                parts = list(response.iter_raw(50))
            assert b"".join(parts) == gzip.compress(BODY)
            assert len(parts) > 1
            with client.stream("POST", URL, json=ASK) as response:
                assert b"".join(response.iter_bytes(10)) == BODY
            with client.stream("POST", URL, json=ASK) as response:
                pass
            with pytest.raises(kind.module.StreamClosed):
                response.read()

    async def test_who_streams_in_a_loop_does_too(self, odd: OddServer, kind: Family) -> None:
        odd.answer = compressed
        async with aclient_at(odd, kind) as client:
            async with client.stream("POST", URL, json=ASK) as response:
                parts = [part async for part in response.aiter_raw(50)]
            assert b"".join(parts) == gzip.compress(BODY)
            async with client.stream("POST", URL, json=ASK) as response:
                pass
            with pytest.raises(kind.module.StreamClosed):
                await response.aread()

    def test_what_is_no_gzip_fails_in_the_client(self, odd: OddServer, kind: Family) -> None:
        odd.answer = garbled
        with client_at(odd, kind) as client, pytest.raises(kind.module.DecodingError):
            client.post(URL, json=ASK)

    def test_it_can_be_pickled(self, odd: OddServer, kind: Family) -> None:
        with client_at(odd, kind) as client:
            again = pickle.loads(pickle.dumps(client.post(URL, json=ASK)))
        assert type(again) is kind.module.Response
        assert again.json() == CHAT
        assert again.is_closed

    def test_a_response_of_another_class_is_left_as_it_is(
        self, odd: OddServer, kind: Family
    ) -> None:
        class Own(kind.module.Response):  # type: ignore[misc,name-defined]
            """A transport's own."""

        class Inner(kind.module.HTTPTransport):  # type: ignore[misc,name-defined]
            def handle_request(self, request: Any) -> Any:
                response = super().handle_request(request)
                response.__class__ = Own
                return response

        pool = pool_at(odd.base_url, "a")
        with Inner() as inner:
            client = kind.module.Client(transport=kind.PoolTransport(pool, inner))
            response = client.post(URL, json=ASK, headers=POOLED)
        assert type(response) is Own
        assert response.json() == CHAT


class Reads:
    """Mixed into a transport that reads each answer itself, as those that log bodies do."""

    def handle_request(self, request: Any) -> Any:
        response = super().handle_request(request)  # type: ignore[misc] # the family's
        response.read()
        return response

    async def handle_async_request(self, request: Any) -> Any:
        response = await super().handle_async_request(request)  # type: ignore[misc]
        await response.aread()
        return response


async def refused(seen: Seen, send: Send) -> None:
    await reply(send, b'{"error": {"message": "no", "code": "odd"}}', status=400)


async def streamed(seen: Seen, send: Send) -> None:
    await events(send, delta("a"), DONE)


class TestReadAlready:
    """A transport may have read an answer; what it wraps can't be read again."""

    @pytest.mark.parametrize(
        ("answer", "status", "told"),
        [
            (None, 200, BODY),
            (compressed, 200, BODY),
            (refused, 400, b'"odd"'),
            (streamed, 200, b"[DONE]"),
        ],
    )
    def test_its_body_is_taken_from_it(
        self, odd: OddServer, kind: Family, answer: Any, status: int, told: bytes
    ) -> None:
        odd.answer = answer
        pool = pool_at(odd.base_url, "a")
        with type("Log", (Reads, kind.module.HTTPTransport), {})() as inner:
            client = kind.module.Client(transport=kind.PoolTransport(pool, inner))
            response = client.post(URL, json=ASK, headers=POOLED)
            assert (response.status_code, told in response.content) == (status, True)
            with client.stream("POST", URL, json=ASK, headers=POOLED) as response:
                assert told in b"".join(response.iter_bytes())
        assert pool.status().in_flight == 0

    async def test_its_body_is_taken_from_it_in_a_loop(self, odd: OddServer, kind: Family) -> None:
        pool = pool_at(odd.base_url, "a")
        async with type("Log", (Reads, kind.module.AsyncHTTPTransport), {})() as inner:
            client = kind.module.AsyncClient(transport=kind.AsyncPoolTransport(pool, inner))
            assert (await client.post(URL, json=ASK, headers=POOLED)).json() == CHAT
            odd.answer = streamed
            response = await client.post(URL, json=ASK, headers=POOLED)
            assert b"[DONE]" in response.content
        assert pool.status().in_flight == 0

    def test_one_that_was_closed_unread_fails(self, odd: OddServer, kind: Family) -> None:
        class Closes(kind.module.HTTPTransport):  # type: ignore[misc,name-defined]
            def handle_request(self, request: Any) -> Any:
                response = super().handle_request(request)
                response.close()
                return response

        pool = pool_at(odd.base_url, "a")
        with Closes() as inner:
            client = kind.module.Client(transport=kind.PoolTransport(pool, inner))
            with pytest.raises(kind.module.ResponseNotRead):
                client.post(URL, json=ASK, headers=POOLED)
        assert pool.status().in_flight == 0


class TestHeaders:
    """Those of an owner that is hardly used are read a few times a second."""

    def test_one_answer_after_another(self, odd: OddServer, kind: Family) -> None:
        limited, clock = Limited(odd), FakeClock()
        pool = pool_at(odd.base_url, "a", clock=clock)

        def left() -> float:
            (scope,) = pool.status().scopes
            return scope.levels[0].available

        with owned_client(kind.module.Client(headers=POOLED), pool) as client:
            client.post(URL, json=ASK)
            assert left() > 9_900  # of a key that was never answered they are read
            limited.remaining = 5_000
            client.post(URL, json=ASK)
            assert left() > 9_900  # the pool knows of this moment already
            clock.advance(0.25)
            client.post(URL, json=ASK)
            assert 4_900 < left() < 5_000
            limited.remaining = 4_000
            client.post(URL, json=ASK)
            assert 3_900 < left() < 4_000  # of an owner that is used all are read
