"""A Router's asynchronous calls: each ends with no lease open, however it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import litellm
import pytest

from litellm_quotafleet import _attempt_end, _open_attempts
from quotafleet.errors import ConfigError
from quotafleet.testing import MockFault

from .conftest import CHAT, EMBED, MESSAGES, World, collect, idle, is_idle, read, until, world_of

Call = Callable[[Any], Awaitable[Any]]

TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}


async def chat(router: Any) -> Any:
    return await router.acompletion("fast", MESSAGES)


async def tools(router: Any) -> Any:
    return await router.acompletion("fast", MESSAGES, tools=[TOOL])


async def chat_stream(router: Any) -> Any:
    return await read(await router.acompletion("fast", MESSAGES, stream=True))


async def text(router: Any) -> Any:
    return await router.atext_completion("fast", prompt="Once upon")


async def text_stream(router: Any) -> Any:
    return await read(await router.atext_completion("fast", prompt="Once upon", stream=True))


async def embedding(router: Any) -> Any:
    return await router.aembedding("fast", input=["one", "two"])


async def responses(router: Any) -> Any:
    return await router.aresponses(model="fast", input="Hello")


async def responses_stream(router: Any) -> Any:
    return await read(await router.aresponses(model="fast", input="Hello", stream=True))


async def messages(router: Any) -> Any:
    return await router.aanthropic_messages(model="fast", messages=MESSAGES, max_tokens=16)


async def messages_stream(router: Any) -> Any:
    stream = await router.aanthropic_messages(
        model="fast", messages=MESSAGES, max_tokens=16, stream=True
    )
    return await read(stream)


async def image(router: Any) -> Any:
    return await router.aimage_generation(model="fast", prompt="a cat")


CASES: list[Any] = [
    pytest.param(chat, CHAT, id="chat"),
    pytest.param(tools, CHAT, id="tools"),
    pytest.param(chat_stream, CHAT, id="chat-stream"),
    pytest.param(text, "gpt-3.5-turbo-instruct", id="text"),
    pytest.param(embedding, EMBED, id="embedding"),
    pytest.param(responses, CHAT, id="responses"),
    pytest.param(responses_stream, CHAT, id="responses-stream"),
    pytest.param(messages, CHAT, id="messages"),
    pytest.param(messages_stream, CHAT, id="messages-stream"),
]
#: LiteLLM leaves the SDK's own two retries on for images, whatever the request says, and sends a
#: stream of text completions only when it is read.
ODD = [
    pytest.param(image, "gpt-image-1", id="image"),
    pytest.param(text_stream, "gpt-3.5-turbo-instruct", id="text-stream"),
]
WITH_ODD = [*CASES, *ODD]


def answered(routing: Any) -> int:
    return sum(key.answered for key in routing.pool.status().keys)


class TestEndpoints:
    @pytest.mark.parametrize(("call", "model"), WITH_ODD)
    async def test_success_is_settled_once(self, world: World, call: Call, model: str) -> None:
        router = world.router(world.model_list(model=model))
        routing = world.routing(router)
        await call(router)
        await idle(routing)
        assert answered(routing) == 1
        assert world.received == 1

    @pytest.mark.parametrize(("call", "model"), CASES)
    async def test_429_fails_over_to_the_other_owner(
        self, world: World, call: Call, model: str
    ) -> None:
        router = world.router(world.model_list(model=model))
        routing = world.routing(router)
        world.provider.inject(MockFault(action="429_rpm"))
        await call(router)
        await idle(routing)
        assert answered(routing) == 1
        assert [key.refused for key in routing.pool.status().keys].count(1) == 1
        assert world.received == 2, "the SDK tried again by itself, or nobody did"

    @pytest.mark.parametrize(("call", "model"), CASES)
    async def test_500_is_not_retried_by_the_sdk(
        self, world: World, call: Call, model: str
    ) -> None:
        router = world.router(world.model_list(model=model), num_retries=0)
        routing = world.routing(router)
        world.provider.inject(MockFault(action="500", times=None))
        with pytest.raises(Exception, match="error"):
            await call(router)
        await idle(routing)
        assert world.received == 1

    @pytest.mark.parametrize(("call", "model"), ODD)
    @pytest.mark.parametrize("action", ["429_rpm", "500", "reset_conn"])
    async def test_an_error_ends_the_lease(
        self, world: World, call: Call, model: str, action: Any
    ) -> None:
        router = world.router(world.model_list(model=model), num_retries=1)
        routing = world.routing(router)
        world.provider.inject(MockFault(action=action, times=None))
        with pytest.raises(Exception, match="rror"):
            await call(router)
        collect()
        await idle(routing)
        assert answered(routing) == 0

    @pytest.mark.parametrize(("call", "model"), WITH_ODD)
    async def test_a_timeout_ends_the_lease(self, world: World, call: Call, model: str) -> None:
        router = world.router(world.model_list(model=model), num_retries=0, timeout=0.5)
        routing = world.routing(router)
        world.provider.inject(MockFault(action="timeout", seconds=2.0, times=None))
        with pytest.raises(litellm.Timeout):
            await call(router)
        collect()
        await idle(routing)


class TestFailures:
    async def test_a_revoked_key_is_dead_and_the_call_comes_through(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.revoke("a-1")
        for _ in range(6):
            await router.acompletion("fast", MESSAGES)
        await idle(routing)
        health = {key.key_id: key.health for key in routing.pool.status().keys}
        assert health["fast-0"] == "dead"
        assert world.provider.state()["rejected"] == {"invalid_api_key": 1}

    async def test_empty_purse_is_known_by_its_code(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.inject(MockFault(action="quota"))
        for _ in range(4):
            await router.acompletion("fast", MESSAGES)
        await idle(routing)
        assert [sick.reason for sick in routing.pool.status().unavailable] == ["insufficient_quota"]
        assert sum(world.provider.rejected.values()) == 1

    async def test_timeout(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.inject(MockFault(action="timeout", seconds=2.0))
        await router.acompletion("fast", MESSAGES, timeout=0.3)
        await idle(routing)
        assert answered(routing) == 1

    async def test_connection_reset(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.inject(MockFault(action="reset_conn"))
        await router.acompletion("fast", MESSAGES)
        await idle(routing)
        assert answered(routing) == 1

    async def test_bad_request_is_nobodys_fault(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.inject(MockFault(action="error", code="invalid_service_tier", times=None))
        with pytest.raises(litellm.BadRequestError):
            await router.acompletion("fast", MESSAGES)
        await idle(routing)
        assert all(key.health == "closed" for key in routing.pool.status().keys)
        assert not routing.pool.status().unavailable

    @pytest.mark.parametrize("action", ["stream_truncate", "stream_error"])
    async def test_a_stream_that_breaks(self, world: World, action: Any) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.inject(MockFault(action=action))
        with pytest.raises(Exception, match="APIConnectionError"):
            await chat_stream(router)
        await idle(routing)
        assert answered(routing) == 0

    async def test_every_key_fails(self, world: World) -> None:
        router = world.router(num_retries=1)
        routing = world.routing(router)
        world.provider.inject(MockFault(action="500", times=None))
        with pytest.raises(litellm.InternalServerError):
            await router.acompletion("fast", MESSAGES)
        await idle(routing)


class TestGivingUp:
    async def test_closing_a_stream_ends_its_lease_at_once(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        stream = await router.acompletion("fast", MESSAGES, stream=True)
        async for _ in stream:
            break
        assert _open_attempts.open_leases() == 1
        await stream.aclose()
        assert is_idle(routing)

    @pytest.mark.parametrize("endpoint", ["chat", "responses", "messages"])
    async def test_a_dropped_stream_ends_when_it_is_collected(
        self, world: World, endpoint: str
    ) -> None:
        router = world.router()
        routing = world.routing(router)

        async def drop() -> None:
            if endpoint == "chat":
                stream = await router.acompletion("fast", MESSAGES, stream=True)
            elif endpoint == "responses":
                stream = await router.aresponses(model="fast", input="Hello", stream=True)
            else:
                stream = await router.aanthropic_messages(
                    model="fast", messages=MESSAGES, max_tokens=16, stream=True
                )
            async for _ in stream:
                break
            collect()
            assert _open_attempts.open_leases() == 1, "it ended while it was being read"

        await drop()
        await asyncio.sleep(0)
        collect()
        await idle(routing)

    async def test_a_stream_nobody_reads(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        await router.acompletion("fast", MESSAGES, stream=True)
        await asyncio.sleep(0)
        collect()
        await idle(routing)

    @pytest.mark.parametrize(("call", "model"), WITH_ODD)
    async def test_cancelling_ends_the_lease_at_once(
        self, world: World, call: Call, model: str
    ) -> None:
        router = world.router(world.model_list(model=model))
        routing = world.routing(router)
        world.provider.inject(MockFault(action="timeout", seconds=2.0))
        task = asyncio.create_task(call(router))  # type: ignore[arg-type]
        await until(lambda: world.received == 1)
        assert _open_attempts.open_leases() == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if call is text_stream:  # LiteLLM tells nobody; it ends with the stream's own data
            collect()
            await idle(routing)
        assert is_idle(routing)

    async def test_cancelling_without_slots_ends_it_when_the_data_is_collected(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_attempt_end, "_Slot", None)
        router = world.router()
        routing = world.routing(router)
        world.provider.inject(MockFault(action="timeout", seconds=2.0))
        task = asyncio.create_task(chat(router))
        await until(lambda: world.received == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        collect()
        await idle(routing)

    async def test_cancelling_while_waiting_for_headroom(self) -> None:
        with world_of({"a": {"rpm": 60}}) as world:
            router = world.router(world.model_list(rpm=1))
            routing = world.routing(router)
            await router.acompletion("fast", MESSAGES)
            task = asyncio.create_task(chat(router))
            await until(lambda: bool(routing.pool.status().queues))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await idle(routing)


class TestWaiting:
    async def test_it_waits_for_headroom_and_is_not_refused(self) -> None:
        with world_of({"a": {"rpm": 120}}) as world:
            router = world.router(world.model_list(rpm=120))
            routing = world.routing(router)
            began = time.monotonic()
            await asyncio.gather(*(chat(router) for _ in range(122)))
            await idle(routing)
            assert time.monotonic() - began > 0.8
            assert (
                sum(world.provider.state()["rejected"].values()) <= 3
            )  # of 122, on a busy machine

    async def test_the_timeout_bounds_the_wait_and_certainty_ends_it_at_once(self) -> None:
        with world_of({"a": {"rpm": 60}}) as world:
            router = world.router(world.model_list(rpm=1))
            routing = world.routing(router)
            await router.acompletion("fast", MESSAGES)
            began = time.monotonic()
            with pytest.raises(litellm.RateLimitError, match="quotafleet") as refused:
                await router.acompletion("fast", MESSAGES, timeout=5)
            assert time.monotonic() - began < 4
            assert int(refused.value.response.headers["retry-after"]) > 5
            await idle(routing)
            assert world.received == 1

    async def test_a_wait_of_its_own_bound_is_not_ended_by_the_timeout(self) -> None:
        with world_of({"a": {"rpm": 20}}) as world:
            router = world.router(world.model_list(rpm=20), timeout=1.5)
            routing = world.routing(router, wait_timeout=30)
            began = time.monotonic()
            await asyncio.gather(*(chat(router) for _ in range(21)))
            assert time.monotonic() - began > 2.0, "the last of them waited for three seconds"
            await idle(routing)

    async def test_a_wait_that_may_not_be_is_refused(self, world: World) -> None:
        with pytest.raises(ConfigError, match="wait_timeout is 0"):
            world.routing(world.router(world.model_list()), wait_timeout=0)

    async def test_without_headroom_the_fallback_group_serves(self) -> None:
        with world_of({"a": {"rpm": 600}, "b": {"rpm": 600}}) as world:
            models = [
                world.deployment("fast", 0, rpm=1),
                world.deployment("spare", 1),
            ]
            router = world.router(models, fallbacks=[{"fast": ["spare"]}])
            routing = world.routing(router)
            for _ in range(3):
                await router.acompletion("fast", MESSAGES, timeout=5)
            await idle(routing)
            answered_by = {key.key_id: key.answered for key in routing.pool.status().keys}
            assert answered_by == {"fast-0": 1, "spare-1": 2}

    async def test_a_failing_group_falls_back(self, world: World) -> None:
        models = [world.deployment("fast", 0), world.deployment("spare", 1)]
        router = world.router(models, fallbacks=[{"fast": ["spare"]}], num_retries=1)
        routing = world.routing(router)
        world.provider.revoke("a-1")
        await router.acompletion("fast", MESSAGES)
        await idle(routing)
        answered_by = {key.key_id: key.answered for key in routing.pool.status().keys}
        assert answered_by == {"fast-0": 0, "spare-1": 1}


class TestSettling:
    async def test_callbacks_that_somebody_replaced_are_ours_again(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        litellm.callbacks = []
        for names in (litellm._async_success_callback, litellm._async_failure_callback):
            names.clear()
        await router.acompletion("fast", MESSAGES)
        await idle(routing)
        assert answered(routing) == 1

    async def test_headers_teach_the_pool_the_owners_limits(self, world: World) -> None:
        router = world.router(world.model_list()[:1])
        routing = world.routing(router)
        await router.acompletion("fast", MESSAGES)
        await idle(routing)
        (scope,) = routing.pool.status().scopes
        assert {level.name: level.limit for level in scope.levels} == {"rpm": 6000}
        assert all(level.learned for level in scope.levels)

    async def test_a_refusals_headers_do_too(self, world: World) -> None:
        router = world.router(world.model_list()[:1], num_retries=0)
        routing = world.routing(router)
        world.provider.inject(MockFault(action="429_rpm"))
        with pytest.raises(litellm.RateLimitError):
            await router.acompletion("fast", MESSAGES)
        await idle(routing)
        (scope,) = routing.pool.status().scopes
        assert scope.levels[0].limit == 6000

    async def test_usage_is_what_the_answer_says(self, world: World) -> None:
        router = world.router(world.model_list()[:1])
        routing = world.routing(router)
        answer = await router.acompletion("fast", MESSAGES)
        await idle(routing)
        (key,) = routing.pool.status().keys
        assert key.input_tokens == answer.usage.prompt_tokens > 0
        assert key.output_tokens == answer.usage.completion_tokens > 0

    async def test_a_streams_usage_counts_where_it_is_told(self, world: World) -> None:
        router = world.router(world.model_list()[:1])
        routing = world.routing(router)
        options = {"include_usage": True}
        stream = await router.acompletion("fast", MESSAGES, stream=True, stream_options=options)
        await read(stream)
        await idle(routing)
        (key,) = routing.pool.status().keys
        assert key.output_tokens > 0

    async def test_cache_hits_cost_nothing(self, world: World) -> None:
        litellm.cache = litellm.Cache()
        router = world.router(world.model_list(rpm=2)[:1], cache_responses=True)
        routing = world.routing(router)
        for _ in range(4):
            await router.acompletion("fast", MESSAGES)
            await idle(routing)
        assert world.received == 1
        (key,) = routing.pool.status().keys
        assert key.answered == 1
        (scope,) = routing.pool.status().scopes
        rpm = next(level for level in scope.levels if level.name == "rpm")
        assert rpm.available >= 1

    async def test_one_metadata_for_many_calls(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        shared = {"user": "me"}
        calls = (router.acompletion("fast", MESSAGES, metadata=shared) for _ in range(20))
        await asyncio.gather(*calls)
        await idle(routing)
        assert answered(routing) == 20
