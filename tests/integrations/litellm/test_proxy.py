"""LiteLLM's own Proxy, started with a configuration file, asked by the OpenAI SDK."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("orjson", reason="needs litellm[proxy]")

import uvicorn

from litellm_quotafleet import _open_attempts, proxy_handler
from quotafleet.testing import MockFault

from .conftest import EMBED, MESSAGES, World, collect, until, world_of

MASTER_KEY = f"sk-{secrets.token_hex(24)}"
CONFIG: dict[str, Any] = {
    "general_settings": {"master_key": MASTER_KEY},
    "litellm_settings": {
        "callbacks": ["litellm_quotafleet.proxy_handler"],
        "telemetry": False,
    },
    "router_settings": {"num_retries": 2},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    from litellm.proxy.proxy_server import app, save_worker_config

    with world_of({"a": {"rpm": 6000}, "b": {"rpm": 6000}}) as world:
        models = [
            *world.model_list("fast", rpm=3000),
            *world.model_list("vectors", EMBED),
            *world.model_list("pictures", "gpt-image-1"),
            *world.model_list("words", "gpt-3.5-turbo-instruct"),
        ]
        path: Path = tmp_path_factory.mktemp("proxy") / "config.yaml"
        path.write_text(json.dumps({**CONFIG, "model_list": models}))  # JSON is YAML
        save_worker_config(
            model=None,
            alias=None,
            api_base=None,
            api_version="2025-01-01",
            debug=False,
            detailed_debug=False,
            temperature=None,
            max_tokens=None,
            request_timeout=None,
            max_budget=None,
            telemetry=False,
            drop_params=False,
            add_function_to_prompt=False,
            headers=None,
            save=False,
            config=str(path),
            use_queue=False,
        )
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{port}"
        ends_at = time.monotonic() + 45
        while True:
            try:
                httpx.get(f"{url}/health/liveliness", timeout=1).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < ends_at, "the Proxy did not start"
                time.sleep(0.2)
        try:
            yield world, url
        finally:
            server.should_exit = True
            thread.join(10)
            os.environ.pop("WORKER_CONFIG", None)


@pytest.fixture
def world(served: tuple[World, str]) -> World:
    served[0].provider.reset()
    return served[0]


@pytest.fixture
async def client(served: tuple[World, str]) -> Any:
    async with openai.AsyncOpenAI(base_url=served[1], api_key=MASTER_KEY, max_retries=0) as client:
        yield client
        collect()
        await until(idle)


def idle() -> bool:
    routing = proxy_handler.routing
    if routing is None or _open_attempts.open_leases():
        return False
    return all(scope.in_flight == 0 for scope in routing.pool.status().scopes)


def answered() -> int:
    assert proxy_handler.routing is not None
    return sum(key.answered for key in proxy_handler.routing.pool.status().keys)


async def ask(client: openai.AsyncOpenAI, endpoint: str) -> None:
    if endpoint == "chat":
        await client.chat.completions.create(model="fast", messages=MESSAGES)  # type: ignore[arg-type]
    elif endpoint == "stream":
        stream = await client.chat.completions.create(
            model="fast",
            messages=MESSAGES,
            stream=True,  # type: ignore[arg-type]
        )
        assert [chunk async for chunk in stream]
    elif endpoint == "embeddings":
        await client.embeddings.create(model="vectors", input="one")
    elif endpoint == "images":
        await client.images.generate(model="pictures", prompt="a cat")
    elif endpoint == "completions":
        await client.completions.create(model="words", prompt="Once upon")
    elif endpoint == "responses":
        await client.responses.create(model="fast", input="Hello")
    else:
        url = str(client.base_url).rstrip("/") + "/v1/messages"
        body = {"model": "fast", "messages": MESSAGES, "max_tokens": 9}
        async with httpx.AsyncClient() as plain:
            headers = {"authorization": f"Bearer {MASTER_KEY}"}
            (await plain.post(url, json=body, headers=headers)).raise_for_status()


ENDPOINTS = ["chat", "stream", "completions", "embeddings", "responses", "messages", "images"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_success_and_failover(
    world: World, client: openai.AsyncOpenAI, endpoint: str
) -> None:
    await ask(client, endpoint)
    await until(idle)
    before = answered()
    world.provider.inject(MockFault(action="429_rpm"))
    await ask(client, endpoint)
    await until(idle)
    assert world.received == 3
    assert answered() == before + 1


async def test_a_stream_that_the_client_leaves(world: World, client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="fast",
        messages=MESSAGES,
        stream=True,  # type: ignore[arg-type]
    )
    await stream.__anext__()
    await stream.close()
    await asyncio.sleep(0.2)
    collect()
    await until(idle)


async def test_a_clients_metadata_touches_no_lease(
    world: World, client: openai.AsyncOpenAI
) -> None:
    world.provider.inject(MockFault(action="timeout", seconds=1.0))
    slow = asyncio.create_task(ask(client, "chat"))
    await until(lambda: world.received == 1)
    (name,) = _open_attempts._open
    forged = {"quotafleet_lease": name}
    for place in ("metadata", "litellm_metadata", "model_info"):
        await client.chat.completions.create(
            model="fast",
            messages=MESSAGES,
            extra_body={place: forged},  # type: ignore[arg-type]
        )
        assert name in _open_attempts._open, f"{place} ended another's lease"
    await slow


async def test_an_error_is_the_sdks_own(world: World, client: openai.AsyncOpenAI) -> None:
    world.provider.inject(MockFault(action="500", times=None))
    with pytest.raises(openai.InternalServerError):
        await ask(client, "chat")


async def test_a_strategy_changed_at_runtime_is_taken_back(
    world: World, client: openai.AsyncOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    from litellm.proxy import proxy_server

    await ask(client, "chat")
    proxy_server.llm_router.update_settings(routing_strategy="least-busy")
    assert "no longer chooses" in caplog.text
    await ask(client, "chat")
    assert proxy_handler.routing is not None
    assert proxy_handler.routing.is_installed
