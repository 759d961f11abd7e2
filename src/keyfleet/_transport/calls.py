"""What a pooled transport decides: which requests are the pool's, and what each attempt means.

Free of httpx and httpx2: their modules come in as an argument, all that is used of them stands in
`wire`. The transports in `sending` do the sending, in threads or in asyncio.

A request is the pool's if it carries the sentinel in place of a credential. It is then sent to
the base URL of whichever key is granted, and to nowhere else: a key can't reach another origin,
since the request's own host is not used at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from tenacity import stop_after_attempt

from .._core.flow import Order, Reply
from .._core.retry import STOP, RetryPolicy, Verdict
from .._outcome import OK, Kind, Outcome
from ..errors import CannotServe, ConfigError
from ..providers import provider as provider_named
from .bodies import Watch, dig, inflated, waiting_to_be_dug
from .hints import Hints, read_hints
from .holders import holders_of
from .wire import (
    REDIRECTED,
    Httpx,
    Raw,
    Request,
    Response,
    Url,
    body_of,
    forget_frames,
    readable,
    visible,
    without_key,
)

if TYPE_CHECKING:
    from .._lease import Lease
    from .._protocols import Plan, Provider
    from ..pool import KeyPool

#: Stands where a key will be. It is no secret, and no provider takes it for a key.
SENTINEL: Final = "keyfleet-pool"
#: The base URL of clients that have only a pool. The name never resolves (RFC 6761).
PLACEHOLDER: Final = "http://keyfleet.invalid/v1"

_SENTINELS: Final = frozenset({SENTINEL.encode(), b"Bearer " + SENTINEL.encode()})
_CREDENTIALS: Final = frozenset({b"authorization", b"api-key", b"x-api-key"})
#: Cookies are a client's, not a key's: those of one organization must not come with another's key.
_REPLACED: Final = _CREDENTIALS | {b"host", b"cookie", b"accept-encoding"}
_ENCODING: Final = b"accept-encoding"
_SHOULD_RETRY: Final = b"x-should-retry"
_HINT: Final = b"x-keyfleet-"
#: Endpoints whose answers tell of objects that later calls may refer to: responses, and files,
#: batches, conversations, vector stores among the others.
_STATEFUL: Final = frozenset({"responses", "other"})
_NO_HINTS: Final = Hints()
#: Entries of the table of URLs; paths with an object's id would fill it without end.
_URLS: Final = 512


class Refused(Exception):
    """A request that can't become a call, and the answer that says why."""

    def __init__(self, response: Response) -> None:
        self.response = response
        super().__init__()


class _Once(RetryPolicy):
    """For bodies that can be sent only once: whatever happens, that was it."""

    def decide(self, *args: object, **kwargs: object) -> Verdict:
        """Stop."""
        return STOP


_ONCE: Final = _Once()


class Gate:
    """Tells the pool's requests from foreign ones, and makes calls of them.

    Args:
        pool: whose keys are used.
        module: ``httpx`` or ``httpx2``.
        base_url: of the clients that use the transport: what follows it in a request's URL is
            appended to the key's base URL, and requests to other hosts are foreign. ``None`` =
            not known: the path is what follows the first ``/v1/``, or all of it.
        attempts: how many may count at most; ``None`` = as the pool's policy says.
    """

    def __init__(
        self, pool: KeyPool, module: Httpx, *, base_url: str | None, attempts: int | None
    ) -> None:
        self.pool = pool
        self.httpx = module
        self.base_url = base_url
        self.providers = {key.provider: pool.provider(key) for key in pool.keys}
        # Keys of several providers: what a request will cost must be told before it is known
        # whose key it gets, so it is estimated as for any compatible endpoint.
        several = len(self.providers) > 1
        self.planner = provider_named("generic") if several else next(iter(self.providers.values()))
        self._retry = _policy(pool.retry, attempts)
        self._base: tuple[bytes, bytes] | None = None
        if base_url is not None:
            url = module.URL(base_url.rstrip("/") + "/")
            self._base = url.netloc, url.raw_path
        self._urls: dict[tuple[str, bytes], Url] = {}
        self.holders = holders_of(pool)

    def call(self, request: Request) -> Call | None:
        """Return the call that a request is; ``None`` = it is foreign, pass it on untouched.

        Raises:
            Refused: it carries hints that make no sense.
        """
        pairs = [(name.lower(), value) for name, value in request.headers.raw]
        fields = dict(pairs)
        if (
            fields.get(b"authorization") not in _SENTINELS
            and fields.get(b"api-key") not in _SENTINELS
            and fields.get(b"x-api-key") not in _SENTINELS
        ):
            return None
        url = request.url
        if url.fragment == REDIRECTED or (self._base and url.netloc != self._base[0]):
            return None
        return Call(self, request, self._rest(url.raw_path), pairs, fields)

    def _rest(self, path: bytes) -> bytes:
        """Return a path relative to the base URL."""
        if self._base is not None and path.startswith(self._base[1]):
            return path[len(self._base[1]) :]
        _, found, rest = path.partition(b"/v1/")
        return rest if found else path.lstrip(b"/")

    def url(self, base_url: str, rest: bytes) -> Url:
        """Return where a request goes. Parsing a URL costs as much as a lease, so it is kept."""
        url = self._urls.get((base_url, rest))
        if url is None:
            if len(self._urls) >= _URLS:
                self._urls.clear()
            url = self.httpx.URL(f"{base_url.rstrip('/')}/{rest.decode('ascii')}")
            self._urls[base_url, rest] = url
        return url

    def policy(self, hints: Hints) -> RetryPolicy | None:
        """Return the retry policy of one call; ``None`` = the pool's own."""
        if hints.max_attempts is None:
            return self._retry
        return _policy(self.pool.retry, hints.max_attempts)

    def outcome(self, error: Exception) -> Outcome | None:
        """Return what a transport's exception means; ``None`` = it is the caller's own fault.

        What failed before a connection stood was not counted; after that, nobody can tell. That
        this process has no connection left (`PoolTimeout`) is no fault of an owner's.
        """
        httpx = self.httpx
        code = type(error).__name__
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            return Outcome(kind=Kind.NETWORK, code=code)
        if isinstance(error, httpx.PoolTimeout):
            return None
        if isinstance(error, httpx.TimeoutException):
            return Outcome(kind=Kind.TIMEOUT, charged=True, code=code)
        if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
            return Outcome(kind=Kind.NETWORK, charged=True, code=code)
        return None

    def lost(self, error: Exception) -> Outcome:
        """Return what it means that a body that had begun did not come to its end."""
        return self.outcome(error) or Outcome(kind=Kind.CANCELLED, charged=True)


