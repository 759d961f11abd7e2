"""Requests and responses of httpx and httpx2 as both have them, and what can be read from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any, Final, Protocol

#: Marks the target of a redirect, so that it gets no key. Fragments are never sent.
REDIRECTED: Final = "quotafleet-redirected"


class Headers(Protocol):
    """Headers of either family."""

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """Names as they are sent, and values."""
        ...

    def get(self, name: str) -> str | None:
        """Return a value; ``None`` = it isn't there."""
        ...

    def __setitem__(self, name: str, value: str) -> None: ...

    def __delitem__(self, name: str) -> None: ...


class Url(Protocol):
    """A URL of either family."""

    @property
    def raw_path(self) -> bytes:
        """Path and query, encoded."""
        ...

    @property
    def netloc(self) -> bytes:
        """Host and port; the port only where it isn't the scheme's own."""
        ...

    @property
    def fragment(self) -> str:
        """What follows ``#``."""
        ...

    def join(self, url: str) -> Url:
        """Resolve a reference."""
        ...

    def copy_with(self, *, fragment: str) -> Url:
        """Return it with another fragment."""
        ...


class Request(Protocol):
    """A request of either family."""

    method: str
    url: Any
    headers: Any
    stream: Any
    extensions: Any

    def read(self) -> bytes:
        """Return the body."""
        ...


class Response(Protocol):
    """A response of either family."""

    status_code: int
    headers: Any
    stream: Any
    extensions: Any
    is_closed: bool
    #: The body, without its compression; of a response that was read.
    content: bytes


class Httpx(Protocol):
    """The module ``httpx`` or ``httpx2``."""

    URL: Callable[[str], Url]
    Cookies: type
    Headers: Callable[..., Headers]
    Request: Callable[..., Request]
    Response: Callable[..., Response]
    Limits: Callable[..., object]
    Client: type
    AsyncClient: type
    HTTPTransport: Callable[..., Any]
    AsyncHTTPTransport: Callable[..., Any]
    BaseTransport: type
    AsyncBaseTransport: type
    SyncByteStream: type
    AsyncByteStream: type
    ByteStream: Any
    ConnectError: type[Exception]
    ConnectTimeout: type[Exception]
    PoolTimeout: type[Exception]
    ProxyError: type[Exception]
    TimeoutException: type[Exception]
    NetworkError: type[Exception]
    RemoteProtocolError: type[Exception]


def body_of(httpx: Httpx, request: Request) -> tuple[bytes, bool]:
    """Return what a provider may read of a body, and whether it can be sent again.

    Generators are consumed by the first attempt; a file object would send nothing the second time
    and say nothing of it. Multipart forms rewind their files themselves where those can seek; of
    them only the fields are read, never the files.
    """
    stream = request.stream
    if isinstance(stream, httpx.ByteStream):
        return request.read(), True
    fields = getattr(stream, "fields", None)
    if not isinstance(fields, list):
        return b"", False
    return b"".join(_form_fields(fields)), all(map(_rewinds, fields))


def _form_fields(fields: Iterable[Any]) -> Iterable[bytes]:
    for field in fields:
        if not hasattr(field, "file"):
            yield field.render_headers() + field.render_data() + b"\r\n"


def _rewinds(field: Any) -> bool:
    file = getattr(field, "file", b"")
    if isinstance(file, (bytes, str)):
        return True
    seekable = getattr(file, "seekable", None)
    return seekable is not None and bool(seekable())


def readable(headers: Headers) -> dict[str, str]:
    """Return headers as a plain dict, names in lower case.

    Raises:
        ValueError: one holds a line's end, which no header may.
    """
    raw = headers.raw
    if not raw:
        return {}
    names, values = zip(*raw, strict=True)
    texts = b"\n".join(values).decode("latin-1").split("\n")
    return dict(zip(_texts(b"\n".join(names)), texts, strict=True))


def put(headers: Headers, values: Mapping[bytes, bytes | None]) -> None:
    """Set headers, names in lower case; ``None`` = take it out.

    Both families keep headers in `_list`: name as sent, name in lower case, value. One by one each
    would be looked for among all others, which was a third of a call's way through the pool.
    """
    kept: list[tuple[bytes, bytes, bytes]] | None = getattr(headers, "_list", None)
    if kept is None:  # some later one that keeps them otherwise
        for name, value in values.items():
            if headers.get(name.decode()) is not None:
                del headers[name.decode()]
            if value is not None:
                headers[name.decode()] = value.decode("latin-1")
        return
    kept[:] = [item for item in kept if item[1] not in values]
    kept += [(name, name, value) for name, value in values.items() if value is not None]


