"""Whose keys a model uses: the pool it was given, the default one, or its one key as a pool.

Order: ``pool=``; ``api_key=`` (one key, a list of keys, or a function); the default pool where
`QUOTAFLEET_CONFIG`, ``quotafleet.toml`` or `OPENAI_API_KEYS` says what is in it; `OPENAI_API_KEY`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from weakref import WeakSet

from pydantic import SecretStr

from quotafleet import ApiKey, ConfigError, KeyPool, Organization, Project, Secret
from quotafleet.config import default_file
from quotafleet.httpx import SENTINEL

#: Pools of one key that are kept, with what was learned of its limits, when no model uses them
#: any more: programs make a model per request.
_KEPT: Final = 256

#: Argument of a model -> what to do instead of giving it beside a pool.
_DECIDED: Final = {
    "api_key": "Put the key into the pool, or leave pool= out",
    "base_url": "Give it with the organization whose keys go there",
    "azure_endpoint": "Give it as base_url of the organization whose keys go there",
    "organization": "Give it as organization_id of the organization whose keys need it",
}
#: A model's other names for its arguments.
_ALIASES: Final = {
    "openai_api_key": "api_key",
    "openai_api_base": "base_url",
    "openai_organization": "organization",
}


_derived: Final[WeakSet[KeyPool]] = WeakSet()


def given(arguments: dict[str, Any], name: str) -> Any:
    """Return an argument of a model under whichever of its names it was given."""
    names = [name, *(other for other, means in _ALIASES.items() if means == name)]
    return next((arguments[n] for n in names if arguments.get(n) is not None), None)


def is_sentinel(key: object) -> bool:
    """Whether it stands where a pool's key will be."""
    value = key.get_secret_value() if isinstance(key, SecretStr) else key
    return isinstance(value, str) and value == SENTINEL


def is_several(key: object) -> bool:
    """Whether ``api_key=`` is a list of keys."""
    return isinstance(key, (list, tuple, set, frozenset))


def is_derived(pool: object) -> bool:
    """Whether a pool was made here of a model's own key; another key then makes another pool."""
    return isinstance(pool, KeyPool) and pool in _derived


def refuse_contradictions(arguments: dict[str, Any]) -> None:
    """Check the arguments of a model that has a pool.

    Raises:
        ConfigError: one was given that the pool decides, or `pool` is none.
    """
    if not isinstance(arguments["pool"], KeyPool):
        raise ConfigError(
            f"pool is a {type(arguments['pool']).__name__}", cure="Give a quotafleet.KeyPool"
        )
    for name, cure in _DECIDED.items():
        value = given(arguments, name)
        if value is not None and not is_sentinel(value):
            raise ConfigError(f"{name} and pool contradict each other", cure=cure)


def has_default() -> bool:
    """Whether there is a default pool; if not, `OPENAI_API_KEY` or a gateway's key is used.

    Raises:
        ConfigError: there is no key anywhere.
    """
    if os.environ.get("OPENAI_API_KEYS") or default_file() is not None:
        return True
    if os.environ.get("OPENAI_API_KEY") or os.environ.get("LANGSMITH_GATEWAY"):
        return False
    raise ConfigError(
        "there is no key",
        cure="Give pool= or api_key=, or set QUOTAFLEET_CONFIG to the path of a configuration, or "
        "OPENAI_API_KEYS to keys separated by commas, or OPENAI_API_KEY to one",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What stands for a model's pool until stock has said where the keys of a list may go."""

    keys: tuple[ApiKey, ...]


def keys_of(given: Iterable[object], provider: str) -> Keys:
    """Return the keys of a list.

    Raises:
        ConfigError: there is none in it, or something else.
    """
    keys = tuple(
        ApiKey(
            key_id=f"key-{number}#1",
            secret=Secret(_plain(key)),
            organization=f"key-{number}",
            provider=provider,
        )
        for number, key in enumerate(given, start=1)
    )
    if not keys:
        raise ConfigError("api_key is an empty list", cure="Give at least one key")
    return Keys(keys=keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the requests of a model without a pool go, as its SDK's client has it."""

    base_url: str
    provider: str
    organization: str | None
    project: str | None

    def owner(self, secret: Secret, name: str = "default") -> Organization:
        """Return the owner of one key, of whom nothing more is known."""
        projects: tuple[Project, ...] = ()
        if self.project is not None:
            projects = (Project(name="default", keys=(secret,), project_id=self.project),)
        return Organization(
            name=name,
            keys=() if projects else (secret,),
            projects=projects,
            base_url=self.base_url,
            provider=self.provider,
            organization_id=self.organization,
        )


def of_one(key: str, place: Endpoint) -> KeyPool:
    """Return the pool of one key: the same for all models that use it."""
    return _of_one(Secret(key), place)


@lru_cache(_KEPT)
def _of_one(secret: Secret, place: Endpoint) -> KeyPool:
    return derived(KeyPool([place.owner(secret)]))


@lru_cache(_KEPT)
def of_keys(keys: Keys, place: Endpoint) -> KeyPool:
    """Return a pool of several keys, each of an organization of its own until answers differ."""
    return KeyPool(place.owner(key.secret, key.organization) for key in keys.keys)


def derived(pool: KeyPool) -> KeyPool:
    """Note that a pool was made of a model's own key."""
    _derived.add(pool)
    return pool


def _plain(key: object) -> str:
    if isinstance(key, SecretStr):
        return key.get_secret_value()
    if isinstance(key, str):
        return key
    raise ConfigError(f"api_key holds a {type(key).__name__}", cure="Give strings")
