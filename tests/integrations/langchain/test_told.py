"""What a call tells of itself: in its answer, in callback events, in the metadata of its run.

The same for what is streamed and what is not, for each kind of model.
"""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import openai
import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.context import tracing_v2_enabled
from langchain_core.tracers.langchain import LangChainTracer
from tests.integrations.langchain.conftest import MODEL, NAMES

from langchain_quotafleet import ChatOpenAI, ChatPool, OpenAI
from quotafleet import KeyPool

WAYS = ("invoke", "stream", "ainvoke", "astream")


class Events(BaseCallbackHandler):
    def __init__(self) -> None:
        self.told: list[tuple[str, Any, UUID]] = []
        self.started: list[UUID] = []

    def on_chat_model_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.started.append(run_id)

    def on_llm_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self.started.append(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.told.append((name, data, run_id))


class AsyncEvents(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.told.append((name, data))


class Tracer(BaseTracer):
    """As those of most: keeps the runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.runs.append(run)


class LangSmith:
    """A client of LangSmith that keeps what it is sent."""

    tracing_queue = None

    def __init__(self) -> None:
        self.updated: list[Any] = []

    def create_run(self, **run: Any) -> None:
        pass

    def update_run(self, run_id: Any, **run: Any) -> None:
        self.updated.append(run)

    def flush(self) -> None:
        pass


def chat(pool: KeyPool) -> Any:
    return ChatOpenAI(model=MODEL, pool=pool)


def responses(pool: KeyPool) -> Any:
    return ChatOpenAI(model=MODEL, pool=pool, use_responses_api=True)


def streaming(pool: KeyPool) -> Any:
    return ChatOpenAI(model=MODEL, pool=pool, streaming=True)


def completion(pool: KeyPool) -> Any:
    return OpenAI(model="gpt-3.5-turbo-instruct", pool=pool)


def any_other(pool: KeyPool) -> Any:
    return ChatPool(
        models={name: FakeListChatModel(responses=["yes"]) for name in NAMES}, pool=pool
    )


@pytest.fixture(params=[chat, responses, streaming, completion, any_other])
def llm(request: pytest.FixtureRequest, pool: KeyPool) -> Any:
    return request.param(pool)


def the_one(told: list[Any]) -> Any:
    (only,) = told
    return only


async def collect(pieces: AsyncIterator[Any]) -> list[Any]:
    return [piece async for piece in pieces]


def read(answer: Any) -> Any:
    return answer.response_metadata["quotafleet"] if hasattr(answer, "response_metadata") else None


async def test_each_way_of_calling_is_told_once_with_the_id_of_its_run(llm: Any) -> None:
    for way in WAYS:
        handler = Events()
        config = {"callbacks": [handler]}
        if way in ("ainvoke", "invoke"):
            called = getattr(llm, way)("Is it?", config=config)
            facts = read(called if way == "invoke" else await called)
        else:
            pieces = getattr(llm, way)("Is it?", config=config)
            pieces = list(pieces) if way == "stream" else await collect(pieces)
            whole = pieces[0]
            for piece in pieces[1:]:
                whole += piece
            facts = read(whole)
        name, data, run_id = the_one(handler.told)
        assert name == "quotafleet", way
        assert run_id == the_one(handler.started), way
        assert data["owner"] in NAMES
        assert facts in (data, None), way


async def test_handlers_that_are_awaited_are_told(llm: Any) -> None:
    handler = AsyncEvents()
    await collect(llm.astream("Is it?", config={"callbacks": [handler]}))
    await llm.ainvoke("Is it?", config={"callbacks": [handler]})
    assert [name for name, _ in handler.told] == ["quotafleet", "quotafleet"]


async def test_astream_events_has_it_among_its_events(llm: Any) -> None:
    events = await collect(llm.astream_events("Is it?", version="v2"))
    told = the_one([event for event in events if event["event"] == "on_custom_event"])
    assert told["name"] == "quotafleet"
    assert told["data"]["owner"] in NAMES
    ends = [e for e in events if e["event"] in ("on_chat_model_end", "on_llm_end")]
    assert read(the_one(ends)["data"]["output"]) in (told["data"], None)
    assert the_one(ends)["run_id"] == told["run_id"]
    assert the_one(ends)["metadata"]["quotafleet_owner"] == told["data"]["owner"]


async def test_astream_events_of_a_chain_that_only_invokes_has_it(pool: KeyPool) -> None:
    llm = chat(pool)

    async def step(question: str, config: Any) -> str:
        return str((await llm.ainvoke(question, config=config)).text)

    events = await collect(RunnableLambda(step).astream_events("Is it?", version="v2"))
    assert [e["name"] for e in events if e["event"] == "on_custom_event"] == ["quotafleet"]
    assert [e["event"] for e in events].count("on_chat_model_stream") > 1


def test_the_newest_event_stream_has_it(pool: KeyPool) -> None:
    handler = Events()
    stream: Any = chat(pool).stream_events("Is it?", version="v3", config={"callbacks": [handler]})
    message = stream.output
    assert the_one(handler.told)[1]["owner"] in NAMES
    assert message.text


async def call(llm: Any, way: str, *callbacks: Any) -> None:
    """Call a model in one of four ways, to the end."""
    called = getattr(llm, way)(
        "Is it?", config={"callbacks": [*callbacks], "metadata": {"mine": 1}}
    )
    if way == "stream":
        list(called)
    elif way == "astream":
        await collect(called)
    elif way == "ainvoke":
        await called


@pytest.mark.parametrize("way", WAYS)
async def test_traced_runs_have_it_in_their_metadata(llm: Any, way: str) -> None:
    tracer, client = Tracer(), LangSmith()
    langsmith = LangChainTracer(client=client)  # type: ignore[arg-type] # stands for a client
    # One by one: beside LangSmith's, LangChain lets others miss that a completion starts.
    await call(llm, way, tracer)
    await call(llm, way, langsmith)
    langsmith.wait_for_futures()
    for run in (the_one(tracer.runs).extra, the_one(client.updated)["extra"]):
        assert run["metadata"]["quotafleet_owner"] in NAMES
        assert run["metadata"]["quotafleet_attempts"] == 1
        assert run["metadata"]["mine"] == 1


def test_a_tracer_of_the_environment_traces_a_stream_once(llm: Any) -> None:
    client = LangSmith()
    with tracing_v2_enabled(client=client) as tracer:  # type: ignore[arg-type] # stands for one
        list(llm.stream("Is it?"))
    tracer.wait_for_futures()
    assert the_one(client.updated)["extra"]["metadata"]["quotafleet_owner"] in NAMES


def test_a_models_own_handlers_are_told_once(pool: KeyPool) -> None:
    handler = Events()
    llm = ChatOpenAI(model=MODEL, pool=pool, callbacks=[handler])
    list(llm.stream("Is it?"))
    list(llm.stream("Is it?", config={"callbacks": [handler]}))
    assert len(handler.told) == len(handler.started) == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [chat, responses, streaming, completion])
async def test_a_call_that_fails_is_told_too(make: Any, way: str, pool: KeyPool) -> None:
    llm, handler = make(pool).model_copy(update={"model_name": "no-such-model"}), Events()
    with pytest.raises(openai.APIStatusError):
        await call(llm, way, handler)
    _, data, run_id = the_one(handler.told)
    assert data["attempts"] >= 1
    assert run_id == the_one(handler.started)


async def test_streams_that_nobody_finishes_leave_no_lease(llm: Any, pool: KeyPool) -> None:
    for _ in range(3):
        next(llm.stream("Is it?", config={"callbacks": [Events()]}))
        await anext(llm.astream("Is it?", config={"callbacks": [Events()]}))
    async with asyncio.timeout(10):
        while pool.status().in_flight:
            gc.collect()
            await asyncio.sleep(0.01)
