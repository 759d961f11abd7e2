"""Calls that refer to what an owner holds go to that owner; the rest rotates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from tenacity import wait_fixed
from tests.transport.odd_server import Seen, Send, events, odd_server, reply

from quotafleet import Demand, KeyPool, Organization, RetryPolicy
from quotafleet._core.admission import effects
from quotafleet._core.admission.effects import Wait
from quotafleet._core.call.flow import AttemptResult
from quotafleet._transport.object_owners import KEPT, ObjectOwners
from quotafleet.openai import AsyncOpenAI, OpenAI
from quotafleet.outcomes import Kind, Outcome
from quotafleet.testing.clock import FakeClock

NAMES = ("a", "b", "c")


def response(number: int) -> dict[str, Any]:
    return {
        "id": f"resp_{number:08d}",
        "object": "response",
        "created_at": 1,
        "model": "gpt-4o-mini",
        "status": "completed",
        "output": [],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 1,
            "output_tokens": 1,
            "total_tokens": 2,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


class Objects:
    """Answers every creation with a new id, and knows who asked for which."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self, seen: Seen, send: Send) -> None:
        self.made += 1
        if seen.path.startswith("/v1/files"):
            body: dict[str, Any] = {"id": f"file-{self.made:08d}", "object": "file"}
        elif seen.path.startswith("/v1/batches"):
            body = {"id": f"batch_{self.made:08d}", "object": "batch"}
        else:
            body = response(self.made)
        if b'"stream":true' in seen.body.replace(b" ", b""):
            made = {"type": "response.created", "sequence_number": 0, "response": body}
            done = {"type": "response.completed", "sequence_number": 1, "response": body}
            await events(
                send,
                *(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in (made, done)),
            )
            return
        await reply(send, json.dumps(body).encode())


def pool_of(base_url: str, names: tuple[str, ...] = NAMES) -> KeyPool:
    return KeyPool(
        (
            Organization(name=n, keys=(f"sk-{n}-0123456789abcdef",), base_url=base_url)
            for n in names
        ),
        strategy="round-robin",
    )


Make = Callable[[KeyPool], OpenAI]


@pytest.fixture
def make() -> Iterator[Make]:
    """Return clients that are closed in the end."""
    with ExitStack() as clients:
        yield lambda pool: clients.enter_context(OpenAI(pool=pool))


@pytest.mark.parametrize("streams", [False, True])
def test_a_response_is_continued_by_its_owner(make: Make, streams: bool) -> None:
    with odd_server() as server:
        server.answer = Objects()
        client = make(pool_of(server.base_url))
        owners: set[str] = set()
        for _ in range(6):
            if streams:
                stream = client.responses.create(model="m", input="x", stream=True)
                ids = [event.response.id for event in stream]  # type: ignore[union-attr] # by this server
                earlier = ids[0]
            else:
                earlier = client.responses.create(model="m", input="x").id
            pinned_key = server.seen[-1].key
            owners.add(pinned_key)
            for _ in range(4):
                earlier = client.responses.create(
                    model="m", input="y", previous_response_id=earlier
                ).id
                assert server.seen[-1].key == pinned_key
            client.responses.retrieve(earlier)
            assert server.seen[-1].key == pinned_key
    assert len(owners) == 3  # what refers to nothing goes round


def test_all_clients_of_a_pool_know_of_it(make: Make) -> None:
    with odd_server() as server:
        server.answer = Objects()
        pool = pool_of(server.base_url)
        client, other = make(pool), AsyncOpenAI(pool=pool)

        async def later(file_id: str) -> None:
            for _ in range(5):
                await other.batches.create(
                    completion_window="24h", endpoint="/v1/responses", input_file_id=file_id
                )

        for _ in range(3):
            file = client.files.create(file=b"{}", purpose="batch")
            pinned_key = server.seen[-1].key
            asyncio.run(later(file.id))
            assert {seen.key for seen in server.seen[-5:]} == {pinned_key}


