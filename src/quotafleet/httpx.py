"""Transports for httpx and httpx2 that send each request with a key of a pool.

    http_client = quotafleet.httpx.http_client(pool)
    client = openai.OpenAI(api_key=quotafleet.httpx.SENTINEL, http_client=http_client)

A transport sees what no other seam does: every attempt, all headers, the end of every stream. It
puts a key into requests that carry `SENTINEL` in place of one, and passes on all others.

Both families are served, decided by the client in hand and never by import: their interfaces are
the same, their classes unrelated.

What the caller sees: the last answer, whole, with ``x-should-retry: false`` if it is an error;
or the transport's last exception; or, if the pool grants no key, a 429 whose body says why.
Every answer carries ``x-quotafleet-attempts``, ``-waited-for``, and, if a key was used, ``-key-id``
and ``-owner``; ``response.extensions["quotafleet"]`` has the same as a `CallInfo`, or is the
`CannotServe`. Its cookies are not kept. A call may send ``x-quotafleet-priority``, ``-timeout``
(seconds it may wait), ``-deadline-after`` (seconds) and ``-max-attempts``. Of a closed pool the
caller sees `PoolClosed`.
"""

from __future__ import annotations

import copy
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from types import ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)
from weakref import WeakValueDictionary

from ._transport.call import POOLED, SENTINEL, CallInfo, RequestClassifier, readable_encoding
from ._transport.httpx_compat import Httpx
from ._transport.transports import (
    CONNECTIONS,
    AsyncBody,
    AsyncTransport,
    SyncBody,
    SyncTransport,
    Transport,
)
from .errors import ConfigError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    import httpx
    import httpx2
    import openai

    from .pool import KeyPool

__all__ = [
    "SENTINEL",
    "CallInfo",
    "Family",
    "HttpClientOptions",
    "async_http_client",
    "family",
    "http_client",
    "wrap_client",
]

C = TypeVar("C")

#: Seconds, as the OpenAI SDK's own: an answer may take minutes, a connection not.
_READ_TIMEOUT: Final = 600.0
_CONNECT_TIMEOUT: Final = 5.0
_NAMES: Final = ("httpx", "httpx2")

# Families


class Family:
    """One family's classes, made when they are first needed.

    Attributes:
        module: ``httpx`` or ``httpx2``.
        PoolTransport: a transport for its `Client`; see `wrap_client` for the easier way.
        AsyncPoolTransport: a transport for its `AsyncClient`.
    """

    def __init__(self, name: str) -> None:
        module = import_module(name)
        self.module = cast(Httpx, module)
        body = type("Body", (SyncBody, module.SyncByteStream), {})
        abody = type("AsyncBody", (AsyncBody, module.AsyncByteStream), {})
        self.PoolCookies: type[_PoolCookies] = type(
            "PoolCookies", (_PoolCookies, module.Cookies), {}
        )
        self.PoolTransport: Any = type(
            "PoolTransport",
            (SyncTransport, module.BaseTransport),
            {"module": module, "body": body, "__doc__": Transport.__doc__},
        )
        self.AsyncPoolTransport: Any = type(
            "AsyncPoolTransport",
            (AsyncTransport, module.AsyncBaseTransport),
            {"module": module, "body": abody, "__doc__": Transport.__doc__},
        )


class _PoolCookies:
    """The cookies of a client whose calls go to many organizations, of foreign answers only.

    Those of a pool's answers are dropped: they would come with another organization's key.
    """

    def __init__(self, of: Any) -> None:
        self.jar = of.jar  # shared with the client that was given

    def extract_cookies(self, response: Any) -> None:
        """Take an answer's cookies in, unless it is a pool's."""
        if POOLED not in response.extensions:
            super().extract_cookies(response)  # type: ignore[misc]


_family: Final = cache(Family)