@dataclass(slots=True)
class Answer:
    """The parts of a response, before it is known whether the caller will see it."""

    status: int
    headers: Raw
    stream: Any
    extensions: MutableMapping[str, Any]


class Call:
    """One request of the pool's, on its way through one or more attempts."""

    __slots__ = (
        "_extensions",
        "_gate",
        "_headers",
        "_names",
        "_rest",
        "_stream",
        "_waited_for",
        "attempts",
        "body",
        "method",
        "order",
        "plan",
        "retry",
    )

    def __init__(
        self, gate: Gate, request: Request, rest: bytes, pairs: Raw, fields: dict[bytes, bytes]
    ) -> None:
        self._gate = gate
        self._rest = rest
        self._stream = request.stream
        self._extensions = request.extensions
        self._waited_for = 0.0
        self.method = request.method
        self.attempts = 0
        #: The stream of an answer that began, for who must close it.
        self.body: Any = None
        hints = _NO_HINTS
        if b"\n" + _HINT in b"\n".join([b"", *fields]):
            hints = self._told(fields)
            pairs = [pair for pair in pairs if not pair[0].startswith(_HINT)]
        # Compressed only as `bodies` can read usage from.
        encoding = b"gzip, deflate" if b"gzip" in fields.get(_ENCODING, b"") else b"identity"
        self._headers = [pair for pair in pairs if pair[0] not in _REPLACED]
        self._headers.append((_ENCODING, encoding))
        self._names = fields.keys()
        body, replayable = body_of(gate.httpx, request)
        self.plan: Plan = gate.planner.plan(
            request.method,
            rest.decode("ascii", "replace"),
            fields.get(b"content-type", b"").decode("latin-1"),
            body,
        )
        self.retry = gate.policy(hints) if replayable else _ONCE
        self.order = self._ordered(hints, gate.holders.find(rest, body))

    def _told(self, fields: Mapping[bytes, bytes]) -> Hints:
        told = {
            name[len(_HINT) :].decode("latin-1"): value.decode("latin-1")
            for name, value in fields.items()
            if name.startswith(_HINT)
        }
        try:
            return read_hints(told)
        except ConfigError as error:
            raise Refused(self._error(400, str(error), "invalid_hint")) from None

    def _ordered(self, hints: Hints, holder: str | None) -> Order:
        pool = self._gate.pool
        after = hints.deadline_after
        return pool.order(
            self.plan.demand,
            timeout=hints.timeout,
            deadline=None if after is None else pool.clock.now() + after,
            priority=hints.priority,
            holder=holder,
        )

    # Each attempt

    def request(self, lease: Lease) -> Request:
        """Return a new request with a key in it; the caller's own never holds one.

        Its headers live in no frame that a traceback could show.
        """
        self.attempts += 1
        self._waited_for += lease.waited_for
        url = self._gate.url(lease.base_url, self._rest)
        headers = self._headers
        credentials = [(name.encode(), value) for name, value in lease.headers.items()]
        replaced = {name for name, _ in credentials}
        if not replaced.isdisjoint(self._names):
            headers = [pair for pair in headers if pair[0] not in replaced]
        return self._gate.httpx.Request(
            self.method,
            url,
            headers=[
                (b"host", url.netloc),
                *headers,
                *[(name, value.encode()) for name, value in credentials if value is not None],
            ],
            stream=self._stream,
            extensions=self._extensions,
        )

    def began(
        self, lease: Lease, sent: Request, response: Response, bound: Callable[..., Any]
    ) -> Reply[Answer | Exception]:
        """Take in an answer whose body is still to come; `bound` makes a stream that is watched."""
        provider, headers = self._provider(lease), readable(response.headers.raw)
        watch = Watch(
            lease,
            provider,
            self.plan,
            headers.get("content-type", ""),
            headers.get("content-encoding", "").lower(),
        )
        if self.plan.endpoint in _STATEFUL:
            watch.note = self._gate.holders.note
        if self.plan.stream or waiting_to_be_dug():
            dig()
        raw = response.headers.raw
        if 300 <= response.status_code < 400:
            raw = without_key(raw, sent.url)
        self.body = bound(response, watch)
        answer = Answer(response.status_code, raw, self.body, response.extensions)
        return self._reply(OK, answer, provider, headers)

    def refused(self, lease: Lease, response: Response, body: bytes) -> Reply[Answer | Exception]:
        """Take in an answer that is an error, whole, so that its connection is free again."""
        provider, headers = self._provider(lease), readable(response.headers.raw)
        plain = inflated(body, headers.get("content-encoding", "").lower())
        outcome = provider.read(response.status_code, headers, plain)
        stream = self._gate.httpx.ByteStream(body)
        answer = Answer(response.status_code, response.headers.raw, stream, response.extensions)
        return self._reply(outcome, answer, provider, headers)

    def _reply(
        self, outcome: Outcome, answer: Answer, provider: Provider, headers: Mapping[str, str]
    ) -> Reply[Answer | Exception]:
        observation = provider.observe(answer.status, headers)
        if not self.plan.anchors:
            observation = replace(observation, anchors=False)
        return Reply(outcome=outcome, response=answer, observation=observation)

    def broke(self, error: Exception) -> Reply[Answer | Exception]:
        """Take in that an attempt brought no answer.

        Raises:
            Exception: `error` itself, where another attempt is out of the question.
        """
        forget_frames(error)
        outcome = self._gate.outcome(error)
        if outcome is None:
            raise error
        return Reply(outcome=outcome, response=error)

    def _provider(self, lease: Lease) -> Provider:
        return self._gate.providers[lease.provider]

    # The last word

    def answer(self, lease: Lease, reply: Reply[Answer | Exception]) -> Response:
        """Return what the caller sees of the last attempt.

        Raises:
            Exception: the transport's own, for the SDK to make its own of.
        """
        answer = reply.response
        if isinstance(answer, Exception):
            raise answer
        headers = answer.headers
        if not reply.outcome.ok:
            headers = [pair for pair in headers if pair[0].lower() != _SHOULD_RETRY]
            headers.append((_SHOULD_RETRY, b"false"))
        return self._gate.httpx.Response(
            answer.status,
            headers=[
                *headers,
                *self._facts(),
                (b"x-keyfleet-key-id", visible(lease.key_id)),
                (b"x-keyfleet-owner", visible(lease.owner)),
            ],
            stream=answer.stream,
            extensions=answer.extensions,
        )

    def unserved(self, error: CannotServe | ConfigError) -> Response:
        """Return the answer that tells an SDK why the pool granted no key."""
        if isinstance(error, CannotServe):
            self._waited_for += getattr(error, "waited_for", 0.0)
            return self._error(429, error.why, error.code, error)
        return self._error(400, str(error), "model_not_served", error)

    def _error(
        self, status: int, message: str, code: str, error: Exception | None = None
    ) -> Response:
        kind = "keyfleet" if status == 429 else "invalid_request_error"
        told = {"message": message, "type": kind, "param": None, "code": code}
        body = json.dumps({"error": told}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (_SHOULD_RETRY, b"false"),
            *self._facts(),
        ]
        retry_after = getattr(error, "retry_after", None)
        if retry_after is not None:
            headers.append((b"retry-after", b"%d" % ceil(retry_after)))
        return self._gate.httpx.Response(
            status,
            headers=headers,
            stream=self._gate.httpx.ByteStream(body),
            extensions={"http_version": b"HTTP/1.1", "keyfleet": error},
        )

    def _facts(self) -> Raw:
        return [
            (b"x-keyfleet-attempts", b"%d" % self.attempts),
            (b"x-keyfleet-waited-for", b"%.3f" % self._waited_for),
        ]


def _policy(policy: RetryPolicy, attempts: int | None) -> RetryPolicy | None:
    return None if attempts is None else replace(policy, stop=stop_after_attempt(attempts))
