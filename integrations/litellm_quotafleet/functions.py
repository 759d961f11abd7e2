"""LiteLLM's functions over a pool, without a Router.

    from litellm_quotafleet import completion
    completion("gpt-4o-mini", messages, pool=pool)

Each does as LiteLLM's of the same name, with a key of the pool. All take:

    pool        whose keys are used; ``None`` = `KeyPool.from_env`, made at the first call
    timeout     seconds; bounds the wait for a key, too
    num_retries how many further attempts are made, by the pool's policy
    **kwargs    what LiteLLM's function takes

and raise, besides what LiteLLM does, its `RateLimitError` where the pool grants no key in time, and
its `BadRequestError` where no key may be used for the model. ``model`` is as LiteLLM names it, such
as ``"openai/gpt-4o-mini"`` or ``"gpt-4o-mini"``.
"""

from __future__ import annotations

from typing import Any

import litellm

from quotafleet.pool import KeyPool

from ._calls import FunctionCall, arun, run


def completion(
    model: str, messages: list[Any], *, pool: KeyPool | None = None, **kwargs: Any
) -> Any:
    """Do as `litellm.completion`, with a key of the pool. See the module."""
    payload = {"model": model, "messages": messages}
    return run(FunctionCall(litellm.completion, "chat", payload, pool, kwargs))


async def acompletion(
    model: str, messages: list[Any], *, pool: KeyPool | None = None, **kwargs: Any
) -> Any:
    """Do as `completion`, without blocking the event loop."""
    payload = {"model": model, "messages": messages}
    return await arun(FunctionCall(litellm.acompletion, "chat", payload, pool, kwargs))


def text_completion(prompt: Any, model: str, *, pool: KeyPool | None = None, **kwargs: Any) -> Any:
    """Do as `litellm.text_completion`, with a key of the pool. See the module."""
    payload = {"model": model, "prompt": prompt}
    return run(FunctionCall(litellm.text_completion, "completion", payload, pool, kwargs))


async def atext_completion(
    prompt: Any, model: str, *, pool: KeyPool | None = None, **kwargs: Any
) -> Any:
    """Do as `text_completion`, without blocking the event loop."""
    payload = {"model": model, "prompt": prompt}
    return await arun(FunctionCall(litellm.atext_completion, "completion", payload, pool, kwargs))


def embedding(model: str, input: Any, *, pool: KeyPool | None = None, **kwargs: Any) -> Any:
    """Do as `litellm.embedding`, with a key of the pool. See the module."""
    payload = {"model": model, "input": input}
    return run(FunctionCall(litellm.embedding, "embedding", payload, pool, kwargs))


async def aembedding(model: str, input: Any, *, pool: KeyPool | None = None, **kwargs: Any) -> Any:
    """Do as `embedding`, without blocking the event loop."""
    payload = {"model": model, "input": input}
    return await arun(FunctionCall(litellm.aembedding, "embedding", payload, pool, kwargs))


def responses(input: Any, model: str, *, pool: KeyPool | None = None, **kwargs: Any) -> Any:
    """Do as `litellm.responses`, with a key of the pool. See the module."""
    payload = {"model": model, "input": input}
    return run(FunctionCall(litellm.responses, "responses", payload, pool, kwargs))


async def aresponses(input: Any, model: str, *, pool: KeyPool | None = None, **kwargs: Any) -> Any:
    """Do as `responses`, without blocking the event loop."""
    payload = {"model": model, "input": input}
    return await arun(FunctionCall(litellm.aresponses, "responses", payload, pool, kwargs))


def image_generation(prompt: str, model: str, *, pool: KeyPool | None = None, **kwargs: Any) -> Any:
    """Do as `litellm.image_generation`, with a key of the pool. See the module."""
    payload = {"model": model, "prompt": prompt}
    return run(FunctionCall(litellm.image_generation, "image_generation", payload, pool, kwargs))


async def aimage_generation(
    prompt: str, model: str, *, pool: KeyPool | None = None, **kwargs: Any
) -> Any:
    """Do as `image_generation`, without blocking the event loop."""
    payload = {"model": model, "prompt": prompt}
    return await arun(
        FunctionCall(litellm.aimage_generation, "image_generation", payload, pool, kwargs)
    )


async def anthropic_messages(
    max_tokens: int,
    messages: list[Any],
    model: str,
    *,
    pool: KeyPool | None = None,
    **kwargs: Any,
) -> Any:
    """Do as `litellm.anthropic_messages` (``/v1/messages``), with a key of the pool.

    `litellm_quotafleet.anthropic.messages` has the synchronous one.
    """
    payload = {"model": model, "messages": messages, "max_tokens": max_tokens}
    return await arun(FunctionCall(litellm.anthropic_messages, "chat", payload, pool, kwargs))
