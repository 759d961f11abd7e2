"""`install`: who calls LiteLLM's own functions draws on the pool, unless they bring a key."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import litellm
import pytest

from litellm_quotafleet import install, uninstall
from quotafleet import KeyPool
from quotafleet.testing import MockFault

from .conftest import CHAT, EMBED, MESSAGES, World, idle
from .test_calls import IMAGE, TEXT, answered, is_idle, pool_of


@pytest.fixture
def pool(world: World) -> Iterator[KeyPool]:
    pool = pool_of(world)
    install(pool)
    yield pool
    uninstall()
    assert is_idle(pool)


def test_each_function_draws_on_the_pool(world: World, pool: KeyPool) -> None:
    litellm.completion(CHAT, MESSAGES)
    litellm.completion(model=f"openai/{CHAT}", messages=MESSAGES)
    litellm.text_completion("Once upon", TEXT)
    litellm.embedding(EMBED, ["a"])
    litellm.responses("Hello", CHAT)
    litellm.image_generation("a cat", IMAGE)
    assert answered(pool) == world.received == 6


async def test_each_asynchronous_one_does(world: World, pool: KeyPool) -> None:
    await litellm.acompletion(CHAT, MESSAGES)
    await litellm.atext_completion("Once upon", TEXT)
    await litellm.aembedding(EMBED, ["a"])
    await litellm.aresponses("Hello", CHAT)
    await litellm.aimage_generation("a cat", IMAGE)
    await litellm.anthropic_messages(16, MESSAGES, f"openai/{CHAT}")
    assert answered(pool) == world.received == 6


def test_a_refusal_goes_to_the_other_owner(world: World, pool: KeyPool) -> None:
    world.provider.inject(MockFault(action="429_rpm"))
    assert litellm.completion(CHAT, MESSAGES).choices
    assert answered(pool) == 1
    assert world.received == 2


def test_a_key_of_their_own_stays_theirs(world: World, pool: KeyPool) -> None:
    key = world.provider.fleet.secrets()[0]
    litellm.completion(CHAT, MESSAGES, api_key=key, api_base=world.server.base_url)
    assert world.received == 1
    assert answered(pool) == 0


@pytest.mark.parametrize("told", ["in the list", "in the environment"])
async def test_a_routers_calls_stay_the_routers(
    world: World, pool: KeyPool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = world.model_list()[:1]
    if told == "in the environment":
        monkeypatch.setenv("OPENAI_API_KEY", models[0]["litellm_params"].pop("api_key"))
    router = world.router(models)
    routing = world.routing(router)
    await router.acompletion("fast", MESSAGES)
    await idle(routing)
    assert answered(pool) == 0
    assert answered(routing.pool) == 1


@pytest.mark.parametrize("model", ["anthropic/claude-haiku-4-5", "no-such-model"])
def test_models_of_other_providers_are_litellms_affair(
    world: World, pool: KeyPool, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises((litellm.AuthenticationError, litellm.BadRequestError)):
        litellm.completion(model, MESSAGES)
    assert world.received == 0


def test_it_is_taken_back(world: World) -> None:
    before: dict[str, Any] = {name: getattr(litellm, name) for name in ("completion", "aembedding")}
    install(pool_of(world))
    install(pool_of(world))
    assert litellm.completion is not before["completion"]
    assert inspect.iscoroutinefunction(litellm.aembedding)
    uninstall()
    assert {name: getattr(litellm, name) for name in before} == before
