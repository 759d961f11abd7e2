"""Clients that are wrapped, made, copied and closed; arguments that a pool replaces."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import openai
import pytest
from tests.transport.odd_server import OddServer, odd_server
from tests.transport.support import ASK, AsyncOpenAI, OpenAI, pool_at, secret

import quotafleet.openai
from quotafleet import ConfigError, KeyPool, Organization
from quotafleet.httpx import SENTINEL, async_http_client, family, http_client, wrap_client

POOLED = {"authorization": f"Bearer {SENTINEL}"}


def stock(odd: OddServer, http_client: Any, **options: Any) -> openai.OpenAI:
    """Return the SDK's own client over a wrapped one."""
    return openai.OpenAI(
        api_key=SENTINEL, base_url=odd.base_url, http_client=http_client, **options
    )


# wrap_client


def test_a_wrapped_copy_leaves_the_client_as_it_was(odd: OddServer, family_name: str) -> None:
    module = family(family_name).module
    pool = pool_at(odd.base_url, "a")
    with module.Client(headers={"x-own": "yes"}) as client:
        before = client._transport
        wrapped = wrap_client(client, pool)
        assert type(wrapped) is type(client)
        assert client._transport is before
        wrapped.post("http://x/v1/chat/completions", headers=POOLED, json=ASK)
        client.post(f"{odd.url}/v1/chat/completions", headers=POOLED, json=ASK)
    ours, theirs = odd.seen
    assert (ours.key, theirs.key) == (secret("a"), SENTINEL)
    assert ours.headers["x-own"] == "yes"


def test_wrapping_again_gives_the_same(odd: OddServer) -> None:
    pool, other = pool_at(odd.base_url, "a"), pool_at(odd.base_url, "b")
    with family().module.Client() as client:
        wrapped = wrap_client(client, pool)
        assert wrap_client(client, pool) is wrapped
        assert wrap_client(wrapped, pool) is wrapped
        rewrapped = wrap_client(wrapped, other)
        assert rewrapped is wrap_client(client, other) is not wrapped
        rewrapped.post("http://x/v1/chat/completions", headers=POOLED, json=ASK)
    assert odd.seen[0].key == secret("b")


def test_closing_the_copy_leaves_the_client_open(odd: OddServer) -> None:
    with family().module.Client() as client:
        wrap_client(client, pool_at(odd.base_url, "a")).close()
        assert client.get(f"{odd.url}/v1/x").status_code == 200
        wrapped = wrap_client(client, pool_at(odd.base_url, "a"))
        assert wrapped.get("http://x/v1/models", headers=POOLED).status_code == 200


def test_closing_a_client_of_ours_closes_its_connections(odd: OddServer) -> None:
    client = http_client(pool_at(odd.base_url, "a"))
    client.get("http://x/v1/models", headers=POOLED)
    pool = client._transport._pool  # what an inner transport has is to be had here too
    assert len(pool.connections) == 1
    client.close()
    assert pool.connections == []
    assert client.is_closed


def test_the_path_is_taken_relative_to_the_base_url(odd: OddServer) -> None:
    with family().module.Client() as client:
        wrapped = wrap_client(
            client, pool_at(f"{odd.url}/api/v2", "a"), base_url="http://host:81/deep/v1"
        )
        wrapped.get("http://host:81/deep/v1/v1/models", headers=POOLED)
    with family().module.Client(base_url="http://host/a/b") as client:
        wrapped = wrap_client(client, pool_at(f"{odd.url}/api/v2", "a"))
        wrapped.get("models", headers=POOLED)
    with family().module.Client() as client:
        wrapped = wrap_client(client, pool_at(f"{odd.url}/api/v2", "a"))
        wrapped.get("http://host/chat", headers=POOLED)
    assert [seen.path for seen in odd.seen] == [
        "/api/v2/v1/models",
        "/api/v2/models",
        "/api/v2/chat",
    ]


def test_attempts_are_bounded(odd: OddServer) -> None:
    async def no(seen: Any, send: Any) -> None:
        from tests.transport.odd_server import reply

        await reply(send, b"{}", status=500)

    odd.answer = no
    with family().module.Client() as client:
        wrapped = wrap_client(client, pool_at(odd.base_url, "a", "b", "c"), attempts=2)
        assert wrapped.get("http://x/v1/models", headers=POOLED).status_code == 500
    assert len(odd.seen) == 2


