"""`OpenAI`, the completion model, over a pool."""

import langchain_openai
from tests.integrations.langchain.conftest import NAMES

from langchain_quotafleet import OpenAI
from quotafleet import KeyPool
from quotafleet.testing import MockProvider

INSTRUCT = "gpt-3.5-turbo-instruct"


async def test_completions(pool: KeyPool, provider: MockProvider) -> None:
    provider.script("yes", times=None)
    llm = OpenAI(model=INSTRUCT, pool=pool)
    assert isinstance(llm, langchain_openai.OpenAI)
    assert llm.invoke("Is it?") == "yes"
    assert await llm.ainvoke("Is it?") == "yes"
    assert "".join(llm.stream("Is it?")) == "yes"
    assert "".join([text async for text in llm.astream("Is it?")]) == "yes"
    assert provider.completed == 4


async def test_each_request_of_a_call_is_told(pool: KeyPool) -> None:
    llm = OpenAI(model=INSTRUCT, pool=pool, batch_size=2, priority="batch")
    prompts = ["one", "two", "three"]
    for result in (llm.generate(prompts), await llm.agenerate(prompts)):
        assert result.llm_output is not None
        assert [facts["owner"] in NAMES for facts in result.llm_output["quotafleet"]] == [
            True,
            True,
        ]