@lru_cache(256)  # the same names come with every request and answer
def _texts(names: bytes) -> list[str]:
    return names.decode("latin-1").lower().split("\n")


def reopened(httpx: Httpx, response: Response) -> Response:
    """Return a response that somebody read already as one that is still to be read.

    Its body has lost its compression by that, so its headers no longer tell of one.

    Raises:
        ResponseNotRead: it was closed without being read; of the family.
    """
    body = response.content
    headers = httpx.Headers(response.headers)
    length = b"%d" % len(body)
    put(headers, {b"content-encoding": None, b"transfer-encoding": None, b"content-length": length})
    return httpx.Response(
        response.status_code,
        headers=headers,
        stream=httpx.ByteStream(body),
        extensions=response.extensions,
    )


def hand_over(httpx: Httpx, response: Any, body: bytes, plain: bytes) -> None:
    """Put a body that was read back into its response; `plain` is it without its compression."""
    response.stream = httpx.ByteStream(body)
    if type(response) is httpx.Response and (plain or not body):
        kind: Any = httpx.Response
        whole = _whole(kind)
        if whole is not None:
            response.__class__ = whole
            response._body = plain, len(body)


@cache
def _whole(response: Any) -> type | None:
    """Return the class of responses that are whole, of a family's own class."""
    if getattr(response(200, content=b"ok"), "_content", None) != b"ok":
        return None  # some later one that keeps bodies otherwise
    return type("Response", (_Whole, response), {"__module__": response.__module__})


class _Whole:
    """Mixed into a family's response whose body is here already: to read it takes one step.

    A client reads every body through five generators, one inside the other. Where it is known they
    do nothing, and are 2 % of a call's time. Who reads it in parts reads it through them as ever.
    """

    #: The body, without its compression, and the bytes that came.
    _body: tuple[bytes, int]
    #: The family's.
    is_closed: bool
    is_stream_consumed: bool
    close: Callable[[], None]
    aclose: Callable[[], Awaitable[None]]
    _content: bytes
    _num_bytes_downloaded: int

    def read(self) -> bytes:
        """Return the body."""
        if self.is_closed or self.is_stream_consumed:
            return super().read()  # type: ignore[misc,no-any-return] # the family's
        self.close()
        return self._consumed()

    async def aread(self) -> bytes:
        """Do as `read`."""
        if self.is_closed or self.is_stream_consumed:
            return await super().aread()  # type: ignore[misc,no-any-return] # the family's
        await self.aclose()
        return self._consumed()

    def _consumed(self) -> bytes:
        self.is_stream_consumed = True
        self._content, self._num_bytes_downloaded = self._body
        return self._content

    def __reduce__(self) -> tuple[object, ...]:
        """Let it be pickled as what it is without this class."""
        return object.__new__, (type(self).__mro__[2],), self.__getstate__()


def without_key(headers: Headers, sent: Url) -> None:
    """Change a redirect's target so that whoever follows it brings no key.

    It is resolved against the URL that was really asked, and marked: a client that follows it
    comes back here, with the sentinel if it takes the target for its own origin.
    """
    location = headers.get("location")
    if location is not None:
        target = sent.join(location).copy_with(fragment=REDIRECTED)
        headers["location"] = str(target)


@lru_cache(1024)  # keys and owners
def visible(name: str) -> bytes:
    """Return a name as a header may hold it; names in a configuration may be of any script."""
    return name.encode("ascii", "backslashreplace")


@lru_cache(16)  # most calls wait for nothing
def in_milliseconds(seconds: float) -> tuple[float, bytes]:
    """Return seconds rounded to milliseconds, and as a header has them."""
    return round(seconds, 3), b"%.3f" % seconds


def forget_frames(error: BaseException | None) -> None:
    """Take the tracebacks off an exception and its causes.

    Their frames hold the request with the key in it, for whoever prints local variables, and
    would keep it alive while further attempts are made.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
