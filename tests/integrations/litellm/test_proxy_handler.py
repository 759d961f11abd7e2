"""The Proxy's callback and its settings, on a Router in the place of the Proxy's."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.stores.redis_kit import serving

from litellm_quotafleet.proxy import _PROXY, ProxyHandler

from .conftest import MESSAGES, World, idle, world_of


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(_PROXY)
    monkeypatch.setitem(sys.modules, _PROXY, module)
    for name in ("CONFIG", "STRATEGY", "STORE", "WAIT_TIMEOUT"):
        monkeypatch.delenv(f"QUOTAFLEET_{name}", raising=False)
    monkeypatch.delenv("NUM_WORKERS", raising=False)
    return module


def config(world: World, path: Path, names: list[str]) -> str:
    keys = {key.name: key.secret for key in world.provider.fleet.keys}
    lines = [
        f'[[organizations]]\nname = "org-{name}"\nkeys = [{json.dumps(keys[name])}]\n'
        f'base_url = "{world.server.base_url}"\n'
        for name in names
    ]
    path.write_text("\n".join(lines))
    return str(path)


async def ask(handler: ProxyHandler, data: dict[str, Any] | None = None) -> None:
    await handler.async_pre_call_hook(None, None, {} if data is None else data, "completion")


async def test_the_configured_pool_schedules(
    world: World, proxy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [key.name for key in world.provider.fleet.keys]
    monkeypatch.setenv("QUOTAFLEET_CONFIG", config(world, tmp_path / "quotafleet.toml", names))
    proxy.llm_router = world.router()
    handler = ProxyHandler()
    await ask(handler)
    routing = handler.routing
    assert routing is not None
    world.installed.append(routing)
    assert {key.organization for key in routing.pool.keys} == {f"org-{name}" for name in names}
    await proxy.llm_router.acompletion("fast", MESSAGES)
    await idle(routing)
    assert sum(key.answered for key in routing.pool.status().keys) == 1

    proxy.llm_router = world.router()  # the Proxy made a new one: the same pool goes on
    await ask(handler)
    assert handler.routing is not routing
    assert handler.routing is not None
    world.installed.append(handler.routing)
    assert handler.routing.pool is routing.pool


async def test_a_configuration_that_does_not_fit_leaves_it_to_litellm(
    world: World,
    proxy: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = world.provider.fleet.keys[0].name
    monkeypatch.setenv("QUOTAFLEET_CONFIG", config(world, tmp_path / "quotafleet.toml", [first]))
    proxy.llm_router = world.router()
    handler = ProxyHandler()
    await ask(handler)
    await ask(handler)
    assert handler.routing is None
    assert caplog.text.count("can't schedule") == 1
    await proxy.llm_router.acompletion("fast", MESSAGES)


async def test_the_strategy_is_named_by_the_environment(
    world: World, proxy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("QUOTAFLEET_STRATEGY", "no-such-strategy")
    proxy.llm_router = world.router()
    handler = ProxyHandler()
    await ask(handler)
    assert handler.routing is None
    assert "no-such-strategy" in caplog.text


async def test_the_wait_is_bounded_by_the_environment(
    proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTAFLEET_WAIT_TIMEOUT", "30")
    with world_of({"a": {"rpm": 20}}) as world:
        proxy.llm_router = world.router(world.model_list(rpm=20), timeout=1.5)
        handler = ProxyHandler()
        await ask(handler)
        assert handler.routing is not None
        world.installed.append(handler.routing)
        asked = (proxy.llm_router.acompletion("fast", MESSAGES) for _ in range(21))
        await asyncio.gather(*asked)  # the last of them waited for three seconds
        await idle(handler.routing)


@pytest.mark.parametrize("told", ["soon", "-1"])
async def test_a_wait_that_is_none_leaves_it_to_litellm(
    world: World,
    proxy: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    told: str,
) -> None:
    monkeypatch.setenv("QUOTAFLEET_WAIT_TIMEOUT", told)
    proxy.llm_router = world.router()
    handler = ProxyHandler()
    await ask(handler)
    assert handler.routing is None
    assert told in caplog.text


async def test_several_workers_are_warned_of_unless_they_share_a_store(
    world: World, proxy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NUM_WORKERS", "2")
    for _ in range(2):
        proxy.llm_router = world.router()
        handler = ProxyHandler()
        await ask(handler)
        await ask(handler)
        assert handler.routing is not None
        world.installed.append(handler.routing)
        assert caplog.text.count("2 workers each schedule") == 1
        with serving() as server:
            monkeypatch.setenv("QUOTAFLEET_STORE", server.url)


async def test_a_store_that_is_none_leaves_it_to_litellm(
    world: World, proxy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("QUOTAFLEET_STORE", "postgres://user:hidden@localhost")
    proxy.llm_router = world.router()
    handler = ProxyHandler()
    await ask(handler)
    assert handler.routing is None
    assert "can't schedule" in caplog.text
    assert "hidden" not in caplog.text


async def test_without_a_router_it_says_so_once(
    proxy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handler = ProxyHandler()
    await ask(handler)
    await ask(handler)
    assert caplog.text.count("no Router") == 1


async def test_a_client_names_no_lease(world: World, proxy: Any) -> None:
    data: dict[str, Any] = {"metadata": {"quotafleet_lease": "x", "mine": 1}}
    await ask(ProxyHandler(), data)
    assert data == {"metadata": {"mine": 1}}
