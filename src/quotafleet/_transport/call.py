"""What a pooled transport decides: which requests are the pool's, and what each attempt means.

Free of httpx and httpx2: their modules come in as an argument, all that is used of them stands in
`wire`. The transports in `sending` do the sending, in threads or in asyncio.

A request is the pool's if it carries the sentinel in place of a credential. It is then sent to
the base URL of whichever key is granted, and to nowhere else: a key can't reach another origin,
since the request's own host is not used at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenacity import stop_after_attempt

from .._core.call.flow import AttemptResult, CallOptions
from .._core.call.retry import STOP, RetryPolicy, Verdict
from ..errors import CannotServe, ConfigError
from ..outcomes import NOTHING, OK, Kind, Observation, Outcome
from ..providers import provider as provider_named
from .call_headers import CallHeaders, read_hints
from .httpx_compat import (
    REDIRECTED,
    Httpx,
    Request,
    Response,
    Url,
    body_of,
    forget_frames,
    hand_over,
    in_milliseconds,
    put,
    readable,
    visible,
    without_key,
)
from .object_owners import holders_of
from .streams import TAIL, StreamWatcher, dig, inflated

if TYPE_CHECKING:
    from .._lease import Lease
    from ..pool import KeyPool
    from ..protocols import Plan

#: The extension that answers of a pool bear: a `CallInfo`, or why it granted no key.
POOLED: Final = "quotafleet"
#: Stands where a key will be. It is no secret, and no provider takes it for a key.
SENTINEL: Final = "quotafleet-pool"
#: The base URL of clients that have only a pool. The name never resolves (RFC 6761).
PLACEHOLDER: Final = "http://quotafleet.invalid/v1"

_SENTINELS: Final = frozenset({SENTINEL, f"Bearer {SENTINEL}"})
#: Cookies are a client's, not a key's: those of one organization must not come with another's key.
_REMOVED: Final = dict.fromkeys((b"authorization", b"api-key", b"x-api-key", b"cookie"))
#: What `bodies` can read usage from.
_ENCODINGS: Final = frozenset({"gzip, deflate", "gzip", "identity"})
_SHOULD_RETRY: Final = "x-should-retry"
_HINT: Final = "x-quotafleet-"
#: Endpoints whose answers tell of objects that later calls may refer to: responses, and files,
#: batches, conversations, vector stores among the others.
_STATEFUL: Final = frozenset({"responses", "other"})
#: Models are named by every call, and are nobody's.
_CATALOGUE: Final = b"models"
_NO_HINTS: Final = CallHeaders()
#: Entries of the table of URLs; paths with an object's id would fill it without end.
_URLS: Final = 512


#: What an error under HTTP 200 is to the caller, whose SDK knows errors by their status.
_STATUS_OF: Final = {
    Kind.RATE_LIMITED: 429,
    Kind.SLOW_DOWN: 429,
    Kind.QUOTA_EXHAUSTED: 429,
    Kind.KEY_INVALID: 401,
    Kind.ACCESS_DENIED: 403,
    Kind.BAD_REQUEST: 400,
    Kind.TOO_LARGE: 400,
    Kind.CONTENT: 400,
    Kind.OVERLOADED: 503,
}


class CallInfo(NamedTuple):
    """Which key answered, and after what; the headers of an answer tell the same.

    Args:
        key_id: the key's name.
        owner: who owns its quota.
        waited_for: seconds that the call waited for headroom, in all its attempts.
        attempts: how many there were.
    """

    key_id: str
    owner: str
    waited_for: float
    attempts: int


class RefusedRequest(Exception):
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


class RequestClassifier:
    """Tells the pool's requests from foreign ones, and makes calls of them.

    Args:
        pool: whose keys are used.
        module: ``httpx`` or ``httpx2``.
        base_url: of the clients that use the transport: what follows it in a request's URL is
            appended to the key's base URL, and requests to other hosts are foreign. ``None`` =
            not known: the path is what follows the first ``/v1/``, or all of it.
        attempts: how many may count at most; ``None`` = as the pool's policy says.
        own_key: the pool has but the key that the client was made with, so whatever else
            authenticates its requests goes along.
    """

    def __init__(
        self,
        pool: KeyPool,
        module: Httpx,
        *,
        base_url: str | None,
        attempts: int | None,
        own_key: bool = False,
    ) -> None:
        self.pool = pool
        self.httpx = module
        self.own_key = own_key
        self.base_url = base_url
        self.providers = {key.provider: pool.provider(key) for key in pool.keys}
        # Keys of several providers: what a request will cost must be told before it is known
        # whose key it gets, so it is estimated as for any compatible endpoint.
        several = len(self.providers) > 1
        self.planner = provider_named("generic") if several else next(iter(self.providers.values()))
        #: The retry policy of calls that ask for no other; ``None`` = the pool's own.
        self.retry = _policy(pool.retry, attempts)
        self._base: tuple[bytes, bytes] | None = None
        if base_url is not None:
            url = module.URL(base_url.rstrip("/") + "/")
            self._base = url.netloc, url.raw_path
        self._urls: dict[tuple[str, bytes], tuple[Url, bytes]] = {}
        self.object_owners = holders_of(pool)

    def call(self, request: Request) -> PooledCall | None:
        """Return the call that a request is; ``None`` = it is foreign, pass it on untouched.

        Raises:
            Refused: it carries call_headers that make no sense.
        """
        fields = readable(request.headers)
        if (
            fields.get("authorization") not in _SENTINELS
            and fields.get("api-key") not in _SENTINELS
            and fields.get("x-api-key") not in _SENTINELS
        ):
            return None
        url, base = request.url, self._base
        if url.fragment == REDIRECTED:
            return None
        path = url.raw_path
        if base is not None and url.netloc != base[0]:
            return None
        if base is not None and path.startswith(base[1]):
            rest = path[len(base[1]) :]
        else:
            _, found, rest = path.partition(b"/v1/")
            rest = rest if found else path.lstrip(b"/")
        return PooledCall(self, request, rest, fields)

    def target(self, base_url: str, rest: bytes) -> tuple[Url, bytes]:
        """Return where a request goes, and its host; kept, as parsing costs as much as a lease."""
        found = self._urls.get((base_url, rest))
        if found is None:
            if len(self._urls) >= _URLS:
                self._urls.clear()
            url = self.httpx.URL(f"{base_url.rstrip('/')}/{rest.decode('ascii')}")
            found = self._urls[base_url, rest] = url, url.netloc
        return found

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


class PooledCall:
    """One request of the pool's, on its way through one or more attempts."""

    __slots__ = (
        "_extensions",
        "_gate",
        "_headers",
        "_provider",
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
        self, gate: RequestClassifier, request: Request, rest: bytes, fields: Mapping[str, str]
    ) -> None:
        self._gate = gate
        self._rest = rest
        self._headers = request.headers
        self._stream = request.stream
        self._extensions = request.extensions
        self._waited_for = 0.0
        self.method = request.method
        self.attempts = 0
        #: The stream of an answer that began, for who must close it.
        self.body: Any = None
        call_headers = self._call_headers(fields)
        body, replayable = body_of(gate.httpx, request)
        self.plan: Plan = gate.planner.plan(
            request.method,
            rest.decode("ascii", "replace"),
            fields.get("content-type", ""),
            body,
        )
        self.retry = gate.retry
        pinned_key = gate.object_owners.find(rest, body)
        if call_headers is _NO_HINTS and pinned_key is None:
            self.order = gate.pool.order(self.plan.demand)
        else:
            self.order = self._ordered(call_headers, pinned_key)
            if call_headers.max_attempts is not None:
                self.retry = _policy(gate.pool.retry, call_headers.max_attempts)
        if not replayable:
            self.retry = _ONCE

    def _call_headers(self, fields: Mapping[str, str]) -> CallHeaders:
        """Return what the caller says of the call, and take out of its headers what isn't sent."""
        changed: dict[bytes, bytes | None] = {}
        encoding = fields.get("accept-encoding", "")
        if encoding not in _ENCODINGS:
            changed[b"accept-encoding"] = readable_encoding(encoding).encode()
        call_headers: dict[str, str] = {}
        if _HINT in "\n".join(fields):
            call_headers = {name: value for name, value in fields.items() if name.startswith(_HINT)}
            changed.update((name.encode("latin-1"), None) for name in call_headers)
        if changed:
            self._headers = self._gate.httpx.Headers(self._headers)
            put(self._headers, changed)
        if not call_headers:
            return _NO_HINTS
        try:
            return read_hints({name[len(_HINT) :]: value for name, value in call_headers.items()})
        except ConfigError as error:
            raise RefusedRequest(self._error(400, str(error), "invalid_hint")) from None

    def _ordered(self, call_headers: CallHeaders, pinned_key: str | None) -> CallOptions:
        pool = self._gate.pool
        after = call_headers.deadline_after
        return pool.order(
            self.plan.demand,
            timeout=call_headers.timeout,
            deadline=None if after is None else pool.clock.now() + after,
            priority=call_headers.priority,
            pinned_key=pinned_key,
            tenant=call_headers.tenant,
        )

    # Each attempt

    def request(self, lease: Lease) -> Request:
        """Return a new request with a key in it; the caller's own never holds one.

        Its headers live in no frame that a traceback could show.
        """
        self.attempts += 1
        self._waited_for += lease.waited_for
        key = lease.key
        provider = self._provider = self._gate.providers[key.provider]
        url, host = self._gate.target(key.base_url or provider.base_url, self._rest)
        request = self._gate.httpx.Request(
            self.method,
            url,
            headers=self._headers,
            stream=self._stream,
            extensions=self._extensions,
        )
        own_key = self._gate.own_key
        new: dict[bytes, bytes | None] = {} if own_key else {**_REMOVED, b"host": host}
        for name, value in provider.credentials(key).items():
            if value is not None:
                new[name.encode()] = value.encode()
            elif not own_key:
                new[name.encode()] = None
        put(request.headers, new)
        return request

    def comes_whole(self, status: int, headers: Mapping[str, str]) -> bool:
        """Whether an answer's body is read before it is handed on: errors, and plain JSON.

        Nobody can use a part of those. So their connection is free again, and a success that
        breaks half-way is no success yet: another attempt may follow.
        """
        if status >= 400:
            return True
        is_json = headers.get("content-type", "").startswith("application/json")
        return is_json and status < 300 and not self.plan.stream

    def began(
        self,
        lease: Lease,
        sent: Request,
        response: Response,
        headers: Mapping[str, str],
        bound: Callable[..., Any],
    ) -> AttemptResult[Response | Exception]:
        """Take in an answer whose body is still to come; `bound` makes a stream that is watched."""
        watch = StreamWatcher(
            lease,
            self._provider,
            self.plan,
            headers.get("content-type", ""),
            headers.get("content-encoding", "").lower(),
        )
        if self._makes_state:
            watch.note = self._gate.object_owners.note
        dig()
        if 300 <= response.status_code < 400:
            without_key(response.headers, sent.url)
        self.body = response.stream = bound(response, watch)
        observation = self._observed(response, headers)
        return AttemptResult(outcome=OK, response=response, observation=observation)

    def ended(
        self, lease: Lease, response: Response, headers: Mapping[str, str], body: bytes
    ) -> AttemptResult[Response | Exception]:
        """Take in an answer that came whole."""
        provider, plan = self._provider, self.plan
        encoding = headers.get("content-encoding", "").lower()
        plain = inflated(body, encoding) if encoding else body
        hand_over(self._gate.httpx, response, body, plain)
        used, usage, observation = None, None, NOTHING
        outcome = provider.read(response.status_code, headers, plain)  # may be an error under 200
        if not outcome.ok or lease.headers_matter(self._gate.pool.clock.now()):
            observation = self._observed(response, headers)
        if outcome.ok:
            if self._makes_state:
                self._gate.object_owners.note(plain, lease.key_id)
            usage = provider.usage(plan.endpoint, plain[-TAIL:])
            used = provider.charge(plan, usage).costs
        return AttemptResult(
            outcome=outcome,
            response=response,
            observation=observation,
            used=used,
            usage=usage,
        )

    @property
    def _makes_state(self) -> bool:
        """Whether an answer may tell of an object that only its owner has."""
        return self.plan.endpoint in _STATEFUL and not self._rest.startswith(_CATALOGUE)

    def _observed(self, response: Response, headers: Mapping[str, str]) -> Observation:
        observation = self._provider.observe(response.status_code, headers)
        return (
            observation
            if self.plan.headers_at_admission
            else observation._replace(headers_at_admission=False)
        )

    def broke(self, error: Exception) -> AttemptResult[Response | Exception]:
        """Take in that an attempt brought no answer.

        Raises:
            Exception: `error` itself, where another attempt is out of the question.
        """
        forget_frames(error)
        outcome = self._gate.outcome(error)
        if outcome is None:
            raise error
        return AttemptResult(outcome=outcome, response=error)

    # The last word

    def answer(self, lease: Lease, reply: AttemptResult[Response | Exception]) -> Response:
        """Return what the caller sees of the last attempt.

        Raises:
            Exception: the transport's own, for the SDK to make its own of.
        """
        response = reply.response
        if isinstance(response, Exception):
            raise response
        if not reply.outcome.ok:
            response.headers[_SHOULD_RETRY] = "false"
            if response.status_code < 300:  # an error that its provider sent under 200
                response.status_code = _STATUS_OF.get(reply.outcome.kind, 502)
        waited_for, text = in_milliseconds(self._waited_for)
        told = CallInfo(lease.key_id, lease.owner, waited_for, self.attempts)
        put(
            response.headers,
            {
                b"x-quotafleet-attempts": b"%d" % told.attempts,
                b"x-quotafleet-waited-for": text,
                b"x-quotafleet-key-id": visible(told.key_id),
                b"x-quotafleet-owner": visible(told.owner),
            },
        )
        response.extensions[POOLED] = told
        return response

    def unserved(self, error: CannotServe | ConfigError) -> Response:
        """Return the answer that tells an SDK why the pool granted no key."""
        if isinstance(error, CannotServe):
            self._waited_for += getattr(error, "waited_for", 0.0)
            return self._error(429, error.why, error.code, error)
        return self._error(400, str(error), "model_not_served", error)

    def _error(
        self, status: int, message: str, code: str, error: Exception | None = None
    ) -> Response:
        kind = "quotafleet" if status == 429 else "invalid_request_error"
        told = {"message": message, "type": kind, "param": None, "code": code}
        body = json.dumps({"error": told}).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            _SHOULD_RETRY: "false",
            "x-quotafleet-attempts": str(self.attempts),
            "x-quotafleet-waited-for": f"{self._waited_for:.3f}",
        }
        retry_after = getattr(error, "retry_after", None)
        if retry_after is not None:
            headers["retry-after"] = str(ceil(retry_after))
        return self._gate.httpx.Response(
            status,
            headers=headers,
            stream=self._gate.httpx.ByteStream(body),
            extensions={"http_version": b"HTTP/1.1", POOLED: error},
        )


def readable_encoding(accepted: str) -> str:
    """Return what a request may accept in place of compressions that usage can't be read from."""
    if accepted in _ENCODINGS:
        return accepted
    return "gzip, deflate" if "gzip" in accepted else "identity"


def _policy(policy: RetryPolicy, attempts: int | None) -> RetryPolicy | None:
    return None if attempts is None else replace(policy, stop=stop_after_attempt(attempts))
