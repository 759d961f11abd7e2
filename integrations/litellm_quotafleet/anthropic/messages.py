"""`litellm.anthropic.messages` over a pool. See `litellm_quotafleet.functions`."""

from __future__ import annotations

from typing import Any

from litellm.anthropic_interface import messages as own

from quotafleet.pool import KeyPool

from .._calls import FunctionCall, run
from ..functions import anthropic_messages as acreate

__all__ = ["acreate", "create"]


def create(
    max_tokens: int,
    messages: list[Any],
    model: str,
    *,
    pool: KeyPool | None = None,
    **kwargs: Any,
) -> Any:
    """Do as `litellm.anthropic.messages.create`, with a key of the pool.

    LiteLLM has it for models that it serves by Responses or Chat Completions, such as OpenAI's;
    a stream of it is asynchronous all the same.
    """
    payload = {"model": model, "messages": messages, "max_tokens": max_tokens}
    return run(FunctionCall(own.create, "chat", payload, pool, kwargs))
