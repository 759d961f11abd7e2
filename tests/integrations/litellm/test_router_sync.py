"""A Router's synchronous calls: each ends with no lease open, however it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litellm
import pytest

from litellm_quotafleet import _open_attempts
from quotafleet.testing import MockFault

from .conftest import CHAT, EMBED, MESSAGES, World, collect, idle_now, is_idle, world_of
from .test_router_async import TOOL, answered

Call = Callable[[Any], Any]


def chat(router: Any) -> Any:
    return router.completion("fast", MESSAGES)


def tools(router: Any) -> Any:
    return router.completion("fast", MESSAGES, tools=[TOOL])


def chat_stream(router: Any) -> Any:
    return list(router.completion("fast", MESSAGES, stream=True))


def embedding(router: Any) -> Any:
    return router.embedding("fast", input=["one", "two"])


def responses(router: Any) -> Any:
    return router.responses(model="fast", input="Hello")


def responses_stream(router: Any) -> Any:
    return list(router.responses(model="fast", input="Hello", stream=True))


def image(router: Any) -> Any:
    return router.image_generation(model="fast", prompt="a cat")


CASES = [
    pytest.param(chat, CHAT, id="chat"),
    pytest.param(tools, CHAT, id="tools"),
    pytest.param(chat_stream, CHAT, id="chat-stream"),
    pytest.param(embedding, EMBED, id="embedding"),
    pytest.param(responses, CHAT, id="responses"),
    pytest.param(responses_stream, CHAT, id="responses-stream"),
]
WITH_ODD = [
    *CASES,
    pytest.param(image, "gpt-image-1", id="image"),
]


class TestEndpoints:
    @pytest.mark.parametrize(("call", "model"), WITH_ODD)
    def test_success_is_settled_once(self, world: World, call: Call, model: str) -> None:
        router = world.router(world.model_list(model=model))
        routing = world.routing(router)
        call(router)
        idle_now(routing)
        assert answered(routing) == 1
        assert world.received == 1

    @pytest.mark.parametrize(("call", "model"), CASES[:-2])
    def test_429_fails_over_to_the_other_owner(self, world: World, call: Call, model: str) -> None:
        router = world.router(world.model_list(model=model))
        routing = world.routing(router)
        world.provider.inject(MockFault(action="429_rpm"))
        call(router)
        idle_now(routing)
        assert answered(routing) == 1
        assert [key.refused for key in routing.pool.status().keys].count(1) == 1
        assert world.received == 2

    @pytest.mark.parametrize("call", [responses, responses_stream])
    def test_responses_which_litellm_does_not_retry_are_told_of(
        self, world: World, call: Call
    ) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.inject(MockFault(action="429_rpm"))
        with pytest.raises(litellm.RateLimitError):
            call(router)
        idle_now(routing)
        assert [key.refused for key in routing.pool.status().keys].count(1) == 1

    @pytest.mark.parametrize(("call", "model"), CASES)
    def test_500_is_not_retried_by_the_sdk(self, world: World, call: Call, model: str) -> None:
        router = world.router(world.model_list(model=model), num_retries=0)
        routing = world.routing(router)
        world.provider.inject(MockFault(action="500", times=None))
        with pytest.raises(Exception, match="error"):
            call(router)
        idle_now(routing)
        assert world.received == 1

    @pytest.mark.parametrize(("call", "model"), WITH_ODD[-3:])
    @pytest.mark.parametrize("action", ["429_rpm", "500", "reset_conn"])
    def test_an_error_ends_the_lease(
        self, world: World, call: Call, model: str, action: Any
    ) -> None:
        router = world.router(world.model_list(model=model), num_retries=1)
        routing = world.routing(router)
        world.provider.inject(MockFault(action=action, times=None))
        with pytest.raises(Exception, match="rror"):
            call(router)
        collect()
        idle_now(routing)
        assert answered(routing) == 0

    @pytest.mark.parametrize(("call", "model"), WITH_ODD)
    def test_a_timeout_ends_the_lease(self, world: World, call: Call, model: str) -> None:
        router = world.router(world.model_list(model=model), num_retries=0, timeout=0.5)
        routing = world.routing(router)
        world.provider.inject(MockFault(action="timeout", seconds=2.0, times=None))
        with pytest.raises(litellm.Timeout):
            call(router)
        collect()
        idle_now(routing)


class TestText:
    """LiteLLM sends the group's name as the model: it is the model's own, or nothing is sent."""

    NAME = "gpt-3.5-turbo-instruct"

    def test_success_is_settled_once(self, world: World) -> None:
        router = world.router(world.model_list(self.NAME, self.NAME))
        routing = world.routing(router)
        assert router.text_completion(self.NAME, prompt="Once upon").choices[0].text
        idle_now(routing)
        assert answered(routing) == 1

    @pytest.mark.parametrize("action", ["429_rpm", "500"])
    def test_a_failure_ends_its_lease(self, world: World, action: Any) -> None:
        router = world.router(world.model_list(self.NAME, self.NAME))
        routing = world.routing(router)
        world.provider.inject(MockFault(action=action, times=None))
        error = litellm.InternalServerError if action == "500" else litellm.RateLimitError
        with pytest.raises(error):
            router.text_completion(self.NAME, prompt="Once upon")
        idle_now(routing)
        assert answered(routing) == 0

    def test_what_litellm_refuses_costs_nothing(self, world: World) -> None:
        router = world.router(world.model_list("fast", self.NAME, rpm=2)[:1])
        routing = world.routing(router)
        for _ in range(4):
            with pytest.raises(litellm.BadRequestError, match="fast"):
                router.text_completion("fast", prompt="Once upon")
            idle_now(routing)
        assert world.received == 0


class TestFailures:
    def test_a_revoked_key_is_dead(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.revoke("a-1")
        for _ in range(4):
            chat(router)
        idle_now(routing)
        assert world.provider.state()["rejected"] == {"invalid_api_key": 1}

    def test_a_dead_key_is_passed_over_where_litellm_has_rules(self, world: World) -> None:
        router = world.router(enable_pre_call_checks=True)
        routing = world.routing(router)
        world.provider.revoke("a-1")
        for _ in range(6):
            chat(router)
        idle_now(routing)
        assert world.provider.state()["rejected"] == {"invalid_api_key": 1}

    def test_timeout(self, world: World) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.inject(MockFault(action="timeout", seconds=2.0))
        router.completion("fast", MESSAGES, timeout=0.3)
        idle_now(routing)
        assert answered(routing) == 1

    @pytest.mark.parametrize("action", ["stream_truncate", "stream_error"])
    def test_a_stream_that_breaks(self, world: World, action: Any) -> None:
        router = world.router()
        routing = world.routing(router)
        world.provider.inject(MockFault(action=action))
        with pytest.raises(Exception, match="APIConnectionError"):
            chat_stream(router)
        collect()
        idle_now(routing)
        assert answered(routing) == 0


class TestGivingUp:
    @pytest.mark.parametrize("endpoint", ["chat", "responses"])
    def test_a_dropped_stream_ends_when_it_is_collected(self, world: World, endpoint: str) -> None:
        router = world.router()
        routing = world.routing(router)

        def drop() -> None:
            if endpoint == "chat":
                stream = router.completion("fast", MESSAGES, stream=True)
            else:
                stream = router.responses(model="fast", input="Hello", stream=True)
            next(iter(stream))
            collect()
            assert _open_attempts.open_leases() == 1, "it ended while it was being read"

        chat_stream(router)  # LiteLLM's logging imports for seconds at the first stream
        idle_now(routing)
        drop()
        ends_at = time.monotonic() + 60.0
        while not is_idle(routing):  # it logs chunks in a thread, which holds the stream so long
            assert time.monotonic() < ends_at, "something keeps it alive"
            time.sleep(0.2)  # collecting all the time would keep that thread from running
            collect()


class TestWaiting:
    def test_threads_wait_for_headroom(self) -> None:
        with world_of({"a": {"rpm": 120}}) as world:
            router = world.router(world.model_list(rpm=120))
            routing = world.routing(router)
            began = time.monotonic()
            with ThreadPoolExecutor(16) as threads:
                list(threads.map(lambda _: chat(router), range(122)))
            idle_now(routing)
            assert time.monotonic() - began > 0.8
            assert (
                sum(world.provider.state()["rejected"].values()) <= 3
            )  # of 122, on a busy machine

    def test_certainty_ends_the_wait_at_once(self) -> None:
        with world_of({"a": {"rpm": 60}}) as world:
            router = world.router(world.model_list(rpm=1))
            routing = world.routing(router)
            chat(router)
            began = time.monotonic()
            with pytest.raises(litellm.RateLimitError, match="quotafleet"):
                router.completion("fast", MESSAGES, timeout=5)
            assert time.monotonic() - began < 4
            idle_now(routing)

    def test_without_headroom_the_fallback_group_serves(self, world: World) -> None:
        models = [world.deployment("fast", 0, rpm=1), world.deployment("spare", 1)]
        router = world.router(models, fallbacks=[{"fast": ["spare"]}])
        routing = world.routing(router)
        for _ in range(3):
            router.completion("fast", MESSAGES, timeout=5)
        idle_now(routing)
        answered_by = {key.key_id: key.answered for key in routing.pool.status().keys}
        assert answered_by == {"fast-0": 1, "spare-1": 2}


class TestSettling:
    def test_usage_is_what_the_answer_says(self, world: World) -> None:
        router = world.router(world.model_list()[:1])
        routing = world.routing(router)
        answer = chat(router)
        idle_now(routing)
        (key,) = routing.pool.status().keys
        assert key.output_tokens == answer.usage.completion_tokens > 0

    def test_cache_hits_cost_nothing(self, world: World) -> None:
        litellm.cache = litellm.Cache()
        router = world.router(world.model_list(rpm=2)[:1], cache_responses=True)
        routing = world.routing(router)
        for _ in range(4):
            chat(router)
            collect()
            idle_now(routing)
        assert world.received == 1
        assert answered(routing) == 1

    def test_loops_and_threads_share_one_router(self, world: World) -> None:
        import asyncio

        router = world.router()
        routing = world.routing(router)

        async def some() -> None:
            await asyncio.gather(*(router.acompletion("fast", MESSAGES) for _ in range(5)))

        threads = [threading.Thread(target=lambda: asyncio.run(some())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        collect()
        idle_now(routing)
        assert world.received == 15