def test_proxies_go_by_the_url_that_is_really_asked(odd: OddServer) -> None:
    with odd_server() as proxy:
        module: Any = family().module
        mounts = {"http://127.0.0.1": module.HTTPTransport(proxy=proxy.url)}
        with module.Client(mounts=mounts) as client:
            wrapped = wrap_client(client, pool_at(odd.base_url, "a"))
            assert next(iter(wrapped._mounts.values()))._pool._proxy_url
            wrapped.get("http://x/v1/models", headers=POOLED)
        assert [seen.headers["host"] for seen in proxy.seen] == [odd.url.removeprefix("http://")]
    assert odd.seen == []


async def test_each_loops_own_connections_keep_the_proxy(odd: OddServer) -> None:
    with odd_server() as proxy:
        async with async_http_client(pool_at(odd.base_url, "a"), proxy=proxy.url) as client:
            await client.get("http://x/v1/models", headers=POOLED)
        assert len(proxy.seen) == 1
    assert odd.seen == []


def test_the_stock_sdk_works_over_a_wrapped_client(odd: OddServer, family_name: str) -> None:
    pool = pool_at(odd.base_url, "a")
    with http_client(pool, family_name) as client:
        stock(odd, client).chat.completions.create(**ASK)
    assert odd.seen[0].key == secret("a")


async def test_the_stock_async_sdk_works_too(odd: OddServer, family_name: str) -> None:
    async with async_http_client(pool_at(odd.base_url, "a"), family_name) as client:
        sdk = openai.AsyncOpenAI(api_key=SENTINEL, http_client=client)
        await sdk.chat.completions.create(**ASK)
    assert odd.seen[0].key == secret("a")


def test_a_transport_alone_can_be_used(odd: OddServer, family_name: str) -> None:
    kind = family(family_name)
    transport = kind.PoolTransport(pool_at(odd.base_url, "a"))
    assert isinstance(transport, kind.module.BaseTransport)
    with kind.module.Client(transport=transport) as client:
        client.get("http://x/v1/models", headers=POOLED)
    assert odd.seen[0].key == secret("a")


def test_an_answer_that_was_read_already_ends_its_lease() -> None:
    module: Any = family().module
    inner = module.MockTransport(lambda request: module.Response(200, json={"ok": True}))
    pool = pool_at("http://nowhere.invalid", "a")
    with module.Client(transport=family().PoolTransport(pool, inner)) as client:
        assert client.get("http://x/v1/models", headers=POOLED).json() == {"ok": True}
    assert pool.status().in_flight == 0


def test_keys_of_several_providers_serve_one_client(odd: OddServer) -> None:
    pool = KeyPool(
        [
            Organization(name="a", keys=(secret("a"),), base_url=odd.base_url),
            Organization(name="b", keys=(secret("b"),), base_url=odd.base_url, provider="generic"),
        ],
        strategy="round-robin",
    )
    client = OpenAI(pool=pool)
    for _ in range(2):
        client.chat.completions.create(**ASK)
    assert {seen.key for seen in odd.seen} == {secret("a"), secret("b")}


def test_what_is_of_no_family_is_refused() -> None:
    pool = pool_at("http://nowhere.invalid", "a")
    for wrong in (object(), "requests", sys):
        with pytest.raises(ConfigError, match="httpx"):
            family(wrong)
    with pytest.raises(ConfigError, match="httpx"):
        wrap_client(object(), pool)


def test_a_family_is_known_by_client_class_module_and_name(family_name: str) -> None:
    kind = family(family_name)
    module: Any = kind.module

    class Own(module.Client):  # type: ignore[misc]
        pass

    with Own() as client:
        assert family(module) is family(Own) is family(client) is kind


# quotafleet.openai


