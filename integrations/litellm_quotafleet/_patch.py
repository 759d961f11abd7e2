"""`install`: programs and frameworks that call LiteLLM's functions themselves draw on a pool.

They say ``litellm.completion(...)``, often deep inside (DSPy, CrewAI), so the names in `litellm`
get another meaning. A call that brings a key of its own stays as it is, and so do a Router's, and
LiteLLM's own from one of its functions to another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import litellm

from quotafleet import default_pool
from quotafleet.pool import KeyPool

from . import functions

#: LiteLLM's functions, each with the name of the one that shows its arguments.
_ARGUMENTS_OF: Final = {
    "completion": "completion",
    "acompletion": "completion",
    "text_completion": "text_completion",
    "atext_completion": "text_completion",
    "embedding": "embedding",
    "aembedding": "embedding",
    "responses": "responses",
    "aresponses": "responses",
    "image_generation": "image_generation",
    "aimage_generation": "image_generation",
    "anthropic_messages": "anthropic_messages",
}
_stock: Final[dict[str, Callable[..., Any]]] = {
    name: getattr(litellm, name) for name in _ARGUMENTS_OF
}
#: What makes a call its own affair; a Router tells which deployment it chose.
_OWN: Final = ("api_key", "client", "mock_response", "model_info")
#: A key's provider -> what LiteLLM calls those whose models it may serve.
_SERVES: Final = {
    "openai": ("openai", "text-completion-openai"),
    "generic": ("openai", "text-completion-openai"),
    "azure": ("azure", "azure_text"),
}


def install(pool: KeyPool | None = None) -> None:
    """Let LiteLLM's own functions draw on a pool, for whoever looks them up from now on.

    Calls with an ``api_key`` or a ``client`` of their own, and for models of a provider that no
    key of the pool is of, stay as they are. Installing again replaces the pool.

    Args:
        pool: whose keys are used; ``None`` = `KeyPool.from_env`, made at the first call.
    """
    for name, stock in _stock.items():
        setattr(litellm, name, _pooled(name, stock, pool))


def uninstall() -> None:
    """Undo `install`."""
    for name, stock in _stock.items():
        setattr(litellm, name, stock)


def _pooled(name: str, stock: Callable[..., Any], pool: KeyPool | None) -> Callable[..., Any]:
    ours = getattr(functions, name)
    order = list(inspect.signature(_stock[_ARGUMENTS_OF[name]]).parameters)

    if inspect.iscoroutinefunction(stock):

        @wraps(stock)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            named = {**dict(zip(order, args, strict=False)), **kwargs}
            fleet = pool or default_pool()
            if not _is_for(fleet, named):
                return await stock(*args, **kwargs)
            return await ours(pool=fleet, **named)

        return acall

    @wraps(stock)
    def call(*args: Any, **kwargs: Any) -> Any:
        named = {**dict(zip(order, args, strict=False)), **kwargs}
        fleet = pool or default_pool()
        if not _is_for(fleet, named):
            return stock(*args, **kwargs)
        return ours(pool=fleet, **named)

    return call


def _is_for(pool: KeyPool, named: dict[str, Any]) -> bool:
    model = named.get("model")
    if model is None or any(named.get(name) is not None for name in _OWN):
        return False
    try:
        provider = litellm.get_llm_provider(
            model, custom_llm_provider=named.get("custom_llm_provider")
        )[1]
    except Exception:  # LiteLLM doesn't know it, and says so best itself
        return False
    return any(provider in _SERVES.get(key.provider, (key.provider,)) for key in pool.keys)
