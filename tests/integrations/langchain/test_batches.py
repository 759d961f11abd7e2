"""`abatch` of many inputs: in order, bounded, and no call left behind."""

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from pydantic import Field
from tests.integrations.langchain.conftest import MODEL

from langchain_quotafleet import ChatOpenAI, ChatPool, _batch
from quotafleet import KeyPool
from quotafleet.testing import MockProvider


class Gone(BaseException):
    """No `Exception`: whoever raises it means to end more than a call."""


class Calls(_batch.PacedBatch):
    """Raises what it is given; all else takes long."""

    cancelled = 0

    async def ainvoke(self, given: Any, config: Any) -> None:
        if isinstance(given, BaseException):
            raise given
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Cancels(AsyncCallbackHandler):
    """Cancels a call, as a callback that bounds a budget may."""

    raise_error = True

    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        raise asyncio.CancelledError("no budget")


class Counting(FakeListChatModel):
    """Counts how many calls are under way, and fails where it is told to."""

    responses: list[str] = Field(default_factory=lambda: ["x"])
    state: dict[str, int] = Field(default_factory=dict)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        state, said = self.state, str(messages[0].content)
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
        try:
            await asyncio.sleep(10 if said == "slow" else 0.1)
        except asyncio.CancelledError:
            state["cancelled"] += 1
            raise
        finally:
            state["now"] -= 1
        if said == "bad":
            raise KeyError("bad") from OSError("why")
        state["ended"] += 1
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=said))])


@pytest.fixture
def counting() -> Counting:
    return Counting(state={"now": 0, "most": 0, "ended": 0, "cancelled": 0})


@pytest.fixture
def llm(counting: Counting) -> ChatPool:
    return ChatPool(models={"acme": counting})


async def test_answers_come_in_order_and_only_so_many_calls_are_under_way(
    llm: ChatPool, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_batch, "WINDOW", 20)
    inputs = [str(number) for number in range(200)]
    answers = await llm.abatch(inputs)
    assert [answer.content for answer in answers] == inputs
    assert counting.state["most"] == 20


async def test_max_concurrency_is_heeded(llm: ChatPool, counting: Counting) -> None:
    prompt = ChatPromptTemplate.from_template("{n}")
    answers = await (prompt | llm).abatch(
        [{"n": number} for number in range(20)], config={"max_concurrency": 3}
    )
    assert len(answers) == 20
    assert counting.state["most"] == 3


async def test_errors_are_returned_where_that_is_asked_for(llm: ChatPool) -> None:
    answers = await llm.abatch(["a", "bad", "b"], return_exceptions=True)
    assert isinstance(answers[1], KeyError)
    assert [answers[0].content, answers[2].content] == ["a", "b"]


async def test_the_first_error_ends_the_calls_under_way(llm: ChatPool, counting: Counting) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(KeyError, match="bad"):
            await llm.abatch(["slow"] * 5 + ["bad"] + ["slow"] * 5)
    assert counting.state["now"] == 0
    assert counting.state["cancelled"] == 10
    assert llm.pool.status().in_flight == 0


async def test_the_first_error_keeps_its_cause(llm: ChatPool) -> None:
    with pytest.raises(KeyError, match="bad") as failed:
        await llm.abatch(["slow", "bad"])
    assert isinstance(failed.value.__cause__, OSError)


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("given", [asyncio.CancelledError("of its own"), Gone()], ids=repr)
async def test_what_is_no_exception_ends_the_batch(
    given: BaseException, return_exceptions: bool
) -> None:
    calls = Calls()
    async with asyncio.timeout(5):
        with pytest.raises(type(given)) as raised:
            await calls.abatch(["slow", "slow", given], return_exceptions=return_exceptions)
    assert raised.value is given
    assert calls.cancelled == 2
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_call_that_a_callback_cancels_is_no_answer(pool: KeyPool) -> None:
    config: Any = {"callbacks": [Cancels()]}
    with pytest.raises(asyncio.CancelledError, match="no budget"):
        await ChatOpenAI(model=MODEL, pool=pool).abatch(["a", "b"], config=config)


async def test_what_a_call_does_at_its_end_is_not_interrupted() -> None:
    tidied = []

    class Tidy(_batch.PacedBatch):
        async def ainvoke(self, given: str, config: Any) -> None:
            try:
                await asyncio.sleep(0.01 if given == "bad" else 10)
            finally:
                await asyncio.sleep(0.01)
                tidied.append(given)
            raise KeyError(given)

    with pytest.raises(KeyError, match="bad"):
        await Tidy().abatch(["a", "b", "bad", "c"])
    assert sorted(tidied) == ["a", "b", "bad", "c"]
    batch = asyncio.create_task(Tidy().abatch(["a", "b"]))
    await asyncio.sleep(0.01)
    batch.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert len(tidied) == 6


async def test_a_batch_that_failed_has_not_cancelled_its_caller(llm: ChatPool) -> None:
    with pytest.raises(KeyError):
        await llm.abatch(["slow", "bad"])
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0  # a timeout around it would go by that


async def test_a_batch_that_runs_out_of_time_says_that(llm: ChatPool) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await llm.abatch(["slow"] * 5)


async def test_a_cancelled_batch_leaves_nothing(llm: ChatPool, counting: Counting) -> None:
    task = asyncio.create_task(llm.abatch(["slow"] * 5))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counting.state["now"] == 0
    assert llm.pool.status().in_flight == 0


async def test_an_empty_batch(llm: ChatPool) -> None:
    assert await llm.abatch([]) == []


async def test_the_drop_in_does_so_too(pool: KeyPool, provider: MockProvider) -> None:
    answers = await ChatOpenAI(model=MODEL, pool=pool).abatch(
        [f"{n}" for n in range(60)], config={"max_concurrency": 20}
    )
    assert len(answers) == 60
    assert provider.completed == 60
