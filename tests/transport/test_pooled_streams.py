"""The end of a body ends its lease: read out, closed early, dropped, cancelled, cut."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import threading
import time
import zlib
from typing import Any

import openai
import pytest
from tests.transport.odd_server import CHAT, DONE, OddServer, Seen, delta, events, reply, start
from tests.transport.support import ASK, AsyncOpenAI, OpenAI, idle, pool_at, until

from quotafleet import KeyPool
from quotafleet.events import Settled
from quotafleet.httpx import SENTINEL, async_http_client, http_client

STREAM: dict[str, Any] = {**ASK, "stream": True}
POOLED = {"authorization": f"Bearer {SENTINEL}"}
USAGE = {"usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}, "choices": []}


def watched_pool(odd: OddServer, *names: str) -> tuple[KeyPool, list[Settled]]:
    """Return a pool, and what became of its attempts."""
    ended: list[Settled] = []

    def listen(event: object) -> None:
        if isinstance(event, Settled):
            ended.append(event)

    return pool_at(odd.base_url, *(names or ("a",)), listeners=[listen]), ended


async def whole_stream(seen: Seen, send: Any) -> None:
    await events(send, *[delta("x") for _ in range(50)], delta(**USAGE), DONE)


async def endless_stream(seen: Seen, send: Any) -> None:
    await events(send, delta("x"), delta("y"), last=False)
    await asyncio.sleep(5)


# Read to the end


def test_twenty_streams_use_one_connection(odd: OddServer) -> None:
    odd.answer = whole_stream
    pool, ended = watched_pool(odd)
    client = OpenAI(pool=pool)
    for _ in range(20):
        assert len(list(client.chat.completions.create(**STREAM))) == 51
        assert idle(pool)
    assert odd.connections == 1
    assert {(event.outcome, event.usage and event.usage.tokens) for event in ended} == {("ok", 8)}


async def test_twenty_async_streams_use_one_connection(odd: OddServer) -> None:
    odd.answer = whole_stream
    pool, ended = watched_pool(odd)
    client = AsyncOpenAI(pool=pool)
    for _ in range(20):
        stream = await client.chat.completions.create(**STREAM)
        assert len([chunk async for chunk in stream]) == 51
        assert idle(pool)
    assert odd.connections == 1
    assert {(event.outcome, event.usage and event.usage.tokens) for event in ended} == {("ok", 8)}


async def _slow_to_end(seen: Seen, send: Any) -> None:
    await events(send, delta("x"), DONE, last=False)
    await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b""})


async def _never_ends(seen: Seen, send: Any) -> None:
    await events(send, delta("x"), DONE, last=False)
    await asyncio.sleep(5)


def test_a_terminator_that_comes_late_is_waited_for(odd: OddServer) -> None:
    odd.answer = _slow_to_end
    client = OpenAI(pool=pool_at(odd.base_url, "a"))
    for _ in range(3):
        list(client.chat.completions.create(**STREAM))
    assert odd.connections == 1


def test_a_terminator_that_never_comes_is_not(odd: OddServer) -> None:
    odd.answer = _never_ends
    client = OpenAI(pool=pool_at(odd.base_url, "a"))
    begun = time.monotonic()
    for _ in range(2):
        list(client.chat.completions.create(**STREAM))
    assert time.monotonic() - begun < 4.5
    assert odd.connections == 2


async def test_an_async_terminator_that_never_comes_is_not(odd: OddServer) -> None:
    odd.answer = _never_ends
    client = AsyncOpenAI(pool=pool_at(odd.base_url, "a"))
    begun = time.monotonic()
    stream = await client.chat.completions.create(**STREAM)
    async for _ in stream:
        pass
    assert time.monotonic() - begun < 4.5


def test_chunks_are_not_held_up(odd: OddServer) -> None:
    go_on = threading.Event()

    async def one_by_one(seen: Seen, send: Any) -> None:
        await events(send, delta("first"), last=False)
        await asyncio.to_thread(go_on.wait, 5)
        await send({"type": "http.response.body", "body": DONE})

    odd.answer = one_by_one
    stream = OpenAI(pool=pool_at(odd.base_url, "a")).chat.completions.create(**STREAM)
    assert next(iter(stream)).choices[0].delta.content == "first"
    go_on.set()
    assert list(stream) == []


# Usage


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate", "br"])
@pytest.mark.parametrize("streamed", [False, True])
def test_usage_is_read_from_the_end(odd: OddServer, encoding: str, streamed: bool) -> None:
    events_ = b"".join([*[delta("x" * 50) for _ in range(2_000)], delta(**USAGE), DONE])
    plain = events_ if streamed else json.dumps({"pad": "x" * 100_000, **CHAT}).encode()
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, bytes)(plain)

    async def answer(seen: Seen, send: Any) -> None:
        kind = "text/event-stream" if streamed else "application/json"
        await start(send, 200, {"content-type": kind, "content-encoding": encoding})
        for i in range(0, len(packed), 1_000):
            piece = {"type": "http.response.body", "body": packed[i : i + 1_000]}
            await send({**piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    odd.answer = answer
    pool, ended = watched_pool(odd)
    body = STREAM if streamed else ASK
    with (
        http_client(pool) as client,
        client.stream(
            "POST", "http://x/v1/chat/completions", headers=POOLED, json=body
        ) as response,
    ):
        for _ in response.iter_raw():
            pass
    expected = None if encoding == "br" else 8 if streamed else 18
    assert [event.usage and event.usage.tokens for event in ended] == [expected]
    assert ended[0].outcome == "ok"
    assert idle(pool)


def test_a_body_that_is_not_what_it_says_ends_its_lease(odd: OddServer) -> None:
    async def answer(seen: Seen, send: Any) -> None:
        await reply(send, b"not gzip", headers={"content-encoding": "gzip"})

    odd.answer = answer
    pool, _ = watched_pool(odd)
    with pytest.raises(openai.APIConnectionError):
        OpenAI(pool=pool).chat.completions.create(**ASK)
    assert idle(pool)
    assert len(odd.seen) == 1


# Not read to the end


def test_a_stream_that_is_closed_early_ends_its_lease(odd: OddServer) -> None:
    odd.answer = endless_stream
    pool, ended = watched_pool(odd)
    with OpenAI(pool=pool).chat.completions.create(**STREAM) as stream:
        next(iter(stream))
        assert not idle(pool)
    assert idle(pool)
    assert [event.outcome for event in ended] == ["cancelled"]


async def test_an_async_stream_that_is_closed_early_ends_its_lease(odd: OddServer) -> None:
    odd.answer = endless_stream
    pool, ended = watched_pool(odd)
    stream = await AsyncOpenAI(pool=pool).chat.completions.create(**STREAM)
    async with stream:
        await anext(aiter(stream))
        assert not idle(pool)
    assert idle(pool)
    assert [event.outcome for event in ended] == ["cancelled"]


def test_a_stream_closed_after_its_usage_was_answered(odd: OddServer) -> None:
    async def tells_usage(seen: Seen, send: Any) -> None:
        await events(send, delta("x"), delta(**USAGE), last=False)
        await asyncio.sleep(5)

    odd.answer = tells_usage
    pool, ended = watched_pool(odd)
    with OpenAI(pool=pool).chat.completions.create(**STREAM) as stream:
        chunks = iter(stream)
        next(chunks), next(chunks)
    assert [(event.outcome, event.usage and event.usage.tokens) for event in ended] == [("ok", 8)]


def test_a_stream_that_is_never_read_ends_its_lease(odd: OddServer) -> None:
    odd.answer = endless_stream
    pool, _ = watched_pool(odd)
    OpenAI(pool=pool).chat.completions.create(**STREAM).close()
    assert idle(pool)


def test_a_stream_that_is_dropped_ends_its_lease(odd: OddServer) -> None:
    odd.answer = endless_stream
    pool, ended = watched_pool(odd)
    client = OpenAI(pool=pool)
    stream = client.chat.completions.create(**STREAM)
    next(iter(stream))
    del stream
    gc.collect()
    until(lambda: idle(pool))
    assert [event.outcome for event in ended] == ["cancelled"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_may_be_collected_while_the_pool_is_locked(odd: OddServer, begun: bool) -> None:
    """The garbage collector runs where it likes; a destructor that settled would hang here."""
    odd.answer = endless_stream
    pool, _ = watched_pool(odd)
    stream = OpenAI(pool=pool).chat.completions.create(**STREAM)
    if begun:
        next(iter(stream))
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    del stream, cycle
    with pool._lock:
        gc.collect()
    until(lambda: idle(pool))


async def test_an_async_stream_that_is_dropped_ends_its_lease(odd: OddServer) -> None:
    odd.answer = endless_stream
    pool, ended = watched_pool(odd)
    client = AsyncOpenAI(pool=pool)
    stream = await client.chat.completions.create(**STREAM)
    await anext(aiter(stream))
    del stream
    for _ in range(100):  # generators hold each other, and take turns at being closed
        gc.collect()
        if idle(pool):
            break
        await asyncio.sleep(0.02)
    assert idle(pool)
    assert [event.outcome for event in ended] == ["cancelled"]


async def test_cancelling_a_stream_ends_its_lease(odd: OddServer) -> None:
    odd.answer = endless_stream
    pool, ended = watched_pool(odd)
    client = AsyncOpenAI(pool=pool)

    async def read() -> None:
        async for _ in await client.chat.completions.create(**STREAM):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert idle(pool)
    assert [event.outcome for event in ended] == ["cancelled"]


async def test_cancelling_a_call_that_waits_for_its_answer_ends_its_lease(odd: OddServer) -> None:
    async def silent(seen: Seen, send: Any) -> None:
        await asyncio.sleep(5)

    odd.answer = silent
    pool, ended = watched_pool(odd)
    client = AsyncOpenAI(pool=pool)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await client.chat.completions.create(**ASK)
    assert idle(pool)
    assert [event.outcome for event in ended] == ["cancelled"]


async def test_a_plain_answer_ends_its_lease_before_it_is_handed_on(odd: OddServer) -> None:
    """Nobody can use a part of it, so nobody need read it for its lease to end."""
    pool, ended = watched_pool(odd)
    answers = AsyncOpenAI(pool=pool).chat.completions.with_streaming_response
    async with answers.create(**ASK) as answer:
        assert idle(pool)
        assert [event.outcome for event in ended] == ["ok"]
        assert (await answer.parse()).usage is not None


# Errors after the beginning


async def _fails_inside(seen: Seen, send: Any) -> None:
    error = {"error": {"message": "too many", "type": "tokens", "code": "rate_limit_exceeded"}}
    failed = b"data: " + json.dumps(error).encode() + b"\n\n"
    await events(send, delta("x"), failed, DONE)


def test_an_error_inside_a_stream_is_learned_from_and_not_replayed(odd: OddServer) -> None:
    odd.answer = _fails_inside
    pool, ended = watched_pool(odd, "a", "b")
    with pytest.raises(openai.APIError, match="too many"):
        list(OpenAI(pool=pool).chat.completions.create(**STREAM))
    assert len(odd.seen) == 1
    assert [event.outcome for event in ended] == ["rate_limited"]
    assert idle(pool)


async def test_an_error_inside_an_async_stream_is_learned_from(odd: OddServer) -> None:
    odd.answer = _fails_inside
    pool, ended = watched_pool(odd, "a", "b")
    with pytest.raises(openai.APIError, match="too many"):
        async for _ in await AsyncOpenAI(pool=pool).chat.completions.create(**STREAM):
            pass
    assert len(odd.seen) == 1
    assert [event.outcome for event in ended] == ["rate_limited"]


def test_error_null_inside_a_stream_is_none(odd: OddServer) -> None:
    async def created(seen: Seen, send: Any) -> None:
        event = {"type": "response.created", "response": {"id": "resp_1", "error": None}}
        await events(send, b"data: " + json.dumps(event).encode() + b"\n\n")

    odd.answer = created
    pool, ended = watched_pool(odd)
    with http_client(pool) as client:
        client.post("http://x/v1/responses", headers=POOLED, json={**STREAM, "input": "x"})
    assert [event.outcome for event in ended] == ["ok"]


async def _cut_short(seen: Seen, send: Any) -> None:
    await start(send, 200, {"content-type": "text/event-stream", "content-length": "100000"})
    await send({"type": "http.response.body", "body": delta("x"), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_a_stream_that_is_cut_is_not_replayed(odd: OddServer) -> None:
    odd.answer = _cut_short
    pool, ended = watched_pool(odd, "a", "b")
    stream = OpenAI(pool=pool).chat.completions.create(**STREAM)
    with pytest.raises(Exception, match=r"closed|Connection"):
        list(stream)
    assert len(odd.seen) == 1
    assert [event.outcome for event in ended] == ["network"]
    assert idle(pool)


# Loops


def test_one_client_serves_several_event_loops(odd: OddServer) -> None:
    pool = pool_at(odd.base_url, "a")
    client = AsyncOpenAI(pool=pool)

    async def ask() -> None:
        for _ in range(2):
            await client.chat.completions.create(**ASK)

    for _ in range(5):
        asyncio.run(ask())
    assert odd.connections == 5
    assert not list(client._client._transport._loops._table)  # type: ignore[attr-defined]


def test_one_client_serves_several_loops_at_once(odd: OddServer) -> None:
    pool = pool_at(odd.base_url, "a")
    client = AsyncOpenAI(pool=pool)

    async def ask() -> None:
        await asyncio.gather(*(client.chat.completions.create(**ASK) for _ in range(5)))

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(odd.seen) == 20
    assert idle(pool)


async def test_an_async_client_that_is_closed_has_no_connection_left(odd: OddServer) -> None:
    pool = pool_at(odd.base_url, "a")
    client = async_http_client(pool)
    transport = client._transport
    async with client:
        await client.post("http://x/v1/chat/completions", headers=POOLED, json=ASK)
        assert list(transport._loops._table)
    assert not list(transport._loops._table)
