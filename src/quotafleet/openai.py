"""The OpenAI SDK's clients over a pool of keys: change the import, keep the program.

    from quotafleet.openai import OpenAI          # was: from openai import OpenAI
    client = OpenAI()                           # the default pool; or OpenAI(pool=pool)

They are subclasses, so everything of the SDK works, for openai 2.x and 3.x: streams, `.parse`,
`with_options`, uploads. The pool retries, not the SDK: `max_retries` bounds the pool's attempts.
`timeout` bounds one attempt; how long a call may wait for headroom is the pool's `wait_timeout`.
See `quotafleet.httpx` for the headers that a call may send and that answers carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    NoReturn,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
)

import openai

from ._default import default_pool
from ._transport.call import PLACEHOLDER, SENTINEL
from .errors import ConfigError
from .httpx import owned_client, wrap_client

if TYPE_CHECKING:
    from .pool import KeyPool

__all__ = ["AsyncOpenAI", "ClientOptions", "CopyOptions", "OpenAI"]

H = TypeVar("H")  # the httpx client of the SDK's family, sync or async

#: Names an argument that a pool replaces -> what to do instead.
_REPLACED: Final = {
    "api_key": "Put the key into the pool: KeyPool.from_config(...) or OPENAI_API_KEYS",
    "base_url": "Give it with the organization whose keys go there",
    "websocket_base_url": "WebSockets don't go through a pool; use openai.OpenAI for them",
    "workload_identity": "Use openai.OpenAI for it; a pool holds API keys",
    "provider": "Give it with the organization whose keys go there",
    "data_residency": "Give the region's base_url with the organization whose keys go there",
}
#: What `copy` hands to the constructor again; anything else is the user's.
_OWN: Final = {"api_key": SENTINEL, "base_url": PLACEHOLDER, "websocket_base_url": PLACEHOLDER}


class ClientOptions(TypedDict, total=False):
    """The SDK's own arguments that stay the caller's; what a pool decides is not among them.

    They mirror `openai.OpenAI`, so that a type checker sees a misspelt one. A test compares them
    with the SDK's signature.
    """

    admin_api_key: str | None
    organization: str | None
    project: str | None
    webhook_secret: str | None
    timeout: float | openai.Timeout | openai.NotGiven | None
    default_headers: Mapping[str, str] | None
    default_query: Mapping[str, object] | None
    _strict_response_validation: bool
    _enforce_credentials: bool


class CopyOptions(TypedDict, Generic[H], total=False):
    """The arguments of `copy` and `with_options`: the SDK's that stay the caller's, and `pool`."""

    pool: KeyPool | None
    http_client: H | None
    max_retries: int | openai.NotGiven
    admin_api_key: str | None
    organization: str | None
    project: str | None
    webhook_secret: str | None
    timeout: float | openai.Timeout | openai.NotGiven | None
    default_headers: Mapping[str, str] | None
    set_default_headers: Mapping[str, str] | None
    default_query: Mapping[str, object] | None
    set_default_query: Mapping[str, object] | None
    _enforce_credentials: bool | None
    _extra_kwargs: Mapping[str, object]


def _checked(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the SDK's arguments, with those that come from the pool in their place.

    Raises:
        ConfigError: one was given that the pool decides.
    """
    for name, cure in _REPLACED.items():
        value = arguments.pop(name, None)
        own = _OWN.get(name)
        if value is None or isinstance(value, openai.NotGiven):
            continue
        if own is None or str(value).rstrip("/") != own:
            raise ConfigError(f"{name} comes from the pool", cure=cure)
    return {**arguments, "api_key": SENTINEL, "base_url": PLACEHOLDER, "max_retries": 0}


class _Pooled(Generic[H]):
    """What both clients add to the SDK's: each stands before one of its classes."""

    _default_client: ClassVar[type[object]]
    pool: KeyPool
    _attempts: int

    def __init__(
        self,
        *,
        pool: KeyPool | None = None,
        http_client: H | None = None,
        max_retries: int | None = None,
        _attempts: int | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        arguments = _checked({**options})
        self.pool = pool = pool or default_pool()
        if _attempts is None:
            _attempts = 0 if max_retries is None else max_retries + 1
        self._attempts = _attempts
        pooled: object
        if http_client is None:
            pooled = owned_client(self._default_client(), pool, base_url=PLACEHOLDER)
        else:
            pooled = wrap_client(http_client, pool, base_url=PLACEHOLDER)
        sdk: Any = super()  # the SDK's class; what it takes is checked by `ClientOptions`
        sdk.__init__(http_client=pooled, **arguments)

    def copy(self, **options: Unpack[CopyOptions[H]]) -> Self:
        """Return a client with other options and the same pool, as the SDK's own `copy`."""
        sdk: Any = super()
        made: Self = sdk.copy(**self._copied({**options}))
        return made

    with_options = copy

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        """The SDK's headers, with the bound on attempts if there is one."""
        sdk: Any = super()
        headers: dict[str, str | openai.Omit] = sdk.default_headers
        if not self._attempts:
            return headers
        return {"x-quotafleet-max-attempts": str(self._attempts), **headers}

    def _copied(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what the SDK's `copy` is given, so that the copy keeps the pool."""
        max_retries = options.pop("max_retries", None)
        attempts = self._attempts
        if isinstance(max_retries, int):
            attempts = max_retries + 1
        extra: Mapping[str, object] = options.pop("_extra_kwargs", {})
        pool = options.pop("pool", None) or self.pool
        options.setdefault("websocket_base_url", PLACEHOLDER)  # so that it doesn't ask for ours
        return {**options, "_extra_kwargs": {**extra, "pool": pool, "_attempts": attempts}}

    @property
    def websocket_base_url(self) -> NoReturn:
        """Refuse: the SDK asks for this when it opens a WebSocket, which has no transport."""
        raise ConfigError(
            "Realtime and other WebSocket connections don't go through a pool",
            cure="Take a lease (pool.lease(...)) and give its secret to openai.OpenAI",
        )

    @websocket_base_url.setter
    def websocket_base_url(self, value: object) -> None:
        """Ignore the value: a pool's client opens no WebSocket."""


# The pool's members come first, and differ from the SDK's: a property in place of an attribute,
# and no argument that the pool decides.
class OpenAI(_Pooled[openai.DefaultHttpxClient], openai.OpenAI):  # type: ignore[misc]
    """`openai.OpenAI` over a pool.

    Args:
        pool: whose keys are used; ``None``: the default pool.
        http_client: a client of the SDK's family; it is used for its settings and stays open.
        max_retries: how often a call is repeated at most; ``None``: as the pool's policy says.
        options: what `openai.OpenAI` takes besides; see `ClientOptions`.

    Raises:
        ConfigError: `api_key` or `base_url` was given, or there is no pool.
    """

    _default_client = openai.DefaultHttpxClient


class AsyncOpenAI(_Pooled[openai.DefaultAsyncHttpxClient], openai.AsyncOpenAI):  # type: ignore[misc]
    """`openai.AsyncOpenAI` over a pool; one client may serve several event loops.

    Args:
        pool: whose keys are used; ``None``: the default pool.
        http_client: a client of the SDK's family; it is used for its settings and stays open.
        max_retries: how often a call is repeated at most; ``None``: as the pool's policy says.
        options: what `openai.AsyncOpenAI` takes besides; see `ClientOptions`.

    Raises:
        ConfigError: `api_key` or `base_url` was given, or there is no pool.
    """

    _default_client = openai.DefaultAsyncHttpxClient
