"""Providers: what a request costs, what an answer's headers and errors mean. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from .._plugins import find
from ..errors import ConfigError
from ..keys import ApiKey
from ..protocols import Provider
from .azure import AzureOpenAI
from .generic import Generic
from .openai import OpenAI

__all__ = ["PROVIDERS", "AzureOpenAI", "Generic", "OpenAI", "checked", "provider", "resolved"]

#: Name in a configuration -> the class of its rules.
PROVIDERS: Final[dict[str, Callable[..., Provider]]] = {
    "openai": OpenAI,
    "azure": AzureOpenAI,
    "generic": Generic,
}
#: The group of entry points under which a package offers providers: classes, or functions that
#: return a provider, whose keyword arguments are the provider's settings.
ENTRY_POINTS: Final = "quotafleet.providers"

_METHODS: Final = (
    *("family", "plan", "credentials", "observe", "read", "read_event", "usage", "charge"),
)


def provider(name: str, /, **settings: object) -> Provider:
    """Return a provider: by its name, an entry point's name, or ``"package.module:Class"``.

    Args:
        name: which one.
        settings: its keyword arguments, such as ``reserve="max_tokens"``.

    Raises:
        ConfigError: there is none of that name, or it does not take these settings.
    """
    hint = '. Any OpenAI-compatible endpoint works as "generic" with its base_url'
    found = find(name, kind="provider", builtin=PROVIDERS, group=ENTRY_POINTS, hint=hint)
    if not callable(found):
        return checked(found)
    try:
        made = found(**settings)
    except ConfigError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(
            f"provider {name!r} can't be made: {error}",
            cure="Give the keyword arguments that its class takes",
            place="provider",
        ) from error
    return checked(made)


def checked(given: object) -> Provider:
    """Return a provider's object if it has all that a `Provider` must have.

    Raises:
        ConfigError: something is missing.
    """
    missing = [name for name in _METHODS if not callable(getattr(given, name, None))]
    missing += [
        name for name in ("name", "base_url") if not isinstance(getattr(given, name, None), str)
    ]
    if missing:
        raise ConfigError(
            f"{type(given).__name__} is no provider: it lacks {', '.join(missing)}",
            cure="See quotafleet.protocols.Provider",
            place="provider",
        )
    return given  # type: ignore[return-value]  # it has every member of the protocol


def resolved(keys: Iterable[ApiKey], given: Mapping[str, Provider]) -> dict[str, Provider]:
    """Return the provider of each key by its name: a given object, else the default of that name.

    Raises:
        ConfigError: a name is unknown, or an object is no provider.
    """
    names = {key.provider for key in keys}
    return {name: checked(given[name]) if name in given else provider(name) for name in names}
