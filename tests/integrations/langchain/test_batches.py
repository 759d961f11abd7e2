"""`abatch` of many inputs: in order, bounded, and no call left behind."""

import asyncio
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from pydantic import Field
from tests.integrations.langchain.conftest import MODEL

from keyfleet import KeyPool
from keyfleet.testing import MockProvider
from langchain_keyfleet import ChatOpenAI, ChatPool, _batch


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
            raise KeyError("bad")
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
