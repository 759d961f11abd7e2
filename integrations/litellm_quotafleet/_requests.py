"""What a request will cost, read from the arguments of LiteLLM's functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from quotafleet.protocols import Plan, Provider

#: LiteLLM's mode of a model -> the path under which its provider reads such a request.
_PATHS: Final = {
    "chat": "chat/completions",
    "completion": "completions",
    "embedding": "embeddings",
    "responses": "responses",
    "image_generation": "images/generations",
}
#: What a provider's estimate looks at; the rest of a request may hold anything, also files.
_READ: Final = (
    "n",
    "best_of",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "instructions",
    "tools",
    "prompt",
)


def plan_of(
    provider: Provider,
    mode: str | None,
    messages: object,
    given: object,
    kwargs: Mapping[str, Any],
) -> Plan:
    """Return what a request will cost.

    Args:
        provider: whose rules count.
        mode: LiteLLM's mode of the model; ``None`` = not known.
        messages: of a chat.
        given: the ``input`` of embeddings and Responses.
        kwargs: the other arguments.
    """
    path = _path(mode, messages, given, kwargs)
    body = {name: kwargs[name] for name in _READ if kwargs.get(name) is not None}
    body["model"] = str(kwargs.get("model") or "-")
    if path == "chat/completions":
        system = kwargs.get("system")  # of /v1/messages
        body["messages"] = [{"content": system}, *_items(messages)] if system else messages
    elif given is not None:
        body["input"] = given
    elif path == "completions" and "prompt" not in body:
        body["prompt"] = [_text(one) for one in _items(messages)]
    return provider.plan("POST", path, "application/json", json.dumps(body, default=_odd).encode())


def _path(mode: str | None, messages: object, given: object, kwargs: Mapping[str, Any]) -> str:
    if given is not None:
        # LiteLLM gives Responses a metadata of their own name, since they have a real one.
        known = mode in ("embedding", "responses")
        responses = mode == "responses" if known else "litellm_metadata" in kwargs
        return _PATHS["responses" if responses or mode == "chat" else "embedding"]
    if mode in ("image_generation", "completion"):
        return _PATHS[mode]
    if messages is None and mode is not None and mode != "chat":
        return "other"
    return _PATHS["chat"]


def _items(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _text(message: object) -> str:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, str) else ""


def _odd(value: object) -> object:
    """Return what stands for an argument that is no JSON: its fields, or nothing."""
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) else None