@pytest.mark.parametrize("make", [quotafleet.openai.OpenAI, quotafleet.openai.AsyncOpenAI])
@pytest.mark.parametrize(
    "given",
    [
        {"api_key": "sk-own"},
        {"base_url": "https://api.openai.com/v1"},
        {"websocket_base_url": "wss://x"},
        {"api_key": lambda: "sk-own"},
    ],
)
def test_what_the_pool_decides_cannot_be_given(make: Any, given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ConfigError, match=f"{name} comes from the pool") as caught:
        make(pool=pool_at("http://nowhere.invalid", "a"), **given)
    assert "sk-own" not in str(caught.value)


def test_no_environment_of_the_sdks_reaches_a_provider(
    odd: OddServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://nowhere.invalid")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-env")
    OpenAI(pool=pool_at(odd.base_url, "a")).chat.completions.create(**ASK)
    assert odd.seen[0].key == secret("a")
    assert "openai-organization" not in odd.seen[0].headers


@pytest.mark.parametrize("name", ["copy", "with_options"])
def test_a_copy_keeps_the_pool(odd: OddServer, name: str) -> None:
    pool, other = pool_at(odd.base_url, "a"), pool_at(odd.base_url, "b")
    client = OpenAI(pool=pool, timeout=7, default_headers={"x-own": "yes"})
    copied = getattr(client, name)(timeout=3)
    assert type(copied) is OpenAI
    assert copied.pool is pool
    assert copied.timeout == 3
    copied.chat.completions.create(**ASK)
    moved = getattr(client, name)(pool=other, http_client=client._client)
    moved.chat.completions.create(**ASK)
    assert [seen.key for seen in odd.seen] == [secret("a"), secret("b")]
    assert odd.seen[0].headers["x-own"] == "yes"
    with pytest.raises(ConfigError, match="api_key"):
        getattr(client, name)(api_key="sk-own")


async def test_an_async_copy_keeps_the_pool(odd: OddServer) -> None:
    client = AsyncOpenAI(pool=pool_at(odd.base_url, "a"))
    copied = client.with_options(timeout=3)
    assert isinstance(copied, openai.AsyncOpenAI)
    await copied.chat.completions.create(**ASK)
    assert odd.seen[0].key == secret("a")


def test_a_http_client_of_ones_own_is_wrapped(odd: OddServer, family_name: str) -> None:
    module: Any = family(family_name).module
    with module.Client(headers={"x-own": "yes"}, timeout=module.Timeout(9.0)) as own:
        client = quotafleet.openai.OpenAI(pool=pool_at(odd.base_url, "a"), http_client=own)
        client.chat.completions.create(**ASK)
        assert client.timeout.read == 9.0  # type: ignore[union-attr]
        client.close()
        assert not own.is_closed
    assert odd.seen[0].key == secret("a")
    assert odd.seen[0].headers["x-own"] == "yes"


def test_timeouts_are_the_sdks_own() -> None:
    client = OpenAI(pool=pool_at("http://nowhere.invalid", "a"))
    assert client.timeout == openai.OpenAI(api_key="x").timeout


def test_web_sockets_are_refused() -> None:
    pytest.importorskip("websockets")
    client = OpenAI(pool=pool_at("http://nowhere.invalid", "a"))
    with pytest.raises(ConfigError, match="WebSocket"), client.realtime.connect(model="x"):
        pass


def test_web_socket_urls_are_refused() -> None:
    client = OpenAI(pool=pool_at("http://nowhere.invalid", "a"))
    with pytest.raises(ConfigError, match="WebSocket"):
        _ = client.websocket_base_url


def test_without_a_pool_there_is_one_for_the_process(
    odd: OddServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quotafleet import _default

    made: list[KeyPool] = []

    def from_env(cls: type[KeyPool]) -> KeyPool:
        made.append(pool_at(odd.base_url, "a"))
        return made[0]

    monkeypatch.setattr(_default, "_pool", None)
    monkeypatch.setattr(KeyPool, "from_env", classmethod(from_env))
    first, second = OpenAI(), OpenAI()
    assert first.pool is second.pool is made[0]
    assert len(made) == 1


def test_the_transports_import_no_httpx() -> None:
    script = (
        "import sys, quotafleet, quotafleet.httpx;"
        "sys.exit(any(name in sys.modules for name in ('httpx', 'httpx2', 'openai')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