def test_a_model_that_was_looked_up_is_nobodys(make: Make) -> None:
    model = {"id": "gpt-4o-mini", "object": "model", "created": 1, "owned_by": "system"}

    async def catalogue(seen: Seen, send: Send) -> None:
        listed = {"object": "list", "data": [model]}
        await reply(send, json.dumps(listed if seen.path == "/v1/models" else model).encode())

    with odd_server() as server:
        client = make(pool_of(server.base_url))
        server.answer = catalogue
        client.models.retrieve("gpt-4o-mini")
        list(client.models.list())
        server.answer = Objects()
        for _ in range(6):
            client.responses.create(model="gpt-4o-mini", input="x")
        assert len({seen.key for seen in server.seen[-6:]}) == 3


def test_keys_of_one_owner_share_what_it_holds(make: Make) -> None:
    with odd_server() as server:
        server.answer = Objects()
        acme = Organization(
            name="acme", keys=("sk-1-0123456789", "sk-2-0123456789"), base_url=server.base_url
        )
        birch = Organization(name="birch", keys=("sk-3-0123456789",), base_url=server.base_url)
        client = make(KeyPool([acme, birch], strategy="round-robin"))
        while True:
            earlier = client.responses.create(model="m", input="x").id
            if server.seen[-1].key != "sk-3-0123456789":
                break
        for _ in range(6):
            client.responses.create(model="m", input="x", previous_response_id=earlier)
        assert {seen.key for seen in server.seen[-6:]} == {"sk-1-0123456789", "sk-2-0123456789"}


def test_an_owner_that_is_gone_is_not_replaced(make: Make) -> None:
    with odd_server() as server:
        server.answer = objects = Objects()
        client = make(pool_of(server.base_url))
        earlier = client.responses.create(model="m", input="x").id
        pinned_key = server.seen[-1].key

        async def revoked(seen: Seen, send: Send) -> None:
            if seen.key == pinned_key:
                error = {"message": "no", "type": "x", "code": "invalid_api_key"}
                await reply(send, json.dumps({"error": error}).encode(), status=401)
            else:
                await objects(seen, send)

        server.answer = revoked
        with pytest.raises(openai.AuthenticationError):
            client.responses.create(model="m", input="y", previous_response_id=earlier)
        with pytest.raises(openai.RateLimitError, match="no key may serve"):
            client.responses.create(model="m", input="y", previous_response_id=earlier)
        client.responses.create(model="m", input="y")
        assert server.seen[-1].key != pinned_key


def test_only_so_many_are_remembered() -> None:
    object_owners = ObjectOwners()
    for number in range(KEPT + 1):
        object_owners.note(b'{"id":"resp_%08d","x":1}' % number, "a#1")
    assert object_owners.find(b"responses/resp_00000000", b"") is None
    assert object_owners.find(b"responses/resp_00000001", b"") == "a#1"
    assert (
        object_owners.find(b"responses", b'{"previous_response_id": "resp_%08d"}' % KEPT) == "a#1"
    )
    assert object_owners.find(b"responses", b'{"input": "resp_00000002 is said in a text"}') is None


def test_what_has_no_id_is_not_noted() -> None:
    object_owners = ObjectOwners()
    for head in (b"", b"{}", b'{"id": 7}', b'{"id": null, "x": "y"}'):
        object_owners.note(head, "a#1")
    assert object_owners.find(b"models", b'{"id": "resp_00000001"}') is None


def test_a_fault_of_the_only_owner_that_can_serve_is_waited_out() -> None:
    clock = FakeClock()
    owners = [Organization(name=n, keys=(f"sk-{n}-0123456789abcdef",)) for n in NAMES]
    policy = RetryPolicy(wait=wait_fixed(7), jitter=lambda delay: delay)
    pool = KeyPool(owners, retry=policy, clock=clock)
    flow = pool.call_flow(pool.order(Demand(model="m"), pinned_key="b#1"))
    fault = AttemptResult(outcome=Outcome(kind=Kind.SERVER_ERROR), response=None)
    told: tuple[float, object] | None = None
    while not isinstance(effect := pool.advance(flow, told, None), Wait):
        if isinstance(effect, effects.Send):
            assert effect.grant.key.key_id == "b#1"
            told = (clock.now(), fault)
        elif isinstance(effect, effects.Settle):
            pool.finish(effect)
            told = (clock.now(), None)
    assert effect.until == clock.now() + 7
    flow.close()