def family(of: object = None) -> Family:
    """Return the family of a client, a class of clients, a module, or a name.

    Args:
        of: ``None``: the one that the installed OpenAI SDK uses, else the one installed.

    Raises:
        ConfigError: it belongs to neither, or is not installed.
    """
    name = _named(of)
    if name is None:
        raise ConfigError(
            f"{of!r} is of neither httpx nor httpx2", cure="Give a client of one of them"
        )
    try:
        return _family(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed", cure=f"pip install {name}") from error


def _named(of: object) -> str | None:
    if of is None:
        return _installed()
    if isinstance(of, ModuleType):
        of = of.__name__
    if isinstance(of, str):
        return of if of in _NAMES else None
    for base in (of if isinstance(of, type) else type(of)).__mro__:
        name = base.__module__.partition(".")[0]
        if name in _NAMES:
            return name
    return None


def _installed() -> str:
    names = [name for name in _NAMES if find_spec(name)]
    if len(names) == 2 and find_spec("openai"):
        version = import_module("openai").__version__
        return "httpx" if int(version.partition(".")[0]) < 3 else "httpx2"
    return names[0] if names else "httpx"


# Clients


class HttpClientOptions(TypedDict, total=False):
    """The arguments of the families' clients, `httpx.Client` and `httpx2.Client`.

    They are the same in both families, so that a type checker sees a misspelt one. Values of the
    families' own classes are objects here: the client itself checks them.
    """

    auth: object
    params: object
    headers: Mapping[str, str] | Sequence[tuple[str, str]] | httpx.Headers | httpx2.Headers | None
    cookies: object
    verify: ssl.SSLContext | str | bool
    cert: str | tuple[str, str] | tuple[str, str, str] | None
    trust_env: bool
    http1: bool
    http2: bool
    proxy: object
    mounts: Mapping[str, object] | None
    timeout: float | tuple[float | None, ...] | httpx.Timeout | httpx2.Timeout | None
    follow_redirects: bool
    limits: httpx.Limits | httpx2.Limits
    max_redirects: int
    event_hooks: Mapping[str, list[Callable[..., object]]] | None
    base_url: str | httpx.URL | httpx2.URL
    transport: object
    default_encoding: str | Callable[[bytes], str]


_lock: Final = Lock()  # guards the table below
_wrapped: Final[WeakValueDictionary[tuple[object, ...], Any]] = WeakValueDictionary()


def wrap_client(
    client: C,
    pool: KeyPool,
    *,
    base_url: str | None = None,
    attempts: int | None = None,
    own_key: bool = False,
) -> C:
    """Return a copy of an httpx or httpx2 client that sends with the keys of a pool.

    The copy keeps the client's settings, proxies and connections' limits; the client itself is
    not changed (SDKs share theirs process-wide), is kept alive, and stays open when the copy is
    closed. The same client and pool give the same copy, and a copy gives itself.

    Args:
        client: sync or async.
        pool: whose keys are used.
        base_url: what the SDK above puts before its paths; what follows it is appended to a key's
            base URL, and requests to other hosts are foreign. ``None``: the client's own; if it
            has none, whatever follows the first ``/v1/`` in a URL.
        attempts: how many may count at most; ``None``: as the pool's policy says.
        own_key: the pool has but the key that the client was made with: cookies, a second
            credential and the host that its requests name go along. A fleet's keys get none of
            these, since they may be another organization's.

    Raises:
        ConfigError: it is a client of neither family.
    """
    given: Any = client
    original = given.__dict__.get("_quotafleet_original") if hasattr(given, "__dict__") else None
    if original is not None:
        gate = given._transport._gate
        if gate.pool is pool and base_url in (None, gate.base_url) and attempts is None:
            return client
        given = original
    base_url = base_url or str(getattr(given, "base_url", "")) or None
    # The copy keeps both alive, hence the ids.
    path = (id(given), id(pool), base_url, attempts, own_key)
    with _lock:
        found = _wrapped.get(path)
        if found is None:
            found = _wrapped[path] = _wrap(
                given, pool, base_url, attempts, owned=False, own_key=own_key
            )
    return cast(C, found)


def _wrap(
    client: Any,
    pool: KeyPool,
    base_url: str | None,
    attempts: int | None,
    *,
    owned: bool,
    own_key: bool = False,
) -> Any:
    kind = family(client)
    gate = RequestClassifier(
        pool, kind.module, base_url=base_url, attempts=attempts, own_key=own_key
    )
    is_async = isinstance(client, kind.module.AsyncClient)
    make = kind.AsyncPoolTransport if is_async else kind.PoolTransport
    # By the URL that is really asked: proxies, and hosts that need none, go by that.
    route = client._transport_for_url

    def around(inner: object, owner: object = None) -> Any:
        transport = make.__new__(make)
        transport._set(gate, inner, route, owner)
        return transport

    wrapped = copy.copy(client)
    wrapped._cookies = kind.PoolCookies(client._cookies)
    accepted = client.headers.get("accept-encoding", "")
    if accepted != readable_encoding(accepted):  # here once, or it is changed in each request
        wrapped.headers = {**client.headers, "accept-encoding": readable_encoding(accepted)}
    wrapped._transport = around(client._transport, client if owned else None)
    wrapped._mounts = {
        pattern: None if inner is None else around(inner)
        for pattern, inner in client._mounts.items()
    }
    wrapped._quotafleet_original = client
    return wrapped


@overload
def http_client(
    pool: KeyPool,
    of: Literal["httpx"]
    | type[httpx.Client | httpx.AsyncClient]
    | httpx.Client
    | httpx.AsyncClient,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> httpx.Client: ...
@overload
def http_client(
    pool: KeyPool,
    of: Literal["httpx2"]
    | type[httpx2.Client | httpx2.AsyncClient]
    | httpx2.Client
    | httpx2.AsyncClient,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> httpx2.Client: ...
@overload
def http_client(
    pool: KeyPool,
    of: None = None,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> openai.DefaultHttpxClient: ...
@overload
def http_client(
    pool: KeyPool,
    of: ModuleType | str,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> httpx.Client | httpx2.Client: ...
def http_client(
    pool: KeyPool,
    of: object = None,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> httpx.Client | httpx2.Client:
    """Return a client that sends with the keys of a pool, for any SDK that takes one.

    Args:
        pool: whose keys are used.
        of: the family; see `family`. A type checker knows the result's class by it.
        attempts: how many may count at most; ``None``: as the pool's policy says.
        options: of the client's class.
    """
    kind = family(of)
    made: Any = kind.module.Client(**_options(kind, {**options}))
    client: httpx.Client | httpx2.Client = made
    return owned_client(client, pool, attempts=attempts)


@overload
def async_http_client(
    pool: KeyPool,
    of: Literal["httpx"]
    | type[httpx.Client | httpx.AsyncClient]
    | httpx.Client
    | httpx.AsyncClient,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> httpx.AsyncClient: ...
@overload
def async_http_client(
    pool: KeyPool,
    of: Literal["httpx2"]
    | type[httpx2.Client | httpx2.AsyncClient]
    | httpx2.Client
    | httpx2.AsyncClient,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> httpx2.AsyncClient: ...
@overload
def async_http_client(
    pool: KeyPool,
    of: None = None,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> openai.DefaultAsyncHttpxClient: ...
@overload
def async_http_client(
    pool: KeyPool,
    of: ModuleType | str,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> httpx.AsyncClient | httpx2.AsyncClient: ...
def async_http_client(
    pool: KeyPool,
    of: object = None,
    *,
    attempts: int | None = None,
    **options: Unpack[HttpClientOptions],
) -> httpx.AsyncClient | httpx2.AsyncClient:
    """Do as `http_client`, for asyncio. One client may serve several event loops."""
    kind = family(of)
    made: Any = kind.module.AsyncClient(**_options(kind, {**options}))
    client: httpx.AsyncClient | httpx2.AsyncClient = made
    return owned_client(client, pool, attempts=attempts)


def owned_client(
    client: C, pool: KeyPool, *, base_url: str | None = None, attempts: int | None = None
) -> C:
    """Do as `wrap_client` with a client that nobody else has: it is closed with the copy."""
    base_url = base_url or str(getattr(client, "base_url", "")) or None
    return cast(C, _wrap(client, pool, base_url, attempts, owned=True))


def _options(kind: Family, options: dict[str, Any]) -> dict[str, Any]:
    module: Any = kind.module
    defaults = {
        "timeout": module.Timeout(_READ_TIMEOUT, connect=_CONNECT_TIMEOUT),
        "limits": module.Limits(**CONNECTIONS),
        "follow_redirects": True,
    }
    return defaults | options
