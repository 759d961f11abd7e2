"""What leaves this process: which requests get a key, and what else is changed in them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.transport.odd_server import CHAT, OddServer, Seen, odd_server, reply
from tests.transport.support import (
    ASK,
    AsyncOpenAI,
    OpenAI,
    everything_told,
    leaks,
    logged,
    pool_at,
    secret,
)

from quotafleet import Demand, KeyPool, Limits, Organization
from quotafleet.httpx import SENTINEL, async_http_client, family, http_client, wrap_client

POOLED = {"authorization": f"Bearer {SENTINEL}"}


def test_a_request_with_the_sentinel_gets_a_key(odd: OddServer, family_name: str) -> None:
    with http_client(pool_at(odd.base_url, "a"), family_name) as client:
        client.post("http://anything/v1/chat/completions", headers=POOLED, json=ASK)
    (seen,) = odd.seen
    assert seen.key == secret("a")
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["host"] == odd.url.removeprefix("http://")


async def test_an_async_request_gets_a_key_too(odd: OddServer, family_name: str) -> None:
    async with async_http_client(pool_at(odd.base_url, "a"), family_name) as client:
        await client.post("http://anything/v1/chat/completions", headers=POOLED, json=ASK)
    assert odd.seen[0].key == secret("a")


@pytest.mark.parametrize("name", ["api-key", "x-api-key", "Authorization"])
def test_the_sentinel_is_known_in_every_credential_header(odd: OddServer, name: str) -> None:
    with http_client(pool_at(odd.base_url, "a")) as client:
        client.get("http://anything/v1/models", headers={name: SENTINEL})
    (seen,) = odd.seen
    assert seen.key == secret("a")
    assert SENTINEL not in seen.headers.values()


def test_a_foreign_request_gets_no_key(odd: OddServer) -> None:
    pool = pool_at("http://quotafleet.invalid", "a")
    headers = {"authorization": "Bearer mine", "cookie": "a=b", "x-quotafleet-priority": "batch"}
    with http_client(pool) as client:
        response = client.post(f"{odd.url}/v1/x", headers=headers, content=b"body")
    (seen,) = odd.seen
    assert seen.key == "mine"
    assert seen.headers["cookie"] == "a=b"
    assert seen.headers["x-quotafleet-priority"] == "batch"
    assert seen.body == b"body"
    assert "x-quotafleet-attempts" not in response.headers
    assert pool.status().keys[0].granted == 0


async def test_a_foreign_async_request_gets_no_key(odd: OddServer) -> None:
    async with async_http_client(pool_at("http://quotafleet.invalid", "a")) as client:
        await client.get(f"{odd.url}/v1/x", headers={"authorization": "Bearer mine"})
    assert odd.seen[0].key == "mine"


def test_a_host_that_is_not_the_clients_gets_no_key(odd: OddServer) -> None:
    client = OpenAI(pool=pool_at("http://quotafleet.invalid", "a"))
    client.get(f"{odd.url}/v1/elsewhere", cast_to=object)
    assert odd.seen[0].key == SENTINEL


def test_each_key_goes_to_its_own_origin() -> None:
    with odd_server() as first, odd_server() as second:
        pool = KeyPool(
            [
                Organization(name="a", keys=(secret("a"),), base_url=first.base_url),
                Organization(name="b", keys=(secret("b"),), base_url=f"{second.url}/deep/path/"),
            ],
            strategy="round-robin",
        )
        client = OpenAI(pool=pool)
        for _ in range(4):
            client.chat.completions.create(**ASK)
    assert {seen.key for seen in first.seen} == {secret("a")}
    assert {seen.key for seen in second.seen} == {secret("b")}
    assert {seen.path for seen in second.seen} == {"/deep/path/chat/completions"}


def test_the_query_stays(odd: OddServer) -> None:
    OpenAI(pool=pool_at(odd.base_url, "a")).models.with_raw_response.list(
        extra_query={"after": "x y"}
    )
    assert odd.seen[0].path in ("/v1/models?after=x+y", "/v1/models?after=x%20y")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_elsewhere_gets_no_key(odd: OddServer, status: int) -> None:
    with odd_server() as other:

        async def away(seen: Seen, send: Any) -> None:
            location = {"location": f"{other.url}/v1/chat/completions"}
            await reply(send, b"", status=status, headers=location)

        odd.answer = away
        OpenAI(pool=pool_at(odd.base_url, "a")).chat.completions.create(**ASK)
        (seen,) = other.seen
    assert secret("a") not in str(seen.headers)


@pytest.mark.parametrize("location", ["/v1/other", "{url}/v1/other", "other"])
def test_not_even_a_redirect_to_the_keys_own_origin_gets_one(odd: OddServer, location: str) -> None:
    async def on(seen: Seen, send: Any) -> None:
        if seen.path.endswith("other"):
            await reply(send, json.dumps(CHAT).encode())
        else:
            target = {"location": location.format(url=odd.url)}
            await reply(send, b"", status=307, headers=target)

    odd.answer = on
    pool = pool_at(odd.base_url, "a")
    with http_client(pool) as client:  # whose base is the key's origin, as far as it knows
        client.post(f"{odd.url}/v1/chat/completions", headers=POOLED, json=ASK)
    first, second = odd.seen
    assert first.key == secret("a")
    assert second.key in ("", SENTINEL)
    assert second.path in ("/v1/other", "/v1/chat/other")
    assert pool.status().in_flight == 0


def test_the_callers_request_never_holds_the_key(odd: OddServer) -> None:
    requests = []
    module = family().module
    pool = pool_at(odd.base_url, "a")
    with http_client(pool, event_hooks={"request": [requests.append]}) as client:
        request = module.Request("POST", "http://x/v1/chat/completions", headers=POOLED, json=ASK)
        before = list(request.headers.raw)
        response = client.send(request)
        openai_client = openai.OpenAI(api_key=SENTINEL, http_client=client, max_retries=0)
        openai_client.chat.completions.create(**ASK)
    assert request.headers.raw == before
    assert response.request is request
    assert str(request.url) == "http://x/v1/chat/completions"
    assert not any(leaks(str(list(r.headers.raw))) for r in requests)


async def _refuse(seen: Seen, send: Any) -> None:
    message = {"error": {"message": "no", "type": "invalid_request_error", "code": "x"}}
    await reply(send, json.dumps(message).encode(), status=400)


@pytest.mark.parametrize("fails", ["status", "connection"])
def test_a_key_shows_nowhere(odd: OddServer, caplog: Any, fails: str) -> None:
    caplog.set_level(logging.DEBUG)
    odd.answer = _refuse
    pool = pool_at(odd.base_url if fails == "status" else "http://127.0.0.1:9/v1", "a")
    client = OpenAI(pool=pool, max_retries=1)
    with pytest.raises(openai.APIError) as caught:
        client.chat.completions.create(**ASK)
    told = everything_told(caught.value) + logged(caplog)
    told += repr(client.__dict__) + repr(client._client.__dict__) + repr(pool.status())
    told += str(list(caught.value.request.headers.raw))
    assert "chat/completions" in told
    assert not leaks(told)
    if fails == "status":
        assert odd.seen[0].key == secret("a")


async def test_a_key_shows_nowhere_in_asyncio(odd: OddServer, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    client = AsyncOpenAI(pool=pool_at("http://127.0.0.1:9/v1", "a"), max_retries=1)
    with pytest.raises(openai.APIConnectionError) as caught:
        await client.chat.completions.create(**ASK)
    assert not leaks(everything_told(caught.value) + logged(caplog))


def test_organization_and_project_are_the_keys_own(odd: OddServer) -> None:
    own = Organization(
        name="a", keys=(secret("a"),), base_url=odd.base_url, organization_id="org-a"
    )
    none = Organization(name="b", keys=(secret("b"),), base_url=odd.base_url)
    pool = KeyPool([own, none], strategy="round-robin")
    client = OpenAI(pool=pool, organization="org-mine", project="proj-mine")
    for _ in range(2):
        client.chat.completions.create(**ASK)
    sent = {seen.key: seen.headers for seen in odd.seen}
    assert sent[secret("a")]["openai-organization"] == "org-a"
    assert "openai-organization" not in sent[secret("b")]
    assert not any("openai-project" in headers for headers in sent.values())


def test_one_organizations_cookies_do_not_come_with_anothers_key(odd: OddServer) -> None:
    async def sweet(seen: Seen, send: Any) -> None:
        await reply(send, json.dumps(CHAT).encode(), headers={"set-cookie": "__cf_bm=a; path=/"})

    odd.answer = sweet
    client = OpenAI(pool=pool_at(odd.base_url, "a", "b"))
    for _ in range(4):
        client.chat.completions.create(**ASK, extra_headers={"cookie": "mine=1"})
    assert not any("cookie" in seen.headers for seen in odd.seen)
    assert not client._client.cookies


def test_what_a_clients_own_key_comes_with_goes_along(odd: OddServer, family_name: str) -> None:
    """A gateway may want a second credential."""
    module: Any = family(family_name).module
    mine = {
        "x-api-key": "gw",
        "cookie": "a=b",
        "openai-organization": "org-1",
        "host": "inner.test",
    }
    sent = {}
    for own_key in (True, False):
        with module.Client(base_url=odd.base_url, headers=mine) as stock:
            client = wrap_client(stock, pool_at(odd.base_url, "a"), own_key=own_key)
            client.post("/chat/completions", json=ASK, headers=POOLED)
        sent[own_key] = {name: odd.seen[-1].headers.get(name) for name in mine}
        assert odd.seen[-1].key == secret("a")
    assert sent[True] == mine
    assert sent[False] == dict.fromkeys(mine) | {"host": odd.url.removeprefix("http://")}


def test_cookies_of_foreign_answers_are_kept_in_the_given_clients_jar(odd: OddServer) -> None:
    async def sweet(seen: Seen, send: Any) -> None:
        await reply(send, b"{}", headers={"set-cookie": "crumb=1; path=/"})

    odd.answer = sweet
    with family().module.Client() as given:
        client = wrap_client(given, pool_at(odd.base_url, "a"))
        client.get(f"{odd.base_url}/foreign")
        client.get(f"{odd.base_url}/foreign")
        assert odd.seen[1].headers["cookie"] == "crumb=1"
        assert given.cookies["crumb"] == "1"


def test_only_compression_that_usage_can_be_read_from_is_asked_for(odd: OddServer) -> None:
    pool = pool_at(odd.base_url, "a")
    with http_client(pool) as client:
        for accepted in ("gzip, deflate, br, zstd", "br", None):
            request = client.build_request("GET", "http://x/v1/models", headers=POOLED)
            del request.headers["accept-encoding"]
            if accepted:
                request.headers["accept-encoding"] = accepted
            client.send(request)
    asked = [seen.headers["accept-encoding"] for seen in odd.seen]
    assert asked == ["gzip, deflate", "identity", "identity"]


def test_hints_are_obeyed_and_not_sent(odd: OddServer) -> None:
    client = OpenAI(pool=pool_at(odd.base_url, "a"))
    call_headers = {
        "x-quotafleet-priority": "batch",
        "x-quotafleet-timeout": "1.5",
        "x-quotafleet-deadline-after": "60",
        "x-quotafleet-max-attempts": "2",
        "x-quotafleet-tenant": "acme",
    }
    client.chat.completions.create(**ASK, extra_headers=call_headers)
    assert not any(name.startswith("x-quotafleet") for name in odd.seen[0].headers)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("priority", "urgent", "interactive"),
        ("timeout", "soon", "seconds"),
        ("timeout", "-1", "seconds"),
        ("timeout", "nan", "seconds"),
        ("deadline-after", "inf", "seconds"),
        ("max-attempts", "0", "from 1"),
        ("max-attempts", "two", "from 1"),
        ("tenant", " ", "name of a tenant"),
        ("prority", "batch", "x-quotafleet-priority"),
        ("zzz", "1", "x-quotafleet-timeout"),
    ],
)
def test_a_senseless_hint_is_a_bad_request(
    odd: OddServer, name: str, value: str, says: str
) -> None:
    client = OpenAI(pool=pool_at(odd.base_url, "a"))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK, extra_headers={f"x-quotafleet-{name}": value})
    assert says in str(caught.value)
    assert caught.value.code == "invalid_hint"
    assert odd.seen == []


async def test_a_call_does_not_wait_behind_another_tenants_flood(odd: OddServer) -> None:
    owner = Organization(
        name="a", keys=(secret("a"),), base_url=odd.base_url, limits=Limits(concurrent=1)
    )
    pool = KeyPool([owner])
    client = AsyncOpenAI(pool=pool)
    ended: list[str] = []

    async def ask(tenant: str) -> None:
        headers = {"x-quotafleet-tenant": tenant}
        await client.chat.completions.create(**ASK, extra_headers=headers)
        ended.append(tenant)

    held = await pool.alease(Demand(model=ASK["model"]))
    async with asyncio.TaskGroup() as group:
        for tenant, there in (("flood", 20), ("calm", 21)):
            for _ in range(there - pool.status().waiting):
                group.create_task(ask(tenant))
            while pool.status().waiting < there:  # noqa: ASYNC110 - for a few turns
                await asyncio.sleep(0.001)
        await held.asettle()
    assert ended.index("calm") <= 10  # 20, were it first come, first served


async def test_a_senseless_hint_is_a_bad_request_in_asyncio(odd: OddServer) -> None:
    client = AsyncOpenAI(pool=pool_at(odd.base_url, "a"))
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(**ASK, extra_headers={"x-quotafleet-timeout": "x"})


def test_the_answer_tells_which_key_answered_and_after_what(odd: OddServer) -> None:
    owner = Organization(name="über", keys=(secret("a"),), base_url=odd.base_url)
    raw = OpenAI(pool=KeyPool([owner])).chat.completions.with_raw_response.create
    headers = raw(**ASK).headers
    assert headers["x-quotafleet-key-id"] == r"\xfcber#1"
    assert headers["x-quotafleet-owner"] == r"\xfcber"
    assert headers["x-quotafleet-attempts"] == "1"
    assert len(headers["x-quotafleet-waited-for"].partition(".")[2]) == 3
    assert float(headers["x-quotafleet-waited-for"]) < 5


# Bodies that can be sent again, and those that can't


async def _fails_at_first(seen: Seen, send: Any) -> None:
    if len(_fails_at_first.calls) == 0:
        _fails_at_first.calls.append(1)
        await reply(send, b'{"error": {"message": "boom"}}', status=500)
    else:
        await reply(send, json.dumps({"text": "said"} | CHAT).encode())


@pytest.fixture
def flaky(odd: OddServer) -> OddServer:
    """A server whose first answer is a 500."""
    _fails_at_first.calls = []
    odd.answer = _fails_at_first
    return odd


def test_a_json_body_is_sent_again(flaky: OddServer) -> None:
    OpenAI(pool=pool_at(flaky.base_url, "a", "b")).chat.completions.create(**ASK)
    first, second = flaky.seen
    assert first.body == second.body != b""
    assert first.key != second.key


def test_a_file_that_can_seek_is_sent_again(flaky: OddServer) -> None:
    client = OpenAI(pool=pool_at(flaky.base_url, "a", "b"))
    sound = io.BytesIO(b"sound" * 20_000)
    client.audio.transcriptions.create(model="whisper-1", file=("a.wav", sound))
    first, second = flaky.seen
    assert first.body == second.body
    assert b"sound" * 20_000 in second.body


def test_a_generator_is_sent_once(flaky: OddServer, family_name: str) -> None:
    def body() -> Iterator[bytes]:
        yield json.dumps(ASK).encode()

    with http_client(pool_at(flaky.base_url, "a", "b"), family_name) as client:
        response = client.post("http://x/v1/chat/completions", headers=POOLED, content=body())
    assert response.status_code == 500
    assert response.headers["x-quotafleet-attempts"] == "1"
    assert len(flaky.seen) == 1


def test_a_stream_of_bytes_that_cannot_seek_is_sent_once(flaky: OddServer) -> None:
    class Pipe(io.RawIOBase):
        left = b"sound"

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            size = min(len(buffer), len(self.left))
            buffer[:size], self.left = self.left[:size], self.left[size:]
            return size

    with http_client(pool_at(flaky.base_url, "a", "b")) as client:
        response = client.post(
            "http://x/v1/audio/transcriptions",
            headers=POOLED,
            data={"model": "whisper-1"},
            files={"file": ("a.wav", Pipe())},
        )
    assert response.status_code == 500
    assert len(flaky.seen) == 1


async def test_an_async_generator_is_sent_once(flaky: OddServer, family_name: str) -> None:
    async def body() -> Any:
        yield json.dumps(ASK).encode()

    async with async_http_client(pool_at(flaky.base_url, "a", "b"), family_name) as client:
        response = await client.post("http://x/v1/responses", headers=POOLED, content=body())
    assert response.status_code == 500
    assert len(flaky.seen) == 1
