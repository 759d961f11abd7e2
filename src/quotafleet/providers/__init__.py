"""Providers: what a request costs, what an answer's headers and errors mean. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Final

from ..errors import ConfigError
from ..protocols import Provider
from .azure import AzureOpenAI
from .generic import Generic
from .openai import OpenAI

__all__ = ["PROVIDERS", "AzureOpenAI", "Generic", "OpenAI", "provider"]

#: Name in a configuration -> the provider with its default settings.
PROVIDERS: Final[dict[str, Callable[[], Provider]]] = {
    "openai": OpenAI,
    "azure": AzureOpenAI,
    "generic": Generic,
}


def provider(name: str) -> Provider:
    """Return the provider of that name, with its default settings.

    Raises:
        ConfigError: there is none.
    """
    make = PROVIDERS.get(name)
    if make is not None:
        return make()
    near = get_close_matches(name, PROVIDERS, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"unknown provider {name!r}",
        cure=f"{hint}Known: {', '.join(PROVIDERS)}. "
        'Any OpenAI-compatible endpoint works as "generic" with its base_url',
    )
