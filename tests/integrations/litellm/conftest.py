"""LiteLLM's real code against the mock provider on loopback."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network, and 6 s less

import pytest

pytest.importorskip("litellm")

import litellm

from litellm_quotafleet import QuotafleetRouting, _open_attempts
from quotafleet._clock import SystemClock
from quotafleet.testing import MockFleet, MockProvider, MockServer, MockSettings, serve

MESSAGES = [{"role": "user", "content": "What is a fleet?"}]
CHAT = "gpt-4o-mini"
EMBED = "text-embedding-3-small"
#: Each Router adds to these for good, and at 100 LiteLLM takes no more: ours would be left out.
CALLBACKS = (
    "success_callback",
    "failure_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """LiteLLM, its HTTP clients and pydantic warn of themselves: none of that is ours to mend."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            for told in (
                "default::DeprecationWarning",
                "default::ResourceWarning",
                "default::UserWarning",
                "default::RuntimeWarning",
                "default::pytest.PytestUnraisableExceptionWarning",
            ):
                item.add_marker(pytest.mark.filterwarnings(told))


class World:
    """A mock provider that is being served, and Routers over its keys."""

    def __init__(self, provider: MockProvider, server: MockServer) -> None:
        self.provider = provider
        self.server = server
        self.installed: list[QuotafleetRouting] = []

    def deployment(
        self,
        name: str,
        key: int,
        model: str = CHAT,
        *,
        info: dict[str, Any] | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        secret = self.provider.fleet.secrets()[key]
        return {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_key": secret,
                "api_base": self.server.base_url,
                **params,
            },
            "model_info": {"id": f"{name}-{key}", "quotafleet_provider": "openai", **(info or {})},
        }

    def model_list(self, name: str = "fast", model: str = CHAT, **params: Any) -> list[Any]:
        keys = range(len(self.provider.fleet.keys))
        return [self.deployment(name, key, model, **params) for key in keys]

    def router(self, model_list: list[Any] | None = None, **options: Any) -> Any:
        return litellm.Router(model_list=model_list or self.model_list(), **options)

    def routing(self, router: Any, **options: Any) -> QuotafleetRouting:
        routing = QuotafleetRouting.install(router, **options)
        self.installed.append(routing)
        return routing

    @property
    def received(self) -> int:
        return int(self.provider.received)


@contextmanager
def world_of(
    orgs: dict[str, dict[str, int]] | None = None, settings: MockSettings | None = None
) -> Iterator[World]:
    fleet = MockFleet.simple(orgs or {"a": {"rpm": 6000}, "b": {"rpm": 6000}})
    provider = MockProvider(fleet, clock=SystemClock(), settings=settings or MockSettings())
    with serve(provider) as server:
        world = World(provider, server)
        try:
            yield world
        finally:
            for routing in world.installed:
                routing.uninstall()


@pytest.fixture
def world() -> Iterator[World]:
    with world_of() as made:
        yield made


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    callbacks = list(litellm.callbacks)
    lists = {name: list(getattr(litellm, name)) for name in CALLBACKS}
    litellm.cache = None
    yield
    litellm.callbacks = callbacks
    if request.path.name != "test_proxy.py":  # one Proxy goes through all of that
        for name, before in lists.items():
            getattr(litellm, name)[:] = before
    litellm.cache = None
    assert _open_attempts.open_leases() == 0, "a test left a lease open"


def is_idle(routing: QuotafleetRouting) -> bool:
    status = routing.pool.status()
    waiting = sum(queue.waiting for queue in status.queues)
    return (
        _open_attempts.open_leases() == 0
        and waiting == 0
        and all(scope.in_flight == 0 for scope in status.scopes)
        and routing.pool._store.open == 0  # type: ignore[attr-defined]
    )


async def until(done: Callable[[], bool], within: float = 30.0) -> None:
    """Wait for what LiteLLM's workers do behind the caller's back."""
    ends_at = time.monotonic() + within
    while not done():
        assert time.monotonic() < ends_at, "not in time"
        await asyncio.sleep(0.005)


async def idle(routing: QuotafleetRouting) -> None:
    await until(lambda: is_idle(routing))


def idle_now(routing: QuotafleetRouting) -> None:
    ends_at = time.monotonic() + 30.0
    while not is_idle(routing):
        assert time.monotonic() < ends_at, "a lease is open"
        time.sleep(0.005)


async def read(stream: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in stream]


def collect() -> None:
    for _ in range(3):
        gc.collect()
